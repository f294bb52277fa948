"""One server writes to a database file: who, and until when.

The owner renews a lease from the writer thread, so a busy event loop does not cost it the file. A
server that was killed is replaced at once where its process is seen to be gone, else when its lease
ends. One that was merely paused finds the file in other hands and can no longer write.
"""

from __future__ import annotations

import os
import socket
import sqlite3
from dataclasses import dataclass

LEASE = 15.0
"""How long an owner may go without renewing, in seconds."""


@dataclass(frozen=True)
class Owner:
    """A server process that owns a database file."""

    worker_id: str
    host: str
    pid: int
    lease_end: float

    @property
    def is_here(self) -> bool:
        """Whether it is a store of this very process."""
        here = self.host == socket.gethostname() and self.pid == os.getpid()
        return here and self.worker_id in _here

    @property
    def is_gone(self) -> bool:
        """Whether its process is known to have ended."""
        if self.host != socket.gethostname():
            return False
        if self.pid == os.getpid():
            return not self.is_here
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False


_here: set[str] = set()


def current(connection: sqlite3.Connection) -> Owner | None:
    """Returns who owns the file."""
    row = connection.execute("SELECT worker_id, host, pid, lease_end FROM owner").fetchone()
    return Owner(*row) if row else None


def take(connection: sqlite3.Connection, worker_id: str, now: float) -> Owner | None:
    """Takes the file, or returns the owner who has it."""
    with connection:
        connection.execute("BEGIN IMMEDIATE")
        owner = current(connection)
        if owner and owner.lease_end > now and not owner.is_gone:
            return owner
        connection.execute(
            "INSERT OR REPLACE INTO owner (id, worker_id, host, pid, lease_end) "
            "VALUES (1, ?, ?, ?, ?)",
            (worker_id, socket.gethostname(), os.getpid(), now + LEASE),
        )
    _here.add(worker_id)
    return None


def holds(connection: sqlite3.Connection, worker_id: str) -> bool:
    """Whether a worker still owns the file. Call within a transaction that writes."""
    row = connection.execute("SELECT worker_id FROM owner").fetchone()
    return row is not None and row[0] == worker_id


def renew(connection: sqlite3.Connection, worker_id: str, now: float) -> bool:
    """Extends the lease; returns False, and changes nothing, where the file is in other hands."""
    renewed = connection.execute(
        "UPDATE owner SET lease_end = ? WHERE worker_id = ?", (now + LEASE, worker_id)
    )
    return renewed.rowcount == 1


def release(connection: sqlite3.Connection, worker_id: str) -> None:
    """Gives the file up."""
    connection.execute("DELETE FROM owner WHERE worker_id = ?", (worker_id,))
    _here.discard(worker_id)
