"""The workers: run the agents of runs that were claimed, stop them, and keep those that wait."""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import structlog

from callboard.v1.assistant_pb2 import Agent, Assistant
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import Outcome, RunError
from callboard.v1.message_pb2 import Message
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError, Fenced, describe_failure
from callboard_server.agents.registry import AgentSpec, Registry
from callboard_server.engine.assistants import effective_config
from callboard_server.engine.claim import Claim
from callboard_server.engine.ending import stop
from callboard_server.engine.execution import Execution
from callboard_server.engine.lifecycle import FAILED, SERVER, SUCCEEDED, TIMED_OUT
from callboard_server.engine.line import ThreadLine
from callboard_server.engine.live import Hub
from callboard_server.engine.watchdog import Watchdog
from callboard_server.engine.workspaces import Workspaces
from callboard_server.store.base import RunRow, Store, StoreError, Transaction

if TYPE_CHECKING:
    from callboard import AsyncClient

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

_GRPC_FAILED_PRECONDITION = 9
_TRIED_ENOUGH = frozenset({ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE})
"""Reasons for which the agent itself has tried again, as often as it may."""
STORE_RETRY = 1.0
"""Seconds until a worker tries again when the store does not answer."""
LONGEST_PAUSE = 60.0
"""The longest pause before an attempt is repeated, in seconds."""


@dataclass(slots=True, eq=False)
class _Job:
    """A run whose code is in this process."""

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

    def cancel_timers(self) -> None:
        for timer in (self.fence, self.deadline):
            if timer is not None:
                timer.cancel()

    def interrupt(self) -> None:
        """Cancels its code. A task that has not begun must begin: it writes the run's end."""
        if self.context is None:
            self.stopping = True
        elif not self.lost:
            self.context.stop()
            self.task.cancel()


