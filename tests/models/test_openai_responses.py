"""Models behind the Responses API: what is sent, and what is made of what comes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

import pytest

from callboard.v1.message_pb2 import (
    ContentBlock,
    File,
    Image,
    Message,
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
from callboard_server.models.openai_responses import render_request
from standins.http import Exchange
from standins.openai import Event, broken_seals, responses_events, scripted, wire
from standins.openai_rules import responses_problems
from standins.replies import Call, Reply
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
from tests.models.openai_servers import ACCOUNT, FULL, MODEL, responses_at, sending

BODY = {"model": MODEL, "input": [{"role": "user", "content": "Hi"}]}


def rendered(request: ModelRequest, *, compatible: bool = False) -> dict[str, Any]:
    parameters = render_request(request, MODEL, ACCOUNT, compatible=compatible).parameters
    assert responses_problems(parameters) == []
    return parameters


def said(role: str, *texts: str) -> Event:
    parts = [{"type": "input_text", "text": text} for text in texts]
    return {"type": "message", "role": role, "content": parts}


async def read(events: Iterable[Event | str]) -> tuple[list[Piece], Answer]:
    async with responses_at(sending(events)) as (model, _):
        return await converse(model, asking("Hi"))


async def failure(events: Iterable[Event | str]) -> ModelError:
    with pytest.raises(ModelError) as raised:
        await read(events)
    return raised.value


def delta(kind: str, text: str, index: int = 0) -> Event:
    place = {"item_id": "item", "output_index": index, "content_index": 0, "summary_index": 0}
    return {"type": f"response.{kind}.delta", **place, "delta": text}


def done(index: int, item: Event) -> Event:
    return {"type": "response.output_item.done", "output_index": index, "item": item}


def spoken(text: str, **fields: Any) -> Event:
    part = {"type": "output_text", "text": text, "annotations": []}
    return {"type": "message", "id": "msg_1", "role": "assistant", "content": [part], **fields}


def called(arguments: str, **fields: Any) -> Event:
    called = {"type": "function_call", "call_id": "call_1", "name": "look_up"}
    return {**called, "arguments": arguments, **fields}


def thought(**fields: Any) -> Event:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x", **fields}


def ended(status: str = "completed", **fields: Any) -> Event:
    response = {"id": "resp_1", "object": "response", "status": status, "output": [], **fields}
    return {"type": f"response.{status}", "response": response}


class TestRequest:
    def test_whole(self) -> None:
        request = asking(
            user("Where is it?"),
            assistant("Let me see.", call("call_1", '{"word": "it"}')),
            result("call_1", "There."),
            system("Be quick."),
            system="Be brief.",
            tools=[LookUp()],
            output_schema={"type": "object"},
            max_output_tokens=100,
            effort="low",
            cache_key="lineage",
        )
        assert rendered(request) == {
            "model": MODEL,
            "instructions": "Be brief.",
            "input": [
                said("user", "Where is it?"),
                {"type": "message", "role": "assistant", "content": "Let me see."},
                called('{"word": "it"}'),
                {"type": "function_call_output", "call_id": "call_1", "output": "There."},
                said("system", "Be quick."),
            ],
            "tools": [
                {
                    "type": "function",
                    "name": "look_up",
                    "description": "Looks a word up.",
                    "parameters": LookUp().parameters,
                    "strict": False,
                }
            ],
            "reasoning": {"effort": "low", "summary": "auto"},
            "text": {
                "format": {
                    "type": "json_schema",
                    "name": "answer",
                    "schema": {"type": "object"},
                    "strict": False,
                }
            },
            "max_output_tokens": 100,
            "prompt_cache_key": "lineage",
            "store": False,
            "include": ["reasoning.encrypted_content"],
        }

    def test_says_nothing_that_nobody_set(self) -> None:
        assert rendered(asking("Hi")) == {
            "model": MODEL,
            "input": [said("user", "Hi")],
            "store": False,
            "include": ["reasoning.encrypted_content"],
        }

    def test_compatible_servers_get_nothing_special(self) -> None:
        request = asking("Hi", system("Be quick."), cache_key="lineage")
        parameters = rendered(request, compatible=True)
        assert "prompt_cache_key" not in parameters
        marked = "<system_message>\nBe quick.\n</system_message>"
        assert parameters["input"] == [said("user", "Hi"), said("user", marked)]

    async def test_what_is_rendered_is_what_is_sent(self) -> None:
        request = asking("Hi", system="Be brief.", tools=[LookUp()], cache_key="lineage")
        async with responses_at(scripted(lambda body: Reply("Hello."))) as (model, server):
            await converse(model, request)
        (sent,) = server.requests
        assert sent.path == "/v1/responses"
        assert sent.body == {"stream": True, **rendered(request, compatible=True)}

    def test_pictures_and_files(self) -> None:
        blocks = [
            ContentBlock(image=Image(media_type="image/png", data=b"png")),
            ContentBlock(image=Image(media_type="image/png", url="https://example.com/a.png")),
            ContentBlock(file=File(media_type="application/pdf", name="a.pdf", data=b"pdf")),
            ContentBlock(file=File(media_type="application/pdf", data=b"pdf")),
            ContentBlock(file=File(media_type="application/pdf", url="https://example.com/a.pdf")),
            ContentBlock(file=File(media_type="text/csv", name="a.csv", data="é,ü".encode())),
            ContentBlock(file=File(media_type="text/csv", name="a.csv", data=b"\xff")),
            ContentBlock(image=Image(media_type="image/png")),
            ContentBlock(file=File(media_type="application/pdf", name="a.pdf")),
        ]
        (item,) = rendered(asking(user(*blocks)))["input"]
        assert item["content"] == [
            {
                "type": "input_image",
                "detail": "auto",
                "image_url": "data:image/png;base64,cG5n",
            },
            {"type": "input_image", "detail": "auto", "image_url": "https://example.com/a.png"},
            {
                "type": "input_file",
                "filename": "a.pdf",
                "file_data": "data:application/pdf;base64,cGRm",
            },
            {
                "type": "input_file",
                "filename": "file",
                "file_data": "data:application/pdf;base64,cGRm",
            },
            {"type": "input_file", "file_url": "https://example.com/a.pdf"},
            {"type": "input_text", "text": '<file name="a.csv">\né,ü\n</file>'},
            {
                "type": "input_file",
                "filename": "a.csv",
                "file_data": "data:text/csv;base64,/w==",
            },
        ]

    def test_a_tool_without_parameters(self) -> None:
        tool = LookUp(parameters={})
        (sent,) = rendered(asking("Hi", tools=[tool]))["tools"]
        assert sent["parameters"] == {"type": "object", "properties": {}}


class TestOddConversations:
    """Whatever a conversation holds, its request follows the rules."""

    def items(self, *messages: Message | str) -> list[Event]:
        items: list[Event] = rendered(asking(*messages))["input"]
        return items

    def test_empty(self) -> None:
        assert self.items() == [said("user", "Go on.")]

    def test_empty_messages(self) -> None:
        blank = ContentBlock(text=Text(text=" \n"))
        thinking = ContentBlock(thinking=Thinking(text="Hm."))
        items = self.items("Hi", user(), user(""), assistant(blank), assistant(thinking), "There?")
        assert items == [said("user", "Hi"), said("user", "There?")]

    def test_an_answer_that_was_cut_off(self) -> None:
        items = self.items("Hi", assistant("Hel"))
        assert items[-1] == said("user", "Go on.")

    def test_answers_without_questions(self) -> None:
        items = self.items(assistant("One."), assistant("Two."), "Three?")
        texts = [item["content"] if item["role"] == "assistant" else "..." for item in items]
        assert texts == ["...", "One.", "...", "Two.", "..."]

    def test_calls_without_results(self) -> None:
        items = self.items("Hi", assistant(call("call_1"), call("call_2")), result("call_2"), "So?")
        outputs = {i["call_id"]: i["output"] for i in items if i["type"] == "function_call_output"}
        assert outputs["call_2"] == "found"
        assert "has no result" in outputs["call_1"]

    def test_results_behind_what_others_said(self) -> None:
        items = self.items("Hi", assistant(call("call_1")), "And?", result("call_1"))
        assert [item["type"] for item in items[1:3]] == ["function_call", "function_call_output"]
        assert items[3] == said("user", "And?")

    def test_results_without_calls(self) -> None:
        items = self.items("Hi", assistant(call("call_1")), assistant("Well."), result("call_1"))
        assert items[-1] == said("user", "Late result of look_up: found")

    def test_results_twice(self) -> None:
        items = self.items("Hi", assistant(call("call_1")), result("call_1"), result("call_1", "x"))
        assert items[-1] == said("user", "Late result of look_up: x")

    @pytest.mark.parametrize(("is_error", "output"), [(False, "nothing"), (True, "failed")])
    def test_results_that_say_nothing(self, is_error: bool, output: str) -> None:
        messages = [assistant(call("call_1")), result("call_1", " ", is_error=is_error)]
        assert output in self.items("Hi", *messages)[-1]["output"]

    @pytest.mark.parametrize("arguments", ["", '{"word": "a', "[]", "null", '{"a": NaN}', "x"])
    def test_arguments_that_are_no_object(self, arguments: str) -> None:
        items = self.items("Hi", assistant(call("call_1", arguments)), result("call_1"))
        assert items[1]["arguments"] == "{}"

    @pytest.mark.parametrize("call_id", ["", "a" * 65, "with space", "ünïcode", "functions.f:0"])
    def test_ids_of_other_providers(self, call_id: str) -> None:
        items = self.items("Hi", assistant(call(call_id)), result(call_id))
        assert items[1]["call_id"] == items[2]["call_id"]
        assert items[2]["output"] == "found"

    def test_ids_that_come_twice(self) -> None:
        turn = [assistant(call("call_1")), result("call_1", "one")]
        again = [assistant(call("call_1")), result("call_1", "two")]
        items = self.items("Hi", *turn, *again)
        assert [item["output"] for item in items if "output" in item] == ["one", "two"]

    def test_names_of_other_providers(self) -> None:
        items = self.items("Hi", assistant(call("call_1", name="a.b c")), result("call_1"))
        assert items[1]["name"] == "a_b_c"


class TestAnswer:
    async def test_whole(self) -> None:
        async with responses_at(scripted(lambda body: FULL)) as (model, _):
            pieces, answer = await converse(model, asking("Where is it?"))
        assert shown(answer) == [
            ("thinking", "Where may it be?"),
            ("text", "It is here."),
            ("call", "look_up", '{"word": "a"}'),
            ("call", "look_up", '{"word": "b"}'),
        ]
        assert joined(pieces) == [block[-1] for block in shown(answer)]
        kinds = [ThinkingPiece, TextPiece, ToolArgumentsPiece, ToolArgumentsPiece]
        assert all(isinstance(piece, kinds[piece.index]) for piece in pieces)
        ids = [block.tool_call.tool_call_id for block in answer.content]
        assert ids == ["", "", "call_1", "call_2"]
        assert answer.stop_reason == StopReason.STOP_REASON_TOOL_USE
        assert answer.usage == Usage(
            input_tokens=100,
            cached_input_tokens=60,
            output_tokens=50,
            reasoning_tokens=20,
            model_calls=1,
        )

    async def test_prose(self) -> None:
        async with responses_at(scripted(lambda body: Reply("Hello, you."))) as (model, _):
            pieces, answer = await converse(model, asking("Hi"))
        assert [piece.text for piece in pieces] == ["Hello,", " you."]
        assert shown(answer) == [("text", "Hello, you.")]
        assert answer.stop_reason == StopReason.STOP_REASON_END_TURN
        assert answer.provider_state is None

    async def test_refusal(self) -> None:
        async with responses_at(scripted(lambda body: Reply(refusal="I will not."))) as (model, _):
            pieces, answer = await converse(model, asking("Hi"))
        assert joined(pieces) == ["I will not."]
        assert shown(answer) == [("text", "I will not.")]
        assert answer.stop_reason == StopReason.STOP_REASON_REFUSAL

    @pytest.mark.parametrize(
        ("details", "stop_reason"),
        [
            ({"reason": "max_output_tokens"}, StopReason.STOP_REASON_MAX_TOKENS),
            ({"reason": "content_filter"}, StopReason.STOP_REASON_REFUSAL),
            ({"reason": "of tomorrow"}, StopReason.STOP_REASON_MAX_TOKENS),
            (None, StopReason.STOP_REASON_MAX_TOKENS),
        ],
    )
    async def test_incomplete(self, details: object, stop_reason: StopReason.ValueType) -> None:
        usage = {"input_tokens": 7, "output_tokens": 5}
        events = [delta("output_text", "Hel"), ended("incomplete", incomplete_details=details)]
        events[-1]["response"]["usage"] = usage
        _, answer = await read(events)
        assert shown(answer) == [("text", "Hel")]
        assert answer.stop_reason == stop_reason
        assert answer.usage == Usage(input_tokens=7, output_tokens=5, model_calls=1)

    async def test_a_call_that_was_cut_off_is_not_to_be_run(self) -> None:
        cut = Reply(calls=[Call("look_up", '{"word": "a')], thinking="Hm.", cut=True)
        async with responses_at(scripted(lambda body: cut)) as (model, _):
            answer = await ask(model, "Hi")
        assert shown(answer)[-1] == ("call", "look_up", '{"word": "a')
        assert answer.stop_reason == StopReason.STOP_REASON_MAX_TOKENS
        assert answer.provider_state is None

    async def test_a_call_that_was_cut_off_before_its_name(self) -> None:
        events = [delta("output_text", "Hel"), delta("function_call_arguments", "{", 1)]
        _, answer = await read([*events, ended("incomplete")])
        assert shown(answer) == [("text", "Hel")]

    @pytest.mark.parametrize("arguments", ['{"word": "a', "[1]", "null", "look up a"])
    async def test_arguments_that_are_no_object(self, arguments: str) -> None:
        usage = {"input_tokens": 7, "output_tokens": 5}
        error = await failure([done(0, called(arguments)), ended(usage=usage)])
        assert error.kind is FailureKind.BROKEN_OFF
        assert error.usage == Usage(input_tokens=7, output_tokens=5, model_calls=1)

    async def test_no_arguments_are_an_empty_object(self) -> None:
        _, answer = await read([done(0, called("")), ended()])
        assert shown(answer) == [("call", "look_up", "{}")]
        assert answer.stop_reason == StopReason.STOP_REASON_TOOL_USE

    async def test_ids_are_new_in_the_conversation(self) -> None:
        history = [user("Hi"), assistant(call("call_1")), result("call_1")]
        events = [
            done(0, thought()),
            done(1, called("{}", id="fc_1")),
            done(2, called("{}", id="fc_2", call_id="with space")),
            done(3, called("{}", id="fc_3", call_id="call_3")),
            done(4, called("{}", id="fc_4", call_id="call_3")),
            ended(),
        ]
        async with responses_at(sending(events)) as (model, _):
            answer = await ask(model, *history)
        ids = [block.tool_call.tool_call_id for block in answer.content]
        assert len(set(ids)) == 4 and "call_3" in ids
        assert not {"call_1", "with space"} & set(ids)
        assert answer.provider_state is None

    async def test_items_count_as_they_are_when_done(self) -> None:
        events = [
            delta("output_text", "Helo"),
            delta("function_call_arguments", '{"word"', 1),
            done(0, spoken("Hello.")),
            done(1, called('{"word": "a"}')),
            done(2, spoken("Bye.")),
            ended(),
        ]
        pieces, answer = await read(events)
        calls = ("call", "look_up", '{"word": "a"}')
        assert shown(answer) == [("text", "Hello."), calls, ("text", "Bye.")]
        assert joined(pieces) == ["Helo", '{"word": "a"}', "Bye."]

    async def test_items_that_are_only_in_the_end(self) -> None:
        output = [thought(summary=[{"type": "summary_text", "text": "Hm."}]), spoken("Hello.")]
        pieces, answer = await read([done(0, output[0]), ended(output=output)])
        assert shown(answer) == [("thinking", "Hm."), ("text", "Hello.")]
        assert joined(pieces) == ["Hm.", "Hello."]

    async def test_thoughts_of_open_models(self) -> None:
        item = thought(content=[{"type": "reasoning_text", "text": "So it is."}])
        del item["encrypted_content"]
        events = [delta("reasoning_text", "So it"), done(0, item), done(1, spoken("Yes.")), ended()]
        pieces, answer = await read(events)
        assert shown(answer) == [("thinking", "So it is."), ("text", "Yes.")]
        assert joined(pieces) == ["So it is.", "Yes."]
        assert answer.provider_state is not None

    async def test_what_is_not_known_passes(self) -> None:
        events: list[Event] = [
            {"type": "response.queued", "response": {}},
            {"type": "keepalive", "sequence_number": 1},
            {"type": "response.of_tomorrow.delta", "output_index": 0, "delta": "?"},
            {"type": "response.output_item.added", "output_index": 0, "item": {"type": "?"}},
            {"type": "response.output_text.delta", "delta": "without a place"},
            {"type": "response.output_text.delta", "output_index": 0, "delta": None},
            {"neither": "nor"},
            done(0, {"type": "of_tomorrow", "content": 7}),
            done(1, {"type": "message", "content": [7, None, {"type": "of tomorrow"}]}),
            done(2, {"type": "reasoning", "summary": None, "content": None}),
            done(3, spoken("Hello.")),
            ended(output=None, usage={"input_tokens": "many", "output_tokens": -1}),
        ]
        _, answer = await read(events)
        assert shown(answer) == [("text", "Hello.")]
        assert answer.usage == Usage(model_calls=1)

    async def test_halves_of_characters(self) -> None:
        events = [delta("output_text", "\ud83d"), delta("output_text", "\ude00 ok"), ended()]
        _, answer = await read(events)
        assert shown(answer) == [("text", "�� ok")]
        _, answer = await read([*events[:2], done(0, spoken("\ud83d\ude00 ok")), ended()])
        assert shown(answer) == [("text", "😀 ok")]


class TestBreaking:
    async def test_failed(self) -> None:
        broken = {"code": "rate_limit_exceeded", "message": "secret"}
        usage = {"input_tokens": 7, "output_tokens": 5}
        error = await failure(
            [delta("output_text", "H"), ended("failed", error=broken, usage=usage)]
        )
        assert error.kind is FailureKind.RATE_LIMIT
        assert error.usage == Usage(input_tokens=7, output_tokens=5, model_calls=1)
        assert "secret" not in error.message

    async def test_failed_without_a_word(self) -> None:
        assert (await failure([ended("failed")])).kind is FailureKind.SERVER

    async def test_errors_that_are_events(self) -> None:
        event = {
            "type": "error",
            "code": "server_is_overloaded",
            "message": "secret",
            "param": None,
        }
        error = await failure([delta("output_text", "H"), event, ended()])
        assert error.kind is FailureKind.OVERLOADED
        assert "secret" not in error.message

    @pytest.mark.parametrize("cleanly", [True, False])
    async def test_cut_anywhere(self, cleanly: bool) -> None:
        """An answer is whole, or the call fails: nothing between."""
        events = [wire(event) for event in responses_events(BODY, FULL)]
        whole = b"".join(events)
        lengths = [len(b"".join(events[:count])) for count in range(1, len(events))]
        lengths += [1, *(length + 30 for length in lengths)]

        async def handle(exchange: Exchange) -> None:
            await exchange.begin_events()
            await exchange.send(whole[: lengths[len(server.exchanges) - 1]])
            if cleanly:
                await exchange.end_events()
            else:
                exchange.cut()

        async with responses_at(handle) as (model, server):
            for _ in lengths:
                with pytest.raises(ModelError) as raised:
                    await ask(model, "Hi")
                kind = FailureKind.BROKEN_OFF if cleanly else FailureKind.CONNECTION
                assert raised.value.kind is kind


class TestState:
    async def test_goes_back_as_it_came(self) -> None:
        replies = iter([FULL, Reply("Done.", thinking="All there."), Reply("Bye.")])
        settings: dict[str, Any] = {"system": "Be brief.", "tools": [LookUp()]}
        history = [user("Where is it?")]
        async with responses_at(scripted(lambda body: next(replies))) as (model, server):
            first = await ask(model, *history, **settings)
            history += [answered(first), result("call_1"), result("call_2")]
            second = await ask(model, *history, **settings)
            history += [answered(second), user("Thanks.")]
            await ask(model, *history, **settings)
        inputs = [request.body["input"] for request in server.requests]
        assert inputs[1][: len(inputs[0])] == inputs[0]
        assert inputs[2][: len(inputs[1])] == inputs[1]
        kinds = [item["type"] for item in inputs[2]]
        outputs = ["function_call_output"] * 2
        calls = ["reasoning", "message", "function_call", "function_call", *outputs]
        assert kinds == ["message", *calls, "reasoning", "message", "message"]
        assert not any(broken_seals(request.body) for request in server.requests)
        state = first.provider_state
        assert state is not None
        assert inputs[1][1:5] == json.loads(state.blocks_json)

    @pytest.mark.parametrize(
        "change",
        [
            {"system": "Be long."},
            {"tools": []},
            {"tools": [LookUp(description="Else.")]},
            {"before": "Hello?"},
            {"account": "another"},
            {"model": "another"},
        ],
    )
    async def test_stays_away_where_something_changed(self, change: dict[str, Any]) -> None:
        settings: dict[str, Any] = {"system": "Be brief.", "tools": [LookUp()]}
        async with responses_at(scripted(lambda body: FULL)) as (model, _):
            first = await ask(model, "Where is it?", **settings)
        after = [answered(first), result("call_1"), result("call_2")]
        before = [user(change.pop("before", "Where is it?"))]
        model_id, account = change.pop("model", MODEL), change.pop("account", ACCOUNT)
        request = asking(*before, *after, **{**settings, **change})
        parameters = render_request(request, model_id, account, compatible=True).parameters
        assert responses_problems(parameters) == []
        kinds = [item["type"] for item in parameters["input"]]
        calls = ["function_call"] * 2 + ["function_call_output"] * 2
        assert kinds == ["message", "message", *calls]

    async def test_keeps_the_phase_of_an_answer(self) -> None:
        events = [done(0, spoken("Hello.", phase="final_answer")), ended()]
        async with responses_at(sending(events)) as (model, server):
            answer = await ask(model, "Hi")
            await ask(model, "Hi", answered(answer), "Bye")
        assert server.requests[1].body["input"][1]["phase"] == "final_answer"

    async def test_keeps_what_it_does_not_know(self) -> None:
        odd = {"of": [{"tomorrow": 1.5, "deep": {"null": None}}], "big": 2**60, "text": "ü\ud83d"}
        items = [thought(odd=odd), spoken("Hello.", odd=odd)]
        events = [*(done(at, item) for at, item in enumerate(items)), ended()]
        _, answer = await read(events)
        assert answer.provider_state is not None
        assert json.loads(answer.provider_state.blocks_json) == items

    @pytest.mark.parametrize(
        "items",
        [
            [spoken("Hello.")],
            [thought(encrypted_content=None), spoken("Hello.")],
            [spoken("Hello."), thought()],
            [thought()],
            [thought(), called("")],
        ],
        ids=[
            "no thought",
            "not sealed",
            "thought alone at the end",
            "only a thought",
            "arguments that are none",
        ],
    )
    async def test_none_where_the_server_would_not_take_it(self, items: list[Event]) -> None:
        _, answer = await read([*(done(at, item) for at, item in enumerate(items)), ended()])
        assert answer.provider_state is None
