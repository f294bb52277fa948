"""The rules of Anthropic's Messages API for requests, as its documentation and its refusals say."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PARAMETERS = frozenset(
    """cache_control container diagnostics inference_geo max_tokens messages metadata model
    output_config service_tier speed stop_sequences stream system thinking tool_choice tools
    """.split()
)
_CALL_ID = re.compile(r"[a-zA-Z0-9_-]+", re.ASCII)
_TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}", re.ASCII)
_PICTURES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_EFFORTS = ("low", "medium", "high", "xhigh", "max")
_THINKING = ("thinking", "redacted_thinking")

_OF_USERS = ("text", "image", "document", "search_result", "tool_result")
_NOT_OF_ASSISTANTS = ("image", "document", "search_result", "tool_result")

Json = Mapping[str, Any]


def problems(body: Json, *, paused: bool = False) -> list[str]:
    """Returns what the API would refuse in a request; nothing if it takes it.

    Args:
        body: The request's body.
        paused: Whether it goes on with an answer that the provider paused. Other than that, most
            models take no request that ends with words of the assistant.
    """
    return list(_problems(body, paused))


def _problems(body: Json, paused: bool) -> Iterator[str]:
    try:
        json.dumps(body, allow_nan=False, ensure_ascii=False).encode()
    except ValueError as error:
        yield f"not JSON: {error}"
        return
    yield from (f"{name}: unknown parameter" for name in body if name not in _PARAMETERS)
    if not (isinstance(body.get("model"), str) and body["model"]):
        yield "model: missing"
    limit = body.get("max_tokens")
    if not isinstance(limit, int) or isinstance(limit, bool) or limit < 1:
        yield "max_tokens: must be a positive number"
    yield from _system_problems(body)
    yield from _tool_problems(body.get("tools", ()))
    yield from _output_problems(body.get("output_config", {}))
    messages = body.get("messages")
    if not (isinstance(messages, list) and messages):
        yield "messages: at least one is required"
        return
    blocks = [block for message in messages for block in _blocks(message)]
    if sum("cache_control" in part for part in (body, *body.get("tools", ()), *blocks)) > 4:
        yield "cache_control: at most four markers"
    yield from _message_problems(messages)
    yield from _turn_problems(_merged(messages), paused)


def _system_problems(body: Json) -> Iterator[str]:
    if "system" not in body:
        return
    system = body["system"]
    blocks = [{"type": "text", "text": system}] if isinstance(system, str) else system
    for place, block in enumerate(blocks):
        if block.get("type") != "text":
            yield f"system.{place}: must be text"
        else:
            yield from _text_problems(block, f"system.{place}")


def _tool_problems(tools: Sequence[Json]) -> Iterator[str]:
    names = [tool.get("name", "") for tool in tools]
    if len(set(names)) < len(names):
        yield "tools: names must be unique"
    for place, tool in enumerate(tools):
        if not _TOOL_NAME.fullmatch(names[place]):
            yield f"tools.{place}.name: does not match the pattern"
        if tool.get("input_schema", {}).get("type") != "object":
            yield f"tools.{place}.input_schema: must be of type object"
        if not isinstance(tool.get("description", ""), str):
            yield f"tools.{place}.description: must be text"


def _output_problems(output: Json) -> Iterator[str]:
    if output.get("effort", "low") not in _EFFORTS:
        yield f"output_config.effort: must be one of {', '.join(_EFFORTS)}"
    form = output.get("format")
    if form is None:
        return
    if form.get("type") != "json_schema" or not isinstance(form.get("schema"), dict):
        yield "output_config.format: must be a json_schema"
        return
    yield from _schema_problems(form["schema"])


def _schema_problems(schema: object) -> Iterator[str]:
    if isinstance(schema, Mapping):
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
            yield "output_config.format.schema: additionalProperties must be false in objects"
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else ():
        yield from _schema_problems(part)


def _message_problems(messages: Sequence[Json]) -> Iterator[str]:
    for place, message in enumerate(messages):
        path = f"messages.{place}"
        if message.get("role") not in ("user", "assistant"):
            yield f"{path}.role: must be user or assistant"
        if set(message) != {"role", "content"}:
            yield f"{path}: must have a role and content, and nothing else"
        blocks = _blocks(message)
        if not blocks:
            yield f"{path}: content must not be empty"
        for number, block in enumerate(blocks):
            yield from _block_problems(block, message.get("role"), f"{path}.content.{number}")
    if messages[0].get("role") != "user":
        yield "messages: the first must be of the user"


def _block_problems(block: Json, role: object, path: str) -> Iterator[str]:
    kind = block.get("type", "")
    if role == "user" and kind not in _OF_USERS:
        yield f"{path}: a user cannot have {kind or 'a block without a type'}"
    if role == "assistant" and kind in _NOT_OF_ASSISTANTS:
        yield f"{path}: an assistant cannot have {kind}"
    if check := _CHECKS.get(kind):
        yield from check(block, path)


def _text_problems(block: Json, path: str) -> Iterator[str]:
    if not isinstance(block.get("text"), str):
        yield f"{path}.text: missing"
    elif not block["text"].strip():
        yield f"{path}: text content blocks must contain non-whitespace text"


def _call_problems(block: Json, path: str) -> Iterator[str]:
    if not _CALL_ID.fullmatch(str(block.get("id", ""))):
        yield f"{path}.id: does not match the pattern"
    if not _TOOL_NAME.fullmatch(str(block.get("name", ""))):
        yield f"{path}.name: does not match the pattern"
    if not isinstance(block.get("input"), dict):
        yield f"{path}.input: must be an object"


def _result_problems(block: Json, path: str) -> Iterator[str]:
    content = block.get("content")
    if block.get("is_error") and not content:
        yield f"{path}: content cannot be empty if is_error is true"
    for number, part in enumerate(content if isinstance(content, list) else ()):
        yield from _block_problems(part, "user", f"{path}.content.{number}")


def _thinking_problems(block: Json, path: str) -> Iterator[str]:
    wanted = ("data",) if block["type"] == "redacted_thinking" else ("thinking", "signature")
    for key in wanted:
        if not isinstance(block.get(key), str):
            yield f"{path}.{key}: missing"


def _image_problems(block: Json, path: str) -> Iterator[str]:
    yield from _source_problems(block.get("source", {}), _PICTURES, f"{path}.source")


def _document_problems(block: Json, path: str) -> Iterator[str]:
    source = block.get("source", {})
    if source.get("type") == "text":
        if source.get("media_type") != "text/plain" or not source.get("data"):
            yield f"{path}.source: must be plain text"
    else:
        yield from _source_problems(source, ("application/pdf",), f"{path}.source")


def _source_problems(source: Json, media_types: Sequence[str], path: str) -> Iterator[str]:
    if source.get("type") == "url":
        if not str(source.get("url", "")).startswith(("https://", "http://")):
            yield f"{path}.url: must be an address"
    elif source.get("type") == "base64":
        if source.get("media_type") not in media_types:
            yield f"{path}.media_type: must be one of {', '.join(media_types)}"
        try:
            empty = not base64.b64decode(source.get("data", ""), validate=True)
        except binascii.Error:
            empty = True
        if empty:
            yield f"{path}.data: must be base64, and not empty"
    else:
        yield f"{path}.type: unknown"


_CHECKS = {
    "text": _text_problems,
    "tool_use": _call_problems,
    "tool_result": _result_problems,
    "thinking": _thinking_problems,
    "redacted_thinking": _thinking_problems,
    "image": _image_problems,
    "document": _document_problems,
}


def _turn_problems(turns: Sequence[tuple[str, list[Json]]], paused: bool) -> Iterator[str]:
    """Checks what holds between messages, once those of one role that follow each other are one."""
    calls = [block.get("id") for _, blocks in turns for block in _of(blocks, "tool_use")]
    if len(set(calls)) < len(calls):
        yield "tool_use ids must be unique"
    for place, (role, blocks) in enumerate(turns):
        if role == "assistant":
            following = turns[place + 1][1] if place + 1 < len(turns) else []
            yield from _unanswered(blocks, following, f"turn {place}")
            if blocks and blocks[-1].get("type") in _THINKING:
                yield f"turn {place}: the final block of an assistant cannot be thinking"
        else:
            before = turns[place - 1][1] if place else []
            yield from _misplaced(blocks, before, f"turn {place}")
    if turns and turns[-1][0] == "assistant" and not paused:
        yield "messages: the last must be of the user"


def _unanswered(blocks: Sequence[Json], following: Sequence[Json], path: str) -> Iterator[str]:
    results = {block.get("tool_use_id") for block in _of(following, "tool_result")}
    for call in _of(blocks, "tool_use"):
        if call.get("id") not in results:
            yield f"{path}: tool_use {call.get('id')} has no tool_result immediately after it"


def _misplaced(blocks: Sequence[Json], before: Sequence[Json], path: str) -> Iterator[str]:
    calls = [block.get("id") for block in _of(before, "tool_use")]
    results = [block.get("tool_use_id") for block in _of(blocks, "tool_result")]
    for result in results:
        if result not in calls:
            yield f"{path}: tool_result {result} has no tool_use in the message before"
    if len(set(results)) < len(results):
        yield f"{path}: each tool_use must have a single result"
    if any(block.get("type") != "tool_result" for block in blocks[: len(results)]):
        yield f"{path}: tool_result blocks must come first"


def _merged(messages: Sequence[Json]) -> list[tuple[str, list[Json]]]:
    turns: list[tuple[str, list[Json]]] = []
    for message in messages:
        role = str(message.get("role"))
        if not turns or turns[-1][0] != role:
            turns.append((role, []))
        turns[-1][1].extend(_blocks(message))
    return turns


def _blocks(message: Json) -> list[Json]:
    content = message.get("content", [])
    return [{"type": "text", "text": content}] if isinstance(content, str) else list(content)


def _of(blocks: Sequence[Json], kind: str) -> list[Json]:
    return [block for block in blocks if block.get("type") == kind]
