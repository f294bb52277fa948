"""Rows as the contract shows them: with everything that follows from other rows filled in."""

from __future__ import annotations

import hashlib

from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.agents.registry import Registry
from callboard_server.engine.lifecycle import QUEUED, timestamp
from callboard_server.engine.line import is_active
from callboard_server.log.fold import job_with_run
from callboard_server.store.base import JobRow, Reader, RunRow, ThreadRow


def show_thread(reader: Reader, row: ThreadRow) -> Thread:
    thread = Thread()
    thread.CopyFrom(row.data)
    live = reader.live_runs(row.key)
    thread.state = _state(any(is_active(run) for run in live))
    thread.tree_state = _state(reader.tree_is_busy(row.key))
    thread.head_sequence = row.session.head
    thread.oldest_sequence = row.session.oldest
    thread.etag = _etag(thread)
    return thread


def _etag(thread: Thread) -> str:
    """A digest of what UpdateThread can change."""
    changeable = Thread(metadata=thread.metadata, ttl=thread.ttl)
    content = changeable.SerializeToString(deterministic=True)
    return hashlib.blake2s(content, digest_size=8).hexdigest()


def _state(busy: bool) -> Thread.State.ValueType:
    return Thread.STATE_BUSY if busy else Thread.STATE_IDLE


def show_run(reader: Reader, row: RunRow, registry: Registry) -> Run:
    run = Run()
    run.CopyFrom(row.data)
    if run.state == QUEUED:
        run.waiting_for.CopyFrom(_waiting_for(reader, row, registry))
    return run


def show_job(reader: Reader, row: JobRow, registry: Registry) -> Job:
    job = job_with_run(row.data, show_run(reader, row.run, registry))
    job.sequence = row.thread.session.head
    return job


def _waiting_for(reader: Reader, row: RunRow, registry: Registry) -> WaitingFor:
    """Says why a queued run does not run."""
    if row.due_at is not None:
        return WaitingFor(kind=WaitingFor.KIND_TIMER, until=timestamp(row.due_at))
    if row.ready and (others := _in_its_way(reader, row, registry)):
        return WaitingFor(kind=WaitingFor.KIND_CONCURRENCY, ids=others)
    if row.ready:
        return WaitingFor(kind=WaitingFor.KIND_SLOT, position=reader.ready_before(row))
    before = [
        other.data.run_id
        for other in reader.live_runs(row.thread.key)
        if is_active(other) and (other.queued_at, other.key) < (row.queued_at, row.key)
    ]
    return WaitingFor(kind=WaitingFor.KIND_THREAD, ids=before)


def _in_its_way(reader: Reader, row: RunRow, registry: Registry) -> list[str]:
    """Returns the runs of its assistant for which a run waits: as many as may run at a time."""
    agent = registry.get(row.data.agent)
    if agent is None or agent.concurrency is None:
        return []
    assistant_id = row.data.assistant_id
    running = [r for r in reader.running_runs() if r.data.assistant_id == assistant_id]
    return [r.data.run_id for r in running] if len(running) >= agent.concurrency else []
