"""Errors of agents and tools, and what may be told of them.

Two kinds of errors are raised to be read by others; their words are passed on. Of any other error
the text may hold secrets, so only its kind and place are told.
"""

from __future__ import annotations

import sysconfig
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary, extract_tb
from uuid import uuid4

from callboard.v1.error_pb2 import ErrorReason

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


class AgentError(Exception):
    """Ends a run as failed. The message is shown to whoever asks how the run ended."""

    def __init__(
        self,
        message: str,
        *,
        reason: ErrorReason.ValueType = ErrorReason.ERROR_REASON_AGENT_FAILED,
        retryable: bool = False,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retryable = retryable
        """Whether the run may be tried again, as it is after an unexpected error."""


class NoAnswer(AgentError):
    """Nobody answered a question before its deadline. An agent may go on without."""


class ToolError(Exception):
    """Says why a tool could not do its work. The model reads the message and may try again."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class Fenced(Exception):
    """The run is no longer this claim's to write to: it ended or was claimed anew."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An unexpected error as it may be told."""

    kind: str
    """The name of the exception's class."""
    place: str
    """Where it was raised: file and line, of the agent's own code if that took part."""
    trace: tuple[str, ...]
    """All places it passed, outermost first, for the server's log."""
    error_id: str
    """Found in the server's log, too."""

    def __str__(self) -> str:
        return f"{self.kind} at {self.place} (error {self.error_id})"


def describe_failure(error: BaseException) -> Failure:
    """Describes an unexpected error by kind and place, without its text."""
    frames = extract_tb(error.__traceback__)
    own = [frame for frame in frames if not frame.filename.startswith(_LIBRARIES)] or frames
    return Failure(
        kind=type(error).__name__,
        place=_place(own[-1]) if own else "an unknown place",
        trace=tuple(f"{_place(frame)} {frame.name}" for frame in frames),
        error_id=uuid4().hex,
    )


def _place(frame: FrameSummary) -> str:
    return f"{Path(frame.filename).name}:{frame.lineno}"
