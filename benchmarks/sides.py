"""What is compared: each side does the same work in its own way."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Protocol

from callboard import AsyncClient
from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import RunState

POLL = 0.02


class Side(Protocol):
    """A server with its client."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def read(self) -> None:
        """Fetches a finished run."""

    async def run(self) -> None:
        """Has an echo run done, from its creation to its result."""

    async def launch(self) -> None:
        """Launches an echo job and does not wait for it."""

    def events(self, agent: str) -> AsyncIterator[None]:
        """Starts a run and streams it; yields for each event that the agent emits."""

    async def settle(self) -> None:
        """Waits until nothing runs any more."""


class CallboardSide:
    """A Callboard server, or one that answers like it."""

    def __init__(self, address: str) -> None:
        self._address = address

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
        run = await self._client.runs.create("echo", "hi")
        run = await self._client.runs.wait(run.run_id)
        if run.state != RunState.RUN_STATE_SUCCEEDED:
            raise RuntimeError(f"a run ended as {RunState.Name(run.state)}")

    async def launch(self) -> None:
        await self._client.jobs.launch("echo", "hi")

    async def events(self, agent: str) -> AsyncIterator[None]:
        async with self._client.runs.stream(agent, "go") as stream:
            async for item in stream:
                if isinstance(item, Event) and item.HasField("custom"):
                    yield

    async def settle(self) -> None:
        while True:
            counts = (await self._client.server.info()).counts
            if not counts.runs_queued + counts.runs_running:
                return
            await asyncio.sleep(POLL)
