"""What a run can wait for, and whether it is there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard_server.engine.lifecycle import TERMINAL
from callboard_server.store.base import ActionState, Reader

_LEADING = (WaitingFor.KIND_ACTIONS, WaitingFor.KIND_CHILDREN, WaitingFor.KIND_TIMER)


def is_over(reader: Reader, tenant: str, session: int, waiting_for: WaitingFor, now: float) -> bool:
    """Whether what is waited for is there.

    Args:
        reader: What to look at.
        tenant: Whose jobs they are.
        session: Key of the session whose actions they are.
        waiting_for: What is waited for.
        now: Seconds since the epoch.
    """
    match waiting_for.kind:
        case WaitingFor.KIND_TIMER:
            return waiting_for.until.ToNanoseconds() / 1e9 <= now
        case WaitingFor.KIND_ACTIONS:
            rows = [reader.action(session, action_id) for action_id in waiting_for.ids]
            return all(row is None or row.state != ActionState.OPEN for row in rows)
        case _:
            over = jobs_over(reader, tenant, waiting_for.ids)
            return any(over) if waiting_for.any else all(over)


def jobs_over(reader: Reader, tenant: str, job_ids: Sequence[str]) -> Iterator[bool]:
    """Yields of each job whether it came to its end. One that was deleted did.

    The last come first, as they mostly end last: of many, most ends need a look at one alone.
    """
    for job_id in reversed(job_ids):
        job = reader.job(tenant, job_id)
        yield job is None or job.run.data.state in TERMINAL


def combined(waits: Sequence[WaitingFor]) -> WaitingFor:
    """Returns what a run waits for whose branches wait for several things.

    Any of them lets it go on; answers only when all actions have theirs.
    """
    if len(waits) == 1:
        return waits[0]
    kinds = [wait.kind for wait in waits]
    whole = WaitingFor(kind=next(kind for kind in _LEADING if kind in kinds), any=True)
    for wait in waits:
        whole.ids.extend(wait.ids)
    untils = [wait.until for wait in waits if wait.HasField("until")]
    if untils:
        whole.until.CopyFrom(min(untils, key=lambda until: until.ToNanoseconds()))
    return whole
