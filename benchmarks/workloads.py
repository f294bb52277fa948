"""What is measured, in words and sizes: the sides have it in code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

CALLERS = 32
EVENTS = 1000
"""Events of a streamed run."""
PAYLOAD = "x" * 160  # about 200 bytes of JSON an event
QUESTION, ANSWER = "q" * 500, "a" * 500
"""A turn of a conversation."""
PEER_SLOTS = 100

OURS, BARE, PEER = "ours", "bare", "peer"


@dataclass(frozen=True)
class Sizes:
    """How much is done for a sample."""

    seconds: float
    """For rates and latencies."""
    some_sleepers: int
    many_sleepers: int
    sleep: float
    long_thread: int
    """Events of the thread that is opened."""
    turns: tuple[int, int, int]
    """Of the conversations that are stored."""


FULL = Sizes(1.0, 1_000, 10_000, 1.0, 100_000, (250, 500, 1_000))
QUICK = Sizes(0.02, 5, 10, 0.02, 2_000, (2, 4, 8))
"""Shows that everything works, and nothing else."""


@dataclass(frozen=True)
class Workload:
    """One line of the report."""

    key: str
    title: str
    unit: str
    places: int = 0
    """Digits behind the point."""
    sides: tuple[str, ...] = (OURS, BARE, PEER)
    peak_of: str = ""
    """The workload of which this is the most memory that its server took."""


def event(index: int) -> dict[str, object]:
    """Returns what an agent emits."""
    return {"index": index, "kind": "token", "payload": PAYLOAD}


def workloads(sizes: Sizes) -> tuple[Workload, ...]:
    """Returns all that is measured over the rounds, in the order in which it is."""
    some, many = f"{sizes.some_sleepers:,}", f"{sizes.many_sleepers:,}"
    asleep = f"jobs that sleep {sizes.sleep:g} s"
    both, alone = (OURS, PEER), (OURS,)
    thread = f"50 messages of a thread of {sizes.long_thread:,} events"
    return (
        Workload("runs_per_s", f"runs, create to result, {CALLERS} callers", "/s"),
        Workload("launches_per_s", f"launches, not waited for, {CALLERS} callers", "/s"),
        Workload("run_latency_ms", "one run, create to result, p50", "ms", 2),
        Workload("notice_ms", "launch of an echo to its notice, p50", "ms", 2, both),
        Workload("notice_p99_ms", "  the same, p99", "ms", 2, both),
        Workload("wake_up_ms", "launch of an echo to the end of its wake-up, p50", "ms", 2, alone),
        Workload("wake_up_p99_ms", "  the same, p99", "ms", 2, alone),
        Workload("first_event_ms", "first event of a streamed run, p50", "ms", 2),
        Workload("events_per_s_1", "events of 200 bytes, 1 stream", "/s"),
        Workload("events_per_s_20", "events of 200 bytes, 20 streams", "/s"),
        Workload(
            "unary_per_s", f"GetRun of a finished run, {CALLERS} callers", "/s", 0, (OURS, BARE)
        ),
        Workload("sleepers", f"{some} {asleep}, all done / their sleep", "x", 1, both),
        Workload("sleepers_mib", "  the server's peak memory", "MiB", 0, both, "sleepers"),
        Workload("many_sleepers", f"{many} {asleep}, all done / their sleep", "x", 1, alone),
        Workload(
            "many_sleepers_mib", "  the server's peak memory", "MiB", 0, alone, "many_sleepers"
        ),
        Workload("thread_state_ms", f"state and last {thread}", "ms", 2, alone),
        Workload("thread_page_ms", f"page of the newest {thread}", "ms", 2, alone),
    )


def stored(turns: Sequence[int]) -> tuple[Workload, ...]:
    """Returns what conversations of so many turns are measured at, the last one twice."""
    both, last = (OURS, PEER), turns[-1]
    lines = [
        Workload(f"stored_{mark}_mb", f"stored per 1,000 turns, after {mark:,}", "MB", 1, both)
        for mark in turns
    ]
    delta = "  the peer with its DeltaChannel (beta)"
    return (*lines, Workload(f"stored_{last}_delta_mb", delta, "MB", 1, both))
