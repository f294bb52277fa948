"""Jobs that begin with their parent's conversation."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import grpc.aio
import pytest

import callboard
from callboard import (
    AlreadyExists,
    AsyncClient,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    text_of,
    to_dict,
)
from callboard._messages import MessageLike
from callboard.v1.event_pb2 import Event, JobContext
from callboard.v1.job_pb2 import Job, LaunchJobRequest
from callboard.v1.job_pb2_grpc import JobServiceStub
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Thinking, ToolCall
from callboard_server.agents.context import Context
from callboard_server.engine import copying
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE, Gates
from tests.support.process import ServerProcess
from tests.support.serving import kinds_of, local, log_of, settings, sound_log

FORK = JobContext.JOB_CONTEXT_FORK


async def finished(client: AsyncClient, job: Job) -> Job:
    [job] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    return job


async def forked(client: AsyncClient, home: str, task: str, **options: Any) -> Job:
    """Launches a fork that nobody is told of."""
    options = {"notify": "none", **options}
    return await client.jobs.launch("quick", task, parent_thread_id=home, context="fork", **options)


async def said(client: AsyncClient, thread_id: str) -> list[str]:
    return [text_of(message) async for message in client.threads.messages(thread_id)]


async def asked(client: AsyncClient, thread_id: str, text: str) -> None:
    run = await client.runs.create("quick", text, thread_id=thread_id)
    await client.runs.wait(run.run_id, timeout=PATIENCE)


async def log_on(client: AsyncClient, thread_id: str) -> list[Event]:
    return [event async for event in client.threads.events(thread_id)]


@pytest.fixture
async def home(client: AsyncClient) -> str:
    """A thread with a conversation."""
    thread = await client.threads.create(values={"a": 1, "b": 2})
    await asked(client, thread.thread_id, "one")
    return thread.thread_id


async def test_a_fork_begins_with_the_conversation_and_goes_its_own_way(
    client: AsyncClient, home: str, tmp_path: Path
) -> None:
    before = [message async for message in client.threads.messages(home)]
    head = (await client.threads.get(home)).head_sequence
    job = await forked(client, home, "two", pass_values=["b"])
    assert job.context == FORK
    done = await finished(client, job)
    assert (done.context, text_of(done.outcome.result)) == (FORK, "done: two")
    assert await said(client, job.job_id) == ["one", "done: one", "two", "done: two"]
    await asked(client, home, "three")
    assert await said(client, home) == ["one", "done: one", "three", "done: three"]
    copies = [message async for message in client.threads.messages(job.job_id)][: len(before)]
    for copy, original in zip(copies, before, strict=True):
        assert (copy.author, copy.role) == (original.author, original.role)
        assert copy.content == original.content and copy.create_time == original.create_time
        assert copy.message_id != original.message_id and not copy.run_id
    assert to_dict((await client.threads.state(job.job_id)).values) == {"b": 2}

    log = await log_on(client, job.job_id)
    assert kinds_of(log)[:5] == [
        "thread_created",
        "message_added",
        "message_added",
        "job_launched",
        "run_created",
    ]
    assert log[0].thread_created.copied_from_thread_id == home
    assert log[0].thread_created.copied_from_sequence == head
    await sound_log(client, home)
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def test_jobs_tell_what_they_began_with(client: AsyncClient, home: str) -> None:
    fork = await forked(client, home, "f")
    plain = await client.jobs.launch("quick", "p", parent_thread_id=home)
    began = {fork.job_id: FORK, plain.job_id: JobContext.JOB_CONTEXT_ISOLATED}
    assert {j.job_id: j.context async for j in client.jobs.list(parent_thread_id=home)} == began
    for after in (None, 0):
        async with client.jobs.watch(
            parent_thread_id=home, after_sequence=after, until="done"
        ) as jobs:
            assert {job.job_id: job.context async for job in jobs} == began


async def test_what_the_launching_run_is_at_is_left_out(tmp_path: Path, gates: Gates) -> None:
    async def boss(ctx: Context) -> str:
        call = ToolCall(tool_call_id="c", name="launch_job", arguments_json="{}")
        thought = ContentBlock(thinking=Thinking(text="secret"))
        said = [ContentBlock(tool_call=call), thought]
        await ctx.say("I look.")
        await ctx.write_message(1).commit(said)
        job = await ctx.jobs.launch("quick", "task", context="fork")
        [job] = await ctx.jobs.wait(job)
        return job.job_id

    async with local([boss, *gates.agents], tmp_path / "jobs.db") as client:
        run = await client.runs.create("boss", "question")
        await client.runs.create("quick", "waits in line", thread_id=run.thread_id)
        run = await client.runs.wait(run.run_id, timeout=PATIENCE)
        fork = text_of(run.outcome.result)
        assert await said(client, fork) == ["question", "I look.", "task", "done: task"]
        assert "secret" not in str(await log_on(client, fork))
        [job] = [job async for job in client.jobs.list(parent_thread_id=run.thread_id)]
        assert job.parent_run_id == run.run_id


async def test_a_fork_begins_with_the_last_summary(client: AsyncClient, home: str) -> None:
    await client.threads.compact(home, summary="what was")
    await asked(client, home, "two")
    job = await forked(client, home, "task")
    await finished(client, job)
    assert await said(client, job.job_id) == ["two", "done: two", "task", "done: task"]
    log = await log_on(client, job.job_id)
    assert kinds_of(log)[:2] == ["thread_created", "context_compacted"]
    assert text_of(log[1].context_compacted.summary) == "what was"
    assert log[1].context_compacted.through_sequence == log[0].sequence
    # Copies of it, and forks of it, have the summary, too.
    copy = await client.threads.copy(job.job_id)
    below = await forked(client, job.job_id, "b")
    for thread_id in (copy.thread_id, below.job_id):
        [_, compacted, *_] = await log_on(client, thread_id)
        assert text_of(compacted.context_compacted.summary) == "what was"
    await client.jobs.wait(below.job_id, timeout=PATIENCE)
    await sound_log(client, home)


async def test_a_function_sees_the_summary_that_its_fork_begins_with(
    client: AsyncClient, gates: Gates, home: str
) -> None:
    await client.threads.compact(home, summary="what was")
    job = await client.jobs.launch(
        "worker", "task", parent_thread_id=home, context="fork", notify="none"
    )
    context = await gates.entered("task")
    summary = "<conversation_summary>what was</conversation_summary>"
    assert [text_of(message) for message in await context.messages()] == [summary, "task"]
    gates.open("task")
    await finished(client, job)


async def test_notices_of_the_parent_are_taken_as_words(client: AsyncClient, home: str) -> None:
    first = await client.jobs.launch("quick", "first", parent_thread_id=home, notify="outcome")
    async with client.threads.stream(home, kinds=["notices_read"], until="never") as events:
        await anext(aiter(events))
    fork = await forked(client, home, "task")
    await finished(client, fork)
    told = [m async for m in client.threads.messages(fork.job_id) if first.job_id in text_of(m)]
    assert told[0].author == "callboard" and not told[0].notice_id
    assert (await client.threads.get(fork.job_id)).unread_notice_count == 0


async def test_a_rolled_back_fork_keeps_what_it_began_with(
    client: AsyncClient, gates: Gates, home: str
) -> None:
    job = await client.jobs.launch(
        "worker", "task", parent_thread_id=home, context="fork", notify="none"
    )
    await gates.entered("task")
    await client.runs.cancel(job.run_id, rollback=True)
    await client.runs.wait(job.run_id, timeout=PATIENCE)
    assert await said(client, job.job_id) == ["one", "done: one"]


async def test_a_repeat_is_the_first_fork_whatever_became_of_the_parent(
    client: AsyncClient, home: str
) -> None:
    async def launch(parent: str, task: str = "task", request_id: str = "r") -> Job:
        return await forked(client, parent, task, request_id=request_id)

    job = await launch(home)
    await finished(client, job)
    await asked(client, home, "more")
    assert (await launch(home)).job_id == job.job_id
    assert await said(client, job.job_id) == ["one", "done: one", "task", "done: task"]
    with pytest.raises(AlreadyExists) as reused:
        await launch(home, "another")
    assert reused.value.reason == "REQUEST_ID_REUSED"
    await client.threads.delete(home)
    assert (await launch(home)).job_id == job.job_id
    with pytest.raises(NotFound) as missing:
        await launch(home, request_id="other")
    assert missing.value.reason == "THREAD_NOT_FOUND"


async def test_forks_are_bounded(
    client: AsyncClient, home: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "MOST_MESSAGES", 1)
    head = (await client.threads.get(home)).head_sequence
    with pytest.raises(InvalidArgument) as refused:
        await forked(client, home, "task")
    [violation] = refused.value.field_violations
    assert violation.field == "context" and "CompactThread" in violation.description
    assert "2 messages" in violation.description
    assert (await client.threads.get(home)).head_sequence == head
    await client.threads.compact(home, summary="what was")
    await forked(client, home, "task")
    monkeypatch.setattr(copying, "MOST_BYTES", 10)
    await client.threads.update_state(home, ["one more"])
    with pytest.raises(InvalidArgument):
        await forked(client, home, "task")


async def test_forks_are_jobs_as_deep_and_wide_as_others(tmp_path: Path, gates: Gates) -> None:
    config = {**settings(tmp_path / "jobs.db"), "delegation": {"depth": 1, "width": 1}}
    async with callboard.local(gates.agents, db=tmp_path / "jobs.db", config=config) as client:
        home = (await client.threads.create(["hello"])).thread_id
        job = await client.jobs.launch("worker", "a", parent_thread_id=home, context="fork")
        for parent in (home, job.job_id):
            with pytest.raises(FailedPrecondition) as refused:
                await forked(client, parent, "b")
            assert refused.value.reason == "DELEGATION_LIMIT"


async def test_a_fork_of_nothing_begins_with_its_task(client: AsyncClient) -> None:
    home = (await client.threads.create()).thread_id
    job = await forked(client, home, "task")
    await finished(client, job)
    assert await said(client, job.job_id) == ["task", "done: task"]


async def test_a_fork_of_any_conversation_that_a_client_brings(client: AsyncClient) -> None:
    call = ToolCall(tool_call_id="c", name="look", arguments_json="{}")
    asking = Message(role=Role.ROLE_ASSISTANT, author="eve", content=[ContentBlock(tool_call=call)])
    given: list[MessageLike] = ["one", asking, "two"]
    home = (await client.threads.create(given)).thread_id
    job = await forked(client, home, "task")
    await finished(client, job)
    assert await said(client, job.job_id) == ["one", "two", "task", "done: task"]


async def test_an_erased_fork_leaves_its_parent_as_it_is(
    client: AsyncClient, home: str, tmp_path: Path
) -> None:
    job = await forked(client, home, "task")
    await finished(client, job)
    await client.threads.delete(job.job_id)
    log = await log_of(client, home)
    erased = [event for event in log if event.thread_id == job.job_id and event.redacted]
    assert len(erased) >= 5 and not any(event.WhichOneof("payload") for event in erased)
    assert await said(client, home) == ["one", "done: one"]
    with pytest.raises(NotFound):
        await forked(client, job.job_id, "b")
    assert admin.check(str(tmp_path / "jobs.db")) == []


AGENT = """
async def quick(ctx):
    return f"done: {await ctx.input()}"
