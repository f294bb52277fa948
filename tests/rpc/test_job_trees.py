"""Jobs with all that they launched, and what all of them use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from callboard import AsyncClient, RunState, Usage
from callboard.v1.job_pb2 import Job
from callboard_server.agents.context import Context
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import Served, served, tuned

SUCCEEDED = RunState.RUN_STATE_SUCCEEDED


async def launch(client: AsyncClient, parent: str, task: str, **labels: str) -> str:
    """Launches a job of which nobody is told, so that nobody wakes."""
    job = await client.jobs.launch(
        "worker", task, parent_thread_id=parent, labels=labels, notify="none"
    )
    return job.job_id


@pytest.fixture
async def home(server: Served) -> str:
    return (await server.client.threads.create()).thread_id


@pytest.fixture
async def tree(server: Served, home: str) -> dict[str, str]:
    """The ids of jobs by their tasks: a1 is below a, which is below the home, as b is."""
    client = server.client
    ids = {"a": await launch(client, home, "a", team="x")}
    ids["a1"] = await launch(client, ids["a"], "a1")
    ids["b"] = await launch(client, home, "b")
    ids["a11"] = await launch(client, ids["a1"], "a11", team="x")
    elsewhere = await launch(client, (await client.threads.create()).thread_id, "elsewhere")
    await launch(client, elsewhere, "below elsewhere")
    return ids


async def tasks(jobs: AsyncIterator[Job]) -> list[str]:
    return [job.task async for job in jobs]


async def test_a_list_goes_as_deep_as_it_is_asked(
    server: Served, home: str, tree: dict[str, str]
) -> None:
    jobs = server.client.jobs
    assert await tasks(jobs.list(parent_thread_id=home)) == ["b", "a"]
    assert await tasks(jobs.list(parent_thread_id=home, scope="thread")) == ["b", "a"]
    for page_size in (0, 1, 3):
        found = jobs.list(parent_thread_id=home, scope="tree", page_size=page_size)
        assert await tasks(found) == ["a11", "b", "a1", "a"]
    assert await tasks(jobs.list(parent_thread_id=tree["a"], scope="tree")) == ["a11", "a1"]
    assert await tasks(jobs.list(parent_thread_id=tree["a11"], scope="tree")) == []
    labelled = jobs.list(parent_thread_id=home, scope="tree", labels={"team": "x"})
    assert await tasks(labelled) == ["a11", "a"]
    [shown] = [job async for job in jobs.list(parent_thread_id=tree["a1"], scope="tree")]
    assert (shown.job_id, shown.parent_thread_id) == (tree["a11"], tree["a1"])


async def test_states_are_looked_for_in_the_whole_tree(
    server: Served, gates: Gates, home: str, tree: dict[str, str]
) -> None:
    gates.open("a11")
    await server.client.jobs.wait(tree["a11"], timeout=PATIENCE)
    found = server.client.jobs.list(parent_thread_id=home, scope="tree", states=["succeeded"])
    assert await tasks(found) == ["a11"]


async def test_a_watch_of_a_tree_begins_with_parents_and_ends_with_the_last_leaf(
    server: Served, gates: Gates, home: str, tree: dict[str, str]
) -> None:
    for task in tree:
        await gates.entered(task)
    watching = server.client.jobs.watch(home, scope="tree", until="done")
    async with asyncio.timeout(PATIENCE):
        seen = [await anext(watching) for _ in tree]
        assert [job.task for job in seen] == ["a", "a1", "b", "a11"]
        # One comes deep below while it is watched, and goes on when all above it is done.
        await launch(server.client, tree["a11"], "a111")
        gates.open(*tree)
        await server.client.jobs.wait(list(tree.values()))
        gates.open("a111")
        seen += [job async for job in watching]
    assert {job.task: job.state for job in seen} == dict.fromkeys([*tree, "a111"], SUCCEEDED)
    assert (seen[-1].task, seen[-1].parent_thread_id) == ("a111", tree["a11"])


async def test_a_watch_of_one_job_shows_those_below_it_and_no_others(
    server: Served, gates: Gates, tree: dict[str, str]
) -> None:
    gates.open(*tree)
    await server.client.jobs.wait(list(tree.values()), timeout=PATIENCE)
    jobs = server.client.jobs

    async def watched(job: str, **options: object) -> list[str]:
        stream = jobs.watch(job_id=tree[job], until="done", **options)  # type: ignore[arg-type]
        return await tasks(stream)

    assert await watched("a") == ["a"]
    assert await watched("a", scope="tree") == ["a", "a1", "a11"]
    assert await watched("a1", scope="tree") == ["a1", "a11"]
    # The one between them has no label, and is no reason to stop there.
    assert await watched("a", scope="tree", labels={"team": "x"}) == ["a", "a11"]


async def test_a_watch_of_a_tree_resumed_anywhere_shows_exactly_the_changes_that_follow(
    server: Served, gates: Gates, home: str, tree: dict[str, str]
) -> None:
    client = server.client
    await client.jobs.update(tree["a1"], "a1 again")
    gates.open(*tree, "a1 again")
    await client.jobs.wait(list(tree.values()), timeout=PATIENCE)
    head = (await client.threads.get(home)).head_sequence
    for named in ({"parent_thread_id": home}, {"job_id": tree["a"]}):
        options = {**named, "scope": "tree", "until": "done"}
        full = [job async for job in client.jobs.watch(**options, after_sequence=0)]  # type: ignore[arg-type]
        assert {job.task for job in full} >= {"a", "a1", "a11"}
        for cursor in range(head + 1):
            stream = client.jobs.watch(**options, after_sequence=cursor)  # type: ignore[arg-type]
            rest = [job async for job in stream]
            assert rest == [job for job in full if job.sequence > cursor], cursor


async def test_what_is_deleted_keeps_no_watch_of_the_tree_waiting(
    server: Served, gates: Gates, home: str, tree: dict[str, str]
) -> None:
    for task in tree:
        await gates.entered(task)
    whole = server.client.jobs.watch(home, scope="tree", until="done")
    below = server.client.jobs.watch(job_id=tree["a1"], scope="tree")
    seen = dict[str, RunState.ValueType]()
    async with asyncio.timeout(PATIENCE):
        for stream, count in ((whole, 4), (below, 2)):
            seen |= {job.task: job.state for job in [await anext(stream) for _ in range(count)]}
        await server.client.threads.delete(tree["a1"])
        async for _ in below:
            pass
        gates.open("a", "b")
        seen |= {job.task: job.state async for job in whole}
    assert (seen["a"], seen["b"]) == (SUCCEEDED, SUCCEEDED)


# Usage


class Spender:
    """An agent that uses a token for each word of its task, and again when it may go on."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates

    async def spender(self, ctx: Context) -> str:
        text = await ctx.input()
        used = Usage(input_tokens=10, output_tokens=len(text.split()), model_calls=1)
        await ctx.write_message(0).commit([], usage=used)
        try:
            return await self._gates.worker(ctx)
        finally:
            await ctx.write_message(0).commit([], usage=used)


