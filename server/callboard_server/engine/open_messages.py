"""Messages in the making: what is streamed, and what becomes of it when it is not finished."""

from __future__ import annotations

from callboard.v1.event_pb2 import Actor, Event
from callboard.v1.message_pb2 import Message, Role, Text
from callboard.v1.run_pb2 import Delta
from callboard_server.engine.claim import Claim
from callboard_server.engine.live import Hub, OpenMessage
from callboard_server.ids import new_id
from callboard_server.log.events import EVENT_BYTES

_CUT_OFF_BYTES = EVENT_BYTES // 8


class OpenMessages:
    """What a run streams and has not committed.

    Args:
        hub: Who hands it on to those that read along.
        actor: The assistant that writes.
    """

    def __init__(self, hub: Hub, actor: Actor) -> None:
        self._hub = hub
        self._actor = actor
        self._open: dict[str, OpenMessage] = {}

    def open(self, claim: Claim, context_sequence: int) -> str:
        """Begins a message that streams; returns its id."""
        message_id = new_id()
        header = Delta(
            message_id=message_id,
            run_id=claim.run.run_id,
            thread_id=claim.run.thread_id,
            attempt=claim.run.attempt,
            author=self._actor.name,
        )
        message = OpenMessage(
            message_id,
            claim.session_key,
            claim.thread_key,
            claim.run_key,
            header,
            context_sequence,
        )
        self._open[message_id] = message
        self._hub.open_message(message)
        return message_id

    def write(self, message_id: str, index: int, text: str, kind: Delta.Kind.ValueType) -> None:
        """Shows a piece of a content block."""
        self._hub.write(self._open[message_id], index, text, kind)

    def take(self, message_id: str) -> OpenMessage | None:
        """Takes a message out that is to be committed, or void."""
        return self._open.pop(message_id, None)

    def put_back(self, message: OpenMessage) -> None:
        """Keeps a message after all, whose commit failed."""
        self._open[message.message_id] = message

    def clear(self) -> None:
        """Forgets what was streamed."""
        self._open.clear()

    def discard(self) -> list[Event]:
        """What was streamed and not committed is void: the model will be called again."""
        events = [discarded(self._actor, each, "the server stopped") for each in self._open]
        self._open.clear()
        return events

    def cut_off(self) -> list[Message]:
        """What was streamed and not committed becomes incomplete messages."""
        messages = [message for each in self._open.values() if (message := _cut_off(each)).content]
        self._open.clear()
        return messages


def _cut_off(streamed: OpenMessage) -> Message:
    message = Message(
        message_id=streamed.message_id,
        role=Role.ROLE_ASSISTANT,
        context_sequence=streamed.context_sequence,
        incomplete=True,
    )
    for _, (kind, text) in sorted(streamed.blocks.items()):
        # A tool call that was cut off is not one.
        if kind == Delta.KIND_TEXT and text:
            # The beginning of it, where it is more than an event can hold.
            kept = text[:_CUT_OFF_BYTES].decode(errors="ignore")
            message.content.add(text=Text(text=kept))
    return message


def discarded(actor: Actor, message_id: str, reason: str) -> Event:
    """Returns the event that says that what was streamed is void."""
    event = Event(actor=actor)
    event.message_discarded.message_id = message_id
    event.message_discarded.reason = reason
    return event
