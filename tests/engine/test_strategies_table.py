"""Every cell of the table of strategies: what a new run does to one that is there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, get_args

import pytest

from callboard import AsyncClient, Conflict, InvalidArgument, RunState, text_of, to_dict
from callboard._enums import MultitaskName
from callboard.v1.event_pb2 import ActionClosed, ActionResponse, Event
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.run_pb2 import Run
from callboard_server.agents.context import Context
from tests.support.following import event_of, over
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import local, log_of, sound_log

QUEUED, RUNNING = RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_RUNNING
WAITING, REQUIRES_ACTION = RunState.RUN_STATE_WAITING, RunState.RUN_STATE_REQUIRES_ACTION
SUCCEEDED, SUPERSEDED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_SUPERSEDED
CANCELLED = RunState.RUN_STATE_CANCELLED

STRATEGIES = get_args(MultitaskName)
STATES = {"waiting": WAITING, "asking": REQUIRES_ACTION, "delayed": QUEUED}
"""The states of runs that are in nobody's way."""
HAVE_CANCEL = ("interrupt", "rollback")
HOUR = timedelta(hours=1)


@pytest.fixture
async def client(gates: Gates, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async def crew(ctx: Context) -> str:
        text = await ctx.input()
        match text:
            case "asking":
                return f"asked: {await ctx.ask('Shall I?')}"
            case "waiting":
                [job] = await ctx.jobs.wait(await ctx.jobs.launch("crew", "child"))
                return f"waited: {text_of(job.outcome.result)}"
        return await gates.worker(ctx)

    async with local([crew, *gates.agents], tmp_path / "jobs.db") as client:
        yield client


async def parked(client: AsyncClient, state: str) -> Run:
    """A run, alone on its thread, in one of `STATES`."""
    if state == "delayed":
        return await client.runs.create("crew", "delayed", start_after=datetime.now(UTC) + HOUR)
    run = await client.runs.create("crew", state)
    await event_of(client, run, "run_waiting")
    return run


async def busy(client: AsyncClient, gates: Gates, state: str) -> Run:
    """A run that is running, or queued behind the run of "before"."""
    if state == "running":
        run = await client.runs.create("crew", "old")
        await gates.entered("old")
        return run
    before = await client.runs.create("worker", "before")
    await gates.entered("before")
    return await client.runs.create("crew", "old", thread_id=before.thread_id)


async def texts(client: AsyncClient, thread_id: str) -> list[str]:
    return [text_of(message) async for message in client.threads.messages(thread_id)]


async def answer(client: AsyncClient, run: Run, answer_json: str = '"yes"') -> None:
    actions = [action async for action in client.actions.list(run.thread_id)]
    await client.runs.respond(
        run.thread_id,
        [
            ActionResponse(action_id=action.action_id, answer_json=answer_json)
            for action in actions
            if action.run_id == run.run_id
        ],
    )


async def let_go(client: AsyncClient, gates: Gates, run: Run, state: str) -> Run:
    """Ends a run that `parked` made."""
    match state:
        case "waiting":
            gates.open("child")
        case "asking":
            await answer(client, run)
        case "delayed":
            await client.runs.cancel(run.run_id)
    return await over(client, run)


def pending(strategy: str) -> list[str]:
    return ["keep", "cancel"] if strategy in HAVE_CANCEL else ["keep"]


@pytest.mark.parametrize("state", ["queued", "running"])
class TestAgainstActive:
    """Runs that keep their thread busy."""

    async def test_enqueue_runs_after_them(
        self, client: AsyncClient, gates: Gates, state: str
    ) -> None:
        old = await busy(client, gates, state)
        new = await client.runs.create("crew", "new", thread_id=old.thread_id)
        assert new.state == QUEUED
        assert new.waiting_for.kind == WaitingFor.KIND_THREAD
        assert old.run_id in new.waiting_for.ids
        gates.open("before", "old")
        await gates.entered("new")
        assert (await client.runs.get(old.run_id)).state == SUCCEEDED
        gates.open("new")
        assert (await over(client, new)).state == SUCCEEDED
        await sound_log(client, old.thread_id)

    async def test_reject_refuses_and_writes_nothing(
        self, client: AsyncClient, gates: Gates, state: str
    ) -> None:
        old = await busy(client, gates, state)
        before = await log_of(client, old.thread_id)
        with pytest.raises(Conflict) as refused:
            await client.runs.create(
                "crew", "new", thread_id=old.thread_id, multitask_strategy="reject"
            )
        assert refused.value.reason == "THREAD_BUSY"
        assert await log_of(client, old.thread_id) == before

    @pytest.mark.parametrize("actions", ["keep", "cancel"])
    @pytest.mark.parametrize("strategy", HAVE_CANCEL)
    async def test_interrupt_and_rollback_take_their_place(
        self, client: AsyncClient, gates: Gates, state: str, strategy: Any, actions: Any
    ) -> None:
        old = await busy(client, gates, state)
        new = await client.runs.create(
            "crew",
            "new",
            thread_id=old.thread_id,
            multitask_strategy=strategy,
            pending_actions=actions,
        )
        context = await gates.entered("new")
        ended = await client.runs.get(old.run_id)
        assert (ended.state, ended.superseded_by_run_id) == (SUPERSEDED, new.run_id)
        assert ended.rolled_back == (strategy == "rollback")
        kept = ["before", "old"] if state == "queued" else ["old"]
        seen = ["new"] if strategy == "rollback" else [*kept, "new"]
        assert [text_of(m) for m in await context.messages()] == seen
        assert await texts(client, old.thread_id) == seen
        gates.open("new")
        assert (await over(client, new)).state == SUCCEEDED
        await sound_log(client, old.thread_id)

    async def test_steer_gives_them_the_input(
        self, client: AsyncClient, gates: Gates, state: str
    ) -> None:
        old = await busy(client, gates, state)
        steered = await client.runs.create(
            "crew", "more", thread_id=old.thread_id, multitask_strategy="steer"
        )
        assert steered.run_id == old.run_id
        gates.open("before", "old", "more")
        assert (await over(client, old)).state == SUCCEEDED
        runs = [run async for run in client.runs.list(thread_id=old.thread_id)]
        if state == "queued":
            assert gates.order == ["before", "more"]
            assert len(runs) == 2
        else:
            assert gates.order[0] == "old"
        for run in runs:
            await over(client, run)
        await sound_log(client, old.thread_id)

    async def test_concurrent_runs_beside_them(
        self, client: AsyncClient, gates: Gates, state: str
    ) -> None:
        old = await busy(client, gates, state)
        new = await client.runs.create(
            "crew", "new", thread_id=old.thread_id, multitask_strategy="concurrent"
        )
        await gates.entered("new")
        standing = {"queued": QUEUED, "running": RUNNING}[state]
        assert (await client.runs.get(old.run_id)).state == standing
        gates.open("new")
        assert (await over(client, new)).state == SUCCEEDED
        assert (await client.runs.get(old.run_id)).state == standing
        gates.open("before", "old")
        assert (await over(client, old)).state == SUCCEEDED
        await sound_log(client, old.thread_id)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("strategy", "actions"), [(s, each) for s in STRATEGIES for each in pending(s)]
)
async def test_a_new_run_goes_past_one_that_waits(
    client: AsyncClient, gates: Gates, state: str, strategy: Any, actions: Any
) -> None:
    old = await parked(client, state)
    thread = old.thread_id
    standing = await client.runs.get(old.run_id)
    new = await client.runs.create(
        "crew",
        "new",
        thread_id=thread,
        multitask_strategy=strategy,
        pending_actions=None if actions == "keep" else actions,
    )
    assert new.run_id != old.run_id
    context = await gates.entered("new")
    shown = await client.runs.get(old.run_id)
    if state == "asking" and actions == "cancel":
        assert (shown.state, shown.superseded_by_run_id) == (SUPERSEDED, new.run_id)
        assert (await client.threads.get(thread)).pending_action_count == 0
        [closed] = [e for e in await log_of(client, thread) if e.HasField("action_closed")]
        assert closed.action_closed.cause == ActionClosed.CAUSE_RUN_OVER
        kept = ["asking"] if strategy == "interrupt" else []
        assert await texts(client, thread) == [*kept, "new"]
    else:
        assert shown == standing
        assert shown.state == STATES[state]
        shows = [] if state == "delayed" else [state]
        assert [text_of(m) for m in await context.messages()] == [*shows, "new"]
        assert await texts(client, thread) == [state, "new"]
    gates.open("new")
    assert (await over(client, new)).state == SUCCEEDED
    if shown == standing:
        ended = await let_go(client, gates, old, state)
        assert ended.state == (CANCELLED if state == "delayed" else SUCCEEDED)
    await sound_log(client, thread)


