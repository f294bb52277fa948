"""What is remembered of the database, so that what was just written need not be asked for.

Only one process writes a file, so rows that it wrote or read are as they were, until it changes
them. There are two of these: the writer's is ahead by the operations of the commit in the making;
the event loop's shows what is committed, and follows by the changes that come with each commit.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left, insort
from collections.abc import Sequence
from dataclasses import dataclass, field

from callboard_server.store.sqlite.rows import (
    Stored,
    StoredNotice,
    StoredRun,
    StoredThread,
)

MOST_BYTES = 64 << 20
"""How many bytes a cache takes in, new rows and changed ones, before it begins anew."""
_OVERHEAD = 600
"""About how many bytes a row takes beside its content."""

Place = tuple[str, int]
"""A table and a key in it."""
LinePlace = tuple[int, int]
"""Where a ready run stands in line: when it was queued, and its key."""


@dataclass(slots=True)
class Changes:
    """What one operation, or all of a commit, did to the rows."""

    rows: dict[Place, Stored] = field(default_factory=dict)
    """As they are now; rows that were only read may be among them."""
    live: dict[int, frozenset[int]] = field(default_factory=dict)
    """Of threads, before `rows`: the keys of all runs that are not terminal."""
    unread: dict[int, frozenset[int]] = field(default_factory=dict)
    """Of threads, before `rows`: the keys of all notices that are unread."""
    empty: set[Place] = field(default_factory=set)
    """What came to be with nothing below: see `Cache.empty`."""
    filled: set[Place] = field(default_factory=set)
    """What has something below it now."""
    line: list[LinePlace] | None = None
    """Before `rows`: all ready runs, where whatever else was known is void."""

    def add(self, later: Changes) -> None:
        """Takes in what came later."""
        self.rows.update(later.rows)
        self.live.update(later.live)
        self.unread.update(later.unread)
        self.empty |= later.empty
        self.filled |= later.filled


class Line:
    """The runs that are ready, in order.

    Args:
        places: Where they stand, in order.
    """

    def __init__(self, places: Sequence[LinePlace]) -> None:
        self.places = list(places)
        self._queued_at = {key: queued_at for queued_at, key in places}

    def put(self, run: StoredRun) -> None:
        """Takes a run in or out, as it is now."""
        queued_at = self._queued_at.pop(run.key, None)
        if queued_at is not None:
            del self.places[self.before((queued_at, run.key))]
        if run.ready:
            self._queued_at[run.key] = run.queued_at
            insort(self.places, (run.queued_at, run.key))

    def before(self, place: LinePlace) -> int:
        """Returns how many stand before a place."""
        return bisect_left(self.places, place)

    def place_of(self, run: int) -> LinePlace | None:
        """Returns where a run stands, if it does."""
        queued_at = self._queued_at.get(run)
        return None if queued_at is None else (queued_at, run)


class Cache:
    """Rows of sessions, threads, runs, jobs and notices, and what is known about sets of them.

    Args:
        line: The places of all runs that are ready, in order.
    """

    def __init__(self, line: Sequence[LinePlace]) -> None:
        self.line = Line(line)
        self._clear()

    def _clear(self) -> None:
        self.rows: dict[Place, Stored] = {}
        self.keys: dict[tuple[str, str, str], int] = {}
        """Keys of threads and runs by table, tenant and id."""
        self.live: dict[int, set[int]] = {}
        """By thread, where all are known: the keys of runs that are not terminal."""
        self.unread: dict[int, set[int]] = {}
        """By thread, where all are known: the keys of notices that are unread."""
        self.empty: set[Place] = set()
        """Below what nothing is: ("threads", 1) for a thread without threads below it, ("jobs", 1)
        for one that is no job, ("actions", 1) for a run that never raised one, ("notices", 1) for
        one about which there never was one."""
        self._bytes = 0

    def apply(self, changes: Changes) -> None:
        """Follows what an operation or a commit did."""
        if self._bytes > MOST_BYTES:
            self._clear()
        self.empty |= changes.empty
        self.empty -= changes.filled
        for thread, runs in changes.live.items():
            self.live[thread] = set(runs)
        for thread, notices in changes.unread.items():
            self.unread[thread] = set(notices)
        for place, row in changes.rows.items():
            self.put(place, row)

    def put(self, place: Place, row: Stored) -> None:
        """Takes a row in, as it is now."""
        self.rows[place] = row
        self._bytes += _OVERHEAD
        if isinstance(row, StoredRun):
            self._bytes += len(row.data)
            self.keys["runs", row.tenant, row.run_id] = row.key
            self.line.put(row)
            live = self.live.get(row.thread)
            if live is not None:
                live.add(row.key) if row.is_live else live.discard(row.key)
        elif isinstance(row, StoredThread):
            self._bytes += len(row.data) + len(row.values)
            self.keys["threads", row.tenant, row.thread_id] = row.key
        elif isinstance(row, StoredNotice):
            self._bytes += len(row.data)
            unread = self.unread.get(row.thread)
            if unread is not None:
                unread.discard(row.key) if row.read else unread.add(row.key)


def ready_line(connection: sqlite3.Connection) -> list[LinePlace]:
    """Reads where all ready runs stand."""
    sql = "SELECT queued_at, key FROM runs WHERE ready = 1 ORDER BY queued_at, key"
    return connection.execute(sql).fetchall()
