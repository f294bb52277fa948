"""Tool calls and their results."""

from __future__ import annotations

from itertools import count

from hypothesis import given
from hypothesis import strategies as st

from callboard.v1.message_pb2 import ContentBlock, Message, Role, ToolCall, ToolResult
from callboard_server.log.exchanges import calls_in, closed, results_in

call_ids = st.lists(st.sampled_from("abcd"), max_size=3)


def to_message(ids: list[str], is_result: bool) -> Message:
    if is_result:
        results = [ContentBlock(tool_result=ToolResult(tool_call_id=each)) for each in ids]
        return Message(role=Role.ROLE_TOOL, content=results)
    calls = [ContentBlock(tool_call=ToolCall(tool_call_id=each)) for each in ids]
    return Message(role=Role.ROLE_ASSISTANT, content=calls)


@given(st.lists(st.builds(to_message, call_ids, st.booleans()), max_size=10))
def test_every_call_is_closed_once_and_nothing_else_changes(messages: list[Message]) -> None:
    numbers = count()
    whole = closed(messages, "sorry", lambda: f"new {next(numbers)}")
    assert [message for message in whole if not message.message_id] == messages
    open_calls: list[str] = []
    for message in whole:
        for result in results_in(message):
            if result.tool_call_id in open_calls:
                open_calls.remove(result.tool_call_id)
            else:
                assert not message.message_id
        open_calls += [call.tool_call_id for call in calls_in(message)]
    assert open_calls == []
    assert closed(whole, "sorry", lambda: "never") == whole
