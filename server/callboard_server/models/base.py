"""What a chat agent asks of a model, whoever provides it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from callboard.v1.message_pb2 import ContentBlock, Message, StopReason, Usage


class ModelSpecError(ValueError):
    """A model cannot be opened; the message says why and may be shown to anyone."""


class ToolDefinition(Protocol):
    """What a model knows of a tool."""

    @property
    def name(self) -> str: ...

    @property
    def description(self) -> str: ...

    @property
    def parameters(self) -> Mapping[str, Any]:
        """JSON Schema of the arguments, which are one object."""
        ...


@dataclass(frozen=True, slots=True)
class ModelRequest:
    """One call of a model: everything that it sees."""

    system: str
    messages: Sequence[Message]
    tools: Sequence[ToolDefinition]


@dataclass(frozen=True, slots=True)
class TextPiece:
    """Text of a block, as it comes in."""

    index: int
    """The block in the answer's content."""
    text: str


@dataclass(frozen=True, slots=True)
class ThinkingPiece:
    """What the model thinks, as it comes in."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolArgumentsPiece:
    """Arguments of a tool call, as it comes in: JSON that is not whole yet."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered, whole."""

    content: Sequence[ContentBlock]
    usage: Usage
    stop_reason: StopReason.ValueType


Piece = TextPiece | ThinkingPiece | ToolArgumentsPiece


class Model(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """What its messages say they were written by, for example "anthropic:claude-x"."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        """Answers piece by piece. The last item is the whole answer; a cut stream has none."""
        ...
