"""What the frames of a stream come to: items in order, each once, and a cursor to resume with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol, TypeVar

from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job, WatchJobsResponse
from callboard.v1.run_pb2 import Delta, EventFrame, Run, StreamEnd

FrameT = TypeVar("FrameT", contravariant=True)
ItemT = TypeVar("ItemT", covariant=True)


class Feed(Protocol[FrameT, ItemT]):
    """Turns frames, over any number of connections, into items."""

    end: StreamEnd | None
    """Why the stream ended; None while it goes on, also on another connection."""

    def items(self, frame: FrameT) -> Iterator[ItemT]:
        """Hands out what is new in a frame. The cursor moves along with the items taken."""


class EventFeed:
    """Events and deltas."""

    def __init__(self, cursor: int = 0) -> None:
        self.cursor = cursor
        self.run: Run | None = None
        self.end: StreamEnd | None = None
        self._deltas = _DeltaTrimmer()

    def items(self, frame: EventFrame) -> Iterator[Event | Delta]:
        """Hands out the events beyond the cursor, then what is new in the deltas."""
        if frame.HasField("run"):
            self.run = frame.run
        for event in frame.events:
            if event.sequence > self.cursor:
                self.cursor = event.sequence
                yield event
        self.cursor = max(self.cursor, frame.through_sequence)
        for delta in frame.deltas:
            fresh = self._deltas.trim(delta)
            if fresh is not None:
                yield fresh
        self.end = _end_of(frame)


class JobFeed:
    """Jobs, as they stood after each change."""

    def __init__(self, cursor: int | None = None) -> None:
        self.cursor = cursor
        self.end: StreamEnd | None = None

    def items(self, frame: WatchJobsResponse) -> Iterator[Job]:
        """Hands out the jobs, then moves the cursor.

        Within a snapshot there is no cursor before its last frame: if the connection breaks in
        the middle, the snapshot begins again.
        """
        yield from frame.jobs
        if frame.through_sequence:
            self.cursor = frame.through_sequence
        self.end = _end_of(frame)


class _DeltaTrimmer:
    """Cuts off what a reader has of a block that is sent again from its beginning."""

    def __init__(self) -> None:
        self._bytes_read: dict[tuple[str, int], int] = {}

    def trim(self, delta: Delta) -> Delta | None:
        """What is new in a delta; None where nothing is."""
        block = (delta.message_id, delta.index)
        read = self._bytes_read.get(block, 0)
        text = delta.text.encode()
        end = delta.offset + len(text)
        if end <= read:
            return None
        self._bytes_read[block] = end
        if delta.offset >= read:
            return delta
        fresh = Delta()
        fresh.CopyFrom(delta)
        fresh.offset = read
        fresh.text = text[read - delta.offset :].decode()
        return fresh


def _end_of(frame: EventFrame | WatchJobsResponse) -> StreamEnd | None:
    """The end that a frame tells of, unless it only means that this server stops."""
    if frame.HasField("end") and frame.end.reason != StreamEnd.REASON_SERVER_DRAINING:
        return frame.end
    return None
