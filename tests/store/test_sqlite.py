"""What only a database file can do: be wrong, be full, be lost and be shared."""

from __future__ import annotations

import asyncio
import multiprocessing
import random
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from callboard_server.store.base import (
    Reader,
    Remembered,
    StoreError,
    StoreFull,
    StoreUnavailable,
    Transaction,
)
from callboard_server.store.sqlite import admin, ownership, schema
from tests.store import killed
from tests.store.conftest import Heard, OpenSqlite
from tests.store.rows import SECOND, TENANT, Clock, open_thread, say, sequences, whole_log

Spawn = Callable[..., tuple[BaseProcess, Connection]]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """Starts a function in another process, with a pipe to hear from it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.store.killed"])
    started: list[BaseProcess] = []

    def start(target: Callable[..., None], *arguments: object) -> tuple[BaseProcess, Connection]:
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=target, args=(*arguments, theirs), daemon=True)
        process.start()
        theirs.close()
        started.append(process)
        return process, ours

    yield start
    for process in started:
        process.kill()
        process.join()
        process.close()


def add(tx: Transaction) -> int:
    thread = tx.thread(TENANT, "t") or open_thread(tx, "t")
    return say(tx, thread, "x" * 500)


# Files that are not what they should be


async def test_a_newer_schema_is_refused_untouched(open_sqlite: OpenSqlite, path: Path) -> None:
    await (await open_sqlite()).close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            "INSERT INTO _sqlite_migrations (migration_set, name, applied_at) "
            "VALUES ('callboard', '9999_later', '')"
        )
    before = path.read_bytes()
    for attempt in (open_sqlite(), asyncio.to_thread(admin.check, str(path))):
        with pytest.raises(StoreError, match=r"newer Callboard \(schema 9999_later\).*upgrade"):
            await attempt
    assert path.read_bytes() == before


async def test_a_foreign_database_is_refused_untouched(open_sqlite: OpenSqlite, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    before = path.read_bytes()
    with pytest.raises(StoreError, match="not one of Callboard's; name another file"):
        await open_sqlite()
    assert path.read_bytes() == before


async def test_what_is_no_database_is_refused_untouched(
    open_sqlite: OpenSqlite, path: Path
) -> None:
    path.write_text("Dear diary, " * 500)
    with pytest.raises(StoreUnavailable, match="not a SQLite database; name another file"):
        await open_sqlite()
    assert path.read_text() == "Dear diary, " * 500


async def test_an_empty_file_becomes_a_database(open_sqlite: OpenSqlite, path: Path) -> None:
    path.touch()
    assert await (await open_sqlite()).write(add) == 2


async def test_a_folder_is_refused(open_sqlite: OpenSqlite, tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="cannot be opened: check that it is a file"):
        await open_sqlite(tmp_path)


async def test_a_missing_folder_is_named(open_sqlite: OpenSqlite, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"the folder .*absent does not exist; create it"):
        await open_sqlite(tmp_path / "absent" / "jobs.db")


@pytest.mark.parametrize("name", ["a b.db", "what?.db", "50%25#.db", "ümlaut.db"])
async def test_any_file_name_will_do(open_sqlite: OpenSqlite, tmp_path: Path, name: str) -> None:
    store = await open_sqlite(tmp_path / name)
    await store.write(add)
    assert (tmp_path / name).is_file()
    assert await store.read(lambda reader: reader.counts().threads) == 1


async def test_a_read_only_file_is_refused(
    open_sqlite: OpenSqlite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await open_sqlite()).close()
    connect = schema.connect
    # As root no file is read-only; a read-only connection fails in the same way.
    monkeypatch.setattr(schema, "connect", lambda path, **_: connect(path, read_only=True))
    with pytest.raises(StoreUnavailable, match="cannot be written: check its and its folder's"):
        await open_sqlite()


@pytest.mark.parametrize("page", [2, 5, 12])
async def test_a_damaged_file_is_reported(open_sqlite: OpenSqlite, path: Path, page: int) -> None:
    store = await open_sqlite()
    await asyncio.gather(*(store.write(add) for _ in range(50)))
    await store.close()
    damaged = bytearray(path.read_bytes())
    for offset in range(4096 * (page - 1), 4096 * page):
        damaged[offset] ^= 0x5A
    path.write_bytes(damaged)

    problems = admin.check(str(path)) if page > 2 else ["damaged"]
    assert problems
    try:
        store = await open_sqlite()
        await store.write(add)
        await store.read(lambda reader: whole_log(reader, 1))
    except StoreError as error:
        assert str(path) in str(error)


async def test_a_damaged_log_of_changes_does_not_hurt(open_sqlite: OpenSqlite, path: Path) -> None:
    store = await open_sqlite()
    await store.write(add)
    with closing(schema.connect(str(path))) as reader:
        reader.execute("SELECT * FROM sessions").fetchall()  # Keeps the log when the store closes.
        await store.write(add)
        copy = path.with_name("copy.db")
        copy.write_bytes(path.read_bytes())
        wal = bytearray(path.with_name("jobs.db-wal").read_bytes())
    wal[-100] ^= 0xFF
    copy.with_name("copy.db-wal").write_bytes(wal)
    await store.close()

    # The last commit was torn: it is gone as a whole.
    store = await open_sqlite(copy, clock=Clock(2**62))
    assert await store.read(lambda reader: sequences(whole_log(reader, 1))) == [1, 2]


# Trouble while it runs


async def test_another_program_holds_the_lock(
    open_sqlite: OpenSqlite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_sqlite()
    monkeypatch.setattr(schema, "PATIENCE", 0.05)
    await store.write(add)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another program"):
            await store.write(add)
        assert await store.read(lambda reader: sequences(whole_log(reader, 1))) == [1, 2]
        other.execute("ROLLBACK")
    assert await store.write(add) == 3


async def test_a_locked_file_cannot_be_opened(
    open_sqlite: OpenSqlite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await (await open_sqlite()).close()
    connect = schema.connect

    def connect_impatiently(path: str, *, synchronous: str = "FULL") -> sqlite3.Connection:
        connection = connect(path, synchronous=synchronous)
        connection.execute("PRAGMA busy_timeout = 50")
        return connection

    monkeypatch.setattr(schema, "connect", connect_impatiently)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreUnavailable, match="locked by another program"):
            await open_sqlite()


async def test_a_full_disk_takes_nothing_and_loses_nothing(
    open_sqlite: OpenSqlite, heard: Heard
) -> None:
    store = await open_sqlite()
    await store.write(add)
    connection = store._connection
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    connection.execute(f"PRAGMA max_page_count = {pages + 10}")

    results: list[int | BaseException] = []
    while not any(isinstance(result, StoreFull) for result in results):
        results += await asyncio.gather(
            *(store.write(add) for _ in range(10)), return_exceptions=True
        )
    answered = [2, *(result for result in results if isinstance(result, int))]
    assert [type(r) for r in results if not isinstance(r, int)] == [StoreFull] * 10
    assert answered == list(range(2, len(answered) + 2))
    assert await store.read(lambda reader: sequences(whole_log(reader, 1))) == [1, *answered]
    assert sequences(heard) == [1, *answered]

    connection.execute("PRAGMA max_page_count = 1000000")
    assert await store.write(add) == answered[-1] + 1


async def test_what_the_database_refuses_harms_no_other(
    open_sqlite: OpenSqlite, heard: Heard
) -> None:
    store = await open_sqlite()
    await store.write(add)

    def twice(tx: Transaction) -> None:
        for _ in range(2):
            tx.remember(TENANT, "m", "id", Remembered(b"", b""))

    def too_big(tx: Transaction) -> None:
        run = open_thread(tx)
        run.session.head = 2**70
        say(tx, run, "lost")

    def same_id(tx: Transaction) -> None:
        open_thread(tx, "t")

    results = await asyncio.gather(
        *(store.write(op) for op in (add, twice, add, too_big, add, same_id, add)),
        return_exceptions=True,
    )
    assert results[::2] == [3, 4, 5, 6]
    assert isinstance(results[1], StoreError)
    assert not isinstance(results[1], StoreUnavailable)
    assert isinstance(results[3], OverflowError | ValueError)
    assert isinstance(results[5], StoreError)
    assert sequences(heard) == [1, 2, 3, 4, 5, 6]
    assert await store.read(lambda reader: reader.counts().threads) == 1


async def test_a_listener_that_fails_does_not_keep_callers_waiting(
    open_sqlite: OpenSqlite, heard: Heard, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_sqlite()
    loop = asyncio.get_running_loop()
    reported: list[dict[str, object]] = []
    loop.set_exception_handler(lambda _, context: reported.append(context))

    def fails(records: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(store, "_listener", fails)
    assert await store.write(add) == 2
    assert isinstance(reported[0]["exception"], ZeroDivisionError)


# Readers and the writer


async def test_a_long_query_does_not_hold_up_a_write(open_sqlite: OpenSqlite) -> None:
    store = await open_sqlite()
    await asyncio.gather(*(store.write(add) for _ in range(5)))
    loop = asyncio.get_running_loop()
    amidst, go_on = asyncio.Event(), threading.Event()

    def long_query(reader: Reader) -> list[int]:
        records = iter(whole_log(reader, 1)[:2])
        seen = [next(records).sequence]
        loop.call_soon_threadsafe(amidst.set)
        assert go_on.wait(10)
        return seen + sequences(whole_log(reader, 1))

    query = asyncio.create_task(store.read(long_query))
    await amidst.wait()
    assert await store.write(add) == 7
    assert await store.read(lambda reader: reader.message_count(1)) == 6
    go_on.set()
    assert await query == [1, 1, 2, 3, 4, 5, 6]


async def test_a_long_write_does_not_hold_up_a_query(open_sqlite: OpenSqlite) -> None:
    store = await open_sqlite()
    await store.write(add)
    loop = asyncio.get_running_loop()
    amidst, go_on = asyncio.Event(), threading.Event()

    def long_operation(tx: Transaction) -> int:
        sequence = add(tx)
        assert tx.message_count(1) == 2  # It is in the database now, uncommitted.
        loop.call_soon_threadsafe(amidst.set)
        assert go_on.wait(10)
        return sequence

    write = asyncio.create_task(store.write(long_operation))
    await amidst.wait()
    assert await store.read(lambda reader: reader.message_count(1)) == 1
    go_on.set()
    assert await write == 3


async def test_a_query_cannot_write(open_sqlite: OpenSqlite) -> None:
    store = await open_sqlite()

    def query(reader: Reader) -> None:
        reader._connection.execute("DELETE FROM sessions")  # type: ignore[attr-defined]

    with pytest.raises(StoreUnavailable, match="cannot be written"):
        await store.read(query)


@pytest.mark.parametrize(("synchronous", "level"), [("FULL", 2), ("NORMAL", 1)])
async def test_synchronous_is_as_asked_for(
    open_sqlite: OpenSqlite, synchronous: str, level: int
) -> None:
    store = await open_sqlite(synchronous=synchronous)
    assert store._connection.execute("PRAGMA synchronous").fetchone() == (level,)
    assert store._connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


async def test_keys_are_never_used_again(open_sqlite: OpenSqlite) -> None:
    def delete(tx: Transaction) -> None:
        child = tx.thread(TENANT, "child")
        assert child is not None
        tx.erase_events(child)
        tx.delete_thread(child)

    store = await open_sqlite()
    await store.write(lambda tx: say(tx, open_thread(tx, "child", parent=open_thread(tx)), "x"))
    await store.write(delete)
    await store.close()
    store = await open_sqlite()
    key = await store.write(lambda tx: open_thread(tx).key)
    assert key == 3
    assert await store.read(lambda reader: reader.message_count(key)) == 0


async def test_a_store_can_be_opened_again(open_sqlite: OpenSqlite, heard: Heard) -> None:
    store = await open_sqlite()
    await store.write(add)
    await store.close()
    await store.open(heard)
    assert await store.write(add) == 3
    assert await store.read(lambda reader: reader.message_count(1)) == 2


# Whose file it is


async def test_a_second_store_in_this_process_is_refused(open_sqlite: OpenSqlite) -> None:
    await open_sqlite()
    with pytest.raises(StoreError, match=r"in use by another server \(process \d+ on .*stop that"):
        await open_sqlite()


async def test_a_second_server_is_refused(
    open_sqlite: OpenSqlite, path: Path, spawn: Spawn
) -> None:
    process, held = spawn(killed.hold, str(path))
    assert await asyncio.to_thread(held.recv) == "held"
    with pytest.raises(StoreError, match=f"in use by another server .process {process.pid} on"):
        await open_sqlite()
    process.kill()
    await asyncio.to_thread(process.join)
    store = await asyncio.wait_for(open_sqlite(), 2)  # At once: no waiting for a lease to end.
    assert await store.write(add) == 2


async def test_a_closed_store_gives_its_file_up(open_sqlite: OpenSqlite) -> None:
    await (await open_sqlite()).close()
    store = await asyncio.wait_for(open_sqlite(), 2)
    assert await store.write(add) == 2


async def test_an_owner_that_slept_can_no_longer_write(open_sqlite: OpenSqlite) -> None:
    clock = Clock()
    first = await open_sqlite(clock=clock)
    await first.write(add)
    clock.now += int((ownership.LEASE + 1) * SECOND)
    second = await open_sqlite(clock=clock)

    with pytest.raises(StoreUnavailable, match="was taken over by another server"):
        await first.write(add)
    assert await second.write(add) == 3
    await first.close()
    assert await second.write(add) == 4
    assert await second.read(lambda reader: sequences(whole_log(reader, 1))) == [1, 2, 3, 4]


async def test_a_lease_is_renewed(open_sqlite: OpenSqlite, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("callboard_server.store.sqlite.store.RENEWAL", 0.01)
    store = await open_sqlite(clock=clock)
    clock.now += int((ownership.LEASE + 1) * SECOND)
    renewed = clock.now / 1e9 + ownership.LEASE

    def lease_end(reader: Reader) -> float:
        owner = ownership.current(reader._connection)  # type: ignore[attr-defined]
        assert owner is not None
        return owner.lease_end

    async with asyncio.timeout(5):
        while await store.read(lease_end) != renewed:  # noqa: ASYNC110 - nothing tells of it
            await asyncio.sleep(0.005)
    with pytest.raises(StoreError, match="in use"):
        await open_sqlite(clock=clock)


def test_what_was_answered_survives_kill_9(path: Path, spawn: Spawn) -> None:
    chance = random.Random(7)
    answered: dict[str, int] = {}
    for loop in range(25):
        process, answers = spawn(killed.write_for_ever, str(path), f"w{loop}")
        wanted = chance.randrange(1, 150)
        try:
            while wanted := wanted - 1:
                name, sequence = answers.recv()
                assert sequence > answered.get(name, 0)
                answered[name] = sequence
            process.kill()
            while True:  # What was answered before the signal came.
                name, sequence = answers.recv()
                answered[name] = sequence
        except EOFError:
            process.join()
        answers.close()
        with closing(schema.connect(str(path), read_only=True)) as connection:
            _check_logs(connection, answered)
    assert len(answered) == killed.SESSIONS
    assert admin.check(str(path)) == []


def _check_logs(connection: sqlite3.Connection, answered: dict[str, int]) -> None:
    rows = connection.execute(
        "SELECT s.session_id, s.head, count(*), min(e.sequence), max(e.sequence) "
        "FROM sessions s JOIN events e ON e.session = s.key GROUP BY s.key"
    ).fetchall()
    heads = {name: head for name, head, *_ in rows}
    assert all(heads[name] >= sequence for name, sequence in answered.items())
    for _, head, count, first, last in rows:
        assert (first, last) == (1, head) and count == head
        assert head % 2 == 1  # Both messages of an operation, or neither.


# Schemas and copies


@pytest.fixture
def next_schema(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adds a migration, as a newer Callboard would have it."""
    newer = Migrations("callboard")
    newer._migrations = list(schema.migrations._migrations)
    monkeypatch.setattr(schema, "migrations", newer)
    schema._add_migration(
        "9000_toy",
        "CREATE TABLE toys (name TEXT);\nINSERT INTO toys SELECT thread_id FROM threads;\n",
    )


