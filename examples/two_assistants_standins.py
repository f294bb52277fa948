"""What the stand-ins of two_assistants.py answer, and how to read what they are asked."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from textwrap import shorten
from typing import Any

from standins.replies import Reply, Script

_OTHER = re.compile(r'<agent name="([^"]*)">(.*)</agent>', re.S)

Json = Mapping[str, Any]


def telling(vendor: str) -> Script:
    """Makes a script that tells what it was sent, and takes one word for one token.

    Args:
        vendor: In whose place it speaks.
    """

    def script(body: Any) -> Reply:
        said = list(spoken(body))
        others = [match.groups() for _, text in said if (match := _OTHER.fullmatch(text))]
        *_, question = (text for role, text in said if role == "user" and not _OTHER.search(text))
        told = [f"I stand in for {vendor} and am no language model. You ask: {question}"]
        told += (f'{name} said, and not I: "{shorten(text, 60)}"' for name, text in others)
        told += (f'I said before: "{shorten(text, 60)}"' for role, text in said if role != "user")
        text, thinking = "\n".join(told), f"The stand-in for {vendor} thinks of: {question}"
        return Reply(
            text,
            thinking=thinking,
            input_tokens=_count(instructions(body), *(text for _, text in said)),
            output_tokens=_count(thinking, text),
            reasoning_tokens=_count(thinking),
        )

    return script


def _count(*texts: str) -> int:
    return sum(len(text.split()) for text in texts)


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
