"""What Anthropic's Messages API sends over the wire, event by event."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from standins.http import event

USAGE = {"input_tokens": 20, "output_tokens": 1}

Json = dict[str, Any]


def start(usage: Mapping[str, object] = USAGE, model: str = "claude-test") -> bytes:
    """Begins an answer."""
    message: Json = {
        "id": "msg_standin",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": usage,
    }
    return wire("message_start", message=message)


def block(index: int, empty: Json, *deltas: Json) -> list[bytes]:
    """A whole block."""
    pieces = [delta(index, each) for each in deltas]
    return [begin(index, empty), *pieces, wire("content_block_stop", index=index)]


def begin(index: int, empty: Json) -> bytes:
    return wire("content_block_start", index=index, content_block=empty)


def delta(index: int, change: Json) -> bytes:
    return wire("content_block_delta", index=index, delta=change)


def text_block(index: int, *pieces: str) -> list[bytes]:
    """A whole block of text."""
    return block(index, {"type": "text", "text": ""}, *(text_delta(each) for each in pieces))


def text_delta(piece: str) -> Json:
    return {"type": "text_delta", "text": piece}


def json_delta(piece: str) -> Json:
    return {"type": "input_json_delta", "partial_json": piece}


def call_block(call_id: str, name: str) -> Json:
    return {"type": "tool_use", "id": call_id, "name": name, "input": {}}


def end(stop_reason: str | None, usage: Mapping[str, object] | None = None) -> list[bytes]:
    """Ends an answer."""
    change = {"stop_reason": stop_reason, "stop_sequence": None}
    return [
        wire("message_delta", delta=change, usage=usage or {"output_tokens": 10}),
        wire("message_stop"),
    ]


def failed(kind: str, message: str = "The stand-in fails.") -> bytes:
    """An error in the middle of an answer."""
    return wire("error", error={"type": kind, "message": message})


def wire(kind: str, **data: object) -> bytes:
    return event({"type": kind, **data}, kind)


PING = wire("ping")
