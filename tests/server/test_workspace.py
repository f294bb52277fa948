"""Tools for a session's workspace: what they do, and that nothing leads out of it."""

from __future__ import annotations

import asyncio
import json
import os
import stat
import sys
import threading
from collections.abc import AsyncIterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from fnmatch import fnmatchcase
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import callboard
from callboard.v1.event_pb2 import Action
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.message_pb2 import ToolCall
from callboard_server import workspace_tools
from callboard_server.agents import workspace
from callboard_server.agents.context import Context
from callboard_server.agents.loading import load
from callboard_server.agents.tools import ToolOutput, run_tool
from callboard_server.agents.workspace_files import (
    LARGEST_FILE,
    MOST_FILES,
    MOST_MATCHES,
    MOST_TEXT,
    Files,
    Glob,
    Refused,
)
from callboard_server.app import client_caller, open_app
from callboard_server.config import ConfigError, ServerConfig
from tests.server.doubles import make_context
from tests.support.gates import PATIENCE
from tests.support.serving import settings
from tests.support.waiting import until


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder


def context(root: Path) -> Context:
    made = make_context()
    made._workspace = root
    return made


async def use(root: Path, name: str, arguments: Mapping[str, object], **kit: Any) -> ToolOutput:
    """What a tool of a kit answers."""
    tools = {tool.name: tool for tool in workspace_tools(**kit)}
    call = ToolCall(name=name, arguments_json=json.dumps(arguments))
    return await run_tool(tools, call, context(root))


async def run(root: Path, command: str, *, shell: bool = True, **kit: Any) -> ToolOutput:
    return await use(root, "run_command", {"command": command, "shell": shell}, **kit)


NAMES = st.sampled_from(["a", "b", "ab", ".hidden"])
PATTERN_PARTS = st.sampled_from(["a", "b", "*", "a*", "?", "[ab]", "**"])


def fits(path: Sequence[str], pattern: Sequence[str]) -> bool:
    """What a pattern means, word by word."""
    if not pattern:
        return not path
    if pattern[0] == "**":
        return fits(path, pattern[1:]) or (bool(path) and fits(path[1:], pattern))
    return bool(path) and fnmatchcase(path[0], pattern[0]) and fits(path[1:], pattern[1:])


class TestPatterns:
    @given(st.lists(NAMES, max_size=5), st.lists(PATTERN_PARTS, max_size=5))
    def test_mean_what_they_say(self, path: list[str], pattern: list[str]) -> None:
        glob = Glob("/".join(pattern))
        assert glob.fits(path) == fits(path, pattern)
        if glob.fits(path):
            folders = [path[:depth] for depth in range(len(path))]
            assert all(glob.leads_to_more(folder) for folder in folders)

    def test_many_stars_take_no_time(self) -> None:
        glob = Glob("/".join(["**", "a"] * 40))
        assert not glob.fits(["a"] * 39 + ["b"] * 60)


class TestReading:
    async def test_returns_text(self, root: Path) -> None:
        (root / "a.txt").write_text("one\ntwo\nthrée")
        assert await use(root, "read_file", {"path": "a.txt"}) == ToolOutput("one\ntwo\nthrée")
        some = {"path": "./a.txt", "first_line": 2, "line_count": 1}
        output = await use(root, "read_file", some)
        assert output == ToolOutput("two\n\n[The file goes on with line 3.]")

    @given(
        st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0"))), st.integers(1, 9)
    )
    def test_pages_add_up_to_the_file(self, pieces: list[str], count: int) -> None:
        content = "\n".join(pieces)
        with TemporaryDirectory() as folder:
            (Path(folder) / "it").write_bytes(content.encode())
            read, line = "", 1
            while True:
                excerpt = Files(folder, ["**"]).read("it", line, count)
                read += excerpt.text
                if excerpt.next_line is None:
                    break
                line = excerpt.next_line
        assert read == content

    async def test_is_bounded(self, root: Path) -> None:
        line = "x" * 999 + "\n"
        (root / "large").write_text(line * 3_000)
        output = await use(root, "read_file", {"path": "large"})
        assert len(output.text) < MOST_TEXT + 100
        assert output.text.endswith(f"[The file goes on with line {MOST_TEXT // 1000 + 1}.]")
        (root / "wide").write_text("x" * (MOST_TEXT + 1))
        output = await use(root, "read_file", {"path": "wide"})
        assert output.is_error
        assert "Line 1 of wide alone is longer than" in output.text
        (root / "full").write_text("x" * MOST_TEXT)
        assert (await use(root, "read_file", {"path": "full"})).text == "x" * MOST_TEXT

    @pytest.mark.parametrize(
        ("path", "problem"),
        [
            ("nowhere", "nowhere: No such file or directory."),
            ("folder", "folder: is no regular file."),
            ("pipe", "pipe: is no regular file."),
            ("zeros", "zeros is no text in UTF-8. It has 2 bytes."),
            ("latin", "latin is no text in UTF-8. It has 4 bytes."),
            ("short/inner", "short/inner: a part of it is no folder, or a symbolic link"),
            ("n" * 300, "File name too long."),
        ],
    )
    async def test_says_what_cannot_be_read(self, path: str, problem: str, root: Path) -> None:
        (root / "folder").mkdir()
        os.mkfifo(root / "pipe")
        (root / "zeros").write_bytes(b"a\0")
        (root / "latin").write_bytes("käse".encode("latin-1"))
        (root / "short").write_text("one\n")
        output = await use(root, "read_file", {"path": path})
        assert output.is_error
        assert problem in output.text

    async def test_a_line_beyond_the_end(self, root: Path) -> None:
        (root / "short").write_text("one\n")
        output = await use(root, "read_file", {"path": "short", "first_line": 2})
        assert output == ToolOutput("short has fewer than 2 lines.", True)


