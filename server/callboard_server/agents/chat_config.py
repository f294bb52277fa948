"""What may be set of a chat agent: in its table or code, and over that by assistants and runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, PositiveFloat, PositiveInt, ValidationError

from callboard_server.config import CallableAssistant, CallableAssistants, Policy
from callboard_server.log.view import Others
from callboard_server.schemas import schema_problem
from callboard_server.validation import describe_errors


class Unfit(ValueError):
    """A setting of a chat agent cannot be had.

    Args:
        key: Which; empty where the problem names them itself.
        problem: Why, and what would be right.
    """

    def __init__(self, key: str, problem: str) -> None:
        super().__init__(f"{key}: {problem}" if key else problem)
        self.key = key
        self.problem = problem


class ChatConfig(BaseModel):
    """The settings of a chat agent, as far as an assistant or a run may have others."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    model: str | None = None
    """The model, as PROVIDER:MODEL. Providers stand in the server's configuration."""
    system: str | None = None
    """The system prompt."""
    tools: list[str] | None = None
    """Which of the agent's tools there are; all when left out."""
    tool_policy: dict[str, Policy] | None = None
    """By the name of a tool, whether it runs at once, is asked for, or never runs. It holds where
    it is stricter than the agent's own."""
    callable_assistants: CallableAssistants | None = None
    """Whom it may call as jobs, by their ids or the names of agents; within what its agent allows,
    where that names any."""
    others: Others | None = None
    """What it sees of other agents' runs: their last answers, or all turns with their tools."""
    output_schema: dict[str, Any] | None = None
    """JSON Schema that the final answer must fit."""
    max_turns: PositiveInt | None = None
    """How often a run may call the model."""
    max_total_tokens: PositiveInt | None = None
    """After how many tokens, read and written, a run calls the model no more."""
    max_cost: PositiveFloat | None = None
    """After which cost a run calls the model no more."""
    max_output_tokens: PositiveInt | None = None
    """How long an answer may be."""
    effort: str | None = None
    """How hard the model shall think, in the provider's own words."""
    model_attempts: PositiveInt | None = None
    """How often a model call is tried that fails for a reason that may pass."""
    compact_at: PositiveInt | None = None
    """At how many tokens a conversation is too long, so that its older part is summarised."""

    def over(self, own: ChatConfig) -> ChatConfig:
        """Returns it with what it does not say taken from an agent's own.

        Raises:
            Unfit: It goes beyond what the agent allows.
        """
        said = {name: getattr(self, name) for name in self.model_fields_set}
        said = {name: value for name, value in said.items() if value is not None}
        if self.callable_assistants is not None and own.callable_assistants is not None:
            said["callable_assistants"] = [
                _within(wanted, own.callable_assistants) for wanted in self.callable_assistants
            ]
        return own.model_copy(update=said)


def _within(wanted: CallableAssistant, own: Sequence[CallableAssistant]) -> CallableAssistant:
    """Returns whom an assistant wants to call, with what it does not say taken from its agent."""
    allowed = [each for each in own if each.id == wanted.id]
    if not allowed:
        names = ", ".join(dict.fromkeys(each.id for each in own)) or "nobody"
        raise Unfit("callable_assistants", f"its agent may not call {wanted.id}; it may: {names}")
    if "mode" in wanted.model_fields_set:
        # Each mode has tools of its own, and so policies.
        allowed = [each for each in allowed if each.mode == wanted.mode]
    if not allowed:
        raise Unfit(
            "callable_assistants",
            f"its agent may not call {wanted.id} with mode {wanted.mode}; leave the mode out",
        )
    fitting = [e for e in allowed if wanted.version in (None, e.version) or e.version is None]
    if not fitting:
        raise Unfit(
            "callable_assistants",
            f"its agent may not call {wanted.id} in version {wanted.version}; it may in version "
            + ", ".join(str(each.version) for each in allowed),
        )
    said = {name: getattr(wanted, name) for name in wanted.model_fields_set}
    if wanted.version is None:
        # Written as null it says no more than left out: the agent's own version holds.
        said.pop("version", None)
    return fitting[0].model_copy(update=said)


CHAT_CONFIG_SCHEMA: dict[str, Any] = ChatConfig.model_json_schema()


def read_config(config: Mapping[str, object]) -> ChatConfig:
    """Reads a configuration.

    Raises:
        Unfit: It does not fit.
    """
    try:
        read = ChatConfig.model_validate(config)
    except ValidationError as error:
        raise Unfit("", "; ".join(describe_errors(error, CHAT_CONFIG_SCHEMA))) from None
    if read.output_schema is not None and (problem := schema_problem(read.output_schema)):
        raise Unfit("output_schema", problem)
    return read
