"""The agents that this server can run, whatever they are made from."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from callboard.v1.assistant_pb2 import Agent
from callboard.v1.event_pb2 import RunTrigger
from callboard.v1.message_pb2 import Message
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.chat_config import Unfit
from callboard_server.agents.context import Context
from callboard_server.agents.function import adapt, config_schema, to_message
from callboard_server.agents.sources import ToolSource
from callboard_server.config import CallableAssistant, ConfigError, is_uuid
from callboard_server.models.opening import Models
from callboard_server.schemas import find_problems
from callboard_server.validation import suggest
from callboard_server.wording import Path


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
    check: Callable[[Mapping[str, object], Mapping[str, object]], None] | None = None
    """Raises Unfit for a configuration that fits the schema and cannot be had all the same. Takes
    also that of the assistant, where it is a run's."""
    callables: Callable[[Mapping[str, object]], Sequence[CallableAssistant]] | None = None
    """Returns whom it may call with a configuration that fits; None where it can call nobody."""
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

    def problems(
        self, config: Mapping[str, object], below: Mapping[str, object] | None = None
    ) -> dict[Path, str]:
        """Returns what is wrong with a configuration, by the path of the key that is wrong.

        Args:
            config: The configuration.
            below: That of the assistant, where it is a run's, which has it laid over that.
        """
        problems = find_problems(self.config_schema, config)
        if not problems and self.check is not None:
            try:
                self.check(config, below or {})
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

    def check_callables(self) -> None:
        """Checks that the agents are there whom others may call.

        Raises:
            ConfigError: One of them is not.
        """
        for agent in self:
            for called in agent.callables({}) if agent.callables else ():
                if called.id not in self._agents and not is_uuid(called.id):
                    raise ConfigError(
                        f"agent {agent.name}: callable_assistants: there is no agent {called.id}; "
                        + suggest(called.id, self.names)
                    )


def _adopt(name: str, function: object, models: Models) -> AgentSpec:
    try:
        spec = make_spec(name, function, models)
    except TypeError as error:
        raise ConfigError(f"agent {name}: {place_of(function)}{error}") from error
    return checked(spec, f"agent {name}:")


def checked(spec: AgentSpec, key: str) -> AgentSpec:
    """Returns an agent that can run as it is, without a configuration of an assistant.

    Args:
        spec: The agent.
        key: Where it is described.

    Raises:
        ConfigError: It cannot.
    """
    try:
        if spec.check is not None:
            spec.check({}, {})
    except Unfit as error:
        raise ConfigError(f"{key} {error}") from None
    return spec


def make_spec(name: str, agent: object, models: Models) -> AgentSpec:
    """Returns what can run an agent.

    Args:
        name: Its name.
        agent: A function, a factory or a chat agent.
        models: What its models are opened with.

    Raises:
        TypeError: It cannot be an agent.
    """
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


def place_of(found: object) -> str:
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
