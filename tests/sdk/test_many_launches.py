"""A thousand jobs at once, from one program: all are done, and each is told of once."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard import AsyncClient, AsyncSupervisor, RunState, text_of
from tests.support.memory import MEGABYTE, peak_bytes
from tests.support.process import ServerProcess
from tests.support.serving import sound_log

JOBS, FEWER = 1_000, 250
PATIENCE = 100.0
"""Seconds that a call may take on a machine that has other things to do."""
MEMORY = 100 * MEGABYTE
"""How much more of it the server may take than at its start."""
pytestmark = pytest.mark.timeout(2 * PATIENCE)
AGENTS = """
async def echo(ctx):
    return f"done: {await ctx.input()}"
"""


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    (tmp_path / "agents.py").write_text(AGENTS)
    config = tmp_path / "callboard.toml"
    config.write_text('[agents.echo]\nentrypoint = "agents.py:echo"\n')
    process = ServerProcess(config, tmp_path / "jobs.db")
    try:
        await process.start()
        before = peak_bytes(process.program.pid)
        yield process
        assert peak_bytes(process.program.pid) - before < MEMORY
    finally:
        await process.clean_up()


async def test_launched_by_one_client(process: ServerProcess) -> None:
    async with AsyncClient(process.address, timeout=PATIENCE) as client:
        launches = (client.jobs.launch("echo", str(number)) for number in range(JOBS))
        launched = [job.job_id for job in await asyncio.gather(*launches)]
        done = await client.jobs.wait(launched)
    assert len(set(launched)) == JOBS
    assert {job.state for job in done} == {RunState.RUN_STATE_SUCCEEDED}
    results = [text_of(job.outcome.result) for job in done]
    assert results == [f"done: {number}" for number in range(JOBS)]


async def test_launched_by_the_tools_of_one_home(process: ServerProcess) -> None:
    async with AsyncClient(process.address, timeout=PATIENCE) as client:
        supervisor = await client.supervisor("many")
        told = asyncio.create_task(tell(supervisor))
        calls = (
            supervisor.tools.call("launch_job", {"agent": "echo", "task": str(n)}, call_id=str(n))
            for n in range(FEWER)
        )
        answers = await asyncio.gather(*calls)
        assert [answer for answer in answers if answer.is_error] == []
        launched = [json.loads(answer)["job_id"] for answer in answers]
        assert await told == Counter(launched)
        async with supervisor.notices(follow=False) as rest:
            assert [notice async for notice in rest] == []
        listed = json.loads(await supervisor.tools.call("list_jobs", {"state": "finished"}))
        assert listed["count"] == len(set(launched)) == FEWER
        await sound_log(client, supervisor.thread_id)


async def tell(supervisor: AsyncSupervisor) -> Counter[str]:
    """How often a program is told of each job, until it was told as often as there are jobs."""
    told: Counter[str] = Counter()
    async with supervisor.notices() as notices:
        async for notice in notices:
            told[notice.job_id] += 1
            if told.total() == FEWER:
                await notice.done()
                break
    return told
