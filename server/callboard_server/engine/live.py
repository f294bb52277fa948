"""Streams: what was committed, and what is being written, on its way to the readers.

Nothing is queued for a reader. A reader holds a cursor into the log and offsets into the messages
in the making; when something happens it is woken and takes what it has not had yet, from memory
where that still holds it and else from the store. So a slow reader costs nothing and loses nothing.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import groupby, islice
from operator import attrgetter

from callboard.v1.run_pb2 import Delta, EventFrame, Run, StreamEnd
from callboard_server.log.events import KINDS
from callboard_server.log.records import Record
from callboard_server.store.base import EventFilter, Reader, Store

RECENT = 2048
"""How many of a session's last records stay in memory while it is read."""
RECENT_BYTES = 8 << 20
"""How many bytes of them."""
UNREAD_SESSIONS = 256
"""Of how many sessions that nobody reads some records stay, for readers that come soon."""
UNREAD = 64
"""How many records of each."""
UNREAD_BYTES = 64 << 10
"""How many bytes of them."""
FRAME_EVENTS = 256
"""How many events go into one frame at the most."""
FRAME_BYTES = 1 << 20
"""After how many bytes a frame is full. One event may be larger and then travels alone."""
IDLE = 15.0
"""After how many idle seconds a stream sends a frame with through_sequence."""

_MESSAGE_ADDED = KINDS["message_added"]
_MESSAGE_DISCARDED = KINDS["message_discarded"]
_RUN_ENDS = frozenset({KINDS["run_finished"], KINDS["run_queued"], KINDS["run_waiting"]})
# A run whose thread is deleted while it is at work has no end.
_RUN_CHANGES = _RUN_ENDS | {KINDS["run_cancel_requested"]}
_THREAD_DELETED = KINDS["thread_deleted"]
_SESSION_OF = attrgetter("session")


@dataclass(slots=True)
class OpenMessage:
    """A message in the making."""

    message_id: str
    session: int
    thread: int
    run: int
    header: Delta
    """What all its deltas have in common."""
    context_sequence: int
    """How much of the log its writer had seen."""
    blocks: dict[int, tuple[Delta.Kind.ValueType, bytearray]] = field(default_factory=dict)
    """By index: the kind and the UTF-8 text so far."""

    def pieces(self, sent: dict[tuple[str, int], int], room: int) -> list[Delta]:
        """Returns what comes after the offsets in `sent`, up to `room` bytes; moves them on."""
        deltas = []
        for index, (kind, text) in self.blocks.items():
            offset = sent.get((self.message_id, index), 0)
            # A character that is cut in two comes whole with the next piece.
            piece = text[offset : offset + room].decode(errors="ignore")
            if piece:
                delta = Delta(index=index, offset=offset, kind=kind, text=piece)
                delta.MergeFrom(self.header)
                deltas.append(delta)
                size = len(piece.encode())
                sent[self.message_id, index] = offset + size
                room -= size
        return deltas


class Feed:
    """The recent past of one session."""

    def __init__(self) -> None:
        self.recent: deque[Record] = deque()
        self._bytes = 0
        self.head = 0
        """Sequence of the last record that passed; 0 before the first."""
        self.readers: set[asyncio.Event] = set()
        self.deleted = False

    def wake(self) -> None:
        for reader in self.readers:
            reader.set()

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            if record.kind == _THREAD_DELETED:
                # What a reader has not had yet of it is erased, and comes so from the store.
                self.recent.clear()
                self._bytes = 0
            self.recent.append(record)
            self._bytes += len(record.data)
            self.head = record.sequence
        self.trim()

    def trim(self) -> None:
        """Forgets what is too much to keep."""
        most, most_bytes = (RECENT, RECENT_BYTES) if self.readers else (UNREAD, UNREAD_BYTES)
        while len(self.recent) > most or (self._bytes > most_bytes and len(self.recent) > 1):
            self._bytes -= len(self.recent.popleft().data)

    def after(self, cursor: int) -> list[Record] | None:
        """Returns the records after a cursor, or None where memory does not reach back so far."""
        if self.head <= cursor:
            return []
        if not self.recent or self.recent[0].sequence > cursor + 1:
            return None
        newest_first = list(islice(reversed(self.recent), self.head - cursor))
        return newest_first[::-1]


