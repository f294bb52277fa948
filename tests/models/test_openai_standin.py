"""The stand-in of OpenAI speaks as the SDK understands it, and refuses what OpenAI would."""

from __future__ import annotations

from typing import Any

import pytest
from openai import APIStatusError

from callboard_server.models.openai_client import open_client
from standins.http import serving
from standins.openai import scripted
from standins.replies import Call, Reply

FULL = Reply("It is here.", [Call("look_up", '{"word": "a"}', "call_1")], thinking="Hm.")
CUT = Reply("It is", cut=True)


async def tell(body: Any) -> Reply:
    return CUT if "cut" in f"{body}" else FULL


async def test_the_sdk_understands_its_responses() -> None:
    async with serving(scripted(tell)) as server, open_client("key", f"{server.url}/v1") as client:
        asking = [{"role": "user", "content": "Where?"}]
        async with client.responses.stream(model="gpt-test", input=asking) as stream:  # type: ignore[arg-type]
            response = await stream.get_final_response()
    assert response.output_text == "It is here."
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    assert response.usage is not None and response.usage.total_tokens == 30


async def test_the_sdk_understands_its_completions() -> None:
    async with serving(scripted(tell)) as server, open_client("key", f"{server.url}/v1") as client:
        asking = client.chat.completions.stream(
            model="gpt-test",
            messages=[{"role": "user", "content": "Where?"}],
            stream_options={"include_usage": True},
        )
        async with asking as stream:
            completion = await stream.get_final_completion()
    (choice,) = completion.choices
    assert choice.finish_reason == "tool_calls"
    assert choice.message.content == "It is here."
    (call,) = choice.message.tool_calls or []
    assert (call.id, call.function.name) == ("call_1", "look_up")
    assert completion.usage is not None and completion.usage.total_tokens == 30


async def test_answers_that_are_cut_off() -> None:
    async with serving(scripted(tell)) as server, open_client("key", f"{server.url}/v1") as client:
        stream = await client.responses.create(model="gpt-test", input="cut", stream=True)
        *_, last = [event.type async for event in stream]
        chunks = await client.chat.completions.create(
            model="gpt-test", messages=[{"role": "user", "content": "cut"}], stream=True
        )
        reasons = [chunk.choices[0].finish_reason async for chunk in chunks]
    assert last == "response.incomplete"
    assert reasons[-1] == "length"


async def test_refuses_what_breaks_the_rules() -> None:
    async with serving(scripted(tell)) as server, open_client("key", f"{server.url}/v1") as client:
        with pytest.raises(APIStatusError, match="the input is empty") as raised:
            await client.responses.create(model="gpt-test", input="", stream=True)
        assert raised.value.status_code == 400
        with pytest.raises(APIStatusError, match="no messages") as raised:
            await client.chat.completions.create(model="gpt-test", messages=[], stream=True)
        assert raised.value.status_code == 400
        with pytest.raises(APIStatusError) as raised:
            await client.models.retrieve("gpt-test")
        assert raised.value.status_code == 404
