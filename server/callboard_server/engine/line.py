"""The runs of one thread that are not terminal: whose turn it is."""

from __future__ import annotations

from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import MultitaskStrategy
from callboard_server.agents.errors import Fenced
from callboard_server.engine.lifecycle import PARKED, QUEUED, RUNNING, SERVER, holds
from callboard_server.store.base import RunRow, ThreadRow, Transaction

_CONCURRENT = MultitaskStrategy.MULTITASK_STRATEGY_CONCURRENT


class ThreadLine:
    """The line of a thread, within a transaction.

    Load it before anything is written: the rows then stay in step with what is written later.
    """

    def __init__(
        self, tx: Transaction, thread: ThreadRow, runs: list[RunRow] | None = None
    ) -> None:
        self._tx = tx
        self.thread = thread
        self.runs = tx.live_runs(thread.key) if runs is None else runs

    def add(self, run: RunRow) -> None:
        self.runs.append(run)

    @property
    def active(self) -> list[RunRow]:
        """Runs that are running or stand in line, the first in line first."""
        active = [run for run in self.runs if is_active(run)]
        return sorted(active, key=lambda run: (run.queued_at, run.key))

    @property
    def parked(self) -> list[RunRow]:
        """Runs that wait and are in nobody's way."""
        return [run for run in self.runs if run.data.state in PARKED]

    def leave(self, run: RunRow, *, was_active: bool = True) -> None:
        """Lets the thread go on without a run that ended, or waits; says so if it is idle now."""
        self.thread.data.last_run_state = run.data.state
        self._tx.save_thread(self.thread)
        self.advance()
        if was_active and not self.active:
            idle = Event(actor=SERVER)
            idle.thread_idle.last_run_state = run.data.state
            self._tx.append(self.thread, idle)

    def advance(self) -> None:
        """Marks the runs whose turn it is as ready."""
        active = self.active
        taken = any(run.data.state == RUNNING and not is_concurrent(run) for run in active)
        for position, run in enumerate(active):
            if run.data.state != QUEUED:
                continue
            ready = is_concurrent(run) or (position == 0 and not taken)
            if run.ready != ready:
                run.ready = ready
                self._tx.save_run(run)


def is_active(run: RunRow) -> bool:
    """Whether a run is running, or queued and not delayed: whether it keeps its thread busy."""
    return run.data.state == RUNNING or (run.data.state == QUEUED and run.due_at is None)


def is_concurrent(run: RunRow) -> bool:
    """Whether a run goes beside the others of its thread."""
    return run.data.multitask_strategy == _CONCURRENT


def held_in_line(tx: Transaction, thread: int, run: int, epoch: int) -> tuple[ThreadLine, RunRow]:
    """Returns a run that a claim still holds, within the line of its thread.

    Raises:
        Fenced: It does not.
    """
    runs = tx.live_runs(thread)
    for row in runs:
        if row.key == run and holds(row, epoch):
            return ThreadLine(tx, row.thread, runs), row
    raise Fenced(str(run))