async def test_a_migration_keeps_a_copy_of_what_was_before(
    open_sqlite: OpenSqlite, path: Path, request: pytest.FixtureRequest
) -> None:
    store = await open_sqlite()
    await store.write(add)
    await store.close()
    request.getfixturevalue("next_schema")
    with pytest.raises(StoreError, match="older Callboard"):
        admin.check(str(path))

    store = await open_sqlite()
    assert await store.write(add) == 3
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("SELECT name FROM toys").fetchall() == [("t",)]
    copy = path.with_name("jobs.db.before-9000_toy")
    with closing(sqlite3.connect(copy)) as connection:
        tables = Database(connection).table_names()
        assert "toys" not in tables and "events" in tables
        assert connection.execute("SELECT count(*) FROM events").fetchone() == (2,)
        assert connection.execute("SELECT count(*) FROM owner").fetchone() == (0,)
    assert [entry.name for entry in path.parent.glob("*before*")] == [copy.name]


async def test_a_migration_that_fails_changes_nothing(
    open_sqlite: OpenSqlite, path: Path, next_schema: None
) -> None:
    newer, schema.migrations._migrations = schema.migrations._migrations, []
    schema.migrations._migrations = newer[:-1]
    store = await open_sqlite()
    await store.write(add)
    await store.close()
    schema._add_migration("9999_broken", "CREATE TABLE half (name TEXT);\nNONSENSE;\n")
    with pytest.raises(StoreError, match="NONSENSE"):
        await open_sqlite()

    schema.migrations._migrations = newer
    store = await open_sqlite()
    assert await store.write(add) == 3
    with closing(sqlite3.connect(path)) as connection:
        assert "half" not in Database(connection).table_names()


@pytest.mark.usefixtures("next_schema")
async def test_a_running_server_is_not_migrated_under_its_feet(
    open_sqlite: OpenSqlite, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    newer = schema.migrations._migrations
    schema.migrations._migrations = newer[:-1]
    await open_sqlite()
    schema.migrations._migrations = newer
    with pytest.raises(StoreError, match="in use by another server"):
        await open_sqlite()
    with closing(sqlite3.connect(path)) as connection:
        assert "toys" not in Database(connection).table_names()


async def test_two_that_create_a_file_get_along(path: Path) -> None:
    def create() -> None:
        try:
            schema.open_file(str(path), "FULL").close()
        except StoreUnavailable as error:
            # The switch to WAL needs the file for itself and does not wait for it.
            assert "locked by another program" in str(error)

    await asyncio.gather(*(asyncio.to_thread(create) for _ in range(8)))
    with closing(schema.connect(str(path))) as connection:
        assert schema.applied(str(path), connection) == schema.known()
