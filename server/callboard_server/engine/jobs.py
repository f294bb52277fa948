"""Jobs: threads of their own with the run that works on them now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from google.protobuf.duration_pb2 import Duration
from google.protobuf.struct_pb2 import Struct

from callboard.v1.event_pb2 import Actor, Event, JobContext, JobDelivery, JobNotify
from callboard.v1.lifecycle_pb2 import MultitaskStrategy
from callboard_server import errors
from callboard_server.engine.admission import admit
from callboard_server.engine.copying import Original, add_conversation
from callboard_server.engine.creation import (
    NewRun,
    NewThread,
    open_session,
    open_thread,
)
from callboard_server.engine.ending import cancel_thread, cancel_tree
from callboard_server.engine.lifecycle import PARKED, RUNNING, TERMINAL
from callboard_server.errors import Violation
from callboard_server.log.fold import apply_to_job, launched_job
from callboard_server.store.base import JobRow, Reader, ThreadRow, Transaction

SUGGEST_FROM = 4
"""How many characters of a shortened job id are enough to suggest the whole one."""


@dataclass(slots=True)
class NewJob:
    """A job to launch."""

    thread: NewThread
    run: NewRun
    task: str
    parent_thread_id: str = ""
    parent_run_id: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    notify: JobNotify.ValueType = JobNotify.JOB_NOTIFY_OUTCOME_AND_ACTIONS
    context: JobContext.ValueType = JobContext.JOB_CONTEXT_ISOLATED
    fork: Original | None = None
    """What its thread begins with, where its context is a FORK."""
    pass_values: Iterable[str] = ()
    timeout: Duration | None = None
    notify_assistant_id: str = ""
    """The assistant that notices wake."""
    notify_agent: str = ""
    """The agent behind it."""
    webhook: str = ""
    """The webhook that is told the same."""
    cancel_with_run: bool = False
    """Whether the run that launches it waits for it, and it goes when that goes."""


@dataclass(frozen=True, slots=True)
class DelegationLimits:
    """How far delegation may go."""

    depth: int
    """Threads below a root thread, counted downwards."""
    width: int
    """Active jobs below one thread."""


def launch(
    tx: Transaction, tenant: str, new: NewJob, limits: DelegationLimits, actor: Actor
) -> JobRow:
    """Opens a job's thread and lets its first run in."""
    _check_run(tx, tenant, new.parent_run_id)
    parent = _parent(tx, tenant, new.parent_thread_id)
    if new.cancel_with_run:
        _check_waiting(tx, tenant, new.parent_run_id, parent.key if parent else None)
    if parent is None:
        thread = open_session(tx, tenant, new.thread, actor)
    else:
        _check_limits(tx, parent, limits)
        thread = open_thread(tx, parent.session, parent, new.thread, actor)
    if new.fork is not None:
        add_conversation(tx, thread, new.fork, actor)
    event = Event(actor=actor)
    _describe(event, new)
    tx.append(thread, event)
    new.run.values = _passed(parent, new)
    run = admit(tx, thread, new.run, actor)
    job = launched_job(event)
    job.run_count = 1
    return tx.add_job(thread, parent.key if parent else None, run, job)


def _check_run(tx: Transaction, tenant: str, run_id: str) -> None:
    """A run that is over can launch, or wait for, no more than it can write."""
    if not run_id:
        return
    run = tx.run(tenant, run_id)
    if run is None or run.data.state not in PARKED | {RUNNING}:
        raise errors.run_over(run_id)


def _check_waiting(reader: Reader, tenant: str, run_id: str, parent: int | None) -> None:
    """Refuses to tie a job to a run that does not stand on its parent's thread."""
    run = reader.run(tenant, run_id) if run_id else None
    if run is None or run.thread.key != parent:
        wrong = "only a run of the job's parent thread may say so"
        raise errors.invalid(Violation("cancel_with_run", wrong))


def _check_free(reader: Reader, job: JobRow, run_id: str) -> None:
    """Refuses to tie a job to a second run while it works for one, which it goes with."""
    first = job.data.waiting_run_id
    if first in ("", run_id) or job.run.data.state in TERMINAL:
        return
    waiting = reader.run(job.thread.session.tenant, first)
    if waiting is not None and waiting.data.state not in TERMINAL:
        raise errors.job_waited_for(job.thread.data.thread_id, job.run.data.run_id)


