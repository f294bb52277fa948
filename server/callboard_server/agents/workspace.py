"""Ready tools for the workspace of a session: to read, search and write its files, to run programs.

What they read and write stays within the workspace. What a program does is bounded by the rights
of the server only: it runs when somebody permits it.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field

from callboard_server.agents import workspace_files
from callboard_server.agents.context import Context
from callboard_server.agents.environment import passed_on
from callboard_server.agents.errors import ToolError
from callboard_server.agents.programs import CutShort, run_program
from callboard_server.agents.threads import in_thread
from callboard_server.agents.tools import Tool, tool
from callboard_server.agents.workspace_files import MOST_LINES, Files, Refused

Kind = Literal["read", "search", "write", "run"]
KINDS: tuple[Kind, ...] = ("read", "search", "write", "run")

_MOST_OUTPUT = 30_000
_SEARCH_TIMEOUT = 20.0
# More than the matches of a search can come to.
_MOST_FOUND = 4 * 1024 * 1024

T = TypeVar("T")
FirstLine = Annotated[int, Field(ge=1)]
LineCount = Annotated[int, Field(ge=1, le=MOST_LINES)]
Expression = Annotated[str, Field(min_length=1, max_length=1_000)]
NonEmpty = Annotated[str, Field(min_length=1)]


def workspace_tools(
    tools: Iterable[Kind] = KINDS,
    *,
    read_only: bool = False,
    paths: Sequence[str] = ("**",),
    timeout: float = 60.0,
    pass_env: Iterable[str] = (),
) -> list[Tool]:
    """Makes tools for the workspace of the session that an agent runs in.

    Args:
        tools: What there is to be: "read" gives `read_file` and `list_files`, "search"
            `search_files`, "write" `write_file` and `edit_file`, "run" `run_command`.
        read_only: Leaves out "write" and "run".
        paths: Patterns of what may be read and written, from the workspace on, such as `src/**`.
            They do not bind the programs that `run_command` starts.
        timeout: Seconds that a program may take.
        pass_env: Names of environment variables that programs get, beside PATH, HOME, LANG, LC_ALL
            and TMPDIR.

    Raises:
        ConfigError: A variable is not set.
    """
    kinds = set(tools) - ({"write", "run"} if read_only else set())
    kit = _Kit(tuple(paths), timeout, passed_on(pass_env))
    ready: dict[Kind, list[Tool]] = {
        "read": [tool(kit.read_file, idempotent=True), tool(kit.list_files, idempotent=True)],
        "search": [tool(kit.search_files, idempotent=True)],
        "write": [tool(kit.write_file, idempotent=True), tool(kit.edit_file)],
        "run": [tool(kit.run_command, policy="ask")],
    }
    return [each for kind in KINDS if kind in kinds for each in ready[kind]]


class _Kit:
    """The functions behind the tools. Their docstrings are for models."""

    def __init__(
        self, paths: Sequence[str], timeout: float, environment: Mapping[str, str]
    ) -> None:
        self._paths = paths
        self._timeout = timeout
        self._environment = environment

    async def read_file(
        self,
        path: str,
        ctx: Context,
        first_line: FirstLine = 1,
        line_count: LineCount = MOST_LINES,
    ) -> str:
        """Return the text of a file of the workspace, or some lines of it.

        Args:
            path: The file, named from the workspace on, such as src/a.py.
            ctx: The run.
            first_line: Where to begin.
            line_count: How many lines to return.
        """

        def read() -> str:
            excerpt = self._files(ctx).read(path, first_line, line_count)
            if excerpt.next_line is None:
                return excerpt.text
            return f"{excerpt.text}\n[The file goes on with line {excerpt.next_line}.]"

        return await _ask(read)

    async def list_files(self, ctx: Context, pattern: str = "**") -> str:
        """Return the names of files of the workspace.

        Args:
            ctx: The run.
            pattern: Which files: * and ? stand for parts of a name, ** for any number of folders,
                as in src/**/*.py.
        """
        found, more = await _ask(lambda: self._files(ctx).find(pattern))
        return _show(found, more, "No file fits.")

    async def search_files(self, expression: Expression, ctx: Context, files: str = "**") -> str:
        """Return the lines of files that a regular expression finds, with file and line number.

        Args:
            expression: The regular expression, in the syntax of Python.
            ctx: The run.
            files: Which files: * and ? stand for parts of a name, ** for any number of folders, as
                in src/**/*.py.
        """
        order = {
            "root": str(await _workspace(ctx)),
            "paths": self._paths,
            "expression": expression,
            "files": files,
        }
        answer = await _search(order)
        return _show(answer["found"], answer["more"], "Nothing was found.")

    async def write_file(self, path: str, text: str, ctx: Context) -> str:
        """Write a file of the workspace: a new one, or in the place of an old one.

        Args:
            path: The file, named from the workspace on, such as src/a.py. Folders are made.
            text: All that the file is to hold.
            ctx: The run.
        """
        await _ask(lambda: self._files(ctx).write(path, text))
        return f"{path} is written: {len(text.encode()):,} bytes."

    async def edit_file(self, path: str, old: NonEmpty, new: str, ctx: Context) -> str:
        """Replace a piece of text that stands in a file of the workspace exactly once.

        Args:
            path: The file, named from the workspace on, such as src/a.py.
            old: The text as it stands there, with as much around it as makes it the only one.
            new: What to put in its place.
            ctx: The run.
        """
        await _ask(lambda: self._files(ctx).edit(path, old, new))
        return f"{path} is changed."

    async def run_command(self, command: NonEmpty, ctx: Context, shell: bool = False) -> str:
        """Run a program in the folder of the workspace, and return its output and exit code.

        Args:
            command: The program and its arguments, quoted as for a shell. Without one there are no
                variables, pipes or redirections.
            ctx: The run.
            shell: Whether to hand the command to a shell.
        """
        arguments = ["/bin/sh", "-c", command] if shell else _split(command)
        try:
            finished = await run_program(
                arguments,
                await _workspace(ctx),
                self._environment,
                timeout=self._timeout,
                most_output=_MOST_OUTPUT,
            )
        except OSError as error:
            raise ToolError(f"{arguments[0]} cannot be started: {error.strerror}.") from None
        except CutShort as cut:
            raise ToolError(f"It {cut.problem} and was ended. Its output:\n{cut.output}") from None
        return f"exit code {finished.exit_code}\n{finished.output}"

    def _files(self, ctx: Context) -> Files:
        return Files(str(ctx.workspace), self._paths)


async def _workspace(ctx: Context) -> Path:
    return await in_thread(lambda: ctx.workspace)


async def _ask(work: Callable[[], T]) -> T:
    """Does what blocks in a thread; what is refused is told to the model."""
    try:
        return await in_thread(work)
    except Refused as refusal:
        raise ToolError(str(refusal)) from None


async def _search(order: Mapping[str, object]) -> dict[str, Any]:
    """Searches in a process of its own, which ends when it takes too long."""
    program = [sys.executable, "-I", "-S", "-X", "utf8", workspace_files.__file__]
    try:
        finished = await run_program(
            [*program, json.dumps(order)],
            Path(str(order["root"])),
            os.environ,
            timeout=_SEARCH_TIMEOUT,
            most_output=_MOST_FOUND,
        )
    except CutShort as cut:
        problem = cut.problem
    else:
        if finished.exit_code == 0:
            answer: dict[str, Any] = json.loads(finished.output)
            if "refused" in answer:
                raise ToolError(answer["refused"])
            return answer
        problem = f"broke off with exit code {finished.exit_code}"
    raise ToolError(f"The search {problem}. Give a simpler expression, or name fewer files.")


def _split(command: str) -> list[str]:
    try:
        arguments = shlex.split(command)
    except ValueError as error:
        raise ToolError(f"The command is not quoted as for a shell: {error}.") from None
    if not arguments:
        raise ToolError("The command is empty.")
    return arguments


def _show(found: Sequence[str], more: bool, nothing: str) -> str:
    note = [f"[There are more than these {len(found)}.]"] if more else []
    return "\n".join([*found, *note]) or nothing
