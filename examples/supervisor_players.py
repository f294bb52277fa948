"""The two supervisors of supervisor.py: one on the server, and one in a program of its own."""

from __future__ import annotations

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from textwrap import dedent
from typing import Protocol, TypeVar

import callboard
from callboard import AsyncClient, AsyncSupervisor, Event, Role, Run, RunState
from stage import say

PROGRAM = Path(__file__).with_name("outside_supervisor.py")
PROMPT = b"\n> "
"""What the program prints when it listens. What it says is indented, so this is never a part."""

T = TypeVar("T")


class Supervisor(Protocol):
    """Whoever launches jobs."""

    thread_id: str
    """The thread that they belong to."""

    async def hear(self, text: str) -> None:
        """Hears a user, and answers."""
        ...

    async def report(self) -> None:
        """Says what it has to say unasked."""
        ...


class Hosted:
    """A supervisor on the server.

    Args:
        client: The server.
        thread_id: A conversation with it.
    """

    def __init__(self, client: AsyncClient, thread_id: str) -> None:
        self.thread_id = thread_id
        self._client = client
        self._last = Run()

    async def hear(self, text: str) -> None:
        say("you", text, "bold cyan")
        created = await self._client.runs.create("supervisor", text, thread_id=self.thread_id)
        self._last = await self._client.runs.wait(created.run_id)
        if self._last.state != RunState.RUN_STATE_SUCCEEDED:
            raise SystemExit(f"supervisor did not answer: {self._last.outcome.error.message}")
        say_lines("supervisor", callboard.text_of(self._last.outcome.result))

    async def report(self) -> None:
        session = self._client.threads.stream(
            self.thread_id,
            scope="session",
            kinds=["message_added"],
            after_sequence=self._last.created_sequence,
            until="done",
        )
        async with session as events:
            async for event in events:
                if isinstance(event, Event) and self._is_unasked(event):
                    say_lines("supervisor", callboard.text_of(event.message_added.message))

    def _is_unasked(self, event: Event) -> bool:
        return (
            event.thread_id == self.thread_id
            and event.run_id != self._last.run_id
            and event.message_added.message.role == Role.ROLE_ASSISTANT
        )


class Outside:
    """A supervisor in a program of its own, which may be killed and started again.

    Args:
        address: The server.
        home: Where its jobs are.
        file: Where it keeps the conversation.
        model: What answers: `anthropic:MODEL`.
        agents: Whom it may give work to.
        environment: Variables that it gets on top of those of this process.
    """

    def __init__(
        self,
        address: str,
        home: AsyncSupervisor,
        file: Path,
        model: str,
        agents: Sequence[str],
        environment: Mapping[str, str],
    ) -> None:
        self.thread_id = home.thread_id
        self.file = file
        self._arguments = (address, home.name, str(file), model.partition(":")[2], *agents)
        self._environment = {**os.environ, **environment}

    async def start(self) -> None:
        """Starts it, and waits until it has done what was left to do."""
        self._process = await asyncio.create_subprocess_exec(
            *(sys.executable, str(PROGRAM), *self._arguments),
            env=self._environment,
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
            limit=2**20,
        )
        await self.report()

    async def hear(self, text: str) -> None:
        self.tell(text)
        await self.report()

    def tell(self, text: str) -> None:
        """Says something to it, and does not wait for an answer."""
        say("you", text, "bold cyan")
        assert self._process.stdin is not None
        self._process.stdin.write(f"{text}\n".encode())

    async def report(self) -> None:
        assert self._process.stdout is not None
        try:
            printed = await self._process.stdout.readuntil(PROMPT)
        except asyncio.IncompleteReadError:
            raise SystemExit(await self._describe_end()) from None
        say_lines("program", dedent(printed.removesuffix(PROMPT).decode()).strip())

    async def unless_ended(self, work: Awaitable[T]) -> T:
        """Waits for something for which the program has to be there."""
        working = asyncio.ensure_future(work)
        ended = asyncio.create_task(self._process.wait())
        await asyncio.wait((working, ended), return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not working.done():
            working.cancel()
            raise SystemExit(await self._describe_end())
        return await working

    async def kill(self) -> int:
        """Kills it; returns its exit code, which tells by what."""
        self._process.kill()
        return await self._process.wait()

    async def end(self) -> None:
        """Ends it as a user does: there is no more input."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if await self._process.wait():
            raise SystemExit(await self._describe_end())

    async def clean_up(self) -> None:
        """Makes sure that nothing is left."""
        if self._process.returncode is None:
            await self.kill()

    async def _describe_end(self) -> str:
        assert self._process.stderr is not None
        errors = (await self._process.stderr.read()).decode().splitlines()
        return f"{PROGRAM.name} ended: {errors[-1] if errors else 'it does not say why'}"


def say_lines(who: str, text: str) -> None:
    for line in text.splitlines():
        say(who, line, "bold magenta")
