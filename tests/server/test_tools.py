"""Tools: what the model is shown, what it may send, and what it is told."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import threading
from collections.abc import Callable
from enum import Enum
from typing import Annotated, Any, ClassVar, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from callboard.v1.message_pb2 import ToolCall
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError, ToolError
from callboard_server.agents.sync_context import Stopped, SyncContext
from callboard_server.agents.tools import (
    Tool,
    ToolOutput,
    check_arguments,
    client_tool,
    index_tools,
    run_tool,
    tool,
    with_policies,
)
from callboard_server.config import Policy
from tests.server.doubles import make_context


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: int
    y: int = 0


@dataclasses.dataclass
class Pair:
    left: str
    right: list[int]


class Account(BaseModel):
    number: str

    @field_validator("number")
    @classmethod
    def look_up(cls, number: str) -> str:
        raise ValueError("secret")


async def run(item: Tool | Callable[..., object], arguments: str = "{}") -> ToolOutput:
    made = item if isinstance(item, Tool) else tool(item)
    call = ToolCall(tool_call_id="call", name=made.name, arguments_json=arguments)
    return await run_tool({made.name: made}, call, make_context())


async def greet(name: str, ctx: Context, times: int = 1) -> str:
    """Greets someone.

    Says hello as often as wanted.

    Args:
        name: Whom to greet,
            by the full name.
        ctx: The run.
        times (int): How often.

    Returns:
        The greeting.
    """
    assert ctx.author == "agent"
    return ", ".join([f"hello {name}"] * times)


class TestSchema:
    def test_comes_from_signature_and_docstring(self) -> None:
        made = tool(greet)
        assert made.name == "greet"
        assert made.description == "Greets someone.\n\nSays hello as often as wanted."
        assert made.parameters == {
            "type": "object",
            "properties": {
                "name": {"type": "string", "description": "Whom to greet, by the full name."},
                "times": {"type": "integer", "default": 1, "description": "How often."},
            },
            "required": ["name"],
            "additionalProperties": False,
        }

    def test_decorator_takes_options(self) -> None:
        @tool(name="wave", description="Waves.", idempotent=True, timeout=2)
        def greet_silently() -> None: ...

        assert (greet_silently.name, greet_silently.description) == ("wave", "Waves.")
        assert (greet_silently.idempotent, greet_silently.timeout) == (True, 2)

    def test_keeps_what_annotations_say(self) -> None:
        def pick(count: Annotated[int, Field(ge=1, description="How many.")]) -> None: ...

        assert tool(pick).parameters["properties"] == {
            "count": {"type": "integer", "minimum": 1, "description": "How many."}
        }

    async def test_names_of_pydantic_are_free(self) -> None:
        def odd(copy: str, model_config: str, schema: str, _hidden: str, title: str) -> str:
            return copy + model_config + schema + _hidden + title

        assert list(tool(odd).parameters["properties"]) == [
            "copy",
            "model_config",
            "schema",
            "_hidden",
            "title",
        ]
        arguments = {name: name[0] for name in tool(odd).parameters["properties"]}
        assert (await run(odd, json.dumps(arguments))).text == "cms_t"

    @pytest.mark.parametrize(
        ("function", "reason"),
        [
            (lambda x: x, "x has no type"),
            (lambda *args: args, "cannot be given by name"),
        ],
    )
    def test_refuses_what_cannot_be_called(
        self, function: Callable[..., object], reason: str
    ) -> None:
        with pytest.raises(TypeError, match=reason):
            tool(function)

    def test_refuses_the_wrong_context(self) -> None:
        def plain(ctx: Context) -> None: ...
        async def asynchronous(ctx: SyncContext) -> None: ...

        with pytest.raises(TypeError, match=r"plain function: its parameter ctx .* SyncContext"):
            tool(plain)
        with pytest.raises(TypeError, match=r"async function: its parameter ctx .* type Context"):
            tool(asynchronous)

    def test_refuses_types_without_schema(self) -> None:
        def lock(it: threading.Lock) -> None: ...

        with pytest.raises(TypeError, match="lock"):
            tool(lock)

    def test_names_are_unique(self) -> None:
        with pytest.raises(ValueError, match="two tools of the name greet"):
            index_tools([tool(greet), tool(greet)])

    @pytest.mark.parametrize("name", ["", "a b", "grüße", "a" * 65, "a.b"])
    def test_names_are_those_that_providers_take(self, name: str) -> None:
        with pytest.raises(ValueError, match="is no name for a tool"):
            index_tools([dataclasses.replace(tool(greet), name=name)])


class TestClientTools:
    SCHEMA: ClassVar[dict[str, Any]] = {
        "type": "object",
        "properties": {"day": {"type": "string"}},
        "required": ["day"],
    }

    def test_arguments_are_checked_by_their_schema(self) -> None:
        check_arguments(self.SCHEMA, '{"day": "today"}')
        for arguments, problem in (
            ('{"day": 3}', "- day: must be text, not 3"),
            ("", "- day: is required"),
            ("[]", "- must be an object, not a list"),
            ('{"day": ', "The arguments are not JSON."),
        ):
            with pytest.raises(ToolError) as caught:
                check_arguments(self.SCHEMA, arguments)
            assert problem in caught.value.message

    @pytest.mark.parametrize(
        ("parameters", "problem"),
        [
            ({"type": "objct"}, "the parameters of t: is no JSON Schema: type: 'objct'"),
            ({}, 'the parameters of t: must have "type": "object"'),
            (
                {"type": "object", "properties": {"a": {"$ref": "http://x"}}},
                "the parameters of t: refers to 'http://x'",
            ),
        ],
    )
    def test_parameters_must_be_a_schema_of_an_object(
        self, parameters: dict[str, Any], problem: str
    ) -> None:
        with pytest.raises(ValueError) as caught:
            client_tool("t", "", parameters)
        assert str(caught.value).startswith(problem)


class TestPolicies:
    OWN: Policy = "ask"

    @pytest.mark.parametrize("wanted", ["allow", "ask", "deny"])
    def test_the_last_one_holds_or_the_strictest(self, wanted: Policy) -> None:
        tools = {"greet": tool(greet, policy=self.OWN)}
        changed = with_policies(tools, {"greet": wanted})
        assert changed["greet"].policy == wanted
        changed = with_policies(tools, {"greet": wanted}, only_stricter=True)
        assert changed["greet"].policy == ("deny" if wanted == "deny" else self.OWN)

    def test_a_tool_must_be_there(self) -> None:
        with pytest.raises(ValueError, match="there is no tool gret; did you mean greet"):
            with_policies({"greet": tool(greet)}, {"gret": "deny"})


class TestArguments:
    @given(
        st.fixed_dictionaries(
            {"text": st.text(), "colour": st.sampled_from(["red", "blue"])},
            optional={
                "number": st.integers(),
                "flags": st.lists(st.booleans()),
                "point": st.fixed_dictionaries({"x": st.integers()}, optional={"y": st.integers()}),
                "mode": st.sampled_from(["a", "b"]) | st.none(),
            },
        )
    )
    async def test_what_fits_the_schema_arrives(self, arguments: dict[str, Any]) -> None:
        def echo(
            text: str,
            colour: Colour,
            number: int = 7,
            flags: list[bool] | None = None,
            point: Point | None = None,
            mode: Literal["a", "b"] | None = None,
        ) -> dict[str, object]:
            assert isinstance(colour, Colour)
            assert point is None or isinstance(point, Point)
            given = {"text": text, "colour": colour, "number": number, "flags": flags}
            return {**given, "point": point and point.model_dump(exclude_unset=True), "mode": mode}

        output = await run(echo, json.dumps(arguments))
        defaults = {"number": 7, "flags": None, "point": None, "mode": None}
        assert not output.is_error
        assert json.loads(output.text) == {**defaults, **arguments}

    @pytest.mark.parametrize(
        ("arguments", "problem"),
        [
            ("{", "Invalid JSON"),
            ("[]", "must be an object, not a list"),
            ("{}", "- name: is required"),
            ('{"name": 1}', "- name: must be text, not 1"),
            ('{"name": "a", "times": "many"}', "- times: must be a whole number, not text"),
            ('{"name": "a", "time": 2}', "- time: is not known; did you mean times?"),
            ('{"name": "a", "ctx": {}}', "- ctx: is not known"),
        ],
    )
    async def test_says_what_is_wrong_and_what_would_be_right(
        self, arguments: str, problem: str
    ) -> None:
        output = await run(greet, arguments)
        assert output.is_error
        assert problem in output.text
        assert '"description":"Whom to greet, by the full name."' in output.text

    async def test_no_arguments_may_be_written_as_nothing(self) -> None:
        assert await run(lambda: "fine", "") == ToolOutput("fine")

    async def test_unknown_tool_names_the_right_one(self) -> None:
        call = ToolCall(name="great", arguments_json="{}")
        output = await run_tool({"greet": tool(greet)}, call, make_context())
        assert output == ToolOutput("There is no tool great; did you mean greet?", is_error=True)

    async def test_words_of_a_validator_stay_inside(self) -> None:
        def pay(account: Account) -> None: ...

        output = await run(pay, '{"account": {"number": "1"}}')
        assert "- account.number: is not valid" in output.text
        assert "secret" not in output.text


class TestResults:
    @pytest.mark.parametrize(
        ("result", "text"),
        [
            ("as it is", "as it is"),
            (None, "ok"),
            (Point(x=1), '{"x":1,"y":0}'),
            (Pair("é", [1]), '{"left":"é","right":[1]}'),
            ({"a": [Point(x=1)]}, '{"a":[{"x":1,"y":0}]}'),
            (True, "true"),
            (2**60, str(2**60)),
        ],
    )
    async def test_become_text(self, result: object, text: str) -> None:
        assert await run(lambda: result) == ToolOutput(text)

    async def test_that_are_no_json_are_an_error(self) -> None:
        output = await run(lambda: threading.Lock())
        assert output.is_error
        assert "result (lock) cannot be shown as JSON" in output.text

    async def test_plain_functions_run_in_a_thread_with_a_context(self) -> None:
        def where(ctx: SyncContext) -> bool:
            assert isinstance(ctx, SyncContext)
            return threading.current_thread() is threading.main_thread()

        assert (await run(where)).text == "false"


class TestFailures:
    async def test_tool_error_is_told_as_it_is(self) -> None:
        def find() -> None:
            raise ToolError("There is no such folder.")

        assert await run(find) == ToolOutput("There is no such folder.", is_error=True)

    @pytest.mark.parametrize("error", [ValueError("secret"), SystemExit("secret")])
    async def test_other_errors_are_told_by_kind_and_place(self, error: BaseException) -> None:
        def fail() -> None:
            raise error

        with structlog.testing.capture_logs() as logs:
            output = await run(fail)
        assert output.is_error
        assert f"{type(error).__name__} at test_tools.py:" in output.text
        assert logs[0]["error_id"] in output.text
        assert any(place.endswith(" fail") for place in logs[0]["trace"])
        assert "secret" not in output.text + str(logs)

    async def test_timeout(self) -> None:
        @tool(timeout=0)
        async def wait() -> None:
            await asyncio.Event().wait()

        assert await run(wait) == ToolOutput("wait took longer than 0 s.", is_error=True)

    async def test_timeout_of_the_tools_own_is_a_failure(self) -> None:
        @tool(timeout=60)
        async def wait() -> None:
            raise TimeoutError

        assert "TimeoutError at test_tools.py" in (await run(wait)).text

    async def test_cancellation_goes_on(self) -> None:
        started = asyncio.Event()

        async def wait() -> None:
            started.set()
            await asyncio.Event().wait()

        task = asyncio.create_task(run(wait))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    @pytest.mark.parametrize("error", [Stopped(), AgentError("The budget is used up.")])
    async def test_what_ends_the_run_goes_on(self, error: Exception) -> None:
        def stop() -> None:
            raise error

        with pytest.raises(type(error)):
            await run(stop)
