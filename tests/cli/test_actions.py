"""`callboard actions` and `respond`, and why jobs do not run."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from callboard import Client, Event
from tests.cli.conftest import Result, Run, read_ready, running
from tests.cli.test_jobs import launch

AGENTS = '''
import asyncio

from callboard_server import Context, SyncContext, tool
from callboard_server.agents.tools import client_tool


async def painter(ctx: Context) -> str:
    answers = [await ctx.ask("Which\\ncolour?", schema={"enum": ["red", "blue"]})]
    answers.append(await ctx.ask("Its name?", schema={"type": "string"}, deadline=3600))
    answers.append(await ctx.ask("Anything else?"))
    return repr(answers)


async def holder(ctx: Context) -> None:
    await asyncio.Event().wait()


async def sleeper(ctx: Context) -> None:
    await ctx.sleep(3600)


async def boss(ctx: Context) -> None:
    jobs = [await ctx.jobs.launch("sleeper", "z") for _ in range(2)]
    await ctx.jobs.wait(*jobs, any=await ctx.input() == "any")


async def flaky(ctx: Context) -> None:
    raise ConnectionError


@tool(policy="ask")
def open_door(number: int) -> str:
    """Open a door."""
    return f"Door {number} is open."


look = client_tool("look", "Look out of the window.", {"type": "object"})
'''
CONFIG = """
[server]
slots = 2
grace = 0.1

[agents.porter]
model = "offline:porter.toml"
tools = ["agents.py:open_door", "agents.py:look"]

[agents.flaky]
entrypoint = "agents.py:flaky"
retry_pause = 60

[agents.single]
entrypoint = "agents.py:holder"
concurrency = 1
"""
RULES = """
[[rule]]
example = "door 3"
when = 'door (?P<number>\\d+)'
call = [{ tool = "open_door", arguments = { number = "{number}" } }]

