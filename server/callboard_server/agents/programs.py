"""Runs programs on behalf of agents: bounded in time and output, and ended with all they began."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

# A program that writes without end would keep the server busy reading.
_MOST_WRITTEN = 64 * 1024 * 1024
# What a program left behind in a session of its own may keep its output open.
_LAST_WORDS = 1.0


class CutShort(Exception):
    """A program was ended before it was done; has why, and what it wrote until then."""

    def __init__(self, problem: str, output: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.output = output


@dataclass(frozen=True, slots=True)
class Finished:
    """How a program ended."""

    exit_code: int
    """Negative where a signal ended it."""
    output: str
    """What it wrote to its standard output and error."""


async def run_program(
    arguments: Sequence[str],
    folder: Path,
    environment: Mapping[str, str],
    *,
    timeout: float,
    most_output: int,
) -> Finished:
    """Runs a program to its end, in a process group of its own that ends with it.

    Args:
        arguments: The program, and what it gets.
        folder: Where it runs.
        environment: Its variables, all of them.
        timeout: Seconds that it may take.
        most_output: How many bytes of its output are kept, from its beginning and its end.

    Raises:
        OSError: It cannot be started.
        CutShort: It took too long, or wrote without end.
    """
    output = _Output(most_output)
    async with _running(arguments, folder, environment, output) as process:
        try:
            async with asyncio.timeout(timeout):
                await process.wait()
        except TimeoutError:
            raise CutShort(f"took longer than {timeout:g} s", output.text) from None
    if output.is_flooded:
        raise CutShort(f"wrote more than {_MOST_WRITTEN:,} bytes", output.text)
    return Finished(process.returncode or 0, output.text)


@asynccontextmanager
async def _running(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], output: _Output
) -> AsyncIterator[asyncio.subprocess.Process]:
    """Starts a program; in the end, nothing of it runs any more."""
    reading, writing = os.pipe()
    transport, _ = await asyncio.get_running_loop().connect_read_pipe(
        lambda: output, os.fdopen(reading, "rb", 0)
    )
    try:
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                cwd=folder,
                env=environment,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=writing,
                stderr=asyncio.subprocess.STDOUT,
                start_new_session=True,
            )
        finally:
            os.close(writing)
        output.on_flood = lambda: _kill(process.pid)
        try:
            yield process
        finally:
            # Also what it left behind.
            _kill(process.pid)
            await process.wait()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS):
                await output.ended.wait()
    finally:
        transport.close()


def _kill(group: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


class _Output(asyncio.Protocol):
    """Keeps the beginning and the end of what a program writes."""

    def __init__(self, most: int) -> None:
        self._most_of_each = most // 2
        self._beginning = bytearray()
        self._end = bytearray()
        self._left_out = 0
        self.ended = asyncio.Event()
        self.on_flood: Callable[[], None] = lambda: None
        """Called when far too much was written."""

    def data_received(self, data: bytes) -> None:
        room = self._most_of_each - len(self._beginning)
        self._beginning += data[:room]
        self._end += data[room:]
        excess = max(0, len(self._end) - self._most_of_each)
        del self._end[:excess]
        self._left_out += excess
        if self.is_flooded:
            self.on_flood()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended.set()

    @property
    def is_flooded(self) -> bool:
        """Whether far too much was written."""
        return self._left_out > _MOST_WRITTEN

    @property
    def text(self) -> str:
        if not self._left_out:
            return (self._beginning + self._end).decode("utf-8", "replace")
        note = f"\n[... {self._left_out:,} bytes left out ...]\n"
        ends = [part.decode("utf-8", "replace") for part in (self._beginning, self._end)]
        return note.join(ends)
