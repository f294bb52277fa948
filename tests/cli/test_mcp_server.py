"""`callboard mcp`: the official client works with jobs, over pipes and HTTP."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import httpx2
import pytest
from mcp import Client, StdioServerParameters
from mcp.types import TextContent

import callboard
from tests.cli.conftest import Run, command, environment, read_ready, running

NAMES = ["launch_job", "check_job", "update_job", "cancel_job", "list_jobs"]


@asynccontextmanager
async def connected(way: str, address: str, *options: str) -> AsyncIterator[Client]:
    """The official client of a server of its own."""
    arguments = ["mcp", "--server", address, *options]
    if way == "pipes":
        program, *rest = command()
        async with Client(StdioServerParameters(command=program, args=[*rest, *arguments])) as mcp:
            yield mcp
        return
    with running("--json", *arguments, "--http", "0") as process:
        async with Client(read_ready(process)["url"]) as mcp:
            yield mcp


async def tell(mcp: Client, name: str, **arguments: Any) -> Any:
    """What a tool tells of jobs."""
    result = await mcp.call_tool(name, arguments)
    [content] = result.content
    assert isinstance(content, TextContent)
    assert not result.is_error, content.text
    return json.loads(content.text)


async def refuse(mcp: Client, name: str, **arguments: Any) -> str:
    """What a tool tells of a call that it cannot carry out."""
    result = await mcp.call_tool(name, arguments)
    [content] = result.content
    assert isinstance(content, TextContent)
    assert result.is_error
    return content.text


@pytest.mark.parametrize("way", ["pipes", "http"])
async def test_jobs_are_launched_checked_updated_cancelled_and_listed(
    way: str, address: str
) -> None:
    async with connected(way, address, "--home", way) as mcp, callboard.AsyncClient(address) as own:
        assert "launch_job" in (mcp.instructions or "")
        listed = (await mcp.list_tools()).tools
        assert [tool.name for tool in listed] == NAMES
        assert "- countdown: " in (listed[0].description or "")
        annotations = listed[1].annotations
        assert annotations is not None and annotations.read_only_hint

        job = await tell(mcp, "launch_job", agent="countdown", task="1000")
        job_id = job["job_id"]
        assert (await tell(mcp, "check_job", job_id=job_id))["state"] in ("QUEUED", "RUNNING")
        await tell(mcp, "update_job", job_id=job_id, instructions="1")
        await own.jobs.wait(job_id)
        assert (await tell(mcp, "check_job", job_id=job_id))["result"] == "Counted down from 1."
        other = (await tell(mcp, "launch_job", agent="countdown", task="1000"))["job_id"]
        await tell(mcp, "cancel_job", job_id=other)
        await own.jobs.wait(other)
        states = {each["job_id"]: each["state"] for each in (await tell(mcp, "list_jobs"))["jobs"]}
        assert states == {job_id: "SUCCEEDED", other: "CANCELLED"}

        assert f"did you mean {other}?" in await refuse(mcp, "check_job", job_id=other[:8])
        assert "task: is required" in await refuse(mcp, "launch_job", agent="countdown")
        assert "there are: launch_job" in await refuse(mcp, "start")


async def test_a_home_keeps_its_jobs_and_shows_them_to_nobody_else(address: str) -> None:
    async with connected("pipes", address, "--home", "kept") as mcp:
        job_id = (await tell(mcp, "launch_job", agent="count_words", task="a b"))["job_id"]
    async with connected("pipes", address, "--home", "kept") as mcp:
        assert [job["job_id"] for job in (await tell(mcp, "list_jobs"))["jobs"]] == [job_id]
    async with connected("pipes", address, "--home", "other") as mcp:
        assert "There is no job" in await refuse(mcp, "check_job", job_id=job_id)


async def test_agents_and_names_are_chosen(address: str) -> None:
    options = ("--agents", "count_words", "--names", "deepagents", "--home", "peer")
    async with connected("pipes", address, *options) as mcp:
        launch = (await mcp.list_tools()).tools[0]
        assert launch.name == "start_async_task"
        assert launch.input_schema["properties"]["subagent_type"]["enum"] == ["count_words"]


async def test_other_sites_are_kept_out(address: str) -> None:
    with running("--json", "mcp", "--server", address, "--http", "0") as process:
        url = read_ready(process)["url"]
        async with httpx2.AsyncClient() as http:
            for wrong in ({"host": "evil.example"}, {"origin": "https://evil.example"}):
                answer = await http.post(url, json={}, headers=wrong)
                assert answer.status_code in (403, 421)


class TestFailures:
    def test_without_a_server(self, run: Run) -> None:
        result = run("mcp", "--server", "127.0.0.1:1")
        assert (result.code, result.out) == (3, "")
        assert "no Callboard server answers at 127.0.0.1:1" in result.err

    def test_an_agent_that_does_not_exist(self, cli: Run) -> None:
        result = cli("mcp", "--agents", "nobody")
        assert result.code == 4
        assert "there is no agent 'nobody'; the server has: assistant" in result.err

    def test_a_port_that_is_taken(self, cli: Run, address: str) -> None:
        port = address.rpartition(":")[2]
        result = cli("mcp", "--http", port)
        assert result.code == 1
        assert f"cannot listen on 127.0.0.1:{port}" in result.err

    def test_a_home_without_a_name(self, cli: Run) -> None:
        result = cli("mcp", "--home", " ")
        assert result.code == 2
        assert "name: a supervisor needs one" in result.err

    def test_without_its_package(self, address: str) -> None:
        program = (
            "import sys; sys.modules['mcp'] = None\n"
            "from callboard.cli import main; sys.exit(main(['mcp']))"
        )
        result = subprocess.run(
            [sys.executable, "-c", program],
            env=environment(address),
            capture_output=True,
            text=True,
        )
        assert result.returncode == 2
        assert "pip install 'callboard[mcp]'" in result.stderr
