"""How much of a long log is read to tell what a thread comes to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from callboard.v1.event_pb2 import Event
from callboard_server.engine.history import ThreadAt
from callboard_server.log.events import KINDS
from callboard_server.log.records import Record
from callboard_server.store.base import Reader, Transaction
from callboard_server.store.sqlite import SqliteStore
from tests.store.rows import SUCCEEDED, TENANT, add_run, merge, open_thread, say

T = TypeVar("T")

TURNS = 200
HALF = 1 + 5 * TURNS // 2
"""The sequence in the middle: a turn has five events."""


class Counting:
    """A reader that notes which events are read."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self.read: list[Record] = []

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._reader, name)
        return self._noting(found) if name in ("events", "messages", "voids") else found

    def _noting(self, method: Callable[..., Any]) -> Callable[..., Iterator[Record]]:
        def note(*arguments: Any, **options: Any) -> Any:
            records = list(method(*arguments, **options))
            self.read += records
            return records

        return note


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[SqliteStore]:
    """A thread of many turns, each with a run that is over, a message and a value."""

    def fill(tx: Transaction) -> None:
        thread = open_thread(tx, "t")
        for number in range(TURNS):
            run = add_run(tx, thread, f"r{number}", state=SUCCEEDED)
            say(tx, thread, f"m{number}", run)
            merge(tx, thread, {"n": number})

    store = SqliteStore(str(tmp_path / "jobs.db"), worker_id="w", synchronous="OFF")
    await store.open(lambda _: None)
    await store.write(fill)
    yield store
    await store.close()


async def reading(
    store: SqliteStore, act: Callable[[ThreadAt], T], at: int | None = None
) -> tuple[T, list[Record]]:
    def query(reader: Reader) -> tuple[T, list[Record]]:
        thread = reader.thread(TENANT, "t")
        assert thread is not None
        counting = Counting(reader)
        return act(ThreadAt(cast("Reader", counting), thread, at)), counting.read

    return await store.read(query)


async def test_the_end_is_read_from_the_end(store: SqliteStore) -> None:
    def act(thread: ThreadAt) -> Any:
        events, more = thread.messages(10, newest_first=True)
        return len(events), more, thread.message_count, thread.values.fields["n"].number_value

    shown, read = await reading(store, act)
    assert shown == (10, True, TURNS, TURNS - 1)
    assert len(read) <= 11


async def test_an_earlier_point_is_read_from_the_kinds_that_it_follows_from(
    store: SqliteStore,
) -> None:
    def act(thread: ThreadAt) -> Any:
        return thread.values.fields["n"].number_value, thread.open_actions

    shown, read = await reading(store, act, HALF)
    assert shown == (TURNS // 2 - 1, [])
    assert {record.kind for record in read} == {KINDS["values_merged"]}
    assert max(record.sequence for record in read) <= HALF


async def test_what_was_taken_back_is_counted_from_its_own_run(store: SqliteStore) -> None:
    def roll_back(tx: Transaction) -> None:
        run = tx.run(TENANT, "r7")
        assert run is not None
        event = Event()
        event.runs_rolled_back.run_ids.append("r7")
        tx.append(run.thread, event)

    await store.write(roll_back)
    count, read = await reading(store, lambda thread: thread.message_count)
    assert count == TURNS - 1
    assert [record.kind for record in read] == [
        KINDS["runs_rolled_back"],
        KINDS["message_added"],
    ]
