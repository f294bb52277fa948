"""The whole command line: its groups, its options and how it ends."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.metadata import version
from typing import Annotated

import typer

from callboard.cli import (
    actions,
    agents,
    assistants,
    chat,
    db,
    events,
    init,
    jobs,
    mcp,
    serve,
    server,
    threads,
)
from callboard.cli.durations import parse_duration
from callboard.cli.failures import ExitCode, explain
from callboard.cli.invocation import JsonOption, Options, ServerOption
from callboard.cli.output import report

DEFAULT_SERVER = "127.0.0.1:50051"
DEFAULT_TIMEOUT = 30.0

_EPILOG = """\
\b
Exit codes:
  0    done
  1    the call failed, or a job that was waited for did not succeed
  2    wrong usage
  3    no server answers
  4    what was named does not exist
  130  interrupted
"""

app = typer.Typer(
    name="callboard",
    help="Run agents as background jobs.",
    epilog=_EPILOG,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
for module in (
    init,
    serve,
    agents,
    assistants,
    chat,
    jobs,
    actions,
    threads,
    events,
    mcp,
    server,
    db,
):
    app.add_typer(module.app)


def run(arguments: Sequence[str] | None) -> int:
    """Runs a command and returns the exit code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # An agent may answer in letters that the terminal does not have.
            stream.reconfigure(errors="replace")
    # Without a word about what to do, help is what is wanted.
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    try:
        return _command()(arguments, "callboard", standalone_mode=False) or ExitCode.OK
    except typer.Abort as abort:
        return _aborted(abort)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except Exception as error:
        failure = explain(error)
        if failure is None:
            raise
        report(failure.message, failure.hint)
        return failure.exit_code


def _aborted(abort: typer.Abort) -> ExitCode:
    """How a command ends that was told not to go on, at a prompt."""
    cause = abort.__context__
    if isinstance(cause, KeyboardInterrupt | EOFError):
        # The prompt was not answered, and its line not ended.
        print(file=sys.stderr)
    return ExitCode.INTERRUPTED if isinstance(cause, KeyboardInterrupt) else ExitCode.FAILED


@cache
def _command() -> Callable[..., int | None]:
    return typer.main.get_command(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(version("callboard"))
        raise typer.Exit


@app.callback()
def _root(
    context: typer.Context,
    server: ServerOption = None,
    as_json: JsonOption = False,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration,
            metavar="DURATION",
            help="How long a call may take, as 5s or 2m; 30s when left out.",
        ),
    ] = None,
    show_version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=_print_version, help="Print the version."
        ),
    ] = False,
) -> None:
    # Not by Typer: the variable must not outdo an option that stands elsewhere.
    server = server or os.environ.get("CALLBOARD_SERVER") or DEFAULT_SERVER
    context.obj = Options(server, as_json, DEFAULT_TIMEOUT if timeout is None else timeout)
