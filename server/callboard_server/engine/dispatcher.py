"""The dispatcher: claims runs that are ready, runs their agents in its slots, and stops them.

What it does follows from the log: a run_created wakes it, a run_cancel_requested makes it stop what
it runs. So it makes no difference which server wrote the event.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from callboard.structs import to_dict
from callboard.v1.assistant_pb2 import Agent, Assistant
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import Outcome, RunError
from callboard.v1.message_pb2 import Message
from callboard_server import faults
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError, describe_failure
from callboard_server.agents.registry import Registry
from callboard_server.engine.admission import release_due, rescue
from callboard_server.engine.assistants import Assistants
from callboard_server.engine.execution import Claim, Execution
from callboard_server.engine.lifecycle import (
    FAILED,
    SERVER,
    SUCCEEDED,
    TIMED_OUT,
    Fenced,
    ThreadLine,
    start,
)
from callboard_server.engine.live import Hub
from callboard_server.engine.watchdog import Watchdog
from callboard_server.errors import ServiceError
from callboard_server.log.events import KINDS
from callboard_server.log.records import Record
from callboard_server.store.base import RunRow, Store, StoreError, Transaction

if TYPE_CHECKING:
    from callboard import AsyncClient

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_CREATED, _STARTED = KINDS["run_created"], KINDS["run_started"]
_QUEUED, _FINISHED = KINDS["run_queued"], KINDS["run_finished"]
_STOPPING, _IDLE = KINDS["run_cancel_requested"], KINDS["thread_idle"]
_GRPC_UNKNOWN, _GRPC_FAILED_PRECONDITION = 2, 9
_ERROR_TEXT = 10_000
STORE_RETRY = 1.0
"""Seconds until the dispatcher tries again when the store does not answer."""


@dataclass(slots=True)
class _Job:
    """A run at work in this process."""

    execution: Execution
    task: asyncio.Task[None]
    context: Context | None = None
    """What its agent works with; None until it begins."""
    stopping: bool = False
    """Whether it shall end before its agent begins."""
    lost: bool = False
    """Whether its store failed it, and it only waits to be given back."""
    fence: asyncio.TimerHandle | None = None
    """Fires when the grace to stop is over."""
    deadline: asyncio.TimerHandle | None = None
    """Fires when the run's timeout is used up."""


