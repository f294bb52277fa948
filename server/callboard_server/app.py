"""The parts of a server, put together: store, engine, services."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import grpc.aio

from callboard import AsyncClient
from callboard.v1.event_pb2 import Actor
from callboard_server.agents.registry import Registry
from callboard_server.agents.sources import open_sources
from callboard_server.channel import LocalChannel
from callboard_server.config import ServerConfig
from callboard_server.engine.claim import Claim
from callboard_server.engine.engine import Caller, Engine
from callboard_server.engine.jobs import DelegationLimits
from callboard_server.engine.outbox import Destination
from callboard_server.engine.sweep import Sweep
from callboard_server.engine.workspaces import Workspaces
from callboard_server.ids import new_id
from callboard_server.rpc import Router, Servicer
from callboard_server.services.assistants import AssistantServicer
from callboard_server.services.jobs import JobServicer
from callboard_server.services.runs import RunServicer
from callboard_server.services.server import ServerServicer
from callboard_server.services.threads import ThreadServicer
from callboard_server.store.base import Store
from callboard_server.store.sqlite import SqliteStore

TENANT = "default"


@dataclass(frozen=True, slots=True)
class App:
    """A server without its transport."""

    engine: Engine
    router: Router

    def channel(self, caller: Caller) -> LocalChannel:
        """Returns a channel that calls this server in process."""
        return LocalChannel(self.router, caller)

    def client(self, caller: Caller) -> AsyncClient:
        """Returns a client over such a channel."""
        # It has what stubs use of a channel, and no more.
        return AsyncClient(channel=cast("grpc.aio.Channel", self.channel(caller)))


def client_caller(name: str = "") -> Caller:
    """Returns who calls from outside."""
    return Caller(TENANT, Actor(kind=Actor.KIND_CLIENT, name=name))


@asynccontextmanager
async def open_app(
    config: ServerConfig,
    registry: Registry,
    store: Store | None = None,
    *,
    base: Path = Path(),
) -> AsyncIterator[App]:
    """Opens a server on its store; at the end, what runs is given back in good order.

    Args:
        config: The configuration.
        registry: The agents.
        store: Where to keep everything; SQLite as the configuration says, when left out.
        base: The folder that files of the configuration are named from.

    Raises:
        ConfigError: An agent wants tools that do not exist, or may call an agent that does not, or
            a webhook has no secret.
        StoreError: The store cannot be used; the message says why.
    """
    registry.check_callables()
    worker_id = new_id()
    settings = config.server
    engine = Engine(
        store or _sqlite(config, worker_id),
        registry,
        worker_id=worker_id,
        slots=settings.slots,
        grace=settings.grace,
        workspaces=Workspaces(_workspaces(settings.db)),
        client_for=lambda claim: app.client(_caller_of(claim)),
        limits=DelegationLimits(config.delegation.depth, config.delegation.width),
        webhooks=await asyncio.to_thread(_destinations, config, base),
    )
    servicers: list[Servicer] = [
        AssistantServicer(engine),
        ThreadServicer(engine),
        RunServicer(engine),
        JobServicer(engine),
        ServerServicer(engine, settings.max_message_bytes),
    ]
    app = App(engine, Router(servicers, settings.max_message_bytes))
    archive_dir = config.sweep.archive_dir
    sweep = Sweep(
        engine.store,
        engine.hub,
        engine.workspaces,
        interval=config.sweep.interval,
        archive_dir=Path(archive_dir) if archive_dir is not None else None,
    )
    sources = open_sources(source for agent in registry for source in agent.sources)
    async with aclosing(registry.models), sources:
        await engine.open()
        sweep.start()
        try:
            yield app
        finally:
            await sweep.stop()
            await engine.drain()
            await engine.close()


def _destinations(config: ServerConfig, base: Path) -> Sequence[Destination]:
    if not config.webhooks:
        return []
    # Only where there are some: it takes its time.
    from callboard_server.engine.posting import open_destinations

    return open_destinations(config.webhooks, base)


def _workspaces(db: str) -> Path:
    """Beside the database: what agents share belongs to its sessions."""
    return Path(db).absolute().with_suffix(".workspaces")


def _sqlite(config: ServerConfig, worker_id: str) -> SqliteStore:
    return SqliteStore(config.server.db, worker_id=worker_id, synchronous=config.store.synchronous)


def _caller_of(claim: Claim) -> Caller:
    """A run calls in the name of its agent, within its tenant."""
    actor = Actor(kind=Actor.KIND_ASSISTANT, name=claim.run.agent)
    return Caller(claim.tenant, actor, claim.run.run_id)
