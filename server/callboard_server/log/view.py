"""Views: the conversation of a thread as one of its runs sees it."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field

from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import Message, Role
from callboard_server.log.events import kinds
from callboard_server.log.fold import UNDOING_KINDS, Undone
from callboard_server.log.records import Record

VIEW_KINDS = UNDOING_KINDS | kinds("message_added", "run_created", "run_started", "run_finished")
"""The kinds of events from which a view is made."""


@dataclass(slots=True)
class View:
    """What a run sees."""

    messages: list[Message] = field(default_factory=list)
    """The conversation."""
    context_sequence: int = 0
    """The last event of the session that the view takes into account."""


def view_of(records: Iterable[Record], run: int, unstarted: Container[int], head: int) -> View:
    """Folds a thread's events into what one run sees.

    - A turn of the run's own assistant stands directly behind what it had seen, with the results of
      its tool calls: what arrived meanwhile comes after it. Everything else stands where it
      arrived.
    - The input of a run arrives when the run starts (or ends, if it never does): whoever worked
      before had not seen it. Inputs of runs that still wait for their start are left out.
    - Tool calls of other runs show only when they have all their results; with those of other
      assistants that is also when they arrive.

    Args:
        records: The thread's events of `VIEW_KINDS`, in order.
        run: Key of the run that looks.
        unstarted: Keys of runs that wait for their first start.
        head: The session's last sequence.
    """
    conversation = _Conversation(run)
    for record in records:
        conversation.apply(record)
    turns = conversation.turns(unstarted)
    messages = [message for turn in sorted(turns, key=lambda turn: turn.place) for message in turn]
    return View(messages, context_sequence=head)


@dataclass(slots=True)
class _Turn:
    """A message, and the results of the tool calls in it."""

    place: tuple[int, int, int]
    """Where it stands: behind which sequence, whether as an answer to it, and its own sequence."""
    message: Message
    run: int | None
    results: list[Message] = field(default_factory=list)

    def __iter__(self) -> Iterator[Message]:
        yield self.message
        yield from self.results

    @property
    def is_open(self) -> bool:
        """Whether a call in it has no result."""
        return len(_calls(self.message)) > sum(len(_results(each)) for each in self.results)


class _Conversation:
    """The messages of a thread, as they arrive."""

    def __init__(self, run: int) -> None:
        self._run = run
        self._assistants: dict[int, str] = {}
        self._arrivals: dict[int, int] = {}
        """When the input of each run arrived, by the run's key."""
        self._undone = Undone()
        self._events: list[tuple[Record, Event]] = []

    def apply(self, record: Record) -> None:
        event = record.event
        match event.WhichOneof("payload"):
            case "message_added":
                self._events.append((record, event))
            case "run_created" if record.run is not None:
                self._assistants[record.run] = event.run_created.assistant_id
            case "run_started" | "run_finished" if record.run is not None:
                self._arrivals.setdefault(record.run, record.sequence)
            case _:
                self._undone.apply(event)

    def turns(self, unstarted: Container[int]) -> list[_Turn]:
        """Returns what there is to see, in the order of the log."""
        turns: list[_Turn] = []
        callers: dict[tuple[int | None, str], _Turn] = {}
        for record, event in self._events:
            message = event.message_added.message
            if self._undone.holds(event) or (_is_input(event) and record.run in unstarted):
                continue
            answered = [callers.get((record.run, call)) for call in _results(message)]
            if answered and (turn := answered[0]) is not None:
                turn.results.append(message)
                if not self._is_own(record.run):
                    turn.place = (record.sequence, 0, turn.place[2])
                continue
            turn = _Turn(self._place(record, event), message, record.run)
            turns.append(turn)
            callers.update({(record.run, call): turn for call in _calls(message)})
        return [turn for turn in turns if turn.run == self._run or not turn.is_open]

    def _place(self, record: Record, event: Event) -> tuple[int, int, int]:
        seen = event.message_added.message.context_sequence
        if _is_input(event) and record.run is not None:
            # Input that STEER adds comes later than its run has started.
            arrival = max(record.sequence, self._arrivals.get(record.run, 0))
            return arrival, 0, record.sequence
        if seen and self._is_own(record.run):
            return seen, 1, record.sequence
        return record.sequence, 0, record.sequence

    def _is_own(self, run: int | None) -> bool:
        if run is None:
            return False
        own = self._assistants.get(self._run)
        return run == self._run or (own is not None and self._assistants.get(run) == own)


def _is_input(event: Event) -> bool:
    """Whether a message was given to its run, rather than written by it."""
    return event.claim_epoch == 0


def _calls(message: Message) -> list[str]:
    if message.role != Role.ROLE_ASSISTANT:
        return []
    return [b.tool_call.tool_call_id for b in message.content if b.HasField("tool_call")]


def _results(message: Message) -> list[str]:
    return [b.tool_result.tool_call_id for b in message.content if b.HasField("tool_result")]
