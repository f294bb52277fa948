"""What clients did and saw, written down while it happened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job
from callboard.v1.run_pb2 import Delta, EventFrame
from tests.robustness import validators
from tests.robustness.validators import Input, Matches


@dataclass
class Reading:
    """What one reader asked for, and what it got, over however many connections."""

    thread_id: str
    """A thread of the session that it read."""
    matches: Matches = validators.everything
    frames: list[list[EventFrame]] = field(default_factory=list)
    """What came over each connection, where the reader looks at frames."""
    events: list[Event] = field(default_factory=list)
    """What the SDK handed out, where the reader uses that."""
    deltas: list[Delta] = field(default_factory=list)
    cursor: int = 0
    """Up to where it read."""

    def open(self) -> list[EventFrame]:
        """Begins to write down a connection."""
        self.frames.append([])
        return self.frames[-1]

    def connections(self) -> Iterator[tuple[int, list[EventFrame]]]:
        """Gives what came over each connection, with the cursor that it was opened with."""
        cursor = 0
        for frames in self.frames:
            yield cursor, frames
            cursor = validators.last_cursor(frames, cursor)


@dataclass
class History:
    """All that is known outside of the server."""

    inputs: list[Input] = field(default_factory=list)
    """What the server said it took."""
    refused: list[str] = field(default_factory=list)
    """What the server said it did not take."""
    forgotten: set[str] = field(default_factory=set)
    """Threads that were deleted."""
    readings: list[Reading] = field(default_factory=list)
    watched: list[list[Job]] = field(default_factory=list)
    """What each watch of a job showed."""
    sequences: dict[str, int] = field(default_factory=dict)
    """By thread, the highest sequence that an answer has named."""

    def took(self, text: str, thread_id: str, run_id: str = "") -> None:
        """Takes note that the server took something."""
        self.inputs.append(Input(text, thread_id, run_id))

    def forget(self, thread_id: str) -> None:
        """Takes note that the server deleted a thread with all that is in it."""
        self.forgotten.add(thread_id)
        self.inputs = [each for each in self.inputs if each.thread_id != thread_id]
        self.readings = [each for each in self.readings if each.thread_id != thread_id]
        self.sequences.pop(thread_id, None)

    def named(self, thread_id: str, sequence: int) -> None:
        """Takes note of a sequence that the server named."""
        self.sequences[thread_id] = max(sequence, self.sequences.get(thread_id, 0))

    def reads(self, thread_id: str, matches: Matches = validators.everything) -> Reading:
        """Begins to write down a reading."""
        self.readings.append(Reading(thread_id, matches))
        return self.readings[-1]
