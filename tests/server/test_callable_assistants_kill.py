"""A supervisor that waits outlives kills of its server: nobody is asked twice, nothing is lost."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from callboard import AsyncClient, RunState, text_of
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE
from tests.support.process import ServerProcess
from tests.support.serving import sound_log

CONFIG = """
[server]
grace = 0.1

[agents.echo]
entrypoint = "echoing.py:echo"

[agents.lead]
model = "offline:lead.toml"
callable_assistants = [{ id = "echo", mode = "sync" }]
"""
AGENTS = """
async def echo(ctx):
    await ctx.sleep(0.05)
    return " ".join(
        block.text.text for m in await ctx.messages() if m.role == 1 for block in m.content
    )
"""
RULES = """
[[rule]]
when = '(?P<one>\\w+) and (?P<two>\\w+)'
example = "one and two"
call = [
    { tool = "ask_echo", arguments = { task = "{one}" } },
    { tool = "ask_echo", arguments = { task = "{two}" } },
]
"""
FIRST_COMMITS = 22
"""No more commits than these come before the first question is answered."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "echoing.py").write_text(AGENTS)
    (tmp_path / "lead.toml").write_text(RULES)
    (tmp_path / "callboard.toml").write_text(CONFIG)
    return tmp_path


async def ask(client: AsyncClient, thread_id: str, text: str) -> str:
    """Asks, again where it was asked before, and returns the answer."""
    run = await client.runs.create("lead", text, thread_id=thread_id, request_id=text)
    run = await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)
    assert run.state == RunState.RUN_STATE_SUCCEEDED, run.outcome.error
    return text_of(run.outcome.result)


@pytest.mark.parametrize("point", ["before_commit", "after_commit"])
@pytest.mark.parametrize("number", range(4, FIRST_COMMITS, 3))
async def test_each_task_is_handed_over_once(folder: Path, point: str, number: int) -> None:
    server = ServerProcess(folder / "callboard.toml", folder / "jobs.db")
    try:
        await server.start()
        async with AsyncClient(server.address) as client:
            thread = (await client.threads.create()).thread_id
            await server.kill()
            await server.start(f"{point}:{number}")
            first = asyncio.create_task(ask(client, thread, "one and two"))
            async with asyncio.timeout(PATIENCE):
                assert await server.gone() == -signal.SIGKILL
            await server.start()
            assert sorted((await first).split("\n")) == ["one", "two"]
            second = await ask(client, thread, "three and four")
            jobs = [job async for job in client.jobs.list(parent_thread_id=thread)]
            await sound_log(client, thread)
    finally:
        await server.clean_up()
    assert [job.run_count for job in jobs] == [2, 2]
    assert sorted(second.split()) == ["four", "one", "three", "two"]
    assert admin.check(str(folder / "jobs.db")) == []
