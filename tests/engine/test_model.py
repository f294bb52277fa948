"""Whatever happens to runs in whatever order, the engine keeps its promises after each step."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from callboard.structs import to_struct
from callboard.v1.event_pb2 import (
    Action,
    ActionResponse,
    Actor,
    Event,
    JobDelivery,
    RunQueued,
    RunTrigger,
)
from callboard.v1.lifecycle_pb2 import (
    MultitaskStrategy,
    Outcome,
    PendingActions,
    RunError,
    RunState,
    WaitingFor,
)
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard.v1.run_pb2 import Run
from callboard_server.agents.errors import Fenced
from callboard_server.engine import actions, admission, ending, jobs, lifecycle
from callboard_server.engine.creation import NewRun, NewThread, apply_patch, open_session
from callboard_server.engine.lifecycle import (
    FAILED,
    PARKED,
    QUEUED,
    REQUIRES_ACTION,
    RUNNING,
    SERVER,
    SUCCEEDED,
    SUPERSEDED,
    TERMINAL,
    TIMED_OUT,
    TRANSITIONS,
    WAITING,
    timestamp,
)
from callboard_server.engine.line import ThreadLine, is_active, is_concurrent
from callboard_server.engine.waiting import is_over
from callboard_server.errors import ServiceError
from callboard_server.log.fold import JobsFold, ThreadFold, apply_to_run, created_run
from callboard_server.log.records import Record
from callboard_server.store.base import EventFilter, Reader, RunRow, Transaction
from callboard_server.store.memory import MemoryStore

T = TypeVar("T")

TENANT, ROOT = "tenant", "root"
CLIENT = Actor(kind=Actor.KIND_CLIENT)
SECOND = 10**9
LIMITS = jobs.DelegationLimits(depth=3, width=4)
MOVES = {"run_started": RUNNING, "run_queued": QUEUED}
# Those that end others come up less often: more is then under way.
STRATEGIES = [each for each in MultitaskStrategy.values() if each] + [
    admission.STEER,
    admission.STEER,
    admission.CONCURRENT,
    MultitaskStrategy.MULTITASK_STRATEGY_ENQUEUE,
    MultitaskStrategy.MULTITASK_STRATEGY_ENQUEUE,
]
DELIVERIES = [each for each in JobDelivery.values() if each]
REPLACING = (admission.INTERRUPT, admission.ROLLBACK)

assistants = st.sampled_from(["ada", "bob"])
picks = st.integers(0, 5)
flags = st.booleans()
seldom = st.sampled_from([False, False, False, True])


class Engine(RuleBasedStateMachine):
    """A session with its threads, jobs and runs, and what its log comes to so far."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1_000 * SECOND
        self.count = 0
        self.loop = asyncio.new_event_loop()
        self.store = MemoryStore(clock=lambda: self.now)
        self.loop.run_until_complete(self.store.open(self._observe))
        self.threads = [ROOT]
        self.claims: list[tuple[str, int]] = []
        """Every claim there was: run and epoch."""
        self.seen: dict[tuple[str, int], int] = {}
        """How far each claim has read."""
        self.unseen: set[str] = set()
        """Runs that ended with input that they had not seen, and that must be followed."""
        self.runs: dict[str, Run] = {}
        self.jobs = JobsFold()
        self.folds: defaultdict[str, ThreadFold] = defaultdict(ThreadFold)
        self.rolled_back: set[str] = set()
        self._write(lambda tx: open_session(tx, TENANT, NewThread(ROOT), CLIENT))

    def teardown(self) -> None:
        self.loop.close()

    # Support

    def _write(self, operation: Callable[[Transaction], T]) -> T:
        self.now += SECOND // 1000
        return self.loop.run_until_complete(self.store.write(operation))

    def _read(self, query: Callable[[Reader], T]) -> T:
        return self.loop.run_until_complete(self.store.read(query))

    def _new_id(self, kind: str) -> str:
        self.count += 1
        return f"{kind}-{self.count}"

    def _run(self, pick: int, *states: int, stopping: bool = True) -> str | None:
        """Picks a run that is in one of some states."""

        def query(reader: Reader) -> list[str]:
            rows = self._live(reader)
            return [
                run.data.run_id
                for run in rows
                if run.data.state in states and (stopping or not run.stop)
            ]

        found = self._read(query)
        return found[pick % len(found)] if found else None

    def _live(self, reader: Reader) -> list[RunRow]:
        rows: list[RunRow] = []
        for thread_id in self.threads:
            thread = reader.thread(TENANT, thread_id)
            assert thread is not None
            rows += reader.live_runs(thread.key)
        return rows

    def _observe(self, records: Sequence[Record]) -> None:
        """Folds what was committed, and holds it against what may be."""
        for record in records:
            event = record.event
            if event.run_id:
                self._observe_run(event)
            self.jobs.apply(event)
            self.folds[event.thread_id].apply(event)
            self.rolled_back.update(event.runs_rolled_back.run_ids)

    def _observe_run(self, event: Event) -> None:
        kind = event.WhichOneof("payload") or ""
        if kind == "run_created":
            self.runs[event.run_id] = created_run(event)
            self.unseen.discard(event.run_created.follows_run_id)
            return
        run = self.runs[event.run_id]
        assert run.state not in TERMINAL, f"{kind} after the end of a run"
        goal = MOVES.get(kind)
        if kind in ("run_waiting", "run_finished"):
            goal = getattr(event, kind).state
        if goal is not None:
            assert goal in TRANSITIONS[run.state], f"{run.state} -> {goal}"
        if kind == "run_finished" and goal in (SUCCEEDED, FAILED, TIMED_OUT):
            seen = self.seen.get((event.run_id, run.claim_epoch), 0)
            if run.steered_sequence > seen and not run.rolled_back:
                self.unseen.add(event.run_id)
        apply_to_run(run, event)

    def _message(self, role: Role.ValueType) -> Message:
        text = self._new_id("text")
        return Message(message_id=text, role=role, content=[ContentBlock(text=Text(text=text))])

    def _new_run(self, assistant: str, values: bool) -> NewRun:
        return NewRun(
            run_id=self._new_id("run"),
            assistant_id=assistant,
            assistant_version=1,
            agent=assistant,
            messages=[self._message(Role.ROLE_USER)],
            values=to_struct({"by": self.count, f"key {self.count}": 1}) if values else None,
        )

    # What clients do

    @initialize(assistant=assistants)
    def begin(self, assistant: str) -> None:
        self.admit(0, assistant, MultitaskStrategy.MULTITASK_STRATEGY_ENQUEUE, False, 0, True)

    @rule(
        pick=picks,
        assistant=assistants,
        strategy=st.sampled_from(STRATEGIES),
        cancel=flags,
        delay=st.sampled_from([0, 0, 0, 5]),
        values=flags,
    )
    def admit(
        self, pick: int, assistant: str, strategy: int, cancel: bool, delay: int, values: bool
    ) -> None:
        concurrent = strategy == admission.CONCURRENT
        new = self._new_run(assistant, values and not concurrent)
        new.strategy = MultitaskStrategy.ValueType(strategy)
        if cancel and strategy in REPLACING:
            new.pending_actions = PendingActions.PENDING_ACTIONS_CANCEL
        if delay:
            new.start_after = timestamp(self.now / 1e9 + delay)
        thread_id = self.threads[pick % len(self.threads)]

        def operation(tx: Transaction) -> None:
            thread = tx.thread(TENANT, thread_id)
            assert thread is not None
            self._claim_some(tx, admission.admit(tx, thread, new, CLIENT))

        before = self._read(lambda reader: len(self._log(reader)))
        try:
            self._write(operation)
        except ServiceError:
            assert strategy == admission.REJECT
            assert self._read(lambda reader: len(self._log(reader))) == before

    @rule(pick=picks)
    def steer(self, pick: int) -> None:
        run_id = self._run(pick, RUNNING)
        if run_id is None:
            return
        run = self.runs[run_id]
        self.admit(
            self.threads.index(run.thread_id), run.assistant_id, admission.STEER, False, 0, False
        )

    @rule(pick=picks, assistant=assistants)
    def launch(self, pick: int, assistant: str) -> None:
        run_id = self._run(pick, RUNNING)
        if run_id is None or len(self.threads) > 4:
            return
        thread = NewThread(self._new_id("job"))
        new = jobs.NewJob(
            thread,
            self._new_run(assistant, values=False),
            task="work",
            parent_thread_id=self.runs[run_id].thread_id,
            parent_run_id=run_id,
        )
        new.run.trigger = RunTrigger.RUN_TRIGGER_JOB
        try:
            self._write(
                lambda tx: self._claim_some(tx, jobs.launch(tx, TENANT, new, LIMITS, CLIENT).run)
            )
        except ServiceError:
            return
        self.threads.append(thread.thread_id)

    @rule(pick=picks, assistant=assistants, delivery=st.sampled_from(DELIVERIES))
    def update_job(self, pick: int, assistant: str, delivery: int) -> None:
        if len(self.threads) == 1:
            return
        job_id = self.threads[1 + pick % (len(self.threads) - 1)]
        new = self._new_run(assistant, values=False)
        new.trigger = RunTrigger.RUN_TRIGGER_JOB

        def operation(tx: Transaction) -> None:
            job = jobs.find(tx, TENANT, job_id)
            jobs.update(tx, job, new, "more", JobDelivery.ValueType(delivery), CLIENT)

        self._write(operation)

    @rule(pick=picks, rollback=flags, cascade=flags, really=seldom)
    def cancel(self, pick: int, rollback: bool, cascade: bool, really: bool) -> None:
        if not really:
            return
        run_id = self._run(pick, QUEUED, RUNNING, WAITING, REQUIRES_ACTION)

        def operation(tx: Transaction) -> None:
            run = tx.run(TENANT, run_id or "")
            if run is not None:
                admission.cancel_run(tx, run, CLIENT, cascade=cascade, rollback=rollback)

        self._write(operation)

    @rule(pick=picks, really=seldom)
    def cancel_tree(self, pick: int, really: bool) -> None:
        if not really or pick >= len(self.threads):
            return

        def operation(tx: Transaction) -> None:
            thread = tx.thread(TENANT, self.threads[pick])
            assert thread is not None
            ending.cancel_tree(tx, thread, CLIENT)

        self._write(operation)

    @rule(pick=picks)
    def answer(self, pick: int) -> None:
        def operation(tx: Transaction) -> None:
            rows = tx.open_actions(TENANT, limit=100)
            if not rows:
                return
            row = rows[pick % len(rows)]
            response = ActionResponse(action_id=row.data.action_id, answer_json="1")
            actions.answer_all(tx, row.run.thread, [response], CLIENT)

        try:
            self._write(operation)
        except ServiceError as error:
            assert "ACTION_CLOSED" in repr(error) or "closed" in str(error)

    # What the server does

    @rule(pick=picks, from_top=flags)
    def claim(self, pick: int, from_top: bool) -> None:
        def operation(tx: Transaction) -> None:
            ready = tx.ready_runs(10)
            if not ready:
                return
            self._start(tx, ready[pick % len(ready)], from_top)

        self._write(operation)

    def _claim_some(self, tx: Transaction, run: RunRow) -> None:
        """Claims most runs with the commit that lets them in."""
        if run.ready and self.count % 4:
            self._start(tx, run, from_top=True)

    def _start(self, tx: Transaction, run: RunRow, from_top: bool) -> None:
        lifecycle.start(tx, run, "worker", from_top=from_top)
        self.claims.append((run.data.run_id, run.data.claim_epoch))

    @rule(seconds=st.sampled_from([1, 3, 10]))
    def let_time_pass(self, seconds: int) -> None:
        self.now += seconds * SECOND
        assert not self._write(admission.release_due)

    @rule(really=seldom)
    def crash(self, really: bool) -> None:
        if really:
            self._write(admission.rescue)

    # What agents do

    def _at_work(
        self, pick: int, change: Callable[[Transaction, ThreadLine, RunRow], None]
    ) -> None:
        run_id = self._run(pick, RUNNING)

        def operation(tx: Transaction) -> None:
            run = tx.run(TENANT, run_id or "")
            assert run is not None
            change(tx, ThreadLine(tx, run.thread), run)

        if run_id is not None:
            self._write(operation)

    @rule(pick=picks)
    def look(self, pick: int) -> None:
        run_id = self._run(pick, RUNNING)
        if run_id is not None:
            head = self._read(lambda reader: self._log(reader)[-1].sequence)
            self.seen[run_id, self.runs[run_id].claim_epoch] = head

    @rule(pick=st.integers(0, 20), values=flags)
    def say(self, pick: int, values: bool) -> None:
        """A claim writes, of today or of old."""
        if not self.claims:
            return
        run_id, epoch = self.claims[-1 - pick % len(self.claims)]
        run = self.runs[run_id]
        holds = run.claim_epoch == epoch and (run.state == RUNNING or run.state in PARKED)

        def operation(tx: Transaction) -> None:
            row = lifecycle.held(tx, TENANT, run_id, epoch)
            event = Event(actor=SERVER)
            if values:
                event.values_merged.patch.CopyFrom(to_struct({"by": self.count, "at": epoch}))
                apply_patch(row.thread, event.values_merged.patch)
            else:
                message = self._message(Role.ROLE_ASSISTANT)
                message.run_id = run_id
                event.message_added.message.CopyFrom(message)
            lifecycle.record(tx, row, event)

        try:
            self._write(operation)
        except Fenced:
            assert not holds
        else:
            assert holds

    @rule(pick=picks, deadline=flags, waits=flags)
    def ask(self, pick: int, deadline: bool, waits: bool) -> None:
        action = Action(action_id=self._new_id("action"), kind=Action.KIND_QUESTION, question="?")
        if deadline:
            action.deadline.CopyFrom(timestamp(self.now / 1e9 + 4))

        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            actions.raise_action(tx, run, action, SERVER)
            if waits:
                self._park(tx, line, run, WaitingFor(kind=WaitingFor.KIND_ACTIONS))

        self._at_work(pick, change)

    @rule(pick=picks, kind=st.sampled_from([3, 4, 5]))
    def wait(self, pick: int, kind: int) -> None:
        """Parks a run, unless what it waits for is there already."""
        waiting_for = WaitingFor(kind=WaitingFor.Kind.ValueType(kind), any=pick % 2 == 0)
        self._at_work(pick, lambda tx, line, run: self._park(tx, line, run, waiting_for))

    def _park(
        self, tx: Transaction, line: ThreadLine, run: RunRow, waiting_for: WaitingFor
    ) -> None:
        match waiting_for.kind:
            case WaitingFor.KIND_TIMER:
                waiting_for.until.CopyFrom(timestamp(tx.now / 1e9 + 2))
            case WaitingFor.KIND_ACTIONS:
                rows = [row for row in tx.actions_of_run(run.key) if not row.state]
                waiting_for.ids.extend(row.data.action_id for row in rows)
                limits = [row.data.deadline for row in rows if row.data.HasField("deadline")]
                if limits:
                    waiting_for.until.CopyFrom(min(limits, key=lambda t: t.ToNanoseconds()))
            case _:
                mine = tx.jobs_of_session(run.thread.session.key)
                waiting_for.ids.extend(
                    job.data.job_id for job in mine if job.parent == run.thread.key
                )
        session = run.thread.session.key
        empty = waiting_for.kind != WaitingFor.KIND_TIMER and not waiting_for.ids
        if run.stop or empty or is_over(tx, TENANT, session, waiting_for, tx.now / 1e9):
            return
        lifecycle.park(tx, run, waiting_for)
        line.advance()

    @rule(pick=picks, state=st.sampled_from([SUCCEEDED, SUCCEEDED, FAILED]))
    def finish(self, pick: int, state: RunState.ValueType) -> None:
        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            seen = self.seen.get((run.data.run_id, run.data.claim_epoch), 0)
            goal = RunState.ValueType(run.stop) if run.stop else state
            ending.finish(tx, line, run, goal, Outcome(), seen=seen)

        self._at_work(pick, change)

    @rule(pick=picks)
    def fail_and_try_again(self, pick: int) -> None:
        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            if run.stop:
                ending.finish_stopped(tx, line, run)
            else:
                lifecycle.queue_retry(tx, run, RunError(message="no"), tx.now / 1e9 + 2)
                line.advance()

        self._at_work(pick, change)

    @rule(pick=picks)
    def give_back(self, pick: int) -> None:
        def change(tx: Transaction, line: ThreadLine, run: RunRow) -> None:
            if run.stop:
                ending.finish_stopped(tx, line, run)
            else:
                lifecycle.queue_again(tx, run, RunQueued.REASON_DRAINED)
                line.advance()

        self._at_work(pick, change)

    @rule(pick=picks, really=seldom)
    def time_out(self, pick: int, really: bool) -> None:
        if not really:
            return
        self._at_work(pick, lambda tx, line, run: ending.stop(tx, line, run, TIMED_OUT, SERVER))

    # What holds after each of them

    def _log(self, reader: Reader) -> list[Event]:
        thread = reader.thread(TENANT, ROOT)
        assert thread is not None
        return [record.event for record in reader.events(thread.session.key, EventFilter())]

    @invariant()
    def every_thread_goes_on(self) -> None:
        self._read(self._check_threads)

    def _check_threads(self, reader: Reader) -> None:
        for thread_id in self.threads:
            thread = reader.thread(TENANT, thread_id)
            assert thread is not None
            live = reader.live_runs(thread.key)
            active = sorted(
                (run for run in live if is_active(run)), key=lambda run: (run.queued_at, run.key)
            )
            apart = [run for run in active if not is_concurrent(run)]
            at_work = [run for run in apart if run.data.state == RUNNING]
            assert len(at_work) <= 1
            for run in live:
                first = bool(active) and run is active[0] and not at_work
                is_queued = run.data.state == QUEUED and run.due_at is None
                assert run.ready == (is_queued and (first or is_concurrent(run)))
                assert not (run.stop and run.data.state != RUNNING)
                self._check_wait(reader, run)
            if any(run.data.state == QUEUED for run in active):
                assert any(run.ready or run.data.state == RUNNING for run in active)

    def _check_wait(self, reader: Reader, run: RunRow) -> None:
        """A run that waits has something to wait for."""
        if run.data.state not in PARKED:
            return
        waits = run.data.waiting_for
        session = run.thread.session.key
        if waits.kind != WaitingFor.KIND_TIMER and not waits.HasField("until"):
            assert not is_over(reader, TENANT, session, waits, self.now / 1e9)
            assert run.due_at is None
        else:
            assert run.due_at is not None

    @invariant()
    def rows_are_what_the_log_comes_to(self) -> None:
        self._read(self._check_rows)

    def _check_rows(self, reader: Reader) -> None:
        for run_id, folded in self.runs.items():
            row = reader.run(TENANT, run_id)
            assert row is not None
            assert row.data == folded
        for thread_id in self.threads:
            thread = reader.thread(TENANT, thread_id)
            assert thread is not None
            fold = self.folds[thread_id]
            assert thread.values == fold.values
            assert thread.data.pending_action_count == len(fold.actions)
            opened = reader.open_actions(TENANT, limit=100, thread=thread.key)
            assert {row.data.action_id for row in opened} == fold.actions.keys()
            over = {row.run.data.run_id for row in opened if row.run.data.state in TERMINAL}
            assert not over
            assert self.rolled_back.isdisjoint(message.run_id for message in fold.messages)
        self._check_jobs(reader)

    def _check_jobs(self, reader: Reader) -> None:
        folded = self.jobs._jobs
        for job_id in self.threads[1:]:
            job = reader.job(TENANT, job_id)
            assert job is not None
            assert job.run.data.run_id == folded[job_id].run_id
            assert job.data.run_count == folded[job_id].run_count

    @invariant()
    def input_is_never_lost(self) -> None:
        assert self.unseen == set()

    @invariant()
    def superseded_runs_say_by_whom(self) -> None:
        for run in self.runs.values():
            if run.state == SUPERSEDED:
                assert run.superseded_by_run_id in self.runs


TestEngine = Engine.TestCase
TestEngine.settings = settings(
    max_examples=60,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
