"""Two agents. The server runs them as background jobs: see callboard.toml."""

import asyncio
import re

from callboard_server import AgentError, Context, SyncContext


async def countdown(ctx: Context) -> str:
    """Counts down from a number, four steps a second."""
    match = re.search(r"\d+", await ctx.input())
    if match is None:
        raise AgentError("Tell me a number to count down from.")
    total = int(match.group())
    for step in range(total):
        await ctx.progress(f"{total - step} to go", current=step, total=total)
        await asyncio.sleep(0.25)
    return f"Counted down from {total}."


def count_words(ctx: SyncContext) -> str:
    """Counts the words of a text. Plain functions run in threads of their own."""
    words = ctx.input().split()
    return f"{len(words)} words, {len(set(words))} of them different."
