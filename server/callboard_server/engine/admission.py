"""Who runs when: how runs are let in beside others, stopped, and put back in line."""

from __future__ import annotations

from callboard.v1.event_pb2 import Actor, Event, RunQueued, RunTrigger
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, PendingActions
from callboard_server import errors
from callboard_server.engine import actions, notices
from callboard_server.engine.creation import NewRun, add_run, add_state
from callboard_server.engine.ending import cancel_launched, finish_stopped, stop
from callboard_server.engine.lifecycle import (
    CANCELLED,
    QUEUED,
    REQUIRES_ACTION,
    RUNNING,
    SERVER,
    SUPERSEDED,
    TERMINAL,
    queue_again,
    record,
)
from callboard_server.engine.line import ThreadLine, is_concurrent
from callboard_server.store.base import RunRow, ThreadRow, Transaction

REJECT = MultitaskStrategy.MULTITASK_STRATEGY_REJECT
INTERRUPT = MultitaskStrategy.MULTITASK_STRATEGY_INTERRUPT
ROLLBACK = MultitaskStrategy.MULTITASK_STRATEGY_ROLLBACK
STEER = MultitaskStrategy.MULTITASK_STRATEGY_STEER
CONCURRENT = MultitaskStrategy.MULTITASK_STRATEGY_CONCURRENT

DUE_BATCH = 100
"""How many runs come due in one operation at the most: others want the loop, too."""


def check_sequence(thread: ThreadRow, expected: int | None) -> None:
    """Refuses a request that was decided on an older state of the thread."""
    if expected is not None and expected != thread.data.sequence:
        raise errors.sequence_mismatch(expected, thread.data.sequence)


def admit(tx: Transaction, thread: ThreadRow, new: NewRun, actor: Actor) -> RunRow:
    """Lets a run in, as its strategy says about the runs that are there.

    Returns:
        The run; with STEER that may be one that was there before.
    """
    check_sequence(thread, new.expected_thread_sequence)
    line = ThreadLine(tx, thread)
    if new.strategy == REJECT and line.active:
        raise errors.thread_busy(thread.data.thread_id, line.active[0].data.run_id)
    if new.strategy == STEER and (steered := _to_steer(line, new)) is not None:
        _steer(tx, steered, new, actor)
        return steered
    others = _in_the_way(line, new)
    run = add_run(tx, thread, new, actor)
    line.add(run)
    add_state(tx, thread, new.messages, new.values, actor, run)
    _make_current(tx, thread, new.assistant_id)
    for other in others:
        rollback = new.strategy == ROLLBACK
        stop(tx, line, other, SUPERSEDED, actor, by=new.run_id, rollback=rollback)
    line.advance()
    return run


def _in_the_way(line: ThreadLine, new: NewRun) -> list[RunRow]:
    """Returns the runs that a new one takes the place of."""
    if new.strategy not in (INTERRUPT, ROLLBACK):
        return []
    others = line.active
    if new.pending_actions == PendingActions.PENDING_ACTIONS_CANCEL:
        others += [run for run in line.parked if run.data.state == REQUIRES_ACTION]
    if new.job is not None:
        # New instructions for a job take the place of whatever worked on it, also if it waits.
        others += [run for run in line.parked if run not in others]
    return others


def _to_steer(line: ThreadLine, new: NewRun) -> RunRow | None:
    """Returns the run that gets a new one's input: one that runs, or else the next in line."""
    fitting = [
        run
        for run in line.active
        if run.data.assistant_id == new.assistant_id
        and run.data.trigger != RunTrigger.RUN_TRIGGER_COMPACTION
        and not (run.stop or is_concurrent(run))
    ]
    running = [run for run in fitting if run.data.state == RUNNING]
    return next(iter(running + fitting), None)


def _steer(tx: Transaction, run: RunRow, new: NewRun, actor: Actor) -> None:
    add_state(tx, run.thread, new.messages, new.values, actor, run)
    # Before its first start a run has read nothing: this is a part of what it starts with.
    if new.messages and run.data.claim_epoch:
        event = Event(actor=actor)
        event.run_input_added.message_ids.extend(each.message_id for each in new.messages)
        record(tx, run, event)


def _make_current(tx: Transaction, thread: ThreadRow, assistant_id: str) -> None:
    """The first assistant of a thread stays its current one until a handoff."""
    if not thread.data.current_assistant_id:
        thread.data.current_assistant_id = assistant_id
        tx.save_thread(thread)


def cancel_run(
    tx: Transaction, run: RunRow, actor: Actor, *, cascade: bool, rollback: bool
) -> None:
    """Cancels a run, and with `cascade` the jobs that it has launched, with all below them."""
    if run.data.state in TERMINAL:
        return
    line = ThreadLine(tx, run.thread)
    stop(tx, line, run, CANCELLED, actor, cascade=cascade, rollback=rollback)
    if cascade:
        cancel_launched(tx, run, actor)


def release_due(tx: Transaction) -> bool:
    """Lets the runs go on whose time has come; returns whether there may be more of them."""
    due = tx.due_runs(tx.now / 1e9, DUE_BATCH)
    for run in due:
        line = ThreadLine(tx, run.thread)
        if run.data.state == QUEUED and notices.is_needless(tx, run):
            stop(tx, line, run, CANCELLED, SERVER)
        elif run.data.state == QUEUED:
            _let_start(tx, run)
        elif run.data.state == REQUIRES_ACTION:
            _let_do_without(tx, run)
        else:
            queue_again(tx, run, RunQueued.REASON_RESUMED)
        line.advance()
    return len(due) == DUE_BATCH


def _let_start(tx: Transaction, run: RunRow) -> None:
    """Puts a delayed run at the end of its thread's line; a repeated attempt has its old place."""
    run.due_at = None
    if not run.data.claim_epoch:
        run.queued_at = tx.now
    tx.save_run(run)


def _let_do_without(tx: Transaction, run: RunRow) -> None:
    """Lets a run go on whose answers did not come in time. It waits again for what is open."""
    actions.close_late(tx, run)
    queue_again(tx, run, RunQueued.REASON_RESUMED)


def rescue(tx: Transaction) -> int:
    """Puts the runs of servers that are gone back in line; returns how many."""
    lost = tx.running_runs()
    for run in lost:
        line = ThreadLine(tx, run.thread)
        if run.stop:
            finish_stopped(tx, line, run)
        else:
            queue_again(tx, run, RunQueued.REASON_RESCUED)
            line.advance()
    return len(lost)
