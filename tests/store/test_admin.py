"""Copies and checks of a database file."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

import pytest

from callboard.v1.event_pb2 import Event
from callboard.v1.run_pb2 import Run
from callboard_server.log.fold import adopt_run, count_other
from callboard_server.store.base import StoreError, Transaction
from callboard_server.store.sqlite import SqliteStore, admin
from tests.store.conftest import OpenSqlite
from tests.store.rows import (
    RUNNING,
    TENANT,
    WAITING,
    add_run,
    delete_tree,
    finish,
    launch,
    log,
    merge,
    open_thread,
    say,
    sequences,
    whole_log,
)


def work(tx: Transaction) -> None:
    """A session with something of everything."""
    root = open_thread(tx, "root")
    merge(tx, root, {"a": {"b": 1}, "c": [1, 2]})
    run = add_run(tx, root, "r1", state=RUNNING)
    say(tx, root, "hello", run)
    merge(tx, root, {"a": {"b": None}, "d": "x"})
    job = launch(tx, root, "job", labels={"l": "1"}, state=WAITING)
    event = Event()
    event.model_call_finished.usage.input_tokens = 5
    tx.append(root, event, run)
    run.data.usage.input_tokens = 5
    event.run_progress.progress.current = 2
    tx.append(root, event, run)
    run.data.progress.current = 2
    finish(tx, run)
    say(tx, root, "later")
    event = Event()
    event.message_added.message.usage.output_tokens = 7
    log(tx, job.run, event)
    before, job.run = job.run, add_run(tx, job.thread, "again", trigger=job.run.data.trigger)
    adopt_run(job.data, before.data)
    log(tx, before, event)
    count_other(job.data, event)
    assert (job.data.run_count, job.data.usage.output_tokens) == (2, 14)
    tx.save_job(job)
    gone = launch(tx, root, "gone")
    delete_tree(tx, gone.thread)
    add_run(tx, open_thread(tx, "other"), "r2", due_at=5.0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "jobs.db"


@pytest.fixture
async def worked(open_sqlite: OpenSqlite) -> SqliteStore:
    store = await open_sqlite()
    await store.write(work)
    return store


async def test_a_whole_database_has_no_problems(worked: SqliteStore, path: Path) -> None:
    assert admin.check(str(path)) == []
    await worked.close()
    before = path.read_bytes()
    assert admin.check(str(path)) == []
    assert path.read_bytes() == before


SPOILT = {
    "DELETE FROM events WHERE session = 1 AND sequence = 3": "session root: event 3 is missing",
    "DELETE FROM events WHERE session = 2 AND sequence = 2": "ends at 1, its head is 2",
    "UPDATE sessions SET head = 1 WHERE key = 2": "session other: the log ends at 2, its head is 1",
    "UPDATE events SET kind = 25 WHERE session = 1 AND sequence = 5": "event 5 is filed under",
    "UPDATE events SET data = x'ffff' WHERE session = 1 AND sequence = 5": "5 cannot be read",
    "UPDATE events SET data = x'0863' WHERE session = 1 AND sequence = 5": "5 says that it is 99",
    "UPDATE runs SET state = 2 WHERE run_id = 'r1'": "run r1 is filed under the wrong state",
    "UPDATE runs SET attended = 1 WHERE run_id = 'r1'": "run r1 is filed wrongly among those that",
    "UPDATE runs SET data = x'0a0272323805' WHERE run_id = 'r2'": "run r2: thread_id, session_id",
    "UPDATE threads SET \"values\" = x'' WHERE thread_id = 'root'": "thread root: values differ",
    "UPDATE jobs SET data = x''": "job job: job_id, session_id",
    "UPDATE jobs SET run = run - 1": "job job: its current run is not the last",
    "UPDATE events SET run = 1 WHERE sequence = 15": "run r1 has message_added after its end",
    "DELETE FROM sessions WHERE key = 2": "events of session 2, which does not exist",
    "UPDATE events SET data = x'08015001' WHERE sequence = 1": "thread root has no thread_created",
}


@pytest.mark.parametrize(("sql", "problem"), SPOILT.items(), ids=SPOILT.values())
async def test_a_problem_is_named(worked: SqliteStore, path: Path, sql: str, problem: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(sql)
    problems = admin.check(str(path))
    assert any(problem in line for line in problems), problems


async def test_a_row_without_events_is_named(open_sqlite: OpenSqlite, path: Path) -> None:
    def operation(tx: Transaction) -> None:
        tx.add_run(open_thread(tx, "t"), Run(run_id="r"))

    await (await open_sqlite()).write(operation)
    assert admin.check(str(path)) == ["session t: run r has no run_created"]


async def test_a_trimmed_log_is_no_problem(worked: SqliteStore, path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM events WHERE session = 1 AND sequence < 12")
        connection.execute("UPDATE sessions SET oldest = 12 WHERE key = 1")
    assert admin.check(str(path)) == []


async def test_a_damaged_index_is_a_problem(worked: SqliteStore, path: Path) -> None:
    await worked.close()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = 1")
        connection.execute("DELETE FROM sqlite_master WHERE name = 'runs_thread'")
    assert admin.check(str(path)) != []


@pytest.mark.parametrize("act", [admin.check, lambda path: admin.backup(path, f"{path}.copy")])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is an empty file"),
        (b"Dear diary, " * 1000, "not a SQLite database"),
    ],
)
def test_what_is_no_database_is_refused(
    path: Path, act: object, content: bytes | None, message: str
) -> None:
    if content is not None:
        path.write_bytes(content)
    assert callable(act)
    with pytest.raises(StoreError, match=message):
        act(str(path))
    assert not Path(f"{path}.copy").exists()


async def test_a_folder_and_a_foreign_database_are_refused(tmp_path: Path) -> None:
    with closing(sqlite3.connect(tmp_path / "x.db")) as connection, connection:
        connection.execute("CREATE TABLE recipes (name TEXT)")
    for path, message in ((tmp_path, "no file"), (tmp_path / "x.db", "not one of Callboard's")):
        with pytest.raises(StoreError, match=message):
            admin.check(str(path))


async def test_a_backup_of_a_busy_database_is_whole_and_opens_at_once(
    open_sqlite: OpenSqlite, path: Path, tmp_path: Path
) -> None:
    store = await open_sqlite()
    await store.write(lambda tx: open_thread(tx, "t"))
    target = tmp_path / "copy.db"

    def add(tx: Transaction) -> int:
        thread = tx.thread(TENANT, "t")
        assert thread is not None
        say(tx, thread, "one")
        return say(tx, thread, "two")

    async def keep_writing() -> None:
        while not copying.done():
            answers.extend(await asyncio.gather(*(store.write(add) for _ in range(20))))

    answers: list[int] = [await store.write(add)]
    copying = asyncio.create_task(asyncio.to_thread(admin.backup, str(path), str(target)))
    await keep_writing()
    size = await copying

    assert size == target.stat().st_size
    assert _names(tmp_path.glob("copy*")) == ["copy.db"]
    assert admin.check(str(target)) == []
    copy = await asyncio.wait_for(open_sqlite(target), 2)
    logged = await copy.read(lambda reader: sequences(whole_log(reader, 1)))
    assert logged == list(range(1, len(logged) + 1))
    assert len(logged) % 2 == 1
    assert len(logged) <= answers[-1]
    assert await copy.write(add) == len(logged) + 2
    assert await store.write(add) == answers[-1] + 2


async def test_a_backup_replaces_nothing(worked: SqliteStore, path: Path, tmp_path: Path) -> None:
    target = tmp_path / "taken.db"
    target.write_text("mine")
    with pytest.raises(StoreError, match=r"taken.db exists already; name a new file"):
        admin.backup(str(path), str(target))
    assert target.read_text() == "mine"
    with pytest.raises(StoreError, match="cannot be written: No such file"):
        admin.backup(str(path), str(tmp_path / "absent" / "copy.db"))


async def test_a_backup_that_fails_leaves_no_file(
    worked: SqliteStore, path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(connection: sqlite3.Connection, target: str) -> None:
        with closing(sqlite3.connect(target)) as copy:
            copy.execute("PRAGMA max_page_count = 2")
            copy.execute("CREATE TABLE a (b)")
            copy.execute("INSERT INTO a VALUES (zeroblob(100000))")

    monkeypatch.setattr("callboard_server.store.sqlite.schema.back_up", fails)
    target = tmp_path / "copy.db"
    with pytest.raises(StoreError, match=r"copy.db: the disk is full"):
        admin.backup(str(path), str(target))
    assert not target.exists()


def _names(paths: Iterable[Path]) -> list[str]:
    return sorted(path.name for path in paths)
