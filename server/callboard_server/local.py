"""The engine within a program: durable jobs without a server process."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from callboard_server import logs
from callboard_server.agents.loading import load
from callboard_server.agents.registry import Registry
from callboard_server.app import client_caller, open_app
from callboard_server.channel import LocalChannel
from callboard_server.config import ServerConfig, load_config
from callboard_server.sync_channel import SyncLocalChannel

Agents = Sequence[object] | Mapping[str, object]
Config = str | PathLike[str] | Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server in this process."""

    channel: LocalChannel


@dataclass(frozen=True, slots=True)
class SyncLocalServer:
    """A server in a thread of this process."""

    channel: SyncLocalChannel


@asynccontextmanager
async def open_local(
    agents: Agents,
    db: str | PathLike[str] | None = None,
    config: Config = None,
) -> AsyncIterator[LocalServer]:
    """Opens a server in this process; see `callboard.local`."""
    settings, base = _settings(config)
    logs.configure_quietly()
    loaded = load(settings, base)
    further = Registry.from_objects(agents, loaded.models)
    registry = Registry([*loaded, *further], loaded.models)
    with _database(db) as path:
        server = settings.server.model_copy(update={"db": path})
        settings = settings.model_copy(update={"server": server})
        async with open_app(settings, registry, base=base) as app:
            yield LocalServer(app.channel(client_caller("local")))


def _settings(config: Config) -> tuple[ServerConfig, Path]:
    if config is None:
        return ServerConfig(), Path.cwd()
    if isinstance(config, Mapping):
        return ServerConfig.model_validate(config), Path.cwd()
    path = Path(config)
    return load_config(path), path.parent


@contextmanager
def _database(db: str | PathLike[str] | None) -> Iterator[str]:
    if db is not None:
        yield fspath(db)
        return
    with tempfile.TemporaryDirectory(prefix="callboard-") as folder:
        yield str(Path(folder) / "callboard.db")


@contextmanager
def open_local_sync(
    agents: Agents,
    db: str | PathLike[str] | None = None,
    config: Config = None,
) -> Iterator[SyncLocalServer]:
    """Opens a server in a thread with an event loop of its own; see `callboard.local_sync`."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="callboard", daemon=True)
    thread.start()
    opened = open_local(agents, db, config)
    try:
        server = asyncio.run_coroutine_threadsafe(opened.__aenter__(), loop).result()
        try:
            yield SyncLocalServer(SyncLocalChannel(server.channel, loop))
        finally:
            asyncio.run_coroutine_threadsafe(opened.__aexit__(None, None, None), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
