"""Models of Anthropic whose provider is a stand-in."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from callboard_server.models.anthropic import AnthropicModel, open_client
from callboard_server.models.base import Answer, ModelRequest
from standins.anthropic_rules import problems
from standins.http import Handler, HttpServer, serving
from tests.models.conversations import asking, converse

NAME = "anthropic:claude-test"
KEY = "sk-standin"


@asynccontextmanager
async def opened(handler: Handler) -> AsyncIterator[tuple[AnthropicModel, HttpServer]]:
    """A model whose provider answers by a handler. What it is asked keeps the API's rules."""
    async with serving(handler) as server, open_client(KEY, server.url) as client:
        yield AnthropicModel(NAME, "claude-test", client, "account"), server
    for request in server.requests:
        assert not (wrong := problems(request.body, paused=True)), wrong


async def answer_of(handler: Handler, request: ModelRequest | None = None) -> Answer:
    """The answer of a stand-in."""
    async with opened(handler) as (model, _):
        return (await converse(model, request or asking("Hello")))[1]


def flat(body: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """The blocks of a request, each with its role: the API joins messages of one role."""
    return [(each["role"], block) for each in body["messages"] for block in each["content"]]
