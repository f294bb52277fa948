"""Each guard of the server, kept and removed: what it keeps away is what its validator finds.

A test plays the same story twice. With the guard the story keeps every guarantee; without it the
validator names the fault. So neither the guard nor its validator is there for nothing.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, closing, suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import callboard
from callboard import AsyncClient, Event
from callboard.v1.message_pb2 import Text
from callboard.v1.run_pb2 import EventFrame
from callboard.v1.thread_pb2 import EVENT_SCOPE_SESSION, StreamEventsRequest
from callboard_server import errors
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from callboard_server.agents.errors import Fenced
from callboard_server.agents.tools import tool
from callboard_server.engine import dispatcher, engine, jobs, lifecycle, live, notices
from callboard_server.engine.execution import Execution
from callboard_server.log.recorded import Recorded
from callboard_server.services import streams
from callboard_server.store.base import JobRow, ThreadRow, Transaction
from callboard_server.store.sqlite import admin, ownership
from callboard_server.store.sqlite.transaction import SqliteTransaction
from tests.robustness import killing, supervision, validators
from tests.robustness.killing import sabotaged, survive
from tests.robustness.telling import told_of_ends
from tests.robustness.validators import Effect, Input
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import local, log_of, served


@dataclass
class Guard:
    """Something that the server does to keep a guarantee."""

    patches: pytest.MonkeyPatch
    removed: bool

    def remove(self, place: object, name: str, instead: object) -> None:
        """Puts something else in its place, where the story is told without it."""
        if self.removed:
            self.patches.setattr(place, name, instead)

    def judge(self, found: Iterable[str], fault: str) -> None:
        """The fault is found where the guard was removed, and nothing else is ever found."""
        problems = list(found)
        if self.removed:
            assert any(fault in problem for problem in problems), problems
        else:
            assert problems == []


@pytest.fixture(params=[False, True], ids=["kept", "removed"])
def guard(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Guard:
    return Guard(monkeypatch, request.param)


class Worker:
    """An agent of one step, which leaves a trace; its first visit ends with the server."""

    def __init__(self) -> None:
        self.traces: list[Effect] = []
        self.arrived = asyncio.Event()
        self.contexts: list[Context] = []

    async def worker(self, ctx: Context) -> str:
        """Works in a step, and then in another one."""
        self.contexts.append(ctx)
        await ctx.step("work", self.trace, ctx, "step work#1")
        if len(self.contexts) == 1:
            self.arrived.set()
            await asyncio.Event().wait()
        return "done"

    def trace(self, ctx: Context, work: str) -> None:
        self.traces.append(Effect(ctx.run.run_id, ctx.run.claim_epoch, work))


@asynccontextmanager
async def restarted(worker: Worker, agents: dict[str, Any], db: Path) -> AsyncIterator[AsyncClient]:
    """A server whose run was at work in another one before."""
    async with local(agents, db, grace=0) as client:
        await client.runs.create("worker", "work", request_id="first")
        async with asyncio.timeout(PATIENCE):
            await worker.arrived.wait()
    async with local(agents, db) as client:
        yield client


async def the_log(client: AsyncClient) -> list[Event]:
    """The log of the only session, once its run is over."""
    [run] = [run async for run in client.runs.list()]
    await client.runs.wait(run.run_id, timeout=PATIENCE)
    return await log_of(client, run.thread_id)


# What was done


async def test_recorded_steps_are_remembered(guard: Guard, tmp_path: Path) -> None:
    async def nothing(execution: Execution) -> Recorded:
        return Recorded()

    guard.remove(Execution, "recorded", nothing)
    worker = Worker()
    async with restarted(worker, {"worker": worker.worker}, tmp_path / "jobs.db") as client:
        log = await the_log(client)
    guard.judge(validators.done_once(log, worker.traces), "was recorded and done again")


RULES = """
[[rule]]
example = "work"
when = "work"
call = [{ tool = "strike" }]

