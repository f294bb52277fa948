"""Conversations as Anthropic takes them: what becomes of each part, and the laws for all."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from callboard.v1.message_pb2 import (
    ContentBlock,
    File,
    Image,
    Message,
    ProviderState,
    Role,
    StopReason,
    Thinking,
)
from callboard_server.models.anthropic_rendering import RenderedRequest, render
from callboard_server.models.base import ModelRequest
from standins.anthropic_rules import problems
from tests.models.anthropic_servers import flat
from tests.models.conversations import (
    LookUp,
    asking,
    assistant,
    call,
    message,
    result,
    system,
    text,
    user,
)

PAUSE = StopReason.STOP_REASON_PAUSE
PNG = b"\x89PNG\r\n\x1a\n"


def rendered(request: ModelRequest) -> RenderedRequest:
    return render(request, "claude-test", "account")


def messages_of(*messages: Message | str) -> list[dict[str, Any]]:
    """What a conversation becomes; it keeps the API's rules."""
    body = rendered(asking(*messages)).parameters
    assert problems(body) == []
    found: list[dict[str, Any]] = body["messages"]
    return found


def blocks_of(*content: ContentBlock) -> list[dict[str, Any]]:
    """What a user's message becomes."""
    (only,) = messages_of(user(*content))
    blocks: list[dict[str, Any]] = only["content"]
    return blocks


def said(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def used(call_id: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call_id, "name": "look_up", "input": arguments}


def found(call_id: str, text: str = "found") -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": call_id, "content": text}


def test_roles_and_results() -> None:
    conversation = messages_of(
        "Hello",
        assistant("I look.", call("a", '{"word": "x"}'), call("b")),
        result("b", "two"),
        result("a", "one"),
        system("A job is done."),
        "And?",
        assistant("So."),
        "Yes.",
        "Go.",
    )
    assert conversation == [
        {"role": "user", "content": [said("Hello")]},
        {"role": "assistant", "content": [said("I look."), used("a", word="x"), used("b")]},
        {
            "role": "user",
            "content": [
                found("a", "one"),
                found("b", "two"),
                said("<system_message>\nA job is done.\n</system_message>"),
                said("And?"),
            ],
        },
        {"role": "assistant", "content": [said("So.")]},
        {"role": "user", "content": [said("Yes."), said("Go.")]},
    ]


def test_a_call_without_a_result_gets_an_error() -> None:
    conversation = messages_of("Hello", assistant(call("a"), call("b")), "And?", result("b"))
    error, other, more = conversation[2]["content"]
    assert (error["tool_use_id"], error["is_error"]) == ("a", True)
    assert error["content"]
    assert (other, more) == (found("b"), said("And?"))


def test_a_result_that_comes_after_the_next_answer_is_told_as_text() -> None:
    conversation = messages_of(
        "Hello", assistant(call("a")), assistant("Hm."), result("a", "late words")
    )
    assert conversation[2]["content"][0]["is_error"]
    (late,) = conversation[4]["content"]
    assert "late words" in late["text"]


def test_calls_of_one_id_get_their_results_in_order() -> None:
    conversation = messages_of(
        "Hello",
        assistant(call("a"), call("a")),
        result("a", "one"),
        result("a", "two"),
        result("a", "three"),
    )
    *results, more = conversation[2]["content"]
    assert results == [found("a", "one"), found("a_2", "two")]
    assert "three" in more["text"]


def test_a_result_without_a_call_is_told_as_text() -> None:
    (only,) = messages_of(result("a", "words"))
    assert "words" in only["content"][0]["text"]


def test_results_that_say_nothing() -> None:
    conversation = messages_of(
        "Hello", assistant(call("a"), call("b")), result("a", " "), result("b", "", is_error=True)
    )
    empty, error = conversation[2]["content"]
    assert empty == {"type": "tool_result", "tool_use_id": "a"}
    assert error["is_error"]
    assert error["content"]


def test_whoever_speaks_first_or_last_a_user_does() -> None:
    for messages in ([], [assistant("Hello!")], ["Hi", assistant("Yes?")], [user(), system(" ")]):
        conversation = messages_of(*messages)
        assert conversation[0]["role"] == conversation[-1]["role"] == "user"


def test_what_says_nothing_is_left_out() -> None:
    nothing = assistant(text(" \n"), ContentBlock(thinking=Thinking(text="Hm.")))
    assert messages_of("Hello", nothing, user(""), "And?") == [
        {"role": "user", "content": [said("Hello"), said("And?")]}
    ]


def test_an_answer_that_was_cut_off_is_followed_by_a_user() -> None:
    conversation = messages_of("Hello", assistant("I thi"), assistant("nk so."))
    assert [each["role"] for each in conversation] == ["user", "assistant"] * 2 + ["user"]


@pytest.mark.parametrize(
    "arguments",
    ['{"word": "x', "", "[1]", '"x"', '{"x": NaN}', '{"x": 1e999}', "9" * 5_000, "[" * 100_000],
    ids=["cut", "nothing", "a list", "text", "no number", "infinity", "too long", "too deep"],
)
def test_arguments_that_are_no_object(arguments: str) -> None:
    conversation = messages_of("Hello", assistant(call("a", arguments)), result("a"))
    assert conversation[1]["content"] == [used("a")]


def test_arguments_keep_their_order_and_their_numbers() -> None:
    arguments = '{"z": 12345678901234567890, "a": 1.5, "ä": "😀"}'
    conversation = messages_of("Hello", assistant(call("a", arguments)), result("a"))
    given_back = conversation[1]["content"][0]["input"]
    assert json.dumps(given_back, ensure_ascii=False) == arguments


def test_ids_are_made_valid_and_unique_and_stay_paired() -> None:
    conversation = messages_of(
        "Hello",
        assistant(call("functions.look:0"), call("functions.look.0"), call("")),
        result("functions.look.0", "second"),
        result("", "third"),
        result("functions.look:0", "first"),
        assistant(call("functions.look:0"), call("x" * 100), call("x" * 99)),
        result("x" * 99, "sixth"),
        result("functions.look:0", "fourth"),
        result("x" * 100, "fifth"),
    )
    ids = [[each["id"] for each in conversation[place]["content"]] for place in (1, 3)]
    assert ids[0] == ["functions_look_0", "functions_look_0_2", "call"]
    results = [each for place in (2, 4) for each in conversation[place]["content"]]
    assert [each["tool_use_id"] for each in results] == [*ids[0], *ids[1]]
    assert [each["content"] for each in results] == "first second third fourth fifth sixth".split()


def test_names_of_other_providers_tools_are_made_valid() -> None:
    conversation = messages_of("Hello", assistant(call("a", name="über.tool")), result("a"))
    assert conversation[1]["content"][0]["name"] == "_ber_tool"


def test_pictures() -> None:
    assert blocks_of(
        ContentBlock(image=Image(media_type="image/png", data=PNG)),
        ContentBlock(image=Image(url="https://example.com/a.png")),
        ContentBlock(image=Image(media_type="image/tiff", data=b"II*\0")),
        ContentBlock(image=Image(media_type="image/png")),
        ContentBlock(file=File(media_type="image/png", name="a.png", data=PNG)),
    ) == [
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
        },
        {"type": "image", "source": {"type": "url", "url": "https://example.com/a.png"}},
        said("[image: image/tiff]"),
        said("[image: image/png]"),
        {
            "type": "image",
            "source": {"type": "base64", "media_type": "image/png", "data": "iVBORw0KGgo="},
        },
    ]


