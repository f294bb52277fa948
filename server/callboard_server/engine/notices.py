"""Notices: what threads are told about their jobs, who has read it, and who is woken for it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence

from callboard.v1.event_pb2 import Action, Actor, Event, JobNotify, RunTrigger
from callboard.v1.lifecycle_pb2 import RunState
from callboard_server import errors
from callboard_server.engine.actions import awaited
from callboard_server.engine.assistants import default_id
from callboard_server.engine.creation import NewRun, add_run, add_state
from callboard_server.engine.lifecycle import (
    CANCELLED,
    QUEUED,
    REQUIRES_ACTION,
    SERVER,
    SUCCEEDED,
    SUPERSEDED,
    TERMINAL,
    timestamp,
)
from callboard_server.engine.line import ThreadLine
from callboard_server.ids import new_id
from callboard_server.log.notices import message_of, notice_of
from callboard_server.store.base import (
    ActionState,
    JobRow,
    NoticeRow,
    RunRow,
    ThreadRow,
    Transaction,
)

MOST_WAKES = 3
"""How many runs are queued because of one notice, if none of them reads it."""
PAUSE = 5.0
"""Seconds before the second of them; five times as long before each further one."""

_OUTCOME = frozenset({JobNotify.JOB_NOTIFY_OUTCOME, JobNotify.JOB_NOTIFY_OUTCOME_AND_ACTIONS})


# Telling


def tell(tx: Transaction, line: ThreadLine, job: JobRow) -> None:
    """Tells a job's parent how the job stands, which is over or needs an action.

    Args:
        tx: The transaction.
        line: The line of the parent's thread.
        job: The job.
    """
    if _tell(tx, line.thread, job) and job.data.notify_assistant_id:
        # Else a program reads it, and there is nobody to look for among all that is unread.
        wake(tx, line)
        line.advance()


def tell_unfetched(tx: Transaction, line: ThreadLine, job_ids: Iterable[str]) -> None:
    """Tells a thread of jobs for which a run waited that is over itself now.

    Args:
        tx: The transaction.
        line: The line of the thread.
        job_ids: What the run waited for; ids of other things are passed over.
    """
    for job_id in job_ids:
        job = tx.job(line.thread.session.tenant, job_id)
        if job is not None and job.parent == line.thread.key:
            _tell(tx, line.thread, job)


def is_awaited(line: ThreadLine, job: JobRow) -> bool:
    """Whether a run of the parent's line waits for a job, and so gets to know by itself."""
    job_id = job.thread.data.thread_id
    return any(job_id in run.data.waiting_for.ids for run in line.parked)


def _tell(tx: Transaction, thread: ThreadRow, job: JobRow) -> bool:
    """Tells a thread how a job stands, if it wants to know, and has not been told or done it."""
    run = job.run
    if run.data.state == REQUIRES_ACTION:
        if job.data.notify != JobNotify.JOB_NOTIFY_OUTCOME_AND_ACTIONS:
            return False
        actions = _untold_actions(tx, run)
        is_due = bool(actions)
    else:
        actions = []
        is_over = run.data.state in TERMINAL and not run.data.stopped_by_parent
        is_due = is_over and job.data.notify in _OUTCOME and not _is_told(tx, run)
    if is_due:
        _add(tx, thread, job, actions)
    return is_due


def _is_told(tx: Transaction, run: RunRow) -> bool:
    """Whether there is a notice about the end of a job's run."""
    return any(row.data.state in TERMINAL for row in tx.notices_about(run.key))


def _untold_actions(tx: Transaction, run: RunRow) -> list[Action]:
    """Returns the actions that a job's run waits for and about which there is no notice."""
    told = {each.action_id for row in tx.notices_about(run.key) for each in row.data.actions}
    return [action for action in awaited(tx, run) if action.action_id not in told]


