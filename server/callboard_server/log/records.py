"""An event as it is stored and sent: serialised once."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from callboard.v1.event_pb2 import Event
from callboard_server.log.events import KINDS, without_provider_state

_MESSAGE_ADDED = KINDS["message_added"]
_SEQUENCE_TAG = b"\x08"  # Event.sequence: field 1, a varint
_FRAME_EVENTS_TAG = b"\x0a"  # EventFrame.events: field 1, length-delimited


class Draft(NamedTuple):
    """An event that is serialised but for what the store fills in."""

    kind: int
    data: bytes

    def completed(self, sequence: int, rest: bytes) -> bytes:
        """Returns the whole event: of serialised messages that are joined, the fields add up.

        Args:
            sequence: Its sequence.
            rest: The other fields that the store fills in, serialised.
        """
        return b"".join((self.data, rest, _SEQUENCE_TAG, varint(sequence)))


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
    def shown(self) -> Record:
        """The record as readers get it: without what is for a model's provider alone."""
        if self.kind != _MESSAGE_ADDED:
            return self
        event = self.event
        if not event.message_added.message.HasField("provider_state"):
            return self
        return self._replace(data=without_provider_state(event).SerializeToString())

    @property
    def head(self) -> bytes:
        """The bytes that stand before the event in an EventFrame."""
        return _head(len(self.data))

    @property
    def framed(self) -> bytes:
        """The bytes that the event takes in an EventFrame."""
        return self.head + self.data


@lru_cache(4096)
def _head(size: int) -> bytes:
    return _FRAME_EVENTS_TAG + varint(size)


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
