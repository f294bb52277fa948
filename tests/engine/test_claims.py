"""What the code of a run has to itself: the steps and the tool calls that it is in."""

from __future__ import annotations

import asyncio
from pathlib import Path

from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from callboard_server.agents.tools import tool
from tests.support.gates import PATIENCE
from tests.support.serving import local, log_of

RULES = """
[[rule]]
example = "go"
when = "go"
call = [{ tool = "delegate" }]

[[rule]]
after = "delegate"
say = "{result}"
"""


async def test_a_run_has_steps_of_its_own_whoever_starts_it(tmp_path: Path) -> None:
    async def work() -> int:
        return 1

    async def worker(ctx: Context) -> str:
        await ctx.step("work", work)
        return "done"

    async def boss(ctx: Context) -> str:
        async def delegate() -> str:
            return (await ctx.jobs.launch("worker", "it", notify="none")).job_id

        job_id: str = await ctx.step("delegate", delegate)
        await ctx.jobs.wait(job_id)
        return job_id

    async with local([boss, worker], tmp_path / "jobs.db") as client:
        job = await client.jobs.launch("boss", "go")
        await client.jobs.wait(job.job_id, timeout=PATIENCE)
        log = await log_of(client, job.job_id)
        steps = [e.step_recorded for e in log if e.HasField("step_recorded")]
        parents = {step.name: list(step.parents) for step in steps}
        assert parents["work"] == []


async def test_a_tool_that_is_repeated_launches_its_job_once(tmp_path: Path) -> None:
    visits, arrived = list[int](), asyncio.Event()

    @tool(idempotent=True)
    async def delegate(ctx: Context) -> str:
        """Delegates."""
        job = await ctx.jobs.launch("worker", "it", notify="none")
        visits.append(1)
        arrived.set()
        if len(visits) == 1:
            await asyncio.Event().wait()
        return job.job_id

    async def worker(ctx: Context) -> str:
        return "done"

    (tmp_path / "rules.toml").write_text(RULES)
    boss = ChatAgent("offline:rules.toml", tools=[delegate], base=tmp_path)
    agents = {"boss": boss, "worker": worker}
    async with local(agents, tmp_path / "jobs.db", grace=0) as client:
        run = await client.runs.create("boss", "go")
        async with asyncio.timeout(PATIENCE):
            await arrived.wait()
    async with local(agents, tmp_path / "jobs.db") as client:
        run = await client.runs.wait(run.run_id, timeout=PATIENCE)
        jobs = [job async for job in client.jobs.list(parent_thread_id=run.thread_id)]
        assert len(visits) == 2
        assert len(jobs) == 1
