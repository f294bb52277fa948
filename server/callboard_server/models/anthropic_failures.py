"""What goes wrong at Anthropic and at servers that speak as it does, in words of this server."""

from __future__ import annotations

import httpx2
from anthropic import APIConnectionError, APIStatusError, APITimeoutError, BadRequestError

from callboard.v1.message_pb2 import Usage
from callboard_server.models.base import FailureKind, ModelError
from callboard_server.models.failures import failure, response_details
from callboard_server.models.retry_after import read_retry_after

_BY_STATUS = {
    400: FailureKind.INVALID_REQUEST,
    401: FailureKind.AUTHENTICATION,
    402: FailureKind.BILLING,
    403: FailureKind.PERMISSION,
    404: FailureKind.MODEL_NOT_FOUND,
    408: FailureKind.TIMEOUT,
    # A conflict passes, as the provider's own failures do.
    409: FailureKind.SERVER,
    413: FailureKind.CONTEXT_OVERFLOW,
    422: FailureKind.INVALID_REQUEST,
    429: FailureKind.RATE_LIMIT,
    503: FailureKind.OVERLOADED,
    504: FailureKind.TIMEOUT,
    529: FailureKind.OVERLOADED,
}

# For what the status does not tell, such as errors in the middle of an answer.
_BY_TYPE = {
    "invalid_request_error": FailureKind.INVALID_REQUEST,
    "authentication_error": FailureKind.AUTHENTICATION,
    "billing_error": FailureKind.BILLING,
    "permission_error": FailureKind.PERMISSION,
    "not_found_error": FailureKind.MODEL_NOT_FOUND,
    "request_too_large": FailureKind.CONTEXT_OVERFLOW,
    "rate_limit_error": FailureKind.RATE_LIMIT,
    "timeout_error": FailureKind.TIMEOUT,
    "overloaded_error": FailureKind.OVERLOADED,
}

# An overflow has no code of its own.
_OVERFLOWS = ("prompt is too long", "exceed context limit", "maximum context length")


def describe(error: Exception, name: str, usage: Usage | None = None) -> ModelError:
    """Says in our words what the SDK raised.

    Args:
        error: Of the SDK, or of the HTTP client below it, which shows through in mid-answer.
        name: The model.
        usage: What the call used all the same.
    """
    match error:
        case APIStatusError():
            return _describe_status(error, name, usage)
        # The SDK's timeout is a connection error, too.
        case APITimeoutError() | httpx2.TimeoutException():
            return failure(FailureKind.TIMEOUT, name, usage=usage)
        case APIConnectionError() | httpx2.HTTPError():
            return failure(FailureKind.CONNECTION, name, usage=usage)
        case _:
            # The SDK could not read what came; which type it raises depends on what that was.
            return failure(FailureKind.BROKEN_OFF, name, "it cannot be read", usage=usage)


def refuses_thinking(error: BadRequestError) -> bool:
    """Whether a request is refused for signed thinking in it.

    That has no code of its own, and its wording may change.
    """
    return "thinking" in _said(error)


def _describe_status(error: APIStatusError, name: str, usage: Usage | None) -> ModelError:
    status, headers = error.status_code, error.response.headers
    # Within an answer that has begun the status says nothing.
    details = response_details(status if status != 200 else None, error.request_id)
    return failure(_kind(error), name, *details, retry_after=read_retry_after(headers), usage=usage)


def _kind(error: APIStatusError) -> FailureKind:
    kind = _BY_STATUS.get(error.status_code) or _BY_TYPE.get(str(error.type))
    if kind is None:
        refused = 400 <= error.status_code < 500
        return FailureKind.INVALID_REQUEST if refused else FailureKind.SERVER
    if kind is FailureKind.RATE_LIMIT and _is_spent(error):
        return FailureKind.BILLING
    if kind is FailureKind.INVALID_REQUEST and any(each in _said(error) for each in _OVERFLOWS):
        return FailureKind.CONTEXT_OVERFLOW
    return kind


def _is_spent(error: APIStatusError) -> bool:
    """Whether waiting does not help, because a limit on spending is reached."""
    return (error.error_code or "").endswith("spend_limit_reached")


def _said(error: APIStatusError) -> str:
    return str(error.api_message or "").lower()
