"""Jobs that are over, in whatever way: cancelled again, and given new instructions."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import get_args

import pytest

from callboard import AsyncClient, Job, RunState, text_of
from callboard._enums import DeliveryName
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import Served, log_of, served, sound_log

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED, TIMED_OUT = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_TIMED_OUT
STATES = {"succeed": SUCCEEDED, "fail": FAILED, "be cancelled": CANCELLED, "run out": TIMED_OUT}


@pytest.fixture
async def server(gates: Gates, tmp_path: Path) -> AsyncIterator[Served]:
    async def actor(ctx: Context) -> str:
        """Ends as it is told to."""
        match await ctx.input():
            case "fail":
                raise AgentError("the shelf is empty")
            case "be cancelled" | "run out":
                return await gates.worker(ctx)
        return f"done: {await ctx.input()}"

    async with served([actor, *gates.agents], tmp_path / "jobs.db") as server:
        yield server


async def over(client: AsyncClient, home: str, task: str) -> Job:
    """A job of a home that ended as its task says; its parent cancels it, where it is cancelled."""
    # It holds for the run after that, too.
    timeout = 0.5 if task == "run out" else None
    job = await client.jobs.launch("actor", task, parent_thread_id=home, timeout=timeout)
    if task == "be cancelled":
        await client.jobs.cancel(job.job_id, parent_thread_id=home)
    [job] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    assert job.state == STATES[task]
    return job


async def told(client: AsyncClient, home: str) -> list[RunState.ValueType]:
    """The ends of which a home was told."""
    return [notice.state async for notice in client.notices.list(home)]


@pytest.mark.parametrize("task", STATES)
async def test_to_cancel_it_changes_nothing(server: Served, task: str) -> None:
    client = server.client
    home = (await client.threads.create()).thread_id
    job = await over(client, home, task)
    before = await log_of(client, home)
    for parent in (home, None):
        for cascade in (False, True):
            again = await client.jobs.cancel(job.job_id, cascade=cascade, parent_thread_id=parent)
            assert again == job
    assert await log_of(client, home) == before
    # That its parent cancels it now, does not take back that it was told.
    assert await told(client, home) == ([] if task == "be cancelled" else [job.state])


@pytest.mark.parametrize("delivery", get_args(DeliveryName))
@pytest.mark.parametrize("task", STATES)
async def test_it_takes_new_instructions(server: Served, task: str, delivery: DeliveryName) -> None:
    client = server.client
    home = (await client.threads.create()).thread_id
    job = await over(client, home, task)
    before = await told(client, home)
    again = await client.jobs.update(job.job_id, "go on", delivery=delivery)
    assert (again.job_id, again.run_count) == (job.job_id, 2)
    assert not again.HasField("outcome")
    [done] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    assert (done.state, text_of(done.outcome.result)) == (SUCCEEDED, "done: go on")
    assert done.task == task
    texts = [text_of(message) async for message in client.threads.messages(job.job_id)]
    assert (texts[0], texts[-2:]) == (task, ["go on", "done: go on"])
    # Also of one that its parent had cancelled it wants to know how it ends now.
    assert await told(client, home) == [*before, SUCCEEDED]
    first = await client.runs.get(job.run_id)
    assert (first.state, first.outcome) == (job.state, job.outcome)
    await sound_log(client, home)
