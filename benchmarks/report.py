"""What the samples come to: medians, a table for people, JSON for machines."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.table import Table

from benchmarks.workloads import BY_KEY, Workload

Rounds = list[dict[str, float]]
"""Of one workload: for each round, the value of each side."""

OURS = "ours"


class Report:
    """Collects samples.

    Args:
        sides: the names of the sides, ours first; each other one gets a ratio.
    """

    def __init__(self, sides: Sequence[str]) -> None:
        self._sides = list(sides)
        self._rounds: dict[str, Rounds] = {}

    def add(self, sample: dict[str, Any]) -> None:
        rounds = self._rounds.setdefault(sample["workload"], [])
        while len(rounds) <= sample["round"]:
            rounds.append({})
        rounds[sample["round"]][sample["side"]] = sample["value"]

    def as_json(self) -> dict[str, Any]:
        results: dict[str, Any] = {
            key: {**{side: _median(rounds, side) for side in self._sides}, "samples": rounds}
            for key, rounds in self._rounds.items()
        }
        return {**results, "versions": _versions(), "machine": _machine()}

    def table(self) -> Table:
        table = Table(caption="Medians; the ratio and its spread are over the rounds.")
        table.add_column("workload")
        for side in self._sides:
            table.add_column(side, justify="right")
        for side in self._sides[1:]:
            table.add_column(f"{OURS} / {side}", justify="right")
            table.add_column("spread", justify="right")
        for key, rounds in self._rounds.items():
            table.add_row(*self._cells(BY_KEY[key], rounds))
        return table

    def _cells(self, workload: Workload, rounds: Rounds) -> list[str]:
        cells = [workload.title]
        for side in self._sides:
            cells.append(f"{_median(rounds, side):,.{workload.places}f} {workload.unit}")
        for side in self._sides[1:]:
            ratios = [each[OURS] / each[side] for each in rounds]
            cells.append(f"{statistics.median(ratios):.2f}")
            cells.append(f"{min(ratios):.2f} to {max(ratios):.2f}")
        return cells


def _median(rounds: Rounds, side: str) -> float:
    return statistics.median(each[side] for each in rounds)


def _versions() -> dict[str, str]:
    packages = ("callboard", "grpcio", "protobuf")
    return {
        "python": platform.python_version(),
        **{package: version(package) for package in packages},
        "sqlite": sqlite3.sqlite_version,
    }


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
