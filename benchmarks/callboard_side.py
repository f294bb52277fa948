"""Callboard as a side."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator
from uuid import uuid4

from benchmarks.side import POLL
from benchmarks.workloads import ANSWER, EVENTS
from callboard import AsyncClient
from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState

PAGE = 50
LONGEST = 60.0
"""Seconds that a run may take."""


class CallboardSide:
    """A Callboard server, or one that answers like it."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._long_thread = ""

    async def open(self) -> None:
        # Here, because a channel belongs to the loop that runs when it is made.
        self._client = AsyncClient(self._address)
        run = await self._client.runs.create("echo", "hi")
        self._run_id = run.run_id
        await self._client.runs.wait(run.run_id)

    async def close(self) -> None:
        await self._client.aclose()

    async def read(self) -> None:
        await self._client.runs.get(self._run_id)

    async def run(self) -> None:
        run = await self._client.runs.create("echo", "hi", wait=LONGEST)
        if run.state != RunState.RUN_STATE_SUCCEEDED:
            raise RuntimeError(f"a run ended as {RunState.Name(run.state)}")

    async def launch(self) -> None:
        await self._client.jobs.launch("echo", "hi")

    async def launch_sleeper(self, seconds: float) -> None:
        await self._client.jobs.launch("sleeper", "rest", config={"seconds": seconds})

    async def check_sleepers(self) -> None:
        async for job in self._client.jobs.list(states=["failed"], page_size=1):
            raise RuntimeError(f"a job failed: {job.outcome.error.message}")

    async def notices(self) -> AsyncGenerator[float]:
        supervisor = await self._client.supervisor(str(uuid4()), ["echo"])
        async with supervisor.notices() as notices:
            while True:
                following = asyncio.ensure_future(anext(notices))
                started = time.perf_counter()
                job = await self._launch_below(supervisor.thread_id)
                notice = await following
                took = time.perf_counter() - started
                if notice.job_id != job.job_id:
                    raise RuntimeError("a notice is about another job")
                await notice.done()
                yield took

    async def wake_ups(self) -> AsyncGenerator[float]:
        # Each on a thread of its own, as who is woken reads the whole of it.
        while True:
            home = (await self._client.threads.create()).thread_id
            # It is whom the thread's notices wake from here on.
            await self._client.runs.create("listener", "hi", thread_id=home, wait=LONGEST)
            after = (await self._client.threads.get(home)).head_sequence
            async with self._client.threads.stream(
                home, kinds=["run_finished"], after_sequence=after, until="never"
            ) as ends:
                following = asyncio.ensure_future(anext(ends))
                started = time.perf_counter()
                await self._launch_below(home)
                await following
                yield time.perf_counter() - started

    async def _launch_below(self, thread_id: str) -> Job:
        return await self._client.jobs.launch("echo", "hi", parent_thread_id=thread_id)

    async def events(self, agent: str, thread_id: str | None = None) -> AsyncIterator[None]:
        async with self._client.runs.stream(agent, "go", thread_id=thread_id) as stream:
            async for item in stream:
                if isinstance(item, Event) and item.HasField("custom"):
                    yield

    async def settle(self) -> None:
        while True:
            counts = (await self._client.server.info()).counts
            if not counts.runs_queued + counts.runs_running + counts.runs_waiting:
                return
            await asyncio.sleep(POLL)

    async def fill_thread(self, events: int) -> None:
        """Half of it are messages, half what agents emit, in turns."""
        if self._long_thread:
            return
        threads = self._client.threads
        self._long_thread = (await threads.create()).thread_id
        messages = [ANSWER] * EVENTS
        for _ in range(events // (2 * EVENTS)):
            await threads.update_state(self._long_thread, messages)
            async for _ in self.events("streamer", self._long_thread):
                pass

    async def thread_state(self) -> None:
        state = await self._client.threads.state(self._long_thread, message_limit=PAGE)
        if len(state.messages) != PAGE:
            raise RuntimeError(f"{len(state.messages)} of {PAGE} messages came back")

    async def thread_page(self) -> None:
        threads = self._client.threads
        pages = threads.messages(self._long_thread, order="newest_first", page_size=PAGE)
        await anext(pages)  # The others of the page are there, too; the next is not fetched.
