"""Runs that are taken back: nobody sees any more what they wrote, and the log keeps it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient, RunState, text_of, to_dict
from callboard.v1.event_pb2 import Event
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.agents.context import Context
from callboard_server.store.sqlite import admin
from tests.support.following import event_of, over
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import kinds_of, local, log_of, sound_log

SUCCEEDED, SUPERSEDED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_SUPERSEDED
CANCELLED = RunState.RUN_STATE_CANCELLED


@pytest.fixture
async def client(gates: Gates, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async def busy(ctx: Context) -> str:
        """Writes one of everything, and stops at its gate."""
        text = await ctx.input()
        await ctx.say(f"saying {text}")
        await ctx.merge_values({text: "new", "shared": text, "old": None})
        await ctx.step("note", lambda: text)
        await ctx.jobs.launch("worker", f"job of {text}")
        await ctx.emit("noted", text)
        return await gates.worker(ctx)

    async def asks(ctx: Context) -> str:
        await ctx.say("asking")
        await ctx.merge_values({"asked": True})
        await ctx.ask("Shall I?")
        return "answered"

    async with local([busy, asks, *gates.agents], tmp_path / "jobs.db") as client:
        yield client


async def texts(client: AsyncClient, thread_id: str) -> list[str]:
    return [text_of(message) async for message in client.threads.messages(thread_id)]


async def state_of(client: AsyncClient, thread_id: str) -> tuple[list[str], dict[str, Any]]:
    state = await client.threads.state(thread_id)
    assert state.message_count == len(state.messages)
    return [text_of(message) for message in state.messages], to_dict(state.values)


async def jobs_over(client: AsyncClient, thread_id: str) -> None:
    jobs = [job.job_id async for job in client.jobs.list(parent_thread_id=thread_id)]
    if jobs:
        await client.jobs.wait(jobs, timeout=PATIENCE)


async def begun(client: AsyncClient, gates: Gates) -> tuple[str, Run]:
    """A thread with a past, and a run that has written and is at work."""
    first = await client.runs.create("quick", "past", values={"old": 1, "shared": "past"})
    await over(client, first)
    run = await client.runs.create(
        "busy", "first", thread_id=first.thread_id, values={"given": True}
    )
    await gates.entered("job of first")
    # Its gate has the name of the last thing said to it.
    await gates.entered("first")
    return first.thread_id, run


PAST = ["past", "done: past"], {"old": 1, "shared": "past"}


async def test_rollback_takes_back_what_a_run_wrote_and_was_given(
    client: AsyncClient, gates: Gates
) -> None:
    thread, run = await begun(client, gates)
    messages, values = await state_of(client, thread)
    assert messages == [*PAST[0], "first", "saying first"]
    assert values == {"shared": "first", "first": "new", "given": True}
    before = await log_of(client, thread)
    new = await client.runs.create(
        "worker", "new", thread_id=thread, values={"more": 2}, multitask_strategy="rollback"
    )
    context = await gates.entered("new")
    assert (await client.runs.get(run.run_id)).rolled_back
    expected = [*PAST[0], "new"], {**PAST[1], "more": 2}
    assert await state_of(client, thread) == expected
    assert await texts(client, thread) == expected[0]
    assert [text_of(m) for m in await context.messages()] == expected[0]
    assert await context.values() == expected[1]
    gates.open("new")
    assert (await over(client, new)).state == SUCCEEDED
    await jobs_over(client, thread)
    log = await sound_log(client, thread)
    assert log[: len(before)] == before
    [undone] = [e for e in log if e.HasField("runs_rolled_back")]
    assert list(undone.runs_rolled_back.run_ids) == [run.run_id]
    # Who looks at an earlier sequence sees what was there then.
    then = await client.threads.state(thread, at_sequence=before[-1].sequence)
    assert [text_of(m) for m in then.messages] == messages


async def test_jobs_that_it_launched_are_cancelled(client: AsyncClient, gates: Gates) -> None:
    thread, run = await begun(client, gates)
    [job] = [job async for job in client.jobs.list(parent_thread_id=thread)]
    assert job.parent_run_id == run.run_id
    new = await client.runs.create("quick", "new", thread_id=thread, multitask_strategy="rollback")
    [ended] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    assert ended.state == CANCELLED
    await over(client, new)
    await jobs_over(client, thread)
    await sound_log(client, thread)


async def test_jobs_of_others_go_on(client: AsyncClient, gates: Gates) -> None:
    thread, _ = await begun(client, gates)
    other = await client.jobs.launch("worker", "other job", parent_thread_id=thread)
    await gates.entered("other job")
    await client.runs.create("quick", "new", thread_id=thread, multitask_strategy="rollback")
    gates.open("other job")
    [ended] = await client.jobs.wait(other.job_id, timeout=PATIENCE)
    assert ended.state == SUCCEEDED


async def test_a_cancelled_run_is_taken_back_where_that_is_asked_for(
    client: AsyncClient, gates: Gates
) -> None:
    thread, run = await begun(client, gates)
    await client.runs.cancel(run.run_id, rollback=True)
    ended = await over(client, run)
    assert (ended.state, ended.rolled_back) == (CANCELLED, True)
    assert await state_of(client, thread) == PAST
    assert await texts(client, thread) == PAST[0]
    log = await log_of(client, thread)
    again = await client.runs.cancel(run.run_id, rollback=True)
    assert again == ended
    assert [e for e in await log_of(client, thread) if e.run_id == run.run_id] == [
        e for e in log if e.run_id == run.run_id
    ]


async def test_a_finished_run_cannot_be_taken_back(client: AsyncClient) -> None:
    run = await over(client, await client.runs.create("quick", "past"))
    before = await log_of(client, run.thread_id)
    assert await client.runs.cancel(run.run_id, rollback=True) == run
    assert await log_of(client, run.thread_id) == before
    assert await texts(client, run.thread_id) == ["past", "done: past"]


async def test_without_rollback_all_stays(client: AsyncClient, gates: Gates) -> None:
    thread, run = await begun(client, gates)
    await client.runs.cancel(run.run_id)
    await over(client, run)
    messages, values = await state_of(client, thread)
    assert messages == [*PAST[0], "first", "saying first"]
    assert values == {"shared": "first", "first": "new", "given": True}


async def test_what_others_wrote_meanwhile_stays(client: AsyncClient, gates: Gates) -> None:
    thread, run = await begun(client, gates)
    await client.threads.update_state(thread, "aside", values={"shared": "aside", "aside": 1})
    beside = await client.runs.create(
        "quick", "beside", thread_id=thread, multitask_strategy="concurrent"
    )
    await over(client, beside)
    await client.runs.cancel(run.run_id, rollback=True)
    await over(client, run)
    messages, values = await state_of(client, thread)
    assert messages == [*PAST[0], "aside", "beside", "done: beside"]
    assert values == {"old": 1, "shared": "aside", "aside": 1}
    await jobs_over(client, thread)
    await sound_log(client, thread)


async def test_steered_input_is_taken_back_and_wakes_nobody(
    client: AsyncClient, gates: Gates
) -> None:
    thread, run = await begun(client, gates)
    await client.runs.create(
        "busy", "more", thread_id=thread, values={"m": 1}, multitask_strategy="steer"
    )
    await client.runs.cancel(run.run_id, rollback=True)
    await over(client, run)
    assert await state_of(client, thread) == PAST
    assert (await client.threads.get(thread)).state == Thread.STATE_IDLE
    await jobs_over(client, thread)
    await sound_log(client, thread)


async def test_queued_and_asking_runs_are_taken_back_too(client: AsyncClient, gates: Gates) -> None:
    asking = await client.runs.create("asks", "ask")
    thread = asking.thread_id
    await event_of(client, asking, "run_waiting")
    await client.runs.create("worker", "running", thread_id=thread, values={"running": 1})
    await gates.entered("running")
    await client.runs.create("worker", "queued", thread_id=thread, values={"queued": 1})
    new = await client.runs.create(
        "quick",
        "new",
        thread_id=thread,
        multitask_strategy="rollback",
        pending_actions="cancel",
    )
    await over(client, new)
    assert await state_of(client, thread) == (["new", "done: new"], {})
    runs = [run async for run in client.runs.list(thread_id=thread)]
    assert [run.rolled_back for run in runs] == [False, True, True, True]
    await jobs_over(client, thread)
    await sound_log(client, thread)


async def test_an_agent_that_does_not_stop_is_taken_back_when_it_is_fenced(
    client: AsyncClient, gates: Gates
) -> None:
    run = await client.runs.create("stubborn", "first")
    context = await gates.entered("first")
    await context.say("early")
    new = await client.runs.create(
        "worker", "new", thread_id=run.thread_id, multitask_strategy="rollback"
    )
    # Within the grace it may still write; that is taken back as well.
    await context.say("late")
    await gates.entered("new")
    assert await texts(client, run.thread_id) == ["new"]
    gates.open("first", "new")
    await over(client, new)
    log = await sound_log(client, run.thread_id)
    assert kinds_of(log).count("runs_rolled_back") == 1


async def test_readers_of_the_stream_keep_what_they_read_and_learn_of_the_rollback(
    client: AsyncClient, gates: Gates
) -> None:
    thread, run = await begun(client, gates)

    async def read() -> list[str]:
        async with client.threads.stream(thread, until="done") as stream:
            return [
                str(item.WhichOneof("payload"))
                async for item in stream
                if isinstance(item, Event) and item.thread_id == thread
            ]

    reading = asyncio.create_task(read())
    await client.runs.cancel(run.run_id, rollback=True)
    await over(client, run)
    kinds = await asyncio.wait_for(reading, PATIENCE)
    assert kinds.index("run_finished") < kinds.index("thread_idle")
    assert "runs_rolled_back" in kinds
    assert kinds.count("message_added") == 4


async def test_rows_are_what_the_log_comes_to_and_a_restart_changes_nothing(
    tmp_path: Path, gates: Gates
) -> None:
    db = tmp_path / "restarted.db"

    async def writes(ctx: Context) -> str:
        await ctx.merge_values({"a": 1, "b": {"c": 2}})
        await ctx.say("said")
        return await gates.worker(ctx)

    async with local([writes, *gates.agents], db) as client:
        past = await client.runs.create("quick", "past", values={"b": {"d": 3}})
        await over(client, past)
        run = await client.runs.create("writes", "first", thread_id=past.thread_id)
        await gates.entered("first")
        await client.runs.cancel(run.run_id, rollback=True)
        await over(client, run)
        expected = await state_of(client, past.thread_id)
    assert expected == (["past", "done: past"], {"b": {"d": 3}})
    assert admin.check(str(db)) == []
    async with local([writes, *gates.agents], db) as client:
        assert await state_of(client, past.thread_id) == expected


async def test_a_run_that_is_about_to_stop_is_taken_back_too(
    client: AsyncClient, gates: Gates
) -> None:
    run = await client.runs.create("stubborn", "first")
    await gates.entered("first")
    await client.runs.create(
        "worker", "second", thread_id=run.thread_id, multitask_strategy="interrupt"
    )
    third = await client.runs.create(
        "quick", "third", thread_id=run.thread_id, multitask_strategy="rollback"
    )
    await over(client, third)
    assert await texts(client, run.thread_id) == ["third", "done: third"]
