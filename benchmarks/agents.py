"""The agents of the measured server: they do nothing that takes time of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from benchmarks.workloads import ANSWER, EVENTS, event
from callboard_server import Context


async def echo(ctx: Context) -> str:
    return "hello"


async def answerer(ctx: Context) -> str:
    return ANSWER


async def streamer(ctx: Context) -> None:
    await _emit(ctx, EVENTS)


async def starter(ctx: Context) -> None:
    await _emit(ctx, 1)


async def sleeper(ctx: Context) -> None:
    sleep: Callable[..., Awaitable[None]] = getattr(ctx, "sleep", asyncio.sleep)
    await sleep(ctx.config["seconds"])


SLEEPERS_HOLD_SLOTS = not hasattr(Context, "sleep")


async def _emit(ctx: Context, count: int) -> None:
    for index in range(count):
        await ctx.emit("token", event(index))
