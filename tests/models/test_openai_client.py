"""The client of OpenAI: what it sends beside what it is told, and how calls fail."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import httpx2
import pytest

from callboard_server.models.base import FailureKind, Model, ModelError
from callboard_server.models.openai_chat import ChatCompletionsModel
from callboard_server.models.openai_client import OPENAI_URL, is_compatible, open_client
from callboard_server.models.openai_responses import ResponsesModel
from standins.http import Exchange, Handler, HttpServer
from standins.openai import (
    Event,
    chat_chunks,
    error_body,
    responses_events,
    scripted,
    wire,
)
from standins.replies import Reply
from tests.models.conversations import ask, asking, shown
from tests.models.openai_servers import NAME, chat_at, refusing, responses_at, sending

Opening = Callable[..., AbstractAsyncContextManager[tuple[Model, HttpServer]]]

SECRET = "a secret of the user's"

# Begins an answer.
FIRST: dict[Opening, bytes] = {
    responses_at: wire(
        {
            "type": "response.output_text.delta",
            "item_id": "msg_1",
            "output_index": 0,
            "content_index": 0,
            "delta": "Hel",
        }
    ),
    chat_at: wire({"choices": [{"index": 0, "delta": {"content": "Hel"}}]}),
}

both = pytest.mark.parametrize("open_model", [responses_at, chat_at])


def hello(body: object) -> Reply:
    return Reply("Hello.")


class TestClient:
    @both
    async def test_sends_nothing_of_the_environment(
        self, open_model: Opening, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        names = "API_KEY ADMIN_KEY ORG_ID PROJECT_ID WEBHOOK_SECRET BASE_URL".split()
        for name in names:
            monkeypatch.setenv(f"OPENAI_{name}", f"http://of-the-environment/{name}")
        headers = "X-Mine: of-the-environment\nAuthorization: Bearer of-the-environment"
        monkeypatch.setenv("OPENAI_CUSTOM_HEADERS", headers)
        async with open_model(scripted(hello)) as (model, server):
            await ask(model, "Hi")
        (request,) = server.requests
        assert request.headers["authorization"] == "Bearer key"
        assert "x-mine" not in request.headers
        assert not any(name.startswith("openai-") for name in request.headers)
        assert "of-the-environment" not in f"{request}"

    async def test_goes_to_openai_unless_told_otherwise(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("OPENAI_BASE_URL", "http://of-the-environment/v1")
        async with open_client("key", None) as client:
            assert str(client.base_url).rstrip("/") == OPENAI_URL

    @pytest.mark.parametrize(
        ("url", "compatible"),
        [
            (None, False),
            ("https://eu.api.openai.com/v1", False),
            ("https://api.openai.com.example/v1", True),
            ("https://api.example/openai/v1", True),
            ("http://127.0.0.1:11434/v1", True),
        ],
    )
    async def test_knows_openai_from_others(self, url: str | None, compatible: bool) -> None:
        async with open_client("key", url) as client:
            assert is_compatible(client) is compatible

    @both
    async def test_tries_once(self, open_model: Opening) -> None:
        async with open_model(refusing(500, error_body("Try again."))) as (model, server):
            with pytest.raises(ModelError):
                await ask(model, "Hi")
        assert len(server.requests) == 1


STATUSES: list[tuple[int, Event, FailureKind]] = [
    (400, error_body(SECRET), FailureKind.INVALID_REQUEST),
    (400, error_body(SECRET, "context_length_exceeded"), FailureKind.CONTEXT_OVERFLOW),
    (400, error_body(SECRET, kind="exceed_context_size_error"), FailureKind.CONTEXT_OVERFLOW),
    (
        400,
        error_body(f"This model's maximum context length is 4096 tokens. {SECRET}"),
        FailureKind.CONTEXT_OVERFLOW,
    ),
    (
        500,
        error_body(f"Context size has been exceeded. {SECRET}", kind="server_error"),
        FailureKind.CONTEXT_OVERFLOW,
    ),
    (401, error_body(SECRET, "invalid_api_key"), FailureKind.AUTHENTICATION),
    (402, error_body(SECRET), FailureKind.BILLING),
    (403, error_body(SECRET), FailureKind.PERMISSION),
    (404, error_body(SECRET, "model_not_found"), FailureKind.MODEL_NOT_FOUND),
    (408, error_body(SECRET), FailureKind.TIMEOUT),
    (409, error_body(SECRET), FailureKind.SERVER),
    (413, error_body(SECRET), FailureKind.CONTEXT_OVERFLOW),
    (422, error_body(SECRET), FailureKind.INVALID_REQUEST),
    (429, error_body(SECRET, "rate_limit_exceeded"), FailureKind.RATE_LIMIT),
    (429, error_body(SECRET, "insufficient_quota", "insufficient_quota"), FailureKind.BILLING),
    (500, error_body(SECRET), FailureKind.SERVER),
    (503, error_body(SECRET), FailureKind.OVERLOADED),
    (504, error_body(SECRET), FailureKind.TIMEOUT),
    (529, error_body(SECRET), FailureKind.OVERLOADED),
]

# Errors in the middle of a stream, as the SDK raises them: under `error`, or what that holds.
REPORTS: list[tuple[Any, FailureKind]] = [
    ({"message": SECRET, "code": "rate_limit_exceeded"}, FailureKind.RATE_LIMIT),
    ({"message": SECRET, "type": "insufficient_quota"}, FailureKind.BILLING),
    ({"message": SECRET, "type": "overloaded_error"}, FailureKind.OVERLOADED),
    ({"message": SECRET, "code": "context_length_exceeded"}, FailureKind.CONTEXT_OVERFLOW),
    ({"message": SECRET, "code": "invalid_image_url"}, FailureKind.INVALID_REQUEST),
    ({"message": SECRET, "code": "invalid_prompt"}, FailureKind.INVALID_REQUEST),
    ({"message": SECRET, "code": "server_error"}, FailureKind.SERVER),
    ({"message": SECRET, "code": "of tomorrow"}, FailureKind.SERVER),
    ({"message": SECRET, "code": 400}, FailureKind.INVALID_REQUEST),
    ({"message": SECRET, "code": 503}, FailureKind.OVERLOADED),
    (
        {"message": f"It exceeds the available context size. {SECRET}", "code": 400},
        FailureKind.CONTEXT_OVERFLOW,
    ),
    ({}, FailureKind.SERVER),
    (SECRET, FailureKind.SERVER),
]


async def failing(open_model: Opening, handler: Handler, **settings: Any) -> ModelError:
    """Returns what a call fails with, which tells nothing that came from outside."""
    async with open_model(handler, **settings) as (model, _):
        with pytest.raises(ModelError) as raised:
            await ask(model, SECRET)
    error = raised.value
    assert error.message.startswith(f"{NAME}: ")
    assert "secret" not in str(error)
    assert error.__context__ is None or error.__suppress_context__
    return error


class TestFailures:
    @both
    @pytest.mark.parametrize(("status", "body", "kind"), STATUSES)
    async def test_statuses(
        self, open_model: Opening, status: int, body: Event, kind: FailureKind
    ) -> None:
        error = await failing(open_model, refusing(status, body))
        assert error.kind is kind
        assert f"HTTP {status}" in error.message

    @both
    async def test_bodies_that_are_none(self, open_model: Opening) -> None:
        for body in (SECRET, [SECRET], None, {"detail": SECRET}, {"error": SECRET}):
            error = await failing(open_model, refusing(502, body))
            assert error.kind is FailureKind.SERVER

    @both
    async def test_tells_when_to_ask_again_and_which_request_it_was(
        self, open_model: Opening
    ) -> None:
        headers = {"retry-after": "7", "x-request-id": "req_1"}
        error = await failing(open_model, refusing(429, error_body(SECRET), headers))
        assert error.retry_after == 7.0
        assert "request req_1" in error.message

    @both
    async def test_names_the_parameter_at_fault_if_it_is_ours(self, open_model: Opening) -> None:
        error = await failing(
            open_model, refusing(400, error_body(SECRET, param="reasoning.effort"))
        )
        assert "because of reasoning" in error.message
        error = await failing(open_model, refusing(400, error_body(SECRET, param=SECRET)))
        assert "because" not in error.message

    @both
    @pytest.mark.parametrize(("report", "kind"), REPORTS)
    @pytest.mark.parametrize("begun", [False, True])
    async def test_errors_in_a_stream(
        self, open_model: Opening, report: Any, kind: FailureKind, begun: bool
    ) -> None:
        async def handle(exchange: Exchange) -> None:
            await exchange.begin_events()
            if begun:
                await exchange.send(FIRST[open_model])
            await exchange.send(wire({"type": "error", "error": report or {"message": ""}}))
            await exchange.left.wait()

        assert (await failing(open_model, handle)).kind is kind

    @both
    async def test_nobody_there(self, open_model: Opening) -> None:
        with socket.socket() as unused:
            unused.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
            async with open_client("key", url) as client:
                kind = ResponsesModel if open_model is responses_at else ChatCompletionsModel
                with pytest.raises(ModelError) as raised:
                    await ask(kind(NAME, "gpt-test", client, ""), "Hi")
        assert raised.value.kind is FailureKind.CONNECTION

    @both
    @pytest.mark.parametrize("reset", [False, True])
    async def test_connection_closed_before_an_answer(
        self, open_model: Opening, reset: bool
    ) -> None:
        async def handle(exchange: Exchange) -> None:
            exchange.cut(reset=reset)

        assert (await failing(open_model, handle)).kind is FailureKind.CONNECTION

    @both
    @pytest.mark.parametrize("begun", [False, True])
    async def test_silence(self, open_model: Opening, begun: bool) -> None:
        async def handle(exchange: Exchange) -> None:
            if begun:
                await exchange.begin_events()
                await exchange.send(FIRST[open_model])
            await exchange.left.wait()

        timeout = httpx2.Timeout(5, read=0.1)
        error = await failing(open_model, handle, timeout=timeout)
        assert error.kind is FailureKind.TIMEOUT

    @both
    @pytest.mark.parametrize(
        "event", ["nonsense", '{"type": ', "[" * 20_000, "null", "[]", '"text"', "7", "[DONE]"]
    )
    async def test_events_that_cannot_be_read(self, open_model: Opening, event: str) -> None:
        error = await failing(open_model, sending([event]))
        assert error.kind is FailureKind.BROKEN_OFF

    @both
    async def test_an_answer_that_is_no_stream(self, open_model: Opening) -> None:
        error = await failing(open_model, refusing(200, {"output": []}))
        assert error.kind is FailureKind.BROKEN_OFF


class TestEnding:
    @both
    async def test_closing_ends_the_connection(self, open_model: Opening) -> None:
        async def handle(exchange: Exchange) -> None:
            await exchange.begin_events()
            await exchange.send(FIRST[open_model])
            await exchange.left.wait()

        async with open_model(handle) as (model, server):
            async with aclosing(model.stream(asking("Hi"))) as stream:
                await anext(stream)
            await (await server.arrived()).left.wait()

    @both
    @pytest.mark.parametrize("begun", [False, True])
    async def test_cancelling_ends_the_connection(self, open_model: Opening, begun: bool) -> None:
        pieces: list[object] = []
        has_begun = asyncio.Event()

        async def handle(exchange: Exchange) -> None:
            if begun:
                await exchange.begin_events()
                await exchange.send(FIRST[open_model])
            else:
                has_begun.set()
            await exchange.left.wait()

        async def read(model: Model) -> None:
            async for piece in model.stream(asking("Hi")):
                pieces.append(piece)
                has_begun.set()

        async with open_model(handle) as (model, server):
            reading = asyncio.create_task(read(model))
            await has_begun.wait()
            reading.cancel()
            with pytest.raises(asyncio.CancelledError):
                await reading
            await (await server.arrived()).left.wait()
        assert len(pieces) == begun

    @both
    async def test_an_answer_does_not_wait_for_the_end_of_its_connection(
        self, open_model: Opening
    ) -> None:
        async def handle(exchange: Exchange) -> None:
            await exchange.begin_events()
            render = responses_events if open_model is responses_at else chat_chunks
            for each in render(exchange.request.body, Reply("Hello.")):
                if each != "[DONE]":
                    await exchange.send(wire(each))
            await exchange.left.wait()

        async with open_model(handle) as (model, _):
            assert shown(await ask(model, "Hi")) == [("text", "Hello.")]
