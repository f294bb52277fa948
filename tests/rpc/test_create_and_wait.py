"""CreateRun with `wait`: a run and its end in one call."""

from __future__ import annotations

from pathlib import Path

import pytest

from callboard import InvalidArgument, text_of
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import CreateRunRequest, StreamRunRequest
from callboard_server import Context
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import Served, served


async def test_the_call_returns_when_the_run_is_done(server: Served) -> None:
    run = await server.client.runs.create("quick", "a", wait=PATIENCE)
    assert run.state == RunState.RUN_STATE_SUCCEEDED
    assert text_of(run.outcome.result) == "done: a"


async def test_a_run_that_takes_longer_goes_on(server: Served, gates: Gates) -> None:
    run = await server.client.runs.create("worker", "long", wait=0.01)
    assert run.state in (RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_RUNNING)
    gates.open("long")
    ended = await server.client.runs.wait(run.run_id, timeout=PATIENCE)
    assert text_of(ended.outcome.result) == "done: long"


async def test_a_run_that_asks_is_returned_with_what_it_waits_for(tmp_path: Path) -> None:
    async def asker(ctx: Context) -> str:
        return str(await ctx.ask("Which?"))

    async with served([asker], tmp_path / "asking.db") as asking:
        run = await asking.client.runs.create("asker", wait=PATIENCE)
        assert run.state == RunState.RUN_STATE_REQUIRES_ACTION
        assert len(run.waiting_for.ids) == 1


async def test_a_repeat_waits_for_the_same_run(server: Served, gates: Gates) -> None:
    first = await server.client.runs.create("quick", "once", wait=PATIENCE, request_id="r1")
    again = await server.client.runs.create("quick", "once", wait=PATIENCE, request_id="r1")
    assert again == first
    assert gates.order == ["once"]


async def test_a_wait_has_bounds(server: Served) -> None:
    with pytest.raises(InvalidArgument, match="wait"):
        await server.client.runs.create("quick", "a", wait=601)
    assert not [run async for run in server.client.runs.list()]


async def test_a_stream_does_not_take_it(server: Served) -> None:
    request = StreamRunRequest(run=CreateRunRequest(assistant_id="quick"))
    request.run.wait.FromSeconds(1)
    with pytest.raises(Exception, match="belongs to CreateRun"):
        await server.runs.StreamRun(request).read()
