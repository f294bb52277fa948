"""The benchmark runs from end to end. What it measures is not asserted: machines differ."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIDES = {"ours", "bare"}
KEYS = {
    "unary_per_s",
    "events_per_s_1",
    "events_per_s_20",
    "runs_per_s",
    "launches_per_s",
    "run_latency_ms",
    "first_event_ms",
}


def test_measures_both_sides(tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    command = [sys.executable, "-m", "benchmarks", "--rounds", "1", "--seconds", "0.02"]
    done = subprocess.run(
        [*command, "--output", output], cwd=ROOT, capture_output=True, text=True, timeout=50
    )
    assert done.returncode == 0, done.stderr
    assert "ours / bare" in done.stdout

    found = json.loads(output.read_text())
    assert found.keys() == KEYS | {"versions", "machine"}
    for key in KEYS:
        result = found[key]
        assert result.keys() == SIDES | {"samples"}
        [sample] = result["samples"]
        assert sample == {side: result[side] for side in SIDES}
        assert all(value > 0 for value in sample.values())
    assert found["versions"].keys() == {"python", "callboard", "grpcio", "protobuf", "sqlite"}
    assert [path.name for path in tmp_path.iterdir()] == ["bench.json"]
