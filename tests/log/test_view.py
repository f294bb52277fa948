"""The conversation as a run sees it."""

from __future__ import annotations

from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import Message, Role
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

    def create(self, run: int, assistant: str) -> None:
        event = Event()
        event.run_created.assistant_id = assistant
        self.add(run, event, 0)

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


def turn(log: Log, run: int, seen: int, *, calls: str = "", text: str = "") -> None:
    event = Event()
    message = event.message_added.message
    message.role, message.context_sequence = Role.ROLE_ASSISTANT, seen
    message.content.add().text.text = text or f"turn of {run}"
    if calls:
        message.content.add().tool_call.tool_call_id = calls
    log.add(run, event, 1)


def result(log: Log, run: int, call: str) -> None:
    event = Event()
    event.message_added.message.role = Role.ROLE_TOOL
    answer = event.message_added.message.content.add().tool_result
    answer.tool_call_id, answer.text = call, f"result of {call}"
    log.add(run, event, 1)


def waiting_log() -> Log:
    """The first run asks for a tool and waits; the second one of another assistant runs."""
    log = Log()
    log.create(FIRST, "proxy")
    log.say(FIRST, "question 1")
    log.start(FIRST)
    turn(log, FIRST, 3, calls="c")
    log.create(SECOND, "expert")
    log.say(SECOND, "question 2")
    log.start(SECOND)
    turn(log, SECOND, 7)
    return log


def test_a_result_stands_behind_its_call_and_what_arrived_meanwhile_after_it() -> None:
    log = waiting_log()
    result(log, FIRST, "c")
    conversation = ["question 1", "turn of 1", "result of c", "question 2", "turn of 2"]
    view = view_of(log.records, FIRST, set(), len(log.records))
    assert [_shown(message) for message in view.messages] == conversation


def test_an_open_call_is_hidden_from_other_runs() -> None:
    assert waiting_log().seen_by(SECOND) == ["question 1", "question 2", "turn of 2"]


def test_an_exchange_of_another_assistant_arrives_when_it_is_complete() -> None:
    log = waiting_log()
    before = log.seen_by(SECOND)
    result(log, FIRST, "c")
    after = view_of(log.records, SECOND, set(), len(log.records))
    shown = [_shown(message) for message in after.messages]
    assert shown == [*before, "turn of 1", "result of c"]


def test_input_that_arrives_during_a_turn_stands_behind_it() -> None:
    log = Log()
    log.say(FIRST, "question")
    log.start(FIRST)
    log.say(FIRST, "steered", 0)
    turn(log, FIRST, 2)
    assert log.seen_by(FIRST) == ["question", "turn of 1", "steered"]


def test_what_a_rolled_back_run_wrote_is_not_seen() -> None:
    log = Log()
    log.say(FIRST, "question 1")
    log.start(FIRST)
    turn(log, FIRST, 2)
    event = Event()
    event.runs_rolled_back.run_ids.append(str(FIRST))
    log.add(None, event, 0)
    log.say(SECOND, "question 2")
    log.start(SECOND)
    assert log.seen_by(SECOND) == ["question 2"]


def _shown(message: Message) -> str:
    block = message.content[0]
    return block.text.text or block.tool_result.text
