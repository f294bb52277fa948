"""What is wrong with a model call, in the same words for all providers."""

from __future__ import annotations

import re

from callboard.v1.message_pb2 import Usage
from callboard_server.models.base import FailureKind, ModelError

_WORDS = {
    FailureKind.AUTHENTICATION: "The provider does not accept the key",
    FailureKind.PERMISSION: "The key may not do this",
    FailureKind.BILLING: "The account has no credit left, or has reached its limit",
    FailureKind.MODEL_NOT_FOUND: "There is no such model, or the key may not use it",
    FailureKind.INVALID_REQUEST: "The provider refuses the request",
    FailureKind.CONTEXT_OVERFLOW: "The conversation no longer fits the model's context",
    FailureKind.RATE_LIMIT: "The provider allows no more requests for now",
    FailureKind.OVERLOADED: "The provider is overloaded",
    FailureKind.SERVER: "The provider failed",
    FailureKind.TIMEOUT: "No answer came in time",
    FailureKind.CONNECTION: "There is no connection to the provider, or it broke",
    FailureKind.BROKEN_OFF: "The answer broke off",
}

_REQUEST_ID = re.compile(r"[\w-]{1,100}", re.ASCII)


def failure(
    kind: FailureKind,
    name: str,
    *details: str,
    retry_after: float | None = None,
    usage: Usage | None = None,
) -> ModelError:
    """Makes an error of a kind, for a model of a name."""
    appendix = f" ({', '.join(details)})" if details else ""
    return ModelError(kind, f"{name}: {_WORDS[kind]}{appendix}.", retry_after, usage)


def response_details(status: int | None, request_id: str | None) -> list[str]:
    """Returns what may be told of a provider's response, whatever stands in it."""
    details = [f"HTTP {status}"] if status else []
    if request_id and _REQUEST_ID.fullmatch(request_id):
        details.append(f"request {request_id}")
    return details
