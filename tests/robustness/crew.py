"""Agents for servers that are killed. What they do outside of the log, they write into a file."""

from __future__ import annotations

import asyncio
import json
import time

from callboard.v1.event_pb2 import RunTrigger
from callboard.v1.message_pb2 import ContentBlock, Message, Text
from callboard_server.agents.context import Context
from callboard_server.agents.sync_context import SyncContext
from callboard_server.agents.tools import tool

PAUSE = 0.02
STEPS = 4


def leave_trace(ctx: Context | SyncContext, work: str) -> None:
    """Writes down that something was done: a line that outlives the process."""
    line = json.dumps([ctx.run.run_id, ctx.run.claim_epoch, work])
    with (ctx.workspace / "traces").open("a") as file:
        file.write(f"{line}\n")


def _leave_trace_of_tool(ctx: Context, name: str, what: str) -> None:
    leave_trace(ctx, f"tool {name} {json.dumps({'what': what})}")


async def look_up(ctx: Context, what: str) -> str:
    """Looks something up.

    Args:
        ctx: The run.
        what: What to look up.
    """
    _leave_trace_of_tool(ctx, "look_up", what)
    await asyncio.sleep(PAUSE)
    return f"found {what}"


@tool(idempotent=True)
async def count_letters(ctx: Context, what: str) -> int:
    """Counts letters.

    Args:
        ctx: The run.
        what: Where to count.
    """
    _leave_trace_of_tool(ctx, "count_letters", what)
    await asyncio.sleep(PAUSE)
    return len(what)


@tool(idempotent=True)
async def hand_over(ctx: Context, what: str) -> str:
    """Hands work over to another agent.

    Args:
        ctx: The run.
        what: What to do.
    """
    job = await ctx.jobs.launch("plain", f"part 0 of hand over {what}", notify="none")
    _leave_trace_of_tool(ctx, "hand_over", what)
    await asyncio.sleep(PAUSE)
    return f"handed over to {job.agent}"


@tool(policy="ask")
async def blow_up(ctx: Context, what: str) -> str:
    """Blows something up.

    Args:
        ctx: The run.
        what: What to blow up.
    """
    _leave_trace_of_tool(ctx, "blow_up", what)
    return f"blew up {what}"


async def _measure(ctx: Context, number: int, parents: str = "") -> int:
    leave_trace(ctx, f"step {parents}measure#{number + 1}")
    await asyncio.sleep(PAUSE)
    return number


async def stepper(ctx: Context) -> str:
    """Works in steps and tells of each."""
    for number in range(STEPS):
        result = await ctx.step("measure", _measure, ctx, number)
        await ctx.progress("measuring", current=number + 1, total=STEPS)
        await ctx.say(f"measured {result}")
        await ctx.merge_values({"measured": number, f"at{number}": True})
    return f"measured it all: {await ctx.input()}"


async def asker(ctx: Context) -> str:
    """Asks what it needs to know, between two steps."""
    await ctx.step("measure", _measure, ctx, 0)
    answer = await ctx.ask("How many?", schema={"type": "integer"})
    await ctx.step("measure", _measure, ctx, 1)
    return f"{answer}: {await ctx.input()}"


async def sleeper(ctx: Context) -> str:
    """Sleeps between its steps."""
    for number in range(2):
        await ctx.step("measure", _measure, ctx, number)
        await ctx.sleep(PAUSE)
    return f"slept: {await ctx.input()}"


async def boss(ctx: Context) -> str:
    """Launches two jobs and waits for them without a slot."""
    task = await ctx.input()
    jobs = [
        await ctx.jobs.launch("plain", f"part {number} of {task}", notify="none")
        for number in range(2)
    ]
    done = await ctx.jobs.wait(*jobs)
    return f"{len(done)} parts: {task}"


async def crowd(ctx: Context) -> str:
    """Works in three branches side by side."""
    done = await ctx.gather(*(_branch(ctx, number) for number in range(3)))
    return f"{sum(done)}: {await ctx.input()}"


async def _branch(ctx: Context, number: int) -> int:
    path = f"gather#1/branch#{number}/"
    await ctx.step("measure", _measure, ctx, 0, path)
    await ctx.sleep(PAUSE * number)
    return await ctx.step("measure", _measure, ctx, 1, path)


async def flaky(ctx: Context) -> str:
    """Fails at its first attempt, behind its first step."""
    await ctx.step("measure", _measure, ctx, 0)
    if ctx.run.attempt == 1:
        raise OSError("not today")
    await ctx.step("measure", _measure, ctx, 1)
    return f"done at last: {await ctx.input()}"


def _nap(ctx: SyncContext, number: int) -> None:
    leave_trace(ctx, f"step nap {number}#1")
    time.sleep(PAUSE)


def plain(ctx: SyncContext) -> str:
    """Works in a thread."""
    for number in range(3):
        ctx.emit("tick", number)
        ctx.step(f"nap {number}", _nap, ctx, number)
    return f"rested: {ctx.input()}"


async def slow(ctx: Context) -> str:
    """Works in steps that take a while."""
    for number in range(STEPS):
        await ctx.step("measure", _measure_slowly, ctx, number)
    return "measured slowly"


async def _measure_slowly(ctx: Context, number: int) -> int:
    await asyncio.sleep(10 * PAUSE)
    return await _measure(ctx, number)


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
    task = await ctx.input()
    jobs = [
        await ctx.jobs.launch("stepper", f"part {number} of {task}", notify="none")
        for number in range(2)
    ]
    done = await ctx.client.jobs.wait([job.job_id for job in jobs])
    return f"{len(done)} parts: {task}"


async def leader(ctx: Context) -> str:
    """Launches three jobs and stops one, and is woken for the others; says of how many it heard."""
    if ctx.run.trigger != RunTrigger.RUN_TRIGGER_INBOX:
        task = await ctx.input()
        for part in ("one", "two"):
            await ctx.jobs.launch("plain", f"{part} of {task}", notify="outcome")
        stopped = await ctx.jobs.launch("steady", f"stopped of {task}", notify="outcome")
        await ctx.jobs.cancel(stopped.job_id)
    return f"heard of {sum(bool(message.notice_id) for message in await ctx.messages())}"


async def firehose(ctx: Context) -> str:
    """Emits as many events of as many bytes as its input says."""
    count, size = map(int, (await ctx.input()).split())
    for number in range(count):
        await ctx.emit(str(number), "x" * size)
    return f"emitted {count}"


async def narrator(ctx: Context) -> Message:
    """Writes as many pieces as its input says, no faster than anybody can listen."""
    pieces = int(await ctx.input())
    writer = ctx.write_message((await ctx.view()).context_sequence)
    text = ""
    for number in range(pieces):
        piece = f"Pièce {number}. "
        writer.delta(0, piece)
        text += piece
        await asyncio.sleep(PAUSE)
    return await writer.commit([ContentBlock(text=Text(text=text))])


def blocking(ctx: SyncContext) -> None:
    """Blocks its thread for good."""
    time.sleep(3600)
