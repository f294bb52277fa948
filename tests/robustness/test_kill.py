"""A server that is killed again and again while clients work on it: the short form of `make crash`.

And that it would tell: servers with something removed lose or double what they should keep.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.robustness.killing import forked_servers, survive

KILLS = 15
SABOTAGES = Path(__file__).with_name("sabotage")


@pytest.mark.timeout(120)
async def test_nothing_is_lost_and_nothing_is_done_twice_over_kills(tmp_path: Path) -> None:
    async with forked_servers(tmp_path) as servers:
        verdict = await survive(servers, tmp_path / "jobs.db", KILLS, seed=7)
    assert verdict.problems == []
    assert verdict.kills > KILLS
    assert verdict.events > 20 * KILLS
