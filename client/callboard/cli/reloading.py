"""Running a command again and again: whenever a source file changes."""

from __future__ import annotations

import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from watchfiles import PythonFilter, watch

from callboard.cli.output import note


def run_reloading(command: Sequence[str], folder: Path) -> None:
    """Runs a command until SIGINT or SIGTERM, and starts it again after each change of a file.

    One that ends by itself, as with an error in what was just edited, waits for the next change.

    Args:
        command: The command, which ends in good order on SIGTERM.
        folder: The folder whose .py and .toml files count, with its subfolders.
    """
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    process = subprocess.Popen(command)
    try:
        for changes in watch(
            folder,
            watch_filter=PythonFilter(extra_extensions=(".toml",)),
            stop_event=stop,
            raise_interrupt=False,
        ):
            names = sorted({Path(path).name for _, path in changes})
            note(f"{', '.join(names)} changed: starting again")
            _end(process)
            process = subprocess.Popen(command)
    finally:
        _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait()
    except KeyboardInterrupt:
        # Asked twice: not in good order, then.
        process.kill()
        process.wait()
