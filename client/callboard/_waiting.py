"""Long waits, as a row of calls that each wait for a short time."""

from __future__ import annotations

import time
from datetime import timedelta

from callboard._times import seconds_of

# Short enough to notice a server that hangs, long enough not to bother one that works.
SLICE_SECONDS = 30.0


class Wait:
    """Keeps the time of a wait."""

    def __init__(self, timeout: float | timedelta | None) -> None:
        """Starts the clock. `timeout` is in seconds; None means for ever."""
        self._deadline = (
            None if timeout is None else time.monotonic() + seconds_of(timeout, "timeout")
        )

    def next_slice(self) -> float:
        """For how many seconds the next call should wait."""
        if self._deadline is None:
            return SLICE_SECONDS
        return max(0.0, min(SLICE_SECONDS, self._deadline - time.monotonic()))

    def is_over(self) -> bool:
        """Whether the time is used up."""
        return self._deadline is not None and time.monotonic() >= self._deadline
