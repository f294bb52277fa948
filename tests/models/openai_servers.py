"""Stand-ins of OpenAI for tests, whose requests are all checked, and models that call them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

import httpx2

from callboard_server.models.openai_chat import ChatCompletionsModel
from callboard_server.models.openai_client import open_client
from callboard_server.models.openai_responses import ResponsesModel
from standins.http import Exchange, Handler, HttpServer, serving
from standins.openai import RESPONSES, Event, send_events
from standins.openai_rules import chat_problems, responses_problems
from standins.replies import Call, Reply

NAME = "openai:gpt-test"
MODEL = "gpt-test"
ACCOUNT = "account"
FULL = Reply(
    "It is here.",
    calls=[Call("look_up", '{"word": "a"}', "call_1"), Call("look_up", '{"word": "b"}', "call_2")],
    thinking="Where may it be?",
    input_tokens=100,
    cached_tokens=60,
    output_tokens=50,
    reasoning_tokens=20,
)
"""An answer with everything in it."""


@asynccontextmanager
async def responses_at(
    handler: Handler, *, timeout: httpx2.Timeout | None = None
) -> AsyncIterator[tuple[ResponsesModel, HttpServer]]:
    """A model of the Responses API at a server of its own."""
    async with checked(handler) as server, open_client("key", f"{server.url}/v1") as client:
        if timeout is not None:
            client.timeout = timeout
        yield ResponsesModel(NAME, MODEL, client, ACCOUNT), server


@asynccontextmanager
async def chat_at(
    handler: Handler, *, timeout: httpx2.Timeout | None = None
) -> AsyncIterator[tuple[ChatCompletionsModel, HttpServer]]:
    """A model of Chat Completions at a server of its own."""
    async with checked(handler) as server, open_client("key", f"{server.url}/v1") as client:
        if timeout is not None:
            client.timeout = timeout
        yield ChatCompletionsModel(NAME, MODEL, client, ACCOUNT), server


@asynccontextmanager
async def checked(handler: Handler) -> AsyncIterator[HttpServer]:
    """A server that no request may reach which the API would refuse."""
    async with serving(handler) as server:
        yield server
    for request in server.requests:
        problems = responses_problems if request.path == RESPONSES else chat_problems
        assert problems(request.body) == []


def sending(events: Iterable[Event | str]) -> Handler:
    """Answers every request with the same events."""
    kept = list(events)

    async def handle(exchange: Exchange) -> None:
        await send_events(exchange, kept)

    return handle


def refusing(status: int, body: object, headers: dict[str, str] | None = None) -> Handler:
    """Answers every request with an error."""

    async def handle(exchange: Exchange) -> None:
        await exchange.answer(body, status, headers)

    return handle
