"""The tree of a session: `callboard jobs tree`, and `watch` over all of it."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import Client, Job, RunState
from callboard.cli.job_tree import JobTree
from tests.cli.conftest import Run, environment, read_ready, running
from tests.cli.terminal import PATIENCE, Terminal
from tests.cli.test_actions import asked_again
from tests.cli.test_jobs import launch

AGENTS = """
import asyncio

from callboard import Usage
from callboard_server import Context


async def chief(ctx: Context) -> str:
    agents = (await ctx.input()).split()
    await ctx.progress("asking around", current=1, total=4)
    jobs = [await ctx.jobs.launch(agent, f"for {ctx.run.agent}") for agent in agents]
    await ctx.jobs.wait(*jobs)
    return "All have said what they had to say."


async def second(ctx: Context) -> str:
    job = await ctx.jobs.launch("asker", "for second")
    await ctx.jobs.wait(job)
    return "Asked."


async def asker(ctx: Context) -> str:
    used = Usage(input_tokens=12_340, output_tokens=56, model_calls=1)
    await ctx.write_message(0).commit([], usage=used)
    return str(await ctx.ask("Which colour?"))


async def sleeper(ctx: Context) -> None:
    await ctx.sleep(3600)


async def holder(ctx: Context) -> None:
    await asyncio.Event().wait()
