"""What must hold when agents, clocks and stops do their worst."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

from callboard import AsyncClient, FailedPrecondition, RunState, text_of
from callboard.v1.job_pb2 import WaitJobsRequest
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.run_pb2 import Delta, Run, WaitRunRequest
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.agents.sync_context import SyncContext
from callboard_server.log.events import EVENT_BYTES
from tests.rpc.refusals import refusal_of
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import local, served, sound_log

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED = RunState.RUN_STATE_CANCELLED


async def finished(client: AsyncClient, run: Run) -> Run:
    return await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)


async def test_an_error_that_utf_8_cannot_hold_ends_the_run(tmp_path: Path) -> None:
    async def odd(ctx: Context) -> None:
        raise AgentError("a lone surrogate: \ud800")

    async with local([odd], tmp_path / "jobs.db") as client:
        ended = await finished(client, await client.runs.create("odd", "go"))
        assert ended.state == FAILED
        assert "a lone surrogate: ?" in ended.outcome.error.message


async def test_a_function_that_raises_stop_iteration_fails(tmp_path: Path) -> None:
    def exhausted(ctx: SyncContext) -> None:
        next(iter(()))

    async with local([exhausted], tmp_path / "jobs.db") as client:
        ended = await finished(client, await client.runs.create("exhausted", "go"))
        assert ended.state == FAILED


async def test_a_cancelled_run_that_streamed_more_than_an_event_ends(tmp_path: Path) -> None:
    written = asyncio.Event()

    async def verbose(ctx: Context) -> None:
        ctx.write_message(0).delta(0, "é" * EVENT_BYTES)
        written.set()
        await asyncio.Event().wait()

    async with local([verbose], tmp_path / "jobs.db") as client:
        run = await client.runs.create("verbose", "go")
        await written.wait()
        await client.runs.cancel(run.run_id)
        ended = await finished(client, run)
        assert ended.state == CANCELLED
        assert ended.outcome.result.incomplete
        assert set(text_of(ended.outcome.result)) == {"é"}


async def test_text_beyond_a_frame_streams_in_pieces_without_a_gap(tmp_path: Path) -> None:
    written = asyncio.Event()
    text = "äb" * (2 << 20)

    async def verbose(ctx: Context) -> None:
        writers = [ctx.write_message(0) for _ in range(4)]
        for writer in writers:
            writer.delta(0, text)
        written.set()
        await asyncio.Event().wait()

    async with local([verbose], tmp_path / "jobs.db") as client:
        run = await client.runs.create("verbose", "go")
        await written.wait()
        said: dict[str, str] = {}
        async with client.threads.stream(run_id=run.run_id, deltas=True) as stream:
            async for item in stream:
                if isinstance(item, Delta):
                    said[item.message_id] = said.get(item.message_id, "") + item.text
                    if list(said.values()) == [text] * 4:
                        break
        await client.runs.cancel(run.run_id)


async def test_a_run_that_falls_due_while_all_slots_are_taken_comes_next(
    tmp_path: Path, gates: Gates
) -> None:
    async with local(gates.agents, tmp_path / "jobs.db", slots=1) as client:
        first = await client.runs.create("worker", "first")
        await gates.entered("first")
        soon = datetime.now(UTC) + timedelta(milliseconds=200)
        due = await client.runs.create("quick", "due", start_after=soon)
        while (await client.runs.get(due.run_id)).waiting_for.kind != WaitingFor.KIND_SLOT:
            await client.server.info()
        gates.open("first")
        assert (await finished(client, first)).state == SUCCEEDED
        assert (await finished(client, due)).state == SUCCEEDED


async def test_launches_of_recorded_steps_are_not_taken_for_others(
    tmp_path: Path, gates: Gates
) -> None:
    db, launched = tmp_path / "jobs.db", asyncio.Event()
    waits = True

    async def boss(ctx: Context) -> list[str]:
        async def launch() -> str:
            return (await ctx.jobs.launch("quick", "same task", notify="none")).job_id

        first = await ctx.step("launch", launch)
        if waits:
            launched.set()
            await asyncio.Event().wait()
        return [first, await launch()]

    async with local([boss, *gates.agents], db) as client:
        run = await client.runs.create("boss", "go")
        await launched.wait()
    waits = False
    async with local([boss, *gates.agents], db) as client:
        assert (await finished(client, run)).state == SUCCEEDED
        jobs = [job.job_id async for job in client.jobs.list(parent_thread_id=run.thread_id)]
        assert len(set(jobs)) == 2
        await client.jobs.wait(jobs)
        await sound_log(client, run.thread_id)


async def test_a_drain_does_not_wait_for_an_agent_that_never_stops(
    tmp_path: Path, gates: Gates
) -> None:
    db = tmp_path / "jobs.db"
    async with local(gates.agents, db) as client:
        run = await client.runs.create("stubborn", "it")
        await gates.entered("it")
    gates.open("it")
    async with local(gates.agents, db) as client:
        ended = await finished(client, run)
        assert (ended.state, ended.attempt) == (SUCCEEDED, 1)
        await sound_log(client, run.thread_id)


async def test_who_waits_for_a_run_is_told_that_the_server_stops(
    tmp_path: Path, gates: Gates
) -> None:
    async with served(gates.agents, tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("stubborn", "it")
        await gates.entered("it")
        job = await server.client.jobs.launch("stubborn", "that")
        await gates.entered("that")
        waits = asyncio.gather(
            refusal_of(server.runs.WaitRun(WaitRunRequest(run_id=run.run_id))),
            refusal_of(server.jobs.WaitJobs(WaitJobsRequest(job_ids=[job.job_id]))),
        )
        draining = asyncio.create_task(server.app.engine.drain())
        for told in await waits:
            assert (told.code, told.reason) == ("UNAVAILABLE", "SERVER_DRAINING")
        gates.open("it")
        gates.open("that")
        await draining


async def test_a_run_that_was_fenced_off_launches_nothing(tmp_path: Path, gates: Gates) -> None:
    refused: asyncio.Future[FailedPrecondition] = asyncio.get_running_loop().create_future()
    entered = asyncio.Event()

    async def deaf(ctx: Context) -> None:
        entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            await ctx.client.runs.wait(ctx.run.run_id, until="done", timeout=PATIENCE)
        try:
            await ctx.jobs.launch("quick", "too late")
        except FailedPrecondition as error:
            refused.set_result(error)

    async with local([deaf, *gates.agents], tmp_path / "jobs.db", grace=0.1) as client:
        run = await client.runs.create("deaf", "go")
        await entered.wait()
        await client.runs.cancel(run.run_id)
        async with asyncio.timeout(PATIENCE):
            assert (await refused).reason == "RUN_OVER"
        assert [job async for job in client.jobs.list()] == []
