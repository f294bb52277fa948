"""What a turn adds to the log does not depend on how much is there already."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

import callboard
from callboard.v1.lifecycle_pb2 import RunState
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from tests.robustness.crew import look_up
from tests.support.serving import settings

RULES = Path(__file__).parents[1] / "robustness" / "rules.toml"
TURNS = 20


async def note(ctx: Context) -> str:
    """Takes a note of what it is told."""
    text = await ctx.input()
    await ctx.step("think", lambda: text.upper())
    await ctx.merge_values({"last": text, "seen": [text]})
    return f"noted: {text}"


@pytest.mark.parametrize("agent", ["note", "chat"])
async def test_a_late_turn_takes_no_more_room_than_an_early_one(tmp_path: Path, agent: str) -> None:
    db = tmp_path / "jobs.db"
    agents = {"note": note, "chat": ChatAgent(f"offline:{RULES}", tools=[look_up])}

    def stored() -> int:
        with closing(sqlite3.connect(db)) as connection:
            [size] = connection.execute("SELECT sum(length(data)) FROM events").fetchone()
            return int(size)

    async with callboard.local(agents, db=db, config=settings(db)) as client:
        thread = await client.threads.create("hello", values={"kept": "x" * 2000})
        sizes = []
        for turn in range(TURNS):
            before = stored()
            made = await client.runs.create(
                agent, f"research turn {turn:02}", thread_id=thread.thread_id
            )
            run = await client.runs.wait(made.run_id)
            assert run.state == RunState.RUN_STATE_SUCCEEDED
            sizes.append(stored() - before)
    # Sequences and times take a byte more or less.
    assert max(sizes) - min(sizes) < 100, sizes
