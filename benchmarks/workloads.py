"""What is measured, in words: the load generator has it in code."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Workload:
    """One line of the report."""

    key: str
    title: str
    unit: str
    places: int = 0
    """Digits behind the point."""


CALLERS = 32

WORKLOADS = (
    Workload("unary_per_s", f"GetRun of a finished run, {CALLERS} callers", "/s"),
    Workload("events_per_s_1", "events of 200 bytes, 1 stream", "/s"),
    Workload("events_per_s_20", "events of 200 bytes, 20 streams", "/s"),
    Workload("runs_per_s", f"runs, create to result, {CALLERS} callers", "/s"),
    Workload("launches_per_s", f"LaunchJob, {CALLERS} callers", "/s"),
    Workload("run_latency_ms", "one run, create to result, p50", "ms", 2),
    Workload("first_event_ms", "first event of a streamed run, p50", "ms", 2),
)

BY_KEY = {workload.key: workload for workload in WORKLOADS}
