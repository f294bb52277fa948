"""Writes on the SQLite store: the transaction of one operation."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Collection, Sequence
from typing import Any

from google.protobuf.struct_pb2 import Struct
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.structs import to_dict
from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Action, Event, Notice
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.log.events import kind_of, redacted
from callboard_server.log.records import Draft, Record
from callboard_server.store.base import (
    ActionRow,
    AssistantRow,
    DeliveryRow,
    EventFilter,
    JobRow,
    NoticeRow,
    Remembered,
    RunRow,
    SessionRow,
    StoreError,
    ThreadRow,
)
from callboard_server.store.sqlite.cache import Cache, Changes, Place
from callboard_server.store.sqlite.cached import CachedReader
from callboard_server.store.sqlite.reader import REMEMBERED, Parameters
from callboard_server.store.sqlite.rows import (
    EVENTS,
    REQUESTS,
    TABLES,
    Row,
    Stored,
    StoredRequest,
    json_text,
    stored,
)

_Request = tuple[str, str, str]


class WouldBlock(Exception):
    """What an operation does takes longer than whoever runs it can wait."""


class Unsent:
    """What was written and not yet sent to the database: a row once, however often it changed."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.rows: defaultdict[str, dict[int, Stored]] = defaultdict(dict)
        self.requests: dict[_Request, StoredRequest] = {}
        self.events: list[Record] = []

    def take(self, later: Unsent) -> None:
        """Takes in what was written later."""
        for table, rows in later.rows.items():
            self.rows[table].update(rows)
        self.requests.update(later.requests)
        self.events += later.events

    def send_rows(self) -> None:
        for name, table in TABLES.items():
            if name in self.rows:
                table.write(self._connection, self.rows.pop(name).values())
        if self.requests:
            REQUESTS.write(self._connection, self.requests.values())
            self.requests.clear()

    def send(self) -> None:
        self.send_rows()
        if self.events:
            EVENTS.write(self._connection, self.events)
            self.events.clear()


