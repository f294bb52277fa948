"""Queries that ask the cache first."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import TypeVar

from callboard.v1.lifecycle_pb2 import RunState
from callboard_server.store.base import (
    ActionRow,
    JobRow,
    NoticeRow,
    RunRow,
    SessionRow,
    ThreadRow,
)
from callboard_server.store.sqlite.cache import Cache, Place
from callboard_server.store.sqlite.reader import SqliteReader
from callboard_server.store.sqlite.rows import (
    SUCCEEDED,
    Stored,
    StoredJob,
    StoredNotice,
    StoredRun,
    StoredSession,
    StoredThread,
)

_QUEUED: int = RunState.RUN_STATE_QUEUED
_RUNNING: int = RunState.RUN_STATE_RUNNING

S = TypeVar("S", StoredSession, StoredThread, StoredRun, StoredJob, StoredNotice)


class CachedReader(SqliteReader):
    """A reader that takes from a cache what that has.

    Args:
        cache: What is remembered.
        connection: Where the rest is; None to be told by `NotRemembered`.
    """

    def __init__(self, cache: Cache, connection: sqlite3.Connection | None = None) -> None:
        super().__init__(connection)
        self._cache: Cache | None = cache
        """None once the database knows more."""

    def _stored(self, kind: type[S], place: Place) -> S | None:
        row: Stored | None = self._cache.rows.get(place) if self._cache else None
        return row if isinstance(row, kind) else None

    def _key_of(self, table: str, tenant: str, row_id: str) -> int | None:
        return self._cache.keys.get((table, tenant, row_id)) if self._cache else None

    def _is_empty(self, place: Place) -> bool:
        """Whether nothing is below a row; see `Cache.empty`."""
        return self._cache is not None and place in self._cache.empty

    # Threads

    def session(self, key: int) -> SessionRow:
        if key not in self._sessions:
            stored = self._stored(StoredSession, ("sessions", key))
            if stored is None:
                return super().session(key)
            self._sessions[key] = stored.row()
        return self._sessions[key]

    def thread(self, tenant: str, thread_id: str) -> ThreadRow | None:
        key = self._key_of("threads", tenant, thread_id)
        return super().thread(tenant, thread_id) if key is None else self.thread_at(key)

    def thread_at(self, key: int) -> ThreadRow:
        if key not in self._threads:
            stored = self._stored(StoredThread, ("threads", key))
            if stored is None:
                return super().thread_at(key)
            self._threads[key] = stored.row(self.session(stored.session))
        return self._threads[key]

    def tree_is_busy(self, thread: int) -> bool:
        if not self._is_empty(("threads", thread)):
            return super().tree_is_busy(thread)
        return any(_is_busy(run) for run in self.live_runs(thread))

    def tree_is_live(self, thread: int) -> bool:
        if not self._is_empty(("threads", thread)):
            return super().tree_is_live(thread)
        return bool(self.live_runs(thread))

    def threads_below(self, thread: int) -> list[ThreadRow]:
        if not self._is_empty(("threads", thread)):
            return super().threads_below(thread)
        return [self.thread_at(thread)]

    # Runs

    def run(self, tenant: str, run_id: str) -> RunRow | None:
        key = self._key_of("runs", tenant, run_id)
        return super().run(tenant, run_id) if key is None else self._run_at(key)

    def _run_at(self, key: int) -> RunRow:
        if key not in self._runs:
            stored = self._stored(StoredRun, ("runs", key))
            if stored is None:
                return super()._run_at(key)
            self._runs[key] = stored.row(self.thread_at(stored.thread))
        return self._runs[key]

    def live_runs(self, thread: int) -> list[RunRow]:
        keys = self._live_keys(thread)
        if keys is None:
            return super().live_runs(thread)
        runs = [self._run_at(key) for key in keys]
        live = [run for run in runs if run.data.state < SUCCEEDED]
        return sorted(live, key=lambda run: (run.queued_at, run.key))

    def _live_keys(self, thread: int) -> Collection[int] | None:
        """Returns the keys of a thread's live runs, and maybe others, if all are known."""
        return self._cache.live.get(thread) if self._cache else None

    def ready_runs(self, limit: int, without: Collection[str] = ()) -> list[RunRow]:
        found = None if self._runs else self._first_in_line(limit, without)
        if found is None:
            return super().ready_runs(limit, without)
        return [self._run_at(run.key) for run in found]

    def _first_in_line(self, limit: int, without: Collection[str]) -> list[StoredRun] | None:
        found: list[StoredRun] = []
        for _, key in self._cache.line.places if self._cache else ():
            run = self._stored(StoredRun, ("runs", key))
            if run is None:
                return None
            if run.assistant not in without:
                found.append(run)
            if len(found) == limit:
                break
        return found if self._cache else None

    def ready_before(self, run: RunRow) -> int:
        if self._cache is None:
            return super().ready_before(run)
        line, place = self._cache.line, (run.queued_at, run.key)
        count = line.before(place)
        # The rows that are at hand may have been changed.
        for row in self._runs.values():
            stood = line.place_of(row.key)
            count -= stood is not None and stood < place
            count += row.ready and (row.queued_at, row.key) < place
        return count

    # Notices

    def unread_notices(self, thread: int) -> list[NoticeRow]:
        keys = self._unread_keys(thread)
        if keys is None:
            return super().unread_notices(thread)
        rows = [self._notice_at(key) for key in sorted(keys)]
        if None in rows:
            return super().unread_notices(thread)
        return [row for row in rows if row is not None and not row.read]

    def _unread_keys(self, thread: int) -> Collection[int] | None:
        """Returns the keys of a thread's unread notices, and maybe others, if all are known."""
        return self._cache.unread.get(thread) if self._cache else None

    def _notice_at(self, key: int) -> NoticeRow | None:
        if key not in self._notices:
            stored = self._stored(StoredNotice, ("notices", key))
            if stored is None:
                return None
            self._notices[key] = stored.row(self.thread_at(stored.thread))
        return self._notices[key]

    def notices_about(self, run: int) -> list[NoticeRow]:
        return [] if self._is_empty(("notices", run)) else super().notices_about(run)

    # Jobs and actions

    def job(self, tenant: str, job_id: str) -> JobRow | None:
        key = self._key_of("threads", tenant, job_id)
        if key is None:
            return super().job(tenant, job_id)
        if key in self._jobs:
            return self._jobs[key]
        if self._is_empty(("jobs", key)):
            return None
        stored = self._stored(StoredJob, ("jobs", key))
        if stored is None:
            return super().job(tenant, job_id)
        self._jobs[key] = stored.row(self._run_at(stored.run))
        return self._jobs[key]

    def active_jobs(self, parent: int) -> int:
        return 0 if self._is_empty(("threads", parent)) else super().active_jobs(parent)

    def actions_of_run(self, run: int) -> list[ActionRow]:
        return [] if self._is_empty(("actions", run)) else super().actions_of_run(run)


def _is_busy(run: RunRow) -> bool:
    state = run.data.state
    return state == _RUNNING or (state == _QUEUED and run.due_at is None)
