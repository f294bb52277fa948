"""Looking after a database file, also while a server uses it: copying it and checking it."""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from google.protobuf.message import DecodeError, Message

from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard_server.log.events import kind_of
from callboard_server.log.fold import (
    ThreadFold,
    adopt_run,
    apply_to_job,
    apply_to_run,
    count_other,
    created_run,
    launched_job,
    works_on,
)
from callboard_server.log.records import Record
from callboard_server.store.base import EventFilter, Page, SessionRow, StoreError, ThreadRow
from callboard_server.store.sqlite import schema
from callboard_server.store.sqlite.reader import SqliteReader

_ALL = Page(limit=sys.maxsize)


def backup(path: str, target: str) -> int:
    """Copies a database to a new file and returns its size in bytes.

    The copy is complete as of one moment and opens at once.

    Raises:
        StoreError: The database cannot be read, or the copy not be written; there is none then.
    """
    with _opened(path) as connection:
        try:
            Path(target).touch(exist_ok=False)
        except FileExistsError:
            raise StoreError(f"{target} exists already; name a new file") from None
        except OSError as error:
            raise StoreError(f"{target} cannot be written: {error.strerror}") from error
        try:
            schema.back_up(connection, target)
        except BaseException as error:
            Path(target).unlink(missing_ok=True)
            if isinstance(error, sqlite3.Error):
                raise schema.store_error(error, target) from error
            raise
    return Path(target).stat().st_size


def check(path: str) -> list[str]:
    """Reads a whole database and returns what is wrong with it, a line for each problem.

    Beside the file itself, it checks that every log is whole and that every row is what its events
    come to.

    Raises:
        StoreError: It is no database that this Callboard can check; the message says why.
    """
    with _opened(path) as connection:
        if missing := schema.known() - schema.applied(path, connection):
            raise StoreError(
                f"{path} was written by an older Callboard (before {min(missing)}): "
                "a start of this server brings it up to date"
            )
        connection.execute("BEGIN")
        try:
            problems = [row[0] for row in connection.execute("PRAGMA integrity_check")]
            if problems == ["ok"]:
                problems = list(_check_sessions(connection))
        except sqlite3.DatabaseError as error:
            problems = [str(schema.store_error(error, path))]
    return problems


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """Opens one of Callboard's databases for reading."""
    if not Path(path).is_file():
        raise StoreError(
            f"{path} does not exist" if not Path(path).exists() else f"{path}: no file"
        )
    try:
        connection = schema.connect(path, read_only=True)
    except sqlite3.Error as error:
        raise schema.store_error(error, path) from error
    with closing(connection):
        try:
            if not schema.applied(path, connection):
                raise StoreError(f"{path} is an empty file")
        except sqlite3.Error as error:
            raise schema.store_error(error, path) from error
        yield connection


def _check_sessions(connection: sqlite3.Connection) -> Iterator[str]:
    known = {key for (key,) in connection.execute("SELECT key FROM sessions")}
    logged = {key for (key,) in connection.execute("SELECT DISTINCT session FROM events")}
    for key in sorted(logged - known):
        yield f"there are events of session {key}, which does not exist"
    for key in sorted(known):
        # With a reader of its own: it keeps every row that it has read.
        yield from _SessionCheck(connection, SqliteReader(connection).session(key)).problems()


