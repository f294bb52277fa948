"""Serves a configuration, and prints its port once it does: run_server.py CONFIG DB PORT."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from callboard_server.config import load_config
from callboard_server.serve import serve


def main(config: Path, db: str, port: str) -> None:
    settings = load_config(config, {"db": db, "port": int(port)})
    asyncio.run(serve(settings, config.parent, lambda host, port: print(port, flush=True)))


if __name__ == "__main__":
    main(Path(sys.argv[1]), *sys.argv[2:])
