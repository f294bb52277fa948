"""Chat agents: a model and its tools, in turns.

All that a chat agent knows stands in the log. Each step looks at the conversation and does what is
next: runs the tools that the last answer asked for, calls the model, or is done. So a run that
starts again after a crash goes on where it was: a recorded answer or result is never repeated.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import NAMESPACE_OID, uuid5

from pydantic import BaseModel

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.message_pb2 import Message, StopReason
from callboard_server.agents.callees import Callee, look_up, present, unseen
from callboard_server.agents.chat_config import (
    CHAT_CONFIG_SCHEMA,
    ChatConfig,
    Unfit,
    read_config,
)
from callboard_server.agents.compaction import Compactor
from callboard_server.agents.delegation import Delegation, calling_tools
from callboard_server.agents.errors import AgentError
from callboard_server.agents.kit import KIT_PROMPT, KIT_TOOLS
from callboard_server.agents.limits import Limits
from callboard_server.agents.model_calls import ModelCaller
from callboard_server.agents.output import OutputFormat
from callboard_server.agents.progress import Progress, find_progress
from callboard_server.agents.sources import ToolSource, load_tools
from callboard_server.agents.tool_calls import answer_calls, close_calls
from callboard_server.agents.tools import Tool, index_tools, tool, with_policies
from callboard_server.config import OFFLINE, CallableAssistant, Policy
from callboard_server.log.view import Others
from callboard_server.models.base import Model, ModelRequest, ModelSpecError
from callboard_server.models.opening import Models, open_table, split_spec
from callboard_server.schemas import schema_problem
from callboard_server.validation import suggest

if TYPE_CHECKING:
    from callboard_server.agents.context import Context
    from callboard_server.log.view import View

_ENDS = {
    StopReason.STOP_REASON_REFUSAL: (
        ErrorReason.ERROR_REASON_MODEL_REFUSAL,
        "The model refused to answer.",
    ),
    StopReason.STOP_REASON_MAX_TOKENS: (
        ErrorReason.ERROR_REASON_MODEL_MAX_TOKENS,
        "The answer is cut off: it reached its limit on output tokens. Raise max_output_tokens.",
    ),
    StopReason.STOP_REASON_CONTEXT_OVERFLOW: (
        ErrorReason.ERROR_REASON_MODEL_CONTEXT_OVERFLOW,
        "The answer is cut off: with it the conversation no longer fits the model's context.",
    ),
}
"""The stop reasons of answers that are none."""


@dataclass(frozen=True, slots=True)
class _Settings:
    """What holds for one run."""

    model: Model
    system: str
    others: Others
    tools: Mapping[str, Tool]
    output: OutputFormat | None
    limits: Limits
    max_output_tokens: int | None
    effort: str
    attempts: int
    compact_at: int | None


class ChatAgent:
    """An agent that answers with a model and lets it call tools.

    Args:
        model: The model, or what a configuration calls it, such as `anthropic:MODEL`.
        system: The system prompt.
        tools: Tools, or functions to make them from.
        max_turns: How often a run may call the model.
        base: The folder that a model's files are named from.
        sources: Where further tools come from, such as MCP servers.
        callable_assistants: Whom it may call, and its assistants at most: ids, names of agents, or
            as the table of the configuration has them.
        others: What it sees of other agents' runs: their last answers, or all turns with their
            tools.
        tool_policy: By the name of a tool, what holds instead of its own policy.
        output_schema: What the final answer must be: a JSON Schema, or a pydantic model.
        max_total_tokens: After how many tokens, read and written, a run calls the model no more.
        max_cost: After which cost a run calls the model no more.
        max_output_tokens: How long an answer may be.
        effort: How hard the model shall think, in the provider's own words.
        model_attempts: How often a model call is tried that fails for a reason that may pass.
        compact_at: At how many tokens a conversation is too long, so that its older part is
            summarised; that of the model's provider when None.

    Raises:
        ModelSpecError: The model cannot be opened.
        TypeError: A function cannot be a tool.
        ValueError: A tool has a name that it cannot have.
        Unfit: A setting cannot be had; also a ValueError.
    """

    config_schema: dict[str, Any] = CHAT_CONFIG_SCHEMA

    def __init__(
        self,
        model: Model | str,
        system: str = "",
        tools: Iterable[Tool | Callable[..., object]] = (),
        max_turns: int = 50,
        base: Path | None = None,
        sources: Iterable[ToolSource] = (),
        *,
        callable_assistants: Iterable[str | Mapping[str, Any] | CallableAssistant] | None = None,
        others: Others = "final",
        tool_policy: Mapping[str, Policy] | None = None,
        output_schema: Mapping[str, Any] | type[BaseModel] | None = None,
        max_total_tokens: int | None = None,
        max_cost: float | None = None,
        max_output_tokens: int | None = None,
        effort: str = "",
        model_attempts: int = 5,
        compact_at: int | None = None,
    ) -> None:
        self._base = base or Path.cwd()
        self._model = self._prepare(model)
        self._tools = index_tools([it if isinstance(it, Tool) else tool(it) for it in tools])
        self._policies = dict(tool_policy or {})
        self._output = None if output_schema is None else OutputFormat(output_schema)
        self.sources = tuple(sources)
        self._own = read_config(
            {
                "max_turns": max_turns,
                "max_total_tokens": max_total_tokens,
                "max_cost": max_cost,
                "max_output_tokens": max_output_tokens,
                "effort": effort,
                "model_attempts": model_attempts,
                "compact_at": compact_at,
                "system": system,
                "others": others,
                "callable_assistants": None
                if callable_assistants is None
                else list(callable_assistants),
            }
        )
        index_tools([*self._tools.values(), *calling_tools(self._own_callees)])
        if self._output is not None and (problem := schema_problem(self._output.schema)):
            raise Unfit("output_schema", problem)

    def _prepare(self, model: Model | str) -> Model | str:
        """Opens what needs no provider: which ones there are, is known when the agent runs."""
        if not isinstance(model, str):
            return model
        provider, _ = split_spec(model)
        return open_table(model, self._base) if provider == OFFLINE else model

    @property
    def model(self) -> str:
        """The name of the model."""
        return self._model if isinstance(self._model, str) else self._model.name

    @property
    def tools(self) -> tuple[str, ...]:
        """The names of its own tools, as far as they are known before a run."""
        callees = [callee for callee in self._own_callees if callee.is_name_known]
        return (*self._tools, *(each.name for each in calling_tools(callees)))

    @property
    def _own_callees(self) -> list[Callee]:
        return unseen(self._own.callable_assistants or ())

    def callables(self, config: Mapping[str, object]) -> Sequence[CallableAssistant]:
        """Returns whom the agent may call with a configuration.

        Raises:
            Unfit: It does not fit.
        """
        return read_config(config).over(self._own).callable_assistants or ()

    def check(
        self, config: Mapping[str, object], below: Mapping[str, object], models: Models
    ) -> None:
        """Checks that the agent can run with a configuration, as far as that is seen beforehand.

        Args:
            config: What an assistant or a run has set.
            below: What the assistant has set, where a run has set something over it.
            models: What there is to open models with.

        Raises:
            Unfit: It cannot.
        """
        wanted = read_config(config).over(self._own)
        try:
            if wanted.model is not None:
                models.check(wanted.model, self._base)
            elif isinstance(self._model, str):
                models.check(self._model, self._base)
        except ModelSpecError as error:
            raise Unfit("model", str(error)) from None
        _limits(wanted, wanted.model or self.model, models)
        callees, others = unseen(wanted.callable_assistants or ()), unseen(_named_by(below))
        delegation = Delegation(callees, self._own_callees, others)
        # What sources offer, and how assistants are called, is known only when they are asked.
        if not self.sources and delegation.are_names_known:
            self._choose_tools(self._tools, delegation, wanted)

    async def __call__(self, ctx: Context) -> Message:
        """Answers; returns the last message, which is committed."""
        settings = await self._configure(ctx)
        caller = ModelCaller(ctx, settings.model, settings.attempts)
        compactor = Compactor(ctx, caller, settings.compact_at)
        while True:
            view = await ctx.view(settings.others)
            progress = find_progress(view.messages, ctx.run.run_id, ctx.author)
            if progress.unanswered and progress.wants_tools:
                await answer_calls(ctx, progress.unanswered, settings.tools)
            elif progress.unanswered:
                await close_calls(ctx, progress.unanswered)
            elif progress.result is None:
                settings.limits.check(progress.turns + view.summarised_answers, caller.used)
                await compactor.call(view, _request(ctx, view, settings))
            elif (objection := _objection(progress, progress.result, settings.output)) is not None:
                await ctx.correct(objection)
            else:
                return progress.result

    async def summarise(self, ctx: Context) -> None:
        """Summarises the conversation for its assistant, and says nothing."""
        settings = await self._configure(ctx)
        caller = ModelCaller(ctx, settings.model, settings.attempts)
        view = await ctx.view(settings.others)
        compactor = Compactor(ctx, caller, settings.compact_at)
        await compactor.summarise_all(view, _request(ctx, view, settings))

    async def _configure(self, ctx: Context) -> _Settings:
        """Lays the configuration of assistant and run over the agent's own."""
        try:
            wanted = read_config(ctx.config).over(self._own)
            model = await self._open(wanted.model, ctx.models)
            delegation = await self._look_up(ctx, wanted)
            offered = {**await load_tools(self.sources), **self._tools}
            tools = self._choose_tools(offered, delegation, wanted)
            limits = _limits(wanted, model.name, ctx.models)
        except Unfit as error:
            raise AgentError(
                f"The configuration does not fit the agent: {error}",
                reason=ErrorReason.ERROR_REASON_CONFIG_INVALID,
            ) from None
        return _Settings(
            model=model,
            system=_system(wanted, tools),
            others=wanted.others or "final",
            tools=tools,
            output=OutputFormat(wanted.output_schema) if wanted.output_schema else self._output,
            limits=limits,
            max_output_tokens=wanted.max_output_tokens,
            effort=wanted.effort or "",
            attempts=wanted.model_attempts or 1,
            compact_at=wanted.compact_at,
        )

    async def _open(self, wanted: str | None, models: Models) -> Model:
        model = self._model if wanted is None else wanted
        if not isinstance(model, str):
            return model
        try:
            return await models.open(model, self._base)
        except ModelSpecError as error:
            raise Unfit("model", str(error)) from None

    async def _look_up(self, ctx: Context, wanted: ChatConfig) -> Delegation:
        """Returns whom a run may call, as they are when it starts."""
        entries = wanted.callable_assistants or ()
        found = await look_up(ctx.client, entries)

        async def others(named: Sequence[CallableAssistant]) -> Sequence[Callee]:
            return found if named == entries else await look_up(ctx.client, named)

        of_assistant = await others(_named_by(ctx.assistant_config))
        own = await others(self._own.callable_assistants or ())
        return Delegation(present(found), own, [*found, *of_assistant])

    def _choose_tools(
        self, offered: Mapping[str, Tool], delegation: Delegation, wanted: ChatConfig
    ) -> Mapping[str, Tool]:
        """Returns the tools that a run has, with the policies that hold for it."""
        tools = self._with_delegation(offered, delegation)

        def meant(policies: Mapping[str, Policy]) -> dict[str, Policy]:
            return {n: p for n, p in policies.items() if not delegation.is_left_out(n, tools)}

        try:
            tools = with_policies(tools, meant(delegation.bound(self._policies)))
            tools = with_policies(tools, meant(wanted.tool_policy or {}), only_stricter=True)
        except ValueError as error:
            raise Unfit("tool_policy", str(error)) from None
        if wanted.tools is None:
            return tools
        for name in wanted.tools:
            if name not in tools and not delegation.is_left_out(name, tools):
                raise Unfit("tools", f"there is no tool {name}; {suggest(name, list(tools))}")
        return {name: each for name, each in tools.items() if name in wanted.tools}

    def _with_delegation(
        self, tools: Mapping[str, Tool], delegation: Delegation
    ) -> Mapping[str, Tool]:
        """Returns tools with those that call others."""
        added = {tool.name: tool for tool in delegation.tools}
        for name in added:
            if name in self._tools:
                raise Unfit("callable_assistants", f"the agent has a tool {name} of its own")
        return {**tools, **added}


