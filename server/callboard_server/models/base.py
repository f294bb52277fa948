"""What a chat agent asks of a model, whoever provides it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, Protocol

from callboard.v1.message_pb2 import ContentBlock, Message, ProviderState, StopReason, Usage


class ModelSpecError(ValueError):
    """A model cannot be opened; the message says why and may be shown to anyone."""


class FailureKind(Enum):
    """What is wrong when a model call fails, in one vocabulary for all providers."""

    AUTHENTICATION = "authentication"
    PERMISSION = "permission"
    BILLING = "billing"
    MODEL_NOT_FOUND = "model_not_found"
    INVALID_REQUEST = "invalid_request"
    CONTEXT_OVERFLOW = "context_overflow"
    RATE_LIMIT = "rate_limit"
    OVERLOADED = "overloaded"
    SERVER = "server"
    TIMEOUT = "timeout"
    CONNECTION = "connection"
    BROKEN_OFF = "broken_off"
    """The stream ended before the answer did, or what came cannot be read."""


_MAY_PASS = frozenset(
    {
        FailureKind.RATE_LIMIT,
        FailureKind.OVERLOADED,
        FailureKind.SERVER,
        FailureKind.TIMEOUT,
        FailureKind.CONNECTION,
        FailureKind.BROKEN_OFF,
    }
)


class ModelError(Exception):
    """A model call failed.

    Args:
        kind: What is wrong.
        message: Says so in words of this server, and never in those of a provider's answer, which
            may repeat what was sent; may be shown to anyone.
        retry_after: In how many seconds the provider wants to be asked again, where it says so.
        usage: What the call used all the same, where that is known.
    """

    def __init__(
        self,
        kind: FailureKind,
        message: str,
        retry_after: float | None = None,
        usage: Usage | None = None,
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.retry_after = retry_after
        self.usage = usage

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed later."""
        return self.kind in _MAY_PASS


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
    """The conversation as the view gives it: turns of the model's own assistant have the role
    ASSISTANT, and may carry the `provider_state` that an earlier answer had; results of its tool
    calls have the role TOOL; all else is USER or SYSTEM."""
    tools: Sequence[ToolDefinition]
    output_schema: Mapping[str, Any] | None = None
    """JSON Schema that the final answer's text must fit; None for prose."""
    max_output_tokens: int | None = None
    """The longest answer; None for what the model or its settings say."""
    effort: str = ""
    """How hard the model shall think, in the provider's own words; empty for its default."""
    cache_key: str = ""
    """The same for all requests of a lineage, of up to 64 characters: lets a provider find what it
    has cached."""


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
    provider_state: ProviderState | None = None
    """What the provider wants back with this answer."""


Piece = TextPiece | ThinkingPiece | ToolArgumentsPiece


class Model(Protocol):
    """Answers conversations."""

    @property
    def name(self) -> str:
        """What its messages say they were written by, for example "anthropic:claude-x"."""
        ...

    def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        """Answers piece by piece; the last item is the whole answer.

        Tries once: whoever calls decides about another try. Ends the connection when it is closed
        or cancelled.

        Raises:
            ModelError: The call failed, before or after its first piece.
        """
        ...
