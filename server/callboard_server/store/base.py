"""The interface of every store.

A store takes *operations*: functions that read and write through a `Transaction`. Each is atomic;
those that arrive together are committed together, in the order of their arrival. After a commit the
store hands its records to a listener, in commit order, and only then answers the callers.

The shape fits SQLite, where one process runs the operations one after another, and
PostgreSQL, where several writers do: an operation takes its session first (`Transaction.thread`,
`.run` and `.job` do so), which there locks the session's row for the rest of the transaction. An
operation must not block, must not keep what it was given, and may be run again when a commit
failed.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Protocol, TypeVar

from google.protobuf.struct_pb2 import Struct

from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Action, ActionResponse, Event, Notice
from callboard.v1.job_pb2 import Job
from callboard.v1.run_pb2 import Run
from callboard.v1.server_pb2 import Counts
from callboard.v1.thread_pb2 import Thread
from callboard_server.log.records import Draft, Record

T = TypeVar("T")


class StoreError(Exception):
    """The store cannot do its work. The message is for operators."""


class StoreUnavailable(StoreError):
    """The store does not answer, or no longer belongs to this process. Nothing was written."""


class StoreFull(StoreError):
    """There is no room left. Nothing was written."""


@dataclass(slots=True)
class SessionRow:
    """A session: where its log begins and ends."""

    key: int
    tenant: str
    session_id: str
    head: int = 0
    """Sequence of the last event."""
    oldest: int = 1
    """Sequence of the first event that is kept."""
    active_at: float = 0.0
    """When something last happened in it, in seconds since the epoch."""
    ttl: float | None = None
    """Seconds that it is kept after that; None is for ever."""


@dataclass(slots=True)
class ThreadRow:
    """A thread. `data` holds what is stored; what follows from runs is filled in on reading."""

    key: int
    session: SessionRow
    parent: int | None
    data: Thread
    values: Struct


@dataclass(slots=True)
class RunRow:
    """A run."""

    key: int
    thread: ThreadRow
    data: Run
    queued_at: int
    """Its place in line: when it was admitted or, if its start was delayed, due. Nanoseconds."""
    ready: bool = False
    """Whether it is the next of its thread and only wants a slot."""
    due_at: float | None = None
    """When a run that does not run comes due, in seconds since the epoch: a delayed start, the end
    of a sleep, the pause before a retry, the deadline of an action."""
    stop: int = 0
    """The terminal RunState that was asked for while it runs, or 0."""


@dataclass(slots=True)
class JobRow:
    """A job: `data` is the job without its run."""

    thread: ThreadRow
    parent: int | None
    run: RunRow
    data: Job


class ActionState(IntEnum):
    """Whether an action waits for an answer."""

    OPEN = 0
    ANSWERED = 1
    CLOSED = 2


@dataclass(slots=True)
class ActionRow:
    """Something that a run needs, or needed, from outside."""

    key: int
    run: RunRow
    data: Action
    state: ActionState = ActionState.OPEN
    response: ActionResponse | None = None
    """The answer, once there is one."""
    ended_at: float | None = None
    """When it was answered or closed, in seconds since the epoch."""


@dataclass(slots=True)
class NoticeRow:
    """What a thread is told about a job."""

    key: int
    thread: ThreadRow
    """The thread that is told."""
    run: int
    """Key of the job's run that it is about."""
    sequence: int
    """The event that added it."""
    data: Notice
    read: bool = False
    wakes: int = 0
    """How many runs were queued because of it."""


class DeliveryState(IntEnum):
    """What became of a webhook."""

    PENDING = 0
    DELIVERED = 1
    DROPPED = 2


@dataclass(slots=True)
class DeliveryRow:
    """A webhook to send: an entry of the outbox."""

    key: int
    delivery_id: str
    destination: str
    """The name of a webhook in the configuration."""
    body: bytes
    """What is sent; empty once that is over."""
    create_time: float
    """When it was put in, in seconds since the epoch."""
    due_at: float
    """When it is to be sent next, in seconds since the epoch."""
    attempts: int = 0
    """How often it was sent in vain."""
    state: DeliveryState = DeliveryState.PENDING


@dataclass(slots=True)
class AssistantRow:
    """An assistant in one of its versions."""

    key: int
    current: int
    """The version that is the current one."""
    latest: int
    """The highest version."""
    data: Assistant
    deleted: bool = False
    """Whether it was deleted, and only runs that have it go on with it."""


@dataclass(slots=True, frozen=True)
class Remembered:
    """The first answer to a request that carried a request_id."""

    digest: bytes
    response: bytes


@dataclass(slots=True, frozen=True)
class EventFilter:
    """Which events of a session to read or stream."""

    thread: int | None = None
    """Only those of this thread; with `condensed`, the thread that is shown whole."""
    run: int | None = None
    kinds: frozenset[int] = frozenset()
    """Only these kinds; all when empty."""
    condensed: frozenset[int] = frozenset()
    """The kinds to show of other threads than `thread`; none when empty."""

    def matches(self, record: Record) -> bool:
        if self.run is not None and record.run != self.run:
            return False
        if self.kinds and record.kind not in self.kinds:
            return False
        if self.thread is None or record.thread == self.thread:
            return True
        return record.kind in self.condensed


