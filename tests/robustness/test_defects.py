"""Defects that were found in another server of this kind, each as a test that this one has not."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from callboard import FailedPrecondition, RunState, text_of
from callboard._enums import MultitaskName
from callboard.v1.event_pb2 import Action, ActionResponse, Event
from callboard.v1.run_pb2 import EventFrame, Run, StreamEnd
from callboard.v1.thread_pb2 import EVENT_SCOPE_SESSION, StreamEventsRequest, Thread
from callboard_server.agents.context import Context
from tests.robustness import validators
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import Served, kinds_of, log_of, served, sound_log

RUNNING, REQUIRES_ACTION = RunState.RUN_STATE_RUNNING, RunState.RUN_STATE_REQUIRES_ACTION
SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED, SUPERSEDED = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_SUPERSEDED
TIMED_OUT = RunState.RUN_STATE_TIMED_OUT

FrameCall = grpc.aio.UnaryStreamCall[StreamEventsRequest, EventFrame]

STRATEGIES: list[MultitaskName] = [
    "enqueue",
    "reject",
    "interrupt",
    "rollback",
    "steer",
    "concurrent",
]


async def configured(ctx: Context) -> str:
    """Says with what it was configured."""
    return f"{ctx.author} uses {ctx.config['model']}"


async def asker(ctx: Context) -> str:
    """Asks somebody about its input, and tells the answer."""
    topic = await ctx.input()
    return f"{topic}: {await ctx.ask(f'May I {topic}?')}"


async def parent(ctx: Context) -> str:
    """Launches two jobs and waits for them; its input says how many generations there are."""
    generations = int(await ctx.input())
    if generations == 0:
        return "1"
    jobs = [await ctx.jobs.launch("parent", f"{generations - 1}") for _ in range(2)]
    done = await ctx.jobs.wait(*jobs)
    return f"{1 + sum(int(text_of(job.outcome.result)) for job in done)}"


async def failing(ctx: Context) -> None:
    raise RuntimeError("no")


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    gates = Gates()
    yield gates
    gates.close()


@pytest.fixture
async def server(gates: Gates, tmp_path: Path) -> AsyncIterator[Served]:
    """A server on a port."""
    agents = [configured, asker, failing, *gates.agents]
    async with served(agents, tmp_path / "jobs.db") as server:
        yield server


async def finished(server: Served, run: Run) -> Run:
    return await server.client.runs.wait(run.run_id, until="done", timeout=PATIENCE)


async def asked(server: Served, run: Run) -> Action:
    """Waits until a run has asked; returns its question."""
    waiting = await server.client.runs.wait(run.run_id, timeout=PATIENCE)
    assert waiting.state == REQUIRES_ACTION
    [action_id] = waiting.waiting_for.ids
    actions = await open_actions(server, run.thread_id)
    return actions[action_id]


async def open_actions(server: Served, thread_id: str) -> dict[str, Action]:
    state = await server.client.threads.state(thread_id)
    return {action.action_id: action for action in state.pending_actions}


async def test_01_two_assistants_on_one_thread_keep_their_own_configuration(
    server: Served,
) -> None:
    client = server.client
    thread = (await client.threads.create(metadata={"owner": "me"})).thread_id
    assistants = [
        await client.assistants.create("configured", name=name, config={"model": f"model {name}"})
        for name in ("A", "B")
    ]
    for assistant in (*assistants, *assistants):
        run = await client.runs.create(assistant.assistant_id, "go", thread_id=thread)
        run = await finished(server, run)
        assert run.assistant_id == assistant.assistant_id
        assert text_of(run.outcome.result) == f"{assistant.name} uses model {assistant.name}"
        assert run.outcome.result.author == assistant.name
    assert dict((await client.threads.get(thread)).metadata) == {"owner": "me"}
    await sound_log(client, thread)


async def test_02_runs_on_one_thread_can_be_at_work_at_the_same_time(
    server: Served, gates: Gates
) -> None:
    client = server.client
    thread = (await client.threads.create()).thread_id
    texts = [f"run {number}" for number in range(3)]
    runs = [
        await client.runs.create("worker", text, thread_id=thread, multitask_strategy="concurrent")
        for text in texts
    ]
    for text in texts:
        await gates.entered(text)
    assert [(await client.runs.get(run.run_id)).state for run in runs] == [RUNNING] * 3
    for run, text in reversed([*zip(runs, texts, strict=True)]):
        gates.open(text)
        assert text_of((await finished(server, run)).outcome.result) == f"done: {text}"
    said = [text_of(message) async for message in client.threads.messages(thread)]
    assert sorted(said) == sorted([*texts, *(f"done: {text}" for text in texts)])
    await sound_log(client, thread)


async def test_03_an_interrupted_run_can_write_nothing_after_its_successor_started(
    tmp_path: Path, gates: Gates
) -> None:
    tried = asyncio.Event()

    async def stale(ctx: Context) -> None:
        # Its cleaning up takes until the successor is at work.
        with contextlib.suppress(asyncio.CancelledError):
            await gates.worker(ctx)
        await gates.entered("new")
        for write in (
            lambda: ctx.say("late"),
            lambda: ctx.merge_values({"late": True}),
            lambda: ctx.step("late", lambda: True),
            lambda: ctx.emit("late"),
            lambda: ctx.ask("May I still?"),
            lambda: ctx.jobs.launch("quick", "late"),
        ):
            # Whatever refuses it, and in whatever way, nothing may come of it.
            with contextlib.suppress(asyncio.CancelledError, Exception):
                await write()
        tried.set()

    async with served([stale, *gates.agents], tmp_path / "jobs.db") as server:
        client = server.client
        old = await client.runs.create("stale", "old")
        await gates.entered("old")
        new = await client.runs.create(
            "worker", "new", thread_id=old.thread_id, multitask_strategy="interrupt"
        )
        async with asyncio.timeout(PATIENCE):
            await tried.wait()
        gates.open("new")
        assert (await finished(server, new)).state == SUCCEEDED
        assert (await finished(server, old)).state == SUPERSEDED
        thread = await client.threads.get(old.thread_id)
        assert (thread.state, thread.last_run_state) == (Thread.STATE_IDLE, SUCCEEDED)
        log = await sound_log(client, old.thread_id)
        start = next(e for e in log if e.run_id == new.run_id and e.HasField("run_started"))
        written = kinds_of([e for e in log if e.sequence > start.sequence], old.run_id)
        assert written == []
        state = await client.threads.state(old.thread_id)
        assert (dict(state.values), list(state.pending_actions)) == ({}, [])
        assert [job async for job in client.jobs.list(parent_thread_id=old.thread_id)] == []


async def test_04_runs_queued_behind_a_busy_thread_do_not_starve_another(
    tmp_path: Path, gates: Gates
) -> None:
    async with served(gates.agents, tmp_path / "jobs.db", slots=2) as server:
        client = server.client
        busy = await client.runs.create("worker", "busy")
        await gates.entered("busy")
        behind = [
            await client.runs.create("quick", f"behind {number}", thread_id=busy.thread_id)
            for number in range(20)
        ]
        other = await finished(server, await client.runs.create("quick", "other"))
        assert other.state == SUCCEEDED
        assert gates.order == ["busy", "other"]
        gates.open("busy")
        for run in behind:
            assert (await finished(server, run)).state == SUCCEEDED
        assert gates.order[2:] == [f"behind {number}" for number in range(20)]


@pytest.mark.parametrize("slots", [1, 2])
async def test_05_parents_that_wait_for_children_finish_with_few_slots(
    tmp_path: Path, slots: int
) -> None:
    async with served([parent], tmp_path / "jobs.db", slots=slots) as server:
        jobs = [await server.client.jobs.launch("parent", "2") for _ in range(4)]
        done = await server.client.jobs.wait([job.job_id for job in jobs], timeout=4 * PATIENCE)
        assert [(job.state, text_of(job.outcome.result)) for job in done] == [(SUCCEEDED, "7")] * 4
        for job in done:
            await sound_log(server.client, job.job_id)


EVENTS = 201


async def chatty(ctx: Context) -> str:
    """Has a session of 201 events, most of them written within the same millisecond."""
    # Besides: thread and run created, input, start, result, end, idle.
    for number in range(EVENTS - 7):
        await ctx.emit("number", number)
    return "done"


async def test_06_a_stream_of_201_events_resumes_at_every_position_without_loss(
    tmp_path: Path,
) -> None:
    async with served([chatty], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("chatty", "go")
        live = await _session_stream(server, run.thread_id, 0)
        log = await sound_log(server.client, run.thread_id)
        assert len(log) == EVENTS
        assert live == log
        for position in range(EVENTS + 1):
            seen = await _session_stream(server, run.thread_id, position)
            assert seen == log[position:], f"after {position}"


async def test_06_a_reader_that_leaves_after_every_event_loses_none_of_a_run_at_work(
    tmp_path: Path,
) -> None:
    async with served([chatty], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("chatty", "go")
        seen: list[Event] = []
        while len(seen) < EVENTS:
            after = seen[-1].sequence if seen else 0
            seen.append(await _first_event(server, run.thread_id, after))
        assert seen == await sound_log(server.client, run.thread_id)


async def _session_stream(server: Served, thread_id: str, after: int) -> list[Event]:
    stream = server.client.threads.stream(
        thread_id, scope="session", after_sequence=after, until="done"
    )
    async with asyncio.timeout(PATIENCE):
        return [item async for item in stream if isinstance(item, Event)]


async def _first_event(server: Served, thread_id: str, after: int) -> Event:
    """Reads one event and leaves, in the middle of a frame where there are more in it."""
    request = StreamEventsRequest(
        thread_id=thread_id, scope=EVENT_SCOPE_SESSION, after_sequence=after
    )
    call: FrameCall = server.threads.StreamEvents(request)
    async with asyncio.timeout(PATIENCE):
        while isinstance(frame := await call.read(), EventFrame):
            if frame.events:
                call.cancel()
                return frame.events[0]
    raise AssertionError(f"the stream ended after {after}")


ENDINGS = [SUCCEEDED, FAILED, TIMED_OUT, CANCELLED, SUPERSEDED]


async def come_to(ending: RunState.ValueType, server: Served, gates: Gates) -> Run:
    """Creates a run that comes to an end of some kind."""
    create = server.client.runs.create
    if ending == FAILED:
        return await create("failing", "it")
    if ending == TIMED_OUT:
        return await create("worker", "it", timeout=0.1)
    run = await create("worker", "it")
    await gates.entered("it")
    if ending == SUCCEEDED:
        gates.open("it")
    elif ending == CANCELLED:
        await server.client.runs.cancel(run.run_id)
    else:
        await create("quick", "new", thread_id=run.thread_id, multitask_strategy="interrupt")
    return run


@pytest.mark.parametrize("ending", ENDINGS, ids=RunState.Name)
async def test_07_streams_end_with_a_terminal_event_of_its_own_that_is_replayed(
    server: Served, gates: Gates, ending: RunState.ValueType
) -> None:
    run = await come_to(ending, server, gates)
    live = await _run_stream(server, run, 0)
    assert live[0].HasField("run_created")
    for position in range(len(live)):
        # The run is over now, and whoever comes back is told how it ended, wherever they were.
        seen = await _run_stream(server, run, live[position - 1].sequence if position else 0)
        assert seen == live[position:]
        assert seen[-1].run_finished.state == ending
        assert seen[-1].run_finished.outcome.HasField("error") == (ending != SUCCEEDED)
    assert await _run_stream(server, run, live[-1].sequence) == []


async def _run_stream(server: Served, run: Run, after: int) -> list[Event]:
    """Reads a run's events to its end, which has to come."""
    stream = server.client.threads.stream(run_id=run.run_id, after_sequence=after)
    async with asyncio.timeout(PATIENCE):
        events = [item async for item in stream if isinstance(item, Event)]
    assert stream.end is not None
    assert stream.end.reason == StreamEnd.REASON_DONE
    return events


