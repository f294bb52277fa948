"""A channel within the process: the same stubs, without a network between.

Requests and responses are serialised both ways, so that neither side can change what the other
holds. Errors carry the same details as those of a remote server.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

import grpc
from grpc.aio import AioRpcError, Metadata

from callboard_server.engine.engine import Caller
from callboard_server.errors import ServiceError
from callboard_server.rpc import Call, Router, status_of

Serializer = Callable[[Any], bytes]
Deserializer = Callable[[bytes], Any]


class LocalChannel:
    """Has those methods of `grpc.aio.Channel` that generated stubs use."""

    def __init__(self, router: Router, caller: Caller) -> None:
        self._router = router
        self._caller = caller

    def unary_unary(
        self,
        method: str,
        request_serializer: Serializer,
        response_deserializer: Deserializer,
        **_: object,
    ) -> Callable[..., UnaryCall]:
        def call(request: Any, *, timeout: float | None = None, **_: object) -> UnaryCall:
            data = request_serializer(request)
            answer = self._router.unary(method, data, Call(self._caller, timeout))
            return UnaryCall(answer, timeout, response_deserializer)

        return call

    def unary_stream(
        self,
        method: str,
        request_serializer: Serializer,
        response_deserializer: Deserializer,
        **_: object,
    ) -> Callable[..., StreamCall]:
        def call(request: Any, *, timeout: float | None = None, **_: object) -> StreamCall:
            data = request_serializer(request)
            responses = self._router.stream(method, data, Call(self._caller, timeout))
            return StreamCall(responses, response_deserializer)

        return call

    async def close(self, grace: float | None = None) -> None:
        """Nothing to close: the server has a life of its own."""


class UnaryCall:
    """A call in progress: await it for its response."""

    def __init__(self, answer: Any, timeout: float | None, deserialize: Deserializer) -> None:
        self._answer = answer
        self._timeout = timeout
        self._deserialize = deserialize

    def __await__(self) -> Generator[Any, None, Any]:
        return self._wait().__await__()

    async def _wait(self) -> Any:
        try:
            async with asyncio.timeout(self._timeout):
                return self._deserialize(await self._answer)
        except ServiceError as error:
            raise rpc_error(error) from error
        except TimeoutError:
            raise _deadline_exceeded() from None


class StreamCall:
    """A stream in progress: iterate over it for its responses."""

    def __init__(self, responses: AsyncGenerator[bytes, None], deserialize: Deserializer) -> None:
        self._responses = responses
        self._deserialize = deserialize
        self._loop: asyncio.AbstractEventLoop | None = None
        self._reading: asyncio.Future[bytes] | None = None
        self._cancelled = False

    def __aiter__(self) -> StreamCall:
        return self

    async def __anext__(self) -> Any:
        if self._cancelled:
            raise asyncio.CancelledError
        self._loop = asyncio.get_running_loop()
        # A task of its own: whoever cancels the call ends the read, and not the reader's task.
        self._reading = asyncio.ensure_future(anext(self._responses))
        try:
            return self._deserialize(await self._reading)
        except ServiceError as error:
            raise rpc_error(error) from error

    def cancel(self) -> bool:
        """Ends the stream; the server lets go of it."""
        if self._cancelled:
            return False
        self._cancelled = True
        # A stream that was dropped is cancelled wherever the garbage collector happens to run.
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._end)
        return True

    def _end(self) -> None:
        if self._reading is not None and not self._reading.done():
            self._reading.cancel()
        elif self._loop is not None:
            self._loop.create_task(self._responses.aclose())


def rpc_error(error: ServiceError) -> AioRpcError:
    """Makes the exception that a remote call would raise."""
    status = status_of(error)
    trailing = Metadata(("grpc-status-details-bin", status.SerializeToString()))
    return AioRpcError(error.code, Metadata(), trailing, details=error.message)


def _deadline_exceeded() -> AioRpcError:
    code = grpc.StatusCode.DEADLINE_EXCEEDED
    return AioRpcError(code, Metadata(), Metadata(), details="Deadline Exceeded")
