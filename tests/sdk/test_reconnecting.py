"""How soon a client goes on when its server is back."""

from __future__ import annotations

from typing import Any

import grpc.aio
import pytest

import callboard
from callboard import _backoff
from callboard._channel import OPTIONS
from callboard.v1.run_pb2 import EventFrame, StreamEnd
from tests.sdk.scripted import UNAVAILABLE, CuttingProxy, ScriptedServer
from tests.sdk.test_streams import frames

LONGEST_SECONDS = _backoff.LONGEST_SECONDS
CUTS = 10
"""How often connecting fails: gRPC's pauses are seconds by then, unless something bounds them."""

END = EventFrame(end=StreamEnd(reason=StreamEnd.REASON_DONE))


class Tries(grpc.aio.UnaryStreamClientInterceptor):
    """Notes how many connections there had been at each try of a stream."""

    def __init__(self, proxy: CuttingProxy) -> None:
        self._proxy = proxy
        self.connections: list[int] = []

    async def intercept_unary_stream(self, continuation: Any, details: Any, request: Any) -> Any:
        self.connections.append(self._proxy.connections)
        return await continuation(details, request)


async def test_the_first_tries_find_a_server_that_is_back(
    server: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Those of a long outage, from the beginning.
    monkeypatch.setattr(_backoff, "FIRST_SECONDS", LONGEST_SECONDS)
    monkeypatch.setattr(_backoff, "LONGEST_SECONDS", LONGEST_SECONDS)
    server.script("StreamEvents", frames(END))
    async with CuttingProxy(server.port, [0] * CUTS) as proxy:
        tries = Tries(proxy)
        address = f"127.0.0.1:{proxy.port}"
        async with (
            grpc.aio.insecure_channel(address, options=OPTIONS, interceptors=[tries]) as channel,
            callboard.AsyncClient(channel=channel) as client,
        ):
            assert [item async for item in client.threads.stream("t")] == []
    late = [connections for connections in tries.connections if connections >= CUTS]
    # One may come before gRPC has tried to connect again.
    assert len(late) <= 2


async def test_a_stream_says_that_it_reconnects(server: ScriptedServer) -> None:
    seen: list[bool] = []

    async def looked_at(_: Any) -> Any:
        seen.append(stream.is_reconnecting)
        yield EventFrame(through_sequence=1)
        raise UNAVAILABLE

    server.script("StreamEvents", looked_at, UNAVAILABLE, looked_at, frames(END))
    async with callboard.AsyncClient(server.target) as client:
        stream = client.threads.stream("t")
        assert not stream.is_reconnecting
        assert [item async for item in stream] == []
        # The second connection answers at once with a refusal, and the third ends the outage.
        assert seen == [False, True]
        assert not stream.is_reconnecting
