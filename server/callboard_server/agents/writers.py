"""Messages in the making."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import (
    ContentBlock,
    Message,
    ProviderState,
    Role,
    StopReason,
    Usage,
)
from callboard.v1.run_pb2 import Delta

if TYPE_CHECKING:
    pass

from callboard_server.agents.work import Work


class MessageWriter:
    """A message in the making."""

    def __init__(self, work: Work, context_sequence: int) -> None:
        self._work = work
        self._context_sequence = context_sequence
        self.message_id = work.open_message(context_sequence)

    def delta(self, index: int, text: str, kind: Delta.Kind.ValueType = Delta.KIND_TEXT) -> None:
        """Shows a piece of a content block to whoever streams. Nothing is written to the log."""
        self._work.write_delta(self.message_id, index, text, kind)

    async def commit(
        self,
        content: Sequence[ContentBlock],
        *,
        usage: Usage | None = None,
        model: str = "",
        stop_reason: StopReason.ValueType = StopReason.STOP_REASON_UNSPECIFIED,
        provider_state: ProviderState | None = None,
    ) -> Message:
        """Makes the message durable; it replaces its deltas."""
        message = Message(
            message_id=self.message_id,
            role=Role.ROLE_ASSISTANT,
            content=content,
            context_sequence=self._context_sequence,
            usage=usage,
            model=model,
            stop_reason=stop_reason,
            provider_state=provider_state,
        )
        return await self._work.commit_message(message)

    async def announce(self, model: str) -> None:
        """Says which model will write it. Does not wait for the commit."""
        event = Event(ignorable=True)
        event.model_call_started.message_id = self.message_id
        event.model_call_started.model = model
        event.model_call_started.context_sequence = self._context_sequence
        await self._work.post(event)

    async def discard(self, reason: str, *events: Event) -> None:
        """Says that what was streamed is void, behind other events of the same commit."""
        await self._work.discard_message(self.message_id, reason, *events)


class SummaryWriter(MessageWriter):
    """A summary in the making: it is no message of the thread, and nobody reads along."""

    def __init__(
        self, work: Work, author: str, context_sequence: int, through_sequence: int
    ) -> None:
        self._work = work
        self._author = author
        self._context_sequence = context_sequence
        self._through_sequence = through_sequence
        self.message_id = str(uuid4())

    def delta(self, index: int, text: str, kind: Delta.Kind.ValueType = Delta.KIND_TEXT) -> None:
        """Shows nothing."""

    async def commit(
        self,
        content: Sequence[ContentBlock],
        *,
        usage: Usage | None = None,
        model: str = "",
        stop_reason: StopReason.ValueType = StopReason.STOP_REASON_UNSPECIFIED,
        provider_state: ProviderState | None = None,
    ) -> Message:
        """Makes the summary durable, of what was written as text."""
        event = Event()
        compacted = event.context_compacted
        compacted.through_sequence = self._through_sequence
        compacted.assistant_id = self._work.run.assistant_id
        compacted.summary.CopyFrom(
            Message(
                message_id=self.message_id,
                role=Role.ROLE_USER,
                author=self._author,
                run_id=self._work.run.run_id,
                content=[block for block in content if block.HasField("text")],
                context_sequence=self._context_sequence,
                usage=usage,
                model=model,
                stop_reason=stop_reason,
            )
        )
        compacted.summary.create_time.FromMicroseconds(round(self._work.now() * 1e6))
        await self._work.commit(event)
        return compacted.summary

    async def discard(self, reason: str, *events: Event) -> None:
        """Writes other events: of the summary itself there was nothing to be seen."""
        await self._work.commit(*events)
