"""The tools of researcher and coder. All that they do is take their time: put in yours."""

from __future__ import annotations

import asyncio

from callboard_server import Context, tool


@tool(idempotent=True)
async def search(topic: str, sources: int, ctx: Context) -> str:
    """Search for a topic.

    Args:
        topic: What about.
        sources: How many sources to read.
        ctx: The context of the call.
    """
    await _work("sources read", sources, ctx)
    return f"Read {sources} sources on {topic}."


@tool(idempotent=True)
async def build(program: str, files: int, ctx: Context) -> str:
    """Write a program and test it.

    Args:
        program: What it is to do.
        files: How many files it shall have.
        ctx: The context of the call.
    """
    await _work("files written", files, ctx)
    return f"Wrote {program}: {files} files, tested."


async def _work(unit: str, count: int, ctx: Context) -> None:
    for done in range(count):
        await ctx.progress(unit, current=done, total=count)
        await asyncio.sleep(0.1)
