"""Queries on the SQLite store."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Action, ActionResponse
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.server_pb2 import Counts
from callboard_server.log.records import Record
from callboard_server.store.base import (
    ActionRow,
    ActionState,
    AssistantRow,
    DeliveryRow,
    DeliveryState,
    EventFilter,
    JobRow,
    NoticeRow,
    Page,
    Remembered,
    RunRow,
    SessionRow,
    ThreadRow,
)
from callboard_server.store.sqlite.rows import (
    Stored,
    StoredJob,
    StoredNotice,
    StoredRun,
    StoredSession,
    StoredThread,
    columns,
    json_text,
)

_SESSION = ", ".join(columns(StoredSession, "s"))
_THREAD = ", ".join([*columns(StoredThread, "t"), _SESSION])
_RUN = ", ".join([*columns(StoredRun, "r"), _THREAD])
_THREADS = "threads t JOIN sessions s ON s.key = t.session"
_RUNS = "runs r JOIN threads t ON t.key = r.thread JOIN sessions s ON s.key = t.session"
_JOBS = f"{_THREADS} JOIN jobs j ON j.thread = t.key JOIN runs r ON r.key = j.run"
_JOB = ", ".join([*columns(StoredJob, "j"), _RUN])
_ACTIONS = f"actions a JOIN {_RUNS.replace('runs r', 'runs r ON r.key = a.run', 1)}"
_ACTION = f"a.key, a.state, a.data, a.response, a.ended_at, {_RUN}"
_NOTICE = ", ".join([*columns(StoredNotice, "n"), _THREAD])
_NOTICES = f"notices n JOIN {_THREADS.replace('threads t', 'threads t ON t.key = n.thread', 1)}"
_ASSISTANT = """a.key, a.version,
    (SELECT max(version) FROM assistant_versions WHERE assistant = a.key), v.data, a.deleted"""
_EVENTS = "SELECT session, sequence, thread, run, kind, data FROM events"
_BELOW = """WITH RECURSIVE tree (key) AS (
    VALUES (?) UNION ALL SELECT c.key FROM threads c JOIN tree ON c.parent = tree.key
)"""
_BUSY = f"""(r.state = {RunState.RUN_STATE_RUNNING}
    OR r.state = {RunState.RUN_STATE_QUEUED} AND r.due_at IS NULL)"""
REMEMBERED = """SELECT digest, response FROM requests
    WHERE tenant = ? AND method = ? AND request_id = ?"""

_THREAD_WIDTH, _RUN_WIDTH = len(StoredThread._fields), len(StoredRun._fields)
_JOB_WIDTH, _NOTICE_WIDTH = len(StoredJob._fields), len(StoredNotice._fields)
_LIVE = f"r.state < {RunState.RUN_STATE_SUCCEEDED}"

Parameters = Sequence[object]


class NotRemembered(Exception):
    """What was asked for is in the database, and that must not be asked here."""


class SqliteReader:
    """One consistent view of the database: lives within one transaction of a connection.

    Args:
        connection: The connection; None where only what a subclass remembers can be asked for.
    """

    def __init__(self, connection: sqlite3.Connection | None) -> None:
        self._connection = connection
        # A row that was read once is the same object for the rest of the transaction.
        self._sessions: dict[int, SessionRow] = {}
        self._threads: dict[int, ThreadRow] = {}
        self._runs: dict[int, RunRow] = {}
        self._jobs: dict[int, JobRow] = {}
        self._actions: dict[int, ActionRow] = {}
        self._notices: dict[int, NoticeRow] = {}

    def _rows(self, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
        return self._execute(sql, parameters).fetchall()

    def _row(self, sql: str, parameters: Parameters = ()) -> tuple[Any, ...] | None:
        rows = self._rows(sql, parameters)
        return rows[0] if rows else None

    def _event_rows(self, sql: str, parameters: Parameters) -> sqlite3.Cursor:
        """Runs a query on events: a transaction holds those back longer than rows."""
        return self._execute(sql, parameters)

    def _execute(self, sql: str, parameters: Parameters) -> sqlite3.Cursor:
        if self._connection is None:
            raise NotRemembered
        return self._connection.execute(sql, parameters)

    # Threads

    def session(self, key: int) -> SessionRow:
        if key in self._sessions:
            return self._sessions[key]
        row = self._row(f"SELECT {_SESSION} FROM sessions s WHERE s.key = ?", (key,))
        if row is None:
            raise KeyError(f"session {key}")
        return self._session_row(row)

    def thread(self, tenant: str, thread_id: str) -> ThreadRow | None:
        row = self._row(
            f"SELECT {_THREAD} FROM {_THREADS} WHERE t.tenant = ? AND t.thread_id = ?",
            (tenant, thread_id),
        )
        return self._thread_row(row) if row else None

    def thread_at(self, key: int) -> ThreadRow:
        if key in self._threads:
            return self._threads[key]
        row = self._row(f"SELECT {_THREAD} FROM {_THREADS} WHERE t.key = ?", (key,))
        if row is None:
            raise KeyError(f"thread {key}")
        return self._thread_row(row)

    def expired_sessions(self, now: float, limit: int) -> list[SessionRow]:
        rows = self._rows(
            f"SELECT {_SESSION} FROM sessions s WHERE s.ttl IS NOT NULL "
            "AND s.active_at + s.ttl <= ? ORDER BY s.active_at + s.ttl, s.key LIMIT ?",
            (now, limit),
        )
        return [self._session_row(row) for row in rows]

    def tree_is_busy(self, thread: int) -> bool:
        return self._tree_has(thread, _BUSY)

    def tree_is_live(self, thread: int) -> bool:
        return self._tree_has(thread, _LIVE)

    def _tree_has(self, thread: int, condition: str) -> bool:
        sql = f"""{_BELOW} SELECT 1 FROM tree JOIN runs r ON r.thread = tree.key
            WHERE {condition} LIMIT 1"""
        return self._row(sql, (thread,)) is not None

    def threads_below(self, thread: int) -> list[ThreadRow]:
        sql = f"{_BELOW} SELECT {_THREAD} FROM {_THREADS} JOIN tree ON tree.key = t.key"
        rows = self._rows(f"{sql} ORDER BY t.key", (thread,))
        return [self._thread_row(row) for row in rows]

    def list_threads(
        self,
        tenant: str,
        page: Page,
        *,
        session: int | None,
        busy: bool | None,
        metadata: Mapping[str, object],
    ) -> list[ThreadRow]:
        where, parameters = ["t.tenant = ?"], [tenant]
        if session is None:
            where.append("t.parent IS NULL")
        else:
            _add(where, parameters, "t.session = ?", session)
        if busy is not None:
            has = "EXISTS" if busy else "NOT EXISTS"
            where.append(f"{has} (SELECT 1 FROM runs r WHERE r.thread = t.key AND {_BUSY})")
        _add_contained(where, parameters, "t.metadata", metadata)
        tail = _page(where, parameters, "t.key", page)
        return [
            self._thread_row(row)
            for row in self._rows(f"SELECT {_THREAD} FROM {_THREADS} {tail}", parameters)
        ]

    # Runs

    def run(self, tenant: str, run_id: str) -> RunRow | None:
        row = self._row(
            f"SELECT {_RUN} FROM {_RUNS} WHERE r.tenant = ? AND r.run_id = ?", (tenant, run_id)
        )
        return self._run_row(row) if row else None

    def _runs_where(self, condition: str, parameters: Parameters = ()) -> list[RunRow]:
        rows = self._rows(f"SELECT {_RUN} FROM {_RUNS} WHERE {condition}", parameters)
        return [self._run_row(row) for row in rows]

    def _run_at(self, key: int) -> RunRow:
        if key in self._runs:
            return self._runs[key]
        return self._runs_where("r.key = ?", (key,))[0]

    def live_runs(self, thread: int) -> list[RunRow]:
        condition = f"r.thread = ? AND {_LIVE}"
        return self._runs_where(f"{condition} ORDER BY r.queued_at, r.key", (thread,))

    def ready_runs(self, limit: int, without: Collection[str] = ()) -> list[RunRow]:
        others = f"AND r.assistant NOT IN ({', '.join('?' * len(without))})" if without else ""
        return self._runs_where(
            f"r.ready = 1 {others} ORDER BY r.queued_at, r.key LIMIT ?", (*without, limit)
        )

    def ready_before(self, run: RunRow) -> int:
        row = self._row(
            "SELECT count(*) FROM runs WHERE ready = 1 AND (queued_at, key) < (?, ?)",
            (run.queued_at, run.key),
        )
        return int(row[0]) if row else 0

    def attended_runs(self) -> list[RunRow]:
        return self._runs_where(f"r.attended = 1 AND {_LIVE} ORDER BY r.queued_at, r.key")

    def running_runs(self) -> list[RunRow]:
        # The second condition is the one that runs_live, a partial index, asks for.
        running = f"r.state = {RunState.RUN_STATE_RUNNING}"
        return self._runs_where(f"{running} AND {_LIVE} ORDER BY r.key")

    def due_runs(self, now: float, limit: int) -> list[RunRow]:
        return self._runs_where("r.due_at <= ? ORDER BY r.due_at, r.key LIMIT ?", (now, limit))

    def next_due(self) -> float | None:
        row = self._row("SELECT min(due_at) FROM runs WHERE due_at IS NOT NULL")
        return row[0] if row else None

    def list_runs(
        self, tenant: str, page: Page, *, thread: int | None, states: Sequence[int]
    ) -> list[RunRow]:
        where, parameters = ["r.tenant = ?"], [tenant]
        if thread is not None:
            # The unary plus leaves the choice of the index to the thread.
            where = ["+r.tenant = ?"]
            _add(where, parameters, "r.thread = ?", thread)
        _add_states(where, parameters, "r.state", states)
        tail = _page(where, parameters, "r.key", page)
        rows = self._rows(f"SELECT {_RUN} FROM {_RUNS} {tail}", parameters)
        return [self._run_row(row) for row in rows]

    # Actions

    def action(self, session: int, action_id: str) -> ActionRow | None:
        rows = self._actions_where("a.session = ? AND a.action_id = ?", (session, action_id))
        return rows[0] if rows else None

    def actions_of_run(self, run: int) -> list[ActionRow]:
        return self._actions_where("a.run = ? ORDER BY a.key", (run,))

    def open_actions(
        self,
        tenant: str,
        *,
        limit: int,
        after: int | None = None,
        thread: int | None = None,
        session: int | None = None,
    ) -> list[ActionRow]:
        where, parameters = ["a.state = 0"], list[Any]()
        if thread is not None:
            _add(where, parameters, "a.thread = ?", thread)
        elif session is not None:
            _add(where, parameters, "a.session = ?", session)
        else:
            _add(where, parameters, "a.tenant = ?", tenant)
        _add(where, parameters, "a.key > ?", after or 0)
        condition = f"{' AND '.join(where)} ORDER BY a.key LIMIT ?"
        return self._actions_where(condition, [*parameters, limit])

    def _actions_where(self, condition: str, parameters: Parameters) -> list[ActionRow]:
        sql = f"SELECT {_ACTION} FROM {_ACTIONS} WHERE {condition}"
        return [self._action_row(row) for row in self._rows(sql, parameters)]

    # Notices

    def _notices_where(
        self, condition: str, parameters: Parameters, limit: int = -1
    ) -> list[NoticeRow]:
        sql = f"SELECT {_NOTICE} FROM {_NOTICES} WHERE {condition} ORDER BY n.key LIMIT {limit}"
        return [self._notice_row(row) for row in self._rows(sql, parameters)]

    def notices(self, thread: int) -> list[NoticeRow]:
        return self._notices_where("n.thread = ?", (thread,))

    def unread_notices(self, thread: int) -> list[NoticeRow]:
        return self._notices_where("n.thread = ? AND n.read = 0", (thread,))

    def list_notices(
        self, thread: int, *, limit: int, after: int | None = None, unread: bool = False
    ) -> list[NoticeRow]:
        wanted = "n.thread = ? AND n.key > ?" + (" AND n.read = 0" if unread else "")
        return self._notices_where(wanted, (thread, after or 0), limit)

    def notice(self, tenant: str, notice_id: str) -> NoticeRow | None:
        rows = self._notices_where("n.tenant = ? AND n.notice_id = ?", (tenant, notice_id))
        return rows[0] if rows else None

    def notices_about(self, run: int) -> list[NoticeRow]:
        return self._notices_where("n.run = ?", (run,))

    # Jobs

    def job(self, tenant: str, job_id: str) -> JobRow | None:
        rows = self._jobs_where("t.tenant = ? AND t.thread_id = ?", (tenant, job_id))
        return rows[0] if rows else None

    def _jobs_where(self, condition: str, parameters: Parameters) -> list[JobRow]:
        sql = f"SELECT {_JOB} FROM {_JOBS} WHERE {condition}"
        return [self._job_row(row) for row in self._rows(sql, parameters)]

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
        where, parameters = ["j.tenant = ?"], list[Any]([tenant])
        if parent is not None:
            _add(where, parameters, "j.parent = ?", parent)
        if below is not None:
            tree = f"{_BELOW} SELECT j.thread FROM tree JOIN jobs j ON j.parent = tree.key"
            _add(where, parameters, f"j.thread IN ({tree})", below)
        _add_states(where, parameters, "r.state", states)
        _add_contained(where, parameters, "j.labels", labels)
        tail = _page(where, parameters, "j.thread", page)
        sql = f"SELECT {_JOB} FROM {_JOBS} {tail}"
        return [self._job_row(row) for row in self._rows(sql, parameters)]

    def jobs_of_session(self, session: int) -> list[JobRow]:
        return self._jobs_where("t.session = ? ORDER BY j.thread", (session,))

    def active_jobs(self, parent: int) -> int:
        sql = f"""SELECT count(*) FROM jobs j JOIN runs w ON w.key = j.run
            WHERE j.parent = ? AND w.state < {RunState.RUN_STATE_SUCCEEDED}"""
        row = self._row(sql, (parent,))
        return int(row[0]) if row else 0

    def jobs_like(self, tenant: str, prefix: str, limit: int) -> list[str]:
        sql = f"""SELECT t.thread_id FROM {_JOBS}
            WHERE t.tenant = ? AND t.thread_id >= ? AND t.thread_id < ? ORDER BY t.thread_id
            LIMIT ?"""
        rows = self._rows(sql, (tenant, prefix, prefix + "\U0010ffff", limit))
        return [row[0] for row in rows]

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
        where, parameters = _event_conditions(session, wanted)
        _add(where, parameters, "sequence > ?", after)
        if through is not None:
            _add(where, parameters, "sequence <= ?", through)
        order = "DESC" if newest_first else "ASC"
        sql = f"{_EVENTS} WHERE {' AND '.join(where)} ORDER BY sequence {order} LIMIT ?"
        # A negative limit is none.
        parameters.append(-1 if limit is None else limit)
        return (Record(*row) for row in self._event_rows(sql, parameters))

    def messages(
        self, thread: int, *, limit: int, newest_first: bool, beyond: int | None = None
    ) -> list[Record]:
        where, parameters = ["thread = ?", "kind = 24"], list[Any]([thread])
        if beyond is not None:
            _add(where, parameters, f"sequence {'<' if newest_first else '>'} ?", beyond)
        order = "DESC" if newest_first else "ASC"
        sql = f"{_EVENTS} WHERE {' AND '.join(where)} ORDER BY sequence {order} LIMIT ?"
        return [Record(*row) for row in self._event_rows(sql, [*parameters, limit])]

    def message_count(self, thread: int) -> int:
        sql = "SELECT count(*) FROM events WHERE thread = ? AND kind = 24"
        return int(self._event_rows(sql, (thread,)).fetchone()[0])

    def voids(self, thread: int) -> list[Record]:
        sql = f"{_EVENTS} WHERE thread = ? AND kind IN (38, 45) ORDER BY sequence"
        return [Record(*row) for row in self._event_rows(sql, (thread,))]

    # Assistants

    def assistant(
        self, tenant: str, assistant_id: str, version: int | None = None
    ) -> AssistantRow | None:
        sql = f"""SELECT {_ASSISTANT} FROM assistants a JOIN assistant_versions v
            ON v.assistant = a.key AND v.version = coalesce(?, a.version)
            WHERE a.tenant = ? AND a.assistant_id = ?"""
        row = self._row(sql, (version, tenant, assistant_id))
        return _assistant_row(row) if row else None

    def assistant_versions(self, assistant: int, page: Page) -> list[Assistant]:
        where, parameters = ["v.assistant = ?"], list[Any]([assistant])
        tail = _page(where, parameters, "v.version", page)
        rows = self._rows(f"SELECT v.data FROM assistant_versions v {tail}", parameters)
        return [Assistant.FromString(data) for (data,) in rows]

    def is_assistant_id_used(self, tenant: str, assistant_id: str) -> bool:
        sql = "SELECT 1 FROM assistants WHERE tenant = ? AND assistant_id = ?"
        return self._row(sql, (tenant, assistant_id)) is not None

    def list_assistants(
        self, tenant: str, page: Page, *, agent: str | None, metadata: Mapping[str, object]
    ) -> list[AssistantRow]:
        where, parameters = ["a.tenant = ?", "a.deleted = 0"], [tenant]
        if agent is not None:
            _add(where, parameters, "a.agent = ?", agent)
        _add_contained(where, parameters, "a.metadata", metadata)
        tail = _page(where, parameters, "a.key", page)
        sql = f"""SELECT {_ASSISTANT} FROM assistants a JOIN assistant_versions v
            ON v.assistant = a.key AND v.version = a.version {tail}"""
        return [_assistant_row(row) for row in self._rows(sql, parameters)]

    # Everything else

    def pending_deliveries(self, destination: str, limit: int) -> list[DeliveryRow]:
        rows = self._rows(
            """SELECT key, delivery_id, destination, body, create_time, due_at, attempts
            FROM outbox WHERE state = 0 AND destination = ? ORDER BY due_at, key LIMIT ?""",
            (destination, limit),
        )
        return [DeliveryRow(*row) for row in rows]

    def remembered(self, tenant: str, method: str, request_id: str) -> Remembered | None:
        row = self._row(REMEMBERED, (tenant, method, request_id))
        return Remembered(*row) if row else None

    def counts(self) -> Counts:
        live = dict(
            self._rows(
                "SELECT state, count(*) FROM runs "
                f"WHERE state < {RunState.RUN_STATE_SUCCEEDED} GROUP BY state"
            )
        )
        runs = self._count("runs")
        sent = dict(
            self._rows("SELECT state, count(*) FROM outbox WHERE state != 1 GROUP BY state")
        )
        return Counts(
            sessions=self._count("sessions"),
            threads=self._count("threads"),
            runs_queued=live.get(RunState.RUN_STATE_QUEUED, 0),
            runs_running=live.get(RunState.RUN_STATE_RUNNING, 0),
            runs_waiting=live.get(RunState.RUN_STATE_WAITING, 0),
            runs_requiring_action=live.get(RunState.RUN_STATE_REQUIRES_ACTION, 0),
            runs_finished=runs - sum(live.values()),
            webhooks_pending=sent.get(DeliveryState.PENDING, 0),
            webhooks_dropped=sent.get(DeliveryState.DROPPED, 0),
        )

    def _count(self, table: str) -> int:
        row = self._row(f"SELECT count(*) FROM {table}")
        return int(row[0]) if row else 0

    def size(self) -> int:
        row = self._row(
            "SELECT page_count * page_size FROM pragma_page_count(), pragma_page_size()"
        )
        return int(row[0]) if row else 0

    # Rows to objects

    def _session_row(self, row: tuple[Any, ...]) -> SessionRow:
        key = row[0]
        if key not in self._sessions:
            stored = StoredSession._make(row)
            self._sessions[key] = stored.row()
            self._met("sessions", key, stored)
        return self._sessions[key]

    def _thread_row(self, row: tuple[Any, ...]) -> ThreadRow:
        key = row[0]
        if key not in self._threads:
            stored = StoredThread._make(row[:_THREAD_WIDTH])
            self._threads[key] = stored.row(self._session_row(row[_THREAD_WIDTH:]))
            self._met("threads", key, stored)
        return self._threads[key]

    def _run_row(self, row: tuple[Any, ...]) -> RunRow:
        key = row[0]
        if key not in self._runs:
            stored = StoredRun._make(row[:_RUN_WIDTH])
            self._runs[key] = stored.row(self._thread_row(row[_RUN_WIDTH:]))
            self._met("runs", key, stored)
        return self._runs[key]

    def _job_row(self, row: tuple[Any, ...]) -> JobRow:
        key = row[0]
        if key not in self._jobs:
            stored = StoredJob._make(row[:_JOB_WIDTH])
            self._jobs[key] = stored.row(self._run_row(row[_JOB_WIDTH:]))
            self._met("jobs", key, stored)
        return self._jobs[key]

    def _notice_row(self, row: tuple[Any, ...]) -> NoticeRow:
        key = row[0]
        if key not in self._notices:
            stored = StoredNotice._make(row[:_NOTICE_WIDTH])
            self._notices[key] = stored.row(self._thread_row(row[_NOTICE_WIDTH:]))
            self._met("notices", key, stored)
        return self._notices[key]

    def _met(self, table: str, key: int, stored: Stored) -> None:
        """Notices a row that was read from the database."""

    def _action_row(self, row: tuple[Any, ...]) -> ActionRow:
        key, state, data, response, ended_at = row[:5]
        if key not in self._actions:
            self._actions[key] = ActionRow(
                key,
                self._run_row(row[5:]),
                Action.FromString(data),
                ActionState(state),
                ActionResponse.FromString(response) if response is not None else None,
                ended_at,
            )
        return self._actions[key]


def _assistant_row(row: tuple[Any, ...]) -> AssistantRow:
    key, current, latest, data, deleted = row
    return AssistantRow(key, current, latest, Assistant.FromString(data), bool(deleted))


def _add(where: list[str], parameters: list[Any], condition: str, value: object) -> None:
    where.append(condition)
    parameters.append(value)


def _add_states(
    where: list[str], parameters: list[Any], column: str, states: Sequence[int]
) -> None:
    if states:
        where.append(f"{column} IN ({', '.join('?' * len(states))})")
        parameters.extend(states)


def _add_contained(
    where: list[str], parameters: list[Any], column: str, wanted: Mapping[str, object]
) -> None:
    """Asks that a JSON column holds all of `wanted`: objects by key, all else by equality."""
    for path, value in _leaves(wanted, "$"):
        if value == {}:
            _add(where, parameters, f"json_type({column}, ?) = 'object'", path)
        else:
            where.append(f"{column} -> ? = ?")
            parameters += [path, json_text(value)]


def _leaves(wanted: Mapping[str, object], path: str) -> Iterator[tuple[str, object]]:
    for name, value in wanted.items():
        below = f"{path}.{json_text(name)}"
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, below)
        else:
            yield below, value


def _page(where: list[str], parameters: list[Any], key: str, page: Page) -> str:
    if page.before is not None:
        _add(where, parameters, f"{key} < ?", page.before)
    parameters.append(page.limit)
    return f"WHERE {' AND '.join(where)} ORDER BY {key} DESC LIMIT ?"


def _event_conditions(session: int, wanted: EventFilter) -> tuple[list[str], list[Any]]:
    where, parameters = ["session = ?"], [session]
    if wanted.thread is not None and not wanted.condensed:
        # The unary plus leaves the choice of the index to the thread.
        where, parameters = ["+session = ?", "thread = ?"], [session, wanted.thread]
    elif wanted.thread is not None:
        kinds = ", ".join(map(str, sorted(wanted.condensed)))
        _add(where, parameters, f"(thread = ? OR kind IN ({kinds}))", wanted.thread)
    if wanted.run is not None:
        _add(where, parameters, "run = ?", wanted.run)
    if wanted.kinds:
        where.append(f"kind IN ({', '.join(map(str, sorted(wanted.kinds)))})")
    return where, parameters
