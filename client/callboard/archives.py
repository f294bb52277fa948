"""Archives: a session with its whole log as JSON lines.

The first line says what it is; every other line is an event, in the order of the log:

    {"format": "callboard.session", "version": 1, "session": {"thread_id": "1b4e28ba-...", ...}}
    {"sequence": "1", "session_id": "1b4e28ba-...", "time": "2026-01-05T09:30:00.125Z", ...}

`session` is the session's root thread as it was then, a `Thread` of the contract; the other lines
are `Event`s. Both are protobuf's JSON, with the names of the protos. The text is UTF-8, and every
line ends with a line feed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from google.protobuf.json_format import MessageToDict, ParseDict, ParseError
from google.protobuf.message import Message

from callboard.v1.event_pb2 import Event
from callboard.v1.thread_pb2 import Thread

M = TypeVar("M", bound=Message)

FORMAT = "callboard.session"
VERSION = 1


@dataclass(frozen=True)
class Archive:
    """A session as it was archived.

    Attributes:
        session: Its root thread, as it was then.
        events: Its log, read as it is iterated.
    """

    session: Thread
    events: Iterator[Event]


def header_line(session: Thread) -> str:
    """The first line of an archive.

    Args:
        session: The session's root thread.

    Returns:
        The line, with its end.
    """
    return _line({"format": FORMAT, "version": VERSION, "session": _to_dict(session)})


def event_line(event: Event) -> str:
    """The line of an event.

    Args:
        event: The event.

    Returns:
        The line, with its end.
    """
    return _line(_to_dict(event))


def read_lines(lines: Iterable[str]) -> Archive:
    """Reads an archive, for example from an open file.

    Args:
        lines: Its lines.

    Returns:
        The session. Its events are read as they are asked for, each of which may raise ValueError
        where a line is no event.

    Raises:
        ValueError: The lines do not begin like an archive, or one of a newer version.
    """
    rest = iter(lines)
    header = _object(next(rest, ""), 1)
    if header.get("format") != FORMAT:
        raise ValueError(f"line 1: no archive of a session: format is not {FORMAT!r}")
    if header.get("version") != VERSION:
        raise ValueError(
            f"line 1: version {header.get('version')!r} is not known; this reads version {VERSION}"
        )
    session = _parsed(Thread(), header.get("session") or {}, 1)
    numbered = enumerate(rest, 2)
    return Archive(session, (_parsed(Event(), _object(line, n), n) for n, line in numbered))


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")) + "\n"


def _to_dict(message: Message) -> dict[str, Any]:
    return MessageToDict(message, preserving_proto_field_name=True)


def _object(line: str, number: int) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ValueError(f"line {number}: no JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError(f"line {number}: no JSON object")
    return value


def _parsed(message: M, value: dict[str, Any], number: int) -> M:
    try:
        # What a newer server wrote may have more fields.
        return ParseDict(value, message, ignore_unknown_fields=True)
    except ParseError as error:
        raise ValueError(f"line {number}: {error}") from None
