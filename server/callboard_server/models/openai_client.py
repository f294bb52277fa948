"""Calls of OpenAI and of servers that speak as it does: what both of its APIs share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Iterator, Mapping
from contextlib import aclosing, suppress
from typing import Any, Protocol

from openai import AsyncOpenAI, AsyncStream, DefaultAsyncHttpxClient, OpenAIError

from callboard.v1.message_pb2 import Usage
from callboard_server.models.base import Answer, FailureKind, ModelError, Piece
from callboard_server.models.failures import failure
from callboard_server.models.network import TIMEOUT, certificates
from callboard_server.models.openai_failures import describe_error

OPENAI_URL = "https://api.openai.com/v1"

# How long to read on when the answer is there: for its usage, and so that the connection can be
# used again.
_REST = 1.0

# What a count can hold.
_MOST = 2**63


class Reader(Protocol):
    """Makes an answer of the events of a stream."""

    @property
    def is_whole(self) -> bool:
        """Whether the answer is there, so that nothing can go wrong any more."""
        ...

    def read(self, event: Mapping[str, Any]) -> Iterator[Piece]:
        """Takes the next event.

        Raises:
            ModelError: It says that the call failed.
        """
        ...

    def answer(self) -> Answer:
        """Returns the answer.

        Raises:
            ModelError: It is not whole.
        """
        ...


def open_client(api_key: str, base_url: str | None) -> AsyncOpenAI:
    """Opens a client that takes nothing from the environment but proxies and certificates.

    Args:
        api_key: The key; a server that wants none gets any word.
        base_url: Where the API is, with its `/v1`; None for OpenAI's own.
    """
    client = AsyncOpenAI(
        api_key=api_key,
        base_url=base_url or OPENAI_URL,
        # Whoever calls tries again, where everybody sees it.
        max_retries=0,
        timeout=TIMEOUT,
        http_client=DefaultAsyncHttpxClient(verify=certificates()),
    )
    # The SDK reads these from the environment and takes no argument for "none".
    client.organization = client.project = client.admin_api_key = client.webhook_secret = None
    client._custom_headers = {}
    return client


def is_compatible(client: AsyncOpenAI) -> bool:
    """Whether a server only speaks as OpenAI does, and may refuse what is new or seldom used."""
    host = client.base_url.host
    return not (host == "api.openai.com" or host.endswith(".api.openai.com"))


async def stream_answer(
    client: AsyncOpenAI, path: str, parameters: Mapping[str, Any], reader: Reader, name: str
) -> AsyncGenerator[Piece | Answer, None]:
    """Makes a call and answers piece by piece; ends the connection when it is closed.

    Args:
        client: Where the model is.
        path: The API.
        parameters: The request.
        reader: Understands the events.
        name: The model.

    Raises:
        ModelError: The call failed.
    """
    events = _events(client, path, {**parameters, "stream": True}, name)
    async with aclosing(events):
        async for event in events:
            for piece in reader.read(event):
                yield piece
            if reader.is_whole:
                break
        for piece in await _read_rest(events, reader):
            yield piece
    yield reader.answer()


def read_usage(usage: object, read: str, written: str) -> Usage:
    """Normalises what a call used; what a server does not tell is zero.

    Args:
        usage: What the server says.
        read: What it calls the tokens that it read.
        written: What it calls those that it wrote.
    """
    counts: Mapping[str, object] = usage if isinstance(usage, dict) else {}
    return Usage(
        input_tokens=_count(counts, read),
        cached_input_tokens=_count(counts, f"{read}_details", "cached_tokens"),
        cache_write_tokens=_count(counts, f"{read}_details", "cache_write_tokens"),
        output_tokens=_count(counts, written),
        reasoning_tokens=_count(counts, f"{written}_details", "reasoning_tokens"),
        model_calls=1,
    )


async def _events(
    client: AsyncOpenAI, path: str, body: Mapping[str, Any], name: str
) -> AsyncGenerator[Mapping[str, Any], None]:
    """Yields events as the JSON that they are.

    The SDK's types do not hold for every server, and cost more than a second to make at first.
    """
    stream_cls = AsyncStream[object]
    try:
        call = client.post(path, body=body, cast_to=object, stream=True, stream_cls=stream_cls)
        async with await call as stream:
            async for event in stream:
                if isinstance(event, dict):
                    yield event
    except OpenAIError as error:
        raise describe_error(error, name) from None
    except (ValueError, RecursionError):
        # What should be JSON is none.
        raise failure(FailureKind.BROKEN_OFF, name) from None


async def _read_rest(
    events: AsyncGenerator[Mapping[str, Any], None], reader: Reader
) -> list[Piece]:
    """Reads what comes after the end of an answer, which can no longer fail."""
    rest: list[Piece] = []
    with suppress(ModelError, TimeoutError):
        async with asyncio.timeout(_REST):
            async for event in events:
                rest += reader.read(event)
    return rest


def _count(counts: Mapping[str, object], *path: str) -> int:
    value: object = counts
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value if type(value) is int and 0 < value < _MOST else 0
