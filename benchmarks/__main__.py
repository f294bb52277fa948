"""`python -m benchmarks`: Callboard beside a bare gRPC server with the same answers, as ratios."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import processes
from benchmarks.report import Report
from benchmarks.workloads import BY_KEY

BUILD = Path(__file__).parents[1] / "build"


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        report = measure(options.rounds, options.seconds, options.only, options.output.parent)
    except processes.ProcessFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    options.output.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else 120).print(report.table())
    return 0


def measure(rounds: int, seconds: float, only: Sequence[str], folder: Path) -> Report:
    report = Report(["ours", "bare"])
    # Not in the system's temporary folder, which may be memory: a commit must cost what it costs.
    with (
        tempfile.TemporaryDirectory(prefix="bench-", dir=folder) as data,
        processes.server("ours", str(Path(data) / "bench.db")) as ours,
        processes.server("bare", ours) as bare,
    ):
        options = ["--rounds", str(rounds), "--seconds", str(seconds), "--only", *only]
        for sample in processes.samples(f"ours={ours}", f"bare={bare}", *options):
            report.add(sample)
            if sys.stderr.isatty():
                print(f"\rround {sample['round'] + 1} of {rounds}", end="\r", file=sys.stderr)
    return report


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="for each sample")
    parser.add_argument("--only", nargs="+", choices=list(BY_KEY), default=list(BY_KEY))
    parser.add_argument("--output", type=Path, default=BUILD / "bench.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
