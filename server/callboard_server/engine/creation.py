"""How sessions, threads and runs come to be, and what stands on them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.event_pb2 import Actor, Event, RunTrigger
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, PendingActions
from callboard.v1.message_pb2 import Message
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server import errors
from callboard_server.engine.lifecycle import touch
from callboard_server.log.events import EVENT_BYTES
from callboard_server.log.fold import adopt_run, created_run, merge_patch
from callboard_server.store.base import JobRow, RunRow, SessionRow, ThreadRow, Transaction


@dataclass(slots=True)
class NewThread:
    """A thread to open."""

    thread_id: str
    metadata: Struct | None = None
    ttl: Duration | None = None
    agent: str = ""
    assistant_id: str = ""
    model: str = ""
    copied_from_thread_id: str = ""
    copied_from_sequence: int = 0


@dataclass(slots=True)
class NewRun:
    """A run to let in, with its assistant resolved."""

    run_id: str
    assistant_id: str
    assistant_version: int
    agent: str
    messages: list[Message] = field(default_factory=list)
    values: Struct | None = None
    strategy: MultitaskStrategy.ValueType = MultitaskStrategy.MULTITASK_STRATEGY_ENQUEUE
    pending_actions: PendingActions.ValueType = PendingActions.PENDING_ACTIONS_KEEP
    trigger: RunTrigger.ValueType = RunTrigger.RUN_TRIGGER_CLIENT
    config: Struct | None = None
    additional_instructions: str = ""
    metadata: Struct | None = None
    timeout: Duration | None = None
    start_after: Timestamp | None = None
    cancel_after_detach: Duration | None = None
    expected_thread_sequence: int | None = None
    follows_run_id: str = ""
    """The run whose unread input it takes up."""
    job: JobRow | None = None
    """The job that it works on from now on, where that has had another run."""


def open_session(tx: Transaction, tenant: str, new: NewThread, actor: Actor) -> ThreadRow:
    """Creates a root thread and its session. Its id must be a new one."""
    return open_thread(tx, tx.add_session(tenant, new.thread_id), None, new, actor)


def open_thread(
    tx: Transaction, session: SessionRow, parent: ThreadRow | None, new: NewThread, actor: Actor
) -> ThreadRow:
    """Creates a thread in a session."""
    data = Thread(thread_id=new.thread_id, session_id=session.session_id)
    event = Event(actor=actor)
    created = event.thread_created
    created.agent, created.assistant_id, created.model = new.agent, new.assistant_id, new.model
    created.copied_from_thread_id = new.copied_from_thread_id
    created.copied_from_sequence = new.copied_from_sequence
    if parent is not None:
        data.parent_thread_id = created.parent_thread_id = parent.data.thread_id
    if new.metadata is not None:
        data.metadata.CopyFrom(new.metadata)
        created.metadata.CopyFrom(new.metadata)
    if new.ttl is not None:
        data.ttl.CopyFrom(new.ttl)
        session.ttl = new.ttl.ToNanoseconds() / 1e9
    check_size(event)
    row = tx.add_thread(session, parent.key if parent else None, data)
    tx.append(row, event)
    data.create_time.CopyFrom(event.time)
    data.update_time.CopyFrom(event.time)
    return row


def add_state(
    tx: Transaction,
    thread: ThreadRow,
    messages: Iterable[Message],
    values: Struct | None,
    actor: Actor,
    run: RunRow | None = None,
) -> None:
    """Appends messages to a thread, or to the input of a run on it, and merges values."""
    for message in messages:
        event = Event(actor=actor)
        event.message_added.message.CopyFrom(message)
        event.message_added.message.create_time.FromNanoseconds(tx.now)
        if run is not None:
            event.message_added.message.run_id = run.data.run_id
        tx.append(thread, event, run, claimed=False)
        touch(tx, thread, event)
    if values is not None and values.fields:
        patched = Event(actor=actor)
        patched.values_merged.patch.CopyFrom(values)
        apply_patch(thread, values)
        tx.append(thread, patched, run, claimed=False)
        touch(tx, thread, patched)


def apply_patch(thread: ThreadRow, patch: Struct) -> None:
    """Merges a patch into a thread's values, and refuses what makes them too large."""
    merge_patch(thread.values, patch)
    size = thread.values.ByteSize()
    if size > EVENT_BYTES:
        raise errors.request_too_large(size, EVENT_BYTES, "what the thread's values come to")


def check_size(event: Event) -> None:
    """Refuses what would be too large an event."""
    size = event.ByteSize()
    if size > EVENT_BYTES:
        what = f"the {event.WhichOneof('payload')} event"
        raise errors.request_too_large(size, EVENT_BYTES, what)


def add_run(tx: Transaction, thread: ThreadRow, new: NewRun, actor: Actor) -> RunRow:
    """Creates a run, queued and at the end of the line."""
    event = Event(actor=actor)
    made = event.run_created
    made.assistant_id, made.assistant_version = new.assistant_id, new.assistant_version
    made.agent = new.agent
    made.multitask_strategy, made.trigger = new.strategy, new.trigger
    made.additional_instructions = new.additional_instructions
    made.follows_run_id = new.follows_run_id
    for name in ("config", "metadata", "timeout", "start_after", "cancel_after_detach"):
        value = getattr(new, name)
        if value is not None:
            getattr(made, name).CopyFrom(value)
    check_size(event)
    run = tx.add_run(thread, Run(run_id=new.run_id, assistant_id=new.assistant_id, attempt=1))
    tx.append(thread, event, run)
    run.data = created_run(event)
    if new.start_after is not None and new.start_after.ToNanoseconds() > tx.now:
        run.due_at = new.start_after.ToNanoseconds() / 1e9
    if new.job is not None:
        give_to_job(tx, new.job, run)
    return run


def give_to_job(tx: Transaction, job: JobRow, run: RunRow) -> None:
    """Makes a run the one that works on a job."""
    adopt_run(job.data, job.run.data)
    job.run = run
    tx.save_job(job)
