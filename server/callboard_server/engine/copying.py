"""Copies of threads: new sessions that start from where another thread is, or was."""

from __future__ import annotations

import sys
from dataclasses import dataclass

from google.protobuf.struct_pb2 import Struct

from callboard.v1.event_pb2 import Actor, Event
from callboard.v1.message_pb2 import Message
from callboard_server.engine.creation import NewThread, open_session
from callboard_server.engine.history import ThreadAt
from callboard_server.engine.lifecycle import touch
from callboard_server.ids import new_id
from callboard_server.log.exchanges import closed
from callboard_server.store.base import Reader, ThreadRow, Transaction

_NO_RESULT = "The conversation was copied before this call had its result."
# What they say is of runs and notices that the copy does not have.
_LEFT_OUT = ("run_id", "context_sequence", "notice_id")


@dataclass(frozen=True, slots=True)
class Original:
    """What a copy is made from.

    The log never changes what it came to at a sequence, so this may be taken some time before the
    copy is written, without holding up who writes.
    """

    thread_id: str
    sequence: int
    messages: list[Event]
    values: Struct
    metadata: Struct | None
    assistant_id: str


def original_of(reader: Reader, thread: ThreadRow, at: int | None, actor: Actor) -> Original:
    """Returns what a copy of a thread is made from.

    Args:
        reader: Where to read it.
        thread: The thread.
        at: The sequence up to which to copy; all when None.
        actor: Who copies.

    Raises:
        ServiceError: The log does not reach so far.
    """
    found = ThreadAt(reader, thread, at)
    events, _ = found.messages(sys.maxsize, newest_first=False)
    messages = closed((event.message_added.message for event in events), _NO_RESULT, new_id)
    return Original(
        thread_id=thread.data.thread_id,
        sequence=found.sequence,
        messages=[_copied(message, actor) for message in messages],
        values=found.values,
        metadata=thread.data.metadata if thread.data.HasField("metadata") else None,
        assistant_id=found.assistant_id,
    )


def _copied(message: Message, actor: Actor) -> Event:
    for name in _LEFT_OUT:
        message.ClearField(name)  # type: ignore[arg-type]
    event = Event(actor=actor)
    event.message_added.message.CopyFrom(message)
    return event


def write_copy(
    tx: Transaction, tenant: str, original: Original, metadata: Struct | None, actor: Actor
) -> ThreadRow:
    """Writes a copy as a session of its own.

    Args:
        tx: The transaction.
        tenant: Whose it is.
        original: What it is made from.
        metadata: Its metadata; those of the original when None.
        actor: Who copies.
    """
    new = NewThread(
        new_id(),
        metadata=original.metadata if metadata is None else metadata,
        copied_from_thread_id=original.thread_id,
        copied_from_sequence=original.sequence,
    )
    thread = open_session(tx, tenant, new, actor)
    for event in original.messages:
        if not event.message_added.message.HasField("create_time"):
            event.message_added.message.create_time.FromNanoseconds(tx.now)
        tx.append(thread, event)
    if original.messages:
        touch(tx, thread, original.messages[-1])
    if original.values.fields:
        merged = Event(actor=actor)
        merged.values_merged.patch.CopyFrom(original.values)
        thread.values.CopyFrom(original.values)
        tx.append(thread, merged)
        touch(tx, thread, merged)
    if original.assistant_id:
        changed = Event(actor=actor)
        changed.assistant_changed.to_assistant_id = original.assistant_id
        thread.data.current_assistant_id = original.assistant_id
        tx.append(thread, changed)
        tx.save_thread(thread)
    return thread
