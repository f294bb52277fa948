"""Chat agents: a model and its tools, in turns.

All that a chat agent knows stands in the log. Each step looks at the conversation and does what is
next: runs the tools that the last answer asked for, calls the model, or is done. So a run that
starts again after a crash goes on where it was: a recorded answer or result is never repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Action
from callboard.v1.message_pb2 import Message, Role, StopReason, ToolCall
from callboard.v1.run_pb2 import Delta
from callboard_server.agents.errors import AgentError
from callboard_server.agents.sources import ToolSource, load_tools
from callboard_server.agents.tools import Tool, index_tools, run_tool, tool
from callboard_server.models.base import (
    Answer,
    Model,
    ModelRequest,
    ModelSpecError,
    TextPiece,
    ThinkingPiece,
    ToolArgumentsPiece,
)
from callboard_server.models.opening import open_model
from callboard_server.validation import describe_errors

if TYPE_CHECKING:
    from callboard_server.agents.context import Context, View

_DELTA_KINDS = {
    TextPiece: Delta.KIND_TEXT,
    ThinkingPiece: Delta.KIND_THINKING,
    ToolArgumentsPiece: Delta.KIND_TOOL_ARGUMENTS,
}

# After these the model is called again; any other reason ends the run.
_GOES_ON = (StopReason.STOP_REASON_TOOL_USE, StopReason.STOP_REASON_PAUSE)

_OUTCOME_UNKNOWN = (
    "The server stopped while this tool ran. Whether it had its effect is not known: "
    "find out before you call it again."
)
_CUT_OFF = "This call was not run, because the answer that holds it did not come to its end."


class ChatConfig(BaseModel):
    """What an assistant or a run may set of a chat agent."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = None
    system: str | None = None
    max_turns: PositiveInt | None = None


@dataclass(frozen=True, slots=True)
class _Settings:
    """What holds for one run."""

    model: Model
    system: str
    max_turns: int
    tools: Mapping[str, Tool]


@dataclass(frozen=True, slots=True)
class _Progress:
    """How far a run is."""

    turns: int = 0
    """How many answers the model has given."""
    unanswered: Sequence[ToolCall] = ()
    """Calls of the last answer that have no result."""
    wants_tools: bool = False
    """Whether the model meant those to run: an answer that was cut off may hold half a call."""
    result: Message | None = None
    """The last answer, if it is final."""


