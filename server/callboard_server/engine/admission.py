"""How threads come to be and runs are let in: the operations behind creating and stopping."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.event_pb2 import Actor, Event, RunTrigger
from callboard.v1.lifecycle_pb2 import MultitaskStrategy
from callboard.v1.message_pb2 import Message
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server import errors
from callboard_server.engine.lifecycle import CANCELLED, SUPERSEDED, TERMINAL, ThreadLine, touch
from callboard_server.log.events import EVENT_BYTES
from callboard_server.log.fold import created_run, merge_patch
from callboard_server.store.base import RunRow, SessionRow, ThreadRow, Transaction

DUE_BATCH = 500
"""How many runs come due in one commit."""

REJECT = MultitaskStrategy.MULTITASK_STRATEGY_REJECT
INTERRUPT = MultitaskStrategy.MULTITASK_STRATEGY_INTERRUPT


@dataclass(slots=True)
class NewThread:
    """A thread to open."""

    thread_id: str
    metadata: Struct | None = None
    ttl: Duration | None = None
    agent: str = ""
    assistant_id: str = ""
    model: str = ""


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
    trigger: RunTrigger.ValueType = RunTrigger.RUN_TRIGGER_CLIENT
    config: Struct | None = None
    additional_instructions: str = ""
    metadata: Struct | None = None
    timeout: Duration | None = None
    start_after: Timestamp | None = None
    expected_thread_sequence: int | None = None


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
    if parent is not None:
        data.parent_thread_id = created.parent_thread_id = parent.data.thread_id
    if new.metadata is not None:
        data.metadata.CopyFrom(new.metadata)
        created.metadata.CopyFrom(new.metadata)
    if new.ttl is not None:
        data.ttl.CopyFrom(new.ttl)
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
    """Appends messages to a thread and merges values into it."""
    for message in messages:
        event = Event(actor=actor)
        event.message_added.message.CopyFrom(message)
        event.message_added.message.create_time.FromNanoseconds(tx.now)
        if run is not None:
            event.message_added.message.run_id = run.data.run_id
        tx.append(thread, event, run)
        touch(tx, thread, event)
    if values is not None and values.fields:
        merge_values(tx, thread, values, actor, run)


def merge_values(
    tx: Transaction, thread: ThreadRow, patch: Struct, actor: Actor, run: RunRow | None = None
) -> None:
    """Merges a patch into a thread's values."""
    event = Event(actor=actor)
    event.values_merged.patch.CopyFrom(patch)
    merge_patch(thread.values, patch)
    size = thread.values.ByteSize()
    if size > EVENT_BYTES:
        raise errors.request_too_large(size, EVENT_BYTES, "what the thread's values come to")
    tx.append(thread, event, run)
    touch(tx, thread, event)


def check_size(event: Event) -> None:
    """Refuses what would be too large an event."""
    size = event.ByteSize()
    if size > EVENT_BYTES:
        what = f"the {event.WhichOneof('payload')} event"
        raise errors.request_too_large(size, EVENT_BYTES, what)


def check_sequence(thread: ThreadRow, expected: int | None) -> None:
    """Refuses a request that was decided on an older state of the thread."""
    if expected is not None and expected != thread.data.sequence:
        raise errors.sequence_mismatch(expected, thread.data.sequence)


def admit(tx: Transaction, thread: ThreadRow, new: NewRun, actor: Actor) -> RunRow:
    """Lets a run in, as its strategy says about the runs that are there."""
    check_sequence(thread, new.expected_thread_sequence)
    line = ThreadLine(tx, thread)
    if new.strategy == REJECT and line.active:
        raise errors.thread_busy(thread.data.thread_id, line.active[0].data.run_id)
    others = line.active
    run = _add_run(tx, thread, new, actor)
    line.add(run)
    add_state(tx, thread, new.messages, new.values, actor, run)
    _make_current(tx, thread, new.assistant_id)
    if new.strategy == INTERRUPT:
        for other in others:
            line.stop(other, SUPERSEDED, actor, by=new.run_id)
    line.advance()
    return run


def _add_run(tx: Transaction, thread: ThreadRow, new: NewRun, actor: Actor) -> RunRow:
    event = Event(actor=actor)
    made = event.run_created
    made.assistant_id, made.assistant_version = new.assistant_id, new.assistant_version
    made.agent = new.agent
    made.multitask_strategy, made.trigger = new.strategy, new.trigger
    made.additional_instructions = new.additional_instructions
    for name in ("config", "metadata", "timeout", "start_after"):
        value = getattr(new, name)
        if value is not None:
            getattr(made, name).CopyFrom(value)
    check_size(event)
    run = tx.add_run(thread, Run(run_id=new.run_id, attempt=1))
    tx.append(thread, event, run)
    run.data = created_run(event)
    if new.start_after is not None and new.start_after.ToNanoseconds() > tx.now:
        run.due_at = new.start_after.ToNanoseconds() / 1e9
    return run


def _make_current(tx: Transaction, thread: ThreadRow, assistant_id: str) -> None:
    """The first assistant of a thread stays its current one until a handoff."""
    if not thread.data.current_assistant_id:
        thread.data.current_assistant_id = assistant_id
        tx.save_thread(thread)


def release_due(tx: Transaction, now: float) -> None:
    """Puts delayed runs whose time has come at the end of their thread's line."""
    for run in tx.due_runs(now, 1000):
        line = ThreadLine(tx, run.thread)
        run.due_at = None
        run.queued_at = tx.now
        tx.save_run(run)
        line.advance()


def cancel_run(tx: Transaction, run: RunRow, actor: Actor, *, cascade: bool) -> None:
    """Cancels a run, and with `cascade` the jobs that it has launched, with all below them."""
    if run.data.state in TERMINAL:
        return
    ThreadLine(tx, run.thread).stop(run, CANCELLED, actor, cascade=cascade)
    if cascade:
        for job in tx.jobs_of_session(run.thread.session.key):
            if job.data.parent_run_id == run.data.run_id:
                cancel_tree(tx, job.thread, actor)


def cancel_tree(tx: Transaction, thread: ThreadRow, actor: Actor) -> None:
    """Cancels everything on a thread and on all threads below it."""
    for each in tx.threads_below(thread.key):
        cancel_thread(tx, each, actor)


def cancel_thread(tx: Transaction, thread: ThreadRow, actor: Actor) -> None:
    """Cancels everything on a thread that is not terminal."""
    line = ThreadLine(tx, thread)
    for run in tx.live_runs(thread.key):
        line.stop(run, CANCELLED, actor)


def rescue(tx: Transaction) -> int:
    """Puts the runs of servers that are gone back in line; returns how many."""
    lost = tx.running_runs()
    for run in lost:
        line = ThreadLine(tx, run.thread)
        if run.stop:
            line.finish_stopped(run)
            continue
        event = Event()
        event.run_queued.reason = event.run_queued.REASON_RESCUED
        line.requeue(run, event)
    return len(lost)
