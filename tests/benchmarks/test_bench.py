"""The benchmark runs from end to end. What it measures is not asserted: machines differ.

The peer is left out: it is not installed for tests.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks import __main__ as bench
from benchmarks.loadgen import MEASURES
from benchmarks.peer import environment
from benchmarks.report import Report, Sample
from benchmarks.workloads import BARE, OURS, PEER, QUICK, Workload, stored, workloads

ROOT = Path(__file__).parents[2]
LINES = [*workloads(QUICK), *stored(QUICK.turns)]


def test_measures_all_sides_at_all_that_they_do(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--quick", "--no-peer"]
    done = subprocess.run(
        [*command, "--output", output], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert "ours / bare" in done.stdout
    assert "peer" not in done.stdout.splitlines()[1]

    found = json.loads(output.read_text())
    assert found.pop("versions").keys() == {"python", "callboard", "grpcio", "protobuf", "sqlite"}
    assert "load" in found.pop("machine")
    assert found.keys() >= {line.key for line in LINES if not line.peak_of}
    for line in LINES:
        if line.key in found:  # The peak of memory is not there on every system.
            _check(line, found[line.key])
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]


def _check(line: Workload, result: dict[str, Any]) -> None:
    sides = set(line.sides) - {PEER}
    assert result.keys() == sides | {"samples"}
    [sample] = result["samples"]
    assert sample == {side: result[side] for side in sides}
    assert all(value > 0 for value in sample.values())


def test_each_line_is_measured() -> None:
    assert [line.key for line in workloads(QUICK) if not line.peak_of] == list(MEASURES)


def test_a_report_has_medians_and_ratios_of_those_who_took_part() -> None:
    report = Report(LINES, [OURS, BARE, PEER], {"langgraph": "1.2.3"})
    for number, (ours, peer) in enumerate([(20.0, 2.0), (30.0, 3.0), (10.0, 2.0)]):
        report.add(Sample(number, "sleepers", OURS, ours))
        report.add(Sample(number, "sleepers", PEER, peer))

    found = report.as_json()
    assert (found["sleepers"][OURS], found["sleepers"][PEER]) == (20, 2)
    assert found["versions"]["peer"] == {"langgraph": "1.2.3"}
    table = report.table()
    cells = [next(iter(column.cells)) for column in table.columns[1:]]
    assert cells == ["20.0 x", "-", "2.0 x", "-", "10 (5 to 10)"]


def test_a_peer_that_cannot_be_installed_is_left_out_loudly(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(environment, "FOLDER", tmp_path / ".peer")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "missing"))

    assert bench.present(with_peer=True) == [OURS, BARE]
    assert "*** the peer cannot be installed: its column is left out. ***" in capfd.readouterr().err
