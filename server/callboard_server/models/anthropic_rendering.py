"""Conversations as Anthropic's Messages API takes them.

A request grows at its end only: rendering a conversation and what was said after it begins with
what rendering the conversation alone gives, block by block. So the provider finds what it has
cached, and takes back its signed thinking, which is bound to all that stood before it.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from anthropic import transform_schema

from callboard.v1.message_pb2 import (
    ContentBlock,
    File,
    Image,
    Message,
    Role,
    StopReason,
    ToolCall,
    ToolResult,
)
from callboard_server.models.base import FailureKind, ModelError, ModelRequest, ToolDefinition
from callboard_server.models.history import (
    FAILED,
    GO_ON,
    UNANSWERED,
    late_result,
    mark_system,
    read_arguments,
    valid_name,
)
from callboard_server.models.prefix import Prefix

DEFAULT_MAX_TOKENS = 16_384
"""The longest answer where nobody says: the API wants a number, and every model allows this one."""

_PICTURES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_NOT_IN_IDS = re.compile(r"[^a-zA-Z0-9_-]")
_MAX_ID = 64
_MAX_TITLE = 500

Block = dict[str, Any]


@dataclass(frozen=True, slots=True)
class RenderedRequest:
    """A request to the Messages API."""

    parameters: dict[str, Any]
    digest: bytes
    """Of all that the answer's signed parts will be bound to."""
    holds_state: bool
    """Whether it brings back what the provider signed."""


def render(
    request: ModelRequest, model: str, account: str, *, with_state: bool = True
) -> RenderedRequest:
    """Renders a request.

    Args:
        request: What the model shall see.
        model: What the provider calls the model.
        account: Says whose key it is.
        with_state: Whether to bring back what the provider signed.

    Raises:
        ModelError: The request's output schema cannot be put as the provider wants it.
    """
    tools = [_tool(tool) for tool in request.tools]
    prefix = Prefix(account, model, request.system, tools)
    transcript = _Transcript(prefix, with_state=with_state)
    for message in request.messages:
        transcript.add(message)
    transcript.complete()
    parameters: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_output_tokens or DEFAULT_MAX_TOKENS,
        "messages": transcript.messages,
        "cache_control": {"type": "ephemeral"},
    }
    if request.system.strip():
        parameters["system"] = request.system
    if tools:
        parameters["tools"] = tools
    if output := _output(request):
        parameters["output_config"] = output
    return RenderedRequest(parameters, prefix.digest(), transcript.holds_state)


@dataclass(slots=True)
class _Call:
    """A tool call of the last answer."""

    original_id: str
    id: str
    """What the provider knows it by."""
    result: Block | None = None


class _Transcript:
    """The messages of a request, in the making.

    Wherever an answer stands, a request stood before it. So each answer begins with what makes a
    request of everything before it: results of all calls, and something that a user says.
    """

    def __init__(self, prefix: Prefix, *, with_state: bool) -> None:
        self.messages: list[Block] = []
        self.holds_state = False
        self._prefix = prefix
        self._with_state = with_state
        self._calls: list[_Call] = []
        self._said: list[Block] = []
        """What came from the user's side since the last answer, without results."""
        self._ids: set[str] = set()
        self._paused = False
        """Whether the last answer is one that the provider itself goes on with."""

    def add(self, message: Message) -> None:
        if message.role == Role.ROLE_ASSISTANT:
            self.complete()
            self._add_answer(message)
            return
        for block in message.content:
            if block.HasField("tool_result"):
                self._add_result(block.tool_result)
            else:
                self._said += _said_block(block, message.role)

    def complete(self) -> None:
        """Makes a request of what was said so far."""
        results = [call.result or _error_result(call.id, UNANSWERED) for call in self._calls]
        blocks = [*results, *self._said]
        self._calls, self._said = [], []
        if not blocks and not self._paused and self._last_role() != "user":
            blocks = [_text_block(GO_ON)]
        self._append("user", blocks)

    def _add_answer(self, message: Message) -> None:
        blocks = self._state(message)
        self._paused = blocks is not None and message.stop_reason == StopReason.STOP_REASON_PAUSE
        if blocks is None:
            blocks = list(self._plain(message.content))
        else:
            self.holds_state = True
            self._calls = [_Call(each, each) for each in _call_ids(blocks)]
        self._ids.update(_call_ids(blocks))
        self._append("assistant", blocks)

    def _state(self, message: Message) -> list[Block] | None:
        """Returns an answer as the provider gave it, where that is still bound to what it was."""
        state = message.provider_state
        if not (self._with_state and state.digest and state.digest == self._prefix.digest()):
            return None
        blocks: list[Block] = json.loads(state.blocks_json)
        return None if self._ids.intersection(_call_ids(blocks)) else blocks

    def _plain(self, content: Sequence[ContentBlock]) -> Iterator[Block]:
        for block in content:
            match block.WhichOneof("block"):
                case "text" if block.text.text.strip():
                    yield _text_block(block.text.text)
                case "tool_call":
                    yield self._call_block(block.tool_call)
                case "image" | "file":
                    # The API takes none from an assistant.
                    yield _text_block(_description(block))
                case _:
                    pass

    def _call_block(self, call: ToolCall) -> Block:
        call_id = self._new_id(call.tool_call_id)
        self._ids.add(call_id)
        self._calls.append(_Call(call.tool_call_id, call_id))
        # What is no JSON object, such as half of one, cannot be sent back.
        arguments = read_arguments(call.arguments_json) or {}
        name = valid_name(call.name)
        return {"type": "tool_use", "id": call_id, "name": name, "input": arguments}

    def _new_id(self, original: str) -> str:
        """Returns an id that the provider takes, and that no call before has."""
        base = _NOT_IN_IDS.sub("_", original) or "call"
        call_id, count = base[:_MAX_ID], 1
        while call_id in self._ids:
            count += 1
            call_id = f"{base[: _MAX_ID - 8]}_{count}"
        return call_id

    def _add_result(self, result: ToolResult) -> None:
        for call in self._calls:
            if call.original_id == result.tool_call_id and call.result is None:
                call.result = _result_block(call.id, result)
                return
        if result.text.strip():
            self._said.append(_text_block(late_result(result)))

    def _append(self, role: str, blocks: Sequence[Block]) -> None:
        if not blocks:
            return
        if self._last_role() != role:
            self.messages.append({"role": role, "content": []})
        self.messages[-1]["content"] += blocks
        for block in blocks:
            self._prefix.add([role, block])

    def _last_role(self) -> str:
        return self.messages[-1]["role"] if self.messages else ""