"""
CONFIG = """
[agents.quick]
entrypoint = "fork_agents.py:quick"
"""


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    (tmp_path / "fork_agents.py").write_text(AGENT)
    (tmp_path / "callboard.toml").write_text(CONFIG)
    server = ServerProcess(tmp_path / "callboard.toml", tmp_path / "jobs.db")
    yield server
    await server.clean_up()


async def test_a_launch_is_repeated_over_kills_and_there_is_one_whole_fork(
    server: ServerProcess,
) -> None:
    await server.start()
    async with AsyncClient(server.address) as client:
        home = (await client.threads.create(["one", "two"])).thread_id
    await server.kill()
    request = LaunchJobRequest(
        assistant_id="quick", task="task", parent_thread_id=home, context=FORK, request_id="r"
    )
    # It kills itself when it starts, before it has written the fork, and after: at last not.
    for number in count(2):
        started = time.time_ns()
        server.spawn(f"{('before', 'after')[number % 2]}_commit:{number // 2}")
        with suppress(RuntimeError, grpc.aio.AioRpcError):
            await server.ready()
            async with grpc.aio.insecure_channel(server.address) as channel:
                job: Job = await JobServiceStub(channel).LaunchJob(request)
            break
        await server.gone()
    assert job.create_time.ToNanoseconds() < started, "no answer got lost"
    await server.kill()
    await server.start()
    async with AsyncClient(server.address) as client:
        await finished(client, job)
        assert [each.job_id async for each in client.jobs.list()] == [job.job_id]
        assert await said(client, job.job_id) == ["one", "two", "task", "done: task"]
        await sound_log(client, home)
    await server.kill()
    assert admin.check(str(server.db)) == []