[[rule]]
after = "strike"
say = "{result}"
"""


async def test_started_tools_are_remembered(guard: Guard, tmp_path: Path) -> None:
    async def nothing(ctx: Context, call: object) -> None:
        return None

    guard.remove(Context, "started_tool", nothing)
    worker = Worker()

    @tool
    async def strike(ctx: Context) -> str:
        """Strikes."""
        worker.trace(ctx, "tool strike {}")
        if not worker.arrived.is_set():
            worker.arrived.set()
            await asyncio.Event().wait()
        return "struck"

    (tmp_path / "rules.toml").write_text(RULES)
    chat = ChatAgent("offline:rules.toml", tools=[strike], base=tmp_path)
    async with restarted(worker, {"worker": chat}, tmp_path / "jobs.db") as client:
        log = await the_log(client)
    guard.judge(validators.started_once(log), "was started, or has a result, 2 times")


# Who may write


async def test_code_of_a_run_that_is_over_is_refused(guard: Guard, tmp_path: Path) -> None:
    guard.remove(lifecycle, "holds", lambda run, epoch: True)
    gates = Gates()
    async with served(gates.agents, tmp_path / "jobs.db", grace=0) as server:
        client = server.client
        run = await client.runs.create("stubborn", "it")
        ctx = await gates.entered("it")
        await client.runs.cancel(run.run_id)
        await client.runs.wait(run.run_id, timeout=PATIENCE)
        with suppress(Fenced):
            await of_another_server(ctx, server.app.engine).commit(late_step())
        log = await log_of(client, run.thread_id)
        gates.close()
    guard.judge(validators.terminal_last(log), "and has step_recorded at")


async def test_a_claim_that_another_followed_is_refused(guard: Guard, tmp_path: Path) -> None:
    worker, db = Worker(), tmp_path / "jobs.db"

    async def paused(ctx: Context) -> str:
        if not worker.contexts:
            return await worker.worker(ctx)
        worker.contexts.append(ctx)
        await release.wait()
        return "done"

    release = asyncio.Event()
    agents = {"worker": paused}
    async with local(agents, db, grace=0) as client:
        run = await client.runs.create("worker", "work")
        async with asyncio.timeout(PATIENCE):
            await worker.arrived.wait()
        old = worker.contexts[0]
    async with served(agents, db) as server:
        await until_claimed(server.client, run.run_id)
        guard.remove(lifecycle, "holds", lambda run, epoch: True)
        with suppress(Fenced):
            await of_another_server(old, server.app.engine).commit(late_step())
        release.set()
        log = await the_log(server.client)
    guard.judge(validators.done_once(log, worker.traces), "late#1")


def late_step() -> Event:
    event = Event()
    event.step_recorded.name, event.step_recorded.occurrence = "late", 1
    return event


def of_another_server(ctx: Context, running: engine.Engine) -> Execution:
    """The work of a context's claim, as a server would go on with it that knows of no other."""
    old = ctx._work
    assert isinstance(old, Execution)
    return Execution(running.store, running.hub, old.claim, old.assistant)


async def until_claimed(client: AsyncClient, run_id: str) -> None:
    async with client.threads.stream(run_id=run_id, kinds=["run_started"]) as items:
        async for item in items:
            if isinstance(item, Event) and item.claim_epoch == 2:
                return


async def test_a_server_that_lost_its_file_is_refused(guard: Guard, tmp_path: Path) -> None:
    guard.remove(ownership, "holds", lambda connection, worker_id: True)
    gates, db = Gates(), tmp_path / "jobs.db"
    async with local(gates.agents, db, grace=0) as client:
        run = await client.runs.create("quick", "first")
        await client.runs.wait(run.run_id, timeout=PATIENCE)
        before = await log_of(client, run.thread_id)
        with closing(sqlite3.connect(db, isolation_level=None)) as thief:
            thief.execute("UPDATE owner SET worker_id = 'another'")
        with suppress(callboard.Unavailable):
            await client.with_timeout(0.1).runs.create("quick", "second", thread_id=run.thread_id)
            await client.runs.wait(run.run_id, timeout=PATIENCE)
        log = await until_finished(client, run.thread_id, 2 if guard.removed else 1)
    workers = {e.run_started.worker_id: len(before) for e in before if e.HasField("run_started")}
    guard.judge(validators.started_by(log, workers), "which lost the file before")


async def until_finished(client: AsyncClient, thread_id: str, runs: int) -> list[Event]:
    """The log of a thread once so many runs of it are over."""
    seen: list[Event] = []
    async with client.threads.stream(thread_id) as items:
        while sum(event.HasField("run_finished") for event in seen) < runs:
            item = await anext(items)
            assert isinstance(item, Event)
            seen.append(item)
    return await log_of(client, thread_id)


