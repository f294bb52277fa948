"""The processes of a measurement: servers that say where they listen, and who puts load on them."""

from __future__ import annotations

import json
import select
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

START = 20.0  # seconds until a server must listen
STOP = 10.0


class ProcessFailed(Exception):
    """A process of the measurement did not do its work; it said why on standard error."""


@contextmanager
def _process(module: str, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()


@contextmanager
def server(module: str, *arguments: str) -> Iterator[str]:
    """Runs a server and gives the address that it prints."""
    with _process(module, arguments) as process:
        assert process.stdout is not None
        ready, _, _ = select.select([process.stdout], [], [], START)
        address = process.stdout.readline().strip() if ready else ""
        if not address:
            raise ProcessFailed(f"benchmarks.{module} does not listen")
        yield address


def samples(*arguments: str) -> Iterator[dict[str, Any]]:
    """Runs the load generator and yields what it measures."""
    with _process("loadgen", arguments) as process:
        assert process.stdout is not None
        for line in process.stdout:
            yield json.loads(line)
        if process.wait(STOP):
            raise ProcessFailed("the load generator failed")
