"""Arguments as a model wrote them: read, or refused in words that say what would be right."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class Refused(Exception):
    """A call that cannot be carried out. The text is for the model."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.text = text


@dataclass(frozen=True, slots=True)
class Parameter:
    """An argument of a tool: text, one of some choices, or a number where the default is one."""

    key: str
    """What it is called within the kit, whatever the model calls it."""
    name: str
    description: str
    choices: Sequence[str] = ()
    default: str | int | None = None
    """Its value when it is left out; it must not be where there is none."""

    @property
    def schema(self) -> dict[str, Any]:
        """JSON Schema of it."""
        schema: dict[str, Any] = {"type": "string", "description": self.description}
        if isinstance(self.default, int):
            schema.update(type="integer", minimum=0)
        if self.choices:
            schema["enum"] = list(self.choices)
        if self.default is not None:
            schema["default"] = self.default
        return schema

    def problem(self, value: object) -> str:
        """What is wrong with a value; empty where nothing is."""
        if isinstance(self.default, int):
            is_number = isinstance(value, int) and not isinstance(value, bool) and value >= 0
            return "" if is_number else "must be a whole number from 0 on"
        if not isinstance(value, str):
            return f"must be text, not {kind_of(value)}"
        if self.choices:
            listed = ", ".join(self.choices)
            return "" if value in self.choices else f"{_shown(value)} is not one of: {listed}"
        if not value.strip():
            return "must not be empty"
        return "" if _is_text(value) else "holds a character that is none: half of a pair"


def schema_of(parameters: Sequence[Parameter]) -> dict[str, Any]:
    """JSON Schema of the arguments of a tool, which are one object."""
    return {
        "type": "object",
        "properties": {each.name: each.schema for each in parameters},
        "required": [each.name for each in parameters if each.default is None],
        "additionalProperties": False,
    }


def read_arguments(
    parameters: Sequence[Parameter], given: Mapping[str, object] | str | None
) -> dict[str, Any]:
    """The values of a tool's arguments, by their keys.

    Args:
        parameters: What the tool takes.
        given: What the model wrote: an object, or the JSON text of one.

    Raises:
        Refused: It does not fit.
    """
    given = _parse(given)
    names = [each.name for each in parameters]
    problems = [
        f"{_shown(name)} is not known; known are: {', '.join(names)}"
        for name in given
        if name not in names
    ]
    values: dict[str, Any] = {}
    for each in parameters:
        # Some models write null for what they leave out.
        value = given.get(each.name)
        if value is None:
            value = each.default
        problem = "is required" if value is None else each.problem(value)
        if problem:
            problems.append(f"{each.name}: {problem}")
        values[each.key] = value
    if problems:
        raise _unfit(problems, parameters)
    return values


def _parse(given: Mapping[str, object] | str | None) -> Mapping[str, object]:
    if isinstance(given, str):
        try:
            given = json.loads(given or "{}")
        except (ValueError, RecursionError):
            raise Refused("The arguments are not JSON. Write one JSON object.") from None
    elif given is None:
        given = {}
    # Programs hand on what models write, also where that is no object.
    if not isinstance(given, Mapping):
        raise Refused(f"The arguments are {kind_of(given)}. Write one JSON object.")
    return given


def _unfit(problems: Sequence[str], parameters: Sequence[Parameter]) -> Refused:
    listed = "\n".join(f"- {problem}" for problem in problems)
    expected = json.dumps(schema_of(parameters)["properties"], ensure_ascii=False)
    return Refused(f"The arguments do not fit:\n{listed}\nExpected: {expected}")


def kind_of(value: object) -> str:
    """What a value is called in JSON, or what its type is where JSON has none."""
    match value:
        case None:
            return "null"
        case bool():
            return "a boolean"
        case int() | float():
            return "a number"
        case str():
            return "text"
        case Mapping():
            return "an object"
        case list():
            return "a list"
        case _:
            return f"of the type {type(value).__name__}"


def _shown(text: object) -> str:
    """A text that a model wrote, in bounds and in plain letters."""
    return ascii(str(text)[:80])


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
