"""What holds for every conversation that is sent to OpenAI, or to a server that speaks so."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from callboard.v1.message_pb2 import (
    ContentBlock,
    File,
    Image,
    Message,
    ProviderState,
    Role,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from callboard_server.models import openai_chat, openai_responses
from callboard_server.models.base import ModelRequest
from standins.openai import broken_seals, responses_events
from standins.openai_rules import chat_problems, responses_problems
from standins.replies import Call, Reply
from tests.models.conversations import LookUp, asking
from tests.models.openai_servers import ACCOUNT, MODEL

# Assistants most often: they make conversations hard.
ROLES = [
    Role.ROLE_ASSISTANT,
    Role.ROLE_ASSISTANT,
    Role.ROLE_TOOL,
    Role.ROLE_USER,
    Role.ROLE_SYSTEM,
]
TEXTS = st.sampled_from(["", " ", "Hello.", "Where is it?", "ünïcode 😀", "<agent>"])
IDS = st.sampled_from(["call_1", "call_2", "call_3", "", "with space", "x" * 70])
ARGUMENTS = st.sampled_from(["{}", '{"word": "a"}', "", '{"word": "a', "[]", '{"a": NaN}'])
URLS = st.sampled_from(["", "https://example.com/a"])
BYTES = st.sampled_from([b"", b"bytes", b"\xff"])
TYPES = st.sampled_from(["image/png", "application/pdf", "text/csv", "application/json"])


@st.composite
def blocks(draw: st.DrawFn) -> ContentBlock:
    match draw(st.integers(0, 5)):
        case 0:
            return ContentBlock(text=Text(text=draw(TEXTS)))
        case 1:
            call = ToolCall(tool_call_id=draw(IDS), name="look_up", arguments_json=draw(ARGUMENTS))
            return ContentBlock(tool_call=call)
        case 2:
            result = ToolResult(tool_call_id=draw(IDS), name="look_up", text=draw(TEXTS))
            result.is_error = draw(st.booleans())
            return ContentBlock(tool_result=result)
        case 3:
            return ContentBlock(thinking=Thinking(text=draw(TEXTS)))
        case 4:
            image = Image(media_type="image/png", data=draw(BYTES))
            return ContentBlock(image=image if image.data else Image(url=draw(URLS)))
    file = File(media_type=draw(TYPES), name=draw(st.sampled_from(["", "a"])), data=draw(BYTES))
    return ContentBlock(file=file if file.data else File(url=draw(URLS), name=file.name))


@st.composite
def messages(draw: st.DrawFn) -> Message:
    role = draw(st.sampled_from(ROLES))
    message = Message(role=role, content=draw(st.lists(blocks(), max_size=3)))
    if draw(st.booleans()):
        # Another request's, which must not be sent.
        message.provider_state.CopyFrom(
            ProviderState(digest=b"another", blocks_json=b'[{"bad":1}]')
        )
    return message


@st.composite
def replies(draw: st.DrawFn) -> Reply:
    ids = draw(st.lists(IDS, unique=True, max_size=2))
    calls = [Call("look_up", draw(ARGUMENTS), call_id) for call_id in ids]
    said = draw(st.sampled_from(["Hello.", ""]) if calls else st.just("Hello."))
    return Reply(said, calls, draw(st.sampled_from(["", "Hm."])))


CONVERSATIONS = st.lists(messages(), max_size=6)
ROUNDS = st.lists(st.tuples(replies(), CONVERSATIONS), max_size=3)


def request_of(conversation: Sequence[Message]) -> ModelRequest:
    return asking(*conversation, system="Be brief.", tools=[LookUp()], cache_key="lineage")


def render(conversation: Sequence[Message], compatible: bool) -> openai_responses.Rendered:
    request = request_of(conversation)
    return openai_responses.render_request(request, MODEL, ACCOUNT, compatible=compatible)


def answer_to(request: openai_responses.Rendered, reply: Reply) -> Message:
    """What the log holds of an answer, with the provider's own items where that may be."""
    events = responses_events(request.parameters, reply)
    items: list[dict[str, Any]] = events[-1]["response"]["output"]
    content = [ContentBlock(thinking=Thinking(text=reply.thinking))] if reply.thinking else []
    content += [ContentBlock(text=Text(text=reply.text))] if reply.text else []
    for call in reply.calls:
        named = ToolCall(tool_call_id=call.call_id, name=call.name, arguments_json=call.arguments)
        content.append(ContentBlock(tool_call=named))
    message = Message(role=Role.ROLE_ASSISTANT, content=content)
    # The reader keeps no state of calls that are not to be run.
    if reply.thinking and all(call.arguments.startswith("{}") for call in reply.calls):
        state = ProviderState(digest=request.digest, blocks_json=json.dumps(items).encode())
        message.provider_state.CopyFrom(state)
    return message


@given(CONVERSATIONS, st.booleans())
def test_every_request_follows_the_rules(conversation: list[Message], compatible: bool) -> None:
    assert responses_problems(render(conversation, compatible).parameters) == []
    chat = openai_chat.render_request(request_of(conversation), MODEL, compatible=compatible)
    assert chat_problems(chat) == []


@given(CONVERSATIONS, ROUNDS, st.booleans())
def test_each_request_extends_the_one_before(
    conversation: list[Message], rounds: list[tuple[Reply, list[Message]]], compatible: bool
) -> None:
    before = render(conversation, compatible)
    for reply, more in rounds:
        conversation = [*conversation, answer_to(before, reply), *more]
        after = render(conversation, compatible)
        begun = before.parameters["input"]
        assert after.parameters["input"][: len(begun)] == begun
        assert {**after.parameters, "input": begun} == before.parameters
        assert responses_problems(after.parameters) == []
        assert broken_seals(after.parameters) == []
        before = after


@given(CONVERSATIONS, CONVERSATIONS, replies(), st.booleans())
def test_nothing_sealed_goes_to_another_conversation(
    conversation: list[Message], other: list[Message], reply: Reply, compatible: bool
) -> None:
    answer = answer_to(render(conversation, compatible), reply)
    assert broken_seals(render([*other, answer], compatible).parameters) == []


@given(CONVERSATIONS, ROUNDS, st.booleans())
def test_each_request_of_chat_completions_extends_the_one_before(
    conversation: list[Message], rounds: list[tuple[Reply, list[Message]]], compatible: bool
) -> None:
    request = request_of(conversation)
    before = openai_chat.render_request(request, MODEL, compatible=compatible)
    for reply, more in rounds:
        conversation = [*conversation, answer_to(render([], compatible), reply), *more]
        request = request_of(conversation)
        after = openai_chat.render_request(request, MODEL, compatible=compatible)
        begun = before["messages"]
        assert after["messages"][: len(begun)] == begun
        assert chat_problems(after) == []
        before = after