async def test_runs_of_a_server_that_is_gone_are_rescued(guard: Guard, tmp_path: Path) -> None:
    guard.remove(dispatcher, "rescue", lambda tx: 0)
    worker, db = Worker(), tmp_path / "jobs.db"
    agents = {"worker": worker.worker}
    async with local(agents, db, grace=0) as client:
        run = await client.runs.create("worker", "work")
        async with asyncio.timeout(PATIENCE):
            await worker.arrived.wait()
        copy = tmp_path / "copy.db"
        admin.backup(str(db), str(copy))
    async with local(agents, copy) as client:
        if not guard.removed:
            await client.runs.wait(run.run_id, timeout=PATIENCE)
        log = await log_of(client, run.thread_id)
    guard.judge(validators.terminal_last(log), "has no end")


# What is told


async def test_the_end_of_a_job_is_told(guard: Guard, tmp_path: Path) -> None:
    guard.remove(notices, "_tell", lambda tx, thread, job: False)
    async with local(Gates().agents, tmp_path / "jobs.db") as client:
        home = (await client.threads.create()).thread_id
        job = await client.jobs.launch("quick", "it", parent_thread_id=home)
        await client.jobs.wait(job.job_id, timeout=PATIENCE)
        log = await log_of(client, home)
    guard.judge(told_of_ends(log), "its parent was told 0 times")


async def test_what_a_parent_stops_it_is_not_told(guard: Guard, tmp_path: Path) -> None:
    told = notices._tell

    def forgetting(tx: Transaction, thread: ThreadRow, job: JobRow) -> bool:
        job.run.data.stopped_by_parent = False
        return told(tx, thread, job)

    guard.remove(notices, "_tell", forgetting)
    gates = Gates()
    async with local(gates.agents, tmp_path / "jobs.db") as client:
        home = (await client.threads.create()).thread_id
        job = await client.jobs.launch("worker", "it", parent_thread_id=home)
        await gates.entered("it")
        await client.jobs.cancel(job.job_id, parent_thread_id=home)
        await client.jobs.wait(job.job_id, timeout=PATIENCE)
        log = await log_of(client, home)
    guard.judge(told_of_ends(log), "had stopped it itself")


# What is taken


async def test_a_request_is_taken_once(guard: Guard, tmp_path: Path) -> None:
    guard.remove(engine, "once", lambda key, answer_type, operation: operation)
    gates = Gates()
    async with local(gates.agents, tmp_path / "jobs.db") as client:
        for _ in range(2):
            job = await client.jobs.launch("quick", "it", request_id="the same")
            await client.jobs.wait(job.job_id, timeout=PATIENCE)
        logs = [await log_of(client, job.job_id) async for job in client.jobs.list()]
    guard.judge(validators.taken_once(logs), "'it' was taken 2 times")


async def test_an_operation_that_fails_leaves_nothing(guard: Guard, tmp_path: Path) -> None:
    def refuse(*_: object) -> None:
        raise errors.thread_not_found("nowhere")

    guard.remove(SqliteTransaction, "abandon", SqliteTransaction.finish)
    async with local(Gates().agents, tmp_path / "jobs.db") as client:
        home = await client.threads.create()
        with guard.patches.context() as broken:
            broken.setattr(jobs, "admit", refuse)
            with pytest.raises(callboard.NotFound):
                await client.jobs.launch("quick", "it", parent_thread_id=home.thread_id)
        log = await log_of(client, home.thread_id)
    guard.judge(validators.atomic(log), "is not whole")


class Forgetful(sqlite3.Connection):
    """A connection that takes back what it says it has committed, when it is told to."""

    forgets = False

    def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
        forget = Forgetful.forgets and sql == "COMMIT"
        return super().execute("ROLLBACK" if forget else sql, *parameters)


async def test_what_is_answered_and_shown_is_committed(guard: Guard, tmp_path: Path) -> None:
    connect = partial(sqlite3.connect, factory=Forgetful)
    guard.patches.setattr("callboard_server.store.sqlite.schema.sqlite3.connect", connect)
    async with served([], tmp_path / "jobs.db") as server:
        thread = (await server.client.threads.create()).thread_id
        call = server.threads.StreamEvents(StreamEventsRequest(thread_id=thread))
        frames = [await next_frame(call)]
        guard.remove(Forgetful, "forgets", True)
        await server.client.threads.update_state(thread, "remember me")
        guard.patches.setattr(Forgetful, "forgets", False)
        frames.append(await next_frame(call))
        call.cancel()
        log = await log_of(server.client, thread)
    guard.judge(validators.acknowledged([log], [Input("remember me", thread, "")]), "remember me")
    guard.judge(validators.durable(log, validators.events_of(frames)), "is not in the log")


