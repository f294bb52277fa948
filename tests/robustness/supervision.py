"""Scenes with supervisors: they hand out work, stop some of it, and are told of the rest."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import callboard
from callboard import text_of
from tests.robustness.scenes import CANCELLED, SUCCEEDED, Client, Scene, ended, say


async def woken(client: Client) -> None:
    """A supervisor on the server is woken for the jobs that end, not for the one it stops."""
    thread = (await client.sdk.threads.create()).thread_id
    run = await say(client, "leader", thread)
    assert run is not None
    await _heard(client, thread, 2)
    jobs = client.sdk.jobs.list(parent_thread_id=thread)
    states = {job.task.split()[0]: await _end_of(client, job) async for job in jobs}
    assert states == {"one": SUCCEEDED, "two": SUCCEEDED, "stopped": CANCELLED}, states
    messages = [message async for message in client.sdk.threads.messages(thread)]
    heard = [text_of(message) for message in messages if message.author == "leader"]
    assert heard[-1] == "heard of 2", heard


async def _end_of(client: Client, job: callboard.Job) -> int:
    return (await ended(client, job, SUCCEEDED, CANCELLED)).state


async def _heard(client: Client, thread_id: str, count: int) -> None:
    """Waits until so many notices have come, and the assistant of the thread has read them all."""
    async with client.sdk.threads.stream(thread_id, kinds=["thread_idle"], until="never") as items:
        async for _ in items:
            notices = client.sdk.notices.list(thread_id, include_read=True)
            read = [notice.read async for notice in notices]
            assert len(read) <= count, f"{len(read)} notices"
            if read == [True] * count:
                return


async def informed(client: Client) -> None:
    """A supervisor outside is told of each end of a job once, and of nothing that it stopped."""
    supervisor = await client.sdk.supervisor(client.label(), ["plain", "steady"])
    work, stopped = [await _launched(client, supervisor, name) for name in ("plain", "steady")]
    await supervisor.tools.call("cancel_job", {"job_id": stopped})
    told: Counter[str] = Counter()
    async with supervisor.notices(max_downtime=None) as notices:
        async for notice in notices:
            assert (notice.job_id, notice.state) == (work, SUCCEEDED), notice.text
            told[notice.notice_id] += 1
            if len(told) == 2:
                await notice.done()
                break
            await _followed_up(client, supervisor, work)
    assert set(told.values()) == {1}, told
    await ended(client, await client.sdk.jobs.get(stopped), CANCELLED)
    home = await client.sdk.threads.get(supervisor.thread_id)
    assert not home.unread_notice_count, home


async def _launched(client: Client, supervisor: callboard.AsyncSupervisor, agent: str) -> str:
    """The id of a job that is launched by the tools, now and then twice."""
    label = client.label()
    task = f"work [{label}]"
    launched = await _called(client, supervisor, "launch_job", label, agent=agent, task=task)
    job = await client.sdk.jobs.get(launched["job_id"])
    client.history.took(task, job.job_id, job.run_id)
    return job.job_id


async def _followed_up(client: Client, supervisor: callboard.AsyncSupervisor, job_id: str) -> None:
    """Has a job go on that has ended."""
    label = client.label()
    text = f"go on [{label}]"
    await _called(client, supervisor, "update_job", label, job_id=job_id, instructions=text)
    client.history.took(text, job_id, (await client.sdk.jobs.get(job_id)).run_id)


async def _called(
    client: Client, supervisor: callboard.AsyncSupervisor, name: str, call_id: str, **given: Any
) -> Any:
    """What a call comes to, which is made again now and then, as by one that was killed."""
    answer = await supervisor.tools.call(name, given, call_id=call_id)
    if client.chance.random() < 0.2:
        again = await supervisor.tools.call(name, given, call_id=call_id)
        assert json.loads(again)["job_id"] == json.loads(answer)["job_id"], again
    return json.loads(answer)


SCENES: list[Scene] = [woken, informed]
