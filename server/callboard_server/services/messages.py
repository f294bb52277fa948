"""Messages as callers bring them, made complete."""

from __future__ import annotations

import uuid
from collections.abc import Iterable

from callboard.v1.message_pb2 import Message

_OUTPUT_ONLY = (
    "run_id",
    "context_sequence",
    "usage",
    "model",
    "stop_reason",
    "incomplete",
    "create_time",
    "notice_id",
    "provider_state",
)


def completed(messages: Iterable[Message]) -> list[Message]:
    """Returns messages with ids and without what only the server may say."""
    return [_complete(message) for message in messages]


def _complete(given: Message) -> Message:
    message = Message()
    message.CopyFrom(given)
    for name in _OUTPUT_ONLY:
        message.ClearField(name)
    message.message_id = message.message_id or str(uuid.uuid4())
    return message
