"""What was last seen of jobs, for when the server does not answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from callboard._states import TERMINAL_STATES
from callboard.v1.job_pb2 import Job

_MOST, _MOST_BYTES = 1000, 32 << 20


@dataclass(frozen=True, slots=True)
class Sighting:
    """A job as it stood at some time; not whole where it may have a result that was not seen."""

    job: Job
    seen_at: float
    is_whole: bool = True

    @property
    def age(self) -> float:
        """For how many seconds it may have changed."""
        return time.monotonic() - self.seen_at


class Known:
    """The jobs that were seen last, the longest known ones forgotten first.

    Results may be long: there is a bound for what all of it takes, too.
    """

    def __init__(self) -> None:
        self._sightings: dict[str, Sighting] = {}
        self._bytes = 0

    def saw(self, job: Job, *, is_whole: bool = True) -> Job:
        """Keeps how a job stands."""
        before = self._sightings.get(job.job_id)
        self._bytes += job.ByteSize() - (before.job.ByteSize() if before else 0)
        self._sightings[job.job_id] = Sighting(job, time.monotonic(), is_whole)
        while len(self._sightings) > _MOST or self._bytes > _MOST_BYTES:
            oldest = self._sightings.pop(next(iter(self._sightings)))
            self._bytes -= oldest.job.ByteSize()
        return job

    def saw_listed(self, job: Job) -> None:
        """Keeps how a job stands in a list, where none has its result."""
        seen, is_over = self.of(job.job_id), job.state in TERMINAL_STATES
        if is_over and seen and seen.is_whole and _same_end(seen.job, job):
            # The result that was seen is still that of the job.
            self.saw(seen.job)
        else:
            self.saw(job, is_whole=not is_over)

    def of(self, job_id: str) -> Sighting | None:
        """How a job stood when it was seen last."""
        return self._sightings.get(job_id)

    def all(self) -> Sequence[Sighting]:
        """All jobs that were seen, the longest known first."""
        return list(self._sightings.values())


def _same_end(before: Job, now: Job) -> bool:
    return (before.run_id, before.state) == (now.run_id, now.state)
