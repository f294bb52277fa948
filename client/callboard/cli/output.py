"""What goes to standard output: JSON for machines, or text for people. Errors go beside it."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Mapping
from datetime import UTC
from typing import Any, Literal

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console, RenderableType
from rich.text import Text

# Wide enough for any line: where nobody looks at a screen, nothing is cut off.
_PIPE_WIDTH = 100_000
# What agents and models write must not reach the terminal as commands to it, nor turn the order of
# what stands there around.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


class Output:
    """Standard output.

    Attributes:
        as_json: Whether a machine reads it: then everything on it is JSON, an object a line.
        console: Standard output for text.
    """

    def __init__(self, as_json: bool) -> None:
        """Takes the standard output of the process."""
        self.as_json = as_json
        self.console = _console(stderr=False)

    @property
    def is_terminal(self) -> bool:
        """Whether people look at it, as it comes."""
        return self.console.is_terminal and not self.as_json

    def print(self, *parts: RenderableType) -> None:
        """Prints text for people."""
        self.console.print(*parts)

    def print_line(self, line: Text) -> None:
        """Prints a single line, which the edge of the screen cuts off."""
        self.console.print(line, no_wrap=True, overflow="ellipsis")

    def write(self, text: str, style: str = "") -> None:
        """Prints text just as it is, but for control characters, and breaks no lines."""
        self.console.print(Text(printable(text), style=style), soft_wrap=True, end="")

    def json(self, value: Message | Mapping[str, Any]) -> None:
        """Prints a line for machines."""
        if isinstance(value, Message):
            value = MessageToDict(value, preserving_proto_field_name=True)
        self.console.file.write(json.dumps(value, ensure_ascii=False) + "\n")
        self.console.file.flush()


def json_text(value: object, indent: int | None = None) -> str:
    """JSON for people: what is empty is nothing."""
    return json.dumps(value, ensure_ascii=False, indent=indent) if value else ""


def note(text: str) -> None:
    """Tells people something beside the output, on standard error."""
    _console(stderr=True).print(Text(printable(text), style="dim"), soft_wrap=True)


def report(message: str, hint: str = "") -> None:
    """Tells about a failure, on standard error: a line for each of its lines, and a hint."""
    console = _console(stderr=True)
    for line in message.splitlines() or [message]:
        console.print(Text.assemble(("error: ", "red"), printable(line)), soft_wrap=True)
    if hint:
        console.print(Text.assemble(("hint: ", "dim"), printable(hint)), soft_wrap=True)


def printable(text: str) -> str:
    """A text without control characters, except for tabs and line ends."""
    return _CONTROL.sub("", text.replace("\r\n", "\n"))


def one_line(text: str) -> str:
    """A text on a single line."""
    return " ".join(printable(text).split())


def shortened(text: str, length: int) -> str:
    """A text on a single line, of which the end is cut off where it is longer."""
    line = one_line(text)
    return line if len(line) <= length else f"{line[: length - 1]}…"


def local_time(timestamp: Timestamp, form: Literal["time", "full"] = "full") -> str:
    """A point in time on the clock of this machine."""
    moment = timestamp.ToDatetime(UTC).astimezone()
    if form == "time":
        return f"{moment:%H:%M:%S}.{moment.microsecond // 1000:03}"
    return f"{moment:%Y-%m-%d %H:%M:%S}"


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() or "COLUMNS" in os.environ else _PIPE_WIDTH
    return Console(stderr=stderr, width=width, highlight=False, markup=False, emoji=False)
