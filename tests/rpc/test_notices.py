"""Notices as a program reads them: listed, told of, marked as read."""

from __future__ import annotations

import asyncio
from uuid import uuid4

import pytest

from callboard.v1.event_pb2 import EventKind
from callboard.v1.job_pb2 import Job
from callboard.v1.thread_pb2 import (
    ListNoticesRequest,
    ListNoticesResponse,
    ReadNoticesRequest,
    StreamEventsRequest,
)
from tests.rpc.refusals import refusal_of
from tests.support.gates import PATIENCE
from tests.support.serving import Served, kinds_of, log_of, sound_log


@pytest.fixture
async def home(server: Served) -> str:
    return (await server.client.threads.create()).thread_id


async def done(server: Served, home: str, *tasks: str) -> list[Job]:
    """Has jobs done, one after the other."""
    jobs = list[Job]()
    for task in tasks:
        job = await server.client.jobs.launch("quick", task, parent_thread_id=home)
        jobs += await server.client.jobs.wait(job.job_id)
    return jobs


async def listed(server: Served, home: str, **asked: object) -> ListNoticesResponse:
    request = ListNoticesRequest(thread_id=home)
    for name, value in asked.items():
        setattr(request, name, value)
    return await server.threads.ListNotices(request)


def tasks_of(response: ListNoticesResponse) -> list[str]:
    return [each.notice.task for each in response.notices]


async def test_a_notice_is_listed_until_it_is_read(server: Served, home: str) -> None:
    [job, other] = await done(server, home, "one", "two")
    response = await listed(server, home)
    assert tasks_of(response) == ["one", "two"]
    [first, _] = response.notices
    assert not first.read and first.notice.job_id == job.job_id
    assert first.notice.outcome == job.outcome
    assert first.text == (
        f"<notice>Job {job.job_id} of agent quick is done.\nTask: one\nResult: done: one</notice>"
    )

    request = ReadNoticesRequest(thread_id=home, notice_ids=[first.notice.notice_id] * 2)
    assert (await server.threads.ReadNotices(request)).unread_notice_count == 1
    assert tasks_of(await listed(server, home)) == ["two"]
    everything = await listed(server, home, include_read=True)
    assert [(each.notice.job_id, each.read) for each in everything.notices] == [
        (job.job_id, True),
        (other.job_id, False),
    ]
    log = await sound_log(server.client, home)
    assert everything.through_sequence == log[-1].sequence
    added = [event for event in log if event.HasField("notice_added")]
    assert [each.sequence for each in everything.notices] == [event.sequence for event in added]


async def test_to_read_again_writes_nothing(server: Served, home: str) -> None:
    await done(server, home, "one")
    [notice] = (await listed(server, home)).notices
    request = ReadNoticesRequest(thread_id=home, notice_ids=[notice.notice.notice_id])
    threads = [await server.threads.ReadNotices(request) for _ in range(2)]
    assert threads[0] == threads[1] and not threads[0].unread_notice_count
    assert kinds_of(await log_of(server.client, home)).count("notices_read") == 1


async def test_only_notices_of_the_thread_are_marked_all_or_none(server: Served, home: str) -> None:
    other = (await server.client.threads.create()).thread_id
    await done(server, home, "one")
    await done(server, other, "two")
    ids = [(await listed(server, each)).notices[0].notice.notice_id for each in (home, other)]
    for wrong in (ids[1], str(uuid4())):
        request = ReadNoticesRequest(thread_id=home, notice_ids=[ids[0], wrong])
        refusal = await refusal_of(server.threads.ReadNotices(request))
        assert (refusal.code, refusal.reason) == ("NOT_FOUND", "NOTICE_NOT_FOUND")
        assert wrong in refusal.message and ids[0] not in refusal.message
    for each in (home, other):
        assert (await server.client.threads.get(each)).unread_notice_count == 1


async def test_pages_go_on_where_the_last_one_ended(server: Served, home: str) -> None:
    tasks = [str(number) for number in range(5)]
    await done(server, home, *tasks)
    found, token, through = list[str](), "", set[int]()
    while not found or token:
        page = await listed(server, home, page_size=2, page_token=token)
        found += tasks_of(page)
        token = page.next_page_token
        through.add(page.through_sequence)
    assert found == tasks and len(through) == 1


async def test_the_stream_tells_of_what_the_list_has_not(server: Served, home: str) -> None:
    await done(server, home, "one")
    request = StreamEventsRequest(
        thread_id=home,
        kinds=[EventKind.EVENT_KIND_NOTICE_ADDED],
        after_sequence=(await listed(server, home)).through_sequence,
    )
    stream = server.threads.StreamEvents(request)
    await done(server, home, "two")
    async with asyncio.timeout(PATIENCE):
        async for frame in stream:
            if frame.events:
                break
    stream.cancel()
    [event] = frame.events
    [_, notice] = (await listed(server, home)).notices
    assert event.notice_added.notice == notice.notice
    assert event.sequence == notice.sequence
