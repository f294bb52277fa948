"""`callboard jobs`."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.cli.conftest import Run


def launch(cli: Run, *arguments: str) -> str:
    result = cli("jobs", "launch", *arguments)
    assert result.code == 0, result.err
    return result.out.strip()


@pytest.fixture
def label() -> str:
    return f"test={uuid.uuid4()}"


def test_launch_prints_the_id_and_nothing_else(cli: Run) -> None:
    result = cli("jobs", "launch", "count_words", "to", "be")
    assert str(uuid.UUID(result.out.strip())) in result.err
    [job] = cli("jobs", "wait", result.out.strip(), "--json").objects
    assert job["task"] == "to be"


def test_wait_prints_the_result_and_nothing_else(cli: Run) -> None:
    result = cli("jobs", "launch", "count_words", "to be or not to be", "--wait")
    assert (result.code, result.out) == (0, "6 words, 4 of them different.\n")
    assert result.err == ""


def test_a_failed_job_fails_the_command(cli: Run) -> None:
    for flag in ("--wait", "--watch"):
        result = cli("jobs", "launch", "countdown", "nothing", flag)
        assert result.code == 1
        assert "failed: Tell me a number to count down from." in result.err
    failed = launch(cli, "countdown", "nothing")
    fine = launch(cli, "count_words", "fine")
    assert cli("jobs", "wait", failed, fine).code == 1
    assert cli("jobs", "wait", failed).code == 1
    assert cli("jobs", "wait", failed, "--json").code == 1
    assert cli("jobs", "watch", failed).code == 1
    assert cli("jobs", "wait", fine).code == 0


def test_get_shows_everything(cli: Run, label: str) -> None:
    job_id = launch(cli, "count_words", "a b", "--label", label, "--timeout", "1m30s")
    cli("jobs", "wait", job_id)
    result = cli("jobs", "get", job_id)
    for text in (job_id, "✓ succeeded", "count_words", "a b", label, "1m30s"):
        assert text in result.out
    assert result.lines[-1] == "2 words, 2 of them different."
    [job] = cli("jobs", "get", job_id, "--json").objects
    assert job["job_id"] == job_id
    assert job["state"] == "RUN_STATE_SUCCEEDED"


def test_a_fork_begins_with_the_conversation_of_its_parent(cli: Run) -> None:
    parent = launch(cli, "count_words", "to be", "--wait", "--json")
    parent = json.loads(parent)["job_id"]
    fork = launch(cli, "count_words", "a b c", "--parent", parent, "--fork")
    cli("jobs", "wait", fork)
    assert "a fork of the parent's" in cli("jobs", "get", fork).out
    shown = cli("threads", "messages", fork).out
    assert shown.index("to be") < shown.index("a b c")
    result = cli("jobs", "launch", "count_words", "a", "--fork")
    assert (result.code, result.out) == (2, "")
    assert "--parent" in result.err


def test_get_shows_why_a_job_failed(cli: Run) -> None:
    job_id = launch(cli, "countdown", "nothing")
    cli("jobs", "wait", job_id)
    result = cli("jobs", "get", job_id)
    assert result.code == 0
    assert "✗ failed" in result.out
    assert "Tell me a number" in result.out


def test_list_filters(cli: Run, label: str) -> None:
    first = launch(cli, "count_words", "one", "--label", label)
    second = launch(cli, "countdown", "nothing", "--label", label)
    cli("jobs", "wait", first, second)
    listed = cli("jobs", "list", "--label", label)
    assert [line.split()[0] for line in listed.lines] == ["job", second, first]
    failed = cli("jobs", "list", "--label", label, "--state", "failed, running", "--json")
    assert [job["job_id"] for job in failed.objects] == [second]
    limited = cli("jobs", "list", "--label", label, "--limit", "1", "--json")
    assert [job["job_id"] for job in limited.objects] == [second]
    none = cli("jobs", "list", "--label", f"{label}x")
    assert none.out == "There are no jobs.\n"
    assert cli("jobs", "list", "--label", f"{label}x", "--json").out == ""


def test_update_follows_up_under_the_same_id(cli: Run) -> None:
    job_id = launch(cli, "countdown", "100")
    updated = cli("jobs", "update", job_id, "now", "1", "--json")
    [job] = updated.objects
    assert (job["job_id"], job["run_count"]) == (job_id, 2)
    assert cli("jobs", "wait", job_id).out == "Counted down from 1.\n"
    assert job_id in cli("jobs", "update", job_id, "1", "--delivery", "enqueue").out
    [job] = cli("jobs", "wait", job_id, "--json").objects
    assert job["run_count"] == 3


def test_cancel_and_again(cli: Run) -> None:
    job_id = launch(cli, "countdown", "100")
    cli("jobs", "cancel", job_id)
    waited = cli("jobs", "wait", job_id)
    assert waited.code == 1
    assert "cancelled" in waited.err
    assert "cancelled" in cli("jobs", "cancel", job_id, "--cascade").out
    [job] = cli("jobs", "cancel", job_id, "--json").objects
    assert job["state"] == "RUN_STATE_CANCELLED"


def test_wait_for_several_shows_a_table(cli: Run) -> None:
    ids = [launch(cli, "count_words", word) for word in ("one", "two")]
    result = cli("jobs", "wait", *ids)
    assert result.code == 0
    assert [line.split()[0] for line in result.lines] == ["job", *ids]
    assert [job["job_id"] for job in cli("jobs", "wait", *ids, "--json").objects] == ids


def test_watch_prints_a_line_for_every_change(cli: Run) -> None:
    job_id = launch(cli, "countdown", "2")
    result = cli("jobs", "watch", job_id)
    assert result.code == 0
    *lines, last, answer = result.lines
    assert all(line.startswith(job_id) for line in [*lines, last])
    assert len({*lines, last}) == len(lines) + 1
    assert lines[-1].endswith("1 to go (1/2)")
    assert "succeeded" in last
    assert answer == "Counted down from 2."


def test_watch_as_json_prints_jobs_only(cli: Run) -> None:
    watched = cli("jobs", "launch", "countdown", "1", "--watch", "--json").objects
    assert watched[-1]["state"] == "RUN_STATE_SUCCEEDED"
    assert len({job["job_id"] for job in watched}) == 1


def test_watch_the_jobs_of_a_parent(cli: Run) -> None:
    parent = launch(cli, "count_words", "parent")
    children = {launch(cli, "countdown", "1", "--parent", parent) for _ in range(2)}
    watched = cli("jobs", "watch", "--parent", parent)
    assert watched.code == 0
    assert {line.split()[0] for line in watched.lines} == children
    listed = cli("jobs", "list", "--parent", parent, "--json")
    assert {job["job_id"] for job in listed.objects} == children
    launch(cli, "countdown", "nothing", "--parent", parent)
    assert cli("jobs", "watch", "--parent", parent).code == 1


@pytest.mark.parametrize(
    "command", [("get",), ("update", "x"), ("cancel",), ("watch",), ("wait",)], ids=lambda it: it[0]
)
def test_an_unknown_id_is_not_found(cli: Run, command: tuple[str, ...]) -> None:
    verb, *rest = command
    unknown = str(uuid.uuid4())
    result = cli("jobs", verb, unknown, *rest)
    assert result.code == 4
    assert result.err.splitlines() == [
        f"error: there is no job {unknown}",
        "hint: callboard jobs list",
    ]


def test_an_id_that_is_too_short_is_answered_with_the_whole_one(cli: Run) -> None:
    job_id = launch(cli, "count_words", "x")
    result = cli("jobs", "get", job_id[:7])
    assert result.code == 4
    assert f"did you mean {job_id}?" in result.err


def test_an_unknown_agent_is_answered_with_those_that_exist(cli: Run) -> None:
    result = cli("jobs", "launch", "counter", "x")
    assert result.code == 4
    assert "count_words" in result.err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["launch", "countdown", "1", "--label", "red"], "write KEY=VALUE"),
        (["launch", "countdown", "1", "--timeout", "soon"], "write 30s, 5m or 1h30m"),
        (["launch", "countdown", "1", "--parent", "mother"], "parent_thread_id"),
        (["launch", "countdown"], "Missing argument"),
        (["update", "id", "x", "--delivery", "now"], "'interrupt', 'steer', 'enqueue'"),
        (["list", "--state", "lazy"], '"running"'),
        (["list", "--limit", "0"], "--limit"),
        (["watch"], "either the ID of a job or --parent"),
        (["watch", "id", "--parent", "id"], "either the ID of a job or --parent"),
        (["lunch"], "Did you mean 'launch'?"),
    ],
    ids=" ".join,
)
def test_wrong_usage(cli: Run, arguments: list[str], told: str) -> None:
    result = cli("jobs", *arguments)
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert told in result.err
    assert result.out == ""
