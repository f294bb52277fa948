"""`callboard agents`, `server`, `threads` and `events`: what there is."""

from __future__ import annotations

import json
import signal
import uuid

import pytest

from tests.cli.conftest import Run, environment, running
from tests.cli.terminal import Terminal


@pytest.fixture
def job_id(cli: Run) -> str:
    """A job that is finished."""
    return str(
        cli("jobs", "launch", "count_words", "to be", "--wait", "--json").objects[0]["job_id"]
    )


def test_agents(cli: Run) -> None:
    header, assistant, *_ = cli("agents").lines
    assert header.split() == ["name", "kind", "description", "model", "tools"]
    for text in ("assistant", "chat", "Gives work", "offline:assistant.toml", "launch_job"):
        assert text in assistant
    agents = cli("agents", "--json").objects
    assert [agent["name"] for agent in agents] == ["assistant", "count_words", "countdown"]


def test_server_info(cli: Run) -> None:
    result = cli("server", "info")
    assert result.code == 0
    assert "sqlite" in result.out
    [info] = cli("server", "info", "--json").objects
    assert info["contract_version"] == "callboard.v1"


def test_lines_end_where_their_words_end(cli: Run, job_id: str) -> None:
    for command in (
        ["server", "info"],
        ["jobs", "get", job_id],
        ["threads", "get", job_id],
        ["events", job_id],
    ):
        lines = cli(*command).lines
        assert len(lines) > 5
        assert lines == [line.rstrip() for line in lines]


def test_details_are_broken_where_the_screen_ends(cli: Run, address: str) -> None:
    task = "to be or not to be " * 5
    job_id = cli("jobs", "launch", "count_words", task, "--wait", "--json").objects[0]["job_id"]
    with Terminal("jobs", "get", job_id, env=environment(address), columns=50) as terminal:
        assert terminal.finish() == 0
    lines = terminal.text.splitlines()
    assert max(map(len, lines)) <= 50
    name, *words = lines[3].split()
    below = [line for line in lines[4:] if line.startswith(" ")]
    assert name == "task"
    assert [*words, *" ".join(below).split()] == task.split()


def test_threads_list(cli: Run, job_id: str) -> None:
    header, first, *_ = cli("threads", "list", "--limit", "1").lines
    assert header.split()[0] == "thread"
    assert first.split()[:3] == [job_id, "idle", "succeeded"]
    [thread] = cli("threads", "list", "--session", job_id, "--state", "idle", "--json").objects
    assert thread["thread_id"] == job_id


def test_threads_get(cli: Run, job_id: str) -> None:
    assert job_id in cli("threads", "get", job_id).out
    [state] = cli("threads", "get", job_id, "--json").objects
    assert state["thread"]["thread_id"] == job_id


def test_threads_get_as_of_then(cli: Run, job_id: str) -> None:
    [state] = cli("threads", "get", job_id, "--at", "2", "--json").objects
    assert (state["at_sequence"], "message_count" in state) == ("2", False)
    beyond = cli("threads", "get", job_id, "--at", "99")
    assert beyond.code == 1
    assert "beyond the log's head" in beyond.err
    assert beyond.err.endswith(f"hint: callboard threads get {job_id}\n")


def test_threads_messages(cli: Run, job_id: str) -> None:
    lines = cli("threads", "messages", job_id).lines
    assert lines[0].startswith("user  ")
    assert lines[1:3] == ["to be", ""]
    assert lines[3].startswith("count_words  ")
    assert lines[4] == "2 words, 2 of them different."
    roles = [message["role"] for message in cli("threads", "messages", job_id, "--json").objects]
    assert roles == ["ROLE_USER", "ROLE_ASSISTANT"]


def test_threads_compact(cli: Run, job_id: str) -> None:
    given = cli("threads", "compact", job_id, "--summary", "It was counted.")
    assert given.out == f"{job_id} starts from your summary now\n"
    [thread] = cli("threads", "compact", job_id, "--summary", "Again.", "--json").objects
    assert thread["thread_id"] == job_id
    assert len(cli("events", job_id, "--kinds", "context_compacted", "--json").objects) == 2
    assert "has no model" in cli("threads", "compact", job_id).err


def test_threads_compact_by_a_model(cli: Run) -> None:
    [job] = cli("jobs", "launch", "assistant", "help", "--wait", "--json").objects
    thread = job["job_id"]
    assert cli("threads", "compact", thread).out == f"queued a run that summarises {thread}\n"


def test_threads_delete(cli: Run, job_id: str) -> None:
    assert cli("threads", "delete", job_id, "--yes").out == f"deleted {job_id}\n"
    again = cli("threads", "delete", job_id, "--yes")
    assert again.code == 4
    assert again.err.splitlines()[-1] == "hint: callboard threads list"


def test_threads_delete_as_json(cli: Run, job_id: str) -> None:
    result = cli("threads", "delete", job_id, "--yes", "--json")
    assert result.objects == [{"deleted_thread_id": job_id}]


def test_events_are_a_line_each(cli: Run, job_id: str) -> None:
    lines = cli("events", job_id).lines
    assert [int(line.split()[0]) for line in lines] == list(range(1, len(lines) + 1))
    finished = next(line for line in lines if "run_finished" in line)
    assert job_id[:8] in finished
    assert finished.endswith("succeeded: 2 words, 2 of them different.")


def test_events_filter(cli: Run, job_id: str) -> None:
    kinds = ("--kinds", "run_started,run_finished")
    both = cli("events", job_id, *kinds, "--json").objects
    assert [kind for event in both for kind in event if kind.startswith("run_f")] == [
        "run_finished"
    ]
    after = cli("events", job_id, *kinds, "--after", both[0]["sequence"], "--session", "--json")
    assert after.objects == both[1:]


def test_events_follow_until_interrupted(address: str, cli: Run) -> None:
    job_id = cli("jobs", "launch", "countdown", "1").out.strip()
    flags = ("--follow", "--deltas", "--json")
    with running("events", job_id, *flags, env=environment(address)) as process:
        while "run_finished" not in json.loads(process.stdout.readline()):
            pass
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130
        assert process.stderr.read() == ""


@pytest.mark.parametrize(
    "command", [("threads", "get"), ("threads", "messages"), ("events",)], ids=" ".join
)
def test_an_unknown_thread_is_not_found(cli: Run, command: tuple[str, ...]) -> None:
    result = cli(*command, str(uuid.uuid4()))
    assert result.code == 4
    assert result.err.startswith("error: there is no thread ")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--kinds", "run_over"], '"run_finished"'),
        (["--deltas"], "goes with --follow"),
        (["--after", "-1"], "--after"),
    ],
    ids=lambda it: it[0] if isinstance(it, list) else "",
)
def test_wrong_usage_of_events(cli: Run, job_id: str, arguments: list[str], told: str) -> None:
    result = cli("events", job_id, *arguments)
    assert result.code == 2
    assert told in result.err


def test_a_cursor_beyond_the_log_fails(cli: Run, job_id: str) -> None:
    result = cli("events", job_id, "--after", "1000")
    assert result.code == 1
    assert "hint: start from the beginning" in result.err