@pytest.mark.parametrize("strategy", STRATEGIES)
async def test_08_a_new_run_does_not_discard_the_question_of_one_that_waits(
    server: Served, strategy: MultitaskName
) -> None:
    client = server.client
    waiting = await client.runs.create("asker", "begin")
    question = await asked(server, waiting)
    new = await client.runs.create(
        "asker", "go on", thread_id=waiting.thread_id, multitask_strategy=strategy
    )
    assert new.run_id != waiting.run_id
    further = await asked(server, new)
    assert await open_actions(server, waiting.thread_id) == {
        question.action_id: question,
        further.action_id: further,
    }
    assert (await client.runs.get(waiting.run_id)).state == REQUIRES_ACTION
    for run, action, text in ((new, further, "go on"), (waiting, question, "begin")):
        answer = ActionResponse(action_id=action.action_id, answer_json=f'"{text}!"')
        await client.runs.respond(run.thread_id, [answer])
        ended = await finished(server, run)
        assert (ended.state, text_of(ended.outcome.result)) == (SUCCEEDED, f"{text}: {text}!")
    assert list(validators.terminal_last(await log_of(client, waiting.thread_id))) == []


async def test_09_a_message_after_a_cancel_is_not_taken_for_an_answer(server: Served) -> None:
    client = server.client
    stopped = await client.runs.create("asker", "begin")
    question = await asked(server, stopped)
    thread = await client.threads.get(stopped.thread_id)
    assert (thread.state, thread.pending_action_count) == (Thread.STATE_IDLE, 1)

    await client.runs.cancel(stopped.run_id)
    ended = await finished(server, stopped)
    assert ended.state == CANCELLED
    thread = await client.threads.get(stopped.thread_id)
    assert (thread.last_run_state, thread.pending_action_count) == (CANCELLED, 0)

    new = await client.runs.create("asker", "yes", thread_id=stopped.thread_id)
    further = await asked(server, new)
    assert (further.question, further.run_id) == ("May I yes?", new.run_id)
    with pytest.raises(FailedPrecondition) as refused:
        late = ActionResponse(action_id=question.action_id, answer_json='"yes"')
        await client.runs.respond(stopped.thread_id, [late])
    assert refused.value.reason == "ACTION_CLOSED"
    said = [text_of(message) async for message in client.threads.messages(stopped.thread_id)]
    assert said == ["begin", "yes"]
    assert await client.runs.get(stopped.run_id) == ended


