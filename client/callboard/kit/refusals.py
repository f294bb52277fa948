"""What a model is told of a call that the server refused or did not answer."""

from __future__ import annotations

from collections.abc import Mapping

from callboard.errors import CallboardError, DeadlineExceeded, Internal, Unavailable
from callboard.kit.definition import Kit, ToolCall, Verb

# What the fields of requests are called within the kit.
_FIELDS = {"assistant_id": "agent", "task": "task", "instructions": "instructions"}


def explain(kit: Kit, call: ToolCall, error: CallboardError) -> str:
    """Says what went wrong, and what the model can do about it."""
    if error.reason in ("ASSISTANT_NOT_FOUND", "AGENT_NOT_FOUND"):
        if call.verb is Verb.LAUNCH:
            return kit.answers.no_agent(call.arguments["agent"], error, kit.agents)
        return f"Its agent cannot work on it any more: {error.message}."
    if error.reason == "DELEGATION_LIMIT":
        return (
            f"No job was launched: {error.message}. Wait until one of your jobs is finished, or "
            f"cancel one that is not needed ({kit.dialect.cancel})."
        )
    if isinstance(error, Unavailable | DeadlineExceeded):
        return _unanswered(kit, call)
    if isinstance(error, Internal):
        return f"The server failed at this (error id {error.error_id or 'unknown'}). Say so."
    if error.field_violations:
        names = _names(kit)
        listed = "\n".join(
            f"- {names.get(violation.field, violation.field)}: {violation.description}"
            for violation in error.field_violations
        )
        return f"The arguments do not fit:\n{listed}"
    return f"The server refused this: {error.message}."


def _unanswered(kit: Kit, call: ToolCall) -> str:
    """Nobody knows whether a change without an answer was made."""
    if call.verb in (Verb.CHECK, Verb.LIST):
        return "The server does not answer, and nothing is known from before. Try again later."
    looks = kit.dialect.list if call.verb is Verb.LAUNCH else kit.dialect.check
    return (
        "The server does not answer, so it is not known whether this was done. Say so; once it "
        f"answers again, look with {looks} before you repeat the call."
    )


def _names(kit: Kit) -> Mapping[str, str]:
    """What the model calls the fields of requests."""
    return {field: getattr(kit.dialect, key, key) for field, key in _FIELDS.items()}