class Workers:
    """The runs that are at work in this process, and those that wait in it.

    Args:
        store: Where the runs are.
        hub: Shows what they write.
        registry: The agents.
        grace: Seconds that a run gets to stop before it is fenced off.
        workspaces: The sessions' workspaces.
        client_for: Makes the in-process client that a run's agent uses.
        slot_freed: Called when a run at work has ended or begun to wait.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        registry: Registry,
        *,
        grace: float,
        workspaces: Workspaces,
        client_for: Callable[[Claim], AsyncClient],
        slot_freed: Callable[[], None],
    ) -> None:
        self._store = store
        self._hub = hub
        self._registry = registry
        self._grace = grace
        self._workspaces = workspaces
        self._client_for = client_for
        self._slot_freed = slot_freed
        self._at_work: dict[int, _Job] = {}
        """The runs that hold a slot, by key."""
        self._parked: dict[int, _Job] = {}
        """The runs that wait, by key."""
        self._stopped_early: set[int] = set()
        """Runs that were asked to stop before this process has begun them."""
        self._draining = False

    @property
    def slots_used(self) -> int:
        return len(self._at_work)

    def running(self, assistant_id: str) -> int:
        """Returns how many runs of an assistant are at work."""
        jobs = self._at_work.values()
        return sum(job.execution.run.assistant_id == assistant_id for job in jobs)

    def watch(self) -> Watchdog:
        """Starts the watchdog, which knows an agent by the call that runs it."""

        def agent_of(variables: dict[str, object]) -> str:
            execution = variables["execution"]
            return execution.run.agent if isinstance(execution, Execution) else ""

        return Watchdog(self._run_agent.__code__, agent_of)

    # What is asked of a run

    def begin(self, claim: Claim, assistant: Assistant) -> None:
        """Runs the agent of a claimed run, or goes on with its code where that waits here."""
        job = self._parked.pop(claim.run_key, None)
        if job is None:
            execution = Execution(self._store, self._hub, claim, assistant)
            # In a context of its own, which its log lines are bound to: whoever starts it may be
            # within a step or a tool call.
            work = self._work(execution)
            job = _Job(execution, asyncio.create_task(work, context=contextvars.Context()))
            job.task.add_done_callback(partial(self._ended, job))
        else:
            job.execution.resume(claim)
        self._at_work[claim.run_key] = job
        timeout = self._timeout(claim)
        if timeout is not None:
            loop = asyncio.get_running_loop()
            job.deadline = loop.call_later(timeout, self._time_out, job)
        if claim.run_key in self._stopped_early:
            self._stopped_early.discard(claim.run_key)
            self._stop(job)

    def has_code_of(self, run: RunRow) -> bool:
        """Whether the code of a run that waited is here to go on. Safe in any thread."""
        job = self._parked.get(run.key) or self._at_work.get(run.key)
        if job is None or not job.execution.parked:
            return False
        return job.execution.run.claim_epoch == run.data.claim_epoch

    def park(self, run_key: int) -> None:
        """Takes note that a run waits: its slot is free."""
        job = self._at_work.pop(run_key, None)
        if job is not None:
            job.cancel_timers()
            self._parked[run_key] = job
            self._slot_freed()
            if self._draining:
                self._let_go(job)

    def end(self, run_key: int) -> None:
        """Takes note that a run has ended: code of it that waits has nothing to wait for."""
        self._stopped_early.discard(run_key)
        job = self._parked.pop(run_key, None)
        if job is not None:
            self._let_go(job)

    def stop(self, run_key: int) -> None:
        """Takes note that a run was asked to stop."""
        if run_key in self._at_work:
            self._stop(self._at_work[run_key])
        else:
            self._stopped_early.add(run_key)

    def notify(self, run_key: int) -> None:
        """Takes note that an action of a run was answered or closed."""
        job = self._at_work.get(run_key)
        if job is not None:
            job.execution.notify()

    def notify_of_jobs(self) -> None:
        """Takes note that some job may have ended."""
        for job in self._at_work.values():
            if job.execution.awaits_jobs:
                job.execution.notify()

    def _let_go(self, job: _Job) -> None:
        """Ends the code of a run that waits, without a word from it."""
        job.execution.close()
        job.interrupt()

    # Draining

    async def drain(self) -> None:
        """Gives what runs the grace to end, and puts the rest back in line."""
        self._draining = True
        waiting = list(self._parked.values())
        for job in waiting:
            self._let_go(job)
        await self._all_ended()
        for job in self._at_work.values():
            job.interrupt()
        await self._all_ended()
        for job in list(self._at_work.values()):
            log.warning("agent ignores the request to stop", **_names(job.execution.claim))
            with suppress(StoreError):
                await self._try_to_give_back(job.execution)

    @property
    def has_leftovers(self) -> bool:
        """Whether code of agents is here that did not stop when the server drained."""
        return self._draining and bool(self._at_work or self._parked)

    async def _all_ended(self) -> None:
        """Waits for all code, no longer than the grace."""
        tasks = [job.task for job in (*self._at_work.values(), *self._parked.values())]
        if tasks:
            await asyncio.wait(tasks, timeout=self._grace)

    # Stopping

    def _stop(self, job: _Job) -> None:
        """Tells a run's code to stop, and gives it the grace."""
        if job.fence is not None:
            return
        loop = asyncio.get_running_loop()
        job.fence = loop.call_later(self._grace, lambda: loop.create_task(self._fence(job)))
        job.interrupt()

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
                stop(tx, ThreadLine(tx, run.thread), run, TIMED_OUT, SERVER)

        while True:
            try:
                await self._store.write(operation)
                return
            except StoreError as error:
                log.error("cannot time a run out", **_names(claim), problem=str(error))
                await asyncio.sleep(STORE_RETRY)

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

    def _ended(self, job: _Job, _: object = None) -> None:
        job.cancel_timers()
        run_key = job.execution.claim.run_key
        # A run that was given back may be at work anew.
        if self._at_work.get(run_key) is job:
            del self._at_work[run_key]
            self._slot_freed()
        if self._parked.get(run_key) is job:
            del self._parked[run_key]

    # Running

    async def _work(self, execution: Execution) -> None:
        """Runs an agent from its claim to its end."""
        structlog.contextvars.bind_contextvars(**_names(execution.claim))
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
        outcome = AgentError(f"the run's end could not be written: {failure}").outcome
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
            await self._check_steps(agent, context)
            ending = self._success(execution, result)
        except asyncio.CancelledError:
            await self._end_stopped(execution)
        except (Fenced, StoreError, KeyboardInterrupt, GeneratorExit):
            raise
        except AgentError as error:
            await self._fail(execution, agent, error.outcome)
        except BaseException as error:
            # Also SystemExit: an agent that calls sys.exit() does not end the server.
            failure = describe_failure(error)
            log.error("agent failed", error_id=failure.error_id, trace=failure.trace)
            outcome = AgentError(f"the agent failed: {failure}", retryable=True).outcome
            outcome.error.error_id = failure.error_id
            await self._fail(execution, agent, outcome)
        else:
            await execution.finish(SUCCEEDED, *ending)

    async def _check_steps(self, agent: AgentSpec, context: Context) -> None:
        # A chat agent goes on from its last message: it never takes a step twice.
        if agent.kind != Agent.KIND_CHAT and context.run.claim_epoch > 1:
            await context.check_steps()

    async def _fail(self, execution: Execution, agent: AgentSpec, outcome: Outcome) -> None:
        """Ends a run as failed, or lets it try again where that may help."""
        attempt, error = execution.run.attempt, outcome.error
        may_help = error.retryable and error.reason not in _TRIED_ENOUGH
        if may_help and attempt < agent.max_attempts:
            pause = min(LONGEST_PAUSE, agent.retry_pause * 2 ** (attempt - 1))
            log.info("agent will be tried again", pause=pause)
            await execution.retry(error, pause * random.uniform(0.8, 1.2))
        else:
            await execution.finish(FAILED, outcome)

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
        if execution.closed:
            return
        if self._draining:
            await execution.give_back()
        else:
            await execution.finish(FAILED, AgentError("the agent cancelled itself").outcome)

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
            config=effective_config(assistant, run.config),
            assistant_config=assistant.config,
            open_client=partial(self._client_for, execution.claim),
            workspace=self._workspaces.of(run.session_id),
            models=self._registry.models,
        )
        job = self._at_work.get(execution.claim.run_key)
        if job is not None:
            job.context = context
        return context


def _names(claim: Claim) -> dict[str, object]:
    run = claim.run
    return {
        "session": run.session_id,
        "thread": run.thread_id,
        "run": run.run_id,
        "attempt": run.attempt,
        "agent": run.agent,
    }


def _gone(agent: str) -> Outcome:
    error = RunError(
        code=_GRPC_FAILED_PRECONDITION,
        reason=ErrorReason.ERROR_REASON_AGENT_GONE,
        message=f"agent {agent} is no longer registered on this server",
    )
    return Outcome(error=error)
