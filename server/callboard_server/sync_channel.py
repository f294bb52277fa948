"""The channel within the process for code without an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from callboard_server.channel import LocalChannel, StreamCall


class SyncLocalChannel:
    """Has those methods of `grpc.Channel` that generated stubs use."""

    def __init__(self, channel: LocalChannel, loop: asyncio.AbstractEventLoop) -> None:
        self._channel = channel
        self._loop = loop

    def unary_unary(self, method: str, *serializers: Any, **options: Any) -> Callable[..., Any]:
        start = self._channel.unary_unary(method, *serializers, **options)

        def call(request: Any, **keywords: Any) -> Any:
            async def wait() -> Any:
                return await start(request, **keywords)

            return asyncio.run_coroutine_threadsafe(wait(), self._loop).result()

        return call

    def unary_stream(self, method: str, *serializers: Any, **options: Any) -> Callable[..., Any]:
        start = self._channel.unary_stream(method, *serializers, **options)
        return lambda request, **keywords: SyncStreamCall(start(request, **keywords), self._loop)

    def close(self) -> None:
        """Nothing to close: the server has a life of its own."""


class SyncStreamCall:
    """A stream in progress: iterate over it for its responses."""

    def __init__(self, call: StreamCall, loop: asyncio.AbstractEventLoop) -> None:
        self._call = call
        self._loop = loop

    def __iter__(self) -> SyncStreamCall:
        return self

    def __next__(self) -> Any:
        try:
            return asyncio.run_coroutine_threadsafe(self._call.__anext__(), self._loop).result()
        except StopAsyncIteration:
            raise StopIteration from None

    def cancel(self) -> bool:
        """Ends the stream; the server lets go of it."""
        return self._call.cancel()
