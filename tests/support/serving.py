"""Servers for tests: in this process, with the store in a file."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import grpc

import callboard
from callboard._channel import OPTIONS
from callboard.v1 import (
    assistant_pb2_grpc,
    job_pb2_grpc,
    run_pb2_grpc,
    server_pb2_grpc,
    thread_pb2_grpc,
)
from callboard.v1.event_pb2 import Event
from callboard_server.agents.registry import Registry
from callboard_server.app import App, client_caller, open_app
from callboard_server.config import ServerConfig
from callboard_server.store.sqlite import schema
from callboard_server.transport import GrpcServer
from tests.robustness import validators
from tests.robustness.telling import told_of_ends

Agents = Sequence[Any] | Mapping[str, Any]


def settings(db: Path, **server: Any) -> dict[str, Any]:
    """A configuration that waits neither for the disk nor for agents."""
    return {
        "server": {"db": str(db), "port": 0, "grace": 0.2, **server},
        "store": {"synchronous": "NORMAL"},
    }


def write_empty(db: Path) -> None:
    """Writes a database that has only its schema, which takes long to make, where there is none."""
    if not db.exists():
        db.write_bytes(_empty())


@cache
def _empty() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty.db"
        schema.open_file(str(path), "NORMAL").close()
        return path.read_bytes()


@asynccontextmanager
async def local(agents: Agents, db: Path, **server: Any) -> AsyncIterator[callboard.AsyncClient]:
    """The engine in this process, without a network. What fails is not tried again."""
    async with tuned(agents, db, max_attempts=1, **server) as client:
        yield client


@asynccontextmanager
async def tuned(
    agents: Agents,
    db: Path,
    *,
    max_attempts: int = 3,
    retry_pause: float = 0.01,
    concurrency: int | None = None,
    **server: Any,
) -> AsyncIterator[callboard.AsyncClient]:
    """As `local`, with agents that have settings."""
    write_empty(db)
    config = ServerConfig.model_validate(settings(db, **server))
    registry = _registry(
        agents, max_attempts=max_attempts, retry_pause=retry_pause, concurrency=concurrency
    )
    async with open_app(config, registry) as app:
        yield app.client(client_caller("local"))


def _registry(agents: Agents, **tuning: Any) -> Registry:
    return Registry(replace(spec, **tuning) for spec in Registry.from_objects(agents))


@dataclass(frozen=True)
class Served:
    """A server on a port, and raw stubs that call it."""

    app: App
    port: int
    channel: grpc.aio.Channel

    @property
    def assistants(self) -> assistant_pb2_grpc.AssistantServiceAsyncStub:
        return assistant_pb2_grpc.AssistantServiceStub(self.channel)

    @property
    def threads(self) -> thread_pb2_grpc.ThreadServiceAsyncStub:
        return thread_pb2_grpc.ThreadServiceStub(self.channel)

    @property
    def runs(self) -> run_pb2_grpc.RunServiceAsyncStub:
        return run_pb2_grpc.RunServiceStub(self.channel)

    @property
    def jobs(self) -> job_pb2_grpc.JobServiceAsyncStub:
        return job_pb2_grpc.JobServiceStub(self.channel)

    @property
    def server(self) -> server_pb2_grpc.ServerServiceAsyncStub:
        return server_pb2_grpc.ServerServiceStub(self.channel)

    @property
    def client(self) -> callboard.AsyncClient:
        return callboard.AsyncClient(channel=self.channel)


@asynccontextmanager
async def served(agents: Agents, db: Path, **server: Any) -> AsyncIterator[Served]:
    """A gRPC server in this process. What fails is not tried again."""
    write_empty(db)
    config = ServerConfig.model_validate(settings(db, **server))
    async with open_app(config, _registry(agents, max_attempts=1)) as app:
        transport = GrpcServer(app.router, config.server.max_message_bytes)
        port = await transport.start("127.0.0.1", 0)
        try:
            async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=OPTIONS) as channel:
                yield Served(app, port, channel)
        finally:
            await asyncio.gather(transport.refuse(), app.engine.drain())
            await transport.stop(0)


async def log_of(client: callboard.AsyncClient, thread_id: str) -> list[Event]:
    """The whole log of a thread's session."""
    return [event async for event in client.threads.events(thread_id, scope="session")]


async def sound_log(client: callboard.AsyncClient, thread_id: str) -> list[Event]:
    """The whole log of a session in which all is over; it keeps every guarantee."""
    log = await log_of(client, thread_id)
    problems = [*validators.check_log(log), *told_of_ends(log)]
    assert not problems, problems
    return log


def kinds_of(log: Sequence[Event], run_id: str = "") -> list[str]:
    """The kinds of the events of a run, or of all."""
    return [e.WhichOneof("payload") or "" for e in log if not run_id or e.run_id == run_id]