@dataclass(slots=True, frozen=True)
class Page:
    """A slice of a list, newest first: rows whose key is below `before`, if it is set."""

    limit: int
    before: int | None = None


class Reader(Protocol):
    """One consistent view of what is committed."""

    def session(self, key: int) -> SessionRow: ...
    def thread(self, tenant: str, thread_id: str) -> ThreadRow | None: ...
    def thread_at(self, key: int) -> ThreadRow: ...
    def run(self, tenant: str, run_id: str) -> RunRow | None: ...
    def job(self, tenant: str, job_id: str) -> JobRow | None: ...

    def live_runs(self, thread: int) -> list[RunRow]:
        """Runs of a thread that are not terminal, in line."""

    def ready_runs(self, limit: int, without: Collection[str] = ()) -> list[RunRow]:
        """Runs that only want a slot, in line, but none of some assistants."""

    def ready_before(self, run: RunRow) -> int:
        """How many ready runs are before a run."""

    def attended_runs(self) -> list[RunRow]:
        """Returns all runs that are not over and are cancelled when nobody streams them."""

    def running_runs(self) -> list[RunRow]:
        """Runs that are RUNNING."""

    def due_runs(self, now: float, limit: int) -> list[RunRow]:
        """Runs that have come due, soonest first."""

    def next_due(self) -> float | None:
        """When the next run comes due, in seconds since the epoch."""

    def action(self, session: int, action_id: str) -> ActionRow | None: ...
    def actions_of_run(self, run: int) -> list[ActionRow]:
        """All actions that a run has raised, in order."""

    def open_actions(
        self,
        tenant: str,
        *,
        limit: int,
        after: int | None = None,
        thread: int | None = None,
        session: int | None = None,
    ) -> list[ActionRow]:
        """Actions that wait, oldest first: of a thread, a session, or all of a tenant.

        `after` is the key to go on from, exclusive.
        """

    def notices(self, thread: int) -> list[NoticeRow]:
        """All notices of a thread, in order."""

    def unread_notices(self, thread: int) -> list[NoticeRow]:
        """Those notices of a thread that nobody has read, in order."""

    def list_notices(
        self, thread: int, *, limit: int, after: int | None = None, unread: bool = False
    ) -> list[NoticeRow]:
        """Notices of a thread, oldest first: all, or those that nobody has read.

        `after` is the key to go on from, exclusive.
        """

    def notice(self, tenant: str, notice_id: str) -> NoticeRow | None: ...
    def notices_about(self, run: int) -> list[NoticeRow]:
        """The notices that are about a run of a job, in order."""

    def expired_sessions(self, now: float, limit: int) -> list[SessionRow]:
        """Sessions that have outlived their ttl, longest first."""

    def tree_is_busy(self, thread: int) -> bool:
        """Whether a run of a thread or of one below it is queued (and not delayed) or running."""

    def tree_is_live(self, thread: int) -> bool:
        """Whether a run of a thread or of one below it is not terminal."""

    def threads_below(self, thread: int) -> list[ThreadRow]:
        """A thread and all threads below it, parents first."""

    def list_threads(
        self,
        tenant: str,
        page: Page,
        *,
        session: int | None,
        busy: bool | None,
        metadata: Mapping[str, object],
    ) -> list[ThreadRow]:
        """Threads of a session, or root threads where none is given."""

    def list_runs(
        self, tenant: str, page: Page, *, thread: int | None, states: Sequence[int]
    ) -> list[RunRow]: ...

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
        """Jobs of a parent thread, of all threads from one downwards, or of a whole tenant."""

    def jobs_of_session(self, session: int) -> list[JobRow]: ...
    def active_jobs(self, parent: int) -> int:
        """How many jobs of a thread are not terminal."""

    def jobs_like(self, tenant: str, prefix: str, limit: int) -> list[str]:
        """Ids of jobs that begin with a prefix."""

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
        """Records with `after < sequence <= through`, in order or in reverse."""

    def messages(
        self, thread: int, *, limit: int, newest_first: bool, beyond: int | None = None
    ) -> list[Record]:
        """Message events of a thread; `beyond` is the sequence to go on from, exclusive."""

    def message_count(self, thread: int) -> int: ...
    def voids(self, thread: int) -> list[Record]:
        """The events of a thread that take messages back: rollbacks and voided claims."""

    def assistant(
        self, tenant: str, assistant_id: str, version: int | None = None
    ) -> AssistantRow | None:
        """An assistant in one of its versions; the current one where none is named.

        Also one that was deleted, as long as its versions are kept.
        """

    def assistant_versions(self, assistant: int, page: Page) -> list[Assistant]:
        """The versions of an assistant; a page is bounded by their numbers."""

    def is_assistant_id_used(self, tenant: str, assistant_id: str) -> bool:
        """Whether an assistant has an id or, deleted meanwhile, has had it."""

    def list_assistants(
        self, tenant: str, page: Page, *, agent: str | None, metadata: Mapping[str, object]
    ) -> list[AssistantRow]: ...
    def pending_deliveries(self, destination: str, limit: int) -> list[DeliveryRow]:
        """What is to be sent to a webhook, soonest first."""

    def remembered(self, tenant: str, method: str, request_id: str) -> Remembered | None: ...
    def counts(self) -> Counts: ...
    def size(self) -> int:
        """Bytes that the store takes, or 0 where that is not known."""


