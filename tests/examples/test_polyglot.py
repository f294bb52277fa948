"""The client in another language does what its page shows, with a project from `callboard init`."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard.cli import main
from tests.docs.markdown import ROOT, blocks
from tests.docs.transcript import Ids, commands, matches
from tests.support.gates import PATIENCE
from tests.support.process import ServerProcess

POLYGLOT = ROOT / "examples" / "polyglot"


@pytest.fixture
def node() -> str:
    """Node.js, with what the client needs of it."""
    found = shutil.which("node")
    if found is None:
        problem = "there is no Node.js"
    elif not (POLYGLOT / "node_modules").is_dir():
        problem = "the packages of examples/polyglot are not installed: make polyglot"
    else:
        return found
    if os.environ.get("CI") == "true":
        pytest.fail(problem)
    pytest.skip(problem)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    assert main(["init", str(tmp_path / "hello")]) == 0
    server = ServerProcess(tmp_path / "hello" / "callboard.toml", tmp_path / "jobs.db")
    await server.start()
    yield server
    await server.clean_up()


async def watch(node: str, *arguments: str) -> tuple[int | None, str]:
    """Runs the client; returns its exit code and what it printed."""
    process = await asyncio.create_subprocess_exec(
        node,
        POLYGLOT / "watch.js",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            printed, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode, printed.decode()


async def test_a_client_that_is_cut_off_misses_nothing(node: str, server: ServerProcess) -> None:
    [shown] = [
        command.output
        for block in blocks(POLYGLOT / "README.md")
        for command in commands(block.text)
        if command.line == "node watch.js"
    ]
    code, printed = await watch(node, server.address)
    assert matches(shown, printed, Ids()), printed
    assert code == 0


async def test_an_agent_that_does_not_exist_is_told(node: str, server: ServerProcess) -> None:
    code, printed = await watch(node, server.address, "nobody")
    assert "NOT_FOUND: there is no assistant or agent 'nobody'" in printed
    assert code == 1
