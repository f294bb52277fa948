"""Agents that go on when a test says so."""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import Sequence

from callboard_server.agents.context import Context

PATIENCE = 10.0
"""How many seconds a test waits for what must come."""


class Gates:
    """Agents whose runs stop at gates, each named by the text of the run's input.

    The names of the agents are those of the methods.
    """

    def __init__(self) -> None:
        self._entered: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._opened: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self._contexts: dict[str, Context] = {}
        self.order: list[str] = []
        """The texts in the order of the runs' starts."""
        self.cancelled: list[str] = []
        """The texts of runs whose code was cancelled."""
        self._closed = False

    async def worker(self, ctx: Context) -> str:
        """Waits for its gate."""
        text = await self._enter(ctx)
        try:
            await self._opened[text].wait()
        except asyncio.CancelledError:
            self.cancelled.append(text)
            raise
        return f"done: {text}"

    async def stubborn(self, ctx: Context) -> str:
        """Waits for its gate, whoever asks it to stop."""
        text = await self._enter(ctx)
        while not (self._opened[text].is_set() or self._closed):
            with contextlib.suppress(asyncio.CancelledError):
                await self._opened[text].wait()
        return f"done: {text}"

    async def quick(self, ctx: Context) -> str:
        """Answers at once."""
        return f"done: {await self._enter(ctx)}"

    async def _enter(self, ctx: Context) -> str:
        text = await ctx.input()
        self.order.append(text)
        self._contexts[text] = ctx
        self._entered[text].set()
        return text

    async def entered(self, text: str) -> Context:
        """Waits until a run has started, and returns its context."""
        async with asyncio.timeout(PATIENCE):
            await self._entered[text].wait()
        return self._contexts[text]

    def has_entered(self, text: str) -> bool:
        return self._entered[text].is_set()

    def open(self, *texts: str) -> None:
        """Lets runs go on."""
        for text in texts:
            self._opened[text].set()

    def close(self) -> None:
        """Lets go of all that is still at its gate."""
        self._closed = True
        self.open(*self._opened)

    @property
    def agents(self) -> Sequence[object]:
        return [self.worker, self.stubborn, self.quick]
