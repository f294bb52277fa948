"""Makes the server that loads it start without the last commits, as after a power cut."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from callboard_server.store.sqlite import schema

_open_file = schema.open_file


def _open_what_is_left(path: str, synchronous: str) -> sqlite3.Connection:
    wal = Path(f"{path}-wal")
    if wal.exists():
        os.truncate(wal, wal.stat().st_size * 3 // 4)
    return _open_file(path, synchronous)


schema.open_file = _open_what_is_left


async def saboteur(ctx: object) -> None:
    """Has done its work already."""
