"""Makes the server that loads it forget what runs have recorded."""

from __future__ import annotations

from callboard_server.engine.execution import Execution
from callboard_server.log.recorded import Recorded


async def _nothing(execution: Execution) -> Recorded:
    return Recorded()


Execution.recorded = _nothing  # type: ignore[method-assign,assignment]


async def saboteur(ctx: object) -> None:
    """Has done its work already."""
