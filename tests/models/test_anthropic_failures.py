"""How calls of Anthropic's models fail: before the answer, within it, and without an end."""

from __future__ import annotations

import asyncio
import socket
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx2
import pytest

from callboard.v1.message_pb2 import Usage
from callboard_server.models.anthropic import AnthropicModel, open_client
from callboard_server.models.base import FailureKind, ModelError, Piece, TextPiece
from standins.anthropic import playing, refusing, scripted
from standins.anthropic_wire import (
    begin,
    block,
    call_block,
    delta,
    end,
    failed,
    json_delta,
    start,
    text_block,
    text_delta,
)
from standins.http import Break, Exchange, Handler, HttpServer, Step, serving
from standins.replies import Reply
from tests.models.anthropic_servers import KEY, NAME, opened
from tests.models.conversations import asking, converse

PRIVATE = "the words of a conversation"
WHOLE = [start(), *text_block(0, "Hello", " there"), *end("end_turn")]
USED = Usage(input_tokens=20, output_tokens=1, model_calls=1)
"""What the beginning of an answer tells."""


async def failure_of(handler: Handler) -> ModelError:
    """How a call fails."""
    async with opened(handler) as (model, _):
        return await _failure(model)


async def _failure(model: AnthropicModel) -> ModelError:
    with pytest.raises(ModelError) as caught:
        await converse(model, asking("Hello"))
    assert caught.value.message.startswith(f"{NAME}: ")
    assert PRIVATE not in "".join(traceback.format_exception(caught.value))
    return caught.value


@pytest.mark.parametrize(
    ("status", "error_type", "kind", "may_pass"),
    [
        (400, "invalid_request_error", FailureKind.INVALID_REQUEST, False),
        (401, "authentication_error", FailureKind.AUTHENTICATION, False),
        (402, "billing_error", FailureKind.BILLING, False),
        (403, "permission_error", FailureKind.PERMISSION, False),
        (404, "not_found_error", FailureKind.MODEL_NOT_FOUND, False),
        (408, "timeout_error", FailureKind.TIMEOUT, True),
        (409, "conflict_error", FailureKind.SERVER, True),
        (413, "request_too_large", FailureKind.CONTEXT_OVERFLOW, False),
        (418, "of_the_future", FailureKind.INVALID_REQUEST, False),
        (422, "invalid_request_error", FailureKind.INVALID_REQUEST, False),
        (429, "rate_limit_error", FailureKind.RATE_LIMIT, True),
        (499, "overloaded_error", FailureKind.OVERLOADED, True),
        (500, "api_error", FailureKind.SERVER, True),
        (501, "of_the_future", FailureKind.SERVER, True),
        (503, "api_error", FailureKind.OVERLOADED, True),
        (504, "timeout_error", FailureKind.TIMEOUT, True),
        (529, "overloaded_error", FailureKind.OVERLOADED, True),
    ],
)
async def test_a_refusal_is_told_in_our_words(
    status: int, error_type: str, kind: FailureKind, may_pass: bool
) -> None:
    error = await failure_of(refusing(status, error_type, PRIVATE))
    assert (error.kind, error.may_pass) == (kind, may_pass)
    assert error.message.endswith(f" (HTTP {status}, request req_standin).")
    assert error.usage is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("contract_spend_limit_reached", FailureKind.BILLING),
        ("enforced_spend_limit_reached", FailureKind.BILLING),
        ("ramp_limit_exceeded", FailureKind.RATE_LIMIT),
    ],
)
async def test_a_limit_on_spending_is_no_limit_on_requests(code: str, kind: FailureKind) -> None:
    error = await failure_of(refusing(429, "rate_limit_error", error_code=code))
    assert error.kind is kind


@pytest.mark.parametrize(
    "message",
    [
        "prompt is too long: 210000 tokens > 200000 maximum",
        "input length and `max_tokens` exceed context limit: 198000 + 8192 > 200000",
        "This model's maximum context length is 8192 tokens.",
    ],
)
async def test_a_conversation_that_is_too_long(message: str) -> None:
    error = await failure_of(refusing(400, "invalid_request_error", message))
    assert error.kind is FailureKind.CONTEXT_OVERFLOW


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [({}, None), ({"retry-after": "7"}, 7.0), ({"retry-after": "4000000"}, 4_000_000.0)],
)
async def test_when_to_ask_again(headers: dict[str, str], seconds: float | None) -> None:
    error = await failure_of(refusing(429, "rate_limit_error", headers=headers))
    assert error.retry_after == seconds


async def test_a_request_id_that_is_none_is_not_told() -> None:
    error = await failure_of(refusing(500, "api_error", headers={"request-id": "<script>"}))
    assert error.message.endswith(" (HTTP 500).")


async def test_an_error_that_is_no_json() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.answer(PRIVATE, 502)

    assert (await failure_of(handle)).kind is FailureKind.SERVER


@pytest.mark.parametrize(
    ("error_type", "kind"),
    [
        ("overloaded_error", FailureKind.OVERLOADED),
        ("rate_limit_error", FailureKind.RATE_LIMIT),
        ("api_error", FailureKind.SERVER),
        ("timeout_error", FailureKind.TIMEOUT),
        ("authentication_error", FailureKind.AUTHENTICATION),
        ("billing_error", FailureKind.BILLING),
        ("permission_error", FailureKind.PERMISSION),
        ("invalid_request_error", FailureKind.INVALID_REQUEST),
        ("of_the_future", FailureKind.SERVER),
    ],
)
async def test_an_error_within_the_answer(error_type: str, kind: FailureKind) -> None:
    steps = [*WHOLE[:3], failed(error_type, PRIVATE)]
    async with opened(playing(*steps)) as (model, _):
        pieces, error = await _pieces_before_failure(model)
    assert pieces == [TextPiece(0, "Hello")]
    assert error.kind is kind
    assert error.message.endswith(" (request req_standin).")
    assert error.usage == USED


