"""Tool calls and their results, as messages carry them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable

from callboard.v1.message_pb2 import ContentBlock, Message, Role, ToolCall, ToolResult


def calls_in(message: Message) -> list[ToolCall]:
    """Returns the tool calls that a message makes."""
    if message.role != Role.ROLE_ASSISTANT:
        return []
    return [block.tool_call for block in message.content if block.HasField("tool_call")]


def results_in(message: Message) -> list[ToolResult]:
    """Returns the results of tool calls that a message brings."""
    return [block.tool_result for block in message.content if block.HasField("tool_result")]


def closed(messages: Iterable[Message], text: str, new_id: Callable[[], str]) -> list[Message]:
    """Returns a conversation in which every tool call has a result.

    A call without one gets an error, behind the results that its message already has.

    Args:
        messages: The conversation.
        text: What the error says.
        new_id: Makes ids of messages.
    """
    messages = list(messages)
    unanswered: defaultdict[str, list[tuple[int, ToolCall]]] = defaultdict(list)
    ends: dict[int, int] = {}
    """Of each message with calls, where its last result stands."""
    for place, message in enumerate(messages):
        for result in results_in(message):
            if unanswered[result.tool_call_id]:
                caller, _ = unanswered[result.tool_call_id].pop()
                ends[caller] = place
        for call in calls_in(message):
            unanswered[call.tool_call_id].append((place, call))
    missing: defaultdict[int, list[Message]] = defaultdict(list)
    for caller, call in (each for calls in unanswered.values() for each in calls):
        missing[ends.get(caller, caller)].append(_error(call, text, new_id()))
    return [each for place, kept in enumerate(messages) for each in (kept, *missing[place])]


def _error(call: ToolCall, text: str, message_id: str) -> Message:
    result = ToolResult(tool_call_id=call.tool_call_id, name=call.name, text=text, is_error=True)
    content = [ContentBlock(tool_result=result)]
    return Message(message_id=message_id, role=Role.ROLE_TOOL, content=content)
