"""Who waits for the disk: the loop, for a lone operation while the disk is quick, or the writer."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from callboard_server import faults
from callboard_server.log.records import Record
from callboard_server.store.base import Reader, StoreError, Transaction
from callboard_server.store.sqlite import pace, schema
from callboard_server.store.sqlite.pace import LIGHT, LITTLE, LONG_LOG, QUICK, Pace
from callboard_server.store.sqlite.store import SqliteStore
from tests.store.conftest import OpenSqlite
from tests.store.rows import TENANT, open_thread, say, sequences, whole_log

WARM = 40
"""Quick commits after which every pace is known to be quick."""
CROWD = 32
LOOP, WRITER = "MainThread", "callboard-write"


def add(tx: Transaction) -> None:
    thread = tx.thread(TENANT, "t") or open_thread(tx, "t")
    say(tx, thread, "hello")


def dangle(tx: Transaction) -> None:
    """Writes what SQLite refuses at the commit, and not before."""
    connection: sqlite3.Connection = tx._connection  # type: ignore[attr-defined]
    connection.execute("PRAGMA defer_foreign_keys = 1")
    connection.execute(
        "INSERT INTO threads (tenant, thread_id, session, data) VALUES (?, 'x', 9000, x'')",
        (TENANT,),
    )


class Statements:
    """Where statements of some kind were executed."""

    def __init__(self, store: SqliteStore, beginning: str) -> None:
        self.threads: list[str] = []
        self._beginning = beginning
        store._connection.set_trace_callback(self._take)

    def _take(self, statement: str) -> None:
        if statement.startswith(self._beginning):
            self.threads.append(threading.current_thread().name)


@pytest.fixture
async def store(open_sqlite: OpenSqlite, monkeypatch: pytest.MonkeyPatch) -> SqliteStore:
    """A store whose commits were quick until now."""
    monkeypatch.setattr(pace, "QUICK", 60.0)
    store = await open_sqlite()
    for _ in range(WARM):
        await store.write(add)
    return store


async def test_the_loop_commits_lone_operations(store: SqliteStore) -> None:
    commits = Statements(store, "COMMIT")
    await store.write(add)
    await store.write(add)
    assert commits.threads == [LOOP, LOOP]


async def test_the_writer_commits_what_came_together(store: SqliteStore) -> None:
    commits = Statements(store, "COMMIT")
    await asyncio.gather(*(store.write(add) for _ in range(CROWD)))
    # And for a while the next one: where there were many, others come.
    await store.write(add)
    assert set(commits.threads) == {WRITER}


async def test_the_writer_waits_for_a_slow_disk(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "QUICK", 0.0)
    commits = Statements(store, "COMMIT")
    await store.write(add)
    assert commits.threads == [WRITER]


async def test_the_writer_moves_the_log(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LONG_LOG", WARM)
    moves = Statements(store, "PRAGMA wal_checkpoint")
    for _ in range(3 * WARM):
        await store.write(add)
    # The writer answers first: the next operation that is its own comes behind the move.
    await asyncio.gather(*(store.write(add) for _ in range(CROWD)))
    assert len(moves.threads) >= 2 and set(moves.threads) == {WRITER}
    log = await store.read(lambda reader: sequences(whole_log(reader, 1)))
    assert log == list(range(1, len(log) + 1))


async def test_the_loop_never_moves_the_log(
    open_sqlite: OpenSqlite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "QUICK", 60.0)
    monkeypatch.setattr(schema, "CHECKPOINT", 1)
    store = await open_sqlite()
    file = Path(store._path)
    for _ in range(WARM):
        await store.write(add)
    commits, moved = Statements(store, "COMMIT"), file.read_bytes()
    await store.write(add)
    assert commits.threads == [LOOP] and file.read_bytes() == moved
    await asyncio.gather(*(store.write(add) for _ in range(CROWD)))
    assert set(commits.threads) == {LOOP, WRITER} and file.read_bytes() != moved


async def test_the_writer_commits_what_is_large(store: SqliteStore) -> None:
    def add_much(tx: Transaction) -> None:
        thread = tx.thread(TENANT, "t")
        assert thread is not None
        say(tx, thread, "x" * LIGHT)

    commits = Statements(store, "COMMIT")
    await store.write(add_much)
    assert commits.threads == [WRITER]


async def test_a_commit_that_is_refused_on_the_loop_leaves_nothing(store: SqliteStore) -> None:
    store._connection.execute("PRAGMA foreign_keys = 1")
    commits = Statements(store, "COMMIT")
    before = await store.read(lambda reader: sequences(whole_log(reader, 1)))
    ended: list[bool] = []
    with pytest.raises(StoreError):
        await store.write(dangle, ended.append)
    assert commits.threads == [LOOP]
    assert ended == [False]
    await store.write(add, ended.append)
    assert ended == [False, True]
    assert await store.read(lambda reader: reader.thread(TENANT, "x")) is None
    after = await store.read(lambda reader: sequences(whole_log(reader, 1)))
    assert after == [*before, before[-1] + 1]


async def test_what_is_read_is_never_older_than_what_was_read_before(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    committed, looked, told = threading.Event(), threading.Event(), threading.Event()
    query = store._query

    def after_commit(name: str) -> None:
        if name == "after_commit":
            committed.set()
            told.wait(10)

    def looks(of: Callable[[Reader], object]) -> object:
        found = query(of)
        looked.set()
        return found

    async def heads() -> tuple[int, int]:
        in_file = await store.read(lambda reader: sequences(whole_log(reader, 1))[-1])
        return in_file, await store.read(lambda reader: reader.session(1).head)

    monkeypatch.setattr(pace, "QUICK", 0.0)
    monkeypatch.setattr(faults, "point", after_commit)
    monkeypatch.setattr(store, "_query", looks)
    writing = asyncio.ensure_future(store.write(add))
    await asyncio.to_thread(committed.wait, 10)
    reading = asyncio.ensure_future(heads())
    await asyncio.to_thread(looked.wait, 10)
    for _ in range(5):
        # The loop has what was read by then, and not yet what was committed.
        await asyncio.sleep(0)
    told.set()
    await writing
    in_file, on_loop = await reading
    assert in_file <= on_loop


async def test_who_goes_away_does_not_keep_the_end_from_being_told(store: SqliteStore) -> None:
    ended = asyncio.Event()
    writing = asyncio.ensure_future(store.write(add, lambda done: ended.set() if done else None))
    await asyncio.sleep(0)
    writing.cancel()
    async with asyncio.timeout(10):
        await ended.wait()
    assert writing.cancelled()


async def test_the_end_is_told_before_anybody_goes_on(store: SqliteStore) -> None:
    order: list[str] = []

    async def write(name: str) -> None:
        await store.write(add, lambda done: order.append(f"{name} {done}"))
        order.append(f"{name} goes on")

    await asyncio.gather(*(write(name) for name in "ab"))
    assert order == ["a True", "b True", "a goes on", "b goes on"]


def events(count: int, size: int = 1) -> list[Record]:
    return [Record(1, number, 1, None, 1, b"x" * size) for number in range(count)]


def test_a_pace_that_is_not_known_is_slow() -> None:
    assert not Pace().allows(1, events(1))


def quick() -> Pace:
    known = Pace()
    for _ in range(100):
        known.took(QUICK / 4, 1)
    return known


def test_quick_and_lone_commits_are_for_the_loop() -> None:
    known = quick()
    assert known.allows(1, events(LITTLE))
    assert not known.allows(2, events(2))
    assert not known.allows(1, events(LITTLE + 1))
    assert known.allows(1, events(2, LIGHT // 2))
    assert not known.allows(1, events(2, LIGHT // 2 + 1))


@pytest.mark.parametrize(
    ("seconds", "operations"), [(1.0, 1), (QUICK / 4, CROWD)], ids=["slow", "crowd"]
)
def test_one_commit_is_enough_to_leave_the_loop_for_a_while(
    seconds: float, operations: int
) -> None:
    known = quick()
    known.took(seconds, operations)
    assert not known.allows(1, events(1))
    for _ in range(100):
        known.took(QUICK / 4, 1)
    assert known.allows(1, events(1))


def test_a_long_log_is_moved_before_the_loop_goes_on() -> None:
    known = quick()
    for _ in range(LONG_LOG):
        assert known.allows(1, events(1)) and not known.log_is_long
        known.passed_on_loop()
    assert known.log_is_long and not known.allows(1, events(1))
    known.log_was_moved()
    assert known.allows(1, events(1)) and not known.log_is_long
