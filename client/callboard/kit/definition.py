"""What the tools are: names, descriptions with the rules for their use, arguments."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from callboard.kit.answers import Answers
from callboard.kit.arguments import Parameter, Refused, read_arguments, schema_of
from callboard.kit.dialects import Dialect, dialect_of

RESULT_CHARACTERS = 20_000
"""How much of a result one answer holds."""

_LAUNCH = """\
Starts a job in the background and returns its {job_id} at once. An agent does the work; it knows
nothing of this conversation but the {task}. Several jobs may run at the same time. Do not call
{check} right after a launch: say briefly what was handed over, and go on with the conversation."""
_CHECK = """\
Returns how a job stands now and, when it is finished, its result. States that stand earlier in the
conversation are out of date: only this tool tells the present one. Call it when the user asks, or
when you were told that the job is finished; never in a loop."""
_UPDATE = """\
Gives a job new instructions, or follows up a finished one. The agent has what came before, and the
{job_id} stays the same: do not launch another job to correct this one."""
_CANCEL = """\
Stops a job. One that is finished stays as it is. Cancel only what is no longer wanted: to change
the work of a job there is {update}."""
_LIST = """\
Returns the jobs of this conversation with their whole ids and how they stand now, without their
results. Use it when an id is not at hand: never write one from memory."""

_PROMPT = """\
## Jobs

You hand work to agents as background jobs, with {launch}, {check}, {update}, {cancel} and {list}.

- After {launch}, tell the user briefly what was handed over, then go on or end your turn. Do not
  call {check} right after it, and never again and again: a job takes as long as it takes.
- A state that stands earlier in the conversation is out of date. Before you say how a job stands,
  call {check} or {list}.
- Write a {job_id} whole, as it was returned: never shortened, never from memory.
- You know the result of a job only when {check} returned it, or when you were told of it. Do not
  say, guess or build on results that you have not read.
- To change or continue a job's work use {update}; the {job_id} stays.
- A job that waits for an answer from outside needs a person: say so. You cannot answer for them.
"""


class Verb(Enum):
    """What a supervisor can do."""

    LAUNCH = "launch"
    CHECK = "check"
    UPDATE = "update"
    CANCEL = "cancel"
    LIST = "list"


@dataclass(frozen=True, slots=True)
class ToolDefinition:
    """A tool of the kit."""

    verb: Verb
    name: str
    """What the model calls it."""
    description: str
    """What the model reads about it."""
    parameters: tuple[Parameter, ...]

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of the arguments, which are one object."""
        return schema_of(self.parameters)


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call that can be carried out."""

    verb: Verb
    arguments: Mapping[str, Any]
    """The arguments by the keys of the kit."""


class Kit:
    """The tools of a supervisor.

    Attributes:
        agents: The agents that it may call, with what each does where that is known.
        dialect: What everything is called.
        tools: The tools, by their names.
        prompt: A section of the system prompt: how to use them.
        answers: What the tools tell.
    """

    def __init__(
        self,
        agents: Iterable[str] | Mapping[str, str],
        *,
        names: str = "callboard",
        result_characters: int = RESULT_CHARACTERS,
    ) -> None:
        """Puts the tools together.

        Args:
            agents: The names of the agents, or what each does by its name.
            names: The names that the tools go by: "callboard" or "deepagents".
            result_characters: How much of a job's result one answer holds.

        Raises:
            ValueError: There are no agents or no such names.
        """
        if isinstance(agents, str):
            raise ValueError("agents: a list of names is needed, not a single one")
        self.agents = dict(agents) if isinstance(agents, Mapping) else dict.fromkeys(agents, "")
        if not self.agents:
            raise ValueError("agents: a supervisor needs at least one")
        if result_characters < 1:
            raise ValueError("result_characters: must be at least 1")
        self.dialect = dialect_of(names)
        self.tools = {each.name: each for each in _define(self.agents, self.dialect)}
        self.prompt = _PROMPT.format_map(_words(self.dialect))
        self.answers = Answers(self.dialect, result_characters)

    def read(self, name: str, arguments: Mapping[str, object] | str | None) -> ToolCall:
        """Reads a call as a model wrote it.

        Args:
            name: The name of the tool.
            arguments: The arguments: an object, or the JSON text of one.

        Raises:
            Refused: It cannot be carried out; the text says what would be right.
        """
        tool = self.tools.get(name)
        if tool is None:
            listed = ", ".join(self.tools)
            raise Refused(f"There is no tool {name[:80]!a}; there are: {listed}.")
        return ToolCall(tool.verb, read_arguments(tool.parameters, arguments))


def _define(agents: Mapping[str, str], dialect: Dialect) -> Iterable[ToolDefinition]:
    words = _words(dialect)
    job_id = Parameter(
        "job_id", dialect.job_id, f"The whole id of the job, as {dialect.launch} returned it."
    )

    def tool(verb: Verb, text: str, *parameters: Parameter) -> ToolDefinition:
        name = words[verb.value]
        return ToolDefinition(verb, name, " ".join(text.format_map(words).split()), parameters)

    launch = tool(
        Verb.LAUNCH,
        _LAUNCH,
        Parameter("agent", dialect.agent, "Which agent does the work.", choices=list(agents)),
        Parameter("task", dialect.task, "What to do, with everything that the agent must know."),
    )
    yield ToolDefinition(
        launch.verb, launch.name, f"{launch.description}\n{_listed(agents)}", launch.parameters
    )
    yield tool(
        Verb.CHECK,
        _CHECK,
        job_id,
        Parameter(
            "offset",
            "offset",
            "From which character of a long result on, as the answer before said.",
            default=0,
        ),
    )
    yield tool(
        Verb.UPDATE,
        _UPDATE,
        job_id,
        Parameter("instructions", dialect.instructions, "What to do now."),
        Parameter(
            "delivery",
            "delivery",
            '"interrupt" redirects it at once, "steer" tells it at its next step, "enqueue" lets '
            "it finish first.",
            choices=("interrupt", "steer", "enqueue"),
            default="interrupt",
        ),
    )
    yield tool(Verb.CANCEL, _CANCEL, job_id)
    yield tool(
        Verb.LIST,
        _LIST,
        Parameter(
            "filter", dialect.filter, "Which of them.", choices=list(dialect.filters), default="all"
        ),
        Parameter("offset", "offset", "How many of the newest to leave out.", default=0),
    )


def _listed(agents: Mapping[str, str]) -> str:
    if not any(agents.values()):
        return f"The agents: {', '.join(agents)}."
    lines: Sequence[str] = [
        f"- {name}: {text}" if text else f"- {name}" for name, text in agents.items()
    ]
    return "\n".join(["The agents:", *lines])


def _words(dialect: Dialect) -> dict[str, str]:
    """The names that texts hold in braces."""
    names = (*(verb.value for verb in Verb), "task", "job_id")
    return {name: getattr(dialect, name) for name in names}
