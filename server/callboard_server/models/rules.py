r"""The table of the offline model: patterns, tool calls and answers in one TOML file.

Rules are tried in order, and the first that fits applies:

    [[rule]]
    example = "Research: how do tasks end? in src/"
    when = 'research:?\s+(?P<question>.+?)(\s+in\s+(?P<folder>\S+))?'
    call = [{ tool = "search_documents", arguments = { question = "{question}" } }]

    [[rule]]
    after = "search_documents"
    say = "{result}"

`when` is a regular expression that the whole of the last user text must match; case does not
matter, and `.` matches line ends, too. `example` shows in the help. `call` calls tools, several at
once, and `say` answers.

`after` makes a rule about the results of that tool. It applies once for each result, or with
`each = "jobs"` once for each entry of that list in the result; where the list is empty, `empty` is
said. With `when` it applies only where that is what was asked. A result that is an error is said as
it is.

`{name}` in an argument or an answer stands for a group of `when`, `{result}` for the result (or the
entry), and `{result.state}` for a field of it, where it is JSON. A line of `say` that has nothing
to fill in is left out.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError, field_validator, model_validator
from pydantic_core import PydanticCustomError

from callboard_server.models.base import ModelSpecError
from callboard_server.validation import describe_errors, suggest

_PLACEHOLDER = re.compile(r"\{(\w+(?:\.\w+)*)\}")


class CallTemplate(BaseModel):
    """A tool call whose arguments are to be filled in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str
    arguments: dict[str, Any] = {}

    def fill(self, values: Mapping[str, object]) -> dict[str, Any]:
        """Returns the arguments for these values."""
        return {
            name: _fill(value, values) if isinstance(value, str) else value
            for name, value in self.arguments.items()
        }


class Rule(BaseModel):
    """A row of the table."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    when: re.Pattern[str] | None = None
    example: str = ""
    after: str = ""
    each: str = ""
    empty: str = "There are none."
    call: tuple[CallTemplate, ...] = ()
    say: str = ""

    @field_validator("when", mode="before")
    @classmethod
    def _compile(cls, pattern: object) -> object:
        if not isinstance(pattern, str):
            return pattern
        try:
            return re.compile(pattern, re.IGNORECASE | re.DOTALL)
        except re.error as error:
            raise PydanticCustomError("pattern", f"is no regular expression: {error}") from None

    @model_validator(mode="after")
    def _check(self) -> Rule:
        if self.when is None and not self.after:
            raise PydanticCustomError("rule", "has neither when nor after")
        if not (self.call or self.say):
            raise PydanticCustomError("rule", "has neither call nor say")
        if not (self.after or self.example):
            raise PydanticCustomError("rule", "has no example of what it understands")
        if self.each and not self.after:
            raise PydanticCustomError("rule", "has each but no after")
        names = [*(self.when.groupindex if self.when else ()), *(["result"] if self.after else ())]
        for name in self._placeholders():
            if name not in names:
                raise PydanticCustomError(
                    "rule", f"{{{name}}} is not known; {suggest(name, names)}"
                )
        return self

    def _placeholders(self) -> Iterator[str]:
        arguments = (value for call in self.call for value in call.arguments.values())
        for text in (self.say, *(value for value in arguments if isinstance(value, str))):
            yield from (path.partition(".")[0] for path in _PLACEHOLDER.findall(text))

    def match(self, texts: Iterable[str]) -> dict[str, str | None] | None:
        """Returns the groups of the first text that fits; None where none does."""
        if self.when is None:
            return {}
        matches = (self.when.fullmatch(text.strip()) for text in texts)
        return next((match.groupdict() for match in matches if match), None)

    def entries(self, result: str) -> list[object]:
        """Returns what there is in a tool's result to apply the rule to."""
        value = _parse(result)
        found = _look_up(value, self.each.split(".")) if self.each else [value]
        return found if isinstance(found, list) else []

    def fill_answer(self, values: Mapping[str, object]) -> str:
        """Returns what to say for these values."""
        lines = self.say.split("\n")
        return "\n".join(_fill(line, values) for line in lines if not _is_blank(line, values))


def load_rules(path: Path) -> tuple[Rule, ...]:
    """Reads a table.

    Raises:
        ModelSpecError: The table is wrong; the message names file, rule and reason.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ModelSpecError(f"{path}: {error.strerror}") from error
    except ValueError as error:
        raise ModelSpecError(f"{path}: {error}") from error
    rows = table.pop("rule", [])
    if table or not isinstance(rows, list):
        raise ModelSpecError(f"{path}: a table consists of [[rule]] entries and nothing else")
    return tuple(_read_rule(path, number, row) for number, row in enumerate(rows, start=1))


def _read_rule(path: Path, number: int, row: object) -> Rule:
    try:
        return Rule.model_validate(row)
    except ValidationError as error:
        problems = "; ".join(describe_errors(error, Rule.model_json_schema()))
        raise ModelSpecError(f"{path}: rule {number}: {problems}") from None


def _parse(result: str) -> object:
    """Reads a result as JSON where it is an object or a list; else it is text."""
    try:
        value = json.loads(result)
    except ValueError:
        return result
    return value if isinstance(value, dict | list) else result


def _look_up(value: object, path: Iterable[str]) -> object:
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def _fill(template: str, values: Mapping[str, object]) -> str:
    return _PLACEHOLDER.sub(lambda match: _show(match[1], values), template)


def _show(path: str, values: Mapping[str, object]) -> str:
    value = _look_up(values, path.split("."))
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _is_blank(line: str, values: Mapping[str, object]) -> bool:
    """Whether a line has something to fill in, and nothing to fill it with."""
    paths = _PLACEHOLDER.findall(line)
    return bool(paths) and not any(_show(path, values) for path in paths)
