"""The rules of OpenAI's APIs find what is wrong, each by itself."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest

from standins.openai_rules import chat_problems, responses_problems

Body = dict[str, Any]

SEEN = "data:image/png;base64,cG5n"
PARAMETERS = {"type": "object", "properties": {}}

RESPONSES: Body = {
    "model": "gpt-test",
    "store": False,
    "stream": True,
    "instructions": "Be brief.",
    "input": [
        {"role": "user", "content": [{"type": "input_text", "text": "Hi"}]},
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"},
        {"type": "function_call", "id": "fc_1", "call_id": "a", "name": "f", "arguments": "{}"},
        {"type": "function_call", "id": "fc_2", "call_id": "b", "name": "f", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "b", "output": "found"},
        {"type": "function_call_output", "call_id": "a", "output": "found"},
        {"role": "assistant", "content": "There."},
        {"role": "user", "content": [{"type": "input_image", "detail": "auto", "image_url": SEEN}]},
    ],
    "tools": [{"type": "function", "name": "f", "parameters": PARAMETERS, "strict": False}],
}

CHAT: Body = {
    "model": "gpt-test",
    "stream": True,
    "messages": [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi"},
        {
            "role": "assistant",
            "tool_calls": [
                {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
                {"id": "b", "type": "function", "function": {"name": "f", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "b", "content": "found"},
        {"role": "tool", "tool_call_id": "a", "content": "found"},
        {"role": "assistant", "content": "There."},
        {"role": "user", "content": [{"type": "image_url", "image_url": {"url": SEEN}}]},
    ],
    "tools": [{"type": "function", "function": {"name": "f", "parameters": PARAMETERS}}],
}


def put(*path: str | int, value: object) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        target: Any = body
        for step in path[:-1]:
            target = target[step]
        target[path[-1]] = value

    return change


def drop(*path: str | int) -> Callable[[Body], None]:
    def change(body: Body) -> None:
        target: Any = body
        for step in path[:-1]:
            target = target[step]
        del target[path[-1]]

    return change


def move(name: str, start: int, end: int) -> Callable[[Body], None]:
    return lambda body: body[name].insert(end, body[name].pop(start))


def again(name: str, at: int) -> Callable[[Body], None]:
    return lambda body: body[name].insert(at, deepcopy(body[name][at]))


COMMON: list[tuple[str, Callable[[Body], None]]] = [
    ("there is no model", drop("model")),
    ("temprature is no parameter", put("temprature", value=1)),
    ("tools is null", put("tools", value=None)),
    ("tools is empty", put("tools", value=[])),
    ("cannot be the name of a tool, or not of one", again("tools", 0)),
    ("a tool is no function", put("tools", 0, "type", value="search")),
]

RESPONSES_FAULTS: list[tuple[str, Callable[[Body], None]]] = [
    ("the input is empty", put("input", value=[])),
    ("'a b' cannot be the name", put("tools", 0, "name", value="a b")),
    ("are no object", put("tools", 0, "parameters", value={})),
    ("have no properties", drop("tools", 0, "parameters", "properties")),
    ("is strict", drop("tools", 0, "strict")),
    ("a format has no name", put("text", value={"format": {"type": "json_schema"}})),
    ("is no role", put("input", 0, "role", value="tool")),
    ("is not known", put("input", 0, "type", value="massage")),
    ("the content is empty", put("input", 0, "content", value=[])),
    ("the content is empty", put("input", 6, "content", value="")),
    ("text is empty", put("input", 0, "content", 0, "text", value="")),
    ("output_text is no part", put("input", 0, "content", 0, "type", value="output_text")),
    ("detail is empty", drop("input", 7, "content", 0, "detail")),
    ("image_url is no address", put("input", 7, "content", 0, "image_url", value="a.png")),
    ("need an id", put("input", 6, "content", value=[{"type": "output_text", "text": "Hi"}])),
    ("two items have the same id", put("input", 3, "id", value="fc_1")),
    ("two calls have the id", put("input", 3, "call_id", value="a")),
    ("cannot be the id", put("input", 3, "call_id", value="")),
    ("cannot be the name", put("input", 3, "name", value="")),
    ("are no JSON object", put("input", 3, "arguments", value="")),
    ("are no JSON object", put("input", 3, "arguments", value="[]")),
    ("a has no result", drop("input", 5)),
    ("a has no result", move("input", 5, 7)),
    ("which is not open", move("input", 5, 1)),
    ("which is not open", again("input", 5)),
    ("which is not open", drop("input", 2)),
    ("the result of a is empty", put("input", 5, "output", value="")),
    ("nowhere kept", drop("input", 1, "encrypted_content")),
    ("without id or summary", drop("input", 1, "summary")),
    ("without the item that followed", move("input", 1, 7)),
    ("without the item that followed", move("input", 1, 6)),
]

CHAT_FAULTS: list[tuple[str, Callable[[Body], None]]] = [
    ("there are no messages", put("messages", value=[])),
    ("there are no messages", drop("messages")),
    ("nothing is left to answer", drop("messages", 6)),
    ("'a b' cannot be the name", put("tools", 0, "function", "name", value="a b")),
    ("have no properties", drop("tools", 0, "function", "parameters", "properties")),
    ("a format has no name", put("response_format", value={"json_schema": {"name": ""}})),
    ("is no role", put("messages", 1, "role", value="human")),
    ("the content is empty", put("messages", 1, "content", value="")),
    ("the content is empty", put("messages", 2, "content", value="")),
    ("the content is empty", drop("messages", 2, "tool_calls")),
    ("tool_calls is empty", put("messages", 5, "tool_calls", value=[])),
    ("input_text is no part", put("messages", 6, "content", 0, "type", value="input_text")),
    (
        "image_url.url is no address",
        put("messages", 6, "content", 0, "image_url", "url", value="a"),
    ),
    ("a call is no function", drop("messages", 2, "tool_calls", 0, "type")),
    ("two calls have the id", put("messages", 2, "tool_calls", 1, "id", value="a")),
    ("are no JSON", put("messages", 2, "tool_calls", 0, "function", "arguments", value="{")),
    ("a has no result", drop("messages", 4)),
    ("a has no result", move("messages", 4, 5)),
    ("which is not open", move("messages", 4, 6)),
    ("which is not open", again("messages", 4)),
    ("which is not open", drop("messages", 2)),
    ("the result of a is empty", put("messages", 4, "content", value="")),
]


def test_nothing_is_wrong_with_what_is_right() -> None:
    assert responses_problems(RESPONSES) == []
    assert chat_problems(CHAT) == []


@pytest.mark.parametrize(("problem", "change"), COMMON + RESPONSES_FAULTS)
def test_faults_of_responses(problem: str, change: Callable[[Body], None]) -> None:
    body = deepcopy(RESPONSES)
    change(body)
    assert any(problem in found for found in responses_problems(body)), responses_problems(body)


@pytest.mark.parametrize(("problem", "change"), COMMON + CHAT_FAULTS)
def test_faults_of_chat_completions(problem: str, change: Callable[[Body], None]) -> None:
    body = deepcopy(CHAT)
    change(body)
    assert any(problem in found for found in chat_problems(body)), chat_problems(body)
