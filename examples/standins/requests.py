"""Reads what stand-ins are asked, in either wire format."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

Json = Mapping[str, Any]


def instructions(body: Json) -> str:
    """Returns the system prompt of a request."""
    text: str = body.get("system") or body.get("instructions") or ""
    return text


def entries(body: Json) -> Iterator[tuple[str, Json]]:
    """Yields the parts of a request's conversation, each with the role of who says it."""
    for item in body.get("messages") or body["input"]:
        role, content = item.get("role", "assistant"), item.get("content")
        if isinstance(content, list):
            yield from ((role, part) for part in content)
        else:
            yield role, item


def spoken(body: Json) -> Iterator[tuple[str, str]]:
    """Yields the texts of a request's conversation, each with the role of who says it."""
    for role, part in entries(body):
        if text := part.get("text") or part.get("content"):
            yield role, text
