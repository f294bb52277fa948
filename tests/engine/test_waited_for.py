"""Jobs that go with the run that waits for them: how it ends decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import callboard
from callboard import AsyncClient, RunState, text_of
from callboard.v1.event_pb2 import Event
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.store.base import JobRow
from callboard_server.store.sqlite import admin
from callboard_server.store.sqlite.cached import CachedReader
from tests.support.gates import PATIENCE, Gates
from tests.support.parking import parked
from tests.support.serving import local, sound_log

SUCCEEDED, CANCELLED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_CANCELLED


class Callers:
    """Agents that launch a job to go with them, and one apart, and then do something else."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    async def caller(self, ctx: Context) -> str:
        """Ends as its input says."""
        how = await ctx.input()
        await ctx.jobs.launch("middle", "mine", cancel_with_run=True)
        await ctx.jobs.launch("worker", "apart")
        await self._gates.entered("below")
        await self._gates.entered("apart")
        if how == "fail":
            raise AgentError("No more.")
        if how != "succeed":
            await asyncio.Event().wait()
        return "gone on"

    async def middle(self, ctx: Context) -> None:
        """Has a job below it."""
        await ctx.jobs.wait(await ctx.jobs.launch("worker", "below"))

    async def all_of(self, ctx: Context) -> str:
        """Waits for as many jobs as it is told."""
        tasks = [str(number) for number in range(int(await ctx.input()))]
        jobs = [await ctx.jobs.launch("worker", task) for task in tasks]
        return f"{len(await ctx.jobs.wait(*jobs))} done"

    async def quick(self, ctx: Context) -> str:
        """Answers at once."""
        return "quick"


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
async def client(gates: Gates, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    callers = Callers(gates)
    agents = [callers.caller, callers.middle, callers.all_of, callers.quick, gates.worker]
    async with local(agents, tmp_path / "jobs.db") as client:
        yield client
        gates.close()
    assert admin.check(str(tmp_path / "jobs.db")) == []


@pytest.mark.parametrize("how", ["cancel", "interrupt", "fail"])
async def test_goes_where_the_run_ends_without_success(client: AsyncClient, how: str) -> None:
    run = await client.runs.create("caller", how)
    mine, apart = [job_id async for job_id in launched(client, run.thread_id)]
    if how == "cancel":
        await client.runs.cancel(run.run_id)
    elif how == "interrupt":
        await client.runs.create(
            "quick", "Never mind.", thread_id=run.thread_id, multitask_strategy="interrupt"
        )
    await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)
    [below] = [job.job_id async for job in client.jobs.list(parent_thread_id=mine)]
    ended = await client.jobs.wait([mine, below], timeout=PATIENCE)
    assert [job.state for job in ended] == [CANCELLED, CANCELLED]
    assert ended[0].waiting_run_id == run.run_id
    async with client.jobs.watch(job_id=mine) as jobs:
        assert (await anext(jobs)).waiting_run_id == run.run_id
    assert (await client.jobs.get(apart)).state == RunState.RUN_STATE_RUNNING
    assert (await client.threads.get(run.thread_id)).unread_notice_count == 0
    await client.jobs.cancel(apart)
    await client.jobs.wait(apart, timeout=PATIENCE)
    await sound_log(client, run.thread_id)


async def test_stays_where_the_run_succeeds(client: AsyncClient) -> None:
    run = await client.runs.create("caller", "succeed")
    mine, _ = [job_id async for job_id in launched(client, run.thread_id)]
    await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)
    assert (await client.jobs.get(mine)).state < SUCCEEDED


async def test_is_not_tied_to_a_run_that_is_over(client: AsyncClient, gates: Gates) -> None:
    run = await client.runs.create("worker", "boss")
    ctx = await gates.entered("boss")
    job = await ctx.jobs.launch("quick", "first")
    await client.jobs.wait(job.job_id, timeout=PATIENCE)
    await client.runs.cancel(run.run_id)
    await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)
    with pytest.raises(callboard.FailedPrecondition, match="is over"):
        await ctx.jobs.update(job.job_id, "second", cancel_with_run=True)
    job = await client.jobs.get(job.job_id)
    assert (job.run_count, job.waiting_run_id) == (1, "")


async def test_is_tied_to_no_second_run_while_it_works_for_the_first(
    client: AsyncClient, gates: Gates
) -> None:
    home = (await client.threads.create()).thread_id
    for name in ("first", "second"):
        await client.runs.create("worker", name, thread_id=home, multitask_strategy="concurrent")
    first, second = await gates.entered("first"), await gates.entered("second")
    job = await first.jobs.launch("worker", "its task", cancel_with_run=True)
    await gates.entered("its task")
    with pytest.raises(callboard.Conflict, match=f"is busy with run {job.run_id}"):
        await second.jobs.update(job.job_id, "another", cancel_with_run=True)
    unchanged = await client.jobs.get(job.job_id)
    assert (unchanged.run_count, unchanged.waiting_run_id) == (1, first.run.run_id)
    # It may be changed by who waits for it, and by who does not want to wait.
    await first.jobs.update(job.job_id, "it again", cancel_with_run=True)
    await second.jobs.update(job.job_id, "it quickly")
    gates.open("it quickly")
    await client.jobs.wait(job.job_id, timeout=PATIENCE)
    # Then it can work for another.
    await second.jobs.update(job.job_id, "another", cancel_with_run=True)
    await client.runs.cancel(second.run.run_id)
    [ended] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    assert (ended.state, ended.waiting_run_id) == (CANCELLED, second.run.run_id)


async def test_each_end_of_many_needs_a_look_at_few(
    client: AsyncClient, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = 60
    run = await client.runs.create("all_of", str(many))
    await parked(client, run)
    looks, job = [], CachedReader.job

    def look(reader: CachedReader, tenant: str, job_id: str) -> JobRow | None:
        looks.append(job_id)
        return job(reader, tenant, job_id)

    monkeypatch.setattr(CachedReader, "job", look)
    gates.open(*(str(number) for number in range(many)))
    ended = await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)
    assert text_of(ended.outcome.result) == f"{many} done"
    assert many < len(looks) < 10 * many


async def launched(client: AsyncClient, thread_id: str) -> AsyncIterator[str]:
    """The two jobs that a thread launches, as they come."""
    stream = client.threads.stream(thread_id, scope="session", kinds=["job_launched"])
    count = 0
    async with asyncio.timeout(PATIENCE), stream as events:
        async for event in events:
            assert isinstance(event, Event)
            if event.job_launched.parent_thread_id == thread_id:
                yield event.thread_id
                count += 1
            if count == 2:
                return
