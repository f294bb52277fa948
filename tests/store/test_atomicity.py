"""What an operation sees and leaves, alone and beside others."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from callboard.v1.event_pb2 import Event
from callboard_server.store.base import (
    EventFilter,
    Reader,
    Remembered,
    Store,
    ThreadRow,
    Transaction,
)
from tests.store.conftest import Heard
from tests.store.rows import (
    RUNNING,
    TENANT,
    Clock,
    add_run,
    delete_tree,
    finish,
    launch,
    merge,
    open_thread,
    say,
    sequences,
    start,
    whole_log,
)


class Refusal(Exception):
    pass


async def test_sequences_have_no_holes_under_concurrent_writes(store: Store, heard: Heard) -> None:
    names = [f"s{n}" for n in range(20)]

    def open_all(tx: Transaction) -> list[int]:
        return [open_thread(tx, name).session.key for name in names]

    keys = await store.write(open_all)

    def add(tx: Transaction, name: str, n: int) -> int:
        thread = tx.thread(TENANT, name)
        assert thread is not None
        if n % 7 == 0:
            say(tx, thread, "never")
            raise Refusal
        return say(tx, thread, str(n))

    writes = [store.write(partial(add, name=s, n=n)) for n in range(30) for s in names]
    answers = await asyncio.gather(*writes, return_exceptions=True)

    written = 1 + sum(n % 7 != 0 for n in range(30))
    for index, key in enumerate(keys):
        logged = sequences(await store.read(partial(whole_log, session=key)))
        assert logged == list(range(1, written + 1))
        mine = [answer for answer in answers[index :: len(names)] if isinstance(answer, int)]
        assert mine == logged[1:]
        assert [r.sequence for r in heard if r.session == key] == logged


@pytest.mark.parametrize("reads_before_it_fails", [False, True])
async def test_a_failed_operation_leaves_nothing(
    store: Store, heard: Heard, reads_before_it_fails: bool
) -> None:
    await store.write(lambda tx: open_thread(tx, "t"))
    before = await store.read(_everything)
    heard.clear()

    def fails(tx: Transaction) -> None:
        thread = tx.thread(TENANT, "t")
        assert thread is not None
        say(tx, thread, "void")
        merge(tx, thread, {"a": 1})
        launch(tx, thread, "job")
        tx.remember(TENANT, "m", "r", Remembered(b"d", b"a"))
        if reads_before_it_fails:
            assert tx.message_count(thread.key) == 1
            assert tx.thread(TENANT, "job") is not None
        delete_tree(tx, thread)
        open_thread(tx, "other")
        raise Refusal("no")

    others = [store.write(partial(open_thread, thread_id=f"o{n}")) for n in range(3)]
    results = await asyncio.gather(
        others[0], store.write(fails), others[1], others[2], return_exceptions=True
    )

    assert isinstance(results[1], Refusal)
    assert not any(isinstance(results[n], BaseException) for n in (0, 2, 3))
    assert {record.event.thread_id for record in heard} == {"o0", "o1", "o2"}
    assert await store.read(lambda reader: reader.thread(TENANT, "other")) is None
    for name in ("o0", "o1", "o2"):
        await store.write(partial(_delete, thread_id=name))
    assert await store.read(_everything) == before


def _thread(tx: Transaction, thread_id: str) -> ThreadRow:
    thread = tx.thread(TENANT, thread_id)
    assert thread is not None
    return thread


def _delete(tx: Transaction, thread_id: str) -> None:
    delete_tree(tx, _thread(tx, thread_id))


def _everything(reader: Reader) -> object:
    thread = reader.thread(TENANT, "t")
    assert thread is not None
    return (
        reader.counts(),
        thread,
        whole_log(reader, thread.session.key),
        reader.remembered(TENANT, "m", "r"),
        reader.jobs_of_session(thread.session.key),
    )


@pytest.mark.parametrize("kind", [StopIteration, KeyError, AssertionError])
async def test_any_exception_reaches_its_caller(store: Store, kind: type[Exception]) -> None:
    def fails(tx: Transaction) -> None:
        raise kind

    with pytest.raises(RuntimeError if kind is StopIteration else kind):
        await store.write(fails)
    assert await store.write(lambda tx: open_thread(tx).session.head) == 1


async def test_an_operation_reads_what_it_has_written(store: Store, clock: Clock) -> None:
    def operation(tx: Transaction) -> None:
        thread = open_thread(tx, "t", metadata={"a": 1})
        run = add_run(tx, thread, "r", ready=True)
        job = launch(tx, thread, "j", labels={"l": "1"})
        say(tx, thread, "hello")
        tx.remember(TENANT, "m", "id", Remembered(b"d", b"a"))

        assert tx.thread(TENANT, "t") is thread
        assert tx.thread_at(thread.key) is thread
        assert tx.session(thread.session.key) is thread.session
        assert tx.run(TENANT, "r") is run
        assert run.thread is thread
        assert tx.job(TENANT, "j") is job
        assert tx.live_runs(thread.key) == [run]
        assert tx.ready_runs(5) == [run]
        assert tx.jobs_of_session(thread.session.key) == [job]
        assert tx.threads_below(thread.key) == [thread, job.thread]
        assert tx.message_count(thread.key) == 1
        assert tx.remembered(TENANT, "m", "id") == Remembered(b"d", b"a")
        logged = whole_log(tx, thread.session.key)
        assert sequences(logged) == [1, 2, 3, 4, 5, 6]
        assert logged[1].event.run_id == "r"
        assert logged[1].event.time.ToNanoseconds() == clock.now == tx.now

        start(tx, run)
        assert tx.ready_runs(5) == []
        assert tx.running_runs() == [run]
        say(tx, thread, "on")
        assert thread.session.head == 8
        assert sequences(whole_log(tx, thread.session.key))[-1] == 8

    await store.write(operation)
    run = await store.read(lambda reader: reader.run(TENANT, "r"))
    assert run is not None
    assert run.data.state == RUNNING
    assert run.thread.session.head == 8


async def test_rows_of_one_operation_are_not_those_of_the_next(store: Store) -> None:
    first = await store.write(lambda tx: open_thread(tx, "t"))

    def unsaved(tx: Transaction) -> None:
        _thread(tx, "t").data.current_assistant_id = "never saved"

    await store.write(unsaved)
    first.data.current_assistant_id = "nor this"
    second = await store.read(lambda reader: reader.thread(TENANT, "t"))
    assert second is not None
    assert second is not first
    assert second.data.current_assistant_id == ""


async def test_a_row_is_written_as_it_stands_at_the_end(store: Store) -> None:
    def operation(tx: Transaction) -> None:
        thread = open_thread(tx, "t")
        run = add_run(tx, thread, "r")
        thread.data.current_assistant_id = "late"
        run.due_at = 5.0

    await store.write(operation)
    run = await store.read(lambda reader: reader.run(TENANT, "r"))
    assert run is not None
    assert (run.due_at, run.thread.data.current_assistant_id) == (5.0, "late")


async def test_the_listener_hears_of_commits_in_their_order_before_the_callers(
    store: Store, heard: Heard
) -> None:
    await store.write(lambda tx: open_thread(tx, "t"))
    heard.clear()
    seen_by_callers: list[tuple[int, bool]] = []

    async def write(n: int) -> None:
        sequence = await store.write(lambda tx: say(tx, _thread(tx, "t"), str(n)))
        seen_by_callers.append((sequence, any(r.sequence == sequence for r in heard)))

    await asyncio.gather(*(write(n) for n in range(50)))

    assert seen_by_callers == [(n, True) for n in range(2, 52)]
    assert sequences(heard) == list(range(2, 52))


async def test_events_of_one_operation_are_heard_together(store: Store, heard: Heard) -> None:
    await store.write(lambda tx: [say(tx, open_thread(tx, "t"), str(n)) for n in "a"])
    assert [sequences(commit) for commit in heard.commits] == [[1, 2]]
    await store.write(lambda tx: tx.forget(0))
    assert len(heard.commits) == 1


async def test_a_caller_that_goes_away_does_not_undo_its_operation(
    store: Store, heard: Heard
) -> None:
    caller = asyncio.create_task(store.write(lambda tx: open_thread(tx, "t")))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await store.write(lambda tx: tx.thread(TENANT, "t")) is not None
    assert sequences(heard) == [1]


async def test_an_operation_that_went_away_and_fails_is_silent(store: Store) -> None:
    def fails(tx: Transaction) -> None:
        raise Refusal

    caller = asyncio.create_task(store.write(fails))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert await store.write(lambda tx: open_thread(tx).session.head) == 1


async def test_every_ready_run_is_claimed_once(store: Store) -> None:
    def fill(tx: Transaction) -> None:
        for n in range(40):
            add_run(tx, open_thread(tx), f"r{n}", ready=True)

    def claim(tx: Transaction) -> list[str]:
        runs = tx.ready_runs(3)
        for run in runs:
            start(tx, run)
        return [run.data.run_id for run in runs]

    await store.write(fill)
    claims = await asyncio.gather(*(store.write(claim) for _ in range(20)))
    assert [run for claimed in claims for run in claimed] == [f"r{n}" for n in range(40)]
    assert await store.read(lambda reader: len(reader.running_runs())) == 40


async def test_a_stale_epoch_is_fenced(store: Store) -> None:
    await store.write(lambda tx: add_run(tx, open_thread(tx, "t"), "r", state=RUNNING))

    def write_as(tx: Transaction, epoch: int) -> None:
        run = tx.run(TENANT, "r")
        assert run is not None
        if run.data.claim_epoch != epoch or run.data.state != RUNNING:
            raise Refusal
        say(tx, run.thread, f"epoch {epoch}", run)

    def claim_anew(tx: Transaction) -> None:
        run = tx.run(TENANT, "r")
        assert run is not None
        start(tx, run)

    results = await asyncio.gather(
        store.write(lambda tx: write_as(tx, 1)),
        store.write(claim_anew),
        store.write(lambda tx: write_as(tx, 1)),
        store.write(lambda tx: write_as(tx, 2)),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [type(None), type(None), Refusal, type(None)]
    records = await store.read(lambda reader: whole_log(reader, 1))
    assert [r.event.claim_epoch for r in records if r.kind == 24] == [1, 2]


async def test_a_request_is_answered_once(store: Store, clock: Clock) -> None:
    def create(tx: Transaction, digest: bytes) -> bytes:
        found = tx.remembered(TENANT, "create", "id")
        if found is not None:
            if found.digest != digest:
                raise Refusal
            return found.response
        answer = open_thread(tx).data.thread_id.encode()
        tx.remember(TENANT, "create", "id", Remembered(digest, answer))
        return answer

    answers = await asyncio.gather(*(store.write(lambda tx: create(tx, b"d")) for _ in range(5)))
    assert len(set(answers)) == 1
    with pytest.raises(Refusal):
        await store.write(lambda tx: create(tx, b"other"))
    for tenant, method, request_id in (
        ("other", "create", "id"),
        (TENANT, "m", "id"),
        (TENANT, "create", "other"),
    ):
        found = await store.read(lambda r: r.remembered(tenant, method, request_id))  # noqa: B023
        assert found is None

    made_at = clock.now / 1e9
    clock.now += 10**10
    await store.write(lambda tx: tx.forget(made_at))
    assert await store.read(lambda reader: reader.remembered(TENANT, "create", "id")) is not None
    await store.write(lambda tx: tx.forget(made_at + 1))
    assert await store.read(lambda reader: reader.remembered(TENANT, "create", "id")) is None


async def test_a_read_sees_one_moment(store: Store) -> None:
    await store.write(lambda tx: add_run(tx, open_thread(tx, "t"), "r", state=RUNNING))

    def end(tx: Transaction) -> None:
        run = tx.run(TENANT, "r")
        assert run is not None
        finish(tx, run)

    def look(reader: Reader) -> tuple[int, int]:
        run = reader.run(TENANT, "r")
        assert run is not None
        return run.data.state, len(list(reader.events(run.thread.session.key, EventFilter())))

    states = await asyncio.gather(store.read(look), store.write(end), store.read(look))
    assert {states[0], states[2]} <= {(RUNNING, 3), (5, 4)}
    assert await store.read(look) == (5, 4)


async def test_append_fills_an_event_in(store: Store, clock: Clock) -> None:
    def operation(tx: Transaction) -> Event:
        thread = open_thread(tx, "root")
        child = open_thread(tx, "child", parent=thread)
        run = add_run(tx, child, "r", state=RUNNING)
        event = Event()
        event.run_progress.progress.current = 3
        tx.append(child, event, run)
        return event

    event = await store.write(operation)
    assert (event.session_id, event.thread_id, event.run_id) == ("root", "child", "r")
    assert (event.sequence, event.attempt, event.claim_epoch) == (5, 1, 1)
    assert event.time.ToNanoseconds() == clock.now
    record = (await store.read(lambda reader: whole_log(reader, 1)))[-1]
    assert (record.event, record.kind) == (event, 32)
    assert record.framed == b"\x0a" + bytes([len(record.data)]) + record.data


async def test_a_closed_store_refuses(store: Store) -> None:
    pending = asyncio.create_task(store.write(lambda tx: open_thread(tx).session.head))
    await asyncio.sleep(0)
    await store.close()
    assert await pending == 1
    with pytest.raises(Exception, match="closed"):
        await store.write(lambda tx: None)
    with pytest.raises(Exception, match="closed"):
        await store.read(lambda reader: None)
    await store.close()
