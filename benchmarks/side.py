"""What every side can do: the same work, each in its own way."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Protocol

POLL = 0.02
"""Seconds between two looks at what still runs."""


class Side(Protocol):
    """A server with its client. A side leaves out what it is not measured at."""

    async def open(self) -> None: ...
    async def close(self) -> None: ...

    async def read(self) -> None:
        """Fetches a finished run."""

    async def run(self) -> None:
        """Has an echo run done, from its creation to its result."""

    async def launch(self) -> None:
        """Launches an echo job and does not wait for it."""

    async def launch_sleeper(self, seconds: float) -> None:
        """Launches a job that sleeps and does not wait for it."""

    async def check_sleepers(self) -> None:
        """Raises an error if jobs that sleep fail."""

    def notices(self) -> AsyncGenerator[float]:
        """Launches echo jobs; yields the seconds from each launch until a program knows its end."""

    def wake_ups(self) -> AsyncGenerator[float]:
        """The same, until the run is over with which the job's end wakes a supervisor there."""

    def events(self, agent: str) -> AsyncIterator[None]:
        """Starts a run and streams it; yields for each event that the agent emits."""

    async def settle(self) -> None:
        """Waits until nothing runs any more."""

    async def fill_thread(self, events: int) -> None:
        """Makes a long thread, where there is none yet."""

    async def thread_state(self) -> None:
        """Fetches the state of the long thread with its last messages."""

    async def thread_page(self) -> None:
        """Fetches the newest messages of the long thread."""
