"""The tool calls of a model's answer: each gets its result, whatever happens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from callboard.v1.event_pb2 import Action
from callboard.v1.message_pb2 import ToolCall
from callboard_server.agents.errors import ToolError
from callboard_server.agents.tools import Tool, run_tool

if TYPE_CHECKING:
    from callboard_server.agents.context import Context

_OUTCOME_UNKNOWN = (
    "The server stopped while this tool ran. Whether it had its effect is not known: "
    "find out before you call it again."
)
_CUT_OFF = "This call was not run, because the answer that holds it did not come to its end."


async def answer_calls(ctx: Context, calls: Sequence[ToolCall], tools: Mapping[str, Tool]) -> None:
    """Runs tools side by side, and adds their results."""
    await ctx.gather(*(_answer(ctx, call, tools) for call in calls))


async def close_calls(ctx: Context, calls: Sequence[ToolCall]) -> None:
    """Adds results that say that nothing was run: an answer that was cut may hold half a call."""
    for call in calls:
        await ctx.tool_result(call, _CUT_OFF, is_error=True)


async def _answer(ctx: Context, call: ToolCall, tools: Mapping[str, Tool]) -> None:
    started = await ctx.started_tool(call)
    if started is not None and not started.idempotent:
        await ctx.tool_result(call, _OUTCOME_UNKNOWN, is_error=True, outcome_unknown=True)
        return
    wanted = tools.get(call.name)
    if wanted is not None and started is None:
        if (refusal := await _refusal(ctx, wanted, call)) is not None:
            await ctx.tool_result(call, refusal, is_error=True)
            return
        if wanted.on_client:
            await _let_client_answer(ctx, call)
            return
        await ctx.tool_started(call, wanted.idempotent)
    with ctx.within(call):
        output = await run_tool(tools, call, ctx)
    await ctx.tool_result(call, output.text, is_error=output.is_error)


async def _refusal(ctx: Context, wanted: Tool, call: ToolCall) -> str | None:
    """Returns why a tool may not run, for the model; None where it may."""
    if wanted.policy == "deny":
        return f"{call.name} may not be used."
    asks = wanted.policy == "ask"
    if (asks or wanted.on_client) and wanted.check is not None:
        try:
            # Nobody is bothered with a call that cannot run.
            wanted.check(call.arguments_json)
        except ToolError as error:
            return error.message
    if asks:
        permission = (await ctx.ask_about(call, Action.KIND_TOOL_PERMISSION)).permission
        if not permission.allow:
            return f"The call was denied: {permission.deny_message or 'no reason was given'}."
    return None


async def _let_client_answer(ctx: Context, call: ToolCall) -> None:
    result = (await ctx.ask_about(call, Action.KIND_CLIENT_TOOL)).tool_result
    await ctx.tool_result(call, result.text, is_error=result.is_error)