class TestWriting:
    async def test_makes_folders_and_replaces(self, root: Path) -> None:
        output = await use(root, "write_file", {"path": "a/b/c.txt", "text": "grün\n"})
        assert output == ToolOutput("a/b/c.txt is written: 6 bytes.")
        assert (root / "a/b/c.txt").read_text() == "grün\n"
        (root / "a/b/c.txt").chmod(0o750)
        await use(root, "write_file", {"path": "a/b/c.txt", "text": ""})
        assert (root / "a/b/c.txt").read_text() == ""
        assert stat.S_IMODE((root / "a/b/c.txt").stat().st_mode) == 0o750
        assert [each.name for each in (root / "a/b").iterdir()] == ["c.txt"]

    async def test_leaves_nothing_behind_where_it_fails(self, root: Path) -> None:
        (root / "a").mkdir()
        output = await use(root, "write_file", {"path": "a", "text": "x"})
        assert output == ToolOutput("a: is no regular file.", True)
        assert [each.name for each in root.iterdir()] == ["a"]

    async def test_replaces_a_piece_that_is_there_once(self, root: Path) -> None:
        (root / "it").write_text("red\nred\nblue\n")
        edit = {"path": "it", "old": "blue", "new": "green"}
        assert await use(root, "edit_file", edit) == ToolOutput("it is changed.")
        assert (root / "it").read_text() == "red\nred\ngreen\n"
        for old, times in ("red", 2), ("blue", 0):
            output = await use(root, "edit_file", {"path": "it", "old": old, "new": "x"})
            assert output.is_error
            assert f"it has the text to replace {times} times" in output.text
        output = await use(root, "edit_file", {"path": "it", "old": "", "new": "x"})
        assert "old: must not be empty" in output.text
        assert (root / "it").read_text() == "red\nred\ngreen\n"

    async def test_does_not_edit_what_is_too_large(self, root: Path) -> None:
        (root / "large").write_text("a" + "x" * LARGEST_FILE)
        output = await use(root, "edit_file", {"path": "large", "old": "a", "new": "b"})
        assert output == ToolOutput(f"large is larger than {LARGEST_FILE:,} bytes.", True)

    def test_no_writer_undoes_what_another_wrote(self, root: Path) -> None:
        count = 40
        (root / "it").write_text("".join(f"<{number}>\n" for number in range(count)))

        def edit(number: int) -> None:
            Files(str(root), ["**"]).edit("it", f"<{number}>", f"[{number}]")

        with ThreadPoolExecutor(8) as threads:
            list(threads.map(edit, range(count)))
        assert (root / "it").read_text() == "".join(f"[{number}]\n" for number in range(count))

    def test_a_reader_sees_one_writer_whole(self, root: Path) -> None:
        files = Files(str(root), ["**"])
        versions = [letter * 50_000 for letter in "abcd"]
        files.write("it", versions[0])

        def write(version: str) -> None:
            for _ in range(20):
                files.write("it", version)

        with ThreadPoolExecutor(4) as threads:
            writers = [threads.submit(write, version) for version in versions]
            while not all(writer.done() for writer in writers):
                assert files.read("it", 1, 1).text in versions
            for writer in writers:
                writer.result()
        assert [each.name for each in root.iterdir()] == ["it"]


