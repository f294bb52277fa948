"""The yardstick, in a process of its own: grpc.aio and nothing else. Prints its address.

It makes every call of the workload on the measured server once and from then on gives those very
answers: the same messages, the same frames. It stores nothing and does nothing.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message

from callboard.v1 import job_pb2, run_pb2, server_pb2
from callboard.v1.job_pb2_grpc import JobServiceStub
from callboard.v1.run_pb2_grpc import RunServiceStub
from callboard.v1.server_pb2_grpc import ServerServiceStub

AGENTS_WITH_EVENTS = ("streamer", "starter")
WARM_UP = 3


@dataclass(frozen=True)
class Recording:
    """What the measured server answered."""

    finished: run_pb2.Run
    job: job_pb2.Job
    info: server_pb2.ServerInfo
    frames: Mapping[str, Sequence[run_pb2.EventFrame]]
    """By agent."""


async def record(address: str) -> Recording:
    """Makes every call of the workload; a few times, so that caches are warm."""
    async with grpc.aio.insecure_channel(address) as channel:
        runs, jobs = RunServiceStub(channel), JobServiceStub(channel)
        request = run_pb2.CreateRunRequest(assistant_id="echo", wait=Duration(seconds=60))
        for _ in range(WARM_UP):
            finished = await runs.CreateRun(request)
            job = await jobs.LaunchJob(job_pb2.LaunchJobRequest(assistant_id="echo", task="hi"))
            frames = {agent: await _stream(runs, agent) for agent in AGENTS_WITH_EVENTS}
        info = await ServerServiceStub(channel).GetServerInfo(server_pb2.GetServerInfoRequest())
        info.counts.runs_queued = info.counts.runs_running = 0
        return Recording(finished, job, info, frames)


async def _stream(runs: Any, agent: str) -> list[run_pb2.EventFrame]:
    request = run_pb2.StreamRunRequest(run=run_pb2.CreateRunRequest(assistant_id=agent))
    return [frame async for frame in runs.StreamRun(request)]


def _unary(request: type[Message], answer: Message) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(_request: Any, _context: Any) -> Message:
        return answer

    return grpc.unary_unary_rpc_method_handler(
        call, request_deserializer=request.FromString, response_serializer=_serialize
    )


def _streaming(
    request: type[Message], answer: Callable[[Any], Sequence[Message]]
) -> grpc.RpcMethodHandler[Any, Any]:
    async def call(request: Any, _context: Any) -> AsyncIterator[Message]:
        for frame in answer(request):
            yield frame

    return grpc.unary_stream_rpc_method_handler(
        call, request_deserializer=request.FromString, response_serializer=_serialize
    )


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()


def _handlers(recording: Recording) -> dict[str, dict[str, grpc.RpcMethodHandler[Any, Any]]]:
    return {
        "callboard.v1.RunService": {
            "CreateRun": _unary(run_pb2.CreateRunRequest, recording.finished),
            "WaitRun": _unary(run_pb2.WaitRunRequest, recording.finished),
            "GetRun": _unary(run_pb2.GetRunRequest, recording.finished),
            "StreamRun": _streaming(
                run_pb2.StreamRunRequest,
                lambda request: recording.frames[request.run.assistant_id],
            ),
        },
        "callboard.v1.JobService": {
            "LaunchJob": _unary(job_pb2.LaunchJobRequest, recording.job),
        },
        "callboard.v1.ServerService": {
            "GetServerInfo": _unary(server_pb2.GetServerInfoRequest, recording.info),
        },
    }


async def main(measured: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    server = grpc.aio.server()
    for service, methods in _handlers(await record(measured)).items():
        handler = grpc.method_handlers_generic_handler(service, methods)
        server.add_generic_rpc_handlers([handler])
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    print(f"127.0.0.1:{port}", flush=True)
    await stopping.wait()
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