async def test_09_a_thread_whose_run_asks_says_so_and_not_that_it_ended(server: Served) -> None:
    run = await server.client.runs.create("asker", "begin")
    await asked(server, run)
    thread = await server.client.threads.get(run.thread_id)
    assert (thread.state, thread.last_run_state) == (Thread.STATE_IDLE, REQUIRES_ACTION)
    last = (await log_of(server.client, run.thread_id))[-1]
    assert last.thread_idle.last_run_state == REQUIRES_ACTION


async def test_10_cancelling_a_queued_run_leaves_a_busy_thread_busy(
    server: Served, gates: Gates
) -> None:
    client = server.client
    busy = await client.runs.create("worker", "busy")
    await gates.entered("busy")
    queued = await client.runs.create("worker", "queued", thread_id=busy.thread_id)
    assert (await client.runs.cancel(queued.run_id)).state == CANCELLED
    thread = await client.threads.get(busy.thread_id)
    assert (thread.state, thread.tree_state) == (Thread.STATE_BUSY, Thread.STATE_BUSY)
    assert (await client.runs.get(busy.run_id)).state == RUNNING
    assert "thread_idle" not in kinds_of(await log_of(client, busy.thread_id))
    gates.open("busy")
    assert (await finished(server, busy)).state == SUCCEEDED
    thread = await client.threads.get(busy.thread_id)
    assert (thread.state, thread.last_run_state) == (Thread.STATE_IDLE, SUCCEEDED)
    log = await sound_log(client, busy.thread_id)
    assert kinds_of(log).count("thread_idle") == 1


async def test_11_going_back_to_a_version_of_an_assistant_restores_all_of_it(
    server: Served,
) -> None:
    client = server.client
    first = await client.assistants.create(
        "configured",
        name="A",
        description="The first.",
        config={"model": "model 1", "deep": {"list": [1, None]}},
        metadata={"team": "x"},
    )
    await client.assistants.update(
        first.assistant_id,
        name="B",
        description="The second.",
        config={"model": "model 2", "more": True},
        metadata={"team": "y"},
    )
    assert await client.assistants.set_current_version(first.assistant_id, 1) == first
    assert await client.assistants.get(first.assistant_id) == first
    run = await client.runs.create(first.assistant_id, "go")
    run = await finished(server, run)
    assert (run.assistant_version, run.outcome.result.author) == (1, "A")
    assert text_of(run.outcome.result) == "A uses model 1"
