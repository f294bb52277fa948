"""A reader who does what a document says, in a folder of their own."""

from __future__ import annotations

import os
import queue
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from callboard_server.config import load_config
from callboard_server.models.rules import load_rules
from tests.docs.markdown import ROOT, Block
from tests.docs.transcript import INTERRUPT, Command, Ids, commands, matches
from tests.support.programs import Program, run

PORT = "50051"
"""The port that the documents name. Other tests run beside these, so the real one differs."""
PATIENCE = 20.0
"""Seconds until a command that does not end, or a server that does not start, has failed."""

_NOT_RUN = ("make ", "pip install ")
"""Setting up takes long and needs a network; `test_pages` checks these commands."""
_ASSIGNMENT = re.compile(r"([A-Z]+)=")
"""What the shell is to keep: later commands have it in their environment."""

_OF_SHELLS = re.compile(r"[$|&;<>*`\n]")


class Reader:
    """Saves the files of a document, runs its programs and types its commands.

    Attributes:
        missing: The programs that commands name and this machine does not have.
    """

    def __init__(self, home: Path) -> None:
        self.missing: set[str] = set()
        self._folder = home
        (home / "examples").symlink_to(ROOT / "examples")
        self._ids = Ids()
        self._server: Server | None = None
        self._port = _free_port()
        paths = [Path(sys.executable).parent, ROOT / ".tools", os.environ["PATH"]]
        self._environment = {
            **{name: os.environ[name] for name in ("LANG", "LC_ALL", "TZ") if name in os.environ},
            "HOME": str(home),
            "PATH": os.pathsep.join(map(str, paths)),
            "CALLBOARD_SERVER": f"127.0.0.1:{self._port}",
            "PYTHONUNBUFFERED": "1",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._server is not None:
            self._server.stop()

    def follow(self, block: Block) -> None:
        """Does what a block says."""
        text = self._real(block.text)
        if block.file:
            (self._folder / block.file).write_text(text, "utf-8")
        match block.language:
            case "console":
                for command in commands(text):
                    self._type(command, block.place)
            case "python" if not block.file:
                self._run_program(text, block.place)
            case "toml":
                self._load(text, block)

    def _real(self, text: str) -> str:
        return text.replace(PORT, str(self._port))

    def _run_program(self, text: str, place: str) -> None:
        code, printed = run(
            "-", given=text, timeout=PATIENCE, cwd=self._folder, env=self._environment
        )
        assert code == 0, f"{place}: the program failed:\n{printed}"

    def _load(self, text: str, block: Block) -> None:
        path = self._folder / (block.file or "shown.toml")
        path.write_text(text, "utf-8")
        if text.startswith("[[rule]]") or "\n[[rule]]" in text:
            assert load_rules(path), f"{block.place}: the table has no rules"
        else:
            load_config(path)

    def _type(self, command: Command, place: str) -> None:
        line = self._ids.place(command.line)
        words = line.split()
        if line.startswith(_NOT_RUN):
            return
        if assigned := _ASSIGNMENT.match(line):
            self._environment[assigned[1]] = self._run(f'{line}; printf %s "${assigned[1]}"')
            return
        if words[0] == "cd":
            self._folder = self._folder / words[1]
            return
        if shutil.which(words[0], path=self._environment["PATH"]) is None:
            self.missing.add(words[0])
            return
        if words[:2] == ["callboard", "serve"]:
            self._serve(line, command, place)
            return
        _compare(command, command.output, self._run(line), self._ids, place)

    def _run(self, line: str) -> str:
        """Runs a command; returns what it prints."""
        if words := _program(line):
            return run(*words, timeout=PATIENCE, cwd=self._folder, env=self._environment)[1]
        done = subprocess.run(
            ["sh", "-c", line],
            cwd=self._folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=PATIENCE,
        )
        return done.stdout

    def _serve(self, line: str, command: Command, place: str) -> None:
        if self._server is not None:
            self._server.stop()
        shown, stopped = command.output, None
        if INTERRUPT in shown:
            at = shown.index(INTERRUPT)
            shown, stopped = shown[:at], shown[at + 1 :]
        server = Server(f"{line} --port {self._port}", self._folder, self._environment)
        self._server = server
        printed = server.read_until(lambda text: matches(shown, text, self._ids))
        _compare(command, shown, printed, self._ids, place)
        if stopped is not None:
            self._server = None
            _compare(command, stopped, server.stop(), self._ids, place)


def _program(line: str) -> list[str]:
    """The words of a command that needs no shell to find Python's programs; none for any other."""
    words = [] if _OF_SHELLS.search(line) else shlex.split(line)
    match words:
        case ["python", *words]:
            return words
        case ["callboard", *_]:
            return words
    return []


class Server:
    """A server in the background."""

    def __init__(self, line: str, folder: Path, environment: dict[str, str]) -> None:
        read, write = os.pipe()
        self._printed = os.fdopen(read, encoding="utf-8")
        with os.fdopen(write, "wb") as stdout:
            self._program = Program(
                *_program(line), cwd=folder, env=environment, stdout=stdout, stderr=stdout
            )
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._collect, daemon=True)
        self._thread.start()

    def _collect(self) -> None:
        for line in self._printed:
            self._lines.put(line)
        self._lines.put("")

    def read_until(self, is_enough: Callable[[str], bool]) -> str:
        """What it prints up to a point, or to its end."""
        printed = ""
        while not is_enough(printed):
            try:
                line = self._lines.get(timeout=PATIENCE)
            except queue.Empty:
                break
            if not line:
                break
            printed += line
        return printed

    def stop(self) -> str:
        """Interrupts it; returns what it prints from there on."""
        with self._program:
            self._program.send_signal(signal.SIGINT)
            self._program.wait(PATIENCE)
        self._thread.join()
        self._printed.close()
        return self.read_until(lambda _: False)


def _compare(command: Command, shown: list[str], printed: str, ids: Ids, place: str) -> None:
    assert matches(shown, printed, ids), "\n".join(
        [f"{place}: $ {command.line}", "shows", *shown, "but printed", printed]
    )


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
