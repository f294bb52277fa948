"""Faults of the server that were found and are not mended yet, each as small as it gets.

Whoever mends one moves its test to where it belongs, without its mark.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from callboard import text_of
from callboard_server.agents.context import Context
from tests.support.gates import PATIENCE
from tests.support.serving import local


@pytest.mark.xfail(
    raises=AssertionError, reason="ctx.input() takes another run's input for its own"
)
async def test_runs_side_by_side_have_each_its_own_input(tmp_path: Path) -> None:
    everybody_is_here = asyncio.Event()

    async def echo(ctx: Context) -> str:
        await everybody_is_here.wait()
        return await ctx.input()

    async with local([echo], tmp_path / "jobs.db") as client:
        thread = (await client.threads.create()).thread_id
        runs = [
            await client.runs.create(
                "echo", text, thread_id=thread, multitask_strategy="concurrent"
            )
            for text in ("one", "two")
        ]
        everybody_is_here.set()
        ended = [await client.runs.wait(run.run_id, timeout=PATIENCE) for run in runs]
    assert [text_of(run.outcome.result) for run in ended] == ["one", "two"]
