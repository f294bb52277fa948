"""A stand-in of Anthropic: the Messages API, streamed.

`scripted` gives the answers of a script and, as the provider does, takes neither requests against
its rules nor signed thinking of another conversation. `playing` sends exactly what a test says.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterator, Mapping
from typing import Any

from standins.anthropic_rules import problems
from standins.anthropic_wire import (
    PING,
    block,
    call_block,
    end,
    json_delta,
    start,
    text_delta,
)
from standins.http import Exchange, Gate, Handler, Step
from standins.replies import Call, Reply, Script, words

PATH = "/v1/messages"
BOUND_ELSEWHERE = (
    "Invalid signature in thinking block. The block is bound to a different conversation"
)

Json = dict[str, Any]


def playing(*steps: Step) -> Handler:
    """Answers every request with a stream of these steps."""

    async def handle(exchange: Exchange) -> None:
        await exchange.begin_events({"request-id": "req_standin"})
        await exchange.play(*steps)

    return handle


def refusing(
    status: int,
    kind: str,
    message: str = "The stand-in refuses.",
    *,
    headers: Mapping[str, str] | None = None,
    error_code: str = "",
) -> Handler:
    """Answers every request with an error instead of a stream."""

    async def handle(exchange: Exchange) -> None:
        await refuse(exchange, status, kind, message, headers=headers, error_code=error_code)

    return handle


async def refuse(
    exchange: Exchange,
    status: int,
    kind: str,
    message: str,
    *,
    headers: Mapping[str, str] | None = None,
    error_code: str = "",
) -> None:
    """Answers with an error."""
    details = {"details": {"error_code": error_code}} if error_code else {}
    error = {"type": kind, "message": message, **details}
    body = {"type": "error", "error": error, "request_id": "req_standin"}
    await exchange.answer(body, status, {"request-id": "req_standin", **(headers or {})})


def scripted(script: Script, *, gate: Gate | None = None) -> Handler:
    """Answers as a script says, and refuses what Anthropic would.

    Args:
        script: Makes a reply of the body of a request.
        gate: Says when each event of an answer may go; all go at once when left out.
    """

    async def handle(exchange: Exchange) -> None:
        request = exchange.request
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        if (request.method, request.path) != ("POST", PATH):
            await refuse(exchange, 404, "not_found_error", "There is nothing here.")
        elif not key:
            await refuse(exchange, 401, "authentication_error", "There is no key.")
        elif wrong := problems(request.body, paused=True):
            await refuse(exchange, 400, "invalid_request_error", "; ".join(wrong))
        elif not _is_bound(request.body, key):
            await refuse(exchange, 400, "invalid_request_error", BOUND_ELSEWHERE)
        else:
            reply = script(request.body)
            if inspect.isawaitable(reply):
                reply = await reply
            events = reply_events(reply, request.body, key)
            await exchange.send_events(events, {"request-id": "req_standin"}, gate)

    return handle


def reply_events(reply: Reply, body: Json, key: str) -> list[bytes]:
    """Returns the events of an answer to a request."""
    uncached = reply.input_tokens - reply.cached_tokens
    counts = {"input_tokens": uncached, "cache_read_input_tokens": reply.cached_tokens}
    used = {
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"thinking_tokens": reply.reasoning_tokens},
    }
    events = [start({**counts, "output_tokens": 1}, model=body["model"]), PING]
    for place, (empty, deltas) in enumerate(_reply_blocks(reply, _prefix(body, key))):
        events += block(place, empty, *deltas)
    return [*events, *end(_stop_reason(reply), used)]


def _stop_reason(reply: Reply) -> str:
    if reply.cut:
        return "max_tokens"
    if reply.refusal:
        return "refusal"
    return "tool_use" if reply.calls else "end_turn"


def _reply_blocks(reply: Reply, prefix: _Prefix) -> Iterator[tuple[Json, list[Json]]]:
    """Returns each block as it begins, and what is added to it."""
    if reply.thinking:
        thought = [{"type": "thinking_delta", "thinking": each} for each in words(reply.thinking)]
        signature = {"type": "signature_delta", "signature": prefix.sign(reply.thinking)}
        yield {"type": "thinking", "thinking": "", "signature": ""}, [*thought, signature]
    if text := reply.text or reply.refusal:
        yield {"type": "text", "text": ""}, [text_delta(each) for each in words(text)]
    for call in reply.calls:
        yield call_block(call.call_id, call.name), [*_argument_deltas(call)]


def _argument_deltas(call: Call) -> Iterator[Json]:
    # The first is empty at the provider, too.
    for piece in ("", *words(call.arguments)):
        yield json_delta(piece)


class _Prefix:
    """All that stands before a block: what its signature is bound to."""

    def __init__(self, *parts: object) -> None:
        self._hash = hashlib.sha256()
        self.add(parts)

    def add(self, part: object) -> None:
        self._hash.update(json.dumps(part, sort_keys=True).encode())

    def sign(self, thinking: str) -> str:
        signature = self._hash.copy()
        signature.update(thinking.encode())
        return signature.hexdigest()


def _prefix(body: Json, key: str) -> _Prefix:
    prefix = _begin_prefix(body, key)
    for role, content in _blocks(body):
        prefix.add([role, content])
    return prefix


def _is_bound(body: Json, key: str) -> bool:
    """Whether all signed thinking of a request is bound to what stands before it."""
    prefix = _begin_prefix(body, key)
    for role, content in _blocks(body):
        signature = content.get("signature")
        if signature is not None and signature != prefix.sign(content["thinking"]):
            return False
        prefix.add([role, content])
    return True


def _begin_prefix(body: Json, key: str) -> _Prefix:
    return _Prefix(key, body["model"], body.get("system"), body.get("tools"))


def _blocks(body: Json) -> Iterator[tuple[str, Json]]:
    for message in body["messages"]:
        content = message["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        for each in blocks:
            yield message["role"], each
