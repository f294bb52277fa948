"""Models of Anthropic, and of servers that speak its Messages API.

What is asked stands in `anthropic_rendering`, what goes wrong in `anthropic_failures`.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence, Set
from contextlib import AsyncExitStack
from uuid import uuid4

from anthropic import AsyncAnthropic, BadRequestError, DefaultAsyncHttpxClient
from anthropic.lib.streaming import AsyncMessageStream, ParsedMessageStreamEvent
from anthropic.types import ContentBlock as AnthropicBlock
from anthropic.types import Message as AnthropicMessage
from anthropic.types import ParsedContentBlock, ParsedMessage, RawContentBlockDelta

from callboard.v1.message_pb2 import (
    ContentBlock,
    ProviderState,
    StopReason,
    Text,
    Thinking,
    ToolCall,
    Usage,
)
from callboard_server.models.anthropic_failures import describe, refuses_thinking
from callboard_server.models.anthropic_rendering import Block, RenderedRequest, render
from callboard_server.models.base import (
    Answer,
    FailureKind,
    ModelError,
    ModelRequest,
    Piece,
    TextPiece,
    ThinkingPiece,
    ToolArgumentsPiece,
)
from callboard_server.models.failures import failure
from callboard_server.models.history import call_ids
from callboard_server.models.network import TIMEOUT, certificates

BASE_URL = "https://api.anthropic.com"

_STOP_REASONS = {
    "tool_use": StopReason.STOP_REASON_TOOL_USE,
    "max_tokens": StopReason.STOP_REASON_MAX_TOKENS,
    "stop_sequence": StopReason.STOP_REASON_STOP_SEQUENCE,
    "pause_turn": StopReason.STOP_REASON_PAUSE,
    "refusal": StopReason.STOP_REASON_REFUSAL,
    "model_context_window_exceeded": StopReason.STOP_REASON_CONTEXT_OVERFLOW,
}

_THINKING = ("thinking", "redacted_thinking")


def open_client(api_key: str, base_url: str | None) -> AsyncAnthropic:
    """Opens a client that reads nothing of the environment but how to reach the network.

    Args:
        api_key: The key.
        base_url: Where the API is, with or without the `/v1` of its paths; None for Anthropic.
    """
    client = AsyncAnthropic(
        api_key=api_key,
        base_url=(base_url or BASE_URL).rstrip("/").removesuffix("/v1"),
        # The agent tries again, where it is seen and can be cancelled.
        max_retries=0,
        timeout=TIMEOUT,
        http_client=DefaultAsyncHttpxClient(verify=certificates()),
        # Else the environment decides whether conversations go into traces.
        open_telemetry=False,
    )
    # The SDK fills these from the environment, and has no argument against it.
    client._custom_headers = {}
    return client


class AnthropicModel:
    """Answers by the Messages API.

    How a model thinks is left to the provider: which settings it takes depends on the model, and
    what a model does without any is right for it.

    Args:
        name: What the model's messages say they were written by.
        model: What the provider calls it.
        client: Calls the provider.
        account: A digest of the key: signed thinking is bound to whose it is.
    """

    def __init__(self, name: str, model: str, client: AsyncAnthropic, account: str) -> None:
        self.name = name
        self._model = model
        self._client = client
        self._account = account

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        draft = _Draft(call_ids(request.messages))
        answer = None
        try:
            async with AsyncExitStack() as stack:
                digest, stream = await self._ask(request, stack)
                async for event in stream:
                    if event.type == "message_stop":
                        # What comes after it, or does not, takes nothing from the answer.
                        answer = draft.answer(event.message, digest)
                        break
                    if (piece := draft.take(event)) is not None:
                        yield piece
        except ModelError:
            raise
        except Exception as error:
            raise describe(error, self.name, draft.usage) from None
        if answer is None:
            raise failure(FailureKind.BROKEN_OFF, self.name, usage=draft.usage)
        yield answer

    async def _ask(
        self, request: ModelRequest, stack: AsyncExitStack
    ) -> tuple[bytes, AsyncMessageStream[None]]:
        """Sends a request; returns what its answer is bound to, and the events of the answer."""
        rendered = render(request, self._model, self._account)
        try:
            return rendered.digest, await self._send(rendered, stack)
        except BadRequestError as error:
            if not (rendered.holds_state and refuses_thinking(error)):
                raise
        # The provider holds its thinking to be of another conversation, and will do so every time.
        rendered = render(request, self._model, self._account, with_state=False)
        return rendered.digest, await self._send(rendered, stack)

    async def _send(
        self, rendered: RenderedRequest, stack: AsyncExitStack
    ) -> AsyncMessageStream[None]:
        call = self._client.messages.stream(**rendered.parameters)
        return await stack.enter_async_context(call)


class _Draft:
    """An answer, as it comes in.

    Args:
        known_ids: Of the calls before it: compatible servers may use one again.
    """

    def __init__(self, known_ids: Set[str]) -> None:
        self.usage: Usage | None = None
        """What the call has used, as far as that is known."""
        self._known_ids = known_ids
        self._kinds: dict[int, str] = {}
        self._places: dict[int, int] = {}
        """Of the provider's blocks that show, where they stand in the content."""
        self._arguments: defaultdict[int, str] = defaultdict(str)

    def take(self, event: ParsedMessageStreamEvent[None]) -> Piece | None:
        """Takes what came; returns what there is to show of it."""
        if event.type == "message_start":
            self.usage = _usage(event.message)
        elif event.type == "content_block_start":
            self._kinds[event.index] = event.content_block.type
            return self._begin(event.index, event.content_block)
        elif event.type == "content_block_delta":
            return self._grow(event.index, event.delta)
        return None

    def _begin(self, index: int, block: AnthropicBlock) -> Piece | None:
        if block.type == "tool_use":
            self._place(index)
        elif block.type == "text" and block.text:
            return TextPiece(self._place(index), block.text)
        elif block.type == "thinking" and block.thinking:
            return ThinkingPiece(self._place(index), block.thinking)
        return None

    def _grow(self, index: int, delta: RawContentBlockDelta) -> Piece | None:
        kind = self._kinds.get(index)
        if delta.type == "text_delta" and kind == "text" and delta.text:
            return TextPiece(self._place(index), delta.text)
        if delta.type == "thinking_delta" and kind == "thinking" and delta.thinking:
            return ThinkingPiece(self._place(index), delta.thinking)
        if delta.type == "input_json_delta" and kind == "tool_use" and delta.partial_json:
            self._arguments[index] += delta.partial_json
            return ToolArgumentsPiece(self._place(index), delta.partial_json)
        return None

    def _place(self, index: int) -> int:
        return self._places.setdefault(index, len(self._places))

    def answer(self, message: ParsedMessage[None], digest: bytes) -> Answer | None:
        """Returns the whole answer; None if it does not say why it ends."""
        if message.stop_reason is None:
            return None
        content = [self._show(index, message.content[index]) for index in self._places]
        calls = [block.tool_call for block in content if block.HasField("tool_call")]
        renamed = self._rename(calls)
        stop = _STOP_REASONS.get(message.stop_reason, StopReason.STOP_REASON_END_TURN)
        if stop == StopReason.STOP_REASON_TOOL_USE and not calls:
            stop = StopReason.STOP_REASON_END_TURN
        state = None if renamed else _state(message.content, stop, digest)
        return Answer(content, _usage(message), stop, state)

    def _show(self, index: int, block: ParsedContentBlock[None]) -> ContentBlock:
        if block.type == "tool_use":
            call = ToolCall(
                tool_call_id=block.id,
                name=block.name,
                arguments_json=self._arguments[index] or json.dumps(block.input),
            )
            return ContentBlock(tool_call=call)
        if block.type == "thinking":
            return ContentBlock(thinking=Thinking(text=block.thinking))
        assert block.type == "text", block.type
        return ContentBlock(text=Text(text=block.text))

    def _rename(self, calls: Sequence[ToolCall]) -> bool:
        """Gives calls ids of their own; returns whether one lacked it."""
        known = set(self._known_ids)
        renamed = False
        for call in calls:
            if not call.tool_call_id or call.tool_call_id in known:
                call.tool_call_id = f"call_{uuid4().hex}"
                renamed = True
            known.add(call.tool_call_id)
        return renamed


