"""Views: the conversation of a thread as one of its assistants sees it.

The log is shared, and a view of it is a pure function of the log, the run that looks and its
assistant. Whatever was in the view of a model call is at the same place in the next one of the same
assistant, and what is new stands behind it. Only a rollback, a summary and runs of one assistant
that overlap change what was there.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from callboard.v1.message_pb2 import Message
from callboard_server.log import voices
from callboard_server.log.conversation import Conversation, Life, Turn

_NEVER = 2**63

Others = Literal["final", "full"]
"""What is seen of other agents' runs: their last answer, or all turns with their tool exchanges."""


class Viewer(NamedTuple):
    """Who looks."""

    run_id: str
    assistant_id: str
    name: str
    """The assistant's name, which signs its messages."""


class Cut(NamedTuple):
    """A place of a view before which a summary may stand for everything."""

    messages: int
    """How many of the view's messages stand before it."""
    through: int
    """The last event of those; those behind it have only later ones."""


Place = tuple[int, int]
"""Behind which event something stands, and whether as an answer to it."""


@dataclass(slots=True)
class Seat:
    """A turn in its place."""

    place: Place
    turn: Turn
    is_own: bool
    is_needed: bool
    """Whether a run goes on from it, so that it must not be summarised."""
    heard: Sequence[Message] = ()
    """What a model is sent of it."""

    @property
    def whole(self) -> list[Message]:
        return [self.turn.message, *(each.message for each in self.turn.results)]

    @property
    def end(self) -> int:
        """The last event that had to be there for it."""
        behind, is_answer = self.place
        return self.turn.end if is_answer else max(self.turn.end, behind)

    def is_unread(self, read: Container[str]) -> bool:
        """Whether it is a notice, and not one of those that were read."""
        notice = self.turn.message.notice_id
        return bool(notice) and notice not in read


class Inheritance(NamedTuple):
    """What another thread takes over of a conversation."""

    summary: Message | None
    """What stands for all that was before the messages; None where they are everything."""
    messages: list[Message]


@dataclass(slots=True)
class View:
    """What a model is sent."""

    messages: list[Message] = field(default_factory=list)
    """Turns of the assistant that looks have the role ASSISTANT, results of its tool calls TOOL,
    everything else USER or SYSTEM."""
    context_sequence: int = 0
    """The last event of the session that the view takes into account."""
    summary_sequence: int = 0
    """The event of the summary with which it begins; 0 where it has the whole conversation."""
    summarised_answers: int = 0
    """How many of the run's own answers are in the summary only."""
    summarised_through: int = 0
    """The last event that the summary stands for."""
    seats: Sequence[Seat] = ()
    """The turns of which it is made."""

    def cuts(self) -> Iterator[Cut]:
        """Yields where a summary may end, in order."""
        least_ends = [_NEVER]
        for seat in reversed(self.seats):
            least_ends.append(min(least_ends[-1], seat.end))
        before = len(self.messages) - sum(len(seat.heard) for seat in self.seats)
        through = self.summarised_through
        for seat, least_behind in zip(self.seats, least_ends[-2::-1], strict=True):
            if seat.is_needed:
                return
            before += len(seat.heard)
            through = max(through, seat.end)
            if through < least_behind:
                yield Cut(before, through)


def view_of(
    conversation: Conversation, viewer: Viewer, head: int, others: Others = "final"
) -> View:
    """Returns what a model is sent of a conversation in a run.

    - A turn of the run's own assistant stands directly behind what it had seen, with the results of
      its tool calls: what arrived meanwhile comes after it. Everything else stands where it
      arrived.
    - The input of a run arrives when the run starts (or ends, if it never does): whoever worked
      before had not seen it.
    - Of a run of another assistant the last answer shows, and arrives when the run ends. With
      "full" every turn shows, and arrives when all its tool calls have results.
    - A summary stands for what was over at its event, but for notices that were unread then.

    Args:
        conversation: The thread's conversation.
        viewer: Who looks.
        head: The session's last sequence.
        others: What shows of other assistants.
    """
    view = View(context_sequence=max(head, conversation.through))
    seats = [seat for seat in _Seating(conversation, viewer, others).seats() if seat.heard]
    summary = conversation.summary_for(viewer.assistant_id)
    if summary is not None:
        view.summary_sequence = summary.sequence
        heard = voices.summarised(summary.context_compacted.summary)
        view.messages = [heard] if heard else []
        view.summarised_through = through = summary.context_compacted.through_sequence
        answers = [seat for seat in seats if seat.turn.is_answer and seat.end <= through]
        view.summarised_answers = sum(seat.turn.run_id == viewer.run_id for seat in answers)
        read = conversation.notices_read(before=summary.sequence)
        seats = [seat for seat in seats if seat.end > through or seat.is_unread(read)]
    view.seats = seats
    view.messages += [message for seat in seats for message in seat.heard]
    return view


def messages_of(conversation: Conversation, viewer: Viewer) -> list[Message]:
    """Returns all messages in the order of a view, as they are in the log.

    What other assistants think, and their tool calls that have no result yet, are left out. A
    summary shows where it stands for what is not on the thread.
    """
    seats = _Seating(conversation, viewer, None).seats()
    messages = [_copy(each, seat.is_own) for seat in seats for each in seat.whole]
    begin = conversation.beginning
    heard = voices.summarised(begin.context_compacted.summary) if begin is not None else None
    return [heard, *messages] if heard is not None else messages


