"""How runs end: the last event of a run, and all that follows from it in the same commit."""

from __future__ import annotations

import sys

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import ActionClosed, Actor, Event, RunQueued, RunTrigger
from callboard.v1.lifecycle_pb2 import Outcome, RunError, RunState
from callboard_server.engine import actions, interruption, notices, webhooks
from callboard_server.engine.creation import NewRun, add_run
from callboard_server.engine.lifecycle import (
    CANCELLED,
    FAILED,
    PARKED,
    QUEUED,
    RUNNING,
    SERVER,
    SUCCEEDED,
    SUPERSEDED,
    TERMINAL,
    TIMED_OUT,
    check_move,
    fold_again,
    queue_again,
    record,
)
from callboard_server.engine.line import ThreadLine, is_active
from callboard_server.engine.waiting import jobs_over
from callboard_server.ids import new_id
from callboard_server.store.base import JobRow, Page, RunRow, ThreadRow, Transaction

_STOPPED = {
    CANCELLED: (ErrorReason.ERROR_REASON_CANCELLED, "the run was cancelled"),
    SUPERSEDED: (ErrorReason.ERROR_REASON_SUPERSEDED, "a newer run took this one's place"),
    TIMED_OUT: (ErrorReason.ERROR_REASON_RUN_TIMEOUT, "the run used up its timeout"),
}
_GRPC_CANCELLED, _GRPC_DEADLINE_EXCEEDED = 1, 4
_OF_JOBS = frozenset({RunTrigger.RUN_TRIGGER_JOB, RunTrigger.RUN_TRIGGER_INBOX})
"""How runs come to be that work on jobs."""
_ALL = Page(limit=sys.maxsize)
_WOKEN_BY = frozenset({SUCCEEDED, FAILED, TIMED_OUT})
"""The ends after which input that a run had not seen wakes its assistant. Who cancels a run cancels
its input, and who supersedes it takes that over."""


def stop(
    tx: Transaction,
    line: ThreadLine,
    run: RunRow,
    state: RunState.ValueType,
    actor: Actor,
    *,
    by: str = "",
    cascade: bool = False,
    rollback: bool = False,
    by_parent: bool = False,
) -> None:
    """Ends a run for a reason from outside: at once, or by asking running code to stop.

    Args:
        tx: The transaction.
        line: The line of its thread.
        run: The run.
        state: The terminal state that it shall have.
        actor: Who asks.
        by: The run that takes its place.
        cascade: Whether jobs that it launched are cancelled, too.
        rollback: Whether what it wrote is taken back.
        by_parent: Whether it is a job's, and its parent asks.
    """
    if run.data.state in TERMINAL or (run.stop and (run.data.rolled_back or not rollback)):
        return
    check_move(run, state)
    # Of a run that was asked before, only what it wrote is taken back, too.
    run.stop = run.stop or state
    event = Event(actor=actor)
    asked = event.run_cancel_requested
    asked.state = RunState.ValueType(run.stop)
    asked.superseded_by_run_id = run.data.superseded_by_run_id or by
    asked.cascade, asked.rollback = cascade, rollback
    asked.by_parent = by_parent or run.data.stopped_by_parent
    record(tx, run, event)
    if run.data.state != RUNNING:
        finish_stopped(tx, line, run, actor)


def finish_stopped(
    tx: Transaction, line: ThreadLine, run: RunRow, actor: Actor = SERVER, *, seen: int = 0
) -> None:
    """Ends a run the way that was asked for; see `finish`."""
    finish(tx, line, run, RunState.ValueType(run.stop), stopped(run), actor, seen=seen)


def stopped(run: RunRow) -> Outcome:
    """Returns the outcome of a run that was asked to stop."""
    state, by = RunState.ValueType(run.stop), run.data.superseded_by_run_id
    reason, text = _STOPPED[state]
    code = _GRPC_DEADLINE_EXCEEDED if state == TIMED_OUT else _GRPC_CANCELLED
    error = RunError(code=code, reason=reason, message=text, retryable=state == TIMED_OUT)
    if by:
        error.metadata["run_id"] = by
    return Outcome(error=error)


def finish(
    tx: Transaction,
    line: ThreadLine,
    run: RunRow,
    state: RunState.ValueType,
    outcome: Outcome,
    actor: Actor = SERVER,
    *,
    seen: int = 0,
) -> None:
    """Writes a run's last event, with all that follows from it, and lets the thread go on.

    Args:
        tx: The transaction.
        line: The line of its thread.
        run: The run.
        state: Its terminal state.
        outcome: How it ended.
        actor: Who ended it.
        seen: Up to which sequence of the log it had read its thread.
    """
    check_move(run, state)
    was_active = is_active(run)
    awaited = list(run.data.waiting_for.ids)
    actions.close_all(tx, run, ActionClosed.CAUSE_RUN_OVER)
    if state != SUCCEEDED and run.data.claim_epoch and not run.data.rolled_back:
        interruption.close_calls(tx, run)
    run.ready, run.due_at, run.stop = False, None, 0
    event = Event(actor=actor)
    event.run_finished.state = state
    event.run_finished.outcome.CopyFrom(outcome)
    event.run_finished.outcome.usage.CopyFrom(run.data.usage)
    if outcome.HasField("result"):
        # For the provider alone: it stays with the message.
        event.run_finished.outcome.result.ClearField("provider_state")
    record(tx, run, event)
    line.thread.data.update_time.CopyFrom(event.time)
    if run.data.rolled_back:
        _roll_back(tx, run)
    notices.count_wake(tx, run, state)
    if run.data.steered_sequence > seen and state in _WOKEN_BY:
        line.add(_follow(tx, run))
    if state != SUCCEEDED:
        _cancel_waited_for(tx, run)
    notices.tell_unfetched(tx, line, awaited)
    notices.wake(tx, line)
    tell_of_job(tx, run)
    line.leave(run, was_active=was_active)


