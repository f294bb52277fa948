"""Input for a run that is there: seen at its next step, or by the run that follows it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient, RunState, text_of, to_dict
from callboard.v1.event_pb2 import Event, RunTrigger
from callboard.v1.job_pb2 import Job
from callboard.v1.message_pb2 import (
    ContentBlock,
    Role,
    StopReason,
    Text,
    ToolCall,
    Usage,
)
from callboard.v1.run_pb2 import Run
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.agents.tools import tool
from callboard_server.models.base import Answer, ModelRequest, Piece
from tests.support.following import event_of, over
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import kinds_of, local, log_of, sound_log, tuned

QUEUED, RUNNING = RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_RUNNING
SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED, SUPERSEDED = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_SUPERSEDED
TIMED_OUT = RunState.RUN_STATE_TIMED_OUT
INBOX = RunTrigger.RUN_TRIGGER_INBOX


class Crew:
    """Agents that stop at a bell, and what they have seen."""

    def __init__(self) -> None:
        self.arrived = asyncio.Event()
        self.bell = asyncio.Event()
        self.seen: list[list[str]] = []

    async def _look(self, ctx: Context) -> str:
        self.seen.append([text_of(message) for message in await ctx.messages()])
        return self.seen[-1][-1]

    async def _stop(self) -> None:
        self.arrived.set()
        await self.bell.wait()

    async def reads_again(self, ctx: Context) -> str:
        await self._look(ctx)
        await self._stop()
        return f"last: {await self._look(ctx)}"

    async def reads_once(self, ctx: Context) -> str:
        text = await self._look(ctx)
        await self._stop()
        return f"read: {text}"

    async def fails(self, ctx: Context) -> str:
        if "fail" in await self._look(ctx):
            await self._stop()
            raise AgentError("It cannot be done.")
        return "did it"

    async def other(self, ctx: Context) -> str:
        return f"other: {await self._look(ctx)}"

    async def has_arrived(self) -> None:
        async with asyncio.timeout(PATIENCE):
            await self.arrived.wait()

    @property
    def agents(self) -> Sequence[Any]:
        return [self.reads_again, self.reads_once, self.fails, self.other]


@pytest.fixture
def crew() -> Crew:
    return Crew()


@pytest.fixture
async def client(crew: Crew, gates: Gates, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with local([*crew.agents, *gates.agents], tmp_path / "jobs.db") as client:
        yield client
    crew.bell.set()


async def steer(client: AsyncClient, run: Run, text: str, agent: str = "", **more: Any) -> Run:
    return await client.runs.create(
        agent or run.agent,
        text,
        thread_id=run.thread_id,
        multitask_strategy="steer",
        **more,
    )


async def runs_of(client: AsyncClient, thread_id: str) -> list[Run]:
    """The runs of a thread, oldest first, once all are over."""
    found = [run async for run in client.runs.list(thread_id=thread_id)]
    while True:
        ended = [await over(client, run) for run in found]
        found = [run async for run in client.runs.list(thread_id=thread_id)]
        if len(found) == len(ended):
            return ended[::-1]


async def created(client: AsyncClient, run: Run) -> Event:
    log = await log_of(client, run.thread_id)
    return next(e for e in log if e.run_id == run.run_id and e.HasField("run_created"))


async def texts(client: AsyncClient, thread_id: str) -> list[str]:
    return [text_of(message) async for message in client.threads.messages(thread_id)]


async def test_a_function_that_reads_again_sees_it_in_the_same_run(
    client: AsyncClient, crew: Crew
) -> None:
    run = await client.runs.create("reads_again", "first")
    await crew.has_arrived()
    steered = await steer(client, run, "second", values={"more": 1})
    assert steered.run_id == run.run_id
    assert steered.state == RUNNING
    crew.bell.set()
    [ended] = await runs_of(client, run.thread_id)
    assert text_of(ended.outcome.result) == "last: second"
    assert crew.seen == [["first"], ["first", "second"]]
    state = await client.threads.state(run.thread_id)
    assert to_dict(state.values) == {"more": 1}
    assert {message.run_id for message in state.messages} == {run.run_id}
    log = await sound_log(client, run.thread_id)
    [added] = [e for e in log if e.HasField("run_input_added")]
    assert list(added.run_input_added.message_ids) == [state.messages[1].message_id]


async def test_a_function_that_reads_no_more_is_followed_by_a_run_that_has_it(
    client: AsyncClient, crew: Crew
) -> None:
    run = await client.runs.create("reads_once", "first", config={"tone": "dry"}, timeout=60)
    await crew.has_arrived()
    for text in ("second", "third"):
        assert (await steer(client, run, text)).run_id == run.run_id
    crew.bell.set()
    [first, follower] = await runs_of(client, run.thread_id)
    assert [first.state, follower.state] == [SUCCEEDED] * 2
    assert follower.trigger == INBOX
    assert (follower.assistant_id, follower.agent) == (first.assistant_id, "reads_once")
    assert to_dict(follower.config) == {"tone": "dry"}
    assert follower.timeout.seconds == 60
    assert (await created(client, follower)).run_created.follows_run_id == run.run_id
    # One run for both, and nothing twice.
    assert len(crew.seen) == 2
    assert sorted(crew.seen[1]) == sorted(["first", "read: first", "second", "third"])
    everything = await texts(client, run.thread_id)
    assert sorted(everything) == sorted(set(everything))
    log = await sound_log(client, run.thread_id)
    assert kinds_of(log).count("thread_idle") == 1


async def test_input_in_the_follower_stands_behind_the_answer_that_did_not_see_it(
    client: AsyncClient, crew: Crew
) -> None:
    run = await client.runs.create("reads_once", "first")
    await crew.has_arrived()
    await steer(client, run, "second")
    crew.bell.set()
    await runs_of(client, run.thread_id)
    assert crew.seen[1][-1] in ("second", "read: first")
    assert "second" in crew.seen[1]


async def test_what_a_failed_run_did_not_see_is_taken_up(client: AsyncClient, crew: Crew) -> None:
    run = await client.runs.create("fails", "fail")
    await crew.has_arrived()
    await steer(client, run, "please")
    crew.bell.set()
    [first, follower] = await runs_of(client, run.thread_id)
    assert [first.state, follower.state] == [FAILED, SUCCEEDED]
    assert crew.seen[1] == ["fail", "please"]
    await sound_log(client, run.thread_id)


async def test_what_a_run_that_timed_out_did_not_see_is_taken_up(
    client: AsyncClient, crew: Crew
) -> None:
    run = await client.runs.create("reads_once", "first", timeout=0.3)
    await crew.has_arrived()
    await steer(client, run, "second")
    assert (await over(client, run)).state == TIMED_OUT
    crew.bell.set()
    [_, follower] = await runs_of(client, run.thread_id)
    assert follower.trigger == INBOX
    assert crew.seen == [["first"], ["first", "second"]]


async def test_what_a_run_has_seen_that_failed_when_it_timed_out_is_not_taken_up(
    tmp_path: Path, crew: Crew
) -> None:
    looked = asyncio.Event()

    async def bad_loser(ctx: Context) -> str:
        await crew._stop()
        await ctx.messages()
        looked.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise RuntimeError from None
        return "never"

    async with tuned([bad_loser], tmp_path / "jobs.db", retry_pause=0) as client:
        run = await client.runs.create("bad_loser", "first", timeout=0.5)
        await crew.has_arrived()
        await steer(client, run, "second")
        crew.bell.set()
        await asyncio.wait_for(looked.wait(), PATIENCE)
        [ended] = await runs_of(client, run.thread_id)
        assert ended.state == TIMED_OUT
        await sound_log(client, run.thread_id)


async def test_nobody_is_woken_for_a_run_that_was_cancelled(
    client: AsyncClient, crew: Crew
) -> None:
    run = await client.runs.create("reads_once", "first")
    await crew.has_arrived()
    await steer(client, run, "second")
    await client.runs.cancel(run.run_id)
    [ended] = await runs_of(client, run.thread_id)
    assert ended.state == CANCELLED
    assert await texts(client, run.thread_id) == ["first", "second"]
    await sound_log(client, run.thread_id)


async def test_who_supersedes_a_steered_run_sees_the_input(client: AsyncClient, crew: Crew) -> None:
    run = await client.runs.create("reads_once", "first")
    await crew.has_arrived()
    await steer(client, run, "second")
    await client.runs.create(
        "other", "third", thread_id=run.thread_id, multitask_strategy="interrupt"
    )
    runs = await runs_of(client, run.thread_id)
    assert [(each.agent, each.state) for each in runs] == [
        ("reads_once", SUPERSEDED),
        ("other", SUCCEEDED),
    ]
    assert crew.seen[1] == ["first", "second", "third"]
    await sound_log(client, run.thread_id)


async def test_a_run_that_is_about_to_stop_is_not_steered(
    client: AsyncClient, gates: Gates
) -> None:
    run = await client.runs.create("stubborn", "first")
    await gates.entered("first")
    await client.runs.cancel(run.run_id)
    new = await steer(client, run, "second")
    assert (new.run_id != run.run_id, new.state) == (True, QUEUED)
    await gates.entered("second")
    gates.open("second")
    assert (await over(client, new)).state == SUCCEEDED


@pytest.mark.parametrize("agent", ["other", "quick"])
async def test_with_another_assistant_it_is_enqueue(
    client: AsyncClient, crew: Crew, agent: str
) -> None:
    run = await client.runs.create("reads_once", "first")
    await crew.has_arrived()
    new = await steer(client, run, "second", agent)
    assert new.run_id != run.run_id
    assert (new.state, list(new.waiting_for.ids)) == (QUEUED, [run.run_id])
    crew.bell.set()
    assert [each.trigger == INBOX for each in await runs_of(client, run.thread_id)] == [False] * 2
    await sound_log(client, run.thread_id)


async def test_with_no_active_run_it_is_enqueue(client: AsyncClient, crew: Crew) -> None:
    crew.bell.set()
    first = await client.runs.create("reads_once", "first", multitask_strategy="steer")
    await over(client, first)
    second = await steer(client, first, "second")
    assert second.run_id != first.run_id
    assert text_of((await over(client, second)).outcome.result) == "read: second"


async def test_the_run_at_work_goes_before_those_in_line(client: AsyncClient, crew: Crew) -> None:
    run = await client.runs.create("reads_again", "first")
    await crew.has_arrived()
    queued = await client.runs.create("reads_again", "queued", thread_id=run.thread_id)
    assert (await steer(client, run, "more")).run_id == run.run_id
    crew.bell.set()
    await runs_of(client, run.thread_id)
    assert crew.seen[1] == ["first", "more"]
    assert (await over(client, queued)).state == SUCCEEDED
    await sound_log(client, run.thread_id)


async def test_input_for_the_next_in_line_is_a_part_of_what_that_starts_with(
    client: AsyncClient, gates: Gates, crew: Crew
) -> None:
    before = await client.runs.create("worker", "before")
    await gates.entered("before")
    queued = await client.runs.create("reads_once", "first", thread_id=before.thread_id)
    for text in ("second", "third"):
        steered = await steer(client, queued, text)
        assert (steered.run_id, steered.state) == (queued.run_id, QUEUED)
    gates.open("before")
    crew.bell.set()
    assert len(await runs_of(client, before.thread_id)) == 2
    assert crew.seen == [["before", "done: before", "first", "second", "third"]]
    log = await sound_log(client, before.thread_id)
    assert "run_input_added" not in kinds_of(log)


async def test_many_callers_lose_nothing(client: AsyncClient, crew: Crew) -> None:
    run = await client.runs.create("reads_once", "first")
    await crew.has_arrived()
    said = [f"text {number}" for number in range(30)]
    calls = [asyncio.create_task(steer(client, run, text)) for text in said[:10]]
    crew.bell.set()
    calls += [asyncio.create_task(steer(client, run, text)) for text in said[10:]]
    await asyncio.gather(*calls)
    await runs_of(client, run.thread_id)
    assert {*said} <= {*crew.seen[-1]}
    assert sorted(t for t in await texts(client, run.thread_id) if t in said) == sorted(said)
    await sound_log(client, run.thread_id)


# Jobs


async def job_over(client: AsyncClient, job: Job) -> Job:
    [job] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    return job


async def test_a_steered_job_keeps_its_id_and_its_run(client: AsyncClient, crew: Crew) -> None:
    job = await client.jobs.launch("reads_again", "first")
    await crew.has_arrived()
    steered = await client.jobs.update(job.job_id, "second", delivery="steer")
    assert (steered.job_id, steered.run_id) == (job.job_id, job.run_id)
    assert (steered.state, steered.run_count) == (RUNNING, 1)
    crew.bell.set()
    done = await job_over(client, job)
    assert (done.state, done.run_id) == (SUCCEEDED, job.run_id)
    assert text_of(done.outcome.result) == "last: second"
    await sound_log(client, job.job_id)


async def test_the_state_of_a_job_whose_run_is_followed_is_that_of_the_follower(
    client: AsyncClient, crew: Crew
) -> None:
    job = await client.jobs.launch("reads_once", "first")
    await crew.has_arrived()
    waiting = asyncio.create_task(job_over(client, job))
    watched: list[Job] = []

    async def watch() -> None:
        async with client.jobs.watch(job_id=job.job_id, until="done") as changes:
            async for change in changes:
                watched.append(change)

    watching = asyncio.create_task(watch())
    await client.jobs.update(job.job_id, "second", delivery="steer")
    crew.bell.set()
    done = await waiting
    assert (done.job_id, done.state, done.run_count) == (job.job_id, SUCCEEDED, 2)
    assert done.run_id != job.run_id
    follower = await client.runs.get(done.run_id)
    assert follower.trigger == INBOX
    assert done.outcome == follower.outcome
    assert len(crew.seen) == 2
    assert "second" in crew.seen[1]
    await asyncio.wait_for(watching, PATIENCE)
    assert (watched[-1].run_id, watched[-1].state) == (done.run_id, SUCCEEDED)
    await sound_log(client, job.job_id)


async def test_a_parent_that_waits_for_a_job_waits_for_its_follower(
    tmp_path: Path, crew: Crew
) -> None:
    launched: asyncio.Queue[Job] = asyncio.Queue()

    async def parent(ctx: Context) -> str:
        job = await ctx.jobs.launch("reads_once", "first")
        launched.put_nowait(job)
        [job] = await ctx.jobs.wait(job)
        return f"{job.run_count} runs"

    async with local([parent, *crew.agents], tmp_path / "jobs.db") as client:
        run = await client.runs.create("parent", "go")
        await event_of(client, run, "run_waiting")
        job = await launched.get()
        await crew.has_arrived()
        await client.jobs.update(job.job_id, "second", delivery="steer")
        crew.bell.set()
        assert text_of((await over(client, run)).outcome.result) == "2 runs"
        await sound_log(client, run.thread_id)


async def test_a_finished_job_is_followed_up_when_it_is_steered(
    client: AsyncClient, crew: Crew
) -> None:
    crew.bell.set()
    job = await job_over(client, await client.jobs.launch("reads_once", "first"))
    updated = await client.jobs.update(job.job_id, "second", delivery="steer")
    assert (updated.job_id, updated.run_count) == (job.job_id, 2)
    assert text_of((await job_over(client, job)).outcome.result) == "read: second"
    await sound_log(client, job.job_id)


# Chat agents


class ToldModel:
    """A model that calls its tool once, and then says what it has seen."""

    name = "told"

    def __init__(self, *, calls: bool = True) -> None:
        self.calls = calls
        self.requests: list[list[str]] = []
        self.called = asyncio.Event()
        self.go_on = asyncio.Event()

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        said = [text_of(m) for m in request.messages if m.role == Role.ROLE_USER]
        self.requests.append(said)
        if self.calls and len(self.requests) == 1:
            block = ContentBlock(
                tool_call=ToolCall(tool_call_id="call-1", name="look", arguments_json="{}")
            )
            yield Answer([block], Usage(), StopReason.STOP_REASON_TOOL_USE)
            return
        self.called.set()
        await self.go_on.wait()
        yield Answer(
            [ContentBlock(text=Text(text=", ".join(said)))],
            Usage(),
            StopReason.STOP_REASON_END_TURN,
        )


async def test_a_chat_agent_sees_it_at_its_next_step(tmp_path: Path, crew: Crew) -> None:
    async def look() -> str:
        """Looks."""
        await crew._stop()
        return "seen"

    model = ToldModel()
    model.go_on.set()
    chat = ChatAgent(model, tools=[tool(look)])
    async with local({"chat": chat}, tmp_path / "jobs.db") as client:
        run = await client.runs.create("chat", "first")
        await crew.has_arrived()
        assert (await steer(client, run, "second")).run_id == run.run_id
        crew.bell.set()
        [ended] = await runs_of(client, run.thread_id)
        assert text_of(ended.outcome.result) == "first, second"
        assert model.requests == [["first"], ["first", "second"]]
        await sound_log(client, run.thread_id)


async def test_a_chat_agent_whose_answer_had_not_seen_it_answers_again(tmp_path: Path) -> None:
    model = ToldModel(calls=False)
    chat = ChatAgent(model)
    async with local({"chat": chat}, tmp_path / "jobs.db") as client:
        run = await client.runs.create("chat", "first")
        async with asyncio.timeout(PATIENCE):
            await model.called.wait()
        await steer(client, run, "second")
        model.go_on.set()
        [ended] = await runs_of(client, run.thread_id)
        assert text_of(ended.outcome.result) == "first, second"
        assert await texts(client, run.thread_id) == ["first", "second", "first", "first, second"]
        await sound_log(client, run.thread_id)
