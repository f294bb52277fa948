"""Waits for what only a question can tell."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from tests.support.gates import PATIENCE


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    """Asks until the answer is yes."""
    async with asyncio.timeout(PATIENCE):
        while not await holds():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
