"""The agents that this server can run, whatever they are made from."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from callboard.v1.assistant_pb2 import Agent
from callboard.v1.event_pb2 import RunTrigger
from callboard.v1.message_pb2 import Message
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.chat_config import Unfit
from callboard_server.agents.context import Context
from callboard_server.agents.entrypoints import load_object
from callboard_server.agents.function import adapt, config_schema, to_message
from callboard_server.agents.sources import ToolSource
from callboard_server.agents.tools import Tool, client_tool, tool
from callboard_server.agents.workspace import workspace_tools
from callboard_server.config import (
    AgentSettings,
    CallableAssistant,
    ConfigError,
    McpSettings,
    ServerConfig,
    WorkspaceSettings,
)
from callboard_server.models.base import ModelSpecError
from callboard_server.models.opening import Models
from callboard_server.schemas import Path as ValuePath
from callboard_server.schemas import find_problems

if TYPE_CHECKING:
    from callboard_server.agents.mcp import McpServer


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent that can run."""

    name: str
    description: str
    kind: Agent.Kind.ValueType
    run: Callable[[Context], Awaitable[Message | None]]
    """Runs it to its end and returns its result. A chat agent's is in the log already."""
    config_schema: dict[str, Any] = field(default_factory=lambda: {"type": "object"})
    """JSON Schema of the configuration that its assistants take."""
    check: Callable[[Mapping[str, object]], None] | None = None
    """Raises Unfit for a configuration that fits the schema and cannot be had all the same."""
    callables: Callable[[Mapping[str, object]], Sequence[CallableAssistant]] | None = None
    """Returns whom a configuration that fits lets it call; None where none does."""
    model: str = ""
    tools: tuple[str, ...] = ()
    """The names of its own tools."""
    sources: tuple[ToolSource, ...] = ()
    """Where it has further tools from."""
    timeout: float | None = None
    """Seconds that a run may be RUNNING in all, where its request does not say."""
    concurrency: int | None = None
    """How many runs of one of its assistants compute at the same time."""
    max_attempts: int = 3
    """How often a run is tried that fails unexpectedly."""
    retry_pause: float = 1.0
    """Seconds before the second attempt; twice as long before each further one."""

    @property
    def tool_names(self) -> list[str]:
        """The names of all its tools, as far as they are known now."""
        return [*self.tools, *(tool.name for source in self.sources for tool in source.tools)]

    def problems(self, config: Mapping[str, object]) -> dict[ValuePath, str]:
        """Returns what is wrong with a configuration, by the path of the key that is wrong."""
        problems = find_problems(self.config_schema, config)
        if not problems and self.check is not None:
            try:
                self.check(config)
            except Unfit as error:
                return {(error.key,) if error.key else (): error.problem}
        return problems


class Registry:
    """Agents by name.

    Args:
        agents: The agents.
        models: What their models are opened with.
    """

    def __init__(self, agents: Iterable[AgentSpec] = (), models: Models | None = None) -> None:
        self.models = models or Models()
        self._agents: dict[str, AgentSpec] = {}
        for agent in sorted(agents, key=lambda agent: agent.name):
            if agent.name in self._agents:
                raise ConfigError(f"there are two agents of the name {agent.name}")
            self._agents[agent.name] = agent

    @classmethod
    def from_objects(
        cls, agents: Iterable[object] | Mapping[str, object], models: Models | None = None
    ) -> Registry:
        """Registers agents: functions under their own names, or anything under a name it is given.

        Raises:
            ConfigError: Something cannot be an agent; the message says why.
        """
        models = models or Models()
        if isinstance(agents, Mapping):
            return cls((_adopt(name, agent, models) for name, agent in agents.items()), models)
        return cls((_adopt(_name_of(agent), agent, models) for agent in agents), models)

    def __iter__(self) -> Iterator[AgentSpec]:
        return iter(self._agents.values())

    def get(self, name: str) -> AgentSpec | None:
        return self._agents.get(name)

    @property
    def names(self) -> list[str]:
        return list(self._agents)


def load(config: ServerConfig, base: Path) -> Registry:
    """Makes the agents of a configuration.

    Args:
        config: The configuration.
        base: Its folder.

    Raises:
        ConfigError: An agent cannot be made; the message names the key and the reason.
    """
    base = base.resolve()
    servers = {name: _load_server(name, settings, base) for name, settings in config.mcp.items()}
    models = Models(config.providers, config.prices, base)
    agents = (
        _load_agent(name, settings, base, servers, models)
        for name, settings in config.agents.items()
    )
    return Registry(agents, models)


def _load_server(name: str, settings: McpSettings, base: Path) -> McpServer:
    try:
        # Its package is an extra, and takes a second to import.
        from callboard_server.agents.mcp import McpServer
    except ModuleNotFoundError as error:
        if error.name not in ("mcp", "mcp_types", "httpx2"):
            raise
        reason = 'needs the package mcp: pip install "callboard[mcp]"'
        raise ConfigError(f"[mcp.{name}] {reason}") from error
    try:
        return McpServer(name, settings, base)
    except ConfigError as error:
        raise ConfigError(f"[mcp.{name}] {error}") from error


def _adopt(name: str, function: object, models: Models) -> AgentSpec:
    try:
        spec = _make_spec(name, function, models)
    except TypeError as error:
        raise ConfigError(f"agent {name}: {_place(function)}{error}") from error
    return _checked(spec, f"agent {name}:")


