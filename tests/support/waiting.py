"""Waits for what only a question can tell."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractContextManager, asynccontextmanager
from unittest import mock

from callboard_server.engine.live import Hub
from tests.support.gates import PATIENCE


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Asks until the answer is yes."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


@asynccontextmanager
async def a_wait_to_begin() -> AsyncIterator[None]:
    """Goes on behind its block once a server in this process waits for changes of a run."""
    begun, changes_of = asyncio.Event(), Hub.changes_of

    def noted(hub: Hub, run_id: str) -> AbstractContextManager[asyncio.Event]:
        begun.set()
        return changes_of(hub, run_id)

    with mock.patch.object(Hub, "changes_of", noted):
        yield
        async with asyncio.timeout(PATIENCE):
            await begun.wait()
