"""The supervisor's kit for the chat agents of this server: the SDK's tools, on their own thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from callboard._async.kit import AsyncKitCalls
from callboard.errors import DeadlineExceeded, NotFound, Unavailable
from callboard.kit import Kit, Refused, ToolDefinition
from callboard.v1.job_pb2 import Job
from callboard_server.agents.callees import Callee, who_is_left
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError, ToolError
from callboard_server.agents.tools import Tool

T = TypeVar("T")

_ANY = Kit(["any"])
KIT_PROMPT = _ANY.prompt
"""The section of the system prompt that goes with the tools."""
KIT_TOOLS = tuple(_ANY.tools)
"""Their names."""


def job_tools(callees: Sequence[Callee]) -> list[Tool]:
    """Returns the kit for a supervisor whose callees work in the background."""
    if not callees:
        return []
    kit = Kit({callee.name: callee.description for callee in callees})
    return [_make_tool(kit, callees, definition) for definition in kit.tools.values()]


async def insisted(call: Awaitable[T]) -> T:
    """Has the run tried again where the server does not answer itself, as when it is stopped.

    Raises:
        AgentError: It does not.
    """
    try:
        return await call
    except (Unavailable, DeadlineExceeded):
        raise AgentError("the server does not answer its own agent", retryable=True) from None


class _ToldJobs:
    """The jobs of a supervisor, who is told of their ends and questions.

    The agent of a job is called as the supervisor knows it.
    """

    def __init__(self, ctx: Context, callees: Sequence[Callee]) -> None:
        self._ctx = ctx
        self._callees = {callee.name: callee for callee in callees}

    async def launch(self, agent: str, task: str) -> Job:
        entry = self._callees[agent].entry
        try:
            job = await insisted(
                self._ctx.jobs.launch(
                    entry.id,
                    task,
                    version=entry.version,
                    context=entry.context,
                    notify="outcome_and_actions",
                )
            )
        except NotFound:
            raise Refused(await self._gone(agent)) from None
        return self._known(job)

    async def _gone(self, agent: str) -> str:
        left = await who_is_left(self._ctx.client, self._callees.values())
        others = f"Of yours there are: {', '.join(each.name for each in left)}."
        return f"There is no {agent} any more. {others if left else 'None of yours is left.'}"

    async def get(self, job_id: str) -> Job:
        return self._known(await insisted(self._ctx.jobs.get(job_id)))

    async def update(self, job_id: str, instructions: str, **options: Any) -> Job:
        updated = await insisted(self._ctx.jobs.update(job_id, instructions, **options))
        return self._known(updated)

    async def cancel(self, job_id: str) -> Job:
        return self._known(await insisted(self._ctx.jobs.cancel(job_id)))

    async def list(self, **options: Any) -> Sequence[Job]:
        found = await insisted(self._ctx.jobs.list(view="basic", page_size=1000, **options))
        return [self._known(job) for job in found]

    def _known(self, job: Job) -> Job:
        for callee in self._callees.values():
            if callee.assistant and callee.assistant.assistant_id == job.assistant_id:
                job.agent = callee.name
                break
        return job


def _make_tool(kit: Kit, callees: Sequence[Callee], definition: ToolDefinition) -> Tool:
    return Tool(
        name=definition.name,
        description=definition.description,
        parameters=definition.schema,
        call=_caller(kit, callees, definition.name),
        # A launch or update that is repeated has the request_id that it had.
        idempotent=True,
        check=_checker(kit, definition.name),
    )


def _caller(
    kit: Kit, callees: Sequence[Callee], name: str
) -> Callable[[str, Context], Awaitable[str]]:
    async def call(arguments_json: str, ctx: Context) -> str:
        calls = AsyncKitCalls(kit, _ToldJobs(ctx, callees), ctx.run.thread_id)
        answer = await calls.call(name, arguments_json)
        if answer.is_error:
            raise ToolError(answer)
        return str(answer)

    return call


def _checker(kit: Kit, name: str) -> Callable[[str], None]:
    def check(arguments_json: str) -> None:
        try:
            kit.read(name, arguments_json)
        except Refused as refused:
            raise ToolError(refused.text) from None

    return check