def _tool(tool: ToolDefinition) -> Block:
    schema = {"type": "object", **tool.parameters}
    described = {"description": tool.description} if tool.description else {}
    return {"name": tool.name, **described, "input_schema": schema}


def _output(request: ModelRequest) -> Block:
    output: Block = {"effort": request.effort} if request.effort else {}
    if request.output_schema is not None:
        try:
            schema = transform_schema(dict(request.output_schema))
        except (AssertionError, AttributeError, TypeError, ValueError):
            raise ModelError(
                FailureKind.INVALID_REQUEST,
                "The output schema cannot be used with Anthropic's API: every part of it needs "
                'one "type", or else "anyOf", "allOf", "enum" or "const".',
            ) from None
        output["format"] = {"type": "json_schema", "schema": schema}
    return output


def _said_block(block: ContentBlock, role: Role.ValueType) -> Iterator[Block]:
    match block.WhichOneof("block"):
        case "text" if block.text.text.strip():
            text = block.text.text
            if role == Role.ROLE_SYSTEM:
                text = mark_system(text)
            yield _text_block(text)
        case "image":
            yield _image_block(block)
        case "file":
            yield _file_block(block)
        case _:
            pass


def _image_block(block: ContentBlock) -> Block:
    source = _image_source(block.image)
    return {"type": "image", "source": source} if source else _text_block(_description(block))


def _image_source(image: Image | File) -> Block | None:
    if image.url:
        return {"type": "url", "url": image.url}
    if image.data and image.media_type in _PICTURES:
        return _base64_source(image.media_type, image.data)
    return None


def _file_block(block: ContentBlock) -> Block:
    file = block.file
    if file.media_type in _PICTURES and (picture := _image_source(file)):
        return {"type": "image", "source": picture}
    source = _document_source(file)
    if source is None:
        return _text_block(_description(block))
    title = {"title": file.name[:_MAX_TITLE]} if file.name else {}
    return {"type": "document", "source": source, **title}


def _document_source(file: File) -> Block | None:
    if file.media_type == "application/pdf":
        if file.url:
            return {"type": "url", "url": file.url}
        return _base64_source(file.media_type, file.data) if file.data else None
    try:
        text = file.data.decode()
    except UnicodeDecodeError:
        return None
    if not text.strip() or "\0" in text:
        return None
    return {"type": "text", "media_type": "text/plain", "data": text}


def _base64_source(media_type: str, data: bytes) -> Block:
    return {"type": "base64", "media_type": media_type, "data": base64.b64encode(data).decode()}


def _description(block: ContentBlock) -> str:
    """Says what is there instead of showing it."""
    kind = block.WhichOneof("block")
    content: Image | File = block.image if kind == "image" else block.file
    facts = [content.media_type, getattr(content, "name", ""), content.url]
    known = ", ".join(fact for fact in facts if fact)
    return f"[{kind}: {known}]" if known else f"[{kind}]"


def _result_block(call_id: str, result: ToolResult) -> Block:
    if result.is_error:
        return _error_result(call_id, result.text if result.text.strip() else FAILED)
    content = {"content": result.text} if result.text.strip() else {}
    return {"type": "tool_result", "tool_use_id": call_id, **content}


def _error_result(call_id: str, text: str) -> Block:
    return {"type": "tool_result", "tool_use_id": call_id, "content": text, "is_error": True}


def _text_block(text: str) -> Block:
    return {"type": "text", "text": text}


def _call_ids(blocks: Sequence[Block]) -> list[str]:
    return [block["id"] for block in blocks if block["type"] == "tool_use"]
