"""WatchJobs: jobs as the log changes them."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import JOB_SCOPE_TREE, Job, WatchJobsRequest, WatchJobsResponse
from callboard.v1.lifecycle_pb2 import Until
from callboard.v1.run_pb2 import Run, StreamEnd
from callboard_server import errors
from callboard_server.engine import jobs
from callboard_server.engine.engine import Engine, find_thread
from callboard_server.engine.lifecycle import REQUIRES_ACTION, TERMINAL
from callboard_server.engine.live import Batch, SessionReader
from callboard_server.log.events import kinds
from callboard_server.log.fold import JOB_KINDS, JobsFold
from callboard_server.rpc import Call
from callboard_server.services.paging import fitting
from callboard_server.services.streams import check_cursor
from callboard_server.store.base import EventFilter, JobRow, Page, Reader, ThreadRow

_SNAPSHOT_JOBS = 50
_ALL = Page(limit=sys.maxsize)
_KINDS = JOB_KINDS | kinds("thread_deleted")


@dataclass(slots=True)
class _Watch:
    """What one stream shows, and how it stands."""

    request: WatchJobsRequest
    session: int
    wanted: EventFilter
    start: int
    above: set[str]
    """The threads of which it shows the jobs: with TREE those of the jobs that it covers, too."""
    fold: JobsFold = field(default_factory=JobsFold)
    states: dict[str, int] = field(default_factory=dict)
    """The states of the jobs that were shown, by id."""
    snapshot: list[Job] = field(default_factory=list)
    deleted: bool = False
    """Whether the thread that it is about is gone."""

    def shows(self, job: Job) -> bool:
        return self._covers(job) and all(
            job.labels.get(key) == value for key, value in self.request.labels.items()
        )

    def _covers(self, job: Job) -> bool:
        """Whether a job is where it looks. It meets every job after the one that launched it."""
        if job.job_id != self.request.job_id and job.parent_thread_id not in self.above:
            return False
        if self.request.scope == JOB_SCOPE_TREE:
            self.above.add(job.job_id)
        return True

    def changes(self, batch: Batch) -> list[Job]:
        """Returns the jobs that a batch changed, each as it stood after its change."""
        changed = []
        for record in batch.records:
            job = self._apply(record.event)
            if job is not None:
                changed.append(job)
        return changed

    def _apply(self, event: Event) -> Job | None:
        """Applies an event; returns the job that it changed, if that is to be shown."""
        if event.HasField("thread_deleted"):
            self.states.pop(event.thread_id, None)
            named = (self.request.job_id, self.request.parent_thread_id)
            self.deleted |= event.thread_id in named
            return None
        job = self.fold.apply(event)
        if job is None or not self.shows(job):
            return None
        self._note([job])
        return job

    def _note(self, shown: Iterable[Job]) -> None:
        for job in shown:
            self.states[job.job_id] = job.state

    def take_snapshot(self, engine: Engine, reader: Reader, rows: Iterable[JobRow]) -> None:
        """Starts from how the jobs stand."""
        for row in rows:
            if not self.shows(row.data):
                continue
            run, job = Run(), Job()
            run.CopyFrom(row.run.data)
            job.CopyFrom(row.data)
            job.run_id = run.run_id
            self.fold.start_from(job, run)
            self.snapshot.append(engine.show_job(reader, row))
        self._note(self.snapshot)

    def replay(self, reader: Reader, through: int) -> None:
        """Starts from how the jobs stood at a sequence."""
        for record in reader.events(self.session, self.wanted, through=through):
            self._apply(record.event)

    @property
    def end(self) -> StreamEnd | None:
        if self.deleted:
            return StreamEnd(reason=StreamEnd.REASON_DELETED)
        states = set(self.states.values())
        until = self.request.until
        if until in (Until.UNTIL_DONE, Until.UNTIL_DONE_OR_ACTION) and states <= TERMINAL:
            return StreamEnd(reason=StreamEnd.REASON_DONE)
        if until == Until.UNTIL_DONE_OR_ACTION and REQUIRES_ACTION in states:
            return StreamEnd(reason=StreamEnd.REASON_ACTION_REQUIRED)
        return None


async def watch_jobs(engine: Engine, call: Call, request: WatchJobsRequest) -> AsyncIterator[bytes]:
    """Streams how jobs stand, then every change."""
    tenant = call.caller.tenant
    watch = await engine.store.read(lambda reader: _open(engine, reader, tenant, request))
    reader = SessionReader(
        engine.store, engine.hub, watch.session, watch.wanted, after=watch.start, deltas=False
    )
    through = watch.start
    async with reader:
        if not request.HasField("after_sequence"):
            for piece in _snapshot(watch, through):
                yield piece
            if watch.end is not None:
                return
        async for batch in reader.batches():
            changed, through = watch.changes(batch), batch.through
            end = watch.end if batch.caught_up else None
            while changed != (fit := list(fitting(changed))):
                changed = changed[len(fit) :]
                yield _frame(fit, fit[-1].sequence, None)
            yield _frame(changed, through, end)
            if end is not None:
                return
    if reader.deleted:
        yield _frame([], through, StreamEnd(reason=StreamEnd.REASON_DELETED))
        return
    yield _frame([], through, StreamEnd(reason=StreamEnd.REASON_SERVER_DRAINING))
    raise errors.draining()


def _open(engine: Engine, reader: Reader, tenant: str, request: WatchJobsRequest) -> _Watch:
    job = jobs.find(reader, tenant, request.job_id) if request.job_id else None
    thread = job.thread if job else find_thread(reader, tenant, request.parent_thread_id)
    session, alone = thread.session, job if request.scope != JOB_SCOPE_TREE else None
    watch = _Watch(
        request,
        session.key,
        EventFilter(thread=alone.thread.key if alone else None, kinds=_KINDS),
        start=session.head,
        above={request.parent_thread_id} - {""},
    )
    if request.HasField("after_sequence"):
        check_cursor(session, request.after_sequence)
        watch.start = request.after_sequence
        watch.replay(reader, request.after_sequence)
    else:
        rows = [] if alone else _rows_below(reader, thread, request.scope == JOB_SCOPE_TREE)
        watch.take_snapshot(engine, reader, [*([job] if job else []), *rows])
    return watch


def _rows_below(reader: Reader, thread: ThreadRow, whole_tree: bool) -> list[JobRow]:
    """Returns the jobs of a thread, or all below it, as they were launched: parents first."""
    scope = {"below": thread.key} if whole_tree else {"parent": thread.key}
    found = reader.list_jobs(thread.session.tenant, _ALL, states=(), labels={}, **scope)
    return found[::-1]


def _snapshot(watch: _Watch, through: int) -> Iterator[bytes]:
    """The snapshot in frames. Only the last has a cursor: a part of it is no place to resume."""
    shown = watch.snapshot
    while shown != (fit := list(fitting(shown[:_SNAPSHOT_JOBS]))):
        yield _frame(fit, 0, None, snapshot=True)
        shown = shown[len(fit) :]
    yield _frame(shown, through, watch.end, snapshot=True)


def _frame(
    changed: Sequence[Job], through: int, end: StreamEnd | None, *, snapshot: bool = False
) -> bytes:
    return WatchJobsResponse(
        jobs=changed, snapshot=snapshot, through_sequence=through, end=end
    ).SerializeToString()
