"""A run that goes on after its server is gone: what is recorded stands, the rest is void."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from callboard import AsyncClient, RunState, text_of, to_dict
from callboard.v1.event_pb2 import RunQueued
from callboard_server.agents.context import Context
from callboard_server.agents.sync_context import SyncContext
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import kinds_of, local, sound_log

SUCCEEDED = RunState.RUN_STATE_SUCCEEDED


class Visits:
    """Counts how often agents come by."""

    def __init__(self) -> None:
        self.count = 0
        self.arrived = asyncio.Event()

    async def stop_at_first(self) -> None:
        """Never comes back from the first claim."""
        self.count += 1
        if self.count == 1:
            self.arrived.set()
            await asyncio.Event().wait()


@asynccontextmanager
async def restarted(agents: Sequence[Any], db: Path, visits: Visits) -> AsyncIterator[AsyncClient]:
    """A server on the file of one that stopped when an agent came by."""
    async with local(agents, db, grace=0) as client:
        await client.runs.create(agents[0].__name__, "go")
        async with asyncio.timeout(PATIENCE):
            await visits.arrived.wait()
    async with local(agents, db) as client:
        yield client


async def the_run(client: AsyncClient) -> tuple[Any, list[str]]:
    """The only run, once it is over, and the kinds of its events."""
    [run] = [run async for run in client.runs.list()]
    run = await client.runs.wait(run.run_id, timeout=PATIENCE)
    log = await sound_log(client, run.thread_id)
    return run, kinds_of(log, run.run_id)


async def test_recorded_steps_are_not_repeated_and_the_rest_is_void(tmp_path: Path) -> None:
    visits, computed = Visits(), list[Any]()

    async def compute(number: int) -> int:
        computed.append(number)
        return number * 2

    async def function(ctx: Context) -> str:
        first = await ctx.step("compute", compute, 1)
        second = await ctx.step("compute", compute, 2)
        await ctx.say(f"claim {visits.count + 1}")
        await ctx.merge_values({f"claim {visits.count + 1}": True})
        await visits.stop_at_first()
        third = await ctx.step("compute", compute, 3)
        return f"{first} {second} {third}"

    async with restarted([function], tmp_path / "jobs.db", visits) as client:
        run, kinds = await the_run(client)
        assert (run.state, run.attempt, run.claim_epoch) == (SUCCEEDED, 1, 2)
        assert text_of(run.outcome.result) == "2 4 6"
        assert computed == [1, 2, 3]
        assert kinds.count("claim_voided") == 1
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "claim 2", "2 4 6"]
        state = await client.threads.state(run.thread_id)
        assert to_dict(state.values) == {"claim 2": True}
        assert state.message_count == 3
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def test_nested_and_repeated_steps_have_names_of_their_own(tmp_path: Path) -> None:
    visits, computed = Visits(), list[Any]()

    async def leaf(name: str) -> str:
        computed.append(name)
        return name

    async def function(ctx: Context) -> str:
        async def branch(name: str) -> list[str]:
            return [await ctx.step("leaf", leaf, f"{name}{n}") for n in range(2)]

        found = [await ctx.step("branch", branch, name) for name in "ab"]
        found.append([await ctx.step("leaf", leaf, "top")])
        await visits.stop_at_first()
        return str(found)

    async with restarted([function], tmp_path / "jobs.db", visits) as client:
        run, _ = await the_run(client)
        assert text_of(run.outcome.result) == "[['a0', 'a1'], ['b0', 'b1'], ['top']]"
        assert computed == ["a0", "a1", "b0", "b1", "top"]


async def test_a_plain_function_goes_on_from_its_steps(tmp_path: Path) -> None:
    visits, computed = Visits(), list[Any]()

    def plain(ctx: SyncContext) -> str:
        found = ctx.step("compute", compute)
        ctx.step("stop", stop)
        return found

    def compute() -> str:
        computed.append(1)
        return "found"

    def stop() -> None:
        asyncio.run_coroutine_threadsafe(visits.stop_at_first(), loop).result()

    loop = asyncio.get_running_loop()
    async with restarted([plain], tmp_path / "jobs.db", visits) as client:
        run, _ = await the_run(client)
        assert (run.state, text_of(run.outcome.result)) == (SUCCEEDED, "found")
        assert computed == [1]


async def test_a_job_that_was_launched_before_is_launched_once(tmp_path: Path) -> None:
    visits = Visits()

    async def boss(ctx: Context) -> str:
        jobs = [await ctx.jobs.launch("helper", f"part {number}") for number in range(2)]
        await visits.stop_at_first()
        done = await ctx.client.jobs.wait([job.job_id for job in jobs])
        return " ".join(text_of(job.outcome.result) for job in done)

    async def helper(ctx: Context) -> str:
        return await ctx.input()

    db = tmp_path / "jobs.db"
    async with local([boss, helper], db, grace=0) as client:
        await client.jobs.launch("boss", "go")
        async with asyncio.timeout(PATIENCE):
            await visits.arrived.wait()
    async with local([boss, helper], db) as client:
        jobs = [job async for job in client.jobs.list()]
        assert len(jobs) == 3
        done = await client.jobs.wait(jobs[-1].job_id, timeout=PATIENCE)
        assert text_of(done[0].outcome.result) == "part 0 part 1"
        await sound_log(client, jobs[-1].job_id)


async def test_what_was_streamed_before_a_stop_is_void(tmp_path: Path) -> None:
    visits = Visits()

    async def writer(ctx: Context) -> str:
        message = ctx.write_message((await ctx.view()).context_sequence)
        message.delta(0, "half a sen")
        await visits.stop_at_first()
        await message.discard("no more needed")
        return "whole"

    async with restarted([writer], tmp_path / "jobs.db", visits) as client:
        run, kinds = await the_run(client)
        assert kinds.count("message_discarded") == 2
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "whole"]


async def test_the_time_before_a_restart_counts_towards_the_timeout(tmp_path: Path) -> None:
    visits = Visits()

    async def slow(ctx: Context) -> None:
        await asyncio.sleep(0.2 if not visits.count else 0)
        await visits.stop_at_first()
        await asyncio.Event().wait()

    db = tmp_path / "jobs.db"
    async with local([slow], db, grace=0) as client:
        run = await client.runs.create("slow", "go", timeout=0.4)
        async with asyncio.timeout(PATIENCE):
            await visits.arrived.wait()
    async with local([slow], db) as client:
        started = asyncio.get_running_loop().time()
        run = await client.runs.wait(run.run_id, timeout=PATIENCE)
        assert run.state == RunState.RUN_STATE_TIMED_OUT
        assert asyncio.get_running_loop().time() - started < 0.3
        assert 0.35 < run.running_time.ToNanoseconds() / 1e9 < 0.6


async def test_queued_runs_keep_their_order_over_a_restart(tmp_path: Path, gates: Gates) -> None:
    db = tmp_path / "jobs.db"
    async with local(gates.agents, db, grace=0) as client:
        first = await client.runs.create("worker", "first")
        await gates.entered("first")
        for text in ("second", "third"):
            await client.runs.create("worker", text, thread_id=first.thread_id)
    gates.order.clear()
    gates.open("first", "second", "third")
    async with local(gates.agents, db) as client:
        runs = [run async for run in client.runs.list()]
        await client.runs.wait(runs[0].run_id, timeout=PATIENCE)
        assert gates.order == ["first", "second", "third"]
        log = await sound_log(client, first.thread_id)
        [queued] = [event for event in log if event.HasField("run_queued")]
        assert queued.run_queued.reason == RunQueued.REASON_DRAINED


async def test_a_run_whose_agent_is_gone_fails_with_that(tmp_path: Path, gates: Gates) -> None:
    db = tmp_path / "jobs.db"
    async with local(gates.agents, db, grace=0) as client:
        run = await client.runs.create("worker", "it")
        await gates.entered("it")
    async with local([], db) as client:
        run = await client.runs.wait(run.run_id, timeout=PATIENCE)
        assert run.state == RunState.RUN_STATE_FAILED
        assert "worker" in run.outcome.error.message
        await sound_log(client, run.thread_id)


async def test_a_cancel_is_not_forgotten_over_a_stop(tmp_path: Path, gates: Gates) -> None:
    db = tmp_path / "jobs.db"
    async with local(gates.agents, db, grace=0.05) as client:
        run = await client.runs.create("stubborn", "it")
        await gates.entered("it")
        await client.runs.cancel(run.run_id)
    async with local(gates.agents, db) as client:
        run = await client.runs.wait(run.run_id, timeout=PATIENCE)
        assert run.state == RunState.RUN_STATE_CANCELLED
        await sound_log(client, run.thread_id)
