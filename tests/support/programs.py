"""Python programs in processes of their own, which start in no time.

They are forked from a process that has loaded what they need: a start of Python with all of that
takes a second or two. Else they are what `python ...` and `callboard ...` would be.
"""

from __future__ import annotations

import asyncio
import atexit
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import IO, Self

PARENT = Path(__file__).with_name("run_programs.py")


class Program:
    """A program at work.

    Args:
        *words: What stands behind `python` on a command line, or a whole `callboard` command.
        cwd: The folder it works in; this process's when None.
        env: Its environment; this process's when None.
        stdin, stdout, stderr: Its standard files; nothing when None.
    """

    def __init__(
        self,
        *words: object,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        stdin: IO[bytes] | None = None,
        stdout: IO[bytes] | None = None,
        stderr: IO[bytes] | None = None,
    ) -> None:
        self._told = b""
        self.returncode: int | None = None
        order = {
            "words": [str(word) for word in words],
            "cwd": str(cwd or Path.cwd()),
            "env": dict(os.environ if env is None else env),
        }
        self._connection = socket.socket(socket.AF_UNIX)
        self._connection.connect(str(_parent()))
        with open(os.devnull, "r+b") as nothing:
            files = [(file or nothing).fileno() for file in (stdin, stdout, stderr)]
            text = json.dumps(order).encode() + b"\n"
            sent = socket.send_fds(self._connection, [text], files)
            self._connection.sendall(text[sent:])
            self.pid = int(self._line())

    def _line(self) -> bytes:
        while b"\n" not in self._told:
            self._note(self._connection.recv(64))
        line, _, self._told = self._told.partition(b"\n")
        return line

    def _note(self, told: bytes) -> None:
        assert told, "the process that forks programs is gone"
        self._told += told

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Kills it if it has not ended, and what it has started."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.wait()

    def wait(self, timeout: float | None = None) -> int:
        """Waits for its end; returns its exit code, less than 0 if a signal ended it.

        Raises:
            TimeoutError: It takes more seconds than it may.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            self.returncode = int(self._line())
            self._connection.close()
        return self.returncode

    async def ended(self) -> int:
        """The same for whoever does something else meanwhile."""
        if self.returncode is None:
            self._connection.setblocking(False)
            while b"\n" not in self._told:
                self._note(await asyncio.get_running_loop().sock_recv(self._connection, 64))
        return self.wait()

    def send_signal(self, number: signal.Signals) -> None:
        """Sends it a signal, if it has not ended."""
        if self.returncode is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def run(
    *words: object,
    timeout: float,
    given: str = "",
    cwd: Path | None = None,
    env: Mapping[str, str] | None = None,
) -> tuple[int, str]:
    """Runs a program to its end.

    Args:
        *words: What it is; see `Program`.
        timeout: How many seconds it may take.
        given: What it reads.
        cwd: The folder it works in.
        env: Its environment.

    Returns:
        Its exit code, and what it printed.

    Raises:
        TimeoutError: It took longer.
    """
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as printed:
        stdin.write(given.encode())
        stdin.seek(0)
        with Program(*words, cwd=cwd, env=env, stdin=stdin, stdout=printed, stderr=printed) as it:
            code = it.wait(timeout)
        printed.seek(0)
        return code, printed.read().decode()


def python() -> str:
    """Returns an executable that starts programs as quickly, for those that start some themselves.

    Who kills it kills the program, but is not told when that is done.
    """
    return str(_parent().with_name("python"))


@cache
def _parent() -> Path:
    """Starts the process that forks programs, once; returns the address of its socket."""
    address = Path(tempfile.mkdtemp()) / "programs"
    process = subprocess.Popen(
        [sys.executable, PARENT, address], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"ready\n"
    # It ends when it has read all of its standard input.
    atexit.register(process.communicate)
    return address
