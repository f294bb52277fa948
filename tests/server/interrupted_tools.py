"""Tools of the agents that are interrupted."""

from __future__ import annotations

import asyncio

from callboard_server import AgentError


async def quick() -> str:
    """Answers at once."""
    return "found"


async def endless() -> None:
    """Never answers."""
    await asyncio.Event().wait()


async def fatal() -> None:
    """Ends the run."""
    raise AgentError("It cannot go on.")
