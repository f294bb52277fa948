"""Notices outlive kills of their server, wherever it stands: none is lost, none comes twice."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard import AsyncClient, RunState
from callboard.v1.event_pb2 import RunTrigger
from callboard_server import faults
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE
from tests.support.process import ServerProcess
from tests.support.serving import sound_log

AGENTS = """
import asyncio

INBOX = 3


async def boss(ctx):
    if ctx.run.trigger == INBOX:
        await asyncio.sleep(0.05)
        return f"heard {len([m for m in await ctx.messages() if m.notice_id])}"
    for number in range(4):
        await ctx.jobs.launch("worker", str(number), notify="outcome")


async def worker(ctx):
    await ctx.sleep(0.1 * int(await ctx.input()))
    return "done"
"""
CONFIG = "[server]\nslots = 4\ngrace = 0.1\n" + "".join(
    f'[agents.{name}]\nentrypoint = "notices_agents.py:{name}"\n' for name in ("boss", "worker")
)
JOBS = 4


@pytest.fixture
async def folder(tmp_path: Path) -> Path:
    (tmp_path / "notices_agents.py").write_text(AGENTS)
    (tmp_path / "callboard.toml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
async def servers(folder: Path) -> AsyncIterator[list[ServerProcess]]:
    """Servers on the same file that kill themselves at a point each, and one that does not."""
    points = ("before_commit:12", "after_commit:7", "claimed:3", "")
    servers = [
        ServerProcess(
            folder / "callboard.toml", folder / "jobs.db", {faults.VARIABLE: point}, str(number)
        )
        for number, point in enumerate(points)
    ]
    yield servers
    for server in servers:
        await server.clean_up()


async def test_kills_between_launch_and_answer_lose_no_notice_and_double_none(
    servers: list[ServerProcess], folder: Path
) -> None:
    *doomed, last = servers
    first = doomed[0]
    await first.start()
    async with AsyncClient(first.address) as client:
        thread = (await client.threads.create()).thread_id
        await client.runs.create("boss", "go", thread_id=thread, request_id="the run")
        async with asyncio.timeout(PATIENCE):
            assert await first.gone() == -signal.SIGKILL
    for server in doomed[1:]:
        server.spawn()
        async with asyncio.timeout(PATIENCE):
            assert await server.gone() == -signal.SIGKILL
    await last.start()
    async with AsyncClient(last.address) as client:
        await settled(client, thread)
        log = await sound_log(client, thread)
    told = Counter(e.notice_added.notice.job_id for e in log if e.HasField("notice_added"))
    launched = [e.thread_id for e in log if e.HasField("job_launched")]
    assert told == Counter(launched)
    assert len(launched) == JOBS
    woken = [e.run_id for e in log if e.run_created.trigger == RunTrigger.RUN_TRIGGER_INBOX]
    assert 1 <= len(woken) <= JOBS
    assert admin.check(str(folder / "jobs.db")) == []


async def settled(client: AsyncClient, thread: str) -> None:
    """Waits until all runs are over and all notices are read."""
    async with asyncio.timeout(PATIENCE):
        async for _ in client.threads.stream(thread, scope="session", until="never"):
            runs = [run async for run in client.runs.list()]
            are_over = all(run.state >= RunState.RUN_STATE_SUCCEEDED for run in runs)
            home = await client.threads.get(thread)
            if are_over and len(runs) > JOBS + 1 and not home.unread_notice_count:
                return
