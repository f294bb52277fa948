"""A server in a process of its own, to be stopped or killed."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path

from callboard_server import faults
from tests.support.programs import Program


class ServerProcess:
    """Runs `callboard serve`, again and again on the same file and port.

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
        self._errors = db.with_name(f"{db.stem}{name}.stderr")
        self._program: Program | None = None
        self.db = db
        self.port = 0
        self.fault = ""
        """The fault point that the last one has armed."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def program(self) -> Program:
        assert self._program is not None, "it was never started"
        return self._program

    @property
    def errors(self) -> str:
        """All that the server wrote to its standard error."""
        return self._errors.read_text("utf-8")

    def spawn(self, fault: str = "") -> None:
        """Begins to start the server, when the one before is gone.

        Args:
            fault: The fault point to arm (see `callboard_server.faults`).
        """
        self.fault = fault
        options = {"--config": self._config, "--db": self.db, "--port": self.port}
        read, write = os.pipe()
        self._stdout = os.fdopen(read, "rb")
        with self._errors.open("ab") as stderr, os.fdopen(write, "wb") as stdout:
            self._program = Program(
                *("callboard", "--json", "serve"),
                *(part for option in options.items() for part in option),
                env={**self._environment, **({faults.VARIABLE: fault} if fault else {})},
                stdout=stdout,
                stderr=stderr,
            )

    async def ready(self) -> None:
        """Waits until it takes calls.

        Raises:
            RuntimeError: It ended before.
        """
        line = await asyncio.to_thread(self._stdout.readline)
        if not line:
            raise RuntimeError(f"the server did not start:\n{self.errors[-4000:]}")
        self.port = int(json.loads(line)["address"].rpartition(":")[2])

    async def start(self, fault: str = "") -> None:
        """Starts the server and waits until it takes calls."""
        self.spawn(fault)
        await self.ready()

    async def gone(self) -> int:
        """Waits for the end; returns the exit code, less than 0 if a signal ended it."""
        code = await self.program.ended()
        self._stdout.close()
        return code

    async def end(self, number: signal.Signals) -> int:
        """Sends a signal and waits for the end; returns the exit code."""
        self.program.send_signal(number)
        return await self.gone()

    async def kill(self) -> int:
        """Kills the server, wherever it is; returns its exit code, which tells if it was faster."""
        return await self.end(signal.SIGKILL)

    async def clean_up(self) -> None:
        """Makes sure that nothing is left."""
        if self._program is not None:
            await self.kill()