"""
NAMES = ("chief", "second", "asker", "sleeper", "holder")
SLOTS = 4
CONFIG = f"[server]\nslots = {SLOTS}\ngrace = 0.1\n" + "".join(
    f'[agents.{name}]\nentrypoint = "agents.py:{name}"\n' for name in NAMES
)


_PARKED = (RunState.RUN_STATE_WAITING, RunState.RUN_STATE_REQUIRES_ACTION)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trees")
    (folder / "callboard.toml").write_text(CONFIG)
    (folder / "agents.py").write_text(AGENTS)
    return folder


@pytest.fixture(scope="module")
def address(folder: Path) -> Iterator[str]:
    """A server with agents that launch others and wait for them."""
    with running("--json", "serve", "--port", "0", cwd=folder) as process:
        yield read_ready(process)["address"]


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client
        for job in client.jobs.list(states=["queued", "running", "waiting", "requires_action"]):
            client.jobs.cancel(job.job_id)
            client.jobs.wait(job.job_id)


def parked(client: Client, job_id: str, count: int) -> dict[str, Job]:
    """A job and those below it by their agents, once there are so many and all of them wait."""
    jobs = dict[str, Job]()
    with client.jobs.watch(job_id=job_id, scope="tree") as changes:
        for job in changes:
            jobs[job.job_id] = job
            if len(jobs) == count and all(job.state in _PARKED for job in jobs.values()):
                return {job.agent: job for job in jobs.values()}
    raise AssertionError(f"the stream ended with {jobs}")


def test_a_tree_says_of_each_job_why_it_waits(cli: Run, client: Client) -> None:
    top = launch(cli, "chief", "second sleeper")
    second, sleeper, asker = (
        parked(client, top, 4)[name].job_id for name in ("second", "sleeper", "asker")
    )
    header, *lines, summary = cli("jobs", "tree", top).lines
    assert header.split() == ["job", "state", "agent", "time", "tokens", "now"]
    names = [line.partition("  ")[0].rstrip() for line in lines]
    assert names == [top, f"├ {second}", f"│ └ {asker}", f"└ {sleeper}"]
    assert lines[0].endswith("  waits for 2 jobs · asking around (1/4)")
    assert lines[1].endswith("waits for 1 job")
    assert "? needs action" in lines[2]
    assert "12.3k/56" in lines[2]
    assert lines[2].endswith("waits for an answer: Which colour?")
    assert "  sleeps until 20" in lines[3]
    assert summary == "4 jobs: 1 needs action, 3 waiting · tokens: 12,340 in, 56 out"

    below = cli("jobs", "tree", second)
    assert [line.split()[0] for line in below.lines[1:3]] == [second, "└"]
    objects = cli("jobs", "tree", top, "--json").objects
    assert objects[0]["job_id"] == top
    assert {job["job_id"]: job.get("parent_thread_id") for job in objects} == {
        top: None,
        second: top,
        sleeper: top,
        asker: second,
    }


def test_a_tree_below_a_thread_and_that_of_all_that_is_active(cli: Run, client: Client) -> None:
    home = client.threads.create().thread_id
    assert cli("jobs", "tree", home).out == "There are no jobs.\n"
    assert cli("jobs", "tree", home, "--json").out == ""
    job_id = launch(cli, "asker", "x", "--parent", home)
    done = launch(cli, "asker", "y", "--parent", home)
    asked_again(client, job_id)
    asked_again(client, done)
    cli("jobs", "respond", done, "--answer", "red")
    cli("jobs", "wait", done)
    _, thread, first, last, _ = cli("jobs", "tree", home).lines
    assert thread.split() == [home, "thread"]
    assert first.startswith(f"├ {job_id}  ? needs action")
    assert last.startswith(f"└ {done}  ✓ succeeded")
    assert last.endswith("  y")
    for command in (["jobs"], ["jobs", "tree"]):
        _, thread, only = cli(*command).lines
        assert (thread.split(), only.split()[:2]) == ([home, "thread"], ["└", job_id])
    for command in (["jobs", "--json"], ["--json", "jobs"], ["jobs", "--json", "tree"]):
        assert [job["job_id"] for job in cli(*command).objects] == [job_id]


def test_what_has_no_tree(cli: Run, client: Client) -> None:
    job_id = launch(cli, "sleeper", "x")
    unknown = cli("jobs", "tree", str(uuid.uuid4()))
    assert (unknown.code, "hint: callboard jobs list" in unknown.err) == (4, True)
    truncated = cli("jobs", "tree", job_id[:7])
    assert truncated.code == 4
    assert f"did you mean {job_id}?" in truncated.err


def test_a_watch_through_a_pipe_goes_over_the_tree_and_a_restart(
    folder: Path, tmp_path: Path
) -> None:
    serve = ("--json", "serve", "--db", str(tmp_path / "own.db"))
    with running(*serve, "--port", "0", cwd=folder) as process:
        address = read_ready(process)["address"]
        with Client(address) as client:
            job = client.jobs.launch("chief", "second")
            asker = parked(client, job.job_id, 3)["asker"]
        env = environment(address)
        with (
            running("jobs", "watch", job.job_id, env=env) as lines,
            running("jobs", "watch", job.job_id, "--json", env=env) as frames,
        ):
            told = f"{asker.job_id}  needs action  asker  waits for an answer: Which colour?\n"
            assert told in lines.stdout
            first = json.loads(frames.stdout.readline())
            assert first["job_id"] == job.job_id
            process.kill()
            process.wait()
            port = address.rpartition(":")[2]
            with running(*serve, "--port", port, cwd=folder) as again, Client(address) as client:
                read_ready(again)
                [action] = client.actions.list(asker.job_id)
                client.actions.answer(action, "red")
                *_, last, result = lines.stdout.read().splitlines()
                assert (lines.wait(PATIENCE), lines.stderr.read()) == (0, "")
                assert last == f"{job.job_id}  succeeded     chief"
                assert result == "All have said what they had to say."
                ends = {(job["agent"], job["state"]) for job in map(json.loads, frames.stdout)}
                assert ends >= {(n, "RUN_STATE_SUCCEEDED") for n in ("chief", "second", "asker")}


def test_a_watch_on_a_terminal_is_drawn_until_all_is_done(
    cli: Run, client: Client, address: str
) -> None:
    job_id = launch(cli, "chief", "second asker")
    parked(client, job_id, 4)
    command = ("jobs", "watch", job_id)
    with Terminal(*command, env=environment(address), columns=80) as terminal:
        terminal.read_until("waits for an answer: Wh")
        terminal.read_until("4 jobs: 2 needs action, 2 waiting")
        for action in client.actions.list(session_id=job_id):
            client.actions.answer(action, "red")
        terminal.read_until("4 jobs: 4 succeeded")
        assert terminal.finish() == 0
    assert terminal.output.endswith("All have said what they had to say.\n")
    assert "\n│ └ " in terminal.text
    assert max(map(len, terminal.text.splitlines())) <= 80


def test_a_watch_of_a_thread_without_jobs_says_so(cli: Run, client: Client, address: str) -> None:
    home = client.threads.create().thread_id
    command = ("jobs", "watch", "--parent", home)
    watched = cli(*command)
    assert (watched.code, watched.out) == (0, "There are no jobs.\n")
    assert cli(*command, "--json").out == ""
    with Terminal(*command, env=environment(address)) as terminal:
        assert terminal.finish() == 0
    assert terminal.text.strip() == "There are no jobs."


def test_what_is_before_a_job_in_line_is_looked_up_again(
    cli: Run, client: Client, address: str
) -> None:
    holders = [launch(cli, "holder", "x") for _ in range(SLOTS)]
    for job_id in holders:
        with client.jobs.watch(job_id=job_id) as changes:
            next(job for job in changes if job.state == RunState.RUN_STATE_RUNNING)
    earlier, job_id = launch(cli, "sleeper", "x"), launch(cli, "sleeper", "x")
    with Terminal("jobs", "watch", job_id, env=environment(address)) as terminal:
        terminal.read_until("waits for a slot (1 before it)")
        # Nothing happens to the job itself.
        client.jobs.cancel(earlier)
        terminal.read_until("waits for a slot (0 before it)")
        client.jobs.cancel(holders[0])
        terminal.read_until("sleeps until 20")


def test_what_does_not_fit_a_screen_is_summed_up(client: Client, address: str) -> None:
    home = client.threads.create().thread_id
    for _ in range(499):
        client.jobs.launch("sleeper", "x", parent_thread_id=home)
    last = client.jobs.launch("asker", "x", parent_thread_id=home)
    client.runs.wait(last.run_id)
    command = ("jobs", "watch", "--parent", home)
    with Terminal(*command, env=environment(address), columns=140) as terminal:
        terminal.read_until("… 465 more: 465 waiting")
        terminal.read_until("500 jobs: 1 needs action, 499 waiting")
    # The last one of all is shown, for it is the most urgent one.
    assert f"└ {last.job_id}  ? needs action" in terminal.text
    with Terminal(*command, env=environment(address), columns=30) as terminal:
        drawn = terminal.read_until("… 465 more: 465 waiting")
        terminal.read_until("500 jobs: 1 needs action, 499…")
    assert last.job_id[:8] in drawn
    client.threads.delete(home)


jobs_of_any_kind = st.lists(
    st.tuples(st.integers(-3, 30), st.sampled_from(RunState.values()[1:])), max_size=30
)


@given(made=jobs_of_any_kind, room=st.integers(1, 40))
def test_a_tree_keeps_its_shape_on_any_screen(made: list[tuple[int, int]], room: int) -> None:
    # A job stands below an earlier one, or a thread that is none, or nothing.
    jobs = [
        Job(job_id=str(n), parent_thread_id=str(above) if 0 != above < n else "", state=state)  # type: ignore[arg-type]
        for n, (above, state) in enumerate(made, start=1)
    ]
    tree = JobTree(jobs)
    whole = tree.lines()
    assert {line.node_id for line in whole if line.job} == {job.job_id for job in jobs}
    parents = {job.job_id: job.parent_thread_id for job in jobs}
    for lines in (whole, tree.lines(room)):
        open_: list[str] = []
        for line in lines:
            # A step to the right for each level.
            depth = len(line.branch) // 2
            del open_[depth:]
            assert (open_[-1] if open_ else "") == parents.get(line.node_id, "")
            open_.append(line.node_id)
        assert len({line.node_id for line in lines}) == len(lines)
    few = tree.lines(room)
    assert len(few) <= room
    assert len(whole) > room or few == whole
    # A job is left out only where there is no room for it and for what is above it.
    shown = {line.node_id for line in few}
    if len(few) < room:
        assert not {n for n, above in parents.items() if n not in shown and above in {"", *shown}}
