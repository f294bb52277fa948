"""The conversation as a run sees it."""

from __future__ import annotations

from callboard.v1.event_pb2 import Event
from callboard_server.log.events import kind_of
from callboard_server.log.records import Record
from callboard_server.log.view import View, view_of

FIRST, SECOND = 1, 2


class Log:
    """A thread's log in the making."""

    def __init__(self) -> None:
        self.records: list[Record] = []

    def add(self, run: int | None, event: Event, epoch: int) -> None:
        event.sequence = len(self.records) + 1
        event.run_id = str(run or "")
        event.claim_epoch = epoch
        data = event.SerializeToString()
        self.records.append(Record(1, event.sequence, 1, run, kind_of(event), data))

    def say(self, run: int | None, text: str, epoch: int = 0) -> None:
        event = Event()
        event.message_added.message.content.add().text.text = text
        self.add(run, event, epoch)

    def start(self, run: int, epoch: int = 1) -> None:
        event = Event()
        event.run_started.worker_id = "w"
        self.add(run, event, epoch)

    def finish(self, run: int, epoch: int = 1) -> None:
        event = Event()
        event.run_finished.SetInParent()
        self.add(run, event, epoch)

    def seen_by(self, run: int, unstarted: set[int] | None = None) -> list[str]:
        return texts(view_of(self.records, run, unstarted or set(), len(self.records)))


def texts(view: View) -> list[str]:
    return [message.content[0].text.text for message in view.messages]


def test_input_that_waits_for_its_run_is_not_seen_by_the_one_at_work() -> None:
    log = Log()
    log.say(FIRST, "question 1")
    log.start(FIRST)
    log.say(SECOND, "question 2")
    assert log.seen_by(FIRST, unstarted={SECOND}) == ["question 1"]


def test_input_stands_where_its_run_started() -> None:
    log = Log()
    log.say(FIRST, "question 1")
    log.start(FIRST)
    log.say(SECOND, "question 2")
    log.say(FIRST, "answer 1", epoch=1)
    log.finish(FIRST)
    log.start(SECOND)
    assert log.seen_by(SECOND) == ["question 1", "answer 1", "question 2"]


def test_input_of_a_run_that_never_started_is_kept() -> None:
    log = Log()
    log.say(FIRST, "superseded")
    log.finish(FIRST, epoch=0)
    log.say(SECOND, "question")
    log.start(SECOND)
    assert log.seen_by(SECOND) == ["superseded", "question"]


def test_messages_without_a_run_stand_where_they_were_added() -> None:
    log = Log()
    log.say(None, "imported")
    log.say(FIRST, "question")
    log.start(FIRST)
    log.say(None, "remark")
    assert log.seen_by(FIRST) == ["imported", "question", "remark"]


def test_a_run_that_starts_again_sees_its_input_once() -> None:
    log = Log()
    log.say(FIRST, "question")
    log.start(FIRST, epoch=1)
    log.say(FIRST, "half", epoch=1)
    log.start(FIRST, epoch=2)
    assert log.seen_by(FIRST) == ["question", "half"]


def test_what_a_voided_claim_wrote_is_not_seen() -> None:
    log = Log()
    log.say(FIRST, "question")
    log.start(FIRST, epoch=1)
    log.say(FIRST, "half", epoch=1)
    log.start(FIRST, epoch=2)
    voided = Event()
    voided.claim_voided.claim_epoch = 1
    log.add(FIRST, voided, 2)
    assert log.seen_by(FIRST) == ["question"]


def test_tools_and_steps_are_those_of_the_run_itself() -> None:
    log = Log()
    for run in (FIRST, SECOND):
        started = Event()
        started.tool_started.call.tool_call_id = f"call of {run}"
        log.add(run, started, 1)
        recorded = Event()
        recorded.step_recorded.name, recorded.step_recorded.occurrence = f"step of {run}", 1
        log.add(run, recorded, 1)
    view = view_of(log.records, FIRST, set(), 4)
    assert list(view.tools_started) == ["call of 1"]
    assert list(view.steps) == [((), "step of 1", 1)]
