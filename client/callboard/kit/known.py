"""What was last seen of jobs, for when the server does not answer."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

from callboard.v1.job_pb2 import Job

_MOST = 1000


@dataclass(frozen=True, slots=True)
class Sighting:
    """A job as it stood at some time."""

    job: Job
    seen_at: float

    @property
    def age(self) -> float:
        """For how many seconds it may have changed."""
        return time.monotonic() - self.seen_at


class Known:
    """The jobs that were seen last, the longest known ones forgotten first."""

    def __init__(self) -> None:
        self._sightings: dict[str, Sighting] = {}

    def saw(self, job: Job) -> Job:
        """Keeps how a job stands."""
        self._sightings[job.job_id] = Sighting(job, time.monotonic())
        if len(self._sightings) > _MOST:
            del self._sightings[next(iter(self._sightings))]
        return job

    def of(self, job_id: str) -> Sighting | None:
        """How a job stood when it was seen last."""
        return self._sightings.get(job_id)

    def all(self) -> Sequence[Sighting]:
        """All jobs that were seen, the longest known first."""
        return list(self._sightings.values())
