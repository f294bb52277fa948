"""Models behind OpenAI's Responses API.

Nothing is kept at the provider: each request holds the whole conversation. What the model thought
comes back sealed, and goes out again with its answer where everything before it is the same.
"""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from openai import AsyncOpenAI

from callboard.v1.message_pb2 import (
    ContentBlock,
    ProviderState,
    Role,
    StopReason,
    Usage,
)
from callboard_server.models.base import Answer, FailureKind, ModelRequest, Piece, ToolDefinition
from callboard_server.models.failures import failure
from callboard_server.models.history import call_ids, mark_system
from callboard_server.models.openai_client import is_compatible, read_usage, stream_answer
from callboard_server.models.openai_draft import Draft, Kind, write_arguments
from callboard_server.models.openai_failures import describe_report
from callboard_server.models.openai_turns import (
    Call,
    Turn,
    address,
    inline,
    object_schema,
    read_turns,
)
from callboard_server.models.prefix import Prefix

Item = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Rendered:
    """A request as it is sent."""

    parameters: dict[str, Any]
    digest: bytes
    """Of all that an answer to it is bound to."""


def render_request(
    request: ModelRequest, model: str, account: str, *, compatible: bool
) -> Rendered:
    """Renders a request.

    Args:
        request: What to ask.
        model: The provider's id of the model.
        account: A digest of the key.
        compatible: Whether the server is another than OpenAI's, and may refuse what is special.
    """
    tools = [_tool(tool) for tool in request.tools]
    prefix = Prefix(account, model, request.system, tools)
    items: list[Item] = []
    for turn in read_turns(request.messages):
        for item in _items(turn, prefix.digest(), compatible=compatible):
            items.append(item)
            prefix.add(item)
    parameters = {
        "model": model,
        "input": items,
        "store": False,
        "include": ["reasoning.encrypted_content"],
        **_settings(request),
    }
    if tools:
        parameters["tools"] = tools
    if request.cache_key and not compatible:
        parameters["prompt_cache_key"] = request.cache_key
    return Rendered(parameters, prefix.digest())


class ResponsesModel:
    """A model of OpenAI, or of a server that has the Responses API.

    Args:
        name: What its messages say they were written by.
        model: The provider's id of the model.
        client: Where the model is.
        account: A digest of the key.
    """

    def __init__(self, name: str, model: str, client: AsyncOpenAI, account: str) -> None:
        self.name = name
        self._model = model
        self._client = client
        self._account = account

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        rendered = render_request(
            request, self._model, self._account, compatible=is_compatible(self._client)
        )
        reader = _Reader(self.name, Draft(call_ids(request.messages)), rendered.digest)
        return stream_answer(self._client, "/responses", rendered.parameters, reader, self.name)


class _Reader:
    """Makes an answer of the events of a response.

    An item counts as it is when it is done; what came of it before only shows its growth.
    """

    def __init__(self, name: str, draft: Draft, digest: bytes) -> None:
        self._name = name
        self._draft = draft
        self._digest = digest
        self._items: dict[int, Item] = {}
        self._refused = False
        self._final: Mapping[str, Any] | None = None
        self._completed = False

    @property
    def is_whole(self) -> bool:
        return self._final is not None

    def read(self, event: Mapping[str, Any]) -> Iterator[Piece]:
        match event:
            case {"type": str(kind), "output_index": int(at), "item": dict(item)}:
                if kind == "response.output_item.done":
                    yield from self._take(at, item)
                elif item.get("type") == "function_call":
                    self._draft.call(at, item.get("name"), item.get("call_id"))
            case {"type": "response.completed", "response": dict(response)}:
                self._completed = True
                yield from self._end(response)
            case {"type": "response.incomplete", "response": dict(response)}:
                yield from self._end(response)
            case {"type": "response.failed", "response": dict(response)}:
                report, usage = response.get("error"), _usage(response.get("usage"))
                raise describe_report(report if isinstance(report, dict) else {}, self._name, usage)
            case {"type": "error"}:
                raise describe_report(event, self._name)
            case {"type": str(kind), "output_index": int(at), "delta": str(delta)}:
                yield from self._grow(kind, at, event, delta)

    def answer(self) -> Answer:
        if self._final is None:
            raise failure(FailureKind.BROKEN_OFF, self._name)
        usage = _usage(self._final.get("usage"))
        stop_reason = self._stop_reason(self._final)
        if stop_reason == StopReason.STOP_REASON_TOOL_USE and not self._draft.is_callable:
            raise failure(FailureKind.BROKEN_OFF, self._name, usage=usage)
        content = self._draft.content()
        return Answer(content, usage, stop_reason, self._state(content))

    def _grow(self, kind: str, at: int, event: Mapping[str, Any], delta: str) -> Iterator[Piece]:
        match kind:
            case "response.output_text.delta" | "response.refusal.delta":
                self._refused |= kind == "response.refusal.delta"
                key = (at, "content", _number(event, "content_index"))
                yield from self._draft.add(key, Kind.TEXT, delta)
            case "response.reasoning_text.delta":
                key = (at, "content", _number(event, "content_index"))
                yield from self._draft.add(key, Kind.THINKING, delta)
            case "response.reasoning_summary_text.delta":
                key = (at, "summary", _number(event, "summary_index"))
                yield from self._draft.add(key, Kind.THINKING, delta)
            case "response.function_call_arguments.delta":
                yield from self._draft.add(at, Kind.CALL, delta)

    def _take(self, at: int, item: Item) -> Iterator[Piece]:
        """Takes an item that is done."""
        self._items[at] = item
        match item:
            case {"type": "function_call"}:
                self._draft.call(at, item.get("name"), item.get("call_id"))
                arguments = write_arguments(item.get("arguments"))
                yield from self._draft.settle(at, Kind.CALL, arguments)
            case {"type": "message" | "reasoning"}:
                for field in ("summary", "content"):
                    for number, part in enumerate(_list(item, field)):
                        yield from self._take_part(part, (at, field, number))

    def _take_part(self, part: object, key: tuple[int, str, int]) -> Iterator[Piece]:
        match part:
            case {"type": "output_text", "text": str(text)}:
                yield from self._draft.settle(key, Kind.TEXT, text)
            case {"type": "refusal", "refusal": str(text)}:
                self._refused = True
                yield from self._draft.settle(key, Kind.TEXT, text)
            case {"type": "summary_text" | "reasoning_text", "text": str(text)}:
                yield from self._draft.settle(key, Kind.THINKING, text)

    def _end(self, response: Mapping[str, Any]) -> Iterator[Piece]:
        self._final = response
        # Some servers stream no items that are done, and others leave them out here.
        for at, item in enumerate(_list(response, "output")):
            if at not in self._items and isinstance(item, dict):
                yield from self._take(at, item)

    def _stop_reason(self, response: Mapping[str, Any]) -> StopReason.ValueType:
        if self._refused:
            return StopReason.STOP_REASON_REFUSAL
        if not self._completed:
            match response.get("incomplete_details"):
                case {"reason": "content_filter"}:
                    return StopReason.STOP_REASON_REFUSAL
            return StopReason.STOP_REASON_MAX_TOKENS
        if self._draft.calls:
            return StopReason.STOP_REASON_TOOL_USE
        return StopReason.STOP_REASON_END_TURN

    def _state(self, content: Sequence[ContentBlock]) -> ProviderState | None:
        """Returns the items, where they hold more than the content and may go back as they are."""
        items = [self._items[at] for at in sorted(self._items)]
        # An id or arguments that would not do here were replaced in the content.
        calls = [(i.get("call_id"), i.get("arguments")) for i in items if _is(i, "function_call")]
        is_same = calls == [
            (block.tool_call.tool_call_id, block.tool_call.arguments_json)
            for block in content
            if block.HasField("tool_call")
        ]
        holds_more = any(_is(item, "reasoning") or item.get("phase") for item in items)
        if not (self._completed and holds_more and is_same and _is_sealed(items)):
            return None
        return ProviderState(digest=self._digest, blocks_json=json.dumps(items).encode())


