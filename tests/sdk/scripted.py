"""A gRPC server that answers as a test says, and a connection that breaks when a test says."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import grpc.aio
from google.protobuf.any_pb2 import Any as PackedAny
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from google.rpc.status_pb2 import Status
from grpc_status import rpc_status

from callboard.v1 import assistant_pb2, job_pb2, run_pb2, server_pb2, thread_pb2

METHODS: dict[str, MethodDescriptor] = {
    method.name: method
    for module in (assistant_pb2, thread_pb2, run_pb2, job_pb2, server_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}


@dataclass
class Refusal(Exception):
    """An answer that is an error; without details like one of the network's own."""

    code: grpc.StatusCode
    message: str = "no"
    details: Sequence[Message] = ()

    async def abort(self, context: Any) -> None:
        if not self.details:
            await context.abort(self.code, self.message)
        status = Status(code=self.code.value[0], message=self.message)
        for detail in self.details:
            packed = PackedAny()
            packed.Pack(detail)
            status.details.append(packed)
        await context.abort_with_status(rpc_status.to_status(status))


UNAVAILABLE = Refusal(grpc.StatusCode.UNAVAILABLE, "connection lost")

Frames = Callable[[Any], AsyncIterator[Message]]
Answer = Message | Refusal | Frames | Callable[[Any], Message]


@dataclass
class Call:
    """What the server got."""

    method: str
    request: Any
    metadata: dict[str, str | bytes]
    seconds_left: float | None
    ended: asyncio.Event = field(default_factory=asyncio.Event)


class ScriptedServer:
    """Takes an answer from the script for each call; the last one stays."""

    def __init__(self, address: str = "127.0.0.1:0") -> None:
        self.calls: list[Call] = []
        self.port = 0
        self._address = address
        self._scripts: dict[str, list[Answer]] = defaultdict(list)
        self._server = grpc.aio.server()
        for service in {method.containing_service.full_name for method in METHODS.values()}:
            handlers = {
                name: self._handler(method)
                for name, method in METHODS.items()
                if method.containing_service.full_name == service
            }
            self._server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service, handlers),)
            )

    @property
    def target(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    def script(self, method: str, *answers: Answer) -> None:
        assert method in METHODS
        self._scripts[method] = list(answers)

    def requests(self, method: str) -> list[Any]:
        return [call.request for call in self.calls if call.method == method]

    async def __aenter__(self) -> Self:
        self.port = self._server.add_insecure_port(self._address)
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._server.stop(None)

    def _answer(self, method: MethodDescriptor) -> Answer:
        script = self._scripts[method.name]
        if len(script) > 1:
            return script.pop(0)
        return script[0] if script else GetMessageClass(method.output_type)()

    def _record(self, method: MethodDescriptor, request: Message, context: Any) -> Call:
        metadata = {key: value for key, value in context.invocation_metadata()}
        call = Call(method.name, request, metadata, context.time_remaining())
        self.calls.append(call)
        return call

    def _handler(self, method: MethodDescriptor) -> grpc.RpcMethodHandler[Any, Any]:
        async def unary(request: Message, context: Any) -> Message:
            self._record(method, request, context)
            answer = self._answer(method)
            if isinstance(answer, Refusal):
                await answer.abort(context)
            if isinstance(answer, Message):
                return answer
            assert callable(answer)
            made = answer(request)
            assert isinstance(made, Message)
            return made

        async def stream(request: Message, context: Any) -> AsyncIterator[Message]:
            call = self._record(method, request, context)
            answer = self._answer(method)
            try:
                if isinstance(answer, Refusal):
                    raise answer
                assert callable(answer)
                frames = answer(request)
                assert isinstance(frames, AsyncIterator)
                async for frame in frames:
                    yield frame
            except Refusal as refusal:
                await refusal.abort(context)
            finally:
                call.ended.set()

        request_type = GetMessageClass(method.input_type)
        make: Any = (
            grpc.unary_stream_rpc_method_handler
            if method.server_streaming
            else grpc.unary_unary_rpc_method_handler
        )
        handler: grpc.RpcMethodHandler[Any, Any] = make(
            stream if method.server_streaming else unary,
            request_deserializer=request_type.FromString,
            response_serializer=lambda message: message.SerializeToString(),
        )
        return handler


class CuttingProxy:
    """Passes TCP on, and breaks each connection after as many bytes of answers as the test says."""

    def __init__(self, port: int, cuts: Sequence[int]) -> None:
        """`cuts` has one number a connection; those after the last are left alone."""
        self._target = port
        self._cuts = list(cuts)
        self.connections = 0
        self.port = 0
        self._tasks: set[asyncio.Task[Any]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.create_task(self._serve(reader, writer)))

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        budget = self._cuts[self.connections] if self.connections < len(self._cuts) else None
        self.connections += 1
        upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
        requests = asyncio.create_task(self._pump(reader, upstream_writer, None))
        try:
            await self._pump(upstream_reader, writer, budget)
        finally:
            requests.cancel()
            # Abort sends a reset: what is on its way is lost, as when a cable is pulled.
            writer.transport.abort()
            upstream_writer.transport.abort()

    @staticmethod
    async def _pump(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter, budget: int | None
    ) -> None:
        try:
            while data := await reader.read(65536):
                if budget is not None:
                    data, budget = data[:budget], budget - len(data)
                writer.write(data)
                await writer.drain()
                if budget is not None and budget <= 0:
                    return
        except ConnectionError:
            return
