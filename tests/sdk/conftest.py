"""Fixtures of the SDK's tests: a scripted server, and both clients behind one face."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterable, AsyncIterator, Callable
from typing import Any

import pytest

import callboard
from callboard import _backoff
from tests.sdk.scripted import ScriptedServer


class Either:
    """Drives the asynchronous or the synchronous client, in the same words."""

    def __init__(self, client: callboard.AsyncClient | callboard.Client) -> None:
        self.client: Any = client

    async def call(self, act: Callable[[Any], Any]) -> Any:
        """What `act` returns; items, where it returns an iterator."""
        if isinstance(self.client, callboard.Client):
            return await asyncio.to_thread(self._finish, act)
        result = act(self.client)
        if isinstance(result, AsyncIterable):
            return [item async for item in result]
        return await result if inspect.isawaitable(result) else result

    def _finish(self, act: Callable[[Any], Any]) -> Any:
        result = act(self.client)
        return list(result) if hasattr(result, "__next__") else result


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_backoff, "FIRST_SECONDS", 0.001)
    monkeypatch.setattr(_backoff, "LONGEST_SECONDS", 0.01)


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    async with ScriptedServer() as server:
        yield server


@pytest.fixture
async def client(server: ScriptedServer) -> AsyncIterator[callboard.AsyncClient]:
    async with callboard.AsyncClient(server.target, timeout=5.0) as client:
        yield client


@pytest.fixture(params=["async", "sync"])
async def either(request: pytest.FixtureRequest, server: ScriptedServer) -> AsyncIterator[Either]:
    settings: dict[str, Any] = {"timeout": 5.0, "metadata": [("x-caller", "test")]}
    if request.param == "async":
        async with callboard.AsyncClient(server.target, **settings) as client:
            yield Either(client)
    else:
        sync_client = callboard.Client(server.target, **settings)
        yield Either(sync_client)
        await asyncio.to_thread(sync_client.close)
