"""What a supervisor remembers of its jobs takes no more room than it may."""

from __future__ import annotations

import pytest

from callboard import Message, Outcome, RunState
from callboard.kit.known import Known
from callboard.v1.job_pb2 import Job

SUCCEEDED, RUNNING = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_RUNNING


def _job(number: int, size: int = 0) -> Job:
    return Job(job_id=str(number), task="x" * size)


def _ids(known: Known) -> list[str]:
    return [seen.job.job_id for seen in known.all()]


def test_the_longest_known_are_forgotten_first() -> None:
    known = Known()
    for number in range(1_001):
        known.saw(_job(number))
    known.saw(_job(1))
    assert _ids(known) == [str(number) for number in range(1, 1_001)]
    assert known.of("0") is None


def test_few_large_ones_are_as_much_as_many_small_ones() -> None:
    known = Known()
    for number in range(100):
        for size in (4 << 20, 1 << 20, 4 << 20):
            known.saw(_job(number, size))
    assert _ids(known) == [str(number) for number in range(93, 100)]
    # What has become small takes no more than that.
    for number in range(93, 100):
        known.saw(_job(number))
    for number in range(100, 107):
        known.saw(_job(number, 4 << 20))
    assert _ids(known) == [str(number) for number in range(93, 107)]


def test_one_that_is_too_large_is_not_kept() -> None:
    known = Known()
    known.saw(_job(0, 64 << 20))
    assert _ids(known) == []
    known.saw(_job(1))
    assert _ids(known) == ["1"]


def _ended(run_id: str = "1") -> Job:
    result = Outcome(result=Message(message_id="m"))
    return Job(job_id="j", run_id=run_id, state=SUCCEEDED, outcome=result)


def _listed(state: RunState.ValueType, run_id: str = "1") -> Job:
    outcome = Outcome() if state == SUCCEEDED else None
    return Job(job_id="j", run_id=run_id, state=state, outcome=outcome)


def test_a_list_takes_no_result_away() -> None:
    known = Known()
    known.saw(_ended())
    known.saw_listed(_listed(SUCCEEDED))
    known.saw_listed(_listed(SUCCEEDED))
    [seen] = known.all()
    assert (seen.job, seen.is_whole) == (_ended(), True)


@pytest.mark.parametrize("before", [None, _listed(RUNNING), _ended(run_id="0")])
def test_a_job_that_ended_since_is_not_whole_in_a_list(before: Job | None) -> None:
    known = Known()
    if before is not None:
        known.saw(before)
    known.saw_listed(_listed(SUCCEEDED))
    known.saw_listed(_listed(SUCCEEDED))
    [seen] = known.all()
    assert (seen.job, seen.is_whole) == (_listed(SUCCEEDED), False)
    known.saw(_ended())
    [seen] = known.all()
    assert (seen.job, seen.is_whole) == (_ended(), True)


def test_a_job_that_goes_on_is_whole_in_a_list() -> None:
    known = Known()
    known.saw(_ended(run_id="0"))
    known.saw_listed(_listed(RUNNING))
    [seen] = known.all()
    assert (seen.job, seen.is_whole) == (_listed(RUNNING), True)
