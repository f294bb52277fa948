"""Chat agents: turns, tools, configuration, and going on after a crash."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path

import pytest

from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Action, ActionResponse, Permission, ToolStarted
from callboard.v1.message_pb2 import (
    ContentBlock,
    Message,
    Role,
    StopReason,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)
from callboard.v1.run_pb2 import Run
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.errors import AgentError
from callboard_server.agents.tools import Tool, client_tool, tool
from callboard_server.models.base import Answer, Model, ModelRequest, Piece, TextPiece
from tests.server.doubles import Crash, RecordedWork, make_context, text_of, user

END, USE = StopReason.STOP_REASON_END_TURN, StopReason.STOP_REASON_TOOL_USE


def call(call_id: str, name: str = "add", arguments: str = '{"a": 1}') -> ContentBlock:
    return ContentBlock(
        tool_call=ToolCall(tool_call_id=call_id, name=name, arguments_json=arguments)
    )


def text(words: str) -> ContentBlock:
    return ContentBlock(text=Text(text=words))


def answer(*content: ContentBlock, stop_reason: StopReason.ValueType = END) -> Answer:
    return Answer(content, Usage(model_calls=1), stop_reason)


class Script:
    """A model that gives prepared answers, by how many the conversation holds already."""

    name = "script"

    def __init__(self, *answers: Answer) -> None:
        self.answers = answers
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        self.requests.append(request)
        given = sum(message.context_sequence > 0 for message in request.messages)
        chosen = self.answers[min(given, len(self.answers) - 1)]
        for index, block in enumerate(chosen.content):
            if block.HasField("text"):
                yield TextPiece(index, block.text.text)
        yield chosen


def make_agent(
    model: Model | str, *tools: Tool | Callable[..., object], max_turns: int = 50
) -> ChatAgent:
    return ChatAgent(model, "Be kind.", tools, max_turns)


def results(messages: Iterable[Message]) -> list[ToolResult]:
    blocks = [block for message in messages for block in message.content]
    return [block.tool_result for block in blocks if block.HasField("tool_result")]


def committed(block: ContentBlock, stop_reason: StopReason.ValueType = USE) -> Message:
    return Message(
        role=Role.ROLE_ASSISTANT,
        run_id="run-1",
        content=[block],
        stop_reason=stop_reason,
        context_sequence=1,
    )


def started(call_id: str, *, idempotent: bool) -> dict[str, ToolStarted]:
    return {call_id: ToolStarted(call=call(call_id).tool_call, idempotent=idempotent)}


def noting(ran: list[int]) -> Callable[..., object]:
    """A tool that notes with which argument it ran."""

    async def note(a: int) -> None:
        ran.append(a)

    return note


def add(a: int) -> int:
    return a + 1


class TestTurns:
    async def test_answers_at_once(self) -> None:
        work = RecordedWork(user("hi"))
        last = await make_agent(Script(answer(text("hello"))))(make_context(work))
        assert text_of(last) == "hello"
        assert (last.model, last.stop_reason, last.usage.model_calls) == ("script", END, 1)
        assert last.context_sequence == 1
        assert work.messages[1:] == [last]
        assert work.deltas == [(last.message_id, 0, "hello")]

    async def test_runs_tools_and_goes_on(self) -> None:
        model = Script(
            answer(call("c1"), call("c2", arguments='{"a": 2}'), stop_reason=USE),
            answer(text("done")),
        )
        work = RecordedWork(user("hi"))
        last = await make_agent(model, add)(make_context(work))
        assert text_of(last) == "done"
        assert [(r.tool_call_id, r.text) for r in results(work.messages)] == [
            ("c1", "2"),
            ("c2", "3"),
        ]
        assert list(work.was_recorded.tools_started) == ["c1", "c2"]

    async def test_tools_of_one_answer_run_side_by_side(self) -> None:
        both = asyncio.Barrier(2)

        async def meet() -> None:
            await both.wait()

        calls = [call("c1", "meet", "{}"), call("c2", "meet", "{}")]
        work = RecordedWork(user("hi"))
        await make_agent(Script(answer(*calls, stop_reason=USE), answer()), meet)(
            make_context(work)
        )
        assert [result.text for result in results(work.messages)] == ["ok", "ok"]

    async def test_what_goes_wrong_in_a_tool_is_told_to_the_model(self) -> None:
        calls = [call("c1", "none"), call("c2", arguments="{}")]
        work = RecordedWork(user("hi"))
        model = Script(answer(*calls, stop_reason=USE), answer(text("sorry")))
        assert text_of(await make_agent(model, add)(make_context(work))) == "sorry"
        unknown, unfit = sorted(results(work.messages), key=lambda result: result.tool_call_id)
        assert unknown.is_error and "no tool none" in unknown.text
        assert unfit.is_error and "a: is required" in unfit.text
        assert list(work.was_recorded.tools_started) == ["c2"]

    @pytest.mark.parametrize(
        ("stop_reason", "reason"),
        [
            (StopReason.STOP_REASON_MAX_TOKENS, ErrorReason.ERROR_REASON_MODEL_MAX_TOKENS),
            (StopReason.STOP_REASON_REFUSAL, ErrorReason.ERROR_REASON_MODEL_REFUSAL),
            (
                StopReason.STOP_REASON_CONTEXT_OVERFLOW,
                ErrorReason.ERROR_REASON_MODEL_CONTEXT_OVERFLOW,
            ),
        ],
    )
    async def test_an_answer_that_is_none_ends_the_run_and_its_calls_are_not_run(
        self, stop_reason: StopReason.ValueType, reason: ErrorReason.ValueType
    ) -> None:
        work = RecordedWork(user("hi"))
        model = Script(answer(text("I"), call("c1"), stop_reason=stop_reason))
        with pytest.raises(AgentError) as caught:
            await make_agent(model, add)(make_context(work))
        assert caught.value.reason == reason
        assert text_of(caught.value.outcome.result) == "I"
        assert [result.is_error for result in results(work.messages)] == [True]
        assert not work.was_recorded.tools_started

    async def test_a_paused_model_is_called_again(self) -> None:
        model = Script(
            answer(text("a"), stop_reason=StopReason.STOP_REASON_PAUSE), answer(text("b"))
        )
        assert text_of(await make_agent(model)(make_context(RecordedWork(user("hi"))))) == "b"

    async def test_turns_are_bounded(self) -> None:
        model = Script(answer(call("c"), stop_reason=USE))
        agent = make_agent(model, add, max_turns=1)
        with pytest.raises(AgentError, match="1 times and was not done") as caught:
            await agent(make_context(RecordedWork(user("hi"))))
        assert caught.value.reason == ErrorReason.ERROR_REASON_TURN_LIMIT
        assert len(model.requests) == 1


class TestRequest:
    async def test_holds_instructions_and_tools(self) -> None:
        model = Script(answer())
        run = Run(run_id="run-1", additional_instructions="In French.")
        work = RecordedWork(user("hi"), run=run)
        await make_agent(model, add)(make_context(work))
        (request,) = model.requests
        assert request.system == "Be kind.\n\nIn French."
        assert [item.name for item in request.tools] == ["add"]
        assert [text_of(message) for message in request.messages] == ["hi"]

    async def test_configuration_goes_over_the_agents_own(self, tmp_path: Path) -> None:
        (tmp_path / "t.toml").write_text("[[rule]]\nwhen='hi'\nexample='hi'\nsay='from the table'")
        agent = ChatAgent(Script(answer(text("own"))), base=tmp_path)
        ctx = make_context(RecordedWork(user("hi")), model="offline:t.toml")
        assert text_of(await agent(ctx)) == "from the table"
        model = Script(answer())
        await make_agent(model)(make_context(RecordedWork(user("hi")), system=""))
        assert model.requests[0].system == ""

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            ({"modell": "x"}, "modell: is not known; did you mean model?"),
            ({"max_turns": 0}, "max_turns: must be more than 0, not 0"),
            ({"model": "gpt"}, "model: 'gpt' is no model"),
        ],
    )
    async def test_configuration_that_does_not_fit(
        self, config: dict[str, object], problem: str
    ) -> None:
        with pytest.raises(AgentError) as caught:
            await make_agent(Script(answer()))(make_context(RecordedWork(user("hi")), **config))
        assert problem in caught.value.message
        assert caught.value.reason == ErrorReason.ERROR_REASON_CONFIG_INVALID


class TestPolicies:
    def permission(self, allow: bool, why: str = "") -> ActionResponse:
        return ActionResponse(permission=Permission(allow=allow, deny_message=why))

    async def test_a_call_is_asked_for_before_it_runs(self) -> None:
        work = RecordedWork(user("hi"))
        work.answers = {"c1": self.permission(True), "c2": self.permission(False, "not that")}
        calls = [call("c1"), call("c2")]
        agent = make_agent(
            Script(answer(*calls, stop_reason=USE), answer()), tool(add, policy="ask")
        )
        await agent(make_context(work))
        assert {action.tool_call.tool_call_id for action in work.asked} == {"c1", "c2"}
        assert {action.kind for action in work.asked} == {Action.KIND_TOOL_PERMISSION}
        given = {each.tool_call_id: (each.text, each.is_error) for each in results(work.messages)}
        assert given == {"c1": ("2", False), "c2": ("The call was denied: not that.", True)}
        assert list(work.was_recorded.tools_started) == ["c1"]
        assert work.branches == 1

    async def test_a_denied_tool_is_not_even_asked_for(self) -> None:
        work = RecordedWork(user("hi"))
        agent = make_agent(
            Script(answer(call("c1"), stop_reason=USE), answer()), tool(add, policy="deny")
        )
        await agent(make_context(work))
        assert [each.text for each in results(work.messages)] == ["add may not be used."]
        assert not work.asked

    async def test_what_was_permitted_and_started_is_not_asked_for_again(self) -> None:
        work = RecordedWork(user("hi"), committed(call("c1")))
        work.was_recorded.tools_started = started("c1", idempotent=True)
        agent = make_agent(Script(answer()), tool(add, policy="ask", idempotent=True))
        await agent(make_context(work))
        assert [each.text for each in results(work.messages)] == ["2"]
        assert not work.asked

    async def test_the_result_of_a_client_is_the_tools(self) -> None:
        work = RecordedWork(user("hi"))
        work.answers = {"c1": ActionResponse(tool_result=ToolResult(text="here"))}
        position = client_tool("position", "Where?", {"type": "object"})
        model = Script(answer(call("c1", "position"), stop_reason=USE), answer())
        await make_agent(model, position)(make_context(work))
        assert [(each.name, each.text) for each in results(work.messages)] == [("position", "here")]
        assert [action.kind for action in work.asked] == [Action.KIND_CLIENT_TOOL]
        assert model.requests[0].tools[0].name == "position"


class TestModelFailures:
    async def test_what_was_streamed_is_void(self) -> None:
        class Broken(Script):
            async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
                yield TextPiece(0, "Half")
                raise ConnectionError("secret")

        work = RecordedWork(user("hi"))
        with pytest.raises(ConnectionError):
            await make_agent(Broken())(make_context(work))
        assert work.discarded == [work.deltas[0][0]]
        assert len(work.messages) == 1

    async def test_a_stream_without_an_end_is_no_answer(self) -> None:
        class Cut(Script):
            async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
                yield TextPiece(0, "Half")

        work = RecordedWork(user("hi"))
        with pytest.raises(AgentError, match="script: The answer broke off") as caught:
            await ChatAgent(Cut(), model_attempts=1)(make_context(work))
        assert caught.value.reason == ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE
        assert work.discarded

    async def test_cancellation_leaves_the_message_to_the_engine(self) -> None:
        streaming = asyncio.Event()

        class Endless(Script):
            async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
                yield TextPiece(0, "Half")
                streaming.set()
                await asyncio.Event().wait()

        work = RecordedWork(user("hi"))
        task = asyncio.create_task(make_agent(Endless())(make_context(work)))
        await streaming.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not work.discarded


class TestGoingOn:
    async def test_a_recorded_answer_is_not_repeated(self) -> None:
        model = Script(answer(text("other")))
        work = RecordedWork(user("hi"), committed(text("done"), END))
        assert text_of(await make_agent(model)(make_context(work))) == "done"
        assert not model.requests

    async def test_a_recorded_result_is_not_repeated(self) -> None:
        ran: list[int] = []
        calls = [call("c1", "note"), call("c2", "note", '{"a": 2}')]
        agent = make_agent(
            Script(answer(*calls, stop_reason=USE), answer()), tool(noting(ran), idempotent=True)
        )
        work = RecordedWork(user("hi"))
        work.writes_left = 4  # the answer, two starts, one result
        with pytest.raises(Crash):
            await agent(make_context(work))
        (recorded,) = results(work.messages)
        work.writes_left = None
        await agent(make_context(work))
        assert len(results(work.messages)) == 2
        assert ran.count(1 if recorded.tool_call_id == "c1" else 2) == 1

    async def test_what_was_started_runs_again_only_if_idempotent(self) -> None:
        ran: list[int] = []
        for idempotent in (True, False):
            ran.clear()
            work = RecordedWork(user("hi"), committed(call("c1", "note")))
            work.was_recorded.tools_started = started("c1", idempotent=idempotent)
            agent = make_agent(
                Script(answer(), answer(text("x"))), tool(noting(ran), idempotent=True)
            )
            await agent(make_context(work))
            (result,) = results(work.messages)
            assert (ran == [1]) == idempotent
            assert result.outcome_unknown != idempotent
            assert result.is_error != idempotent

    async def test_an_answer_that_was_cut_off_is_given_again(self) -> None:
        half = committed(text("ha"), StopReason.STOP_REASON_UNSPECIFIED)
        half.incomplete = True
        work = RecordedWork(user("hi"), half)
        model = Script(answer(), answer(text("half")))
        assert text_of(await make_agent(model)(make_context(work))) == "half"

    async def test_words_of_the_assistant_in_the_input_are_no_answer(self) -> None:
        given = committed(text("I said this before."), END)
        given.context_sequence = 0
        work = RecordedWork(given, user("hi"))
        assert text_of(await make_agent(Script(answer(text("new"))))(make_context(work))) == "new"

    async def test_answers_of_other_runs_do_not_count(self) -> None:
        earlier = committed(text("earlier"), END)
        earlier.run_id = "run-0"
        work = RecordedWork(user("x", run_id="run-0"), earlier, user("hi"))
        model = Script(answer(), answer(text("now")))
        assert text_of(await make_agent(model, max_turns=1)(make_context(work))) == "now"

    @pytest.mark.parametrize("idempotent", [True, False])
    async def test_a_crash_at_any_write_leaves_no_call_dangling(self, idempotent: bool) -> None:
        """However often it crashes: one result a call, and no effect twice."""
        script = (
            answer(call("c1", "note"), call("c2", "note", '{"a": 2}'), stop_reason=USE),
            answer(call("c3", "note", '{"a": 3}'), stop_reason=USE),
            answer(text("done")),
        )
        for first, second in product(range(9), repeat=2):
            ran: list[int] = []
            agent = make_agent(Script(*script), tool(noting(ran), idempotent=idempotent))
            work = RecordedWork(user("hi"))
            for writes in (first, second):
                work.writes_left = writes
                with suppress(Crash):
                    await agent(make_context(work))
            work.writes_left = None
            assert text_of(await agent(make_context(work))) == "done"
            answered = [result.tool_call_id for result in results(work.messages)]
            assert sorted(answered) == ["c1", "c2", "c3"]
            if idempotent:
                assert set(ran) == {1, 2, 3}
            else:
                assert len(set(ran)) == len(ran)
