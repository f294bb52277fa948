"""The engine in one's own process: found when it is installed, and closed with the client."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from types import ModuleType, SimpleNamespace
from typing import Any

import grpc
import pytest

import callboard
from tests.sdk.scripted import ScriptedServer


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, server: ScriptedServer) -> list[Any]:
    """What a stand-in for the server's module was asked for, and when it was closed."""
    seen: list[Any] = []

    @asynccontextmanager
    async def open_local(*arguments: Any) -> AsyncIterator[SimpleNamespace]:
        seen.append(arguments)
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield SimpleNamespace(channel=channel)
        seen.append("closed")

    @contextmanager
    def open_local_sync(*arguments: Any) -> Iterator[SimpleNamespace]:
        seen.append(arguments)
        with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            yield SimpleNamespace(channel=channel)
        seen.append("closed")

    module = ModuleType("callboard_server.local")
    module.__dict__.update(open_local=open_local, open_local_sync=open_local_sync)
    monkeypatch.setitem(sys.modules, "callboard_server.local", module)
    return seen


async def test_local(opened: list[Any]) -> None:
    async with callboard.local(["agent"], db="jobs.db", config={"slots": 2}) as client:
        assert isinstance(client, callboard.AsyncClient)
        await client.jobs.get("j")
    assert opened == [(["agent"], "jobs.db", {"slots": 2}), "closed"]


def test_local_sync(opened: list[Any]) -> None:
    with callboard.local_sync() as client:
        assert isinstance(client, callboard.Client)
    assert opened == [((), None, None), "closed"]


async def test_without_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "callboard_server.local", None)
    install = r"pip install 'callboard\[server\]'"
    with pytest.raises(ImportError, match=install):
        await callboard.local().__aenter__()
    with pytest.raises(ImportError, match=install):
        callboard.local_sync().__enter__()