class Hub:
    """Hands records and deltas to the streams of their session."""

    def __init__(self) -> None:
        self._feeds: dict[int, Feed] = {}
        self._unread: dict[int, Feed] = {}
        """Those of them that have no reader, the oldest first."""
        self._open: dict[int, dict[str, OpenMessage]] = {}
        self._watched: dict[str, set[asyncio.Event]] = {}
        self.draining = False
        self.streams = 0

    # Writers

    def publish(self, records: Sequence[Record]) -> None:
        """Shows committed records to the readers. Call in commit order."""
        for session, group in groupby(records, _SESSION_OF):
            of_session = list(group)
            for record in of_session:
                if session in self._open:
                    self._close_messages(record)
                if self._watched and record.kind in _RUN_CHANGES:
                    for watcher in self._watched.get(record.event.run_id, ()):
                        watcher.set()
            feed = self._feeds.get(session) or self._begin(session)
            feed.add(record.shown for record in of_session)
            feed.wake()

    def _begin(self, session: int) -> Feed:
        feed = self._feeds[session] = Feed()
        self._keep_unread(session, feed)
        return feed

    def _keep_unread(self, session: int, feed: Feed) -> None:
        self._unread[session] = feed
        if len(self._unread) > UNREAD_SESSIONS:
            oldest = next(iter(self._unread))
            del self._unread[oldest], self._feeds[oldest]

    def _close_messages(self, record: Record) -> None:
        messages = self._open[record.session]
        if record.kind == _MESSAGE_ADDED:
            messages.pop(record.event.message_added.message.message_id, None)
        elif record.kind == _MESSAGE_DISCARDED:
            messages.pop(record.event.message_discarded.message_id, None)
        elif record.kind in _RUN_ENDS:
            for message in [m for m in messages.values() if m.run == record.run]:
                del messages[message.message_id]
        elif record.kind == _THREAD_DELETED:
            for message in [m for m in messages.values() if m.thread == record.thread]:
                del messages[message.message_id]
        if not messages:
            del self._open[record.session]

    def open_message(self, message: OpenMessage) -> None:
        self._open.setdefault(message.session, {})[message.message_id] = message

    def write(
        self, message: OpenMessage, index: int, text: str, kind: Delta.Kind.ValueType
    ) -> None:
        """Adds text to a message in the making."""
        message.blocks.setdefault(index, (kind, bytearray()))[1].extend(text.encode())
        feed = self._feeds.get(message.session)
        if feed is not None:
            feed.wake()

    def session_deleted(self, session: int) -> None:
        self._open.pop(session, None)
        self._unread.pop(session, None)
        feed = self._feeds.pop(session, None)
        if feed is not None:
            feed.deleted = True
            feed.wake()

    def drain(self) -> None:
        """Ends all streams: the server stops."""
        self.draining = True
        for feed in self._feeds.values():
            feed.wake()
        for watchers in self._watched.values():
            for watcher in watchers:
                watcher.set()

    # Readers

    @contextmanager
    def changes_of(self, run_id: str) -> Iterator[asyncio.Event]:
        """Gives an event that is set whenever a run stops running, or is asked to."""
        changed = asyncio.Event()
        watchers = self._watched.setdefault(run_id, set())
        watchers.add(changed)
        try:
            yield changed
        finally:
            watchers.discard(changed)
            if not watchers:
                self._watched.pop(run_id, None)

    def subscribe(self, session: int, reader: asyncio.Event) -> Feed:
        self.streams += 1
        feed = self._feeds.setdefault(session, Feed())
        self._unread.pop(session, None)
        feed.readers.add(reader)
        return feed

    def unsubscribe(self, session: int, feed: Feed, reader: asyncio.Event) -> None:
        self.streams -= 1
        feed.readers.discard(reader)
        if not feed.readers and self._feeds.get(session) is feed:
            feed.trim()
            self._keep_unread(session, feed)

    def open_messages(self, session: int) -> list[OpenMessage]:
        return list(self._open.get(session, {}).values())


@dataclass(slots=True)
class Batch:
    """What a reader got at one time: matching records in order, then deltas."""

    records: list[Record]
    deltas: list[Delta]
    through: int
    caught_up: bool
    """Whether this was all there is for now."""
    may_be_done: bool
    """Whether a run may have stopped running within this stretch of the log."""
    may_be_deleted: bool
    """Whether the thread may have been deleted within it."""


