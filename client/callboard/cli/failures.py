"""What a command tells when it fails, and how the process ends then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

import typer

from callboard import errors


class ExitCode(IntEnum):
    """How the process ends. `callboard --help` lists them."""

    OK = 0
    FAILED = 1
    USAGE = 2
    UNREACHABLE = 3
    NOT_FOUND = 4
    INTERRUPTED = 130


class CommandError(Exception):
    """A command cannot do what it was asked to.

    Attributes:
        message: What is wrong, for people.
        hint: What to do next; empty where there is nothing to advise.
        exit_code: How the process ends.
    """

    def __init__(
        self, message: str, *, hint: str = "", exit_code: ExitCode = ExitCode.FAILED
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.exit_code = exit_code


def unreachable(server: str) -> CommandError:
    """The error for a server that does not answer."""
    return CommandError(
        f"no Callboard server answers at {server}",
        hint="is it running? callboard serve",
        exit_code=ExitCode.UNREACHABLE,
    )


@contextmanager
def needs_server_extra() -> Iterator[None]:
    """Guards imports of the server, whose dependencies the base installation does not have.

    Raises:
        CommandError: If one is missing.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(
            f"this command needs {error.name}, which is not installed",
            hint="pip install 'callboard[server]'",
            exit_code=ExitCode.USAGE,
        ) from error


@contextmanager
def checks_arguments() -> Iterator[None]:
    """Guards calls of the SDK that check their arguments before anything is sent.

    Raises:
        CommandError: If one is refused.
    """
    try:
        yield
    except ValueError as error:
        raise CommandError(str(error), exit_code=ExitCode.USAGE) from error


def explain(error: Exception) -> CommandError | None:
    """What to tell about an exception; None where it is a fault of the program."""
    if isinstance(error, CommandError):
        return error
    if isinstance(error, typer.TyperException):
        return _explain_usage(error)
    if isinstance(error, errors.CallboardError):
        return _explain_call(error)
    return None


def _explain_usage(error: typer.TyperException) -> CommandError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context else "callboard"
    return CommandError(
        # What the checks of values put before their words is not for people.
        error.format_message().replace("Value error, ", "").rstrip("."),
        hint=f"{path} --help",
        exit_code=ExitCode.USAGE,
    )


def words_of(error: errors.CallboardError) -> str:
    """What a failed call says; gRPC's own words on a lost connection are not for people."""
    if isinstance(error, errors.Unavailable) and not error.reason:
        return "the server does not answer"
    return error.message


def _explain_call(error: errors.CallboardError) -> CommandError:
    message = words_of(error)
    if error.error_id and error.error_id not in message:
        message = f"{message} (error id {error.error_id})"
    return CommandError(message, hint=_hint(error), exit_code=_exit_code(error))


def _exit_code(error: errors.CallboardError) -> ExitCode:
    if isinstance(error, errors.NotFound):
        return ExitCode.NOT_FOUND
    if isinstance(error, errors.InvalidArgument):
        return ExitCode.USAGE
    if isinstance(error, errors.Unavailable):
        return ExitCode.UNREACHABLE
    return ExitCode.FAILED


def _hint(error: errors.CallboardError) -> str:
    suggestion = error.metadata.get("suggestion", "")
    if suggestion:
        return "" if suggestion in error.message else f"did you mean {suggestion}?"
    if isinstance(error, errors.Unavailable) and not error.reason:
        return "is it running? callboard serve"
    if isinstance(error, errors.DeadlineExceeded):
        return "give it longer: callboard --timeout 2m ..."
    return _HINTS.get(error.reason, "")


_HINTS = {
    "ACTION_ALREADY_ANSWERED": "callboard actions",
    "ACTION_CLOSED": "callboard actions",
    "ACTION_NOT_FOUND": "callboard actions",
    "AGENT_NOT_FOUND": "callboard agents",
    "ASSISTANT_NOT_FOUND": "callboard assistants list",
    "ASSISTANT_READ_ONLY": "callboard assistants create",
    "ASSISTANT_REQUIRED": "name an agent: callboard agents",
    "CURSOR_AHEAD": "start from the beginning: --after 0",
    "JOB_NOT_FOUND": "callboard jobs list",
    "THREAD_NOT_FOUND": "callboard threads list",
}
