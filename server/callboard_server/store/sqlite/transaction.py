"""Writes on the SQLite store: the transaction of one operation."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.structs import to_dict
from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Action, Event
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.log.events import kind_of, redacted
from callboard_server.log.records import Record
from callboard_server.store.base import (
    ActionRow,
    AssistantRow,
    EventFilter,
    JobRow,
    Remembered,
    RunRow,
    SessionRow,
    ThreadRow,
)
from callboard_server.store.sqlite.reader import Parameters, SqliteReader, json_text

Row = SessionRow | ThreadRow | RunRow
_Columns = tuple[Sequence[str], Callable[[Any], tuple[Any, ...]]]


class SqliteTransaction(SqliteReader):
    """One operation's reads and writes.

    Writes are held back until a read needs them or the operation is over. An operation that fails
    before either has touched nothing; one that fails later is rolled back to its savepoint.

    Args:
        connection: Within a transaction of the writer.
        keys: The last key of each table; the writer is the only one to hand them out.
        now: Nanoseconds since the epoch.
        unsent: Events of earlier operations of the same commit. They go to the database many at a
            time, when an operation reads events or by `send_events`.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        keys: Counter[str],
        now: int,
        unsent: list[Record],
    ) -> None:
        super().__init__(connection)
        self._keys = keys
        self._now = now
        self._time = Timestamp(seconds=now // 10**9, nanos=now % 10**9)
        self._unsent = unsent
        self._statements: list[tuple[str, Parameters]] = []
        self._new: set[tuple[str, int]] = set()
        self._dirty: dict[tuple[str, int], Row] = {}
        self._pending: list[Record] = []
        self._savepoint = False
        self._own_threads: set[int] = set()
        self.records: list[Record] = []
        """What the operation appended, in order."""

    @property
    def now(self) -> int:
        return self._now

    # Reading one's own writes

    def _rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        self._flush_for_read()
        return super()._rows(sql, parameters)

    def _event_rows(self, sql: str, parameters: Parameters) -> sqlite3.Cursor:
        self._flush_all()
        return super()._event_rows(sql, parameters)

    def live_runs(self, thread: int) -> list[RunRow]:
        if thread not in self._own_threads:
            return super().live_runs(thread)
        # Of a thread that this operation made, the database knows nothing yet.
        rows = [run for run in self._runs.values() if run.thread.key == thread]
        live = [run for run in rows if run.data.state < RunState.RUN_STATE_SUCCEEDED]
        return sorted(live, key=lambda run: (run.queued_at, run.key))

    def _flush_for_read(self) -> None:
        if self._statements or self._dirty or self._pending:
            if not self._savepoint:
                # What earlier operations wrote must not go when this one is rolled back.
                send_events(self._connection, self._unsent)
                self._connection.execute("SAVEPOINT operation")
                self._savepoint = True
            self._flush()
            send_events(self._connection, self._pending)

    def _flush_all(self) -> None:
        self._flush_for_read()
        send_events(self._connection, self._unsent)

    def _flush(self) -> None:
        """Sends rows and statements that were held back to the database."""
        execute = self._connection.execute
        for place, row in self._dirty.items():
            table = _TABLES[place[0]]
            execute(*(table.insert(row) if place in self._new else table.update(row)))
        for sql, parameters in self._statements:
            execute(sql, parameters)
        self._statements.clear()
        self._new.clear()
        self._dirty.clear()

    # The end of the operation

    def finish(self) -> None:
        """Makes the operation a part of the commit."""
        self._flush()
        self._unsent += self._pending
        if self._savepoint:
            self._connection.execute("RELEASE operation")

    def abandon(self) -> None:
        """Takes back whatever the operation has sent."""
        if self._savepoint:
            self._connection.execute("ROLLBACK TO operation")
            self._connection.execute("RELEASE operation")

    # Adding

    def _key(self, table: str) -> int:
        self._keys[table] += 1
        return self._keys[table]

    def _add(self, table: str, row: Row) -> None:
        place = table, row.key
        self._new.add(place)
        self._dirty[place] = row

    def _hold(self, sql: str, *parameters: object) -> None:
        self._statements.append((sql, parameters))

    def add_session(self, tenant: str, session_id: str) -> SessionRow:
        row = SessionRow(self._key("sessions"), tenant, session_id)
        self._sessions[row.key] = row
        self._add("sessions", row)
        return row

    def add_thread(self, session: SessionRow, parent: int | None, data: Thread) -> ThreadRow:
        row = ThreadRow(self._key("threads"), session, parent, data, Struct())
        self._threads[row.key] = row
        self._own_threads.add(row.key)
        self._add("threads", row)
        return row

    def add_run(self, thread: ThreadRow, data: Run) -> RunRow:
        row = RunRow(self._key("runs"), thread, data, queued_at=self._now)
        self._runs[row.key] = row
        self._add("runs", row)
        return row

    def add_job(self, thread: ThreadRow, parent: int | None, run: RunRow, data: Job) -> JobRow:
        row = JobRow(thread, parent, run, data)
        self._jobs[thread.key] = row
        self._hold(
            "INSERT INTO jobs (thread, tenant, parent, run, labels, data) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            thread.key,
            thread.session.tenant,
            parent,
            run.key,
            json_text(dict(data.labels)),
            data.SerializeToString(),
        )
        return row

    def add_action(self, run: RunRow, data: Action) -> ActionRow:
        row = ActionRow(self._key("actions"), run, data)
        self._actions[row.key] = row
        session = run.thread.session
        self._hold(
            "INSERT INTO actions (key, tenant, action_id, session, thread, run, state, data) "
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            row.key,
            session.tenant,
            data.action_id,
            session.key,
            run.thread.key,
            run.key,
            row.state,
            data.SerializeToString(),
        )
        return row

    def add_assistant(self, tenant: str, data: Assistant) -> AssistantRow:
        row = AssistantRow(self._key("assistants"), data.version, data)
        self._hold(
            "INSERT INTO assistants (key, tenant, assistant_id, agent, version, metadata) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            row.key,
            tenant,
            data.assistant_id,
            data.agent,
            data.version,
            json_text(to_dict(data.metadata)),
        )
        self._hold(
            "INSERT INTO assistant_versions (assistant, version, data) VALUES (?, ?, ?)",
            row.key,
            data.version,
            data.SerializeToString(),
        )
        return row

    # Changing

    def save_session(self, row: SessionRow) -> None:
        self._dirty["sessions", row.key] = row

    def save_thread(self, row: ThreadRow) -> None:
        self._dirty["threads", row.key] = row

    def save_run(self, row: RunRow) -> None:
        self._dirty["runs", row.key] = row

    def save_job(self, row: JobRow) -> None:
        self._hold(
            "UPDATE jobs SET run = ?, data = ? WHERE thread = ?",
            row.run.key,
            row.data.SerializeToString(),
            row.thread.key,
        )

    def save_action(self, row: ActionRow) -> None:
        self._hold(
            "UPDATE actions SET state = ?, response = ?, ended_at = ? WHERE key = ?",
            row.state,
            row.response.SerializeToString() if row.response else None,
            row.ended_at,
            row.key,
        )

    def append(
        self, thread: ThreadRow, event: Event, run: RunRow | None = None, *, claimed: bool = True
    ) -> None:
        session = thread.session
        session.head += 1
        session.active_at = self._now / 1e9
        self._dirty["sessions", session.key] = session
        event.sequence = session.head
        event.session_id = session.session_id
        event.thread_id = thread.data.thread_id
        event.time.CopyFrom(self._time)
        if run is not None:
            event.run_id = run.data.run_id
            event.attempt = run.data.attempt
            event.claim_epoch = run.data.claim_epoch if claimed else 0
        record = Record(
            session.key,
            session.head,
            thread.key,
            run.key if run else None,
            kind_of(event),
            event.SerializeToString(),
        )
        self._pending.append(record)
        self.records.append(record)

    # Removing

    def erase_events(self, thread: ThreadRow) -> None:
        for record in list(self.events(thread.session.key, EventFilter(thread=thread.key))):
            self._hold(
                "UPDATE events SET data = ? WHERE session = ? AND sequence = ?",
                redacted(record.event).SerializeToString(),
                record.session,
                record.sequence,
            )

    def delete_session(self, session: SessionRow) -> None:
        self._flush_all()
        self._hold("DELETE FROM events WHERE session = ?", session.key)
        self._hold("DELETE FROM sessions WHERE key = ?", session.key)
        self._sessions.pop(session.key, None)

    def delete_thread(self, row: ThreadRow) -> None:
        self._flush_all()
        for table in ("jobs", "actions", "runs"):
            self._hold(f"DELETE FROM {table} WHERE thread = ?", row.key)
        self._hold("DELETE FROM threads WHERE key = ?", row.key)
        self._threads.pop(row.key, None)

    # Remembered answers

    def remember(self, tenant: str, method: str, request_id: str, answer: Remembered) -> None:
        self._hold(
            "INSERT INTO requests (tenant, method, request_id, digest, response, create_time) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            tenant,
            method,
            request_id,
            answer.digest,
            answer.response,
            self._now / 1e9,
        )

    def forget(self, before: float) -> None:
        self._hold("DELETE FROM requests WHERE create_time < ?", before)


def send_events(connection: sqlite3.Connection, records: list[Record]) -> None:
    """Writes records to the database and empties the list."""
    if records:
        connection.executemany(
            "INSERT INTO events (session, sequence, thread, run, kind, data) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            [(r.session, r.sequence, r.thread, r.run, r.kind, r.data) for r in records],
        )
        records.clear()


class _Table:
    """How the rows of a table are written.

    Args:
        name: The table.
        fixed: Columns that never change, and what a row has in them.
        changing: The other columns but the key, and what a row has in them.
    """

    def __init__(self, name: str, fixed: _Columns, changing: _Columns) -> None:
        (fixed_names, self._fixed), (names, self._changing) = fixed, changing
        columns = [*names, "key", *fixed_names]
        places = ", ".join("?" * len(columns))
        self._insert = f"INSERT INTO {name} ({', '.join(columns)}) VALUES ({places})"
        self._update = f"UPDATE {name} SET {', '.join(f'{c} = ?' for c in names)} WHERE key = ?"

    def insert(self, row: Any) -> tuple[str, Parameters]:
        return self._insert, (*self._changing(row), row.key, *self._fixed(row))

    def update(self, row: Any) -> tuple[str, Parameters]:
        return self._update, (*self._changing(row), row.key)


def _metadata(thread: Thread) -> str:
    return json_text(to_dict(thread.metadata)) if thread.HasField("metadata") else "{}"


_TABLES = {
    "sessions": _Table(
        "sessions",
        (("tenant", "session_id"), lambda row: (row.tenant, row.session_id)),
        (
            ("head", "oldest", "active_at", "ttl"),
            lambda row: (row.head, row.oldest, row.active_at, row.ttl),
        ),
    ),
    "threads": _Table(
        "threads",
        (
            ("tenant", "thread_id", "session", "parent"),
            lambda row: (row.session.tenant, row.data.thread_id, row.session.key, row.parent),
        ),
        (
            ("metadata", '"values"', "data"),
            lambda row: (
                _metadata(row.data),
                row.values.SerializeToString(),
                row.data.SerializeToString(),
            ),
        ),
    ),
    "runs": _Table(
        "runs",
        (
            ("tenant", "run_id", "thread", "assistant"),
            lambda row: (
                row.thread.session.tenant,
                row.data.run_id,
                row.thread.key,
                row.data.assistant_id,
            ),
        ),
        (
            ("state", "queued_at", "ready", "due_at", "stop", "data"),
            lambda row: (
                row.data.state,
                row.queued_at,
                int(row.ready),
                row.due_at,
                row.stop,
                row.data.SerializeToString(),
            ),
        ),
    ),
}
