"""Streams of events: replay and live in one call, at every cursor and under every filter."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import grpc
import pytest

import callboard
from callboard.v1.event_pb2 import Event, EventKind
from callboard.v1.lifecycle_pb2 import RunState, Until
from callboard.v1.message_pb2 import ContentBlock, Text
from callboard.v1.run_pb2 import Delta, EventFrame, StreamEnd
from callboard.v1.server_pb2 import GetServerInfoRequest
from callboard.v1.thread_pb2 import (
    EVENT_PRESET_CONDENSED,
    EVENT_SCOPE_SESSION,
    StreamEventsRequest,
)
from callboard_server.agents.context import Context
from callboard_server.app import client_caller
from callboard_server.engine import live
from callboard_server.log.events import CONDENSED, kind_of
from tests.robustness import validators
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import Served, kinds_of, log_of, served, sound_log
from tests.support.waiting import until

DONE = Until.UNTIL_DONE
FrameCall = grpc.aio.UnaryStreamCall[StreamEventsRequest, EventFrame]


async def frames_of(call: FrameCall, *, patience: float = PATIENCE) -> list[EventFrame]:
    """All frames of a stream that ends."""
    frames = []
    async with asyncio.timeout(patience):
        while isinstance(frame := await call.read(), EventFrame):
            frames.append(frame)
    return frames


async def next_frame(call: FrameCall) -> EventFrame:
    frame = await call.read()
    assert isinstance(frame, EventFrame)
    return frame


def deltas_of(frames: Sequence[EventFrame]) -> list[Delta]:
    return [delta for frame in frames for delta in frame.deltas]


def text_in(deltas: Sequence[Delta]) -> str:
    return "".join(delta.text for delta in deltas)


async def busy_agent(ctx: Context) -> str:
    """Writes events of many kinds, and launches a job that does, too."""
    for step in range(5):
        await ctx.progress("working", current=step, total=5)
        await ctx.emit("noise", {"step": step})
        await ctx.say(f"step {step}")
    if "parent" in await ctx.input():
        job = await ctx.jobs.launch("busy_agent", "child")
        await ctx.client.jobs.wait(job.job_id, timeout=PATIENCE)
    await ctx.merge_values({"done": True})
    return "done"


@pytest.fixture
async def busy(tmp_path: Path, gates: Gates) -> AsyncIterator[Served]:
    async with served([busy_agent, *gates.agents], tmp_path / "busy.db") as server:
        yield server


async def finished_session(server: Served) -> tuple[str, str]:
    """A session with a parent and a child thread in which all is over: thread id and run id."""
    run = await server.client.runs.create("busy_agent", "parent")
    run = await server.client.runs.wait(run.run_id, timeout=PATIENCE)
    assert run.state == RunState.RUN_STATE_SUCCEEDED
    return run.thread_id, run.run_id


async def test_a_finished_session_is_replayed_from_every_cursor(busy: Served) -> None:
    thread, _ = await finished_session(busy)
    log = await sound_log(busy.client, thread)
    for cursor in range(len(log) + 1):
        request = StreamEventsRequest(
            thread_id=thread, scope=EVENT_SCOPE_SESSION, after_sequence=cursor, until=DONE
        )
        frames = await frames_of(busy.threads.StreamEvents(request))
        assert validators.check_reading(log, frames, after=cursor) == []
        assert frames[-1].through_sequence == len(log)
        assert frames[-1].end.reason == StreamEnd.REASON_DONE


async def test_filters_leave_out_events_and_do_not_change_cursors(busy: Served) -> None:
    thread, run = await finished_session(busy)
    log = await sound_log(busy.client, thread)
    said = EventKind.EVENT_KIND_MESSAGE_ADDED

    def condensed(event: Event) -> bool:
        return event.thread_id == thread or kind_of(event) in CONDENSED

    for request, matches in [
        (StreamEventsRequest(thread_id=thread), lambda e: e.thread_id == thread),
        (
            StreamEventsRequest(thread_id=thread, kinds=[said]),
            lambda e: e.thread_id == thread and e.HasField("message_added"),
        ),
        (
            StreamEventsRequest(thread_id=thread, scope=EVENT_SCOPE_SESSION, kinds=[said]),
            lambda e: e.HasField("message_added"),
        ),
        (
            StreamEventsRequest(
                thread_id=thread, scope=EVENT_SCOPE_SESSION, preset=EVENT_PRESET_CONDENSED
            ),
            condensed,
        ),
        (StreamEventsRequest(run_id=run), lambda e: e.run_id == run),
        (
            StreamEventsRequest(run_id=run, kinds=[said]),
            lambda e: e.run_id == run and e.HasField("message_added"),
        ),
    ]:
        request.until = DONE
        for cursor in (0, 1, 7, len(log) // 2, len(log) - 1, len(log)):
            request.after_sequence = cursor
            frames = await frames_of(busy.threads.StreamEvents(request))
            assert validators.check_reading(log, frames, after=cursor, matches=matches) == []
            assert frames[-1].through_sequence == len(log)


async def test_readers_that_come_at_any_time_see_concurrent_writes_once_and_in_order(
    busy: Served,
) -> None:
    thread = (await busy.client.threads.create()).thread_id
    readers: list[tuple[int, asyncio.Task[list[EventFrame]]]] = []

    def read(cursor: int) -> None:
        request = StreamEventsRequest(
            thread_id=thread, scope=EVENT_SCOPE_SESSION, after_sequence=cursor, until=DONE
        )
        task = asyncio.create_task(frames_of(busy.threads.StreamEvents(request)))
        readers.append((cursor, task))

    runs = []
    for number in range(12):
        runs.append(await busy.client.runs.create("busy_agent", f"{number}", thread_id=thread))
        await busy.client.threads.update_state(thread, f"aside {number}")
        read(0)
        read((await busy.client.threads.get(thread)).head_sequence)
    for run in runs:
        await busy.client.runs.wait(run.run_id, timeout=PATIENCE)
    log = await sound_log(busy.client, thread)
    for cursor, reader in readers:
        # Whenever nothing was to do just then, that was the end of a reading.
        frames = await reader
        assert frames[-1].through_sequence >= cursor
        assert validators.check_reading(log, frames, after=cursor, complete=False) == []


async def test_a_run_is_streamed_to_its_end_and_nothing_comes_after(busy: Served) -> None:
    for _ in range(20):
        stream = busy.client.runs.stream("busy_agent", "go")
        events = [item async for item in stream if isinstance(item, Event)]
        assert events[-1].HasField("run_finished")
        assert stream.end is not None
        assert stream.end.reason == StreamEnd.REASON_DONE
        assert stream.run is not None
        log = await log_of(busy.client, stream.run.thread_id)
        assert events == [event for event in log if event.run_id == stream.run.run_id]


async def test_a_run_stream_ends_while_others_write_to_its_session(
    tmp_path: Path, gates: Gates
) -> None:
    stopping = asyncio.Event()

    async def chatter(ctx: Context) -> None:
        while not stopping.is_set():
            await ctx.emit("noise")
            await asyncio.sleep(0)

    async with served([chatter, *gates.agents], tmp_path / "noisy.db") as server:
        root = (await server.client.threads.create()).thread_id
        noisy = await server.client.jobs.launch("chatter", "go", parent_thread_id=root)
        for number in range(10):
            job = await server.client.jobs.launch("worker", f"{number}", parent_thread_id=root)
            await gates.entered(f"{number}")
            for request in (
                StreamEventsRequest(run_id=job.run_id, until=DONE),
                StreamEventsRequest(thread_id=job.job_id, until=DONE),
            ):
                reading = asyncio.create_task(frames_of(server.threads.StreamEvents(request)))
                await asyncio.sleep(0.01)
                gates.open(f"{number}")
                assert (await reading)[-1].end.reason == StreamEnd.REASON_DONE
        stopping.set()
        await server.client.jobs.wait(noisy.job_id, timeout=PATIENCE)


async def test_a_stream_without_end_stays_open_when_all_is_done(
    server: Served, gates: Gates
) -> None:
    run = await server.client.runs.create("worker", "it")
    call = server.threads.StreamEvents(
        StreamEventsRequest(thread_id=run.thread_id, until=Until.UNTIL_NEVER)
    )
    seen: list[Event] = []

    async def read_until(kind: str) -> None:
        async with asyncio.timeout(PATIENCE):
            while kind not in kinds_of(seen):
                seen.extend((await next_frame(call)).events)

    await gates.entered("it")
    gates.open("it")
    await read_until("thread_idle")
    await server.client.threads.update_state(run.thread_id, "later")
    seen.clear()
    await read_until("message_added")
    call.cancel()


async def test_until_done_on_an_idle_thread_ends_at_once(server: Served) -> None:
    thread = (await server.client.threads.create("hello")).thread_id
    for end in (DONE, Until.UNTIL_DONE_OR_ACTION):
        request = StreamEventsRequest(thread_id=thread, until=end)
        frames = await frames_of(server.threads.StreamEvents(request))
        assert frames[-1].end.reason == StreamEnd.REASON_DONE


async def test_a_cursor_beyond_the_head_is_refused(server: Served) -> None:
    thread = (await server.client.threads.create("hello")).thread_id
    run = await server.client.runs.create("quick", "go")
    await server.client.runs.wait(run.run_id)
    for call in (
        server.client.threads.stream(thread, after_sequence=3),
        server.client.threads.stream(run_id=run.run_id, after_sequence=1000),
        server.client.jobs.watch(thread, after_sequence=3),
    ):
        with pytest.raises(callboard.OutOfRange) as refused:
            await anext(call)
        assert refused.value.reason == "CURSOR_AHEAD"
        assert int(refused.value.metadata["head_sequence"]) < 1000


# Deltas


class Writer:
    """An agent that writes a message piece by piece, as the test says."""

    def __init__(self, pieces: Sequence[str]) -> None:
        self.pieces = pieces
        self.go: asyncio.Queue[None] = asyncio.Queue()
        self.written = asyncio.Event()

    async def write(self, ctx: Context) -> None:
        message = ctx.write_message((await ctx.view()).context_sequence)
        for piece in self.pieces:
            await self.go.get()
            message.delta(0, piece)
            self.written.set()
        await self.go.get()
        text = "".join(self.pieces)
        await message.commit([ContentBlock(text=Text(text=text))])

    def let(self, count: int) -> None:
        for _ in range(count):
            self.go.put_nowait(None)


async def test_a_reader_that_comes_in_the_middle_of_a_message_gets_what_was_written(
    tmp_path: Path,
) -> None:
    writer = Writer(["né ", "日本", " 😀", "!"])
    async with served([writer.write], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("write", "go")
        writer.let(2)
        await writer.written.wait()
        request = StreamEventsRequest(run_id=run.run_id, deltas=True)
        call = server.threads.StreamEvents(request)
        frames: list[EventFrame] = []
        async with asyncio.timeout(PATIENCE):
            while text_in(deltas_of(frames)) != "né 日本":
                frames.append(await next_frame(call))
        late = server.threads.StreamEvents(request)
        early = [await next_frame(late)]
        writer.let(3)
        for seen in (frames + await frames_of(call), early + await frames_of(late)):
            deltas = deltas_of(seen)
            assert list(validators.gapless(deltas)) == []
            assert "né 日本 😀!".startswith(text_in(deltas))
            [event] = [e for e in validators.events_of(seen) if e.claim_epoch and kind_of(e) == 24]
            assert {d.message_id for d in deltas} <= {event.message_added.message.message_id}
            assert {(d.run_id, d.attempt, d.author) for d in deltas} <= {(run.run_id, 1, "write")}


async def test_a_reader_without_deltas_is_not_woken_by_them(tmp_path: Path) -> None:
    writer = Writer(["x"] * 100)
    async with served([writer.write], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("write", "go")
        plain = server.threads.StreamEvents(StreamEventsRequest(run_id=run.run_id))
        eager = server.threads.StreamEvents(StreamEventsRequest(run_id=run.run_id, deltas=True))
        first = [await next_frame(plain), await next_frame(eager)]
        reading = asyncio.create_task(frames_of(plain))
        for _ in range(100):
            writer.let(1)
            await next_frame(eager)
        writer.let(1)
        frames = [first[0], *await reading]
        assert deltas_of(frames) == []
        assert len(frames) < 20
        eager.cancel()


async def test_a_slow_reader_gets_deltas_merged_and_every_event(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live, "RECENT", 16)
    pieces = 3000

    async def talker(ctx: Context) -> None:
        for number in range(3):
            message = ctx.write_message((await ctx.view()).context_sequence)
            for piece in range(pieces):
                message.delta(0, f"{piece} ")
                if piece % 50 == 0:
                    await ctx.emit("beat", piece)
                    await asyncio.sleep(0)
            await message.commit([ContentBlock(text=Text(text=f"message {number}"))])

    async with served([talker], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("talker", "go")
        call = server.threads.StreamEvents(StreamEventsRequest(run_id=run.run_id, deltas=True))
        frames = [await next_frame(call)]
        await server.client.runs.wait(run.run_id, timeout=PATIENCE)
        frames += await frames_of(call)
        log = await log_of(server.client, run.thread_id)
        of_run = validators.check_reading(log, frames, matches=lambda e: e.run_id == run.run_id)
        assert of_run == []
        assert list(validators.gapless(deltas_of(frames))) == []
        assert len(deltas_of(frames)) < pieces


async def test_discarded_and_failed_messages_leave_no_deltas_behind(tmp_path: Path) -> None:
    async def retrying(ctx: Context) -> str:
        view = await ctx.view()
        broken = ctx.write_message(view.context_sequence)
        broken.delta(0, "broken")
        await broken.discard("try again")
        ctx.write_message(view.context_sequence).delta(0, "cut")
        raise RuntimeError

    async with served([retrying], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("retrying", "go")
        await server.client.runs.wait(run.run_id, timeout=PATIENCE)
        request = StreamEventsRequest(thread_id=run.thread_id, deltas=True, until=DONE)
        assert deltas_of(await frames_of(server.threads.StreamEvents(request))) == []
        kinds = kinds_of(await sound_log(server.client, run.thread_id))
        assert kinds.count("message_discarded") == 1
        assert server.app.engine.hub._open == {}


# What readers cost


async def streams_open(server: Served) -> int:
    return (await server.server.GetServerInfo(GetServerInfoRequest())).counts.streams_open


async def there_are_streams(server: Served, count: int) -> None:
    async def as_many() -> bool:
        return await streams_open(server) == count

    await until(as_many)


async def test_a_client_that_goes_away_frees_its_streams(server: Served, gates: Gates) -> None:
    run = await server.client.runs.create("worker", "it")
    address = f"127.0.0.1:{server.port}"
    async with callboard.AsyncClient(address) as gone:
        streams: list[AsyncIterator[object]] = [
            gone.threads.stream(run.thread_id),
            gone.threads.stream(run_id=run.run_id, deltas=True),
            gone.jobs.watch(run.thread_id),
            gone.runs.stream("worker", "other"),
        ]
        readers = [asyncio.create_task(_read_on(stream)) for stream in streams]
        await there_are_streams(server, 4)
    await there_are_streams(server, 0)
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)


async def _read_on(stream: AsyncIterator[object]) -> None:
    with contextlib.suppress(callboard.CallboardError):
        async for _ in stream:
            pass


async def test_a_stream_of_the_local_channel_ends_for_who_waits_for_an_item(
    server: Served, gates: Gates
) -> None:
    run = await server.client.runs.create("worker", "it")
    channel: Any = server.app.channel(client_caller())
    client = callboard.AsyncClient(channel=channel)
    stream = client.threads.stream(run.thread_id)
    async with asyncio.timeout(PATIENCE):
        while "run_started" not in str(await anext(stream)):
            pass
    waiting = asyncio.create_task(anext(stream, None))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    await stream.aclose()
    async with asyncio.timeout(PATIENCE):
        assert await waiting is None
    await there_are_streams(server, 0)


async def test_two_thousand_idle_streams_leave_room_for_calls(server: Served) -> None:
    thread = (await server.client.threads.create("hello")).thread_id
    calls = []
    for _ in range(2000):
        call = server.threads.StreamEvents(StreamEventsRequest(thread_id=thread))
        calls.append(call)
    first = await asyncio.gather(*map(next_frame, calls))
    assert {frame.through_sequence for frame in first} == {2}
    assert await streams_open(server) == 2000
    async with asyncio.timeout(2):
        await server.client.threads.update_state(thread, "news")
    second = await asyncio.gather(*map(next_frame, calls))
    assert {frame.through_sequence for frame in second} == {3}
    for call in calls:
        call.cancel()
    await there_are_streams(server, 0)


async def test_readers_that_never_read_cost_little_memory(tmp_path: Path) -> None:
    page = "x" * (1 << 20)

    async def heavy(ctx: Context) -> None:
        for _ in range(200):
            await ctx.say(page)

    async with served([heavy], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("heavy", "go")
        calls = [
            server.threads.StreamEvents(StreamEventsRequest(thread_id=run.thread_id))
            for _ in range(4)
        ]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        await server.client.runs.wait(run.run_id, timeout=30)
        late = server.threads.StreamEvents(StreamEventsRequest(thread_id=run.thread_id))
        await next_frame(late)
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        # A reader holds what gRPC has taken and a frame or two. 200 MB went by.
        assert used < 120 * 1024
        for call in [*calls, late]:
            call.cancel()


# Deletion


async def test_deleting_a_thread_ends_its_streams(server: Served, gates: Gates) -> None:
    run = await server.client.runs.create("worker", "it")
    await gates.entered("it")
    calls = [
        server.threads.StreamEvents(StreamEventsRequest(thread_id=run.thread_id)),
        server.threads.StreamEvents(
            StreamEventsRequest(thread_id=run.thread_id, kinds=[EventKind.EVENT_KIND_MESSAGE_ADDED])
        ),
        server.threads.StreamEvents(StreamEventsRequest(run_id=run.run_id)),
    ]
    readings = [[await next_frame(call)] for call in calls]
    await server.client.threads.delete(run.thread_id)
    for frames, call in zip(readings, calls, strict=True):
        frames += await frames_of(call)
        assert frames[-1].end.reason == StreamEnd.REASON_DELETED
    with pytest.raises(callboard.NotFound):
        await server.client.runs.get(run.run_id)


async def test_deleting_a_child_ends_its_streams_and_not_those_of_the_session(
    server: Served, gates: Gates
) -> None:
    root = (await server.client.threads.create()).thread_id
    job = await server.client.jobs.launch(
        "worker", "secret task", parent_thread_id=root, notify="none"
    )
    await gates.entered("secret task")
    await server.client.threads.update_state(job.job_id, "secret too")
    session = server.threads.StreamEvents(
        StreamEventsRequest(thread_id=root, scope=EVENT_SCOPE_SESSION)
    )
    of_child = [
        StreamEventsRequest(thread_id=job.job_id),
        StreamEventsRequest(thread_id=job.job_id, kinds=[EventKind.EVENT_KIND_MESSAGE_ADDED]),
        StreamEventsRequest(run_id=job.run_id),
    ]
    calls = [server.threads.StreamEvents(request) for request in of_child]
    readings = [[await next_frame(call)] for call in calls]
    seen = [await next_frame(session)]
    await server.client.threads.delete(job.job_id)
    for frames, call in zip(readings, calls, strict=True):
        frames += await frames_of(call)
        assert frames[-1].end.reason == StreamEnd.REASON_DELETED
    await server.client.threads.update_state(root, "still here")
    async with asyncio.timeout(PATIENCE):
        while not any(e.thread_id == root and kind_of(e) == 24 for e in seen[-1].events):
            seen.append(await next_frame(session))
    session.cancel()
    log = await log_of(server.client, root)
    assert list(validators.without_holes(log)) == []
    assert "secret" not in "".join(map(str, log))
    assert {e.redacted for e in log if e.thread_id == job.job_id} == {True, False}


async def test_a_stream_that_starts_while_the_server_drains_keeps_its_cursor(
    server: Served,
) -> None:
    thread = (await server.client.threads.create(["one", "two", "three"])).thread_id
    server.app.engine.hub.drain()
    call = server.threads.StreamEvents(StreamEventsRequest(thread_id=thread, after_sequence=3))
    frames = []
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        async for frame in call:
            frames.append(frame)
    assert ended.value.code() == grpc.StatusCode.UNAVAILABLE
    assert frames[-1].end.reason == StreamEnd.REASON_SERVER_DRAINING
    assert frames[-1].through_sequence == 3
