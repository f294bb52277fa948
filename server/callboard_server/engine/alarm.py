"""The alarm: rings when the next run comes due."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from callboard_server.engine.admission import release_due
from callboard_server.store.base import Store, StoreError

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY = 1.0
"""Seconds until the alarm tries again when the store does not answer."""


class Alarm:
    """Lets runs go on at their time.

    Args:
        store: Where the runs are.
        rung: Called when runs have come due.
    """

    def __init__(self, store: Store, rung: Callable[[], None]) -> None:
        self._store = store
        self._rung = rung
        self._at: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._ringing: asyncio.Task[None] | None = None
        self._rings_again = False
        self._stopped = False

    async def open(self) -> None:
        """Sets the alarm for what is there."""
        await self._set_next()

    def set(self, due_at: float) -> None:
        """Makes the alarm ring at a time, in seconds since the epoch, if it does not before."""
        if self._stopped or (self._at is not None and self._at <= due_at):
            return
        self._cancel()
        self._at = due_at
        pause = max(0.0, due_at - self._store.now())
        self._timer = asyncio.get_running_loop().call_later(pause, self._start)

    def stop(self) -> None:
        self._stopped = True
        self._cancel()

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _start(self) -> None:
        self._at = None
        self._rings_again = True
        if self._ringing is None:
            self._ringing = asyncio.create_task(self._ring(), name="callboard-alarm")

    async def _ring(self) -> None:
        try:
            while self._rings_again:
                self._rings_again = False
                while await self._store.write(release_due):
                    self._rung()
                self._rung()
                await self._set_next()
        except StoreError as error:
            log.error("cannot let due runs go on", problem=str(error))
            self.set(self._store.now() + RETRY)
        finally:
            self._ringing = None

    async def _set_next(self) -> None:
        due_at = await self._store.read(lambda reader: reader.next_due())
        if due_at is not None:
            self.set(due_at)
