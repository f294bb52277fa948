"""Runs that are cancelled when nobody streams them any more."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from callboard import AsyncClient, AsyncEventStream
from callboard.v1.event_pb2 import Actor, Event
from callboard.v1.lifecycle_pb2 import RunState
from callboard.v1.run_pb2 import Run
from callboard_server.engine import attendance
from callboard_server.store.base import StoreUnavailable
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import Served, log_of, served

SHORT, LONG = timedelta(milliseconds=150), timedelta(hours=1)
CANCELLED, SUCCEEDED = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_SUCCEEDED


def stream(
    client: AsyncClient, text: str, patience: timedelta | None, agent: str = "worker"
) -> AsyncEventStream:
    return client.runs.stream(agent, text, cancel_after_detach=patience, max_downtime=0)


async def left_alone(
    client: AsyncClient, gates: Gates, text: str, patience: timedelta | None
) -> Run:
    """Begins a run and reads of it until its code is at work."""
    async with stream(client, text, patience) as events:
        await anext(events)
        await gates.entered(text)
        assert events.run is not None
        return events.run


async def ended(client: AsyncClient, run: Run) -> Run:
    async with asyncio.timeout(PATIENCE):
        return await client.runs.wait(run.run_id, until="done")


async def requests_to_stop(client: AsyncClient, run: Run) -> list[Event]:
    log = await log_of(client, run.thread_id)
    return [event for event in log if event.HasField("run_cancel_requested")]


async def test_a_run_that_nobody_streams_any_more_is_cancelled(
    server: Served, gates: Gates
) -> None:
    run = await left_alone(server.client, gates, "a", SHORT)
    assert run.cancel_after_detach.ToTimedelta() == SHORT
    assert (await ended(server.client, run)).state == CANCELLED
    assert gates.cancelled == ["a"]
    (asked,) = await requests_to_stop(server.client, run)
    assert asked.actor.kind == Actor.KIND_SERVER


async def test_a_run_goes_on_for_as_long_as_one_stream_of_it_is_open(
    server: Served, gates: Gates
) -> None:
    client = server.client
    async with stream(client, "watched", SHORT) as first:
        await anext(first)
        run = first.run
        assert run is not None
        second = client.threads.stream(run_id=run.run_id, max_downtime=0)
        await anext(second)
    # What is left alone later and for as long is the clock.
    later = await left_alone(client, gates, "later", SHORT)
    assert (await ended(client, later)).state == CANCELLED
    gates.open("watched")
    assert [event async for event in second]
    assert (await ended(client, run)).state == SUCCEEDED


async def test_who_comes_back_in_time_finds_the_run(server: Served, gates: Gates) -> None:
    client = server.client
    run = await left_alone(client, gates, "a", LONG)
    again = client.threads.stream(run_id=run.run_id, max_downtime=0)
    await anext(again)
    gates.open("a")
    assert [event async for event in again]
    assert (await ended(client, run)).state == SUCCEEDED


async def test_a_run_goes_on_without_readers_where_nobody_said_otherwise(
    server: Served, gates: Gates
) -> None:
    client = server.client
    run = await left_alone(client, gates, "free", None)
    assert not run.HasField("cancel_after_detach")
    later = await left_alone(client, gates, "later", SHORT)
    assert (await ended(client, later)).state == CANCELLED
    gates.open("free")
    assert (await ended(client, run)).state == SUCCEEDED


async def test_a_queued_run_is_cancelled_too(server: Served, gates: Gates) -> None:
    client = server.client
    before = await client.runs.create("worker", "before")
    await gates.entered("before")
    events = client.runs.stream(
        "worker", "a", thread_id=before.thread_id, cancel_after_detach=SHORT, max_downtime=0
    )
    async with events:
        await anext(events)
    assert events.run is not None
    assert (await ended(client, events.run)).state == CANCELLED
    assert not gates.has_entered("a")
    gates.open("before")
    assert (await ended(client, before)).state == SUCCEEDED


async def test_a_run_whose_reader_went_before_a_restart_is_cancelled_after_it(
    gates: Gates, tmp_path: Path
) -> None:
    db = tmp_path / "jobs.db"
    async with served(gates.agents, db) as server:
        run = await left_alone(server.client, gates, "a", timedelta(seconds=1))
    # That its stream ended, and that it was put back in line, was the server's doing.
    async with served(gates.agents, db) as server:
        found = await server.client.runs.get(run.run_id)
        assert found.state not in (CANCELLED, SUCCEEDED)
        assert found.cancel_after_detach.ToTimedelta() == timedelta(seconds=1)
        assert (await ended(server.client, run)).state == CANCELLED


async def test_a_run_is_cancelled_once_the_store_answers_again(
    server: Served, gates: Gates, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attendance, "RETRY", 0.01)
    store, failures = server.app.engine.store, 0
    write = store.write

    async def out_of_order(operation, told=None):  # type: ignore[no-untyped-def]
        nonlocal failures
        if operation.__qualname__.startswith("Attendance.") and failures < 2:
            failures += 1
            raise StoreUnavailable("out of order")
        return await write(operation, told)

    monkeypatch.setattr(store, "write", out_of_order)
    run = await left_alone(server.client, gates, "a", SHORT)
    assert (await ended(server.client, run)).state == CANCELLED
    assert failures == 2


async def test_what_is_over_is_no_longer_attended(server: Served, gates: Gates) -> None:
    async with stream(server.client, "a", LONG, agent="quick") as events:
        assert [event async for event in events]
    assert events.run is not None
    assert not server.app.engine.attendance._attended


async def test_who_steers_a_run_does_not_take_its_readers_place(
    server: Served, gates: Gates
) -> None:
    client = server.client
    async with stream(client, "watched", SHORT) as events:
        await anext(events)
        await gates.entered("watched")
        run = events.run
        assert run is not None
        steered = await client.runs.create(
            "worker", "more", thread_id=run.thread_id, multitask_strategy="steer"
        )
        assert steered.run_id == run.run_id
        # What is left alone later and for as long is the clock.
        later = await left_alone(client, gates, "later", SHORT)
        assert (await ended(client, later)).state == CANCELLED
        gates.open("watched")
        assert [event async for event in events]
    assert (await ended(client, run)).state == SUCCEEDED


@pytest.mark.parametrize("fails", [False, True], ids=["slow", "failing"])
async def test_who_comes_and_goes_while_a_run_is_cancelled_leaves_it_its_time(
    server: Served, gates: Gates, monkeypatch: pytest.MonkeyPatch, fails: bool
) -> None:
    monkeypatch.setattr(attendance, "RETRY", 0.0)
    client, engine = server.client, server.app.engine
    asked, go_on, released = asyncio.Event(), asyncio.Event(), False
    write = engine.store.write

    async def slow(operation, told=None):  # type: ignore[no-untyped-def]
        nonlocal released
        if operation.__qualname__.startswith("Attendance.") and not released:
            asked.set()
            await go_on.wait()
            released = True
            if fails:
                raise StoreUnavailable("out of order")
        return await write(operation, told)

    monkeypatch.setattr(engine.store, "write", slow)
    run = await left_alone(client, gates, "a", SHORT)
    async with asyncio.timeout(PATIENCE):
        await asked.wait()
    with engine.attendance.reading(run.run_id):
        engine.attendance._attended[run.run_id].patience = LONG.total_seconds()
    go_on.set()
    # What is left alone later is the clock.
    later = await left_alone(client, gates, "later", SHORT)
    assert (await ended(client, later)).state == CANCELLED
    gates.open("a")
    assert (await ended(client, run)).state == SUCCEEDED
