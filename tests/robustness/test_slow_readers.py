"""Readers that do not read: they hold nobody back, cost little, and get everything in the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from callboard import Event, RunState
from callboard.v1.run_pb2 import EventFrame
from callboard.v1.thread_pb2 import EVENT_SCOPE_SESSION, StreamEventsRequest
from tests.robustness import validators
from tests.robustness.history import History
from tests.robustness.scenes import Client, connected
from tests.support.memory import MEGABYTE, peak_bytes
from tests.support.process import ServerProcess
from tests.support.proxy import relayed
from tests.support.serving import log_of

CONFIG = Path(__file__).with_name("callboard.toml")
READERS = 1_000
CONNECTIONS = 20
PIECES = 30
FLOOD = "1200 50000"
"""How many events of how many bytes: 60 MB."""

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(CONFIG, tmp_path / "jobs.db")
    await process.start()
    yield process
    await process.clean_up()


@pytest.fixture
async def client(process: ServerProcess) -> AsyncIterator[Client]:
    async with connected(process.address, "main", History(), 0) as client:
        client.home = (await client.sdk.threads.create()).thread_id
        yield client


class Reader:
    """Reads the session of a thread, from when it is told to."""

    def __init__(self, client: Client, thread_id: str) -> None:
        request = StreamEventsRequest(thread_id=thread_id, scope=EVENT_SCOPE_SESSION, deltas=True)
        self._call = client.threads.StreamEvents(request)
        self.frames: list[EventFrame] = []

    async def open(self) -> Reader:
        """Waits until the stream flows."""
        self.frames.append(await self._next())
        return self

    async def read(self) -> None:
        """Reads until the thread is idle."""
        while not any(event.HasField("thread_idle") for event in self.frames[-1].events):
            self.frames.append(await self._next())
        self._call.cancel()

    async def _next(self) -> EventFrame:
        frame = await self._call.read()
        assert isinstance(frame, EventFrame), "the stream ended"
        return frame

    def check(self, log: Sequence[Event]) -> None:
        """Everything came, once and in order."""
        deltas = [delta for frame in self.frames for delta in frame.deltas]
        assert validators.check_reading(log, self.frames) == []
        assert list(validators.gapless(deltas)) == []
        assert list(validators.replaced(log, deltas)) == []


async def work(client: Client, thread_id: str, agent: str, text: str) -> None:
    """Lets an agent work on a thread, to its end."""
    run = await client.sdk.runs.create(agent, text, thread_id=thread_id)
    run = await client.sdk.runs.wait(run.run_id)
    assert run.state == RunState.RUN_STATE_SUCCEEDED, run


def peak_of(process: ServerProcess) -> int:
    return peak_bytes(process.program.pid)


async def test_a_reader_whose_connection_takes_nothing_costs_little_and_loses_nothing(
    process: ServerProcess, client: Client
) -> None:
    # What the work itself takes, the server has taken before.
    elsewhere = await client.sdk.threads.create()
    await work(client, elsewhere.thread_id, "firehose", FLOOD)
    async with (
        relayed(process.port) as (proxy, address),
        connected(address, "slow", History(), 0) as other,
    ):
        slow = await Reader(other, client.home).open()
        quick = await Reader(client, client.home).open()
        proxy.stall()
        before = peak_of(process)
        async with asyncio.TaskGroup() as group:
            group.create_task(quick.read())
            group.create_task(work(client, client.home, "firehose", FLOOD))
        assert peak_of(process) - before < 30 * MEGABYTE
        log = await log_of(client.sdk, client.home)
        quick.check(log)
        proxy.flow()
        await slow.read()
        slow.check(log)


async def test_a_stream_nobody_takes_from_does_not_block_others_of_its_connection(
    client: Client,
) -> None:
    slow = await Reader(client, client.home).open()
    quick = await Reader(client, client.home).open()
    async with asyncio.TaskGroup() as group:
        group.create_task(quick.read())
        group.create_task(work(client, client.home, "firehose", "400 50000"))
    log = await log_of(client.sdk, client.home)
    quick.check(log)
    await slow.read()
    slow.check(log)


async def test_of_a_thousand_readers_one_never_reads_and_the_others_miss_nothing(
    process: ServerProcess, client: Client
) -> None:
    async with AsyncExitStack() as stack:
        proxy, address = await stack.enter_async_context(relayed(process.port))
        targets = [address] + [process.address] * CONNECTIONS
        deaf, *others = [
            await stack.enter_async_context(connected(target, "", History(), number))
            for number, target in enumerate(targets)
        ]
        await Reader(deaf, client.home).open()
        opening = [
            Reader(others[number % CONNECTIONS], client.home).open() for number in range(READERS)
        ]
        readers = await asyncio.gather(*opening)
        proxy.stall()
        before = peak_of(process)
        async with asyncio.TaskGroup() as group:
            for reader in readers:
                group.create_task(reader.read())
            group.create_task(work(client, client.home, "narrator", str(PIECES)))
        assert peak_of(process) - before < 30 * MEGABYTE
        log = await log_of(client.sdk, client.home)
        for reader in readers:
            reader.check(log)
