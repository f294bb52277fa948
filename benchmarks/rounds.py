"""The rounds: each measures every workload on one side after the other.

So whatever else the machine does meets all sides alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks import processes
from benchmarks.report import Sample
from benchmarks.workloads import BARE, OURS, PEER, Workload


@dataclass(frozen=True)
class _Entrant:
    name: str
    server: processes.Server
    load: processes.LoadGenerator


def samples(
    folder: Path, rounds: int, lines: Sequence[Workload], sides: Sequence[str], *options: str
) -> Iterator[Sample]:
    """Runs the servers and yields what is measured.

    Args:
        folder: Where the database is made.
        rounds: How many.
        lines: What is measured.
        sides: Who takes part.
        *options: Passed to the load generators.
    """
    measured = [line for line in lines if not line.peak_of]
    peaks = {line.peak_of: line.key for line in lines if line.peak_of}
    with ExitStack() as running:
        entrants = _start(running, folder, sides, options)
        for number in range(rounds):
            # Who goes first has it harder or easier: take turns.
            order = entrants if number % 2 == 0 else entrants[::-1]
            for line in measured:
                for entrant in order:
                    if entrant.name in line.sides:
                        yield from _measure(entrant, number, line.key, peaks.get(line.key))


def _start(
    running: ExitStack, folder: Path, sides: Sequence[str], options: Sequence[str]
) -> list[_Entrant]:
    ours = running.enter_context(processes.server("ours", str(folder / "bench.db")))
    servers = {OURS: ours}
    if BARE in sides:
        servers[BARE] = running.enter_context(processes.server("bare", ours.address))
    if PEER in sides:
        servers[PEER] = running.enter_context(processes.peer(folder))
    return [
        _Entrant(name, at, running.enter_context(processes.load(name, at.address, *options)))
        for name, at in servers.items()
    ]


def _measure(entrant: _Entrant, number: int, key: str, peak_key: str | None) -> Iterator[Sample]:
    entrant.server.forget_peak()
    yield Sample(number, key, entrant.name, entrant.load.measure(key))
    peak = entrant.server.peak_mib()
    if peak_key and peak is not None:
        yield Sample(number, peak_key, entrant.name, peak)
