"""What a thread comes to, now or at an earlier point of its session's log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from functools import cached_property

from google.protobuf.struct_pb2 import Struct

from callboard.v1.event_pb2 import Action, Event
from callboard.v1.message_pb2 import Message
from callboard_server import errors
from callboard_server.log.events import kinds
from callboard_server.log.fold import VALUE_KINDS, ThreadFold, Undone
from callboard_server.store.base import EventFilter, Reader, ThreadRow

MOST_ACTIONS = 1000
"""How many open actions a state shows."""

_ACTION_KINDS = kinds("action_raised", "action_answered", "action_closed")
_PAGE = 1000


class ThreadAt:
    """A thread as of a sequence of its session's log.

    What was taken back later still holds there. As it is now, a thread is read from its rows and
    indexes; an earlier point is folded from those events alone that it follows from.

    Args:
        reader: Where to read it.
        thread: The thread.
        at: The sequence; the end of the log when None.

    Raises:
        ServiceError: The log does not reach so far, in one direction or the other.
    """

    def __init__(self, reader: Reader, thread: ThreadRow, at: int | None = None) -> None:
        session = thread.session
        self.sequence = session.head if at is None else at
        """The sequence that it is as of."""
        if self.sequence > session.head:
            raise errors.cursor_ahead(self.sequence, session.head)
        self._is_past = self.sequence < session.head
        if self._is_past and session.oldest > 1:
            # Without its beginning a fold is of no earlier point.
            raise errors.events_trimmed(0, session.oldest)
        self._reader = reader
        self._thread = thread
        self._ends: dict[str, int] = {}
        """Of each run of which something was taken back, the event that last did so."""

    @property
    def values(self) -> Struct:
        return self._fold.values if self._is_past else self._thread.values

    @property
    def open_actions(self) -> list[Action]:
        """The actions that wait for an answer, oldest first."""
        if self._is_past:
            return list(self._fold.actions.values())[:MOST_ACTIONS]
        tenant, key = self._thread.session.tenant, self._thread.key
        found = self._reader.open_actions(tenant, thread=key, limit=MOST_ACTIONS)
        return [row.data for row in found]

    @property
    def assistant_id(self) -> str:
        """The assistant that runs when a request names none."""
        if not self._is_past:
            return self._thread.data.current_assistant_id
        for event in self._events(kinds("assistant_changed"), newest_first=True):
            return event.assistant_changed.to_assistant_id
        # The first assistant stays until a handoff.
        for event in self._events(kinds("run_created")):
            return event.run_created.assistant_id
        return ""

    @property
    def beginning(self) -> Message | None:
        """The summary with which it begins: of what was said on another thread."""
        for event in self._events(kinds("context_compacted", "message_added")):
            if event.HasField("context_compacted"):
                return event.context_compacted.summary
            break
        return None

    def messages(
        self, limit: int, *, newest_first: bool, beyond: int | None = None
    ) -> tuple[list[Event], bool]:
        """Returns messages that were not taken back, and whether there are more.

        Args:
            limit: How many at most.
            newest_first: From which end.
            beyond: The sequence to go on from, exclusive.
        """
        found: list[Event] = []
        for event in self._standing(limit + 1, newest_first, beyond):
            if len(found) == limit:
                return found, True
            found.append(event)
        return found, False

    def _standing(self, page: int, newest_first: bool, beyond: int | None) -> Iterator[Event]:
        if newest_first:
            beyond = min(beyond or self.sequence + 1, self.sequence + 1)
        while True:
            records = self._reader.messages(
                self._thread.key,
                limit=min(page, _PAGE),
                newest_first=newest_first,
                beyond=beyond,
            )
            for record in records:
                if record.sequence > self.sequence:
                    return
                event = record.event
                if not self._undone.holds(event):
                    yield event
            if len(records) < min(page, _PAGE):
                return
            beyond = records[-1].sequence

    @property
    def message_count(self) -> int:
        """How many messages were not taken back."""
        undone = self._undone
        taken = (e for run in self._ends for e in self._of_run(run, kinds("message_added")))
        return self._all_messages() - sum(undone.holds(event) for event in taken)

    def _all_messages(self) -> int:
        if not self._is_past:
            return self._reader.message_count(self._thread.key)
        records = self._reader.messages(
            self._thread.key, limit=sys.maxsize, newest_first=True, beyond=self.sequence + 1
        )
        return len(records)

    @cached_property
    def _undone(self) -> Undone:
        """What was taken back by then."""
        undone = Undone()
        started_again = set()
        for record in self._reader.voids(self._thread.key):
            if record.sequence > self.sequence:
                break
            event = record.event
            undone.apply(event)
            if event.HasField("claim_voided"):
                started_again.add(event.run_id)
            for run in event.runs_rolled_back.run_ids or [event.run_id]:
                self._ends[run] = event.sequence
        for run in started_again:
            for event in self._of_run(run, kinds("step_recorded")):
                undone.apply(event)
        return undone

    def _of_run(self, run_id: str, wanted: frozenset[int]) -> Iterator[Event]:
        """Yields those events of a run that may have been taken back or kept from that."""
        run = self._reader.run(self._thread.session.tenant, run_id)
        if run is None:
            return
        chosen = EventFilter(thread=self._thread.key, run=run.key, kinds=wanted)
        for record in self._reader.events(
            self._thread.session.key,
            chosen,
            after=run.data.created_sequence,
            through=self._ends[run_id],
        ):
            yield record.event

    @cached_property
    def _fold(self) -> ThreadFold:
        fold = ThreadFold()
        for event in self._events(VALUE_KINDS | _ACTION_KINDS):
            fold.apply(event)
        return fold

    def _events(self, wanted: frozenset[int], *, newest_first: bool = False) -> Iterator[Event]:
        for record in self._reader.events(
            self._thread.session.key,
            EventFilter(thread=self._thread.key, kinds=wanted),
            through=self.sequence,
            newest_first=newest_first,
        ):
            yield record.event
