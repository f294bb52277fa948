"""What goes wrong at OpenAI and at servers that speak as it does, in words of this server."""

from __future__ import annotations

import re
from collections.abc import Mapping

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError, OpenAIError

from callboard.v1.message_pb2 import Usage
from callboard_server.models.base import FailureKind, ModelError
from callboard_server.models.failures import failure, response_details
from callboard_server.models.retry_after import read_retry_after

# Codes and types of errors that say more than the HTTP status that they come with.
_BY_WORD = {
    "billing_hard_limit_reached": FailureKind.BILLING,
    "billing_not_active": FailureKind.BILLING,
    "context_length_exceeded": FailureKind.CONTEXT_OVERFLOW,
    "exceed_context_size_error": FailureKind.CONTEXT_OVERFLOW,
    "insufficient_quota": FailureKind.BILLING,
    "invalid_api_key": FailureKind.AUTHENTICATION,
    "model_not_found": FailureKind.MODEL_NOT_FOUND,
}

# Those of errors in the middle of a stream, which come without a status.
_BY_WORD_IN_STREAM = {
    **_BY_WORD,
    "authentication_error": FailureKind.AUTHENTICATION,
    "bio_policy": FailureKind.INVALID_REQUEST,
    "data_residency_mismatch": FailureKind.INVALID_REQUEST,
    "invalid_prompt": FailureKind.INVALID_REQUEST,
    "invalid_request_error": FailureKind.INVALID_REQUEST,
    "misalignment_policy_violation": FailureKind.INVALID_REQUEST,
    "overloaded": FailureKind.OVERLOADED,
    "overloaded_error": FailureKind.OVERLOADED,
    "permission_error": FailureKind.PERMISSION,
    "rate_limit_error": FailureKind.RATE_LIMIT,
    "rate_limit_exceeded": FailureKind.RATE_LIMIT,
    "server_is_overloaded": FailureKind.OVERLOADED,
    "slow_down": FailureKind.OVERLOADED,
}

_BY_STATUS = {
    401: FailureKind.AUTHENTICATION,
    402: FailureKind.BILLING,
    403: FailureKind.PERMISSION,
    404: FailureKind.MODEL_NOT_FOUND,
    408: FailureKind.TIMEOUT,
    # A conflict passes, as the provider's own failures do.
    409: FailureKind.SERVER,
    413: FailureKind.CONTEXT_OVERFLOW,
    429: FailureKind.RATE_LIMIT,
    503: FailureKind.OVERLOADED,
    504: FailureKind.TIMEOUT,
    529: FailureKind.OVERLOADED,
}

# Many servers say only in prose that a conversation is too long.
_OVERFLOW = re.compile(
    r"maximum context length|context (length|size|window)\b.{0,60}\bexceed"
    r"|\bexceeds?\b.{0,60}\bcontext (length|size|window)",
    re.IGNORECASE | re.DOTALL,
)

# A request's parameters, of which an error may be told to be about.
_PARAMETERS = frozenset(
    "include input instructions max_completion_tokens max_output_tokens max_tokens messages model "
    "prompt_cache_key reasoning reasoning_effort response_format store stream stream_options text "
    "tools".split()
)


def describe_error(error: OpenAIError, name: str) -> ModelError:
    """Says in our words what the SDK raised.

    Args:
        error: Its text may repeat what was sent, and is not used.
        name: The model.
    """
    match error:
        case APITimeoutError():
            return failure(FailureKind.TIMEOUT, name)
        case APIConnectionError():
            return failure(FailureKind.CONNECTION, name)
        case APIStatusError():
            return _describe_status(error, name)
        case APIError():
            report = {"code": error.code, "type": error.type, "message": error.message}
            return describe_report(report, name)
    return failure(FailureKind.SERVER, name)


def describe_report(
    report: Mapping[str, object], name: str, usage: Usage | None = None
) -> ModelError:
    """Says in our words what a stream reports as an error.

    Args:
        report: May have `code`, `type` and `message`.
        name: The model.
        usage: What the call used all the same.
    """
    code = str(report.get("code") or "")
    if code.isdecimal():
        kind = _by_status(int(code))
    else:
        named = _by_word_in_stream(code) or _by_word_in_stream(str(report.get("type") or ""))
        kind = named or FailureKind.SERVER
    return failure(_refine(kind, report.get("message")), name, usage=usage)


def _describe_status(error: APIStatusError, name: str) -> ModelError:
    kind = _BY_WORD.get(str(error.code)) or _BY_WORD.get(str(error.type))
    if kind is None:
        kind = _refine(_by_status(error.status_code), error.message)
    details = response_details(error.status_code, error.request_id)
    parameter = re.split(r"[.\[]", str(error.param or ""), maxsplit=1)[0]
    if parameter in _PARAMETERS:
        details.append(f"because of {parameter}")
    return failure(kind, name, *details, retry_after=read_retry_after(error.response.headers))


def _by_status(status: int) -> FailureKind:
    if status >= 500:
        return _BY_STATUS.get(status, FailureKind.SERVER)
    return _BY_STATUS.get(status, FailureKind.INVALID_REQUEST)


def _by_word_in_stream(word: str) -> FailureKind | None:
    if "image" in word:
        return FailureKind.INVALID_REQUEST
    return _BY_WORD_IN_STREAM.get(word)


def _refine(kind: FailureKind, message: object) -> FailureKind:
    """Finds the overflows among what is only known to be refused or to have failed."""
    is_vague = kind in (FailureKind.INVALID_REQUEST, FailureKind.SERVER)
    if is_vague and _OVERFLOW.search(str(message)):
        return FailureKind.CONTEXT_OVERFLOW
    return kind
