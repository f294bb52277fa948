"""Calls, whatever brings them: bytes in, bytes out, and every error as a gRPC status.

This is the layer around everything else, decoding included: the gRPC server and the in-process
channel both hand it serialised requests, so both have the same errors and the same limits.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from google.protobuf import message_factory
from google.protobuf.any_pb2 import Any as AnyProto
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2 as details
from google.rpc.status_pb2 import Status

from callboard_server import errors, faults
from callboard_server.agents.errors import describe_failure
from callboard_server.engine.engine import Caller
from callboard_server.errors import ServiceError
from callboard_server.store.base import StoreError, StoreFull

DOMAIN = "callboard.dev"
_MOST_TEXT, _MOST_NAME = 600, 100

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Call:
    """One call: who makes it, and until when."""

    caller: Caller
    time_remaining: float | None = None
    """Seconds that the caller still waits; None where it set no deadline."""
    request_id: str = ""
    """The caller's name for the call (metadata "x-request-id"), for the log."""


class Servicer(Protocol):
    """Implements the methods of one service of the contract, under their own names.

    A unary method is `async def Name(request, call) -> response`; a streaming one is an async
    generator of serialised responses.
    """

    descriptor: ServiceDescriptor


@dataclass(frozen=True, slots=True)
class Method:
    """One method of the contract and what implements it."""

    name: str
    """For example "RunService/CreateRun"."""
    streams: bool
    request_type: type[Message]
    implementation: Callable[..., Any]


class Router:
    """Finds the method of a call, decodes its request, and makes a status of what goes wrong.

    Args:
        servicers: One for each service.
        max_bytes: The largest request.
    """

    def __init__(self, servicers: Iterable[Servicer], max_bytes: int) -> None:
        self.methods: dict[str, Method] = {}
        self.services: list[str] = []
        self._max_bytes = max_bytes
        for servicer in servicers:
            self.services.append(servicer.descriptor.full_name)
            for method in servicer.descriptor.methods:
                self.methods[_path(servicer.descriptor, method)] = Method(
                    f"{servicer.descriptor.name}/{method.name}",
                    method.server_streaming,
                    message_factory.GetMessageClass(method.input_type),
                    getattr(servicer, method.name),
                )

    async def unary(self, path: str, data: bytes, call: Call) -> bytes:
        """Makes a unary call.

        Raises:
            ServiceError: The call failed.
        """
        method, started = self.methods[path], time.perf_counter()
        try:
            response: Message = await method.implementation(self._decode(method, data), call)
            answer = response.SerializeToString()
            if len(answer) > self._max_bytes:
                raise errors.request_too_large(len(answer), self._max_bytes, "the answer")
            _tell("call", method, call, started)
            faults.point("before_answer")
            return answer
        except Exception as error:
            raise _service_error(error, _names(method, call)) from error

    async def stream(self, path: str, data: bytes, call: Call) -> AsyncGenerator[bytes, None]:
        """Makes a call that streams its responses.

        Raises:
            ServiceError: The call failed.
        """
        method, started = self.methods[path], time.perf_counter()
        try:
            async for response in method.implementation(self._decode(method, data), call):
                faults.point("before_frame")
                yield response
            _tell("stream", method, call, started)
        except Exception as error:
            raise _service_error(error, _names(method, call)) from error

    def _decode(self, method: Method, data: bytes) -> Message:
        if len(data) > self._max_bytes:
            raise errors.request_too_large(len(data), self._max_bytes)
        try:
            return method.request_type.FromString(data)
        except DecodeError:
            raise errors.undecodable(method.name) from None


def _names(method: Method, call: Call) -> dict[str, str]:
    """What the log says of a call."""
    names = {"method": method.name}
    if call.request_id:
        names["request"] = call.request_id
    return names


def _path(service: ServiceDescriptor, method: MethodDescriptor) -> str:
    return f"/{service.full_name}/{method.name}"


def _tell(what: str, method: Method, call: Call, started: float) -> None:
    """Logs a call that is over, where anybody wants to know."""
    if log.is_enabled_for(logging.DEBUG):
        milliseconds = round((time.perf_counter() - started) * 1000, 2)
        log.debug(what, **_names(method, call), ms=milliseconds)


def _service_error(error: Exception, names: dict[str, str]) -> ServiceError:
    """The table of errors: everything that is not one for the caller becomes one."""
    if isinstance(error, ServiceError):
        log.debug("refused", **names, reason=error.reason_name)
        return error
    if isinstance(error, StoreFull):
        log.error("store is full", **names, problem=str(error))
        return errors.store_full()
    if isinstance(error, StoreError):
        log.error("store is unavailable", **names, problem=str(error))
        return errors.store_unavailable()
    failure = describe_failure(error)
    log.error(
        "call failed",
        **names,
        error_id=failure.error_id,
        kind=failure.kind,
        trace=failure.trace,
    )
    return errors.internal(failure.error_id)


def status_of(error: ServiceError) -> Status:
    """Makes the rich status of an error: ErrorInfo always, and the details that fit."""
    message = errors.clip(error.message, _MOST_TEXT)
    metadata = {name: errors.clip(fact, _MOST_TEXT) for name, fact in error.metadata.items()}
    found: list[Message] = [
        details.ErrorInfo(reason=error.reason_name, domain=DOMAIN, metadata=metadata)
    ]
    if error.violations:
        request = details.BadRequest()
        for violation in error.violations:
            request.field_violations.add(field=violation.field, description=violation.description)
        found.append(request)
    if error.resource is not None:
        kind, name = error.resource
        name = errors.clip(name, _MOST_NAME)
        found.append(details.ResourceInfo(resource_type=kind, resource_name=name))
    if error.code.name == "FAILED_PRECONDITION":
        broken = details.PreconditionFailure()
        broken.violations.add(type=error.reason_name, description=message)
        found.append(broken)
    if error.retry_after is not None:
        retry = details.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_after * 1e9))
        found.append(retry)
    status = Status(code=error.code.value[0], message=message)
    for detail in found:
        packed = AnyProto()
        packed.Pack(detail)
        status.details.append(packed)
    return status
