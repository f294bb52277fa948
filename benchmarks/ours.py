"""The server that is measured, in a process of its own: prints its address."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from callboard_server.config import load_config
from callboard_server.serve import serve

HERE = Path(__file__).parent


def announce(host: str, port: int) -> None:
    print(f"{host}:{port}", flush=True)


if __name__ == "__main__":
    config = load_config(HERE / "callboard.toml", {"port": 0, "db": sys.argv[1]})
    asyncio.run(serve(config, HERE, announce))
