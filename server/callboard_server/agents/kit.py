"""The supervisor's kit for the chat agents of this server: the SDK's tools, on their own thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

from callboard._async.kit import AsyncKitCalls
from callboard.kit import Kit, Refused, ToolDefinition
from callboard.v1.job_pb2 import Job
from callboard_server.agents.context import Context
from callboard_server.agents.errors import ToolError
from callboard_server.agents.jobs import ContextJobs
from callboard_server.agents.tools import Tool


def job_tools(agents: Sequence[str]) -> list[Tool]:
    """Returns the kit for a supervisor that may call some agents."""
    kit = Kit(agents)
    return [_make_tool(kit, definition) for definition in kit.tools.values()]


class _ToldJobs:
    """The jobs of a supervisor, who is told of their ends and questions."""

    def __init__(self, jobs: ContextJobs) -> None:
        self._jobs = jobs
        self.get, self.update, self.cancel = jobs.get, jobs.update, jobs.cancel
        self.list = jobs.list

    async def launch(self, agent: str, task: str) -> Job:
        return await self._jobs.launch(agent, task, notify="outcome_and_actions")


def _make_tool(kit: Kit, definition: ToolDefinition) -> Tool:
    return Tool(
        name=definition.name,
        description=definition.description,
        parameters=definition.schema,
        call=_caller(kit, definition.name),
        # A launch or update that is repeated has the request_id that it had.
        idempotent=True,
        check=_checker(kit, definition.name),
    )


def _caller(kit: Kit, name: str) -> Callable[[str, Context], Awaitable[str]]:
    async def call(arguments_json: str, ctx: Context) -> str:
        calls = AsyncKitCalls(kit, _ToldJobs(ctx.jobs), ctx.run.thread_id)
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
