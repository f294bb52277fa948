"""A terminal for a command, as a person has it."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import termios
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from tests.support.programs import Program

_CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

AGAIN = 0.5
"""After how many seconds without an answer Ctrl-C is pressed again."""
PATIENCE = 30.0
"""How many seconds may pass until a text appears that must."""


class Terminal:
    """Runs a command on a terminal of a certain width."""

    def __init__(self, *arguments: str, env: Mapping[str, str], columns: int = 80) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        with os.fdopen(slave, "r+b", buffering=0) as file:
            self._process = Program(
                *("callboard", *arguments),
                env={**env, "TERM": "xterm-256color"},
                stdin=file,
                stdout=file,
                stderr=file,
            )
        self.output = ""
        self._seen = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._master)

    @property
    def text(self) -> str:
        """The output without the codes that colour it and move the cursor."""
        return _CODES.sub("", self.output)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def interrupt(self) -> None:
        self._process.send_signal(signal.SIGINT)

    def read_until(self, text: str) -> str:
        """Reads until a text appears, and returns all up to it."""
        start = self._seen
        deadline = time.monotonic() + PATIENCE
        while text not in self.output[start:]:
            assert self._read(deadline - time.monotonic()), f"no {text!r}: {self.output!r}"
        self._seen = self.output.index(text, start) + len(text)
        return self.output[start : self._seen]

    def interrupt_until_it_ends(self) -> int:
        """Presses Ctrl-C again and again, and returns the exit code.

        At a prompt Python loses one that comes just before it begins to read.
        """
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            self.interrupt()
            while select.select([self._master], [], [], AGAIN)[0]:
                if not self._read(0):
                    return self._process.wait(PATIENCE)
        raise AssertionError(f"Ctrl-C does not end it: {self.output!r}")

    def finish(self) -> int:
        """Reads to the end and returns the exit code."""
        while self._read(PATIENCE):
            pass
        return self._process.wait(PATIENCE)

    def _read(self, seconds: float) -> bool:
        if not select.select([self._master], [], [], max(seconds, 0))[0]:
            return False
        try:
            data = os.read(self._master, 65_536)
        except OSError:  # the end, on Linux
            return False
        self.output += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)