class SessionReader:
    """Reads one session's log from a cursor on, and goes live.

    Use as an async context manager, then iterate over `batches()`.
    """

    def __init__(
        self, store: Store, hub: Hub, session: int, wanted: EventFilter, *, after: int, deltas: bool
    ) -> None:
        self._store = store
        self._hub = hub
        self._session = session
        self._wanted = wanted
        self._cursor = after
        self._deltas = deltas
        self._sent: dict[tuple[str, int], int] = {}
        self._wake = asyncio.Event()

    async def __aenter__(self) -> SessionReader:
        self._feed = self._hub.subscribe(self._session, self._wake)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._hub.unsubscribe(self._session, self._feed, self._wake)

    @property
    def deleted(self) -> bool:
        return self._feed.deleted

    @property
    def cursor(self) -> int:
        """Up to where everything that matches was taken."""
        return self._cursor

    async def batches(self) -> AsyncIterator[Batch]:
        """Yields what there is, then whatever comes, and an empty batch when nothing does.

        Ends when the session is deleted or the server drains.
        """
        # The feed knows what passed since it was made, not what was there before.
        behind, announce = not self._feed.head, True
        while not (self._feed.deleted or self._hub.draining):
            batch = await (self._from_store() if behind else self._next())
            behind = behind and not batch.caught_up
            # At first nobody knows what was before the cursor.
            batch.may_be_done |= announce
            batch.may_be_deleted |= announce
            ends = batch.may_be_done or batch.may_be_deleted
            if announce or batch.records or batch.deltas or ends:
                yield batch
            announce = False
            if batch.caught_up and not self._wake.is_set():
                announce = await self._idle()

    async def _next(self) -> Batch:
        self._wake.clear()
        records = self._feed.after(self._cursor)
        if records is None:
            return await self._from_store()
        matching = [record for record in records if self._wanted.matches(record)]
        through = records[-1].sequence if records else self._cursor
        kinds = {record.kind for record in records}
        stopped, deleted = not kinds.isdisjoint(_RUN_ENDS), _THREAD_DELETED in kinds
        return self._batch(matching, through, self._take_deltas, stopped, deleted)

    async def _from_store(self) -> Batch:
        # Whatever is committed from here on wakes the reader.
        self._wake.clear()
        try:
            page, through = await self._store.read(self._page)
        except KeyError:
            self._feed.deleted = True
            return Batch([], [], self._cursor, True, may_be_done=True, may_be_deleted=True)
        # What the filter left out is not known.
        batch = self._batch(page, through, list, True, True)
        if batch.caught_up:
            # Messages in the making come next, also where nobody writes on just now.
            self._wake.set()
        return batch

    def _page(self, reader: Reader) -> tuple[list[Record], int]:
        """Reads a frame's worth, and up to which sequence that is all that matches."""
        head = reader.session(self._session).head
        found: list[Record] = []
        size = 0
        for record in reader.events(
            self._session, self._wanted, after=self._cursor, through=head, limit=FRAME_EVENTS + 1
        ):
            found.append(record.shown)
            size += len(record.data)
            # One more than fits tells that there is more.
            if size > FRAME_BYTES and len(found) > 1:
                break
        return found, max(head, self._cursor)

    def _batch(
        self,
        matching: list[Record],
        through: int,
        deltas: Callable[[], list[Delta]],
        may_be_done: bool,
        may_be_deleted: bool,
    ) -> Batch:
        fitting = _fitting(matching)
        if len(fitting) < len(matching):
            self._cursor = fitting[-1].sequence
            return Batch(fitting, [], self._cursor, False, may_be_done, may_be_deleted)
        self._cursor = through
        return Batch(fitting, deltas(), through, True, may_be_done, may_be_deleted)

    def _take_deltas(self) -> list[Delta]:
        if not self._deltas:
            return []
        deltas: list[Delta] = []
        room = FRAME_BYTES
        messages = self._hub.open_messages(self._session)
        for message in messages:
            if self._wanted.run in (None, message.run) and (
                self._wanted.thread in (None, message.thread)
            ):
                pieces = message.pieces(self._sent, room)
                room -= sum(len(piece.text) for piece in pieces)
                deltas += pieces
        if room < FRAME_BYTES // 2:
            # There may be more than fits into this frame.
            self._wake.set()
        if self._sent:
            writing = {message.message_id for message in messages}
            self._sent = {key: end for key, end in self._sent.items() if key[0] in writing}
        return deltas

    async def _idle(self) -> bool:
        """Waits for something to happen; returns whether nothing did for long."""
        try:
            async with asyncio.timeout(IDLE):
                await self._wake.wait()
        except TimeoutError:
            return True
        return False


def _fitting(records: list[Record]) -> list[Record]:
    """Returns as many of the first records as fit into a frame."""
    size = 0
    for count, record in enumerate(records):
        size += len(record.data)
        if count and (count == FRAME_EVENTS or size > FRAME_BYTES):
            return records[:count]
    return records


def frame(batch: Batch, run: Run | None = None, end: StreamEnd | None = None) -> bytes:
    """Serialises an EventFrame from records that already are."""
    rest = EventFrame(deltas=batch.deltas, through_sequence=batch.through, run=run, end=end)
    pieces = [part for record in batch.records for part in (record.head, record.data)]
    return b"".join([*pieces, rest.SerializeToString()])
