"""A receiver of webhooks: a real HTTP server that does as it is told."""

from __future__ import annotations

import asyncio
import ssl
from collections import deque
from dataclasses import dataclass
from typing import Any, Self

from callboard import webhooks
from tests.support.gates import PATIENCE

SECRET = webhooks.new_secret()
HANG, CLOSE = -1, -2
"""What to do instead of an answer: keep the sender waiting, or hang up."""


@dataclass(frozen=True)
class Received:
    """A request as it came."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def told(self) -> dict[str, Any]:
        """What it says, once it is sure who says it."""
        return webhooks.verify(self.headers, self.body, SECRET)

    @property
    def data(self) -> Any:
        return self.told["data"]


class Receiver:
    """Listens on a port of this machine, and answers 200.

    Args:
        answers: The status of each of the first answers, with headers after it if need be; or HANG
            or CLOSE.
        tls: What it shows who it is with; speaks plainly when left out.
    """

    def __init__(self, *answers: int | str, tls: ssl.SSLContext | None = None) -> None:
        self._answers = deque(answers)
        self._tls = tls
        self._requests: asyncio.Queue[Received] = asyncio.Queue()
        self._released = asyncio.Event()
        self.connections = 0
        self.most_at_once = 0
        self._at_once = 0
        self.port = 0

    async def __aenter__(self) -> Self:
        await self.listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def listen(self) -> None:
        """Begins to listen, again on the port that it had."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self._tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        self._released.set()
        self._server.close()
        await self._server.wait_closed()

    def release(self) -> None:
        """Answers those that were kept waiting."""
        self._released.set()

    async def next(self) -> Received:
        """The next request, once it is there."""
        async with asyncio.timeout(PATIENCE):
            return await self._requests.get()

    @property
    def is_quiet(self) -> bool:
        """Whether there is no request beside those that were taken."""
        return self._requests.empty()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._at_once += 1
        self.most_at_once = max(self.most_at_once, self._at_once)
        try:
            await self._requests.put(await _read(reader))
            answer = self._answers.popleft() if self._answers else 200
            if answer == HANG:
                await self._released.wait()
                answer = 200
            if answer != CLOSE:
                head = f"HTTP/1.1 {answer}" if isinstance(answer, str) else f"HTTP/1.1 {answer} X"
                writer.write(f"{head}\r\ncontent-length: 0\r\n\r\n".encode())
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self._at_once -= 1
            writer.close()


async def _read(reader: asyncio.StreamReader) -> Received:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    line, *rest = head.rstrip().split("\r\n")
    headers = {name.lower(): value for name, value in (each.split(": ", 1) for each in rest)}
    return Received(line, headers, await reader.readexactly(int(headers["content-length"])))
