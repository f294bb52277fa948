"""The peer as a side. Every run gets a thread of its own, made and removed by the same call."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator

from langgraph_sdk import get_client  # type: ignore[import-not-found]

from benchmarks.side import POLL

INPUT = {"messages": [{"role": "user", "content": "hi"}]}


class LangGraphSide:
    """A server that `langgraph dev` started."""

    def __init__(self, address: str) -> None:
        self._address = address

    async def open(self) -> None:
        self._client = get_client(url=f"http://{self._address}", api_key=None)
        await self.run()

    async def close(self) -> None:
        await self._client.aclose()

    async def run(self) -> None:
        values = await self._client.runs.wait(None, "echo", input=INPUT)
        if values["messages"][-1]["content"] != "hello":
            raise RuntimeError("a run ended without its answer")

    async def launch(self) -> None:
        await self._client.runs.create(None, "echo", input=INPUT)

    async def launch_sleeper(self, seconds: float) -> None:
        await self._client.runs.create(None, "sleeper", input={**INPUT, "seconds": seconds})

    async def check_sleepers(self) -> None:
        """Nothing is left of those that slept: waits for another one, which raises if it fails."""
        await self._client.runs.wait(None, "sleeper", input={**INPUT, "seconds": 0.0})

    async def notices(self) -> AsyncGenerator[float]:
        """Nobody is told there: a call waits for each job, which is what comes next to it."""
        while True:
            started = time.perf_counter()
            run = await self._client.runs.create(None, "echo", input=INPUT, on_completion="keep")
            await self._client.runs.join(run["thread_id"], run["run_id"])
            took = time.perf_counter() - started
            await self._client.threads.delete(run["thread_id"])
            yield took

    def wake_ups(self) -> AsyncGenerator[float]:
        raise NotImplementedError

    async def events(self, agent: str) -> AsyncIterator[None]:
        stream = self._client.runs.stream(None, agent, input=INPUT, stream_mode="custom")
        async for part in stream:
            if part.event == "custom":
                yield

    async def settle(self) -> None:
        while True:
            if not await self._client.threads.count(status="busy"):
                return
            await asyncio.sleep(POLL)

    async def read(self) -> None:
        raise NotImplementedError

    async def fill_thread(self, events: int) -> None:
        raise NotImplementedError

    async def thread_state(self) -> None:
        raise NotImplementedError

    async def thread_page(self) -> None:
        raise NotImplementedError