def inheritance_of(conversation: Conversation, viewer: Viewer) -> Inheritance:
    """Returns what another thread takes over of a conversation, as one of its assistants sees it.

    That is the assistant's view, with the turns of all and their tool exchanges in it: whoever
    reads it on the other thread sees no more of others than is for others. What is nobody else's is
    left out: what assistants think and are told by themselves, and tool calls that have no result.

    Args:
        conversation: The thread's conversation.
        viewer: Who looks, in no run: what a run is at is not over. Without an assistant, nobody:
            then the last summary of any counts.
    """
    seats = [
        seat
        for seat in _Seating(conversation, viewer, "full").seats()
        if seat.heard and not seat.turn.is_instruction
    ]
    summary = conversation.summary_for(viewer.assistant_id)
    if summary is not None:
        through = summary.context_compacted.through_sequence
        read = conversation.notices_read(before=summary.sequence)
        # Who sees no more of others than their last answers, sees those once their runs are over.
        seats = [
            seat
            for seat in seats
            if seat.end > through
            or seat.is_unread(read)
            or not (seat.is_own or conversation.is_over(seat.turn, through))
        ]
    copies = [_copy(each, is_own=False) for seat in seats for each in seat.whole]
    return Inheritance(
        _copy(summary.context_compacted.summary, is_own=False) if summary is not None else None,
        [message for message in copies if message.content],
    )


class _Seating:
    """Gives turns their places, as one run sees them.

    Args:
        conversation: The conversation.
        viewer: Who looks.
        others: What shows of other assistants; all turns as they are when None.
    """

    def __init__(self, conversation: Conversation, viewer: Viewer, others: Others | None) -> None:
        self._conversation = conversation
        self._viewer = viewer
        self._others = others
        self._turns = list(conversation.turns())
        self._last_answers = {
            turn.run_id: turn.sequence
            for turn in self._turns
            if turn.is_written and turn.is_said_by_agent and not turn.calls
        }
        """Of each run, the last turn that it wrote without tool calls."""

    def seats(self) -> list[Seat]:
        """Returns what there is to see, in order."""
        seats = [seat for turn in self._turns if (seat := self._seat(turn)) is not None]
        return sorted(seats, key=lambda seat: (*seat.place, seat.turn.sequence))

    def _seat(self, turn: Turn) -> Seat | None:
        life = self._conversation.life(turn.run_id)
        is_own = self._is_own(turn, life)
        if self._others == "final" and turn.is_said_by_agent and not is_own:
            place = self._place_of_result(turn, life)
        else:
            place = self._place(turn, life, is_own)
        if place is None or (self._others and not is_own and turn.is_instruction):
            return None
        seat = Seat(place, turn, is_own, self._is_needed(turn, life))
        if self._others:
            seat.heard = _heard(seat)
        return seat

    def _is_own(self, turn: Turn, life: Life) -> bool:
        author = turn.message.author
        if not turn.is_written and (author or not turn.run_id):
            # It was brought along: only its signature says whose it is, or that it is anyone's.
            return author in ("", self._viewer.name)
        return self._is_of_viewer(turn, life)

    def _is_of_viewer(self, turn: Turn, life: Life) -> bool:
        viewer = self._viewer
        return turn.run_id == viewer.run_id or life.assistant_id == viewer.assistant_id

    def _place(self, turn: Turn, life: Life, is_own: bool) -> Place | None:
        is_at_work = turn.is_written and turn.run_id == self._viewer.run_id
        if turn.is_open and not is_at_work:
            return None
        if turn.is_input:
            # Input that STEER adds comes later than its run has started.
            return (max(turn.end, life.arrival), 0) if life.arrival else None
        if turn.is_written and turn.is_said_by_agent and is_own:
            seen = turn.message.context_sequence
            return (seen, 1) if seen else (turn.sequence, 0)
        return turn.end, 0

    def _place_of_result(self, turn: Turn, life: Life) -> Place | None:
        if turn.calls:
            return None
        if not turn.is_written:
            return self._place(turn, life, is_own=False)
        is_last = self._last_answers[turn.run_id] == turn.sequence
        return (life.end, 0) if life.end and is_last else None

    def _is_needed(self, turn: Turn, life: Life) -> bool:
        if turn.is_open:
            return True
        is_elsewhere = turn.run_id not in ("", self._viewer.run_id) and not life.end
        return is_elsewhere and self._is_of_viewer(turn, life)


def _heard(seat: Seat) -> list[Message]:
    """Returns what a model is sent of a turn."""
    message = seat.turn.message
    if seat.turn.is_said_by_agent and seat.is_own:
        return seat.whole
    if seat.turn.is_said_by_agent:
        heard = voices.said_by_agent(message, seat.whole[1:])
    else:
        heard = voices.said_by_user(message)
    return [heard] if heard else []


def _copy(message: Message, is_own: bool) -> Message:
    copy = Message()
    copy.CopyFrom(message)
    if not is_own:
        copy.ClearField("provider_state")
        kept = [block for block in message.content if not block.HasField("thinking")]
        if len(kept) < len(message.content):
            del copy.content[:]
            copy.content.extend(kept)
    return copy