[[rule]]
example = "look"
when = 'look'
call = [{ tool = "look" }]
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server whose agents wait for all that there is."""
    folder: Path = tmp_path_factory.mktemp("waiting")
    plain = "".join(
        f'[agents.{name}]\nentrypoint = "agents.py:{name}"\n'
        for name in ("painter", "holder", "sleeper", "boss")
    )
    (folder / "callboard.toml").write_text(CONFIG + plain)
    (folder / "agents.py").write_text(AGENTS)
    (folder / "porter.toml").write_text(RULES)
    with running("--json", "serve", "--port", "0", cwd=folder) as process:
        yield read_ready(process)["address"]


@pytest.fixture
def client(address: str) -> Iterator[Client]:
    with Client(address) as client:
        yield client


@pytest.fixture
def jobs(client: Client) -> Iterator[None]:
    """Ends all jobs after a test, for they take slots."""
    yield
    for job in client.jobs.list(states=["queued", "running", "waiting", "requires_action"]):
        client.jobs.cancel(job.job_id)
        client.jobs.wait(job.job_id)


def asked(client: Client, cli: Run, *task: str) -> tuple[str, str]:
    """The ids of a job that waits for an answer, and of the action."""
    job_id = launch(cli, *task)
    return job_id, asked_again(client, job_id)


def asked_again(client: Client, job_id: str) -> str:
    client.runs.wait(client.jobs.get(job_id).run_id)
    [action] = client.actions.list(job_id)
    return action.action_id


def await_event(client: Client, job_id: str, kind: str) -> Event:
    """Waits for the first event of a kind."""
    with client.threads.stream(job_id, kinds=[kind]) as events:  # type: ignore[list-item]
        event = next(events)
    assert isinstance(event, Event)
    return event


def why(cli: Run, job_id: str) -> str:
    """Why a job does not run: the list and the job itself say the same."""
    [told] = [line for line in cli("jobs", "get", job_id).lines if line.startswith("why")]
    reason = told.removeprefix("why").strip()
    listed = next(line for line in cli("jobs", "list").lines if line.startswith(job_id))
    assert reason in listed
    return reason


def assert_not_found(result: Result, hint: str) -> None:
    assert result.code == 4
    assert result.err.endswith(f"hint: {hint}\n")


@pytest.mark.usefixtures("jobs")
class TestAnswers:
    def test_actions_are_listed_and_answered(self, cli: Run, client: Client) -> None:
        job_id, first = asked(client, cli, "painter", "Paint.")
        header, line = cli("actions", "--thread", job_id).lines
        assert header.split()[:3] == ["action", "thread", "agent"]
        assert line.split()[:3] == [first, job_id[:8], "painter"]
        assert line.endswith("an answer  Which colour?")
        assert why(cli, job_id) == "waits for an answer: Which colour?"
        assert first in cli("threads", "get", job_id).out

        wrong = cli("respond", first, "--answer", "green")
        assert wrong.code == 2
        assert "'green' is not one of ['red', 'blue']" in wrong.err
        assert cli("respond", first, "--answer", "red").out.startswith("answered; run ")

        second = asked_again(client, job_id)
        assert "(until " in cli("actions", "--session", job_id).lines[1]
        assert cli("respond", second, "--answer", "42").code == 0
        third = asked_again(client, job_id)
        [run] = cli("respond", third, "--answer", '{"no": [1]}', "--json").objects
        assert run["thread_id"] == job_id
        assert cli("jobs", "wait", job_id).out == "['red', '42', {'no': [1]}]\n"
        assert cli("actions", "--thread", job_id).out == "Nothing waits for an answer.\n"
        assert cli("actions", "--thread", job_id, "--json").out == ""

    def test_permissions(self, cli: Run, client: Client) -> None:
        job_id, action = asked(client, cli, "porter", "door 3")
        assert why(cli, job_id) == 'waits for an answer: open_door {"number": "3"}'
        assert cli("respond", action, "--allow").code == 0
        assert cli("jobs", "wait", job_id).out == "Door 3 is open.\n"
        job_id, action = asked(client, cli, "porter", "door 4")
        assert cli("respond", action, "--deny", "it is night").code == 0
        assert "it is night" in cli("jobs", "wait", job_id).out

    def test_results_of_the_client(self, cli: Run, client: Client) -> None:
        job_id, action = asked(client, cli, "porter", "look")
        [listed] = cli("actions", "--thread", job_id, "--json").objects
        assert listed["tool_call"]["name"] == "look"
        assert cli("respond", action, "--result", "It rains.").code == 0
        assert cli("jobs", "wait", job_id).out == "It rains.\n"

    @pytest.mark.parametrize(
        ("flags", "told"),
        [
            ([], "give one of"),
            (["--allow", "--deny", "no"], "give one of"),
            (["--allow"], "waits for an answer: give --answer"),
            (["--result", "x"], "waits for an answer: give --answer"),
        ],
        ids=" ".join,
    )
    def test_wrong_answers(self, cli: Run, client: Client, flags: list[str], told: str) -> None:
        _, action = asked(client, cli, "painter", "Paint.")
        refused = cli("respond", action, *flags)
        assert refused.code == 2
        assert told in refused.err

    def test_what_is_not_asked(self, cli: Run) -> None:
        unknown = str(uuid.uuid4())
        assert_not_found(cli("respond", unknown, "--allow"), "callboard actions")
        assert_not_found(cli("actions", "--thread", unknown), "callboard threads list")
        both = cli("actions", "--thread", unknown, "--session", unknown)
        assert (both.code, "give only one" in both.err) == (2, True)


@pytest.mark.usefixtures("jobs")
class TestWhy:
    def test_a_slot(self, cli: Run, client: Client) -> None:
        for _ in range(2):
            await_event(client, launch(cli, "holder", "x"), "run_started")
        first, second = (launch(cli, "holder", "x") for _ in range(2))
        assert why(cli, first) == "waits for a slot (0 before it)"
        assert why(cli, second) == "waits for a slot (1 before it)"
        told = cli("server", "info").out
        assert "2 of 2 used" in told
        assert "2 queued, 2 running" in told

    def test_others_of_its_assistant(self, cli: Run, client: Client) -> None:
        await_event(client, launch(cli, "single", "x"), "run_started")
        assert why(cli, launch(cli, "single", "x")) == "waits for 1 other run of its assistant"

    def test_its_thread(self, cli: Run, client: Client) -> None:
        job_id = launch(cli, "holder", "x")
        run_id = client.jobs.get(job_id).run_id
        updated = cli("jobs", "update", job_id, "y", "--delivery", "enqueue")
        assert f"waits for run {run_id} on its thread" in updated.out
        cli("jobs", "update", job_id, "z", "--delivery", "enqueue")
        assert why(cli, job_id) == f"waits for run {run_id} and 1 more on its thread"

    def test_a_steered_job_keeps_its_run(self, cli: Run, client: Client) -> None:
        job_id = launch(cli, "holder", "x")
        [before] = cli("jobs", "get", job_id, "--json").objects
        [after] = cli("jobs", "update", job_id, "y", "--delivery", "steer", "--json").objects
        assert before["run_id"] == after["run_id"]

    def test_time(self, cli: Run, client: Client) -> None:
        job_id = launch(cli, "sleeper", "x")
        await_event(client, job_id, "run_waiting")
        assert why(cli, job_id).startswith("sleeps until 20")

    def test_another_attempt(self, cli: Run, client: Client) -> None:
        job_id = launch(cli, "flaky", "x")
        await_event(client, job_id, "run_queued")
        assert why(cli, job_id).startswith("will be tried again at 20")

    @pytest.mark.parametrize(
        ("task", "told"), [("all", "waits for 2 jobs"), ("any", "waits for one of 2 jobs")]
    )
    def test_its_jobs(self, cli: Run, client: Client, task: str, told: str) -> None:
        job_id = launch(cli, "boss", task)
        await_event(client, job_id, "run_waiting")
        assert why(cli, job_id) == told

    def test_nothing(self, cli: Run, client: Client) -> None:
        job_id = launch(cli, "holder", "x")
        await_event(client, job_id, "run_started")
        assert not any(line.startswith("why") for line in cli("jobs", "get", job_id).lines)
        header, *_ = cli("jobs", "list", "--state", "running").lines
        assert header.split() == ["job", "state", "agent", "time", "task"]
