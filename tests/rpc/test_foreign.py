"""What clients in other languages need: reasons in plain text, the events of one run alone."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest

from callboard.v1.run_pb2 import GetRunRequest
from callboard.v1.thread_pb2 import EVENT_PRESET_CONDENSED, ListEventsRequest
from callboard_server.agents.context import Context
from tests.support.serving import Served, served


async def talker(ctx: Context) -> str:
    await ctx.emit("note", {})
    return "done"


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served([talker], tmp_path / "jobs.db") as server:
        yield server


async def test_the_reason_of_an_error_is_there_in_plain_text(server: Served) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await server.runs.GetRun(GetRunRequest(run_id=str(uuid.uuid4())))
    assert dict(raised.value.trailing_metadata() or ())["callboard-reason"] == "RUN_NOT_FOUND"


async def test_the_events_of_one_run_are_listed_alone(server: Served) -> None:
    first = await server.client.runs.create("talker", "one")
    await server.client.runs.wait(first.run_id)
    second = await server.client.runs.create("talker", "two", thread_id=first.thread_id)
    await server.client.runs.wait(second.run_id)
    request = ListEventsRequest(thread_id=first.thread_id, run_id=second.run_id)
    listed = (await server.threads.ListEvents(request)).events
    assert {event.run_id for event in listed} == {second.run_id}
    assert listed[0].HasField("run_created") and listed[-1].HasField("run_finished")


async def test_a_run_goes_without_a_preset(server: Served) -> None:
    request = ListEventsRequest(
        thread_id=str(uuid.uuid4()), run_id=str(uuid.uuid4()), preset=EVENT_PRESET_CONDENSED
    )
    with pytest.raises(grpc.aio.AioRpcError, match="without preset"):
        await server.threads.ListEvents(request)
