"""Serves a configuration anew for each line on standard input: run_servers.py CONFIG DB.

A line is a port. Each server is forked from this process, which has imported all that it
needs, and prints its process id and its port once it takes calls. The next line is read when it is
gone.
"""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

from callboard_server.config import load_config
from callboard_server.serve import serve


def main(config: Path, db: str) -> None:
    for line in sys.stdin:
        if child := os.fork():
            os.waitpid(child, 0)
            continue
        settings = load_config(config, {"db": db, "port": int(line)})
        asyncio.run(serve(settings, config.parent, lambda _, port: print(os.getpid(), port)))
        return


if __name__ == "__main__":
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    main(Path(sys.argv[1]), sys.argv[2])
