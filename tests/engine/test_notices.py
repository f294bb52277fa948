"""Notices: what supervisors are told about their jobs, and when they are woken for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, Final

import grpc
import pytest

from callboard import AsyncClient, RunState, text_of
from callboard.v1.event_pb2 import Event, Notice, RunTrigger
from callboard.v1.job_pb2 import CancelJobRequest, Job
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.message_pb2 import ContentBlock, Role, Text
from callboard.v1.run_pb2 import Run
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from callboard_server.log.notices import MOST_BYTES
from callboard_server.log.notices import text_of as text_of_notice
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE, Gates
from tests.support.parking import parked, respond, the_action
from tests.support.serving import kinds_of, local, log_of, served, sound_log

QUEUED, RUNNING = RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_RUNNING
SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED, SUPERSEDED = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_SUPERSEDED
REQUIRES_ACTION = RunState.RUN_STATE_REQUIRES_ACTION
INBOX = RunTrigger.RUN_TRIGGER_INBOX
TOLD: Final = "outcome_and_actions"


class Supervisors:
    """Agents that launch a worker for each word that they are given, and may be woken for them."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.woken: list[list[str]] = []
        """For each time that one of them was woken, the ids of the jobs of which it was told."""

    async def boss(self, ctx: Context) -> str:
        """Takes its messages."""
        return await self._supervise(ctx)

    async def busy_boss(self, ctx: Context) -> str:
        """The same, and stays at a gate, "woken" or "launched", before it ends."""
        said = await self._supervise(ctx)
        self._gates._entered[said].set()
        await self._gates._opened[said].wait()
        return said

    async def _supervise(self, ctx: Context) -> str:
        if ctx.run.trigger == INBOX:
            self.woken.append(await told(ctx))
            return "woken"
        for word in (await ctx.input()).split():
            await ctx.jobs.launch("worker", word, notify=TOLD)
        return "launched"

    async def deaf(self, ctx: Context) -> None:
        """Reads nothing of what it is woken for."""
        if ctx.run.trigger != INBOX:
            await ctx.jobs.launch("worker", await ctx.input(), notify=TOLD)
        else:
            self.woken.append([])

    async def broken(self, ctx: Context) -> None:
        """Fails whenever it is woken."""
        if ctx.run.trigger == INBOX:
            self.woken.append(await told(ctx))
            raise RuntimeError
        await ctx.jobs.launch("worker", await ctx.input(), notify=TOLD)

    async def talker(self, ctx: Context) -> None:
        """Says that it has seen all, as a model call does, and stays at the gate "said"."""
        message = ctx.write_message((await ctx.view()).context_sequence)
        await message.commit([ContentBlock(text=Text(text="I see."))])
        if ctx.run.trigger == INBOX:
            self.woken.append(await told(ctx))
        else:
            self._gates._entered["said"].set()
            await self._gates._opened["said"].wait()

    @property
    def agents(self) -> Sequence[object]:
        own = [self.boss, self.busy_boss, self.deaf, self.broken, self.talker]
        return [*own, *self._gates.agents, asker]


async def told(ctx: Context) -> list[str]:
    """The jobs of which a thread was told."""
    return [m.notice_id for m in await ctx.messages() if m.notice_id]


async def asker(ctx: Context) -> str:
    """Asks what it was given."""
    return str(await ctx.ask(await ctx.input()))


@pytest.fixture
def supervisors(gates: Gates) -> Supervisors:
    return Supervisors(gates)


@pytest.fixture
async def client(supervisors: Supervisors, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with local(supervisors.agents, tmp_path / "jobs.db") as client:
        yield client
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def over(client: AsyncClient, run: Run) -> Run:
    return await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)


async def wake_up(client: AsyncClient, thread_id: str, number: int = 1) -> Run:
    """The run that was queued for notices of a thread, once it is there."""
    async with asyncio.timeout(PATIENCE):
        async for item in client.threads.stream(thread_id, until="never"):
            if isinstance(item, Event) and item.run_created.trigger == INBOX:
                number -= 1
                if not number:
                    return await client.runs.get(item.run_id)
    raise AssertionError("the stream ended")


async def notices(client: AsyncClient, thread_id: str) -> list[Notice]:
    """The notices of a thread."""
    log = [event async for event in client.threads.events(thread_id)]
    return [e.notice_added.notice for e in log if e.HasField("notice_added")]


