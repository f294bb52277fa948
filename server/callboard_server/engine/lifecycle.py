"""The life of a run as a state machine: which moves are legal, and what each writes."""

from __future__ import annotations

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Actor, Event
from callboard.v1.lifecycle_pb2 import Outcome, RunError, RunState
from callboard_server.log.events import THREAD_STATE, kind_of
from callboard_server.log.fold import VALUE_KINDS, ThreadFold, apply_to_run
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

_CANCELLED_TEXT = {
    CANCELLED: (ErrorReason.ERROR_REASON_CANCELLED, "the run was cancelled"),
    SUPERSEDED: (ErrorReason.ERROR_REASON_SUPERSEDED, "a newer run took this one's place"),
    TIMED_OUT: (ErrorReason.ERROR_REASON_RUN_TIMEOUT, "the run used up its timeout"),
}
_GRPC_CANCELLED, _GRPC_DEADLINE_EXCEEDED = 1, 4


class IllegalTransition(Exception):
    """A fault of the engine: a move that the state machine does not have."""


class Fenced(Exception):
    """The run is no longer this claim's to write to: it ended or was claimed anew."""


def record(tx: Transaction, run: RunRow, event: Event) -> None:
    """Appends an event of a run and brings its rows up to date."""
    tx.append(run.thread, event, run)
    if apply_to_run(run.data, event):
        tx.save_run(run)
    touch(tx, run.thread, event)


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
    if run is None or run.data.state != RUNNING or run.data.claim_epoch != epoch:
        raise Fenced(run_id)
    return run


def start(tx: Transaction, run: RunRow, worker_id: str, *, from_top: bool) -> None:
    """Claims a run: from here on only this claim's epoch may write.

    Args:
        tx: The transaction.
        run: A run that is ready.
        worker_id: Who claims it.
        from_top: Whether its code begins again, so that what it wrote under its last claim is void.
    """
    _check_move(run, RUNNING)
    last_epoch = run.data.claim_epoch
    run.data.claim_epoch += 1
    run.ready = False
    event = Event(actor=SERVER)
    event.run_started.worker_id = worker_id
    record(tx, run, event)
    if from_top and last_epoch:
        _void(tx, run, last_epoch)


def _void(tx: Transaction, run: RunRow, epoch: int) -> None:
    event = Event(actor=SERVER)
    event.claim_voided.claim_epoch = epoch
    record(tx, run, event)
    wanted = EventFilter(thread=run.thread.key, kinds=VALUE_KINDS)
    fold = ThreadFold()
    for written in tx.events(run.thread.session.key, wanted):
        fold.apply(written.event)
    run.thread.values = fold.values
    tx.save_thread(run.thread)


class ThreadLine:
    """The runs of one thread that are not terminal, within a transaction.

    Load it before anything is written: the rows then stay in step with what is written later.
    """

    def __init__(
        self, tx: Transaction, thread: ThreadRow, runs: list[RunRow] | None = None
    ) -> None:
        self._tx = tx
        self.thread = thread
        self._runs = tx.live_runs(thread.key) if runs is None else runs

    def add(self, run: RunRow) -> None:
        self._runs.append(run)

    @property
    def running(self) -> list[RunRow]:
        return [run for run in self._runs if run.data.state == RUNNING]

    @property
    def queued(self) -> list[RunRow]:
        """Runs that wait for their turn, the next one first. Delayed ones do not stand in line."""
        waiting = [r for r in self._runs if r.data.state == QUEUED and r.due_at is None]
        return sorted(waiting, key=lambda run: (run.queued_at, run.key))

    @property
    def active(self) -> list[RunRow]:
        return self.running + self.queued

    def advance(self) -> None:
        """Marks the run whose turn it is as ready."""
        line = self.queued
        next_run = line[0] if line and not self.running else None
        for run in line:
            if run.ready != (run is next_run):
                run.ready = run is next_run
                self._tx.save_run(run)

    def requeue(self, run: RunRow, event: Event) -> None:
        """Puts a run back in line, at its old place."""
        _check_move(run, QUEUED)
        event.actor.CopyFrom(SERVER)
        record(self._tx, run, event)
        self.advance()

    def stop(
        self,
        run: RunRow,
        state: RunState.ValueType,
        actor: Actor,
        *,
        by: str = "",
        cascade: bool = False,
    ) -> None:
        """Ends a run for a reason from outside: at once, or by asking running code to stop."""
        if run.data.state in TERMINAL or run.stop:
            return
        if run.data.state != RUNNING:
            self.finish(run, state, stopped(state, by), actor)
            return
        _check_move(run, state)
        run.stop = state
        event = Event(actor=actor)
        event.run_cancel_requested.state = state
        event.run_cancel_requested.superseded_by_run_id = by
        event.run_cancel_requested.cascade = cascade
        record(self._tx, run, event)

    def finish(
        self, run: RunRow, state: RunState.ValueType, outcome: Outcome, actor: Actor = SERVER
    ) -> None:
        """Writes a run's last event and lets the thread go on."""
        _check_move(run, state)
        run.ready, run.due_at, run.stop = False, None, 0
        event = Event(actor=actor)
        event.run_finished.state = state
        event.run_finished.outcome.CopyFrom(outcome)
        event.run_finished.outcome.usage.CopyFrom(run.data.usage)
        record(self._tx, run, event)
        self.thread.data.last_run_state = state
        self.thread.data.update_time.CopyFrom(event.time)
        self._tx.save_thread(self.thread)
        self.advance()
        self._say_if_idle(state)

    def finish_stopped(self, run: RunRow) -> None:
        """Ends a running run the way that was asked for."""
        state = RunState.ValueType(run.stop)
        self.finish(run, state, stopped(state, by=run.data.superseded_by_run_id))

    def _say_if_idle(self, state: RunState.ValueType) -> None:
        if not self.active:
            event = Event(actor=SERVER)
            event.thread_idle.last_run_state = state
            self._tx.append(self.thread, event)


def held_in_line(tx: Transaction, thread: int, run: int, epoch: int) -> tuple[ThreadLine, RunRow]:
    """Returns a run that a claim still holds, within the line of its thread.

    Raises:
        Fenced: It does not.
    """
    runs = tx.live_runs(thread)
    for row in runs:
        if row.key == run and row.data.state == RUNNING and row.data.claim_epoch == epoch:
            return ThreadLine(tx, row.thread, runs), row
    raise Fenced(str(run))


def stopped(state: RunState.ValueType, by: str = "") -> Outcome:
    """Returns the outcome of a run that was stopped from outside."""
    reason, text = _CANCELLED_TEXT[state]
    code = _GRPC_DEADLINE_EXCEEDED if state == TIMED_OUT else _GRPC_CANCELLED
    error = RunError(code=code, reason=reason, message=text, retryable=state == TIMED_OUT)
    if by:
        error.metadata["run_id"] = by
    return Outcome(error=error)


def _check_move(run: RunRow, state: int) -> None:
    if state not in TRANSITIONS[run.data.state]:
        raise IllegalTransition(
            f"{RunState.Name(run.data.state)} -> {RunState.Name(RunState.ValueType(state))}"
        )
