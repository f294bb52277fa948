"""What the SQLite store remembers is what is in the file; test_differential.py has the rest."""

from __future__ import annotations

import pytest

from callboard.v1.event_pb2 import Action
from callboard_server.store.base import Reader, StoreError, StoreUnavailable, Transaction
from callboard_server.store.sqlite import ownership
from callboard_server.store.sqlite.cached import CachedReader
from callboard_server.store.sqlite.store import SqliteStore
from tests.store.conftest import OpenSqlite
from tests.store.rows import SECOND, TENANT, Clock, add_run, launch, open_thread, say


def head(reader: Reader) -> int:
    thread = reader.thread(TENANT, "t")
    return thread.session.head if thread else 0


def shown_head(store: SqliteStore) -> int:
    """Asks what is remembered, and nothing else."""
    assert store._shown is not None
    return head(CachedReader(store._shown))


async def test_what_was_just_committed_is_remembered(open_sqlite: OpenSqlite) -> None:
    store = await open_sqlite()
    await store.write(lambda tx: add_run(tx, open_thread(tx, "t"), "r"))
    assert shown_head(store) == 2


async def test_what_an_operation_adds_is_below_its_row(open_sqlite: OpenSqlite) -> None:
    store = await open_sqlite()

    def operation(tx: Transaction) -> None:
        thread = open_thread(tx, "t")
        run = add_run(tx, thread, "r")
        assert tx.threads_below(thread.key) == [thread]
        assert tx.actions_of_run(run.key) == []
        assert tx.job(TENANT, "t") is None
        job = launch(tx, thread, "j")
        action = tx.add_action(run, Action(action_id="a"))
        assert tx.threads_below(thread.key) == [thread, job.thread]
        assert tx.actions_of_run(run.key) == [action]
        assert tx.job(TENANT, "j") is job

    await store.write(operation)


async def test_a_thread_that_launched_nothing_is_known_to_have_no_jobs(
    open_sqlite: OpenSqlite,
) -> None:
    store = await open_sqlite()
    thread = await store.write(lambda tx: open_thread(tx, "t"))
    assert store._shown is not None
    # Every run that ends without success asks.
    assert CachedReader(store._shown).active_jobs(thread.key) == 0
    await store.write(lambda tx: launch(tx, tx.thread_at(thread.key), "j"))
    assert await store.write(lambda tx: tx.active_jobs(thread.key)) == 1


async def test_a_failed_commit_is_not_remembered(open_sqlite: OpenSqlite) -> None:
    store = await open_sqlite()
    await store.write(lambda tx: open_thread(tx, "t"))

    def same_id(tx: Transaction) -> None:
        thread = tx.thread(TENANT, "t")
        assert thread is not None
        say(tx, thread, "lost")
        open_thread(tx, "t")

    with pytest.raises(StoreError):
        await store.write(same_id)
    assert await store.write(head) == await store.read(head) == shown_head(store) == 1


async def test_nothing_is_remembered_of_a_file_in_other_hands(open_sqlite: OpenSqlite) -> None:
    clock = Clock()
    first = await open_sqlite(clock=clock)
    await first.write(lambda tx: open_thread(tx, "t"))
    clock.now += int((ownership.LEASE + 1) * SECOND)
    second = await open_sqlite(clock=clock)

    def add(tx: Transaction) -> None:
        thread = tx.thread(TENANT, "t")
        assert thread is not None
        say(tx, thread, "more")

    await second.write(add)
    with pytest.raises(StoreUnavailable):
        await first.write(add)
    assert await first.read(head) == 2
