"""Rows for the tests, made the way that the engine makes them."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from callboard.structs import to_struct
from callboard.v1.event_pb2 import Event, RunTrigger
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.log.fold import apply_to_run, created_run, launched_job, merge_patch
from callboard_server.log.records import Record
from callboard_server.store.base import (
    EventFilter,
    JobRow,
    NoticeRow,
    Reader,
    RunRow,
    ThreadRow,
    Transaction,
)

TENANT = "acme"
QUEUED = RunState.RUN_STATE_QUEUED
RUNNING = RunState.RUN_STATE_RUNNING
WAITING = RunState.RUN_STATE_WAITING
REQUIRES_ACTION = RunState.RUN_STATE_REQUIRES_ACTION
SUCCEEDED = RunState.RUN_STATE_SUCCEEDED
SECOND = 10**9


class Clock:
    """A clock that the test moves."""

    def __init__(self, now: int = 1_700_000_000 * SECOND) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def new_id() -> str:
    return str(uuid.uuid4())


def open_thread(
    tx: Transaction,
    thread_id: str = "",
    *,
    tenant: str = TENANT,
    parent: ThreadRow | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> ThreadRow:
    """Opens a thread: below its parent, or with a session of its own."""
    thread_id = thread_id or new_id()
    session = parent.session if parent else tx.add_session(tenant, thread_id)
    data = Thread(thread_id=thread_id, session_id=session.session_id)
    event = Event()
    event.thread_created.SetInParent()
    if metadata is not None:
        data.metadata.CopyFrom(to_struct(metadata))
    row = tx.add_thread(session, parent.key if parent else None, data)
    tx.append(row, event)
    return row


def say(tx: Transaction, thread: ThreadRow, text: str, run: RunRow | None = None) -> int:
    """Appends a message and returns its sequence."""
    event = Event()
    event.message_added.message.message_id = text
    tx.append(thread, event, run)
    return event.sequence


def merge(tx: Transaction, thread: ThreadRow, patch: Mapping[str, Any]) -> None:
    event = Event()
    event.values_merged.patch.CopyFrom(to_struct(patch))
    merge_patch(thread.values, event.values_merged.patch)
    tx.append(thread, event)
    tx.save_thread(thread)


def add_run(
    tx: Transaction,
    thread: ThreadRow,
    run_id: str = "",
    *,
    state: RunState.ValueType = QUEUED,
    ready: bool = False,
    due_at: float | None = None,
    trigger: RunTrigger.ValueType = RunTrigger.RUN_TRIGGER_CLIENT,
    wants_readers: bool = False,
) -> RunRow:
    """Lets a run in and moves it to a state."""
    run = tx.add_run(thread, Run(run_id=run_id or new_id(), attempt=1))
    event = Event()
    event.run_created.trigger = trigger
    if wants_readers:
        event.run_created.cancel_after_detach.FromSeconds(60)
    tx.append(thread, event, run)
    run.data = created_run(event)
    run.ready, run.due_at = ready, due_at
    if state != QUEUED:
        start(tx, run)
    if state in (WAITING, REQUIRES_ACTION):
        event = Event()
        event.run_waiting.state = state
        log(tx, run, event)
    elif state not in (QUEUED, RUNNING):
        finish(tx, run, state)
    return run


def start(tx: Transaction, run: RunRow) -> None:
    run.data.claim_epoch += 1
    run.ready = False
    event = Event()
    event.run_started.worker_id = "w"
    log(tx, run, event)


def finish(tx: Transaction, run: RunRow, state: RunState.ValueType = SUCCEEDED) -> None:
    event = Event()
    event.run_finished.state = state
    log(tx, run, event)


def log(tx: Transaction, run: RunRow, event: Event) -> None:
    tx.append(run.thread, event, run)
    apply_to_run(run.data, event)
    tx.save_run(run)


def launch(
    tx: Transaction,
    parent: ThreadRow,
    job_id: str = "",
    *,
    labels: Mapping[str, str] | None = None,
    state: RunState.ValueType = QUEUED,
) -> JobRow:
    thread = open_thread(tx, job_id, parent=parent)
    event = Event()
    event.job_launched.parent_thread_id = parent.data.thread_id
    event.job_launched.labels.update(labels or {})
    tx.append(thread, event)
    run_id = f"run of {thread.data.thread_id}"
    run = add_run(tx, thread, run_id, state=state, trigger=RunTrigger.RUN_TRIGGER_JOB)
    job = launched_job(event)
    job.run_count = 1
    return tx.add_job(thread, parent.key, run, job)


def tell(tx: Transaction, thread: ThreadRow, run: RunRow) -> NoticeRow:
    """Adds a notice about a run."""
    event = Event()
    event.notice_added.notice.notice_id = f"{thread.data.thread_id}/{thread.session.head + 1}"
    tx.append(thread, event)
    thread.data.unread_notice_count += 1
    tx.save_thread(thread)
    return tx.add_notice(thread, run, event.sequence, event.notice_added.notice)


def read_notices(tx: Transaction, thread: ThreadRow) -> None:
    """Marks all notices of a thread as read."""
    event = Event()
    for notice in tx.unread_notices(thread.key):
        event.notices_read.notice_ids.append(notice.data.notice_id)
        notice.read = True
        notice.wakes += 1
        tx.save_notice(notice)
    tx.append(thread, event)
    thread.data.unread_notice_count = 0
    tx.save_thread(thread)


def delete_tree(tx: Transaction, thread: ThreadRow) -> None:
    """Deletes a thread and those below it; of a root thread the session, too."""
    for row in reversed(tx.threads_below(thread.key)):
        tx.erase_events(row)
        tx.delete_thread(row)
    if thread.parent is None:
        tx.delete_session(thread.session)


def sequences(records: Sequence[Record]) -> list[int]:
    return [record.sequence for record in records]


def whole_log(reader: Reader, session: int) -> list[Record]:
    return list(reader.events(session, EventFilter()))
