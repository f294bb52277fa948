"""Says what is wrong with a value that pydantic refused, and what would be right.

The words are ours or pydantic's, never those of an exception that a validator happened to raise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails


def describe_errors(error: ValidationError, schema: Mapping[str, Any]) -> list[str]:
    """Returns a line for each thing that is wrong: the path of the key, and why.

    Args:
        error: What pydantic raised.
        schema: The JSON Schema of the value: it knows which keys would be right.
    """
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return [_describe(detail, schema) for detail in details]


def suggest(name: str, known: Sequence[str]) -> str:
    """Returns the known name that was meant, as a question, or all that there are."""
    if close := get_close_matches(name, known, n=1):
        return f"did you mean {close[0]}?"
    return f"known are: {', '.join(known)}" if known else "there are none"


def _describe(detail: ErrorDetails, schema: Mapping[str, Any]) -> str:
    path = ".".join(str(part) for part in detail["loc"])
    return f"{path}: {_explain(detail, schema)}" if path else _explain(detail, schema)


def _explain(detail: ErrorDetails, schema: Mapping[str, Any]) -> str:
    match detail["type"]:
        case "missing":
            return "is required"
        case "extra_forbidden":
            *parents, name = detail["loc"]
            return f"is not known; {suggest(str(name), _keys(schema, parents))}"
        case "value_error" | "assertion_error":
            return "is not valid"
        case _:
            return detail["msg"]


def _keys(schema: Mapping[str, Any], path: Sequence[int | str]) -> list[str]:
    """Returns the keys that the object at a path takes."""
    part = _resolve(schema, schema)
    for key in path:
        inner = part.get("items") if isinstance(key, int) else part.get("properties", {}).get(key)
        part = _resolve(inner or part.get("additionalProperties") or {}, schema)
    return list(part.get("properties", {}))


def _resolve(part: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Follows a reference into the definitions; an optional value stands for itself."""
    for choice in part.get("anyOf", ()) if isinstance(part, dict) else ():
        if choice != {"type": "null"}:
            return _resolve(choice, schema)
    if isinstance(part, dict) and "$ref" in part:
        return _resolve(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    return part if isinstance(part, dict) else {}
