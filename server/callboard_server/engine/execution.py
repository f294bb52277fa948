"""A run at work: everything that its agent writes passes through here, fenced by its claim."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.struct_pb2 import Struct

from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import (
    Action,
    ActionResponse,
    Actor,
    Event,
    RunQueued,
    RunTrigger,
)
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, Outcome, RunError, RunState, WaitingFor
from callboard.v1.message_pb2 import Message, Role
from callboard.v1.run_pb2 import Delta
from callboard_server.agents.errors import AgentError, Fenced
from callboard_server.agents.steps import current_path
from callboard_server.engine import notices
from callboard_server.engine.actions import close_late, raise_action
from callboard_server.engine.claim import Claim
from callboard_server.engine.creation import apply_patch
from callboard_server.engine.ending import finish, finish_stopped, stopped, tell_of_job
from callboard_server.engine.lifecycle import (
    PARKED,
    SUCCEEDED,
    held,
    park,
    queue_again,
    queue_retry,
    record,
)
from callboard_server.engine.line import ThreadLine, held_in_line
from callboard_server.engine.live import Hub
from callboard_server.engine.open_messages import OpenMessages, discarded
from callboard_server.engine.waiting import combined, is_over
from callboard_server.ids import new_id
from callboard_server.log.conversation import CONVERSATION_KINDS, Conversation
from callboard_server.log.events import EVENT_BYTES, kind_of
from callboard_server.log.recorded import RECORDED_KINDS, Recorded
from callboard_server.log.records import Draft
from callboard_server.log.view import Others, View, Viewer, messages_of, view_of
from callboard_server.store.base import (
    EventFilter,
    Reader,
    RunRow,
    Store,
    StoreError,
    Transaction,
)

T = TypeVar("T")

BUFFER = 1000
"""How many posted events may wait for their commit before posting waits, too."""


@dataclass(slots=True, eq=False)
class _Waiter:
    """A branch of a run that waits."""

    waiting_for: WaitingFor
    over: asyncio.Future[None]


class Execution:
    """The writes and reads of one run whose code is at work in this process.

    A run that waits is parked: it gives its slot back and its code stays where it is. The next
    claim of it goes on with that code, under an epoch of its own.
    """

    def __init__(self, store: Store, hub: Hub, claim: Claim, assistant: Assistant) -> None:
        self.claim = claim
        self.run = claim.run
        self.assistant = assistant
        self.actor = Actor(kind=Actor.KIND_ASSISTANT, name=assistant.name)
        self._store = store
        self._streamed = OpenMessages(hub, self.actor)
        self._posted: list[Event | Draft] = []
        self._flushing: asyncio.Task[None] | None = None
        self._failure: Exception | None = None
        """Why posted events could not be written."""
        self.last_message: Message | None = None
        """The last message of the assistant that this code has committed."""
        self._conversation = Conversation()
        self._viewer = Viewer(claim.run.run_id, claim.run.assistant_id, assistant.name)
        self._seen = 0
        """Up to which sequence of the log the code has read its thread."""
        # Under the first claim of a run nothing is recorded yet.
        self._recorded = Recorded() if claim.run.claim_epoch == 1 else None
        self.closed = False
        """Whether this code has no more say in its run."""
        self.parked = False
        """Whether the code waits for the next claim of its run. Set before that is so in the log:
        whoever claims the run must know that its code is here."""
        self._at_work = asyncio.Event()
        self._at_work.set()
        self._branches = 1
        self._waiters: list[_Waiter] = []
        self._changed = asyncio.Event()
        """Set when what the waiters wait for may be there."""
        self._coordinating: asyncio.Task[None] | None = None

    # Writing

    async def commit(self, *events: Event) -> None:
        """Appends events, after those that were posted before.

        Raises:
            Fenced: The run is no longer this claim's.
        """
        for event in events:
            self._sign(event)
        posted = self._take_posted()
        await self._write(lambda tx: _record_all(tx, self._held(tx), [*posted, *events]))
        for event in events:
            if self._recorded is not None:
                self._recorded.apply(event)

    def _sign(self, event: Event) -> None:
        event.actor.CopyFrom(self.actor)
        event.step_path.extend(current_path())
        _check_size(event)

    async def post(self, event: Event) -> None:
        """Appends an event without waiting for its commit, in order with all others."""
        self._sign(event)
        self._posted.append(_draft_of(event) if event.HasField("custom") else event)
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

    def _take_posted(self) -> list[Event | Draft]:
        posted, self._posted = self._posted, []
        return posted

    async def _write(self, change: Callable[[Transaction], T]) -> T:
        while True:
            # Code may go on that has given up what it waited for.
            await self._unpark()
            if self._failure is not None:
                raise self._failure
            epoch = self.run.claim_epoch
            try:
                return await self._store.write(change)
            except Fenced:
                if not self.parked and self.run.claim_epoch == epoch:
                    raise
                # The run was woken while a branch of it was writing: the next claim may.

    def _held(self, tx: Transaction) -> RunRow:
        return held(tx, self.claim.tenant, self.run.run_id, self.run.claim_epoch)

    def _held_in_line(self, tx: Transaction) -> tuple[ThreadLine, RunRow]:
        return held_in_line(tx, self.claim.thread_key, self.claim.run_key, self.run.claim_epoch)

    async def merge_values(self, patch: Struct) -> Struct:
        """Merges a patch into the thread's values and returns them as they are then."""
        if self.run.multitask_strategy == MultitaskStrategy.MULTITASK_STRATEGY_CONCURRENT:
            raise AgentError("a CONCURRENT run cannot change the thread's values")
        event = Event()
        event.values_merged.patch.CopyFrom(patch)
        self._sign(event)
        posted = self._take_posted()

        def change(tx: Transaction) -> Struct:
            run = self._held(tx)
            apply_patch(run.thread, patch)
            _record_all(tx, run, [*posted, event])
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
        cut_off = map(self.message_event, self._streamed.cut_off())
        events = [*self._take_posted(), *cut_off, *last_words]
        if not outcome.HasField("result") and self.last_message is not None:
            outcome.result.CopyFrom(self.last_message)

        def change(tx: Transaction) -> None:
            line, run = self._held_in_line(tx)
            _record_all(tx, run, events)
            if run.stop:
                asked = RunState.ValueType(run.stop)
                ending = stopped(run)
                _keep_result(ending, outcome, events)
                finish(tx, line, run, asked, ending, seen=self._seen)
            else:
                _keep_result(outcome, outcome, events)
                if state == SUCCEEDED:
                    notices.read_by(tx, run, self.actor, through=self._taken)
                finish(tx, line, run, state, outcome, seen=self._seen)

        await self._write(change)
        self.close()

    async def retry(self, error: RunError, pause: float) -> None:
        """Counts the attempt as failed and lets the run go on after a pause, in seconds."""
        events = [*self._take_posted(), *self._streamed.discard()]

        def change(tx: Transaction) -> None:
            line, run = self._held_in_line(tx)
            _record_all(tx, run, events)
            if run.stop:
                finish_stopped(tx, line, run, seen=self._seen)
            else:
                queue_retry(tx, run, error, tx.now / 1e9 + pause)
                line.advance()

        await self._write(change)
        self.close()

    async def give_back(self) -> None:
        """Puts the run back in line, to go on from what is recorded."""
        # Behind an event that was lost none may follow.
        posted = [] if self._failure else self._take_posted()
        self._failure = None
        events = [*posted, *self._streamed.discard()]

        def change(tx: Transaction) -> None:
            line, run = self._held_in_line(tx)
            _record_all(tx, run, events)
            if run.stop:
                finish_stopped(tx, line, run, seen=self._seen)
            else:
                queue_again(tx, run, RunQueued.REASON_DRAINED)
                line.advance()

        try:
            # Not by way of _write: a run that waits need not be woken for this.
            await self._store.write(change)
        except Fenced:
            self.close()
            raise
        self.close()

    def close(self) -> None:
        """The claim is over: what code that did not stop still writes, is not even shown."""
        self.closed = True
        self._failure = Fenced(self.run.run_id)
        self._streamed.clear()
        self.parked = False
        self._at_work.set()
        self._changed.set()

    # Waiting

    def now(self) -> float:
        """Returns the time in seconds since the epoch."""
        return self._store.now()

    def branch(self, change: int) -> None:
        """Says how many more branches the code has: the run waits when all of them do."""
        self._branches += change
        self._changed.set()

    def notify(self) -> None:
        """Says that what the run waits for may be there."""
        self._changed.set()

    @property
    def awaits_jobs(self) -> bool:
        """Whether a branch waits for jobs while the run is at work."""
        return not self.parked and any(each.waiting_for.ids for each in self._waiters)

    def resume(self, claim: Claim) -> None:
        """Goes on under the next claim."""
        self.claim, self.run = claim, claim.run
        self.parked = False
        self._at_work.set()
        self._changed.set()

    async def wait(self, waiting_for: WaitingFor, *events: Event) -> None:
        """Waits until something is there. The run is parked once all its branches wait.

        Args:
            waiting_for: What to wait for.
            *events: What to append before.

        Raises:
            Fenced: The run is no longer this claim's.
        """
        # Of a run that is parked nobody would know that it waits for this, too.
        await self._unpark()
        for event in events:
            self._sign(event)
            self._posted.append(event)
            if self._recorded is not None:
                self._recorded.apply(event)
        waiter = _Waiter(waiting_for, asyncio.get_running_loop().create_future())
        self._waiters.append(waiter)
        self._changed.set()
        if self._coordinating is None:
            self._coordinating = asyncio.create_task(self._coordinate())
        try:
            await waiter.over
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            self._changed.set()
        if waiting_for.kind == WaitingFor.KIND_CHILDREN:
            await self._fetched(waiting_for.ids)

    async def _fetched(self, job_ids: Sequence[str]) -> None:
        """Takes note that the code knows of the ends of jobs: notices tell it nothing new."""
        thread, path = self.claim.thread_key, current_path()
        unread = await self._store.read(
            lambda reader: reader.thread_at(thread).data.unread_notice_count
        )
        if unread:
            await self._write(
                lambda tx: notices.read_by(
                    tx, self._held(tx), self.actor, jobs=job_ids, step_path=path
                )
            )

    async def _coordinate(self) -> None:
        """Tells waiters that they need wait no more, and parks the run when all wait."""
        try:
            while self._waiters:
                self._changed.clear()
                await self._settle()
        except Exception as error:
            for waiter in self._waiters:
                if not waiter.over.done():
                    waiter.over.set_exception(error)
        finally:
            self._coordinating = None

    async def _settle(self) -> None:
        if self._failure is not None:
            raise self._failure
        waiters = list(self._waiters)
        if len(waiters) >= self._branches:
            over = await self._try_to_park(waiters)
        else:
            over = await self._look(waiters)
        for waiter in over:
            self._waiters.remove(waiter)
            if not waiter.over.done():
                waiter.over.set_result(None)
        if self.parked:
            await self._at_work.wait()
        elif not over:
            await self._wait_for_change(waiters)

    async def _wait_for_change(self, waiters: Sequence[_Waiter]) -> None:
        untils = [w.waiting_for.until for w in waiters if w.waiting_for.HasField("until")]
        soonest = min((until.ToNanoseconds() / 1e9 for until in untils), default=None)
        pause = None if soonest is None else max(0.0, soonest - self._store.now())
        with suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._changed.wait()

    async def _look(self, waiters: Sequence[_Waiter]) -> list[_Waiter]:
        """Returns those that need wait no more, while the run stays at work."""
        if self._posted:
            await self.commit()
        if any(self._is_late(waiter) for waiter in waiters):
            await self._write(lambda tx: close_late(tx, self._held(tx)))
        return await self._store.read(lambda reader: self._over(reader, waiters))

    def _is_late(self, waiter: _Waiter) -> bool:
        """Whether the deadline of the actions that a branch waits for has passed."""
        waiting_for = waiter.waiting_for
        if waiting_for.kind != WaitingFor.KIND_ACTIONS or not waiting_for.HasField("until"):
            return False
        return waiting_for.until.ToNanoseconds() / 1e9 <= self._store.now()

    def _over(self, reader: Reader, waiters: Sequence[_Waiter]) -> list[_Waiter]:
        tenant, session, now = self.claim.tenant, self.claim.session_key, self._store.now()
        return [w for w in waiters if is_over(reader, tenant, session, w.waiting_for, now)]

    async def _try_to_park(self, waiters: Sequence[_Waiter]) -> list[_Waiter]:
        """Parks the run, unless some need wait no more: returns those."""
        posted = self._take_posted()

        def change(tx: Transaction) -> tuple[bool, list[_Waiter]]:
            line, run = self._held_in_line(tx)
            _record_all(tx, run, posted)
            over = self._over(tx, waiters)
            if over or run.stop:
                return False, over
            park(tx, run, combined([waiter.waiting_for for waiter in waiters]))
            tell_of_job(tx, run)
            notices.wake(tx, line)
            line.leave(run)
            return True, over

        self.parked = True
        self._at_work.clear()
        parked = False
        try:
            parked, over = await self._store.write(change)
        finally:
            if parked:
                # Thousands may wait, and each can read its conversation again.
                self._conversation = Conversation()
            else:
                self.parked = False
                self._at_work.set()
        return over

    async def _unpark(self) -> None:
        """Waits for a slot again, where the code goes on although a branch of it waits."""
        if not self.parked:
            return

        def change(tx: Transaction) -> None:
            run = tx.run(self.claim.tenant, self.run.run_id)
            if run is not None and run.data.state in PARKED:
                line = ThreadLine(tx, run.thread)
                queue_again(tx, run, RunQueued.REASON_RESUMED)
                line.advance()

        await self._store.write(change)
        await self._at_work.wait()

    # Actions

    async def ask(self, action: Action) -> ActionResponse | None:
        """Raises an action and waits for the answer; None where it was closed without one."""
        posted = self._take_posted()

        def change(tx: Transaction) -> Action:
            run = self._held(tx)
            _record_all(tx, run, posted)
            return raise_action(tx, run, action, self.actor).data

        # One that was raised before has its deadline from then.
        raised = await self._write(change)
        waiting_for = WaitingFor(kind=WaitingFor.KIND_ACTIONS, ids=[raised.action_id])
        if raised.HasField("deadline"):
            waiting_for.until.CopyFrom(raised.deadline)
        await self.wait(waiting_for)
        row = await self._store.read(
            lambda reader: reader.action(self.claim.session_key, action.action_id)
        )
        return row.response if row is not None else None

    @property
    def _taken(self) -> int:
        """Up to which sequence the code itself has read; what models have, their answers say."""
        if self.run.trigger == RunTrigger.RUN_TRIGGER_COMPACTION:
            return 0
        turns = self._conversation.turns()
        has_answered = any(turn.is_answer and turn.run_id == self.run.run_id for turn in turns)
        return 0 if has_answered else self._seen

    # Messages

    def open_message(self, context_sequence: int) -> str:
        """Begins a message that streams; returns its id."""
        if self._failure is not None:
            raise self._failure
        return self._streamed.open(self.claim, context_sequence)

    def write_delta(
        self, message_id: str, index: int, text: str, kind: Delta.Kind.ValueType
    ) -> None:
        if self._failure is not None:
            raise self._failure
        self._streamed.write(message_id, index, text, kind)

    async def commit_message(self, message: Message) -> Message:
        """Makes a message durable; it replaces its deltas."""
        event = self.message_event(message)
        # Before the commit: one that is cancelled while it is under way takes place all the same.
        streamed = self._streamed.take(message.message_id)
        try:
            await self.commit(event)
        except StoreError:
            if streamed is not None:
                self._streamed.put_back(streamed)
            raise
        if message.role == Role.ROLE_ASSISTANT:
            self.last_message = event.message_added.message
        return event.message_added.message

    async def discard_message(self, message_id: str, reason: str, *events: Event) -> None:
        """Makes it durable that what was streamed is void, behind other events."""
        self._streamed.take(message_id)
        await self.commit(*events, discarded(self.actor, message_id, reason))

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
        self._streamed.clear()
        self._failure = None

    # Reading

    async def view(self, others: Others) -> View:
        """Returns the conversation as a model is sent it in this run now."""
        conversation, head = await self._read_on()
        return view_of(conversation, self._viewer, head, others)

    async def all_messages(self) -> list[Message]:
        """Returns the messages of the conversation as they are in the log."""
        conversation, _ = await self._read_on()
        return messages_of(conversation, self._viewer)

    async def _read_on(self) -> tuple[Conversation, int]:
        """Returns the conversation as it is now, and the session's last sequence."""
        if self._posted:
            await self.commit()
        claim, conversation = self.claim, self._conversation
        after = conversation.through

        def query(reader: Reader) -> tuple[list[Event], int]:
            wanted = EventFilter(thread=claim.thread_key, kinds=CONVERSATION_KINDS)
            records = reader.events(claim.session_key, wanted, after=after)
            return [record.event for record in records], reader.session(claim.session_key).head

        events, head = await self._store.read(query)
        for event in events:
            conversation.apply(event)
        self._seen = max(self._seen, head)
        return conversation, head

    async def recorded(self) -> Recorded:
        """Returns what the run has recorded under this claim and those before."""
        if self._recorded is None:
            self._recorded = await self._store.read(self._read_recorded)
        return self._recorded

    def _read_recorded(self, reader: Reader) -> Recorded:
        recorded = Recorded()
        claim = self.claim
        wanted = EventFilter(thread=claim.thread_key, run=claim.run_key, kinds=RECORDED_KINDS)
        for each in reader.events(claim.session_key, wanted):
            recorded.apply(each.event)
        return recorded

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


def _draft_of(event: Event) -> Draft:
    """Serialises an event that changes no row: it is only logged."""
    return Draft(kind_of(event), event.SerializeToString())


def _record_all(tx: Transaction, run: RunRow, events: Sequence[Event | Draft]) -> None:
    drafts: list[Draft] = []
    for event in events:
        if isinstance(event, Draft):
            drafts.append(event)
            continue
        tx.append_drafts(run, drafts)
        drafts = []
        if event.HasField("message_added"):
            event.message_added.message.create_time.FromNanoseconds(tx.now)
        record(tx, run, event)
        if run.thread.data.unread_notice_count and event.HasField("message_added"):
            message = event.message_added.message
            if not message.incomplete:
                notices.read_by(tx, run, event.actor, through=message.context_sequence)
    tx.append_drafts(run, drafts)


def _keep_result(ending: Outcome, outcome: Outcome, events: Sequence[Event | Draft]) -> None:
    """The result is the last message that the run wrote."""
    if outcome.HasField("result"):
        ending.result.CopyFrom(outcome.result)
    for event in events:
        if isinstance(event, Event) and event.HasField("message_added"):
            ending.result.CopyFrom(event.message_added.message)
