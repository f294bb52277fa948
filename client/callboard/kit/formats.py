"""Tools in the formats of models' APIs, and as functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from inspect import Parameter as FunctionParameter
from inspect import Signature
from typing import Any, Literal, TypeVar

from callboard.kit.arguments import Parameter
from callboard.kit.definition import ToolDefinition

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def anthropic(tool: ToolDefinition) -> dict[str, object]:
    """A tool of Anthropic's Messages API."""
    return {"name": tool.name, "description": tool.description, "input_schema": tool.schema}


def openai(tool: ToolDefinition) -> dict[str, object]:
    """A function tool of OpenAI's Responses API."""
    # The strict mode knows no arguments that may be left out.
    return {"type": "function", **_openai_function(tool), "strict": False}


def openai_chat(tool: ToolDefinition) -> dict[str, object]:
    """A function tool of OpenAI's Chat Completions API."""
    return {"type": "function", "function": _openai_function(tool)}


def _openai_function(tool: ToolDefinition) -> dict[str, object]:
    return {"name": tool.name, "description": tool.description, "parameters": tool.schema}


def described(function: FunctionT, tool: ToolDefinition) -> FunctionT:
    """Gives a function the name, signature and docstring of a tool."""
    parameters = [
        FunctionParameter(
            each.name,
            FunctionParameter.POSITIONAL_OR_KEYWORD,
            default=FunctionParameter.empty if each.default is None else each.default,
            annotation=_type(each),
        )
        for each in tool.parameters
    ]
    function.__name__ = function.__qualname__ = tool.name
    function.__doc__ = _docstring(tool)
    function.__annotations__ = {
        **{each.name: each.annotation for each in parameters},
        "return": str,
    }
    function.__signature__ = Signature(  # type: ignore[attr-defined]
        parameters, return_annotation=str
    )
    return function


def bound(
    tool: ToolDefinition, positional: Sequence[object], named: Mapping[str, object]
) -> dict[str, object]:
    """The arguments of a call of such a function, by name.

    Raises:
        TypeError: There are too many, or one is given twice.
    """
    names = [each.name for each in tool.parameters[: len(positional)]]
    if len(names) < len(positional) or named.keys() & set(names):
        raise TypeError(f"{tool.name} takes {[each.name for each in tool.parameters]}, once each")
    return {**dict(zip(names, positional, strict=True)), **named}


def _type(parameter: Parameter) -> Any:
    if isinstance(parameter.default, int):
        return int
    return Literal[tuple(parameter.choices)] if parameter.choices else str


def _docstring(tool: ToolDefinition) -> str:
    if not tool.parameters:
        return tool.description
    arguments = "\n".join(f"    {each.name}: {each.description}" for each in tool.parameters)
    return f"{tool.description}\n\nArgs:\n{arguments}\n"
