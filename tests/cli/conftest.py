"""A server with the agents of `callboard init`, and the command line to talk to it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from callboard.cli import main
from tests.support.programs import Program, python


def command(*arguments: str) -> list[str]:
    """A command in a process of its own."""
    return [python(), "-m", "callboard.cli", *arguments]


@dataclass(frozen=True)
class Result:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        """The lines of the output as JSON: all of them, or it fails."""
        return [json.loads(line) for line in self.lines]


Run = Callable[..., Result]


class Piped(Program):
    """A command that reads from a pipe and prints into pipes.

    Attributes:
        stdin: What it reads.
        stdout: What it prints.
        stderr: What it says beside that.
    """

    def __init__(self, *arguments: str, env: Mapping[str, str] | None, cwd: Path | None) -> None:
        (given, stdin), (stdout, printed), (stderr, said) = os.pipe(), os.pipe(), os.pipe()
        with os.fdopen(given, "rb") as a, os.fdopen(printed, "wb") as b, os.fdopen(said, "wb") as c:
            super().__init__("callboard", *arguments, env=env, cwd=cwd, stdin=a, stdout=b, stderr=c)
        self.stdin, self.stdout = os.fdopen(stdin, "w"), os.fdopen(stdout)
        self.stderr = os.fdopen(stderr)

    def close(self) -> None:
        """Ends it, if it has not ended."""
        # It may have children, and ends them then.
        self.send_signal(signal.SIGTERM)
        try:
            self.wait(10)
        finally:
            self.kill()
            for each in (self.stdin, self.stdout, self.stderr):
                with suppress(BrokenPipeError):
                    each.close()


@contextmanager
def running(
    *arguments: str, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> Iterator[Piped]:
    """Runs a command in a process of its own, which does not outlive the test."""
    with closing(Piped(*arguments, env=env, cwd=cwd)) as process:
        yield process


def read_ready(process: Piped) -> dict[str, Any]:
    """What a server says once it takes calls."""
    ready: dict[str, Any] = json.loads(process.stdout.readline())
    return ready


@pytest.fixture(scope="session")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project")
    subprocess.run(command("init", str(folder)), check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="session")
def address(project: Path) -> Iterator[str]:
    with running("--json", "serve", "--port", "0", cwd=project) as process:
        yield read_ready(process)["address"]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process."""

    def run_command(*arguments: str) -> Result:
        capfd.readouterr()
        code = main(arguments)
        return Result(code, *capfd.readouterr())

    return run_command


@pytest.fixture
def cli(run: Run, address: str, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command that talks to the server."""
    monkeypatch.setenv("CALLBOARD_SERVER", address)
    return run


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "CALLBOARD_SERVER"):
        monkeypatch.delenv(name, raising=False)


def environment(address: str, **more: str) -> dict[str, str]:
    """The environment of a process that talks to the server."""
    return {**os.environ, "CALLBOARD_SERVER": address, **more}