@pytest.fixture
def agents(gates: Gates) -> list[object]:
    return [Spender(gates).spender, *gates.agents]


async def test_usage_is_that_of_all_runs_while_they_work_and_after_a_restart(
    agents: list[object], gates: Gates, tmp_path: Path
) -> None:
    db = tmp_path / "jobs.db"
    async with served(agents, db) as server:
        client = server.client
        job_id = (await client.jobs.launch("spender", "two words")).job_id
        await gates.entered("two words")
        assert (await client.jobs.get(job_id)).usage.output_tokens == 2
        gates.open("two words")
        [job] = await client.jobs.wait(job_id, timeout=PATIENCE)
        assert job.usage == job.outcome.usage
        assert (job.usage.input_tokens, job.usage.output_tokens, job.usage.model_calls) == (
            20,
            4,
            2,
        )
        await client.jobs.update(job_id, "just three words")
        await gates.entered("just three words")
        before = await client.jobs.get(job_id)
        assert before.usage.output_tokens == 4 + 3
    assert admin.check(str(db)) == []
    async with served(agents, db) as server:
        client = server.client
        stands = await client.jobs.get(job_id)
        # The stop let the agent say what it had used.
        assert stands.usage.output_tokens >= before.usage.output_tokens
        gates.open("just three words")
        [job] = await client.jobs.wait(job_id, timeout=PATIENCE)
        runs = [run async for run in client.runs.list(thread_id=job_id)]
        assert job.usage.output_tokens == sum(run.usage.output_tokens for run in runs)
        assert job.outcome.usage == runs[0].usage
        [listed] = [each async for each in client.jobs.list()]
        assert listed.usage == job.usage
    assert admin.check(str(db)) == []


async def test_an_attempt_that_failed_counts(gates: Gates, tmp_path: Path) -> None:
    tried = list[int]()

    async def flaky(ctx: Context) -> str:
        used = Usage(output_tokens=5)
        await ctx.write_message(0).commit([], usage=used)
        tried.append(ctx.run.attempt)
        if len(tried) < 3:
            raise ConnectionError
        return await gates.worker(ctx)

    async with tuned([flaky], tmp_path / "jobs.db", max_attempts=3) as client:
        job_id = (await client.jobs.launch("flaky", "go")).job_id
        await gates.entered("go")
        at_work = await client.jobs.get(job_id)
        assert (at_work.attempt, at_work.usage.output_tokens) == (3, 15)
        gates.open("go")
        [job] = await client.jobs.wait(job_id, timeout=PATIENCE)
        assert job.usage == job.outcome.usage == at_work.usage


async def test_a_superseded_run_counts_up_to_its_end(
    agents: list[object], gates: Gates, tmp_path: Path
) -> None:
    db = tmp_path / "jobs.db"
    async with served(agents, db) as server:
        client = server.client
        job_id = (await client.jobs.launch("spender", "a b c d e")).job_id
        await gates.entered("a b c d e")
        watching = client.jobs.watch(job_id=job_id, until="done")
        seen = [await anext(watching)]
        # What it says in its grace, when another one has its place already.
        await client.jobs.update(job_id, "f")
        gates.open("f")
        async with asyncio.timeout(PATIENCE):
            seen += [job async for job in watching]
        assert seen[-1].usage.output_tokens == 2 * 5 + 2 * 1
        assert seen[-1].outcome.usage.output_tokens == 2
        # In a place of its own: a run that a client has on the job's thread.
        run = await client.runs.create("spender", "g h i", thread_id=job_id)
        gates.open("g h i")
        await client.runs.wait(run.run_id, timeout=PATIENCE)
        stands = await client.jobs.get(job_id)
        assert stands.usage.output_tokens == 12 + 2 * 3
        replay = client.jobs.watch(job_id=job_id, after_sequence=0, until="done")
        told = [job.usage.output_tokens async for job in replay]
        assert told == sorted(told)
        assert told[-1] == stands.usage.output_tokens
    assert admin.check(str(db)) == []
