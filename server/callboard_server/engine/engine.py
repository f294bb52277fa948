"""The engine: what the services call."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from google.protobuf.message import Message as Proto
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Actor
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import Until
from callboard.v1.run_pb2 import Run
from callboard_server import errors
from callboard_server.agents.registry import Registry
from callboard_server.engine import present
from callboard_server.engine.assistants import Assistants
from callboard_server.engine.attendance import Attendance, Attended
from callboard_server.engine.claim import Claim
from callboard_server.engine.dispatcher import Dispatcher
from callboard_server.engine.jobs import DelegationLimits
from callboard_server.engine.lifecycle import REQUIRES_ACTION, TERMINAL
from callboard_server.engine.live import Hub
from callboard_server.engine.outbox import Destination, Outbox
from callboard_server.engine.workspaces import Workspaces
from callboard_server.log.records import Record
from callboard_server.store.base import (
    JobRow,
    Reader,
    Remembered,
    RunRow,
    Store,
    StoreError,
    ThreadRow,
    Transaction,
)

if TYPE_CHECKING:
    from callboard import AsyncClient

R = TypeVar("R", bound=Proto)


@dataclass(frozen=True, slots=True)
class Caller:
    """On whose behalf a call is made."""

    tenant: str
    actor: Actor
    run_id: str = ""
    """The run that calls, where a run does."""


@dataclass(frozen=True, slots=True)
class Once:
    """What makes a repeat of a creating request harmless."""

    tenant: str
    method: str
    request_id: str
    digest: bytes

    @classmethod
    def of(cls, caller: Caller, request: Proto, request_id: str) -> Once | None:
        """Returns it for a request, or None where the request carries no request_id."""
        if not request_id:
            return None
        # Deterministic: the order in which a client happened to write a map does not matter.
        content = request.SerializeToString(deterministic=True)
        method = request.DESCRIPTOR.full_name
        return cls(caller.tenant, method, request_id, hashlib.sha256(content).digest())

    def was_answered(self, reader: Reader) -> bool:
        """Whether there is a first answer."""
        return reader.remembered(self.tenant, self.method, self.request_id) is not None


@dataclass(frozen=True, slots=True)
class Admitted(Generic[R]):
    """A run that was let in, and what to answer once it is claimed or not."""

    run: RunRow
    answer: Callable[[], R]


Admission = Callable[[Transaction], Admitted[R]]


def once(
    key: Once | None, answer_type: type[R], operation: Callable[[Transaction], R]
) -> Callable[[Transaction], R]:
    """Makes an operation that runs once for a request_id and gives its first answer again."""
    if key is None:
        return operation

    def run(tx: Transaction) -> R:
        found = tx.remembered(key.tenant, key.method, key.request_id)
        if found is not None:
            if found.digest != key.digest:
                raise errors.request_id_reused(key.request_id)
            return answer_type.FromString(found.response)
        answer = operation(tx)
        remembered = Remembered(key.digest, answer.SerializeToString())
        tx.remember(key.tenant, key.method, key.request_id, remembered)
        return answer

    return run


class Engine:
    """Everything that happens, happens through here."""

    def __init__(
        self,
        store: Store,
        registry: Registry,
        *,
        worker_id: str,
        slots: int,
        grace: float,
        workspaces: Workspaces,
        client_for: Callable[[Claim], AsyncClient],
        limits: DelegationLimits,
        webhooks: Sequence[Destination] = (),
    ) -> None:
        self.store = store
        self.registry = registry
        self.limits = limits
        self.webhooks = [each.name for each in webhooks]
        self.start_time = Timestamp()
        self.start_time.FromNanoseconds(time.time_ns())
        self.assistants = Assistants(registry, self.start_time)
        self.hub = Hub()
        self.attendance = Attendance(store)
        self.workspaces = workspaces
        self._outbox = Outbox(store, webhooks)
        self.dispatcher = Dispatcher(
            store,
            self.hub,
            registry,
            self.assistants,
            worker_id=worker_id,
            slots=slots,
            grace=grace,
            workspaces=workspaces,
            client_for=client_for,
        )
        self.draining = False

    async def open(self) -> None:
        """Opens the store and starts to run what is there to run.

        Raises:
            StoreError: The store cannot be used; the message says why.
        """
        await self.store.open(self._observe)
        await self.dispatcher.open()
        await self.attendance.open()
        self._outbox.start()
        self._watchdog = self.dispatcher.watch()

    @property
    def loop_lag(self) -> float:
        """How late the event loop last was, in seconds."""
        return self._watchdog.lag

    def _observe(self, records: Sequence[Record]) -> None:
        self.hub.publish(records)
        self.dispatcher.observe(records)
        self.attendance.observe(records)
        self._outbox.observe(records)

    async def drain(self) -> None:
        """Ends the streams, and what runs is given back or ends within the grace."""
        self.draining = True
        self.attendance.stop()
        self.hub.drain()
        with suppress(StoreError):
            # Behind all that was let in until now.
            await self.store.write(lambda tx: None)
        await self.dispatcher.drain()

    async def close(self) -> None:
        self._watchdog.stop()
        await self._outbox.stop()
        await self.store.close()

    # Letting runs in

    async def admit(
        self,
        key: Once | None,
        answer_type: type[R],
        operation: Callable[[Transaction], Admitted[R]],
    ) -> R:
        """Runs an operation that lets a run in, and starts that run at once if a slot is free.

        The operation and the start of the run belong together: a caller that goes away in between
        does not part them.
        """
        if self.draining:
            raise errors.draining()
        reserved = self.dispatcher.reserve()
        started: tuple[Claim, Assistant] | None = None
        due_at: float | None = None
        attended: Attended | None = None

        def whole(tx: Transaction) -> R:
            nonlocal started, due_at, attended
            # An operation may be run again.
            started = due_at = attended = None
            admitted = operation(tx)
            due_at, attended = admitted.run.due_at, Attended.of(admitted.run)
            if reserved and self.dispatcher.may_claim_at_once(admitted.run):
                started = self.dispatcher.claim(tx, admitted.run)
            return admitted.answer()

        def ended(committed: bool) -> None:
            if committed and started is not None:
                self.dispatcher.start_reserved(*started)
            elif reserved:
                self.dispatcher.release()
            if committed and due_at is not None:
                self.dispatcher.alarm.set(due_at)
            if committed and attended is not None:
                self.attendance.begin(attended)

        return await self.store.write(once(key, answer_type, whole), ended)

    # Showing

    def show_run(self, reader: Reader, row: RunRow) -> Run:
        """Returns a run as it stands, and what it waits for."""
        return present.show_run(reader, row, self.registry)

    def show_job(self, reader: Reader, row: JobRow) -> Job:
        """Returns a job as it stands, and what it waits for."""
        return present.show_job(reader, row, self.registry)

    # Waiting

    async def wait_for_run(
        self, tenant: str, run_id: str, until: Until.ValueType, timeout: float
    ) -> Run:
        """Returns a run once it is done (or needs an action), or when the time is up."""

        def look(reader: Reader) -> Run:
            return self.show_run(reader, find_run(reader, tenant, run_id))

        stops = TERMINAL if until == Until.UNTIL_DONE else TERMINAL | {REQUIRES_ACTION}
        time_is_up = False

        def end() -> None:
            nonlocal time_is_up
            time_is_up = True
            changed.set()

        with self.hub.changes_of(run_id) as changed:
            timer = asyncio.get_running_loop().call_later(timeout, end)
            try:
                while True:
                    run = await self.store.read(look)
                    if run.state in stops or time_is_up:
                        return run
                    if self.draining:
                        raise errors.draining()
                    await changed.wait()
                    changed.clear()
            finally:
                timer.cancel()


def find_thread(reader: Reader, tenant: str, thread_id: str) -> ThreadRow:
    """Returns a thread.

    Raises:
        ServiceError: There is none.
    """
    thread = reader.thread(tenant, thread_id)
    if thread is None:
        raise errors.thread_not_found(thread_id)
    return thread


def find_run(reader: Reader, tenant: str, run_id: str) -> RunRow:
    """Returns a run.

    Raises:
        ServiceError: There is none.
    """
    run = reader.run(tenant, run_id)
    if run is None:
        raise errors.run_not_found(run_id)
    return run
