"""The supervisor's kit: five tools to launch, check, update, cancel and list jobs."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Sequence
from typing import Literal

from callboard import CallboardError, text_of
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard_server.agents.context import Context
from callboard_server.agents.errors import ToolError
from callboard_server.agents.tools import Tool, tool

_LAUNCH = """\
Start a job in the background and return its id at once. Several may run at the same time. Do not
check a job right after its launch: say briefly what was handed over and go on with the
conversation."""

StateFilter = Literal["all", "active", "finished"]
_TERMINAL = {
    RunState.RUN_STATE_SUCCEEDED,
    RunState.RUN_STATE_FAILED,
    RunState.RUN_STATE_CANCELLED,
    RunState.RUN_STATE_SUPERSEDED,
    RunState.RUN_STATE_TIMED_OUT,
}


def job_tools(agents: Sequence[str]) -> list[Tool]:
    """Returns the kit for a supervisor that may call some agents."""
    listed = ", ".join(agents)

    async def launch_job(agent: str, task: str, ctx: Context) -> str:
        """Start a job.

        Args:
            agent: Which agent does the work.
            task: What to do, with everything that it needs to know.
            ctx: The run.
        """
        if agent not in agents:
            raise ToolError(f"there is no agent {agent!r} to call; there are: {listed}")
        return _as_json(_brief(await _answer(ctx.jobs.launch(agent, task))))

    return [
        tool(launch_job, idempotent=True, description=f"{_LAUNCH} The agents: {listed}."),
        tool(check_job, idempotent=True),
        tool(update_job, idempotent=True),
        tool(cancel_job, idempotent=True),
        tool(list_jobs, idempotent=True),
    ]


async def check_job(job_id: str, ctx: Context) -> str:
    """Return how a job stands now and, when it is finished, its result.

    States that stand earlier in the conversation are out of date: only this tool tells the present
    one.

    Args:
        job_id: The whole id, as launch_job returned it.
        ctx: The run.
    """
    return _as_json(_whole(await _answer(ctx.jobs.get(job_id))))


async def update_job(
    job_id: str,
    instructions: str,
    ctx: Context,
    delivery: Literal["interrupt", "enqueue"] = "interrupt",
) -> str:
    """Give a job new instructions. The id stays the same.

    Args:
        job_id: The whole id, as launch_job returned it.
        instructions: What to do now; the job knows what came before.
        ctx: The run.
        delivery: "interrupt" redirects it at once, "enqueue" lets it finish first.
    """
    return _as_json(_brief(await _answer(ctx.jobs.update(job_id, instructions, delivery=delivery))))


async def cancel_job(job_id: str, ctx: Context) -> str:
    """Stop a job. A finished one stays as it is.

    Args:
        job_id: The whole id, as launch_job returned it.
        ctx: The run.
    """
    return _as_json(_brief(await _answer(ctx.jobs.cancel(job_id))))


async def list_jobs(ctx: Context, state: StateFilter = "all") -> str:
    """Return all jobs of this conversation and how they stand now.

    Args:
        ctx: The run.
        state: Which of them.
    """
    jobs = [job for job in await ctx.jobs.list() if _fits(job, state)]
    # Oldest first, as they were launched.
    return _as_json({"jobs": [_brief(job) for job in reversed(jobs)]})


def _fits(job: Job, state: StateFilter) -> bool:
    return state == "all" or (job.state in _TERMINAL) == (state == "finished")


async def _answer(call: Awaitable[Job]) -> Job:
    """Turns a refusal into words that the model can act on."""
    try:
        return await call
    except CallboardError as error:
        raise ToolError(error.message) from error


def _brief(job: Job) -> dict[str, object]:
    brief: dict[str, object] = {
        "job_id": job.job_id,
        "agent": job.agent,
        "task": job.task,
        "state": RunState.Name(job.state).removeprefix("RUN_STATE_"),
    }
    if job.HasField("progress"):
        brief["progress"] = job.progress.message
    return brief


def _whole(job: Job) -> dict[str, object]:
    whole = _brief(job)
    if job.outcome.HasField("result"):
        whole["result"] = text_of(job.outcome.result)
    if job.outcome.HasField("error"):
        whole["error"] = job.outcome.error.message
    return whole


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)
