"""Runs `callboard serve` anew for each line on standard input: run_servers.py [MODULE...].

A line is a JSON object: the command line's `arguments`, and the `fault` to arm. Each server is
forked from this process, which has loaded all that it needs, and the modules that are named. What
is told on standard output, an object a line: the `pid` of a server, what it says itself once it
takes calls, and the `status` with which it ended. The next line is read then.
"""

from __future__ import annotations

import json
import os
import sys
from importlib import import_module

from callboard.cli import main
from callboard.cli.app import run
from callboard_server import faults, serve

LOADED = (run, serve)


def tell(**facts: int) -> None:
    print(json.dumps(facts), flush=True)


def follow_orders() -> None:
    for line in sys.stdin:
        order = json.loads(line)
        child = os.fork()
        if not child:
            faults.arm(order["fault"])
            sys.exit(main(order["arguments"]))
        tell(pid=child)
        tell(status=os.waitpid(child, 0)[1])


if __name__ == "__main__":
    for module in sys.argv[1:]:
        import_module(module)
    follow_orders()
