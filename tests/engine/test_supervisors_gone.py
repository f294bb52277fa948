"""A supervisor whose agent is gone when its jobs end, and which may come back later."""

from __future__ import annotations

from pathlib import Path

import pytest

from callboard import AsyncClient, RunState, text_of
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import RunTrigger
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.run_pb2 import Run
from callboard_server.agents.context import Context
from callboard_server.engine import notices
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import local, sound_log
from tests.support.waiting import until

QUEUED, FAILED = RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_FAILED
INBOX = RunTrigger.RUN_TRIGGER_INBOX


async def boss(ctx: Context) -> str:
    """Launches a worker for each word, and says of how many jobs it was told so far."""
    told = [message for message in await ctx.messages() if message.notice_id]
    if ctx.run.trigger != INBOX and not told:
        for word in (await ctx.input()).split():
            await ctx.jobs.launch("worker", word, notify="outcome")
    return f"told of {len(told)}"


@pytest.fixture
async def db(tmp_path: Path, gates: Gates) -> Path:
    """A database with a supervisor and two jobs, whose server was stopped."""
    async with local([boss, *gates.agents], tmp_path / "jobs.db") as client:
        run = await client.runs.create("boss", "one two")
        await client.runs.wait(run.run_id, timeout=PATIENCE)
        await gates.entered("one")
        await gates.entered("two")
    gates.open("one", "two")
    return tmp_path / "jobs.db"


async def home_of(client: AsyncClient) -> str:
    [thread] = [thread async for thread in client.threads.list()]
    return thread.thread_id


async def wake_ups(client: AsyncClient) -> list[Run]:
    """The runs that were queued for notices, newest first."""
    found = client.runs.list(thread_id=await home_of(client))
    return [run async for run in found if run.trigger == INBOX]


async def unread(client: AsyncClient) -> int:
    return (await client.threads.get(await home_of(client))).unread_notice_count


async def last_words(client: AsyncClient, run: Run) -> str:
    run = await client.runs.wait(run.run_id, timeout=PATIENCE)
    return text_of(run.outcome.result)


async def test_it_is_tried_so_often_and_hears_all_with_the_next_input(
    db: Path, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "PAUSE", 0.0)
    async with local(gates.agents, db) as client:

        async def is_given_up() -> bool:
            is_told = await unread(client) == 2
            return is_told and all(run.state == FAILED for run in await wake_ups(client))

        await until(is_given_up)
        tried = await wake_ups(client)
        # So often for each of the two at the most.
        assert notices.MOST_WAKES <= len(tried) <= 2 * notices.MOST_WAKES
        for run in tried:
            assert run.outcome.error.reason == ErrorReason.ERROR_REASON_AGENT_GONE
    async with local([boss, *gates.agents], db) as client:
        home = await home_of(client)
        run = await client.runs.create("boss", "and?", thread_id=home)
        assert await last_words(client, run) == "told of 2"
        assert await unread(client) == 0
        await sound_log(client, home)
    assert admin.check(str(db)) == []


async def test_it_hears_all_when_it_comes_back_in_time(
    db: Path, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notices, "PAUSE", 3_600.0)
    async with local(gates.agents, db) as client:

        async def is_put_off() -> bool:
            is_told = await unread(client) == 2
            [last, *_] = await wake_ups(client) or [Run()]
            return is_told and last.waiting_for.kind == WaitingFor.KIND_TIMER

        await until(is_put_off)
    async with local([boss, *gates.agents], db) as client:
        home = await home_of(client)
        [late] = [run for run in await wake_ups(client) if run.state == QUEUED]
        # What is new is told at once, and all the rest along with it.
        job = await client.jobs.launch("quick", "new", parent_thread_id=home)
        await client.jobs.wait(job.job_id, timeout=PATIENCE)
        assert await last_words(client, late) == "told of 3"
        assert await unread(client) == 0
        await sound_log(client, home)
    assert admin.check(str(db)) == []
