"""Sources of tools: what offers tools that are known only once it answers, and may change."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Protocol

from callboard_server.agents.tools import Tool


class ToolSource(Protocol):
    """Offers tools while it is open. Several agents may share one, and each opens it."""

    @property
    def tools(self) -> Sequence[Tool]:
        """The tools, as far as they are known now."""
        ...

    async def open(self) -> None:
        """Begins its work; returns when its tools are known or cannot be had for now.

        Raises:
            ConfigError: What is wanted of it does not exist.
        """
        ...

    async def load(self) -> Sequence[Tool]:
        """Returns the tools for a run that begins.

        Raises:
            AgentError: They cannot be had.
        """
        ...

    async def close(self) -> None:
        """Ends its work."""
        ...


async def load_tools(sources: Iterable[ToolSource]) -> Mapping[str, Tool]:
    """Returns the tools of some sources by name, for a run that begins.

    Raises:
        AgentError: Those of one cannot be had.
    """
    loaded = await asyncio.gather(*(source.load() for source in sources))
    return {tool.name: tool for tools in loaded for tool in tools}


@asynccontextmanager
async def open_sources(sources: Iterable[ToolSource]) -> AsyncIterator[None]:
    """Opens sources for as long as a server works.

    Raises:
        ConfigError: What is wanted of one does not exist.
    """
    sources = list(sources)
    try:
        opened = await asyncio.gather(*(each.open() for each in sources), return_exceptions=True)
        for failure in opened:
            if failure is not None:
                raise failure
        yield
    finally:
        await asyncio.gather(*(each.close() for each in sources))
