"""Whatever is done in whatever order, SQLite answers as memory does."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from callboard.structs import to_struct
from callboard.v1.event_pb2 import Event, EventKind
from callboard.v1.lifecycle_pb2 import RunState
from callboard_server.log.events import CONDENSED, KINDS, kinds
from callboard_server.log.records import Draft, Record
from callboard_server.store.base import (
    DeliveryRow,
    DeliveryState,
    EventFilter,
    JobRow,
    NoticeRow,
    Page,
    Reader,
    Remembered,
    RunRow,
    SessionRow,
    Store,
    ThreadRow,
    Transaction,
)
from callboard_server.store.memory import MemoryStore
from callboard_server.store.sqlite import SqliteStore, admin, cache
from tests.store.rows import (
    SECOND,
    TENANT,
    Clock,
    add_run,
    delete_tree,
    finish,
    launch,
    merge,
    open_thread,
    read_notices,
    say,
    start,
    tell,
    whole_log,
)

THREADS = ["a", "b", "c", "d"]
RUNS = ["r", "s", "t"]
ALL = Page(limit=100)
MOST_BYTES = cache.MOST_BYTES
HELD: list[dict[str, Any]] = [{}, {"p": 1}, {'q"': {"k": {}}}, {"s.t": [1]}]

Step = tuple[Any, ...]

names = st.sampled_from(THREADS)
run_names = st.sampled_from(RUNS)
values = st.sampled_from([0, 1, True, None, "x", [1], {"k": 1}, {"k": {"j": None}}])
patches = st.dictionaries(st.sampled_from(["p", 'q"', "s.t"]), values, max_size=2)
steps = st.one_of(
    st.tuples(st.just("open"), names, st.none() | names, patches),
    st.tuples(st.just("launch"), names, names, st.sampled_from(["x", "y"])),
    st.tuples(st.just("run"), names, run_names, st.booleans(), st.none() | st.integers(0, 3)),
    st.tuples(st.just("start"), run_names),
    st.tuples(st.just("finish"), run_names),
    st.tuples(st.just("requeue"), run_names, st.integers(-2, 2)),
    st.tuples(st.just("say"), names, st.none() | run_names),
    st.tuples(st.just("merge"), names, patches),
    st.tuples(st.just("relabel"), names, patches),
    st.tuples(st.just("void"), run_names),
    st.tuples(st.just("emit"), run_names, st.integers(0, 3)),
    st.tuples(st.just("tell"), names, run_names),
    st.tuples(st.just("read"), names),
    st.tuples(st.just("post"), st.sampled_from("ij"), st.sampled_from("de")),
    st.tuples(st.just("settle"), st.sampled_from("de"), st.sampled_from(DeliveryState)),
    st.tuples(st.just("forget posts"), st.integers(0, 30)),
    st.tuples(st.just("delete"), names),
    st.tuples(st.just("remember"), st.sampled_from("mn"), st.sampled_from("xyz")),
    st.tuples(st.just("forget"), st.integers(0, 30)),
    st.tuples(st.just("look"), names, run_names),
    st.tuples(st.just("ask"), names, run_names),
    st.tuples(st.just("fail")),
)
operations = st.lists(st.lists(steps, min_size=1, max_size=5), min_size=1, max_size=4)


class Failure(Exception):
    pass


def perform(tx: Transaction, program: Sequence[Step]) -> list[object]:
    """Runs a program; steps that make no sense at their time do nothing."""
    return [_perform(tx, *step) for step in program]


def _perform(tx: Transaction, kind: str, *arguments: Any) -> object:
    match kind, arguments:
        case "open", (name, above, metadata):
            parent = tx.thread(TENANT, above) if above else None
            if tx.thread(TENANT, name) is None and (parent or not above):
                return show(open_thread(tx, name, parent=parent, metadata=metadata))
        case "launch", (name, above, label):
            parent = tx.thread(TENANT, above)
            if parent and tx.thread(TENANT, name) is None:
                return show(launch(tx, parent, name, labels={"l": label}))
        case "run", (name, run_id, ready, due_at):
            thread = tx.thread(TENANT, name)
            if thread and tx.run(TENANT, run_id) is None:
                return show(add_run(tx, thread, run_id, ready=ready, due_at=due_at))
        case "remember", (method, request_id):
            if tx.remembered(TENANT, method, request_id) is None:
                tx.remember(TENANT, method, request_id, Remembered(b"d", request_id.encode()))
        case "forget", (seconds,):
            tx.forget(tx.now / 1e9 - seconds)
        case "post", (delivery_id, destination):
            tx.add_delivery(TENANT, delivery_id, destination, b"body")
        case "settle", (destination, state):
            for row in tx.pending_deliveries(destination, 1):
                row.state, row.attempts, row.due_at = state, row.attempts + 1, row.due_at + 1
                tx.save_delivery(row)
        case "forget posts", (seconds,):
            tx.forget_deliveries(tx.now / 1e9 - seconds)
        case "look", (name, run_id):
            return tx.now, look(tx, name, run_id)
        case "ask", (name, run_id):
            return [show(ask(tx)) for ask in questions(name, run_id)]
        case "fail", ():
            raise Failure
        case _, (run_id, *rest) if run_id in RUNS:
            run = tx.run(TENANT, run_id)
            return _with_run(tx, kind, run, *rest) if run else None
        case _, (name, *rest):
            thread = tx.thread(TENANT, name)
            return _with_thread(tx, kind, thread, *rest) if thread else None
    return None


def _with_run(tx: Transaction, kind: str, run: RunRow, *rest: Any) -> object:
    match kind:
        case "start":
            start(tx, run)
        case "finish":
            finish(tx, run)
            run.ready, run.due_at = False, None
        case "requeue":
            run.data.state = RunState.RUN_STATE_QUEUED
            run.queued_at += rest[0] * SECOND
            run.ready = True
        case "emit":
            tx.append_drafts(run, [_draft(number) for number in range(rest[0])])
        case "void":
            event = Event()
            event.claim_voided.claim_epoch = run.data.claim_epoch
            tx.append(run.thread, event, run)
    tx.save_run(run)
    return show(run)


def _draft(number: int) -> Draft:
    event = Event(ignorable=True)
    event.custom.name, event.custom.data_json = "n", str(number)
    return Draft(KINDS["custom"], event.SerializeToString())


def _with_thread(tx: Transaction, kind: str, thread: ThreadRow, *rest: Any) -> object:
    match kind:
        case "say":
            return say(tx, thread, "hello", tx.run(TENANT, rest[0]) if rest[0] else None)
        case "merge":
            merge(tx, thread, rest[0])
        case "tell":
            run = tx.run(TENANT, rest[0])
            return show(tell(tx, thread, run)) if run else None
        case "read":
            read_notices(tx, thread)
            return show(tx.unread_notices(thread.key))
        case "relabel":
            thread.data.metadata.CopyFrom(to_struct(rest[0]))
            tx.save_thread(thread)
        case "delete":
            delete_tree(tx, thread)
    return None


def look(reader: Reader, name: str, run_id: str) -> object:
    """Everything that the queries find."""
    thread, run = reader.thread(TENANT, name), reader.run(TENANT, run_id)
    found: list[object] = [
        thread,
        run,
        reader.job(TENANT, name),
        reader.ready_runs(2),
        [reader.ready_before(run), reader.notices_about(run.key)] if run else None,
        reader.running_runs(),
        reader.due_runs(2, 100),
        reader.next_due(),
        [
            reader.list_threads(TENANT, ALL, session=None, busy=busy, metadata=metadata)
            for busy in (None, True, False)
            for metadata in HELD
        ],
        reader.list_runs(TENANT, ALL, thread=None, states=[1, 5]),
        reader.list_jobs(TENANT, ALL, parent=None, states=(), labels={"l": "x"}),
        reader.jobs_like(TENANT, "", 9),
        [reader.remembered(TENANT, m, r) for m in "mn" for r in "xyz"],
        [reader.pending_deliveries(destination, 2) for destination in "de"],
        reader.counts(),
    ]
    if thread:
        key, session = thread.key, thread.session.key
        page = Page(2, before=key)
        found += [
            reader.session(session),
            reader.thread_at(key),
            reader.live_runs(key),
            reader.tree_is_busy(key),
            reader.tree_is_live(key),
            reader.threads_below(key),
            reader.list_threads(TENANT, page, session=session, busy=None, metadata={}),
            reader.list_runs(TENANT, ALL, thread=key, states=()),
            reader.list_jobs(TENANT, ALL, parent=key, states=[1], labels={}),
            reader.list_jobs(TENANT, ALL, below=key, states=(), labels={}),
            reader.list_jobs(TENANT, page, below=key, states=[1], labels={"l": "x"}),
            reader.jobs_of_session(session),
            reader.active_jobs(key),
            reader.notices(key),
            reader.unread_notices(key),
            [_pages_of_notices(reader, key, unread) for unread in (True, False)],
            [reader.notice(TENANT, row.data.notice_id) for row in reader.notices(key)],
            reader.notice(TENANT, "unknown"),
            reader.message_count(key),
            reader.messages(key, limit=2, newest_first=True, beyond=6),
            reader.messages(key, limit=2, newest_first=False, beyond=2),
            reader.voids(key),
            whole_log(reader, session),
            [list(reader.events(session, wanted, after=1)) for wanted in _filters(key, run)],
        ]
    return show(found)


def questions(name: str, run_id: str) -> list[Callable[[Reader], object]]:
    """Queries to ask one by one: what a store remembers of its rows can answer each of them."""

    def of_thread(ask: Callable[[Reader, ThreadRow], object]) -> Callable[[Reader], object]:
        def answer(reader: Reader) -> object:
            thread = reader.thread(TENANT, name)
            return ask(reader, thread) if thread else None

        return answer

    def of_run(ask: Callable[[Reader, RunRow], object]) -> Callable[[Reader], object]:
        def answer(reader: Reader) -> object:
            run = reader.run(TENANT, run_id)
            return ask(reader, run) if run else None

        return answer

    return [
        of_thread(lambda reader, thread: thread),
        of_thread(lambda reader, thread: reader.thread_at(thread.key)),
        of_thread(lambda reader, thread: reader.session(thread.session.key)),
        of_thread(lambda reader, thread: reader.live_runs(thread.key)),
        of_thread(lambda reader, thread: reader.unread_notices(thread.key)),
        of_thread(lambda reader, thread: reader.tree_is_busy(thread.key)),
        of_thread(lambda reader, thread: reader.tree_is_live(thread.key)),
        of_thread(lambda reader, thread: reader.threads_below(thread.key)),
        of_run(lambda reader, run: run),
        of_run(lambda reader, run: reader.ready_before(run)),
        of_run(lambda reader, run: reader.actions_of_run(run.key)),
        of_run(lambda reader, run: reader.notices_about(run.key)),
        lambda reader: reader.job(TENANT, name),
        lambda reader: reader.ready_runs(2),
        lambda reader: reader.remembered(TENANT, "m", "x"),
    ]


def _pages_of_notices(reader: Reader, thread: int, unread: bool) -> list[NoticeRow]:
    first = reader.list_notices(thread, limit=2, unread=unread)
    rest = reader.list_notices(
        thread, limit=9, after=first[-1].key if first else None, unread=unread
    )
    return [*first, *rest]


def _filters(key: int, run: RunRow | None) -> list[EventFilter]:
    return [
        EventFilter(thread=key),
        EventFilter(thread=key, condensed=CONDENSED),
        EventFilter(thread=key, kinds=kinds("message_added", "values_merged")),
        EventFilter(run=run.key if run else 99),
    ]


def show(value: Any) -> object:
    """Plain values to compare, with all that a row holds."""
    match value:
        case Message():
            return MessageToDict(value)
        case list():
            return [show(item) for item in value]
        case Record():
            event = show(value.event)
            kind = EventKind.Name(EventKind.ValueType(value.kind))
            return value.session, value.sequence, value.thread, value.run, kind, event
        case SessionRow() | ThreadRow() | RunRow() | JobRow() | NoticeRow():
            return [show(getattr(value, name)) for name in value.__slots__]
        case DeliveryRow():
            # Nothing refers to its key.
            return [show(getattr(value, name)) for name in value.__slots__ if name != "key"]
    return value


class Stores(RuleBasedStateMachine):
    """Gives the same operations to both stores and compares all that they say."""

    def __init__(self) -> None:
        super().__init__()
        self._folder = tempfile.TemporaryDirectory()
        self._path = str(Path(self._folder.name) / "jobs.db")
        self._clock = Clock()
        self._failed = False
        self._heard: tuple[list[Record], list[Record]] = [], []
        self._memory = MemoryStore(clock=self._clock)
        self._runner = asyncio.Runner()
        self._runner.run(self._memory.open(self._heard[0].extend))
        self._open_sqlite()

    def _open_sqlite(self) -> None:
        self._sqlite = SqliteStore(self._path, worker_id="w", synchronous="OFF", clock=self._clock)
        self._runner.run(self._sqlite.open(self._heard[1].extend))

    @rule(programs=operations, seconds=st.integers(0, 5))
    def write(self, programs: list[list[Step]], seconds: int) -> None:
        self._clock.now += seconds * SECOND

        async def all_of(store: Store) -> list[object]:
            writes = [store.write(lambda tx, p=p: perform(tx, p)) for p in programs]  # type: ignore[misc]
            return [
                type(answer) if isinstance(answer, BaseException) else answer
                for answer in await asyncio.gather(*writes, return_exceptions=True)
            ]

        expected = self._runner.run(all_of(self._memory))
        assert self._runner.run(all_of(self._sqlite)) == expected
        assert all(isinstance(answer, list) or answer is Failure for answer in expected)
        # Keys that were never committed may be used again by another process.
        self._failed |= Failure in expected

    @precondition(lambda self: not self._failed)
    @rule()
    def reopen(self) -> None:
        self._runner.run(self._sqlite.close())
        self._open_sqlite()

    @rule(name=names, run_id=run_names)
    def read(self, name: str, run_id: str) -> None:
        def query(reader: Reader) -> object:
            return look(reader, name, run_id)

        expected = self._runner.run(self._memory.read(query))
        assert self._runner.run(self._sqlite.read(query)) == expected

    @rule(name=names, run_id=run_names)
    def ask(self, name: str, run_id: str) -> None:
        for question in questions(name, run_id):

            def query(reader: Reader, question: Callable[[Reader], object] = question) -> object:
                return show(question(reader))

            expected = self._runner.run(self._memory.read(query))
            assert self._runner.run(self._sqlite.read(query)) == expected

    @invariant()
    def both_told_the_same(self) -> None:
        assert show(self._heard[0]) == show(self._heard[1])

    def teardown(self) -> None:
        with self._folder:
            for store in (self._memory, self._sqlite):
                self._runner.run(store.close())
            self._runner.close()
            problems = admin.check(self._path)
            # These programs do what no engine does.
            odd = "differ from its events", "after its end"
            assert [line for line in problems if not any(text in line for text in odd)] == []


class ForgetfulStores(Stores):
    """The same where next to nothing is remembered from one operation to the next."""

    def _open_sqlite(self) -> None:
        super()._open_sqlite()
        cache.MOST_BYTES = 2000

    def teardown(self) -> None:
        cache.MOST_BYTES = MOST_BYTES
        super().teardown()


TestStores = Stores.TestCase
TestForgetfulStores = ForgetfulStores.TestCase
TestStores.settings = TestForgetfulStores.settings = settings(
    max_examples=25,
    stateful_step_count=12,
    deadline=None,
    phases=set(Phase) - {Phase.explain},
    suppress_health_check=[HealthCheck.too_slow],
)
