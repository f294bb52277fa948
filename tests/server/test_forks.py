"""What the model of a job is sent that begins with its parent's conversation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient, Run, RunState, text_of
from callboard.v1.job_pb2 import Job
from callboard_server import Context
from standins.replies import Call, Reply
from tests.support.chatting import Kind, answering, ask, chatting
from tests.support.gates import PATIENCE
from tests.support.serving import sound_log

TOOLS = ["tests.server.test_forks:look_up", "tests.server.test_forks:hand_on"]
KINDS: list[Kind] = ["anthropic", "openai", "openai-chat"]


def look_up(word: str) -> str:
    """Look a word up."""
    return f"{word} is green"


async def hand_on(task: str, ctx: Context) -> str:
    """Let another one do it, who knows all of this."""
    job = await ctx.jobs.launch("chat", task, context="fork")
    [job] = await ctx.jobs.wait(job)
    return text_of(job.outcome.result)


def script(body: Any) -> Reply:
    """Looks things up, hands on what it is told to, and does what it was handed."""
    said = json.dumps(body)
    if "The job" in said:
        return Reply("Two leaves.", thinking="secret of the job")
    if "leaves" in said:
        return Reply("There are two leaves.")
    if "count" in said:
        arguments = json.dumps({"task": "The job: leaves"})
        return Reply(calls=[Call("hand_on", arguments)], thinking="secret plan", text="I hand on.")
    if "is green" in said:
        return Reply("It is green.", thinking="secret answer")
    return Reply(calls=[Call("look_up", '{"word": "ivy"}')], thinking="secret call")


async def launched(client: AsyncClient, run: Run, agent: str = "chat") -> Job:
    job = await client.jobs.launch(
        agent, "The job: see.", parent_thread_id=run.thread_id, context="fork", notify="none"
    )
    [job] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    assert job.state == RunState.RUN_STATE_SUCCEEDED
    return job


@pytest.mark.parametrize("kind", KINDS)
async def test_a_fork_of_the_same_assistant_goes_on_as_itself(tmp_path: Path, kind: Kind) -> None:
    handler = answering(kind, script)
    async with chatting(tmp_path, handler, kind, tools=TOOLS) as (client, server):
        run = await ask(client, "What colour is ivy?")
        await launched(client, run)
        before, body = (request.body for request in server.requests[-2:])
        key = "input" if kind == "openai" else "messages"
        said = json.dumps(body[key])
        for words in ("What colour is ivy?", "ivy is green", "It is green.", "The job: see."):
            assert said.count(words) == 1
        assert said.index("It is green.") < said.index("The job: see.")
        assert "secret" not in said and "<agent" not in said
        assert len(body[key]) >= len(before[key]) + 1
        await sound_log(client, run.thread_id)


async def test_a_fork_for_another_assistant_is_told_who_said_what(tmp_path: Path) -> None:
    handler = answering("anthropic", script)
    async with chatting(tmp_path, handler, tools=TOOLS) as (client, server):
        run = await ask(client, "What colour is ivy?")
        other = await client.assistants.create("chat", name="other")
        await launched(client, run, other.assistant_id)
        said = json.dumps(server.requests[-1].body["messages"])
        assert '<agent name=\\"chat\\">It is green.</agent>' in said
        assert "What colour is ivy?" in said and "The job: see." in said
        assert "secret" not in said and "is green</" not in said


async def test_a_fork_does_not_see_the_call_that_launched_it(tmp_path: Path) -> None:
    handler = answering("anthropic", script)
    async with chatting(tmp_path, handler, tools=TOOLS) as (client, server):
        run = await ask(client, "What colour is ivy?")
        run = await ask(client, "And count.", thread_id=run.thread_id)
        assert run.state == RunState.RUN_STATE_SUCCEEDED
        bodies = [json.dumps(request.body["messages"]) for request in server.requests]
        [child] = [body for body in bodies if '"The job: leaves"' in body and "hand_on" not in body]
        assert "ivy is green" in child and "And count." in child
        assert "I hand on." not in child and "secret" not in child
        assert "Two leaves." in bodies[-1]
        await sound_log(client, run.thread_id)