def _add(tx: Transaction, thread: ThreadRow, job: JobRow, actions: Iterable[Action]) -> None:
    event = Event(actor=SERVER)
    notice = event.notice_added.notice
    notice.CopyFrom(notice_of(new_id(), job.data, job.run.data, actions))
    tx.append(thread, event)
    add_state(tx, thread, [message_of(notice, new_id())], None, SERVER)
    thread.data.unread_notice_count += 1
    tx.save_thread(thread)
    tx.add_notice(thread, job.run, event.sequence, notice)


# Reading


def read_by(
    tx: Transaction,
    run: RunRow,
    actor: Actor,
    *,
    through: int = 0,
    jobs: Collection[str] = (),
    step_path: Sequence[str] = (),
) -> None:
    """Marks notices to a run's assistant as read by that run.

    Args:
        tx: The transaction.
        run: The run, which is not over yet.
        actor: Who reads.
        through: All up to this sequence of the log.
        jobs: All about these jobs.
        step_path: The steps in which the run reads them.
    """
    if not run.thread.data.unread_notice_count:
        return
    found = [
        row
        for row in tx.unread_notices(run.thread.key)
        if row.data.assistant_id == run.data.assistant_id
        and (row.sequence <= through or row.data.job_id in jobs)
    ]
    _mark(tx, run.thread, found, Event(actor=actor, step_path=step_path), run)


def mark_read(
    tx: Transaction, thread: ThreadRow, notice_ids: Collection[str], actor: Actor
) -> None:
    """Marks notices of a thread as read by a program; those that are read already stay so.

    Raises:
        ServiceError: One of them is none of this thread's.
    """
    found = []
    for notice_id in notice_ids:
        row = tx.notice(thread.session.tenant, notice_id)
        if row is None or row.thread.key != thread.key:
            raise errors.notice_not_found(notice_id, thread.data.thread_id)
        if not row.read:
            found.append(row)
    found.sort(key=lambda row: row.sequence)
    _mark(tx, thread, found, Event(actor=actor), None)


def _mark(
    tx: Transaction,
    thread: ThreadRow,
    rows: Sequence[NoticeRow],
    event: Event,
    run: RunRow | None,
) -> None:
    if not rows:
        return
    event.notices_read.notice_ids.extend(row.data.notice_id for row in rows)
    tx.append(thread, event, run)
    for row in rows:
        row.read = True
        tx.save_notice(row)
    thread.data.unread_notice_count -= len(rows)
    tx.save_thread(thread)


# Waking


def wake(tx: Transaction, line: ThreadLine) -> None:
    """Queues runs of the assistants for whom notices are unread, where a thread has nothing to do.

    The line must go on after this.
    """
    thread = line.thread
    if not thread.data.unread_notice_count or line.active:
        return
    job = tx.job(thread.session.tenant, thread.data.thread_id)
    if job is not None and job.run.data.state == CANCELLED:
        # Who cancelled it does not want it to go on.
        return
    unread: defaultdict[str, list[NoticeRow]] = defaultdict(list)
    for row in tx.unread_notices(thread.key):
        unread[row.data.assistant_id].append(row)
    for assistant_id, rows in unread.items():
        if assistant_id and not line.active:
            _wake_assistant(tx, line, job, assistant_id, rows)


def _wake_assistant(
    tx: Transaction,
    line: ThreadLine,
    job: JobRow | None,
    assistant_id: str,
    rows: Sequence[NoticeRow],
) -> None:
    woken = [run for run in line.runs if _is_wake_up(run) and run.data.assistant_id == assistant_id]
    due = [row for row in rows if row.wakes < MOST_WAKES and _is_open(tx, row)]
    due = [row for row in due if not any(_has(run, row) for run in woken)]
    if not due:
        return
    delayed = next((run for run in woken if run.data.state == QUEUED), None)
    if delayed is not None:
        _hasten(tx, delayed)
        counted: Sequence[NoticeRow] = due
    elif (run := _queue(tx, line, job, due)) is not None:
        line.add(run)
        counted = rows
    else:
        counted = []
    for row in counted:
        row.wakes += 1
        tx.save_notice(row)


