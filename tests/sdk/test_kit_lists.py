"""The kit's lists have no results, and forget none that was fetched before."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

import callboard
from callboard_server.agents.context import Context
from tests.sdk.test_kit import UNKNOWN, refuse, tell
from tests.support.gates import PATIENCE, Gates
from tests.support.proxy import Proxy
from tests.support.serving import Served, served

LENGTH = 100_000


async def talker(ctx: Context) -> str:
    """Says much."""
    return "x" * LENGTH


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served([talker, Gates().quick], tmp_path / "db") as server:
        yield server


async def test_lists_and_refusals_take_no_results_along(server: Served) -> None:
    # No answer may be as long as a result.
    options = [("grpc.max_receive_message_length", LENGTH // 2)]
    channel = grpc.aio.insecure_channel(f"127.0.0.1:{server.port}", options=options)
    async with channel, callboard.AsyncClient(channel=channel) as client:
        tools = (await client.supervisor("tests/narrow")).tools
        job_id = (await tell(tools, "launch_job", agent="talker", task="x"))["job_id"]
        await server.client.jobs.wait(job_id, timeout=PATIENCE)
        with pytest.raises(callboard.ResourceExhausted):
            await client.jobs.get(job_id)
        [listed] = (await tell(tools, "list_jobs"))["jobs"]
        assert (listed["job_id"], listed["state"]) == (job_id, "SUCCEEDED")
        assert f"- {job_id} (talker, " in await refuse(tools, "check_job", job_id=UNKNOWN)


async def test_results_that_were_fetched_are_told_without_a_server(server: Served) -> None:
    proxy = Proxy(server.port)
    async with callboard.AsyncClient(f"127.0.0.1:{await proxy.open()}") as client:
        # Made as one that is patient, so that a slow machine is no server that is away.
        tools = (await client.supervisor("tests/away")).tools
        checked, other = [
            (await tell(tools, "launch_job", agent="quick", task=task))["job_id"]
            for task in ("x", "y")
        ]
        await client.jobs.wait([checked, other], timeout=PATIENCE)
        assert (await tell(tools, "check_job", job_id=checked))["result"] == "done: x"
        assert (await tell(tools, "list_jobs"))["count"] == 2
        await proxy.close()
        tools._jobs = client.with_timeout(0.2).jobs
        told = await tell(tools, "check_job", job_id=checked)
        assert (told["state"], told["result"]) == ("SUCCEEDED", "done: x")
        assert "not fetched" not in told["note"]
        told = await tell(tools, "check_job", job_id=other)
        assert (told["state"], told["stale"]) == ("SUCCEEDED", True)
        assert "result" not in told
        assert told["note"].endswith("Its result, if it has one, was not fetched before.")
