"""Runs demos as a user does."""

from __future__ import annotations

import asyncio
import os

from cast import PROVIDERS
from tests.docs.markdown import ROOT
from tests.support.gates import PATIENCE
from tests.support.programs import run


def keyless() -> dict[str, str]:
    """The variables of this process without those that demos look at."""
    own = [name for each in PROVIDERS.values() for name in (each.key, each.url)]
    kept = {name: value for name, value in os.environ.items() if name not in own}
    return {name: kept[name] for name in kept if not name.startswith("CALLBOARD_MODEL")}


async def demonstrate(program: str, **variables: str) -> tuple[int, str]:
    """Runs a demo; returns its exit code and what it printed."""
    demo = ROOT / "examples" / program
    return await asyncio.to_thread(run, demo, timeout=12 * PATIENCE, env={**keyless(), **variables})
