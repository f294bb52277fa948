"""What conversations take on the disk: measured once, because it does not vary."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

from benchmarks import processes
from benchmarks.peer import environment
from benchmarks.report import Sample
from benchmarks.workloads import OURS, PEER, QUESTION, stored
from callboard import Client

PER = 1000
"""Turns for which the bytes are given."""


def samples(folder: Path, turns: Sequence[int], with_peer: bool) -> Iterator[Sample]:
    """Stores the same conversation on each side, at the same time: no time is taken here.

    Args:
        folder: Where the databases are made.
        turns: After how many turns their sizes are taken.
        with_peer: Whether there is a peer.
    """
    last = str(turns[-1])
    with ExitStack() as running:
        storing = []
        if with_peer:
            marks = [str(mark) for mark in turns]
            storing.append(running.enter_context(_peer(folder / "plain.db", *marks)))
            storing.append(running.enter_context(_peer(folder / "delta.db", last, "--delta")))
        ours = _ours(folder / "turns.db", turns)
        yield from _lines(OURS, turns, [*ours, ours[-1]])
        if with_peer:
            yield from _lines(PEER, turns, [size for each in storing for size in _answer(each)])


def _lines(side: str, turns: Sequence[int], sizes: Sequence[int]) -> Iterator[Sample]:
    for workload, mark, size in zip(stored(turns), [*turns, turns[-1]], sizes, strict=True):
        yield Sample(0, workload.key, side, size / mark * PER / 1e6)


def _ours(path: Path, turns: Sequence[int]) -> list[int]:
    """Returns by how many bytes the database has grown after so many turns."""
    sizes = {}
    with processes.server("ours", str(path)) as server, Client(server.address) as client:
        empty = client.server.info().store_bytes
        thread_id = client.threads.create().thread_id
        for turn in range(1, turns[-1] + 1):
            run = client.runs.create("answerer", QUESTION, thread_id=thread_id)
            client.runs.wait(run.run_id)
            if turn in turns:
                sizes[turn] = client.server.info().store_bytes - empty
    return [sizes[mark] for mark in turns]


def _peer(path: Path, *arguments: str) -> AbstractContextManager[subprocess.Popen[str]]:
    command = [environment.PYTHON, "-m", "benchmarks.peer.turns", str(path), *arguments]
    return processes.process(command)


def _answer(storing: subprocess.Popen[str]) -> list[int]:
    assert storing.stdout is not None
    line = storing.stdout.readline()
    if not line:
        raise processes.ProcessFailed("the peer could not store a conversation")
    sizes: list[int] = json.loads(line)
    return sizes
