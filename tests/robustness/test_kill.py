"""A server that is killed again and again while clients launch and read: nothing is lost."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import grpc
import pytest

import callboard
from callboard import _backoff
from callboard.v1.event_pb2 import Event
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState
from callboard_server.store.sqlite import admin
from tests.robustness import validators
from tests.support.process import ForkedServers
from tests.support.serving import log_of

KILLS = 15
LAUNCHERS = 3
SUCCEEDED = RunState.RUN_STATE_SUCCEEDED
WORK = (
    ("researcher", "research cats"),
    ("stepper", "the length"),
    ("plain", "rest"),
    ("parent", "two parts"),
)


@dataclass
class Story:
    """What clients did and saw."""

    home: str
    """The thread below which every other job is launched."""
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    acknowledged: dict[str, Job] = field(default_factory=dict)
    """By the label of the launch."""
    read: dict[str, list[Event]] = field(default_factory=dict)
    """What was streamed of each job's thread."""
    watched: dict[str, list[Job]] = field(default_factory=dict)
    """What a watch of each parent-less job showed."""


@pytest.fixture
async def servers(tmp_path: Path) -> AsyncIterator[ForkedServers]:
    servers = ForkedServers(Path(__file__).with_name("callboard.toml"), tmp_path / "jobs.db")
    await servers.open()
    yield servers
    await servers.close()


async def launch_on(client: callboard.AsyncClient, story: Story, name: int) -> None:
    """Launches jobs, one after the other, and reads each to its end."""
    readers = []
    number = 0
    while not story.stop.is_set():
        label = f"{name}/{number}"
        agent, task = WORK[(name + number) % len(WORK)]
        job = await client.jobs.launch(
            agent,
            task,
            labels={"launch": label},
            parent_thread_id=story.home if number % 2 else None,
            request_id=label,
        )
        story.acknowledged[label] = job
        readers.append(asyncio.create_task(read(client, story, job)))
        if not number % 2:
            readers.append(asyncio.create_task(watch(client, story, job)))
        number += 1
        await asyncio.sleep(0.03)
    await asyncio.gather(*readers)


async def read(client: callboard.AsyncClient, story: Story, job: Job) -> None:
    stream = client.threads.stream(job.job_id, scope="thread", until="done")
    story.read[job.job_id] = [item async for item in stream if isinstance(item, Event)]


async def watch(client: callboard.AsyncClient, story: Story, job: Job) -> None:
    changes = client.jobs.watch(job_id=job.job_id, until="done")
    story.watched[job.job_id] = [change async for change in changes]


@pytest.mark.timeout(120)
async def test_what_was_acknowledged_survives_fifteen_kills(
    servers: ForkedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_backoff, "LONGEST_SECONDS", 0.2)
    options = [("grpc.initial_reconnect_backoff_ms", 50), ("grpc.max_reconnect_backoff_ms", 200)]
    chance = random.Random(7)
    await servers.start()
    async with grpc.aio.insecure_channel(servers.address, options=options) as channel:
        client = callboard.AsyncClient(channel=channel)
        story = Story((await client.threads.create()).thread_id)
        launchers = [
            asyncio.create_task(launch_on(client, story, name)) for name in range(LAUNCHERS)
        ]
        for _ in range(KILLS):
            await asyncio.sleep(chance.uniform(0.02, 0.4))
            servers.kill()
            await servers.start()
        story.stop.set()
        done, late = await asyncio.wait(launchers, timeout=30)
        assert not late, await still_open(client, story)
        await asyncio.gather(*done)
        await check(client, story)
    servers.kill()
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def still_open(client: callboard.AsyncClient, story: Story) -> str:
    """What keeps the story from ending."""
    jobs = [job async for job in client.jobs.list()]
    lines = [f"{await client.server.info()}"]
    for job in jobs:
        unread = job.job_id not in story.read and "launch" in job.labels
        if job.state != SUCCEEDED or unread:
            lines.append(f"{job} unread: {unread}")
            log = await log_of(client, job.job_id)
            own = [event for event in log if event.thread_id == job.job_id]
            lines += [f"{e.sequence} {e.WhichOneof('payload')} {e.claim_epoch}" for e in own]
    return "\n".join(lines)


async def check(client: callboard.AsyncClient, story: Story) -> None:
    assert len(story.acknowledged) > 3 * LAUNCHERS
    launched = [job async for job in client.jobs.list() if "launch" in job.labels]
    assert len(launched) == len({job.labels["launch"] for job in launched})
    by_label = {job.labels["launch"]: job for job in launched}
    assert by_label.keys() == story.acknowledged.keys()
    for label, job in story.acknowledged.items():
        assert by_label[label].job_id == job.job_id
        assert by_label[label].state == SUCCEEDED, by_label[label]
        assert by_label[label].run_count == 1
    sessions = {job.session_id for job in launched} | {story.home}
    logs = {session: await log_of(client, session) for session in sessions}
    for session, log in logs.items():
        assert validators.check_log(log) == [], session
    rescued = [e for log in logs.values() for e in log if e.HasField("run_queued")]
    assert len(rescued) > KILLS / 3
    assert {event.attempt for log in logs.values() for event in log if event.run_id} == {1}
    for job in launched:
        log = logs[job.session_id]
        seen = story.read[job.job_id]
        own = [event for event in log if event.thread_id == job.job_id]
        assert seen == own
        assert list(validators.atomic(log, seen)) == []
    for job_id, changes in story.watched.items():
        sequences = [job.sequence for job in changes]
        assert sequences == sorted(sequences), job_id
        assert changes[-1].state == SUCCEEDED