class SqliteTransaction(CachedReader):
    """One operation's reads and writes.

    Writes are held back until the operation is over, and then until the commit. Where a query goes
    to the database, what was written is sent there first: that of earlier operations, and, behind a
    savepoint, that of this one. From then on only the database is asked.

    Args:
        connection: Within a transaction of the writer.
        cache: What is known, with all that earlier operations wrote.
        unsent: What earlier operations of the same commit wrote.
        keys: The last key of each table; nobody else hands them out.
        now: Nanoseconds since the epoch.
        may_block: Whether it may read through a log, and delete.
    """

    _connection: sqlite3.Connection

    def __init__(
        self,
        connection: sqlite3.Connection,
        cache: Cache,
        unsent: Unsent,
        keys: defaultdict[str, int],
        now: int,
        *,
        may_block: bool,
    ) -> None:
        super().__init__(cache, connection)
        self._keys = keys
        self._may_block = may_block
        self._now = now
        self._seconds = now / 1e9
        self._time = Timestamp(seconds=now // 10**9, nanos=now % 10**9)
        self._unsent = unsent
        self._own = Unsent(connection)
        self._statements: list[tuple[str, Parameters]] = []
        self._dirty: dict[Place, Row] = {}
        self._own_keys: dict[tuple[str, str, str], int] = {}
        self._new_runs: list[RunRow] = []
        self._new_notices: list[NoticeRow] = []
        self._gone: set[Place] = set()
        self._savepoint = False
        self.changes = Changes()
        """What the operation did to the rows."""
        self.records: list[Record] = []
        """What the operation appended, in order."""

    @property
    def now(self) -> int:
        return self._now

    # Reading one's own writes

    def _rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        self._send_rows()
        return super()._rows(sql, parameters)

    def _event_rows(self, sql: str, parameters: Parameters) -> sqlite3.Cursor:
        self._check_may_block()
        self._send_rows()
        self._unsent.send()
        self._own.send()
        return super()._event_rows(sql, parameters)

    def _check_may_block(self) -> None:
        if not self._may_block:
            raise WouldBlock

    def _send_rows(self) -> None:
        """Lets the database know all rows."""
        if self._dirty or self._statements or self._own.requests or self._own.events:
            self._set_savepoint()
            self._collect()
            self._own.send_rows()
            for sql, parameters in self._statements:
                self._connection.execute(sql, parameters)
            self._statements.clear()
        self._unsent.send_rows()

    def _set_savepoint(self) -> None:
        if not self._savepoint:
            # What earlier operations wrote must not go when this one is rolled back.
            self._unsent.send()
            self._connection.execute("SAVEPOINT operation")
            self._savepoint = True
            self._cache = None

    def _collect(self) -> None:
        """Takes the rows that were changed as they are now."""
        for place, row in self._dirty.items():
            if place not in self._gone:
                table, key = place
                self._own.rows[table][key] = self.changes.rows[place] = stored(row)
        self._dirty.clear()

    def _met(self, table: str, key: int, stored_row: Stored) -> None:
        if self._cache is not None:
            place = table, key
            self._cache.put(place, stored_row)
            self.changes.rows[place] = stored_row

    def _key_of(self, table: str, tenant: str, row_id: str) -> int | None:
        own = self._own_keys.get((table, tenant, row_id)) if self._cache else None
        return super()._key_of(table, tenant, row_id) if own is None else own

    def _is_empty(self, place: Place) -> bool:
        if place in self.changes.filled:
            return False
        return super()._is_empty(place) or (self._cache is not None and place in self.changes.empty)

    def live_runs(self, thread: int) -> list[RunRow]:
        runs = super().live_runs(thread)
        if self._cache is not None and self._live_keys(thread) is None:
            keys = frozenset(run.key for run in runs)
            self.changes.live[thread] = keys
            self._cache.live[thread] = set(keys)
        return runs

    def _live_keys(self, thread: int) -> Collection[int] | None:
        if self._cache is None:
            return None
        known = self._cache.live.get(thread, self.changes.live.get(thread))
        if known is None or not self._new_runs:
            return known
        return {*known, *(run.key for run in self._new_runs if run.thread.key == thread)}

    def unread_notices(self, thread: int) -> list[NoticeRow]:
        notices = super().unread_notices(thread)
        if self._cache is not None and self._unread_keys(thread) is None:
            keys = frozenset(notice.key for notice in notices)
            self.changes.unread[thread] = keys
            self._cache.unread[thread] = set(keys)
        return notices

    def _unread_keys(self, thread: int) -> Collection[int] | None:
        if self._cache is None:
            return None
        known = self._cache.unread.get(thread, self.changes.unread.get(thread))
        if known is None or not self._new_notices:
            return known
        new = (notice.key for notice in self._new_notices if notice.thread.key == thread)
        return {*known, *new}

    # The end of the operation

    def finish(self) -> None:
        """Makes the operation a part of the commit."""
        if self._savepoint or self._statements:
            self._send_rows()
            self._connection.execute("RELEASE operation")
        else:
            self._collect()
        self._unsent.take(self._own)

    def abandon(self) -> None:
        """Takes back whatever the operation has sent."""
        if self._savepoint:
            self._connection.execute("ROLLBACK TO operation")
            self._connection.execute("RELEASE operation")

    @property
    def deleted(self) -> bool:
        """Whether the operation deleted rows."""
        return bool(self._gone)

    # Adding

    def _key(self, table: str) -> int:
        self._keys[table] += 1
        return self._keys[table]

    def _hold(self, sql: str, *parameters: object) -> None:
        self._statements.append((sql, parameters))

    def add_session(self, tenant: str, session_id: str) -> SessionRow:
        row = SessionRow(self._key("sessions"), tenant, session_id)
        self._sessions[row.key] = self._dirty["sessions", row.key] = row
        return row

    def add_thread(self, session: SessionRow, parent: int | None, data: Thread) -> ThreadRow:
        row = ThreadRow(self._key("threads"), session, parent, data, Struct())
        self._threads[row.key] = self._dirty["threads", row.key] = row
        self._own_keys["threads", session.tenant, data.thread_id] = row.key
        self.changes.empty |= {("threads", row.key), ("jobs", row.key)}
        self.changes.live[row.key] = self.changes.unread[row.key] = frozenset()
        if parent is not None:
            self.changes.filled.add(("threads", parent))
        return row

    def add_run(self, thread: ThreadRow, data: Run) -> RunRow:
        row = RunRow(self._key("runs"), thread, data, queued_at=self._now)
        self._runs[row.key] = self._dirty["runs", row.key] = row
        self._new_runs.append(row)
        self._own_keys["runs", thread.session.tenant, data.run_id] = row.key
        self.changes.empty |= {("actions", row.key), ("notices", row.key)}
        return row

    def add_job(self, thread: ThreadRow, parent: int | None, run: RunRow, data: Job) -> JobRow:
        row = JobRow(thread, parent, run, data)
        self._jobs[thread.key] = self._dirty["jobs", thread.key] = row
        self.changes.filled.add(("jobs", thread.key))
        return row

    def add_action(self, run: RunRow, data: Action) -> ActionRow:
        row = ActionRow(self._key("actions"), run, data)
        self._actions[row.key] = row
        self.changes.filled.add(("actions", run.key))
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

    def add_notice(self, thread: ThreadRow, run: RunRow, sequence: int, data: Notice) -> NoticeRow:
        row = NoticeRow(self._key("notices"), thread, run.key, sequence, data)
        self._notices[row.key] = self._dirty["notices", row.key] = row
        self._new_notices.append(row)
        self.changes.filled.add(("notices", run.key))
        return row

    def add_delivery(self, tenant: str, delivery_id: str, destination: str, body: bytes) -> None:
        self._hold(
            "INSERT INTO outbox (tenant, delivery_id, destination, body, create_time, due_at) "
            "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (tenant, delivery_id) DO NOTHING",
            tenant,
            delivery_id,
            destination,
            body,
            self._seconds,
            self._seconds,
        )

    def add_assistant(self, tenant: str, data: Assistant) -> AssistantRow:
        row = AssistantRow(self._key("assistants"), data.version, data.version, data)
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
        self._hold_version(row)
        return row

    def add_version(self, row: AssistantRow, data: Assistant) -> None:
        row.current = row.latest = data.version
        row.data = data
        self._hold_version(row)
        self.save_assistant(row)

    def _hold_version(self, row: AssistantRow) -> None:
        self._hold(
            "INSERT INTO assistant_versions (assistant, version, data) VALUES (?, ?, ?)",
            row.key,
            row.data.version,
            row.data.SerializeToString(),
        )

    # Changing

    def save_session(self, row: SessionRow) -> None:
        self._dirty["sessions", row.key] = row

    def save_thread(self, row: ThreadRow) -> None:
        self._dirty["threads", row.key] = row

    def save_run(self, row: RunRow) -> None:
        self._dirty["runs", row.key] = row

    def save_job(self, row: JobRow) -> None:
        self._dirty["jobs", row.thread.key] = row

    def save_action(self, row: ActionRow) -> None:
        self._hold(
            "UPDATE actions SET state = ?, response = ?, ended_at = ? WHERE key = ?",
            row.state,
            row.response.SerializeToString() if row.response else None,
            row.ended_at,
            row.key,
        )

    def save_notice(self, row: NoticeRow) -> None:
        self._dirty["notices", row.key] = row

    def save_delivery(self, row: DeliveryRow) -> None:
        self._hold(
            "UPDATE outbox SET body = ?, due_at = ?, attempts = ?, state = ? WHERE key = ?",
            row.body,
            row.due_at,
            row.attempts,
            row.state,
            row.key,
        )

    def save_assistant(self, row: AssistantRow) -> None:
        self._hold(
            "UPDATE assistants SET version = ?, metadata = ?, deleted = ? WHERE key = ?",
            row.current,
            json_text(to_dict(row.data.metadata)),
            row.deleted,
            row.key,
        )

    def append(
        self, thread: ThreadRow, event: Event, run: RunRow | None = None, *, claimed: bool = True
    ) -> None:
        session = thread.session
        sequence = session.head + 1
        event.sequence = sequence
        event.session_id = session.session_id
        event.thread_id = thread.data.thread_id
        event.time.CopyFrom(self._time)
        if run is not None:
            event.run_id = run.data.run_id
            event.attempt = run.data.attempt
            event.claim_epoch = run.data.claim_epoch if claimed else 0
        keys = session.key, sequence, thread.key, run.key if run else None
        self._log(session, [Record(*keys, kind_of(event), event.SerializeToString())])

    def append_drafts(self, run: RunRow, drafts: Sequence[Draft]) -> None:
        if not drafts:
            return
        thread, session = run.thread, run.thread.session
        rest = Event(
            session_id=session.session_id,
            thread_id=thread.data.thread_id,
            time=self._time,
            run_id=run.data.run_id,
            attempt=run.data.attempt,
            claim_epoch=run.data.claim_epoch,
        ).SerializeToString()
        keys = thread.key, run.key
        first = session.head + 1
        self._log(
            session,
            [
                Record(session.key, n, *keys, draft.kind, draft.completed(n, rest))
                for n, draft in enumerate(drafts, first)
            ],
        )

    def _log(self, session: SessionRow, records: Sequence[Record]) -> None:
        session.head += len(records)
        session.active_at = self._seconds
        self._dirty["sessions", session.key] = session
        self._own.events += records
        self.records += records

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
        self._prepare_to_delete(("sessions", session.key))
        self._hold("DELETE FROM events WHERE session = ?", session.key)
        self._hold("DELETE FROM sessions WHERE key = ?", session.key)
        self._sessions.pop(session.key, None)

    def delete_thread(self, row: ThreadRow) -> None:
        runs = [("runs", run.key) for run in self._runs.values() if run.thread is row]
        self._prepare_to_delete(("threads", row.key), ("jobs", row.key), *runs)
        for table in ("jobs", "actions", "notices", "runs"):
            self._hold(f"DELETE FROM {table} WHERE thread = ?", row.key)
        self._hold("DELETE FROM threads WHERE key = ?", row.key)
        self._threads.pop(row.key, None)

    def _prepare_to_delete(self, *places: Place) -> None:
        """Sends all that was written, so that it is deleted, too."""
        self._check_may_block()
        self._set_savepoint()
        self._send_rows()
        self._own.send()
        self._gone.update(places)

    def forget_assistants(self) -> None:
        self._hold(
            "DELETE FROM assistant_versions "
            "WHERE assistant IN (SELECT key FROM assistants WHERE deleted = 1) "
            "AND NOT EXISTS (SELECT 1 FROM runs r JOIN assistants a ON a.tenant = r.tenant "
            "AND a.assistant_id = r.assistant WHERE a.key = assistant_versions.assistant "
            f"AND r.state < {RunState.RUN_STATE_SUCCEEDED})"
        )

    # Remembered answers

    def remembered(self, tenant: str, method: str, request_id: str) -> Remembered | None:
        if self._statements:
            return super().remembered(tenant, method, request_id)
        key = tenant, method, request_id
        held = self._own.requests.get(key) or self._unsent.requests.get(key)
        if held is not None:
            return Remembered(held.digest, held.response)
        # What else is not sent makes no difference here.
        rows = super()._rows(REMEMBERED, key)
        return Remembered(*rows[0]) if rows else None

    def remember(self, tenant: str, method: str, request_id: str, answer: Remembered) -> None:
        key = tenant, method, request_id
        if key in self._own.requests or key in self._unsent.requests:
            raise StoreError(f"the answer to request {request_id} is remembered already")
        stored_request = StoredRequest(*key, answer.digest, answer.response, self._seconds)
        self._own.requests[key] = stored_request

    def forget(self, before: float) -> None:
        self._hold("DELETE FROM requests WHERE create_time < ?", before)

    def forget_deliveries(self, before: float) -> None:
        self._hold("DELETE FROM outbox WHERE state > 0 AND create_time < ?", before)
