"""Runs that wait: for a time, for jobs, for several things; over restarts, and until stopped."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient, RunState, text_of, to_dict
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.agents.context import Context
from callboard_server.agents.errors import Fenced, NoAnswer
from callboard_server.agents.sync_context import SyncContext
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE, Gates
from tests.support.parking import (
    REQUIRES_ACTION,
    WAITING,
    finished,
    happened,
    parked,
    reply,
    respond,
    the_action,
)
from tests.support.process import ServerProcess
from tests.support.serving import Served, kinds_of, log_of, served, sound_log
from tests.support.waiting import until

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED, SUPERSEDED = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_SUPERSEDED
TIMED_OUT = RunState.RUN_STATE_TIMED_OUT

Serve = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Serves agents on a port, with a single slot, always on the same file."""

    def open_server(*agents: Any, **server: Any) -> AbstractAsyncContextManager[Served]:
        return served(agents, tmp_path / "jobs.db", **{"slots": 1, **server})

    return open_server


@pytest.fixture(autouse=True)
def _rows_are_what_the_log_says(tmp_path: Path) -> Any:
    yield
    if (tmp_path / "jobs.db").exists():
        assert admin.check(str(tmp_path / "jobs.db")) == []


async def result_of(client: AsyncClient, run: Run) -> str:
    """The result of a run that came to its end, in a log that keeps every guarantee."""
    ended = await finished(client, run)
    assert ended.state == SUCCEEDED, ended.outcome
    await sound_log(client, run.thread_id)
    return text_of(ended.outcome.result)


# Sleeping


async def test_a_run_that_sleeps_waits_for_a_time_and_holds_nothing(
    serve: Serve, gates: Gates
) -> None:
    async def sleeper(ctx: Context) -> str:
        await ctx.sleep(1)
        return "awake"

    async with serve(sleeper, *gates.agents) as server:
        client = server.client
        started = time.time()
        run = await parked(client, await client.runs.create("sleeper", "go"))
        assert run.state == WAITING
        assert run.waiting_for.kind == WaitingFor.KIND_TIMER
        until = run.waiting_for.until.ToNanoseconds() / 1e9
        assert started + 0.9 < until < time.time() + 1
        assert (await client.threads.get(run.thread_id)).state == Thread.STATE_IDLE
        beside = await client.runs.create(
            "quick", "beside", thread_id=run.thread_id, multitask_strategy="reject"
        )
        elsewhere = await client.runs.create("quick", "elsewhere")
        for other in (beside, elsewhere):
            assert (await finished(client, other)).state == SUCCEEDED
        assert (await client.runs.get(run.run_id)).state == WAITING
        assert await result_of(client, run) == "awake"
        assert time.time() >= until


async def test_a_plain_function_sleeps_likewise(serve: Serve) -> None:
    def sleeper(ctx: SyncContext) -> str:
        ctx.sleep(0.05)
        return "awake"

    async with serve(sleeper) as server:
        run = await server.client.runs.create("sleeper", "go")
        assert await result_of(server.client, run) == "awake"
        assert "run_waiting" in kinds_of(await log_of(server.client, run.thread_id))


async def test_200_sleepers_share_one_slot(serve: Serve) -> None:
    async def sleeper(ctx: Context) -> None:
        await ctx.sleep(2)

    async with serve(sleeper) as server:
        client = server.client
        started = time.monotonic()
        runs = await asyncio.gather(*(client.runs.create("sleeper", "go") for _ in range(200)))
        ends = await asyncio.gather(*(finished(client, run) for run in runs))
        assert {run.state for run in ends} == {SUCCEEDED}
        assert {run.claim_epoch for run in ends} == {2}
        assert time.monotonic() - started < 8


async def test_sleeps_side_by_side_take_as_long_as_the_longest(serve: Serve) -> None:
    async def sleeper(ctx: Context) -> str:
        async def nap(length: float) -> float:
            await ctx.sleep(length)
            return length

        return str(await ctx.gather(nap(0.6), nap(0.2), nap(0.4)))

    async with serve(sleeper) as server:
        client = server.client
        run = await client.runs.create("sleeper", "go")
        assert await result_of(client, run) == "[0.6, 0.2, 0.4]"
        ended = await client.runs.get(run.run_id)
        took = ended.end_time.ToNanoseconds() - ended.start_time.ToNanoseconds()
        assert 0.6 <= took / 1e9 < 1.2
        assert ended.running_time.ToNanoseconds() / 1e9 < 0.6


