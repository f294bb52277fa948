"""The researcher: what it finds, what it quotes, and what it says where it finds nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import documents
from callboard_server import ToolError
from citations import Citation, check_citations, format_citation, parse_citations
from researcher import search_documents
from tests.examples.conftest import Cancelled, FakeContext, write_files

FOREST = {
    "animals/fox.md": "# Foxes\n\nThe red fox hunts mice at dusk.\nIt sleeps in a den.\n",
    "animals/owl.md": "# Owls\n\nThe barn owl hunts at night.\n",
    "plants.txt": "Ferns grow in the shade.\n\n\nOaks grow old.\n",
}

# Any text but what no file can hold as UTF-8.
texts = st.text(st.characters(exclude_categories=["Cs"]))


def search(question: str, folder: str) -> str:
    return search_documents(question, folder, FakeContext())


@pytest.fixture
def forest(tmp_path: Path) -> str:
    return write_files(tmp_path, FOREST)


def first_citation(answer: str) -> Citation:
    return parse_citations(answer)[0]


# What it finds


def test_quotes_the_line_that_answers(forest: str) -> None:
    answer = search("What does the fox hunt?", forest)
    assert first_citation(answer) == Citation(
        "animals/fox.md", 3, "The red fox hunts mice at dusk."
    )


def test_says_how_much_it_read_and_what_it_looked_for(forest: str) -> None:
    lead = search("What does the fox hunt?", forest).splitlines()[0]
    assert lead == f"Read 3 files (11 lines) below {forest}; searched for: fox, hunt."


def test_finds_other_forms_of_a_word(forest: str) -> None:
    assert first_citation(search("oak growing", forest)).text == "Oaks grow old."


def test_finds_the_beginning_of_a_longer_word(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.py": "class CancelledError(Exception): ...\n"})
    assert first_citation(search("cancel", folder)).line == 1


def test_does_not_take_a_short_word_for_a_beginning(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.txt": "The gcd of two numbers.\n"})
    assert "Nothing was found" in search("gc", folder)


def test_prefers_many_words_together_to_many_mentions_of_one(tmp_path: Path) -> None:
    files = {
        "often.txt": "A cycle. The cycle of a cycle: cycle, cycle, cycle.\n",
        "together.txt": "The collector looks for every reference cycle.\n",
        "apart.txt": "A collector of stamps.\n" + "Nothing here.\n" * 9 + "A reference.\n",
    }
    answer = search("How does the collector find a reference cycle?", write_files(tmp_path, files))
    assert first_citation(answer).path == "together.txt"


def test_prefers_prose_to_code(tmp_path: Path) -> None:
    files = {
        "code.py": "x = cancel(task)\n",
        "prose.py": "# To cancel a task is to ask it to end.\n",
    }
    answer = search("cancel a task", write_files(tmp_path, files))
    assert first_citation(answer).path == "prose.py"


def test_prefers_the_thing_to_its_test(tmp_path: Path) -> None:
    source = "# To cancel a task is to ask it to end{}\n"
    files = {"a/test_x.py": source.format("."), "b/x.py": source.format(" soon.")}
    answer = search("cancel a task", write_files(tmp_path, files))
    assert [citation.path for citation in parse_citations(answer)] == ["b/x.py", "a/test_x.py"]


def test_prefers_the_file_that_is_named_after_the_subject(tmp_path: Path) -> None:
    files = {
        "a.py": "# How this waits for a lock: it does not.\n",
        "queue.py": "# How this waits for a lock: it sleeps.\n",
    }
    answer = search("how does queue wait for a lock", write_files(tmp_path, files))
    assert first_citation(answer).path == "queue.py"


def test_names_the_definition_around_a_line(tmp_path: Path) -> None:
    source = "class Task:\n    def cancel(self):\n        '''Asks it to stop soon.'''\n"
    answer = search("cancel stop", write_files(tmp_path, {"a.py": source}))
    assert "\n1. a.py, in Task.cancel (cancel, stop)\n" in answer


def test_does_not_name_a_definition_that_has_ended(tmp_path: Path) -> None:
    source = "def first():\n    return 1\n\n\nWANTED = 1\n"
    answer = search("wanted", write_files(tmp_path, {"a.py": source}))
    assert "\n1. a.py (wanted)\n" in answer


def test_prefers_the_definition_of_a_word(tmp_path: Path) -> None:
    files = {
        "a.py": "def other(self):\n    # Waits, then it may cancel.\n",
        "b.py": "def cancel(self):\n    # Waits, then it may stop.\n",
    }
    answer = search("waits to cancel", write_files(tmp_path, files))
    assert first_citation(answer).path == "b.py"


def test_leaves_out_what_is_far_behind(tmp_path: Path) -> None:
    files = {
        "a.txt": "The reference cycle of a garbage collector.\n",
        "b.txt": "A garbage truck, with much else to say that is not to the point at all.\n",
        "c.txt": "Nothing.\n",
    }
    answer = search("garbage collector reference cycle", write_files(tmp_path, files))
    assert {citation.path for citation in parse_citations(answer)} == {"a.txt"}


def test_shows_few_findings_of_one_file(tmp_path: Path) -> None:
    paragraphs = [f"Fox {number}.\n" + "Nothing else.\n" * 20 for number in range(9)]
    files = {"a.txt": "".join(paragraphs), "b.txt": "A fox.\n"}
    cited = parse_citations(search("fox", write_files(tmp_path, files)))
    paths = [citation.path for citation in cited if "fox" in citation.text.lower()]
    assert sorted(paths) == ["a.txt", "a.txt", "b.txt"]


def test_shows_findings_of_several_files(tmp_path: Path) -> None:
    passage = "Foxes are red.\n" + "Nothing else.\n" * 20
    files = {f"{name}.txt": passage.replace("red", name) * 9 for name in "abcdefgh"}
    cited = {c.path for c in parse_citations(search("foxes", write_files(tmp_path, files)))}
    assert len(cited) == 6


# What it cites


def test_cites_lines_as_they_are(tmp_path: Path) -> None:
    files = {
        "crlf.txt": b"one\r\n  \tfox: a: 3: \r\nthree\r\n",
        "cr.txt": b"one\rfox\rthree",
        "latin.txt": "Ein Fuchs, fox genannt, läuft über Gräben.\n".encode("latin-1"),
        "bom.txt": "\ufefffox bom\n".encode(),
        "feed.txt": "one\x0c\x1c\u2028fox\nfox two\n".encode(),
    }
    folder = write_files(tmp_path, files)
    answer = search("fox", folder)
    cited = {(c.path, c.line, c.text) for c in parse_citations(answer)}
    assert {
        ("crlf.txt", 2, "  \tfox: a: 3: "),
        ("cr.txt", 2, "fox"),
        ("latin.txt", 1, "Ein Fuchs, fox genannt, läuft über Gräben."),
        ("bom.txt", 1, "fox bom"),
        ("feed.txt", 1, "one\x0c\x1c\u2028fox"),
    } <= cited
    assert check_citations(answer, folder) == []


def test_does_not_quote_endless_lines(tmp_path: Path) -> None:
    answer = search("fox", write_files(tmp_path, {"a.json": "fox " * 100}))
    assert "Nothing can be quoted" in answer
    assert parse_citations(answer) == []


def test_reports_citations_that_do_not_hold(forest: str) -> None:
    answer = "\n".join(
        [
            "- plants.txt:1: Ferns grow in the shade.",
            "- plants.txt:1: Ferns grow in the sun.",
            "- plants.txt:99: Oaks grow old.",
            "- missing.txt:1: Oaks grow old.",
        ]
    )
    assert check_citations(answer, forest) == [
        "plants.txt:1: the line reads 'Ferns grow in the shade.'",
        "plants.txt:99: there is no such line",
        "missing.txt:1: there is no such line",
    ]


def test_does_not_follow_citations_out_of_the_folder(forest: str) -> None:
    answer = (
        "- ../plants.txt:1: Ferns grow in the shade.\n"
        f"- {forest}/plants.txt:1: Ferns grow in the shade."
    )
    assert check_citations(answer, f"{forest}/animals") == [
        "../plants.txt:1: there is no such line",
        f"{forest}/plants.txt:1: there is no such line",
    ]


@pytest.mark.parametrize(
    ("path", "line", "text"),
    [("a:1: b.txt", 1, ""), ("a\nb", 1, ""), ("", 1, ""), ("a", 0, ""), ("a", 1, "b\nc")],
)
def test_refuses_what_cannot_be_cited(path: str, line: int, text: str) -> None:
    with pytest.raises(ValueError, match=r"cited|numbered|one line"):
        Citation(path, line, text)


@given(
    path=st.text(min_size=1).filter(lambda path: path.isprintable() and ":" not in path),
    line=st.integers(1, 999_999_999),
    text=st.text().filter(lambda text: "\n" not in text and "\r" not in text),
)
def test_a_citation_reads_back_as_it_was(path: str, line: int, text: str) -> None:
    citation = Citation(path, line, text)
    assert parse_citations(f"Lead\n\n{format_citation(citation)}\n  note") == [citation]


@given(texts)
@example("- a:1: b\n- :1: c\n- a:0: d\n-a:1: e\n- a:" + "9" * 5000 + ": f")
def test_any_text_can_be_parsed(text: str) -> None:
    for citation in parse_citations(text):
        assert format_citation(citation) in text


# What it reads


def test_reads_only_text_below_the_folder(tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    write_files(tmp_path / "outside", {"secret.txt": "fox"})
    inside = tmp_path / "inside"
    files = {
        "a.txt": b"fox one\n",
        "image.png": b"fox",
        "binary.txt": b"fox\0",
        "huge.txt": b"fox " * (600 * 1024),
        "colon:1.txt": b"fox",
        ".hidden/a.txt": b"fox",
        ".env.txt": b"fox",
        "__pycache__/a.txt": b"fox",
        "site-packages/a.txt": b"fox",
    }
    folder = write_files(inside, files)
    (inside / "loop").symlink_to(inside)
    (inside / "link.txt").symlink_to(tmp_path / "outside" / "secret.txt")
    os.mkfifo(inside / "pipe.txt")
    answer = search("fox", folder)
    assert parse_citations(answer) == [Citation("a.txt", 1, "fox one")]
    left_out = answer.splitlines()[1]
    assert left_out.startswith("Left out: links or special files (2), ")
    for reason in ("binary (1)", "over 2 MiB (1)", "with names that cannot be cited (1)"):
        assert reason in left_out


def test_reads_the_standard_library_where_no_folder_is_given() -> None:
    problems = check_citations("- json/__init__.py:1: no such text", "")
    assert len(problems) == 1
    assert problems[0].startswith("json/__init__.py:1: the line reads")


def test_reports_progress_now_and_then(tmp_path: Path, ctx: FakeContext) -> None:
    folder = write_files(tmp_path, {f"{number}.txt": "fox" for number in range(100)})
    search_documents("fox", folder, ctx)
    assert 10 <= len(ctx.reports) <= 20
    assert ctx.reports[0] == ("indexed 7 of 100 files", 7, 100)
    assert ctx.reports[-1] == ("indexed 100 of 100 files", 100, 100)


def test_stops_between_two_files_when_cancelled(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {f"{number}.txt": "fox" for number in range(100)})
    ctx = FakeContext(cancel_at=50)
    with pytest.raises(Cancelled):
        search_documents("fox", folder, ctx)
    assert ctx.checks == 50
    assert ctx.reports[-1][1] == 42


# What it says where there is nothing to find


def test_says_that_nothing_was_found(forest: str) -> None:
    answer = search("Where is the submarine?", forest)
    assert "Nothing was found: no file holds any of these words." in answer
    assert parse_citations(answer) == []


def test_names_the_words_that_no_file_holds(forest: str) -> None:
    assert "No file holds: submarine." in search("Does the fox have a submarine?", forest)


def test_says_when_no_finding_holds_every_word(forest: str) -> None:
    answer = search("fox ferns shade", forest)
    assert "No finding holds every word; the fullest holds 2 of 3." in answer


@pytest.mark.parametrize("question", ["", "  ", "?!", '" * (', "\ud800", "\0"])
def test_asks_for_words(question: str, forest: str) -> None:
    with pytest.raises(ToolError, match="holds no word to search for"):
        search(question, forest)


def test_searches_common_words_where_there_are_no_others(forest: str) -> None:
    assert "searched for: what, is, the." in search("What is the?", forest)


@pytest.mark.parametrize("folder", ["missing", "missing/below", "nul\0", "\ud800"])
def test_names_a_folder_that_is_missing(folder: str, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match=r"There is no folder .* Give the path"):
        search("fox", str(tmp_path / folder))


def test_tells_a_file_from_a_folder(forest: str) -> None:
    with pytest.raises(ToolError, match="is a file"):
        search("fox", f"{forest}/plants.txt")


def test_counts_what_cannot_be_read(forest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    read_bytes, scan = Path.read_bytes, os.scandir

    def read(path: Path) -> bytes:
        if path.name == "fox.md":
            raise PermissionError(13, "Permission denied")
        return read_bytes(path)

    # `os.walk` scans; a folder that it may not scan it hands to its error handler.
    def refuse(path: str) -> object:
        if path == f"{forest}/locked":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    os.mkdir(f"{forest}/locked")
    monkeypatch.setattr(Path, "read_bytes", read)
    monkeypatch.setattr(os, "scandir", refuse)
    assert "Left out: unreadable (2)." in search("owl", forest)


def test_names_a_folder_that_cannot_be_listed(forest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: str) -> list[str]:
        raise PermissionError(13, "Permission denied", path)

    # Root may read anything, so taking the permission away would not do.
    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(ToolError, match=r"cannot be read \(Permission denied\)"):
        search("fox", forest)


def test_says_that_a_folder_holds_no_text(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="holds no text files"):
        search("fox", str(tmp_path))
    write_files(tmp_path, {"a.txt": b"fox\0"})
    with pytest.raises(ToolError, match=r"holds no text files. Left out: binary .1.."):
        search("fox", str(tmp_path))


def test_refuses_more_files_than_it_can_read(forest: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_FILES", 2)
    with pytest.raises(ToolError, match="more than 2 files"):
        search("fox", forest)


# Whatever is asked, whatever is read


@pytest.mark.parametrize(
    "question",
    [
        '"fox" OR (bar NEAR',
        "fox AND NOT den",
        "NEAR(fox den, 3)",
        "text:fox",
        "fox*",
        "^fox",
        "fox'; DROP TABLE passage; --",
        "fox + - { } [ ] : ; \\ %",
    ],
)
def test_takes_operators_for_words(question: str, forest: str) -> None:
    assert first_citation(search(question, forest)).path == "animals/fox.md"


@pytest.mark.parametrize("word", ["læuft", "Straße", "東京", "naïve", "ﬁle", "x²", "Ⅷ"])
def test_finds_words_of_any_script(word: str, tmp_path: Path) -> None:
    folder = write_files(tmp_path, {"a.txt": f"one\ntwo {word} three\n"})
    assert first_citation(search(f"{word}?", folder)).line == 2


@given(question=st.text())
@settings(max_examples=200, deadline=None)
def test_no_question_breaks_the_search(
    question: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = write_files(tmp_path_factory.getbasetemp() / "forest", FOREST)
    try:
        answer = search(question, folder)
    except ToolError as error:
        assert "no word to search for" in str(error)
    else:
        assert check_citations(answer, folder) == []


@given(
    files=st.lists(texts | st.binary(), min_size=1, max_size=3),
    words=st.lists(st.sampled_from(["fox", "def fox(", "\n", "\r\n", "\r", "\x0c", "den", " "])),
)
@settings(deadline=None)
def test_every_citation_holds(
    files: list[str | bytes], words: list[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    contents = [*files, " ".join(words)]
    folder = tmp_path_factory.mktemp("folder")
    for number, content in enumerate(contents):
        write_files(folder, {f"{number}.py": content})
    try:
        answer = search("fox den", str(folder))
    except ToolError as error:
        assert "holds no text files" in str(error)
    else:
        assert check_citations(answer, str(folder)) == []
        if any("fox" in word for word in words):
            assert parse_citations(answer)
