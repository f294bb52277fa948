"""Each validator finds what was done to a sound history."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Delta, EventFrame
from tests.robustness import validators

THREAD, A, B = "thread", "run-a", "run-b"


def _event(sequence: int, kind: str, run: str = "", epoch: int = 0) -> Event:
    time = Timestamp(seconds=1 if sequence <= 3 else sequence)
    event = Event(
        sequence=sequence, thread_id=THREAD, run_id=run, claim_epoch=epoch, attempt=1, time=time
    )
    getattr(event, kind).SetInParent()
    if kind == "run_finished":
        event.run_finished.state = RunState.RUN_STATE_SUCCEEDED
    return event


def sound_log() -> list[Event]:
    return [
        _event(1, "thread_created"),
        _event(2, "job_launched"),
        _event(3, "run_created", A),
        _event(4, "run_started", A, 1),
        _event(5, "run_created", B),
        _event(6, "run_progress", A, 1),
        _event(7, "run_queued", A, 1),
        _event(8, "run_started", A, 2),
        _event(9, "run_finished", A, 2),
        _event(10, "run_started", B, 1),
        _event(11, "run_finished", B, 1),
    ]


def frames_of(log: list[Event], *lengths: int) -> list[EventFrame]:
    frames = []
    for length in lengths:
        part, log = log[:length], log[length:]
        frames.append(EventFrame(events=part, through_sequence=part[-1].sequence))
    return frames


def sound_frames() -> list[EventFrame]:
    return frames_of(sound_log(), 4, 4, 3)


def test_a_sound_history_has_no_problems() -> None:
    log, frames = sound_log(), sound_frames()
    assert validators.check_log(log) == []
    assert validators.check_reading(log, frames) == []
    assert list(validators.resumable(log, [frames[:1], frames[1:]])) == []
    assert validators.check_reading(log, frames[:2], complete=False) == []


def _move(log: list[Event], origin: int, target: int) -> list[Event]:
    moved = list(log)
    moved.insert(target, moved.pop(origin))
    for sequence, event in enumerate(moved, start=1):
        event.sequence = sequence
    return moved


Doctor = Callable[[list[Event]], list[Event]]


def _with_epoch(position: int, epoch: int) -> Doctor:
    def change(log: list[Event]) -> list[Event]:
        log[position].claim_epoch = epoch
        return log

    return change


@pytest.mark.parametrize(
    ("validator", "doctor", "problem"),
    [
        (validators.without_holes, lambda log: log[:5] + log[6:], "event 6 of the log"),
        (validators.without_holes, lambda log: log[1:], "event 1 of the log"),
        (validators.terminal_last, lambda log: log[:-1], "run run-b has no end"),
        (validators.terminal_last, lambda log: _move(log, 8, 7), "has run_started"),
        (validators.terminal_last, lambda log: [*log, log[8]], "ended at 9 and has run_finished"),
        (validators.fenced, lambda log: _move(log, 9, 8), "started while run-a"),
        (validators.fenced, _with_epoch(5, 0), "has epoch 0, not 1"),
        (validators.fenced, _with_epoch(7, 1), "claimed with epoch 1 after 1"),
        (validators.fenced, lambda log: _move(log, 5, 6), "was not at work"),
    ],
)
def test_a_doctored_log_is_caught(
    validator: Callable[[list[Event]], Iterable[str]], doctor: Doctor, problem: str
) -> None:
    assert any(problem in found for found in validator(doctor(sound_log())))


def test_a_state_that_is_no_end_is_caught() -> None:
    log = sound_log()
    log[8].run_finished.state = RunState.RUN_STATE_RUNNING
    assert "no end" in "".join(validators.terminal_last(log))


def test_events_out_of_order_are_caught() -> None:
    seen = sound_log()
    assert list(validators.ordered(seen)) == []
    assert list(validators.ordered([*seen[1:], seen[0]])) == ["event 1 came after 11"]


def test_a_repeated_event_is_caught() -> None:
    seen = sound_log()
    assert list(validators.unique(seen)) == []
    assert list(validators.unique([*seen, seen[3]])) == ["event 4 came twice"]


def test_a_lost_or_foreign_event_is_caught() -> None:
    log = sound_log()
    assert list(validators.reliable(log, log[:4] + log[5:])) == ["event 5 never came"]
    assert list(validators.reliable(log, log, after=1)) == ["event 1 came unasked"]
    assert list(validators.reliable(log, log[:4], through=4)) == []


def test_an_event_that_a_crash_took_back_is_caught() -> None:
    log = sound_log()
    assert list(validators.durable(log[:-1], log)) == ["event 11 was seen and is not in the log"]
    changed = sound_log()
    changed[3].attempt = 9
    assert "otherwise" in "".join(validators.durable(log, changed))


def test_a_launch_in_pieces_is_caught() -> None:
    log = sound_log()
    log[2].time.seconds = 7
    assert list(validators.atomic(log)) == ["the launch at 2 is not whole"]


def test_a_reading_that_repeats_or_skips_after_its_cursor_is_caught() -> None:
    log = sound_log()
    one, two, three = sound_frames()
    assert "came again" in "".join(validators.resumable(log, [[one], [one, two], [three]]))
    assert "never came" in "".join(validators.resumable(log, [[one], [three]]))


def test_a_bookmark_that_is_wrong_is_caught() -> None:
    log = sound_log()
    early = sound_frames()
    early[0].through_sequence = 6
    assert "5 was not sent" in "".join(validators.bookmarkable(log, early))
    late = sound_frames()
    late[1].through_sequence = 7
    assert "says 7 and holds 8" in "".join(validators.bookmarkable(log, late))
    back = [*sound_frames(), EventFrame(through_sequence=2)]
    assert "goes back from 11 to 2" in "".join(validators.bookmarkable(log, back))


def test_a_gap_between_deltas_is_caught() -> None:
    pieces = [Delta(message_id="m", offset=0, text="né"), Delta(message_id="m", offset=3, text="e")]
    assert list(validators.gapless(pieces)) == []
    pieces[1].offset = 2
    assert "goes on at 2, not 3" in "".join(validators.gapless(pieces))
    assert "goes on at 2, not 0" in "".join(validators.gapless(pieces[1:]))