async def test_no_sleep_is_too_short(serve: Serve) -> None:
    async def sleeper(ctx: Context) -> str:
        await ctx.sleep(0)
        await ctx.sleep(-1)
        return "awake"

    async with serve(sleeper) as server:
        run = await server.client.runs.create("sleeper", "go")
        assert await result_of(server.client, run) == "awake"


# Waiting for jobs


class Family:
    """Agents that launch jobs and wait for them."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    async def waits_for_all(self, ctx: Context) -> str:
        """Waits for one job for each word of its task."""
        jobs = [await ctx.jobs.launch("worker", word) for word in (await ctx.input()).split()]
        done = await ctx.jobs.wait(*jobs)
        return ", ".join(text_of(job.outcome.result) for job in done)

    async def waits_for_any(self, ctx: Context) -> str:
        """Waits for the first of them."""
        words = (await ctx.input()).split()
        jobs = [await ctx.jobs.launch("worker", word, notify="none") for word in words]
        done = await ctx.jobs.wait(*jobs, any=True)
        return ", ".join(RunState.Name(job.state) for job in done)

    async def grandparent(self, ctx: Context) -> str:
        """Waits for jobs that wait for jobs."""
        jobs = [await ctx.jobs.launch("waits_for_all", task) for task in ("a b", "c d")]
        return "; ".join(text_of(job.outcome.result) for job in await ctx.jobs.wait(*jobs))

    @property
    def agents(self) -> list[Any]:
        return [self.waits_for_all, self.waits_for_any, self.grandparent, *self._gates.agents]


@pytest.fixture
def family(gates: Gates) -> list[Any]:
    return Family(gates).agents


async def test_a_run_that_waits_for_its_jobs_leaves_them_the_slot(
    serve: Serve, family: list[Any], gates: Gates
) -> None:
    async with serve(*family) as server:
        client = server.client
        run = await parked(client, await client.runs.create("waits_for_all", "a b"))
        assert (run.state, run.waiting_for.kind) == (WAITING, WaitingFor.KIND_CHILDREN)
        jobs = {job.job_id async for job in client.jobs.list(parent_thread_id=run.thread_id)}
        assert set(run.waiting_for.ids) == jobs
        await gates.entered("a")
        gates.open("a")
        await gates.entered("b")
        assert (await client.runs.get(run.run_id)).state == WAITING
        gates.open("b")
        assert await result_of(client, run) == "done: a, done: b"


async def test_one_job_of_several_is_enough_for_any(
    serve: Serve, family: list[Any], gates: Gates
) -> None:
    async with serve(*family, slots=3) as server:
        client = server.client
        run = await parked(client, await client.runs.create("waits_for_any", "a b"))
        assert run.waiting_for.any
        await gates.entered("a")
        gates.open("b")
        ended = await finished(client, run)
        assert text_of(ended.outcome.result) == "RUN_STATE_RUNNING, RUN_STATE_SUCCEEDED"
        gates.open("a")
        await client.jobs.wait(list(run.waiting_for.ids), timeout=PATIENCE)
        await sound_log(client, run.thread_id)


async def test_waiting_two_levels_deep_needs_one_slot(
    serve: Serve, family: list[Any], gates: Gates
) -> None:
    gates.open("a", "b", "c", "d")
    async with serve(*family) as server:
        run = await server.client.runs.create("grandparent", "go")
        expected = "done: a, done: b; done: c, done: d"
        assert await result_of(server.client, run) == expected


async def test_jobs_that_are_over_are_not_waited_for(serve: Serve, gates: Gates) -> None:
    async def patient(ctx: Context) -> str:
        job = await ctx.jobs.launch("quick", "it")
        await ctx.jobs.wait(job)
        [again] = await ctx.jobs.wait(job.job_id)
        assert await ctx.jobs.wait() == []
        return text_of(again.outcome.result)

    async with serve(patient, *gates.agents) as server:
        client = server.client
        run = await client.runs.create("patient", "go")
        assert await result_of(client, run) == "done: it"
        waits = kinds_of(await log_of(client, run.thread_id), run.run_id).count("run_waiting")
        assert waits <= 1


async def test_a_cancelled_job_is_over_too(serve: Serve, family: list[Any], gates: Gates) -> None:
    async with serve(*family) as server:
        client = server.client
        run = await parked(client, await client.runs.create("waits_for_all", "a b"))
        for job_id in run.waiting_for.ids:
            await client.jobs.cancel(job_id)
        assert await result_of(client, run) == ", "


async def test_a_job_that_gets_new_instructions_is_waited_for_until_those_are_done(
    serve: Serve, family: list[Any], gates: Gates
) -> None:
    async with serve(*family) as server:
        client = server.client
        run = await parked(client, await client.runs.create("waits_for_all", "a"))
        await gates.entered("a")
        [job_id] = run.waiting_for.ids
        await client.jobs.update(job_id, "b")
        await gates.entered("b")
        assert (await client.runs.get(run.run_id)).state == WAITING
        gates.open("b")
        assert await result_of(client, run) == "done: b"


async def test_a_job_of_another_thread_is_not_waited_for(serve: Serve, gates: Gates) -> None:
    async def nosy(ctx: Context) -> None:
        await ctx.jobs.wait(await ctx.input())

    async with serve(nosy, *gates.agents, slots=2) as server:
        client = server.client
        job = await client.jobs.launch("worker", "it")
        ended = await finished(client, await client.runs.create("nosy", job.job_id))
        assert ended.state == FAILED
        assert "its own jobs only" in ended.outcome.error.message
        await client.jobs.cancel(job.job_id)


async def test_a_job_ends_while_another_branch_is_at_work(serve: Serve, gates: Gates) -> None:
    heard = asyncio.Event()

    async def both(ctx: Context) -> str:
        async def wait() -> str:
            [job] = await ctx.jobs.wait(await ctx.jobs.launch("quick", "it"))
            heard.set()
            return text_of(job.outcome.result)

        async def work() -> str:
            await heard.wait()
            return "worked"

        return str(await ctx.gather(wait(), work()))

    async with serve(both, *gates.agents, slots=2) as server:
        run = await server.client.runs.create("both", "go")
        assert await result_of(server.client, run) == "['done: it', 'worked']"
        assert (await server.client.runs.get(run.run_id)).claim_epoch == 1


# Waiting for several things


async def test_branches_wait_for_different_things(serve: Serve, gates: Gates) -> None:
    order: list[str] = []
    slept, waited = asyncio.Event(), asyncio.Event()

    async def mixed(ctx: Context) -> str:
        async def ask() -> None:
            order.append(f"heard {await ctx.ask('Well?')}")

        async def sleep() -> None:
            await ctx.sleep(0.05)
            order.append("slept")
            slept.set()

        async def wait() -> None:
            await ctx.jobs.wait(await ctx.jobs.launch("worker", "it"))
            order.append("waited")
            waited.set()

        await ctx.gather(ask(), sleep(), wait())
        return ", ".join(order)

    async with serve(mixed, *gates.agents, slots=2) as server:
        client = server.client
        run = await client.runs.create("mixed", "go")
        await gates.entered("it")
        action = await the_action(client, run)
        async with asyncio.timeout(PATIENCE):
            await slept.wait()
            gates.open("it")
            await waited.wait()

        async def asks_alone() -> bool:
            waiting_for = (await client.runs.get(run.run_id)).waiting_for
            return list(waiting_for.ids) == [action.action_id]

        await until(asks_alone)
        await respond(client, action, "yes")
        assert await result_of(client, run) == "slept, waited, heard yes"


async def test_a_gather_within_a_gather_waits_when_all_its_branches_do(serve: Serve) -> None:
    async def nested(ctx: Context) -> str:
        async def inner() -> str:
            return str(await ctx.gather(ctx.ask("a"), ctx.ask("b")))

        return str(await ctx.gather(inner(), ctx.ask("c")))

    async with serve(nested) as server:
        client = server.client
        run = await parked(client, await client.runs.create("nested", "go"))
        assert run.state == REQUIRES_ACTION
        actions = [action async for action in client.actions.list(run.thread_id)]
        await client.runs.respond(
            run.thread_id, [reply(action, action.question.upper()) for action in actions]
        )
        assert await result_of(client, run) == "[\"['A', 'B']\", 'C']"


async def test_a_run_does_not_wait_while_a_branch_of_it_is_between_two_gathers(
    serve: Serve,
) -> None:
    first, second, arrived = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def nested(ctx: Context) -> str:
        async def inner() -> None:
            await ctx.gather(first.wait(), first.wait())
            arrived.set()
            await second.wait()

        await ctx.gather(inner(), ctx.ask("Well?"))
        return "done"

    async with serve(nested) as server:
        client = server.client
        run = await client.runs.create("nested", "go")
        raised = await happened(client, run, "action_raised")
        first.set()
        await arrived.wait()
        assert (await client.runs.get(run.run_id)).state == RunState.RUN_STATE_RUNNING
        second.set()
        await parked(client, run)
        await respond(client, raised.action_raised.action, 1)
        assert await result_of(client, run) == "done"
        kinds = kinds_of(await log_of(client, run.thread_id))
        assert kinds.count("run_waiting") == 1


async def test_a_branch_that_fails_ends_the_waits_of_the_others(serve: Serve) -> None:
    async def failing(ctx: Context) -> str:
        async def fail() -> str:
            await ctx.sleep(0.05)
            raise NoAnswer("no")

        try:
            await ctx.gather(ctx.ask("Well?"), fail())
        except NoAnswer:
            return f"heard {await ctx.ask('Then?')}"
        return "never"

    async with serve(failing) as server:
        client = server.client
        run = await client.runs.create("failing", "go")
        second = await happened(client, run, "action_raised", times=2)
        assert second.action_raised.action.question == "Then?"
        await parked(client, run)
        await respond(client, second.action_raised.action, 1)
        assert await result_of(client, run) == "heard 1"


# Ends while waiting


class Parked:
    """Agents that wait in each way, and say so when they are stopped."""

    def __init__(self) -> None:
        self.stopped = asyncio.Event()
        self.refused = asyncio.Event()

    async def asks(self, ctx: Context) -> None:
        await self._noting(ctx, ctx.ask("Well?"))

    async def sleeps(self, ctx: Context) -> None:
        await self._noting(ctx, ctx.sleep(3600))

    async def waits(self, ctx: Context) -> None:
        job = await ctx.jobs.launch("naps", "go")
        await self._noting(ctx, ctx.jobs.wait(job))

    async def naps(self, ctx: Context) -> None:
        await ctx.sleep(3600)

    async def _noting(self, ctx: Context, waiting: Any) -> None:
        try:
            await waiting
        finally:
            self.stopped.set()
            try:
                await ctx.say("last words")
            except Fenced:
                self.refused.set()

    @property
    def agents(self) -> list[Any]:
        return [self.asks, self.sleeps, self.waits, self.naps]


WAYS = pytest.mark.parametrize("way", ["asks", "sleeps", "waits"])


async def gone(agents: Parked) -> None:
    """Waits until code that waited has run what stands behind `finally`, and was refused."""
    async with asyncio.timeout(PATIENCE):
        await agents.stopped.wait()
        await agents.refused.wait()


@WAYS
async def test_a_run_that_waits_is_cancelled_at_once(serve: Serve, gates: Gates, way: str) -> None:
    agents = Parked()
    async with serve(*agents.agents, *gates.agents) as server:
        client = server.client
        run = await parked(client, await client.runs.create(way, "go"))
        assert (await client.runs.cancel(run.run_id, cascade=True)).state == CANCELLED
        await gone(agents)
        again = await client.runs.create("quick", "next", thread_id=run.thread_id)
        await finished(client, again)
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "next", "done: next"]
        await sound_log(client, run.thread_id)


@pytest.mark.parametrize("ends", ["cancelled", "drained"])
async def test_the_thread_of_a_plain_function_that_waits_ends(serve: Serve, ends: str) -> None:
    ended = threading.Event()

    def asks(ctx: SyncContext) -> None:
        try:
            ctx.ask("Well?")
        finally:
            ended.set()

    async with serve(asks) as server:
        run = await parked(server.client, await server.client.runs.create("asks", "go"))
        if ends == "cancelled":
            await server.client.runs.cancel(run.run_id)
            assert await asyncio.to_thread(ended.wait, PATIENCE)
    assert await asyncio.to_thread(ended.wait, PATIENCE)


async def test_a_run_is_cancelled_between_its_answer_and_its_turn(
    serve: Serve, gates: Gates
) -> None:
    agents = Parked()
    async with serve(*agents.agents, *gates.agents) as server:
        client = server.client
        run = await client.runs.create("asks", "go")
        action = await the_action(client, run)
        busy = await client.runs.create("worker", "busy")
        await gates.entered("busy")
        await respond(client, action, "yes")
        assert (await client.runs.cancel(run.run_id)).state == CANCELLED
        await gone(agents)
        gates.open("busy")
        await finished(client, busy)
        await sound_log(client, run.thread_id)


async def test_new_instructions_supersede_the_run_of_a_job_that_waits(
    serve: Serve, gates: Gates
) -> None:
    agents = Parked()
    async with serve(*agents.agents, *gates.agents) as server:
        client = server.client
        job = await client.jobs.launch("asks", "go")
        first = await parked(client, await client.runs.get(job.run_id))
        job = await client.jobs.update(job.job_id, "again")
        await gone(agents)
        assert (await client.runs.get(first.run_id)).state == SUPERSEDED
        second = await parked(client, await client.runs.get(job.run_id))
        await client.runs.cancel(second.run_id)
        await sound_log(client, job.job_id)


async def test_the_time_of_waiting_does_not_count_towards_the_timeout(serve: Serve) -> None:
    async def slow(ctx: Context) -> None:
        await ctx.sleep(0.6)
        await asyncio.Event().wait()

    async with serve(slow) as server:
        client = server.client
        ended = await finished(client, await client.runs.create("slow", "go", timeout=0.4))
        assert ended.state == TIMED_OUT
        took = (ended.end_time.ToNanoseconds() - ended.start_time.ToNanoseconds()) / 1e9
        assert took > 0.9
        assert 0.35 < ended.running_time.ToNanoseconds() / 1e9 < took - 0.5
        await sound_log(client, ended.thread_id)


@WAYS
async def test_a_server_stops_at_once_when_all_it_has_waits(serve: Serve, way: str) -> None:
    agents = Parked()
    async with serve(*agents.agents, grace=PATIENCE) as server:
        run = await parked(server.client, await server.client.runs.create(way, "go"))
        started = time.monotonic()
    assert time.monotonic() - started < PATIENCE / 2
    await gone(agents)
    async with serve(*agents.agents) as server:
        assert (await server.client.runs.get(run.run_id)).state in (WAITING, REQUIRES_ACTION)
        await server.client.runs.cancel(run.run_id, cascade=True)
        await sound_log(server.client, run.thread_id)


async def test_a_run_that_begins_to_wait_while_the_server_stops_lets_go(
    serve: Serve, gates: Gates
) -> None:
    stopping = asyncio.Event()

    async def late(ctx: Context) -> str:
        gates.order.append("late")
        if len(gates.order) == 1:
            await stopping.wait()
        return f"heard {await ctx.ask('Well?')}"

    async with serve(late, grace=PATIENCE) as server:
        run = await server.client.runs.create("late", "go")
        await happened(server.client, run, "run_started")
        draining = asyncio.create_task(server.app.engine.drain())
        while not server.app.engine.draining:  # noqa: ASYNC110
            await asyncio.sleep(0)
        stopping.set()
        async with asyncio.timeout(PATIENCE / 2):
            await draining
        assert not server.app.engine.dispatcher.has_leftovers
    async with serve(late) as server:
        await respond(server.client, await the_action(server.client, run), "yes")
        assert await result_of(server.client, run) == "heard yes"


# Restarts while waiting


async def test_a_sleep_does_not_start_anew_after_a_restart(serve: Serve) -> None:
    visits: list[str] = []

    async def sleeper(ctx: Context) -> str:
        visits.append("started")
        await ctx.say(f"visit {len(visits)}")
        await ctx.sleep(1.5)
        return "awake"

    async with serve(sleeper) as server:
        run = await parked(server.client, await server.client.runs.create("sleeper", "go"))
        until = run.waiting_for.until.ToNanoseconds() / 1e9
    async with serve(sleeper) as server:
        client = server.client
        again = await client.runs.get(run.run_id)
        assert (again.state, again.waiting_for) == (run.state, run.waiting_for)
        assert visits == ["started"]
        assert await result_of(client, run) == "awake"
        assert visits == ["started", "started"]
        ended = await client.runs.get(run.run_id)
        assert ended.end_time.ToNanoseconds() / 1e9 >= until
        kinds = kinds_of(await log_of(client, run.thread_id))
        assert kinds.count("step_recorded") == 1
        assert (ended.attempt, ended.claim_epoch) == (1, 2)
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "visit 2", "awake"]


async def test_a_question_is_asked_once_and_heard_after_a_restart(serve: Serve) -> None:
    visits: list[str] = []

    async def asker(ctx: Context) -> str:
        visits.append("started")
        first = await ctx.ask("First?")
        second = await ctx.ask("Second?")
        return f"heard {first}, {second}"

    async with serve(asker) as server:
        run = await server.client.runs.create("asker", "go")
        await respond(server.client, await the_action(server.client, run), 1)
        await happened(server.client, run, "action_raised", times=2)
        await parked(server.client, run)
    async with serve(asker) as server:
        client = server.client
        action = await the_action(client, run)
        assert (action.question, visits) == ("Second?", ["started"])
        await respond(client, action, 2)
        assert await result_of(client, run) == "heard 1, 2"
        assert visits == ["started", "started"]
        kinds = kinds_of(await log_of(client, run.thread_id))
        assert (kinds.count("action_raised"), kinds.count("claim_voided")) == (2, 1)


async def test_a_deadline_stays_what_it_was_over_a_restart(serve: Serve) -> None:
    arrived = asyncio.Event()

    async def asker(ctx: Context) -> str:
        async def ask() -> str:
            try:
                return str(await ctx.ask("Quick?", deadline=2.0))
            except NoAnswer:
                return "nothing"

        async def work() -> str:
            if not arrived.is_set():
                arrived.set()
                await asyncio.Event().wait()
            return "worked"

        return str(await ctx.gather(ask(), work()))

    async with serve(asker, grace=0.4) as server:
        run = await server.client.runs.create("asker", "go")
        raised = await happened(server.client, run, "action_raised")
        await arrived.wait()
    deadline = raised.action_raised.action.deadline
    async with serve(asker) as server:
        waiting = await parked(server.client, run)
        assert waiting.waiting_for.until == deadline
        assert await result_of(server.client, run) == "['nothing', 'worked']"


async def test_jobs_are_waited_for_over_a_restart_and_launched_once(
    serve: Serve, family: list[Any], gates: Gates
) -> None:
    async with serve(*family, grace=0) as server:
        run = await parked(server.client, await server.client.runs.create("waits_for_all", "a b"))
        await gates.entered("a")
    gates.open("a", "b")
    async with serve(*family) as server:
        client = server.client
        assert await result_of(client, run) == "done: a, done: b"
        assert len([job async for job in client.jobs.list()]) == 2


async def test_what_was_written_in_recorded_steps_survives_a_wait_and_a_restart(
    serve: Serve,
) -> None:
    visits: list[str] = []

    async def writer(ctx: Context) -> str:
        visits.append("started")

        async def write() -> str:
            await ctx.say("inside")
            await ctx.merge_values({"inside": len(visits)})
            return "wrote"

        async def ask() -> Any:
            await ctx.say(f"asking at visit {len(visits)}")
            return await ctx.ask("Well?")

        await ctx.step("write", write)
        await ctx.say(f"outside at visit {len(visits)}")
        await ctx.merge_values({"outside": len(visits)})
        return f"heard {await ctx.step('ask', ask)}"

    async with serve(writer) as server:
        run = await server.client.runs.create("writer", "go")
        action = await the_action(server.client, run)
        log = await log_of(server.client, run.thread_id)
        paths = {
            text_of(event.message_added.message): list(event.step_path)
            for event in log
            if event.HasField("message_added")
        }
        assert paths == {
            "go": [],
            "inside": ["write#1"],
            "outside at visit 1": [],
            "asking at visit 1": ["ask#1"],
        }
    async with serve(writer) as server:
        client = server.client
        await respond(client, action, "yes")
        assert await result_of(client, run) == "heard yes"
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        # The step that asked was not recorded: it is taken anew, and its question is not.
        assert texts == ["go", "inside", "outside at visit 2", "asking at visit 2", "heard yes"]
        state = await client.threads.state(run.thread_id)
        assert to_dict(state.values) == {"inside": 1, "outside": 2}


async def test_without_a_restart_nothing_is_void(serve: Serve) -> None:
    async def writer(ctx: Context) -> str:
        await ctx.say("before")
        await ctx.merge_values({"before": True})
        await ctx.sleep(0.05)
        await ctx.say("after")
        return "done"

    async with serve(writer) as server:
        client = server.client
        run = await client.runs.create("writer", "go")
        assert await result_of(client, run) == "done"
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "before", "after", "done"]
        assert to_dict((await client.threads.state(run.thread_id)).values) == {"before": True}
        assert "claim_voided" not in kinds_of(await log_of(client, run.thread_id))


# Kills while waiting


AGENTS = """
import asyncio

