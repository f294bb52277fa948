"""A thread that is talked on: what is said goes in, and what happens on it is shown as it comes."""

from __future__ import annotations

import threading
from typing import Protocol

from callboard import Client, Delta, Event, EventStream, RunState


class Listener(Protocol):
    """Shows what happens on a thread."""

    def show(self, item: Event | Delta) -> None:
        """Shows an event, or a piece of a message in the making."""


class Conversation:
    """A thread, and somebody who listens to all that happens on it.

    Not to one run alone: an agent that gave work to others speaks again when that is done.
    """

    def __init__(
        self, client: Client, listener: Listener, agent: str | None, thread_id: str | None
    ) -> None:
        """Begins to listen, where there is a thread.

        Args:
            client: The server.
            listener: Shows what happens, from a thread (of this process) of its own.
            agent: Who answers; the thread's current assistant when None.
            thread_id: The thread; made with the first message when None.
        """
        self._client = client
        self._listener = listener
        self._agent = agent
        self._thread_id = thread_id
        self._stream: EventStream | None = None
        self._follower: threading.Thread | None = None
        self._changed = threading.Condition()
        self._ends: dict[str, RunState.ValueType] = {}
        self._failure: BaseException | None = None
        if thread_id is not None:
            self._listen(thread_id, client.threads.get(thread_id).head_sequence)

    def say(self, message: str) -> bool:
        """Says something, and returns when it is answered. Ctrl-C stops the answer.

        Returns:
            Whether the run that answers succeeded.

        Raises:
            CallboardError: If it cannot be said. What ended the listening is raised, too.
        """
        run = self._client.runs.create(self._agent, message, thread_id=self._thread_id)
        if self._stream is None:
            self._thread_id = run.thread_id
            self._listen(run.thread_id, 0)
        try:
            state = self._wait(run.run_id)
        except KeyboardInterrupt:
            self._client.runs.cancel(run.run_id)
            state = self._wait(run.run_id)
        return state == RunState.RUN_STATE_SUCCEEDED

    def close(self) -> None:
        """Ends listening."""
        if self._stream is not None and self._follower is not None:
            self._stream.close()
            self._follower.join()

    def _listen(self, thread_id: str, after_sequence: int) -> None:
        self._stream = self._client.threads.stream(
            thread_id, after_sequence=after_sequence, deltas=True
        )
        self._follower = threading.Thread(target=self._follow, args=(self._stream,), daemon=True)
        self._follower.start()

    def _follow(self, stream: EventStream) -> None:
        try:
            for item in stream:
                self._listener.show(item)
                if isinstance(item, Event):
                    self._note_end(item)
        except BaseException as error:
            # Whoever waits must hear of it, also that nobody reads the output any more.
            with self._changed:
                self._failure = error
                self._changed.notify_all()

    def _note_end(self, event: Event) -> None:
        """Notes that a run is over, or waits for somebody else than the model."""
        if event.HasField("run_finished"):
            state = event.run_finished.state
        elif event.run_waiting.state == RunState.RUN_STATE_REQUIRES_ACTION:
            state = event.run_waiting.state
        else:
            return
        with self._changed:
            self._ends[event.run_id] = state
            self._changed.notify_all()

    def _wait(self, run_id: str) -> RunState.ValueType:
        with self._changed:
            self._changed.wait_for(lambda: run_id in self._ends or self._failure is not None)
            if self._failure is not None:
                raise self._failure
            return self._ends.pop(run_id)
