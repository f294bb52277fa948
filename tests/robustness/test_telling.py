"""The validator of what supervisors are told finds what was done to a sound log."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from callboard.v1.event_pb2 import Event, JobNotify, RunTrigger
from callboard.v1.lifecycle_pb2 import RunState
from tests.robustness.telling import told_of_ends

HOME, JOB = "home", "job"
BOSS, FIRST, SECOND = "run-of-home", "run-a", "run-b"
CANCELLED, SUPERSEDED = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_SUPERSEDED
Doctor = Callable[[list[Event]], object]


def _event(thread: str, kind: str, run: str = "") -> Event:
    event = Event(thread_id=thread, run_id=run)
    getattr(event, kind).SetInParent()
    return event


def _created(run: str, trigger: RunTrigger.ValueType = RunTrigger.RUN_TRIGGER_JOB) -> Event:
    event = _event(JOB, "run_created", run)
    event.run_created.trigger = trigger
    return event


def _finished(run: str, state: RunState.ValueType = RunState.RUN_STATE_SUCCEEDED) -> Event:
    event = _event(JOB, "run_finished", run)
    event.run_finished.state = state
    return event


def _told(run: str) -> Event:
    event = _event(HOME, "notice_added")
    notice = event.notice_added.notice
    notice.job_id, notice.run_id, notice.state = JOB, run, RunState.RUN_STATE_SUCCEEDED
    return event


def _stopped(run: str, *, by_parent: bool) -> Event:
    event = _event(JOB, "run_cancel_requested", run)
    event.run_cancel_requested.by_parent = by_parent
    return event


def _awaited() -> Event:
    event = _event(HOME, "run_waiting", BOSS)
    event.run_waiting.waiting_for.ids.append(JOB)
    return event


def sound_log(notify: JobNotify.ValueType = JobNotify.JOB_NOTIFY_OUTCOME) -> list[Event]:
    """A job that is redirected, ends, and is followed up."""
    launched = _event(JOB, "job_launched")
    launched.job_launched.parent_thread_id, launched.job_launched.notify = HOME, notify
    return [
        *(launched, _created("run-0"), _created(FIRST), _finished("run-0", SUPERSEDED)),
        *(_finished(FIRST), _told(FIRST)),
        *(_created(SECOND), _finished(SECOND), _told(SECOND)),
    ]


def test_a_sound_log_has_no_problems() -> None:
    assert list(told_of_ends(sound_log())) == []
    quiet = sound_log(JobNotify.JOB_NOTIFY_NONE)
    assert list(told_of_ends([e for e in quiet if not e.HasField("notice_added")])) == []


@pytest.mark.parametrize(
    ("doctor", "problem"),
    [
        (lambda log: log.pop(), "run-b of job job its parent was told 0 times"),
        (lambda log: log.append(_told(FIRST)), "run-a of job job its parent was told 2 times"),
        (lambda log: log.insert(4, _stopped(FIRST, by_parent=True)), "had stopped it itself"),
        (lambda log: log.append(_told("run-0")), "was told, while another run went on"),
    ],
    ids=["forgotten", "repeated", "stopped", "superseded"],
)
def test_a_doctored_log_is_caught(doctor: Doctor, problem: str) -> None:
    log = sound_log()
    doctor(log)
    assert problem in "".join(told_of_ends(log))


def test_what_nobody_asked_for_is_caught() -> None:
    log = sound_log(JobNotify.JOB_NOTIFY_NONE)
    assert "its parent was told unasked" in "".join(told_of_ends(log))


def test_what_others_stopped_is_news() -> None:
    log = [*sound_log()[:2], _stopped("run-0", by_parent=False), _finished("run-0", CANCELLED)]
    assert "told 0 times" in "".join(told_of_ends(log))
    assert list(told_of_ends([*log, _told("run-0")])) == []


def test_what_a_run_waits_for_it_gets_to_know() -> None:
    *log, _ = sound_log()
    assert list(told_of_ends([_awaited(), *log])) == []
    resumed = _event(HOME, "run_queued", BOSS)
    assert "told 0 times" in "".join(told_of_ends([_awaited(), resumed, *log]))


def test_an_end_that_another_run_follows_at_once_is_none() -> None:
    *log, _ = sound_log()
    follower = _created("run-c", RunTrigger.RUN_TRIGGER_INBOX)
    follower.run_created.follows_run_id = SECOND
    assert list(told_of_ends([*log, follower])) == []
    follower.time.seconds = 1
    assert "run-b of job job its parent was told 0 times" in "".join(told_of_ends([*log, follower]))
    follower.time.seconds = 0
    ended = [*log, follower, _finished("run-c")]
    assert "run-c of job job its parent was told 0 times" in "".join(told_of_ends(ended))
