"""The dispatcher: claims runs that are ready, as many as there are slots.

What it does follows from the log: a run_created wakes it, a run_cancel_requested makes the workers
stop what they run. So it makes no difference which server wrote the event.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import structlog

from callboard.v1.assistant_pb2 import Agent, Assistant
from callboard_server import faults
from callboard_server.agents.registry import Registry
from callboard_server.engine.admission import rescue
from callboard_server.engine.alarm import Alarm
from callboard_server.engine.assistants import Assistants
from callboard_server.engine.claim import Claim
from callboard_server.engine.lifecycle import start
from callboard_server.engine.live import Hub
from callboard_server.engine.watchdog import Watchdog
from callboard_server.engine.workers import STORE_RETRY, Workers
from callboard_server.engine.workspaces import Workspaces
from callboard_server.log.events import KINDS
from callboard_server.log.records import Record
from callboard_server.store.base import RunRow, Store, StoreError, Transaction

if TYPE_CHECKING:
    from callboard import AsyncClient

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_CREATED, _STARTED = KINDS["run_created"], KINDS["run_started"]
_QUEUED, _FINISHED = KINDS["run_queued"], KINDS["run_finished"]
_STOPPING, _WAITING, _IDLE = (
    KINDS["run_cancel_requested"],
    KINDS["run_waiting"],
    KINDS["thread_idle"],
)
_TOLD = KINDS["notice_added"]
_ACTION_ENDS = frozenset({KINDS["action_answered"], KINDS["action_closed"]})


class Dispatcher:
    """Hands runs to the workers.

    Args:
        store: Where the runs are.
        hub: Shows what they write.
        registry: The agents.
        assistants: Their configurations.
        worker_id: Names this process in the log.
        slots: How many runs compute at the same time.
        grace: Seconds that a run gets to stop before it is fenced off.
        workspaces: The sessions' workspaces.
        client_for: Makes the in-process client that a run's agent uses.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        registry: Registry,
        assistants: Assistants,
        *,
        worker_id: str,
        slots: int,
        grace: float,
        workspaces: Workspaces,
        client_for: Callable[[Claim], AsyncClient],
    ) -> None:
        self._store = store
        self._registry = registry
        self._assistants = assistants
        self._worker_id = worker_id
        self.slots = slots
        self._workers = Workers(
            store,
            hub,
            registry,
            grace=grace,
            workspaces=workspaces,
            client_for=client_for,
            slot_freed=self._slot_is_free,
        )
        self.alarm = Alarm(store, self._look_for_ready)
        self._reserved = 0
        """Slots that are held for what is being claimed."""
        self._wake = asyncio.Event()
        self._draining = False
        self._backlog = True
        """Whether runs may be ready that nobody has claimed."""
        self._freed = False
        """Whether a run has left its slot since the last claim began."""

    # From outside

    @property
    def slots_used(self) -> int:
        """How many runs compute now."""
        return self._workers.slots_used

    @property
    def _free(self) -> int:
        return self.slots - self._workers.slots_used - self._reserved

    async def open(self) -> None:
        """Puts the runs of servers that are gone back in line and starts to claim."""
        rescued = await self._store.write(rescue)
        if rescued:
            log.info("rescued runs of a server that is gone", runs=rescued)
        self._claiming = asyncio.create_task(self._claim_forever(), name="callboard-dispatcher")
        self._wake.set()
        await self.alarm.open()

    def watch(self) -> Watchdog:
        """Starts the watchdog."""
        return self._workers.watch()

    def observe(self, records: Sequence[Record]) -> None:
        """Takes note of what was committed together."""
        started = {record.run for record in records if record.kind == _STARTED}
        idle = {record.thread for record in records if record.kind == _IDLE}
        for record in records:
            waits = record.kind == _CREATED and record.run not in started
            goes_on = record.kind == _FINISHED and record.thread not in idle
            if waits:
                self._set_alarm(record)
            # A run that was to hear of it later starts now.
            wakes = record.kind == _TOLD and record.event.notice_added.notice.assistant_id
            if waits or goes_on or wakes or record.kind in (_QUEUED, _WAITING):
                self._look_for_ready()
            if record.run is not None:
                self._observe_run(record.run, record)

    def _observe_run(self, run_key: int, record: Record) -> None:
        match record.kind:
            case kind if kind == _STOPPING:
                self._workers.stop(run_key)
            case kind if kind == _FINISHED:
                self._workers.end(run_key)
                self._workers.notify_of_jobs()
            case kind if kind == _WAITING:
                self._workers.park(run_key)
                self._set_alarm(record)
            case kind if kind == _QUEUED:
                self._set_alarm(record)
            case kind if kind in _ACTION_ENDS:
                self._workers.notify(run_key)

    def _set_alarm(self, record: Record) -> None:
        """Sees to it that a run goes on when its time has come."""
        event = record.event
        if event.run_waiting.waiting_for.HasField("until"):
            self.alarm.set(event.run_waiting.waiting_for.until.ToNanoseconds() / 1e9)
        if event.run_queued.HasField("start_after"):
            self.alarm.set(event.run_queued.start_after.ToNanoseconds() / 1e9)
        if event.run_created.HasField("start_after"):
            self.alarm.set(event.run_created.start_after.ToNanoseconds() / 1e9)

    def _look_for_ready(self) -> None:
        self._backlog = True
        self._wake.set()

    def _slot_is_free(self) -> None:
        self._freed = True
        if self._backlog:
            self._wake.set()

    def reserve(self) -> bool:
        """Takes a slot for a run that is about to be let in, if one is free and nobody waits."""
        if self._draining or self._backlog or self._free <= 0:
            return False
        self._reserved += 1
        return True

    def release(self) -> None:
        """Gives a reserved slot back."""
        self._reserved -= 1
        self._slot_is_free()

    def start_reserved(self, claim: Claim, assistant: Assistant) -> None:
        """Begins a run that was claimed in a reserved slot."""
        self._reserved -= 1
        self._begin(claim, assistant)

    def may_claim_at_once(self, run: RunRow) -> bool:
        """Whether a run may be claimed by whoever lets it in: not where others count, too."""
        agent = self._registry.get(run.data.agent)
        return run.ready and (agent is None or agent.concurrency is None)

    def claim(self, tx: Transaction, run: RunRow) -> tuple[Claim, Assistant]:
        """Claims a ready run within a transaction."""
        agent = self._registry.get(run.data.agent)
        goes_on = agent is not None and agent.kind == Agent.KIND_CHAT
        from_top = not goes_on and not self._workers.has_code_of(run)
        assistant = self._assistants.pinned(tx, run.thread.session.tenant, run.data)
        start(tx, run, self._worker_id, from_top=from_top)
        return Claim.of(run), assistant

    async def drain(self) -> None:
        """Stops claiming, gives what runs the grace to end, and puts the rest back in line."""
        self._draining = True
        self._wake.set()
        await self._claiming
        self.alarm.stop()
        await self._workers.drain()

    @property
    def has_leftovers(self) -> bool:
        """Whether code of agents is at work that did not stop when the server drained."""
        return self._workers.has_leftovers

    # Claiming

    async def _claim_forever(self) -> None:
        while not self._draining:
            await self._wake.wait()
            self._wake.clear()
            try:
                await self._claim_ready()
            except StoreError as error:
                log.error("cannot claim runs", reason=str(error))
                asyncio.get_running_loop().call_later(STORE_RETRY, self._wake.set)

    async def _claim_ready(self) -> None:
        while not self._draining and (free := self._free) > 0:
            # What is committed from here on may be ready without being seen by this claim.
            self._backlog = self._freed = False
            self._reserved += free
            try:
                claimed, full = await self._claim_up_to(free)
            except StoreError:
                self._backlog = True
                raise
            finally:
                self._reserved -= free
            for claim, assistant in claimed:
                self._begin(claim, assistant)
            # Where an assistant runs as often as it may, the next end of a run lets others go on.
            self._backlog |= full or len(claimed) == free
            if len(claimed) < free and not (full and self._freed):
                return

    async def _claim_up_to(self, limit: int) -> tuple[list[tuple[Claim, Assistant]], bool]:
        """Claims ready runs; see `_claim_some`."""
        # Most of what may have made a run ready has not: asking costs less than a transaction.
        if not await self._store.read(lambda reader: reader.ready_runs(1)):
            return [], False
        return await self._store.write(partial(self._claim_some, limit=limit))

    def _begin(self, claim: Claim, assistant: Assistant) -> None:
        faults.point("claimed")
        self._workers.begin(claim, assistant)

    def _claim_some(
        self, tx: Transaction, limit: int
    ) -> tuple[list[tuple[Claim, Assistant]], bool]:
        """Claims ready runs in line, passing over assistants that run as often as they may.

        Returns:
            What was claimed, and whether any was passed over.
        """
        claimed: list[tuple[Claim, Assistant]] = []
        taken: Counter[str] = Counter()
        full: set[str] = set()
        while len(claimed) < limit:
            before = len(full)
            for run in tx.ready_runs(limit - len(claimed), full):
                assistant_id = run.data.assistant_id
                if self._is_full(run, taken[assistant_id]):
                    full.add(assistant_id)
                else:
                    taken[assistant_id] += 1
                    claimed.append(self.claim(tx, run))
            if len(full) == before:
                break
        return claimed, bool(full)

    def _is_full(self, run: RunRow, taken: int) -> bool:
        """Whether as many runs of an assistant are at work as its agent allows."""
        agent = self._registry.get(run.data.agent)
        if agent is None or agent.concurrency is None:
            return False
        return self._workers.running(run.data.assistant_id) + taken >= agent.concurrency
