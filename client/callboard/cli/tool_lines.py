"""Tool calls and what came of them, a line each."""

from __future__ import annotations

import json

from callboard import ToolCall, ToolResult
from callboard.cli.output import shortened

_ARGUMENT = 40
_ARGUMENTS = 60
_FAILURE = 100


def call_text(call: ToolCall) -> str:
    """A tool call as it would stand in code, with its arguments shortened."""
    try:
        arguments = json.loads(call.arguments_json or "{}")
    except ValueError:
        arguments = None
    match arguments:
        case {**named} if len(named) == 1:
            shown = _argument(*named.values())
        case {**named}:
            shown = ", ".join(f"{name}={_argument(value)}" for name, value in named.items())
        case _:
            shown = call.arguments_json
    return f"{call.name}({shortened(shown, _ARGUMENTS)})"


def result_text(result: ToolResult) -> str:
    """Whether a tool did what it should, and how much it returned."""
    if result.outcome_unknown:
        return "nobody knows whether it had its effect"
    if result.is_error:
        return f"failed: {shortened(result.text, _FAILURE)}"
    return f"ok, {_size(result.text)}"


def _argument(value: object) -> str:
    return shortened(json.dumps(value, ensure_ascii=False), _ARGUMENT)


def _size(text: str) -> str:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if isinstance(value, list):
        return _count(len(value), "entry", "entries")
    lines = len(text.splitlines())
    return _count(lines, "line", "lines") if lines > 1 else f"{len(text.encode()):,} bytes"


def _count(number: int, one: str, more: str) -> str:
    return f"{number:,} {one if number == 1 else more}"
