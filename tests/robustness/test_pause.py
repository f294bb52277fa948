"""A server that is paused past its lease: another takes the file, and the first one is refused."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

import callboard
from callboard import Event, RunState
from callboard.v1.event_pb2 import RunQueued
from callboard_server.store.sqlite import admin
from tests.robustness import validators
from tests.robustness.checks import traces
from tests.robustness.history import History
from tests.robustness.killing import sabotaged
from tests.robustness.scenes import Client, connected, reached
from tests.robustness.validators import Effect
from tests.support.process import ServerProcess
from tests.support.serving import log_of

NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def server_on(db: Path, name: str) -> AsyncIterator[ServerProcess]:
    """A server with a short lease; it is not started."""
    process = ServerProcess(sabotaged(db.parent, "lease"), db, name=name)
    try:
        yield process
    finally:
        await process.clean_up()


async def pause_and_replace(first: ServerProcess, second: ServerProcess) -> None:
    """Pauses one server, and starts another when the lease is over."""
    while True:
        first.program.send_signal(signal.SIGSTOP)
        try:
            await second.start()
            return
        except RuntimeError:
            # The first was paused in the middle of a commit, and holds SQLite's lock.
            assert "locked" in second.errors, second.errors
            first.program.send_signal(signal.SIGCONT)


async def until_unwell(address: str) -> None:
    """Waits until a server says that it takes no writes."""
    async with grpc.aio.insecure_channel(address) as channel:
        # The types of the health package know calls that wait, and no streams.
        stub: Any = health_pb2_grpc.HealthStub(channel)
        async for answer in stub.Watch(health_pb2.HealthCheckRequest()):
            if answer.status == NOT_SERVING:
                return


@pytest.mark.timeout(60)
async def test_a_server_that_was_paused_past_its_lease_writes_nothing_more(tmp_path: Path) -> None:
    db = tmp_path / "jobs.db"
    async with AsyncExitStack() as stack:
        first = await stack.enter_async_context(server_on(db, "first"))
        second = await stack.enter_async_context(server_on(db, "second"))
        await first.start()
        a = await stack.enter_async_context(connected(first.address, "a", History(), 1))
        jobs = [await a.sdk.jobs.launch("slow", "go") for _ in range(3)]
        for job in jobs:
            await reached(a, job, "step_recorded")
        await pause_and_replace(first, second)
        b = await stack.enter_async_context(connected(second.address, "b", History(), 2))
        job_ids = [job.job_id for job in jobs]
        taken_over = {job_id: await rescue_in(b, job_id) for job_id in job_ids}
        first.program.send_signal(signal.SIGCONT)
        await until_unwell(first.address)
        with pytest.raises((callboard.Unavailable, callboard.DeadlineExceeded)):
            await a.sdk.with_timeout(0.5).jobs.launch("plain", "too late")
        done = await b.sdk.jobs.wait(job_ids)
        logs = {job_id: await log_of(b.sdk, job_id) for job_id in job_ids}
        assert {job.job_id for job in done} == {job.job_id async for job in b.sdk.jobs.list()}
        assert await first.end(signal.SIGTERM) == 0
    assert [job.state for job in done] == [RunState.RUN_STATE_SUCCEEDED] * len(jobs)
    for job_id, log in logs.items():
        [one, two] = [e.run_started.worker_id for e in log if e.HasField("run_started")]
        assert one != two
        assert validators.check_log(log) == []
        assert list(validators.started_by(log, {one: taken_over[job_id]})) == []
        assert list(validators.done_once(log, traces_of(db, log))) == []
    assert admin.check(str(db)) == []


async def rescue_in(client: Client, job_id: str) -> int:
    """Waits until a job's run was put back in line; returns the sequence of that."""
    async with client.sdk.threads.stream(job_id, kinds=["run_queued"]) as items:
        event = await anext(items)
    assert isinstance(event, Event)
    assert event.run_queued.reason == RunQueued.REASON_RESCUED
    return event.sequence


def traces_of(db: Path, log: Sequence[Event]) -> list[Effect]:
    runs = {event.run_id for event in log}
    return [effect for effect in traces(db) if effect.run_id in runs]
