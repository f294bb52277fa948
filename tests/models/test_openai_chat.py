"""Models behind Chat Completions: what is sent, and what is made of what servers answer."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from callboard.v1.message_pb2 import (
    ContentBlock,
    File,
    Image,
    Message,
    ProviderState,
    StopReason,
    Text,
    Thinking,
    Usage,
)
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
from callboard_server.models.openai_chat import render_request
from standins.http import Exchange
from standins.openai import Event, chat_chunks, scripted, wire
from standins.openai_rules import chat_problems
from standins.replies import Reply
from tests.models.conversations import (
    LookUp,
    answered,
    ask,
    asking,
    assistant,
    call,
    converse,
    joined,
    result,
    shown,
    system,
    user,
)
from tests.models.openai_servers import FULL, MODEL, chat_at, sending

BODY = {"model": MODEL, "stream_options": {"include_usage": True}}
CALLS = [("call", "look_up", '{"word": "a"}'), ("call", "look_up", '{"word": "b"}')]
USAGE = {"prompt_tokens": 7, "completion_tokens": 5}
USED = Usage(input_tokens=7, output_tokens=5, model_calls=1)


def rendered(request: ModelRequest, *, compatible: bool = False) -> dict[str, Any]:
    parameters = render_request(request, MODEL, compatible=compatible)
    assert chat_problems(parameters) == []
    return parameters


async def read(chunks: Iterable[Event | str]) -> tuple[list[Piece], Answer]:
    async with chat_at(sending(chunks)) as (model, _):
        return await converse(model, asking("Hi"))


async def failure(chunks: Iterable[Event | str]) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await read(chunks)
    return raised.value


def chunk(delta: object = None, finish_reason: object = None, **fields: Any) -> Event:
    """A chunk with as little in it as a server may send."""
    return {"choices": [{"delta": delta, "finish_reason": finish_reason}], **fields}


def says(text: str) -> Event:
    return chunk({"content": text})


def calls(*deltas: Event) -> Event:
    return chunk({"tool_calls": list(deltas)})


def piece(arguments: object = None, name: str | None = None, **fields: Any) -> Event:
    """A piece of a call, with nothing that is not given."""
    function = {"name": name, "arguments": arguments}
    return {"function": {k: v for k, v in function.items() if v is not None}, **fields}


class TestRequest:
    REQUEST = asking(
        user("Where is it?"),
        assistant("Let me", "see.", call("call_1", '{"word": "it"}')),
        result("call_1", "There."),
        system("Be quick."),
        system="Be brief.",
        tools=[LookUp()],
        output_schema={"type": "object"},
        max_output_tokens=100,
        effort="low",
        cache_key="lineage",
    )

    def test_whole(self) -> None:
        function = {"name": "look_up", "arguments": '{"word": "it"}'}
        assert rendered(self.REQUEST) == {
            "model": MODEL,
            "messages": [
                {"role": "system", "content": "Be brief."},
                {"role": "user", "content": "Where is it?"},
                {
                    "role": "assistant",
                    "content": "Let me\n\nsee.",
                    "tool_calls": [{"id": "call_1", "type": "function", "function": function}],
                },
                {"role": "tool", "tool_call_id": "call_1", "content": "There."},
                {"role": "system", "content": "Be quick."},
            ],
            "tools": [
                {
                    "type": "function",
                    "function": {
                        "name": "look_up",
                        "description": "Looks a word up.",
                        "parameters": LookUp().parameters,
                    },
                }
            ],
            "reasoning_effort": "low",
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "answer", "schema": {"type": "object"}, "strict": False},
            },
            "max_completion_tokens": 100,
            "stream_options": {"include_usage": True},
        }

    def test_compatible_servers_get_nothing_new(self) -> None:
        parameters = rendered(self.REQUEST, compatible=True)
        assert parameters["max_tokens"] == 100
        assert "max_completion_tokens" not in parameters
        marked = "<system_message>\nBe quick.\n</system_message>"
        assert parameters["messages"][-1] == {"role": "user", "content": marked}
        assert [m["role"] for m in parameters["messages"]].count("system") == 1

    async def test_what_is_rendered_is_what_is_sent(self) -> None:
        async with chat_at(scripted(lambda body: Reply("Hello."))) as (model, server):
            await converse(model, self.REQUEST)
        (sent,) = server.requests
        assert sent.path == "/v1/chat/completions"
        assert sent.body == {"stream": True, **rendered(self.REQUEST, compatible=True)}

    def test_pictures_and_files(self) -> None:
        blocks = [
            ContentBlock(text=Text(text="See:")),
            ContentBlock(image=Image(media_type="image/png", data=b"png")),
            ContentBlock(image=Image(media_type="image/png", url="https://example.com/a.png")),
            ContentBlock(file=File(media_type="application/pdf", name="a.pdf", data=b"pdf")),
            ContentBlock(file=File(name="a.pdf", url="https://example.com/a.pdf")),
            ContentBlock(file=File(media_type="text/csv", name="a.csv", data=b"a,b")),
            ContentBlock(image=Image(media_type="image/png")),
        ]
        (message,) = rendered(asking(user(*blocks)))["messages"]
        png = "data:image/png;base64,cG5n"
        pdf = {"filename": "a.pdf", "file_data": "data:application/pdf;base64,cGRm"}
        assert message["content"] == [
            {"type": "text", "text": "See:"},
            {"type": "image_url", "image_url": {"url": png}},
            {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}},
            {"type": "file", "file": pdf},
            {"type": "text", "text": '<file name="a.pdf" url="https://example.com/a.pdf" />'},
            {"type": "text", "text": '<file name="a.csv">\na,b\n</file>'},
        ]

    def test_pictures_of_the_system(self) -> None:
        picture = ContentBlock(image=Image(media_type="image/png", url="https://example.com/a.png"))
        (message,) = rendered(asking(system("See:", picture)))["messages"]
        assert message["role"] == "user"
        marked = "<system_message>\nSee:\n</system_message>"
        assert message["content"][0] == {"type": "text", "text": marked}

    def test_text_files_alone_are_a_text(self) -> None:
        file = ContentBlock(file=File(media_type="text/csv", name="a.csv", data=b"a,b"))
        (message,) = rendered(asking(user("See:", file)))["messages"]
        assert message["content"] == 'See:\n\n<file name="a.csv">\na,b\n</file>'

    def test_thoughts_and_state_stay_here(self) -> None:
        answer = assistant(ContentBlock(thinking=Thinking(text="Hm.")), "Hello.")
        answer.provider_state.CopyFrom(ProviderState(digest=b"d", blocks_json=b"[{}]"))
        messages = rendered(asking("Hi", answer, "Bye"))["messages"]
        assert messages[1] == {"role": "assistant", "content": "Hello."}

    def test_results_stand_behind_their_calls(self) -> None:
        turn = assistant(call("call_1"), call("call_2"))
        history: list[Message | str] = ["Hi", turn, "And?", result("call_2"), result("call_1", "x")]
        messages = rendered(asking(*history))["messages"]
        assert [message["role"] for message in messages[1:]] == [
            "assistant",
            "tool",
            "tool",
            "user",
        ]
        assert [each["content"] for each in messages[2:4]] == ["x", "found"]

    def test_an_answer_that_was_cut_off(self) -> None:
        messages = rendered(asking("Hi", assistant("Hel", call("call_1", "{"))))["messages"]
        assert messages[1]["tool_calls"][0]["function"]["arguments"] == "{}"
        assert "has no result" in messages[2]["content"]

    def test_grows_at_its_end(self) -> None:
        history: list[Message | str] = ["Hi", assistant("Let me see.", call("call_1"))]
        history += [result("call_1"), assistant("Well."), assistant("So."), "Bye"]
        whole = rendered(asking(*history))["messages"]
        for asked in (1, 3, 4):
            assert whole[: len(m := rendered(asking(*history[:asked]))["messages"])] == m


class TestAnswer:
    async def test_whole(self) -> None:
        async with chat_at(scripted(lambda body: FULL)) as (model, server):
            pieces, answer = await converse(model, asking("Where is it?"))
            after = [answered(answer), result("call_1"), result("call_2")]
            await ask(model, "Where is it?", *after)
        assert shown(answer) == [("thinking", "Where may it be?"), ("text", "It is here."), *CALLS]
        assert joined(pieces) == [block[-1] for block in shown(answer)]
        kinds = [ThinkingPiece, TextPiece, ToolArgumentsPiece, ToolArgumentsPiece]
        assert all(isinstance(piece, kinds[piece.index]) for piece in pieces)
        ids = [block.tool_call.tool_call_id for block in answer.content]
        assert ids == ["", "", "call_1", "call_2"]
        assert answer.stop_reason == StopReason.STOP_REASON_TOOL_USE
        assert answer.provider_state is None
        assert answer.usage == Usage(
            input_tokens=100,
            cached_input_tokens=60,
            output_tokens=50,
            reasoning_tokens=20,
            model_calls=1,
        )
        first, second = (request.body["messages"] for request in server.requests)
        assert second[: len(first)] == first

    async def test_prose(self) -> None:
        async with chat_at(scripted(lambda body: Reply("Hello, you."))) as (model, _):
            pieces, answer = await converse(model, asking("Hi"))
        assert [piece.text for piece in pieces] == ["Hello,", " you."]
        assert answer.stop_reason == StopReason.STOP_REASON_END_TURN

    async def test_refusal(self) -> None:
        async with chat_at(scripted(lambda body: Reply(refusal="I will not."))) as (model, _):
            pieces, answer = await converse(model, asking("Hi"))
        assert joined(pieces) == ["I will not."]
        assert answer.stop_reason == StopReason.STOP_REASON_REFUSAL

    @pytest.mark.parametrize(
        ("reason", "stop_reason"),
        [
            ("stop", StopReason.STOP_REASON_END_TURN),
            ("eos", StopReason.STOP_REASON_END_TURN),
            ("length", StopReason.STOP_REASON_MAX_TOKENS),
            ("model_length", StopReason.STOP_REASON_CONTEXT_OVERFLOW),
            ("content_filter", StopReason.STOP_REASON_REFUSAL),
        ],
    )
    async def test_reasons_to_stop(self, reason: str, stop_reason: StopReason.ValueType) -> None:
        _, answer = await read([says("Hel"), chunk({}, reason)])
        assert shown(answer) == [("text", "Hel")]
        assert answer.stop_reason == stop_reason

    @pytest.mark.parametrize("reason", ["stop", "tool_calls", "function_call"])
    async def test_calls_are_calls_whatever_the_reason(self, reason: str) -> None:
        whole = piece('{"word": "a"}', "look_up", index=0, id="call_1")
        _, answer = await read([calls(whole), chunk({}, reason)])
        assert shown(answer) == CALLS[:1]
        assert answer.stop_reason == StopReason.STOP_REASON_TOOL_USE

    async def test_a_call_that_was_cut_off_is_not_to_be_run(self) -> None:
        cut = piece('{"word": "a', "look_up", index=0, id="call_1")
        _, answer = await read([calls(cut), chunk({}, "length")])
        assert shown(answer) == [("call", "look_up", '{"word": "a')]
        assert answer.stop_reason == StopReason.STOP_REASON_MAX_TOKENS

    @pytest.mark.parametrize("arguments", ['{"word": "a', "[1]", "null", "look up a"])
    async def test_arguments_that_are_no_object(self, arguments: str) -> None:
        bad = calls(piece(arguments, "look_up", index=0, id="call_1"))
        error = await failure([bad, chunk({}, "tool_calls", usage=USAGE)])
        assert error.kind is FailureKind.BROKEN_OFF
        assert error.usage == USED

    async def test_a_call_without_a_name(self) -> None:
        error = await failure([calls(piece("{}", index=0, id="call_1")), chunk({}, "tool_calls")])
        assert error.kind is FailureKind.BROKEN_OFF


class TestOddChunks:
    """Servers differ, and the SDK's types do not hold for all."""

    async def test_with_next_to_nothing_in_them(self) -> None:
        chunks: list[Event] = [
            {},
            {"choices": None},
            {"choices": []},
            {"choices": [None]},
            {"choices": [{}]},
            chunk(None),
            chunk([]),
            chunk({"content": None, "tool_calls": None, "role": None}),
            chunk({"content": 7, "tool_calls": [None, {}, {"function": None}]}),
            says("Hello."),
            chunk(None, ""),
            chunk(None, "stop"),
        ]
        # What is called without a name is none that can be run.
        assert (await failure(chunks)).kind is FailureKind.BROKEN_OFF
        chunks[8] = chunk({"content": 7, "tool_calls": [None]})
        _, answer = await read(chunks)
        assert shown(answer) == [("text", "Hello.")]
        assert answer.usage == Usage(model_calls=1)

    @pytest.mark.parametrize(
        "deltas",
        [
            pytest.param(
                [
                    piece('{"word": "a"}', "look_up", id="call_1"),
                    piece('{"word": "b"}', "look_up", id="call_2"),
                ],
                id="whole, without index",
            ),
            pytest.param(
                [piece('{"word": "a"}', "look_up"), piece('{"word": "b"}', "look_up")],
                id="whole, without index and id",
            ),
            pytest.param(
                [
                    piece("", "look_up", id="call_1"),
                    piece('{"word":'),
                    piece(' "a"}'),
                    piece("", "look_up", id="call_2"),
                    piece('{"word": "b"}'),
                ],
                id="in pieces, without index",
            ),
            pytest.param(
                [
                    piece('{"word":', "look_up", index=0, id="call_1"),
                    piece(' "a"}', "look_up", index=0, id="call_1"),
                    piece('{"word":', "look_up", index=1, id="call_2"),
                    piece(' "b"}', "look_up", index=1, id="call_2"),
                ],
                id="id and name in each piece",
            ),
            pytest.param(
                [
                    piece('{"word":', "look_up", id="call_1"),
                    piece(' "a"}', "look_up", id="call_1"),
                    piece('{"word":', "look_up", id="call_2"),
                    piece(' "b"}', "look_up", id="call_2"),
                ],
                id="id and name in each piece, without index",
            ),
            pytest.param(
                [
                    piece('{"word":', "look_up", index=0, id="call_1"),
                    piece('{"word":', "look_up", index=1, id="call_2"),
                    piece(' "b"}', index=1),
                    piece(' "a"}', index=0),
                ],
                id="in turns",
            ),
            pytest.param(
                [
                    piece('{"word": "a"}', "look_up", index=0, id="call_1"),
                    piece('{"word": "b"}', "look_up", index=0, id="call_2"),
                ],
                id="the same index for all",
            ),
            pytest.param(
                [
                    piece('{"word":', "look_up", index=0, id="call_1"),
                    piece(' "a"}', index=0, id="call_7"),
                    piece('{"word": "b"}', "look_up", index=1, id="call_2"),
                ],
                id="another id in each piece",
            ),
            pytest.param(
                [
                    piece({"word": "a"}, "look_up", index=0, id=""),
                    piece({"word": "b"}, "look_up", index=1, id=None),
                ],
                id="arguments that are no text, and no ids",
            ),
        ],
    )
    async def test_calls(self, deltas: list[Event]) -> None:
        for chunks in ([calls(delta) for delta in deltas], [calls(*deltas)]):
            pieces, answer = await read([*chunks, chunk({}, "tool_calls")])
            assert shown(answer) == CALLS
            assert joined(pieces) == [block[-1] for block in CALLS]
            ids = {block.tool_call.tool_call_id for block in answer.content}
            assert len(ids) == 2 and "" not in ids

    async def test_no_arguments_are_an_empty_object(self) -> None:
        for delta in (piece("", "look_up", id="call_1"), piece(None, "look_up", id="call_1")):
            _, answer = await read([calls(delta), chunk({}, "stop")])
            assert shown(answer) == [("call", "look_up", "{}")]

    async def test_ids_are_new_in_the_conversation(self) -> None:
        chunks = [calls(piece("{}", "look_up", index=0, id="call_1")), chunk({}, "tool_calls")]
        async with chat_at(sending(chunks)) as (model, _):
            answer = await ask(model, "Hi", assistant(call("call_1")), result("call_1"))
        (block,) = answer.content
        assert block.tool_call.tool_call_id not in ("", "call_1")

    @pytest.mark.parametrize(
        "names", [["reasoning_content"], ["reasoning"], ["reasoning", "reasoning_content"]]
    )
    async def test_thoughts(self, names: list[str]) -> None:
        thoughts = [chunk(dict.fromkeys(names, word)) for word in ("Let me", " see.")]
        pieces, answer = await read([*thoughts, says("Yes."), chunk({}, "stop")])
        assert shown(answer) == [("thinking", "Let me see."), ("text", "Yes.")]
        assert joined(pieces) == ["Let me see.", "Yes."]

    @pytest.mark.parametrize(
        "chunks",
        [
            [says("Hi."), chunk({}, "stop"), {"choices": [], "usage": USAGE}],
            [says("Hi.") | {"usage": USAGE}, chunk({}, "stop")],
            [says("Hi.") | {"usage": USAGE}, chunk({}, "stop"), {"choices": [], "usage": None}],
            [says("Hi.") | {"usage": {"prompt_tokens": 1}}, chunk({}, "stop", usage=USAGE)],
            [says("Hi."), chunk({}, "stop", usage=USAGE), "[DONE]"],
        ],
    )
    async def test_usage_wherever_it_stands(self, chunks: list[Event | str]) -> None:
        _, answer = await read(chunks)
        assert answer.usage == USED

    async def test_text_after_the_reason_to_stop(self) -> None:
        pieces, answer = await read([chunk({"content": "Hel"}, "stop"), chunk({"content": "lo."})])
        assert shown(answer) == [("text", "Hello.")]
        assert joined(pieces) == ["Hello."]

    async def test_errors_after_the_end_take_nothing_away(self) -> None:
        chunks = [says("Hello."), chunk({}, "stop"), {"error": {"message": "Oh"}}]
        _, answer = await read(chunks)
        assert shown(answer) == [("text", "Hello.")]

    @pytest.mark.parametrize("reason", ["error", "abort", "insufficient_system_resource"])
    async def test_reasons_that_are_failures(self, reason: str) -> None:
        error = await failure([says("Hel"), chunk({}, reason, usage=USAGE)])
        assert error.kind is FailureKind.BROKEN_OFF
        assert error.usage == USED

    async def test_errors_that_are_chunks(self) -> None:
        event = {"object": "error", "message": "secret", "code": 429}
        error = await failure([says("Hel"), event])
        assert error.kind is FailureKind.RATE_LIMIT
        assert "secret" not in error.message

    @pytest.mark.parametrize("cleanly", [True, False])
    async def test_cut_anywhere(self, cleanly: bool) -> None:
        """Before the reason to stop an answer is not whole, and then it is."""
        events = [wire(event) for event in chat_chunks(BODY, FULL)]
        *before, _, _, _ = (b"".join(events[:count]) for count in range(1, len(events) + 1))
        cuts = [whole[: len(whole) - half] for whole in before for half in (0, 20)]
        cuts.append(b"".join(events[:-2]))

        async def handle(exchange: Exchange) -> None:
            await exchange.begin_events()
            await exchange.send(cuts[len(server.exchanges) - 1])
            if cleanly:
                await exchange.end_events()
            else:
                exchange.cut()

        async with chat_at(handle) as (model, server):
            for _ in cuts[:-1]:
                with pytest.raises(ModelError) as raised:
                    await ask(model, "Hi")
                kind = FailureKind.BROKEN_OFF if cleanly else FailureKind.CONNECTION
                assert raised.value.kind is kind
            assert shown(await ask(model, "Hi"))[-2:] == CALLS
