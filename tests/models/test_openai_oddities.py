"""Whatever a server sends instead of what it should, a call ends with an answer or says why not."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from copy import deepcopy
from typing import Any

import pytest

from callboard_server.models.base import Model, ModelError
from standins.http import Exchange, HttpServer
from standins.openai import Event, chat_chunks, responses_events, send_events
from standins.replies import Call, Reply
from tests.models.conversations import ask
from tests.models.openai_servers import MODEL, chat_at, responses_at

Opening = Callable[..., AbstractAsyncContextManager[tuple[Model, HttpServer]]]
Path = tuple[str | int, ...]

BODY = {"model": MODEL, "input": [], "stream_options": {"include_usage": True}}
REPLY = Reply("Hi.", [Call("look_up", '{"a": 1}', "call_1")], thinking="Hm.", refusal="No.")
# What begins a response is of no use to anybody.
RESPONSE = responses_events(BODY, REPLY)[2:]
CHUNKS = chat_chunks(BODY, REPLY)

ODDITIES: list[object] = [None, 2**64, [[]], {}, "odd", -1.5, [], {"odd": []}, True, "", [None]]


def paths(value: object, path: Path = ()) -> Iterator[Path]:
    """All places in JSON, but for the whole."""
    inner: Iterable[tuple[str | int, object]] = ()
    if isinstance(value, dict):
        inner = value.items()
    elif isinstance(value, list):
        inner = enumerate(value)
    for key, each in inner:
        yield (*path, key)
        yield from paths(each, (*path, key))


def changed(events: Sequence[Event | str], path: Path, oddity: object) -> list[Event | str]:
    """The same events, with something else in one place."""
    copy = list(deepcopy(events))
    target: Any = copy
    for step in path[:-1]:
        target = target[step]
    target[path[-1]] = oddity
    return copy


@pytest.mark.parametrize(("open_model", "events"), [(responses_at, RESPONSE), (chat_at, CHUNKS)])
async def test_oddities(open_model: Opening, events: Sequence[Event | str]) -> None:
    cases = [
        changed(events, path, oddity)
        for number, path in enumerate(paths(list(events)))
        # In each place some: all together cost too much time.
        for oddity in ODDITIES[number % 8 :: 8]
    ]

    async def handle(exchange: Exchange) -> None:
        await send_events(exchange, cases[len(server.exchanges) - 1])

    async with open_model(handle) as (model, server):
        for case in cases:
            try:
                await ask(model, "Hi")
            except ModelError as error:
                assert "odd" not in error.message, case