def test_files() -> None:
    pdf, url = "application/pdf", "https://example.com/a"
    assert blocks_of(
        ContentBlock(file=File(media_type=pdf, name="a.pdf", data=b"%PDF")),
        ContentBlock(file=File(media_type=pdf, url=url)),
        ContentBlock(file=File(media_type="text/csv", name="a.csv", data=b"a;b")),
        ContentBlock(file=File(media_type="application/zip", name="a.zip", data=b"PK\xff\0")),
        ContentBlock(file=File(media_type="text/csv", name="a.csv", url=url)),
        ContentBlock(file=File()),
    ) == [
        {
            "type": "document",
            "source": {"type": "base64", "media_type": pdf, "data": "JVBERg=="},
            "title": "a.pdf",
        },
        {"type": "document", "source": {"type": "url", "url": url}},
        {
            "type": "document",
            "source": {"type": "text", "media_type": "text/plain", "data": "a;b"},
            "title": "a.csv",
        },
        said("[file: application/zip, a.zip]"),
        said(f"[file: text/csv, a.csv, {url}]"),
        said("[file]"),
    ]


def test_an_assistants_picture_is_told_as_text() -> None:
    drawn = assistant(ContentBlock(image=Image(media_type="image/png", data=PNG)))
    assert messages_of("Draw.", drawn, "Thanks.")[1]["content"] == [said("[image: image/png]")]


def test_a_tool_without_a_schema_takes_no_arguments() -> None:
    tool = LookUp(name="now", description="", parameters={})
    body = rendered(asking("Hello", tools=[tool])).parameters
    assert body["tools"] == [{"name": "now", "input_schema": {"type": "object"}}]
    assert problems(body) == []


# The laws.

IDS = st.sampled_from(["a", "b", "a:1", "", "a_1"])
WORDS = st.sampled_from(["", " ", "Hello", "</system_message>", "é"])
ARGUMENTS = st.sampled_from(["{}", '{"word": "x"}', "[]", "{half"])
REASONS = st.sampled_from(sorted(StopReason.values()))

