"""The kit of the server's own supervisors: the same tools, on the jobs of their thread."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import callboard
from callboard.kit import Kit
from callboard.v1.job_pb2 import JOB_VIEW_BASIC, ListJobsRequest, ListJobsResponse
from callboard_server.agents.callees import unseen
from callboard_server.agents.context import Context
from callboard_server.agents.errors import ToolError
from callboard_server.agents.kit import job_tools
from callboard_server.config import CallableAssistant
from callboard_server.rpc import Call
from callboard_server.services.jobs import JobServicer
from tests.support.gates import Gates
from tests.support.serving import local

CALLEES = unseen([CallableAssistant(id="quick"), CallableAssistant(id="worker")])
TOOLS = {tool.name: tool for tool in job_tools(CALLEES)}


async def calling(ctx: Context) -> str:
    """Makes the call that its input says, and answers with what came of it."""
    name, arguments = json.loads(await ctx.input())
    try:
        return str(await TOOLS[name].call(json.dumps(arguments), ctx))
    except ToolError as error:
        return error.message


def test_is_the_kit_of_the_sdk() -> None:
    defined = Kit(["quick", "worker"]).tools
    assert list(TOOLS) == list(defined)
    for name, tool in TOOLS.items():
        assert (tool.description, tool.parameters) == (
            defined[name].description,
            defined[name].schema,
        )
        assert tool.idempotent


def test_bad_arguments_are_known_before_anybody_is_asked() -> None:
    check = TOOLS["cancel_job"].check
    assert check is not None
    check('{"job_id": "x"}')
    with pytest.raises(ToolError, match="job_id: is required"):
        check("{}")


async def test_lists_and_refusals_take_no_results_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    views = []
    answer = JobServicer.ListJobs

    async def spy(self: JobServicer, request: ListJobsRequest, call: Call) -> ListJobsResponse:
        views.append(request.view)
        return await answer(self, request, call)

    monkeypatch.setattr(JobServicer, "ListJobs", spy)
    gates = Gates()
    async with local([*gates.agents, calling], tmp_path / "db") as client:
        home = (await client.threads.create()).thread_id
        job = await client.jobs.launch("quick", "x", parent_thread_id=home, notify="none")
        await client.jobs.wait(job.job_id)
        for call in (["list_jobs", {}], ["check_job", {"job_id": job.job_id[:8]}]):
            run = await client.runs.create("calling", json.dumps(call), thread_id=home)
            run = await client.runs.wait(run.run_id)
            assert job.job_id in callboard.text_of(run.outcome.result)
    assert views == [JOB_VIEW_BASIC, JOB_VIEW_BASIC]


async def test_a_supervisor_sees_the_jobs_of_its_thread(tmp_path: Path) -> None:
    gates = Gates()
    async with local([*gates.agents, calling], tmp_path / "db") as client:
        home, other = [(await client.threads.create()).thread_id for _ in range(2)]

        async def ask(thread_id: str, name: str, **arguments: Any) -> str:
            told = json.dumps([name, arguments])
            run = await client.runs.create("calling", told, thread_id=thread_id)
            run = await client.runs.wait(run.run_id)
            return callboard.text_of(run.outcome.result)

        job = json.loads(await ask(home, "launch_job", agent="worker", task="one"))
        job_id = job["job_id"]
        assert (await client.jobs.get(job_id)).parent_thread_id == home
        assert json.loads(await ask(home, "check_job", job_id=job_id))["state"] == "RUNNING"
        assert json.loads(await ask(home, "list_jobs", state="active"))["count"] == 1
        assert f"did you mean {job_id}?" in await ask(home, "check_job", job_id=job_id[:8])
        assert "none at all yet" in await ask(other, "cancel_job", job_id=job_id)
        await ask(home, "update_job", job_id=job_id, instructions="two", delivery="enqueue")
        gates.open("one", "two")
        await client.jobs.wait(job_id)
        assert json.loads(await ask(home, "check_job", job_id=job_id))["result"] == "done: two"
        gates.close()
