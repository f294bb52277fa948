"""How far a run of a chat agent is, as its conversation tells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from callboard.v1.message_pb2 import Message, Role, StopReason, ToolCall

# After these the model is called again; any other reason ends the run.
_GOES_ON = (StopReason.STOP_REASON_TOOL_USE, StopReason.STOP_REASON_PAUSE)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    turns: int = 0
    """How many answers the model has given."""
    unanswered: Sequence[ToolCall] = ()
    """Calls of the last answer that have no result."""
    wants_tools: bool = False
    """Whether the model meant those to run: an answer that was cut off may hold half a call."""
    result: Message | None = None
    """The last answer, if nothing follows from it."""
    corrected: bool = False
    """Whether the model was told already that its answer does not have the right form."""


def find_progress(messages: Sequence[Message], run_id: str, author: str) -> Progress:
    """Finds out how far a run is.

    Args:
        messages: The conversation.
        run_id: The run.
        author: Who speaks in it.
    """
    own = [message for message in messages if message.run_id == run_id]
    answers = [position for position, message in enumerate(own) if _is_answer(message)]
    if not answers:
        return Progress()
    answer, later = own[answers[-1]], own[answers[-1] + 1 :]
    closed = {b.tool_result.tool_call_id for message in later for b in message.content}
    calls = (block.tool_call for block in answer.content if block.HasField("tool_call"))
    got_more = any(message.role in (Role.ROLE_USER, Role.ROLE_SYSTEM) for message in later)
    goes_on = answer.incomplete or answer.stop_reason in _GOES_ON or got_more
    return Progress(
        turns=len(answers),
        unanswered=[call for call in calls if call.tool_call_id not in closed],
        wants_tools=answer.stop_reason == StopReason.STOP_REASON_TOOL_USE,
        result=None if goes_on else answer,
        corrected=any(m.role == Role.ROLE_SYSTEM and m.author == author for m in own),
    )


def _is_answer(message: Message) -> bool:
    """Whether a run wrote the message: its input may hold words of the assistant, too."""
    return message.role == Role.ROLE_ASSISTANT and message.context_sequence > 0
