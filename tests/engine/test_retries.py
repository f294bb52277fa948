"""Attempts that fail and are repeated, and how many runs of an assistant work at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from pathlib import Path

import pytest

from callboard import AsyncClient, RunState, text_of, to_dict
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Event, RunQueued
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.run_pb2 import Run
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.models.base import Answer, ModelRequest, Piece
from callboard_server.models.offline import OfflineModel
from callboard_server.store.sqlite import admin
from tests.support.following import event_of, over
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import kinds_of, sound_log, tuned

QUEUED, RUNNING = RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_RUNNING
SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED, SUPERSEDED = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_SUPERSEDED
LONG = 3600.0


class Flaky:
    """An agent that fails some times before it comes through."""

    def __init__(self, failures: int, error: Callable[[], BaseException] = RuntimeError) -> None:
        self._failures = failures
        self._error = error
        self.attempts: list[int] = []
        self.computed: list[str] = []
        self.seen: list[list[str]] = []

    async def _compute(self, name: str) -> str:
        self.computed.append(name)
        return name

    async def flaky(self, ctx: Context) -> str:
        self.attempts.append(ctx.run.attempt)
        self.seen.append([text_of(message) for message in await ctx.messages()])
        await ctx.step("first", self._compute, "first")
        await ctx.say(f"attempt {ctx.run.attempt}")
        await ctx.merge_values({f"attempt {ctx.run.attempt}": True})
        if len(self.attempts) <= self._failures:
            raise self._error()
        await ctx.step("second", self._compute, "second")
        return "done"


def retries(log: list[Event]) -> list[Event]:
    return [
        e for e in log if e.HasField("run_queued") and e.run_queued.reason == RunQueued.REASON_RETRY
    ]


async def in_pause(client: AsyncClient, run: Run) -> Run:
    """The run, when it waits for its next attempt."""
    await event_of(client, run, "run_queued")
    return await client.runs.get(run.run_id)


async def test_a_run_that_fails_begins_again_from_the_top_with_what_is_recorded(
    tmp_path: Path,
) -> None:
    agent = Flaky(2)
    db = tmp_path / "jobs.db"
    async with tuned([agent.flaky], db, max_attempts=3) as client:
        run = await over(client, await client.runs.create("flaky", "go"))
        assert (run.state, run.attempt, run.claim_epoch) == (SUCCEEDED, 3, 3)
        assert agent.attempts == [1, 2, 3]
        assert agent.computed == ["first", "second"]
        assert agent.seen == [["go"]] * 3
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "attempt 3", "done"]
        values = (await client.threads.state(run.thread_id)).values
        assert to_dict(values) == {"attempt 3": True}
        log = await sound_log(client, run.thread_id)
    again = retries(log)
    assert [e.attempt for e in again] == [2, 3]
    for event in again:
        error = event.run_queued.error
        assert (error.reason, error.retryable) == (ErrorReason.ERROR_REASON_AGENT_FAILED, True)
        assert error.error_id
        assert event.run_queued.start_after.ToNanoseconds() > event.time.ToNanoseconds()
    assert kinds_of(log).count("run_finished") == 1
    assert kinds_of(log).count("claim_voided") == 2
    assert admin.check(str(db)) == []


async def test_the_pause_doubles(tmp_path: Path) -> None:
    agent = Flaky(3)
    async with tuned([agent.flaky], tmp_path / "jobs.db", max_attempts=4, retry_pause=0.05) as c:
        run = await over(c, await c.runs.create("flaky", "go"))
        assert run.state == SUCCEEDED
        pauses = [
            (e.run_queued.start_after.ToNanoseconds() - e.time.ToNanoseconds()) / 1e9
            for e in retries(await sound_log(c, run.thread_id))
        ]
    for number, pause in enumerate(pauses):
        assert 0.8 <= pause / (0.05 * 2**number) <= 1.21
    assert len(pauses) == 3


async def test_the_last_attempt_ends_the_run_with_its_error(tmp_path: Path) -> None:
    agent = Flaky(9)
    async with tuned([agent.flaky], tmp_path / "jobs.db", max_attempts=2) as client:
        run = await over(client, await client.runs.create("flaky", "go"))
        assert (run.state, run.attempt) == (FAILED, 2)
        assert agent.attempts == [1, 2]
        assert run.outcome.error.reason == ErrorReason.ERROR_REASON_AGENT_FAILED
        assert run.outcome.error.retryable
        # Two messages for people: neither has the exception's text.
        await sound_log(client, run.thread_id)


@pytest.mark.parametrize("retryable", [False, True])
async def test_what_an_agent_says_itself_is_repeated_only_where_it_says_so(
    tmp_path: Path, retryable: bool
) -> None:
    agent = Flaky(1, lambda: AgentError("Not now.", retryable=retryable))
    async with tuned([agent.flaky], tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("flaky", "go"))
        assert run.state == (SUCCEEDED if retryable else FAILED)
        assert agent.attempts == ([1, 2] if retryable else [1])
        for event in retries(await sound_log(client, run.thread_id)):
            assert event.run_queued.error.message == "Not now."


async def test_ten_restarts_are_no_attempt(tmp_path: Path, gates: Gates) -> None:
    db = tmp_path / "jobs.db"
    run_id = thread = ""
    for number in range(10):
        async with tuned(gates.agents, db, max_attempts=2, grace=0) as client:
            if not run_id:
                run = await client.runs.create("worker", "go")
                run_id, thread = run.run_id, run.thread_id
            else:
                run = await client.runs.get(run_id)
            await event_of(client, run, "run_started", count=number + 1)
            await gates.entered("go")
    gates.open("go")
    async with tuned(gates.agents, db, max_attempts=2) as client:
        run = await client.runs.wait(run_id, timeout=PATIENCE)
        assert (run.state, run.attempt, run.claim_epoch) == (SUCCEEDED, 1, 11)
        log = await sound_log(client, thread)
        reasons = [e.run_queued.reason for e in log if e.HasField("run_queued")]
        assert reasons == [RunQueued.REASON_DRAINED] * 10


async def test_a_run_in_its_pause_keeps_nobody_back_and_is_cancelled_at_once(
    tmp_path: Path, gates: Gates
) -> None:
    agent = Flaky(9)
    agents = [agent.flaky, *gates.agents]
    async with tuned(agents, tmp_path / "jobs.db", retry_pause=LONG) as client:
        run = await in_pause(client, await client.runs.create("flaky", "go"))
        assert (run.state, run.attempt) == (QUEUED, 2)
        assert run.waiting_for.kind == WaitingFor.KIND_TIMER
        past = await over(
            client,
            await client.runs.create(
                "quick", "past", thread_id=run.thread_id, multitask_strategy="reject"
            ),
        )
        assert past.state == SUCCEEDED
        ended = await client.runs.cancel(run.run_id)
        assert (ended.state, ended.attempt) == (CANCELLED, 2)
        assert not ended.HasField("waiting_for")
        assert agent.attempts == [1]
        await sound_log(client, run.thread_id)


async def test_the_pause_goes_on_over_a_restart(tmp_path: Path) -> None:
    agent, db = Flaky(1), tmp_path / "jobs.db"
    async with tuned([agent.flaky], db, retry_pause=0.5) as client:
        run = await in_pause(client, await client.runs.create("flaky", "go"))
        due = run.waiting_for.until.ToNanoseconds()
    async with tuned([agent.flaky], db) as client:
        run = await over(client, run)
        assert (run.state, run.attempt) == (SUCCEEDED, 2)
        log = await sound_log(client, run.thread_id)
        started = [e.time.ToNanoseconds() for e in log if e.HasField("run_started")]
        assert started[1] >= due


async def test_a_repeated_attempt_has_its_old_place_in_line(tmp_path: Path, gates: Gates) -> None:
    agent = Flaky(1)
    async with tuned([agent.flaky, *gates.agents], tmp_path / "jobs.db", retry_pause=0.05) as c:
        run = await in_pause(c, await c.runs.create("flaky", "go"))
        at_work = await c.runs.create("worker", "at work", thread_id=run.thread_id)
        await gates.entered("at work")
        last = await c.runs.create("quick", "last", thread_id=run.thread_id)
        gates.open("at work")
        ended = [await over(c, each) for each in (at_work, run, last)]
        assert [each.state for each in ended] == [SUCCEEDED] * 3
        await sound_log(c, run.thread_id)


async def test_an_interrupt_leaves_a_run_in_its_pause(tmp_path: Path, gates: Gates) -> None:
    agent = Flaky(1)
    async with tuned([agent.flaky, *gates.agents], tmp_path / "jobs.db", retry_pause=LONG) as c:
        run = await in_pause(c, await c.runs.create("flaky", "go"))
        new = await c.runs.create(
            "quick", "new", thread_id=run.thread_id, multitask_strategy="interrupt"
        )
        await over(c, new)
        assert (await c.runs.get(run.run_id)).state == QUEUED
        await c.runs.cancel(run.run_id)


async def test_a_stop_that_was_asked_for_ends_a_run_that_fails(
    tmp_path: Path, gates: Gates
) -> None:
    async def bad_loser(ctx: Context) -> str:
        try:
            return await gates.worker(ctx)
        except asyncio.CancelledError:
            raise RuntimeError from None

    async with tuned([bad_loser], tmp_path / "jobs.db", retry_pause=0) as client:
        run = await client.runs.create("bad_loser", "go")
        await gates.entered("go")
        await client.runs.cancel(run.run_id)
        ended = await over(client, run)
        assert (ended.state, ended.attempt) == (CANCELLED, 1)
        assert retries(await sound_log(client, run.thread_id)) == []


async def test_what_streamed_in_a_failed_attempt_is_discarded(tmp_path: Path) -> None:
    attempts: list[int] = []

    async def streams(ctx: Context) -> str:
        attempts.append(ctx.run.attempt)
        writing = ctx.write_message((await ctx.view()).context_sequence)
        writing.delta(0, "half a sen")
        if len(attempts) == 1:
            raise RuntimeError
        await writing.discard("Not needed.")
        return "done"

    async with tuned([streams], tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("streams", "go"))
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "done"]
        log = await sound_log(client, run.thread_id)
        assert kinds_of(log).count("message_discarded") == 2


async def test_a_chat_agent_goes_on_from_its_last_message(tmp_path: Path) -> None:
    calls: list[int] = []

    class Failing(OfflineModel):
        def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
            calls.append(1)
            if len(calls) == 1:
                raise ConnectionError
            return super().stream(request)

    chat = ChatAgent(Failing("failing", ()))
    async with tuned({"chat": chat}, tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("chat", "hello"))
        assert (run.state, run.attempt, len(calls)) == (SUCCEEDED, 2, 2)
        log = await sound_log(client, run.thread_id)
        assert "claim_voided" not in kinds_of(log)


# Changed code


async def test_code_that_no_longer_takes_a_recorded_step_ends_as_changed(tmp_path: Path) -> None:
    attempts: list[int] = []

    async def changing(ctx: Context) -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await ctx.step("old name", lambda: 1)
            raise RuntimeError
        await ctx.step("new name", lambda: 2)
        return "done"

    async with tuned([changing], tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("changing", "go"))
        assert (run.state, run.attempt) == (FAILED, 2)
        error = run.outcome.error
        assert error.reason == ErrorReason.ERROR_REASON_AGENT_CHANGED
        assert "old name#1" in error.message
        assert not error.retryable
        assert len(attempts) == 2
        await sound_log(client, run.thread_id)


async def test_code_that_takes_more_steps_than_before_is_not_changed(tmp_path: Path) -> None:
    attempts: list[int] = []

    async def growing(ctx: Context) -> str:
        attempts.append(1)
        for number in range(len(attempts)):
            await ctx.step("part", lambda number=number: number)
        if len(attempts) < 3:
            raise RuntimeError
        return "done"

    async with tuned([growing], tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("growing", "go"))
        assert run.state == SUCCEEDED


async def test_changed_code_that_fails_anyway_fails_with_its_own_error(tmp_path: Path) -> None:
    attempts: list[int] = []

    async def changing(ctx: Context) -> str:
        attempts.append(1)
        if len(attempts) == 1:
            await ctx.step("old name", lambda: 1)
            raise RuntimeError
        raise AgentError("It cannot be done.")

    async with tuned([changing], tmp_path / "jobs.db") as client:
        run = await over(client, await client.runs.create("changing", "go"))
        assert run.outcome.error.reason == ErrorReason.ERROR_REASON_AGENT_FAILED


# As many as may


async def test_no_more_runs_of_an_assistant_work_than_its_agent_allows(
    tmp_path: Path, gates: Gates
) -> None:
    async with tuned(gates.agents, tmp_path / "jobs.db", concurrency=2, slots=8) as client:
        texts = [f"run {number}" for number in range(6)]
        runs = [await client.runs.create("worker", text) for text in texts]
        for text in texts[:2]:
            await gates.entered(text)
        held = await client.runs.get(runs[2].run_id)
        assert (held.state, held.waiting_for.kind) == (QUEUED, WaitingFor.KIND_CONCURRENCY)
        assert {*held.waiting_for.ids} == {run.run_id for run in runs[:2]}
        # Others go past those that wait.
        other = await client.runs.create("quick", "other")
        assert (await over(client, other)).state == SUCCEEDED
        for number, text in enumerate(texts):
            await gates.entered(text)
            assert len(gates.order) - 1 <= number + 2
            gates.open(text)
        assert {(await over(client, run)).state for run in runs} == {SUCCEEDED}
        assert sorted(gates.order) == sorted(["other", *texts])


async def test_a_run_that_waits_does_not_count(tmp_path: Path, gates: Gates) -> None:
    async def asks(ctx: Context) -> str:
        if await ctx.input() == "ask":
            await ctx.ask("Shall I?")
        return await gates.worker(ctx)

    async with tuned([asks], tmp_path / "jobs.db", concurrency=1) as client:
        asking = await client.runs.create("asks", "ask")
        await event_of(client, asking, "run_waiting")
        second = await client.runs.create("asks", "second")
        await gates.entered("second")
        third = await client.runs.create("asks", "third")
        assert (await client.runs.get(third.run_id)).state == QUEUED
        await client.runs.cancel(asking.run_id)
        assert not gates.has_entered("third")
        gates.open("second", "third")
        assert (await over(client, second)).state == SUCCEEDED
        assert (await over(client, third)).state == SUCCEEDED


async def test_runs_that_fail_and_pause_do_not_count(tmp_path: Path, gates: Gates) -> None:
    attempts: list[str] = []

    async def fails_first(ctx: Context) -> str:
        attempts.append(await ctx.input())
        if attempts == ["bad"]:
            raise RuntimeError
        return "done"

    async with tuned([fails_first], tmp_path / "jobs.db", concurrency=1, retry_pause=LONG) as c:
        bad = await in_pause(c, await c.runs.create("fails_first", "bad"))
        good = await over(c, await c.runs.create("fails_first", "good"))
        assert good.state == SUCCEEDED
        await c.runs.cancel(bad.run_id)
