"""`python -m benchmarks`: Callboard beside a bare gRPC server and beside `langgraph dev`.

The bare server gives the same answers and does nothing else: what gRPC costs by itself. `langgraph
dev` does the same work, in memory.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console

from benchmarks import processes, rounds, storage
from benchmarks.peer import environment
from benchmarks.report import Report, Sample
from benchmarks.workloads import BARE, FULL, OURS, PEER, QUICK, Sizes, stored, workloads

BUILD = Path(__file__).parents[1] / "build"
STORED = "stored"
WIDTH = 150


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    sizes = QUICK if options.quick else FULL
    sides = present(options.peer)
    versions = environment.versions() if PEER in sides else {}
    report = Report([*workloads(sizes), *stored(sizes.turns)], sides, versions)
    try:
        for sample in _shown(_samples(options, sizes, sides)):
            report.add(sample)
    except processes.ProcessFailed as failure:
        print(failure, file=sys.stderr)
        return 1
    options.output.write_text(json.dumps(report.as_json(), indent=2) + "\n", encoding="utf-8")
    Console(width=None if sys.stdout.isatty() else WIDTH).print(report.table())
    return 0


def present(with_peer: bool) -> list[str]:
    """Returns who takes part: the peer only if it is wanted and there."""
    if not with_peer:
        return [OURS, BARE]
    try:
        environment.prepare()
    except environment.PeerMissing as missing:
        print(f"\n*** {missing}: its column is left out. ***\n", file=sys.stderr)
        return [OURS, BARE]
    return [OURS, BARE, PEER]


def _samples(options: argparse.Namespace, sizes: Sizes, sides: Sequence[str]) -> Iterator[Sample]:
    lines = [line for line in workloads(sizes) if {line.key, line.peak_of} & set(options.only)]
    quick = ["--quick"] if options.quick else []
    # Not in the system's temporary folder, which may be memory: a commit must cost what it costs.
    with tempfile.TemporaryDirectory(prefix="bench-", dir=options.output.parent) as data:
        if lines:
            yield from rounds.samples(Path(data), options.rounds, lines, sides, *quick)
        if STORED in options.only:
            yield from storage.samples(Path(data), sizes.turns, PEER in sides)


def _shown(samples: Iterable[Sample]) -> Iterator[Sample]:
    """Says on a terminal what was measured last."""
    for sample in samples:
        if sys.stderr.isatty():
            text = f"round {sample.round + 1}: {sample.workload}"
            print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
        yield sample
    if sys.stderr.isatty():
        print("\r\033[K", end="", file=sys.stderr, flush=True)


def _parser() -> argparse.ArgumentParser:
    keys = [line.key for line in workloads(FULL) if not line.peak_of]
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=[*keys, STORED], default=[*keys, STORED])
    parser.add_argument("--no-peer", dest="peer", action="store_false", help="do without it")
    parser.add_argument("--quick", action="store_true", help="only try that everything works")
    parser.add_argument("--output", type=Path, default=BUILD / "bench.json")
    return parser


if __name__ == "__main__":
    sys.exit(main())
