"""The conversation of a thread in turns: messages, each with the results of its tool calls."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import ContentBlock, Message, Role
from callboard_server.log.events import kinds
from callboard_server.log.exchanges import calls_in
from callboard_server.log.fold import UNDOING_KINDS, Undone

CONVERSATION_KINDS = UNDOING_KINDS | kinds(
    "message_added",
    "run_created",
    "run_started",
    "run_finished",
    "context_compacted",
    "notices_read",
)
"""The kinds of events from which a conversation is made."""


_ASSISTANT = Role.ROLE_ASSISTANT


@dataclass(slots=True)
class Life:
    """What the conversation tells of a run."""

    assistant_id: str = ""
    arrival: int = 0
    """The event with which its input arrived: its first start, or its end if it never started."""
    end: int = 0
    """The event with which it ended; 0 while it is not over."""


@dataclass(slots=True)
class Result:
    """What a tool call came to."""

    event: Event
    message: Message
    """A message of its own, also where it came in one with others."""

    @property
    def call_id(self) -> str:
        return self.message.content[0].tool_result.tool_call_id


class Turn:
    """A message, and the results of the tool calls in it.

    Args:
        event: What added it.
        message: The message without the results that came with it: those stand with their calls.
        results: The results of its calls.
    """

    __slots__ = ("calls", "event", "is_said_by_agent", "message", "results", "run_id", "sequence")

    def __init__(self, event: Event, message: Message, results: Iterable[Result] = ()) -> None:
        self.event = event
        self.message = message
        self.results = list(results)
        self.run_id = event.run_id
        self.sequence = event.sequence
        self.is_said_by_agent = message.role == _ASSISTANT
        self.calls = frozenset(call.tool_call_id for call in calls_in(message))

    def with_results(self, results: Iterable[Result]) -> Turn:
        """Returns the same turn with other results."""
        return Turn(self.event, self.message, results)

    @property
    def is_input(self) -> bool:
        """Whether a run was given it, rather than wrote it."""
        return bool(self.run_id) and not self.event.claim_epoch

    @property
    def is_written(self) -> bool:
        """Whether a run wrote it."""
        return self.event.claim_epoch > 0

    @property
    def is_answer(self) -> bool:
        """Whether a model (or a function that says so) wrote it."""
        return self.is_said_by_agent and self.message.context_sequence > 0

    @property
    def is_instruction(self) -> bool:
        """Whether a run told its own assistant what to do."""
        return self.is_written and self.message.role == Role.ROLE_SYSTEM

    @property
    def is_open(self) -> bool:
        """Whether a call in it has no result."""
        return bool(self.calls) and not self.calls <= {each.call_id for each in self.results}

    @property
    def end(self) -> int:
        """The last event of it."""
        return max([self.sequence, *(each.event.sequence for each in self.results)])


class Conversation:
    """What was said on a thread, one event at a time."""

    def __init__(self) -> None:
        self.through = 0
        """The last event that was applied."""
        self._lives: defaultdict[str, Life] = defaultdict(Life)
        self._turns: list[Turn] = []
        self._callers: defaultdict[str, list[Turn]] = defaultdict(list)
        """The turns with a call of an id."""
        self._undone = Undone()
        self._summaries: list[Event] = []
        self._readings: list[Event] = []

    def apply(self, event: Event) -> None:
        """Applies an event of `CONVERSATION_KINDS`; one that was applied before changes nothing."""
        if event.sequence <= self.through:
            return
        self.through = event.sequence
        match event.WhichOneof("payload"):
            case "message_added":
                self._add(event)
            case "run_created":
                self._lives[event.run_id].assistant_id = event.run_created.assistant_id
            case "run_started" | "run_finished":
                self._live(event)
            case "context_compacted":
                self._summaries.append(event)
            case "notices_read":
                self._readings.append(event)
            case _:
                self._undone.apply(event)

    def _live(self, event: Event) -> None:
        life = self._lives[event.run_id]
        life.arrival = life.arrival or event.sequence
        if event.HasField("run_finished"):
            life.end = event.sequence

    def _add(self, event: Event) -> None:
        message = event.message_added.message
        results = [block for block in message.content if block.HasField("tool_result")]
        for block in results:
            caller = self._caller(event.run_id, block.tool_result.tool_call_id)
            # A result whose call is not there any more says nothing to anybody.
            if caller is not None:
                caller.results.append(Result(event, _alone(message, block)))
        if results:
            message = _without_results(message)
        if message.content or not results:
            turn = Turn(event, message)
            self._turns.append(turn)
            for call_id in turn.calls:
                self._callers[call_id].append(turn)

    def _caller(self, run_id: str, call_id: str) -> Turn | None:
        """Returns the turn that made a call: one of the same run, where several used the id."""
        callers = self._callers.get(call_id, [])
        own = [turn for turn in callers if turn.run_id == run_id]
        return next(reversed(own or callers), None)

    def life(self, run_id: str) -> Life:
        """Returns what is known of a run; nothing where there is none."""
        return self._lives[run_id] if run_id else Life()

    def turns(self) -> Iterator[Turn]:
        """Yields what was not taken back, in the order of the log."""
        for turn in self._turns:
            if not self._undone.holds(turn.event):
                yield self._standing(turn) if turn.results else turn

    def _standing(self, turn: Turn) -> Turn:
        """Returns a turn with the first result of each call of those that were not taken back."""
        first: dict[str, Result] = {}
        for result in turn.results:
            if not self._undone.holds(result.event):
                first.setdefault(result.call_id, result)
        return turn if len(first) == len(turn.results) else turn.with_results(first.values())

    def is_over(self, turn: Turn, at: int) -> bool:
        """Whether the run that wrote a turn was over at an event, where a run wrote it."""
        return not turn.is_written or 0 < self.life(turn.run_id).end <= at

    def summary_for(self, assistant_id: str) -> Event | None:
        """Returns the last summary that an assistant starts from, if there is one.

        Args:
            assistant_id: The assistant; empty for whichever wrote the last one.
        """
        for event in reversed(self._summaries):
            whose = event.context_compacted.assistant_id
            is_meant = not assistant_id or whose in ("", assistant_id)
            if is_meant and not self._undone.holds(event):
                return event
        return None

    @property
    def beginning(self) -> Event | None:
        """The summary with which the thread begins: of what was said on another one."""
        first = next(iter(self._summaries), None)
        if first is None or (self._turns and self._turns[0].sequence < first.sequence):
            return None
        return first

    def notices_read(self, before: int) -> set[str]:
        """Returns the notices that had been read before an event."""
        return {
            notice
            for event in self._readings
            if event.sequence < before and not self._undone.holds(event)
            for notice in event.notices_read.notice_ids
        }


def _alone(message: Message, block: ContentBlock) -> Message:
    """Returns a message with one result of those that a message brings."""
    if message.role == Role.ROLE_TOOL and len(message.content) == 1:
        return message
    alone = Message(role=Role.ROLE_TOOL, content=[block])
    for name in ("message_id", "author", "run_id"):
        setattr(alone, name, getattr(message, name))
    return alone


def _without_results(message: Message) -> Message:
    rest = Message()
    rest.CopyFrom(message)
    del rest.content[:]
    if message.role != Role.ROLE_TOOL:
        rest.content.extend(b for b in message.content if not b.HasField("tool_result"))
    return rest
