"""Tools: functions that a model may call.

A tool is made from a typed function. Its signature and docstring become the JSON Schema that the
model reads, and what the model writes is checked against them before the function runs. Whatever
goes wrong comes back as text that the model can act on.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any, get_type_hints, overload

import structlog
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticUserError,
    ValidationError,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, to_json

from callboard.v1.message_pb2 import ToolCall
from callboard_server.agents.context import Context
from callboard_server.agents.errors import (
    AgentError,
    Fenced,
    NoAnswer,
    ToolError,
    describe_failure,
)
from callboard_server.agents.sync_context import Stopped, SyncContext
from callboard_server.agents.threads import in_thread
from callboard_server.config import Policy
from callboard_server.schemas import list_problems, schema_problem
from callboard_server.validation import describe_errors, suggest

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()

_SECTION = re.compile(r"^(Args|Attributes|Example|Examples|Note|Raises|Returns|Yields):$", re.M)
_ARGUMENT = re.compile(r"^(?P<name>\w+)(?: \([^)]*\))?: (?P<text>.+)", re.S)
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
"""What all providers take as the name of a tool."""
_LONGEST_RESULT = 200_000

_STRICTNESS: tuple[Policy, ...] = ("allow", "ask", "deny")


@dataclass(frozen=True, slots=True)
class Tool:
    """Something that a model may call."""

    name: str
    description: str
    parameters: dict[str, Any]
    """JSON Schema of the arguments, which are one object."""
    call: Callable[[str, Context], Awaitable[object]]
    """Takes the arguments as JSON text. Raises ToolError where they do not fit."""
    idempotent: bool = False
    """Whether it may run again when a crash hid whether it did."""
    timeout: float | None = None
    """Seconds it may take."""
    policy: Policy = "allow"
    """Whether it runs at once, only with a permission from outside, or never."""
    on_client: bool = False
    """Whether a client runs it: its calls are actions, and their answers the results."""
    check: Callable[[str], object] | None = None
    """Raises ToolError where arguments do not fit: nobody is asked about such a call."""


@dataclass(frozen=True, slots=True)
class ToolOutput:
    """What a model is told about a call."""

    text: str
    is_error: bool = False


@overload
def tool(
    fn: Callable[..., object],
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    timeout: float | None = None,
    policy: Policy = "allow",
) -> Tool: ...
@overload
def tool(
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    timeout: float | None = None,
    policy: Policy = "allow",
) -> Callable[[Callable[..., object]], Tool]: ...
def tool(
    fn: Callable[..., object] | None = None,
    /,
    *,
    name: str | None = None,
    description: str | None = None,
    idempotent: bool = False,
    timeout: float | None = None,
    policy: Policy = "allow",
) -> Tool | Callable[[Callable[..., object]], Tool]:
    """Makes a tool from a typed function, async or plain, as a decorator or a call.

    A parameter of the type Context (in an async function) or SyncContext (in a plain one, which
    runs in a thread) gets the context of the run and is not shown to the model.

    Args:
        fn: The function. Its docstring's text and `Args:` describe the tool to the model.
        name: The name for the model; the function's when left out.
        description: What the tool does; from the docstring when left out.
        idempotent: Whether it may run again when a crash hid whether it did.
        timeout: Seconds it may take.
        policy: Whether it runs at once ("allow"), only when somebody outside permits the call
            ("ask"), or never ("deny").

    Raises:
        TypeError: The function cannot be a tool; the message says why.
    """

    def make(function: Callable[..., object]) -> Tool:
        text, arguments = _read_docstring(function)
        call = _FunctionCall(function, arguments)
        return Tool(
            name=name or function.__name__,
            description=text if description is None else description,
            parameters=call.schema,
            call=call,
            idempotent=idempotent,
            timeout=timeout,
            policy=policy,
            check=call.check,
        )

    return make if fn is None else make(fn)


def client_tool(name: str, description: str, parameters: Mapping[str, Any]) -> Tool:
    """Describes a tool that a client runs: its calls wait as actions for their results.

    Args:
        name: The name for the model.
        description: What it does, for the model.
        parameters: JSON Schema of the arguments, which are one object.

    Raises:
        ValueError: The parameters are no such schema.
    """
    schema = dict(parameters)
    problem = schema_problem(schema)
    if problem is None and schema.get("type") != "object":
        problem = 'must have "type": "object"'
    if problem is not None:
        raise ValueError(f"the parameters of {name}: {problem}")

    async def call(arguments_json: str, ctx: Context) -> object:
        raise ToolError("A client runs this tool.")

    check = partial(check_arguments, schema)
    return Tool(name, description, schema, call, on_client=True, check=check)


def check_arguments(schema: Mapping[str, Any], arguments_json: str) -> None:
    """Checks arguments as a model wrote them.

    Args:
        schema: JSON Schema of the arguments.
        arguments_json: The arguments.

    Raises:
        ToolError: They do not fit; the message says what would.
    """
    try:
        problems = list_problems(schema, json.loads(arguments_json or "{}"))
    except (ValueError, RecursionError):
        raise ToolError("The arguments are not JSON.") from None
    if problems:
        raise _unfit(problems, schema)


def _unfit(problems: Sequence[str], schema: Mapping[str, Any]) -> ToolError:
    listed = "\n".join(f"- {problem}" for problem in problems)
    expected = to_json(schema.get("properties", {})).decode()
    return ToolError(f"The arguments do not fit:\n{listed}\nExpected: {expected}")


def index_tools(tools: list[Tool]) -> dict[str, Tool]:
    """Returns tools by name.

    Raises:
        ValueError: Two have the same name, or one has a name that no provider takes.
    """
    by_name: dict[str, Tool] = {}
    for item in tools:
        if not TOOL_NAME.fullmatch(item.name):
            raise ValueError(
                f"{item.name!r} is no name for a tool: it may have up to 64 letters of the "
                "English alphabet, digits, _ and -"
            )
        if item.name in by_name:
            raise ValueError(f"there are two tools of the name {item.name}")
        by_name[item.name] = item
    return by_name


def with_policies(
    tools: Mapping[str, Tool], policies: Mapping[str, Policy], *, only_stricter: bool = False
) -> dict[str, Tool]:
    """Returns tools with other policies.

    Args:
        tools: The tools, by name.
        policies: The policies, by the name of the tool.
        only_stricter: Whether a policy holds only where it is stricter than the tool's own.

    Raises:
        ValueError: There is no such tool.
    """
    changed = dict(tools)
    for name, policy in policies.items():
        if name not in tools:
            raise ValueError(f"there is no tool {name}; {suggest(name, list(tools))}")
        own = tools[name].policy
        if only_stricter:
            policy = max(own, policy, key=_STRICTNESS.index)
        changed[name] = replace(tools[name], policy=policy)
    return changed


async def run_tool(tools: Mapping[str, Tool], call: ToolCall, ctx: Context) -> ToolOutput:
    """Runs the tool that a model asked for. Raises only what ends the run, such as AgentError."""
    wanted = tools.get(call.name)
    if wanted is None:
        hint = suggest(call.name, list(tools))
        return ToolOutput(f"There is no tool {call.name}; {hint}", is_error=True)
    try:
        async with asyncio.timeout(wanted.timeout) as deadline:
            return ToolOutput(_to_text(await wanted.call(call.arguments_json, ctx)))
    except (ToolError, NoAnswer) as error:
        return ToolOutput(error.message, is_error=True)
    except (AgentError, Stopped, Fenced):
        raise
    # A tool that calls sys.exit() must not take the server with it.
    except (Exception, SystemExit) as error:
        if isinstance(error, TimeoutError) and deadline.expired():
            return ToolOutput(f"{call.name} took longer than {wanted.timeout:g} s.", is_error=True)
        return ToolOutput(_report(call.name, error), is_error=True)


def _report(name: str, error: BaseException) -> str:
    failure = describe_failure(error)
    _log.error(
        "tool_failed",
        tool=name,
        kind=failure.kind,
        trace=failure.trace,
        error_id=failure.error_id,
    )
    return f"{name} failed: {failure}."


def cut(text: str) -> str:
    """Returns as much of a text as a model is given of one result."""
    rest = len(text) - _LONGEST_RESULT
    return text if rest <= 0 else f"{text[:_LONGEST_RESULT]}\n[{rest:,} more characters left out]"


def _to_text(result: object) -> str:
    if isinstance(result, str):
        return result
    if result is None:
        return "ok"
    try:
        return to_json(result).decode()
    except PydanticSerializationError:
        kind = type(result).__name__
        raise ToolError(f"The tool ran, but its result ({kind}) cannot be shown as JSON.") from None


class _FunctionCall:
    """Calls a function with arguments that were written as JSON."""

    def __init__(self, function: Callable[..., object], descriptions: Mapping[str, str]) -> None:
        self._function = function
        self._is_async = inspect.iscoroutinefunction(function)
        parameters = _parameters(function)
        self._injected = [
            name for name, (kind, _) in parameters.items() if kind in (Context, SyncContext)
        ]
        self._check_contexts(parameters)
        self._names = [name for name in parameters if name not in self._injected]
        try:
            self._model = _make_model({n: parameters[n] for n in self._names}, descriptions)
            self.schema = self._model.model_json_schema(schema_generator=_Schema)
        except PydanticUserError as error:
            raise TypeError(f"{function.__name__}: {error.message}") from error
        self.schema.pop("title")

    def check(self, arguments_json: str) -> None:
        self._read(arguments_json)

    def _read(self, arguments_json: str) -> BaseModel:
        try:
            return self._model.model_validate_json(arguments_json or "{}")
        except ValidationError as error:
            raise _unfit(describe_errors(error, self.schema), self.schema) from None

    async def __call__(self, arguments_json: str, ctx: Context) -> object:
        arguments = self._read(arguments_json)
        values = {name: getattr(arguments, _field(name)) for name in self._names}
        if self._is_async:
            result = self._function(**values, **dict.fromkeys(self._injected, ctx))
            return await result  # type: ignore[misc]
        contexts = dict.fromkeys(self._injected, SyncContext(ctx))
        return await in_thread(self._function, **values, **contexts)

    def _check_contexts(self, parameters: Mapping[str, tuple[Any, Any]]) -> None:
        right = Context if self._is_async else SyncContext
        for name in self._injected:
            if parameters[name][0] is not right:
                kind = "an async" if self._is_async else "a plain"
                raise TypeError(
                    f"{self._function.__name__} is {kind} function: "
                    f"its parameter {name} must be of the type {right.__name__}"
                )


class _Schema(GenerateJsonSchema):
    """Leaves out the titles that pydantic makes from names: they tell a model nothing."""

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False


def _parameters(function: Callable[..., object]) -> dict[str, tuple[Any, Any]]:
    """Returns the type and the default of each parameter."""
    try:
        hints = get_type_hints(function, include_extras=True)
    except NameError as error:
        raise TypeError(
            f"{function.__name__}: the type {error.name} cannot be found when the program runs"
        ) from None
    parameters = {}
    for parameter in inspect.signature(function).parameters.values():
        if parameter.kind not in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY):
            raise TypeError(f"{function.__name__}: {parameter} cannot be given by name")
        if parameter.name not in hints:
            raise TypeError(f"{function.__name__}: the parameter {parameter.name} has no type")
        default = ... if parameter.default is parameter.empty else parameter.default
        parameters[parameter.name] = (hints[parameter.name], default)
    return parameters


def _make_model(
    parameters: Mapping[str, tuple[Any, Any]], descriptions: Mapping[str, str]
) -> type[BaseModel]:
    fields: dict[str, Any] = {}
    for name, (kind, default) in parameters.items():
        if name in descriptions:
            kind = Annotated[kind, Field(description=descriptions[name])]
        fields[_field(name)] = (kind, Field(default, alias=name))
    return create_model("Arguments", __config__=ConfigDict(extra="forbid"), **fields)


def _field(name: str) -> str:
    """Names a parameter's field so that it never meets an attribute of the model."""
    return f"argument_{name}"


def _read_docstring(function: Callable[..., object]) -> tuple[str, dict[str, str]]:
    """Returns the text of a Google docstring, and its arguments' descriptions."""
    text, *sections = _SECTION.split(inspect.getdoc(function) or "")
    bodies = dict(zip(sections[::2], sections[1::2], strict=True))
    return text.strip(), _read_arguments(bodies.get("Args", ""))


def _read_arguments(section: str) -> dict[str, str]:
    """Reads `name: text` entries, whose further lines are indented more."""
    entries = re.split(r"\n(?=\S)", inspect.cleandoc(section))
    matches = (_ARGUMENT.match(entry) for entry in entries)
    return {match["name"]: " ".join(match["text"].split()) for match in matches if match}