def _job_of(tx: Transaction, run: RunRow) -> JobRow | None:
    """Returns the job on which a run is the one that works, if there is one."""
    job = tx.job(run.thread.session.tenant, run.thread.data.thread_id)
    return job if job is not None and job.run.key == run.key else None


def _roll_back(tx: Transaction, run: RunRow) -> None:
    """Takes back what a run wrote, its input included, and cancels the jobs that it launched."""
    event = Event(actor=SERVER)
    event.runs_rolled_back.run_ids.append(run.data.run_id)
    tx.append(run.thread, event)
    fold_again(tx, run.thread)
    cancel_launched(tx, run, SERVER)


def _follow(tx: Transaction, run: RunRow) -> RunRow:
    """Queues a run of the same assistant for input that a run ended without having seen."""
    before = run.data
    has = before.HasField
    new = NewRun(
        run_id=new_id(),
        assistant_id=before.assistant_id,
        assistant_version=before.assistant_version,
        agent=before.agent,
        trigger=RunTrigger.RUN_TRIGGER_INBOX,
        config=before.config if has("config") else None,
        additional_instructions=before.additional_instructions,
        metadata=before.metadata if has("metadata") else None,
        timeout=before.timeout if has("timeout") else None,
        follows_run_id=before.run_id,
        job=_job_of(tx, run),
    )
    return add_run(tx, run.thread, new, SERVER)


def tell_of_job(tx: Transaction, run: RunRow) -> None:
    """Lets its webhook and its parent know of a job whose run is over, or needs an action.

    Runs of the parent that wait for the job go on when they have what they wait for; else there is
    a notice.
    """
    job = _job_of(tx, run) if run.data.trigger in _OF_JOBS else None
    if job is None:
        return
    webhooks.announce(tx, job)
    if job.parent is None:
        return
    line = ThreadLine(tx, tx.thread_at(job.parent))
    if notices.is_awaited(line, job):
        _wake_waiting(tx, line, job)
    else:
        notices.tell(tx, line, job)


def _wake_waiting(tx: Transaction, line: ThreadLine, job: JobRow) -> None:
    woken = [run for run in line.parked if _has_waited(tx, run, job.thread.data.thread_id)]
    for run in woken:
        queue_again(tx, run, RunQueued.REASON_RESUMED)
    if woken:
        line.advance()


def _has_waited(tx: Transaction, run: RunRow, job_id: str) -> bool:
    """Whether the end of a job is what a run waited for."""
    waiting_for = run.data.waiting_for
    if job_id not in waiting_for.ids:
        return False
    tenant = run.thread.session.tenant
    return waiting_for.any or all(jobs_over(tx, tenant, waiting_for.ids))


# Stopping many


def cancel_thread(
    tx: Transaction, thread: ThreadRow, actor: Actor, *, by_parent: bool = False
) -> None:
    """Cancels everything on a thread that is not terminal."""
    line = ThreadLine(tx, thread)
    for run in list(line.runs):
        stop(tx, line, run, CANCELLED, actor, by_parent=by_parent)


def cancel_tree(
    tx: Transaction, thread: ThreadRow, actor: Actor, *, by_parent: bool = False
) -> None:
    """Cancels everything on a thread and on all threads below it."""
    for each in tx.threads_below(thread.key):
        # Below it nobody is left who wants to know.
        cancel_thread(tx, each, actor, by_parent=by_parent or each.key != thread.key)


def _cancel_waited_for(tx: Transaction, run: RunRow) -> None:
    """Cancels the jobs that were to go with a run that waited for them, without a word."""
    thread = run.thread
    if not tx.active_jobs(thread.key):
        return
    active = [QUEUED, RUNNING, *PARKED]
    for job in tx.list_jobs(
        thread.session.tenant, _ALL, parent=thread.key, states=active, labels={}
    ):
        if job.data.waiting_run_id == run.data.run_id:
            cancel_tree(tx, job.thread, SERVER, by_parent=True)


def cancel_launched(tx: Transaction, run: RunRow, actor: Actor) -> None:
    """Cancels the jobs that a run has launched, with all below them, without a word to anybody."""
    for job in tx.jobs_of_session(run.thread.session.key):
        if job.data.parent_run_id == run.data.run_id:
            cancel_tree(tx, job.thread, actor, by_parent=True)
