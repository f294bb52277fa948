"""Gates for agents in other processes, which are killed: see `Gates` for those of this process."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict

from tests.support.gates import PATIENCE

VARIABLE = "CALLBOARD_TEST_GATES"
"""The variable with the port, for the agents' processes."""
AGENT_CODE = f"""
import asyncio
import json
import os


async def pass_gate(text):
    reader, writer = await asyncio.open_connection("127.0.0.1", int(os.environ["{VARIABLE}"]))
    writer.write(json.dumps(text).encode() + b"\\n")
    await reader.readline()
    writer.close()
"""
"""What an agent needs: `await pass_gate(text)` goes on when a test opens the gate of that name."""


class RemoteGates:
    """Listens for agents. An agent that is killed and comes again enters once more."""

    def __init__(self) -> None:
        self._entered: defaultdict[str, asyncio.Queue[None]] = defaultdict(asyncio.Queue)
        self._opened: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.port = 0

    async def listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1")
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        for gate in self._opened.values():
            gate.set()
        self._server.close()
        await self._server.wait_closed()

    async def entered(self, text: str) -> None:
        """Waits until an agent is at a gate, each time for one more."""
        async with asyncio.timeout(PATIENCE):
            await self._entered[text].get()

    def open(self, text: str) -> None:
        """Lets pass whoever is at a gate or comes there."""
        self._opened[text].set()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            text = json.loads(await reader.readline())
            self._entered[text].put_nowait(None)
            await self._opened[text].wait()
            writer.write(b"go\n")
            await writer.drain()
        except (ConnectionError, ValueError):
            # It was killed.
            pass
        finally:
            writer.close()
