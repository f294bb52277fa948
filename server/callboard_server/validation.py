"""Says what is wrong with a value that pydantic refused, and what would be right.

The words are ours, in rare cases pydantic's, and never those of an exception that a validator
happened to raise.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from callboard_server.wording import bound, choice, kinds, size, written

_KINDS = {
    **dict.fromkeys(("string_type", "pattern_type"), "string"),
    **dict.fromkeys(("int_type", "int_parsing", "int_from_float"), "integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "boolean"),
    **dict.fromkeys(("dict_type", "model_type"), "object"),
    "list_type": "array",
}
"""The types of JSON that are wanted, by what pydantic calls their faults."""
_BOUNDS = {
    "greater_than": ("exclusiveMinimum", "gt"),
    "greater_than_equal": ("minimum", "ge"),
    "less_than": ("exclusiveMaximum", "lt"),
    "less_than_equal": ("maximum", "le"),
}
_SIZES = {
    "string_too_short": ("minLength", "min_length"),
    "string_too_long": ("maxLength", "max_length"),
    "too_short": ("minItems", "min_length"),
    "too_long": ("maxItems", "max_length"),
}
"""The rules of JSON Schema, and where pydantic has the limit."""


def describe_errors(error: ValidationError, schema: Mapping[str, Any]) -> list[str]:
    """Returns a line for each thing that is wrong: the path of the key, and why.

    Args:
        error: What pydantic raised.
        schema: The JSON Schema of the value: it knows which keys would be right.
    """
    details = error.errors(include_url=False)
    return [_describe(detail, schema) for detail in details]


def suggest(name: str, known: Sequence[str]) -> str:
    """Returns the known name that was meant, as a question, or all that there are."""
    if close := get_close_matches(name, known, n=1):
        return f"did you mean {close[0]}?"
    return f"known are: {', '.join(known)}" if known else "there are none"


def _describe(detail: ErrorDetails, schema: Mapping[str, Any]) -> str:
    path = written(detail["loc"])
    return f"{path}: {_explain(detail, schema)}" if path else _explain(detail, schema)


def _explain(detail: ErrorDetails, schema: Mapping[str, Any]) -> str:
    fault, given, limits = detail["type"], detail["input"], detail.get("ctx", {})
    *parents, name = detail["loc"] or ("",)
    match fault:
        case "missing":
            return "is required"
        case "extra_forbidden":
            return f"is not known; {suggest(str(name), _keys(schema, parents))}"
        case "value_error" | "assertion_error":
            return "is not valid"
        case "literal_error" if allowed := _part(schema, detail["loc"]).get("enum"):
            return choice(allowed, given)
        case _ if fault in _KINDS:
            return kinds([_KINDS[fault]], given)
        case _ if fault in _BOUNDS:
            rule, limit = _BOUNDS[fault]
            return bound(rule, limits[limit], given)
        case _ if fault in _SIZES:
            rule, limit = _SIZES[fault]
            return size(rule, limits[limit], len(given))
        case _:
            return detail["msg"]


def _keys(schema: Mapping[str, Any], path: Sequence[int | str]) -> list[str]:
    """Returns the keys that the object at a path takes."""
    return list(_part(schema, path).get("properties", {}))


def _part(schema: Mapping[str, Any], path: Sequence[int | str]) -> dict[str, Any]:
    """Returns the schema of the value at a path."""
    part = _resolve(schema, schema)
    for key in path:
        inner = part.get("items") if isinstance(key, int) else part.get("properties", {}).get(key)
        part = _resolve(inner or part.get("additionalProperties") or {}, schema)
    return part


def _resolve(part: Any, schema: Mapping[str, Any]) -> dict[str, Any]:
    """Follows a reference into the definitions; an optional value stands for itself."""
    for each in part.get("anyOf", ()) if isinstance(part, dict) else ():
        if each != {"type": "null"}:
            return _resolve(each, schema)
    if isinstance(part, dict) and "$ref" in part:
        return _resolve(schema["$defs"][part["$ref"].rpartition("/")[2]], schema)
    return part if isinstance(part, dict) else {}
