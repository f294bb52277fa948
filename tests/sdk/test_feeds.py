"""Frames over many connections come to each item once, in order."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from callboard._feeds import EventFeed, JobFeed
from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job, WatchJobsResponse
from callboard.v1.run_pb2 import Delta, EventFrame, Run, StreamEnd


def frame(*sequences: int, through: int = 0, **fields: object) -> EventFrame:
    events = [Event(sequence=sequence) for sequence in sequences]
    return EventFrame(events=events, through_sequence=through, **fields)  # type: ignore[arg-type]


def sequences(feed: EventFeed, frame: EventFrame) -> list[int]:
    return [item.sequence for item in feed.items(frame) if isinstance(item, Event)]


def test_the_cursor_follows_what_was_taken() -> None:
    feed = EventFeed(cursor=3)
    items = feed.items(frame(4, 6, through=9))
    cursors = [feed.cursor]
    for _ in items:
        cursors.append(feed.cursor)
    assert [*cursors, feed.cursor] == [3, 4, 6, 9]


def test_a_bookmark_moves_the_cursor_and_never_back() -> None:
    feed = EventFeed()
    assert sequences(feed, frame(through=7)) == []
    assert feed.cursor == 7
    assert sequences(feed, frame()) == []
    assert feed.cursor == 7


def test_what_was_read_is_not_read_again() -> None:
    feed = EventFeed()
    assert sequences(feed, frame(1, 2, through=2)) == [1, 2]
    assert sequences(feed, frame(1, 2, 3, through=3)) == [3]


def test_run_and_end() -> None:
    feed = EventFeed()
    draining = StreamEnd(reason=StreamEnd.REASON_SERVER_DRAINING)
    deleted = StreamEnd(reason=StreamEnd.REASON_DELETED)
    assert sequences(feed, frame(run=Run(run_id="r"), end=draining)) == []
    assert (feed.run, feed.end) == (Run(run_id="r"), None)
    assert sequences(feed, frame(end=deleted)) == []
    assert (feed.run, feed.end) == (Run(run_id="r"), deleted)


@st.composite
def cut_texts(draw: st.DrawFn) -> tuple[str, list[tuple[int, int]]]:
    """A text, and for several connections the pieces of it that were sent: from 0, without gaps."""
    text = draw(st.text(min_size=1, max_size=30))
    pieces: list[tuple[int, int]] = []
    for connection in range(draw(st.integers(1, 5))):
        last = connection == 4
        until = len(text) if last else draw(st.integers(0, len(text)))
        cuts = sorted({0, until, *draw(st.lists(st.integers(0, until), max_size=5))})
        pieces += pairwise(cuts)
    pieces.append((0, len(text)))
    return text, pieces


@given(cut_texts())
def test_no_text_is_repeated_or_lost(cut: tuple[str, list[tuple[int, int]]]) -> None:
    text, pieces = cut
    feed = EventFeed()
    got = ""
    for start, end in pieces:
        piece = text[start:end]
        delta = Delta(message_id="m", offset=len(text[:start].encode()), text=piece)
        for item in feed.items(EventFrame(deltas=[delta])):
            assert isinstance(item, Delta)
            assert item.offset == len(got.encode())
            got += item.text
            assert delta.text == piece
    assert got == text


def test_blocks_and_messages_are_apart() -> None:
    feed = EventFeed()
    deltas = [
        Delta(message_id=message, index=index, text="hello")
        for message in ("m", "n")
        for index in (0, 1)
    ]
    assert list(feed.items(EventFrame(deltas=deltas))) == deltas
    assert list(feed.items(EventFrame(deltas=deltas))) == []


def jobs(*ids: str, through: int = 0, snapshot: bool = False) -> WatchJobsResponse:
    return WatchJobsResponse(
        jobs=[Job(job_id=job_id) for job_id in ids], through_sequence=through, snapshot=snapshot
    )


def ids(items: Sequence[Job]) -> list[str]:
    return [job.job_id for job in items]


def test_a_snapshot_has_a_cursor_when_it_is_complete() -> None:
    feed = JobFeed()
    assert ids(list(feed.items(jobs("a", "b", snapshot=True)))) == ["a", "b"]
    assert feed.cursor is None
    assert ids(list(feed.items(jobs("c", through=9, snapshot=True)))) == ["c"]
    assert feed.cursor == 9


def test_changes_are_all_handed_out() -> None:
    feed = JobFeed(cursor=4)
    items = feed.items(jobs("a", "a", "b", through=8))
    assert next(items).job_id == "a"
    assert feed.cursor == 4
    assert ids(list(items)) == ["a", "b"]
    assert feed.cursor == 8