def _named_by(assistant: Mapping[str, object]) -> Sequence[CallableAssistant]:
    """Returns whom the configuration of an assistant names, which a run may leave out."""
    named = {"callable_assistants": assistant.get("callable_assistants")}
    return read_config(named).callable_assistants or ()


def _system(wanted: ChatConfig, tools: Mapping[str, Tool]) -> str:
    """Returns the system prompt, with how to supervise jobs where the tools for that are there."""
    supervises = any(name in tools for name in KIT_TOOLS)
    parts = wanted.system, KIT_PROMPT if supervises else ""
    return "\n\n".join(part for part in parts if part)


def _limits(wanted: ChatConfig, model: str, models: Models) -> Limits:
    price = models.price(model)
    if wanted.max_cost is not None and price is None:
        raise Unfit(
            "max_cost",
            f'it is not known what {model} costs: say so in [prices."{model}"] of the server\'s '
            "configuration",
        )
    return Limits(wanted.max_turns or 1, wanted.max_total_tokens, wanted.max_cost, price)


def _request(ctx: Context, view: View, settings: _Settings) -> ModelRequest:
    return ModelRequest(
        system="\n\n".join(part for part in (settings.system, ctx.instructions) if part),
        messages=view.messages,
        tools=tuple(settings.tools.values()),
        output_schema=settings.output.schema if settings.output else None,
        max_output_tokens=settings.max_output_tokens,
        effort=settings.effort,
        # A digest, for OpenAI takes no more than 64 characters.
        cache_key=str(uuid5(NAMESPACE_OID, f"{ctx.thread_id}/{ctx.run.assistant_id}")),
    )


def _objection(progress: Progress, result: Message, output: OutputFormat | None) -> str | None:
    """Returns what the model is to be told about its last answer; None where that is the result.

    Raises:
        AgentError: It is none, and will not be.
    """
    if result.stop_reason in _ENDS:
        reason, text = _ENDS[result.stop_reason]
        raise AgentError(text, reason=reason, result=result)
    if output is None:
        return None
    objection = output.objection("".join(block.text.text for block in result.content))
    if objection is not None and progress.corrected:
        raise AgentError(
            "The answer does not have the form that is asked for, also after the model was told.",
            reason=ErrorReason.ERROR_REASON_MODEL_OUTPUT_INVALID,
            result=result,
        )
    return objection
