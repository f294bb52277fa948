"""Says what is wrong with a value that does not fit a JSON Schema, and with a schema."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from jsonschema import Draft202012Validator, SchemaError

from callboard_server.validation import suggest
from callboard_server.wording import Path, bound, choice, kinds, shown, size, written


def find_problems(schema: Mapping[str, Any], value: object) -> dict[Path, str]:
    """Returns what is wrong with a value, by the path of the key that is wrong."""
    return dict(_explain(Draft202012Validator(schema).iter_errors(value)))


def list_problems(schema: Mapping[str, Any], value: object) -> list[str]:
    """Returns the same as lines."""
    return _lines(find_problems(schema, value))


def schema_problem(schema: Mapping[str, Any]) -> str | None:
    """Returns why something is no JSON Schema that can be used here; None where it is one."""
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        return f"is no JSON Schema: {'; '.join(_lines(dict(_explain([error]))))}"
    for reference in _references(schema):
        if not reference.startswith("#"):
            # Whoever brings a schema must not make the server fetch an address.
            return f"refers to {reference!r}; a schema may refer to its own parts only"
    return None


def _references(part: object) -> Iterator[str]:
    if isinstance(part, Mapping):
        for key, value in part.items():
            if key in ("$ref", "$dynamicRef") and isinstance(value, str):
                yield value
            yield from _references(value)
    elif isinstance(part, list):
        for item in part:
            yield from _references(item)


def _lines(problems: Mapping[Path, str]) -> list[str]:
    return [f"{written(path)}: {text}" if path else text for path, text in problems.items()]


# What an error says of itself has the type of any JSON.
def _explain(found: Iterable[Any]) -> Iterator[tuple[Path, str]]:
    for error in found:
        path, given, rule = tuple(error.absolute_path), error.instance, error.validator_value
        match error.validator:
            case "required":
                yield from (((*path, name), "is required") for name in rule if name not in given)
            case "additionalProperties" if rule is False:
                known = list(error.schema.get("properties", {}))
                for name in _unknown(given, known, error.schema.get("patternProperties", {})):
                    yield (*path, name), f"is not known; {suggest(name, known)}"
            case "anyOf" | "oneOf" if choices := _choices(rule, error.context):
                if len(choices) == 1:
                    yield from _explain(choices[0])
                else:
                    yield path, _none_of(choices, given)
            case _:
                yield path, _fault(error.validator, rule, given)


def _fault(keyword: str | None, rule: Any, given: Any) -> str:
    """Returns what is wrong with a value that breaks a rule."""
    match keyword:
        case "type":
            return kinds(_listed(rule), given)
        case "enum":
            return choice(rule, given)
        case "const":
            return f"must be {shown(rule)}"
        case "minimum" | "exclusiveMinimum" | "maximum" | "exclusiveMaximum":
            return bound(keyword, rule, given)
        case (
            "minLength" | "minItems" | "minProperties" | "maxLength" | "maxItems" | "maxProperties"
        ):
            return size(keyword, rule, len(given))
        case "pattern":
            return f"{shown(given)} does not match the pattern {rule}"
        case "uniqueItems":
            return "must not have an entry twice"
        case "multipleOf":
            return f"must be a multiple of {rule}, not {given}"
        case None:
            return f"{shown(given)} must be left out"
        case _:
            return f'does not fit "{keyword}": {shown(rule)}'


def _none_of(choices: Sequence[Sequence[Any]], given: object) -> str:
    """Returns what is wrong with a value that fits none of several choices."""
    if any(len(each) > 1 or not _is_of_another_type(each[0]) for each in choices):
        return "has none of the forms that it may have"
    return kinds([kind for each in choices for kind in _listed(each[0].validator_value)], given)


def _listed(rule: str | list[str]) -> list[str]:
    return [rule] if isinstance(rule, str) else rule


def _unknown(
    given: Mapping[str, object], known: Sequence[str], patterns: Mapping[str, object]
) -> list[str]:
    unknown = [name for name in given if name not in known]
    return [name for name in unknown if not any(re.search(each, name) for each in patterns)]


def _choices(rule: Sequence[object], found: Sequence[Any]) -> list[list[Any]]:
    """Returns what is wrong by each of several choices; null is none, but stands for no value.

    Where something is of the type of some choices only, those were meant.
    """
    choices: dict[int, list[Any]] = defaultdict(list)
    for error in found:
        if rule[error.schema_path[0]] != {"type": "null"}:
            choices[error.schema_path[0]].append(error)
    meant = [each for each in choices.values() if not any(map(_is_of_another_type, each))]
    return meant or list(choices.values())


def _is_of_another_type(error: Any) -> bool:
    return error.validator == "type" and not error.path
