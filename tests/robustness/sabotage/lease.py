"""Gives the server that loads it a short lease."""

from __future__ import annotations

from callboard_server.store.sqlite import ownership, store

ownership.LEASE = 1.2
store.RENEWAL = ownership.LEASE / 3


async def saboteur(ctx: object) -> None:
    """Has done its work already."""
