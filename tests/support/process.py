"""A server in a process of its own, to be stopped or killed."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path

RUN = Path(__file__).with_name("run_server.py")


class ServerProcess:
    """Runs the server of a configuration, again and again on the same file and port.

    Args:
        config: the configuration.
        db: the database.
    """

    def __init__(self, config: Path, db: Path) -> None:
        self._config = config
        self.db = db
        self._errors = db.with_suffix(".stderr")
        self.port = 0
        self._process: asyncio.subprocess.Process | None = None

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def process(self) -> asyncio.subprocess.Process:
        assert self._process is not None
        return self._process

    @property
    def errors(self) -> str:
        """All that the server wrote to its standard error."""
        return self._errors.read_text("utf-8")

    async def start(self) -> None:
        """Starts the server and waits until it takes calls."""
        with self._errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                RUN,
                self._config,
                self.db,
                str(self.port),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        assert self._process.stdout is not None
        line = await self._process.stdout.readline()
        assert line, f"the server did not start:\n{self.errors}"
        self.port = int(line)

    async def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        self.process.send_signal(number)
        return await self.process.wait()

    async def kill(self) -> None:
        await self.end(signal.SIGKILL)

    async def clean_up(self) -> None:
        """Makes sure that nothing is left."""
        if self._process is not None and self._process.returncode is None:
            await self.kill()


class ForkedServers:
    """Runs server after server on one file and port, each forked from a process that is ready.

    Args:
        config: the configuration.
        db: the database.
    """

    def __init__(self, config: Path, db: Path) -> None:
        self._arguments = (RUN.with_name("run_servers.py"), config, db)
        self._errors = db.with_suffix(".stderr")
        self._pid = 0
        self.port = 0

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def open(self) -> None:
        with self._errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                *self._arguments,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )

    async def start(self) -> None:
        """Starts the next server and waits until it takes calls."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{self.port}\n".encode())
        line = await self._process.stdout.readline()
        assert line, f"the server did not start:\n{self._errors.read_text('utf-8')}"
        self._pid, self.port = map(int, line.split())

    def kill(self) -> None:
        os.kill(self._pid, signal.SIGKILL)
        self._pid = 0

    async def close(self) -> None:
        if self._pid:
            self.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