class Transaction(Reader, Protocol):
    """A reader that also writes. Reads see what the transaction has written.

    A row that was added may be changed until the next read; from then on a change must be saved.
    """

    @property
    def now(self) -> int:
        """The time of the transaction in nanoseconds since the epoch."""

    def add_session(self, tenant: str, session_id: str) -> SessionRow: ...
    def add_thread(self, session: SessionRow, parent: int | None, data: Thread) -> ThreadRow: ...
    def add_run(self, thread: ThreadRow, data: Run) -> RunRow: ...
    def add_job(self, thread: ThreadRow, parent: int | None, run: RunRow, data: Job) -> JobRow: ...
    def add_assistant(self, tenant: str, data: Assistant) -> AssistantRow: ...
    def add_version(self, row: AssistantRow, data: Assistant) -> None:
        """Adds a version to an assistant, which becomes the current one."""

    def add_action(self, run: RunRow, data: Action) -> ActionRow: ...
    def add_notice(self, thread: ThreadRow, run: RunRow, sequence: int, data: Notice) -> NoticeRow:
        """Adds what a thread is told about a job's run."""

    def add_delivery(self, tenant: str, delivery_id: str, destination: str, body: bytes) -> None:
        """Puts a webhook into the outbox, due now, unless one with its id was put in before."""

    def save_session(self, row: SessionRow) -> None: ...
    def save_thread(self, row: ThreadRow) -> None: ...
    def save_run(self, row: RunRow) -> None: ...
    def save_job(self, row: JobRow) -> None: ...
    def save_action(self, row: ActionRow) -> None: ...
    def save_notice(self, row: NoticeRow) -> None: ...
    def save_delivery(self, row: DeliveryRow) -> None: ...
    def save_assistant(self, row: AssistantRow) -> None:
        """Saves that the version that the row shows is the current one, or that it was deleted."""

    def append(
        self, thread: ThreadRow, event: Event, run: RunRow | None = None, *, claimed: bool = True
    ) -> None:
        """Appends an event to the thread's session.

        Fills in sequence, time, session, thread, and of the run its id and attempt and, where the
        event is `claimed`, its epoch. The session is active from now on.
        """

    def append_drafts(self, run: RunRow, drafts: Sequence[Draft]) -> None:
        """Appends events of a run that came serialised; for the rest the same as `append`."""

    def erase_events(self, thread: ThreadRow) -> None:
        """Replaces all events of a thread by redacted ones; the sequences stay."""

    def delete_session(self, session: SessionRow) -> None: ...
    def delete_thread(self, row: ThreadRow) -> None:
        """Deletes the rows of a thread and its runs; its events stay."""

    def forget_assistants(self) -> None:
        """Drops the versions of deleted assistants that no live run has; their ids stay used."""

    def remember(self, tenant: str, method: str, request_id: str, answer: Remembered) -> None: ...
    def forget(self, before: float) -> None:
        """Drops remembered answers older than a time, in seconds since the epoch."""

    def forget_deliveries(self, before: float) -> None:
        """Drops entries of the outbox that are over and older than a time."""


Listener = Callable[[Sequence[Record]], None]
"""Called on the event loop after each commit with its records, in order. Must not raise."""

Ended = Callable[[bool], None]
"""Called on the event loop when an operation is over: whether it is committed. Must not raise."""


class Store(Protocol):
    """A store. Open it before use; every error of it is a `StoreError`."""

    name: str
    fault: StoreError | None
    """Why the last attempt to write failed; None while writes succeed."""

    def now(self) -> float:
        """Returns the time in seconds since the epoch, by the store's clock."""

    async def open(self, listener: Listener) -> None: ...
    async def close(self) -> None: ...
    async def write(self, operation: Callable[[Transaction], T], ended: Ended | None = None) -> T:
        """Runs an operation and returns its result once it is durable.

        What the operation raises is raised here, and nothing of it is written. A caller that is
        cancelled while waiting does not undo the operation.

        Args:
            operation: What to do.
            ended: Is told on the loop whether it was done, before anybody goes on and also where
                the caller is gone. Not where the store is closed.
        """

    async def read(self, query: Callable[[Reader], T]) -> T:
        """Runs a query on a consistent view. Never waits for writes.

        A query must not block and may be run again from its beginning.
        """
