"""A server process from its start to its end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import structlog

from callboard_server import logs
from callboard_server.agents.loading import load
from callboard_server.app import open_app
from callboard_server.config import ServerConfig
from callboard_server.store.base import Store
from callboard_server.transport import NOT_SERVING, SERVING, GrpcServer

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_HEALTH_INTERVAL = 1.0


async def serve(
    config: ServerConfig, base: Path, on_ready: Callable[[str, int], None] | None = None
) -> None:
    """Serves until SIGTERM or SIGINT, then stops in good order.

    Args:
        config: The configuration.
        base: The folder from which its files are named.
        on_ready: Called with host and port once the server takes calls.

    Raises:
        ConfigError: An agent cannot be loaded.
        StoreError: The database cannot be used.
        OSError: The address cannot be had.
    """
    settings = config.server
    logs.configure(settings)
    stopping = asyncio.Event()
    for number in _SIGNALS:
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    async with open_app(config, load(config, base), base=base) as app:
        server = GrpcServer(app.router, settings.max_message_bytes)
        port = await server.start(settings.host, settings.port)
        _spare_garbage_collector()
        log.info("serving", host=settings.host, port=port, db=settings.db)
        if on_ready is not None:
            on_ready(settings.host, port)
        health = asyncio.create_task(_follow_store(server, app.engine.store))
        await stopping.wait()
        health.cancel()
        log.info("stopping", grace=settings.grace)
        # Streams and runs end first: what is still open then is cut.
        await asyncio.gather(server.refuse(), app.engine.drain())
        await server.stop(settings.grace)
    log.info("stopped")
    if app.engine.dispatcher.has_leftovers:
        # What did not stop when it was asked to would keep the process for ever.
        sys.stderr.flush()
        os._exit(0)


def _spare_garbage_collector() -> None:
    """Lets it look less often, and no more at what stays: nearly all else goes by its count.

    It does not look once more before: that takes a tenth of a second and finds next to nothing.
    """
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


async def _follow_store(server: GrpcServer, store: Store) -> None:
    """Lets the server's health say whether its store takes writes."""
    healthy = True
    while True:
        await asyncio.sleep(_HEALTH_INTERVAL)
        if healthy != (store.fault is None):
            healthy = not healthy
            await server.set_health(SERVING if healthy else NOT_SERVING)
            log.warning(
                "store takes writes again" if healthy else "store takes no writes",
                problem=str(store.fault or ""),
            )
