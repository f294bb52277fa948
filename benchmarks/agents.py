"""The agents of the measured server: they do nothing that takes time of its own."""

from __future__ import annotations

from typing import cast

from benchmarks.workloads import ANSWER, EVENTS, event
from callboard_server import Context


async def echo(ctx: Context) -> str:
    return "hello"


async def listener(ctx: Context) -> str:
    await ctx.messages()
    return "heard"


async def answerer(ctx: Context) -> str:
    return ANSWER


async def streamer(ctx: Context) -> None:
    await _emit(ctx, EVENTS)


async def starter(ctx: Context) -> None:
    await _emit(ctx, 1)


async def sleeper(ctx: Context) -> None:
    await ctx.sleep(cast("float", ctx.config["seconds"]))


async def _emit(ctx: Context, count: int) -> None:
    for index in range(count):
        await ctx.emit("token", event(index))