async def jobs_below(client: AsyncClient, thread_id: str) -> list[Job]:
    found = [job async for job in client.jobs.list(parent_thread_id=thread_id)]
    return found[::-1]


async def unread(client: AsyncClient, thread_id: str) -> int:
    return (await client.threads.get(thread_id)).unread_notice_count


async def runs_on(client: AsyncClient, thread_id: str) -> list[Run]:
    found = [run async for run in client.runs.list(thread_id=thread_id)]
    return found[::-1]


async def ended(client: AsyncClient, *jobs: Job) -> Sequence[Job]:
    return await client.jobs.wait([job.job_id for job in jobs], timeout=PATIENCE)


# Telling


async def test_who_launched_a_job_is_woken_when_it_ends_and_told_in_words_of_everything(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    run = await over(client, await client.runs.create("boss", "word"))
    gates.open("word")
    woken = await over(client, await wake_up(client, run.thread_id))
    [job] = await jobs_below(client, run.thread_id)
    assert (woken.assistant_id, woken.state) == (run.assistant_id, SUCCEEDED)
    assert job.notify_assistant_id == run.assistant_id
    [notice] = await notices(client, run.thread_id)
    assert supervisors.woken == [[notice.notice_id]]
    assert (notice.job_id, notice.run_id, notice.agent) == (job.job_id, job.run_id, "worker")
    assert (notice.task, notice.state) == ("word", SUCCEEDED)
    assert notice.outcome == job.outcome
    [message] = [m async for m in client.threads.messages(run.thread_id) if m.notice_id]
    assert text_of(message) == text_of_notice(notice)
    assert (message.role, message.author) == (Role.ROLE_USER, "callboard")
    for part in (job.job_id, "worker", "is done", "word", "done: word"):
        assert part in text_of(message)
    log = await sound_log(client, run.thread_id)
    end = next(
        n for n, e in enumerate(log) if e.run_id == job.run_id and e.HasField("run_finished")
    )
    together = ["run_finished", "notice_added", "message_added", "run_created"]
    assert set(together) <= set(kinds_of(log[end : end + 5]))
    [read] = [e for e in log if e.HasField("notices_read")]
    assert list(read.notices_read.notice_ids) == [notice.notice_id]
    assert read.run_id == woken.run_id
    assert await unread(client, run.thread_id) == 0


async def test_a_failure_is_told_with_its_error(client: AsyncClient, gates: Gates) -> None:
    home = await client.threads.create()
    await client.jobs.launch("broken", "it", parent_thread_id=home.thread_id)
    job = await client.jobs.launch("worker", "slow", parent_thread_id=home.thread_id, timeout=0.01)
    await ended(client, job)
    told = await notices(client, home.thread_id)
    [late] = [notice for notice in told if notice.job_id == job.job_id]
    assert late.state == RunState.RUN_STATE_TIMED_OUT
    assert late.outcome.error.message in text_of_notice(late)
    gates.open("it")


async def test_long_results_are_cut_in_notices_alone(tmp_path: Path) -> None:
    async def wordy(ctx: Context) -> str:
        return "word " * MOST_BYTES

    async with local([wordy], tmp_path / "jobs.db") as client:
        home = await client.threads.create()
        job = await client.jobs.launch("wordy", "t" * 50_000, parent_thread_id=home.thread_id)
        [done] = await ended(client, job)
        [notice] = await notices(client, home.thread_id)
        assert notice.cut
        assert notice.ByteSize() < MOST_BYTES
        assert len(text_of_notice(notice)) < MOST_BYTES
        assert "cut" in text_of_notice(notice)
        assert len(text_of(done.outcome.result)) == 5 * MOST_BYTES


@pytest.mark.parametrize(("notify", "count"), [("none", 0), ("outcome", 1)])
async def test_only_what_was_asked_for_is_told(
    client: AsyncClient, notify: Any, count: int
) -> None:
    home = await client.threads.create()
    job = await client.jobs.launch("asker", "why?", parent_thread_id=home.thread_id, notify=notify)
    action = await the_action(client, await client.runs.get(job.run_id))
    assert await notices(client, home.thread_id) == []
    await respond(client, action, "because")
    await ended(client, job)
    assert len(await notices(client, home.thread_id)) == count


async def test_nobody_is_woken_on_a_thread_without_an_assistant(client: AsyncClient) -> None:
    home = await client.threads.create()
    job = await client.jobs.launch("quick", "it", parent_thread_id=home.thread_id)
    await ended(client, job)
    assert await unread(client, home.thread_id) == 1
    assert await runs_on(client, home.thread_id) == []


async def test_what_a_caller_launches_wakes_the_threads_assistant_of_then(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    run = await over(client, await client.runs.create("boss", ""))
    job = await client.jobs.launch("worker", "it", parent_thread_id=run.thread_id)
    await over(client, await client.runs.create("quick", "other", thread_id=run.thread_id))
    gates.open("it")
    woken = await over(client, await wake_up(client, run.thread_id))
    assert woken.assistant_id == run.assistant_id
    assert len(supervisors.woken) == 1
    assert job.parent_run_id == ""


async def test_a_wake_up_runs_as_the_run_did_that_launched_the_job(
    client: AsyncClient, gates: Gates
) -> None:
    run = await client.runs.create("boss", "it", config={"tone": "dry"}, timeout=60)
    gates.open("it")
    woken = await wake_up(client, run.thread_id)
    assert (woken.config, woken.timeout) == (run.config, run.timeout)


# None


@pytest.mark.parametrize("who", ["run", "parent", "operator", "stranger"])
async def test_a_parent_is_not_told_of_what_it_cancelled_itself(
    tmp_path: Path, gates: Gates, who: str
) -> None:
    async def canceller(ctx: Context) -> None:
        await ctx.jobs.cancel(await ctx.input())

    async with served([canceller, *gates.agents], tmp_path / "jobs.db") as server:
        client = server.client
        home = (await client.threads.create()).thread_id
        job = await client.jobs.launch("worker", "it", parent_thread_id=home)
        await gates.entered("it")
        if who == "run":
            await over(client, await client.runs.create("canceller", job.job_id, thread_id=home))
        elif who == "stranger":
            other = (await client.threads.create()).thread_id
            with pytest.raises(grpc.aio.AioRpcError, match="parent_thread_id"):
                await server.jobs.CancelJob(
                    CancelJobRequest(job_id=job.job_id, parent_thread_id=other)
                )
            return
        else:
            parent = home if who == "parent" else ""
            request = CancelJobRequest(job_id=job.job_id, parent_thread_id=parent)
            await server.jobs.CancelJob(request)
        [done] = await ended(client, job)
        assert done.state == CANCELLED
        told = await notices(client, home)
        assert [notice.state for notice in told] == ([CANCELLED] if who == "operator" else [])
        assert (await client.runs.get(job.run_id)).stopped_by_parent == (who != "operator")


async def test_a_redirected_job_is_told_of_once(client: AsyncClient, gates: Gates) -> None:
    home = (await client.threads.create()).thread_id
    job = await client.jobs.launch("worker", "first", parent_thread_id=home)
    await gates.entered("first")
    await client.jobs.update(job.job_id, "second")
    await gates.entered("second")
    await client.jobs.update(job.job_id, "third", delivery="enqueue")
    gates.open("second", "third")
    [done] = await ended(client, job)
    [notice] = await notices(client, home)
    assert (notice.run_id, notice.task) == (done.run_id, "first")
    assert text_of(notice.outcome.result) == "done: third"


async def test_a_run_that_waits_for_a_job_needs_no_notice(tmp_path: Path, gates: Gates) -> None:
    async def patient(ctx: Context) -> None:
        await ctx.jobs.wait(await ctx.jobs.launch("worker", "it", notify=TOLD))

    async with local([patient, *gates.agents], tmp_path / "jobs.db") as client:
        run = await parked(client, await client.runs.create("patient", "go"))
        gates.open("it")
        assert (await over(client, run)).state == SUCCEEDED
        assert await notices(client, run.thread_id) == []
        await sound_log(client, run.thread_id)


async def test_an_agent_is_told_nothing_that_it_did_not_ask_for(
    tmp_path: Path, gates: Gates
) -> None:
    async def unaware(ctx: Context) -> str:
        return (await ctx.jobs.launch("worker", "it")).job_id

    async with local([unaware, *gates.agents], tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("unaware", "go"))
        gates.open("it")
        await client.jobs.wait(text_of(run.outcome.result), timeout=PATIENCE)
        assert await notices(client, run.thread_id) == []
        assert [each.run_id async for each in client.runs.list(thread_id=run.thread_id)] == [
            run.run_id
        ]


@pytest.mark.parametrize("way", ["beside other work", "by the client", "after the end"])
async def test_what_a_run_at_work_fetches_wakes_nobody(
    tmp_path: Path, gates: Gates, way: str
) -> None:
    async def eager(ctx: Context) -> None:
        job = await ctx.jobs.launch("worker", "it", notify=TOLD)
        if way == "beside other work":
            await ctx.gather(fetch(ctx, job), work(ctx, job))
        elif way == "by the client":
            gates.open("it")
            await ctx.client.jobs.wait(job.job_id)
        else:
            await work(ctx, job)
            await ctx.jobs.wait(job)

    async def fetch(ctx: Context, job: Job) -> None:
        await ctx.jobs.wait(job)

    async def work(ctx: Context, job: Job) -> None:
        await gates.entered("it")
        gates.open("it")
        # Another call, so that nothing is noted for this run.
        await client.jobs.wait(job.job_id, timeout=PATIENCE)

    async with local([eager, *gates.agents], tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("eager", "go"))
        assert run.state == SUCCEEDED
        assert len(await notices(client, run.thread_id)) == 1
        assert await unread(client, run.thread_id) == 0
        assert len(await runs_on(client, run.thread_id)) == 1
        await sound_log(client, run.thread_id)
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def test_what_a_run_waited_for_that_was_cancelled_is_told_after_all(
    tmp_path: Path, gates: Gates
) -> None:
    async def patient(ctx: Context) -> None:
        if ctx.run.trigger != INBOX:
            await ctx.jobs.wait(
                *[await ctx.jobs.launch("worker", name, notify=TOLD) for name in "ab"]
            )
        await ctx.messages()

    async with local([patient, *gates.agents], tmp_path / "jobs.db") as client:
        run = await parked(client, await client.runs.create("patient", "go"))
        first, second = await jobs_below(client, run.thread_id)
        gates.open("a")
        await ended(client, first)
        assert await notices(client, run.thread_id) == []
        await client.runs.cancel(run.run_id)
        await over(client, await wake_up(client, run.thread_id))
        gates.open("b")
        await over(client, await wake_up(client, run.thread_id, 2))
        told = await notices(client, run.thread_id)
        assert [notice.job_id for notice in told] == [first.job_id, second.job_id]


# Waking


async def test_several_come_together_when_the_parent_was_busy(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    run = await client.runs.create("busy_boss", "a b c")
    await gates._entered["launched"].wait()
    gates.open("a", "b", "c", "woken")
    await ended(client, *await jobs_below(client, run.thread_id))
    assert await unread(client, run.thread_id) == 3
    assert len(await runs_on(client, run.thread_id)) == 1
    gates.open("launched")
    await over(client, await wake_up(client, run.thread_id))
    told = await notices(client, run.thread_id)
    assert supervisors.woken == [[notice.notice_id for notice in told]]
    assert len(told) == 3
    assert await unread(client, run.thread_id) == 0
    assert len(await runs_on(client, run.thread_id)) == 2
    await sound_log(client, run.thread_id)


async def test_a_parent_that_was_cancelled_is_told_all_the_same(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    run = await client.runs.create("busy_boss", "it")
    await gates._entered["launched"].wait()
    await client.runs.cancel(run.run_id)
    gates.open("it", "woken")
    await over(client, await wake_up(client, run.thread_id))
    assert [len(told) for told in supervisors.woken] == [1]


async def test_a_superseded_wake_up_loses_nothing(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    gates.open("launched")
    run = await over(client, await client.runs.create("busy_boss", "it"))
    gates.open("it")
    await gates._entered["woken"].wait()
    other = await client.runs.create(
        "worker", "other", thread_id=run.thread_id, multitask_strategy="interrupt"
    )
    await gates.entered("other")
    [_, first, _] = await runs_on(client, run.thread_id)
    assert (await over(client, first)).state == SUPERSEDED
    assert await unread(client, run.thread_id) == 1
    gates.open("other", "woken")
    await over(client, other)
    await over(client, await wake_up(client, run.thread_id, 2))
    assert supervisors.woken[0] == supervisors.woken[1]
    assert await unread(client, run.thread_id) == 0
    await sound_log(client, run.thread_id)


async def test_a_reader_that_is_rolled_back_has_read_nothing(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    gates.open("said")
    run = await over(client, await client.runs.create("talker", "hello"))
    gates._opened["said"].clear()
    gates._entered["said"].clear()
    busy = await client.runs.create("worker", "busy", thread_id=run.thread_id)
    job = await client.jobs.launch("quick", "it", parent_thread_id=run.thread_id)
    reader = await client.runs.create("talker", "and?", thread_id=run.thread_id)
    await ended(client, job)
    gates.open("busy")
    await over(client, busy)
    await gates._entered["said"].wait()
    assert await unread(client, run.thread_id) == 0
    await client.runs.cancel(reader.run_id, rollback=True)
    await over(client, await wake_up(client, run.thread_id))
    assert [len(told) for told in supervisors.woken] == [1]
    assert await unread(client, run.thread_id) == 0
    await sound_log(client, run.thread_id)


async def test_a_supervisor_that_fails_is_tried_again_after_a_pause(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    run = await client.runs.create("broken", "it")
    gates.open("it")
    assert (await over(client, await wake_up(client, run.thread_id))).state == FAILED
    again = await wake_up(client, run.thread_id, 2)
    assert (again.state, again.waiting_for.kind) == (QUEUED, WaitingFor.KIND_TIMER)
    pause = again.start_after.ToNanoseconds() - again.create_time.ToNanoseconds()
    assert pause == pytest.approx(5e9, abs=1e6)
    # What is new is told at once, and along with it what is old.
    job = await client.jobs.launch("quick", "new", parent_thread_id=run.thread_id)
    await ended(client, job)
    assert (await over(client, again)).state == FAILED
    assert [len(told) for told in supervisors.woken] == [1, 2]


async def test_a_supervisor_that_does_not_read_does_not_spin(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    run = await client.runs.create("deaf", "it")
    gates.open("it")
    await over(client, await wake_up(client, run.thread_id))
    assert (await client.threads.get(run.thread_id)).state != 2
    assert len(await runs_on(client, run.thread_id)) == 2
    assert await unread(client, run.thread_id) == 1
    # The next notice wakes it again.
    job = await client.jobs.launch("quick", "new", parent_thread_id=run.thread_id)
    await ended(client, job)
    await over(client, await wake_up(client, run.thread_id, 2))
    assert len(await runs_on(client, run.thread_id)) == 3
    assert await unread(client, run.thread_id) == 2


async def test_a_wake_up_that_somebody_cancels_waits_for_what_comes_next(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    gates.open("launched", "it")
    run = await client.runs.create("busy_boss", "it")
    woken = await wake_up(client, run.thread_id)
    await gates._entered["woken"].wait()
    await client.runs.cancel(woken.run_id)
    assert (await over(client, woken)).state == CANCELLED
    assert len(await runs_on(client, run.thread_id)) == 2
    assert await unread(client, run.thread_id) == 1
    await over(client, await client.runs.create("busy_boss", "", thread_id=run.thread_id))
    assert await unread(client, run.thread_id) == 0


async def test_questions_of_a_job_are_told_and_wake(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    run = await over(client, await client.runs.create("boss", ""))
    job = await client.jobs.launch("asker", "red or blue?", parent_thread_id=run.thread_id)
    await over(client, await wake_up(client, run.thread_id))
    [notice] = await notices(client, run.thread_id)
    action = await the_action(client, await client.runs.get(job.run_id))
    assert (notice.state, list(notice.actions)) == (REQUIRES_ACTION, [action])
    assert "red or blue?" in text_of_notice(notice)
    await respond(client, action, "red")
    await over(client, await wake_up(client, run.thread_id, 2))
    _, outcome = await notices(client, run.thread_id)
    assert outcome.state == SUCCEEDED
    assert [len(told) for told in supervisors.woken] == [1, 2]


async def test_a_question_that_has_its_answer_wakes_nobody(
    client: AsyncClient, gates: Gates, supervisors: Supervisors
) -> None:
    run = await over(client, await client.runs.create("boss", ""))
    busy = await client.runs.create("worker", "busy", thread_id=run.thread_id)
    await gates.entered("busy")
    job = await client.jobs.launch("asker", "why?", parent_thread_id=run.thread_id)
    action = await the_action(client, await client.runs.get(job.run_id))
    await client.jobs.update(job.job_id, "more", delivery="enqueue")
    await respond(client, action, "so")
    second = await the_action(client, (await runs_on(client, job.job_id))[1])
    await client.runs.cancel(second.run_id)
    gates.open("busy")
    await over(client, busy)
    await over(client, await wake_up(client, run.thread_id))
    assert [len(told) for told in supervisors.woken] == [3]


async def test_a_job_that_hands_work_on_ends_with_what_it_makes_of_the_results(
    tmp_path: Path, gates: Gates
) -> None:
    async def middle(ctx: Context) -> str:
        if ctx.run.trigger == INBOX:
            return f"made of {len(await told(ctx))}"
        await ctx.jobs.launch("worker", "below", notify=TOLD)
        return "handed on"

    async with local([middle, *gates.agents], tmp_path / "jobs.db") as client:
        home = (await client.threads.create()).thread_id
        job = await client.jobs.launch("middle", "go", parent_thread_id=home)
        [first] = await ended(client, job)
        gates.open("below")
        await over(client, await wake_up(client, job.job_id))
        [last] = await ended(client, job)
        assert (first.run_count, last.run_count) == (1, 2)
        results = [text_of(notice.outcome.result) for notice in await notices(client, home)]
        assert results == ["handed on", "made of 1"]
        await sound_log(client, home)
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def test_a_job_that_was_cancelled_is_not_woken_by_its_own_jobs(
    tmp_path: Path, gates: Gates
) -> None:
    async def middle(ctx: Context) -> None:
        await ctx.jobs.launch("worker", "below", notify=TOLD)
        await asyncio.Event().wait()

    async with local([middle, *gates.agents], tmp_path / "jobs.db") as client:
        job = await client.jobs.launch("middle", "go")
        await gates.entered("below")
        await client.jobs.cancel(job.job_id)
        await ended(client, job)
        gates.open("below")
        await ended(client, *await jobs_below(client, job.job_id))
        assert len(await runs_on(client, job.job_id)) == 1
        assert await unread(client, job.job_id) == 1
        # New instructions let it see what came meanwhile.
        updated = await client.jobs.update(job.job_id, "go on")
        await client.jobs.cancel(updated.job_id)


async def test_a_supervisor_with_a_model_tells_what_it_was_told(
    tmp_path: Path, gates: Gates
) -> None:
    (tmp_path / "supervisor.toml").write_text(
        """
        [[rule]]
        when = 'start (?P<task>\\w+)'
        example = 'start it'
        call = [{ tool = "launch_job", arguments = { agent = "worker", task = "{task}" } }]
        [[rule]]
        after = "launch_job"
        say = "started"
        """
    )
    chat = ChatAgent("offline:supervisor.toml", callable_assistants=["worker"], base=tmp_path)
    agents: Any = {"chat": chat, "worker": gates.worker}
    async with local(agents, tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("chat", "start it"))
        assert text_of(run.outcome.result) == "started"
        gates.open("it")
        woken = await over(client, await wake_up(client, run.thread_id))
        [notice] = await notices(client, run.thread_id)
        assert text_of(woken.outcome.result) == text_of_notice(notice)
        assert await unread(client, run.thread_id) == 0
        await sound_log(client, run.thread_id)
    assert admin.check(str(tmp_path / "jobs.db")) == []


# Going


async def test_a_job_that_is_deleted_is_told_of_and_a_parent_that_is_deleted_takes_all_along(
    client: AsyncClient, gates: Gates
) -> None:
    home = (await client.threads.create()).thread_id
    jobs = [await client.jobs.launch("worker", name, parent_thread_id=home) for name in ("a", "b")]
    await gates.entered("a")
    await client.threads.delete(jobs[0].job_id)
    [notice] = await notices(client, home)
    assert (notice.job_id, notice.state) == (jobs[0].job_id, CANCELLED)
    await client.threads.delete(home)
    assert [job async for job in client.jobs.list()] == []


async def test_a_copy_has_the_words_of_notices_and_nothing_unread(
    client: AsyncClient, gates: Gates
) -> None:
    home = (await client.threads.create()).thread_id
    job = await client.jobs.launch("quick", "it", parent_thread_id=home)
    await ended(client, job)
    copy = await client.threads.copy(home)
    assert copy.unread_notice_count == 0
    [message] = [m async for m in client.threads.messages(copy.thread_id)]
    assert job.job_id in text_of(message)
    assert message.notice_id == ""
    assert len(await log_of(client, copy.thread_id)) < 5
