"""An event as it is stored and sent: serialised once."""

from __future__ import annotations

from typing import NamedTuple

from callboard.v1.event_pb2 import Event

_FRAME_EVENTS_TAG = b"\x0a"  # EventFrame.events: field 1, length-delimited


class Record(NamedTuple):
    """One event of a session's log with its serialised form."""

    session: int
    """Key of the session."""
    sequence: int
    thread: int
    """Key of the thread."""
    run: int | None
    """Key of the run, where there is one."""
    kind: int
    """The EventKind: the number of the payload's field."""
    data: bytes
    """The Event, serialised."""

    @property
    def event(self) -> Event:
        return Event.FromString(self.data)

    @property
    def framed(self) -> bytes:
        """The bytes that the event takes in an EventFrame."""
        return _FRAME_EVENTS_TAG + varint(len(self.data)) + self.data


def varint(value: int) -> bytes:
    """Encodes a non-negative integer the way that protobuf does."""
    if value < 0x80:
        return bytes((value,))
    encoded = bytearray()
    while value >= 0x80:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)
