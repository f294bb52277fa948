"""What may be set of a chat agent, in its table and by assistants and runs, with real SDKs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from callboard import InvalidArgument, RunState, text_of
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Action
from callboard.v1.message_pb2 import Usage
from callboard_server.agents.limits import cost_of
from callboard_server.config import PriceSettings
from standins.replies import Call, Reply
from tests.support.chatting import (
    KINDS,
    Kind,
    answering,
    ask,
    chatting,
    in_turn,
    refusing,
    results_of,
    saying,
)
from tests.support.following import event_of, over
from tests.support.serving import kinds_of, sound_log

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED


class TestLimits:
    @pytest.mark.parametrize(
        ("limit", "most", "calls"),
        [
            ("max_turns", 3, 3),
            # 30 tokens a call, at 0.00014: 20 * 2 and 10 * 10 for a million.
            ("max_total_tokens", 61, 3),
            ("max_total_tokens", 60, 2),
            ("max_cost", 0.00015, 2),
            ("max_cost", 0.00014, 1),
        ],
    )
    async def test_a_bound_ends_the_run_and_is_named(
        self, limit: str, most: float, calls: int, tmp_path: Path
    ) -> None:
        handler = saying("anthropic", Reply("I look.", calls=[Call("look")]))
        agent: dict[str, Any] = {limit: most}
        async with chatting(tmp_path, handler, **agent) as (client, server):
            run = await ask(client)
            assert len(server.requests) == calls
        error = run.outcome.error
        assert (run.state, error.reason) == (FAILED, ErrorReason.ERROR_REASON_TURN_LIMIT)
        assert error.metadata == {"limit": limit}
        assert f"Raise {limit}" in error.message
        assert text_of(run.outcome.result) == "I look."
        assert run.outcome.usage.model_calls == calls

    async def test_an_answer_beyond_a_bound_is_the_result(self, tmp_path: Path) -> None:
        handler = saying("anthropic", Reply("Done."))
        async with chatting(tmp_path, handler, max_total_tokens=1) as (client, _):
            assert text_of((await ask(client)).outcome.result) == "Done."

    def test_what_tokens_cost(self) -> None:
        used = Usage(input_tokens=10, cached_input_tokens=5, cache_write_tokens=2, output_tokens=4)
        price = PriceSettings(input=1e6, output=3e6)
        assert cost_of(used, price) == 10 + 4 * 3
        price = PriceSettings(input=1e6, output=3e6, cached_input=1e5, cache_write=2e6)
        assert cost_of(used, price) == pytest.approx(3 + 5 * 0.1 + 2 * 2 + 4 * 3)

    @pytest.mark.parametrize("kind", KINDS)
    async def test_the_length_of_an_answer_is_the_providers_to_keep(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        handler = saying(kind, Reply("Half an", cut=True))
        async with chatting(tmp_path, handler, kind, max_output_tokens=77) as (client, server):
            run = await ask(client)
            assert 77 in server.requests[0].body.values()
        assert run.outcome.error.reason == ErrorReason.ERROR_REASON_MODEL_MAX_TOKENS
        assert "Raise max_output_tokens" in run.outcome.error.message
        assert text_of(run.outcome.result) == "Half an"

    @pytest.mark.parametrize("kind", ["anthropic", "openai"])
    async def test_a_refusal_ends_the_run(self, kind: Kind, tmp_path: Path) -> None:
        async with chatting(tmp_path, saying(kind, Reply(refusal="I won't.")), kind) as (client, _):
            run = await ask(client)
        assert run.state == FAILED
        assert run.outcome.error.reason == ErrorReason.ERROR_REASON_MODEL_REFUSAL
        assert text_of(run.outcome.result) == "I won't."


WEATHER = {
    "name": "weather",
    "description": "Tell the weather where the user is.",
    "parameters": {
        "type": "object",
        "properties": {"day": {"enum": ["today", "tomorrow"]}},
        "required": ["day"],
    },
}


@pytest.mark.parametrize("kind", KINDS)
class TestClientTools:
    async def test_a_client_gets_the_calls_that_fit(self, kind: Kind, tmp_path: Path) -> None:
        calls = [Call("weather", '{"day": "today"}'), Call("weather", '{"day": "someday"}')]
        handler = saying(kind, Reply(calls=calls), Reply("Sunny."))
        async with chatting(tmp_path, handler, kind, client_tools=[WEATHER]) as (client, server):
            run = await client.runs.create("chat", "How is it?")
            action = (await event_of(client, run, "action_raised")).action_raised.action
            assert action.kind == Action.KIND_CLIENT_TOOL
            assert action.tool_call.arguments_json == '{"day": "today"}'
            await client.actions.result(action, "sun")
            run = await over(client, run)
            assert text_of(run.outcome.result) == "Sunny."
            assert kinds_of(await sound_log(client, run.thread_id)).count("action_raised") == 1
            told = {each.tool_call_id: each for each in await results_of(client, run)}
            assert "Tell the weather" in server.requests[0].content.decode()
        assert (told[calls[0].call_id].text, told[calls[0].call_id].is_error) == ("sun", False)
        refused = told[calls[1].call_id]
        assert refused.is_error
        assert "day: 'someday' is not one of: today, tomorrow" in refused.text


def burn(what: str) -> str:
    return f"{what} is ash"


TOOLS = [f"{__name__}:burn"]


class TestPolicies:
    async def test_the_file_says_what_is_asked_for(self, tmp_path: Path) -> None:
        calls = [Call("burn", '{"what": "paper"}'), Call("burn", "{}")]
        handler = saying("anthropic", Reply(calls=calls), Reply("Done."))
        agent: dict[str, Any] = {"tools": TOOLS, "tool_policy": {"burn": "ask"}}
        async with chatting(tmp_path, handler, **agent) as (client, _):
            run = await client.runs.create("chat", "Burn it.")
            action = (await event_of(client, run, "action_raised")).action_raised.action
            assert action.tool_call.arguments_json == '{"what": "paper"}'
            await client.actions.allow(action)
            run = await over(client, run)
            told = {each.tool_call_id: each.text for each in await results_of(client, run)}
        assert told[calls[0].call_id] == "paper is ash"
        assert "what: is required" in told[calls[1].call_id]

    @pytest.mark.parametrize(("own", "wanted"), [("deny", "allow"), ("allow", "deny")])
    async def test_of_two_policies_the_stricter_holds(
        self, own: str, wanted: str, tmp_path: Path
    ) -> None:
        handler = saying("anthropic", Reply(calls=[Call("burn", '{"what": "x"}')]), Reply("Done."))
        agent: dict[str, Any] = {"tools": TOOLS, "tool_policy": {"burn": own}}
        async with chatting(tmp_path, handler, **agent) as (client, _):
            run = await ask(client, config={"tool_policy": {"burn": wanted}})
            [result] = await results_of(client, run)
        assert result.text == "burn may not be used."

    async def test_a_run_may_have_fewer_tools(self, tmp_path: Path) -> None:
        handler = saying("anthropic", Reply(calls=[Call("burn")]), Reply("Done."))
        async with chatting(tmp_path, handler, tools=TOOLS) as (client, server):
            run = await ask(client, config={"tools": []})
            [result] = await results_of(client, run)
            assert "tools" not in server.requests[0].body
        assert "There is no tool burn" in result.text


class TestByAssistants:
    async def test_an_assistant_has_its_own_model_and_prompt(self, tmp_path: Path) -> None:
        def script(body: Any) -> Reply:
            return Reply(f"I am {body['model']}.")

        async with chatting(tmp_path, answering("anthropic", script)) as (client, server):
            config = {"model": "standin:other", "system": "Be brief.", "effort": "low"}
            assistant = await client.assistants.create("chat", config=config)
            run = await client.runs.create(assistant.assistant_id, "Who?")
            run = await over(client, run)
            assert text_of(run.outcome.result) == "I am other."
            created = (await sound_log(client, run.thread_id))[0].thread_created
            assert created.model == "standin:other"
            assert run.outcome.result.model == "standin:other"
            body = server.requests[0].body
            assert "Be brief." in str(body["system"])
            assert body["output_config"] == {"effort": "low"}
            run = await ask(client, "Who?")
            assert text_of(run.outcome.result) == "I am m."

    @pytest.mark.parametrize("others", ["final", "full"])
    async def test_what_it_sees_of_others(self, others: str, tmp_path: Path) -> None:
        calls = Reply(calls=[Call("burn", '{"what": "x"}')])
        handler = saying("anthropic", calls, Reply("It burns."), Reply("I see."))
        async with chatting(tmp_path, handler, tools=TOOLS) as (client, server):
            run = await ask(client)
            assistant = await client.assistants.create("chat", config={"others": others})
            next_run = await client.runs.create(
                assistant.assistant_id, "What happened?", thread_id=run.thread_id
            )
            assert (await over(client, next_run)).state == SUCCEEDED
            seen = server.requests[-1].content.decode()
        assert "It burns." in seen
        assert ("x is ash" in seen) == (others == "full")

    @pytest.mark.parametrize(
        ("config", "problem"),
        [
            ({"model": "gpt"}, "config.model: 'gpt' is no model: write PROVIDER:MODEL"),
            ({"model": "nowhere:m"}, "config.model: 'nowhere:m': there is no provider nowhere"),
            (
                {"model": "openai:gpt"},
                "config.model: openai has no key: set the environment variable OPENAI_API_KEY",
            ),
            (
                {"max_cost": 1, "model": "standin:n"},
                "config.max_cost: it is not known what standin:n",
            ),
            ({"tools": ["x"]}, "config.tools: there is no tool x; there are none"),
            ({"tool_policy": {"x": "ask"}}, "config.tool_policy: there is no tool x"),
            ({"output_schema": {"type": 3}}, "config.output_schema: is no JSON Schema"),
            ({"max_turns": 0}, "config.max_turns: "),
            ({"base_url": "http://evil"}, "config.base_url: is not known"),
            ({"model": "${HOME}:m"}, "config.model: '${HOME}:m': there is no provider ${HOME}"),
        ],
    )
    async def test_a_configuration_is_refused_when_it_is_written(
        self,
        config: dict[str, Any],
        problem: str,
        tmp_path: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.delenv("OPENAI_API_KEY", raising=False)
        async with chatting(tmp_path, saying("anthropic", Reply("x"))) as (client, server):
            for attempt in (
                client.assistants.create("chat", config=config),
                client.runs.create("chat", "Hello?", config=config),
                client.jobs.launch("chat", "Hello?", config=config),
            ):
                with pytest.raises(InvalidArgument) as caught:
                    await attempt
                assert problem in str(caught.value)
            assert not server.requests


@pytest.mark.parametrize("kind", KINDS)
async def test_signed_thinking_goes_back_to_who_thought_it(kind: Kind, tmp_path: Path) -> None:
    """Over tools and runs; the stand-in refuses what is not bound to what stands before it."""
    calls = Reply(thinking="Let me see.", calls=[Call("burn", '{"what": "x"}')])
    again = Reply(thinking="Once more.", calls=[Call("burn", '{"what": "y"}')])
    done = Reply("It burns.", thinking="It is done.")
    handler = saying(kind, calls, done, again, done)
    async with chatting(tmp_path, handler, kind, tools=TOOLS) as (client, server):
        first = await ask(client)
        second = await ask(client, thread_id=first.thread_id)
        assert [run.state for run in (first, second)] == [SUCCEEDED, SUCCEEDED]
        assert len(server.requests) == 4
        if kind != "openai-chat":
            sent = server.requests[-1].content.decode()
            assert sent.count('"signature"') + sent.count('"encrypted_content"') == 3
        keys = {request.body.get("prompt_cache_key") for request in server.requests}
        assert len(keys) == 1
        assert all(key is None or len(key) <= 64 for key in keys)


async def test_no_key_is_ever_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not by what the API tells, not by what the server logs, whether a call works or not."""
    secret = "sk-a-very-secret-key"
    monkeypatch.setenv("STANDIN_KEY", secret)
    handler = in_turn(refusing(401, secret), saying("anthropic", Reply("Hello.")))
    provider = {"api_key_env": "STANDIN_KEY"}
    async with chatting(tmp_path, handler, provider=provider) as (client, server):
        runs = [await ask(client) for _ in range(2)]
        events = [str(e) for run in runs for e in await sound_log(client, run.thread_id)]
        assistants = [str(each) async for each in client.assistants.list()]
        assert server.requests[1].headers["authorization"] == f"Bearer {secret}"
    shown = [*map(str, runs), *events, *assistants, *capfd.readouterr()]
    assert [run.state for run in runs] == [FAILED, SUCCEEDED]
    assert secret not in "".join(shown)
