"""The outbox: sends webhooks that were put into the store, until they are delivered or given up.

A webhook may come twice, where the server dies between its delivery and the note of that. Its id
then is the same.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

import structlog

from callboard_server.agents.errors import describe_failure
from callboard_server.config import WebhookSettings
from callboard_server.log.events import kinds
from callboard_server.log.records import Record
from callboard_server.store.base import DeliveryRow, DeliveryState, Store, StoreError

LONGEST_PAUSE = 3600.0
"""Seconds between two attempts at the most."""
_RETRY = 1.0
"""Seconds until the next look when the store does not answer."""
_TELLING = kinds("run_finished", "run_waiting")
"""After which kinds of events there may be something to send."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Answer(Enum):
    """What came of an attempt."""

    TAKEN = "taken"
    REFUSED = "refused"
    """Another attempt would be refused, too."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Attempt:
    """An attempt to deliver a webhook."""

    answer: Answer
    problem: str = ""
    """Why it was not taken, for operators."""
    retry_after: float = 0.0
    """How many seconds the receiver asks to wait."""


class Destination(Protocol):
    """Where webhooks of a name go."""

    name: str
    settings: WebhookSettings

    async def post(self, delivery_id: str, body: bytes) -> Attempt:
        """Tries to deliver a webhook. Raises nothing that can happen on a network."""

    async def close(self) -> None: ...


class Outbox:
    """Sends what is there to send, to each destination by itself.

    Args:
        store: Where it is.
        destinations: Where it goes.
    """

    def __init__(self, store: Store, destinations: Iterable[Destination]) -> None:
        self._lines = [_Line(store, each) for each in destinations]

    def start(self) -> None:
        for line in self._lines:
            line.start()

    async def stop(self) -> None:
        """Breaks off what is on its way; it is sent again after the next start."""
        for line in self._lines:
            await line.stop()

    def observe(self, records: Sequence[Record]) -> None:
        """Looks into the store after commits that may have put something in."""
        if self._lines and any(record.kind in _TELLING for record in records):
            for line in self._lines:
                line.changed.set()


class _Line:
    """What goes to one destination."""

    def __init__(self, store: Store, destination: Destination) -> None:
        self._store = store
        self._destination = destination
        self._settings = destination.settings
        self._sending: dict[int, asyncio.Task[None]] = {}
        """By the keys of what is on its way."""
        self.changed = asyncio.Event()

    def start(self) -> None:
        name = f"callboard-webhooks-{self._destination.name}"
        self._task = asyncio.create_task(self._run(), name=name)

    async def stop(self) -> None:
        tasks = [self._task, *self._sending.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._destination.close()

    async def _run(self) -> None:
        while True:
            self.changed.clear()
            try:
                pause = await self._send_due()
            except StoreError as error:
                log.error("cannot look for webhooks", problem=str(error))
                pause = _RETRY
            except Exception as error:
                failure = describe_failure(error)
                log.error("cannot look for webhooks", problem=str(failure), trace=failure.trace)
                pause = _RETRY
            with suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self.changed.wait()

    async def _send_due(self) -> float | None:
        """Starts to send what is due; returns in how many seconds more will be, if it knows."""
        name, most = self._destination.name, self._settings.concurrency
        # What is on its way is among the first, and may be over before the rows are here.
        on_its_way = set(self._sending)
        rows = await self._store.read(lambda reader: reader.pending_deliveries(name, 2 * most))
        now = self._store.now()
        for row in rows:
            if row.key in on_its_way:
                continue
            if len(self._sending) >= most:
                return None
            if row.due_at > now:
                return row.due_at - now
            self._start(row)
        return None

    def _start(self, row: DeliveryRow) -> None:
        def done(_: asyncio.Task[None]) -> None:
            del self._sending[row.key]
            self.changed.set()

        task = asyncio.create_task(self._send(row))
        self._sending[row.key] = task
        task.add_done_callback(done)

    async def _send(self, row: DeliveryRow) -> None:
        try:
            attempt = await self._destination.post(row.delivery_id, row.body)
        except Exception as error:
            attempt = Attempt(Answer.FAILED, str(describe_failure(error)))
        self._settle(row, attempt)
        try:
            await self._store.write(lambda tx: tx.save_delivery(row))
        except StoreError as error:
            log.error("cannot note what became of a webhook", problem=str(error))
            await asyncio.sleep(_RETRY)

    def _settle(self, row: DeliveryRow, attempt: Attempt) -> None:
        """Says what becomes of a webhook after an attempt."""
        facts = {"webhook": self._destination.name, "id": row.delivery_id}
        if attempt.answer is Answer.TAKEN:
            row.state, row.body = DeliveryState.DELIVERED, b""
            log.info("webhook delivered", attempts=row.attempts + 1, **facts)
            return
        row.attempts += 1
        pause = max(self._pause(row.attempts), attempt.retry_after)
        now = self._store.now()
        is_last = row.attempts == self._settings.max_attempts
        is_late = now + pause > row.create_time + self._settings.give_up_after
        if attempt.answer is Answer.REFUSED or is_last or is_late:
            row.state, row.body = DeliveryState.DROPPED, b""
            log.error("webhook dropped", problem=attempt.problem, attempts=row.attempts, **facts)
        else:
            row.due_at = now + pause
            log.warning("webhook failed", problem=attempt.problem, again_in=round(pause), **facts)

    def _pause(self, attempts: int) -> float:
        pause: float = self._settings.retry_pause * 2.0 ** min(attempts - 1, 30)
        return min(pause, LONGEST_PAUSE) * random.uniform(0.8, 1.2)
