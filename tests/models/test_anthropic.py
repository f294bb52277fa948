"""The Anthropic adapter: the real SDK against a server that speaks its wire format."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from callboard.v1.message_pb2 import StopReason, Usage
from callboard_server.models.anthropic import AnthropicModel, open_client
from callboard_server.models.base import (
    Answer,
    FailureKind,
    ModelError,
    TextPiece,
    ThinkingPiece,
    ToolArgumentsPiece,
)
from standins.anthropic import BOUND_ELSEWHERE, playing, refuse, scripted
from standins.anthropic_wire import (
    PING,
    begin,
    block,
    call_block,
    delta,
    end,
    json_delta,
    start,
    text_block,
    text_delta,
    wire,
)
from standins.http import Break, Exchange, serving
from standins.replies import Call, Reply
from tests.models.anthropic_servers import KEY, NAME, answer_of, flat, opened
from tests.models.conversations import (
    LookUp,
    answered,
    asking,
    assistant,
    call,
    converse,
    result,
    shown,
    user,
)

END_TURN, TOOL_USE = StopReason.STOP_REASON_END_TURN, StopReason.STOP_REASON_TOOL_USE
MAX_TOKENS, PAUSE = StopReason.STOP_REASON_MAX_TOKENS, StopReason.STOP_REASON_PAUSE

THOUGHT = block(
    0,
    {"type": "thinking", "thinking": "", "signature": ""},
    {"type": "thinking_delta", "thinking": "Let me "},
    {"type": "thinking_delta", "thinking": "see."},
    {"type": "signature_delta", "signature": "signed"},
)


async def test_every_kind_of_event_becomes_what_it_is() -> None:
    handler = playing(
        wire("of_the_future", before="the message"),
        start({"input_tokens": 5, "output_tokens": 1}),
        PING,
        *THOUGHT,
        *block(1, {"type": "redacted_thinking", "data": "c2VjcmV0"}),
        *text_block(2, "I will", " look."),
        PING,
        *block(3, {"type": "of_the_future", "value": 1}, {"type": "future_delta", "value": 2}),
        wire("of_the_future", within="the message"),
        *block(4, call_block("toolu_1", "look_up"), *map(json_delta, ["", '{"word": ', '"x"}'])),
        *end("tool_use"),
    )
    async with opened(handler) as (model, _):
        pieces, answer = await converse(model, asking("Hello"))
    assert pieces == [
        ThinkingPiece(0, "Let me "),
        ThinkingPiece(0, "see."),
        TextPiece(1, "I will"),
        TextPiece(1, " look."),
        ToolArgumentsPiece(2, '{"word": '),
        ToolArgumentsPiece(2, '"x"}'),
    ]
    assert shown(answer) == [
        ("thinking", "Let me see."),
        ("text", "I will look."),
        ("call", "look_up", '{"word": "x"}'),
    ]
    assert answer.content[2].tool_call.tool_call_id == "toolu_1"
    assert answer.stop_reason == TOOL_USE
    assert answer.provider_state is not None
    assert json.loads(answer.provider_state.blocks_json) == [
        {"type": "thinking", "thinking": "Let me see.", "signature": "signed"},
        {"type": "redacted_thinking", "data": "c2VjcmV0"},
        {"type": "text", "text": "I will look."},
        {"type": "of_the_future", "value": 1},
        {"type": "tool_use", "id": "toolu_1", "name": "look_up", "input": {"word": "x"}},
    ]


async def test_a_plain_answer_has_no_state() -> None:
    handler = playing(start(), *text_block(0, "Hi"), *text_block(1, "  "), *end("end_turn"))
    answer = await answer_of(handler)
    assert shown(answer) == [("text", "Hi"), ("text", "  ")]
    assert answer.provider_state is None


async def test_what_begins_with_text_and_has_no_deltas_is_shown_too() -> None:
    handler = playing(
        start(),
        *block(0, {"type": "thinking", "thinking": "Hm.", "signature": "signed"}),
        *block(1, {"type": "text", "text": "Hi"}, text_delta(" there")),
        *block(2, {**call_block("toolu_1", "look"), "input": {"at": 1}}),
        *end("tool_use"),
    )
    async with opened(handler) as (model, _):
        pieces, answer = await converse(model, asking("Hello"))
    assert pieces == [ThinkingPiece(0, "Hm."), TextPiece(1, "Hi"), TextPiece(1, " there")]
    assert answer.content[2].tool_call.arguments_json == '{"at": 1}'


async def test_the_request_is_what_the_api_wants() -> None:
    request = asking("Hello", system="Be brief.", tools=[LookUp()])
    async with opened(scripted(lambda body: Reply("Hi"))) as (model, server):
        await converse(model, request)
    sent = server.requests[0]
    assert (sent.method, sent.path) == ("POST", "/v1/messages")
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.body == {
        "model": "claude-test",
        "max_tokens": 16_384,
        "stream": True,
        "cache_control": {"type": "ephemeral"},
        "system": "Be brief.",
        "tools": [
            {
                "name": "look_up",
                "description": "Looks a word up.",
                "input_schema": LookUp().parameters,
            }
        ],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello"}]}],
    }


async def test_what_a_request_wishes_is_passed_on() -> None:
    schema = {
        "type": "object",
        "properties": {"age": {"type": "integer", "minimum": 0}},
        "required": ["age"],
    }
    request = asking("Hello", effort="low", output_schema=schema, max_output_tokens=100)
    async with opened(scripted(lambda body: Reply('{"age": 3}'))) as (model, server):
        await converse(model, request)
    body = server.requests[0].body
    assert body["max_tokens"] == 100
    assert body["output_config"]["effort"] == "low"
    form = body["output_config"]["format"]
    assert form["type"] == "json_schema"
    assert form["schema"]["additionalProperties"] is False
    assert form["schema"]["properties"]["age"]["type"] == "integer"


@pytest.mark.parametrize(
    "schema", [{}, {"type": ["string", "null"]}, {"type": "object", "properties": {"x": True}}]
)
async def test_a_schema_that_cannot_be_sent_is_an_error(schema: dict[str, Any]) -> None:
    async with opened(scripted(lambda body: Reply("Hi"))) as (model, server):
        with pytest.raises(ModelError, match="output schema") as caught:
            await converse(model, asking("Hello", output_schema=schema))
    assert caught.value.kind is FailureKind.INVALID_REQUEST
    assert not server.requests


async def test_nothing_of_the_environment_goes_over_the_wire(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in """API_KEY AUTH_TOKEN PROFILE CONFIG_DIR CUSTOM_HEADERS BASE_URL IDENTITY_TOKEN
        FEDERATION_RULE_ID ORGANIZATION_ID SERVICE_ACCOUNT_ID WORKSPACE_ID SCOPE
        WEBHOOK_SIGNING_KEY OPEN_TELEMETRY_TRACES_CONTENT_MODE
        """.split():
        monkeypatch.setenv(f"ANTHROPIC_{name}", f"leaked-{name.lower()}")
    monkeypatch.setenv("ANTHROPIC_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv(
        "ANTHROPIC_CUSTOM_HEADERS",
        "x-leaked: leaked\nAuthorization: Bearer leaked\nanthropic-version: leaked",
    )
    async with opened(scripted(lambda body: Reply("Hi"))) as (model, server):
        await converse(model, asking("Hello"))
    sent = server.requests[0]
    assert not [name for name, value in sent.headers.items() if "leaked" in name + value]
    assert b"leaked" not in sent.content
    assert sent.headers["authorization"] == f"Bearer {KEY}"
    assert sent.headers["anthropic-version"] != "leaked"


@pytest.mark.parametrize("suffix", ["", "/", "/v1", "/v1/"])
async def test_the_address_may_have_the_version_or_not(suffix: str) -> None:
    async with (
        serving(scripted(lambda body: Reply("Hi"))) as server,
        open_client(KEY, server.url + suffix) as client,
    ):
        await converse(AnthropicModel(NAME, "claude-test", client, ""), asking("Hello"))
    assert server.requests[0].path == "/v1/messages"


async def test_without_an_address_it_is_that_of_anthropic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_BASE_URL", "https://leaked.example")
    async with open_client(KEY, None) as client:
        assert client.base_url.host == "api.anthropic.com"
        assert client.max_retries == 0


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("end_turn", END_TURN),
        ("max_tokens", MAX_TOKENS),
        ("stop_sequence", StopReason.STOP_REASON_STOP_SEQUENCE),
        ("pause_turn", PAUSE),
        ("refusal", StopReason.STOP_REASON_REFUSAL),
        ("model_context_window_exceeded", StopReason.STOP_REASON_CONTEXT_OVERFLOW),
        ("of_the_future", END_TURN),
        # Of no tool.
        ("tool_use", END_TURN),
    ],
)
async def test_stop_reasons(reason: str, expected: StopReason.ValueType) -> None:
    answer = await answer_of(playing(start(), *text_block(0, "Hi"), *end(reason)))
    assert answer.stop_reason == expected
    assert shown(answer) == [("text", "Hi")]


async def test_a_refusal_may_be_empty() -> None:
    answer = await answer_of(playing(start(), *end("refusal")))
    assert answer.stop_reason == StopReason.STOP_REASON_REFUSAL
    assert not answer.content
    assert answer.provider_state is None


@pytest.mark.parametrize("reason", ["max_tokens", "end_turn", "refusal", "of_the_future"])
async def test_a_call_counts_only_if_the_model_stopped_for_it(reason: str) -> None:
    cut = block(0, call_block("toolu_1", "delete"), json_delta('{"recursive": true, "path": "/ho'))
    answer = await answer_of(playing(start(), *cut, *end(reason)))
    assert answer.stop_reason != TOOL_USE
    assert answer.content[0].tool_call.arguments_json == '{"recursive": true, "path": "/ho'


async def test_a_paused_answer_goes_back_as_it_came() -> None:
    search = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}

    async def pausing(exchange: Exchange) -> None:
        await exchange.begin_events()
        if len(exchange.request.body["messages"]) == 1:
            searching = block(1, search, json_delta('{"query": "x"}'))
            await exchange.play(start(), *text_block(0, "Wait. "), *searching, *end("pause_turn"))
        else:
            await exchange.play(start(), *text_block(0, "Done."), *end("end_turn"))

    async with opened(pausing) as (model, server):
        _, paused = await converse(model, asking("Hello"))
        assert paused.stop_reason == PAUSE
        _, done = await converse(model, asking("Hello", answered(paused)))
    assert shown(done) == [("text", "Done.")]
    assert server.requests[1].body["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hello"}]},
        {
            "role": "assistant",
            "content": [{"type": "text", "text": "Wait. "}, {**search, "input": {"query": "x"}}],
        },
    ]


async def test_usage_counts_what_is_cached_as_input() -> None:
    begun = {
        "input_tokens": 10,
        "cache_read_input_tokens": 300,
        "cache_creation_input_tokens": 40,
        "output_tokens": 1,
    }
    ended = {"output_tokens": 25, "output_tokens_details": {"thinking_tokens": 7}}
    answer = await answer_of(playing(start(begun), *text_block(0, "Hi"), *end("end_turn", ended)))
    assert answer.usage == Usage(
        input_tokens=350,
        cached_input_tokens=300,
        cache_write_tokens=40,
        output_tokens=25,
        reasoning_tokens=7,
        model_calls=1,
    )


async def test_usage_that_is_told_at_the_end_replaces_what_was_told_before() -> None:
    ended = {"input_tokens": 12, "cache_read_input_tokens": 5, "output_tokens": 25}
    begun = {"input_tokens": 10, "output_tokens": 1}
    answer = await answer_of(playing(start(begun), *text_block(0, "Hi"), *end("end_turn", ended)))
    assert (answer.usage.input_tokens, answer.usage.cached_input_tokens) == (17, 5)


async def test_a_server_that_counts_nothing_is_understood() -> None:
    handler = playing(start({}), *text_block(0, "Hi"), *end("end_turn", {"output_tokens": 0}))
    assert (await answer_of(handler)).usage == Usage(model_calls=1)


async def test_calls_get_ids_of_their_own_where_the_server_repeats_them() -> None:
    handler = playing(
        start(),
        *THOUGHT,
        *block(1, call_block("call_0", "look"), json_delta("{}")),
        *block(2, call_block("call_1", "look"), json_delta("{}")),
        *block(3, call_block("call_1", "look"), json_delta("{}")),
        *block(4, call_block("", "look"), json_delta("{}")),
        *end("tool_use"),
    )
    answer = await answer_of(handler, asking("Hello", assistant(call("call_0")), result("call_0")))
    ids = [each.tool_call.tool_call_id for each in answer.content if each.HasField("tool_call")]
    assert ids[1] == "call_1"
    assert len({"call_0", *ids}) == 5
    assert all(ids)
    assert answer.provider_state is None


@pytest.mark.parametrize(
    "blocks",
    [
        THOUGHT,
        [*text_block(0, " "), *block(1, {"type": "redacted_thinking", "data": "c2VjcmV0"})],
        [*THOUGHT, *block(1, call_block("toolu_1", "look"), json_delta("[1]"))],
    ],
    ids=["only thinking", "empty text and thinking", "a list as arguments"],
)
async def test_what_the_api_would_not_take_back_is_no_state(blocks: list[bytes]) -> None:
    async with opened(playing(start(), *blocks, *end("max_tokens"))) as (model, _):
        _, answer = await converse(model, asking("Hello"))
        assert answer.provider_state is None
        await converse(model, asking("Hello", answered(answer), "And?"))


async def test_empty_text_within_state_is_left_out() -> None:
    handler = playing(start(), *THOUGHT, *text_block(1, ""), *text_block(2, "Hi"), *end("end_turn"))
    answer = await answer_of(handler)
    assert answer.provider_state is not None
    kinds = [each["type"] for each in json.loads(answer.provider_state.blocks_json)]
    assert kinds == ["thinking", "text"]
    assert shown(answer) == [("thinking", "Let me see."), ("text", "Hi")]


async def test_signed_thinking_goes_back_through_a_whole_conversation() -> None:
    """The stand-in checks each signature against all that stands before it."""
    replies = iter(
        [
            Reply("I look.", [Call("look_up"), Call("look_up")], thinking="What is there?"),
            Reply("A house.", thinking="A house it is."),
            Reply(calls=[Call("look_up")], thinking="Again."),
            Reply("A tree."),
        ]
    )
    request = asking("What do you see?", system="Look.", tools=[LookUp()])
    messages = list(request.messages)
    async with opened(scripted(lambda body: next(replies))) as (model, server):
        for turn in range(4):
            _, answer = await converse(
                model, asking(*messages, system="Look.", tools=request.tools)
            )
            messages.append(answered(answer))
            for each in answer.content:
                if each.HasField("tool_call"):
                    messages.append(result(each.tool_call.tool_call_id))
            if turn == 1:
                messages.append(user("And behind it?"))
    assert shown(answer) == [("text", "A tree.")]
    for earlier, later in pairwise(request.body for request in server.requests):
        assert later["messages"][: len(earlier["messages"])] == earlier["messages"]
    kinds = [block["type"] for _, block in flat(server.requests[-1].body)]
    assert kinds.count("thinking") == 3
    assert answer.usage == Usage(input_tokens=20, output_tokens=10, model_calls=1)


async def test_thinking_of_a_changed_conversation_stays_behind() -> None:
    handler = scripted(lambda body: Reply("Hi", thinking="Hm."))
    async with opened(handler) as (model, server):
        _, answer = await converse(model, asking("Hello", system="Be brief."))
        await converse(model, asking("Hello", answered(answer), "And?", system="Be long."))
        await converse(model, asking("Hallo", answered(answer), "And?", system="Be brief."))
        await converse(model, asking("Hello", answered(answer), "And?", system="Be brief."))
        other = AnthropicModel(NAME, "claude-test", model._client, "another account")
        await converse(other, asking("Hello", answered(answer), "And?", system="Be brief."))
    said = [request.body["messages"][1]["content"] for request in server.requests[1:]]
    plain = [{"type": "text", "text": "Hi"}]
    assert [each == plain for each in said] == [True, True, False, True]


async def test_a_request_refused_for_its_thinking_is_sent_once_more_without() -> None:
    signatures = []

    async def strict(exchange: Exchange) -> None:
        blocks = [block for _, block in flat(exchange.request.body)]
        signatures.append([block.get("signature") for block in blocks])
        if any(signatures[-1]):
            await refuse(exchange, 400, "invalid_request_error", BOUND_ELSEWHERE)
            return
        await exchange.begin_events()
        await exchange.play(start(), *THOUGHT, *text_block(1, "Hi"), *end("end_turn"))

    async with opened(strict) as (model, _):
        _, first = await converse(model, asking("Hello"))
        pieces, second = await converse(model, asking("Hello", answered(first), "And?"))
    assert signatures == [[None], [None, "signed", None, None], [None, None, None]]
    assert pieces[-1] == TextPiece(1, "Hi")
    assert second.provider_state is not None


async def test_a_request_without_thinking_is_sent_once() -> None:
    async def strict(exchange: Exchange) -> None:
        await refuse(exchange, 400, "invalid_request_error", BOUND_ELSEWHERE)

    async with opened(strict) as (model, server):
        with pytest.raises(ModelError) as caught:
            await converse(model, asking("Hello"))
    assert caught.value.kind is FailureKind.INVALID_REQUEST
    assert len(server.requests) == 1


async def test_a_connection_that_ends_behind_the_answer_takes_nothing_from_it() -> None:
    for ending in (Break.CUT, Break.RESET, asyncio.Event(), b"event: error\ndata: {}\n\n"):
        answer = await answer_of(playing(start(), *text_block(0, "Hi"), *end("end_turn"), ending))
        assert shown(answer) == [("text", "Hi")]


async def test_closing_the_answer_closes_the_connection() -> None:
    never = asyncio.Event()
    handler = playing(
        start(), begin(0, {"type": "text", "text": ""}), delta(0, text_delta("Hi")), never
    )
    async with opened(handler) as (model, server):
        stream = model.stream(asking("Hello"))
        assert await anext(stream) == TextPiece(0, "Hi")
        await stream.aclose()
        await (await server.arrived()).left.wait()


@pytest.mark.parametrize("begun", [False, True], ids=["before the head", "in the answer"])
async def test_cancelling_closes_the_connection(begun: bool) -> None:
    reached = asyncio.Event()

    async def slow(exchange: Exchange) -> None:
        if begun:
            await exchange.begin_events()
            await exchange.send(start())
        reached.set()
        await asyncio.Event().wait()

    async with opened(slow) as (model, server):
        task = asyncio.create_task(converse(model, asking("Hello")))
        await reached.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await (await server.arrived()).left.wait()


async def test_pieces_come_as_they_are_sent() -> None:
    gates = asyncio.Event(), asyncio.Event()
    first = begin(0, {"type": "text", "text": ""}), delta(0, text_delta("one"))
    second = delta(0, text_delta("two"))
    handler = playing(start(), *first, gates[0], second, gates[1], *end("end_turn"))
    async with opened(handler) as (model, _):
        stream = model.stream(asking("Hello"))
        assert await anext(stream) == TextPiece(0, "one")
        gates[0].set()
        assert await anext(stream) == TextPiece(0, "two")
        gates[1].set()
        *_, answer = [item async for item in stream]
    assert isinstance(answer, Answer)
    assert shown(answer) == [("text", "onetwo")]