@pytest.mark.parametrize("state", ["waiting", "asking"])
async def test_a_run_that_waited_goes_on_behind_one_that_is_at_work(
    client: AsyncClient, gates: Gates, state: str
) -> None:
    old = await parked(client, state)
    new = await client.runs.create("crew", "new", thread_id=old.thread_id)
    await gates.entered("new")
    last = await client.runs.create("crew", "last", thread_id=old.thread_id)
    if state == "waiting":
        gates.open("child")
    else:
        await answer(client, old)
    await event_of(client, old, "run_queued")
    waiting = await client.runs.get(old.run_id)
    assert (waiting.state, list(waiting.waiting_for.ids)) == (QUEUED, [])
    gates.open("new", "last")
    assert (await over(client, last)).state == SUCCEEDED
    log = await sound_log(client, old.thread_id)
    threads_own = [e for e in log if e.thread_id == old.thread_id]
    # It has its old place in line: before the one that came later.
    ends = [e.run_id for e in threads_own if e.HasField("run_finished")]
    assert ends == [new.run_id, old.run_id, last.run_id]


@pytest.mark.parametrize("strategy", HAVE_CANCEL)
async def test_only_questions_are_closed_and_only_where_that_is_asked_for(
    client: AsyncClient, gates: Gates, strategy: Any
) -> None:
    asking = await parked(client, "asking")
    thread = asking.thread_id
    waiting = await client.runs.create("crew", "waiting", thread_id=thread)
    await event_of(client, waiting, "run_waiting")
    later = datetime.now(UTC) + HOUR
    delayed = await client.runs.create("crew", "delayed", thread_id=thread, start_after=later)
    running = await client.runs.create("crew", "running", thread_id=thread)
    await gates.entered("running")
    queued = await client.runs.create("crew", "queued", thread_id=thread)
    new = await client.runs.create(
        "crew", "new", thread_id=thread, multitask_strategy=strategy, pending_actions="cancel"
    )
    await gates.entered("new")
    states = [
        (await client.runs.get(run.run_id)).state
        for run in (asking, waiting, delayed, running, queued, new)
    ]
    assert states == [SUPERSEDED, WAITING, QUEUED, SUPERSEDED, SUPERSEDED, RUNNING]
    gates.open("new", "child")
    assert (await over(client, waiting)).state == SUCCEEDED
    await over(client, new)
    await client.runs.cancel(delayed.run_id)
    await sound_log(client, thread)


