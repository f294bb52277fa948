"""Errors of agents and tools, and what may be told of them.

Two kinds of errors are raised to be read by others; their words are passed on. Of any other error
the text may hold secrets, so only its kind and place are told.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from traceback import FrameSummary, extract_tb
from uuid import uuid4

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.lifecycle_pb2 import Outcome, RunError
from callboard.v1.message_pb2 import Message

_GRPC_UNKNOWN = 2
_GRPC_CODES = {
    ErrorReason.ERROR_REASON_CONFIG_INVALID: 3,  # INVALID_ARGUMENT
    ErrorReason.ERROR_REASON_MODEL_REJECTED: 3,
    ErrorReason.ERROR_REASON_MODEL_NOT_FOUND: 5,  # NOT_FOUND
    ErrorReason.ERROR_REASON_TURN_LIMIT: 8,  # RESOURCE_EXHAUSTED
    ErrorReason.ERROR_REASON_MODEL_QUOTA: 8,
    ErrorReason.ERROR_REASON_MODEL_MAX_TOKENS: 8,
    ErrorReason.ERROR_REASON_MODEL_CREDENTIALS: 9,  # FAILED_PRECONDITION
    ErrorReason.ERROR_REASON_AGENT_CHANGED: 9,
    ErrorReason.ERROR_REASON_MODEL_CONTEXT_OVERFLOW: 11,  # OUT_OF_RANGE
    ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE: 14,  # UNAVAILABLE
}
_TEXT = 10_000

_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")})


class AgentError(Exception):
    """Ends a run as failed. The message is shown to whoever asks how the run ended.

    Args:
        message: What went wrong, for people.
        reason: Which kind of failure, for programs.
        retryable: Whether the run may be tried again, as it is after an unexpected error.
        metadata: Facts by name, as the reason has them.
        result: What the run came to all the same, in the log already; its last message when left
            out.
    """

    def __init__(
        self,
        message: str,
        *,
        reason: ErrorReason.ValueType = ErrorReason.ERROR_REASON_AGENT_FAILED,
        retryable: bool = False,
        metadata: Mapping[str, str] | None = None,
        result: Message | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.reason = reason
        self.retryable = retryable
        self._metadata = metadata
        self._result = result

    @property
    def run_error(self) -> RunError:
        """The error as it stands in the log."""
        return RunError(
            code=_GRPC_CODES.get(self.reason, _GRPC_UNKNOWN),
            reason=self.reason,
            # What no UTF-8 can hold must not keep a run from its end.
            message=self.message[:_TEXT].encode("utf-8", "replace").decode(),
            retryable=self.retryable,
            metadata=self._metadata,
        )

    @property
    def outcome(self) -> Outcome:
        """The outcome of the run that it ends."""
        return Outcome(error=self.run_error, result=self._result)


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
