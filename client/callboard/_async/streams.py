"""Streams that outlive their connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from callboard._backoff import Backoff
from callboard._failures import FAILURES, failure_of
from callboard._feeds import EventFeed, Feed, JobFeed
from callboard.errors import CallboardError, Unavailable
from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job, WatchJobsResponse
from callboard.v1.run_pb2 import Delta, EventFrame, Run, StreamEnd

FrameT = TypeVar("FrameT")
FrameT_co = TypeVar("FrameT_co", covariant=True)
ItemT = TypeVar("ItemT")


class FrameCall(Protocol[FrameT_co]):
    """What gRPC returns for a call that answers with a stream."""

    def __aiter__(self) -> AsyncIterator[FrameT_co]: ...

    def cancel(self) -> object:
        """Ends the call."""


class AsyncStream(Generic[FrameT, ItemT]):
    """Hands out the items of a stream one by one, over as many connections as it takes.

    The call starts with the first item asked for. A lost connection is taken up again where it
    broke, without a loss and without a repeat. To end the call, leave the context or close the
    stream; a stream that is merely dropped ends when it is garbage-collected.

    Example:
        async with client.jobs.watch(thread_id) as jobs:
            async for job in jobs:
                print(job.task, job.progress.message)
    """

    def __init__(
        self,
        feed: Feed[FrameT, ItemT],
        connect: Callable[[], FrameCall[FrameT]],
        max_downtime: float | None,
    ) -> None:
        """Made by the client.

        Args:
            feed: Turns frames into items, and holds the cursor.
            connect: Starts a call that goes on from the cursor. It must not refer to the stream,
                which could not be garbage-collected at once then.
            max_downtime: For how many seconds a lost connection is tried; None for ever.
        """
        self._feed = feed
        self._connect = connect
        self._max_downtime = max_downtime
        self._items: Iterator[ItemT] = iter(())
        self._call: FrameCall[FrameT] | None = None
        self._frames: AsyncIterator[FrameT] | None = None
        self._outage: Backoff | None = None
        self._closed = False

    @property
    def end(self) -> StreamEnd | None:
        """Why the server ended the stream; None while it goes on, and where it was closed."""
        return self._feed.end

    @property
    def is_reconnecting(self) -> bool:
        """Whether the connection is lost, and tried again."""
        return self._outage is not None and not self._closed

    async def aclose(self) -> None:
        """Ends the call. The iteration ends, too, also one that waits for an item right now."""
        self._closed = True
        self._cancel()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ItemT:
        while not self._closed:
            item = next(self._items, None)
            if item is not None:
                return item
            frame = await self._next_frame()
            if frame is None:
                self._closed = True
            else:
                self._items = self._feed.items(frame)
        raise StopAsyncIteration

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def __del__(self) -> None:
        # gRPC's call and its iterator refer to each other: alone they would stay until the next
        # round of the garbage collector.
        self._cancel()

    async def _next_frame(self) -> FrameT | None:
        """The next frame, after a pause and on a new connection if need be; None at the end."""
        while not self._closed:
            try:
                if self._frames is None:
                    self._frames = self._open()
                frame = await anext(self._frames)
            except StopAsyncIteration:
                failure: CallboardError = Unavailable("the stream ended without saying why")
            except FAILURES as error:
                # Whatever the reason, even a task that was cancelled while it waited here: the
                # next attempt is a new call.
                self._frames = None
                failure = failure_of(error)
            else:
                self._outage = None
                return frame
            self._frames = None
            if self._closed or self._feed.end is not None:
                break
            await self._wait_out(failure)
        return None

    def _open(self) -> AsyncIterator[FrameT]:
        self._call = self._connect()
        if self._closed:
            # Meanwhile, and too early to find a call to cancel.
            self._call.cancel()
        return aiter(self._call)

    async def _wait_out(self, failure: CallboardError) -> None:
        if self._outage is None:
            self._outage = Backoff(self._max_downtime)
        try:
            pause = self._outage.pause(failure)
        except CallboardError:
            self._closed = True
            raise
        await asyncio.sleep(pause)

    def _cancel(self) -> None:
        if self._call is not None:
            self._call.cancel()


class AsyncEventStream(AsyncStream[EventFrame, Event | Delta]):
    """Events, and pieces of messages in the making, in order and each once.

    A `Delta` is a piece of a message; the event `message_added` with the same message_id replaces
    all of them. Deltas are not durable: after a lost connection the ones that were missed come
    merged, and the text that was read is not repeated.

    Example:
        async with client.runs.stream("researcher", "What is new?") as stream:
            async for item in stream:
                if isinstance(item, callboard.Delta):
                    print(item.text, end="")
                elif item.HasField("run_finished"):
                    print(item.run_finished.outcome.usage)
    """

    def __init__(
        self,
        feed: EventFeed,
        connect: Callable[[], FrameCall[EventFrame]],
        max_downtime: float | None,
    ) -> None:
        """Made by the client."""
        super().__init__(feed, connect, max_downtime)
        self._events = feed

    @property
    def cursor(self) -> int:
        """The sequence up to which everything was handed out: `after_sequence` to resume with."""
        return self._events.cursor

    @property
    def run(self) -> Run | None:
        """The run as it stood at first; None before the first item and for a thread."""
        return self._events.run


class AsyncJobStream(AsyncStream[WatchJobsResponse, Job]):
    """Jobs: how they stand, then each one again whenever it changes."""

    def __init__(
        self,
        feed: JobFeed,
        connect: Callable[[], FrameCall[WatchJobsResponse]],
        max_downtime: float | None,
    ) -> None:
        """Made by the client."""
        super().__init__(feed, connect, max_downtime)
        self._jobs = feed

    @property
    def cursor(self) -> int | None:
        """The sequence up to which every change was handed out: `after_sequence` to resume with.

        None until the snapshot is complete.
        """
        return self._jobs.cursor
