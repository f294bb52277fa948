"""Events as they are stored and sent."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from callboard.v1.event_pb2 import Event
from callboard.v1.run_pb2 import Delta, EventFrame, Run, StreamEnd
from callboard_server.engine.live import Batch, frame
from callboard_server.log.events import KINDS, kind_of, redacted
from callboard_server.log.records import Record, varint


def record_of(event: Event) -> Record:
    return Record(1, event.sequence, 1, None, kind_of(event), event.SerializeToString())


@st.composite
def events(draw: st.DrawFn) -> Event:
    event = Event(sequence=draw(st.integers(1, 2**62)), thread_id=draw(st.text(max_size=40)))
    event.custom.data_json = draw(st.text(max_size=300))
    return event


@given(value=st.integers(0, 2**64 - 1))
def test_a_varint_is_what_protobuf_writes(value: int) -> None:
    # Field 1 of this message is a varint: its tag is one byte.
    written = Event(sequence=value % 2**63).SerializeToString()[1:]
    assert varint(value % 2**63) == (written or b"\x00")


@given(
    found=st.lists(events(), max_size=5),
    text=st.text(min_size=1),
    through=st.integers(0, 2**62),
)
def test_a_spliced_frame_is_the_frame_that_protobuf_would_write(
    found: list[Event], text: str, through: int
) -> None:
    delta = Delta(message_id="m", text=text)
    end = StreamEnd(reason=StreamEnd.REASON_DONE)
    run = Run(run_id="r")
    batch = Batch(
        [record_of(event) for event in found],
        [delta],
        through,
        caught_up=True,
        may_be_done=False,
        may_be_deleted=False,
    )
    expected = EventFrame(events=found, deltas=[delta], through_sequence=through, run=run, end=end)
    assert EventFrame.FromString(frame(batch, run, end)) == expected


def test_every_payload_has_a_kind_of_the_same_number() -> None:
    from callboard.v1.event_pb2 import EventKind

    names = {name.removeprefix("EVENT_KIND_").lower(): n for name, n in EventKind.items() if n}
    assert names == KINDS


@given(event=events())
def test_a_redacted_event_keeps_its_place_and_nothing_that_was_said(event: Event) -> None:
    left = redacted(event)
    assert (left.sequence, left.thread_id, left.redacted) == (event.sequence, event.thread_id, True)
    assert left.WhichOneof("payload") is None
