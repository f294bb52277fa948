"""Connections that are cut at any byte: what the SDK hands out has no gap and nothing twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

import callboard
from callboard import _backoff
from callboard.v1.message_pb2 import Text
from callboard_server.agents.context import Context
from tests.robustness import validators
from tests.robustness.history import History, Reading
from tests.robustness.scenes import Client, connected, take
from tests.support.gates import PATIENCE
from tests.support.proxy import Proxy, relayed
from tests.support.serving import Served, served, sound_log

CUTS = 100


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backoff, "FIRST_SECONDS", 0.005)
    monkeypatch.setattr(_backoff, "LONGEST_SECONDS", 0.02)


class Chatter:
    """An agent that tells and writes until it is hushed."""

    def __init__(self) -> None:
        self.hushed = asyncio.Event()

    async def chatter(self, ctx: Context) -> str:
        """Talks."""
        number = 0
        while not self.hushed.is_set():
            message = ctx.write_message((await ctx.view()).context_sequence)
            for piece in ("ä bit ", "of ", f"tälk {number}"):
                message.delta(0, piece)
                await ctx.emit("tick", number)
                await asyncio.sleep(0.001)
            text = Text(text=f"ä bit of tälk {number}")
            await message.commit([callboard.ContentBlock(text=text)])
            number += 1
        return "hushed"


@asynccontextmanager
async def behind_cuts(
    server: Served, seed: int, least: int, clients: int
) -> AsyncIterator[tuple[Proxy, list[Client]]]:
    """Clients whose connections are cut after some bytes, until there were enough cuts.

    Args:
        server: What they call.
        seed: Decides when.
        least: A connection lives for so many bytes at the least, and often for many more.
        clients: How many.
    """
    chance = random.Random(seed)

    def budget() -> int | None:
        return None if proxy.cuts >= CUTS else least << chance.randrange(7)

    async with AsyncExitStack() as stack:
        proxy, address = await stack.enter_async_context(
            relayed(server.port, budget=budget, delay=lambda: chance.random() / 500)
        )
        opened = [connected(address, str(n), History(), seed + n) for n in range(clients)]
        yield proxy, [await stack.enter_async_context(client) for client in opened]


async def test_what_readers_get_through_a_hundred_cuts_is_the_log(tmp_path: Path) -> None:
    agent = Chatter()
    async with served([agent.chatter], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("chatter", "go")
        async with behind_cuts(server, seed=3, least=300, clients=6) as (proxy, clients):
            readings = [Reading(run.thread_id) for _ in clients]
            readers = asyncio.gather(
                *(
                    take(reading, stream(client, run))
                    for reading, client in zip(readings, clients, strict=True)
                )
            )

            def have_enough() -> bool:
                return proxy.cuts >= CUTS and all(len(each.deltas) > CUTS for each in readings)

            while not (readers.done() or have_enough()):
                await asyncio.wait([readers], timeout=0.05)
            agent.hushed.set()
            async with asyncio.timeout(PATIENCE):
                await readers
        log = await sound_log(server.client, run.thread_id)
    assert proxy.cuts >= CUTS
    for reading in readings:
        assert reading.events == log
        assert list(validators.gapless(reading.deltas)) == []
        assert list(validators.replaced(log, reading.deltas)) == []


def stream(client: Client, run: callboard.Run) -> callboard.AsyncEventStream:
    """Streams the session of a run with what is being written, to the run's end."""
    return client.sdk.threads.stream(run.thread_id, scope="session", deltas=True, until="done")


async def test_a_watch_through_cuts_comes_to_the_end(tmp_path: Path) -> None:
    agent = Chatter()
    async with served([agent.chatter], tmp_path / "jobs.db") as server:
        job = await server.client.jobs.launch("chatter", "go")
        async with behind_cuts(server, seed=4, least=300, clients=1) as (proxy, [client]):
            changes = client.sdk.jobs.watch(job_id=job.job_id, until="done")

            async def watch() -> list[callboard.Job]:
                return [change async for change in changes]

            watcher = asyncio.create_task(watch())
            while proxy.cuts < CUTS // 5 and not watcher.done():
                await client.sdk.jobs.get(job.job_id)
            agent.hushed.set()
            async with asyncio.timeout(PATIENCE):
                seen = await watcher
    assert list(validators.jobs_in_order(seen)) == []
    assert seen[-1].state == callboard.RunState.RUN_STATE_SUCCEEDED


async def test_launches_through_cuts_take_place_once(tmp_path: Path) -> None:
    async def quick(ctx: Context) -> str:
        return await ctx.input()

    async with served([quick], tmp_path / "jobs.db") as server:
        async with behind_cuts(server, seed=5, least=60, clients=6) as (proxy, clients):
            await asyncio.gather(
                *(launch_while(client, lambda: proxy.cuts < CUTS) for client in clients)
            )
        jobs = [job async for job in server.client.jobs.list()]
        await server.client.jobs.wait([job.job_id for job in jobs], timeout=PATIENCE)
        logs = [await sound_log(server.client, job.job_id) for job in jobs]
    inputs = [each for client in clients for each in client.history.inputs]
    assert len(jobs) == len(inputs)
    assert list(validators.taken_once(logs)) == []
    assert list(validators.acknowledged(logs, inputs)) == []


async def launch_while(client: Client, goes_on: Callable[[], bool]) -> None:
    """Launches job after job."""
    while goes_on():
        text = client.label()
        job = await client.sdk.jobs.launch("quick", text)
        client.history.took(text, job.job_id, job.run_id)
