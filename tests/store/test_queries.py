"""What the queries of a store find."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from callboard.structs import to_struct
from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.server_pb2 import Counts
from callboard_server.log.events import CONDENSED, kinds
from callboard_server.store.base import (
    AssistantRow,
    EventFilter,
    Page,
    Reader,
    Store,
    ThreadRow,
    Transaction,
)
from tests.store.rows import (
    QUEUED,
    REQUIRES_ACTION,
    RUNNING,
    SECOND,
    SUCCEEDED,
    TENANT,
    WAITING,
    Clock,
    add_run,
    delete_tree,
    finish,
    launch,
    merge,
    open_thread,
    say,
    sequences,
    whole_log,
)

ALL = Page(limit=100)


def roots(reader: Reader, page: Page = ALL, **filters: Any) -> list[str]:
    options = {"session": None, "busy": None, "metadata": {}} | filters
    return [row.data.thread_id for row in reader.list_threads(TENANT, page, **options)]


def run_ids(
    reader: Reader, page: Page = ALL, *, thread: int | None = None, states: Any = ()
) -> Any:
    rows = reader.list_runs(TENANT, page, thread=thread, states=states)
    return [row.data.run_id for row in rows]


def job_ids(reader: Reader, **filters: Any) -> list[str]:
    options = {"states": (), "labels": {}} | filters
    return [row.thread.data.thread_id for row in reader.list_jobs(TENANT, ALL, **options)]


def thread(reader: Reader, thread_id: str) -> ThreadRow:
    row = reader.thread(TENANT, thread_id)
    assert row is not None
    return row


# Lists


async def test_pages_are_newest_first_and_stable(store: Store) -> None:
    def fill(tx: Transaction, first: int) -> None:
        for n in range(first, first + 5):
            add_run(tx, open_thread(tx, f"t{n}"), f"r{n}")

    def page(reader: Reader, before: int | None) -> list[tuple[str, int]]:
        rows = reader.list_threads(TENANT, Page(3, before), session=None, busy=None, metadata={})
        return [(row.data.thread_id, row.key) for row in rows]

    await store.write(lambda tx: fill(tx, 0))
    seen: list[str] = []
    before = None
    for added in (5, 10):
        rows = await store.read(partial(page, before=before))
        seen += [name for name, _ in rows]
        before = rows[-1][1]
        await store.write(partial(fill, first=added))
    assert seen == ["t4", "t3", "t2", "t1", "t0"]
    assert await store.read(lambda reader: run_ids(reader, Page(2))) == ["r14", "r13"]
    assert await store.read(lambda reader: run_ids(reader, Page(2, 3))) == ["r1", "r0"]
    assert await store.read(lambda reader: page(reader, 1)) == []


METADATA: dict[str, Any] = {
    "plain": "x",
    "one": 1,
    "yes": True,
    "no": False,
    "half": 0.5,
    "nothing": None,
    "list": [1, {"b": 2, "a": 1}, "x"],
    "nested": {"deep": {"er": "here", "other": 1}, "side": [True]},
    "empty": {},
    "dots.in.it": 1,
    'quo"te': 'va"lue',
    "back\\slash": "\\",
    'back\\"both': 1,
    "$.plain": 2,
    "[0]": 3,
    "schlüssel": "wörter ☂ 😀",
    "": "empty key",
    "new\nline": "\t\u0001",
}


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        *({name: value} for name, value in METADATA.items()),
        {"plain": "x", "one": 1},
        {"nested": {"deep": {"er": "here"}}},
        {"nested": {"side": [True]}},
        {"nested": {}},
        {"nested": {"deep": {}}},
        {"list": [1, {"a": 1, "b": 2}, "x"]},
    ],
    ids=repr,
)
async def test_metadata_that_is_held(store: Store, wanted: dict[str, Any]) -> None:
    await store.write(lambda tx: (open_thread(tx, "t", metadata=METADATA), open_thread(tx, "u")))
    found = await store.read(lambda reader: roots(reader, metadata=wanted))
    assert found == (["t"] if wanted else ["u", "t"])


@pytest.mark.parametrize(
    "wanted",
    [
        {"absent": None},
        {"absent": {}},
        {"one": True},
        {"yes": 1},
        {"no": 0},
        {"no": None},
        {"nothing": False},
        {"one": "1"},
        {"plain": "X"},
        {"plain": {}},
        {"plain": {"x": 1}},
        {"list": [1]},
        {"list": [1, {"b": 2}, "x"]},
        {"list": {}},
        {"nested": {"deep": {"er": "there"}}},
        {"nested": {"deep": "here"}},
        {"dots": {"in": {"it": 1}}},
        {"nested.deep": {"er": "here"}},
        {"plain": "x", "one": 2},
        {'quo"te': "value"},
    ],
    ids=repr,
)
async def test_metadata_that_is_not_held(store: Store, wanted: dict[str, Any]) -> None:
    await store.write(lambda tx: open_thread(tx, "t", metadata=METADATA))
    assert await store.read(lambda reader: roots(reader, metadata=wanted)) == []


async def test_metadata_is_found_as_it_was_last_saved(store: Store) -> None:
    def change(tx: Transaction) -> None:
        row = thread(tx, "t")
        row.data.metadata.CopyFrom(to_struct({"b": 2}))
        tx.save_thread(row)

    await store.write(lambda tx: open_thread(tx, "t", metadata={"a": 1}))
    await store.write(change)
    assert await store.read(lambda reader: roots(reader, metadata={"a": 1})) == []
    assert await store.read(lambda reader: roots(reader, metadata={"b": 2})) == ["t"]


async def test_threads_by_session_and_busyness(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        a, b = open_thread(tx, "a"), open_thread(tx, "b")
        below = open_thread(tx, "a1", parent=a)
        add_run(tx, b, state=SUCCEEDED)
        add_run(tx, b, due_at=5.0)
        add_run(tx, below, state=RUNNING)
        open_thread(tx, "a11", parent=below)

    await store.write(fill)

    def look(reader: Reader) -> None:
        session = thread(reader, "a").session.key
        assert roots(reader) == ["b", "a"]
        assert roots(reader, session=session) == ["a11", "a1", "a"]
        assert roots(reader, busy=True) == []
        assert roots(reader, busy=False) == ["b", "a"]
        assert roots(reader, session=session, busy=True) == ["a1"]
        below = reader.threads_below(thread(reader, "a").key)
        assert [row.data.thread_id for row in below] == ["a", "a1", "a11"]
        assert [row.parent for row in below] == [None, below[0].key, below[1].key]
        assert reader.threads_below(below[1].key) == below[1:]

    await store.read(look)


async def test_runs_by_thread_and_state(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        a, b = open_thread(tx, "a"), open_thread(tx, "b")
        add_run(tx, a, "a1", state=SUCCEEDED)
        add_run(tx, a, "a2", state=RUNNING)
        add_run(tx, b, "b1", state=WAITING)
        add_run(tx, a, "a3")

    await store.write(fill)

    def look(reader: Reader) -> None:
        a = thread(reader, "a").key
        assert run_ids(reader) == ["a3", "b1", "a2", "a1"]
        assert run_ids(reader, thread=a) == ["a3", "a2", "a1"]
        assert run_ids(reader, states=[RUNNING, WAITING]) == ["b1", "a2"]
        assert run_ids(reader, thread=a, states=[QUEUED]) == ["a3"]
        assert [run.data.run_id for run in reader.live_runs(a)] == ["a2", "a3"]
        assert [run.data.run_id for run in reader.running_runs()] == ["a2"]

    await store.read(look)


async def test_runs_that_want_readers(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        a, b = open_thread(tx, "a"), open_thread(tx, "b")
        add_run(tx, a, "over", state=SUCCEEDED, wants_readers=True)
        add_run(tx, a, "queued", wants_readers=True)
        add_run(tx, b, "indifferent", state=RUNNING)
        add_run(tx, b, "waiting", state=WAITING, wants_readers=True)

    await store.write(fill)

    def look(reader: Reader) -> None:
        assert {run.data.run_id for run in reader.attended_runs()} == {"queued", "waiting"}

    await store.read(look)


async def test_jobs(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        parent, other = open_thread(tx, "p"), open_thread(tx, "q")
        above = launch(tx, parent, "abc1", labels={"kind": "web", "dot.ted": "x"})
        launch(tx, parent, "abc2", labels={"kind": "web"}, state=SUCCEEDED)
        launch(tx, launch(tx, other, "xyz", labels={"kind": "mail"}).thread, "xyz1")
        launch(tx, launch(tx, above.thread, "abc11").thread, "abc111", labels={"kind": "web"})
        open_thread(tx, "abcd")

    def redirect(tx: Transaction) -> None:
        job = tx.job(TENANT, "abc2")
        assert job is not None
        job.run = add_run(tx, job.thread, "again", state=RUNNING)
        job.data.run_count = 2
        tx.save_job(job)

    await store.write(fill)

    def look(reader: Reader) -> None:
        parent = thread(reader, "p")
        assert job_ids(reader) == ["abc111", "abc11", "xyz1", "xyz", "abc2", "abc1"]
        assert job_ids(reader, parent=parent.key) == ["abc2", "abc1"]
        assert job_ids(reader, below=parent.key) == ["abc111", "abc11", "abc2", "abc1"]
        assert job_ids(reader, below=thread(reader, "abc1").key) == ["abc111", "abc11"]
        assert job_ids(reader, below=thread(reader, "abcd").key) == []
        assert job_ids(reader, below=parent.key, labels={"kind": "web"}, states=[QUEUED]) == [
            "abc111",
            "abc1",
        ]
        assert job_ids(reader, labels={"kind": "web"}) == ["abc111", "abc2", "abc1"]
        assert job_ids(reader, labels={"kind": "web", "dot.ted": "x"}) == ["abc1"]
        assert job_ids(reader, states=[SUCCEEDED]) == ["abc2"]
        assert reader.active_jobs(parent.key) == 1
        assert reader.jobs_like(TENANT, "abc", 5) == ["abc1", "abc11", "abc111", "abc2"]
        assert reader.jobs_like(TENANT, "abc", 1) == ["abc1"]
        assert reader.jobs_like("other", "abc", 5) == []
        jobs = reader.jobs_of_session(parent.session.key)
        found = [job.thread.data.thread_id for job in jobs]
        assert found == ["abc1", "abc2", "abc11", "abc111"]
        assert reader.job(TENANT, "abcd") is None

    await store.read(look)
    await store.write(redirect)
    job = await store.read(lambda reader: reader.job(TENANT, "abc2"))
    assert job is not None
    assert (job.run.data.run_id, job.data.run_count) == ("again", 2)
    assert await store.read(lambda reader: job_ids(reader, states=[RUNNING])) == ["abc2"]


async def test_assistants(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        for n, agent in enumerate(("writer", "coder", "writer")):
            data = Assistant(assistant_id=f"a{n}", agent=agent, version=1)
            data.metadata.CopyFrom(to_struct({"n": n, "team": "x"}))
            tx.add_assistant(TENANT, data)

    await store.write(fill)

    def look(reader: Reader) -> None:
        found = reader.assistant(TENANT, "a1")
        assert found is not None
        assert (found.current, found.data.agent) == (1, "coder")
        assert reader.assistant(TENANT, "a1", 1) == found
        assert reader.assistant(TENANT, "a1", 2) is None
        assert reader.assistant("other", "a1") is None

        def listed(agent: str | None = None, **metadata: object) -> list[str]:
            rows = reader.list_assistants(TENANT, ALL, agent=agent, metadata=metadata)
            return [row.data.assistant_id for row in rows]

        assert listed() == ["a2", "a1", "a0"]
        assert listed("writer") == ["a2", "a0"]
        assert listed(team="x", n=1) == ["a1"]

    await store.read(look)


def assistant(number: int, **metadata: object) -> Assistant:
    """The assistant "a" in a version."""
    data = Assistant(assistant_id="a", agent="writer", name=f"v{number}", version=number)
    data.metadata.CopyFrom(to_struct(metadata))
    return data


def a(reader: Reader, version: int | None = None) -> AssistantRow:
    row = reader.assistant(TENANT, "a", version)
    assert row is not None
    return row


def team(reader: Reader, name: str) -> list[str]:
    rows = reader.list_assistants(TENANT, ALL, agent=None, metadata={"team": name})
    return [row.data.name for row in rows]


async def test_versions_of_an_assistant(store: Store) -> None:
    def add(tx: Transaction) -> None:
        row = tx.add_assistant(TENANT, assistant(1, team="x"))
        tx.add_version(row, assistant(2, team="y"))
        tx.add_version(a(tx), assistant(3, team="z"))

    def go_back(tx: Transaction) -> None:
        row = a(tx, 2)
        row.current = 2
        tx.save_assistant(row)

    def fail(tx: Transaction) -> None:
        tx.add_version(a(tx), assistant(4))
        assert a(tx).current == 4
        raise LookupError

    await store.write(add)
    await store.write(go_back)
    with pytest.raises(LookupError):
        await store.write(fail)

    def look(reader: Reader) -> None:
        row = a(reader)
        assert (row.current, row.latest, row.data.name, row.deleted) == (2, 3, "v2", False)
        assert (a(reader, 3).current, a(reader, 3).data.name) == (2, "v3")
        assert reader.assistant(TENANT, "a", 4) is None
        names = [data.name for data in reader.assistant_versions(row.key, ALL)]
        assert names == ["v3", "v2", "v1"]
        page = reader.assistant_versions(row.key, Page(1, before=3))
        assert [data.version for data in page] == [2]
        assert (team(reader, "y"), team(reader, "z")) == (["v2"], [])

    await store.read(look)


async def test_a_deleted_assistant_stays_for_the_runs_that_have_it(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        # One that is not deleted, and one of another tenant, are not touched.
        tx.add_assistant(TENANT, Assistant(assistant_id="b", agent="writer", version=1))
        tx.add_assistant("other", Assistant(assistant_id="a", agent="writer", version=1))
        row = tx.add_assistant(TENANT, assistant(1, team="x"))
        tx.add_version(row, assistant(2, team="x"))
        run = add_run(tx, open_thread(tx), "r", state=RUNNING)
        run.data.assistant_id = "a"
        row.deleted = True
        tx.save_assistant(row)
        tx.forget_assistants()

    await store.write(fill)

    def look(reader: Reader) -> None:
        assert (a(reader).deleted, a(reader, 1).data.name, team(reader, "x")) == (True, "v1", [])
        assert reader.is_assistant_id_used(TENANT, "a")

    await store.read(look)

    def end(tx: Transaction) -> None:
        run = tx.run(TENANT, "r")
        assert run is not None
        finish(tx, run)
        tx.forget_assistants()

    await store.write(end)

    def look_again(reader: Reader) -> None:
        assert reader.assistant(TENANT, "a") is None
        assert reader.assistant(TENANT, "a", 1) is None
        assert reader.is_assistant_id_used(TENANT, "a")
        assert not reader.is_assistant_id_used(TENANT, "c")
        assert reader.assistant(TENANT, "b") is not None
        assert reader.assistant("other", "a") is not None

    await store.read(look_again)


# The line


async def test_ready_runs_stand_in_line(store: Store, clock: Clock) -> None:
    def fill(tx: Transaction) -> None:
        for n in range(4):
            add_run(tx, open_thread(tx), f"r{n}", ready=True)
        late = tx.run(TENANT, "r0")
        assert late is not None
        late.queued_at += SECOND
        tx.save_run(late)

    def look(reader: Reader) -> list[tuple[str, int]]:
        return [(run.data.run_id, reader.ready_before(run)) for run in reader.ready_runs(9)]

    await store.write(fill)
    line = [("r1", 0), ("r2", 1), ("r3", 2), ("r0", 3)]
    assert await store.read(look) == line
    clock.now -= 5 * SECOND
    await store.write(lambda tx: add_run(tx, open_thread(tx), "early", ready=True))
    assert [name for name, _ in await store.read(look)] == ["early", "r1", "r2", "r3", "r0"]
    assert await store.read(lambda reader: len(reader.ready_runs(2))) == 2


async def test_delayed_runs(store: Store) -> None:
    assert await store.read(lambda reader: reader.next_due()) is None

    def fill(tx: Transaction) -> None:
        for name, when in (("c", 30.5), ("a", 10.0), ("b", 20.0), ("a2", 10.0)):
            add_run(tx, open_thread(tx), name, due_at=when)

    def due(reader: Reader, now: float) -> list[str]:
        return [run.data.run_id for run in reader.due_runs(now, 100)]

    def release(tx: Transaction) -> None:
        for run in tx.due_runs(10.0, 100):
            run.due_at, run.ready = None, True
            tx.save_run(run)

    await store.write(fill)
    assert await store.read(lambda reader: reader.next_due()) == 10.0
    assert await store.read(lambda reader: due(reader, 9.9)) == []
    assert await store.read(lambda reader: due(reader, 20.0)) == ["a", "a2", "b"]
    await store.write(release)
    assert await store.read(lambda reader: reader.next_due()) == 20.0
    assert await store.read(lambda reader: due(reader, 99)) == ["b", "c"]


@pytest.mark.parametrize(
    ("state", "delayed", "busy", "live"),
    [
        (QUEUED, False, True, True),
        (QUEUED, True, False, True),
        (RUNNING, False, True, True),
        (WAITING, False, False, True),
        (REQUIRES_ACTION, False, False, True),
        (SUCCEEDED, False, False, False),
    ],
)
async def test_a_tree_is_what_its_runs_are(
    store: Store, state: RunState.ValueType, delayed: bool, busy: bool, live: bool
) -> None:
    def fill(tx: Transaction) -> list[int]:
        root = open_thread(tx)
        child = open_thread(tx, parent=root)
        sibling, leaf = open_thread(tx, parent=root), open_thread(tx, parent=child)
        add_run(tx, leaf, state=state, due_at=5.0 if delayed else None)
        return [root.key, child.key, leaf.key, sibling.key]

    above = await store.write(fill)

    def look(reader: Reader) -> None:
        assert [reader.tree_is_busy(key) for key in above] == [busy, busy, busy, False]
        assert [reader.tree_is_live(key) for key in above] == [live, live, live, False]

    await store.read(look)


# Events


async def test_event_filters(store: Store) -> None:
    def fill(tx: Transaction) -> tuple[int, int, int, int]:
        root = open_thread(tx)  # 1
        child = open_thread(tx, parent=root)  # 2
        run = add_run(tx, child, state=RUNNING)  # 3, 4
        say(tx, child, "a", run)  # 5
        say(tx, root, "b")  # 6
        finish(tx, run)  # 7
        merge(tx, root, {"x": 1})  # 8
        other = open_thread(tx)
        say(tx, other, "elsewhere")
        return root.session.key, root.key, child.key, run.key

    session, root, child, run = await store.write(fill)
    messages = kinds("message_added")
    cases: list[tuple[EventFilter, list[int]]] = [
        (EventFilter(), [1, 2, 3, 4, 5, 6, 7, 8]),
        (EventFilter(thread=root), [1, 6, 8]),
        (EventFilter(thread=child), [2, 3, 4, 5, 7]),
        (EventFilter(thread=child, run=run), [3, 4, 5, 7]),
        (EventFilter(run=run), [3, 4, 5, 7]),
        (EventFilter(kinds=messages), [5, 6]),
        (EventFilter(thread=child, kinds=messages), [5]),
        (EventFilter(thread=root, condensed=CONDENSED), [1, 2, 6, 7, 8]),
        (EventFilter(thread=root, condensed=CONDENSED, kinds=messages), [6]),
        (EventFilter(kinds=kinds("custom")), []),
        (EventFilter(thread=999), []),
    ]

    def look(reader: Reader) -> None:
        for wanted, expected in cases:

            def found(wanted: EventFilter = wanted, **options: Any) -> list[int]:
                return sequences(list(reader.events(session, wanted, **options)))

            assert found() == expected
            assert found(newest_first=True) == expected[::-1]
            assert found(after=2, through=6) == [n for n in expected if 2 < n <= 6]
            assert found(limit=2) == expected[:2]
            assert (
                found(limit=2, newest_first=True, through=7)
                == [n for n in expected[::-1] if n <= 7][:2]
            )
            assert found(limit=0) == []
            matching = [r for r in whole_log(reader, session) if wanted.matches(r)]
            assert sequences(matching) == expected
        assert list(reader.events(12345, EventFilter())) == []

    await store.read(look)


async def test_messages_from_both_ends(store: Store) -> None:
    def fill(tx: Transaction) -> int:
        root = open_thread(tx)
        other = open_thread(tx, parent=root)
        for n in range(6):
            say(tx, root, str(n))
            say(tx, other, "other")
            merge(tx, root, {"n": n})
        return root.key

    root = await store.write(fill)

    def texts(reader: Reader, limit: int, newest_first: bool, beyond: int | None = None) -> str:
        records = reader.messages(root, limit=limit, newest_first=newest_first, beyond=beyond)
        return "".join(record.event.message_added.message.message_id for record in records)

    def look(reader: Reader) -> None:
        assert reader.message_count(root) == 6
        assert texts(reader, 10, False) == "012345"
        assert texts(reader, 4, True) == "5432"
        second = reader.messages(root, limit=2, newest_first=False)[1].sequence
        assert texts(reader, 2, False, second) == "23"
        assert texts(reader, 5, True, second) == "0"
        assert reader.message_count(999) == 0

    await store.read(look)


async def test_what_takes_messages_back(store: Store) -> None:
    def fill(tx: Transaction) -> int:
        root = open_thread(tx)
        run = add_run(tx, root, "r", state=RUNNING)
        event = Event()
        event.claim_voided.claim_epoch = 1
        tx.append(root, event, run)
        assert len(tx.voids(root.key)) == 1
        event = Event()
        event.runs_rolled_back.run_ids.append("r")
        tx.append(root, event)
        say(tx, open_thread(tx, parent=root), "not this")
        return root.key

    root = await store.write(fill)
    assert sequences(await store.read(lambda reader: reader.voids(root))) == [4, 5]


# Deleting


async def test_erased_events_keep_their_places(store: Store) -> None:
    def fill(tx: Transaction) -> int:
        root = open_thread(tx, "root")
        child = open_thread(tx, "child", parent=root)
        say(tx, child, "secret")
        say(tx, root, "kept")
        return root.session.key

    session = await store.write(fill)
    for _ in range(2):  # A second time changes nothing.
        await store.write(lambda tx: tx.erase_events(thread(tx, "child")))
    records = await store.read(lambda reader: whole_log(reader, session))
    assert sequences(records) == [1, 2, 3, 4]
    assert [r.event.redacted for r in records] == [False, True, True, False]
    assert all(b"secret" not in record.data for record in records)
    erased = records[2].event
    assert erased.WhichOneof("payload") is None
    assert (erased.sequence, erased.thread_id) == (3, "child")


async def test_erasing_what_the_same_operation_wrote(store: Store) -> None:
    def operation(tx: Transaction) -> int:
        root = open_thread(tx, "root")
        child = open_thread(tx, "child", parent=root)
        say(tx, child, "secret")
        tx.erase_events(child)
        say(tx, child, "after")
        return root.session.key

    session = await store.write(operation)
    records = await store.read(lambda reader: whole_log(reader, session))
    assert [record.event.redacted for record in records] == [False, True, True, False]


async def test_a_deleted_thread_is_gone_and_its_events_stay(store: Store) -> None:
    def fill(tx: Transaction) -> int:
        root = open_thread(tx, "root")
        job = launch(tx, root, "job")
        open_thread(tx, "below", parent=job.thread)
        add_run(tx, job.thread, "r", ready=True)
        return root.session.key

    def delete(tx: Transaction) -> None:
        row = thread(tx, "job")
        delete_tree(tx, row)
        assert tx.thread(TENANT, "job") is None
        assert tx.job(TENANT, "job") is None
        assert tx.ready_runs(5) == []
        with pytest.raises(KeyError):
            tx.thread_at(row.key)

    session = await store.write(fill)
    await store.write(delete)

    def look(reader: Reader) -> None:
        assert reader.thread(TENANT, "job") is None
        assert reader.thread(TENANT, "below") is None
        assert reader.run(TENANT, "r") is None
        assert reader.jobs_of_session(session) == []
        assert reader.counts() == Counts(sessions=1, threads=1)
        assert sequences(whole_log(reader, session)) == [1, 2, 3, 4, 5, 6]

    await store.read(look)


async def test_a_deleted_session_takes_its_log_with_it(store: Store) -> None:
    def fill(tx: Transaction) -> tuple[int, int]:
        gone, stays = open_thread(tx, "gone"), open_thread(tx, "stays")
        add_run(tx, gone, "r")
        return gone.session.key, stays.session.key

    def delete(tx: Transaction) -> None:
        row = thread(tx, "gone")
        event = Event()
        event.thread_deleted.SetInParent()
        tx.append(row, event)
        delete_tree(tx, row)

    gone, stays = await store.write(fill)
    await store.write(delete)

    def look(reader: Reader) -> None:
        assert whole_log(reader, gone) == []
        assert sequences(whole_log(reader, stays)) == [1]
        assert roots(reader) == ["stays"]
        with pytest.raises(KeyError):
            reader.session(gone)

    await store.read(look)
    again = await store.write(lambda tx: open_thread(tx, "gone").session)
    assert (again.head, again.key > stays) == (1, True)


async def test_the_log_of_a_deleted_thread_is_not_that_of_a_new_one(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        say(tx, open_thread(tx, "child", parent=open_thread(tx, "root")), "secret")

    await store.write(fill)
    await store.write(lambda tx: delete_tree(tx, thread(tx, "child")))
    new = await store.write(lambda tx: open_thread(tx, parent=thread(tx, "root")).key)
    assert await store.read(lambda reader: reader.message_count(new)) == 0


# Tenants and counts


async def test_tenants_do_not_see_each_other(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        for tenant in (TENANT, "other"):
            root = open_thread(tx, "same", tenant=tenant)
            add_run(tx, root, "run")
            launch(tx, root, "job")
            tx.add_assistant(tenant, Assistant(assistant_id="a", agent=tenant, version=1))

    await store.write(fill)

    def look(reader: Reader) -> None:
        mine = reader.thread(TENANT, "same"), reader.thread("other", "same")
        assert mine[0] is not None
        assert mine[1] is not None
        assert (mine[0].session.tenant, mine[1].session.tenant) == (TENANT, "other")
        assert mine[0].key != mine[1].key
        for tenant in (TENANT, "other"):
            threads = reader.list_threads(tenant, ALL, session=None, busy=None, metadata={})
            runs = reader.list_runs(tenant, ALL, thread=None, states=())
            jobs = reader.list_jobs(tenant, ALL, parent=None, states=(), labels={})
            assistants = reader.list_assistants(tenant, ALL, agent=None, metadata={})
            assert [len(rows) for rows in (threads, runs, jobs, assistants)] == [1, 2, 1, 1]
            owners = {row.session.tenant for row in threads}
            owners |= {row.thread.session.tenant for row in runs}
            owners |= {row.thread.session.tenant for row in jobs}
            assert owners | {assistants[0].data.agent} == {tenant}
        assert reader.thread("third", "same") is None
        assert reader.run("third", "run") is None
        assert reader.job("third", "job") is None
        assert reader.assistant("third", "a") is None
        other = mine[1].session.key
        assert reader.list_threads(TENANT, ALL, session=other, busy=None, metadata={}) == []
        assert reader.list_runs(TENANT, ALL, thread=mine[1].key, states=()) == []

    await store.read(look)


async def test_counts(store: Store) -> None:
    assert await store.read(lambda reader: reader.counts()) == Counts()

    def fill(tx: Transaction) -> None:
        root = open_thread(tx)
        child = open_thread(tx, parent=root)
        for state in (QUEUED, QUEUED, RUNNING, WAITING, REQUIRES_ACTION, SUCCEEDED, 7, 8):
            add_run(tx, child, state=RunState.ValueType(state))

    await store.write(fill)
    assert await store.read(lambda reader: reader.counts()) == Counts(
        sessions=1,
        threads=2,
        runs_queued=2,
        runs_running=1,
        runs_waiting=1,
        runs_requiring_action=1,
        runs_finished=3,
    )
    size = await store.read(lambda reader: reader.size())
    assert (size > 0) == (store.name == "sqlite")
