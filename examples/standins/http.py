"""A small HTTP server that can do on purpose what networks and providers do by accident.

Every request has a connection of its own. Whatever it should get is sent by a handler, which the
server calls with an `Exchange`; one whose client goes away is cancelled.
"""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from enum import Enum, auto
from http.client import responses
from typing import Any


@dataclass(frozen=True, slots=True)
class Request:
    """What a client sent."""

    method: str
    path: str
    headers: Mapping[str, str]
    """With names in lower case."""
    content: bytes

    @property
    def body(self) -> Any:
        """The content, which is JSON."""
        return json.loads(self.content)


class Break(Enum):
    """What ends a connection before its time."""

    CUT = auto()
    RESET = auto()


Step = bytes | asyncio.Event | Break
"""Bytes to send, an event to wait for, or the end of the connection."""


class Exchange:
    """A request, and its answer in the making."""

    def __init__(self, request: Request, writer: asyncio.StreamWriter) -> None:
        self.request = request
        self.left = asyncio.Event()
        """Set when the client closes the connection before its answer is whole."""
        self._writer = writer

    async def answer(
        self, body: object, status: int = 200, headers: Mapping[str, str] | None = None
    ) -> None:
        """Sends JSON, whole."""
        content = json.dumps(body).encode()
        length = {"content-type": "application/json", "content-length": str(len(content))}
        await self._begin(status, {**length, **(headers or {})})
        await self._write(content)

    async def begin_events(self, headers: Mapping[str, str] | None = None) -> None:
        """Sends the head of a stream of events."""
        stream = {"content-type": "text/event-stream", "transfer-encoding": "chunked"}
        await self._begin(200, {**stream, **(headers or {})})

    async def send_events(
        self,
        events: Sequence[bytes],
        headers: Mapping[str, str] | None = None,
        gate: Gate | None = None,
    ) -> None:
        """Sends a whole stream of events.

        Args:
            events: The events.
            headers: Further headers.
            gate: Says when each of them may go.
        """
        await self.begin_events(headers)
        for sent, each in enumerate(events):
            if gate is not None:
                await gate(self, events, sent)
            await self.send(each)
        if gate is not None:
            await gate(self, events, len(events))
        await self.end_events()

    async def play(self, *steps: Step) -> None:
        """Sends what the steps say, in a stream that has begun, and ends it."""
        for step in steps:
            if isinstance(step, Break):
                self.cut(reset=step is Break.RESET)
                return
            if isinstance(step, asyncio.Event):
                await step.wait()
            else:
                await self.send(step)
        await self.end_events()

    async def send(self, content: bytes) -> None:
        """Sends the next bytes of a stream: events, or whatever comes instead."""
        await self._write(b"%x\r\n%b\r\n" % (len(content), content))

    async def end_events(self) -> None:
        """Ends a stream as HTTP wants it, whether its events are complete or not."""
        await self._write(b"0\r\n\r\n")

    def cut(self, *, reset: bool = False) -> None:
        """Closes the connection, at the beginning or in the middle of whatever is sent.

        Args:
            reset: Whether the client sees a connection that was reset rather than closed.
        """
        if reset:
            linger = struct.pack("ii", 1, 0)
            connection = self._writer.get_extra_info("socket")
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self._writer.transport.abort()

    async def _begin(self, status: int, headers: Mapping[str, str]) -> None:
        lines = [f"HTTP/1.1 {status} {responses.get(status, 'Status')}", "connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        await self._write("\r\n".join([*lines, "", ""]).encode("latin-1"))

    async def _write(self, content: bytes) -> None:
        self._writer.write(content)
        await self._writer.drain()


Handler = Callable[[Exchange], Coroutine[Any, Any, None]]

Gate = Callable[[Exchange, Sequence[bytes], int], Awaitable[None]]
"""Called before each event of an answer, and once more before its end: with all events, and how
many of them were sent."""


class HttpServer:
    """Answers requests to a port of this machine, and keeps what it was asked.

    Args:
        handler: Sends the answers.
    """

    def __init__(self, handler: Handler) -> None:
        self.exchanges: list[Exchange] = []
        """All, in the order in which they came in."""
        self.faults: list[Exception] = []
        """What handlers raised; it is raised again when the server closes."""
        self._handler = handler
        self._arrival = asyncio.Condition()
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        """The address, without a path."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> list[Request]:
        """What came in so far."""
        return [exchange.request for exchange in self.exchanges]

    async def arrived(self, count: int = 1) -> Exchange:
        """Waits for the first request, or a later one."""
        async with self._arrival:
            await self._arrival.wait_for(lambda: len(self.exchanges) >= count)
        return self.exchanges[count - 1]

    async def open(self, port: int = 0) -> None:
        """Begins to listen; port 0 takes a free one."""
        self._server = await asyncio.start_server(self._connect, "127.0.0.1", port)
        self._port: int = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends what is still under way."""
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        if self.faults:
            raise ExceptionGroup("The stand-in failed.", self.faults)

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._connections.add(own)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            # A task of asyncio's server must not end as cancelled.
            pass
        except Exception as fault:
            self.faults.append(fault)
        finally:
            self._connections.discard(own)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        exchange = Exchange(await _read(reader), writer)
        async with self._arrival:
            self.exchanges.append(exchange)
            self._arrival.notify_all()
        answering = asyncio.create_task(self._handler(exchange))
        leaving = asyncio.create_task(_leave(reader))
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                exchange.left.set()
        finally:
            answering.cancel()
            leaving.cancel()
            await asyncio.wait((answering, leaving))
        answering.result()


@asynccontextmanager
async def serving(handler: Handler, port: int = 0) -> AsyncIterator[HttpServer]:
    """A server that listens."""
    server = HttpServer(handler)
    await server.open(port)
    try:
        yield server
    finally:
        await server.close()


def event(data: object, name: str = "") -> bytes:
    """Renders an event of a stream: JSON, or text as it stands."""
    text = data if isinstance(data, str) else json.dumps(data)
    lines = [*([f"event: {name}"] if name else []), f"data: {text}", "", ""]
    return "\n".join(lines).encode()


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.strip().split("\r\n")
    method, path, _ = first.split(" ")
    pairs = (line.partition(":") for line in lines)
    headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
    content = await reader.readexactly(int(headers.get("content-length", "0")))
    return Request(method, path, headers, content)


async def _leave(reader: asyncio.StreamReader) -> None:
    """Waits until the client closes the connection."""
    with suppress(ConnectionError):
        await reader.read()
