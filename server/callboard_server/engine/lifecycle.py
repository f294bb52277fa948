"""The life of a run as a state machine: which moves are legal, and what each writes.

How a run ends, with all that follows from it, is in `ending.py`.
"""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.event_pb2 import Actor, Event, RunQueued
from callboard.v1.lifecycle_pb2 import RunError, RunState, WaitingFor
from callboard_server.agents.errors import Fenced
from callboard_server.log.events import THREAD_STATE, kind_of
from callboard_server.log.fold import (
    NOTICE_KINDS,
    VALUE_KINDS,
    ThreadFold,
    apply_to_run,
    count_other,
    used_in,
)
from callboard_server.store.base import EventFilter, RunRow, ThreadRow, Transaction

QUEUED = RunState.RUN_STATE_QUEUED
RUNNING = RunState.RUN_STATE_RUNNING
WAITING = RunState.RUN_STATE_WAITING
REQUIRES_ACTION = RunState.RUN_STATE_REQUIRES_ACTION
SUCCEEDED = RunState.RUN_STATE_SUCCEEDED
FAILED = RunState.RUN_STATE_FAILED
CANCELLED = RunState.RUN_STATE_CANCELLED
SUPERSEDED = RunState.RUN_STATE_SUPERSEDED
TIMED_OUT = RunState.RUN_STATE_TIMED_OUT

PARKED = frozenset({WAITING, REQUIRES_ACTION})
"""The states in which a run waits without a slot, and its thread is free."""
TERMINAL = frozenset({SUCCEEDED, FAILED, CANCELLED, SUPERSEDED, TIMED_OUT})

_STOPS = frozenset({CANCELLED, SUPERSEDED, TIMED_OUT})
TRANSITIONS: dict[int, frozenset[int]] = {
    QUEUED: _STOPS | {RUNNING},
    RUNNING: _STOPS | {SUCCEEDED, FAILED, WAITING, REQUIRES_ACTION, QUEUED},
    WAITING: _STOPS | {QUEUED},
    REQUIRES_ACTION: _STOPS | {QUEUED},
    **{state: frozenset() for state in TERMINAL},
}
"""From each state, the states that may follow. Terminal states have none."""

SERVER = Actor(kind=Actor.KIND_SERVER)


class IllegalTransition(Exception):
    """A fault of the engine: a move that the state machine does not have."""


def check_move(run: RunRow, state: int) -> None:
    """Refuses a move that the state machine does not have."""
    if state not in TRANSITIONS[run.data.state]:
        raise IllegalTransition(
            f"{RunState.Name(run.data.state)} -> {RunState.Name(RunState.ValueType(state))}"
        )


def record(tx: Transaction, run: RunRow, event: Event) -> None:
    """Appends an event of a run and brings its rows up to date."""
    tx.append(run.thread, event, run)
    if apply_to_run(run.data, event):
        tx.save_run(run)
    if used_in(event) is not None:
        _count_for_job(tx, run, event)
    touch(tx, run.thread, event)


def _count_for_job(tx: Transaction, run: RunRow, event: Event) -> None:
    """Lets a job have what runs on its thread use that do not work on it, or no more."""
    job = tx.job(run.thread.session.tenant, run.thread.data.thread_id)
    if job is not None and job.run.key != run.key and count_other(job.data, event):
        tx.save_job(job)


def touch(tx: Transaction, thread: ThreadRow, event: Event) -> None:
    """Brings a thread's row up to date with an event of it that was appended."""
    if kind_of(event) in THREAD_STATE:
        thread.data.sequence = event.sequence
        thread.data.update_time.CopyFrom(event.time)
        tx.save_thread(thread)


def held(tx: Transaction, tenant: str, run_id: str, epoch: int) -> RunRow:
    """Returns a run that a claim still holds.

    Raises:
        Fenced: It does not.
    """
    run = tx.run(tenant, run_id)
    if run is None or not holds(run, epoch):
        raise Fenced(run_id)
    return run


def holds(run: RunRow, epoch: int) -> bool:
    """Whether a run is still that of a claim, at work or waiting."""
    at_work = run.data.state == RUNNING or run.data.state in PARKED
    return at_work and run.data.claim_epoch == epoch


def start(tx: Transaction, run: RunRow, worker_id: str, *, from_top: bool) -> None:
    """Claims a run: from here on only this claim's epoch may write.

    Args:
        tx: The transaction.
        run: A run that is ready.
        worker_id: Who claims it.
        from_top: Whether its code begins again, so that what it wrote under its last claims is
            void.
    """
    check_move(run, RUNNING)
    last_epoch = run.data.claim_epoch
    run.data.claim_epoch += 1
    run.ready = False
    event = Event(actor=SERVER)
    event.run_started.worker_id = worker_id
    record(tx, run, event)
    if from_top and last_epoch:
        voided = Event(actor=SERVER)
        voided.claim_voided.claim_epoch = last_epoch
        record(tx, run, voided)
        fold_again(tx, run.thread)


def fold_again(tx: Transaction, thread: ThreadRow) -> None:
    """Makes a thread what its events come to, after some of them were taken back."""
    fold = ThreadFold()
    wanted = EventFilter(thread=thread.key, kinds=VALUE_KINDS | NOTICE_KINDS)
    for written in tx.events(thread.session.key, wanted):
        fold.apply(written.event)
    thread.values = fold.values
    if len(fold.unread) != thread.data.unread_notice_count:
        for row in tx.notices(thread.key):
            if row.read and row.data.notice_id in fold.unread:
                row.read, row.wakes = False, 0
                tx.save_notice(row)
        thread.data.unread_notice_count = len(fold.unread)
    tx.save_thread(thread)


def park(tx: Transaction, run: RunRow, waiting_for: WaitingFor) -> None:
    """Lets a running run wait: it gives its slot back, and its thread is free.

    What it waits for must not be there yet, and not come without the run being woken.
    """
    asks = waiting_for.kind == WaitingFor.KIND_ACTIONS
    state = REQUIRES_ACTION if asks else WAITING
    check_move(run, state)
    event = Event(actor=SERVER)
    event.run_waiting.state = state
    event.run_waiting.waiting_for.CopyFrom(waiting_for)
    run.due_at = None
    if waiting_for.HasField("until"):
        run.due_at = waiting_for.until.ToNanoseconds() / 1e9
    record(tx, run, event)


def queue_again(tx: Transaction, run: RunRow, reason: RunQueued.Reason.ValueType) -> None:
    """Puts a run back in line, at its old place."""
    check_move(run, QUEUED)
    run.due_at = None
    event = Event(actor=SERVER)
    event.run_queued.reason = reason
    record(tx, run, event)


def queue_retry(tx: Transaction, run: RunRow, error: RunError, due_at: float) -> None:
    """Counts a failed attempt, and lets the run go on after a pause."""
    check_move(run, QUEUED)
    run.data.attempt += 1
    run.due_at = due_at
    event = Event(actor=SERVER)
    event.run_queued.reason = RunQueued.REASON_RETRY
    event.run_queued.error.CopyFrom(error)
    event.run_queued.start_after.CopyFrom(timestamp(due_at))
    record(tx, run, event)


def timestamp(seconds: float) -> Timestamp:
    """Returns a time, given in seconds since the epoch, to the microsecond."""
    time = Timestamp()
    time.FromMicroseconds(round(seconds * 1e6))
    return time
