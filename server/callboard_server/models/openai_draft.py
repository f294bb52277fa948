"""An answer in the making, block by block, in the order in which its blocks begin."""

from __future__ import annotations

import json
from collections.abc import Container, Hashable, Iterator
from dataclasses import dataclass
from enum import Enum
from uuid import uuid4

from callboard.v1.message_pb2 import ContentBlock, Text, Thinking, ToolCall
from callboard_server.models.base import Piece, TextPiece, ThinkingPiece, ToolArgumentsPiece
from callboard_server.models.openai_turns import is_call_id, is_object


class Kind(Enum):
    """What a block holds, by what it comes in."""

    TEXT = TextPiece
    THINKING = ThinkingPiece
    CALL = ToolArgumentsPiece


@dataclass(slots=True)
class _Block:
    kind: Kind
    index: int
    text: str = ""
    name: str = ""
    call_id: str = ""

    @property
    def arguments(self) -> str:
        """A call's arguments: some servers write nothing where there are none."""
        return self.text if self.text.strip() else "{}"

    def render(self) -> ContentBlock:
        match self.kind:
            case Kind.TEXT:
                return ContentBlock(text=Text(text=self.text))
            case Kind.THINKING:
                return ContentBlock(thinking=Thinking(text=self.text))
            case Kind.CALL:
                call = ToolCall(
                    tool_call_id=self.call_id or f"call_{uuid4().hex}",
                    name=self.name,
                    arguments_json=self.arguments,
                )
                return ContentBlock(tool_call=call)


class Draft:
    """Collects what a stream brings.

    Its caller tells blocks apart by keys of its own.

    Args:
        taken: Ids that tool calls may not have, since others in the conversation have them.
    """

    def __init__(self, taken: Container[str] = ()) -> None:
        self._taken = taken
        self._blocks: dict[Hashable, _Block] = {}

    def add(self, key: Hashable, kind: Kind, text: str) -> Iterator[Piece]:
        """Adds to a block, which begins with its first text."""
        if text := _mend(text):
            block = self._block(key, kind)
            block.text += text
            yield kind.value(block.index, text)

    def settle(self, key: Hashable, kind: Kind, text: str) -> Iterator[Piece]:
        """Takes the whole text of a block, part of which may have come already."""
        text = _mend(text)
        block = self._blocks.get(key)
        streamed = block.text if block else ""
        if text.startswith(streamed):
            yield from self.add(key, kind, text[len(streamed) :])
        elif block and text:
            block.text = text

    def call(self, key: Hashable, name: object, call_id: object) -> None:
        """Begins a tool call, or says more about it: the first name and the first id hold."""
        block = self._block(key, Kind.CALL)
        if not block.name and isinstance(name, str):
            block.name = _mend(name)
        if not block.call_id and isinstance(call_id, str) and self._is_free(call_id):
            block.call_id = call_id

    def content(self) -> list[ContentBlock]:
        """Returns the blocks, without calls that were cut off before their name."""
        blocks = self._blocks.values()
        return [block.render() for block in blocks if block.name or block.kind is not Kind.CALL]

    @property
    def calls(self) -> list[_Block]:
        return [block for block in self._blocks.values() if block.kind is Kind.CALL]

    @property
    def is_callable(self) -> bool:
        """Whether every call has a name, and arguments that are a whole object."""
        return all(call.name and is_object(call.arguments) for call in self.calls)

    def _block(self, key: Hashable, kind: Kind) -> _Block:
        return self._blocks.setdefault(key, _Block(kind, len(self._blocks)))

    def _is_free(self, call_id: str) -> bool:
        taken = call_id in self._taken or any(call.call_id == call_id for call in self.calls)
        return is_call_id(call_id) and not taken


def write_arguments(arguments: object) -> str:
    """Returns arguments as text: some servers send what the text would say."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else json.dumps(arguments)


def _mend(text: str) -> str:
    """Makes text of what JSON lets pass as text: halves of surrogate pairs are none."""
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
