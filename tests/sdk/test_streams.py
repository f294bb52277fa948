"""Streams outlive their connection, without a loss and without a repeat."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import grpc
import pytest
from google.protobuf.message import Message
from google.rpc.error_details_pb2 import ErrorInfo
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import callboard
from callboard.errors import NotFound, OutOfRange, Unavailable
from callboard.v1 import job_pb2, lifecycle_pb2
from callboard.v1.event_pb2 import Event
from callboard.v1.run_pb2 import Delta, EventFrame, Run, StreamEnd
from tests.sdk.conftest import Either
from tests.sdk.scripted import UNAVAILABLE, CuttingProxy, Frames, Refusal, ScriptedServer

DONE = StreamEnd(reason=StreamEnd.REASON_DONE)
DRAINING = StreamEnd(reason=StreamEnd.REASON_SERVER_DRAINING)


def frames(*given: Message | Refusal) -> Frames:
    """Sends these frames; a refusal cuts the stream there."""

    async def send(_: Any) -> AsyncIterator[Message]:
        for frame in given:
            if isinstance(frame, Refusal):
                raise frame
            yield frame

    return send


def events(*sequences: int, end: StreamEnd | None = None, run: Run | None = None) -> EventFrame:
    return EventFrame(
        events=[Event(sequence=sequence) for sequence in sequences],
        through_sequence=max(sequences, default=0),
        end=end,
        run=run,
    )


def text(offset: int, piece: str) -> EventFrame:
    return EventFrame(deltas=[Delta(message_id="m", offset=offset, text=piece)])


def log(head: int, pack: int = 1) -> Frames:
    """A server's log of `head` events: honours the cursor and ends when all is told."""

    async def send(request: Any) -> AsyncIterator[Message]:
        after = getattr(request, "after_sequence", 0)
        for first in range(after + 1, head + 1, pack):
            yield events(*range(first, min(first + pack, head + 1)))
        yield EventFrame(through_sequence=head, end=DONE)

    return send


def cut_after(count: int, send: Frames, cut: Refusal = UNAVAILABLE) -> Frames:
    async def send_some(request: Any) -> AsyncIterator[Message]:
        left = count
        async for frame in send(request):
            if not left:
                raise cut
            left -= 1
            yield frame

    return send_some


def sequences(items: Sequence[Any]) -> list[int]:
    return [item.sequence for item in items if isinstance(item, Event)]


async def test_a_stream_goes_on_after_cuts(server: ScriptedServer, either: Either) -> None:
    server.script(
        "StreamEvents",
        UNAVAILABLE,
        cut_after(2, log(6)),
        UNAVAILABLE,
        UNAVAILABLE,
        frames(EventFrame(through_sequence=2, end=DRAINING), UNAVAILABLE),
        cut_after(0, log(6)),
        frames(),
        log(6),
    )
    streams: list[Any] = []

    def start(client: Any) -> Any:
        streams.append(client.threads.stream("t", deltas=True, kinds=["custom"]))
        return streams[0]

    items = await either.call(start)
    assert sequences(items) == [1, 2, 3, 4, 5, 6]
    assert (streams[0].cursor, streams[0].end) == (6, DONE)
    requests = server.requests("StreamEvents")
    assert [request.after_sequence for request in requests] == [0, 0, 2, 2, 2, 2, 2, 2]
    for request in requests:
        request.after_sequence = 0
    assert all(request == requests[0] for request in requests)
    assert await either.call(lambda _: streams[0]) == []


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(0, 8), max_size=8), st.integers(1, 20), st.integers(1, 4))
async def test_any_cuts(
    server: ScriptedServer,
    client: callboard.AsyncClient,
    cuts: list[int],
    head: int,
    pack: int,
) -> None:
    whole = log(head, pack)
    server.script("StreamEvents", *(cut_after(cut, whole) for cut in cuts), whole)
    stream = client.threads.stream("t")
    assert sequences([item async for item in stream]) == list(range(1, head + 1))
    assert stream.cursor == head


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.integers(0, 900), min_size=1, max_size=6))
async def test_a_connection_that_breaks_anywhere(server: ScriptedServer, cuts: list[int]) -> None:
    server.script("StreamEvents", log(30))
    async with (
        CuttingProxy(server.port, cuts) as proxy,
        callboard.AsyncClient(f"127.0.0.1:{proxy.port}") as client,
    ):
        stream = client.threads.stream("t")
        assert sequences([item async for item in stream]) == list(range(1, 31))
    assert proxy.connections > 1 or cuts[0] > 500


