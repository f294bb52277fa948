"""Rows as the database holds them, and how many of them are written at once.

A statement of SQLite lets go of Python's lock and has to wait to get it back, so many rows go into
each.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterable, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from google.protobuf.struct_pb2 import Struct

from callboard.structs import to_dict
from callboard.v1.event_pb2 import Notice
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.log.records import Record
from callboard_server.store.base import JobRow, NoticeRow, RunRow, SessionRow, ThreadRow

MOST_ROWS = 64
"""How many rows go into one statement at the most. Each number of them is a statement of its own,
and `schema.connect` sees to it that all stay prepared."""

SUCCEEDED: int = RunState.RUN_STATE_SUCCEEDED
"""The first of the terminal states. Looking a value up in its enum is slow."""

_ESCAPE = re.compile(r"\\.")


class StoredSession(NamedTuple):
    """A row of the table sessions."""

    key: int
    tenant: str
    session_id: str
    head: int
    oldest: int
    active_at: float
    ttl: float | None

    @classmethod
    def of(cls, row: SessionRow) -> StoredSession:
        place = row.key, row.tenant, row.session_id
        return cls(*place, row.head, row.oldest, row.active_at, row.ttl)

    def row(self) -> SessionRow:
        return SessionRow(*self)


class StoredThread(NamedTuple):
    """A row of the table threads."""

    key: int
    tenant: str
    thread_id: str
    session: int
    parent: int | None
    metadata: str
    values: bytes
    data: bytes

    @classmethod
    def of(cls, row: ThreadRow) -> StoredThread:
        data, session = row.data, row.session
        return cls(
            row.key,
            session.tenant,
            data.thread_id,
            session.key,
            row.parent,
            json_text(to_dict(data.metadata)) if data.HasField("metadata") else "{}",
            row.values.SerializeToString(),
            data.SerializeToString(),
        )

    def row(self, session: SessionRow) -> ThreadRow:
        data, values = Thread.FromString(self.data), Struct.FromString(self.values)
        return ThreadRow(self.key, session, self.parent, data, values)


class StoredRun(NamedTuple):
    """A row of the table runs."""

    key: int
    tenant: str
    run_id: str
    thread: int
    assistant: str
    attended: int
    state: int
    queued_at: int
    ready: int
    due_at: float | None
    stop: int
    data: bytes

    @classmethod
    def of(cls, row: RunRow) -> StoredRun:
        data, thread = row.data, row.thread
        return cls(
            row.key,
            thread.session.tenant,
            data.run_id,
            thread.key,
            data.assistant_id,
            int(data.HasField("cancel_after_detach")),
            data.state,
            row.queued_at,
            int(row.ready),
            row.due_at,
            row.stop,
            data.SerializeToString(),
        )

    def row(self, thread: ThreadRow) -> RunRow:
        data, ready = Run.FromString(self.data), bool(self.ready)
        return RunRow(self.key, thread, data, self.queued_at, ready, self.due_at, self.stop)

    @property
    def is_live(self) -> bool:
        return self.state < SUCCEEDED


class StoredJob(NamedTuple):
    """A row of the table jobs."""

    thread: int
    tenant: str
    parent: int | None
    run: int
    labels: str
    data: bytes

    @classmethod
    def of(cls, row: JobRow) -> StoredJob:
        return cls(
            row.thread.key,
            row.thread.session.tenant,
            row.parent,
            row.run.key,
            json_text(dict(row.data.labels)),
            row.data.SerializeToString(),
        )

    def row(self, run: RunRow) -> JobRow:
        return JobRow(run.thread, self.parent, run, Job.FromString(self.data))


class StoredNotice(NamedTuple):
    """A row of the table notices."""

    key: int
    tenant: str
    notice_id: str
    thread: int
    run: int
    sequence: int
    read: int
    wakes: int
    data: bytes

    @classmethod
    def of(cls, row: NoticeRow) -> StoredNotice:
        data, thread = row.data, row.thread
        return cls(
            row.key,
            thread.session.tenant,
            data.notice_id,
            thread.key,
            row.run,
            row.sequence,
            int(row.read),
            row.wakes,
            data.SerializeToString(),
        )

    def row(self, thread: ThreadRow) -> NoticeRow:
        data, read = Notice.FromString(self.data), bool(self.read)
        return NoticeRow(self.key, thread, self.run, self.sequence, data, read, self.wakes)


class StoredRequest(NamedTuple):
    """A row of the table requests."""

    tenant: str
    method: str
    request_id: str
    digest: bytes
    response: bytes
    create_time: float


Stored = StoredSession | StoredThread | StoredRun | StoredJob | StoredNotice
Row = SessionRow | ThreadRow | RunRow | JobRow | NoticeRow


def stored(row: Row) -> Stored:
    """Returns a row as it is stored."""
    match row:
        case RunRow():
            return StoredRun.of(row)
        case ThreadRow():
            return StoredThread.of(row)
        case SessionRow():
            return StoredSession.of(row)
        case JobRow():
            return StoredJob.of(row)
        case NoticeRow():
            return StoredNotice.of(row)


def columns(kind: type[tuple[Any, ...]], alias: str = "") -> list[str]:
    """Returns the names of a table's columns; "values" is a word of SQL."""
    names: Sequence[str] = kind._fields  # type: ignore[attr-defined]
    return [f'{alias}."{name}"' if alias else f'"{name}"' for name in names]


class Table:
    """A table whose rows are written many at a time.

    Args:
        name: The table.
        kind: Its rows.
        fixed: How many of the first columns never change, the first being the key; 0 where rows
            are only ever added.
    """

    def __init__(self, name: str, kind: type[tuple[Any, ...]], fixed: int = 0) -> None:
        names = columns(kind)
        self._head = f"INSERT INTO {name} ({', '.join(names)}) VALUES "
        self._row = f"({', '.join('?' * len(names))})"
        self._tail = ""
        if fixed:
            changes = ", ".join(f"{column} = excluded.{column}" for column in names[fixed:])
            self._tail = f" ON CONFLICT ({names[0]}) DO UPDATE SET {changes}"
        self._statements: dict[int, str] = {}

    def write(self, connection: sqlite3.Connection, rows: Iterable[tuple[Any, ...]]) -> None:
        """Adds rows, or changes those that are there."""
        left = iter(rows)
        while portion := list(islice(left, MOST_ROWS)):
            statement = self._statement(len(portion))
            connection.execute(statement, list(chain.from_iterable(portion)))

    def _statement(self, size: int) -> str:
        if size not in self._statements:
            places = ", ".join([self._row] * size)
            self._statements[size] = f"{self._head}{places}{self._tail}"
        return self._statements[size]


TABLES = {
    "sessions": Table("sessions", StoredSession, fixed=3),
    "threads": Table("threads", StoredThread, fixed=5),
    "runs": Table("runs", StoredRun, fixed=6),
    "jobs": Table("jobs", StoredJob, fixed=3),
    "notices": Table("notices", StoredNotice, fixed=6),
}
"""The tables with rows that change, in an order in which they can be written."""
REQUESTS = Table("requests", StoredRequest)
EVENTS = Table("events", Record)


def json_text(value: object) -> str:
    """Writes JSON such that equal values have equal texts, and strings can stand in a JSON path.

    SQLite ends a quoted name in a path at the next quote, even at an escaped one.
    """
    text = json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
    return _ESCAPE.sub(lambda escape: "\\u0022" if escape[0] == '\\"' else escape[0], text)
