"""The coder: each kind of finding, what is close to it and none, and the report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard_server import ToolError
from citations import Citation, check_citations, parse_citations
from coder import review_source
from survey import survey_source
from tests.examples.conftest import Cancelled, FakeContext, write_files

DOCUMENTED = '"""A module."""\n'


def make_function(name: str, lines: int) -> str:
    return f"def {name}():\n" + "    a()\n" * (lines - 1)


def find(folder: Path, kind: str, files: Mapping[str, str | bytes] | str) -> list[tuple[str, str]]:
    """The findings of a kind in a folder of files, or of one: each line cited, and its note."""
    given_files = {"module.py": files} if isinstance(files, str) else files
    answer = review_source(write_files(folder, given_files), FakeContext())
    assert check_citations(answer, str(folder)) == []
    for section in answer.split("\n\n")[1:]:
        heading, *lines = section.splitlines()
        if kind.lower() in heading.lower():
            cited = parse_citations("\n".join(lines[::2]))
            return [
                (citation.text, note.strip())
                for citation, note in zip(cited, lines[1::2], strict=True)
            ]
    assert kind in answer, "a kind with nothing found is named as such"
    return []


# Complexity and length


@pytest.mark.parametrize(
    ("body", "complexity"),
    [
        ("pass", 1),
        ("if a: pass\nelif b: pass\nelse: pass", 3),
        ("for x in a: pass\nelse: pass", 2),
        ("while a: pass", 2),
        ("return 1 if a else 2", 2),
        ("return a and b or c", 3),
        ("return [x for x in a if x if b]", 4),
        ("assert a", 2),
        ("try: a()\nexcept A: pass\nexcept B: pass\nfinally: c()", 3),
        ("with a: pass", 1),
        ("match a:\n case 1: pass\n case x if b: pass\n case _: pass", 3),
        ("async def inner():\n async for x in a: pass", 1),
        ("return lambda: 1 if a else 2", 2),
    ],
)
def test_counts_the_branches_of_a_function(body: str, complexity: int) -> None:
    indented = body.replace("\n", "\n ")
    survey = survey_source(f"def outer():\n {indented}\n".encode())
    outer = next(scope for scope in survey.scopes if scope.name == "outer")
    assert outer.complexity == complexity


def test_finds_functions_that_are_too_complex(tmp_path: Path) -> None:
    branches = "".join(f"    if a == {number}: return\n" for number in range(15))
    source = (
        f"def simple(a):\n{branches.replace('    if a == 14: return', '    return')}\n"
        f"class Class:\n    def complex(self, a):\n        a()\n{branches.replace('    ', ' ' * 8)}"
    )
    found = find(tmp_path, "cyclomatic complexity over", source)
    assert found == [("    def complex(self, a):", "Class.complex: complexity 16")]


def test_finds_functions_that_are_too_long(tmp_path: Path) -> None:
    source = make_function("short", 80) + make_function("long", 81)
    assert find(tmp_path, "more than 80 lines", source) == [("def long():", "long: 81 lines")]


# Bare excepts and mutable defaults


def test_finds_bare_excepts(tmp_path: Path) -> None:
    source = "try:\n    a()\nexcept:  # bare\n    pass\n"
    note = "catches even KeyboardInterrupt"
    assert find(tmp_path, "bare excepts", source) == [("except:  # bare", note)]


@pytest.mark.parametrize(
    "handler",
    [
        "except Exception:\n    pass",
        "except BaseException:\n    pass",
        "except:\n    b()\n    raise",
    ],
)
def test_accepts_other_handlers(handler: str, tmp_path: Path) -> None:
    assert find(tmp_path, "bare excepts", f"try:\n    a()\n{handler}\n") == []


@pytest.mark.parametrize(
    "default", ["[]", "{}", "{1}", "[x for x in y]", "dict(a=1)", "set()", "bytearray()"]
)
def test_finds_mutable_defaults(default: str, tmp_path: Path) -> None:
    source = f"def f(\n    a,\n    b={default},\n    *,\n    c=lambda: [],\n): pass\n"
    found = find(tmp_path, "mutable default", source)
    assert found == [(f"    b={default},", "f: every call shares one value")]
    source = f"def f(*, a={default}): pass\n"
    assert len(find(tmp_path, "mutable default", source)) == 1


@pytest.mark.parametrize("default", ["None", "()", "0", "frozenset()", "(1, 2)", "a.dict()"])
def test_accepts_other_defaults(default: str, tmp_path: Path) -> None:
    assert find(tmp_path, "mutable default", f"def f(a={default}): pass\n") == []


# Names that nothing uses

UNUSED = "names that no reviewed module uses"


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("import os", "import os"),
        ("import os as system", "import system"),
        ("from os import path", "import path"),
        ("from os import path as place", "import place"),
        ("def _helper(): pass", "private function _helper"),
        ("async def _helper(): pass", "private function _helper"),
        ("class _Helper: pass", "private class _Helper"),
    ],
)
def test_finds_unused_names_of_a_module(line: str, note: str, tmp_path: Path) -> None:
    assert find(tmp_path, UNUSED, f'"""Uses no os nor path."""\n{line}\n') == [(line, note)]


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.getcwd()\n",
        "import os\ndef f():\n    return os\n",
        "import os\ndel os\n",
        "import os as os\n",
        "import os  # noqa: F401\n",
        "import os.path\n",
        "from __future__ import annotations\n",
        "from os import *\n",
        "from _os import getcwd\n",
        "try:\n    import os\nexcept ImportError:\n    import ntpath\n",
        "try:\n    if a:\n        import os\nexcept ImportError:\n    pass\n",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import os\n",
        "import typing\nif typing.TYPE_CHECKING:\n    import os\n",
        "import os\n__all__ = ['os']\n",
        "import os\ndef f(a: 'os.PathLike[str] | None'): pass\n",
        "import os\nprint(globals())\n",
        "import os\neval('o' + 's')\n",
        "import os\ndef f():\n    return globals()['o' + 's']\n",
        "from os import __doc__\n",
        "def helper(): pass\n",
        "def __getattr__(name): pass\n",
        "def _helper(): pass\n_helper()\n",
        "def _helper(): pass\nname = '_helper'\n",
        "@register\ndef _helper(): pass\n",
        "class _Helper(Base): pass\n",
        "class _Helper(metaclass=Meta): pass\n",
        "class Class:\n    def _helper(self): pass\n",
        "class Class:\n    from os import path\n",
    ],
)
def test_does_not_call_a_name_unused_that_may_be_used(source: str, tmp_path: Path) -> None:
    assert find(tmp_path, UNUSED, source) == []


@pytest.mark.parametrize(
    "use",
    [
        "from module import _helper, path\n",
        "from .module import *\n",
        "import module\nmodule._helper(module.path)\n",
        "import package.module as m\nm._helper(m.path)\n",
        "from package import module\nmodule._helper(module.path)\n",
    ],
)
def test_knows_what_other_modules_use(use: str, tmp_path: Path) -> None:
    source = "from os import path\ndef _helper(): pass\n"
    used = use + "_helper, path\n" if "_helper, path" in use else use
    assert find(tmp_path, UNUSED, {"package/module.py": source, "package/user.py": used}) == []
    other = use.replace("module", "another")
    found = find(tmp_path, UNUSED, {"package/user.py": other + "_helper, path\n"})
    assert {note for _, note in found} >= {"import path", "private function _helper"}


def test_takes_the_imports_of_a_package_for_its_face(tmp_path: Path) -> None:
    assert find(tmp_path, UNUSED, {"package/__init__.py": "from .module import name\n"}) == []


@pytest.mark.parametrize(
    ("body", "note"),
    [
        ("left = f()", "f: variable left"),
        ("left: int = f()", "f: variable left"),
        ("import left", "f: import left"),
        ("from a import left", "f: import left"),
        ("left = dir(a)", "f: variable left"),
    ],
)
def test_finds_unused_names_of_a_function(body: str, note: str, tmp_path: Path) -> None:
    found = find(tmp_path, UNUSED, f"left = 1\nprint(left)\ndef f():\n    {body}\n")
    assert found == [(f"    {body}", note)]


@pytest.mark.parametrize(
    "body",
    [
        "left = a; return left",
        "left = a; del left",
        "left = 0; left += 1",
        "left = a; return lambda: left",
        "left = a\n    def g(): return left",
        "left = a\n    def g():\n        nonlocal left\n        left = 2",
        "global left; left = a",
        "left = None",
        "left, right = a",
        "_left = a",
        "dummy = a",
        "for left in a: pass",
        "with a as left: pass",
        "left = a; return locals()",
        "left = a; return eval('le' + 'ft')",
        "left = a; return '{left}'.format(**vars())",
        "left: int",
        "left = right = a",
        "param = a",
        "class C:\n        left = a",
        "a.left = a",
        "try: import left\n    except ImportError: pass",
        "left = a  # noqa",
    ],
)
def test_does_not_call_a_local_unused_that_may_be_used(body: str, tmp_path: Path) -> None:
    assert find(tmp_path, UNUSED, f"def f(a, param=1):\n    {body}\n") == []


# Docstrings

UNDOCUMENTED = "without a docstring"


def test_finds_what_has_no_docstring(tmp_path: Path) -> None:
    source = (
        "import os\n\n\nclass Class:\n    def method(self):\n        return os\n\n\n"
        "async def function(): pass\n"
    )
    assert find(tmp_path, UNDOCUMENTED, source) == [
        ("import os", "module, 9 lines"),
        ("class Class:", "class Class, 3 lines"),
        ("    def method(self):", "function Class.method, 2 lines"),
        ("async def function(): pass", "function function, 1 lines"),
    ]


@pytest.mark.parametrize(
    "source",
    [
        "def f():\n    '''Documented.'''\n",
        "def _f(): pass\n",
        "class _C:\n    def f(self): pass\n",
        "class C:\n    '''Documented.'''\n    def __len__(self): pass\n",
        "@overload\ndef f(): ...\n",
        "@typing.overload\ndef f(): ...\n",
        "class C:\n    '''Documented.'''\n    @f.setter\n    def f(self, value): pass\n",
        "def f():\n    '''Documented.'''\n    def inner(): pass\n    class C: pass\n",
    ],
)
def test_asks_no_docstring_of_others(source: str, tmp_path: Path) -> None:
    assert find(tmp_path, UNDOCUMENTED, DOCUMENTED + source) == []


@pytest.mark.parametrize("path", ["_private.py", "_private/module.py", "empty/__init__.py"])
def test_asks_no_docstring_of_private_and_empty_modules(path: str, tmp_path: Path) -> None:
    source = "" if path.startswith("empty") else "def f(): pass\n"
    assert find(tmp_path, UNDOCUMENTED, {path: source}) == []


# Files that do not parse


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("a = 1\nb = (\n", "b = ("),
        ("a = 1\r\nprint 'b'\r\n", "print 'b'"),
        ("a = 1\rb = = 2\r", "b = = 2"),
        ("if a:\n", "if a:"),
        (b"# coding: klingon\na = 1\n", "# coding: klingon"),
        ("a = 'ä'\n".encode("latin-1"), "a = 'ä'"),
    ],
)
def test_finds_files_that_do_not_parse(source: str | bytes, line: str, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"broken.py": source, "sound.py": DOCUMENTED}
    found = find(tmp_path, "files that do not parse", files)
    assert [text for text, _ in found] == [line]
    assert found[0][1]


@pytest.mark.parametrize(
    "source",
    [
        "# coding: latin-1\na = 'ä'\n".encode("latin-1"),
        "\ufeffa = 'ä'\n".encode(),
        b"a = '\\d'\nb = 1 is 1\n",
        ("a = " + " + ".join(["1"] * 3000) + "\n").encode(),
        b"",
    ],
)
def test_accepts_whatever_python_does(source: bytes, tmp_path: Path) -> None:
    files: dict[str, str | bytes] = {"module.py": source, "other.py": DOCUMENTED}
    assert find(tmp_path, "files that do not parse", files) == []


def test_survives_what_is_nested_too_deeply(tmp_path: Path) -> None:
    source = f"a = {'(' * 5000}1{')' * 5000}\n"
    answer = review_source(write_files(tmp_path, {"module.py": source}), FakeContext())
    assert "Files that do not parse (1, on lines too long to quote):" in answer
    assert parse_citations(answer) == []


# The report


def test_gives_totals(tmp_path: Path) -> None:
    files = {
        "a.py": f"{DOCUMENTED}def _f(a): return 1 if a else _f(a)\n",
        "b.py": f"{DOCUMENTED}def _g(): return _g()\n",
        "tests/test_a.py": "import os\n",
        "notes.txt": "import os\n",
    }
    answer = review_source(write_files(tmp_path, files), FakeContext())
    assert answer.splitlines() == [
        f"Reviewed 2 Python files (4 lines) below {tmp_path}.",
        "Left out: tests (1).",
        "Cyclomatic complexity of their functions (2): 1.5 on average, 2 at most.",
        "None found: files that do not parse, functions with a cyclomatic complexity over 15, "
        "functions of more than 80 lines, names that no reviewed module uses, bare excepts that "
        "do not raise again, mutable default arguments, public modules, classes and functions "
        "without a docstring.",
    ]


def test_shows_the_worst_and_counts_the_rest(tmp_path: Path) -> None:
    source = "".join(make_function(f"f{lines}", lines) for lines in range(81, 90))
    found = find(tmp_path, "Functions of more than 80 lines (9, the first 5):", source)
    assert [note for _, note in found] == [
        "f89: 89 lines",
        "f88: 88 lines",
        "f87: 87 lines",
        "f86: 86 lines",
        "f85: 85 lines",
    ]


def test_reports_progress_now_and_then(tmp_path: Path, ctx: FakeContext) -> None:
    folder = write_files(tmp_path, {f"{number}.py": DOCUMENTED for number in range(40)})
    review_source(folder, ctx)
    assert 10 <= len(ctx.reports) <= 20
    assert ctx.reports[-1] == ("reviewed 40 of 40 files", 40, 40)


def test_stops_between_two_files_when_cancelled(tmp_path: Path) -> None:
    folder = write_files(tmp_path, {f"{number}.py": DOCUMENTED for number in range(40)})
    ctx = FakeContext(cancel_at=20)
    with pytest.raises(Cancelled):
        review_source(folder, ctx)
    assert ctx.checks == 20


def test_says_that_a_folder_holds_no_python(tmp_path: Path) -> None:
    write_files(tmp_path, {"notes.txt": "import os", "test_a.py": "import os"})
    with pytest.raises(ToolError, match=r"holds no Python source to review. Left out: tests .1.."):
        review_source(str(tmp_path), FakeContext())


def test_names_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="There is no folder"):
        review_source(str(tmp_path / "missing"), FakeContext())


@given(
    lines=st.lists(
        st.sampled_from(
            [
                "def f(a=[]):",
                "    left = 1",
                "    try: import os",
                "    except: pass",
                "class C:",
                "    def g(self): pass",
                "import os",
                "'''",
                "\x0c",
                "",
                "(",
                "\\",
                "é = 'ß'",
            ]
        )
    ),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    encoding=st.sampled_from(["utf-8", "latin-1", "utf-8-sig"]),
)
@settings(deadline=None)
def test_every_citation_holds(
    lines: list[str], end: str, encoding: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("folder")
    write_files(folder, {"module.py": end.join(lines).encode(encoding)})
    answer = review_source(str(folder), FakeContext())
    assert check_citations(answer, str(folder)) == []


def test_runs_nothing_that_it_reviews(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    source = f"open({str(mark)!r}, 'w').close()\n"
    review_source(write_files(tmp_path, {"module.py": source}), FakeContext())
    assert not mark.exists()


def test_cites_in_the_common_format(tmp_path: Path) -> None:
    answer = review_source(write_files(tmp_path, {"a/b.py": "x = 1\n"}), FakeContext())
    assert parse_citations(answer) == [Citation("a/b.py", 1, "x = 1")]