class ChatAgent:
    """An agent that answers with a model and lets it call tools.

    Args:
        model: The model, or what a configuration calls it, such as `offline:table.toml`.
        system: The system prompt.
        tools: Tools, or functions to make them from.
        max_turns: How often a run may call the model.
        base: The folder that a model's files are named from.
        sources: Where further tools come from, such as MCP servers.

    Raises:
        ModelSpecError: The model cannot be opened.
        TypeError: A function cannot be a tool.
        ValueError: Two tools have the same name.
    """

    config_schema: dict[str, Any] = ChatConfig.model_json_schema()

    def __init__(
        self,
        model: Model | str,
        system: str = "",
        tools: Iterable[Tool | Callable[..., object]] = (),
        max_turns: int = 50,
        base: Path | None = None,
        sources: Iterable[ToolSource] = (),
    ) -> None:
        self._base = base or Path.cwd()
        opened = open_model(model, self._base) if isinstance(model, str) else model
        own = index_tools([item if isinstance(item, Tool) else tool(item) for item in tools])
        self._settings = _Settings(opened, system, max_turns, own)
        self.sources = tuple(sources)

    @property
    def model(self) -> str:
        """The name of the model."""
        return self._settings.model.name

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of its own tools."""
        return tuple(self._settings.tools)

    async def __call__(self, ctx: Context) -> Message:
        """Answers; returns the last message, which is committed."""
        settings = self._configure(ctx.config, await load_tools(self.sources))
        while True:
            view = await ctx.view()
            progress = _find_progress(view.messages, ctx.run.run_id)
            if progress.unanswered:
                await self._close_calls(ctx, progress, settings.tools)
            elif progress.result is not None:
                return progress.result
            elif progress.turns < settings.max_turns:
                await self._call_model(ctx, view, settings)
            else:
                raise AgentError(
                    f"The agent called its model {progress.turns} times and was not done. "
                    "Raise max_turns, or give it less to do.",
                    reason=ErrorReason.ERROR_REASON_TURN_LIMIT,
                )

    def _configure(self, config: dict[str, object], tools: Mapping[str, Tool]) -> _Settings:
        """Lays the configuration of assistant and run over the agent's own.

        Args:
            config: The configuration.
            tools: What the sources of tools offer to this run.
        """
        try:
            wanted = ChatConfig.model_validate(config)
        except ValidationError as error:
            problems = "; ".join(describe_errors(error, self.config_schema))
            raise _config_error(problems) from None
        own = self._settings
        try:
            model = own.model if wanted.model is None else open_model(wanted.model, self._base)
        except ModelSpecError as error:
            raise _config_error(f"model: {error}") from None
        return _Settings(
            model=model,
            system=own.system if wanted.system is None else wanted.system,
            max_turns=wanted.max_turns or own.max_turns,
            tools={**tools, **own.tools},
        )

    async def _call_model(self, ctx: Context, view: View, settings: _Settings) -> None:
        request = ModelRequest(
            system="\n\n".join(part for part in (settings.system, ctx.instructions) if part),
            messages=view.messages,
            tools=tuple(settings.tools.values()),
        )
        writer = ctx.write_message(view.context_sequence)
        try:
            answer = None
            async with aclosing(settings.model.stream(request)) as stream:
                async for item in stream:
                    if isinstance(item, Answer):
                        answer = item
                    else:
                        writer.delta(item.index, item.text, _DELTA_KINDS[type(item)])
            if answer is None:
                raise AgentError(
                    f"The answer of {settings.model.name} broke off.",
                    reason=ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE,
                )
        except Exception:
            await writer.discard("The model call failed.")
            raise
        await writer.commit(
            answer.content,
            usage=answer.usage,
            model=settings.model.name,
            stop_reason=answer.stop_reason,
        )

    async def _close_calls(
        self, ctx: Context, progress: _Progress, tools: Mapping[str, Tool]
    ) -> None:
        """Gives every call its result: none is left dangling."""
        if progress.wants_tools:
            calls = progress.unanswered
            await ctx.gather(*(self._answer_call(ctx, call, tools) for call in calls))
            return
        for call in progress.unanswered:
            await ctx.tool_result(call, _CUT_OFF, is_error=True)

    async def _answer_call(self, ctx: Context, call: ToolCall, tools: Mapping[str, Tool]) -> None:
        started = await ctx.started_tool(call)
        if started is not None and not started.idempotent:
            await ctx.tool_result(call, _OUTCOME_UNKNOWN, is_error=True, outcome_unknown=True)
            return
        wanted = tools.get(call.name)
        if wanted is not None and wanted.on_client:
            await self._let_client_answer(ctx, call)
            return
        if wanted is not None and started is None:
            if (refusal := await _refusal(ctx, wanted, call)) is not None:
                await ctx.tool_result(call, refusal, is_error=True)
                return
            await ctx.tool_started(call, wanted.idempotent)
        with ctx.within(call):
            output = await run_tool(tools, call, ctx)
        await ctx.tool_result(call, output.text, is_error=output.is_error)

    async def _let_client_answer(self, ctx: Context, call: ToolCall) -> None:
        result = (await ctx.ask_about(call, Action.KIND_CLIENT_TOOL)).tool_result
        await ctx.tool_result(call, result.text, is_error=result.is_error)


async def _refusal(ctx: Context, wanted: Tool, call: ToolCall) -> str | None:
    """Returns why a tool may not run, for the model; None where it may."""
    if wanted.policy == "deny":
        return f"{call.name} may not be used."
    if wanted.policy == "ask":
        permission = (await ctx.ask_about(call, Action.KIND_TOOL_PERMISSION)).permission
        if not permission.allow:
            return f"The call was denied: {permission.deny_message or 'no reason was given'}."
    return None


def _config_error(problems: str) -> AgentError:
    return AgentError(
        f"The configuration does not fit the agent: {problems}",
        reason=ErrorReason.ERROR_REASON_CONFIG_INVALID,
    )


def _find_progress(messages: Sequence[Message], run_id: str) -> _Progress:
    own = [message for message in messages if message.run_id == run_id]
    answers = [position for position, message in enumerate(own) if _is_answer(message)]
    if not answers:
        return _Progress()
    answer = own[answers[-1]]
    closed = {
        block.tool_result.tool_call_id
        for message in own[answers[-1] + 1 :]
        for block in message.content
    }
    calls = (block.tool_call for block in answer.content if block.HasField("tool_call"))
    goes_on = answer.incomplete or answer.stop_reason in _GOES_ON or _was_steered(own, answer)
    return _Progress(
        turns=len(answers),
        unanswered=[call for call in calls if call.tool_call_id not in closed],
        wants_tools=answer.stop_reason == StopReason.STOP_REASON_TOOL_USE,
        result=None if goes_on else answer,
    )


def _was_steered(own: Sequence[Message], answer: Message) -> bool:
    """Whether the run got input that its last answer had not seen."""
    position = next(place for place, message in enumerate(own) if message is answer)
    return any(message.role == Role.ROLE_USER for message in own[position + 1 :])


def _is_answer(message: Message) -> bool:
    """Whether a run wrote the message: its input may hold words of the assistant, too."""
    return message.role == Role.ROLE_ASSISTANT and message.context_sequence > 0
