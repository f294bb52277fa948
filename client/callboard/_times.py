"""Durations and points in time, from Python's to protobuf's."""

from __future__ import annotations

from datetime import datetime, timedelta

from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

# The longest duration that protobuf can hold: some 10,000 years.
_MAX_SECONDS = 315_576_000_000


def seconds_of(value: float | timedelta, argument: str) -> float:
    """The seconds of a length of time.

    Raises:
        ValueError: If it is negative, not a number or beyond all bounds.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if not 0 <= seconds <= _MAX_SECONDS:
        raise ValueError(f"{argument}: {value!r} is not a length of time in seconds")
    return seconds


def to_duration(value: float | timedelta | None, argument: str) -> Duration | None:
    """A length of time, in seconds or as a timedelta; None stays None.

    Raises:
        ValueError: If it is negative, not a number or beyond all bounds.
    """
    if value is None:
        return None
    duration = Duration()
    duration.FromTimedelta(timedelta(seconds=seconds_of(value, argument)))
    return duration


def to_timestamp(value: datetime | None, argument: str) -> Timestamp | None:
    """A point in time; None stays None.

    Raises:
        ValueError: If it has no time zone, so that nobody knows which point it is.
    """
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError(f"{argument}: {value!r} has no time zone")
    timestamp = Timestamp()
    timestamp.FromDatetime(value)
    return timestamp