def _parent(tx: Transaction, tenant: str, thread_id: str) -> ThreadRow | None:
    if not thread_id:
        return None
    parent = tx.thread(tenant, thread_id)
    if parent is None:
        raise errors.thread_not_found(thread_id)
    return parent


def _describe(event: Event, new: NewJob) -> None:
    launched = event.job_launched
    launched.parent_thread_id = new.parent_thread_id
    launched.parent_run_id = new.parent_run_id
    launched.assistant_id, launched.agent = new.run.assistant_id, new.run.agent
    launched.task = new.task
    launched.labels.update(new.labels)
    launched.notify, launched.context = new.notify, new.context
    launched.notify_assistant_id = new.notify_assistant_id
    launched.notify_agent = new.notify_agent
    launched.webhook = new.webhook
    launched.waiting_run_id = new.parent_run_id if new.cancel_with_run else ""
    if new.timeout is not None:
        launched.timeout.CopyFrom(new.timeout)


def _passed(parent: ThreadRow | None, new: NewJob) -> Struct | None:
    """The values to begin with: those of the parent that are named, then the task's own."""
    values = Struct()
    if parent is not None:
        for name in new.pass_values:
            if name in parent.values.fields:
                values.fields[name].CopyFrom(parent.values.fields[name])
    if new.run.values is not None:
        values.MergeFrom(new.run.values)
    return values


def _check_limits(tx: Transaction, parent: ThreadRow, limits: DelegationLimits) -> None:
    depth, above = 1, parent
    while above.parent is not None:
        depth, above = depth + 1, tx.thread_at(above.parent)
    if depth > limits.depth:
        raise errors.delegation_limit("depth", limits.depth)
    if tx.active_jobs(parent.key) >= limits.width:
        raise errors.delegation_limit("width", limits.width)


def find(reader: Reader, tenant: str, job_id: str) -> JobRow:
    """Returns a job.

    Raises:
        ServiceError: There is none; names the one whose id begins alike, if there is just one.
    """
    job = reader.job(tenant, job_id)
    if job is None:
        alike = reader.jobs_like(tenant, job_id, 2) if len(job_id) >= SUGGEST_FROM else []
        raise errors.job_not_found(job_id, alike[0] if len(alike) == 1 else None)
    return job


_STRATEGIES = {
    JobDelivery.JOB_DELIVERY_INTERRUPT: MultitaskStrategy.MULTITASK_STRATEGY_INTERRUPT,
    JobDelivery.JOB_DELIVERY_STEER: MultitaskStrategy.MULTITASK_STRATEGY_STEER,
    JobDelivery.JOB_DELIVERY_ENQUEUE: MultitaskStrategy.MULTITASK_STRATEGY_ENQUEUE,
}


def update(
    tx: Transaction,
    job: JobRow,
    new: NewRun,
    instructions: str,
    delivery: JobDelivery.ValueType,
    actor: Actor,
    waiting_run_id: str | None = None,
) -> JobRow:
    """Gives a job new instructions, and the run that follows them where it has none that can.

    Args:
        tx: The transaction.
        job: The job.
        new: The run.
        instructions: What it is to do.
        delivery: How that reaches it.
        actor: Who asks.
        waiting_run_id: The run that waits for the job from now on, and takes it along.
    """
    event = Event(actor=actor)
    event.job_updated.instructions = instructions
    event.job_updated.delivery = delivery
    if waiting_run_id is not None:
        _check_run(tx, job.thread.session.tenant, waiting_run_id)
        _check_waiting(tx, job.thread.session.tenant, waiting_run_id, job.parent)
        _check_free(tx, job, waiting_run_id)
        event.job_updated.waiting_run_id = waiting_run_id
    tx.append(job.thread, event)
    if waiting_run_id is not None:
        apply_to_job(job.data, event)
        tx.save_job(job)
    new.strategy, new.job = _STRATEGIES[delivery], job
    admit(tx, job.thread, new, actor)
    return job


def cancel(tx: Transaction, job: JobRow, actor: Actor, *, cascade: bool, by_parent: bool) -> None:
    """Cancels whatever is active or waiting on a job's thread, and with `cascade` below it."""
    if cascade:
        cancel_tree(tx, job.thread, actor, by_parent=by_parent)
    else:
        cancel_thread(tx, job.thread, actor, by_parent=by_parent)
