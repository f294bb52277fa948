"""Stands for Python, in the programs that are forked: an executable that has another one forked.

Signals go on to the program, and it ends with this process, whatever ends that. Where options are
for Python itself, it takes over.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys

PYTHON, SOCKET = "{python}", "{socket}"


def main(*words: str) -> None:
    if not words or (words[0].startswith("-") and words[0] not in ("-", "-c", "-m")):
        os.execv(PYTHON, [PYTHON, *words])
    order = {"words": words, "cwd": os.getcwd(), "env": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        text = json.dumps(order).encode() + b"\n"
        connection.sendall(text[socket.send_fds(connection, [text], [0, 1, 2]) :])
        told = connection.makefile()
        pid = int(told.readline())
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda number, _: os.kill(pid, number))
        code = int(told.readline())
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


main(*sys.argv[1:])
