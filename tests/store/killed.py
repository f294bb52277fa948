"""A server process for the tests to kill: writes as fast as it can and says what was answered."""

from __future__ import annotations

import asyncio
from multiprocessing.connection import Connection

from callboard_server.store.base import Transaction
from callboard_server.store.sqlite import SqliteStore, store
from tests.store.rows import TENANT, open_thread, say

SESSIONS = 8


def write_for_ever(path: str, worker_id: str, answered: Connection) -> None:
    """Sends (session's name, sequence) for each write that the store has answered."""
    asyncio.run(_write_for_ever(path, worker_id, answered))


async def _write_for_ever(path: str, worker_id: str, answered: Connection) -> None:
    opened = SqliteStore(path, worker_id=worker_id)
    await opened.open(lambda records: None)

    async def write_to(name: str) -> None:
        while True:
            answered.send((name, await opened.write(lambda tx: _add(tx, name))))

    await asyncio.gather(*(write_to(f"s{n}") for n in range(SESSIONS)))


def _add(tx: Transaction, name: str) -> int:
    thread = tx.thread(TENANT, name) or open_thread(tx, name)
    say(tx, thread, "one")
    return say(tx, thread, "two")


def hold(path: str, held: Connection) -> None:
    """Owns the file, renews often, and says so."""
    asyncio.run(_hold(path, held))


async def _hold(path: str, held: Connection) -> None:
    store.RENEWAL = 0.1
    opened = SqliteStore(path, worker_id="holder")
    await opened.open(lambda records: None)
    held.send("held")
    await asyncio.Event().wait()
