"""Each validator finds what was done to a sound history."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, RunState
from callboard.v1.message_pb2 import Role
from callboard.v1.run_pb2 import Delta, EventFrame
from tests.robustness import validators
from tests.robustness.validators import Effect, Input

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


# What was done, asked and taken


def _step(sequence: int, epoch: int) -> Event:
    event = _event(sequence, "step_recorded", A, epoch)
    event.step_recorded.name, event.step_recorded.occurrence = "work", 1
    event.step_recorded.parents.append("gather#1")
    return event


def _tool_log(*, idempotent: bool = False) -> list[Event]:
    """A call, its start in claim 1, and its result in claim 2."""
    asked, started, answered = (_event(n, "custom", A, 1 + (n == 3)) for n in (1, 2, 3))
    asked.message_added.message.role = Role.ROLE_ASSISTANT
    asked.message_added.message.content.add().tool_call.tool_call_id = "call"
    started.tool_started.call.tool_call_id = "call"
    started.tool_started.call.name = "look"
    started.tool_started.call.arguments_json = '{"at": 1}'
    started.tool_started.idempotent = idempotent
    answered.message_added.message.role = Role.ROLE_TOOL
    answered.message_added.message.content.add().tool_result.tool_call_id = "call"
    return [asked, started, answered]


def _did(work: str, *epochs: int) -> list[Effect]:
    return [Effect(A, epoch, work) for epoch in epochs]


STEP, TOOL = "step gather#1/work#1", 'tool look {"at": 1}'


def test_work_that_is_done_again_is_caught() -> None:
    log = [_step(1, 2)]
    assert list(validators.done_once(log, _did(STEP, 1, 2))) == []
    assert "done again in claim 3" in "".join(validators.done_once(log, _did(STEP, 2, 3)))
    assert "was done 2 times" in "".join(validators.done_once(log, _did(STEP, 2, 2)))
    assert "which did not do it" in "".join(validators.done_once(log, _did(STEP, 1)))
    again = [*log, _step(2, 3)]
    assert "done again in claim 3" in "".join(validators.done_once(again, _did(STEP, 2, 3)))


def test_a_tool_that_runs_unannounced_or_again_is_caught() -> None:
    log = _tool_log(idempotent=True)
    assert list(validators.done_once(log, _did(TOOL, 1, 2))) == []
    assert "done again" in "".join(validators.done_once(log, _did(TOOL, 1, 2, 3)))
    assert "not announced" in "".join(validators.done_once(log[:1], _did(TOOL, 1)))


def test_a_tool_that_is_started_twice_is_caught() -> None:
    asked, started, answered = _tool_log()
    assert list(validators.started_once([asked, started, answered])) == []
    twice = [asked, started, started, answered]
    assert "started, or has a result, 2 times" in "".join(validators.started_once(twice))
    assert "started, or has a result, 2 times" in "".join(
        validators.started_once([asked, started, answered, answered])
    )
    assert "calls were open" in "".join(validators.started_once([asked, asked]))


def _action_log() -> list[Event]:
    raised, answered = _event(1, "custom", A, 1), _event(2, "custom", A, 1)
    raised.action_raised.action.action_id = "action"
    answered.action_answered.response.action_id = "action"
    return [raised, answered, _event(3, "run_finished", A, 1)]


def test_a_notice_that_comes_twice_or_without_words_or_is_read_before_is_caught() -> None:
    told, said, read = (_event(number, "custom") for number in (1, 2, 3))
    told.notice_added.notice.notice_id, told.notice_added.notice.run_id = "notice", A
    said.message_added.message.notice_id = "notice"
    read.notices_read.notice_ids.append("notice")
    assert list(validators.told_once([told, said, read])) == []
    assert "told before" in "".join(validators.told_once([told, said, told]))
    assert "has no message" in "".join(validators.told_once([told]))
    assert "not told before" in "".join(validators.told_once([said, read, told]))


def test_an_action_that_is_raised_or_ended_twice_or_never_ends_is_caught() -> None:
    raised, answered, finished = _action_log()
    assert list(validators.asked_once([raised, answered, finished])) == []
    assert "raised twice" in "".join(validators.asked_once([raised, answered, raised]))
    assert "was not open" in "".join(validators.asked_once([raised, answered, answered]))
    assert "left action action open" in "".join(validators.asked_once([raised, finished]))


def test_runs_side_by_side_are_caught_unless_they_may() -> None:
    log = [_event(n, "run_created", run) for n, run in ((1, A), (2, B))]
    log += [_event(n, "run_started", run, 1) for n, run in ((3, A), (4, B))]
    assert "started while run-a" in "".join(validators.fenced(log))
    log[1].run_created.multitask_strategy = MultitaskStrategy.MULTITASK_STRATEGY_CONCURRENT
    assert list(validators.fenced(log)) == []


def test_a_claim_of_a_server_that_lost_its_file_is_caught() -> None:
    log = sound_log()
    log[3].run_started.worker_id = log[7].run_started.worker_id = "first"
    assert list(validators.started_by(log, {"first": 8})) == []
    assert "event 8 is a claim of first" in "".join(validators.started_by(log, {"first": 7}))


def _said(text: str, thread: str = THREAD, run: str = A) -> Event:
    event = Event(thread_id=thread, run_id=run)
    event.message_added.message.role = Role.ROLE_USER
    event.message_added.message.content.add().text.text = text
    return event


def test_what_was_taken_and_is_not_there_or_is_there_twice_is_caught() -> None:
    logs = [[_said("one")], [_said("two", "other", B)]]
    taken = [Input("one", THREAD, A), Input("two", "other", B)]
    assert list(validators.acknowledged(logs, taken)) == []
    assert list(validators.taken_once(logs)) == []
    assert "is not in the log" in "".join(validators.acknowledged(logs[:1], taken))
    moved = [Input("one", THREAD, B)]
    assert "'one' was taken for run run-b" in "".join(validators.acknowledged(logs, moved))
    assert list(validators.taken_once([*logs, logs[0]])) == ["'one' was taken 2 times"]


def test_what_was_refused_or_deleted_and_is_there_is_caught() -> None:
    logs = [[_said("one")]]
    assert list(validators.left_out(logs, ["two"], ["other"])) == []
    assert "was refused and is" in "".join(validators.left_out(logs, ["one"], []))
    assert "was deleted and is there" in "".join(validators.left_out(logs, [], [THREAD]))


def test_a_watch_that_goes_back_is_caught() -> None:
    over = RunState.RUN_STATE_SUCCEEDED
    before, after = Job(sequence=3, run_id=A), Job(sequence=5, run_id=A, state=over)
    assert list(validators.jobs_in_order([before, after])) == []
    assert "as of 3 after 5" in "".join(validators.jobs_in_order([after, before]))
    undone = Job(sequence=6, run_id=A, state=RunState.RUN_STATE_RUNNING)
    assert "was over and came as RUN" in "".join(validators.jobs_in_order([after, undone]))
    redirected = Job(sequence=6, run_id=B, state=RunState.RUN_STATE_RUNNING)
    assert list(validators.jobs_in_order([after, redirected])) == []


def test_a_message_that_is_not_what_was_streamed_is_caught() -> None:
    event = Event()
    event.message_added.message.message_id = "m"
    event.message_added.message.content.add().text.text = "whole words"
    pieces = [Delta(message_id="m", kind=Delta.KIND_TEXT, text=text) for text in ("whole", " wo")]
    assert list(validators.replaced([event], pieces)) == []
    assert "streamed otherwise" in "".join(validators.replaced([event], pieces[::-1]))
