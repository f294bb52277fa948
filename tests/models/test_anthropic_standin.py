"""The stand-in of Anthropic refuses what the provider would, and tells its scripts as it does."""

from __future__ import annotations

from typing import Any

import httpx2
import pytest
from anthropic import APIStatusError, AsyncAnthropic

from callboard_server.models.anthropic import open_client
from standins.anthropic import PATH, scripted
from standins.http import serving
from standins.replies import Call, Reply

HELLO = {"role": "user", "content": "Hello"}


async def ask(client: AsyncAnthropic, *messages: Any, **settings: Any) -> Any:
    settings = {"model": "claude-test", "max_tokens": 100, "messages": messages, **settings}
    async with client.messages.stream(**settings) as stream:
        return await stream.get_final_message()


async def test_a_reply_is_told_whole() -> None:
    reply = Reply(
        "I look.",
        [Call("look_up", '{"word": "a b"}', "toolu_1")],
        thinking="Where is it?",
        input_tokens=30,
        cached_tokens=10,
        output_tokens=20,
        reasoning_tokens=5,
    )
    async with (
        serving(scripted(lambda body: reply)) as server,
        open_client("key", server.url) as client,
    ):
        message = await ask(client, HELLO)
    thinking, text, call = message.content
    assert (thinking.thinking, text.text) == ("Where is it?", "I look.")
    assert (call.id, call.name, call.input) == ("toolu_1", "look_up", {"word": "a b"})
    assert message.stop_reason == "tool_use"
    assert message.usage.input_tokens == 20
    assert message.usage.cache_read_input_tokens == 10
    assert message.usage.output_tokens == 20
    assert message.usage.output_tokens_details.thinking_tokens == 5


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        (Reply("Hi"), "end_turn"),
        (Reply("Hi", cut=True), "max_tokens"),
        (Reply(calls=[Call("look_up", '{"wo')], cut=True), "max_tokens"),
        (Reply(refusal="No."), "refusal"),
    ],
)
async def test_how_a_reply_ends(reply: Reply, reason: str) -> None:
    async with (
        serving(scripted(lambda body: reply)) as server,
        open_client("key", server.url) as client,
    ):
        assert (await ask(client, HELLO)).stop_reason == reason


async def test_a_script_may_take_its_time() -> None:
    async def script(body: Any) -> Reply:
        return Reply(f"{len(body['messages'])} messages")

    async with (
        serving(scripted(script)) as server,
        open_client("key", server.url) as client,
    ):
        message = await ask(client, HELLO)
    assert message.content[0].text == "1 messages"


async def test_what_it_refuses() -> None:
    reply = Reply("Hi", thinking="Hm.")
    async with (
        serving(scripted(lambda body: reply)) as server,
        open_client("key", server.url) as client,
    ):
        signed = {"role": "assistant", "content": (await ask(client, HELLO)).content}
        await ask(client, HELLO, signed, HELLO)
        for messages, settings in (
            ([{"role": "assistant", "content": "Hello"}], {}),
            ([{"role": "user", "content": "Hallo"}, signed, HELLO], {}),
            ([HELLO, signed, HELLO], {"system": "Be brief."}),
        ):
            with pytest.raises(APIStatusError) as caught:
                await ask(client, *messages, **settings)
            assert caught.value.status_code == 400


async def test_it_wants_a_key_and_its_path() -> None:
    async with (
        serving(scripted(lambda body: Reply("Hi"))) as server,
        httpx2.AsyncClient(base_url=server.url) as client,
    ):
        assert (await client.post(PATH, json={})).status_code == 401
        assert (await client.get(PATH)).status_code == 404