class Dispatcher:
    """Runs agents.

    Args:
        store: Where the runs are.
        hub: Shows what they write.
        registry: The agents.
        assistants: Their configurations.
        worker_id: Names this process in the log.
        slots: How many runs compute at the same time.
        grace: Seconds that a run gets to stop before it is fenced off.
        workspaces: The folder that holds the sessions' workspaces.
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
        workspaces: Path,
        client_for: Callable[[Claim], AsyncClient],
    ) -> None:
        self._store = store
        self._hub = hub
        self._registry = registry
        self._assistants = assistants
        self._worker_id = worker_id
        self.slots = slots
        self._grace = grace
        self._workspaces = workspaces
        self._client_for = client_for
        self._reserved = 0
        self._at_work: dict[int, _Job] = {}
        self._wake = asyncio.Event()
        self._draining = False
        self._due: asyncio.TimerHandle | None = None
        self._planning = asyncio.Lock()
        self._backlog = True
        """Whether runs may be ready that nobody has claimed."""
        self._stopped_early: set[int] = set()
        """Runs that were asked to stop before this process has begun them."""

    # From outside

    @property
    def slots_used(self) -> int:
        return len(self._at_work) + self._reserved

    async def open(self) -> None:
        """Puts the runs of servers that are gone back in line and starts to claim."""
        rescued = await self._store.write(rescue)
        if rescued:
            log.info("rescued runs of a server that is gone", runs=rescued)
        self._claiming = asyncio.create_task(self._claim_forever(), name="callboard-dispatcher")
        self._wake.set()
        await self.plan_due()

    def watch(self) -> Watchdog:
        """Starts the watchdog, which knows an agent by the call that runs it."""

        def agent_of(variables: dict[str, object]) -> str:
            execution = variables["execution"]
            return execution.run.agent if isinstance(execution, Execution) else ""

        return Watchdog(self._run_agent.__code__, agent_of)

    def observe(self, records: Sequence[Record]) -> None:
        """Takes note of what was committed together."""
        started = {record.run for record in records if record.kind == _STARTED}
        idle = {record.thread for record in records if record.kind == _IDLE}
        for record in records:
            waits = record.kind == _CREATED and record.run not in started
            goes_on = record.kind == _FINISHED and record.thread not in idle
            if waits or goes_on or record.kind == _QUEUED:
                self._look_for_ready()
            if record.run is not None:
                self._observe_stop(record.run, record.kind)

    def _observe_stop(self, run_key: int, kind: int) -> None:
        if kind == _FINISHED:
            self._stopped_early.discard(run_key)
        elif kind == _STOPPING and run_key in self._at_work:
            self._stop(self._at_work[run_key])
        elif kind == _STOPPING:
            self._stopped_early.add(run_key)

    def _look_for_ready(self) -> None:
        self._backlog = True
        self._wake.set()

    def reserve(self) -> bool:
        """Takes a slot for a run that is about to be let in, if one is free and nobody waits."""
        if self._draining or self._backlog or self.slots_used >= self.slots:
            return False
        self._reserved += 1
        return True

    def release(self) -> None:
        """Gives a reserved slot back."""
        self._reserved -= 1
        self._slot_is_free()

    def _slot_is_free(self) -> None:
        if self._backlog:
            self._wake.set()

    def start_reserved(self, claim: Claim, assistant: Assistant) -> None:
        """Begins a run that was claimed in a reserved slot."""
        self._reserved -= 1
        self._begin(claim, assistant)

    def claim(self, tx: Transaction, run: RunRow) -> tuple[Claim, Assistant]:
        """Claims a ready run within a transaction."""
        agent = self._registry.get(run.data.agent)
        from_top = agent is not None and agent.kind != Agent.KIND_CHAT
        assistant = self._assistant(tx, run)
        start(tx, run, self._worker_id, from_top=from_top)
        return Claim.of(run), assistant

    def _assistant(self, tx: Transaction, run: RunRow) -> Assistant:
        data = run.data
        try:
            return self._assistants.resolve(
                tx, run.thread.session.tenant, data.assistant_id, data.assistant_version
            )
        except ServiceError:
            # It was deleted, or its agent is gone: the run ends with that when it starts.
            return Assistant(assistant_id=data.assistant_id, agent=data.agent, name=data.agent)

    async def drain(self) -> None:
        """Stops claiming, gives what runs the grace to end, and puts the rest back in line."""
        self._draining = True
        self._wake.set()
        await self._claiming
        if self._due is not None:
            self._due.cancel()
        await self._all_ended()
        for job in self._at_work.values():
            _interrupt(job)
        await self._all_ended()
        for job in list(self._at_work.values()):
            log.warning("agent ignores the request to stop", **_names(job.execution.claim))
            with suppress(StoreError):
                await self._try_to_give_back(job.execution)

    @property
    def has_leftovers(self) -> bool:
        """Whether code of agents is at work that did not stop when the server drained."""
        return self._draining and bool(self._at_work)

    async def _all_ended(self) -> None:
        """Waits for everything at work, no longer than the grace."""
        tasks = [job.task for job in self._at_work.values()]
        if tasks:
            await asyncio.wait(tasks, timeout=self._grace)

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
        while not self._draining and (free := self.slots - self.slots_used) > 0:
            # What is committed from here on may be ready without being seen by this claim.
            self._backlog = False
            self._reserved += free
            claimed: list[tuple[Claim, Assistant]] = []
            try:
                claimed = await self._store.write(partial(self._claim_some, limit=free))
            except StoreError:
                self._backlog = True
                raise
            finally:
                self._reserved -= free
            for claim, assistant in claimed:
                self._begin(claim, assistant)
            if len(claimed) < free:
                return
            self._backlog = True

    def _claim_some(self, tx: Transaction, limit: int) -> list[tuple[Claim, Assistant]]:
        return [self.claim(tx, run) for run in tx.ready_runs(limit)]

    async def plan_due(self) -> None:
        """Sets the timer for the next delayed run."""
        # One at a time: an older answer must not undo what a newer one has set.
        async with self._planning:
            due = await self._store.read(lambda reader: reader.next_due())
            if self._due is not None:
                self._due.cancel()
                self._due = None
            if due is not None and not self._draining:
                delay = max(0.0, due - time.time())
                loop = asyncio.get_running_loop()
                self._due = loop.call_later(delay, lambda: loop.create_task(self._release_due()))

    async def _release_due(self) -> None:
        try:
            await self._store.write(lambda tx: release_due(tx, tx.now / 1e9))
            self._look_for_ready()
            await self.plan_due()
        except StoreError as error:
            log.error("cannot release delayed runs", reason=str(error))
            loop = asyncio.get_running_loop()
            self._due = loop.call_later(STORE_RETRY, lambda: loop.create_task(self._release_due()))

    # Stopping

    def _stop(self, job: _Job) -> None:
        """Tells a run's code to stop, and gives it the grace."""
        loop = asyncio.get_running_loop()
        job.fence = loop.call_later(self._grace, lambda: loop.create_task(self._fence(job)))
        _interrupt(job)

    async def _fence(self, job: _Job) -> None:
        """Ends a run whose code did not stop in time; whatever it still writes is refused."""
        claim = job.execution.claim
        while not job.lost:
            try:
                await job.execution.finish(FAILED, Outcome())
                break
            except Fenced:
                log.debug("run stopped just in time", **_names(claim))
                break
            except StoreError as error:
                log.error("cannot fence a run", **_names(claim), problem=str(error))
                await asyncio.sleep(STORE_RETRY)
        if self._at_work.get(claim.run_key) is job:
            log.warning("agent ignores the request to stop", **_names(claim))
            self._ended(job)

    def _time_out(self, job: _Job) -> None:
        asyncio.get_running_loop().create_task(self._ask_time_out(job.execution.claim))

    async def _ask_time_out(self, claim: Claim) -> None:
        def operation(tx: Transaction) -> None:
            run = tx.run(claim.tenant, claim.run.run_id)
            if run is not None and run.data.claim_epoch == claim.run.claim_epoch:
                ThreadLine(tx, run.thread).stop(run, TIMED_OUT, SERVER)

        while True:
            try:
                await self._store.write(operation)
                return
            except StoreError as error:
                log.error("cannot time a run out", **_names(claim), problem=str(error))
                await asyncio.sleep(STORE_RETRY)

    # Running

    def _begin(self, claim: Claim, assistant: Assistant) -> None:
        faults.point("claimed")
        execution = Execution(self._store, self._hub, claim, assistant)
        task = asyncio.create_task(self._work(execution))
        job = self._at_work[claim.run_key] = _Job(execution, task)
        task.add_done_callback(lambda _: self._ended(job))
        timeout = self._timeout(claim)
        if timeout is not None:
            loop = asyncio.get_running_loop()
            job.deadline = loop.call_later(timeout, self._time_out, job)
        if claim.run_key in self._stopped_early:
            self._stopped_early.discard(claim.run_key)
            self._stop(job)

    def _timeout(self, claim: Claim) -> float | None:
        """How long the run may still be RUNNING, in seconds."""
        run, agent = claim.run, self._registry.get(claim.run.agent)
        if run.HasField("timeout"):
            bound: float | None = run.timeout.ToNanoseconds() / 1e9
        else:
            bound = agent.timeout if agent else None
        if bound is None:
            return None
        return max(0.0, bound - run.running_time.ToNanoseconds() / 1e9)

    def _ended(self, job: _Job) -> None:
        for timer in (job.fence, job.deadline):
            if timer is not None:
                timer.cancel()
        run_key = job.execution.claim.run_key
        # A run that was given back may be at work anew.
        if self._at_work.get(run_key) is job:
            del self._at_work[run_key]
            self._slot_is_free()

    async def _work(self, execution: Execution) -> None:
        """Runs an agent from its claim to its end."""
        with structlog.contextvars.bound_contextvars(**_names(execution.claim)):
            try:
                await self._run_agent(execution)
            except Fenced:
                log.info("run is no longer this claim's")
            except StoreError as error:
                log.error("the store does not take what the run writes", problem=str(error))
                await self._give_back_later(execution)
            except Exception as error:
                await self._end_unwritable(execution, error)

    async def _end_unwritable(self, execution: Execution, error: Exception) -> None:
        """Ends a run whose last words cannot be written, without them."""
        failure = describe_failure(error)
        log.error("run cannot end as it should", error_id=failure.error_id, trace=failure.trace)
        outcome = _failed(f"the run's end could not be written: {failure}")
        outcome.error.error_id = failure.error_id
        execution.drop_unwritten()
        try:
            await execution.finish(FAILED, outcome)
        except Fenced:
            return
        except StoreError:
            await self._give_back_later(execution)

    async def _run_agent(self, execution: Execution) -> None:
        agent = self._registry.get(execution.run.agent)
        if agent is None:
            await execution.finish(FAILED, _gone(execution.run.agent))
            return
        context = self._context(execution)
        job = self._at_work.get(execution.claim.run_key)
        if job is not None and job.stopping:
            await self._end_stopped(execution)
            return
        try:
            result = await agent.run(context)
            ending = self._success(execution, result)
        except asyncio.CancelledError:
            await self._end_stopped(execution)
        except (Fenced, StoreError, KeyboardInterrupt, GeneratorExit):
            raise
        except AgentError as error:
            await execution.finish(FAILED, _failed(error.message, error.reason))
        except BaseException as error:
            # Also SystemExit: an agent that calls sys.exit() does not end the server.
            failure = describe_failure(error)
            log.error("agent failed", error_id=failure.error_id, trace=failure.trace)
            outcome = _failed(f"the agent failed: {failure}")
            outcome.error.error_id = failure.error_id
            await execution.finish(FAILED, outcome)
        else:
            await execution.finish(SUCCEEDED, *ending)

    async def _give_back_later(self, execution: Execution) -> None:
        """Puts a run back in line as soon as the store answers again.

        It goes on from what is recorded then. If this process ends first, the next one rescues it.
        """
        # A stop that is asked for meanwhile must not part the run from who gives it back.
        job = self._at_work.get(execution.claim.run_key)
        if job is not None:
            job.lost = True
        execution.drop_unwritten()
        while not self._draining:
            await asyncio.sleep(STORE_RETRY)
            with suppress(StoreError):
                await self._try_to_give_back(execution)
                return

    async def _try_to_give_back(self, execution: Execution) -> None:
        with suppress(Fenced):
            await execution.give_back()

    async def _end_stopped(self, execution: Execution) -> None:
        # The task was cancelled: what is left to do must not be.
        if self._draining:
            await execution.give_back()
        else:
            await execution.finish(FAILED, _failed("the agent cancelled itself"))

    def _success(
        self, execution: Execution, result: Message | None
    ) -> tuple[Outcome, Sequence[Event]]:
        """Returns the outcome, and the result's message where it is not in the log yet."""
        if result is None or result.HasField("create_time"):
            return Outcome(result=result or execution.last_message), ()
        return Outcome(), [execution.message_event(result)]

    def _context(self, execution: Execution) -> Context:
        run, assistant = execution.run, execution.assistant
        context = Context(
            execution,
            author=assistant.name,
            config={**to_dict(assistant.config), **to_dict(run.config)},
            open_client=partial(self._client_for, execution.claim),
            workspace=self._workspaces / run.session_id,
        )
        job = self._at_work.get(execution.claim.run_key)
        if job is not None:
            job.context = context
        return context


def _interrupt(job: _Job) -> None:
    """Cancels a run's code. A task that has not begun must begin: it writes the run's end."""
    if job.context is None:
        job.stopping = True
    elif not job.lost:
        job.context.stop()
        job.task.cancel()


def _names(claim: Claim) -> dict[str, object]:
    run = claim.run
    return {
        "session": run.session_id,
        "thread": run.thread_id,
        "run": run.run_id,
        "attempt": run.attempt,
        "agent": run.agent,
    }


def _failed(
    message: str, reason: ErrorReason.ValueType = ErrorReason.ERROR_REASON_AGENT_FAILED
) -> Outcome:
    # What no UTF-8 can hold must not keep a run from its end.
    text = message[:_ERROR_TEXT].encode("utf-8", "replace").decode()
    return Outcome(error=RunError(code=_GRPC_UNKNOWN, reason=reason, message=text))


def _gone(agent: str) -> Outcome:
    error = RunError(
        code=_GRPC_FAILED_PRECONDITION,
        reason=ErrorReason.ERROR_REASON_AGENT_GONE,
        message=f"agent {agent} is no longer registered on this server",
    )
    return Outcome(error=error)
