"""The processes of a measurement: servers, and for each one a generator that puts load on it."""

from __future__ import annotations

import json
import os
import re
import select
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from socket import socket
from typing import Any

from benchmarks.peer import environment
from benchmarks.workloads import PEER, PEER_SLOTS

START = 60.0  # seconds until a server must listen
STOP = 10.0
LOOK = 0.1
ROOT = Path(__file__).parents[1]
PEER_GRAPHS = ROOT / "benchmarks" / "peer" / "graphs.py"
PEER_SETTINGS = {
    "LANGGRAPH_CLI_NO_ANALYTICS": "1",
    "LANGGRAPH_NO_VERSION_CHECK": "true",
    "LANGSMITH_TRACING": "false",
    "LOG_LEVEL": "CRITICAL",
    "PYTHONPATH": str(ROOT),
}


class ProcessFailed(Exception):
    """A process of the measurement did not do its work; it said why on standard error."""


@dataclass(frozen=True)
class Server:
    """A server that listens.

    Args:
        address: Where.
        pid: Its process.
    """

    address: str
    pid: int

    def forget_peak(self) -> None:
        """Lets `peak_mib` begin anew, where the system can."""
        forget = Path(f"/proc/{self.pid}/clear_refs")
        if forget.exists():
            forget.write_text("5", encoding="ascii")

    def peak_mib(self) -> float | None:
        """Returns the most memory that it took; None where the system does not say."""
        status = Path(f"/proc/{self.pid}/status")
        text = status.read_text(encoding="utf-8") if status.exists() else ""
        found = re.search(r"VmHWM:\s+(\d+) kB", text)
        return int(found[1]) / 1024 if found else None


class LoadGenerator:
    """Measures a side at one workload after another."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def measure(self, key: str) -> float:
        """Raises ProcessFailed where it cannot."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(key, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            raise ProcessFailed(f"the load generator failed at {key}")
        return float(json.loads(line))


@contextmanager
def process(
    command: Sequence[str],
    *,
    folder: Path = ROOT,
    settings: Mapping[str, str] | None = None,
    **pipes: Any,
) -> Iterator[subprocess.Popen[str]]:
    """Runs a process for as long as the context lasts.

    Args:
        command: What to run.
        folder: Where.
        settings: Variables for its environment.
        **pipes: What `Popen` shall connect it with; its output, if they do not say.
    """
    pipes = {"stdout": subprocess.PIPE, **pipes}
    environ = {**os.environ, **(settings or {})}
    with subprocess.Popen(command, cwd=folder, env=environ, text=True, **pipes) as started:
        try:
            yield started
        finally:
            started.terminate()
            try:
                started.wait(STOP)
            except subprocess.TimeoutExpired:
                started.kill()


@contextmanager
def server(module: str, *arguments: str) -> Iterator[Server]:
    """Runs a server of ours, which prints its address."""
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    with process(command) as started:
        assert started.stdout is not None
        ready, _, _ = select.select([started.stdout], [], [], START)
        address = started.stdout.readline().strip() if ready else ""
        if not address:
            raise ProcessFailed(f"benchmarks.{module} does not listen")
        yield Server(address, started.pid)


@contextmanager
def peer(folder: Path) -> Iterator[Server]:
    """Runs `langgraph dev` at its best: in memory, silent, without checks for blocking calls."""
    names = ("echo", "streamer", "starter", "sleeper")
    graphs = {name: f"{PEER_GRAPHS}:{name}" for name in names}
    config = {"dependencies": ["."], "disable_persistence": True, "graphs": graphs}
    (folder / "langgraph.json").write_text(json.dumps(config), encoding="utf-8")
    port = _free_port()
    options = f"--no-browser --no-reload --allow-blocking --server-log-level critical --port {port}"
    command = [environment.PYTHON, "-m", "langgraph_cli", "dev", *options.split()]
    command += ["--n-jobs-per-worker", str(PEER_SLOTS)]
    address = f"127.0.0.1:{port}"
    log = folder / "peer.log"
    with (
        log.open("w", encoding="utf-8") as output,
        process(
            command, folder=folder, settings=PEER_SETTINGS, stdout=output, stderr=output
        ) as started,
    ):
        if not _answers(f"http://{address}/ok", started):
            raise ProcessFailed(f"{log.read_text(encoding='utf-8')}\nlanggraph dev does not start")
        yield Server(address, started.pid)


@contextmanager
def load(side: str, address: str, *options: str) -> Iterator[LoadGenerator]:
    """Runs the load generator of a side."""
    python = environment.PYTHON if side == PEER else sys.executable
    command = [python, "-m", "benchmarks.loadgen", side, address, *options]
    with process(command, stdin=subprocess.PIPE) as started:
        yield LoadGenerator(started)


def _free_port() -> int:
    with socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def _answers(url: str, started: subprocess.Popen[str]) -> bool:
    """Whether a server answers as soon as it has started."""
    end = time.monotonic() + START
    while time.monotonic() < end and started.poll() is None:
        try:
            urllib.request.urlopen(url, timeout=1).close()
        except (urllib.error.URLError, OSError):
            time.sleep(LOOK)
        else:
            return True
    return False
