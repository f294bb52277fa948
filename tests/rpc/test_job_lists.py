"""Lists of jobs: how much they say of each, and their pages."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard import AsyncClient, Job, RunState
from callboard.v1.job_pb2 import JOB_VIEW_BASIC, JOB_VIEW_FULL, ListJobsRequest
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.log.events import EVENT_BYTES
from callboard_server.services import paging
from callboard_server.store.base import Page
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import Served, served

LONG = "x" * (EVENT_BYTES - 1_000)


async def writer(ctx: Context) -> str:
    """Writes much."""
    await ctx.progress("Writing", current=1, total=2)
    return LONG


async def breaker(ctx: Context) -> str:
    """Writes, and fails then."""
    await ctx.say("half of it")
    raise AgentError("the pencil broke")


@pytest.fixture
async def server(gates: Gates, tmp_path: Path) -> AsyncIterator[Served]:
    async with served([*gates.agents, writer, breaker], tmp_path / "jobs.db") as server:
        yield server


async def launch(client: AsyncClient, home: str, agent: str, task: str = "go") -> str:
    """Launches a job of which nobody is told, so that nobody wakes."""
    job = await client.jobs.launch(
        agent, task, parent_thread_id=home, labels={"by": agent}, notify="none"
    )
    return job.job_id


async def test_a_basic_view_leaves_out_results_and_nothing_else(
    server: Served, gates: Gates
) -> None:
    client = server.client
    home = (await client.threads.create()).thread_id
    over = [await launch(client, home, agent) for agent in ("writer", "breaker", "quick")]
    await client.jobs.wait(over, timeout=PATIENCE)
    await launch(client, home, "worker", "runs")
    await gates.entered("runs")
    whole = [job async for job in client.jobs.list(parent_thread_id=home, view="full")]
    assert whole == [job async for job in client.jobs.list(parent_thread_id=home)]
    basic = [job async for job in client.jobs.list(parent_thread_id=home, view="basic")]
    assert basic == [without_result(job) for job in whole]
    assert [job.HasField("outcome") for job in basic] == [False, True, True, True]
    running, _, failed, succeeded = basic
    assert running.state == RunState.RUN_STATE_RUNNING
    assert failed.outcome.error.message == "the pencil broke"
    assert succeeded.state == RunState.RUN_STATE_SUCCEEDED
    assert succeeded.progress.total == 2
    assert [job.outcome.HasField("result") for job in whole] == [False, True, True, True]
    # What was listed is as it was.
    assert await client.jobs.get(over[0]) == whole[-1]


def without_result(job: Job) -> Job:
    bare = Job()
    bare.CopyFrom(job)
    if bare.HasField("outcome"):
        bare.outcome.ClearField("result")
    return bare


async def test_a_page_of_the_basic_view_is_not_full_of_results(server: Served) -> None:
    home = (await server.client.threads.create()).thread_id
    jobs = [await launch(server.client, home, "writer") for _ in range(4)]
    await server.client.jobs.wait(jobs[:2], timeout=PATIENCE)
    await server.client.jobs.wait(jobs[2:], timeout=PATIENCE)
    request = ListJobsRequest(parent_thread_id=home, page_size=1000, view=JOB_VIEW_BASIC)
    page = await server.jobs.ListJobs(request)
    assert [job.job_id for job in page.jobs] == jobs[::-1]
    assert page.next_page_token == ""
    request.view = JOB_VIEW_FULL
    page = await server.jobs.ListJobs(request)
    assert 0 < len(page.jobs) < len(jobs)
    assert page.next_page_token


async def test_pages_end_and_begin_wherever_parts_of_them_do(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A page is read in parts: none of their borders loses a job, or has one twice."""
    client = server.client
    home = (await client.threads.create()).thread_id
    launched = [await launch(client, home, "quick") for _ in range(9)]
    await launch(client, (await client.threads.create()).thread_id, "quick")
    monkeypatch.setattr(paging, "_PART", 3)
    for size in range(1, 12):
        pages = await pages_of(server, ListJobsRequest(parent_thread_id=home, page_size=size))
        assert [job for page in pages for job in page] == launched[::-1]
        assert {len(page) for page in pages[:-1]} <= {size}
    # Pages that are full before they have as many jobs as they may.
    monkeypatch.setattr(paging, "PAGE_BYTES", 1)
    pages = await pages_of(server, ListJobsRequest(parent_thread_id=home))
    assert pages == [[job] for job in launched[::-1]]


async def pages_of(server: Served, request: ListJobsRequest) -> list[list[str]]:
    pages = []
    async with asyncio.timeout(PATIENCE):
        while True:
            page = await server.jobs.ListJobs(request)
            pages.append([job.job_id for job in page.jobs])
            if not page.next_page_token:
                return pages
            request.page_token = page.next_page_token


async def test_no_page_looks_at_many_large_rows_to_show_few() -> None:
    looked: list[Page] = []

    async def look(part: Page) -> list[tuple[int, Job]]:
        looked.append(part)
        newest = 1_000 if part.before is None else part.before - 1
        return [(newest - n, Job(task=LONG)) for n in range(part.limit)]

    shown, token = await paging.gather(ListJobsRequest(page_size=1_000), look)
    assert len(shown) == 1
    assert token
    [part] = looked
    assert part.limit < 50
