"""Agents to talk to: they ask, wait, fail and give work to each other."""

from __future__ import annotations

import asyncio

from callboard import ContentBlock, Message, Text
from callboard_server import AgentError, Context, ToolError, tool
from callboard_server.agents.tools import client_tool


async def painter(ctx: Context) -> str:
    """Asks three things."""
    answers = [
        await ctx.ask("Which\ncolour?", schema={"enum": ["red", "blue"]}),
        await ctx.ask("Its name?", schema={"type": "string"}, deadline=3600),
        await ctx.ask("Anything else?"),
    ]
    return repr(answers)


async def chooser(ctx: Context) -> str:
    """Asks one thing, whatever it is told."""
    return f"Chosen: {await ctx.ask('Which one?')}"


async def boss(ctx: Context) -> str:
    """Lets a job ask, and waits for it."""
    [job] = await ctx.jobs.wait(await ctx.jobs.launch("chooser", "Choose."))
    return f"It says: {job.outcome.result.content[0].text.text}"


async def starter(ctx: Context) -> str:
    """Lets a job ask, and does not wait for the answer."""
    if await ctx.input() == "start":
        job = await ctx.jobs.launch("chooser", "Choose.", notify="none")
        await ctx.client.runs.wait(job.run_id, until="done_or_action")
        return "It has started."
    return f"You said: {await ctx.input()}"


async def echo(ctx: Context) -> str:
    """Says who it is, and what it was told."""
    return f"{ctx.author} hears: {await ctx.input()}"


async def number(ctx: Context) -> str:
    """Doubles a number."""
    told = await ctx.input()
    if not told.isdecimal():
        raise AgentError("Tell me a number.")
    return str(2 * int(told))


async def sleeper(ctx: Context) -> None:
    """Says how far it is, and gets no further."""
    await ctx.say("Good night.")
    await ctx.progress("asleep", current=1, total=2)
    await asyncio.Event().wait()


async def novelist(ctx: Context) -> Message:
    """Gets stuck in the first draft."""
    await ctx.say("Listen.")
    draft = ctx.write_message(0)
    begun = ctx.workspace / "begun"
    if not begun.exists():
        begun.touch()
        draft.delta(0, "Half an")
        await asyncio.Event().wait()
    return await draft.commit([ContentBlock(text=Text(text="An answer."))])


async def writer(ctx: Context) -> str:
    """Writes what a terminal must not be told."""
    await ctx.ask("\x1b]0;taken\x07Really?\n> \u202eno")
    return "\x1b[2J\x1b[31mred\x07 \u202ebackwards\x9b1m"


@tool
def search(pattern: str, folder: str = ".") -> list[str]:
    """Search files."""
    return [f"{folder}/{pattern}.py", "b.py", "c.py"]


@tool
def read(name: str) -> str:
    """Read a file."""
    if name == "missing":
        raise ToolError(f"There is no file {name}.")
    return f"The first line of {name}.\nThe last one."


@tool(policy="ask")
def open_door(number: int) -> str:
    """Open a door."""
    return f"Door {number} is open."


look = client_tool("look", "Look out of the window.", {"type": "object"})
