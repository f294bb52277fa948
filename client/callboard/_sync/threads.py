# Generated from callboard/_async/threads.py by `make protos`: do not edit.
"""Conversations, their state and their log."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

import grpc

from callboard._enums import (
    KindName,
    OrderName,
    PresetName,
    ScopeName,
    ThreadStateName,
    UntilName,
    enum_value,
    enum_values,
)
from callboard._feeds import EventFeed
from callboard._messages import MessageLike, to_messages
from callboard._requests import new_request_id, optional_struct
from callboard._sync.caller import Caller
from callboard._sync.streams import EventStream, FrameCall
from callboard._times import to_duration
from callboard.v1.event_pb2 import Event, EventKind
from callboard.v1.lifecycle_pb2 import Until
from callboard.v1.message_pb2 import Message
from callboard.v1.run_pb2 import EventFrame
from callboard.v1.thread_pb2 import (
    CompactThreadRequest,
    CopyThreadRequest,
    CreateThreadRequest,
    DeleteThreadRequest,
    EventPreset,
    EventScope,
    GetThreadRequest,
    GetThreadStateRequest,
    ListEventsRequest,
    ListMessagesRequest,
    ListThreadsRequest,
    Order,
    StreamEventsRequest,
    Thread,
    ThreadState,
    UpdateThreadRequest,
    UpdateThreadStateRequest,
)
from callboard.v1.thread_pb2_grpc import ThreadServiceStub


class Threads:
    """Threads, each a conversation and its state: `client.threads`."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        """Made by the client."""
        self._stub = ThreadServiceStub(channel)
        self._caller = caller

    def create(
        self,
        messages: MessageLike | Sequence[MessageLike] = (),
        *,
        thread_id: str | None = None,
        values: Mapping[str, Any] | None = None,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | timedelta | None = None,
        request_id: str | None = None,
    ) -> Thread:
        """Creates a root thread, and so a session.

        Args:
            messages: One or several messages to begin with: text, dicts or `Message`s.
            thread_id: A UUID to give it; made by the server when left out.
            values: Values to begin with.
            metadata: Free data of your own.
            ttl: How many seconds the session is kept after its last activity; for ever when left
                out.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The thread.

        Raises:
            AlreadyExists: THREAD_ALREADY_EXISTS or REQUEST_ID_REUSED.
            InvalidArgument: FIELD_INVALID.
        """
        request = CreateThreadRequest(
            thread_id=thread_id or "",
            messages=to_messages(messages, "messages"),
            values=optional_struct(values, "values"),
            metadata=optional_struct(metadata, "metadata"),
            ttl=to_duration(ttl, "ttl"),
            request_id=request_id or new_request_id(),
        )
        return self._caller.repeatable(self._stub.CreateThread, request)

    def get(self, thread_id: str) -> Thread:
        """Fetches a thread.

        Args:
            thread_id: The thread.

        Returns:
            Whether it is busy, where its log stands, its metadata. For what was said see `state`.

        Raises:
            NotFound: THREAD_NOT_FOUND.
        """
        request = GetThreadRequest(thread_id=thread_id)
        return self._caller.repeatable(self._stub.GetThread, request)

    def list(
        self,
        *,
        metadata: Mapping[str, Any] | None = None,
        state: ThreadStateName | int | None = None,
        session_id: str | None = None,
        page_size: int = 0,
    ) -> Iterator[Thread]:
        """Lists threads, newest first.

        Args:
            metadata: Only those whose metadata holds all of this.
            state: Only those that are "idle", or "busy".
            session_id: Those of this session; root threads when left out.
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them.
        """
        request = ListThreadsRequest(
            metadata=optional_struct(metadata, "metadata"),
            state=enum_value(Thread.State, state, "state"),
            session_id=session_id or "",
            page_size=page_size,
        )
        return self._caller.pages(self._stub.ListThreads, request, lambda page: page.threads)

    def update(
        self,
        thread_id: str,
        *,
        metadata: Mapping[str, Any] | None = None,
        ttl: float | timedelta | None = None,
        etag: str | None = None,
    ) -> Thread:
        """Changes a thread's metadata or time to live.

        Args:
            thread_id: The thread.
            metadata: A JSON merge patch (RFC 7396) to the metadata: None removes a key.
            ttl: How many seconds the session is kept after its last activity; 0 means for ever.
            etag: Where given, the change is made only if the thread still has this etag.

        Returns:
            The thread.

        Raises:
            NotFound: THREAD_NOT_FOUND.
            Conflict: ETAG_MISMATCH.
            FailedPrecondition: NOT_A_ROOT_THREAD, for a ttl on a child thread.
        """
        request = UpdateThreadRequest(
            thread_id=thread_id,
            metadata=optional_struct(metadata, "metadata"),
            ttl=to_duration(ttl, "ttl"),
            etag=etag or "",
        )
        return self._caller.once(self._stub.UpdateThread, request)

    def delete(self, thread_id: str) -> None:
        """Deletes a thread with the threads below it; active runs there are cancelled first.

        Args:
            thread_id: The thread. With a root thread the log of its session goes, too.

        Raises:
            NotFound: THREAD_NOT_FOUND, also where it was deleted before.
        """
        request = DeleteThreadRequest(thread_id=thread_id)
        self._caller.once(self._stub.DeleteThread, request)

    def copy(
        self,
        thread_id: str,
        *,
        at_sequence: int | None = None,
        metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
    ) -> Thread:
        """Makes a new session that starts from a thread as it is, or as it was.

        It has the messages, the values and the current assistant. Runs, jobs, notices,
        summaries and open actions stay behind; a tool call without a result gets an error as its
        result.

        Args:
            thread_id: The thread.
            at_sequence: The sequence up to which to copy; all when left out.
            metadata: Metadata of the copy; those that the thread has now when left out.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The new thread.

        Raises:
            NotFound: THREAD_NOT_FOUND.
            OutOfRange: EVENTS_TRIMMED or CURSOR_AHEAD.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        request = CopyThreadRequest(
            thread_id=thread_id,
            at_sequence=at_sequence,
            metadata=optional_struct(metadata, "metadata"),
            request_id=request_id or new_request_id(),
        )
        return self._caller.repeatable(self._stub.CopyThread, request)

    def state(
        self, thread_id: str, *, at_sequence: int | None = None, message_limit: int = 0
    ) -> ThreadState:
        """Fetches a thread's values, last messages and open actions.

        Args:
            thread_id: The thread.
            at_sequence: The sequence at which to look; now when left out.
            message_limit: How many of the last messages to return: up to 10,000; 100 when 0, none
                when negative.

        Returns:
            The state.

        Raises:
            NotFound: THREAD_NOT_FOUND.
            OutOfRange: EVENTS_TRIMMED or CURSOR_AHEAD.
        """
        request = GetThreadStateRequest(
            thread_id=thread_id, at_sequence=at_sequence, message_limit=message_limit
        )
        return self._caller.repeatable(self._stub.GetThreadState, request)

    def messages(
        self,
        thread_id: str,
        *,
        order: OrderName | int = "oldest_first",
        page_size: int = 0,
    ) -> Iterator[Message]:
        """Lists the messages of a thread, from either end.

        Args:
            thread_id: The thread.
            order: "oldest_first" or "newest_first".
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them, which raises NotFound (THREAD_NOT_FOUND).
        """
        request = ListMessagesRequest(
            thread_id=thread_id,
            order=enum_value(Order, order, "order"),
            page_size=page_size,
        )
        return self._caller.pages(self._stub.ListMessages, request, lambda page: page.messages)

    def update_state(
        self,
        thread_id: str,
        messages: MessageLike | Sequence[MessageLike] = (),
        *,
        values: Mapping[str, Any] | None = None,
        expected_thread_sequence: int | None = None,
        request_id: str | None = None,
    ) -> Thread:
        """Adds messages of any role and author and merges values, without a run.

        Args:
            thread_id: The thread.
            messages: One or several messages: text, dicts or `Message`s.
            values: A JSON merge patch (RFC 7396) to the values: None removes a key.
            expected_thread_sequence: Where given, it is done only if the thread still has this
                `sequence`.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The thread.

        Raises:
            NotFound: THREAD_NOT_FOUND.
            Conflict: THREAD_SEQUENCE_MISMATCH.
            InvalidArgument: FIELD_INVALID.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        request = UpdateThreadStateRequest(
            thread_id=thread_id,
            messages=to_messages(messages, "messages"),
            values=optional_struct(values, "values"),
            expected_thread_sequence=expected_thread_sequence,
            request_id=request_id or new_request_id(),
        )
        return self._caller.repeatable(self._stub.UpdateThreadState, request)

    def compact(
        self, thread_id: str, *, summary: str | None = None, request_id: str | None = None
    ) -> Thread:
        """Makes assistants see a summary instead of the thread's older part.

        A summary that is given holds at once and for all assistants. Without one, a run of the
        thread's current assistant is queued that writes it for itself alone.

        Args:
            thread_id: The thread.
            summary: The summary; the thread's current assistant writes one when it is left out.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The thread.

        Raises:
            NotFound: THREAD_NOT_FOUND, ASSISTANT_NOT_FOUND.
            FailedPrecondition: ASSISTANT_REQUIRED.
            InvalidArgument: FIELD_INVALID, where the current assistant is no chat agent.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        request = CompactThreadRequest(
            thread_id=thread_id,
            summary=summary or "",
            request_id=request_id or new_request_id(),
        )
        return self._caller.repeatable(self._stub.CompactThread, request)

    def events(
        self,
        thread_id: str,
        *,
        run_id: str | None = None,
        scope: ScopeName | int | None = None,
        kinds: Iterable[KindName | int] = (),
        preset: PresetName | int | None = None,
        after_sequence: int = 0,
        order: OrderName | int = "oldest_first",
        page_size: int = 0,
    ) -> Iterator[Event]:
        """Lists the events that are in the log, in either direction.

        Args:
            thread_id: The thread.
            run_id: Only those of this run of the thread; goes without preset.
            scope: "thread" (the default), or "session" for those of the whole session.
            kinds: Only these kinds, for example `["message_added", "run_finished"]`.
            preset: "condensed", instead of kinds: of other threads only what a supervisor needs.
            after_sequence: Only events with a greater sequence; with "newest_first" those with a
                smaller one, from the end when 0.
            order: "oldest_first" or "newest_first".
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them, which raises NotFound (THREAD_NOT_FOUND) and OutOfRange
            (EVENTS_TRIMMED, CURSOR_AHEAD).
        """
        request = ListEventsRequest(
            thread_id=thread_id,
            scope=enum_value(EventScope, scope, "scope"),
            kinds=enum_values(EventKind, kinds, "kinds"),
            preset=enum_value(EventPreset, preset, "preset"),
            after_sequence=after_sequence,
            order=enum_value(Order, order, "order"),
            page_size=page_size,
            run_id=run_id or "",
        )
        return self._events(request)

    def _events(self, request: ListEventsRequest) -> Iterator[Event]:
        more = True
        while more:
            page = self._caller.repeatable(self._stub.ListEvents, request)
            for event in page.events:
                yield event
            request.after_sequence = page.through_sequence
            more = page.more

    def stream(
        self,
        thread_id: str | None = None,
        *,
        run_id: str | None = None,
        scope: ScopeName | int | None = None,
        kinds: Iterable[KindName | int] = (),
        preset: PresetName | int | None = None,
        after_sequence: int = 0,
        deltas: bool = False,
        until: UntilName | int | None = None,
        max_downtime: float | None = 60.0,
    ) -> EventStream:
        """Streams the events after a cursor: those in the log, then live ones.

        Args:
            thread_id: The thread.
            run_id: Only the events of this run, instead.
            scope: With a thread: "thread" (the default), or "session" for the whole session.
            kinds: Only these kinds, for example `["message_added", "run_finished"]`.
            preset: "condensed", instead of kinds: of other threads only what a supervisor needs.
            after_sequence: Only events after this `cursor`; 0 is from the beginning.
            deltas: Whether to send pieces of messages in the making, too.
            until: "never" (the default for a thread), "done" (for a run) or "done_or_action".
            max_downtime: For how many seconds a lost connection is tried; None for ever.

        Returns:
            A stream of `Event`, and `Delta` where asked for. It is a context manager and raises
            NotFound (THREAD_NOT_FOUND, RUN_NOT_FOUND) and OutOfRange (EVENTS_TRIMMED,
            CURSOR_AHEAD).
        """
        request = StreamEventsRequest(
            thread_id=thread_id or "",
            run_id=run_id or "",
            scope=enum_value(EventScope, scope, "scope"),
            kinds=enum_values(EventKind, kinds, "kinds"),
            preset=enum_value(EventPreset, preset, "preset"),
            deltas=deltas,
            until=enum_value(Until, until, "until"),
        )
        feed = EventFeed(after_sequence)
        stream, metadata = self._stub.StreamEvents, self._caller.metadata

        def connect() -> FrameCall[EventFrame]:
            request.after_sequence = feed.cursor
            return stream(request, metadata=metadata)

        return EventStream(feed, connect, max_downtime)
