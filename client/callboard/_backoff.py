"""How long to wait before a call is tried again, and when to give up."""

from __future__ import annotations

import random
import time

from callboard.errors import CallboardError, Unavailable

FIRST_SECONDS = 0.1
LONGEST_SECONDS = 2.0


class Backoff:
    """Pauses between tries: exponential, with jitter, as long as a time limit allows."""

    def __init__(self, limit: float | None) -> None:
        """Starts the clock. `limit` is in seconds; None means that there is none."""
        self._deadline = None if limit is None else time.monotonic() + limit
        self._step = FIRST_SECONDS

    def remaining(self) -> float | None:
        """The seconds that are left; None where there is no limit."""
        return None if self._deadline is None else max(0.0, self._deadline - time.monotonic())

    def pause(self, failure: CallboardError) -> float:
        """The seconds to wait before the next try, never less than the server asks for.

        Raises:
            CallboardError: The failure itself, if another try would not help or come too late.
        """
        if not isinstance(failure, Unavailable):
            raise failure
        pause = (failure.retry_delay or 0.0) + self._step * random.uniform(0.5, 1.0)
        remaining = self.remaining()
        if remaining is not None and pause >= remaining:
            raise failure
        self._step = min(2 * self._step, LONGEST_SECONDS)
        return pause