def _hasten(tx: Transaction, run: RunRow) -> None:
    """Lets a run start now that was to try again later: there is something new to read."""
    if not run.data.claim_epoch:
        run.due_at, run.queued_at = None, tx.now
        tx.save_run(run)


def _is_wake_up(run: RunRow) -> bool:
    """Whether a live run was queued by the server: for notices, or for input."""
    return run.data.trigger == RunTrigger.RUN_TRIGGER_INBOX and run.data.state not in TERMINAL


def _has(run: RunRow, row: NoticeRow) -> bool:
    """Whether a run that was woken before reads a notice along with what it was woken for."""
    return row.sequence < run.data.created_sequence


def _is_open(tx: Transaction, row: NoticeRow) -> bool:
    """Whether what a notice tells still stands: an action may have been answered since."""
    if row.data.state != REQUIRES_ACTION:
        return True
    session = row.thread.session.key
    actions = (tx.action(session, each.action_id) for each in row.data.actions)
    return any(action is not None and action.state == ActionState.OPEN for action in actions)


def _queue(
    tx: Transaction, line: ThreadLine, job: JobRow | None, due: Sequence[NoticeRow]
) -> RunRow | None:
    """Queues a run for notices, if their assistant is still there."""
    thread, last = line.thread, due[-1].data
    found = _assistant(tx, thread.session.tenant, last.assistant_id, last.assistant_agent)
    if found is None:
        return None
    version, agent = found
    launching = tx.run(thread.session.tenant, last.parent_run_id) if last.parent_run_id else None
    before = launching.data if launching is not None else None
    new = NewRun(
        run_id=new_id(),
        assistant_id=last.assistant_id,
        assistant_version=version,
        agent=agent,
        trigger=RunTrigger.RUN_TRIGGER_INBOX,
        config=before.config if before and before.HasField("config") else None,
        timeout=before.timeout if before and before.HasField("timeout") else None,
    )
    tries = min(row.wakes for row in due)
    if tries:
        new.start_after = timestamp(tx.now / 1e9 + PAUSE * 5 ** (tries - 1))
    if job is not None and job.run.data.state in TERMINAL:
        # Of a job that hands work on, what is made of the results is what it comes to.
        new.job, new.follows_run_id = job, job.run.data.run_id
    return add_run(tx, thread, new, SERVER)


def _assistant(
    tx: Transaction, tenant: str, assistant_id: str, agent: str
) -> tuple[int, str] | None:
    """Returns the version and the agent of an assistant as it is now, if it is there."""
    if assistant_id == default_id(agent):
        return 1, agent
    row = tx.assistant(tenant, assistant_id)
    return None if row is None or row.deleted else (row.data.version, row.data.agent)


def count_wake(tx: Transaction, run: RunRow, state: RunState.ValueType) -> None:
    """Takes into account how a run ended that was woken for notices, and what it left unread.

    One that failed is tried again after a pause. One that others stopped does not count. After one
    that left notices unread, or that somebody cancelled, they wait for the next run or notice.
    """
    if run.data.trigger != RunTrigger.RUN_TRIGGER_INBOX or not run.thread.data.unread_notice_count:
        return
    for row in tx.unread_notices(run.thread.key):
        if row.data.assistant_id != run.data.assistant_id or not row.wakes or not _has(run, row):
            continue
        if state == SUPERSEDED:
            row.wakes -= 1
        elif state in (SUCCEEDED, CANCELLED):
            row.wakes = max(MOST_WAKES, row.wakes)
        tx.save_notice(row)


def is_needless(tx: Transaction, run: RunRow) -> bool:
    """Whether a run that was to start later for notices finds them read by now."""
    data = run.data
    if data.trigger != RunTrigger.RUN_TRIGGER_INBOX or data.claim_epoch:
        return False
    job = tx.job(run.thread.session.tenant, data.thread_id)
    if job is not None and job.run.key == run.key:
        return False
    unread = tx.unread_notices(run.thread.key) if run.thread.data.unread_notice_count else []
    return not any(row.data.assistant_id == data.assistant_id for row in unread)
