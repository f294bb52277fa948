"""The validator of Anthropic's requests: it takes what is right, and finds each fault."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from standins.anthropic_rules import problems

Body = dict[str, Any]

RIGHT: Body = {
    "model": "claude-test",
    "max_tokens": 100,
    "stream": True,
    "cache_control": {"type": "ephemeral"},
    "system": "Be brief.",
    "tools": [{"name": "look", "description": "Looks.", "input_schema": {"type": "object"}}],
    "output_config": {
        "effort": "low",
        "format": {
            "type": "json_schema",
            "schema": {"type": "object", "properties": {}, "additionalProperties": False},
        },
    },
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "Hello"},
                {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
                {
                    "type": "document",
                    "source": {"type": "text", "media_type": "text/plain", "data": "words"},
                },
            ],
        },
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "", "signature": "signed"},
                {"type": "text", "text": "I look."},
                {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}},
                {"type": "tool_use", "id": "toolu_2", "name": "look", "input": {}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1"},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": "no",
                    "is_error": True,
                },
                {"type": "text", "text": "And?"},
            ],
        },
    ],
}


def test_a_request_that_is_right() -> None:
    assert problems(RIGHT) == []


def test_messages_of_one_role_count_as_one() -> None:
    body = copy.deepcopy(RIGHT)
    first, *more = body["messages"][2]["content"]
    body["messages"][2:] = [{"role": "user", "content": [each]} for each in (first, *more)]
    assert problems(body) == []


def test_a_paused_answer_may_stand_last() -> None:
    paused = {"role": "assistant", "content": "Wait."}
    body = {**RIGHT, "messages": [{"role": "user", "content": "Hi"}, paused]}
    assert problems(body, paused=True) == []
    assert problems(body) == ["messages: the last must be of the user"]


def _question(body: Body) -> Any:
    return body["messages"][0]["content"]


def _answer(body: Body) -> Any:
    return body["messages"][1]["content"]


def _results(body: Body) -> Any:
    return body["messages"][2]["content"]


def _picture(media_type: str, data: str) -> Body:
    source = {"type": "base64", "media_type": media_type, "data": data}
    return {"type": "image", "source": source}


FAULTS: dict[str, tuple[Callable[[Body], object], str]] = {
    "parameter": (lambda body: body.update(temperature=1), "temperature: unknown"),
    "no model": (lambda body: body.pop("model"), "model: missing"),
    "no limit": (lambda body: body.update(max_tokens=0), "max_tokens"),
    "no messages": (lambda body: body.update(messages=[]), "messages: at least one"),
    "no json": (lambda body: body.update(metadata=float("nan")), "not JSON"),
    "half a character": (lambda body: body.update(system="\ud800"), "not JSON"),
    "blank system": (lambda body: body.update(system=" "), "system.0: text content"),
    "tool name": (lambda body: body["tools"][0].update(name="a b"), "tools.0.name"),
    "tool twice": (lambda body: body["tools"].append(body["tools"][0]), "names must be unique"),
    "tool schema": (lambda body: body["tools"][0].update(input_schema={}), "tools.0.input_schema"),
    "effort": (lambda body: body["output_config"].update(effort="heroic"), "effort"),
    "open schema": (
        lambda body: body["output_config"]["format"]["schema"].pop("additionalProperties"),
        "additionalProperties",
    ),
    "markers": (
        lambda body: [each.update(cache_control={}) for each in _question(body) + _results(body)],
        "at most four markers",
    ),
    "role": (lambda body: body["messages"][0].update(role="system"), "messages.0.role"),
    "extra key": (lambda body: body["messages"][0].update(name="Eva"), "nothing else"),
    "no content": (lambda body: body["messages"][0].update(content=[]), "must not be empty"),
    "assistant first": (lambda body: body["messages"].pop(0), "the first must be of the user"),
    "assistant last": (lambda body: body["messages"].pop(), "the last must be of the user"),
    "empty text": (lambda body: _question(body)[0].update(text=""), "non-whitespace"),
    "blank text": (lambda body: _answer(body)[1].update(text=" \n"), "non-whitespace"),
    "no text": (lambda body: _question(body)[0].pop("text"), "text: missing"),
    "user thinks": (lambda body: _question(body).append(_answer(body)[0]), "a user cannot have"),
    "user calls": (lambda body: _question(body).append(_answer(body)[2]), "a user cannot have"),
    "assistant draws": (
        lambda body: _answer(body).insert(0, _question(body)[1]),
        "an assistant cannot have image",
    ),
    "no signature": (lambda body: _answer(body)[0].pop("signature"), "signature: missing"),
    "thinks last": (
        lambda body: _answer(body).append(_answer(body)[0]),
        "final block of an assistant cannot be thinking",
    ),
    "call id": (lambda body: _answer(body)[2].update(id="a:1"), "id: does not match"),
    "call name": (lambda body: _answer(body)[2].update(name=""), "name: does not match"),
    "arguments": (lambda body: _answer(body)[2].update(input=[]), "input: must be an object"),
    "same call": (lambda body: _answer(body)[3].update(id="toolu_1"), "ids must be unique"),
    "no result": (lambda body: _results(body).pop(0), "toolu_1 has no tool_result"),
    "two results": (lambda body: _results(body).insert(0, _results(body)[0]), "a single result"),
    "late result": (
        lambda body: _results(body).append(_results(body).pop(0)),
        "tool_result blocks must come first",
    ),
    "later result": (
        lambda body: body["messages"].extend(
            [
                {"role": "assistant", "content": "Hm."},
                {"role": "user", "content": [_results(body).pop(0)]},
            ]
        ),
        "tool_result toolu_1 has no tool_use",
    ),
    "silent error": (lambda body: _results(body)[1].pop("content"), "cannot be empty if is_error"),
    "text in result": (
        lambda body: _results(body)[0].update(content=[{"type": "text", "text": ""}]),
        "non-whitespace",
    ),
    "picture": (lambda body: _question(body).append(_picture("image/tiff", "AAAA")), "media_type"),
    "no picture": (lambda body: _question(body).append(_picture("image/png", "")), "base64"),
    "no base64": (lambda body: _question(body).append(_picture("image/png", "?")), "base64"),
    "address": (lambda body: _question(body)[1]["source"].update(url="file:///a"), "address"),
    "source": (lambda body: _question(body)[1]["source"].update(type="x"), "type: unknown"),
    "document": (
        lambda body: _question(body)[2]["source"].update(media_type="text/html"),
        "must be plain text",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_found(fault: str) -> None:
    spoil, expected = FAULTS[fault]
    body = copy.deepcopy(RIGHT)
    spoil(body)
    assert any(expected in problem for problem in problems(body)), problems(body)