def _number(event: Mapping[str, Any], name: str) -> int:
    number = event.get(name)
    return number if isinstance(number, int) else 0


def _list(source: Mapping[str, Any], name: str) -> list[Any]:
    found = source.get(name)
    return found if isinstance(found, list) else []


def _is(item: Item, kind: str) -> bool:
    return item.get("type") == kind


def _is_sealed(items: Sequence[Item]) -> bool:
    """Whether the server takes the items back: it keeps none, and no thought stands alone."""
    thoughts = [item for item in items if _is(item, "reasoning")]
    held = all(item.get("encrypted_content") or item.get("content") for item in thoughts)
    return held and not _is(items[-1], "reasoning")


def _settings(request: ModelRequest) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    if request.system.strip():
        settings["instructions"] = request.system
    if request.effort:
        # A model that has no effort refuses the whole parameter.
        settings["reasoning"] = {"effort": request.effort, "summary": "auto"}
    if request.max_output_tokens is not None:
        settings["max_output_tokens"] = request.max_output_tokens
    if request.output_schema is not None:
        settings["text"] = {
            "format": {
                "type": "json_schema",
                "name": "answer",
                "schema": dict(request.output_schema),
                # Strict ones must leave out much of JSON Schema.
                "strict": False,
            }
        }
    return settings


def _tool(tool: ToolDefinition) -> dict[str, Any]:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": object_schema(tool.parameters),
        "strict": False,
    }


def _items(turn: Turn, digest: bytes, *, compatible: bool) -> Iterator[Item]:
    if not turn.is_own:
        yield from _foreign(turn, compatible=compatible)
        return
    if turn.state.blocks_json and turn.state.digest == digest:
        yield from json.loads(turn.state.blocks_json)
    else:
        for text in turn.texts:
            yield {"type": "message", "role": "assistant", "content": text}
        yield from (_call(call) for call in turn.calls)
    for call in turn.calls:
        yield {"type": "function_call_output", "call_id": call.call_id, "output": call.output}


def _call(call: Call) -> Item:
    return {
        "type": "function_call",
        "call_id": call.call_id,
        "name": call.name,
        "arguments": call.arguments,
    }


def _foreign(turn: Turn, *, compatible: bool) -> Iterator[Item]:
    """Renders what others than the assistant say."""
    if turn.content:
        is_system = turn.role == Role.ROLE_SYSTEM
        parts = [_part(block, marked=is_system and compatible) for block in turn.content]
        role = "system" if is_system and not compatible else "user"
        yield {"type": "message", "role": role, "content": parts}


def _part(block: ContentBlock, *, marked: bool) -> dict[str, Any]:
    match block.WhichOneof("block"):
        case "text":
            text = block.text.text
            return {"type": "input_text", "text": mark_system(text) if marked else text}
        case "image":
            return {"type": "input_image", "detail": "auto", "image_url": address(block.image)}
    file = block.file
    if (text_file := inline(file)) is not None:
        return {"type": "input_text", "text": text_file}
    if file.url:
        return {"type": "input_file", "file_url": file.url}
    return {"type": "input_file", "filename": file.name or "file", "file_data": address(file)}


def _usage(usage: object) -> Usage:
    return read_usage(usage, "input_tokens", "output_tokens")
