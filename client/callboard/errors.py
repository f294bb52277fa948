"""What goes wrong in a call.

CallboardError
├── InvalidArgument       a field has a wrong value: see field_violations
├── NotFound              no thread, run, job, ... has that id
├── AlreadyExists         the id, or the request_id, is taken
├── Conflict              ABORTED: somebody else was faster; read again and decide anew
├── FailedPrecondition    the state does not allow it
├── OutOfRange            a cursor lies before the oldest event kept, or beyond the newest
├── ResourceExhausted     too large, disk full or a quota used up
├── Unavailable           nobody answers; worth another try
├── DeadlineExceeded      no answer in time; a TimeoutError, too
│   └── WaitTimeout       `wait` used up its timeout: see latest
├── Unauthenticated       no credentials, or wrong ones
├── PermissionDenied      the principal may not do this
├── Unimplemented         this server does not have that (yet)
├── Internal              a fault of the server: see error_id
└── Cancelled             the call was cancelled from outside of the task that made it

Example:
    try:
        await client.runs.create("researcher", "Go on.", thread_id=thread_id)
    except callboard.Conflict as error:
        if error.reason == "THREAD_BUSY":
            print("still busy with run", error.metadata["run_id"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from grpc import StatusCode

from callboard.v1.job_pb2 import Job
from callboard.v1.run_pb2 import Run


class FieldViolation(NamedTuple):
    """What is wrong with one field of a request."""

    field: str
    """The path of the field, for example `input.messages[0].role`."""
    description: str
    """What is wrong with it and what would be right."""


class CallboardError(Exception):
    """A call failed. What gRPC raised is the `__cause__`.

    Attributes:
        code: The gRPC status code.
        reason: The name of the `ErrorReason`, for example `THREAD_BUSY`. Empty where the failure
            does not come from a Callboard server, as when none can be reached.
        message: What happened, for people.
        metadata: Facts by name, as the reason's comment in `error.proto` says.
        field_violations: What is wrong with which fields.
        retry_delay: After how many seconds the server asks to try again. None where it does not.
        error_id: The id under which the server's log has more. Empty where there is none.
    """

    code: StatusCode = StatusCode.UNKNOWN

    def __init__(
        self,
        message: str,
        *,
        code: StatusCode | None = None,
        reason: str = "",
        metadata: Mapping[str, str] | None = None,
        field_violations: Sequence[FieldViolation] = (),
        retry_delay: float | None = None,
    ) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code
        self.reason = reason
        self.message = message
        self.metadata = dict(metadata or {})
        self.field_violations = tuple(field_violations)
        self.retry_delay = retry_delay
        self.error_id = self.metadata.get("error_id", "")

    def __str__(self) -> str:
        parts = [f"{self.reason or self.code.name}: {self.message}"]
        parts += [
            f"({violation.field}: {violation.description})"
            for violation in self.field_violations
            if violation.description not in self.message
        ]
        if self.error_id and self.error_id not in self.message:
            parts.append(f"(error id {self.error_id})")
        return " ".join(" ".join(parts).split())


class InvalidArgument(CallboardError):
    """A field of the request has a wrong value."""

    code = StatusCode.INVALID_ARGUMENT


class NotFound(CallboardError):
    """What the request names does not exist."""

    code = StatusCode.NOT_FOUND


class AlreadyExists(CallboardError):
    """The id is taken, or the request_id was used before with other content."""

    code = StatusCode.ALREADY_EXISTS


class Conflict(CallboardError):
    """Somebody else was faster: the thread is busy or moved on, or an etag changed."""

    code = StatusCode.ABORTED


class FailedPrecondition(CallboardError):
    """The state of things does not allow it."""

    code = StatusCode.FAILED_PRECONDITION


class OutOfRange(CallboardError):
    """A cursor lies before the oldest event kept, or beyond the newest."""

    code = StatusCode.OUT_OF_RANGE


class ResourceExhausted(CallboardError):
    """The request is too large, the server's disk full, or a quota used up."""

    code = StatusCode.RESOURCE_EXHAUSTED


class Unavailable(CallboardError):
    """The server, its database or a remote server does not answer."""

    code = StatusCode.UNAVAILABLE


class DeadlineExceeded(CallboardError, TimeoutError):
    """The answer did not come within the call's deadline. The call may have had its effect."""

    code = StatusCode.DEADLINE_EXCEEDED


class WaitTimeout(DeadlineExceeded):
    """`jobs.wait` or `runs.wait` used up its timeout.

    Attributes:
        latest: What was waited for, as it stood last.
    """

    def __init__(self, message: str, latest: Sequence[Job | Run] = ()) -> None:
        super().__init__(message)
        self.latest = tuple(latest)


class Unauthenticated(CallboardError):
    """The call carries no credentials, or none that the server knows."""

    code = StatusCode.UNAUTHENTICATED


class PermissionDenied(CallboardError):
    """The principal may not do this."""

    code = StatusCode.PERMISSION_DENIED


class Unimplemented(CallboardError):
    """The contract has this, and this version of the server does not."""

    code = StatusCode.UNIMPLEMENTED


class Internal(CallboardError):
    """A fault of the server; also its codes UNKNOWN and DATA_LOSS."""

    code = StatusCode.INTERNAL


class Cancelled(CallboardError):
    """The call was cancelled from outside of the task that made it, as by closing the client."""

    code = StatusCode.CANCELLED
