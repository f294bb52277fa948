"""Sessions that have outlived their ttl go; everything else stays."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest
from structlog.testing import capture_logs

import callboard
from callboard import FailedPrecondition, NotFound, archives
from callboard.v1.event_pb2 import Event
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import EventFrame, StreamEnd
from callboard.v1.thread_pb2 import StreamEventsRequest
from callboard_server.agents.registry import Registry
from callboard_server.app import TENANT, App, client_caller, open_app
from callboard_server.config import ServerConfig
from callboard_server.engine import archiving, sweep
from callboard_server.engine.sweep import Sweep
from callboard_server.store.base import Ended, Store, Transaction
from callboard_server.store.memory import MemoryStore
from callboard_server.store.sqlite import SqliteStore
from tests.store.rows import SECOND, Clock, add_run, open_thread
from tests.support.gates import Gates
from tests.support.serving import log_of, served, settings

T = TypeVar("T")

HOUR = 3600


class Expiring:
    """A server whose clock the test moves, and which is swept when the test says so."""

    def __init__(self, app: App, clock: Clock) -> None:
        self.app = app
        self.clock = clock
        self.client = app.client(client_caller("test"))

    @property
    def store(self) -> Store:
        return self.app.engine.store

    def wait(self, seconds: float) -> None:
        self.clock.now += int(seconds * SECOND)

    async def sweep(self, archive_dir: Path | None = None) -> None:
        made = Sweep(
            self.store,
            self.app.engine.hub,
            self.app.engine.workspaces,
            interval=1,
            archive_dir=archive_dir,
        )
        await made.sweep()

    async def is_there(self, thread_id: str) -> bool:
        try:
            await self.client.threads.get(thread_id)
        except NotFound:
            return False
        return True


@pytest.fixture(params=["memory", "sqlite"])
async def server(
    request: pytest.FixtureRequest, gates: Gates, tmp_path: Path
) -> AsyncIterator[Expiring]:
    clock, path = Clock(), tmp_path / "jobs.db"
    store: Store = MemoryStore(worker_id="w", clock=clock)
    if request.param == "sqlite":
        store = SqliteStore(str(path), worker_id="w", synchronous="OFF", clock=clock)
    async with opened(gates.agents, path, store) as app:
        yield Expiring(app, clock)


@asynccontextmanager
async def opened(agents: Sequence[object], db: Path, store: Store) -> AsyncIterator[App]:
    config = ServerConfig.model_validate({**settings(db), "sweep": {"interval": 1e6}})
    async with open_app(config, Registry.from_objects(agents), store) as app:
        yield app


async def test_a_session_goes_when_its_ttl_is_over(server: Expiring) -> None:
    threads = server.client.threads
    short = (await threads.create("hello", ttl=HOUR)).thread_id
    long = (await threads.create("hello", ttl=timedelta(hours=3))).thread_id
    for_ever = (await threads.create("hello")).thread_id
    server.wait(HOUR - 1)
    await server.sweep()
    assert await server.is_there(short)
    server.wait(1)
    await server.sweep()
    assert [await server.is_there(each) for each in (short, long, for_ever)] == [False, True, True]
    counts = (await server.client.server.info()).counts
    assert (counts.sessions, counts.threads) == (2, 2)
    server.wait(1000 * HOUR)
    await server.sweep()
    assert [await server.is_there(each) for each in (long, for_ever)] == [False, True]


async def test_the_time_starts_again_with_every_event_and_not_with_reading(
    server: Expiring,
) -> None:
    threads = server.client.threads
    used = (await threads.create(ttl=HOUR)).thread_id
    read = (await threads.create(ttl=HOUR)).thread_id
    server.wait(HOUR - 1)
    await threads.update_state(used, "still here")
    await threads.state(read)
    server.wait(HOUR - 1)
    await server.sweep()
    assert (await server.is_there(used), await server.is_there(read)) == (True, False)
    server.wait(1)
    await server.sweep()
    assert not await server.is_there(used)


async def test_a_ttl_is_set_changed_and_removed_later(server: Expiring) -> None:
    threads = server.client.threads
    given, taken, longer, other = [(await threads.create(ttl=HOUR)).thread_id for _ in range(4)]
    for thread_id, ttl in ((taken, 0), (longer, 5 * HOUR), (given, 60)):
        shown = await threads.update(thread_id, ttl=ttl)
        assert (shown.HasField("ttl"), shown.ttl.ToSeconds()) == (bool(ttl), ttl)
    await threads.update(other, metadata={"a": 1})
    server.wait(HOUR)
    await server.sweep()
    there = [await server.is_there(each) for each in (given, taken, longer, other)]
    assert there == [False, True, True, False]


async def test_the_session_of_a_job_has_the_jobs_ttl(server: Expiring, gates: Gates) -> None:
    job = await server.client.jobs.launch("worker", "t", ttl=HOUR)
    home = await server.client.threads.create(ttl=HOUR)
    child = await server.client.jobs.launch("quick", "u", parent_thread_id=home.thread_id)
    await server.client.jobs.wait(child.job_id)
    with pytest.raises(FailedPrecondition):
        await server.client.threads.update(child.job_id, ttl=1)
    await gates.entered("t")
    server.wait(2 * HOUR)
    await server.sweep()
    assert await server.is_there(job.job_id)
    assert not await server.is_there(child.job_id)
    gates.open("t")
    await server.client.jobs.wait(job.job_id)
    server.wait(HOUR - 1)
    await server.sweep()
    assert await server.is_there(job.job_id)
    server.wait(1)
    await server.sweep()
    assert not await server.is_there(job.job_id)


LIVE = [
    {"state": RunState.RUN_STATE_QUEUED},
    {"state": RunState.RUN_STATE_QUEUED, "due_at": 1e12},
    {"state": RunState.RUN_STATE_RUNNING},
    {"state": RunState.RUN_STATE_WAITING},
    {"state": RunState.RUN_STATE_REQUIRES_ACTION},
]


@pytest.mark.parametrize("run", LIVE, ids=["queued", "delayed", "running", "waiting", "asking"])
@pytest.mark.parametrize("below", [False, True], ids=["root", "below"])
async def test_nothing_goes_while_anything_in_it_is_live(
    server: Expiring, tmp_path: Path, run: dict[str, Any], below: bool
) -> None:
    def fill(tx: Transaction, live: bool) -> str:
        root = open_thread(tx, tenant=TENANT)
        root.session.ttl = 60.0
        tx.save_session(root.session)
        thread = open_thread(tx, parent=root) if below else root
        add_run(tx, root, state=RunState.RUN_STATE_SUCCEEDED)
        if live:
            add_run(tx, thread, **run)
        return root.data.thread_id

    # More of them than are looked at in one go.
    live = [await server.store.write(lambda tx: fill(tx, True)) for _ in range(50)]
    over = [await server.store.write(lambda tx: fill(tx, False)) for _ in range(3)]
    server.wait(HOUR)
    await server.sweep()
    await server.sweep(tmp_path / "archive")
    assert all([await server.is_there(each) for each in live])
    assert not any([await server.is_there(each) for each in over])
    assert not (tmp_path / "archive").exists()


@pytest.mark.parametrize("change", ["event", "run", "ttl"])
async def test_what_happens_before_the_deletion_is_seen_by_it(
    server: Expiring, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    client = server.client
    thread_id = (await client.threads.create(ttl=HOUR)).thread_id
    server.wait(HOUR)

    async def act() -> None:
        if change == "event":
            await client.threads.update_state(thread_id, "just in time")
        elif change == "run":
            await client.runs.create("worker", "go", thread_id=thread_id)
            server.wait(HOUR)
        else:
            await client.threads.update(thread_id, ttl=0)
            server.wait(HOUR)

    once_before_writes(server, monkeypatch, after=("sweep", "_expired"), act=act)
    await server.sweep()
    assert await server.is_there(thread_id)


def once_before_writes(
    server: Expiring,
    monkeypatch: pytest.MonkeyPatch,
    *,
    after: tuple[str, str],
    act: Callable[[], Awaitable[None]],
) -> None:
    """Lets something happen once, after a function was called and before the next write."""
    module = {"sweep": sweep, "draft": archiving._Draft}[after[0]]
    original, write = getattr(module, after[1]), server.store.write
    state = ["waits"]

    def called(*arguments: Any) -> Any:
        result = original(*arguments)
        if state == ["waits"]:
            state[:] = ["due"]
        return result

    async def write_later(operation: Callable[[Transaction], T], ended: Ended | None = None) -> T:
        if state == ["due"]:
            state[:] = ["done"]
            await act()
        return await write(operation, ended)

    monkeypatch.setattr(module, after[1], called)
    monkeypatch.setattr(server.store, "write", write_later)


async def test_repeats_are_remembered_for_a_week(server: Expiring) -> None:
    first = await server.client.threads.create(request_id="r")
    server.wait(7 * 24 * HOUR)
    await server.sweep()
    assert await server.client.threads.create(request_id="r") == first
    server.wait(2 * 24 * HOUR)
    await server.sweep()
    assert (await server.client.threads.create(request_id="r")).thread_id != first.thread_id


# Archives


async def test_a_session_is_archived_whole_before_it_goes(
    server: Expiring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archiving, "_PAGE", 3)
    client, folder = server.client, tmp_path / "deep" / "archive"
    home = await client.threads.create(["grüße", "☂"], values={"a": 0.5}, ttl=HOUR)
    job = await client.jobs.launch("quick", "u", parent_thread_id=home.thread_id)
    await client.jobs.wait(job.job_id)
    log, shown = await log_of(client, home.thread_id), await client.threads.get(home.thread_id)
    server.wait(HOUR)
    await server.sweep(folder)
    assert not await server.is_there(home.thread_id)
    assert [path.name for path in folder.iterdir()] == [f"{home.thread_id}.jsonl"]
    with (folder / f"{home.thread_id}.jsonl").open(encoding="utf-8") as file:
        archive = archives.read_lines(file)
        assert archive.session == shown
        assert list(archive.events) == log


async def test_a_session_that_cannot_be_archived_stays(server: Expiring, tmp_path: Path) -> None:
    threads = [(await server.client.threads.create(ttl=HOUR)).thread_id for _ in range(30)]
    server.wait(HOUR)
    folder = tmp_path / "archive"
    folder.write_text("in the way")
    with capture_logs() as logs:
        await server.sweep(folder)
    assert [await server.is_there(each) for each in threads] == [True] * 30
    told = [entry for entry in logs if entry["event"] == "cannot archive a session, so it stays"]
    assert sorted(entry["session"] for entry in told) == sorted(threads)
    folder.unlink()
    await server.sweep(folder)
    assert [await server.is_there(each) for each in threads] == [False] * 30
    assert len(list(folder.iterdir())) == 30


async def test_a_full_disk_leaves_nothing_behind(
    server: Expiring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    thread_id = (await server.client.threads.create(ttl=HOUR)).thread_id
    server.wait(HOUR)
    folder = tmp_path / "archive"
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        await server.sweep(folder)
    assert await server.is_there(thread_id)
    assert list(folder.iterdir()) == []
    # Neither does a server that was killed over it, for longer than until the next sweep.
    (folder / f".{thread_id}.part").write_text("half a line")
    await server.sweep(folder)
    assert [path.name for path in folder.iterdir()] == [f"{thread_id}.jsonl"]


async def test_what_came_after_the_archive_is_not_lost(
    server: Expiring, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thread = await server.client.threads.create(ttl=HOUR)
    server.wait(HOUR)

    async def act() -> None:
        await server.client.threads.update_state(thread.thread_id, "late")
        server.wait(HOUR)

    once_before_writes(server, monkeypatch, after=("draft", "keep"), act=act)
    await server.sweep(tmp_path)
    assert await server.is_there(thread.thread_id)
    await server.sweep(tmp_path)
    assert not await server.is_there(thread.thread_id)
    # The first file was of the same session: it is replaced.
    [path] = tmp_path.glob("*.jsonl")
    assert "late" in path.read_text("utf-8")


async def test_a_session_of_the_same_id_does_not_replace_the_one_before(
    server: Expiring, tmp_path: Path
) -> None:
    thread_id = (await server.client.threads.create("first", ttl=HOUR)).thread_id
    for text in ("second", "third"):
        server.wait(HOUR)
        await server.sweep(tmp_path)
        await server.client.threads.create(text, thread_id=thread_id, ttl=HOUR)
    server.wait(HOUR)
    await server.sweep(tmp_path)
    found = {path.name: path.read_text("utf-8") for path in tmp_path.glob("*.jsonl")}
    names = [f"{thread_id}{ending}.jsonl" for ending in ("", "-2", "-3")]
    assert sorted(found) == sorted(names)
    for name, text in zip(names, ("first", "second", "third"), strict=True):
        assert f'"{text}"' in found[name]


# On a port, by the clock


async def test_streams_of_a_session_end_when_it_expires(gates: Gates, tmp_path: Path) -> None:
    async with served(gates.agents, tmp_path / "jobs.db") as server:
        thread = await server.client.threads.create("hello", ttl=0.05)
        request = StreamEventsRequest(thread_id=thread.thread_id)
        stream = server.threads.StreamEvents(request)
        engine = server.app.engine
        made = Sweep(engine.store, engine.hub, engine.workspaces, interval=0.02)
        made.start()
        frames: list[EventFrame] = [frame async for frame in stream]
        await made.stop()
        assert frames[-1].end.reason == StreamEnd.REASON_DELETED
        events: list[Event] = [event for frame in frames for event in frame.events]
        assert [event.sequence for event in events] == [1, 2]
        with pytest.raises(NotFound):
            await server.client.threads.get(thread.thread_id)


async def test_the_configuration_says_how(gates: Gates, tmp_path: Path) -> None:
    folder = tmp_path / "archive"
    config = {
        **settings(tmp_path / "jobs.db"),
        "sweep": {"interval": 0.02, "archive_dir": str(folder)},
    }
    async with callboard.local(gates.agents, db=tmp_path / "jobs.db", config=config) as client:
        thread = await client.threads.create("hello", ttl=0.05)
        async for _ in client.threads.stream(thread.thread_id):
            pass
        assert [path.stem for path in folder.iterdir()] == [thread.thread_id]