def _checked(spec: AgentSpec, key: str) -> AgentSpec:
    """Returns an agent that can run as it is, without a configuration of an assistant."""
    try:
        if spec.check is not None:
            spec.check({})
    except Unfit as error:
        raise ConfigError(f"{key} {error}") from None
    return spec


def _load_agent(
    name: str,
    settings: AgentSettings,
    base: Path,
    servers: Mapping[str, McpServer],
    models: Models,
) -> AgentSpec:
    table = f"[agents.{name}]"
    if settings.entrypoint is None:
        chat = _make_chat_agent(name, settings, base, servers)
        return _checked(_with_settings(_make_spec(name, chat, models), settings), table)
    key = f"{table} entrypoint"
    agent = _load(settings.entrypoint, base, key)
    try:
        spec = _with_settings(_make_spec(name, agent, models), settings)
    except TypeError as error:
        reason = f"{_place(agent)}{error}"
        raise ConfigError(f'{key} "{settings.entrypoint}": {reason}') from error
    return _checked(spec, table)


def _make_chat_agent(
    name: str, settings: AgentSettings, base: Path, servers: Mapping[str, McpServer]
) -> ChatAgent:
    tools = [_load_tool(f"[agents.{name}] tools", written, base) for written in settings.tools]
    if settings.workspace is not None:
        tools += _make_workspace_tools(f"[agents.{name}.workspace]", settings.workspace)
    try:
        for it in settings.client_tools:
            tools.append(client_tool(it.name, it.description, it.parameters))
        return ChatAgent(
            settings.model or "",
            settings.system,
            tools,
            settings.max_turns,
            base,
            _pick_sources(f"[agents.{name}] mcp", settings.mcp, servers),
            callable_assistants=settings.callable_assistants,
            others=settings.others,
            tool_policy=settings.tool_policy,
            output_schema=settings.output_schema,
            max_total_tokens=settings.max_total_tokens,
            max_cost=settings.max_cost,
            max_output_tokens=settings.max_output_tokens,
            effort=settings.effort,
            model_attempts=settings.model_attempts,
            compact_at=settings.compact_at,
        )
    except ModelSpecError as error:
        raise ConfigError(f"[agents.{name}] model: {error}") from error
    except Unfit as error:
        raise ConfigError(f"[agents.{name}] {error}") from error
    except ValueError as error:
        raise ConfigError(f"[agents.{name}] tools: {error}") from error


def _make_workspace_tools(key: str, settings: WorkspaceSettings) -> list[Tool]:
    try:
        return workspace_tools(**settings.model_dump())
    except ConfigError as error:
        raise ConfigError(f"{key} {error}") from error


def _pick_sources(
    key: str, entries: Sequence[str], servers: Mapping[str, McpServer]
) -> list[ToolSource]:
    """Returns whole servers where they are named alone, else what is named of them."""
    wanted: dict[str, list[str]] = {}
    for entry in entries:
        server, _, name = entry.partition(":")
        wanted.setdefault(server, []).append(name)
    return [
        servers[server] if "" in names else servers[server].pick(names, key)
        for server, names in wanted.items()
    ]


def _load_tool(key: str, written: str, base: Path) -> Tool:
    found = _load(written, base, key)
    if isinstance(found, Tool):
        return found
    if not inspect.isroutine(found):
        raise ConfigError(f'{key} "{written}": is {type(found).__name__}, not a function')
    try:
        return tool(found)
    except TypeError as error:
        raise ConfigError(f'{key} "{written}": {_place(found)}{error}') from error


def _load(entrypoint: str, base: Path, key: str) -> object:
    try:
        return load_object(entrypoint, base)
    except ConfigError as error:
        raise ConfigError(f'{key} "{entrypoint}": {error}') from error


def _with_settings(spec: AgentSpec, settings: AgentSettings) -> AgentSpec:
    return replace(
        spec,
        description=settings.description or spec.description,
        timeout=settings.timeout,
        concurrency=settings.concurrency,
        max_attempts=settings.max_attempts,
        retry_pause=settings.retry_pause,
    )


def _make_spec(name: str, agent: object, models: Models) -> AgentSpec:
    function = adapt(agent)

    async def run(ctx: Context) -> Message | None:
        return to_message(await function(ctx))

    if isinstance(agent, ChatAgent):
        return AgentSpec(
            name=name,
            description="",
            kind=Agent.KIND_CHAT,
            run=partial(_run_chat, agent),
            config_schema=agent.config_schema,
            check=partial(agent.check, models=models),
            callables=agent.callables,
            model=agent.model,
            tools=agent.tools,
            sources=agent.sources,
        )
    return AgentSpec(
        name=name,
        description=_first_line(agent),
        kind=Agent.KIND_FUNCTION,
        run=run,
        config_schema=config_schema(agent),
    )


async def _run_chat(agent: ChatAgent, ctx: Context) -> Message | None:
    if ctx.run.trigger == RunTrigger.RUN_TRIGGER_COMPACTION:
        await agent.summarise(ctx)
        return None
    return await agent(ctx)


def _place(found: object) -> str:
    """Returns where something was defined, if it was in a file."""
    code = getattr(inspect.unwrap(found) if callable(found) else found, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}: " if code else ""


def _first_line(agent: object) -> str:
    return (inspect.getdoc(agent) or "").partition("\n")[0]


def _name_of(agent: object) -> str:
    name = getattr(agent, "__name__", None)
    if not isinstance(name, str):
        kind = type(agent).__name__
        raise ConfigError(f'a {kind} has no name of its own; give it one: {{"name": agent}}')
    return name
