"""Turns what gRPC raises into Callboard's exceptions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc.error_details_pb2 import BadRequest, ErrorInfo, RetryInfo
from google.rpc.status_pb2 import Status

from callboard import errors

# What a call can raise. asyncio reports a call that was cancelled behind the task's back, as when
# its channel is closed, like a cancellation of the task itself.
FAILURES = (grpc.RpcError, asyncio.CancelledError)

_DETAILS_KEY = "grpc-status-details-bin"

_FAMILIES: dict[grpc.StatusCode, type[errors.CallboardError]] = {
    family.code: family
    for family in (
        errors.InvalidArgument,
        errors.NotFound,
        errors.AlreadyExists,
        errors.Conflict,
        errors.FailedPrecondition,
        errors.OutOfRange,
        errors.ResourceExhausted,
        errors.Unavailable,
        errors.DeadlineExceeded,
        errors.Unauthenticated,
        errors.PermissionDenied,
        errors.Unimplemented,
        errors.Internal,
        errors.Cancelled,
    )
}

DetailT = TypeVar("DetailT", bound=Message)


def failure_of(error: BaseException) -> errors.CallboardError:
    """The exception that tells a caller what one of FAILURES means, with it as the cause.

    Raises:
        asyncio.CancelledError: If it is the running task that is being cancelled.
    """
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise error
        failure: errors.CallboardError = errors.Cancelled("the client cancelled the call")
    else:
        failure = _from_rpc_error(error)
    failure.__cause__ = error
    return failure


def _from_rpc_error(error: Any) -> errors.CallboardError:
    code = error.code()
    status = _status(error.trailing_metadata())
    info = _detail(status, ErrorInfo)
    bad_request = _detail(status, BadRequest)
    retry_info = _detail(status, RetryInfo)
    return _FAMILIES.get(code, errors.Internal)(
        error.details() or "the server gave no message",
        code=code,
        reason=info.reason if info else "",
        metadata=info.metadata if info else None,
        field_violations=[
            errors.FieldViolation(violation.field, violation.description)
            for violation in (bad_request.field_violations if bad_request else ())
        ],
        retry_delay=retry_info.retry_delay.ToTimedelta().total_seconds() if retry_info else None,
    )


def _status(trailing_metadata: Iterable[tuple[str, Any]] | None) -> Status:
    """The details of a failure; empty where a proxy or another server sent none, or broken ones."""
    for key, value in trailing_metadata or ():
        if key == _DETAILS_KEY:
            try:
                return Status.FromString(value)
            except DecodeError:
                break
    return Status()


def _detail(status: Status, kind: type[DetailT]) -> DetailT | None:
    detail = kind()
    for packed in status.details:
        try:
            if packed.Unpack(detail):
                return detail
        except DecodeError:
            break
    return None