def _state(
    content: Sequence[ParsedContentBlock[None]], stop: StopReason.ValueType, digest: bytes
) -> ProviderState | None:
    """Returns what goes back as it came, where the answer holds more than its content shows."""
    blocks: list[Block] = [block.to_dict(mode="json", warnings=False) for block in content]
    # The API gives empty text, but does not take it.
    blocks = [block for block in blocks if block["type"] != "text" or block["text"].strip()]
    is_plain = all(block["type"] in ("text", "tool_use") for block in blocks)
    if (is_plain and stop != StopReason.STOP_REASON_PAUSE) or not _is_taken(blocks):
        return None
    text = json.dumps(blocks, ensure_ascii=False)
    return ProviderState(digest=digest, blocks_json=text.encode())


def _is_taken(blocks: Sequence[Block]) -> bool:
    """Whether the API takes back what it gave: no thinking at the end, arguments with names."""
    if not blocks or blocks[-1]["type"] in _THINKING:
        return False
    calls = (block for block in blocks if block["type"] == "tool_use")
    return all(isinstance(call["input"], dict) for call in calls)


def _usage(message: AnthropicMessage) -> Usage:
    usage = getattr(message, "usage", None)

    def count(name: str, within: object = usage) -> int:
        # Compatible servers leave out what they do not count.
        return getattr(within, name, None) or 0

    read, written = count("cache_read_input_tokens"), count("cache_creation_input_tokens")
    details = getattr(usage, "output_tokens_details", None)
    return Usage(
        # The provider counts the three apart.
        input_tokens=count("input_tokens") + read + written,
        cached_input_tokens=read,
        cache_write_tokens=written,
        output_tokens=count("output_tokens"),
        reasoning_tokens=count("thinking_tokens", details),
        model_calls=1,
    )