async def next_frame(call: Any) -> EventFrame:
    async with asyncio.timeout(PATIENCE):
        frame = await call.read()
    assert isinstance(frame, EventFrame)
    return frame


# What readers see


async def read_along(guard: Guard, db: Path) -> tuple[list[Event], list[EventFrame]]:
    """The log of a thread that gets messages two by two, and what a reader saw meanwhile."""
    async with served([], db) as server:
        thread = (await server.client.threads.create()).thread_id
        request = StreamEventsRequest(thread_id=thread, scope=EVENT_SCOPE_SESSION)
        call = server.threads.StreamEvents(request)
        frames = [await next_frame(call)]
        async with asyncio.TaskGroup() as group:
            for _ in range(5):
                group.create_task(server.client.threads.update_state(thread, ["one", "two"]))
        while frames[-1].through_sequence < 11:
            frames.append(await next_frame(call))
        call.cancel()
        return await log_of(server.client, thread), frames


async def test_a_reader_is_given_every_record(guard: Guard, tmp_path: Path) -> None:
    after = live.Feed.after
    guard.remove(live.Feed, "after", lambda feed, cursor: (after(feed, cursor) or [])[-1:])
    log, frames = await read_along(guard, tmp_path / "jobs.db")
    guard.judge(validators.reliable(log, validators.events_of(frames)), "never came")
    guard.judge(validators.bookmarkable(log, frames), "was not sent")
    guard.judge(validators.resumable(log, [frames]), "never came")


async def test_a_reader_is_given_nothing_twice(guard: Guard, tmp_path: Path) -> None:
    after = live.Feed.after
    guard.remove(live.Feed, "after", lambda feed, cursor: after(feed, max(0, cursor - 1)))
    _, frames = await read_along(guard, tmp_path / "jobs.db")
    guard.judge(validators.unique(validators.events_of(frames)), "came twice")


async def test_a_reader_is_given_records_in_order(guard: Guard, tmp_path: Path) -> None:
    def backwards(batch: live.Batch, *rest: Any) -> bytes:
        return live.frame(replace(batch, records=batch.records[::-1]), *rest)

    guard.remove(streams, "frame", backwards)
    _, frames = await read_along(guard, tmp_path / "jobs.db")
    guard.judge(validators.ordered(validators.events_of(frames)), "came after")


async def test_a_piece_of_a_message_is_sent_once(guard: Guard, tmp_path: Path) -> None:
    pieces = live.OpenMessage.pieces
    guard.remove(live.OpenMessage, "pieces", lambda message, sent, room: pieces(message, {}, room))
    told = [asyncio.Event() for _ in range(3)]

    async def writer(ctx: Context) -> callboard.Message:
        message = ctx.write_message((await ctx.view()).context_sequence)
        for each in told:
            message.delta(0, "word ")
            await each.wait()
        return await message.commit([callboard.ContentBlock(text=Text(text="word " * len(told)))])

    async with served([writer], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("writer", "go")
        request = StreamEventsRequest(thread_id=run.thread_id, deltas=True)
        call = server.threads.StreamEvents(request)
        deltas: list[callboard.Delta] = []
        for each in told:
            while not (fresh := (await next_frame(call)).deltas):
                pass
            deltas += fresh
            each.set()
        call.cancel()
        await server.client.runs.wait(run.run_id, timeout=PATIENCE)
    guard.judge(validators.gapless(deltas), "goes on at 0, not 5")


# The driver


@pytest.mark.parametrize(
    ("sabotage", "fault"), [("commits", "lost"), ("steps", "doubled"), ("notices", "lost")]
)
@pytest.mark.timeout(120)
async def test_the_driver_tells_of_a_server_that_forgets(
    sabotage: str, fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(killing, "ENDING", 2.0)
    if sabotage == "notices":
        monkeypatch.setattr(killing, "SCENES", supervision.SCENES)
    config = sabotaged(tmp_path, sabotage)
    verdict = await survive(tmp_path / "jobs.db", 4, 1, config)
    assert getattr(verdict, fault), verdict.problems
