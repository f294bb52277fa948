"""What the samples come to: medians, a table for people, JSON for machines."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.workloads import OURS, PEER, PEER_SLOTS, Workload

Rounds = list[dict[str, float]]
"""Of one workload: for each round, the value of each side."""

NOTHING = "-"
CAPTION = """\
Medians; a ratio and its spread are over the rounds. Of ms, x, MiB and MB less is better.
ours: durable, SQLite with synchronous=FULL; what sleeps holds no slot.
bare: gRPC alone, which stores nothing."""
PEER_CAPTION = f"""
peer: langgraph dev, in memory, without the pause of its idle queue; what sleeps holds one of its
{PEER_SLOTS} slots. Its conversations: langgraph-checkpoint-sqlite, saved once a turn."""


@dataclass(frozen=True)
class Sample:
    """A figure of one side."""

    round: int
    workload: str
    side: str
    value: float


class Report:
    """Collects samples.

    Args:
        workloads: The lines.
        sides: The names of the sides, ours first; each other one gets a ratio.
        peer: The versions of the peer's packages.
    """

    def __init__(
        self, workloads: Sequence[Workload], sides: Sequence[str], peer: Mapping[str, str]
    ) -> None:
        self._workloads = workloads
        self._sides = list(sides)
        self._peer = peer
        self._rounds: dict[str, Rounds] = {}

    def add(self, sample: Sample) -> None:
        rounds = self._rounds.setdefault(sample.workload, [])
        while len(rounds) <= sample.round:
            rounds.append({})
        rounds[sample.round][sample.side] = sample.value

    def as_json(self) -> dict[str, Any]:
        results: dict[str, Any] = {
            key: {**self._medians(rounds), "samples": rounds}
            for key, rounds in self._rounds.items()
        }
        return {**results, "versions": self._versions(), "machine": _machine()}

    def table(self) -> Table:
        caption = CAPTION + (PEER_CAPTION if PEER in self._sides else "")
        table = Table(caption=caption, caption_justify="left")
        table.add_column("workload")
        for side in self._sides:
            table.add_column(side, justify="right")
        for side in self._sides[1:]:
            table.add_column(f"{OURS} / {side}", justify="right")
        for workload in self._workloads:
            if workload.key in self._rounds:
                table.add_row(*self._cells(workload))
        return table

    def _cells(self, workload: Workload) -> list[str]:
        rounds = self._rounds[workload.key]
        medians = self._medians(rounds)
        values = [_value(workload, medians.get(side)) for side in self._sides]
        return [workload.title, *values, *(_ratio(rounds, side) for side in self._sides[1:])]

    def _medians(self, rounds: Rounds) -> dict[str, float]:
        found = {side: [each[side] for each in rounds if side in each] for side in self._sides}
        return {side: statistics.median(values) for side, values in found.items() if values}

    def _versions(self) -> dict[str, Any]:
        packages = ("callboard", "grpcio", "protobuf")
        return {
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
            "sqlite": sqlite3.sqlite_version,
            **({"peer": dict(self._peer)} if self._peer else {}),
        }


def _value(workload: Workload, value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.{workload.places}f} {workload.unit}"


def _ratio(rounds: Rounds, side: str) -> str:
    """Returns a ratio with its spread, in three digits or so."""
    ratios = [each[OURS] / each[side] for each in rounds if side in each]
    if not ratios:
        return NOTHING
    middle, least, most = statistics.median(ratios), min(ratios), max(ratios)
    if least == most:
        return f"{middle:.3g}"
    return f"{middle:.3g} ({least:.3g} to {most:.3g})"


def _machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load": os.getloadavg(),
    }


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
