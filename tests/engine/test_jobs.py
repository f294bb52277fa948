"""Jobs: redirected, followed up, cancelled, waited for and watched."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from callboard import AsyncClient, RunState, WaitTimeout, text_of, to_dict
from callboard.v1.job_pb2 import Job
from callboard_server.agents.context import Context
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import local, log_of, sound_log
from tests.support.waiting import a_wait_to_begin

QUEUED, RUNNING = RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_RUNNING
SUCCEEDED, CANCELLED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_CANCELLED
SUPERSEDED = RunState.RUN_STATE_SUPERSEDED


async def finished(client: AsyncClient, job: Job) -> Job:
    [job] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
    return job


async def test_an_interrupting_update_keeps_the_id_and_the_history(
    client: AsyncClient, gates: Gates
) -> None:
    job = await client.jobs.launch("worker", "first task")
    await gates.entered("first task")
    updated = await client.jobs.update(job.job_id, "another task")
    assert (updated.job_id, updated.run_count) == (job.job_id, 2)
    assert updated.run_id != job.run_id
    context = await gates.entered("another task")
    assert [text_of(m) for m in await context.messages()] == ["first task", "another task"]
    gates.open("another task")
    done = await finished(client, job)
    assert (done.state, done.run_id, done.task) == (SUCCEEDED, updated.run_id, "first task")
    assert (await client.runs.get(job.run_id)).state == SUPERSEDED
    await sound_log(client, job.job_id)


async def test_an_enqueued_update_lets_the_work_end_first(
    client: AsyncClient, gates: Gates
) -> None:
    job = await client.jobs.launch("worker", "first")
    await gates.entered("first")
    updated = await client.jobs.update(job.job_id, "second", delivery="enqueue")
    assert (updated.job_id, updated.state) == (job.job_id, QUEUED)
    assert list(updated.waiting_for.ids) == [job.run_id]
    gates.open("first", "second")
    done = await finished(client, job)
    assert (done.state, text_of(done.outcome.result)) == (SUCCEEDED, "done: second")
    assert (await client.runs.get(job.run_id)).state == SUCCEEDED
    await sound_log(client, job.job_id)


async def test_a_finished_job_is_followed_up_under_its_id(client: AsyncClient) -> None:
    job = await finished(client, await client.jobs.launch("quick", "first"))
    for number, delivery in enumerate(("interrupt", "enqueue"), start=2):
        await client.jobs.update(job.job_id, f"task {number}", delivery=delivery)  # type: ignore[arg-type]
        done = await finished(client, job)
        assert (done.run_count, text_of(done.outcome.result)) == (number, f"done: task {number}")
    texts = [text_of(m) async for m in client.threads.messages(job.job_id)]
    assert texts == ["first", "done: first", "task 2", "done: task 2", "task 3", "done: task 3"]
    await sound_log(client, job.job_id)


async def test_updates_from_many_callers_leave_one_run_that_succeeds(
    client: AsyncClient, gates: Gates
) -> None:
    job = await client.jobs.launch("worker", "first")
    answers = await asyncio.gather(
        *(client.jobs.update(job.job_id, f"update {number}") for number in range(10))
    )
    last = max(answers, key=lambda answer: answer.run_count)
    gates.open(*(f"update {number}" for number in range(10)))
    done = await finished(client, job)
    assert (done.run_id, done.run_count) == (last.run_id, 11)
    runs = [run async for run in client.runs.list(thread_id=job.job_id)]
    assert [run.state for run in runs] == [SUCCEEDED, *[SUPERSEDED] * 10]
    await sound_log(client, job.job_id)


async def test_cancelling_a_job_ends_all_that_is_queued_for_it(
    client: AsyncClient, gates: Gates
) -> None:
    job = await client.jobs.launch("worker", "first")
    await gates.entered("first")
    await client.jobs.update(job.job_id, "second", delivery="enqueue")
    await client.jobs.cancel(job.job_id)
    done = await finished(client, job)
    assert done.state == CANCELLED
    assert (await client.runs.wait(job.run_id, timeout=PATIENCE)).state == CANCELLED
    before = await log_of(client, job.job_id)
    assert (await client.jobs.cancel(job.job_id, cascade=True)).state == CANCELLED
    assert await log_of(client, job.job_id) == before


@pytest.mark.parametrize("cascade", [False, True])
async def test_a_cancel_reaches_the_jobs_below_only_when_it_cascades(
    tmp_path: Path, gates: Gates, cascade: bool
) -> None:
    async def boss(ctx: Context) -> None:
        child = await ctx.jobs.launch("boss" if "top" in await ctx.input() else "worker", "below")
        await ctx.client.jobs.wait(child.job_id)

    async with local([boss, *gates.agents], tmp_path / "jobs.db") as client:
        top = await client.jobs.launch("boss", "top")
        await gates.entered("below")
        await client.jobs.cancel(top.job_id, cascade=cascade)
        assert (await finished(client, top)).state == CANCELLED
        [middle] = [j async for j in client.jobs.list(parent_thread_id=top.job_id)]
        [below] = [j async for j in client.jobs.list(parent_thread_id=middle.job_id)]
        if cascade:
            assert {(await finished(client, job)).state for job in (middle, below)} == {CANCELLED}
        else:
            assert {middle.state, below.state} == {RUNNING}
            gates.open("below")
            assert {(await finished(client, job)).state for job in (middle, below)} == {SUCCEEDED}
        await sound_log(client, top.job_id)


async def test_a_run_that_is_cancelled_takes_along_only_the_jobs_that_it_launched(
    tmp_path: Path, gates: Gates
) -> None:
    async def boss(ctx: Context) -> None:
        child = await ctx.jobs.launch("worker", "launched by the run")
        await ctx.client.jobs.wait(child.job_id)

    async with local([boss, *gates.agents], tmp_path / "jobs.db") as client:
        home = await client.threads.create()
        run = await client.runs.create("boss", "go", thread_id=home.thread_id)
        await gates.entered("launched by the run")
        mine = await client.jobs.launch(
            "worker", "mine", parent_thread_id=home.thread_id, notify="none"
        )
        await gates.entered("mine")
        await client.runs.cancel(run.run_id, cascade=True)
        own, other = [j async for j in client.jobs.list(parent_thread_id=home.thread_id)][::-1]
        assert (own.parent_run_id, other.parent_run_id) == (run.run_id, "")
        assert (await finished(client, own)).state == CANCELLED
        gates.open("mine")
        assert (await finished(client, mine)).state == SUCCEEDED
        await sound_log(client, home.thread_id)


async def test_jobs_are_listed_by_parent_labels_and_state(
    client: AsyncClient, gates: Gates
) -> None:
    homes = [(await client.threads.create()).thread_id for _ in range(2)]
    odd = {'quo"te': "a.b", "$": "é"}
    mine = await client.jobs.launch("quick", "mine", parent_thread_id=homes[0], labels=odd)
    await client.jobs.launch("worker", "busy", parent_thread_id=homes[0])
    other = await client.jobs.launch("quick", "other", parent_thread_id=homes[1], labels=odd)
    for job in (mine, other):
        await finished(client, job)
    await gates.entered("busy")

    async def listed(**options: object) -> list[str]:
        return [job.task async for job in client.jobs.list(**options)]  # type: ignore[arg-type]

    assert await listed(parent_thread_id=homes[0]) == ["busy", "mine"]
    assert await listed(labels=odd) == ["other", "mine"]
    assert await listed(labels={"$": "é"}, parent_thread_id=homes[1]) == ["other"]
    assert await listed(labels={"$": "x"}) == []
    assert await listed(states=["running"]) == ["busy"]


async def test_values_are_passed_and_the_tasks_own_go_first(
    client: AsyncClient, gates: Gates
) -> None:
    home = (await client.threads.create(values={"a": {"x": 1}, "b": 2, "secret": 3})).thread_id
    job = await client.jobs.launch(
        "quick",
        "go",
        task_data={"a": {"y": 5}},
        parent_thread_id=home,
        pass_values=["a", "b", "nothing"],
    )
    await finished(client, job)
    state = await client.threads.state(job.job_id)
    assert to_dict(state.values) == {"a": {"y": 5}, "b": 2}


async def test_waits_end_with_any_all_or_their_timeout(client: AsyncClient, gates: Gates) -> None:
    jobs = [await client.jobs.launch("worker", f"{number}") for number in range(3)]
    ids = [job.job_id for job in jobs]
    anyone = asyncio.create_task(client.jobs.wait(ids, mode="any", timeout=PATIENCE))
    everyone = asyncio.create_task(client.jobs.wait(ids, timeout=PATIENCE))
    with pytest.raises(WaitTimeout) as over:
        await client.jobs.wait(ids, timeout=0.1)
    assert [job.job_id for job in over.value.latest if isinstance(job, Job)] == ids
    gates.open("1")
    states = [job.state for job in await anyone]
    assert states == [RUNNING, SUCCEEDED, RUNNING]
    gates.open("0")
    await asyncio.sleep(0)
    assert not everyone.done()
    gates.open("2")
    assert [job.state for job in await everyone] == [SUCCEEDED] * 3


async def test_a_wait_follows_a_job_through_its_updates(client: AsyncClient, gates: Gates) -> None:
    job = await client.jobs.launch("worker", "first")
    waiting = asyncio.create_task(client.jobs.wait(job.job_id, timeout=PATIENCE))
    await gates.entered("first")
    await client.jobs.update(job.job_id, "second")
    await gates.entered("second")
    assert not waiting.done()
    gates.open("second")
    [done] = await waiting
    assert text_of(done.outcome.result) == "done: second"


async def test_a_wait_that_runs_out_shows_how_jobs_stand_then(
    client: AsyncClient, gates: Gates
) -> None:
    job = await client.jobs.launch("worker", "it")
    context = await gates.entered("it")
    async with a_wait_to_begin():
        waiting = asyncio.create_task(client.jobs.wait(job.job_id, timeout=0.3))
    await context.progress("half way")
    with pytest.raises(WaitTimeout) as over:
        await waiting
    [latest] = over.value.latest
    assert latest.progress.message == "half way"


# Watching


async def busy_history(client: AsyncClient, gates: Gates) -> tuple[str, list[str]]:
    """A home thread whose jobs went through everything: its id, and those of the jobs."""
    home = (await client.threads.create()).thread_id
    labels = {"kind": "seen"}
    jobs = [
        await client.jobs.launch("worker", f"{n}", parent_thread_id=home, labels=labels)
        for n in range(3)
    ]
    for number in range(3):
        context = await gates.entered(f"{number}")
        await context.progress(f"begun {number}", current=1, total=2)
        await context.say("noise")
    await client.jobs.update(jobs[0].job_id, "redirected")
    await client.jobs.update(jobs[1].job_id, "behind", delivery="enqueue")
    await client.jobs.cancel(jobs[2].job_id)
    await client.jobs.launch("quick", "without labels", parent_thread_id=home)
    gates.open("1", "redirected", "behind")
    await client.jobs.wait([job.job_id for job in jobs], timeout=PATIENCE)
    await client.jobs.update(jobs[2].job_id, "1")
    await client.jobs.wait([job.job_id for job in jobs], timeout=PATIENCE)
    await client.jobs.wait([j.job_id async for j in client.jobs.list()], timeout=PATIENCE)
    return home, [job.job_id for job in jobs]


async def test_a_watch_resumed_anywhere_shows_exactly_the_changes_that_follow(
    client: AsyncClient, gates: Gates
) -> None:
    home, jobs = await busy_history(client, gates)
    head = (await client.threads.get(home)).head_sequence
    for options in (
        {"parent_thread_id": home},
        {"parent_thread_id": home, "labels": {"kind": "seen"}},
        {"job_id": jobs[0]},
        {"job_id": jobs[1]},
    ):
        full = [job async for job in client.jobs.watch(**options, after_sequence=0, until="done")]
        sequences = [job.sequence for job in full]
        assert sequences == sorted(set(sequences))
        assert {job.job_id for job in full if job.labels} <= set(jobs)
        for cursor in range(head + 1):
            stream = client.jobs.watch(**options, after_sequence=cursor, until="done")
            rest = [job async for job in stream]
            assert rest == [job for job in full if job.sequence > cursor], cursor
        last = {job.job_id: job for job in full}
        for job_id, shown in last.items():
            stands = await client.jobs.get(job_id)
            stands.sequence = shown.sequence
            assert shown == stands


async def test_a_live_watch_shows_a_snapshot_and_then_every_change_once(
    client: AsyncClient, gates: Gates
) -> None:
    home = (await client.threads.create()).thread_id
    first = await client.jobs.launch("worker", "first", parent_thread_id=home)
    await gates.entered("first")
    seen: list[Job] = []
    changes = client.jobs.watch(home)

    async def read_to_next(state: int) -> None:
        async with asyncio.timeout(PATIENCE):
            seen.append(await anext(changes))
            while seen[-1].state != state:
                seen.append(await anext(changes))

    await read_to_next(RUNNING)
    assert [job.job_id for job in seen] == [first.job_id]
    start = seen[0].sequence
    gates.open("first", "second")
    await read_to_next(SUCCEEDED)
    await client.jobs.update(first.job_id, "second")
    await read_to_next(SUCCEEDED)
    await client.jobs.launch("quick", "third", parent_thread_id=home)
    await read_to_next(SUCCEEDED)
    await changes.aclose()
    stream = client.jobs.watch(home, after_sequence=start, until="done")
    assert seen[1:] == [job async for job in stream]


async def test_a_watch_until_done_ends_when_its_running_job_is_deleted(
    client: AsyncClient, gates: Gates
) -> None:
    home = (await client.threads.create()).thread_id
    job = await client.jobs.launch("worker", "it", parent_thread_id=home)
    await gates.entered("it")

    streams = [client.jobs.watch(home, until="done"), client.jobs.watch(job_id=job.job_id)]
    async with asyncio.timeout(PATIENCE):
        for stream in streams:
            await anext(stream)
        await client.threads.delete(job.job_id)
        for stream in streams:
            async for _ in stream:
                pass
