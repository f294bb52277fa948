"""Compaction: what a chat agent does when its conversation becomes too long.

The older part gives way to a summary that the model writes itself. The event that records it is
all there is to it: the log keeps the conversation, and the next view starts from the summary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING

from callboard.v1.message_pb2 import ContentBlock, Message, Role, StopReason, Text
from callboard_server.agents.errors import AgentError
from callboard_server.agents.model_calls import ModelCaller, ModelCallFailed
from callboard_server.log.view import Cut, View
from callboard_server.models.base import Answer, FailureKind, ModelError, ModelRequest

if TYPE_CHECKING:
    from callboard_server.agents.context import Context

_INSTRUCTION = """\
Summarise the conversation up to here. From now on your summary stands in its place: whoever goes \
on, you included, sees the summary and nothing of what it stands for.

Keep what was asked for, word for word where the words matter; who said what; what was found out \
and decided, with names, numbers, paths and ids; what was done and what came of it; what is under \
way or open, and what was to be done next. Write nothing but the summary, and call no tools."""

_WRITTEN = frozenset(
    {
        StopReason.STOP_REASON_UNSPECIFIED,
        StopReason.STOP_REASON_END_TURN,
        StopReason.STOP_REASON_STOP_SEQUENCE,
        StopReason.STOP_REASON_MAX_TOKENS,
    }
)
"""The ends of answers that are summaries, if perhaps short of the last words."""

_TEXT_BYTES = 4
"""How many bytes of text make a token, about."""
_PICTURE = 2000
"""How many tokens a picture or a document takes, about."""
_WORTH_IT = 4
"""A summary is worth its cost where it stands for this part of the budget, or more."""


class Compactor:
    """Keeps the view of one run within its bounds.

    Args:
        ctx: The run.
        caller: Calls its model.
        budget: At how many tokens a request is too long; None leaves that to the provider.
    """

    def __init__(self, ctx: Context, caller: ModelCaller, budget: int | None) -> None:
        self._ctx = ctx
        self._caller = caller
        self._budget = budget

    async def call(self, view: View, request: ModelRequest) -> None:
        """Calls the model, or makes room for that: then the view is another one.

        Raises:
            ModelCallFailed: It did not answer, and will not.
        """
        if await self._keep_budget(view, request):
            return
        try:
            await self._caller.call(request, view.context_sequence)
        except ModelCallFailed as error:
            is_too_long = error.kind is FailureKind.CONTEXT_OVERFLOW
            if not (is_too_long and await self._summarise(view, request, self._old_cuts(view))):
                raise

    async def _keep_budget(self, view: View, request: ModelRequest) -> bool:
        """Summarises the older part of a view where it is time for that; returns whether it did."""
        if self._budget is None or estimate(view, request) < self._budget:
            return False
        cuts = self._old_cuts(view)
        if not cuts or _size(view.messages[: cuts[-1].messages]) * _WORTH_IT < self._budget:
            return False
        done = await self._summarise(view, request, cuts)
        if not done:
            # What is wrong will be so the next time.
            self._budget = None
        return done

    async def summarise_all(self, view: View, request: ModelRequest) -> None:
        """Summarises a view as far as that can be.

        Raises:
            AgentError: The model writes no summary.
        """
        cuts = list(view.cuts())
        is_done = view.summary_sequence > self._ctx.run.created_sequence
        if cuts and not is_done and not await self._summarise(view, request, cuts):
            raise AgentError("The model wrote no summary of the conversation.")

    def _old_cuts(self, view: View) -> list[Cut]:
        """Returns the cuts that leave what the model has not answered yet, or is at."""
        limit = _start_of_new(view.messages, self._ctx.run.run_id)
        return [cut for cut in view.cuts() if cut.messages <= limit]

    async def _summarise(self, view: View, request: ModelRequest, cuts: Sequence[Cut]) -> bool:
        """Lets the model summarise as much as it takes at once; returns whether it did."""
        for cut in _halving(view.messages, cuts):
            question = replace(
                request,
                messages=[*view.messages[: cut.messages], _user(_INSTRUCTION)],
                output_schema=None,
            )
            begin = partial(self._ctx.write_summary, view.context_sequence, cut.through)
            try:
                await self._caller.write(question, begin, _check)
                return True
            except ModelCallFailed as error:
                if error.kind is FailureKind.CONTEXT_OVERFLOW:
                    continue
                if error.kind is FailureKind.INVALID_REQUEST:
                    return False
                raise
        return False


def estimate(view: View, request: ModelRequest) -> int:
    """Returns how many tokens a request has, about.

    What the model has read for its last answer, its provider has counted; only what came since is
    measured here.
    """
    for position in range(len(view.messages) - 1, -1, -1):
        message = view.messages[position]
        if message.role != Role.ROLE_ASSISTANT or message.context_sequence < view.summary_sequence:
            continue
        if message.usage.input_tokens:
            counted = message.usage.input_tokens + message.usage.output_tokens
            return counted + _size(view.messages[position + 1 :])
    tools = sum(len(str((tool.name, tool.description, tool.parameters))) for tool in request.tools)
    return _size(view.messages) + (len(request.system.encode()) + tools) // _TEXT_BYTES


def _size(messages: Sequence[Message]) -> int:
    """Returns how many tokens messages have, about."""
    return sum(_block_size(block) for message in messages for block in message.content)


def _block_size(block: ContentBlock) -> int:
    if block.HasField("image") or (
        block.HasField("file") and not block.file.media_type.startswith("text/")
    ):
        return _PICTURE
    return -(-block.ByteSize() // _TEXT_BYTES)


def _start_of_new(messages: Sequence[Message], run_id: str) -> int:
    """Returns where begins what a run is at: its last answer, else its input, else what woke it."""
    own = [place for place, message in enumerate(messages) if message.run_id == run_id]
    answers = [place for place in own if messages[place].role == Role.ROLE_ASSISTANT]
    return (answers[-1:] or own[:1] or [len(messages) - 1])[0]


def _halving(messages: Sequence[Message], cuts: Sequence[Cut]) -> Iterator[Cut]:
    """Yields the last cut, the last one before half of that, and so on."""
    sizes = [0, *accumulate(_size([message]) for message in messages)]
    bound = float("inf")
    while fitting := [cut for cut in cuts if sizes[cut.messages] < bound]:
        yield fitting[-1]
        bound = sizes[fitting[-1].messages] / 2


def _check(answer: Answer) -> None:
    text = "".join(block.text.text for block in answer.content)
    if answer.stop_reason not in _WRITTEN or not text.strip():
        problem = "The model wrote no summary."
        raise ModelError(FailureKind.INVALID_REQUEST, problem, usage=answer.usage)


def _user(text: str) -> Message:
    return Message(role=Role.ROLE_USER, content=[ContentBlock(text=Text(text=text))])
