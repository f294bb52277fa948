"""A thread that is talked on: what is said goes in, and what happens on it is shown as it comes."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from callboard import (
    TERMINAL_STATES,
    Action,
    CallboardError,
    Client,
    Delta,
    Event,
    EventStream,
    RunState,
)
from callboard.cli.failures import CommandError, ExitCode, explain
from callboard.cli.outages import downtime

_REQUIRES_ACTION = RunState.RUN_STATE_REQUIRES_ACTION
_PARKED = (RunState.RUN_STATE_WAITING, _REQUIRES_ACTION)


class Listener(Protocol):
    """Shows what happens on a thread, and what matters of the others in its session."""

    def show(self, item: Event | Delta) -> None:
        """Shows an event of the thread, or a piece of a message in the making."""

    def show_elsewhere(self, event: Event) -> None:
        """Shows an event of another thread."""

    def announce(self, action: Action, *, of_job: bool) -> bool:
        """Shows what is asked to somebody who types a message; returns whether somebody does."""


class Asker(Protocol):
    """Asks whoever talks for what a run needs."""

    def ask(self, action: Action, *, of_job: bool) -> bool:
        """Returns whether the action is settled; otherwise it stays open."""


@dataclass(frozen=True)
class Place:
    """Where a conversation is held.

    Attributes:
        thread_id: The thread; empty where the first message makes one.
        after_sequence: The last event that was shown before.
        is_root: Whether it is the root of its session: all other threads there work for it.
    """

    thread_id: str = ""
    after_sequence: int = 0
    is_root: bool = True


class Conversation:
    """A thread, and somebody who listens to all that happens on it.

    Not to one run alone: an agent that gave work to others speaks again when that is done, and the
    others may have questions.

    Attributes:
        assistant_id: Who answers; the thread's current assistant when None.
    """

    def __init__(
        self,
        client: Client,
        listener: Listener,
        asker: Asker,
        assistant_id: str | None,
        place: Place,
        *,
        is_live: bool,
    ) -> None:
        """Begins to listen, where there is a thread.

        Args:
            client: The server.
            listener: Shows what happens, from a thread (of this process) of its own.
            asker: Asks what runs need, in the thread that talks.
            assistant_id: Who answers; the thread's current assistant when None.
            place: The thread.
            is_live: Whether a person looks on, and can be asked whatever comes up. Otherwise only
                what the answer waits for is asked: it must not depend on chance what a line
                answers.
        """
        self.assistant_id = assistant_id
        self._client = client
        self._listener = listener
        self._asker = asker
        self._place = place
        self._is_live = is_live
        self._stream: EventStream | None = None
        self._follower: threading.Thread | None = None
        self._changed = threading.Condition()
        self._states: dict[str, RunState.ValueType] = {}
        """The states of runs that wait, or are over."""
        self._open: dict[str, Action] = {}
        self._asked: set[str] = set()
        self._announced: set[str] = set()
        self._failure: BaseException | None = None
        if place.thread_id:
            self._listen(place)

    def say(self, message: str) -> bool:
        """Says something, and returns when it is answered. Ctrl-C stops the answer.

        Returns:
            Whether the run that answers succeeded. It has not where it waits for an answer that
            nobody gave.

        Raises:
            CallboardError: If it cannot be said. What ended the listening is raised, too.
        """
        run = self._client.runs.create(
            self.assistant_id, message, thread_id=self._place.thread_id or None
        )
        if self._stream is None:
            self._listen(Place(run.thread_id))
        return self._see_through(run.run_id)

    def answer_open(self, *, again: bool = False) -> bool:
        """Asks what is open, and returns when what goes on then on the thread is over.

        Args:
            again: Whether to ask also what was left open before.

        Returns:
            Whether there was anything to ask.
        """
        if again:
            self._asked.clear()
        asked = []
        while unasked := self._unasked():
            asked.append(unasked[0])
            self._ask(unasked[0])
        with self._changed:
            held = {each.run_id for each in self._open.values()}
        for run_id in dict.fromkeys(each.run_id for each in asked if self._is_here(each)):
            if run_id not in held:
                self._see_through(run_id)
        return bool(asked)

    def announce_open(self) -> None:
        """Shows what is open to somebody who types a message."""
        with self._changed:
            for action in self._unasked():
                if action.action_id not in self._announced and self._listener.announce(
                    action, of_job=not self._is_here(action)
                ):
                    self._announced.add(action.action_id)

    def close(self) -> None:
        """Ends listening."""
        if self._stream is not None and self._follower is not None:
            self._stream.close()
            self._follower.join()

    def _see_through(self, run_id: str) -> bool:
        """Waits for a run, and asks what there is to ask; returns whether it succeeded."""
        left: set[str] = set()
        is_stopped = False
        while True:
            try:
                action = self._wait(run_id, left)
            except KeyboardInterrupt:
                if is_stopped:
                    raise
                self._client.runs.cancel(run_id)
                is_stopped = True
                continue
            if action is None:
                return self._states[run_id] == RunState.RUN_STATE_SUCCEEDED
            if not self._ask(action):
                left.add(action.action_id)

    def _wait(self, run_id: str, left: Collection[str]) -> Action | None:
        """Waits until there is something to ask, or nothing more to wait for: then it is None."""

        def is_over() -> bool:
            state = self._states.get(run_id)
            is_left = state in _PARKED and any(each in self._open for each in left)
            return state in TERMINAL_STATES or is_left

        with self._changed:
            self._changed.wait_for(
                lambda: self._failure is not None or self._due(run_id) or is_over()
            )
            if self._failure is not None:
                raise self._failure
            return next(iter(self._due(run_id)), None)

    def _due(self, run_id: str) -> Sequence[Action]:
        """What to ask while a run is awaited."""
        if self._is_live:
            return self._unasked()
        state = self._states.get(run_id)
        if state not in _PARKED:
            return ()
        # It waits for answers of its own, or for jobs that do.
        is_own = state == _REQUIRES_ACTION
        return [each for each in self._unasked() if (each.run_id == run_id) is is_own]

    def _unasked(self) -> Sequence[Action]:
        with self._changed:
            return [each for each in self._open.values() if each.action_id not in self._asked]

    def _ask(self, action: Action) -> bool:
        self._asked.add(action.action_id)
        is_settled = self._asker.ask(action, of_job=not self._is_here(action))
        if is_settled:
            with self._changed:
                self._open.pop(action.action_id, None)
        return is_settled

    def _is_here(self, action: Action) -> bool:
        return action.thread_id == self._place.thread_id

    def _listen(self, place: Place) -> None:
        self._place = place
        if self._is_live and place.after_sequence:
            self._open = {each.action_id: each for each in self._list_actions(place)}
        self._stream = self._client.threads.stream(
            place.thread_id,
            scope="session" if place.is_root else "thread",
            preset="condensed",
            after_sequence=place.after_sequence,
            deltas=self._is_live,
            max_downtime=downtime(is_watched=self._is_live),
        )
        self._follower = threading.Thread(target=self._follow, args=(self._stream,), daemon=True)
        self._follower.start()

    def _list_actions(self, place: Place) -> Iterable[Action]:
        list_actions = self._client.actions.list
        if place.is_root:
            return list_actions(session_id=place.thread_id)
        return list_actions(place.thread_id)

    def _follow(self, stream: EventStream) -> None:
        try:
            for item in stream:
                self._show(item)
            if stream.end is not None:
                raise CommandError("the thread was deleted", exit_code=ExitCode.NOT_FOUND)
        except CallboardError as error:
            self._fail(explain(error) or error)
        except BaseException as error:
            # Whoever waits must hear of it, also that nobody reads the output any more.
            self._fail(error)

    def _fail(self, error: BaseException) -> None:
        with self._changed:
            self._failure = error
            self._changed.notify_all()

    def _show(self, item: Event | Delta) -> None:
        if isinstance(item, Event) and item.thread_id != self._place.thread_id:
            self._listener.show_elsewhere(item)
        else:
            self._listener.show(item)
        if isinstance(item, Event):
            with self._changed:
                self._note(item)
                self._changed.notify_all()
            self.announce_open()

    def _note(self, event: Event) -> None:
        """Takes note of runs that wait or are over, and of what is open."""
        match event.WhichOneof("payload"):
            case "run_finished":
                self._states[event.run_id] = event.run_finished.state
            case "run_waiting":
                self._states[event.run_id] = event.run_waiting.state
            case "run_queued" | "run_started":
                self._states.pop(event.run_id, None)
            case "action_raised":
                action = event.action_raised.action
                self._open[action.action_id] = action
            case "action_answered":
                self._open.pop(event.action_answered.response.action_id, None)
            case "action_closed":
                self._open.pop(event.action_closed.action_id, None)
