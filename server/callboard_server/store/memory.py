"""A store in memory, for tests: the same interface and results as SQLite's, and no file."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct

from callboard.structs import to_dict
from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Action, ActionResponse, Event, Notice
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard.v1.server_pb2 import Counts
from callboard.v1.thread_pb2 import Thread
from callboard_server.log.events import kind_of, kinds, redacted
from callboard_server.log.records import Draft, Record
from callboard_server.store.base import (
    ActionRow,
    ActionState,
    AssistantRow,
    DeliveryRow,
    DeliveryState,
    Ended,
    EventFilter,
    JobRow,
    Listener,
    NoticeRow,
    Page,
    Reader,
    Remembered,
    RunRow,
    SessionRow,
    StoreError,
    StoreUnavailable,
    ThreadRow,
    Transaction,
)

T = TypeVar("T")
M = TypeVar("M", bound=Message)
Row = SessionRow | ThreadRow | RunRow


class _Session(NamedTuple):
    tenant: str
    session_id: str
    head: int
    oldest: int
    active_at: float
    ttl: float | None


class _Thread(NamedTuple):
    tenant: str
    session: int
    parent: int | None
    data: Thread
    values: Struct


class _Run(NamedTuple):
    tenant: str
    thread: int
    data: Run
    queued_at: int
    ready: bool
    due_at: float | None
    stop: int

    @property
    def is_live(self) -> bool:
        return self.data.state < RunState.RUN_STATE_SUCCEEDED

    @property
    def is_busy(self) -> bool:
        queued = self.data.state == RunState.RUN_STATE_QUEUED and self.due_at is None
        return queued or self.data.state == RunState.RUN_STATE_RUNNING


class _Job(NamedTuple):
    tenant: str
    parent: int | None
    run: int
    data: Job


class _Action(NamedTuple):
    tenant: str
    run: int
    data: Action
    state: ActionState
    response: ActionResponse | None
    ended_at: float | None


class _Notice(NamedTuple):
    thread: int
    run: int
    sequence: int
    data: Notice
    read: bool
    wakes: int


class _Delivery(NamedTuple):
    tenant: str
    delivery_id: str
    destination: str
    body: bytes
    create_time: float
    due_at: float
    attempts: int = 0
    state: DeliveryState = DeliveryState.PENDING


class _Assistant(NamedTuple):
    tenant: str
    assistant_id: str
    agent: str
    current: int
    versions: Mapping[int, Assistant]
    deleted: bool = False

    def shown(self, key: int, version: int) -> AssistantRow | None:
        data = self.versions.get(version)
        if data is None:
            return None
        return AssistantRow(key, self.current, max(self.versions), _copy(data), self.deleted)


class _Request(NamedTuple):
    answer: Remembered
    create_time: float


@dataclass(slots=True)
class _Tables:
    """What is committed. Nothing in here is ever changed in place: it is put anew or dropped."""

    sessions: dict[int, _Session] = field(default_factory=dict)
    threads: dict[int, _Thread] = field(default_factory=dict)
    runs: dict[int, _Run] = field(default_factory=dict)
    jobs: dict[int, _Job] = field(default_factory=dict)
    """By the key of the thread."""
    actions: dict[int, _Action] = field(default_factory=dict)
    notices: dict[int, _Notice] = field(default_factory=dict)
    outbox: dict[int, _Delivery] = field(default_factory=dict)
    assistants: dict[int, _Assistant] = field(default_factory=dict)
    requests: dict[tuple[str, str, str], _Request] = field(default_factory=dict)
    events: defaultdict[int, dict[int, Record]] = field(default_factory=lambda: defaultdict(dict))
    """By the key of the session, then by sequence."""
    keys: Counter[str] = field(default_factory=Counter)


class MemoryStore:
    """A store that lives as long as its object.

    Args:
        worker_id: The name of this process; nobody else can own the store.
        clock: Nanoseconds since the epoch.
    """

    name = "memory"
    fault: StoreError | None = None

    def __init__(
        self, *, worker_id: str = "memory", clock: Callable[[], int] = time.time_ns
    ) -> None:
        self._worker_id = worker_id
        self._clock = clock
        self._tables = _Tables()
        self._closed = True

    def now(self) -> float:
        return self._clock() / 1e9

    async def open(self, listener: Listener) -> None:
        self._listener = listener
        self._closed = False

    async def close(self) -> None:
        self._closed = True
        # Operations that were handed in before come first.
        await asyncio.sleep(0)

    async def write(self, operation: Callable[[Transaction], T], ended: Ended | None = None) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[T] = loop.create_future()
        # On a turn of its own, so that a caller that is cancelled does not undo it.
        loop.call_soon(self._commit, operation, answer, ended)
        return await answer

    def _commit(
        self,
        operation: Callable[[Transaction], T],
        answer: asyncio.Future[T],
        ended: Ended | None,
    ) -> None:
        transaction = MemoryTransaction(self._tables, self._clock())
        try:
            result = operation(transaction)
            transaction.flush()
        except Exception as error:
            transaction.abandon()
            if ended is not None:
                ended(False)
            if not answer.done():
                # No future can carry a StopIteration.
                lost = isinstance(error, StopIteration)
                answer.set_exception(RuntimeError("StopIteration") if lost else error)
            return
        if transaction.records:
            self._listener(transaction.records)
        if ended is not None:
            ended(True)
        if not answer.done():
            answer.set_result(result)

    async def read(self, query: Callable[[Reader], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        await asyncio.sleep(0)
        return query(MemoryReader(self._tables))


class MemoryReader:
    """One view of the tables. Whoever asks gets objects of their own."""

    def __init__(self, tables: _Tables) -> None:
        self._stored = tables
        # A row that was read once is the same object for the rest of the transaction.
        self._sessions: dict[int, SessionRow] = {}
        self._threads: dict[int, ThreadRow] = {}
        self._runs: dict[int, RunRow] = {}
        self._jobs: dict[int, JobRow] = {}
        self._actions: dict[int, ActionRow] = {}
        self._notices: dict[int, NoticeRow] = {}

    @property
    def _tables(self) -> _Tables:
        return self._stored

    # Threads

    def session(self, key: int) -> SessionRow:
        if key not in self._sessions:
            self._sessions[key] = SessionRow(key, *self._tables.sessions[key])
        return self._sessions[key]

    def expired_sessions(self, now: float, limit: int) -> list[SessionRow]:
        expired = [
            (row.active_at + row.ttl, key)
            for key, row in self._tables.sessions.items()
            if row.ttl is not None and row.active_at + row.ttl <= now
        ]
        return [self.session(key) for _, key in sorted(expired)[:limit]]

    def thread(self, tenant: str, thread_id: str) -> ThreadRow | None:
        for key, row in self._tables.threads.items():
            if row.tenant == tenant and row.data.thread_id == thread_id:
                return self.thread_at(key)
        return None

    def thread_at(self, key: int) -> ThreadRow:
        if key not in self._threads:
            row = self._tables.threads[key]
            self._threads[key] = ThreadRow(
                key, self.session(row.session), row.parent, _copy(row.data), _copy(row.values)
            )
        return self._threads[key]

    def _tree(self, thread: int) -> list[int]:
        tree = [thread]
        for key in tree:
            tree += [child for child, row in self._tables.threads.items() if row.parent == key]
        return tree

    def tree_is_busy(self, thread: int) -> bool:
        tree = self._tree(thread)
        return any(row.is_busy for row in self._tables.runs.values() if row.thread in tree)

    def tree_is_live(self, thread: int) -> bool:
        tree = self._tree(thread)
        return any(row.is_live for row in self._tables.runs.values() if row.thread in tree)

    def threads_below(self, thread: int) -> list[ThreadRow]:
        return [self.thread_at(key) for key in sorted(self._tree(thread))]

    def list_threads(
        self,
        tenant: str,
        page: Page,
        *,
        session: int | None,
        busy: bool | None,
        metadata: Mapping[str, object],
    ) -> list[ThreadRow]:
        at_work = {row.thread for row in self._tables.runs.values() if row.is_busy}

        def wanted(key: int, row: _Thread) -> bool:
            placed = row.parent is None if session is None else row.session == session
            fits = busy is None or busy == (key in at_work)
            holds = _holds(to_dict(row.data.metadata), metadata)
            return row.tenant == tenant and placed and fits and holds

        found = (key for key, row in self._tables.threads.items() if wanted(key, row))
        return [self.thread_at(key) for key in _paged(found, page)]

    # Runs

    def run(self, tenant: str, run_id: str) -> RunRow | None:
        for key, row in self._tables.runs.items():
            if row.tenant == tenant and row.data.run_id == run_id:
                return self._run_at(key)
        return None

    def _run_at(self, key: int) -> RunRow:
        if key not in self._runs:
            row = self._tables.runs[key]
            place = row.queued_at, row.ready, row.due_at, row.stop
            self._runs[key] = RunRow(key, self.thread_at(row.thread), _copy(row.data), *place)
        return self._runs[key]

    def _in_line(self, wanted: Callable[[_Run], bool]) -> list[RunRow]:
        found = [(row.queued_at, key) for key, row in self._tables.runs.items() if wanted(row)]
        return [self._run_at(key) for _, key in sorted(found)]

    def live_runs(self, thread: int) -> list[RunRow]:
        return self._in_line(lambda row: row.thread == thread and row.is_live)

    def ready_runs(self, limit: int, without: Collection[str] = ()) -> list[RunRow]:
        def wanted(row: _Run) -> bool:
            return row.ready and row.data.assistant_id not in without

        return self._in_line(wanted)[:limit]

    def ready_before(self, run: RunRow) -> int:
        place = run.queued_at, run.key
        ready = self._in_line(lambda row: row.ready)
        return sum((other.queued_at, other.key) < place for other in ready)

    def attended_runs(self) -> list[RunRow]:
        return self._in_line(
            lambda row: (
                row.data.HasField("cancel_after_detach")
                and row.data.state < RunState.RUN_STATE_SUCCEEDED
            )
        )

    def running_runs(self) -> list[RunRow]:
        running = self._in_line(lambda row: row.data.state == RunState.RUN_STATE_RUNNING)
        return sorted(running, key=lambda run: run.key)

    def due_runs(self, now: float, limit: int) -> list[RunRow]:
        due = [
            (row.due_at, key)
            for key, row in self._tables.runs.items()
            if row.due_at is not None and row.due_at <= now
        ]
        return [self._run_at(key) for _, key in sorted(due)[:limit]]

    def next_due(self) -> float | None:
        times = [row.due_at for row in self._tables.runs.values() if row.due_at is not None]
        return min(times, default=None)

    def list_runs(
        self, tenant: str, page: Page, *, thread: int | None, states: Sequence[int]
    ) -> list[RunRow]:
        found = (
            key
            for key, row in self._tables.runs.items()
            if row.tenant == tenant
            and thread in (None, row.thread)
            and (not states or row.data.state in states)
        )
        return [self._run_at(key) for key in _paged(found, page)]

    # Actions

    def _action_at(self, key: int) -> ActionRow:
        if key not in self._actions:
            row = self._tables.actions[key]
            ending = row.state, row.response, row.ended_at
            self._actions[key] = ActionRow(key, self._run_at(row.run), _copy(row.data), *ending)
        return self._actions[key]

    def _actions_where(self, wanted: Callable[[_Action], bool]) -> list[ActionRow]:
        found = [key for key, row in self._tables.actions.items() if wanted(row)]
        return [self._action_at(key) for key in sorted(found)]

    def action(self, session: int, action_id: str) -> ActionRow | None:
        found = self._actions_where(lambda row: row.data.action_id == action_id)
        return next((row for row in found if row.run.thread.session.key == session), None)

    def actions_of_run(self, run: int) -> list[ActionRow]:
        return self._actions_where(lambda row: row.run == run)

    def open_actions(
        self,
        tenant: str,
        *,
        limit: int,
        after: int | None = None,
        thread: int | None = None,
        session: int | None = None,
    ) -> list[ActionRow]:
        waiting = self._actions_where(
            lambda row: row.tenant == tenant and row.state == ActionState.OPEN
        )
        found = [
            row
            for row in waiting
            if row.key > (after or 0)
            and thread in (None, row.run.thread.key)
            and session in (None, row.run.thread.session.key)
        ]
        return found[:limit]

    # Notices

    def _notices_where(self, wanted: Callable[[_Notice], bool]) -> list[NoticeRow]:
        found = [key for key, row in self._tables.notices.items() if wanted(row)]
        return [self._notice_at(key) for key in sorted(found)]

    def _notice_at(self, key: int) -> NoticeRow:
        if key not in self._notices:
            row = self._tables.notices[key]
            data = _copy(row.data)
            self._notices[key] = NoticeRow(
                key, self.thread_at(row.thread), row.run, row.sequence, data, row.read, row.wakes
            )
        return self._notices[key]

    def notices(self, thread: int) -> list[NoticeRow]:
        return self._notices_where(lambda row: row.thread == thread)

    def unread_notices(self, thread: int) -> list[NoticeRow]:
        return self._notices_where(lambda row: row.thread == thread and not row.read)

    def list_notices(
        self, thread: int, *, limit: int, after: int | None = None, unread: bool = False
    ) -> list[NoticeRow]:
        found = self.unread_notices(thread) if unread else self.notices(thread)
        return [row for row in found if row.key > (after or 0)][:limit]

    def notice(self, tenant: str, notice_id: str) -> NoticeRow | None:
        found = self._notices_where(lambda row: row.data.notice_id == notice_id)
        return next((row for row in found if row.thread.session.tenant == tenant), None)

    def notices_about(self, run: int) -> list[NoticeRow]:
        return self._notices_where(lambda row: row.run == run)

    # Jobs

    def job(self, tenant: str, job_id: str) -> JobRow | None:
        thread = self.thread(tenant, job_id)
        return self._job_at(thread.key) if thread and thread.key in self._tables.jobs else None

    def _job_at(self, thread: int) -> JobRow:
        if thread not in self._jobs:
            _, parent, run, data = self._tables.jobs[thread]
            self._jobs[thread] = JobRow(
                self.thread_at(thread), parent, self._run_at(run), _copy(data)
            )
        return self._jobs[thread]

    def list_jobs(
        self,
        tenant: str,
        page: Page,
        *,
        parent: int | None = None,
        below: int | None = None,
        states: Sequence[int],
        labels: Mapping[str, str],
    ) -> list[JobRow]:
        parents = {row.key for row in self.threads_below(below)} if below is not None else None
        found = (
            key
            for key, row in self._tables.jobs.items()
            if row.tenant == tenant
            and parent in (None, row.parent)
            and (parents is None or row.parent in parents)
            and (not states or self._tables.runs[row.run].data.state in states)
            and _holds(dict(row.data.labels), labels)
        )
        return [self._job_at(key) for key in _paged(found, page)]

    def jobs_of_session(self, session: int) -> list[JobRow]:
        threads = self._tables.threads
        found = (key for key in self._tables.jobs if threads[key].session == session)
        return [self._job_at(key) for key in sorted(found)]

    def active_jobs(self, parent: int) -> int:
        runs = [row.run for row in self._tables.jobs.values() if row.parent == parent]
        return sum(self._tables.runs[key].is_live for key in runs)

    def jobs_like(self, tenant: str, prefix: str, limit: int) -> list[str]:
        rows = (self._tables.threads[key] for key in self._tables.jobs)
        ids = (row.data.thread_id for row in rows if row.tenant == tenant)
        return sorted(job_id for job_id in ids if job_id.startswith(prefix))[:limit]

    # Events

    def events(
        self,
        session: int,
        wanted: EventFilter,
        *,
        after: int = 0,
        through: int | None = None,
        limit: int | None = None,
        newest_first: bool = False,
    ) -> Iterator[Record]:
        log = self._tables.events.get(session, {})
        found = [
            log[sequence]
            for sequence in sorted(log, reverse=newest_first)
            if sequence > after and (through is None or sequence <= through)
            if wanted.matches(log[sequence])
        ]
        return iter(found[:limit])

    def messages(
        self, thread: int, *, limit: int, newest_first: bool, beyond: int | None = None
    ) -> list[Record]:
        found = self._messages(thread)
        if beyond is not None and newest_first:
            found = [record for record in found if record.sequence < beyond]
        elif beyond is not None:
            found = [record for record in found if record.sequence > beyond]
        return (found[::-1] if newest_first else found)[:limit]

    def _messages(self, thread: int) -> list[Record]:
        return self._of_kinds(thread, kinds("message_added"))

    def _of_kinds(self, thread: int, wanted: frozenset[int]) -> list[Record]:
        records = (r for log in self._tables.events.values() for r in log.values())
        found = (r for r in records if r.thread == thread and r.kind in wanted)
        return sorted(found, key=lambda record: record.sequence)

    def message_count(self, thread: int) -> int:
        return len(self._messages(thread))

    def voids(self, thread: int) -> list[Record]:
        return self._of_kinds(thread, kinds("runs_rolled_back", "claim_voided"))

    # Assistants

    def assistant(
        self, tenant: str, assistant_id: str, version: int | None = None
    ) -> AssistantRow | None:
        for key, row in self._tables.assistants.items():
            if (row.tenant, row.assistant_id) == (tenant, assistant_id):
                return row.shown(key, row.current if version is None else version)
        return None

    def assistant_versions(self, assistant: int, page: Page) -> list[Assistant]:
        versions = self._tables.assistants[assistant].versions
        return [_copy(versions[version]) for version in _paged(versions, page)]

    def is_assistant_id_used(self, tenant: str, assistant_id: str) -> bool:
        rows = self._tables.assistants.values()
        return any((row.tenant, row.assistant_id) == (tenant, assistant_id) for row in rows)

    def list_assistants(
        self, tenant: str, page: Page, *, agent: str | None, metadata: Mapping[str, object]
    ) -> list[AssistantRow]:
        rows = self._tables.assistants
        found = (
            key
            for key, row in rows.items()
            if row.tenant == tenant
            and not row.deleted
            and agent in (None, row.agent)
            and _holds(to_dict(row.versions[row.current].metadata), metadata)
        )
        shown = (rows[key].shown(key, rows[key].current) for key in _paged(found, page))
        return [row for row in shown if row is not None]

    # Everything else

    def pending_deliveries(self, destination: str, limit: int) -> list[DeliveryRow]:
        pending = [
            DeliveryRow(key, *row[1:])
            for key, row in self._tables.outbox.items()
            if row.destination == destination and row.state == DeliveryState.PENDING
        ]
        return sorted(pending, key=lambda row: (row.due_at, row.key))[:limit]

    def remembered(self, tenant: str, method: str, request_id: str) -> Remembered | None:
        row = self._tables.requests.get((tenant, method, request_id))
        return row.answer if row else None

    def counts(self) -> Counts:
        states = Counter(row.data.state for row in self._tables.runs.values())
        sent = Counter(row.state for row in self._tables.outbox.values())
        return Counts(
            sessions=len(self._tables.sessions),
            threads=len(self._tables.threads),
            runs_queued=states[RunState.RUN_STATE_QUEUED],
            runs_running=states[RunState.RUN_STATE_RUNNING],
            runs_waiting=states[RunState.RUN_STATE_WAITING],
            runs_requiring_action=states[RunState.RUN_STATE_REQUIRES_ACTION],
            runs_finished=sum(not row.is_live for row in self._tables.runs.values()),
            webhooks_pending=sent[DeliveryState.PENDING],
            webhooks_dropped=sent[DeliveryState.DROPPED],
        )

    def size(self) -> int:
        return 0


class MemoryTransaction(MemoryReader):
    """One operation's reads and writes.

    A row that was added or saved is written, as it then stands, before the next read and at the
    end. What was written can be undone.
    """

    def __init__(self, tables: _Tables, now: int) -> None:
        super().__init__(tables)
        self._now = now
        self._new: list[Row] = []
        self._saved: list[Row] = []
        self._undo: list[tuple[dict[Any, Any], object, object]] = []
        self.records: list[Record] = []
        """What the operation appended, in order."""

    @property
    def now(self) -> int:
        return self._now

    @property
    def _tables(self) -> _Tables:
        self.flush()
        return self._stored

    def flush(self) -> None:
        """Writes the rows that were added or saved."""
        for row in self._new:
            self._put_row(row)
        for row in self._saved:
            if row.key in self._table_of(row):
                self._put_row(row)
        self._new.clear()
        self._saved.clear()

    def _table_of(self, row: Row) -> dict[int, Any]:
        match row:
            case SessionRow():
                return self._stored.sessions
            case ThreadRow():
                return self._stored.threads
            case RunRow():
                return self._stored.runs

    def _put_row(self, row: Row) -> None:
        self._put(self._table_of(row), row.key, _stored_row(row))

    def _put(self, table: dict[Any, Any], key: object, value: object) -> None:
        """Sets or, with None, drops what a table has under a key."""
        self._undo.append((table, key, table.get(key)))
        _set(table, key, value)

    def abandon(self) -> None:
        """Takes back whatever the operation has written."""
        for table, key, value in reversed(self._undo):
            _set(table, key, value)

    def _key(self, table: str) -> int:
        self._stored.keys[table] += 1
        return self._stored.keys[table]

    # Adding

    def add_session(self, tenant: str, session_id: str) -> SessionRow:
        row = SessionRow(self._key("sessions"), tenant, session_id)
        self._sessions[row.key] = row
        self._new.append(row)
        return row

    def add_thread(self, session: SessionRow, parent: int | None, data: Thread) -> ThreadRow:
        row = ThreadRow(self._key("threads"), session, parent, data, Struct())
        self._threads[row.key] = row
        self._new.append(row)
        return row

    def add_run(self, thread: ThreadRow, data: Run) -> RunRow:
        row = RunRow(self._key("runs"), thread, data, queued_at=self._now)
        self._runs[row.key] = row
        self._new.append(row)
        return row

    def add_job(self, thread: ThreadRow, parent: int | None, run: RunRow, data: Job) -> JobRow:
        row = JobRow(thread, parent, run, data)
        self._jobs[thread.key] = row
        self._put_job(row)
        return row

    def add_action(self, run: RunRow, data: Action) -> ActionRow:
        row = ActionRow(self._key("actions"), run, data)
        self._actions[row.key] = row
        self._put_action(row)
        return row

    def add_notice(self, thread: ThreadRow, run: RunRow, sequence: int, data: Notice) -> NoticeRow:
        row = NoticeRow(self._key("notices"), thread, run.key, sequence, data)
        self._notices[row.key] = row
        self._put_notice(row)
        return row

    def add_delivery(self, tenant: str, delivery_id: str, destination: str, body: bytes) -> None:
        known = ((row.tenant, row.delivery_id) for row in self._tables.outbox.values())
        if (tenant, delivery_id) not in known:
            now = self._now / 1e9
            row = _Delivery(tenant, delivery_id, destination, body, now, now)
            self._put(self._tables.outbox, self._key("outbox"), row)

    def add_assistant(self, tenant: str, data: Assistant) -> AssistantRow:
        key, version = self._key("assistants"), data.version
        row = _Assistant(tenant, data.assistant_id, data.agent, version, {version: _copy(data)})
        self._put(self._tables.assistants, key, row)
        return AssistantRow(key, version, version, data)

    def add_version(self, row: AssistantRow, data: Assistant) -> None:
        row.current = row.latest = data.version
        row.data = data
        stored = self._tables.assistants[row.key]
        versions = {**stored.versions, data.version: _copy(data)}
        self._put(self._tables.assistants, row.key, stored._replace(versions=versions))
        self.save_assistant(row)

    # Changing

    def save_session(self, row: SessionRow) -> None:
        self._saved.append(row)

    def save_thread(self, row: ThreadRow) -> None:
        self._saved.append(row)

    def save_run(self, row: RunRow) -> None:
        self._saved.append(row)

    def save_job(self, row: JobRow) -> None:
        if row.thread.key in self._tables.jobs:
            self._put_job(row)

    def _put_job(self, row: JobRow) -> None:
        tenant = row.thread.session.tenant
        stored = _Job(tenant, row.parent, row.run.key, _copy(row.data))
        self._put(self._tables.jobs, row.thread.key, stored)

    def save_action(self, row: ActionRow) -> None:
        if row.key in self._tables.actions:
            self._put_action(row)

    def _put_action(self, row: ActionRow) -> None:
        tenant = row.run.thread.session.tenant
        ending = row.state, row.response, row.ended_at
        stored = _Action(tenant, row.run.key, _copy(row.data), *ending)
        self._put(self._tables.actions, row.key, stored)

    def save_notice(self, row: NoticeRow) -> None:
        if row.key in self._tables.notices:
            self._put_notice(row)

    def _put_notice(self, row: NoticeRow) -> None:
        ending = _copy(row.data), row.read, row.wakes
        stored = _Notice(row.thread.key, row.run, row.sequence, *ending)
        self._put(self._tables.notices, row.key, stored)

    def save_delivery(self, row: DeliveryRow) -> None:
        stored = self._tables.outbox.get(row.key)
        if stored is not None:
            changed = stored._replace(
                body=row.body, due_at=row.due_at, attempts=row.attempts, state=row.state
            )
            self._put(self._tables.outbox, row.key, changed)

    def save_assistant(self, row: AssistantRow) -> None:
        stored = self._tables.assistants[row.key]
        changed = stored._replace(current=row.current, deleted=row.deleted)
        self._put(self._tables.assistants, row.key, changed)

    def append(
        self, thread: ThreadRow, event: Event, run: RunRow | None = None, *, claimed: bool = True
    ) -> None:
        session = thread.session
        session.head += 1
        session.active_at = self._now / 1e9
        self._saved.append(session)
        event.sequence = session.head
        event.session_id = session.session_id
        event.thread_id = thread.data.thread_id
        event.time.FromNanoseconds(self._now)
        if run is not None:
            event.run_id = run.data.run_id
            event.attempt = run.data.attempt
            event.claim_epoch = run.data.claim_epoch if claimed else 0
        data, run_key = event.SerializeToString(), run.key if run else None
        record = Record(session.key, session.head, thread.key, run_key, kind_of(event), data)
        self._put(self._stored.events[session.key], record.sequence, record)
        self.records.append(record)

    def append_drafts(self, run: RunRow, drafts: Sequence[Draft]) -> None:
        for draft in drafts:
            self.append(run.thread, Event.FromString(draft.data), run)

    # Removing

    def erase_events(self, thread: ThreadRow) -> None:
        log = self._tables.events[thread.session.key]
        for record in self.events(thread.session.key, EventFilter(thread=thread.key)):
            data = redacted(record.event).SerializeToString()
            left = Record(
                record.session, record.sequence, record.thread, record.run, record.kind, data
            )
            self._put(log, record.sequence, left)

    def delete_session(self, session: SessionRow) -> None:
        for sequence in list(self._tables.events[session.key]):
            self._put(self._tables.events[session.key], sequence, None)
        self._put(self._tables.sessions, session.key, None)
        self._sessions.pop(session.key, None)

    def delete_thread(self, row: ThreadRow) -> None:
        self._put(self._tables.jobs, row.key, None)
        for key in [k for k, a in self._tables.actions.items() if self._is_on(a, row.key)]:
            self._put(self._tables.actions, key, None)
        for key in [k for k, n in self._tables.notices.items() if n.thread == row.key]:
            self._put(self._tables.notices, key, None)
        for key in [key for key, run in self._tables.runs.items() if run.thread == row.key]:
            self._put(self._tables.runs, key, None)
        self._put(self._tables.threads, row.key, None)
        self._threads.pop(row.key, None)

    def _is_on(self, action: _Action, thread: int) -> bool:
        return self._tables.runs[action.run].thread == thread

    def forget_assistants(self) -> None:
        live = {(r.tenant, r.data.assistant_id) for r in self._tables.runs.values() if r.is_live}
        for key, row in list(self._tables.assistants.items()):
            if row.deleted and row.versions and (row.tenant, row.assistant_id) not in live:
                self._put(self._tables.assistants, key, row._replace(versions={}))

    # Remembered answers

    def remember(self, tenant: str, method: str, request_id: str, answer: Remembered) -> None:
        row = _Request(answer, self._now / 1e9)
        self._put(self._tables.requests, (tenant, method, request_id), row)

    def forget(self, before: float) -> None:
        old = [key for key, row in self._tables.requests.items() if row.create_time < before]
        for key in old:
            self._put(self._tables.requests, key, None)

    def forget_deliveries(self, before: float) -> None:
        for key, row in list(self._tables.outbox.items()):
            if row.state != DeliveryState.PENDING and row.create_time < before:
                self._put(self._tables.outbox, key, None)


def _set(table: dict[Any, Any], key: object, value: object) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value


def _stored_row(row: Row) -> _Session | _Thread | _Run:
    match row:
        case SessionRow():
            life = row.head, row.oldest, row.active_at, row.ttl
            return _Session(row.tenant, row.session_id, *life)
        case ThreadRow():
            tenant, data, values = row.session.tenant, _copy(row.data), _copy(row.values)
            return _Thread(tenant, row.session.key, row.parent, data, values)
        case RunRow():
            tenant, thread = row.thread.session.tenant, row.thread.key
            place = row.queued_at, row.ready, row.due_at, row.stop
            return _Run(tenant, thread, _copy(row.data), *place)


def _copy(message: M) -> M:
    copy = type(message)()
    copy.CopyFrom(message)
    return copy


def _paged(keys: Iterable[int], page: Page) -> list[int]:
    newest_first = sorted(keys, reverse=True)
    return [key for key in newest_first if page.before is None or key < page.before][: page.limit]


def _holds(held: object, wanted: object) -> bool:
    """Whether JSON holds all of `wanted`: objects by key, all else by equality."""
    if isinstance(wanted, Mapping):
        if not isinstance(held, Mapping):
            return False
        return all(name in held and _holds(held[name], part) for name, part in wanted.items())
    # Not ==, for which True is 1.
    return json.dumps(held, sort_keys=True) == json.dumps(wanted, sort_keys=True)