async def test_text_is_not_repeated(server: ScriptedServer, either: Either) -> None:
    server.script(
        "StreamEvents",
        frames(events(1), text(0, "Gr"), text(2, "ü"), UNAVAILABLE),
        frames(text(0, "Grüß "), text(7, "Go"), UNAVAILABLE),
        frames(text(0, "Grüß Gott"), events(2, end=DONE)),
    )
    items = await either.call(lambda c: c.threads.stream("t", deltas=True))
    assert sequences(items) == [1, 2]
    pieces = [item for item in items if isinstance(item, Delta)]
    assert [piece.text for piece in pieces] == ["Gr", "ü", "ß ", "Go", "tt"]
    assert [piece.offset for piece in pieces] == [0, 2, 4, 7, 9]


@pytest.mark.parametrize(
    ("code", "family"),
    [(grpc.StatusCode.OUT_OF_RANGE, OutOfRange), (grpc.StatusCode.NOT_FOUND, NotFound)],
)
async def test_other_errors_end_a_stream(
    server: ScriptedServer, either: Either, code: grpc.StatusCode, family: type[Exception]
) -> None:
    refusal = Refusal(code, "no", [ErrorInfo(reason="EVENTS_TRIMMED")])
    server.script("StreamEvents", frames(events(1), UNAVAILABLE), refusal)
    got: list[Any] = []
    streams: list[Any] = []

    def read(client: Any) -> Any:
        streams.append(client.threads.stream("t"))
        return streams[0]

    with pytest.raises(family) as caught:
        await either.call(read)
    assert getattr(caught.value, "reason", "") == "EVENTS_TRIMMED"
    assert await either.call(lambda _: streams[0]) == got
    assert len(server.calls) == 2


async def test_downtime_has_a_bound(server: ScriptedServer, either: Either) -> None:
    server.script("StreamEvents", frames(events(1), UNAVAILABLE), UNAVAILABLE)
    with pytest.raises(Unavailable, match="connection lost"):
        await either.call(lambda c: c.threads.stream("t", max_downtime=0.03))
    assert len(server.calls) > 2


async def test_downtime_starts_anew_with_every_frame(
    server: ScriptedServer, either: Either
) -> None:
    cut = frames(EventFrame(through_sequence=1), UNAVAILABLE)
    server.script("StreamEvents", *[cut] * 30, log(1))
    await either.call(lambda c: c.threads.stream("t", max_downtime=0.02))
    assert len(server.calls) == 31


async def test_a_run_is_started_once_and_resumed(server: ScriptedServer, either: Either) -> None:
    run = Run(run_id="r", created_sequence=5)
    server.script("StreamRun", UNAVAILABLE, UNAVAILABLE, frames(events(5, 6, run=run), UNAVAILABLE))
    server.script("StreamEvents", UNAVAILABLE, frames(events(7, end=DONE)))
    streams: list[Any] = []

    def start(client: Any) -> Any:
        streams.append(client.runs.stream("bot", "hello", until="done_or_action"))
        return streams[0]

    items = await either.call(start)
    assert sequences(items) == [5, 6, 7]
    assert streams[0].run == run
    starts = server.requests("StreamRun")
    assert len(starts) == 3
    assert starts[0].run.request_id
    assert starts[0] == starts[1] == starts[2]
    rest = server.requests("StreamEvents")
    assert [(r.run_id, r.after_sequence, r.deltas) for r in rest] == [("r", 6, True)] * 2
    assert rest[0].until == starts[0].until == lifecycle_pb2.UNTIL_DONE_OR_ACTION


def changes(*states: str, through: int, snapshot: bool = False) -> job_pb2.WatchJobsResponse:
    return job_pb2.WatchJobsResponse(
        jobs=[job_pb2.Job(job_id=state) for state in states],
        through_sequence=through,
        snapshot=snapshot,
    )