class _SessionCheck:
    """The events of one session, and what they come to."""

    def __init__(self, connection: sqlite3.Connection, session: SessionRow) -> None:
        self._connection = connection
        self._reader = SqliteReader(connection)
        self._session = session
        self._runs: dict[int, Run] = {}
        self._last_kinds: dict[int, str] = {}
        self._threads: dict[int, ThreadFold] = {}
        self._jobs: dict[int, Job] = {}
        self._job_runs: dict[int, int] = {}

    def problems(self) -> Iterator[str]:
        name = f"session {self._session.session_id}"
        for problem in self._check_log():
            yield f"{name}: {problem}"
        for problem in self._check_rows():
            yield f"{name}: {problem}"

    # The log

    def _check_log(self) -> Iterator[str]:
        expected = self._session.oldest
        for record in self._reader.events(self._session.key, EventFilter()):
            if record.sequence != expected:
                yield f"event {expected} is missing, {record.sequence} comes next"
            expected = record.sequence + 1
            try:
                event = record.event
            except DecodeError:
                yield f"event {record.sequence} cannot be read"
                continue
            if event.sequence != record.sequence:
                yield f"event {record.sequence} says that it is {event.sequence}"
            if event.redacted:
                continue
            if kind_of(event) != record.kind:
                yield f"event {record.sequence} is filed under the wrong kind"
            self._apply(record, event)
        if expected != self._session.head + 1:
            yield f"the log ends at {expected - 1}, its head is {self._session.head}"

    def _apply(self, record: Record, event: Event) -> None:
        kind = event.WhichOneof("payload") or ""
        if kind == "thread_created":
            self._threads[record.thread] = ThreadFold()
        elif kind == "job_launched":
            self._jobs[record.thread] = launched_job(event)
        elif kind == "job_updated" and record.thread in self._jobs:
            apply_to_job(self._jobs[record.thread], event)
        if record.thread in self._threads:
            self._threads[record.thread].apply(event)
        if record.run is not None:
            self._count_for_job(record.thread, record.run, event)
            self._apply_to_run(record.run, kind, event)

    def _count_for_job(self, thread: int, run: int, event: Event) -> None:
        job, current = self._jobs.get(thread), self._job_runs.get(thread)
        if job is None or run == current:
            return
        before = self._runs.get(current) if current is not None else None
        if not event.HasField("run_created"):
            count_other(job, event)
        elif works_on(event.run_created, before.run_id if before else ""):
            adopt_run(job, before)
            self._job_runs[thread] = run

    def _apply_to_run(self, run: int, kind: str, event: Event) -> None:
        self._last_kinds[run] = kind
        if kind == "run_created":
            self._runs[run] = created_run(event)
        elif run in self._runs:
            apply_to_run(self._runs[run], event)

    # The rows. Those whose first event was trimmed cannot be told from it.

    def _check_rows(self) -> Iterator[str]:
        tenant, session = self._session.tenant, self._session.key
        for thread in self._reader.list_threads(
            tenant, _ALL, session=session, busy=None, metadata={}
        ):
            fold = self._threads.get(thread.key)
            if fold is not None and fold.values != thread.values:
                yield f"thread {thread.data.thread_id}: values differ from its events"
            elif fold is not None and len(fold.actions) != thread.data.pending_action_count:
                yield f"thread {thread.data.thread_id}: its open actions differ from its events"
            elif fold is not None:
                yield from self._check_actions(thread.key, fold)
                yield from self._check_notices(thread, fold)
            elif self._session.oldest == 1:
                yield f"thread {thread.data.thread_id} has no thread_created"
            yield from self._check_runs(thread.key)
        for job in self._reader.jobs_of_session(session):
            made = self._jobs.get(job.thread.key)
            name = f"job {job.thread.data.thread_id}"
            if made is None:
                if self._session.oldest == 1:
                    yield f"{name} has no job_launched"
                continue
            if differing := _differences(job.data, made):
                yield f"{name}: {differing} differ from its events"
            if self._job_runs.get(job.thread.key) != job.run.key:
                yield f"{name}: its current run is not the last of its events"

    def _check_actions(self, thread: int, fold: ThreadFold) -> Iterator[str]:
        rows = self._reader.open_actions(self._session.tenant, limit=sys.maxsize, thread=thread)
        filed = {row.data.action_id: row.data for row in rows}
        if filed != fold.actions:
            yield f"thread {thread}: actions are filed otherwise than its events say"

    def _check_notices(self, thread: ThreadRow, fold: ThreadFold) -> Iterator[str]:
        rows = self._reader.notices(thread.key)
        unread = {row.data.notice_id for row in rows if not row.read}
        filed = {row.data.notice_id: row.data for row in rows}
        if filed != fold.notices or unread != fold.unread:
            yield f"thread {thread.data.thread_id}: its notices differ from its events"
        elif len(unread) != thread.data.unread_notice_count:
            yield f"thread {thread.data.thread_id}: it counts its unread notices wrongly"

    def _check_runs(self, thread: int) -> Iterator[str]:
        sql = "SELECT key, state, attended FROM runs WHERE thread = ?"
        filed = {key: row for key, *row in self._connection.execute(sql, (thread,))}
        for run in self._reader.list_runs(self._session.tenant, _ALL, thread=thread, states=()):
            name = f"run {run.data.run_id}"
            state, attended = filed[run.key]
            if state != run.data.state:
                yield f"{name} is filed under the wrong state"
            if attended != run.data.HasField("cancel_after_detach"):
                yield f"{name} is filed wrongly among those that want readers"
            made = self._runs.get(run.key)
            if made is None:
                if self._session.oldest == 1:
                    yield f"{name} has no run_created"
                continue
            if differing := _differences(run.data, made):
                yield f"{name}: {differing} differ from its events"
            terminal = made.state >= RunState.RUN_STATE_SUCCEEDED
            if terminal and self._last_kinds[run.key] != "run_finished":
                yield f"{name} has {self._last_kinds[run.key]} after its end"


def _differences(row: Message, folded: Message) -> str:
    """The names of the fields in which two messages of a type differ."""
    fields = row.DESCRIPTOR.fields
    return ", ".join(f.name for f in fields if getattr(row, f.name) != getattr(folded, f.name))
