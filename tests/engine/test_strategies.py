"""What happens when a thread gets a run and has others."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from callboard import AsyncClient, Conflict, RunState, text_of
from callboard.v1.run_pb2 import Delta, Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.agents.context import Context
from callboard_server.agents.errors import Fenced
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import kinds_of, local, log_of, sound_log

QUEUED, RUNNING = RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_RUNNING
SUCCEEDED, SUPERSEDED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_SUPERSEDED


async def finished(client: AsyncClient, run: Run) -> Run:
    return await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)


async def test_enqueued_runs_start_in_the_order_of_their_admission(
    client: AsyncClient, gates: Gates
) -> None:
    thread = await client.threads.create()
    texts = [f"run {number}" for number in range(5)]
    runs = [await client.runs.create("worker", t, thread_id=thread.thread_id) for t in texts]
    for number, text in enumerate(texts):
        await gates.entered(text)
        behind = [await client.runs.get(run.run_id) for run in runs[number + 1 :]]
        assert {run.state for run in behind} <= {QUEUED}
        assert [list(run.waiting_for.ids) for run in behind] == [
            [run.run_id for run in runs[number : number + 1 + place]]
            for place in range(len(behind))
        ]
        gates.open(text)
    assert [(await finished(client, run)).state for run in runs] == [SUCCEEDED] * 5
    assert gates.order == texts
    await sound_log(client, thread.thread_id)


async def test_reject_refuses_a_busy_thread_and_writes_nothing(
    client: AsyncClient, gates: Gates
) -> None:
    first = await client.runs.create("worker", "first")
    await gates.entered("first")
    before = await log_of(client, first.thread_id)
    with pytest.raises(Conflict) as refused:
        await client.runs.create(
            "worker",
            "second",
            thread_id=first.thread_id,
            values={"a": 1},
            multitask_strategy="reject",
        )
    assert refused.value.reason == "THREAD_BUSY"
    assert refused.value.metadata["run_id"] == first.run_id
    assert await log_of(client, first.thread_id) == before
    gates.open("first", "third")
    await finished(client, first)
    third = await client.runs.create(
        "worker", "third", thread_id=first.thread_id, multitask_strategy="reject"
    )
    assert (await finished(client, third)).state == SUCCEEDED


async def test_interrupt_supersedes_queued_runs_at_once_and_running_ones_after_they_stopped(
    client: AsyncClient, gates: Gates
) -> None:
    running = await client.runs.create("worker", "running")
    thread = running.thread_id
    queued = [await client.runs.create("worker", f"q{n}", thread_id=thread) for n in range(3)]
    await gates.entered("running")
    newest = await client.runs.create(
        "worker", "newest", thread_id=thread, multitask_strategy="interrupt"
    )
    for run in queued:
        ended = await client.runs.get(run.run_id)
        assert ended.state == SUPERSEDED
        assert ended.outcome.error.metadata["run_id"] == newest.run_id
    await gates.entered("newest")
    assert (await client.runs.get(running.run_id)).state == SUPERSEDED
    gates.open("newest")
    assert (await finished(client, newest)).state == SUCCEEDED
    assert gates.order == ["running", "newest"]
    assert gates.cancelled == ["running"]
    log = await sound_log(client, thread)
    assert kinds_of(log, running.run_id)[-2:] == ["run_cancel_requested", "run_finished"]


async def test_an_interrupt_in_the_same_commit_as_the_run_it_supersedes_stops_it(
    client: AsyncClient, gates: Gates
) -> None:
    thread = await client.threads.create()
    runs = await asyncio.gather(
        *(
            client.runs.create(
                "worker", f"run {n}", thread_id=thread.thread_id, multitask_strategy="interrupt"
            )
            for n in range(20)
        )
    )
    gates.open("run 19")
    ends = [await finished(client, run) for run in runs]
    assert [run.state for run in ends] == [SUPERSEDED] * 19 + [SUCCEEDED]
    await sound_log(client, thread.thread_id)


async def test_a_streamed_message_is_committed_as_incomplete_when_its_run_is_superseded(
    tmp_path: Path, gates: Gates
) -> None:
    async def writer(ctx: Context) -> None:
        message = ctx.write_message((await ctx.view()).context_sequence)
        message.delta(0, "Hel")
        message.delta(0, "lö")
        await gates.worker(ctx)

    async with local([writer, *gates.agents], tmp_path / "jobs.db") as client:
        first = await client.runs.create("writer", "first")
        await gates.entered("first")
        second = await client.runs.create(
            "quick", "second", thread_id=first.thread_id, multitask_strategy="interrupt"
        )
        await finished(client, second)
        first = await client.runs.get(first.run_id)
        assert text_of(first.outcome.result) == "Hellö"
        assert first.outcome.result.incomplete
        messages = [m async for m in client.threads.messages(first.thread_id)]
        assert [(text_of(m), m.incomplete) for m in messages] == [
            ("first", False),
            ("second", False),
            ("Hellö", True),
            ("done: second", False),
        ]
        await sound_log(client, first.thread_id)


async def test_an_agent_that_ignores_the_wish_to_stop_is_fenced_and_writes_no_more(
    client: AsyncClient, gates: Gates
) -> None:
    first = await client.runs.create("stubborn", "first")
    context = await gates.entered("first")
    writing = context.write_message(1)
    writing.delta(0, "before")
    second = await client.runs.create(
        "worker", "second", thread_id=first.thread_id, multitask_strategy="interrupt"
    )
    assert (await client.runs.get(first.run_id)).state == RUNNING
    assert not gates.has_entered("second")
    await gates.entered("second")
    fenced = await client.runs.get(first.run_id)
    assert fenced.state == SUPERSEDED
    head = (await client.threads.get(first.thread_id)).head_sequence
    for write in (
        context.say("too late"),
        context.merge_values({"late": True}),
        context.step("late", lambda: 1),
    ):
        with pytest.raises(Fenced):
            await write
    await context.emit("late")
    gates.open("first", "second")
    await finished(client, second)
    log = await sound_log(client, first.thread_id)
    late = [e for e in log if e.sequence > head and e.run_id == first.run_id]
    assert late == []


async def test_a_fenced_agent_shows_nothing_on_streams(client: AsyncClient, gates: Gates) -> None:
    first = await client.runs.create("stubborn", "first")
    context = await gates.entered("first")
    early = context.write_message(1)
    early.delta(0, "seen")
    await client.runs.cancel(first.run_id)
    await finished(client, first)
    await client.runs.create("worker", "second", thread_id=first.thread_id)
    await gates.entered("second")
    with pytest.raises(Fenced):
        early.delta(0, "late")
    with pytest.raises(Fenced):
        context.write_message(1)
    gates.open("second", "first")
    stream = client.threads.stream(first.thread_id, deltas=True, until="done")
    texts = [item.text async for item in stream if isinstance(item, Delta)]
    assert texts == []


async def test_a_run_with_a_start_time_blocks_nobody_until_then(
    client: AsyncClient, gates: Gates
) -> None:
    thread = (await client.threads.create()).thread_id
    soon = datetime.now(UTC) + timedelta(seconds=0.6)
    delayed = await client.runs.create("worker", "delayed", thread_id=thread, start_after=soon)
    assert (await client.threads.get(thread)).state == Thread.STATE_IDLE
    assert delayed.waiting_for.until.ToNanoseconds() > 0
    now = await client.runs.create("worker", "now", thread_id=thread, multitask_strategy="reject")
    context = await gates.entered("now")
    assert [text_of(m) for m in await context.messages()] == ["now"]
    assert not gates.has_entered("delayed")
    gates.open("now")
    await finished(client, now)
    assert (await client.threads.get(thread)).state == Thread.STATE_IDLE
    context = await gates.entered("delayed")
    assert datetime.now(UTC) >= soon
    assert [text_of(m) for m in await context.messages()] == ["now", "done: now", "delayed"]
    gates.open("delayed")
    await finished(client, delayed)
    await sound_log(client, thread)


async def test_delayed_runs_start_in_the_order_of_their_times(
    client: AsyncClient, gates: Gates
) -> None:
    start = datetime.now(UTC)
    runs = [
        await client.runs.create(
            "quick", f"at {tenths}", start_after=start + timedelta(seconds=tenths / 10)
        )
        for tenths in (4, 2, 3)
    ]
    for run in runs:
        await finished(client, run)
    assert gates.order == ["at 2", "at 3", "at 4"]


async def test_a_cancelled_delayed_run_never_starts(client: AsyncClient, gates: Gates) -> None:
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    delayed = await client.runs.create("worker", "delayed", start_after=soon)
    assert (await client.runs.cancel(delayed.run_id)).state == RunState.RUN_STATE_CANCELLED
    later = await client.runs.create("quick", "later", start_after=soon + timedelta(seconds=0.1))
    await finished(client, later)
    assert gates.order == ["later"]
    await sound_log(client, delayed.thread_id)


async def test_a_busy_thread_does_not_hold_back_another(tmp_path: Path, gates: Gates) -> None:
    async with local(gates.agents, tmp_path / "jobs.db", slots=2) as client:
        busy = await client.runs.create("worker", "busy")
        await gates.entered("busy")
        for number in range(20):
            await client.runs.create("worker", f"behind {number}", thread_id=busy.thread_id)
        other = await client.runs.create("worker", "other")
        await gates.entered("other")
        gates.open("other")
        assert (await finished(client, other)).state == SUCCEEDED


async def test_with_one_slot_ready_runs_start_in_the_order_of_their_admission(
    tmp_path: Path, gates: Gates
) -> None:
    async with local(gates.agents, tmp_path / "jobs.db", slots=1) as client:
        busy = await client.runs.create("worker", "0")
        await gates.entered("0")
        await client.runs.create("quick", "1", thread_id=busy.thread_id)
        other = await client.runs.create("quick", "2")
        assert (await client.runs.get(other.run_id)).waiting_for.position == 0
        last = await client.runs.create("quick", "3", thread_id=busy.thread_id)
        third = await client.runs.create("quick", "4")
        assert third.waiting_for.position == 1
        gates.open("0")
        for run in (last, other, third):
            await finished(client, run)
        assert gates.order == ["0", "1", "2", "3", "4"]


async def test_no_more_runs_are_at_work_than_there_are_slots(tmp_path: Path, gates: Gates) -> None:
    at_work = most = 0

    async def counted(ctx: Context) -> None:
        nonlocal at_work, most
        at_work += 1
        most = max(most, at_work)
        await asyncio.sleep(0)
        await ctx.say("here")
        at_work -= 1

    async with local([counted], tmp_path / "jobs.db", slots=3) as client:
        runs = await asyncio.gather(*(client.runs.create("counted", "go") for _ in range(40)))
        ends = [await finished(client, run) for run in runs]
        assert {run.state for run in ends} == {SUCCEEDED}
        assert most == 3
        assert (await client.server.info()).counts.slots_used == 0


async def test_only_one_of_many_callers_that_saw_the_same_state_gets_in(
    client: AsyncClient, gates: Gates
) -> None:
    thread = await client.threads.create("hello")

    async def try_to_run(number: int) -> Run | Conflict:
        try:
            return await client.runs.create(
                "quick",
                f"run {number}",
                thread_id=thread.thread_id,
                expected_thread_sequence=thread.sequence,
            )
        except Conflict as refused:
            return refused

    answers = await asyncio.gather(*(try_to_run(number) for number in range(10)))
    admitted = [answer for answer in answers if isinstance(answer, Run)]
    refused = [answer for answer in answers if isinstance(answer, Conflict)]
    assert (len(admitted), len(refused)) == (1, 9)
    assert {error.reason for error in refused} == {"THREAD_SEQUENCE_MISMATCH"}
    assert int(refused[0].metadata["sequence"]) > thread.sequence
    await finished(client, admitted[0])


async def test_the_input_of_a_queued_run_is_not_seen_by_the_one_at_work(
    client: AsyncClient, gates: Gates
) -> None:
    first = await client.runs.create("worker", "first")
    context = await gates.entered("first")
    second = await client.runs.create("worker", "second", thread_id=first.thread_id)
    await client.threads.update_state(first.thread_id, "aside")
    assert [text_of(m) for m in await context.messages()] == ["first", "aside"]
    gates.open("first")
    context = await gates.entered("second")
    assert [text_of(m) for m in await context.messages()] == [
        "first",
        "aside",
        "done: first",
        "second",
    ]
    gates.open("second")
    await finished(client, second)
