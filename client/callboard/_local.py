"""Durable jobs in a program of one's own, without a server process."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from importlib import import_module
from os import PathLike
from typing import Any

from callboard._async.client import AsyncClient
from callboard._sync.client import Client


@asynccontextmanager
async def local(
    agents: Sequence[Any] | Mapping[str, Any] = (),
    *,
    db: str | PathLike[str] | None = None,
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
) -> AsyncIterator[AsyncClient]:
    """Runs the server's engine in this process, and gives a client that talks to it directly.

    Args:
        agents: The agents that it runs: functions, or anything that can be an agent by its name.
        db: The path of the database; in memory, and so gone at the end, when left out.
        config: The path of a `callboard.toml`, or its content.

    Yields:
        The client. At the end of the context running work is stopped in good order; the next
        start on the same database takes it up again.

    Raises:
        ImportError: If the server is not installed: pip install 'callboard[server]'.

    Example:
        async with callboard.local([summarize], db="jobs.db") as client:
            job = await client.jobs.launch("summarize", "The minutes of Monday.")
    """
    async with _server_module().open_local(agents, db, config) as server:
        yield AsyncClient(channel=server.channel)


@contextmanager
def local_sync(
    agents: Sequence[Any] | Mapping[str, Any] = (),
    *,
    db: str | PathLike[str] | None = None,
    config: str | PathLike[str] | Mapping[str, Any] | None = None,
) -> Iterator[Client]:
    """As `local`, for a program without an event loop: the engine runs in a thread of its own.

    Args:
        agents: The agents that it runs: functions, or anything that can be an agent by its name.
        db: The path of the database; in memory, and so gone at the end, when left out.
        config: The path of a `callboard.toml`, or its content.

    Yields:
        The client.

    Raises:
        ImportError: If the server is not installed: pip install 'callboard[server]'.
    """
    with _server_module().open_local_sync(agents, db, config) as server:
        yield Client(channel=server.channel)


def _server_module() -> Any:
    try:
        return import_module("callboard_server.local")
    except ImportError as error:
        raise ImportError(
            f"an engine in this process needs the server: pip install 'callboard[server]' ({error})"
        ) from error
