"""How runs end: cancelled, timed out, failed; and what is left of them."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient, ErrorReason, NotFound, RunState, WaitTimeout, text_of
from callboard.v1.message_pb2 import ContentBlock, Text
from callboard.v1.run_pb2 import Run
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.agents.sync_context import SyncContext
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import kinds_of, local, log_of, sound_log
from tests.support.waiting import a_wait_to_begin

CANCELLED, TIMED_OUT = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_TIMED_OUT
SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
SECRET = "sk-do-not-tell"


async def finished(client: AsyncClient, run: Run) -> Run:
    return await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)


async def test_cancelling_a_running_run_stops_its_code(client: AsyncClient, gates: Gates) -> None:
    run = await client.runs.create("worker", "it")
    await gates.entered("it")
    asked = await client.runs.cancel(run.run_id)
    assert asked.cancel_requested
    ended = await finished(client, run)
    assert (ended.state, ended.outcome.error.reason) == (
        CANCELLED,
        ErrorReason.ERROR_REASON_CANCELLED,
    )
    assert gates.cancelled == ["it"]
    log = await sound_log(client, run.thread_id)
    assert kinds_of(log)[-2:] == ["run_finished", "thread_idle"]


async def test_cancelling_a_queued_run_ends_it_at_once(client: AsyncClient, gates: Gates) -> None:
    first = await client.runs.create("worker", "first")
    await gates.entered("first")
    second = await client.runs.create("worker", "second", thread_id=first.thread_id)
    assert (await client.runs.cancel(second.run_id)).state == CANCELLED
    gates.open("first")
    assert (await finished(client, first)).state == SUCCEEDED
    assert gates.order == ["first"]
    await sound_log(client, first.thread_id)


@pytest.mark.parametrize("agent", ["worker", "quick"])
async def test_cancelling_again_changes_nothing(
    client: AsyncClient, gates: Gates, agent: str
) -> None:
    run = await client.runs.create(agent, "it")
    await gates.entered("it")
    if agent == "quick":
        await finished(client, run)
    await client.runs.cancel(run.run_id)
    ended = await finished(client, run)
    before = await log_of(client, run.thread_id)
    assert await client.runs.cancel(run.run_id, cascade=True) == ended
    assert await log_of(client, run.thread_id) == before
    assert ended.state == (CANCELLED if agent == "worker" else SUCCEEDED)


async def test_cancelling_a_run_in_the_commit_that_starts_it_stops_it(
    client: AsyncClient, gates: Gates
) -> None:
    runs = await asyncio.gather(*(client.runs.create("worker", f"{n}") for n in range(20)))
    await asyncio.gather(*(client.runs.cancel(run.run_id) for run in runs))
    for run in runs:
        assert (await finished(client, run)).state == CANCELLED


async def test_a_message_whose_commit_is_cancelled_stands_once(tmp_path: Path) -> None:
    async def writer(ctx: Context) -> None:
        message = ctx.write_message((await ctx.view()).context_sequence)
        message.delta(0, "half")
        cancelling = asyncio.create_task(ctx.client.runs.cancel(ctx.run.run_id))
        await asyncio.sleep(0)
        await message.commit([ContentBlock(text=Text(text="half and whole"))])
        await cancelling

    async with local([writer], tmp_path / "jobs.db") as client:
        run = await client.runs.create("writer", "go")
        assert (await finished(client, run)).state == CANCELLED
        messages = [m async for m in client.threads.messages(run.thread_id)]
        ids = [message.message_id for message in messages]
        assert len(ids) == len(set(ids))


async def test_a_run_that_uses_up_its_timeout_is_timed_out(
    client: AsyncClient, gates: Gates
) -> None:
    run = await client.runs.create("worker", "it", timeout=0.05)
    ended = await finished(client, run)
    assert (ended.state, ended.outcome.error.reason) == (
        TIMED_OUT,
        ErrorReason.ERROR_REASON_RUN_TIMEOUT,
    )
    assert gates.cancelled == ["it"]
    await sound_log(client, run.thread_id)


async def test_the_time_in_the_queue_does_not_count_towards_the_timeout(
    client: AsyncClient, gates: Gates
) -> None:
    first = await client.runs.create("worker", "first")
    second = await client.runs.create("worker", "second", thread_id=first.thread_id, timeout=0.3)
    await gates.entered("first")
    await asyncio.sleep(0.35)
    gates.open("first")
    await gates.entered("second")
    gates.open("second")
    assert (await finished(client, second)).state == SUCCEEDED


async def test_an_agent_that_ignores_its_timeout_is_fenced(
    client: AsyncClient, gates: Gates
) -> None:
    run = await client.runs.create("stubborn", "it", timeout=0.05)
    assert (await finished(client, run)).state == TIMED_OUT
    await sound_log(client, run.thread_id)


async def test_only_what_an_agent_means_to_tell_is_told(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    async def leaky(ctx: Context) -> None:
        await ctx.say("first words")
        raise RuntimeError(SECRET)

    async def clear(ctx: Context) -> None:
        raise AgentError("the folder is empty")

    async with local([leaky, clear], tmp_path / "jobs.db") as client:
        run = await finished(client, await client.runs.create("leaky", "go"))
        assert run.state == FAILED
        assert "RuntimeError at test_endings.py" in run.outcome.error.message
        assert text_of(run.outcome.result) == "first words"
        log = await sound_log(client, run.thread_id)
        assert SECRET not in "".join(map(str, log))
        told = await finished(client, await client.runs.create("clear", "go"))
        assert told.outcome.error.message == "the folder is empty"
    logged = "".join(capfd.readouterr())
    assert SECRET not in logged
    assert all(SECRET.encode() not in path.read_bytes() for path in tmp_path.glob("jobs.db*"))


class Weird(BaseException):
    pass


@pytest.mark.parametrize("error", [SystemExit(3), Weird(SECRET), asyncio.CancelledError()])
@pytest.mark.parametrize("plain", [False, True])
async def test_whatever_an_agent_raises_ends_its_run_and_nothing_else(
    tmp_path: Path, error: BaseException, plain: bool
) -> None:
    async def agent(ctx: Context) -> None:
        raise error

    def plain_agent(ctx: SyncContext) -> None:
        raise error

    async def fine(ctx: Context) -> str:
        return "fine"

    async with local([agent, plain_agent, fine], tmp_path / "jobs.db") as client:
        run = await client.runs.create("plain_agent" if plain else "agent", "go")
        ended = await finished(client, run)
        assert ended.state == FAILED
        assert SECRET not in str(ended)
        assert (await finished(client, await client.runs.create("fine", "go"))).state == SUCCEEDED


async def test_what_an_agent_may_not_write_fails_the_run(tmp_path: Path) -> None:
    huge = "x" * (5 << 20)

    async def says(ctx: Context) -> None:
        await ctx.say(huge)

    async def returns(ctx: Context) -> str:
        return huge

    async def emits(ctx: Context) -> None:
        await ctx.emit("huge", huge)

    async def merges(ctx: Context) -> None:
        await ctx.merge_values({"huge": huge})

    async def steps(ctx: Context) -> None:
        await ctx.step("huge", lambda: huge)

    async def raises(ctx: Context) -> None:
        raise AgentError(huge)

    async def progresses(ctx: Context) -> None:
        await ctx.progress(huge)

    async def no_number(ctx: Context) -> None:
        await ctx.merge_values({"a": float("nan")})

    async def surrogate(ctx: Context) -> None:
        await ctx.say("\ud800")

    async def unshowable(ctx: Context) -> Any:
        return object()

    agents = [says, returns, emits, merges, steps, raises, progresses, no_number, surrogate]
    async with local([*agents, unshowable], tmp_path / "jobs.db") as client:
        for agent in [*agents, unshowable]:
            run = await finished(client, await client.runs.create(agent.__name__, "go"))
            assert run.state == FAILED, agent.__name__
            log = await sound_log(client, run.thread_id)
            assert max(event.ByteSize() for event in log) <= 4 << 20, agent.__name__


async def test_plain_functions_run_beside_each_other_and_within_steps(tmp_path: Path) -> None:
    together = threading.Barrier(12)

    def meet() -> str:
        together.wait(PATIENCE)
        return threading.current_thread().name

    def outer(ctx: SyncContext) -> str:
        return ctx.step("outer", lambda: ctx.step("inner", meet))

    async with local([outer], tmp_path / "jobs.db") as client:
        runs = [await client.runs.create("outer", "go") for _ in range(12)]
        ends = [await finished(client, run) for run in runs]
        assert {run.state for run in ends} == {SUCCEEDED}


async def test_a_plain_function_learns_that_it_shall_stop(tmp_path: Path) -> None:
    entered, released, heard = threading.Event(), threading.Event(), threading.Event()

    def blocked(ctx: SyncContext) -> None:
        entered.set()
        released.wait(PATIENCE)
        try:
            ctx.check_cancelled()
        except BaseException:
            heard.set()
            raise
        ctx.say("never")

    async with local([blocked], tmp_path / "jobs.db") as client:
        run = await client.runs.create("blocked", "go")
        await asyncio.to_thread(entered.wait, PATIENCE)
        await client.runs.cancel(run.run_id)
        assert (await finished(client, run)).state == CANCELLED
        released.set()
        assert await asyncio.to_thread(heard.wait, PATIENCE)
        await sound_log(client, run.thread_id)


async def test_a_wait_that_runs_out_shows_how_the_run_stands_then(
    tmp_path: Path, gates: Gates
) -> None:
    async with local(gates.agents, tmp_path / "jobs.db", slots=1) as client:
        blocker = await client.runs.create("worker", "blocker")
        await gates.entered("blocker")
        run = await client.runs.create("worker", "it")
        async with a_wait_to_begin():
            waiting = asyncio.create_task(client.runs.wait(run.run_id, timeout=0.5))
        gates.open("blocker")
        await gates.entered("it")
        with pytest.raises(WaitTimeout) as over:
            await waiting
        assert over.value.latest[0].state == RunState.RUN_STATE_RUNNING
        gates.open("it")
        await finished(client, run)
        await finished(client, blocker)


async def test_a_wait_for_a_run_whose_thread_is_deleted_ends(
    client: AsyncClient, gates: Gates
) -> None:
    run = await client.runs.create("worker", "it")
    await gates.entered("it")
    async with a_wait_to_begin():
        waiting = asyncio.create_task(client.runs.wait(run.run_id, timeout=PATIENCE))
    await client.threads.delete(run.thread_id)
    with pytest.raises(NotFound):
        async with asyncio.timeout(3):
            await waiting


async def test_a_step_returns_the_same_at_first_and_when_repeated(tmp_path: Path) -> None:
    async def stepping(ctx: Context) -> str:
        return str(await ctx.step("pair", lambda: (1, {2: "two"})))

    async with local([stepping], tmp_path / "jobs.db") as client:
        run = await finished(client, await client.runs.create("stepping", "go"))
        assert text_of(run.outcome.result) == "[1, {'2': 'two'}]"
