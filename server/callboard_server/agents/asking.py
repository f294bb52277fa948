"""Tools that ask an assistant and wait for its answer: its thread is a job of the caller's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from callboard._messages import text_of
from callboard.errors import CallboardError, Conflict, NotFound
from callboard.kit.arguments import Parameter, Refused, read_arguments, schema_of
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard_server.agents.callees import Callee, who_is_left
from callboard_server.agents.context import Context
from callboard_server.agents.errors import ToolError
from callboard_server.agents.kit import insisted
from callboard_server.agents.tools import Tool, cut

_LABEL = "callable_assistant"
_RESUMABLE = (
    RunState.RUN_STATE_SUCCEEDED,
    RunState.RUN_STATE_CANCELLED,
    RunState.RUN_STATE_TIMED_OUT,
)
"""How a thread stands that can be continued. One that failed may do so again for what is in it."""
_ENDED = frozenset({*_RESUMABLE, RunState.RUN_STATE_FAILED})
_GONE = frozenset({"ASSISTANT_NOT_FOUND", "ASSISTANT_VERSION_NOT_FOUND", "AGENT_NOT_FOUND"})

_TASK = Parameter("task", "task", "What to do, with everything that it must know.")
_AFRESH = """\
Each call begins afresh, with this conversation and the task."""
_CONTINUED = """\
It knows nothing of this conversation but the task. It remembers what you asked it before, unless
you ask for several things at the same time."""
_WAITS = """\
Waits for the result, which may take long: for several things that do not need one another, call it
several times at once."""


def ask_tools(callees: Sequence[Callee]) -> list[Tool]:
    """Returns the tools for callees that are waited for, to be used by one run."""
    asking = _Asking(callees)
    return [_make_tool(asking, callee) for callee in callees]


def _make_tool(asking: _Asking, callee: Callee) -> Tool:
    context = _AFRESH if callee.entry.context == "fork" else _CONTINUED
    parts = f"Asks {callee.name}.", callee.description, " ".join(f"{context} {_WAITS}".split())
    return Tool(
        name=callee.tool_name,
        description="\n".join(part for part in parts if part),
        parameters=schema_of([_TASK]),
        call=partial(asking.call, callee),
        # What was launched before a crash is found again.
        idempotent=True,
        check=_read,
    )


def _read(arguments_json: str) -> str:
    """Returns the task of a call.

    Raises:
        ToolError: The arguments do not fit.
    """
    try:
        return str(read_arguments([_TASK], arguments_json)["task"])
    except Refused as refused:
        raise ToolError(refused.text) from None


class _Asking:
    """The calls of one run."""

    def __init__(self, callees: Sequence[Callee]) -> None:
        self._callees = callees
        self._choosing = asyncio.Lock()
        self._taken: set[str] = set()
        """The jobs that this run continues now: of two calls at once each has its own."""

    async def call(self, callee: Callee, arguments_json: str, ctx: Context) -> str:
        """Hands a task over, waits for its end and returns what came of it.

        Raises:
            ToolError: Nothing came of it; the message says why, and what to do.
        """
        task = _read(arguments_json)
        try:
            ended = await self._ask(callee, task, ctx)
        except NotFound as error:
            raise ToolError(await self._missing(callee, error, ctx)) from None
        except CallboardError as error:
            raise ToolError(f"{callee.name} was not asked: {error.message}.") from None
        return _told(callee, ended)

    async def _ask(self, callee: Callee, task: str, ctx: Context) -> Run | Job:
        """Hands a task over, once, and returns the run that did it, when that has ended."""
        while True:
            async with self._chosen(callee, ctx) as chosen:
                # Recorded also where another run was faster: what is handed over next must not be
                # handed over here, too, when a crash lets this be tried again.
                handed = await ctx.step("hand over", _hand_over, chosen, task, ctx)
                if handed:
                    return await _end_of(handed, ctx)

    @asynccontextmanager
    async def _chosen(self, callee: Callee, ctx: Context) -> AsyncIterator[dict[str, Any]]:
        """Decides where a task goes, once, and keeps other calls of the run from there."""
        async with self._choosing:
            # Recorded before it is done: after a crash, the thread that was chosen is busy with
            # this very task. And what is asked for anew must be the same, whatever was changed.
            chosen: dict[str, Any] = await ctx.step("choose", self._choose, callee, ctx)
            self._taken.add(chosen.get("job_id", ""))
        try:
            yield chosen
        finally:
            self._taken.discard(chosen.get("job_id", ""))

    async def _choose(self, callee: Callee, ctx: Context) -> dict[str, Any]:
        """Returns the job to continue, or what to launch."""
        entry = callee.entry
        version = callee.assistant.version if callee.assistant else entry.version
        labels = {_LABEL: f"{entry.id}@{version}"}
        if entry.context != "fork":
            kept = ctx.jobs.list(labels=labels, states=_RESUMABLE, view="basic")
            for job in await insisted(kept):
                if job.job_id not in self._taken:
                    return {"job_id": job.job_id}
        return {"id": entry.id, "version": version, "context": entry.context, "labels": labels}

    async def _missing(self, callee: Callee, error: NotFound, ctx: Context) -> str:
        if error.reason not in _GONE:
            return f"What {callee.name} was at has been deleted. Ask again if it is still wanted."
        left = await who_is_left(ctx.client, self._callees)
        others = f"You may call: {', '.join(each.tool_name for each in left)}."
        return f"There is no {callee.name} any more. {others if left else 'Nobody else is left.'}"


async def _end_of(handed: list[str], ctx: Context) -> Run | Job:
    """Waits for the end of what was handed over, and returns the run that did it."""
    job_id, run_id = handed
    [job] = await insisted(ctx.jobs.wait(job_id))
    run = await insisted(ctx.client.runs.get(run_id))
    # Where somebody else redirected it, what its job came to is the answer.
    return run if run.state in _ENDED else job


async def _hand_over(chosen: dict[str, Any], task: str, ctx: Context) -> list[str]:
    """Returns the job and the run that have the task; nothing where the job works for another."""
    if "job_id" in chosen:
        try:
            job = await insisted(
                ctx.jobs.update(chosen["job_id"], task, delivery="enqueue", cancel_with_run=True)
            )
        except Conflict:
            return []
    else:
        job = await insisted(
            ctx.jobs.launch(
                chosen["id"],
                task,
                version=chosen["version"],
                context=chosen["context"],
                labels=chosen["labels"],
                cancel_with_run=True,
            )
        )
    return [job.job_id, job.run_id]


def _told(callee: Callee, ended: Run | Job) -> str:
    said = cut(text_of(ended.outcome.result))
    match ended.state:
        case RunState.RUN_STATE_SUCCEEDED:
            return said or "It ended, and said nothing."
        case RunState.RUN_STATE_CANCELLED:
            problem = "was stopped by somebody. Do not ask again unless you are told to."
        case RunState.RUN_STATE_FAILED | RunState.RUN_STATE_TIMED_OUT:
            problem = f"did not succeed: {ended.outcome.error.message}."
        case _:
            problem = "was given other work meanwhile, and is still at it."
    last = f"\nThe last that it said: {said}" if said else ""
    raise ToolError(f"{callee.name} {problem}{last}")
