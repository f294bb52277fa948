"""Copies of conversations: threads that start from where another one is, or was.

CopyThread makes a session of one, as it stands in the log; a fork takes a job's parent along, as an
assistant of it sees it.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

from google.protobuf.struct_pb2 import Struct

from callboard.v1.event_pb2 import Actor, Event
from callboard.v1.message_pb2 import Message
from callboard_server import errors
from callboard_server.engine.creation import NewThread, open_session
from callboard_server.engine.history import ThreadAt
from callboard_server.engine.lifecycle import touch
from callboard_server.ids import new_id
from callboard_server.log.conversation import CONVERSATION_KINDS, Conversation
from callboard_server.log.exchanges import closed
from callboard_server.log.view import Viewer, inheritance_of
from callboard_server.store.base import EventFilter, Reader, ThreadRow, Transaction

MOST_MESSAGES, MOST_BYTES = 10_000, 16 * 1024 * 1024
"""How much a fork begins with at the most: it is written at once, and others want to write, too."""

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
    summary: Message | None
    """What stands for all that was before the messages; None where they are everything."""
    messages: list[Event]
    values: Struct = field(default_factory=Struct)
    metadata: Struct | None = None
    assistant_id: str = ""


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
        summary=found.beginning,
        messages=[_copied(message, actor) for message in messages],
        values=found.values,
        metadata=thread.data.metadata if thread.data.HasField("metadata") else None,
        assistant_id=found.assistant_id,
    )


def fork_of(reader: Reader, thread: ThreadRow, viewer: Viewer, actor: Actor) -> Original:
    """Returns what a fork of a thread is made from: its conversation as it is now, and no values.

    Args:
        reader: Where to read it.
        thread: The thread.
        viewer: Whose view of it the fork begins with, as `inheritance_of` says.
        actor: Who forks.

    Raises:
        ServiceError: It is too much.
    """
    conversation = Conversation()
    wanted = EventFilter(thread=thread.key, kinds=CONVERSATION_KINDS)
    for record in reader.events(thread.session.key, wanted, through=thread.session.head):
        conversation.apply(record.event)
    summary, messages = inheritance_of(conversation, viewer)
    size = sum(message.ByteSize() for message in messages)
    if len(messages) > MOST_MESSAGES or size > MOST_BYTES:
        wrong = (
            f"there are {len(messages)} messages of {size} bytes to begin with; the limit is "
            f"{MOST_MESSAGES} of {MOST_BYTES}: let CompactThread summarise the parent's"
        )
        raise errors.invalid(errors.Violation("context", wrong))
    return Original(
        thread_id=thread.data.thread_id,
        sequence=thread.session.head,
        summary=_anew(summary) if summary is not None else None,
        messages=[_copied(_anew(message), actor) for message in messages],
    )


def _anew(message: Message) -> Message:
    """Makes a copy another message than the one that the session has already."""
    message.message_id = new_id()
    # What it took to write it was used once.
    message.ClearField("usage")
    return message


def _copied(message: Message, actor: Actor) -> Event:
    event = Event(actor=actor)
    event.message_added.message.CopyFrom(_bare(message))
    return event


def _bare(message: Message) -> Message:
    for name in _LEFT_OUT:
        message.ClearField(name)  # type: ignore[arg-type]
    return message


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
    add_conversation(tx, thread, original, actor)
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


def add_conversation(tx: Transaction, thread: ThreadRow, original: Original, actor: Actor) -> None:
    """Lets a new thread begin with the conversation of another one."""
    if original.summary is not None:
        compacted = Event(actor=actor)
        compacted.context_compacted.summary.CopyFrom(_bare(original.summary))
        compacted.context_compacted.through_sequence = thread.session.head
        tx.append(thread, compacted)
    for event in original.messages:
        if not event.message_added.message.HasField("create_time"):
            event.message_added.message.create_time.FromNanoseconds(tx.now)
        tx.append(thread, event)
    if original.messages:
        touch(tx, thread, original.messages[-1])