async def test_jobs_are_watched_across_cuts(server: ScriptedServer, either: Either) -> None:
    end = job_pb2.WatchJobsResponse(through_sequence=9, end=DONE)
    server.script(
        "WatchJobs",
        UNAVAILABLE,
        frames(changes("a", "b", through=4, snapshot=True), UNAVAILABLE),
        UNAVAILABLE,
        frames(changes("a", "a", through=7), changes(through=8), UNAVAILABLE),
        frames(changes("b", through=9), end),
    )
    jobs = await either.call(lambda c: c.jobs.watch("t", labels={"k": "v"}))
    assert [job.job_id for job in jobs] == ["a", "b", "a", "a", "b"]
    requests = server.requests("WatchJobs")
    cursors = [
        request.after_sequence if request.HasField("after_sequence") else None
        for request in requests
    ]
    assert cursors == [None, None, 4, 4, 8]
    assert all(request.labels == {"k": "v"} for request in requests)


def endless(started: asyncio.Event | None = None) -> Frames:
    async def send(_: Any) -> AsyncIterator[Message]:
        yield events(1)
        yield events(2)
        if started is not None:
            started.set()
        await asyncio.Event().wait()

    return send


async def leave_the_context(client: callboard.AsyncClient) -> None:
    async with client.threads.stream("t") as stream:
        async for _ in stream:
            break


async def leave_the_loop(client: callboard.AsyncClient) -> None:
    gc.disable()
    try:
        async for _ in client.threads.stream("t"):
            break
    finally:
        gc.enable()


@pytest.mark.parametrize("leave", [leave_the_context, leave_the_loop])
async def test_leaving_ends_the_call(
    server: ScriptedServer,
    client: callboard.AsyncClient,
    leave: Callable[[callboard.AsyncClient], Any],
) -> None:
    server.script("StreamEvents", endless())
    await leave(client)
    await asyncio.wait_for(server.calls[0].ended.wait(), 5)


async def test_leaving_ends_the_call_of_the_synchronous_client(server: ScriptedServer) -> None:
    def in_context() -> None:
        with client.threads.stream("t") as stream:
            assert next(stream)

    def in_loop() -> None:
        for _ in client.threads.stream("t"):
            break

    server.script("StreamEvents", endless())
    with callboard.Client(server.target) as client:
        await asyncio.to_thread(in_context)
        await asyncio.to_thread(in_loop)
        for call in server.calls:
            await asyncio.wait_for(call.ended.wait(), 5)
        assert len(server.calls) == 2


async def test_closing_ends_an_iteration_that_waits(
    server: ScriptedServer, client: callboard.AsyncClient
) -> None:
    started = asyncio.Event()
    server.script("StreamEvents", endless(started))
    stream = client.threads.stream("t")

    async def read() -> list[int]:
        return sequences([item async for item in stream])

    reader = asyncio.create_task(read())
    await started.wait()
    await stream.aclose()
    assert set(await asyncio.wait_for(reader, 5)) <= {1, 2}
    assert stream.end is None
    await stream.aclose()


async def test_closing_ends_an_iteration_of_the_synchronous_client(
    server: ScriptedServer,
) -> None:
    started = asyncio.Event()
    server.script("StreamEvents", endless(started))
    with callboard.Client(server.target) as client:
        stream = client.threads.stream("t")
        reader = asyncio.create_task(asyncio.to_thread(list, stream))
        await started.wait()
        stream.close()
        assert set(sequences(await asyncio.wait_for(reader, 5))) <= {1, 2}


async def test_closing_before_the_first_item(
    server: ScriptedServer, client: callboard.AsyncClient
) -> None:
    stream = client.runs.stream("bot", "hello")
    await stream.aclose()
    assert [item async for item in stream] == []
    assert not server.calls


async def test_a_timeout_around_an_item_loses_nothing(
    server: ScriptedServer, client: callboard.AsyncClient
) -> None:
    async def stuck(_: Any) -> AsyncIterator[Message]:
        yield events(1)
        await asyncio.Event().wait()

    server.script("StreamEvents", stuck, log(3))
    stream = client.threads.stream("t")
    assert sequences([await anext(stream)]) == [1]
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(stream), 0.02)
    assert sequences([item async for item in stream]) == [2, 3]


async def test_a_cursor_kept_by_the_reader(
    server: ScriptedServer, client: callboard.AsyncClient
) -> None:
    server.script("StreamEvents", log(9, pack=5))
    async with client.threads.stream("t") as stream:
        assert sequences([await anext(stream), await anext(stream)]) == [1, 2]
        cursor = stream.cursor
    rest = client.threads.stream("t", after_sequence=cursor)
    assert sequences([item async for item in rest]) == [3, 4, 5, 6, 7, 8, 9]
