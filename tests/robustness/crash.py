"""Kills servers for a while and tells what was lost: python -m tests.robustness.crash --kills 300.

Each database sees a number of kills, at random moments and at the fault points, while clients work
on it. Then everything that they were told, and that agents did, is held against the log. What was
found to be wrong is told on standard error, and its database is kept.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import sys
import tempfile
import time
from pathlib import Path

from tests.robustness.checks import Verdict
from tests.robustness.killing import survive


async def crash(kills: int, per_file: int, seed: int, folder: Path) -> Verdict:
    """Kills servers on one database after the other.

    Args:
        kills: How often at the least.
        per_file: How often before a new database is begun.
        seed: Decides what happens, as far as it can be decided.
        folder: Where the databases are.
    """
    total, chance = Verdict(), random.Random(seed)
    while total.kills < kills:
        one, began = chance.getrandbits(32), time.monotonic()
        db = folder / f"{one}.db"
        verdict = await survive(db, per_file, one)
        total.add(verdict)
        _tell(f"{db.name}: {verdict} in {time.monotonic() - began:.1f} s")
        for problem in verdict.problems:
            _tell(f"  {problem}")
        if not verdict.problems:
            _remove(db)
    return total


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _remove(db: Path) -> None:
    for file in db.parent.glob(f"{db.stem}.*"):
        shutil.rmtree(file) if file.is_dir() else file.unlink()


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.robustness.crash")
    parser.add_argument("--kills", type=int, default=300, help="how often, at the least")
    parser.add_argument("--per-file", type=int, default=10, help="how often on one database")
    parser.add_argument("--seed", type=int, default=time.time_ns() % 2**32)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="callboard-crash-"))
    _tell(f"seed {options.seed}, in {folder}")
    verdict = asyncio.run(crash(options.kills, options.per_file, options.seed, folder))
    moments = ", ".join(f"{count} {moment}" for moment, count in verdict.moments.most_common())
    _tell(f"killed {moments}; {verdict.rescued} times a run was rescued")
    print(verdict)
    if verdict.problems:
        _tell(f"the databases and what the servers logged are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