PATHS = st.lists(st.sampled_from(["..", ".", "", "a", "b", "out", "secret"]), max_size=6)


class TestBounds:
    @given(PATHS, st.booleans())
    def test_no_path_leads_out(self, parts: list[str], absolute: bool) -> None:
        with TemporaryDirectory() as folder:
            outside, root = Path(folder) / "outside", Path(folder) / "root"
            (root / "a").mkdir(parents=True)
            outside.mkdir()
            (outside / "secret").write_text("secret")
            (root / "out").symlink_to(outside)
            (root / "a" / "out").symlink_to("../../outside")
            (root / "b").symlink_to(outside / "secret")
            path = "/".join([*([str(outside)] if absolute else []), *parts])
            files = Files(str(root), ["**"])
            with suppress(Refused):
                assert files.read(path, 1, 1).text != "secret"
            with suppress(Refused):
                files.edit(path, "secret", "told")
            with suppress(Refused):
                files.write(path, "told")
            assert [each.name for each in outside.iterdir()] == ["secret"]
            assert (outside / "secret").read_text() == "secret"
            assert "secret" not in json.dumps(files.search("secret", "**"))

    @pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "", ".", "/", "a\0b"])
    async def test_names_are_checked_before_anything_is_written(
        self, path: str, root: Path
    ) -> None:
        for name, arguments in {
            "read_file": {"path": path},
            "write_file": {"path": path, "text": "x"},
            "edit_file": {"path": path, "old": "x", "new": "y"},
        }.items():
            output = await use(root, name, arguments)
            assert output.is_error
            assert "names no file of the workspace" in output.text or "is absolute" in output.text
        assert not list(root.iterdir())

    @pytest.mark.parametrize("pattern", ["../**", "/etc/*", "**/../*", "link/*"])
    async def test_patterns_do_not_lead_out_either(self, pattern: str, root: Path) -> None:
        (root.parent / "secret").write_text("secret")
        (root / "link").symlink_to(root.parent)
        nothing = ToolOutput("No file fits.")
        assert await use(root, "list_files", {"pattern": pattern}) == nothing
        found = await use(root, "search_files", {"expression": "secret", "files": pattern})
        assert found == ToolOutput("Nothing was found.")

    def test_a_link_that_takes_the_place_of_a_folder_leads_nowhere(self, root: Path) -> None:
        outside = root.parent / "outside"
        outside.mkdir()
        (outside / "it").write_text("secret")
        graves = root.parent / "graves"
        graves.mkdir()
        done = threading.Event()

        def swap() -> None:
            folder, link = root / "folder", root.parent / "link"
            for number in count():
                if done.is_set():
                    break
                link.symlink_to(outside)
                # In between, a writer may have made the folder that it needs.
                with suppress(OSError):
                    folder.rename(graves / f"{number}")
                with suppress(OSError):
                    link.rename(folder)
                with suppress(OSError):
                    folder.rename(graves / f"{number} too")
                link.unlink(missing_ok=True)

        swapping = threading.Thread(target=swap)
        swapping.start()
        files = Files(str(root), ["**"])
        written = refused = 0
        try:
            while min(written, refused) < 50:
                try:
                    files.write("folder/it", "mine")
                    written += 1
                    assert files.read("folder/it", 1, 1).text == "mine"
                except Refused:
                    refused += 1
        finally:
            done.set()
            swapping.join()
        assert (outside / "it").read_text() == "secret"
        assert [each.name for each in outside.iterdir()] == ["it"]

    async def test_paths_bound_what_is_read_and_written(self, root: Path) -> None:
        (root / "src").mkdir()
        (root / "src" / "a.py").write_text("here")
        (root / "notes.md").write_text("here")
        (root / "key.pem").write_text("here")
        kit = {"paths": ["src/**", "*.md"]}
        assert (await use(root, "list_files", {}, **kit)).text == "notes.md\nsrc/a.py"
        found = await use(root, "search_files", {"expression": "here"}, **kit)
        assert found.text == "notes.md:1: here\nsrc/a.py:1: here"
        output = await use(root, "read_file", {"path": "key.pem"}, **kit)
        assert output == ToolOutput("key.pem may not be used. What may: src/**, *.md.", True)
        output = await use(root, "write_file", {"path": "lib/b.py", "text": ""}, **kit)
        assert output.is_error
        assert not (root / "lib").exists()
        output = await use(root, "write_file", {"path": "src/x/b.py", "text": ""}, **kit)
        assert not output.is_error


