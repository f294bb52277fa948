"""Conversations for tests of models, and what models make of them."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text, ToolCall, ToolResult
from callboard_server.models.base import Answer, Model, ModelRequest, Piece


@dataclass(frozen=True)
class LookUp:
    """A tool."""

    name: str = "look_up"
    description: str = "Looks a word up."
    parameters: Mapping[str, Any] = field(
        default_factory=lambda: {
            "type": "object",
            "properties": {"word": {"type": "string"}},
            "required": ["word"],
        }
    )


def text(words: str) -> ContentBlock:
    return ContentBlock(text=Text(text=words))


def call(call_id: str, arguments: str = "{}", name: str = "look_up") -> ContentBlock:
    return ContentBlock(
        tool_call=ToolCall(tool_call_id=call_id, name=name, arguments_json=arguments)
    )


def user(*content: ContentBlock | str) -> Message:
    return message(Role.ROLE_USER, *content)


def system(*content: ContentBlock | str) -> Message:
    return message(Role.ROLE_SYSTEM, *content)


def assistant(*content: ContentBlock | str) -> Message:
    return message(Role.ROLE_ASSISTANT, *content)


def result(call_id: str, words: str = "found", *, is_error: bool = False) -> Message:
    outcome = ToolResult(tool_call_id=call_id, name="look_up", text=words, is_error=is_error)
    return message(Role.ROLE_TOOL, ContentBlock(tool_result=outcome))


def message(role: Role.ValueType, *content: ContentBlock | str) -> Message:
    blocks = [text(each) if isinstance(each, str) else each for each in content]
    return Message(role=role, content=blocks)


def asking(*messages: Message | str, **settings: Any) -> ModelRequest:
    """A request; a text is what a user says."""
    said = [user(each) if isinstance(each, str) else each for each in messages]
    return ModelRequest(**{"system": "", "messages": said, "tools": (), **settings})


def answered(answer: Answer) -> Message:
    """An answer as the log keeps it."""
    return Message(
        role=Role.ROLE_ASSISTANT,
        content=answer.content,
        provider_state=answer.provider_state,
        stop_reason=answer.stop_reason,
    )


async def converse(model: Model, request: ModelRequest) -> tuple[list[Piece], Answer]:
    """Asks, and returns what came."""
    async with aclosing(model.stream(request)) as stream:
        *pieces, answer = [item async for item in stream]
    assert isinstance(answer, Answer)
    return [piece for piece in pieces if not isinstance(piece, Answer)], answer


async def ask(model: Model, *messages: Message | str, **settings: Any) -> Answer:
    return (await converse(model, asking(*messages, **settings)))[1]


def joined(pieces: list[Piece]) -> list[str]:
    """The texts of the blocks that pieces are of."""
    texts: dict[int, str] = {}
    for piece in pieces:
        texts[piece.index] = texts.get(piece.index, "") + piece.text
    assert list(texts) == list(range(len(texts))), "blocks begin in order"
    return list(texts.values())


def shown(answer: Answer) -> list[tuple[str, ...]]:
    """The content of an answer, for comparison."""
    return [_shown(block) for block in answer.content]


def _shown(block: ContentBlock) -> tuple[str, ...]:
    match block.WhichOneof("block"):
        case "text":
            return ("text", block.text.text)
        case "thinking":
            return ("thinking", block.thinking.text)
        case kind:
            assert kind == "tool_call"
            return ("call", block.tool_call.name, block.tool_call.arguments_json)
