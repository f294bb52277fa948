"""Supervisors that are programs of their own, to be told what to do, and to be killed."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from tests.support.gates import PATIENCE
from tests.support.programs import python

NAME = "my-app/user-42"
"""The name of all of them: they have one home."""
_PROGRAM = """\
import asyncio
import json
import sys

import callboard


async def order():
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line else sys.exit()


def tell(what):
    print(json.dumps(what), flush=True)


async def main(target, name):
    async with callboard.AsyncClient(target) as client:
        supervisor = await client.supervisor(name)
        tell("ready")
        while (arguments := await order()) != "listen":
            tell(await supervisor.tools.call(**arguments))
        async for notice in supervisor.notices():
            tell([notice.agent, notice.task, notice.result])
            await order()


asyncio.run(main(*sys.argv[1:]))
"""


class Program:
    """A supervisor in a process: it is told what to call, a line each, and prints what comes.

    Once it listens it prints notices, and goes on to the next one when it is told to.
    """

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(2 * PATIENCE):
            return json.loads(await self._process.stdout.readline())

    def tell(self, order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    def begin(self, name: str, call_id: str | None = None, **arguments: Any) -> None:
        """Has a tool called, whose answer is there later."""
        self.tell({"name": name, "arguments": arguments, "call_id": call_id})

    async def answer(self) -> Any:
        """What the call that was begun comes to."""
        return json.loads(await self.says())

    async def call(self, name: str, call_id: str | None = None, **arguments: Any) -> Any:
        """What a call of a tool comes to."""
        self.begin(name, call_id, **arguments)
        return await self.answer()

    async def listen(self) -> Any:
        """The first notice that it is given: agent, task and result."""
        self.tell("listen")
        return await self.says()

    async def next(self) -> Any:
        """The notice after the one that it has in hand, which is handled now."""
        self.tell("next")
        return await self.says()

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def clean_up(self) -> None:
        if self._process.returncode is None:
            await self.kill()


class Programs:
    """Starts supervisors, and sees to it that none is left."""

    def __init__(self) -> None:
        self._all: list[Program] = []

    async def start(self, address: str) -> Program:
        """Starts one that calls a server at an address, and waits until it is ready."""
        process = await asyncio.create_subprocess_exec(
            *(python(), "-c", _PROGRAM, address, NAME),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        program = Program(process)
        self._all.append(program)
        assert await program.says() == "ready"
        return program

    async def clean_up(self) -> None:
        for program in self._all:
            await program.clean_up()


@asynccontextmanager
async def programs() -> AsyncIterator[Programs]:
    """Supervisors that end with the test."""
    started = Programs()
    try:
        yield started
    finally:
        await started.clean_up()
