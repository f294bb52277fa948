"""Makes the server that loads it forget to tell anybody how jobs ended."""

from __future__ import annotations

from callboard_server.engine import notices


def _nothing(*_: object) -> bool:
    return False


notices._tell = _nothing  # type: ignore[assignment]


async def saboteur(ctx: object) -> None:
    """Has done its work already."""
