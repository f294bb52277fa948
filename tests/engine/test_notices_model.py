"""Whatever happens in whatever order, each notice is delivered once, to whom it is for."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from callboard.v1.event_pb2 import (
    Action,
    ActionResponse,
    Actor,
    Event,
    JobDelivery,
    JobNotify,
    Notice,
    RunTrigger,
)
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, Outcome, RunState, WaitingFor
from callboard.v1.message_pb2 import Message, Role
from callboard.v1.run_pb2 import Run
from callboard_server.engine import actions, admission, ending, jobs, lifecycle, notices
from callboard_server.engine.assistants import default_id
from callboard_server.engine.creation import NewRun, NewThread, open_session
from callboard_server.engine.execution import _record_all
from callboard_server.engine.lifecycle import (
    FAILED,
    PARKED,
    RUNNING,
    SERVER,
    SUCCEEDED,
    TERMINAL,
)
from callboard_server.engine.line import ThreadLine
from callboard_server.engine.waiting import is_over
from callboard_server.log.fold import JobsFold, ThreadFold, apply_to_run, created_run
from callboard_server.log.records import Record
from callboard_server.store.base import Reader, RunRow, ThreadRow, Transaction
from callboard_server.store.memory import MemoryStore

T = TypeVar("T")

TENANT, HOME, SECOND = "tenant", "home", 10**9
CLIENT = Actor(kind=Actor.KIND_CLIENT)
LIMITS = jobs.DelegationLimits(depth=3, width=10)
MOST_JOBS = 6
INBOX = RunTrigger.RUN_TRIGGER_INBOX
AGENTS = ["ada", "bob"]

agents = st.sampled_from(AGENTS)
picks = st.integers(0, 5)
flags = st.booleans()
seldom = st.sampled_from([False, False, False, True])
notify = st.sampled_from([1, 2, 3, 3])
strategies = st.sampled_from([1, 1, 3, 4, 6])


class Supervision(RuleBasedStateMachine):
    """A home thread with supervisors, its jobs, and what the home is to be told by the book."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000 * SECOND
        self.count = 0
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore(clock=lambda: self.now)
        self.loop.run_until_complete(self.store.open(self._observe))
        self.jobs = JobsFold()
        self.job_ids: list[str] = []
        self.runs: dict[str, Run] = {}
        self.home = ThreadFold()
        self.due: Counter[tuple[str, str]] = Counter()
        """What the home is to be told: of the ends of runs of jobs, and of actions."""
        self.told: Counter[tuple[str, str]] = Counter()
        self.tries: defaultdict[str, list[int]] = defaultdict(list)
        """Of each unread notice, how the runs ended that were woken when it was there."""
        self.sequences: dict[str, int] = {}
        self.failure: Exception | None = None
        """What was wrong with what was committed: the store takes no complaints."""
        self._write(lambda tx: open_session(tx, TENANT, NewThread(HOME), CLIENT))

    def teardown(self) -> None:
        try:
            self._settle()
        finally:
            self.loop.close()

    # Support

    def _write(self, operation: Callable[[Transaction], T]) -> T:
        self.now += SECOND // 1000
        result = self.loop.run_until_complete(self.store.write(operation))
        if self.failure is not None:
            raise self.failure
        return result

    def _read(self, query: Callable[[Reader], T]) -> T:
        return self.loop.run_until_complete(self.store.read(query))

    def _new_id(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.count}"

    def _new_run(self, agent: str) -> NewRun:
        return NewRun(self._new_id("run"), default_id(agent), 1, agent)

    def _home(self, reader: Reader) -> ThreadRow:
        thread = reader.thread(TENANT, HOME)
        assert thread is not None
        return thread

    def _live(self, thread_id: str, *states: int) -> list[str]:
        live = [r for r in self.runs.values() if r.thread_id == thread_id]
        return [run.run_id for run in live if run.state in states]

    def _at_work(
        self, found: list[str], pick: int, change: Callable[[Transaction, ThreadLine, RunRow], None]
    ) -> None:
        """Changes one of some runs, in the line of its thread."""

        def operation(tx: Transaction) -> None:
            run = tx.run(TENANT, found[pick % len(found)])
            assert run is not None
            change(tx, ThreadLine(tx, run.thread), run)

        if found:
            self._write(operation)

    # The book: what is due, by the events alone

    def _observe(self, records: Sequence[Record]) -> None:
        try:
            for record in records:
                self._book(record.event)
        except Exception as error:
            self.failure = self.failure or error

    def _book(self, event: Event) -> None:
        """Takes an event into the book, and holds it against that."""
        self._expect(event)
        if event.HasField("run_created"):
            self.runs[event.run_id] = created_run(event)
        elif event.run_id in self.runs:
            apply_to_run(self.runs[event.run_id], event)
        self.jobs.apply(event)
        if event.HasField("notice_added"):
            self._take(event.notice_added.notice)
            self.sequences[event.notice_added.notice.notice_id] = event.sequence
        if event.thread_id == HOME:
            self._check_reading(event)
            before = self.home.unread
            self.home.apply(event)
            for notice_id in self.home.unread - before:
                self.tries[notice_id].clear()
            self._check_wake_up(event)

    def _expect(self, event: Event) -> None:
        run = self.runs.get(event.run_id)
        ends = event.HasField("run_finished")
        if run is not None and run.thread_id == HOME and ends:
            # What it waited for, nobody has told so far.
            for job_id in run.waiting_for.ids:
                self._expect_job(job_id)
        elif run is not None and run.thread_id != HOME and (ends or event.HasField("run_waiting")):
            after = Run()
            after.CopyFrom(run)
            apply_to_run(after, event)
            if not self._is_awaited(run.thread_id):
                self._expect_job(run.thread_id, after)

    def _is_awaited(self, job_id: str) -> bool:
        parked = [self.runs[run_id] for run_id in self._live(HOME, *PARKED)]
        return any(job_id in run.waiting_for.ids for run in parked)

    def _expect_job(self, job_id: str, run: Run | None = None) -> None:
        job = self.jobs._jobs.get(job_id)
        run = run or (self.runs[job.run_id] if job else None)
        if job is None or run is None or job.run_id != run.run_id:
            return
        if run.state in TERMINAL and job.notify > JobNotify.JOB_NOTIFY_NONE:
            if not run.stopped_by_parent:
                self.due[job_id, run.run_id] = 1
        elif run.state == lifecycle.REQUIRES_ACTION and job.notify > 2:
            for action_id in run.waiting_for.ids:
                self.due[job_id, action_id] = 1

    def _take(self, notice: Notice) -> None:
        job = self.jobs._jobs[notice.job_id]
        assert notice.assistant_id == job.notify_assistant_id
        if notice.state in TERMINAL:
            assert notice.outcome == self.runs[notice.run_id].outcome
            self.told[notice.job_id, notice.run_id] += 1
        for action in notice.actions:
            self.told[notice.job_id, action.action_id] += 1

    def _check_reading(self, event: Event) -> None:
        for notice_id in event.notices_read.notice_ids:
            assert notice_id in self.home.unread
            notice = self.home.notices[notice_id]
            assert not event.run_id or (self.runs[event.run_id].assistant_id == notice.assistant_id)

    def _check_wake_up(self, event: Event) -> None:
        """Somebody is woken for something new, or for what three attempts have failed to read."""
        run = self.runs.get(event.run_id)
        if run is None or run.trigger != INBOX:
            return
        unread = [
            notice_id
            for notice_id, notice in self.home.notices.items()
            if notice_id in self.home.unread and notice.assistant_id == run.assistant_id
        ]
        if event.HasField("run_created"):
            tries = [self.tries[notice_id] for notice_id in unread]
            assert any(set(each) <= {FAILED} and len(each) < notices.MOST_WAKES for each in tries)
        if event.HasField("run_finished") and run.state != lifecycle.SUPERSEDED:
            for notice_id in unread:
                if self.sequences[notice_id] < run.created_sequence:
                    self.tries[notice_id].append(run.state)

    # What clients do

    @initialize(agent=agents)
    def begin(self, agent: str) -> None:
        self.admit(agent, 1)

    @rule(agent=agents, strategy=strategies)
    def admit(self, agent: str, strategy: int) -> None:
        new = self._new_run(agent)
        new.strategy = MultitaskStrategy.ValueType(strategy)
        self._write(lambda tx: admission.admit(tx, self._home(tx), new, CLIENT))

    @rule(pick=picks, agent=agents, how=notify, by_run=flags)
    def launch(self, pick: int, agent: str, how: int, by_run: bool) -> None:
        if len(self.job_ids) == MOST_JOBS:
            return
        found = self._live(HOME, RUNNING) if by_run else []
        launching = self.runs[found[pick % len(found)]] if found else None
        new = jobs.NewJob(
            NewThread(self._new_id("job")),
            self._new_run("worker"),
            task="work",
            parent_thread_id=HOME,
            parent_run_id=launching.run_id if launching else "",
            notify=JobNotify.ValueType(how),
            notify_assistant_id=launching.assistant_id if launching else default_id(agent),
            notify_agent=launching.agent if launching else agent,
        )
        new.run.trigger = RunTrigger.RUN_TRIGGER_JOB
        self.job_ids.append(new.thread.thread_id)
        self._write(lambda tx: self._start(tx, jobs.launch(tx, TENANT, new, LIMITS, CLIENT).run))

    @rule(pick=picks, delivery=st.sampled_from([1, 3]))
    def update_job(self, pick: int, delivery: int) -> None:
        new = self._new_run("worker")
        new.trigger = RunTrigger.RUN_TRIGGER_JOB

        def operation(tx: Transaction) -> None:
            job = jobs.find(tx, TENANT, self.job_ids[pick % len(self.job_ids)])
            jobs.update(tx, job, new, "more", JobDelivery.ValueType(delivery), CLIENT)

        if self.job_ids:
            self._write(operation)

    @rule(pick=picks, by_parent=flags, cascade=flags, really=seldom)
    def cancel_job(self, pick: int, by_parent: bool, cascade: bool, really: bool) -> None:
        def operation(tx: Transaction) -> None:
            job = jobs.find(tx, TENANT, self.job_ids[pick % len(self.job_ids)])
            jobs.cancel(tx, job, CLIENT, cascade=cascade, by_parent=by_parent)

        if self.job_ids and really:
            self._write(operation)

    @rule(pick=picks, rollback=flags, cascade=seldom)
    def cancel_run(self, pick: int, rollback: bool, cascade: bool) -> None:
        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            admission.cancel_run(tx, run, CLIENT, cascade=cascade, rollback=rollback)

        found = self._live(HOME, *PARKED) or self._live(HOME, RUNNING, lifecycle.QUEUED)
        self._at_work(found, pick, change)

    @rule(pick=picks)
    def answer(self, pick: int) -> None:
        def operation(tx: Transaction) -> None:
            rows = tx.open_actions(TENANT, limit=100)
            if rows:
                row = rows[pick % len(rows)]
                response = ActionResponse(action_id=row.data.action_id, answer_json="1")
                actions.answer_all(tx, row.run.thread, [response], CLIENT)

        self._write(operation)

    @rule(pick=picks, really=seldom)
    def read_by_a_program(self, pick: int, really: bool) -> None:
        unread = sorted(self.home.unread)
        if unread and really:
            chosen = unread[pick % len(unread)]
            self._write(lambda tx: notices.mark_read(tx, self._home(tx), [chosen], CLIENT))

    # What the server does

    @rule(pick=picks, from_top=flags)
    def claim(self, pick: int, from_top: bool) -> None:
        def operation(tx: Transaction) -> None:
            ready = tx.ready_runs(10)
            if ready:
                self._start(tx, ready[pick % len(ready)], from_top)

        self._write(operation)

    def _start(self, tx: Transaction, run: RunRow, from_top: bool = True) -> None:
        if run.ready:
            lifecycle.start(tx, run, "worker", from_top=from_top)

    def _start_all(self, tx: Transaction) -> None:
        for run in tx.ready_runs(10):
            self._start(tx, run)

    @rule(seconds=st.sampled_from([1, 4, 30]))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds * SECOND
        assert not self._write(admission.release_due)

    @rule(really=seldom)
    def crash(self, really: bool) -> None:
        if really:
            self._write(admission.rescue)

    # What agents do

    @rule(pick=picks)
    def call_a_model(self, pick: int) -> None:
        """A supervisor's model answers with all in its context."""

        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            event = Event(actor=SERVER)
            message = Message(message_id=self._new_id("message"), role=Role.ROLE_ASSISTANT)
            message.context_sequence = run.thread.session.head
            event.message_added.message.CopyFrom(message)
            _record_all(tx, run, [event])

        self._at_work(self._live(HOME, RUNNING), pick, change)

    @rule(pick=picks, of_job=flags, reads=flags, fails=seldom)
    def end(self, pick: int, of_job: bool, reads: bool, fails: bool) -> None:
        """A run ends; one of a supervisor may have taken its messages."""
        found = [r for job in self.job_ids for r in self._live(job, RUNNING)]

        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            if run.stop:
                ending.finish_stopped(tx, line, run)
                return
            if reads and not fails:
                notices.read_by(tx, run, SERVER, through=run.thread.session.head)
            ending.finish(tx, line, run, FAILED if fails else SUCCEEDED, Outcome())

        self._at_work(found if of_job else self._live(HOME, RUNNING), pick, change)

    @rule(pick=picks)
    def ask(self, pick: int) -> None:
        action = Action(action_id=self._new_id("action"), kind=Action.KIND_QUESTION, question="?")
        found = [r for job in self.job_ids for r in self._live(job, RUNNING)]

        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            if not run.stop:
                actions.raise_action(tx, run, action, SERVER)
                waiting_for = WaitingFor(kind=WaitingFor.KIND_ACTIONS, ids=[action.action_id])
                self._park(tx, line, run, waiting_for)

        self._at_work(found, pick, change)

    @rule(pick=picks, count=st.integers(1, 3), any=seldom)
    def wait(self, pick: int, count: int, any: bool) -> None:
        """A supervisor waits for its last jobs, unless they are over."""
        waiting_for = WaitingFor(kind=WaitingFor.KIND_CHILDREN, any=any)
        waiting_for.ids.extend(self.job_ids[-count:])

        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            session, now = run.thread.session.key, tx.now / 1e9
            if not run.stop and not is_over(tx, TENANT, session, waiting_for, now):
                self._park(tx, line, run, waiting_for)

        if self.job_ids:
            self._at_work(self._live(HOME, RUNNING), pick, change)

    @rule(pick=picks)
    def wait_in_vain(self, pick: int) -> None:
        """Of the jobs for which a supervisor waits one ends, and then nobody waits any more."""
        self.wait(pick, 2, any=False)
        self.end(pick, of_job=True, reads=False, fails=False)
        self.cancel_run(pick, rollback=False, cascade=False)

    def _park(
        self, tx: Transaction, line: ThreadLine, run: RunRow, waiting_for: WaitingFor
    ) -> None:
        lifecycle.park(tx, run, waiting_for)
        ending.tell_of_job(tx, run)
        notices.wake(tx, line)
        line.leave(run)

    # What must hold

    @invariant()
    def all_that_is_due_was_told_once(self) -> None:
        assert self.told == self.due

    @invariant()
    def rows_are_what_the_log_says(self) -> None:
        def query(reader: Reader) -> None:
            thread = self._home(reader)
            rows = reader.notices(thread.key)
            assert [row.data for row in rows] == list(self.home.notices.values())
            assert {row.data.notice_id for row in rows if not row.read} == self.home.unread
            assert thread.data.unread_notice_count == len(self.home.unread)
            told = [m.notice_id for m in self.home.messages if m.notice_id]
            assert told == list(self.home.notices)

        self._read(query)

    @invariant()
    def who_has_unread_notices_is_woken(self) -> None:
        def query(reader: Reader) -> None:
            thread = self._home(reader)
            line = ThreadLine(reader, thread)  # type: ignore[arg-type]
            if line.active:
                return
            woken = {r.data.assistant_id for r in line.runs if r.data.trigger == INBOX}
            for row in reader.unread_notices(thread.key):
                is_question = row.data.state == RunState.RUN_STATE_REQUIRES_ACTION
                given_up = row.wakes >= notices.MOST_WAKES
                assert row.data.assistant_id in woken or is_question or given_up

        self._read(query)

    def _settle(self) -> None:
        """Lets all go on to its end: then every notice was read once, by whom it was for."""
        for _ in range(200):
            self._write(self._start_all)
            self.answer(0)
            self.call_a_model(0)
            self.end(0, of_job=False, reads=True, fails=False)
            self.end(0, of_job=True, reads=False, fails=False)
            self.now += 30 * SECOND
            self._write(admission.release_due)
            if all(run.state in TERMINAL for run in self.runs.values()):
                break
        else:
            raise AssertionError("it does not end")
        self.all_that_is_due_was_told_once()
        for agent in AGENTS:
            self.admit(agent, 1)
            self.claim(0, from_top=False)
            self.call_a_model(0)
            self.end(0, of_job=False, reads=False, fails=False)
        assert self.home.unread == set()
        readings = Counter(each for e in self.home._readings for each in e.notices_read.notice_ids)
        assert readings == Counter(list(self.home.notices))


TestSupervision = Supervision.TestCase
TestSupervision.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
