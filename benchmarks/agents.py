"""The agents of the measured server: they do nothing that takes time of its own."""

from __future__ import annotations

from callboard_server import Context

EVENTS = 1000
PAYLOAD = "x" * 160  # about 200 bytes of JSON an event


async def echo(ctx: Context) -> str:
    return "hello"


async def streamer(ctx: Context) -> None:
    await _emit(ctx, EVENTS)


async def starter(ctx: Context) -> None:
    await _emit(ctx, 1)


async def _emit(ctx: Context, count: int) -> None:
    for index in range(count):
        await ctx.emit("token", {"index": index, "kind": "token", "payload": PAYLOAD})
