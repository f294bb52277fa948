from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.support.gates import Gates
from tests.support.serving import Served, served


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    gates = Gates()
    yield gates
    gates.close()


@pytest.fixture
async def server(gates: Gates, tmp_path: Path) -> AsyncIterator[Served]:
    """A server on a port, with the gates' agents."""
    async with served(gates.agents, tmp_path / "jobs.db") as server:
        yield server
