from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard import AsyncClient
from tests.support.gates import Gates
from tests.support.serving import local


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    gates = Gates()
    yield gates
    gates.close()


@pytest.fixture
async def client(gates: Gates, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A server with the gates' agents that gives a run 0.2 s to stop."""
    async with local(gates.agents, tmp_path / "jobs.db", grace=0.2) as client:
        yield client
