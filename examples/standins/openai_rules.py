"""What OpenAI's APIs and the servers that speak as they do demand of a request.

Each rule finds what would be refused, by OpenAI or by a server that takes less: the descriptions of
the parameters in OpenAI's SDK, its errors, and the templates of open models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from openai.types.chat import completion_create_params
from openai.types.responses import response_create_params

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
_ADDRESS = re.compile(r"https?://.+|data:[\w.+-]+/[\w.+-]+;base64,[A-Za-z0-9+/]+=*")

_RESPONSES_PARAMETERS = {
    "stream",
    *response_create_params.ResponseCreateParamsBase.__annotations__,
}
_CHAT_PARAMETERS = {
    "stream",
    *completion_create_params.CompletionCreateParamsBase.__annotations__,
}


def responses_problems(body: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with a request to the Responses API; nothing if it is right."""
    return [
        *_common_problems(body, _RESPONSES_PARAMETERS),
        *_tool_problems(body, body.get("tools") or (), strict_is_default=True),
        *_format_problems(body.get("text", {}).get("format")),
        *_input_problems(body),
    ]


def chat_problems(body: Mapping[str, Any]) -> list[str]:
    """Returns what is wrong with a request to Chat Completions; nothing if it is right."""
    functions = [tool.get("function", {}) for tool in body.get("tools") or ()]
    response_format = body.get("response_format")
    return [
        *_common_problems(body, _CHAT_PARAMETERS),
        *_tool_problems(body, functions),
        *_format_problems(response_format and response_format.get("json_schema")),
        *_messages_problems(body.get("messages")),
    ]


def _common_problems(body: Mapping[str, Any], known: set[str]) -> Iterator[str]:
    if not body.get("model"):
        yield "there is no model"
    if len(body.get("prompt_cache_key", "")) > 64:
        yield "prompt_cache_key: has more than 64 characters"
    for name in body.keys() - known:
        yield f"{name} is no parameter"
    for name, value in body.items():
        if value is None:
            yield f"{name} is null"


def _tool_problems(
    body: Mapping[str, Any],
    functions: Sequence[Mapping[str, Any]],
    *,
    strict_is_default: bool = False,
) -> Iterator[str]:
    if body.get("tools") == []:
        yield "tools is empty"
    names = [function.get("name") for function in functions]
    for name, function in zip(names, functions, strict=True):
        if not _is_name(name) or names.count(name) > 1:
            yield f"{name!r} cannot be the name of a tool, or not of one only"
        parameters = function.get("parameters")
        if not isinstance(parameters, dict) or parameters.get("type") != "object":
            yield f"the parameters of {name} are no object"
        elif not isinstance(parameters.get("properties"), dict):
            yield f"the parameters of {name} have no properties"
        if function.get("strict", strict_is_default):
            yield f"{name} is strict, and its schema may not be"
    if any(tool.get("type") != "function" for tool in body.get("tools") or ()):
        yield "a tool is no function"


def _format_problems(schema: Mapping[str, Any] | None) -> Iterator[str]:
    if schema is not None and not (_is_name(schema.get("name")) and schema.get("schema")):
        yield "a format has no name or no schema"


def _input_problems(body: Mapping[str, Any]) -> Iterator[str]:
    items = body.get("input")
    if items and isinstance(items, str):
        return
    if not isinstance(items, list) or not items:
        yield "the input is empty"
        return
    ids = [item["id"] for item in items if item.get("id")]
    if len(ids) > len(set(ids)):
        yield "two items have the same id"
    calls = _Calls()
    for position, item in enumerate(items):
        match item.get("type", "message"):
            case "message":
                if item.get("role") != "assistant":
                    yield from calls.left_open(position)
                yield from _item_problems(position, item)
            case "function_call":
                yield from calls.opened(position, item.get("call_id"), item)
            case "function_call_output":
                yield from calls.answered(position, item.get("call_id"), item.get("output"))
            case "reasoning":
                following = items[position + 1 :]
                yield from _reasoning_problems(position, item, following, body.get("store", True))
            case kind:
                yield f"item {position}: {kind} is not known here"
    yield from calls.left_open(len(items))


def _item_problems(position: int, item: Mapping[str, Any]) -> Iterator[str]:
    role, content = item.get("role"), item.get("content")
    if role not in ("user", "system", "developer", "assistant"):
        yield f"item {position}: {role!r} is no role"
    if isinstance(content, list) and role == "assistant" and not item.get("id"):
        yield f"item {position}: parts of an assistant need an id"
    yield from _content_problems(f"item {position}", content, _PARTS.get(str(role), {}))