async def test_concurrent_runs_add_messages_and_change_no_values(
    client: AsyncClient, gates: Gates
) -> None:
    old = await busy(client, gates, "running")
    with pytest.raises(InvalidArgument):
        await client.runs.create(
            "crew",
            "new",
            thread_id=old.thread_id,
            values={"a": 1},
            multitask_strategy="concurrent",
        )
    new = await client.runs.create(
        "crew", "new", thread_id=old.thread_id, multitask_strategy="concurrent"
    )
    context = await gates.entered("new")
    with pytest.raises(Exception, match="CONCURRENT"):
        await context.merge_values({"a": 1})
    gates.open("new")
    await over(client, new)
    assert await texts(client, old.thread_id) == ["old", "new", "done: new"]
    gates.open("old")
    await over(client, old)
    assert to_dict((await client.threads.state(old.thread_id)).values) == {}
    await sound_log(client, old.thread_id)


async def test_concurrent_runs_have_each_its_own_input(tmp_path: Path) -> None:
    all_are_here = asyncio.Barrier(2)

    async def echo(ctx: Context) -> str:
        await all_are_here.wait()
        return await ctx.input()

    async with local([echo], tmp_path / "echo.db") as client:
        thread = (await client.threads.create()).thread_id
        runs = [
            await client.runs.create(
                "echo", text, thread_id=thread, multitask_strategy="concurrent"
            )
            for text in ("one", "two")
        ]
        ended = [await over(client, run) for run in runs]
    assert [text_of(run.outcome.result) for run in ended] == ["one", "two"]


async def test_several_concurrent_runs_are_at_work_at_a_time_and_hold_back_who_comes_later(
    client: AsyncClient, gates: Gates
) -> None:
    old = await busy(client, gates, "running")
    thread = old.thread_id
    beside = []
    for text in ("one", "two"):
        beside.append(
            await client.runs.create(
                "crew", text, thread_id=thread, multitask_strategy="concurrent"
            )
        )
        await gates.entered(text)
    behind = await client.runs.create("crew", "behind", thread_id=thread)
    gates.open("old")
    await over(client, old)
    assert {*(await client.runs.get(behind.run_id)).waiting_for.ids} == {
        run.run_id for run in beside
    }
    newest = await client.runs.create(
        "crew", "newest", thread_id=thread, multitask_strategy="interrupt"
    )
    await gates.entered("newest")
    for run in (*beside, behind):
        assert (await client.runs.get(run.run_id)).state == SUPERSEDED
    gates.open("newest")
    await over(client, newest)
    await sound_log(client, thread)


@pytest.mark.parametrize("strategy", ["enqueue", "reject", "steer", "concurrent"])
async def test_cancel_for_actions_goes_with_interrupt_and_rollback_only(
    client: AsyncClient, strategy: Any
) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await client.runs.create(
            "crew", "new", multitask_strategy=strategy, pending_actions="cancel"
        )
    assert "pending_actions" in str(refused.value)


async def test_a_repeated_admission_steers_once(client: AsyncClient, gates: Gates) -> None:
    old = await busy(client, gates, "running")
    for _ in range(3):
        await client.runs.create(
            "crew",
            "more",
            thread_id=old.thread_id,
            multitask_strategy="steer",
            request_id="once",
        )
    assert await texts(client, old.thread_id) == ["old", "more"]
    added = [e for e in await log_of(client, old.thread_id) if e.HasField("run_input_added")]
    assert [type(each) for each in added] == [Event]
    gates.open("old", "more")
    await client.runs.wait(old.run_id, timeout=PATIENCE)
