"""Forks Python programs from a process that has loaded what they need: run_programs.py SOCKET.

Each connection to the socket is a program. It brings the three standard files and, as a line of
JSON, the `words` that stand behind `python` on a command line (or a whole `callboard` command), the
folder and the environment. It is told the pid and, when the program has ended, the exit code: a
line each. A program is killed when its connection is closed, and all are with the end of this
process's standard input.

Beside the socket there is an executable, `python`: with it whoever cannot connect has programs
forked, too (see `relay.py`).
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import random
import selectors
import signal
import socket
import sys
import time
from collections.abc import Sequence
from contextlib import redirect_stdout, suppress
from importlib import import_module
from pathlib import Path
from runpy import run_module
from types import ModuleType
from typing import Any

MODULES = (
    "callboard.cli.app",
    "callboard.cli.serve",
    "callboard.kit.mcp",
    "callboard_server.agents.mcp",
    "callboard_server.models.anthropic",
    "callboard_server.models.openai_chat",
    "callboard_server.models.openai_responses",
    "callboard_server.serve",
)
LONGEST_ORDER = 1 << 20
STANDARD_FILES = 3


class Parent:
    """Forks a program for each connection, and tells how it ended.

    Args:
        listener: Where connections come in.
    """

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._waiting: dict[int, socket.socket] = {}
        """Who waits for the end of a program, by its pid."""
        self._selector = selectors.DefaultSelector()
        self._woken, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._wake.fileno())
        self._selector.register(sys.stdin, selectors.EVENT_READ)
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)

    def serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is sys.stdin:
                    return
                if key.fileobj is self._listener:
                    self._fork()
                elif key.fileobj is self._woken:
                    self._woken.recv(4096)
                    self._reap()
                else:
                    self._selector.unregister(key.fileobj)
                    os.kill(key.data, signal.SIGKILL)

    def _fork(self) -> None:
        connection, _ = self._listener.accept()
        received, files, _, _ = socket.recv_fds(connection, LONGEST_ORDER, STANDARD_FILES)
        while not received.endswith(b"\n"):
            received += connection.recv(LONGEST_ORDER)
        pid = os.fork()
        if not pid:
            self._forget()
            become(json.loads(received), files)
        for file in files:
            os.close(file)
        # A group of its own: what it starts can be killed along with it.
        os.setpgid(pid, pid)
        self._waiting[pid] = connection
        self._selector.register(connection, selectors.EVENT_READ, pid)
        connection.sendall(b"%d\n" % pid)

    def _forget(self) -> None:
        """Closes what a program must not have."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        for each in (self._listener, self._woken, self._wake, *self._waiting.values()):
            each.close()

    def _reap(self) -> None:
        while self._waiting:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if not pid:
                return
            connection = self._waiting.pop(pid)
            with suppress(KeyError):
                self._selector.unregister(connection)
            with connection, suppress(BrokenPipeError):
                connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(status))

    def kill(self) -> None:
        """Kills all that are left."""
        for pid in self._waiting:
            os.kill(pid, signal.SIGKILL)


def become(order: dict[str, Any], files: Sequence[int]) -> None:
    """Turns this process, which was just forked, into a program."""
    for standard, file in enumerate(files):
        os.dup2(file, standard)
        os.close(file)
    os.environ.clear()
    os.environ.update(order["env"])
    os.chdir(order["cwd"])
    sys.executable = str(executable)
    time.tzset()
    random.seed()
    faults = import_module("callboard_server.faults")
    faults.arm(os.environ.get(faults.VARIABLE, ""))
    # Those that are there know what kind of files they had.
    sys.stdin = os.fdopen(0, encoding="utf-8")
    sys.stdout = os.fdopen(1, "w", buffering=1, encoding="utf-8")
    sys.stderr = os.fdopen(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace")
    global exit_code
    exit_code = 1
    try:
        run(order["words"])
        exit_code = 0
    except SystemExit as leaving:
        exit_code = leaving.code if isinstance(leaving.code, int) else int(leaving.code is not None)
        raise
    sys.exit()


executable: Path
"""What stands for Python."""
exit_code: int | None = None
"""With which code a program ends."""


def leave() -> None:
    """Ends a program when all else is done: to take down what it did not use takes long."""
    if exit_code is not None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def run(words: Sequence[str]) -> None:
    """Does what Python or `callboard` does with the words of a command line."""
    sys.argv = list(words)
    match words:
        case ["callboard", *arguments]:
            sys.exit(import_module("callboard.cli").main(arguments))
        case ["-m", module, *_]:
            sys.argv = sys.argv[1:]
            sys.path.insert(0, "")
            run_module(module, run_name="__main__", alter_sys=True)
        case ["-c", code, *arguments]:
            sys.argv = ["-c", *arguments]
            execute(code, "<string>", "")
        case ["-", *_]:
            execute(sys.stdin.read(), "<stdin>", "")
        case [path, *_]:
            execute(Path(path).read_text("utf-8"), path, str(Path(path).parent.absolute()))


def execute(code: str, name: str, folder: str) -> None:
    sys.path.insert(0, folder)
    module = sys.modules["__main__"] = ModuleType("__main__")
    module.__file__ = name
    exec(compile(code, name, "exec"), module.__dict__)


def make_executable(address: Path) -> Path:
    """Makes what stands for Python, beside the socket."""
    made = address.with_name("python")
    source = Path(__file__).with_name("relay.py").read_text("utf-8")
    source = source.replace("{python}", sys.executable).replace("{socket}", str(address))
    made.write_text(f"#!{sys.executable} -IS\n{source}", "utf-8")
    made.chmod(0o700)
    return made


def main(path: str) -> None:
    global executable
    executable = make_executable(Path(path))
    # The first to be told of the end is called last.
    atexit.register(leave)
    for module in MODULES:
        import_module(module)
    import_module("callboard_server.models.network").certificates()
    with redirect_stdout(None):
        import_module("callboard.cli").main(["--version"])
    del sys.path[0]
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        # Or each program would copy all of it when it looks for garbage.
        gc.collect()
        gc.freeze()
        print("ready", flush=True)
        parent = Parent(listener)
        parent.serve()
        parent.kill()


if __name__ == "__main__":
    main(*sys.argv[1:])
