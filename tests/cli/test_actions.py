"""`callboard actions` and `respond`, and why jobs do not run."""

from __future__ import annotations

import json
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from callboard import Client, Event
from tests.cli.conftest import Result, Run, command, environment, read_ready, running
from tests.cli.terminal import Terminal
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


async def twice(ctx: Context) -> str:
    answers = await ctx.gather(ctx.ask("First?"), ctx.ask("Second?"))
    return " ".join(map(str, answers))


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
        for name in ("painter", "twice", "holder", "sleeper", "boss")
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
        assert "'green' is not one of: red, blue" in wrong.err
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

    def test_people_are_told_of_more_actions(self, cli: Run, client: Client) -> None:
        for _ in range(2):
            asked(client, cli, "painter", "Paint.")
        cut = cli("actions", "--limit", "1")
        assert len(cut.lines) == 2
        assert cut.err == "there are more than 1: --limit 2 shows more of them\n"
        assert cli("actions", "--limit", "2").err == ""
        assert cli("actions", "--limit", "1", "--json").err == ""

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
class TestJobsRespond:
    """`callboard jobs respond`, which asks for the answers that no option gives."""

    def test_options_answer_each_kind_of_action(self, cli: Run, client: Client) -> None:
        job_id, _ = asked(client, cli, "painter", "Paint.")
        wrong = cli("jobs", "respond", job_id, "--answer", "green")
        assert (wrong.code, "'green' is not one of" in wrong.err) == (2, True)
        answered = cli("jobs", "respond", job_id, "--answer", "red")
        assert answered.lines[1].startswith(job_id)
        for text in ("42", "no"):
            asked_again(client, job_id)
            [job] = cli("jobs", "respond", job_id, "--answer", text, "--json").objects
            assert job["job_id"] == job_id
        assert cli("jobs", "wait", job_id).out == "['red', '42', 'no']\n"

        job_id, _ = asked(client, cli, "porter", "door 3")
        refused = cli("jobs", "respond", job_id, "--answer", "yes")
        assert (refused.code, "give --allow or --deny" in refused.err) == (2, True)
        cli("jobs", "respond", job_id, "--allow")
        assert cli("jobs", "wait", job_id).out == "Door 3 is open.\n"
        job_id, _ = asked(client, cli, "porter", "look")
        cli("jobs", "respond", job_id, "--result", "It rains.")
        assert cli("jobs", "wait", job_id).out == "It rains.\n"

    def test_without_options_lines_of_the_input_answer(
        self, cli: Run, client: Client, address: str
    ) -> None:
        job_id, _ = asked(client, cli, "painter", "Paint.")
        answered = typed(address, job_id, "green\nred\n")
        assert answered.returncode == 0
        assert "one of red, blue" in answered.stdout
        assert "'green' is not one of: red, blue" in answered.stderr
        asked_again(client, job_id)
        unanswered = typed(address, job_id, "")
        assert unanswered.returncode == 1
        assert "left open: callboard respond " in unanswered.stdout
        silent = typed(address, job_id, "Rose\n", "--json")
        assert [json.loads(line)["job_id"] for line in silent.stdout.splitlines()] == [job_id]
        asked_again(client, job_id)
        assert typed(address, job_id, "no\n").returncode == 0
        assert cli("jobs", "wait", job_id).out == "['red', 'Rose', 'no']\n"

    def test_at_a_terminal(self, cli: Run, client: Client, address: str) -> None:
        job_id, _ = asked(client, cli, "porter", "door 4")
        command = ("jobs", "respond", job_id)
        with Terminal(*command, env=environment(address), columns=120) as terminal:
            terminal.read_until('wants to use open_door: {"number": "4"}')
            terminal.read_until("y, or n and why> ")
            terminal.type("perhaps\n")
            terminal.read_until("say y, or n and why")
            terminal.type("n it is night\n")
            terminal.read_until(job_id)
            assert terminal.finish() == 0
        assert "it is night" in cli("jobs", "wait", job_id).out

    def test_of_several_actions_one_is_named(self, cli: Run, client: Client) -> None:
        job_id = launch(cli, "twice", "x")
        client.runs.wait(client.jobs.get(job_id).run_id)
        first, second = client.actions.list(job_id)
        refused = cli("jobs", "respond", job_id, "--answer", "1")
        assert refused.code == 2
        for action in (first, second):
            assert f"--action {action.action_id}  {action.question}" in refused.err
        named = ("jobs", "respond", job_id, "--answer", "2", "--action", second.action_id)
        assert cli(*named).code == 0
        assert_not_found(cli(*named), f"callboard jobs get {job_id}")
        assert cli("jobs", "respond", job_id, "--answer", "1").code == 0
        assert cli("jobs", "wait", job_id).out == "1 2\n"

    def test_what_cannot_be_answered(self, cli: Run, client: Client) -> None:
        job_id = launch(cli, "holder", "x")
        await_event(client, job_id, "run_started")
        refused = cli("jobs", "respond", job_id)
        assert_not_found(refused, f"callboard jobs get {job_id}")
        assert f"job {job_id} does not wait for an answer; its state: running" in refused.err
        both = cli("jobs", "respond", job_id, "--allow", "--deny", "no")
        assert (both.code, "give only one of" in both.err) == (2, True)
        assert_not_found(cli("jobs", "respond", str(uuid.uuid4())), "callboard jobs list")
        assert f"did you mean {job_id}?" in cli("jobs", "respond", job_id[:7]).err


def typed(address: str, job_id: str, text: str, *options: str) -> subprocess.CompletedProcess[str]:
    """Answers a job by the lines of an input."""
    return subprocess.run(
        command("jobs", "respond", job_id, *options),
        env=environment(address),
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )


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
