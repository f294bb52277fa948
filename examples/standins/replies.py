"""What a stand-in answers, whatever wire format it speaks."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import uuid4


@dataclass(frozen=True, slots=True)
class Call:
    """A tool call."""

    name: str
    arguments: str = "{}"
    """JSON, or what a model writes instead."""
    call_id: str = field(default_factory=lambda: f"call_{uuid4().hex}")


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer."""

    text: str = ""
    calls: Sequence[Call] = ()
    thinking: str = ""
    refusal: str = ""
    cut: bool = False
    """Whether it ends at the limit of output tokens."""
    input_tokens: int = 20
    """Cached ones included."""
    cached_tokens: int = 0
    output_tokens: int = 10
    """Reasoning included."""
    reasoning_tokens: int = 0


_WORD = re.compile(r"\s*\S+|\s+\Z")


def words(text: str) -> list[str]:
    """The pieces that a text comes in."""
    return _WORD.findall(text)


Script = Callable[[Any], Reply | Awaitable[Reply]]
"""Answers the body of a request."""