def _reasoning_problems(
    position: int, item: Mapping[str, Any], following: Sequence[Mapping[str, Any]], stored: bool
) -> Iterator[str]:
    if not item.get("id") or not isinstance(item.get("summary"), list):
        yield f"item {position}: reasoning without id or summary"
    if not stored and not (item.get("encrypted_content") or item.get("content")):
        yield f"item {position}: reasoning that is nowhere kept"
    kinds = [each.get("type", "message") for each in following]
    answer = next((at for at, kind in enumerate(kinds) if kind != "reasoning"), None)
    if answer is None or not _is_output(following[answer]):
        yield f"item {position}: reasoning without the item that followed it"


def _is_output(item: Mapping[str, Any]) -> bool:
    return item.get("role") == "assistant" or item.get("type") == "function_call"


def _messages_problems(messages: object) -> Iterator[str]:
    if not isinstance(messages, list) or not messages:
        yield "there are no messages"
        return
    calls = _Calls()
    for position, message in enumerate(messages):
        role, content = message.get("role"), message.get("content")
        where = f"message {position}"
        if role == "tool":
            yield from calls.answered(position, message.get("tool_call_id"), content)
            continue
        yield from calls.left_open(position)
        if role not in ("system", "developer", "user", "assistant"):
            yield f"{where}: {role!r} is no role"
        if role != "assistant" or not message.get("tool_calls") or "content" in message:
            yield from _content_problems(where, content, _CHAT_PARTS.get(str(role), {}))
        if message.get("tool_calls") == []:
            yield f"{where}: tool_calls is empty"
        for call in message.get("tool_calls", ()):
            if call.get("type") != "function":
                yield f"{where}: a call is no function"
            yield from calls.opened(position, call.get("id"), call.get("function", {}))
    yield from calls.left_open(len(messages))
    if messages[-1].get("role") == "assistant":
        yield "nothing is left to answer"


class _Calls:
    """The tool calls of a conversation: which are there, and which have no result yet."""

    def __init__(self) -> None:
        self._known: set[object] = set()
        self._open: set[object] = set()

    def opened(self, position: int, call_id: object, call: Mapping[str, Any]) -> Iterator[str]:
        if not _is_name(call_id):
            yield f"{position}: {call_id!r} cannot be the id of a call"
        if call_id in self._known:
            yield f"{position}: two calls have the id {call_id}"
        if not _is_name(call.get("name")):
            yield f"{position}: {call.get('name')!r} cannot be the name of a tool"
        if not _is_object(call.get("arguments")):
            yield f"{position}: the arguments of {call_id} are no JSON object"
        self._known.add(call_id)
        self._open.add(call_id)

    def answered(self, position: int, call_id: object, output: object) -> Iterator[str]:
        if call_id not in self._open:
            yield f"{position}: a result of {call_id}, which is not open"
        if not isinstance(output, str) or not output:
            yield f"{position}: the result of {call_id} is empty"
        self._open.discard(call_id)

    def left_open(self, position: int) -> Iterator[str]:
        for call_id in sorted(map(str, self._open)):
            yield f"{position}: {call_id} has no result before it"
        self._open.clear()


_Parts = Mapping[str, Mapping[str, re.Pattern[str] | None]]

# The fields that a part must have, by the part's type, and what they must look like.
_INPUT: _Parts = {
    "input_text": {"text": None},
    "input_image": {"image_url": _ADDRESS, "detail": None},
    "input_file": {"file_url": _ADDRESS},
    "input_file with data": {"file_data": _ADDRESS, "filename": None},
}
_PARTS: Mapping[str, _Parts] = {
    "user": _INPUT,
    "system": _INPUT,
    "developer": _INPUT,
    "assistant": {"output_text": {"text": None}, "refusal": {"refusal": None}},
}
_CHAT_PARTS: Mapping[str, _Parts] = {
    "user": {
        "text": {"text": None},
        "image_url": {"image_url.url": _ADDRESS},
        "file": {"file.file_data": _ADDRESS, "file.filename": None},
    },
    "system": {"text": {"text": None}},
    "developer": {"text": {"text": None}},
    "assistant": {"text": {"text": None}, "refusal": {"refusal": None}},
}


def _content_problems(where: str, content: object, allowed: _Parts) -> Iterator[str]:
    if not isinstance(content, str | list) or not content:
        yield f"{where}: the content is empty"
    elif isinstance(content, list):
        for part in content:
            kind = part.get("type")
            if kind == "input_file" and "file_data" in part:
                kind = "input_file with data"
            if kind not in allowed:
                yield f"{where}: {kind} is no part of it"
                continue
            for path, pattern in allowed[kind].items():
                value = _look_up(part, path)
                if not isinstance(value, str) or not value:
                    yield f"{where}: {path} is empty"
                elif pattern is not None and not pattern.fullmatch(value):
                    yield f"{where}: {path} is no address"


def _look_up(part: Mapping[str, Any], path: str) -> object:
    value: object = part
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return value


def _is_name(value: object) -> bool:
    return isinstance(value, str) and _NAME.fullmatch(value) is not None


def _is_object(arguments: object) -> bool:
    try:
        return isinstance(arguments, str) and isinstance(json.loads(arguments), dict)
    except ValueError:
        return False
