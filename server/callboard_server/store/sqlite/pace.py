"""How commits went of late, and so who waits for the next one."""

from __future__ import annotations

from collections.abc import Sequence

from callboard_server.log.records import Record

QUICK = 0.001
"""Seconds that a commit may take on the loop."""
LONE = 2
"""Operations of a group: where there are more, others gather while a thread waits for the disk."""
LITTLE = 16
"""Events of a group, for the same reason."""
LIGHT = 256 * 1024
"""Bytes of its events: more of them take longer than a commit does otherwise."""
LONG_LOG = 200
"""Commits on the loop after which the log is moved: SQLite does not do so there."""
_SHARE = 1 / 8
"""What the last commit counts for."""


class Pace:
    """What commits took, those of late most, and how many operations there were in each."""

    def __init__(self) -> None:
        self._seconds = 1.0
        self._operations = 1.0
        self._on_loop = 0
        """Commits since the log was moved."""

    def took(self, seconds: float, operations: int) -> None:
        """Takes note of a commit."""
        self._seconds += (min(seconds, 1.0) - self._seconds) * _SHARE
        self._operations += (operations - self._operations) * _SHARE

    def allows(self, operations: int, events: Sequence[Record]) -> bool:
        """Whether a commit holds up the loop less than the way to a thread and back does."""
        lone = operations < LONE and self._operations < LONE
        quick = self._seconds < QUICK and self._on_loop < LONG_LOG
        return lone and quick and _is_small(events)

    def passed_on_loop(self) -> None:
        """Takes note that a commit was made on the loop."""
        self._on_loop += 1

    @property
    def log_is_long(self) -> bool:
        return self._on_loop >= LONG_LOG

    def log_was_moved(self) -> None:
        self._on_loop = 0


def _is_small(events: Sequence[Record]) -> bool:
    return len(events) <= LITTLE and sum(len(event.data) for event in events) <= LIGHT
