"""Model calls: tried again where that may help, and seen to be.

A try that fails leaves `model_call_finished` and `message_discarded` in one commit, and the next
one `model_call_started`; one that succeeds leaves its message alone. The pauses between them are
part of the call: they hold the run's slot and thread, and end at once when the run is stopped.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import TYPE_CHECKING

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import Message, Usage
from callboard.v1.run_pb2 import Delta
from callboard_server.agents.errors import AgentError
from callboard_server.log.fold import add_usage
from callboard_server.models.base import (
    Answer,
    FailureKind,
    Model,
    ModelError,
    ModelRequest,
    TextPiece,
    ThinkingPiece,
    ToolArgumentsPiece,
)
from callboard_server.models.failures import failure

if TYPE_CHECKING:
    from callboard_server.agents.context import Context
    from callboard_server.agents.writers import MessageWriter

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0
"""Seconds before the second try, doubled before each further one, and the most of that."""
LONGEST_WISH = 60.0
"""The longest pause that a provider may ask for, in seconds: beyond it the call fails at once."""

_DELTA_KINDS = {
    TextPiece: Delta.KIND_TEXT,
    ThinkingPiece: Delta.KIND_THINKING,
    ToolArgumentsPiece: Delta.KIND_TOOL_ARGUMENTS,
}
_REASONS = {
    FailureKind.AUTHENTICATION: ErrorReason.ERROR_REASON_MODEL_CREDENTIALS,
    FailureKind.PERMISSION: ErrorReason.ERROR_REASON_MODEL_CREDENTIALS,
    FailureKind.BILLING: ErrorReason.ERROR_REASON_MODEL_QUOTA,
    FailureKind.MODEL_NOT_FOUND: ErrorReason.ERROR_REASON_MODEL_NOT_FOUND,
    FailureKind.INVALID_REQUEST: ErrorReason.ERROR_REASON_MODEL_REJECTED,
    FailureKind.CONTEXT_OVERFLOW: ErrorReason.ERROR_REASON_MODEL_CONTEXT_OVERFLOW,
}
"""By what is wrong, why the run ends; whatever may pass is MODEL_UNAVAILABLE."""


class ModelCallFailed(AgentError):
    """A model call failed for good."""

    def __init__(self, error: ModelError, message: str) -> None:
        unavailable = ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE
        super().__init__(
            message, reason=_REASONS.get(error.kind, unavailable), retryable=error.may_pass
        )
        self.kind = error.kind


class ModelCaller:
    """Calls a model for one run.

    Args:
        ctx: The run.
        model: The model.
        attempts: How often a call is tried.
    """

    def __init__(self, ctx: Context, model: Model, attempts: int) -> None:
        self._ctx = ctx
        self._model = model
        self._attempts = attempts
        self.used = Usage()
        """What the calls of the run have used, those of earlier claims included."""
        self.used.CopyFrom(ctx.run.usage)

    async def call(self, request: ModelRequest, context_sequence: int) -> Message:
        """Calls the model; returns its answer, which is in the log then.

        Args:
            request: What it sees.
            context_sequence: How much of the log that is.

        Raises:
            ModelCallFailed: It did not answer, and will not.
        """
        return await self.write(request, partial(self._ctx.write_message, context_sequence))

    async def write(
        self,
        request: ModelRequest,
        begin: Callable[[], MessageWriter],
        check: Callable[[Answer], object] = lambda answer: None,
    ) -> Message:
        """Calls the model, and commits what it answers.

        Args:
            request: What it sees.
            begin: Begins what is committed, for each try.
            check: Raises a `ModelError` if an answer is of no use.

        Raises:
            ModelCallFailed: It did not answer, and will not.
        """
        for attempt in count(1):
            writer = begin()
            if attempt > 1:
                await writer.announce(self._model.name)
            try:
                answer = await self._read_answer(request, writer)
                check(answer)
            except ModelError as error:
                await self._end_try(writer, error, attempt)
            except Exception:
                await writer.discard("The model call failed.")
                raise
            else:
                add_usage(self.used, answer.usage)
                return await writer.commit(
                    answer.content,
                    usage=answer.usage,
                    model=self._model.name,
                    stop_reason=answer.stop_reason,
                    provider_state=answer.provider_state,
                )
        raise AssertionError

    async def _read_answer(self, request: ModelRequest, writer: MessageWriter) -> Answer:
        async with aclosing(self._model.stream(request)) as stream:
            async for item in stream:
                if isinstance(item, Answer):
                    return item
                writer.delta(item.index, item.text, _DELTA_KINDS[type(item)])
        raise failure(FailureKind.BROKEN_OFF, self._model.name)

    async def _end_try(self, writer: MessageWriter, error: ModelError, attempt: int) -> None:
        """Records that a try failed; returns when it is time for the next one."""
        pause = pause_before_next(error, attempt, self._attempts)
        failed = ModelCallFailed(error, self._describe(error, attempt))
        event = Event()
        finished = event.model_call_finished
        finished.message_id = writer.message_id
        finished.error.CopyFrom(failed.run_error)
        if error.usage is not None:
            finished.usage.CopyFrom(error.usage)
            add_usage(self.used, error.usage)
        if pause is not None:
            finished.retry_time.FromMicroseconds(round((self._ctx.now() + pause) * 1e6))
        await writer.discard(failed.message, event)
        if pause is None:
            raise failed
        await asyncio.sleep(pause)

    def _describe(self, error: ModelError, attempt: int) -> str:
        text = error.message
        if error.may_pass and (error.retry_after or 0.0) > LONGEST_WISH:
            text += (
                f" It asks to be called again in {error.retry_after:,.0f} s; "
                f"a run waits {LONGEST_WISH:.0f} s at most."
            )
        elif error.may_pass and attempt >= self._attempts > 1:
            text += f" It was tried {attempt} times."
        return text


def pause_before_next(error: ModelError, attempt: int, attempts: int) -> float | None:
    """Returns how many seconds to wait before a failed call is tried again; None for never.

    Args:
        error: Why it failed.
        attempt: How often it was tried.
        attempts: How often it may be.
    """
    wish = error.retry_after or 0.0
    if not error.may_pass or attempt >= attempts or wish > LONGEST_WISH:
        return None
    pause: float = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
    # Not all that failed together come back together.
    return max(wish * random.uniform(1.0, 1.1), pause * random.uniform(0.8, 1.0))
