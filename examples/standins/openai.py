"""OpenAI's wire formats: the Responses API and Chat Completions, and a script told in both."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from uuid import uuid4

from standins.http import Exchange, Gate, Handler, event
from standins.openai_rules import chat_problems, responses_problems
from standins.replies import Call, Reply, Script, words

Event = dict[str, Any]

RESPONSES = "/v1/responses"
CHAT = "/v1/chat/completions"


def scripted(script: Script, *, gate: Gate | None = None) -> Handler:
    """Answers as a script says, and refuses what OpenAI would.

    Args:
        script: Makes a reply of the body of a request.
        gate: Says when each event of an answer may go; all go at once when left out.
    """

    async def handle(exchange: Exchange) -> None:
        path = exchange.request.path
        if path not in (RESPONSES, CHAT):
            await exchange.answer(error_body("Unknown path."), 404)
            return
        body = exchange.request.body
        check, render = (
            (responses_problems, responses_events)
            if path == RESPONSES
            else (chat_problems, chat_chunks)
        )
        if problems := check(body):
            await exchange.answer(error_body("; ".join(problems)), 400)
            return
        reply = script(body)
        events = render(body, await reply if inspect.isawaitable(reply) else reply)
        await send_events(exchange, events, gate)

    return handle


async def send_events(
    exchange: Exchange, events: Iterable[Event | str], gate: Gate | None = None
) -> None:
    """Sends a whole stream."""
    await exchange.send_events([wire(each) for each in events], gate=gate)


def wire(each: Event | str) -> bytes:
    """Renders an event of either API."""
    name = each.get("type", "") if isinstance(each, dict) else ""
    return event(each, name)


def error_body(
    message: str, code: str | None = None, kind: str = "invalid_request_error", param: str = ""
) -> Event:
    """What is wrong, as both APIs say it."""
    return {"error": {"message": message, "type": kind, "param": param or None, "code": code}}


def responses_events(body: Mapping[str, Any], reply: Reply) -> list[Event]:
    """An answer in the Responses API."""
    response: Event = {
        "id": f"resp_{uuid4().hex}",
        "object": "response",
        "created_at": 1_790_000_000,
        "model": body["model"],
        "status": "in_progress",
        "output": [],
        "error": None,
        "incomplete_details": None,
        "usage": None,
    }
    items = list(_items(body, reply))
    events: list[Event] = [
        {"type": "response.created", "response": response},
        {"type": "response.in_progress", "response": response},
    ]
    for index, item in enumerate(items):
        events += (each | {"output_index": index} for each in _item_events(item))
    status = "incomplete" if reply.cut else "completed"
    final = response | {
        "status": status,
        "output": items,
        "incomplete_details": {"reason": "max_output_tokens"} if reply.cut else None,
        "usage": _responses_usage(reply),
    }
    events.append({"type": f"response.{status}", "response": final})
    return [each | {"sequence_number": number} for number, each in enumerate(events)]


def chat_chunks(body: Mapping[str, Any], reply: Reply) -> list[Event | str]:
    """An answer in Chat Completions."""
    base: Event = {
        "id": f"chatcmpl-{uuid4().hex}",
        "object": "chat.completion.chunk",
        "created": 1_790_000_000,
        "model": body["model"],
    }
    deltas: list[Event] = [{"role": "assistant", "content": ""}]
    deltas += ({"reasoning_content": word} for word in words(reply.thinking))
    deltas += ({"content": word} for word in words(reply.text))
    deltas += ({"refusal": word} for word in words(reply.refusal))
    for index, call in enumerate(reply.calls):
        deltas += ({"tool_calls": [delta]} for delta in _call_deltas(index, call))
    finish = "length" if reply.cut else "tool_calls" if reply.calls else "stop"
    chunks: list[Event | str] = [base | {"choices": [_choice(delta)]} for delta in deltas]
    chunks.append(base | {"choices": [_choice({}, finish)]})
    if body.get("stream_options", {}).get("include_usage"):
        chunks.append(base | {"choices": [], "usage": _chat_usage(reply)})
    return [*chunks, "[DONE]"]


def seal(body: Mapping[str, Any], length: int) -> str:
    """What stands for the sealed thoughts of an answer: it is bound to all before it.

    Args:
        body: The request, or a later one.
        length: How many items of its input the answer had seen.
    """
    seen = [body["model"], body.get("instructions"), body.get("tools"), body["input"][:length]]
    digest = hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()
    return f"sealed:{length}:{digest}"


def broken_seals(body: Mapping[str, Any]) -> list[str]:
    """The sealed thoughts in a request before which something has changed."""
    contents = (item.get("encrypted_content") or "" for item in body["input"])
    sealed = [content for content in contents if content.startswith("sealed:")]
    return [content for content in sealed if content != seal(body, int(content.split(":")[1]))]


def _items(body: Mapping[str, Any], reply: Reply) -> Iterator[Event]:
    if reply.thinking:
        yield {
            "type": "reasoning",
            "id": f"rs_{uuid4().hex}",
            "summary": [{"type": "summary_text", "text": reply.thinking}],
            "encrypted_content": seal(body, len(body["input"])),
        }
    parts: list[Event] = []
    if reply.text:
        parts.append({"type": "output_text", "text": reply.text, "annotations": []})
    if reply.refusal:
        parts.append({"type": "refusal", "refusal": reply.refusal})
    if parts:
        yield {
            "type": "message",
            "id": f"msg_{uuid4().hex}",
            "role": "assistant",
            "status": "completed" if reply.calls or not reply.cut else "incomplete",
            "content": parts,
        }
    for call in reply.calls:
        yield {
            "type": "function_call",
            "id": f"fc_{uuid4().hex}",
            "status": "incomplete" if reply.cut else "completed",
            "call_id": call.call_id,
            "name": call.name,
            "arguments": call.arguments,
        }


def _item_events(item: Event) -> Iterator[Event]:
    match item["type"]:
        case "reasoning":
            begun, growth = item | {"summary": [], "encrypted_content": ""}, _summary_events(item)
        case "message":
            begun, growth = item | {"content": [], "status": "in_progress"}, _part_events(item)
        case _:
            begun, growth = item | {"arguments": "", "status": "in_progress"}, _call_events(item)
    yield {"type": "response.output_item.added", "item": begun}
    for each in growth:
        yield {"item_id": item["id"], **each}
    yield {"type": "response.output_item.done", "item": item}


def _summary_events(item: Event) -> Iterator[Event]:
    for number, part in enumerate(item["summary"]):
        place, kind = {"summary_index": number}, "response.reasoning_summary"
        yield {"type": f"{kind}_part.added", **place, "part": part | {"text": ""}}
        for word in words(part["text"]):
            yield {"type": f"{kind}_text.delta", **place, "delta": word}
        yield {"type": f"{kind}_text.done", **place, "text": part["text"]}
        yield {"type": f"{kind}_part.done", **place, "part": part}


def _part_events(item: Event) -> Iterator[Event]:
    for number, part in enumerate(item["content"]):
        place, field = {"content_index": number}, "text" if "text" in part else "refusal"
        kind = "response.output_text" if field == "text" else "response.refusal"
        yield {"type": "response.content_part.added", **place, "part": part | {field: ""}}
        for word in words(part[field]):
            yield {"type": f"{kind}.delta", **place, "delta": word}
        yield {"type": f"{kind}.done", **place, field: part[field]}
        yield {"type": "response.content_part.done", **place, "part": part}


def _call_events(item: Event) -> Iterator[Event]:
    kind = "response.function_call_arguments"
    for word in words(item["arguments"]):
        yield {"type": f"{kind}.delta", "delta": word}
    yield {"type": f"{kind}.done", "arguments": item["arguments"]}


def _call_deltas(index: int, call: Call) -> Iterator[Event]:
    named = {"name": call.name, "arguments": ""}
    yield {"index": index, "id": call.call_id, "type": "function", "function": named}
    for word in words(call.arguments):
        yield {"index": index, "function": {"arguments": word}}


def _choice(delta: Event, finish_reason: str | None = None) -> Event:
    return {"index": 0, "delta": delta, "finish_reason": finish_reason}


def _responses_usage(reply: Reply) -> Event:
    return {
        "input_tokens": reply.input_tokens,
        "input_tokens_details": {"cached_tokens": reply.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": reply.output_tokens,
        "output_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }


def _chat_usage(reply: Reply) -> Event:
    return {
        "prompt_tokens": reply.input_tokens,
        "prompt_tokens_details": {"cached_tokens": reply.cached_tokens},
        "completion_tokens": reply.output_tokens,
        "completion_tokens_details": {"reasoning_tokens": reply.reasoning_tokens},
        "total_tokens": reply.input_tokens + reply.output_tokens,
    }
