"""What a worker holds of a run."""

from __future__ import annotations

from dataclasses import dataclass

from callboard.v1.run_pb2 import Run
from callboard_server.store.base import RunRow


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker holds of a run: enough to write to it as long as the claim stands."""

    tenant: str
    run: Run
    """The run as it was when it was claimed."""
    run_key: int
    thread_key: int
    session_key: int

    @classmethod
    def of(cls, row: RunRow) -> Claim:
        run = Run()
        run.CopyFrom(row.data)
        session = row.thread.session
        return cls(session.tenant, run, row.key, row.thread.key, session.key)
