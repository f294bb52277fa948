"""A connection to an MCP server: one session of the official SDK, over pipes or HTTP."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

import httpx2
import structlog
from mcp import Client, MCPError, StdioServerParameters, stdio_client
from mcp.client.streamable_http import streamable_http_client
from mcp.client.subscriptions import SubscriptionLost
from mcp.shared.message import SessionMessage
from mcp.types import CONNECTION_CLOSED, Tool, ToolListChangedNotification
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from callboard_server.agents.errors import describe_failure

if TYPE_CHECKING:
    from mcp.client._transport import ReadStream, TransportStreams
    from mcp.client.session import IncomingMessage

    Transport = AbstractAsyncContextManager[TransportStreams]

# Its lines hold the texts of exceptions: they are for programs that ask for them.
logging.getLogger("mcp").addHandler(logging.NullHandler())

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

# An answer is one event of a stream; a larger one would not fit into the log either.
_LARGEST_ANSWER = 4 * 1024 * 1024
_MOST_PAGES = 100
# Closing gives the server time to end by itself before it is killed, which takes the SDK 6.5 s.
_CLOSING = 10.0
_LISTEN_PAUSE = 1.0


class ConnectionFailed(Exception):
    """A server cannot be used; the message says why, in words of our own."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem


@asynccontextmanager
async def over_pipes(
    server: StdioServerParameters, log_file: Path | None
) -> AsyncIterator[TransportStreams]:
    """Starts a server, and speaks to it over its standard input and output."""
    with _open_log(log_file) as errors:
        async with stdio_client(server, errlog=errors) as streams:
            yield streams


@asynccontextmanager
async def over_http(url: str, headers: Mapping[str, str]) -> AsyncIterator[TransportStreams]:
    """Speaks to a server at an address."""
    # Callers bound how long they wait; a stream that only listens may be silent for ever.
    timeout = httpx2.Timeout(30.0, read=None)
    async with (
        httpx2.AsyncClient(headers=headers, timeout=timeout) as client,
        streamable_http_client(
            url, http_client=client, max_sse_event_size=_LARGEST_ANSWER
        ) as streams,
    ):
        yield streams


class Connection:
    """A session from its opening until it is closed or lost.

    The SDK's cancel scopes are to be left by the task that entered them, so it has a task of its
    own. Calls may come from any.

    Args:
        transport: How to reach the server.
        on_change: Called when the server tells that its tools have changed.
    """

    def __init__(self, transport: Transport, on_change: Callable[[], Awaitable[None]]) -> None:
        self._transport = transport
        self._on_change = on_change
        self._ending = asyncio.Event()
        self._opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        # Whoever needs it first may be a run: nothing of that is the connection's.
        self._task = asyncio.create_task(self._run(), context=contextvars.Context())

    @property
    def ended(self) -> bool:
        """Whether it was closed or lost."""
        return self._ending.is_set() or self._task.done()

    @property
    def client(self) -> Client:
        """The session, once it is open."""
        return self._opened.result()

    @property
    def is_legacy(self) -> bool:
        """Whether the server speaks a protocol from before 2026: it knows its sessions."""
        return self.client.protocol_version not in MODERN_PROTOCOL_VERSIONS

    async def open(self) -> None:
        """Waits until the session is open.

        Raises:
            ConnectionFailed: It cannot be opened.
        """
        await asyncio.shield(self._opened)

    async def list_tools(self) -> list[Tool]:
        """Asks for all tools.

        Raises:
            MCPError: The server does not tell them.
        """
        if self.client.server_capabilities.tools is None:
            return []
        page = await self.client.list_tools()
        tools = list(page.tools)
        for _ in range(_MOST_PAGES):
            if page.next_cursor is None:
                break
            page = await self.client.list_tools(cursor=page.next_cursor)
            tools += page.tools
        return tools

    def retire(self) -> None:
        """Lets it end: nothing can be done with it any more."""
        self._ending.set()

    async def close(self) -> None:
        """Ends the session, and the server with it if it was started here."""
        self._ending.set()
        if not self._opened.done():
            self._task.cancel()
        done, _ = await asyncio.wait((self._task,), timeout=_CLOSING)
        if not done:
            self._task.cancel()
            await asyncio.wait((self._task,), timeout=_CLOSING)

    async def _run(self) -> None:
        problem = "closed before it answered"
        try:
            transport = _watch(self._transport, self._ending.set)
            async with Client(transport, cache=None, message_handler=self._hear) as client:
                self._opened.set_result(client)
                listening = asyncio.create_task(self._listen(client))
                try:
                    await self._ending.wait()
                finally:
                    listening.cancel()
                    await asyncio.wait((listening,))
        except Exception as error:
            problem = describe_problem(error)
        finally:
            self._ending.set()
            if not self._opened.done():
                self._opened.set_exception(ConnectionFailed(problem))
                # Nobody may have waited for it.
                self._opened.exception()

    async def _hear(self, message: IncomingMessage) -> None:
        """Takes what the server tells."""
        if isinstance(message, ToolListChangedNotification):
            await self._on_change()

    async def _listen(self, client: Client) -> None:
        """Asks a server to tell of changes, as long as it will. Others tell unasked."""
        tools = client.server_capabilities.tools
        if self.is_legacy or tools is None:
            return
        with suppress(MCPError, TimeoutError):
            while tools.list_changed:
                with suppress(SubscriptionLost):
                    async with client.listen(tools_list_changed=True) as changes:
                        async for _ in changes:
                            pass
                await asyncio.sleep(_LISTEN_PAUSE)
                # What changed while nobody listened was told to nobody.
                await self._on_change()


def describe_problem(error: BaseException) -> str:
    """Says in our own words why a server cannot be used: an exception's may hold secrets."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    match error:
        case OSError() if error.strerror:
            return f"cannot be started: {error.strerror}"
        case httpx2.TransportError():
            return "cannot be reached"
        case MCPError() if error.code == CONNECTION_CLOSED:
            return "ended before it answered"
        case MCPError():
            return f"answers with error {error.code}"
        case _:
            failure = describe_failure(error)
            _log.error(
                "mcp_connection_failed",
                kind=failure.kind,
                trace=failure.trace,
                error_id=failure.error_id,
            )
            return f"does not speak the protocol: {failure}"


def _open_log(path: Path | None) -> TextIO:
    return (path or Path(os.devnull)).open("a", encoding="utf-8")


@asynccontextmanager
async def _watch(
    transport: Transport, on_end: Callable[[], None]
) -> AsyncIterator[TransportStreams]:
    """Tells when a server says nothing more: a session alone would show that in its next call."""
    async with transport as (read, write):
        yield _WatchedStream(read, on_end), write


class _WatchedStream:
    """What a session reads from, until it has read everything."""

    def __init__(
        self, stream: ReadStream[SessionMessage | Exception], on_end: Callable[[], None]
    ) -> None:
        self._stream = stream
        self._on_end = on_end

    async def receive(self) -> SessionMessage | Exception:
        return await self._stream.receive()

    async def aclose(self) -> None:
        await self._stream.aclose()

    def __aiter__(self) -> _WatchedStream:
        return self

    async def __anext__(self) -> SessionMessage | Exception:
        return await self._stream.__anext__()

    async def __aenter__(self) -> _WatchedStream:
        await self._stream.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        self._on_end()
        await self._stream.__aexit__(exc_type, exc_val, exc_tb)
