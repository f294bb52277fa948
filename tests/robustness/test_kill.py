"""A server that is killed again and again while clients work: the short form of `make crash`."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard_server import faults
from tests.robustness.history import History
from tests.robustness.killing import forked_servers, survive
from tests.robustness.scenes import connected, steps
from tests.support.gates import PATIENCE
from tests.support.process import ForkedServers

KILLS = 15


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[ForkedServers]:
    async with forked_servers(tmp_path) as servers:
        yield servers


@pytest.mark.timeout(120)
async def test_nothing_is_lost_and_nothing_is_done_twice_over_kills(
    servers: ForkedServers, tmp_path: Path
) -> None:
    verdict = await survive(servers, tmp_path / "jobs.db", KILLS, seed=7)
    assert verdict.problems == []
    assert verdict.kills > KILLS
    assert verdict.events > 10 * KILLS
    assert verdict.rescued > KILLS / 3


async def test_work_goes_on_behind_every_fault_point(
    servers: ForkedServers, tmp_path: Path
) -> None:
    db = tmp_path / "jobs.db"
    await servers.start(db)
    port = await servers.ready()
    async with connected(f"127.0.0.1:{port}", "client", History(), 1) as client:
        for point in faults.POINTS:
            await servers.kill()
            await servers.start(db, port, f"{point}:2")
            work = asyncio.gather(*(steps(client) for _ in range(3)))
            async with asyncio.timeout(PATIENCE):
                assert await servers.gone() == signal.SIGKILL, point
            await servers.start(db, port)
            async with asyncio.timeout(PATIENCE):
                await work


def test_a_fault_point_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no fault point 'lunch': name one of before_commit"):
        faults.arm("lunch:2")
