"""What holds of slots while the store takes its time to say which runs are ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TypeVar

import pytest

from callboard_server.engine import dispatcher
from callboard_server.store.base import Reader, StoreUnavailable
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import Served, served

T = TypeVar("T")


@pytest.fixture
async def server(gates: Gates, tmp_path: Path) -> AsyncIterator[Served]:
    """A server with one slot."""
    async with served(gates.agents, tmp_path / "jobs.db", slots=1) as server:
        yield server


class Questions:
    """The dispatcher's questions for a run that is ready, which wait until they are let go."""

    def __init__(self, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked, self.released = asyncio.Event(), asyncio.Event()
        self.fails = False
        self._store = server.app.engine.store
        self._read = self._store.read
        monkeypatch.setattr(self._store, "read", self._answer)

    async def _answer(self, query: Callable[[Reader], T]) -> T:
        if query.__qualname__.startswith("Dispatcher."):
            self.asked.set()
            await self.released.wait()
            if self.fails:
                self.fails = False
                raise StoreUnavailable("out of order")
        return await self._read(query)

    async def are_asked(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.asked.wait()


async def test_nobody_takes_a_slot_while_it_is_asked_who_is_ready(
    server: Served, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = server.client
    first = await client.runs.create("worker", "first")
    await gates.entered("first")
    await client.runs.create("worker", "next")
    questions = Questions(server, monkeypatch)
    gates.open("first")
    await client.runs.wait(first.run_id, until="done")
    await questions.are_asked()
    late = await client.runs.create("worker", "late")
    questions.released.set()
    await gates.entered("next")
    assert server.app.engine.dispatcher.slots_used == 1
    assert gates.order == ["first", "next"]
    gates.open("next", "late")
    await client.runs.wait(late.run_id, until="done")
    assert gates.order == ["first", "next", "late"]


async def test_a_run_is_claimed_though_the_store_did_not_say_that_it_is_ready(
    server: Served, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dispatcher, "STORE_RETRY", 0.0)
    client = server.client
    first = await client.runs.create("worker", "first")
    await gates.entered("first")
    await client.runs.create("worker", "next")
    questions = Questions(server, monkeypatch)
    questions.fails = True
    gates.open("first")
    await client.runs.wait(first.run_id, until="done")
    await questions.are_asked()
    late = await client.runs.create("worker", "late")
    questions.released.set()
    gates.open("late")
    await gates.entered("next")
    gates.open("next")
    await client.runs.wait(late.run_id, until="done")
    assert gates.order == ["first", "next", "late"]
