from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from callboard_server.log.records import Record
from callboard_server.store.base import Store
from callboard_server.store.memory import MemoryStore
from callboard_server.store.sqlite import SqliteStore
from tests.store.rows import Clock

OpenSqlite = Callable[..., Awaitable[SqliteStore]]


class Heard(list[Record]):
    """A listener: what it was told, in one list and by commit."""

    def __init__(self) -> None:
        super().__init__()
        self.commits: list[list[Record]] = []

    def __call__(self, records: Sequence[Record]) -> None:
        self.extend(records)
        self.commits.append(list(records))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture(params=["memory", "sqlite"])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, heard: Heard
) -> AsyncIterator[Store]:
    made: Store
    if request.param == "memory":
        made = MemoryStore(worker_id="w", clock=clock)
    else:
        path = str(tmp_path / "jobs.db")
        made = SqliteStore(path, worker_id="w", synchronous="OFF", clock=clock)
    await made.open(heard)
    yield made
    await made.close()


@pytest.fixture
async def open_sqlite(tmp_path: Path, heard: Heard) -> AsyncIterator[OpenSqlite]:
    """Opens stores on one file; closes them after the test."""
    opened: list[SqliteStore] = []

    async def opens(path: Path | str = tmp_path / "jobs.db", **options: object) -> SqliteStore:
        options.setdefault("worker_id", f"w{len(opened)}")
        store = SqliteStore(str(path), **options)  # type: ignore[arg-type]
        await store.open(heard)
        opened.append(store)
        return store

    yield opens
    for store in opened:
        await store.close()
