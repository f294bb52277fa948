"""How a server behaves as a process: health, reflection, failing starts, and its stop."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
from collections.abc import AsyncIterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2

import callboard
import callboard.v1.job_pb2
from callboard._channel import OPTIONS
from callboard.v1.event_pb2 import Event, RunQueued
from callboard.v1.job_pb2 import WatchJobsRequest
from callboard.v1.job_pb2_grpc import JobServiceStub
from callboard.v1.lifecycle_pb2 import RunState, Until
from callboard.v1.run_pb2 import StreamEnd
from callboard.v1.server_pb2 import GetServerInfoRequest
from callboard.v1.server_pb2_grpc import ServerServiceStub
from callboard.v1.thread_pb2 import StreamEventsRequest
from callboard.v1.thread_pb2_grpc import ThreadServiceStub
from callboard_server import transport
from callboard_server.config import load_config
from callboard_server.serve import serve
from callboard_server.store.base import StoreError
from callboard_server.store.sqlite import admin
from tests.rpc.refusals import read_refusal, refusal_of
from tests.support.gates import Gates
from tests.support.process import ServerProcess
from tests.support.serving import Served, kinds_of, served, sound_log
from tests.support.waiting import until

CONFIG = Path(__file__).parents[1] / "robustness" / "callboard.toml"
SERVICES = [
    f"callboard.v1.{name}Service" for name in ("Assistant", "Thread", "Run", "Job", "Server")
]
SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ServerProcess]:
    process = ServerProcess(CONFIG, tmp_path / "jobs.db")
    yield process
    await process.clean_up()


def health_stub(channel: grpc.aio.Channel) -> Any:
    return health_pb2_grpc.HealthStub(channel)


# Health and reflection


def test_grpc_knows_every_option() -> None:
    # One that it does not know, it ignores in silence.
    library = find_spec("grpc._cython.cygrpc")
    assert library is not None and library.origin is not None
    binary = Path(library.origin).read_bytes()
    options = (*OPTIONS, *transport._options(1))
    assert [name for name, _ in options if name.encode() not in binary] == []


async def test_every_service_says_that_it_is_healthy(server: Served) -> None:
    stub = health_stub(server.channel)
    for name in ("", *SERVICES):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == SERVING, name
    unknown = await refusal_of(stub.Check(health_pb2.HealthCheckRequest(service="nobody")))
    assert unknown.code == "NOT_FOUND"


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
async def test_reflection_lists_and_describes(server: Served, version: str) -> None:
    call = server.channel.stream_stream(
        f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )(
        iter(
            [
                reflection_pb2.ServerReflectionRequest(list_services=""),
                *(
                    reflection_pb2.ServerReflectionRequest(file_containing_symbol=name)
                    for name in (*SERVICES, "callboard.v1.Job", "google.protobuf.Struct")
                ),
                reflection_pb2.ServerReflectionRequest(file_containing_symbol="no.such.Thing"),
            ]
        )
    )
    listed, *described, unknown = [answer async for answer in call]
    names = {service.name for service in listed.list_services_response.service}
    assert names >= {*SERVICES, "grpc.health.v1.Health"}
    assert all(answer.file_descriptor_response.file_descriptor_proto for answer in described)
    assert unknown.error_response.error_code == grpc.StatusCode.NOT_FOUND.value[0]


# Starts that cannot succeed


async def start(db: Path, port: int = 0) -> None:
    await serve(load_config(CONFIG, {"db": str(db), "port": port}), CONFIG.parent)


async def test_a_second_server_on_the_port_is_refused(tmp_path: Path, server: Served) -> None:
    with pytest.raises(OSError, match=rf"cannot listen on 127.0.0.1:{server.port}: is it in use"):
        await start(tmp_path / "other.db", server.port)


async def test_a_second_server_on_the_file_is_refused(tmp_path: Path, gates: Gates) -> None:
    async with served(gates.agents, tmp_path / "mine.db"):
        with pytest.raises(StoreError, match=r"mine.db is in use by another server .*stop that"):
            await start(tmp_path / "mine.db")


async def test_files_that_are_no_database_of_ours_are_left_alone(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    garbage = tmp_path / "garbage.db"
    garbage.write_bytes(b"this is no database" * 100)
    folder = tmp_path / "folder.db"
    folder.mkdir()
    for path in (foreign, garbage, folder, tmp_path / "no" / "such" / "folder.db"):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(StoreError) as refused:
            await start(path)
        assert str(path) in str(refused.value)
        assert "\n" not in str(refused.value)
        assert before is None or path.read_bytes() == before


# The stop


async def health_of(process: ServerProcess) -> int:
    async with grpc.aio.insecure_channel(process.address) as channel:
        stub = health_stub(channel)
        answer: health_pb2.HealthCheckResponse = await stub.Check(health_pb2.HealthCheckRequest())
        return answer.status


async def test_a_server_that_is_told_to_stop_gives_its_runs_back(process: ServerProcess) -> None:
    await process.start()
    assert await health_of(process) == SERVING
    async with grpc.aio.insecure_channel(process.address, options=OPTIONS) as channel:
        client = callboard.AsyncClient(channel=channel)
        home = (await client.threads.create()).thread_id
        job = await client.jobs.launch("steady", "take long", parent_thread_id=home)

        async def has_begun() -> bool:
            return (await client.threads.state(job.job_id)).message_count == 2

        await until(has_begun)
        threads, jobs = ThreadServiceStub(channel), JobServiceStub(channel)
        calls: list[Any] = [
            threads.StreamEvents(StreamEventsRequest(run_id=job.run_id)),
            threads.StreamEvents(StreamEventsRequest(thread_id=job.job_id, after_sequence=1)),
            jobs.WatchJobs(WatchJobsRequest(parent_thread_id=home)),
        ]
        first = [await call.read() for call in calls]
        watched_health = health_stub(channel).Watch(health_pb2.HealthCheckRequest())
        assert (await watched_health.read()).status == SERVING
        stopping = asyncio.create_task(process.end(signal.SIGTERM))
        assert (await watched_health.read()).status == NOT_SERVING
        for frame, call in zip(first, calls, strict=True):
            with pytest.raises(grpc.aio.AioRpcError) as ended:
                while (read := await call.read()) is not grpc.aio.EOF:
                    frame = read
            assert frame.end.reason == StreamEnd.REASON_SERVER_DRAINING
            assert frame.through_sequence > 1
            refusal = read_refusal(ended.value)
            assert (refusal.code, refusal.reason) == ("UNAVAILABLE", "SERVER_DRAINING")
            assert "RetryInfo" in refusal.details
        refused = await refusal_of(
            jobs.LaunchJob(callboard.v1.job_pb2.LaunchJobRequest(assistant_id="plain", task="t"))
        )
        assert refused.code == "UNAVAILABLE"
        assert await stopping == 0
    assert "Traceback" not in process.errors
    await process.start()
    async with callboard.AsyncClient(process.address) as client:
        [job] = [job async for job in client.jobs.list()]
        assert (job.state, job.attempt, job.run_count) == (RunState.RUN_STATE_RUNNING, 1, 1)
        await client.jobs.cancel(job.job_id)
        await client.jobs.wait(job.job_id, timeout=10)
        log = await sound_log(client, job.job_id)
        [queued] = [event.run_queued for event in log if event.HasField("run_queued")]
        assert queued.reason == RunQueued.REASON_DRAINED
    assert await process.end(signal.SIGINT) == 0
    assert admin.check(str(process.db)) == []


async def test_a_stream_of_the_client_outlives_a_restart(process: ServerProcess) -> None:
    await process.start()
    async with callboard.AsyncClient(process.address) as client:
        stream = client.runs.stream("stepper", "the length")
        seen: list[Event] = []
        async for item in stream:
            if not seen:
                assert await process.end(signal.SIGTERM) == 0
                await process.start()
            if isinstance(item, Event):
                seen.append(item)
        assert stream.run is not None
        log = await sound_log(client, stream.run.thread_id)
        assert seen == [event for event in log if event.run_id == stream.run.run_id]
        assert kinds_of(seen)[-1] == "run_finished"


async def test_a_blocked_thread_does_not_keep_the_server_from_stopping(
    process: ServerProcess,
) -> None:
    await process.start()
    async with callboard.AsyncClient(process.address) as client:
        run = await client.runs.create("blocking", "go")

        async def has_begun() -> bool:
            return (await client.runs.get(run.run_id)).state == RunState.RUN_STATE_RUNNING

        await until(has_begun)
        async with asyncio.timeout(8):
            assert await process.end(signal.SIGTERM) == 0


async def test_a_secret_in_an_exception_reaches_nobody(process: ServerProcess) -> None:
    await process.start()
    async with callboard.AsyncClient(process.address) as client:
        stream = client.runs.stream("leaky", "go", until="done")
        told = "".join([str(item) async for item in stream])
        assert stream.run is not None
        run = await client.runs.get(stream.run.run_id)
    await process.end(signal.SIGTERM)
    assert run.state == RunState.RUN_STATE_FAILED
    assert "sk-do-not-tell" not in told + str(run) + process.errors
    assert run.outcome.error.error_id in process.errors


async def test_the_server_info_counts_what_there_is(server: Served, gates: Gates) -> None:
    stub = ServerServiceStub(server.channel)
    client = server.client
    quick = await client.runs.create("quick", "quick")
    await client.runs.wait(quick.run_id)
    busy = await client.runs.create("worker", "busy")
    await gates.entered("busy")
    await client.runs.create("worker", "behind", thread_id=busy.thread_id)
    stream = ThreadServiceStub(server.channel).StreamEvents(
        StreamEventsRequest(thread_id=busy.thread_id, until=Until.UNTIL_NEVER)
    )
    await stream.read()
    counts = (await stub.GetServerInfo(GetServerInfoRequest())).counts
    assert (counts.sessions, counts.threads, counts.slots_used) == (2, 2, 1)
    assert (counts.runs_queued, counts.runs_running, counts.runs_finished) == (1, 1, 1)
    assert counts.streams_open == 1
    stream.cancel()