pieces = st.one_of(
    WORDS.map(text),
    st.builds(call, IDS, ARGUMENTS),
    st.builds(lambda words: ContentBlock(thinking=Thinking(text=words)), WORDS),
    st.just(ContentBlock(image=Image(media_type="image/png", data=PNG))),
    st.just(ContentBlock(file=File(media_type="text/plain", data=b"words"))),
)
others = st.one_of(
    st.builds(result, IDS, WORDS, is_error=st.booleans()),
    st.builds(
        lambda role, content: message(role, *content),
        st.sampled_from([Role.ROLE_USER, Role.ROLE_SYSTEM]),
        st.lists(pieces, max_size=2),
    ),
)


@st.composite
def answers(draw: st.DrawFn, before: ModelRequest) -> Message:
    """An answer to a request; its signed parts, if any, are bound to it or to another."""
    answer = message(Role.ROLE_ASSISTANT, *draw(st.lists(pieces, max_size=3)))
    answer.stop_reason = draw(REASONS)
    kind = draw(st.sampled_from(["plain", "bound", "bound elsewhere"]))
    if kind != "plain":
        thought = {"type": "thinking", "thinking": draw(WORDS), "signature": "signed"}
        used_ids = draw(st.lists(st.sampled_from(["a", "b", "c"]), unique=True, max_size=2))
        blocks = [thought, *([used(each) for each in used_ids] or [said("Hm.")])]
        digest = rendered(before).digest if kind == "bound" else b"elsewhere"
        answer.provider_state.CopyFrom(
            ProviderState(digest=digest, blocks_json=json.dumps(blocks).encode())
        )
    return answer


@st.composite
def continued(draw: st.DrawFn, request: ModelRequest) -> ModelRequest:
    """A conversation that goes on."""
    for _ in range(draw(st.integers(0, 5))):
        more = draw(answers(request) if draw(st.booleans()) else others)
        request = replace(request, messages=[*request.messages, more])
    return request


@st.composite
def conversations(draw: st.DrawFn) -> ModelRequest:
    tools = [LookUp()] if draw(st.booleans()) else []
    return draw(continued(asking(system=draw(WORDS), tools=tools)))


@st.composite
def growing(draw: st.DrawFn) -> tuple[ModelRequest, ModelRequest]:
    """A request, and one that was made after its answer."""
    request = draw(conversations())
    answer = draw(answers(request))
    return request, draw(continued(replace(request, messages=[*request.messages, answer])))


@given(conversations())
def test_every_request_keeps_the_rules(request: ModelRequest) -> None:
    for with_state in (True, False):
        body = render(request, "claude-test", "account", with_state=with_state).parameters
        paused = bool(request.messages) and request.messages[-1].stop_reason == PAUSE
        assert problems(body, paused=paused and with_state) == []
        for earlier, later in pairwise(body["messages"]):
            assert earlier["role"] != later["role"]


@given(growing())
@settings(max_examples=100)
def test_each_request_extends_the_one_before(requests: tuple[ModelRequest, ModelRequest]) -> None:
    earlier, later = (rendered(request).parameters for request in requests)
    before, after = flat(earlier), flat(later)
    assert after[: len(before)] == before
    assert {**earlier, "messages": []} == {**later, "messages": []}


@given(growing())
@settings(max_examples=100)
def test_signed_parts_go_back_as_they_came_where_they_are_bound(
    requests: tuple[ModelRequest, ModelRequest],
) -> None:
    earlier, later = requests
    state = later.messages[len(earlier.messages)].provider_state
    if state.digest != rendered(earlier).digest:
        return
    place = len(flat(rendered(earlier).parameters))
    blocks = json.loads(state.blocks_json)
    known = {block.get("id") for _, block in flat(rendered(earlier).parameters)}
    if known.isdisjoint(block["id"] for block in blocks if "id" in block):
        sent = flat(rendered(later).parameters)[place : place + len(blocks)]
        assert sent == [("assistant", block) for block in blocks]


@given(conversations())
def test_signed_parts_go_to_no_other_model_nor_account(request: ModelRequest) -> None:
    for model, account in (("claude-other", "account"), ("claude-test", "another account")):
        other = render(request, model, account)
        assert not other.holds_state
        assert "signed" not in json.dumps(other.parameters)


@given(conversations())
def test_without_state_nothing_signed_is_sent(request: ModelRequest) -> None:
    stripped = render(request, "claude-test", "account", with_state=False)
    assert not stripped.holds_state
    assert "signed" not in json.dumps(stripped.parameters)
    assert rendered(request).holds_state == ("signed" in json.dumps(rendered(request).parameters))
