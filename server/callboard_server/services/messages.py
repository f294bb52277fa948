"""Messages as callers bring them, made complete."""

from __future__ import annotations

from collections.abc import Iterable

from callboard.v1.message_pb2 import Message
from callboard_server.ids import new_id


def completed(messages: Iterable[Message]) -> list[Message]:
    """Returns messages with ids, and without the fields that are the server's to say."""
    return [_complete(message) for message in messages]


def _complete(given: Message) -> Message:
    return Message(
        message_id=given.message_id or new_id(),
        role=given.role,
        author=given.author,
        content=given.content,
    )
