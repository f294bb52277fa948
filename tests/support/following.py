"""Waits for events of a run, as clients do."""

from __future__ import annotations

import asyncio

from callboard import AsyncClient
from callboard.v1.event_pb2 import Event
from callboard.v1.run_pb2 import Run
from tests.support.gates import PATIENCE


async def event_of(client: AsyncClient, run: Run, kind: str, *, count: int = 1) -> Event:
    """Waits for an event of a run, the first of its kind or a later one."""
    async with (
        asyncio.timeout(PATIENCE),
        client.threads.stream(run.thread_id, until="never") as stream,
    ):
        async for item in stream:
            if isinstance(item, Event) and item.run_id == run.run_id and item.HasField(kind):  # type: ignore[arg-type]
                count -= 1
                if not count:
                    return item
    raise AssertionError("the stream ended")


async def over(client: AsyncClient, run: Run) -> Run:
    """Waits for the end of a run."""
    return await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)
