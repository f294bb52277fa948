"""What the stand-ins of two_assistants.py answer."""

from __future__ import annotations

import re
from textwrap import shorten
from typing import Any

from standins.replies import Reply, Script
from standins.requests import instructions, spoken

_OTHER = re.compile(r'<agent name="([^"]*)">(.*)</agent>', re.S)


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
