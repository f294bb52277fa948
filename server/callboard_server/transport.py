"""The gRPC server: the router on a port, with health and reflection."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import FileDescriptor
from grpc.aio import ServicerContext
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2, reflection_pb2_grpc
from grpc_status import rpc_status

from callboard_server.app import client_caller
from callboard_server.engine.engine import Caller
from callboard_server.errors import ServiceError
from callboard_server.rpc import Call, Router, status_of

HEADROOM = 1 << 20
"""How much more the transport takes than the server's limit, which has the better error."""

REASON = "callboard-reason"
"""The trailing metadata that names the reason of an error."""
_REQUEST_ID = 128

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING

Unary = Callable[[bytes, "ServicerContext[bytes, bytes]"], Awaitable[bytes]]
Stream = Callable[[bytes, "ServicerContext[bytes, bytes]"], AsyncIterator[bytes]]


class GrpcServer:
    """A listening server.

    Args:
        router: What it serves.
        max_bytes: The largest message.
    """

    def __init__(self, router: Router, max_bytes: int) -> None:
        self._router = router
        self._server = grpc.aio.server(options=_options(max_bytes))
        self._caller = client_caller()
        for service in router.services:
            self._server.add_generic_rpc_handlers([self._handler(service)])
        self._health = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        self._add_reflection()

    def _handler(self, service: str) -> grpc.GenericRpcHandler:
        prefix = f"/{service}/"
        handlers = {
            path.removeprefix(prefix): self._method(path, method.streams)
            for path, method in self._router.methods.items()
            if path.startswith(prefix)
        }
        return grpc.method_handlers_generic_handler(service, handlers)

    def _method(self, path: str, streams: bool) -> grpc.RpcMethodHandler[bytes, bytes]:
        # Without serialisers: decoding is the router's, so that its errors are, too.
        if streams:
            return grpc.unary_stream_rpc_method_handler(
                _streaming(self._router, path, self._caller)
            )
        return grpc.unary_unary_rpc_method_handler(_unary(self._router, path, self._caller))

    def _add_reflection(self) -> None:
        names = [*self._router.services, health.SERVICE_NAME, reflection.SERVICE_NAME]
        pool = _MethodPool()
        servicer = reflection.aio.ReflectionServicer([*names, _REFLECTION_V1], pool=pool)
        add_v1alpha: Callable[..., None] = (
            reflection_pb2_grpc.add_ServerReflectionServicer_to_server
        )
        add_v1alpha(servicer, self._server)
        # The messages of v1 are those of v1alpha; only the service's name differs.
        handler = grpc.stream_stream_rpc_method_handler(
            servicer.ServerReflectionInfo,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
        )
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(
                    _REFLECTION_V1, {"ServerReflectionInfo": handler}
                )
            ]
        )

    async def start(self, host: str, port: int) -> int:
        """Listens and returns the port.

        Raises:
            OSError: The address cannot be had.
        """
        try:
            bound = self._server.add_insecure_port(f"{host}:{port}")
        except RuntimeError:
            bound = 0
        if not bound:
            raise OSError(f"cannot listen on {host}:{port}: is it in use by another program?")
        await self._server.start()
        await self.set_health(SERVING)
        return bound

    async def set_health(self, status: int) -> None:
        for service in ("", *self._router.services):
            await self._health.set(service, status)

    async def refuse(self) -> None:
        """Tells load balancers that this server stops."""
        await self._health.enter_graceful_shutdown()

    async def stop(self, grace: float) -> None:
        """Stops taking calls and gives those that are open some time, in seconds."""
        await self._server.stop(grace)


_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"


class _MethodPool:
    """The default descriptor pool, which also finds methods by their full names.

    Reflection clients ask for them when a user describes one; protobuf has no such index.
    """

    def __init__(self) -> None:
        self._pool = descriptor_pool.Default()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pool, name)

    def FindFileContainingSymbol(self, symbol: str) -> FileDescriptor:
        try:
            return self._pool.FindFileContainingSymbol(symbol)
        except KeyError:
            service, _, method = symbol.rpartition(".")
            file = self._pool.FindFileContainingSymbol(service)
            self._pool.FindServiceByName(service).methods_by_name[method]
            return file


def _options(max_bytes: int) -> list[tuple[str, int]]:
    return [
        # Else a second server on the same port would silently take half of the calls.
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", max_bytes + HEADROOM),
        ("grpc.max_send_message_length", max_bytes + HEADROOM),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Clients may ping as often as the SDK does.
        ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
        ("grpc.http2.max_pings_without_data", 0),
        # gRPC cancels calls at random from 1,000 on that come faster than the loop takes them.
        ("grpc.server.max_pending_requests", 20_000),
        ("grpc.server.max_pending_requests_hard_limit", 40_000),
    ]


def _call(caller: Caller, context: ServicerContext[bytes, bytes]) -> Call:
    request_id = ""
    for name, value in context.invocation_metadata() or ():
        if name == "x-request-id" and isinstance(value, str):
            request_id = value[:_REQUEST_ID]
    return Call(caller, context.time_remaining(), request_id)


class _Refusal(grpc.Status):
    """The rich status of an error, and its reason in plain text for clients that read no more."""

    def __init__(self, error: ServiceError) -> None:
        rich = rpc_status.to_status(status_of(error))
        self.code, self.details = rich.code, rich.details
        self.trailing_metadata = (*rich.trailing_metadata, (REASON, error.reason_name))


def _unary(router: Router, path: str, caller: Caller) -> Unary:
    async def handle(request: bytes, context: ServicerContext[bytes, bytes]) -> bytes:
        try:
            return await router.unary(path, request, _call(caller, context))
        except ServiceError as error:
            await context.abort_with_status(_Refusal(error))
            raise

    return handle


def _streaming(router: Router, path: str, caller: Caller) -> Stream:
    async def handle(
        request: bytes, context: ServicerContext[bytes, bytes]
    ) -> AsyncIterator[bytes]:
        try:
            async for response in router.stream(path, request, _call(caller, context)):
                yield response
        except ServiceError as error:
            await context.abort_with_status(_Refusal(error))

    return handle
