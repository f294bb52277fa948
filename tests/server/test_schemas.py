"""What is said of values that do not fit a schema, and of schemas that are none."""

from __future__ import annotations

from typing import Any

import pytest

from callboard_server.agents.chat_config import CHAT_CONFIG_SCHEMA
from callboard_server.schemas import list_problems, schema_problem

CONFIGURATIONS: list[tuple[object, list[str]]] = [
    ({"sytem": "x"}, ["sytem: is not known; did you mean system?"]),
    ({"system": 4}, ["system: must be text, not 4"]),
    ({"max_turns": 1.5}, ["max_turns: must be a whole number, not 1.5"]),
    ({"max_turns": True}, ["max_turns: must be a whole number, not a boolean"]),
    ({"max_turns": 0}, ["max_turns: must be more than 0, not 0"]),
    ({"tools": ["a", None]}, ["tools[1]: must be text, not null"]),
    ({"tool_policy": {"a": "dny"}}, ["tool_policy.a: 'dny' is not one of: allow, ask, deny"]),
    ({"callable_assistants": [3]}, ["callable_assistants[0]: must be an object or text, not 3"]),
    ({"callable_assistants": [""]}, ["callable_assistants[0]: must not be empty"]),
    (
        {"callable_assistants": ["a", {"id": "b", "mode": "x"}]},
        ["callable_assistants[1].mode: 'x' is not one of: async, sync"],
    ),
    (
        {"callable_assistants": [{"idd": "a"}]},
        [
            "callable_assistants[0].idd: is not known; did you mean id?",
            "callable_assistants[0].id: is required",
        ],
    ),
    ([], ["must be an object, not a list"]),
]
RULES: list[tuple[dict[str, Any], object, str]] = [
    ({"const": "a"}, "b", "must be 'a'"),
    ({"enum": [1, None, "a"]}, "b" * 90, f"'{'b' * 79}... is not one of: 1, null, a"),
    ({"minimum": 1}, 0, "must be at least 1, not 0"),
    ({"maximum": 1}, 2, "must be at most 1, not 2"),
    ({"exclusiveMaximum": 1}, 1, "must be less than 1, not 1"),
    ({"multipleOf": 3}, 4, "must be a multiple of 3, not 4"),
    ({"maxLength": 1}, "ab", "must have at most 1 character, not 2"),
    ({"minItems": 1}, [], "must not be empty"),
    ({"minItems": 2}, [1], "must have at least 2 entries, not 1"),
    ({"minProperties": 2}, {}, "must have at least 2 keys, not 0"),
    ({"uniqueItems": True}, [1, 1], "must not have an entry twice"),
    ({"pattern": "^a"}, "b", "'b' does not match the pattern ^a"),
    ({"type": ["string", "null"]}, 3, "must be text or null, not 3"),
    ({"oneOf": [{"type": "string"}, {"type": "boolean"}]}, [], "must be text or true or false, no"),
    ({"oneOf": [{"minimum": 1}, {"maximum": 5}]}, 3, 'does not fit "oneOf": [{"minimum": 1}, {"'),
    ({"anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, {}, "has none of the forms that it"),
    ({"anyOf": [{"type": "null"}]}, 3, 'does not fit "anyOf": [{"type": "null"}]'),
    ({"not": {"type": "string"}}, "a", 'does not fit "not": {"type": "string"}'),
    ({"properties": {"a": False}}, {"a": 1}, "1 must be left out"),
]


@pytest.mark.parametrize(("config", "problems"), CONFIGURATIONS)
def test_configurations_are_told_what_would_be_right(config: object, problems: list[str]) -> None:
    assert list_problems(CHAT_CONFIG_SCHEMA, config) == problems


@pytest.mark.parametrize(
    ("schema", "value", "problem"),
    RULES,
    ids=[f"{n}-{next(iter(r[0]))}" for n, r in enumerate(RULES)],
)
def test_each_rule_has_its_words(schema: dict[str, Any], value: object, problem: str) -> None:
    [told] = list_problems(schema, value)
    assert told.startswith(problem)


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        (
            {"properties": {"a": {"type": "strng"}}},
            "properties.a.type: 'strng' is not one of: array",
        ),
        ({"properties": 3}, "properties: must be an object, not 3"),
        ({"required": "a"}, "required: must be a list, not text"),
    ],
    ids=["deep", "table", "list"],
)
def test_schemas_are_told_where_they_are_none(schema: dict[str, Any], problem: str) -> None:
    assert (schema_problem(schema) or "").startswith(f"is no JSON Schema: {problem}")
