"""What is said of values that do not fit, whoever found it out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from callboard.kit.arguments import kind_of

Path = tuple[str | int, ...]
"""Where a value stands within another."""

_KINDS = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "object": "an object",
    "array": "a list",
    "null": "null",
}
_BOUNDS = {
    "minimum": "at least",
    "exclusiveMinimum": "more than",
    "maximum": "at most",
    "exclusiveMaximum": "less than",
}
_UNITS = {
    "Length": ("character", "characters"),
    "Items": ("entry", "entries"),
    "Properties": ("key", "keys"),
}
_LONGEST = 80


def written(path: Path) -> str:
    """Returns a path as callers write it, such as `tools[0].name`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).removeprefix(".")


def kinds(allowed: Sequence[str], given: object) -> str:
    """Returns what is wrong with a value of another type than those of JSON that are allowed."""
    right = " or ".join(_KINDS[kind] for kind in allowed)
    is_number = isinstance(given, int | float) and not isinstance(given, bool)
    return f"must be {right}, not {given if is_number else kind_of(given)}"


def bound(keyword: str, limit: float, given: float) -> str:
    """Returns what is wrong with a number that is beyond a bound."""
    return f"must be {_BOUNDS[keyword]} {limit}, not {given}"


def size(keyword: str, limit: int, given: int) -> str:
    """Returns what is wrong with a value that is too short or too long."""
    which, unit = keyword[:3], _UNITS[keyword[3:]]
    if (which, limit) == ("min", 1):
        return "must not be empty"
    return f"must have {_BOUNDS[f'{which}imum']} {limit} {unit[limit != 1]}, not {given}"


def choice(allowed: Sequence[Any], given: object) -> str:
    """Returns what is wrong with a value that is not one of some."""
    names = ", ".join(each if isinstance(each, str) else shown(each) for each in allowed)
    return f"{shown(given)} is not one of: {names}"


def shown(value: Any) -> str:
    """Returns a value in few words."""
    is_text = isinstance(value, str)
    text = repr(value) if is_text else json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
