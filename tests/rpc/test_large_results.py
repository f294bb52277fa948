"""Jobs whose task, progress and result are as large as they may be: all of it can be sent."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

import callboard
from callboard import AsyncClient, Job, RunState, text_of
from callboard_server.agents.context import Context
from callboard_server.log.events import EVENT_BYTES
from tests.support.gates import PATIENCE
from tests.support.serving import Served, log_of, served, sound_log

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
LARGEST = EVENT_BYTES - 1_000
"""A text that a message just holds, with all that goes along with it."""
LONGEST_TASK = "\U0001f3ad" * (EVENT_BYTES // 4)


async def writer(ctx: Context) -> str:
    """Writes as many bytes as its input says."""
    return "x" * int(await ctx.input())


async def reporter(ctx: Context) -> str:
    """Has as much progress and result as there can be."""
    await ctx.progress("p" * LARGEST)
    return "x" * LARGEST


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served([writer, reporter], tmp_path / "jobs.db") as server:
        yield server


async def finished(client: AsyncClient, job: Job) -> Job:
    [job] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    return job


@pytest.mark.parametrize(
    ("size", "state"), [(LARGEST, SUCCEEDED), (EVENT_BYTES, FAILED), (5 * EVENT_BYTES, FAILED)]
)
async def test_a_result_is_readable_everywhere_or_refused_in_words(
    server: Served, size: int, state: RunState.ValueType
) -> None:
    client = server.client
    supervisor = await client.supervisor("large")
    launched = await client.jobs.launch("writer", str(size), parent_thread_id=supervisor.thread_id)
    job = await finished(client, launched)
    assert job.state == state
    assert len(text_of(job.outcome.result)) == (size if state == SUCCEEDED else 0)
    if state == FAILED:
        told = job.outcome.error.message
        assert told.endswith(f"; the limit is {EVENT_BYTES}")
    await check_reads(client, job)
    async with supervisor.notices(follow=False) as notices:
        [notice] = [notice async for notice in notices]
    assert (notice.state, notice.data.cut) == (state, state == SUCCEEDED)
    assert notice.error == job.outcome.error.message
    await sound_log(client, supervisor.thread_id)


async def check_reads(client: AsyncClient, job: Job) -> None:
    """Whichever way a job is looked at, it is as it is."""
    assert await client.jobs.get(job.job_id) == job
    assert [each async for each in client.jobs.list(parent_thread_id=job.parent_thread_id)] == [job]
    assert list((await client.jobs.batch_get([job.job_id])).jobs) == [job]
    for after in (None, 0):
        changes = client.jobs.watch(job_id=job.job_id, until="done", after_sequence=after)
        *_, last = [change async for change in changes]
        assert last.outcome == job.outcome
    log = [e for e in await log_of(client, job.job_id) if e.thread_id == job.job_id]
    live = [event async for event in client.threads.stream(job.job_id, until="done")]
    assert live == log
    result = [m async for m in client.threads.messages(job.job_id)][1:]
    assert [text_of(m) for m in result] == [text_of(job.outcome.result)] * len(result)
    assert (await client.threads.state(job.job_id)).message_count == 1 + len(result)


async def test_a_large_result_comes_to_a_model_in_parts_and_can_be_followed_up(
    server: Served,
) -> None:
    supervisor = await server.client.supervisor("parts", result_characters=LARGEST // 2 - 1)
    call = supervisor.tools.call
    job_id = json.loads(await call("launch_job", {"agent": "writer", "task": str(LARGEST)}))[
        "job_id"
    ]
    await server.client.jobs.wait(job_id, timeout=PATIENCE)
    got = 0
    for part in (LARGEST // 2 - 1, LARGEST // 2 - 1, 2, 0):
        told = json.loads(await call("check_job", {"job_id": job_id, "offset": got}))
        assert len(told["result"]) == part
        got += part
    assert got == LARGEST
    assert len(await call("list_jobs")) < 1_000
    again = json.loads(await call("update_job", {"job_id": job_id, "instructions": "3"}))
    assert again["note"] == "It had ended as SUCCEEDED, and works again."
    await server.client.jobs.wait(job_id, timeout=PATIENCE)
    assert json.loads(await call("check_job", {"job_id": job_id}))["result"] == "xxx"


async def test_the_largest_jobs_are_listed_page_by_page(server: Served) -> None:
    """A few of them are more than one answer holds."""
    client = server.client
    home = (await client.threads.create()).thread_id
    launched = [
        await client.jobs.launch("reporter", LONGEST_TASK, parent_thread_id=home) for _ in range(3)
    ]
    for job in launched:
        done = await finished(client, job)
        assert done.state == SUCCEEDED
        assert done.ByteSize() > 3 * LARGEST
    listed = [job.job_id async for job in client.jobs.list(parent_thread_id=home)]
    assert listed == [job.job_id for job in reversed(launched)]
    watched = client.jobs.watch(parent_thread_id=home, until="done")
    assert {job.job_id async for job in watched} == set(listed)
    with pytest.raises(callboard.ResourceExhausted, match="the answer takes") as refused:
        await client.jobs.wait(listed)
    assert refused.value.reason == "REQUEST_TOO_LARGE"
