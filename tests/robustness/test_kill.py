"""A server that is killed again and again while clients work: the short form of `make crash`."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from callboard_server import faults
from tests.robustness.history import History
from tests.robustness.killing import mortal, survive
from tests.robustness.scenes import connected, steps
from tests.support.gates import PATIENCE

KILLS = 15


@pytest.mark.timeout(120)
async def test_nothing_is_lost_and_nothing_is_done_twice_over_kills(tmp_path: Path) -> None:
    verdict = await survive(tmp_path / "jobs.db", KILLS, seed=7)
    assert verdict.problems == []
    assert verdict.kills > KILLS
    assert verdict.events > 10 * KILLS
    assert verdict.rescued > KILLS / 3


async def test_work_goes_on_behind_every_fault_point(tmp_path: Path) -> None:
    async with (
        mortal(tmp_path / "jobs.db") as server,
        connected(server.address, "client", History(), 1) as client,
    ):
        for point in faults.POINTS:
            await server.kill()
            server.spawn(f"{point}:2")
            work = asyncio.gather(*(steps(client) for _ in range(3)))
            async with asyncio.timeout(PATIENCE):
                assert await server.gone() == -signal.SIGKILL, point
            server.spawn()
            async with asyncio.timeout(PATIENCE):
                await work


def test_a_fault_point_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no fault point 'lunch': name one of before_commit"):
        faults.arm("lunch:2")
