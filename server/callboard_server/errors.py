"""What goes wrong, as the engine and the services say it. `rpc.py` turns it into a gRPC status."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import grpc

from callboard.v1.error_pb2 import ErrorReason

_PREFIX = "ERROR_REASON_"
_VIOLATIONS, _FIELD, _DESCRIPTION = 8, 100, 200


@dataclass(frozen=True, slots=True)
class Violation:
    """One field of a request that is wrong."""

    field: str
    """The path, for example "input.messages[0].role"."""
    description: str
    """What is wrong and what would be right."""


@dataclass(eq=False)
class ServiceError(Exception):
    """A call that is refused, and why. Its message is meant for the caller."""

    code: grpc.StatusCode
    reason: ErrorReason.ValueType
    message: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    resource: tuple[str, str] | None = None
    """Type and name of the resource that is missing or in the way."""
    retry_after: float | None = None
    """When to try again, in seconds."""

    def __str__(self) -> str:
        return self.message

    @property
    def reason_name(self) -> str:
        """The reason as it stands in ErrorInfo: without its prefix."""
        return ErrorReason.Name(self.reason).removeprefix(_PREFIX)


def invalid(*violations: Violation) -> ServiceError:
    # gRPC drops a status whose metadata takes more than some kilobytes.
    violations = tuple(
        Violation(clip(v.field, _FIELD), clip(v.description, _DESCRIPTION))
        for v in violations[:_VIOLATIONS]
    )
    listed = "; ".join(f"{v.field}: {v.description}" for v in violations)
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_FIELD_INVALID,
        listed,
        violations=violations,
    )


def clip(text: str, most: int) -> str:
    """Shortens a text to so many bytes, whatever a caller has put into it."""
    data = text.encode()
    if len(data) <= most:
        return text
    return data[: most - 3].decode(errors="ignore") + "..."


def undecodable(method: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_REQUEST_UNDECODABLE,
        f"the request is no valid message of {method}; a Struct may be nested too deep",
    )


def bad_page_token() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.INVALID_ARGUMENT,
        ErrorReason.ERROR_REASON_PAGE_TOKEN_INVALID,
        "page_token is not one of this list, or other arguments changed with it; "
        "start again without it",
    )


def agent_not_found(name: str, agents: Iterable[str]) -> ServiceError:
    known = ", ".join(sorted(agents))
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_AGENT_NOT_FOUND,
        f"there is no agent {name!r}; this server has: {known}",
        {"agents": known},
        resource=("Agent", name),
    )


def assistant_not_found(assistant: str, agents: Iterable[str]) -> ServiceError:
    known = ", ".join(sorted(agents))
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_ASSISTANT_NOT_FOUND,
        f"there is no assistant or agent {assistant!r}; this server has the agents: {known}",
        {"agents": known},
        resource=("Assistant", assistant),
    )


def version_not_found(assistant: str, version: int, latest: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_ASSISTANT_VERSION_NOT_FOUND,
        f"assistant {assistant} has no version {version}; its versions are 1 to {latest}",
        {"latest": str(latest)},
        resource=("Assistant", assistant),
    )


def thread_not_found(thread_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_THREAD_NOT_FOUND,
        f"there is no thread {thread_id}",
        resource=("Thread", thread_id),
    )


def run_not_found(run_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_RUN_NOT_FOUND,
        f"there is no run {run_id}",
        resource=("Run", run_id),
    )


def job_not_found(job_id: str, suggestion: str | None = None) -> ServiceError:
    hint = f"; did you mean {suggestion}? Ids must be given whole" if suggestion else ""
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_JOB_NOT_FOUND,
        f"there is no job {job_id}{hint}",
        {"suggestion": suggestion} if suggestion else {},
        resource=("Job", job_id),
    )


def action_not_found(action_id: str, session_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_ACTION_NOT_FOUND,
        f"session {session_id} has no action {action_id}; ListActions has those that are open",
        resource=("Action", action_id),
    )


def notice_not_found(notice_id: str, thread_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.NOT_FOUND,
        ErrorReason.ERROR_REASON_NOTICE_NOT_FOUND,
        f"thread {thread_id} has no notice {notice_id}; ListNotices has those that it has",
        resource=("Notice", notice_id),
    )


def action_answered(action_id: str, answered_at: float) -> ServiceError:
    when = datetime.fromtimestamp(answered_at, UTC).isoformat()
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_ACTION_ALREADY_ANSWERED,
        f"action {action_id} was answered at {when}; this answer changes nothing",
        {"answer_time": when},
    )


def action_closed(action_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_ACTION_CLOSED,
        f"action {action_id} is closed: its deadline passed, or its run ended",
    )


def already_exists(kind: str, name: str, reason: ErrorReason.ValueType) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ALREADY_EXISTS,
        reason,
        f"{kind.lower()} {name} exists already",
        resource=(kind, name),
    )


def assistant_id_used(assistant_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ALREADY_EXISTS,
        ErrorReason.ERROR_REASON_ASSISTANT_ALREADY_EXISTS,
        f"an assistant has the id {assistant_id}, or had it before it was deleted; "
        "leave assistant_id out to get a new one",
        resource=("Assistant", assistant_id),
    )


def request_id_reused(request_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ALREADY_EXISTS,
        ErrorReason.ERROR_REASON_REQUEST_ID_REUSED,
        f"request_id {request_id!r} was used before with other content; use a new one",
        resource=("Request", request_id),
    )


def thread_busy(thread_id: str, run_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        ErrorReason.ERROR_REASON_THREAD_BUSY,
        f"thread {thread_id} is busy with run {run_id}; wait for it or choose another strategy",
        {"run_id": run_id},
    )


def job_waited_for(job_id: str, run_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        ErrorReason.ERROR_REASON_THREAD_BUSY,
        f"job {job_id} is busy with run {run_id}, for which another run waits; "
        "wait for its end or launch another job",
        {"run_id": run_id},
    )


def sequence_mismatch(expected: int, sequence: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        ErrorReason.ERROR_REASON_THREAD_SEQUENCE_MISMATCH,
        f"the thread moved on: its sequence is {sequence}, not {expected}; read it again",
        {"sequence": str(sequence)},
    )


def etag_mismatch(kind: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.ABORTED,
        ErrorReason.ERROR_REASON_ETAG_MISMATCH,
        f"the {kind} changed since it was read; read it again",
    )


def assistant_required(thread_id: str, field: str = "assistant_id") -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_ASSISTANT_REQUIRED,
        f"no assistant is named and thread {thread_id or '(new)'} has no current one; set {field}",
    )


def assistant_read_only(assistant: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_ASSISTANT_READ_ONLY,
        f"{assistant} is the default assistant of an agent and stays as it is; "
        "create an assistant of that agent, with the configuration that it shall have",
    )


def not_a_root_thread(thread_id: str, session_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_NOT_A_ROOT_THREAD,
        f"thread {thread_id} is below {session_id}; only a root thread has a time to live",
        {"session_id": session_id},
    )


def run_over(run_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_RUN_OVER,
        f"run {run_id} is over and launches nothing any more",
        {"run_id": run_id},
    )


def delegation_limit(limit: str, bound: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.FAILED_PRECONDITION,
        ErrorReason.ERROR_REASON_DELEGATION_LIMIT,
        f"the server allows a delegation {limit} of {bound}",
        {"limit": limit},
    )


def cursor_ahead(cursor: int, head: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        ErrorReason.ERROR_REASON_CURSOR_AHEAD,
        f"sequence {cursor} is beyond the log's head {head}; was a backup restored? "
        "Start again from 0",
        {"head_sequence": str(head)},
    )


def events_trimmed(cursor: int, oldest: int) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.OUT_OF_RANGE,
        ErrorReason.ERROR_REASON_EVENTS_TRIMMED,
        f"the events after {cursor} are no longer kept; the oldest is {oldest}",
        {"oldest_sequence": str(oldest)},
    )


def draining() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_SERVER_DRAINING,
        "the server is stopping; try again",
        retry_after=1.0,
    )


def store_unavailable() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.UNAVAILABLE,
        ErrorReason.ERROR_REASON_STORE_UNAVAILABLE,
        "the store does not answer; nothing was written",
        retry_after=1.0,
    )


def store_full() -> ServiceError:
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_STORE_FULL,
        "the server's disk is full; nothing was written",
        retry_after=30.0,
    )


def request_too_large(size: int, limit: int, what: str = "the request") -> ServiceError:
    return ServiceError(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        ErrorReason.ERROR_REASON_REQUEST_TOO_LARGE,
        f"{what} takes {size} bytes; the limit is {limit}",
        {"size": str(size), "limit": str(limit)},
    )


def internal(error_id: str) -> ServiceError:
    return ServiceError(
        grpc.StatusCode.INTERNAL,
        ErrorReason.ERROR_REASON_INTERNAL,
        f"the server failed; its log has more under {error_id}",
        {"error_id": error_id},
    )
