"""A server starts anew with other agents: what there is of jobs whose agent is gone."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import callboard
from callboard import AsyncClient, AsyncSupervisor, RunState
from callboard.v1.error_pb2 import ErrorReason
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE
from tests.support.process import ServerProcess
from tests.support.serving import sound_log

AGENTS = """
import asyncio


async def echo(ctx):
    return f"done: {await ctx.input()}"


async def busy(ctx):
    await ctx.say("begun")
    await asyncio.Event().wait()


async def sleeper(ctx):
    await ctx.sleep(3600)


async def asker(ctx):
    return str(await ctx.ask("Red or blue?"))
"""
BEFORE = {name: name for name in ("echo", "busy", "sleeper", "asker")}
AFTER = {"parrot": "echo"}
NAME = "my-app/user-42"


def configure(folder: Path, agents: dict[str, str]) -> Path:
    """Writes the configuration: functions of the agents' file by the names that they go by."""
    (folder / "agents.py").write_text(AGENTS)
    config = folder / "callboard.toml"
    tables = (f'[agents.{name}]\nentrypoint = "agents.py:{agents[name]}"\n' for name in agents)
    config.write_text("[server]\ngrace = 0.1\n" + "".join(tables))
    return config


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(configure(tmp_path, BEFORE), tmp_path / "jobs.db")
    await process.start()
    yield process
    await process.clean_up()
    assert admin.check(str(process.db)) == []


async def tell(supervisor: AsyncSupervisor, name: str, **arguments: Any) -> Any:
    """What a call of a tool comes to."""
    answer = await supervisor.tools.call(name, arguments)
    assert not answer.is_error, answer
    return json.loads(answer)


async def refuse(supervisor: AsyncSupervisor, name: str, **arguments: Any) -> str:
    """What is told of a call that cannot be carried out."""
    answer = await supervisor.tools.call(name, arguments)
    assert answer.is_error, answer
    return answer


async def launch_all(client: AsyncClient, supervisor: AsyncSupervisor) -> dict[str, str]:
    """A job of each agent, by its name, once each is where it stays."""
    ids = {
        name: (await tell(supervisor, "launch_job", agent=name, task=f"for {name}"))["job_id"]
        for name in BEFORE
    }
    states = {"echo": "succeeded", "busy": "running", "sleeper": "waiting"}
    for name, state in {**states, "asker": "requires_action"}.items():
        wanted = RunState.Value(f"RUN_STATE_{state.upper()}")
        async with asyncio.timeout(PATIENCE), client.jobs.watch(job_id=ids[name]) as changes:
            async for job in changes:
                if job.state == wanted:
                    break
    return ids


async def test_jobs_of_agents_that_are_gone_are_told_of_and_can_be_ended(
    process: ServerProcess, tmp_path: Path
) -> None:
    async with AsyncClient(process.address) as client:
        supervisor = await client.supervisor(NAME)
        ids = await launch_all(client, supervisor)
    await process.kill()
    configure(tmp_path, AFTER)
    await process.start()
    async with AsyncClient(process.address) as client:
        supervisor = await client.supervisor(NAME)
        [failed] = await client.jobs.wait(ids["busy"], timeout=PATIENCE)
        assert failed.outcome.error.reason == ErrorReason.ERROR_REASON_AGENT_GONE
        gone = "agent busy is no longer registered on this server"
        assert (await tell(supervisor, "check_job", job_id=ids["busy"]))["error"] == gone
        states = {"SUCCEEDED": "echo", "FAILED": "busy", "WAITING": "sleeper"}
        listed = (await tell(supervisor, "list_jobs"))["jobs"]
        assert {job["state"]: job["agent"] for job in listed} == {
            **states,
            "REQUIRES_ACTION": "asker",
        }
        await check_refusals(client, supervisor, ids)
        await check_ends(client, supervisor, ids)
        await sound_log(client, supervisor.thread_id)


async def check_refusals(
    client: AsyncClient, supervisor: AsyncSupervisor, ids: dict[str, str]
) -> None:
    """Nothing new begins with an agent that is gone, whatever the state of the job."""
    for name, job_id in ids.items():
        told = await refuse(supervisor, "update_job", job_id=job_id, instructions="go on")
        assert told.startswith("Its agent cannot work on it any more: ")
        assert "parrot" in told
        with pytest.raises(callboard.NotFound) as refused:
            await client.jobs.launch(name, "more", parent_thread_id=supervisor.thread_id)
        assert refused.value.metadata["agents"] == "parrot"
        assert (await client.jobs.get(job_id)).run_count == 1
    assert "'echo' is not one of: parrot" in await refuse(
        supervisor, "launch_job", agent="echo", task="more"
    )


async def check_ends(client: AsyncClient, supervisor: AsyncSupervisor, ids: dict[str, str]) -> None:
    """What still waits can be cancelled, and answered, and each end is told once."""
    cancelled = await tell(supervisor, "cancel_job", job_id=ids["sleeper"])
    assert cancelled["state"] == "CANCELLED"
    [action] = [action async for action in client.actions.list(thread_id=ids["asker"])]
    await client.actions.answer(action, "red")
    [answered] = await client.jobs.wait(ids["asker"], timeout=PATIENCE)
    assert answered.outcome.error.reason == ErrorReason.ERROR_REASON_AGENT_GONE
    async with supervisor.notices(follow=False) as notices:
        told = [(notice.agent, RunState.Name(notice.state)) async for notice in notices]
    assert sorted(told) == [
        ("asker", "RUN_STATE_FAILED"),
        ("asker", "RUN_STATE_REQUIRES_ACTION"),
        ("busy", "RUN_STATE_FAILED"),
        ("echo", "RUN_STATE_SUCCEEDED"),
    ]
