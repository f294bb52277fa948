"""Chat agents whose provider is a stand-in, run by a real engine through the real SDKs.

The SDKs are imported here: on a busy machine that takes longer than a test waits for a run.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from callboard import AsyncClient
from callboard.v1.message_pb2 import Message, ToolResult
from callboard.v1.run_pb2 import Run
from callboard_server.agents.loading import load
from callboard_server.app import client_caller, open_app
from callboard_server.config import ServerConfig
from callboard_server.models import anthropic as _anthropic  # noqa: F401
from callboard_server.models import openai_chat as _chat  # noqa: F401
from callboard_server.models import openai_responses as _responses  # noqa: F401
from standins import anthropic, openai
from standins.anthropic_rules import problems
from standins.http import Exchange, Gate, Handler, HttpServer, serving
from standins.openai_rules import chat_problems, responses_problems
from standins.replies import Reply, Script
from tests.support.gates import PATIENCE
from tests.support.serving import settings

Kind = Literal["anthropic", "openai", "openai-chat"]
KINDS: tuple[Kind, ...] = ("anthropic", "openai", "openai-chat")
RULES = {"anthropic": problems, "openai": responses_problems, "openai-chat": chat_problems}


def answering(kind: Kind, script: Script, gate: Gate | None = None) -> Handler:
    """Answers as a script says, in the wire format of a kind of provider."""
    scripted = anthropic.scripted if kind == "anthropic" else openai.scripted
    return scripted(script, gate=gate)


def saying(kind: Kind, *replies: Reply) -> Handler:
    """Gives one answer after the other; the last one again and again."""
    left = list(replies)
    return answering(kind, lambda body: left.pop(0) if len(left) > 1 else left[0])


def in_turn(*handlers: Handler) -> Handler:
    """Answers each request by the next handler; the last one answers all further ones."""
    left = list(handlers)

    async def handle(exchange: Exchange) -> None:
        await (left.pop(0) if len(left) > 1 else left[0])(exchange)

    return handle


def refusing(status: int, kind: str = "api_error", **headers: str) -> Handler:
    """Answers with an error, in words that must not get around; both SDKs understand it."""
    error = {"type": kind, "message": "SECRET WORDS", "code": kind}

    async def handle(exchange: Exchange) -> None:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        await exchange.answer({"type": "error", "error": error}, status, named)

    return handle


@asynccontextmanager
async def chatting(
    folder: Path,
    handler: Handler,
    kind: Kind = "anthropic",
    provider: Mapping[str, str] | None = None,
    **agent: Any,
) -> AsyncIterator[tuple[AsyncClient, HttpServer]]:
    """A server with an agent "chat", whose model "standin:m" is at a stand-in.

    What the stand-in was asked keeps the rules of its API.
    """
    async with serving(handler) as server:
        base_url = server.url if kind == "anthropic" else f"{server.url}/v1"
        config = ServerConfig.model_validate(
            {
                **settings(folder / "jobs.db"),
                "providers": {"standin": {"kind": kind, "base_url": base_url, **(provider or {})}},
                "prices": {"standin:m": {"input": 2.0, "output": 10.0}},
                "agents": {"chat": {"model": "standin:m", **agent}},
            }
        )
        async with open_app(config, load(config, folder)) as app:
            yield app.client(client_caller("test")), server
    for request in server.requests:
        assert not (wrong := RULES[kind](request.body)), wrong


async def ask(client: AsyncClient, text: str = "Hello?", **options: Any) -> Run:
    """Asks the agent; returns its run when that is over."""
    run = await client.runs.create("chat", text, **options)
    return await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)


async def messages_of(client: AsyncClient, run: Run) -> list[Message]:
    return [message async for message in client.threads.messages(run.thread_id)]


async def results_of(client: AsyncClient, run: Run) -> list[ToolResult]:
    """The results of tool calls on a run's thread."""
    blocks = [block for m in await messages_of(client, run) for block in m.content]
    return [block.tool_result for block in blocks if block.HasField("tool_result")]
