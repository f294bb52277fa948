"""The streams of events: what a reader asks for, frame by frame."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from functools import partial

from callboard.v1.lifecycle_pb2 import Until
from callboard.v1.run_pb2 import EventFrame, Run, StreamEnd
from callboard.v1.thread_pb2 import EVENT_SCOPE_SESSION, StreamEventsRequest
from callboard_server import errors
from callboard_server.engine.engine import Engine, find_run, find_thread
from callboard_server.engine.lifecycle import REQUIRES_ACTION, TERMINAL
from callboard_server.engine.live import Batch, SessionReader, frame
from callboard_server.rpc import Call
from callboard_server.store.base import EventFilter, Reader, SessionRow, ThreadRow

_DONE = StreamEnd(reason=StreamEnd.REASON_DONE)
_ACTION = StreamEnd(reason=StreamEnd.REASON_ACTION_REQUIRED)
_DELETED = StreamEnd(reason=StreamEnd.REASON_DELETED)
_DRAINING = StreamEnd(reason=StreamEnd.REASON_SERVER_DRAINING)

EndCheck = Callable[[Reader], StreamEnd | None]


@dataclass(frozen=True, slots=True)
class RunStream:
    """What is wanted of one run."""

    run_id: str
    after: int
    kinds: frozenset[int]
    deltas: bool
    until: Until.ValueType


def check_cursor(session: SessionRow, cursor: int) -> None:
    """Refuses a cursor outside of what the log has."""
    if cursor > session.head:
        raise errors.cursor_ahead(cursor, session.head)
    if 0 < cursor < session.oldest - 1 or (cursor == 0 and session.oldest > 1):
        raise errors.events_trimmed(cursor, session.oldest)


async def stream_run(engine: Engine, call: Call, wanted: RunStream) -> AsyncIterator[bytes]:
    """Streams the events of a run; the first frame carries the run."""
    tenant = call.caller.tenant

    def look(reader: Reader) -> tuple[int, EventFilter, Run, int]:
        row = find_run(reader, tenant, wanted.run_id)
        session = row.thread.session
        check_cursor(session, wanted.after)
        start = max(wanted.after, row.data.created_sequence - 1)
        chosen = EventFilter(thread=row.thread.key, run=row.key, kinds=wanted.kinds)
        return session.key, chosen, engine.show_run(reader, row), start

    def ended(reader: Reader) -> StreamEnd | None:
        row = reader.run(tenant, wanted.run_id)
        if row is None:
            return _DELETED
        return _end_of(row.data.state in TERMINAL, row.data.state == REQUIRES_ACTION, wanted.until)

    session, chosen, run, start = await engine.store.read(look)
    reader = SessionReader(
        engine.store, engine.hub, session, chosen, after=start, deltas=wanted.deltas
    )
    view = _View(session, chosen, wanted.until, ended)
    with engine.attendance.reading(run.run_id):
        async for piece in _stream(engine, view, reader, run):
            yield piece


async def stream_thread(
    engine: Engine,
    call: Call,
    request: StreamEventsRequest,
    selection: Callable[[StreamEventsRequest, ThreadRow], EventFilter],
) -> AsyncIterator[bytes]:
    """Streams the events of a thread or of its session."""
    tenant = call.caller.tenant
    whole_session = request.scope == EVENT_SCOPE_SESSION

    def look(reader: Reader) -> tuple[int, EventFilter]:
        thread = find_thread(reader, tenant, request.thread_id)
        check_cursor(thread.session, request.after_sequence)
        return thread.session.key, selection(request, thread)

    def ended(reader: Reader) -> StreamEnd | None:
        thread = reader.thread(tenant, request.thread_id)
        if thread is None:
            return _DELETED
        if whole_session:
            root = find_thread(reader, tenant, thread.session.session_id)
            threads = reader.threads_below(root.key)
            live = [run for each in threads for run in reader.live_runs(each.key)]
        else:
            live = reader.live_runs(thread.key)
        asks = any(row.data.state == REQUIRES_ACTION for row in live)
        return _end_of(not live, asks, request.until)

    session, chosen = await engine.store.read(look)
    reader = SessionReader(
        engine.store,
        engine.hub,
        session,
        chosen,
        after=request.after_sequence,
        deltas=request.deltas,
    )
    view = _View(session, chosen, request.until or Until.UNTIL_NEVER, ended)
    async for piece in _stream(engine, view, reader):
        yield piece


def _end_of(done: bool, asks: bool, until: Until.ValueType) -> StreamEnd | None:
    if done:
        return _DONE
    return _ACTION if asks and until == Until.UNTIL_DONE_OR_ACTION else None


@dataclass(frozen=True, slots=True)
class _View:
    """What a stream shows, and until when."""

    session: int
    chosen: EventFilter
    until: Until.ValueType
    ended: EndCheck

    def end_behind(self, batch: Batch, reader: Reader) -> tuple[StreamEnd | None, bool]:
        """Returns whether the stream ends with a batch, and whether to ask again at the next."""
        end = self.ended(reader)
        if end is None or end == _DELETED:
            return end, False
        if self.until == Until.UNTIL_NEVER:
            return None, False
        # The end is shown only behind the events that led to it.
        if reader.session(self.session).head <= batch.through:
            return end, False
        later = reader.events(self.session, self.chosen, after=batch.through, limit=1)
        return (end, False) if next(later, None) is None else (None, True)


async def _stream(
    engine: Engine, view: _View, reader: SessionReader, run: Run | None = None
) -> AsyncIterator[bytes]:
    may_end = False
    async with reader:
        async for batch in reader.batches():
            may_end |= batch.may_be_deleted
            may_end |= batch.may_be_done and view.until != Until.UNTIL_NEVER
            end = None
            if may_end and batch.caught_up:
                end, may_end = await engine.store.read(partial(view.end_behind, batch))
            yield frame(batch, run, end)
            run = None
            if end is not None:
                return
        through = reader.cursor
    if reader.deleted:
        yield EventFrame(through_sequence=through, end=_DELETED).SerializeToString()
        return
    yield EventFrame(through_sequence=through, end=_DRAINING).SerializeToString()
    raise errors.draining()