async def sleeps(ctx):
    await ctx.say("outside")
    await ctx.step("write", inside, ctx)
    await ctx.sleep(2)
    return "awake"

async def inside(ctx):
    await ctx.say("inside")

async def asks(ctx):
    await ctx.say("outside")
    await ctx.step("write", inside, ctx)
    return f"heard {await ctx.ask('Well?')}"

async def waits(ctx):
    await ctx.say("outside")
    await ctx.step("write", inside, ctx)
    job = await ctx.jobs.launch("child", "go")
    [done] = await ctx.jobs.wait(job)
    return done.outcome.result.content[0].text.text

async def child(ctx):
    return f"heard {await ctx.ask('Well?')}"
"""
CONFIG = "[server]\nslots = 1\n" + "".join(
    f'[agents.{name}]\nentrypoint = "waiting_agents.py:{name}"\n'
    for name in ("sleeps", "asks", "waits", "child")
)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    (tmp_path / "waiting_agents.py").write_text(AGENTS)
    (tmp_path / "callboard.toml").write_text(CONFIG)
    process = ServerProcess(tmp_path / "callboard.toml", tmp_path / "jobs.db")
    yield process
    await process.clean_up()


@pytest.mark.parametrize(
    ("way", "result"), [("asks", "heard yes"), ("sleeps", "awake"), ("waits", "heard yes")]
)
async def test_a_run_that_waits_outlives_a_kill_of_its_server(
    process: ServerProcess, way: str, result: str
) -> None:
    await process.start()
    async with AsyncClient(process.address) as client:
        run = await parked(client, await client.runs.create(way, "go"))
        if way == "waits":
            await happened(client, run, "action_raised")
            await happened(client, run, "run_waiting", times=2)
    await process.kill()
    await process.start()
    async with AsyncClient(process.address) as client:
        for action in [a async for a in client.actions.list(session_id=run.thread_id)]:
            await respond(client, action, "yes")
        assert await result_of(client, run) == result
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "inside", "outside", result]
        kinds = kinds_of(await log_of(client, run.thread_id))
        assert kinds.count("action_raised") == (0 if way == "sleeps" else 1)
        assert kinds.count("step_recorded") == (2 if way == "sleeps" else 1)
        assert kinds.count("run_queued") == (2 if way == "waits" else 1)
