"""A TCP relay that cuts, delays and holds back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

CHUNK = 1 << 16


_OPEN = asyncio.Event()
_OPEN.set()


class Proxy:
    """Relays connections to a port of this machine.

    Args:
        port: Where they go.
        budget: Gives, for each direction of each connection, after how many bytes the connection is
            cut, in the middle of whatever is sent then; None lets it live.
        delay: Gives the seconds that each piece is held back.
    """

    def __init__(
        self,
        port: int,
        *,
        budget: Callable[[], int | None] = lambda: None,
        delay: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self._target = port
        self._budget = budget
        self._delay = delay
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.cuts = 0
        """How many connections were cut."""

    async def open(self) -> int:
        """Begins to listen and returns the port."""
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", limit=CHUNK)
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def close(self) -> None:
        self._server.close()
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        """Ends all connections that there are."""
        for task in self._tasks:
            task.cancel()

    def stall(self) -> None:
        """Takes nothing more from the servers, until `flow`."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own = asyncio.current_task()
        assert own is not None
        self._tasks.add(own)
        try:
            there = await asyncio.open_connection("127.0.0.1", self._target, limit=CHUNK)
        except OSError:
            writer.transport.abort()
            return
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(reader, there[1], _OPEN))
                group.create_task(self._pump(there[0], writer, self._flowing))
        except* (ConnectionError, asyncio.CancelledError, _Cut):
            # A task of asyncio's server must not end as cancelled.
            pass
        finally:
            self._tasks.discard(own)
            writer.transport.abort()
            there[1].transport.abort()

    async def _pump(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        flowing: asyncio.Event,
    ) -> None:
        """Passes on what one side sends."""
        left = self._budget()
        while True:
            await flowing.wait()
            data = await reader.read(CHUNK)
            if not data:
                raise _Cut
            if delay := self._delay():
                await asyncio.sleep(delay)
            if left is not None and len(data) >= left:
                writer.write(data[:left])
                await writer.drain()
                self.cuts += 1
                raise _Cut
            left = None if left is None else left - len(data)
            writer.write(data)
            await writer.drain()


class _Cut(Exception):
    """The connection ends here."""


@asynccontextmanager
async def relayed(
    port: int,
    *,
    budget: Callable[[], int | None] = lambda: None,
    delay: Callable[[], float] = lambda: 0.0,
) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before a port, and its address."""
    proxy = Proxy(port, budget=budget, delay=delay)
    address = f"127.0.0.1:{await proxy.open()}"
    try:
        yield proxy, address
    finally:
        await proxy.close()
