"""A run at work: everything that its agent writes passes through here, fenced by its claim."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.struct_pb2 import Struct

from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Actor, Event
from callboard.v1.lifecycle_pb2 import Outcome, RunState
from callboard.v1.message_pb2 import Message, Role, Text
from callboard.v1.run_pb2 import Delta, Run
from callboard_server.agents.errors import AgentError
from callboard_server.engine.admission import merge_values
from callboard_server.engine.lifecycle import (
    Fenced,
    ThreadLine,
    held,
    held_in_line,
    record,
    stopped,
)
from callboard_server.engine.live import Hub, OpenMessage
from callboard_server.ids import new_id
from callboard_server.log.events import EVENT_BYTES
from callboard_server.log.view import VIEW_KINDS, View, view_of
from callboard_server.store.base import (
    EventFilter,
    Reader,
    RunRow,
    Store,
    StoreError,
    Transaction,
)

T = TypeVar("T")

_CUT_OFF_BYTES = EVENT_BYTES // 8
BUFFER = 1000
"""How many posted events may wait for their commit before posting waits, too."""


@dataclass(frozen=True, slots=True)
class Claim:
    """What a worker holds of a run: enough to write to it as long as the claim stands."""

    tenant: str
    run: Run
    """The run as it was when it was claimed."""
    run_key: int
    thread_key: int
    session_key: int

    @classmethod
    def of(cls, row: RunRow) -> Claim:
        run = Run()
        run.CopyFrom(row.data)
        session = row.thread.session
        return cls(session.tenant, run, row.key, row.thread.key, session.key)


class Execution:
    """The writes and reads of one claimed run."""

    def __init__(self, store: Store, hub: Hub, claim: Claim, assistant: Assistant) -> None:
        self.claim = claim
        self.run = claim.run
        self.assistant = assistant
        self.actor = Actor(kind=Actor.KIND_ASSISTANT, name=assistant.name)
        self._store = store
        self._hub = hub
        self._posted: list[Event] = []
        self._flushing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        """Why posted events could not be written."""
        self._writing: dict[str, OpenMessage] = {}
        self.last_message: Message | None = None
        """The last message that was committed under this claim."""

    # Writing

    async def commit(self, *events: Event) -> None:
        """Appends events, after those that were posted before.

        Raises:
            Fenced: The run is no longer this claim's.
        """
        for event in events:
            event.actor.CopyFrom(self.actor)
            _check_size(event)
        posted = self._take_posted()
        await self._write(lambda tx: _record_all(tx, self._held(tx), [*posted, *events]))

    async def post(self, event: Event) -> None:
        """Appends an event without waiting for its commit, in order with all others."""
        event.actor.CopyFrom(self.actor)
        _check_size(event)
        self._posted.append(event)
        if self._flushing is None:
            self._flushing = asyncio.create_task(self._flush())
        elif len(self._posted) >= BUFFER:
            await self._flushing

    async def _flush(self) -> None:
        try:
            while self._posted:
                await self.commit()
        except (Fenced, StoreError) as error:
            # The next write says so to whoever waits for it.
            self._failure = error
        finally:
            self._flushing = None

    def _take_posted(self) -> list[Event]:
        posted, self._posted = self._posted, []
        return posted

    async def _write(self, change: Callable[[Transaction], T]) -> T:
        if self._failure is not None:
            raise self._failure
        return await self._store.write(change)

    def _held(self, tx: Transaction) -> RunRow:
        return held(tx, self.claim.tenant, self.run.run_id, self.run.claim_epoch)

    def _held_in_line(self, tx: Transaction) -> tuple[ThreadLine, RunRow]:
        return held_in_line(tx, self.claim.thread_key, self.claim.run_key, self.run.claim_epoch)

    async def merge_values(self, patch: Struct) -> Struct:
        """Merges a patch into the thread's values and returns them as they are then."""
        posted = self._take_posted()

        def change(tx: Transaction) -> Struct:
            run = self._held(tx)
            _record_all(tx, run, posted)
            merge_values(tx, run.thread, patch, self.actor, run)
            merged = Struct()
            merged.CopyFrom(run.thread.values)
            return merged

        return await self._write(change)

    async def finish(
        self, state: RunState.ValueType, outcome: Outcome, last_words: Sequence[Event] = ()
    ) -> None:
        """Writes what is still to be written and the run's end, in one commit.

        Where the run was asked to stop, that is how it ends.
        """
        events = [*self._take_posted(), *self._cut_off_messages(), *last_words]
        if not outcome.HasField("result") and self.last_message is not None:
            outcome.result.CopyFrom(self.last_message)

        def change(tx: Transaction) -> None:
            line, run = self._held_in_line(tx)
            _record_all(tx, run, events)
            if run.stop:
                asked = RunState.ValueType(run.stop)
                ending = stopped(asked, by=run.data.superseded_by_run_id)
                _keep_result(ending, outcome, events)
                line.finish(run, asked, ending)
            else:
                _keep_result(outcome, outcome, events)
                line.finish(run, state, outcome)

        await self._write(change)
        self._close()

    async def give_back(self) -> None:
        """Puts the run back in line, to go on from what is recorded."""
        # Behind an event that was lost none may follow.
        posted = [] if self._failure else self._take_posted()
        self._failure = None
        events = [*posted, *self._discarded_messages()]

        def change(tx: Transaction) -> None:
            line, run = self._held_in_line(tx)
            _record_all(tx, run, events)
            if run.stop:
                line.finish_stopped(run)
                return
            queued = Event()
            queued.run_queued.reason = queued.run_queued.REASON_DRAINED
            line.requeue(run, queued)

        await self._write(change)
        self._close()

    def _close(self) -> None:
        """The claim is over: what code that did not stop still writes, is not even shown."""
        self._failure = Fenced(self.run.run_id)
        self._writing.clear()

    # Messages in the making

    def open_message(self, context_sequence: int) -> str:
        """Begins a message that streams; returns its id."""
        if self._failure is not None:
            raise self._failure
        message_id = new_id()
        header = Delta(
            message_id=message_id,
            run_id=self.run.run_id,
            thread_id=self.run.thread_id,
            attempt=self.run.attempt,
            author=self.assistant.name,
        )
        claim = self.claim
        message = OpenMessage(
            message_id,
            claim.session_key,
            claim.thread_key,
            claim.run_key,
            header,
            context_sequence,
        )
        self._writing[message_id] = message
        self._hub.open_message(message)
        return message_id

    def write_delta(
        self, message_id: str, index: int, text: str, kind: Delta.Kind.ValueType
    ) -> None:
        if self._failure is not None:
            raise self._failure
        self._hub.write(self._writing[message_id], index, text, kind)

    async def commit_message(self, message: Message) -> Message:
        """Makes a message durable; it replaces its deltas."""
        event = self.message_event(message)
        # Before the commit: one that is cancelled while it is under way takes place all the same.
        writing = self._writing.pop(message.message_id, None)
        try:
            await self.commit(event)
        except StoreError:
            if writing is not None:
                self._writing[message.message_id] = writing
            raise
        self.last_message = event.message_added.message
        return event.message_added.message

    async def discard_message(self, message_id: str, reason: str) -> None:
        self._writing.pop(message_id, None)
        await self.commit(self._discarded(message_id, reason))

    def _discarded(self, message_id: str, reason: str) -> Event:
        event = Event(actor=self.actor)
        event.message_discarded.message_id = message_id
        event.message_discarded.reason = reason
        return event

    def _discarded_messages(self) -> list[Event]:
        """What was streamed and not committed is void: the model will be called again."""
        events = [self._discarded(each, "the server stopped") for each in self._writing]
        self._writing.clear()
        return events

    def message_event(self, message: Message) -> Event:
        """Returns the event that adds a message of this run."""
        event = Event(actor=self.actor)
        added = event.message_added.message
        added.CopyFrom(message)
        added.message_id = added.message_id or new_id()
        added.author = added.author or self.assistant.name
        added.run_id = self.run.run_id
        _check_size(event)
        return event

    def drop_unwritten(self) -> None:
        """Forgets what was posted or streamed and is not committed."""
        self._posted.clear()
        self._writing.clear()
        self._failure = None

    def _cut_off_messages(self) -> list[Event]:
        """What was streamed and not committed becomes incomplete messages."""
        events = []
        for open_message in self._writing.values():
            message = Message(
                message_id=open_message.message_id,
                role=Role.ROLE_ASSISTANT,
                context_sequence=open_message.context_sequence,
                incomplete=True,
            )
            for _, (kind, text) in sorted(open_message.blocks.items()):
                # A tool call that was cut off is not one.
                if kind == Delta.KIND_TEXT and text:
                    # The beginning of it, where it is more than an event can hold.
                    kept = text[:_CUT_OFF_BYTES].decode(errors="ignore")
                    message.content.add(text=Text(text=kept))
            if message.content:
                events.append(self.message_event(message))
        self._writing.clear()
        return events

    # Reading

    async def view(self) -> View:
        """Returns the conversation as this run sees it now."""
        claim = self.claim
        if self._posted:
            await self.commit()

        def query(reader: Reader) -> View:
            live = reader.live_runs(claim.thread_key)
            unstarted = {row.key for row in live if not row.data.claim_epoch}
            wanted = EventFilter(thread=claim.thread_key, kinds=VIEW_KINDS)
            records = reader.events(claim.session_key, wanted)
            head = reader.session(claim.session_key).head
            return view_of(records, claim.run_key, unstarted, head)

        return await self._store.read(query)

    async def values(self) -> Struct:
        """Returns the thread's values as they are now."""
        if self._posted:
            await self.commit()
        return await self._store.read(lambda reader: reader.thread_at(self.claim.thread_key).values)


def _check_size(event: Event) -> None:
    size = event.ByteSize()
    if size > EVENT_BYTES:
        kind = event.WhichOneof("payload")
        raise AgentError(f"the agent's {kind} takes {size} bytes; the limit is {EVENT_BYTES}")


def _record_all(tx: Transaction, run: RunRow, events: Sequence[Event]) -> None:
    for event in events:
        if event.WhichOneof("payload") == "message_added":
            event.message_added.message.create_time.FromNanoseconds(tx.now)
        record(tx, run, event)


def _keep_result(ending: Outcome, outcome: Outcome, events: Sequence[Event]) -> None:
    """The result is the last message that the run wrote."""
    if outcome.HasField("result"):
        ending.result.CopyFrom(outcome.result)
    for event in events:
        if event.WhichOneof("payload") == "message_added":
            ending.result.CopyFrom(event.message_added.message)
