"""What a supervisor remembers of its jobs takes no more room than it may."""

from __future__ import annotations

from callboard.kit.known import Known
from callboard.v1.job_pb2 import Job


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