async def test_an_error_before_the_answer_has_begun() -> None:
    error = await failure_of(playing(failed("overloaded_error", PRIVATE)))
    assert error.kind is FailureKind.OVERLOADED
    assert error.usage is None


async def test_an_error_within_the_answer_that_is_no_json() -> None:
    error = await failure_of(playing(start(), f"event: error\ndata: {PRIVATE}\n\n".encode()))
    assert error.kind is FailureKind.SERVER


@pytest.mark.parametrize("ending", list(Break))
@pytest.mark.parametrize("count", range(len(WHOLE)))
async def test_a_connection_that_is_cut_within_the_answer(count: int, ending: Break) -> None:
    error = await failure_of(playing(*WHOLE[:count], ending))
    assert error.kind is FailureKind.CONNECTION
    assert error.usage == (
        Usage(input_tokens=20, output_tokens=1, model_calls=1) if count else None
    )


@pytest.mark.parametrize("reset", [False, True])
async def test_a_connection_that_is_cut_before_the_answer(reset: bool) -> None:
    async def handle(exchange: Exchange) -> None:
        exchange.cut(reset=reset)

    assert (await failure_of(handle)).kind is FailureKind.CONNECTION


async def test_a_connection_that_is_cut_within_an_event() -> None:
    middle = WHOLE[2][: len(WHOLE[2]) // 2]
    error = await failure_of(playing(*WHOLE[:2], middle, Break.CUT))
    assert error.kind is FailureKind.CONNECTION


@pytest.mark.parametrize("count", range(len(WHOLE)))
async def test_an_answer_that_ends_early(count: int) -> None:
    error = await failure_of(playing(*WHOLE[:count]))
    assert error.kind is FailureKind.BROKEN_OFF
    assert error.may_pass


async def test_an_answer_that_does_not_say_why_it_ends() -> None:
    error = await failure_of(playing(*WHOLE[:-2], *end(None)))
    assert error.kind is FailureKind.BROKEN_OFF


@pytest.mark.parametrize(
    "broken",
    [
        [b"event: content_block_delta\ndata: {half\n\n"],
        [begin(3, {"type": "text", "text": ""}), delta(3, text_delta("Hi"))],
        [delta(0, text_delta("Hi"))],
        block(0, call_block("toolu_1", "look"), json_delta('{"a": oops'), json_delta("}")),
        [begin(0, {"type": "text", "text": ""}), delta(0, text_delta("\ud800"))],
        [b"event: content_block_delta\ndata: \xff\n\n"],
    ],
    ids=["no json", "a gap", "no block", "broken arguments", "half a character", "no text"],
)
async def test_an_answer_that_cannot_be_read(broken: list[bytes]) -> None:
    error = await failure_of(playing(start(), *broken, *end("end_turn")))
    assert error.kind is FailureKind.BROKEN_OFF
    assert error.may_pass


async def test_a_server_that_speaks_something_else() -> None:
    async def handle(exchange: Exchange) -> None:
        await exchange.answer({"choices": []})

    assert (await failure_of(handle)).kind is FailureKind.BROKEN_OFF


async def test_nobody_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        async with open_client(KEY, url) as client:
            error = await _failure(AnthropicModel(NAME, "claude-test", client, ""))
    assert error.kind is FailureKind.CONNECTION


@pytest.mark.parametrize(
    "steps", [[], [start()], WHOLE[:3]], ids=["no head", "no text", "some text"]
)
async def test_silence_is_a_timeout(steps: list[Step]) -> None:
    async def handle(exchange: Exchange) -> None:
        if steps:
            await exchange.begin_events()
        await exchange.play(*steps, asyncio.Event())

    async with impatient(handle) as (model, server):
        error = await _failure(model)
        await (await server.arrived()).left.wait()
    assert error.kind is FailureKind.TIMEOUT


@asynccontextmanager
async def impatient(handler: Handler) -> AsyncIterator[tuple[AnthropicModel, HttpServer]]:
    """A model that waits for nothing that is read."""
    async with serving(handler) as server, open_client(KEY, server.url) as client:
        hasty = client.with_options(timeout=httpx2.Timeout(10, read=0.2))
        yield AnthropicModel(NAME, "claude-test", hasty, ""), server


async def test_every_call_is_one_try() -> None:
    async with opened(refusing(529, "overloaded_error")) as (model, server):
        await _failure(model)
    assert len(server.requests) == 1


async def test_a_model_can_be_called_again_after_a_failure() -> None:
    failures = iter([playing(*WHOLE[:2], Break.RESET), scripted(lambda body: Reply("Hi"))])

    async def handle(exchange: Exchange) -> None:
        await next(failures)(exchange)

    async with opened(handle) as (model, _):
        await _failure(model)
        _, answer = await converse(model, asking("Hello"))
    assert answer.content[0].text.text == "Hi"


async def _pieces_before_failure(model: AnthropicModel) -> tuple[list[Piece], ModelError]:
    pieces: list[Piece] = []
    with pytest.raises(ModelError) as caught:
        async for piece in model.stream(asking("Hello")):
            assert isinstance(piece, TextPiece)
            pieces.append(piece)
    return pieces, caught.value
