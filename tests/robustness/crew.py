"""Agents for servers that are killed."""

from __future__ import annotations

import asyncio
import time

from callboard_server.agents.context import Context, SyncContext

PAUSE = 0.02


async def look_up(what: str) -> str:
    """Looks something up.

    Args:
        what: What to look up.
    """
    await asyncio.sleep(PAUSE)
    return f"found {what}"


async def _measure(number: int) -> dict[str, int]:
    await asyncio.sleep(PAUSE)
    return {"step": number}


async def stepper(ctx: Context) -> str:
    """Works in steps and tells of each."""
    for number in range(4):
        result = await ctx.step("measure", _measure, number)
        await ctx.progress("measuring", current=number + 1, total=4)
        await ctx.say(f"measured {result['step']}")
        await ctx.merge_values({"measured": number, f"at{number}": True})
    return f"measured it all: {await ctx.input()}"


def plain(ctx: SyncContext) -> str:
    """Works in a thread."""
    for number in range(3):
        ctx.emit("tick", number)
        ctx.step(f"nap {number}", time.sleep, PAUSE)
    return "rested"


async def steady(ctx: Context) -> str:
    """Takes long, and says so."""
    await ctx.say("begun")
    await asyncio.sleep(3600)
    return "never"


async def leaky(ctx: Context) -> None:
    """Fails with a secret."""
    raise RuntimeError("sk-do-not-tell")


async def parent(ctx: Context) -> str:
    """Launches two jobs and waits for them."""
    jobs = [await ctx.jobs.launch("stepper", f"part {number}") for number in range(2)]
    done = await ctx.client.jobs.wait([job.job_id for job in jobs])
    return f"{len(done)} parts"


def blocking(ctx: SyncContext) -> None:
    """Blocks its thread for good."""
    time.sleep(3600)