class TestFinding:
    async def test_lists_are_bounded_and_in_order(self, root: Path) -> None:
        for number in range(MOST_FILES + 1):
            (root / f"{number:05}").touch()
        lines = (await use(root, "list_files", {})).text.splitlines()
        assert lines[:2] == ["00000", "00001"]
        assert lines[-1] == f"[There are more than these {MOST_FILES}.]"
        assert len(lines) == MOST_FILES + 1

    async def test_names_that_are_no_text_are_left_out(self, root: Path) -> None:
        with open(os.fsencode(root) + b"/\xff", "w"):
            (root / "ü").touch()
        assert (await use(root, "list_files", {})).text == "ü"

    async def test_search_finds_lines_of_texts(self, root: Path) -> None:
        (root / "a").write_bytes(b"one\r\n  two\r\n\x0cthree two\r\n")
        (root / "b").write_bytes(b"two\0")
        (root / "c").write_text("two" + "x" * LARGEST_FILE)
        (root / "d").write_text("ü two " + "x" * 1_000)
        output = await use(root, "search_files", {"expression": "two$|ü"})
        assert output.text == f"a:2: two\na:3: three two\nd:1: ü two {'x' * 294}"
        (root / "e").write_text("here\n" * (MOST_MATCHES + 1))
        lines = (await use(root, "search_files", {"expression": "^here"})).text.splitlines()
        assert lines[-2:] == [
            f"e:{MOST_MATCHES}: here",
            f"[There are more than these {MOST_MATCHES}.]",
        ]

    async def test_says_what_is_wrong_with_an_expression(self, root: Path) -> None:
        output = await use(root, "search_files", {"expression": "a("})
        assert output.is_error
        assert output.text.startswith("'a(' is no regular expression: missing )")

    async def test_an_expression_that_takes_for_ever_is_ended(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(workspace, "_SEARCH_TIMEOUT", 0.5)
        (root / "a").write_text("a" * 60 + "b")
        output = await use(root, "search_files", {"expression": "(a+)+$"})
        assert output.is_error
        assert output.text.startswith("The search took longer than 0.5 s. Give a simpler")


class TestRunning:
    async def test_returns_output_and_exit_code(self, root: Path) -> None:
        script = "import sys; print('out'); sys.stdout.flush(); sys.exit('err')"
        (root / "it.py").write_text(script)
        output = await run(root, f"'{sys.executable}' it.py '$HOME | x'", shell=False)
        assert output == ToolOutput("exit code 1\nout\nerr\n")
        assert await run(root, "echo $PWD | wc -l") == ToolOutput("exit code 0\n1\n")

    async def test_without_a_shell_nothing_has_a_meaning(self, root: Path) -> None:
        output = await run(root, "echo '$HOME' $HOME ; echo > x", shell=False)
        assert output == ToolOutput("exit code 0\n$HOME $HOME ; echo > x\n")
        assert not list(root.iterdir())

    @pytest.mark.parametrize(
        ("command", "problem"),
        [
            ("no-such-program x", "no-such-program cannot be started: No such file"),
            ("echo 'x", "not quoted as for a shell: No closing quotation"),
            (" ", "The command is empty."),
        ],
    )
    async def test_says_what_cannot_be_run(self, command: str, problem: str, root: Path) -> None:
        output = await run(root, command, shell=False)
        assert output.is_error
        assert problem in output.text

    async def test_output_is_bounded(self, root: Path) -> None:
        output = await run(root, "echo begin; head -c 1000000 /dev/zero | tr '\\0' x; echo end")
        assert len(output.text) < 31_000
        assert output.text.startswith("exit code 0\nbegin\nxxx")
        assert output.text.endswith("xxx\nend\n") or output.text.endswith("xxxend\n")
        assert "bytes left out" in output.text
        output = await run(root, "yes")
        assert output.is_error
        assert output.text.startswith("It wrote more than 67,108,864 bytes and was ended.")

    async def test_programs_get_no_secrets(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        monkeypatch.setenv("SHELF_KEY", "sesame")
        output = await run(root, "env", shell=False, pass_env=["SHELF_KEY"])
        names = {line.partition("=")[0] for line in output.text.splitlines()[1:]}
        assert "SHELF_KEY=sesame" in output.text
        assert names <= {"PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "SHELF_KEY"}
        with pytest.raises(ConfigError, match="variable NO_SUCH is not set"):
            workspace_tools(pass_env=["NO_SUCH"])

    async def test_one_that_takes_too_long_is_ended(self, root: Path) -> None:
        output = await run(root, "echo $$; sleep 600", timeout=0.5)
        assert output.is_error
        problem, *lines = output.text.splitlines()
        assert problem == "It took longer than 0.5 s and was ended. Its output:"
        for line in lines:
            await gone(int(line))

    async def test_nothing_is_left_of_one_that_ended(self, root: Path) -> None:
        output = await run(root, "sleep 600 & echo $! > child; echo done")
        assert output == ToolOutput("exit code 0\ndone\n")
        await gone(*ids(root / "child"))

    async def test_nothing_is_left_of_one_that_is_cancelled(self, root: Path) -> None:
        command = "sleep 600 & echo $! > child; echo $$ > draft; mv draft shell; wait"
        running = asyncio.create_task(run(root, command))
        await until(lambda: exists(root / "shell"))
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running
        await gone(*ids(root / "shell", root / "child"))


async def is_empty(folder: Path) -> bool:
    return not list(folder.iterdir())


async def exists(path: Path) -> bool:
    return path.exists()


def ids(*files: Path) -> list[int]:
    return [int(file.read_text()) for file in files]


async def gone(*processes: int) -> None:
    """Waits until processes do not run any more."""
    for process in processes:
        status = Path(f"/proc/{process}/stat")

        async def is_gone(status: Path = status) -> bool:
            # Whoever has no parent any more may stay listed as a zombie for a while.
            with suppress(FileNotFoundError, ProcessLookupError):
                return status.read_text().rpartition(")")[2].split()[0] == "Z"
            return True

        await until(is_gone)


class TestKits:
    @pytest.mark.parametrize(
        ("kit", "names"),
        [
            (
                {},
                "read_file list_files search_files write_file edit_file run_command",
            ),
            ({"read_only": True}, "read_file list_files search_files"),
            ({"tools": ["run", "write"]}, "write_file edit_file run_command"),
            ({"tools": ["run", "search"], "read_only": True}, "search_files"),
        ],
    )
    def test_have_what_was_asked_for(self, kit: dict[str, Any], names: str) -> None:
        assert [tool.name for tool in workspace_tools(**kit)] == names.split()

    def test_only_programs_need_a_permission(self) -> None:
        policies = {tool.name: tool.policy for tool in workspace_tools()}
        assert policies.pop("run_command") == "ask"
        assert set(policies.values()) == {"allow"}


RULES = r"""
[[rule]]
example = "write a.txt: hello"
when = 'write (?P<path>\S+): (?P<text>.+)'
call = [{ tool = "write_file", arguments = { path = "{path}", text = "{text}" } }]

[[rule]]
example = "read a.txt"
when = 'read (?P<path>\S+)'
call = [{ tool = "read_file", arguments = { path = "{path}" } }]

[[rule]]
example = "replace hello in a.txt by bye"
when = 'replace (?P<old>\S+) in (?P<path>\S+) by (?P<new>\S+)'
call = [{ tool = "edit_file", arguments = { path = "{path}", old = "{old}", new = "{new}" } }]

[[rule]]
example = "look around"
when = 'look around'
call = [{ tool = "list_files" }, { tool = "search_files", arguments = { expression = "." } }]

[[rule]]
example = "run date"
when = 'run (?P<command>.+)'
call = [{ tool = "run_command", arguments = { command = "{command}" } }]
"""


@asynccontextmanager
async def serving(folder: Path, kit: dict[str, Any]) -> AsyncIterator[callboard.AsyncClient]:
    """A server with an agent that has a workspace."""
    (folder / "rules.toml").write_text(RULES)
    agent = {"model": "offline:rules.toml", "workspace": kit}
    config = ServerConfig.model_validate(
        {
            **settings(folder / "jobs.db"),
            "sweep": {"interval": 0.02},
            "agents": {"clerk": agent},
        }
    )
    async with open_app(config, load(config, folder)) as app:
        yield app.client(client_caller("local"))


async def ask(client: callboard.AsyncClient, thread_id: str, text: str) -> str:
    made = await client.runs.create("clerk", text, thread_id=thread_id)
    made = await client.runs.wait(made.run_id, timeout=PATIENCE)
    assert made.state == RunState.RUN_STATE_SUCCEEDED
    return callboard.text_of(made.outcome.result)


class TestRuns:
    async def test_agents_of_a_session_share_its_files(self, tmp_path: Path) -> None:
        async with serving(tmp_path, {}) as client:
            first, second = await client.threads.create(), await client.threads.create()
            said = await ask(client, first.thread_id, "write notes/a.txt: hello world")
            assert said == "notes/a.txt is written: 11 bytes."
            await ask(client, first.thread_id, "replace hello in notes/a.txt by goodbye")
            said = await ask(client, first.thread_id, "read notes/a.txt")
            assert said == "goodbye world"
            said = await ask(client, first.thread_id, "look around")
            assert said == "notes/a.txt\nnotes/a.txt:1: goodbye world"
            said = await ask(client, second.thread_id, "read notes/a.txt")
            assert said == "notes/a.txt: No such file or directory."
            said = await ask(client, first.thread_id, "read ../../jobs.db")
            assert said == "'../../jobs.db' names no file of the workspace."

    async def test_jobs_side_by_side_lose_nothing(self, tmp_path: Path) -> None:
        async with serving(tmp_path, {}) as client:
            thread = await client.threads.create()
            await ask(client, thread.thread_id, "write it: 1 2 3 4 5 6 7 8 9")
            jobs = [
                await client.jobs.launch(
                    "clerk",
                    f"replace {number} in it by <{number}>",
                    parent_thread_id=thread.thread_id,
                    notify="none",
                )
                for number in range(1, 10)
            ]
            await client.jobs.wait([job.job_id for job in jobs])
            said = await ask(client, thread.thread_id, "read it")
            assert said == " ".join(f"<{number}>" for number in range(1, 10))

    async def test_programs_run_when_somebody_permits_it(self, tmp_path: Path) -> None:
        async with serving(tmp_path, {}) as client:
            thread = await client.threads.create()
            made = await client.runs.create("clerk", "run touch made", thread_id=thread.thread_id)
            made = await client.runs.wait(made.run_id, timeout=PATIENCE)
            assert made.state == RunState.RUN_STATE_REQUIRES_ACTION
            folder = tmp_path / "jobs.workspaces" / thread.thread_id
            assert not (folder / "made").exists()
            [action] = [each async for each in client.actions.list(thread.thread_id)]
            assert action.kind == Action.KIND_TOOL_PERMISSION
            await client.actions.allow(action)
            await until(lambda: ended(client, made.run_id))
            assert (folder / "made").exists()

    async def test_a_run_that_is_cancelled_takes_its_programs_along(self, tmp_path: Path) -> None:
        (tmp_path / "it.sh").write_text("echo $$ > draft; mv draft shell; sleep 600")
        kit = {"tools": ["run"]}
        async with serving(tmp_path, kit) as client:
            thread = await client.threads.create()
            command = f"run sh {tmp_path / 'it.sh'}"
            made = await client.runs.create("clerk", command, thread_id=thread.thread_id)
            await client.runs.wait(made.run_id, timeout=PATIENCE)
            [action] = [each async for each in client.actions.list(thread.thread_id)]
            await client.actions.allow(action)
            folder = tmp_path / "jobs.workspaces" / thread.thread_id
            await until(lambda: exists(folder / "shell"))
            await client.runs.cancel(made.run_id)
            await until(lambda: ended(client, made.run_id))
            await gone(*ids(folder / "shell"))

    async def test_files_go_with_their_session(self, tmp_path: Path) -> None:
        async with serving(tmp_path, {}) as client:
            kept, lost = await client.threads.create(), await client.threads.create()
            for thread in kept, lost:
                await ask(client, thread.thread_id, "write a/b.txt: hello")
            workspaces = tmp_path / "jobs.workspaces"
            (workspaces / lost.thread_id / "link").symlink_to(workspaces / kept.thread_id)
            await client.threads.delete(lost.thread_id)
            assert [each.name for each in workspaces.iterdir()] == [kept.thread_id]
            assert (workspaces / kept.thread_id / "a" / "b.txt").exists()
            # One that never had any files goes, too.
            await client.threads.delete((await client.threads.create()).thread_id)
            await client.threads.update(kept.thread_id, ttl=0.01)
            await until(lambda: is_empty(workspaces))


async def ended(client: callboard.AsyncClient, run_id: str) -> bool:
    made = await client.runs.get(run_id)
    return made.state in (RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_CANCELLED)
