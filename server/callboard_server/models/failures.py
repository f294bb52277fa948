"""What all providers share when a model call fails: our words for it, and what else may be told."""

from __future__ import annotations

import re
from collections.abc import Mapping

from callboard.v1.message_pb2 import Usage
from callboard_server.models.base import FailureKind, ModelError
from callboard_server.models.retry_after import read_retry_after

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
    *,
    status: int | None = None,
    request_id: str | None = None,
    headers: Mapping[str, str] | None = None,
    usage: Usage | None = None,
) -> ModelError:
    """Returns the error for a failed call.

    Args:
        kind: What is wrong.
        name: The model.
        status: The HTTP status, where it says something.
        request_id: The provider's name for the call, which its support asks for.
        headers: Those of the response.
        usage: What the call used all the same.
    """
    facts = [f"HTTP {status}"] if status else []
    if request_id and _REQUEST_ID.fullmatch(request_id):
        facts.append(f"request {request_id}")
    place = f" ({', '.join(facts)})" if facts else ""
    return ModelError(
        kind, f"{name}: {_WORDS[kind]}{place}.", read_retry_after(headers or {}), usage
    )
