"""A server in a process of its own, to be stopped or killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

RUN = Path(__file__).with_name("run_server.py")
_NEVER_STARTED = -1


class ServerProcess:
    """Runs the server of a configuration, again and again on the same file and port.

    Args:
        config: The configuration.
        db: The database.
        environment: Variables that it gets on top of those of this process.
        name: Tells it from others on the same database.
    """

    def __init__(
        self,
        config: Path,
        db: Path,
        environment: Mapping[str, str] | None = None,
        name: str = "",
    ) -> None:
        self._config = config
        self._environment = {**os.environ, **(environment or {})}
        self.db = db
        self._errors = db.with_name(f"{db.stem}{name}.stderr")
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

    async def spawn(self) -> None:
        """Starts the server, which may kill itself before it takes calls."""
        with self._errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                RUN,
                self._config,
                self.db,
                str(self.port),
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
                env=self._environment,
            )

    async def start(self) -> None:
        """Starts the server and waits until it takes calls."""
        await self.spawn()
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
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
    """Runs `callboard serve` again and again, each forked from a process that is ready.

    A start takes a fifth of what it takes when Python has to load everything first.

    Args:
        config: The configuration.
        errors: The file for what the servers write to their standard error.
        modules: What is loaded beforehand, beside what every server needs.
    """

    def __init__(self, config: Path, errors: Path, modules: Sequence[str] = ()) -> None:
        self._config = config
        self._errors = errors
        self._modules = modules
        self.is_started = False
        self.fault = ""
        """The fault point that the last server has armed."""

    @property
    def errors(self) -> str:
        """All that the servers wrote to their standard error."""
        return self._errors.read_text("utf-8")

    async def open(self) -> None:
        self._expect()
        with self._errors.open("ab") as errors:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                RUN.with_name("run_servers.py"),
                *self._modules,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                stderr=errors,
            )
        self._listening = asyncio.create_task(self._listen())

    def _expect(self) -> None:
        loop = asyncio.get_running_loop()
        self._pid: asyncio.Future[int] = loop.create_future()
        self._status: asyncio.Future[int] = loop.create_future()
        self._ready: asyncio.Future[int] = loop.create_future()

    async def _listen(self) -> None:
        """Takes note of what the servers, and the process that forks them, tell."""
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            told = json.loads(line)
            if "pid" in told:
                self._pid.set_result(told["pid"])
            elif "address" in told:
                self._ready.set_result(int(told["address"].rpartition(":")[2]))
            else:
                self._end(told["status"])
        self._end(_NEVER_STARTED)

    def _end(self, status: int) -> None:
        for future, result in ((self._pid, 0), (self._status, status)):
            if not future.done():
                future.set_result(result)

    async def start(self, db: Path, port: int = 0, fault: str = "") -> None:
        """Begins to start the next server, when the one before is gone.

        Args:
            db: The database.
            port: Where to listen; any port that is free when 0.
            fault: The fault point to arm (see `callboard_server.faults`).
        """
        self._expect()
        self.is_started, self.fault = True, fault
        options = {"--config": self._config, "--db": db, "--port": port}
        arguments = ["--json", "serve", *(str(part) for each in options.items() for part in each)]
        order = {"fault": fault, "arguments": arguments}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def ready(self) -> int:
        """Waits until the server takes calls; returns its port.

        Raises:
            RuntimeError: It ended before.
        """
        await asyncio.wait((self._ready, self._status), return_when=asyncio.FIRST_COMPLETED)
        if not self._ready.done():
            raise RuntimeError(f"the server did not start:\n{self.errors[-2000:]}")
        return self._ready.result()

    async def gone(self) -> int:
        """Waits for the server's end; returns its status as `os.waitpid` does."""
        return await asyncio.shield(self._status)

    async def kill(self) -> int:
        """Kills the server, wherever it is; returns its status, which tells if it was faster."""
        pid = await asyncio.shield(self._pid)
        if not self._status.done():
            os.kill(pid, signal.SIGKILL)
        return await self.gone()

    async def close(self) -> None:
        if self.is_started and not self._status.done():
            await self.kill()
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self._process.wait()
        await self._listening
