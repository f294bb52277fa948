"""Runs that are cancelled when nobody streams them any more, where their creators wanted that."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import structlog

from callboard_server.engine.admission import cancel_run
from callboard_server.engine.lifecycle import SERVER, TERMINAL
from callboard_server.log.events import KINDS
from callboard_server.log.records import Record
from callboard_server.store.base import RunRow, Store, StoreError, Transaction

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

RETRY = 1.0
"""Seconds until a run is cancelled anew where the store did not answer."""

_FINISHED = KINDS["run_finished"]


@dataclass(slots=True, eq=False)
class Attended:
    """A run that wants readers."""

    tenant: str
    run_id: str
    patience: float
    """Seconds that it goes on without any."""
    readers: int = 0
    timer: asyncio.TimerHandle | None = None
    cancelling: asyncio.Task[None] | None = None
    """Held here, for the event loop does not hold its tasks."""

    @classmethod
    def of(cls, run: RunRow) -> Attended | None:
        """Returns it for a run, or None where that goes on without readers."""
        if not run.data.HasField("cancel_after_detach"):
            return None
        patience = run.data.cancel_after_detach.ToNanoseconds() / 1e9
        return cls(run.thread.session.tenant, run.data.run_id, patience)

    @property
    def left_alone(self) -> bool:
        """Whether nobody reads it, nor has left since its time was up."""
        return not self.readers and self.timer is None

    def stop_timer(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None


class Attendance:
    """Watches over all runs that want readers.

    Args:
        store: Where the runs are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._attended: dict[str, Attended] = {}
        self._stopped = False

    async def open(self) -> None:
        """Waits for readers of the runs of servers that are gone."""
        for run in await self._store.read(lambda reader: reader.attended_runs()):
            attended = Attended.of(run)
            if attended is not None:
                self.begin(attended)

    def begin(self, attended: Attended) -> None:
        """Waits for the first reader of a run that was let in."""
        if attended.run_id in self._attended:
            # It was steered: who reads it reads on.
            return
        self._attended[attended.run_id] = attended
        self._set_timer(attended, attended.patience)

    @contextmanager
    def reading(self, run_id: str) -> Iterator[None]:
        """Keeps a run from being cancelled for as long as the context lasts."""
        attended = self._attended.get(run_id)
        if attended is None:
            yield
            return
        attended.readers += 1
        attended.stop_timer()
        try:
            yield
        finally:
            attended.readers -= 1
            if not attended.readers:
                self._set_timer(attended, attended.patience)

    def observe(self, records: Sequence[Record]) -> None:
        """Takes note of what was committed together."""
        if not self._attended:
            return
        for record in records:
            if record.kind == _FINISHED:
                self._forget(record.event.run_id)

    def stop(self) -> None:
        """Lets all runs go on: that their streams end now is the server's doing."""
        self._stopped = True
        for attended in self._attended.values():
            attended.stop_timer()

    def _set_timer(self, attended: Attended, pause: float) -> None:
        if self._stopped or self._attended.get(attended.run_id) is not attended:
            return
        loop = asyncio.get_running_loop()
        attended.timer = loop.call_later(pause, self._begin_to_cancel, attended)

    def _begin_to_cancel(self, attended: Attended) -> None:
        attended.timer = None
        attended.cancelling = asyncio.create_task(self._cancel(attended))

    async def _cancel(self, attended: Attended) -> None:
        def operation(tx: Transaction) -> bool:
            run = tx.run(attended.tenant, attended.run_id)
            if run is None or run.data.state in TERMINAL:
                return True
            if attended.left_alone:
                cancel_run(tx, run, SERVER, cascade=False, rollback=False)
            return False

        try:
            is_over = await self._store.write(operation)
        except StoreError as error:
            log.error("cannot cancel a run", run=attended.run_id, problem=str(error))
            if attended.left_alone:
                self._set_timer(attended, RETRY)
            return
        if is_over:
            self._forget(attended.run_id)

    def _forget(self, run_id: str) -> None:
        attended = self._attended.pop(run_id, None)
        if attended is not None:
            attended.stop_timer()
