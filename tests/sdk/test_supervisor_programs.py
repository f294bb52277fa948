"""Supervisors that are programs of their own: killed at the worst moment, or two with one home."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard import AsyncClient
from callboard._async.supervisors import home_of
from tests.support.gates import PATIENCE, Gates
from tests.support.proxy import relayed
from tests.support.serving import Served, kinds_of, served, sound_log
from tests.support.supervising import NAME, Programs, programs

HOME = home_of(NAME)


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    gates = Gates()
    yield gates
    gates.close()


@pytest.fixture
async def server(gates: Gates, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(gates.agents, tmp_path / "jobs.db") as server:
        yield server


@pytest.fixture
def address(server: Served) -> str:
    return f"127.0.0.1:{server.port}"


@pytest.fixture
async def supervisors() -> AsyncIterator[Programs]:
    async with programs() as started:
        yield started


async def launched(client: AsyncClient) -> str:
    """The id of the home's first job, once it is launched."""
    watch = client.jobs.watch(parent_thread_id=HOME)
    async with asyncio.timeout(PATIENCE), watch as changes:
        async for job in changes:
            return job.job_id
    raise AssertionError("a watch without an end ended")


async def test_one_that_is_killed_between_launch_and_answer_has_launched_once(
    server: Served, address: str, gates: Gates, supervisors: Programs
) -> None:
    async with relayed(server.port) as (proxy, detour):
        first = await supervisors.start(detour)
        proxy.stall()
        first.begin("launch_job", "call_0", agent="worker", task="one")
        job_id = await launched(server.client)
        await first.kill()
    gates.open("one")
    await server.client.jobs.wait(job_id, timeout=PATIENCE)
    second = await supervisors.start(address)
    # It has the model's call in its conversation, and no result: it makes the call again.
    again = await second.call("launch_job", "call_0", agent="worker", task="one")
    assert again["job_id"] == job_id
    assert (await second.call("check_job", job_id=job_id))["result"] == "done: one"
    assert (await second.call("list_jobs"))["count"] == 1
    assert gates.order == ["one"]
    assert await second.listen() == ["worker", "one", "done: one"]
    await sound_log(server.client, HOME)


async def test_one_that_is_killed_before_the_answer_to_an_update_has_updated_once(
    server: Served, address: str, gates: Gates, supervisors: Programs
) -> None:
    first = await supervisors.start(address)
    job_id = (await first.call("launch_job", "call_0", agent="worker", task="one"))["job_id"]
    await gates.entered("one")
    await first.kill()
    async with relayed(server.port) as (proxy, detour):
        second = await supervisors.start(detour)
        second.begin("update_job", "call_1", job_id=job_id, instructions="two")
        await gates.entered("two")
        proxy.stall()
        await second.kill()
    third = await supervisors.start(address)
    await third.call("update_job", "call_1", job_id=job_id, instructions="two")
    gates.open("two")
    await server.client.jobs.wait(job_id, timeout=PATIENCE)
    job = await server.client.jobs.get(job_id)
    assert (job.run_count, gates.order) == (2, ["one", "two"])
    assert await third.listen() == ["worker", "one", "done: two"]
    log = await sound_log(server.client, HOME)
    assert kinds_of(log).count("notice_added") == 1


async def test_two_with_one_home_share_its_jobs_and_mark_each_notice_once(
    server: Served, address: str, gates: Gates, supervisors: Programs
) -> None:
    here, there = await asyncio.gather(*(supervisors.start(address) for _ in range(2)))
    calls = [each.call("launch_job", "call_0", agent="quick", task="one") for each in (here, there)]
    first, second = await asyncio.gather(*calls)
    assert first["job_id"] == second["job_id"]
    other = (await there.call("launch_job", "call_1", agent="worker", task="two"))["job_id"]
    for each in (here, there):
        listed = (await each.call("list_jobs"))["jobs"]
        assert [job["job_id"] for job in listed] == [first["job_id"], other]
    await server.client.jobs.wait(first["job_id"], timeout=PATIENCE)
    for each in (here, there):
        assert await each.listen() == ["quick", "one", "done: one"]
    gates.open("two")
    await server.client.jobs.wait(other, timeout=PATIENCE)
    for each in (here, there):
        assert await each.next() == ["worker", "two", "done: two"]
    await here.kill()
    again = await supervisors.start(address)
    await again.call("launch_job", agent="quick", task="three")
    # The other program has marked it, whose turn it was to.
    assert await there.next() == ["quick", "three", "done: three"]
    assert await again.listen() == ["quick", "three", "done: three"]
    log = await sound_log(server.client, HOME)
    read = Counter(notice for event in log for notice in event.notices_read.notice_ids)
    assert list(read.values()) == [1, 1]
