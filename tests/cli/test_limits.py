"""Lists that are cut off say so, to people."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest

from callboard._sync.jobs import Jobs
from tests.cli.conftest import Run
from tests.cli.test_jobs import launch


def two_jobs(cli: Run) -> list[str]:
    label = f"test={uuid.uuid4()}"
    for task in ("one", "two"):
        launch(cli, "count_words", task, "--label", label)
    return ["jobs", "list", "--label", label]


def two_threads(cli: Run) -> list[str]:
    root = launch(cli, "count_words", "root")
    launch(cli, "count_words", "below", "--parent", root)
    cli("jobs", "wait", root)
    return ["threads", "list", "--session", root]


def two_messages(cli: Run) -> list[str]:
    job_id = launch(cli, "count_words", "task")
    cli("jobs", "wait", job_id)
    return ["threads", "messages", job_id]


def two_assistants(cli: Run) -> list[str]:
    metadata = f"test={uuid.uuid4()}"
    for name in ("Ada", "Bob"):
        cli("assistants", "create", "assistant", "--name", name, "--metadata", metadata)
    return ["assistants", "list", "--metadata", metadata]


def two_versions(cli: Run) -> list[str]:
    assistant_id = cli("assistants", "create", "assistant", "--name", "Ada").out.strip()
    cli("assistants", "update", assistant_id, "--name", "Bob")
    return ["assistants", "versions", assistant_id]


@pytest.mark.parametrize(
    "make", [two_jobs, two_threads, two_messages, two_assistants, two_versions]
)
def test_people_are_told_of_more_and_how_to_see_it(
    cli: Run, make: Callable[[Run], list[str]]
) -> None:
    command = make(cli)
    cut = cli(*command, "--limit", "1")
    assert cut.code == 0
    assert cut.err == "there are more than 1: --limit 2 shows more of them\n"
    whole = cli(*command, "--limit", "2")
    assert whole.err == ""
    assert len(whole.lines) > len(cut.lines)
    assert cli(*command).out == cli(*command, "--limit", "3").out == whole.out
    for limit in (1, 2):
        machine = cli(*command, "--limit", str(limit), "--json")
        assert (len(machine.objects), machine.err) == (limit, "")


def test_lists_for_people_fetch_no_results(cli: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    views = []
    list_jobs = Jobs.list

    def spy(self: Jobs, **options: Any) -> Any:
        views.append(options["view"])
        return list_jobs(self, **options)

    job_id = launch(cli, "count_words", "to be")
    below = launch(cli, "count_words", "or not", "--parent", job_id)
    cli("jobs", "wait", job_id, below)
    monkeypatch.setattr(Jobs, "list", spy)
    for command in (["jobs", "list", "--parent", job_id], ["jobs", "tree", job_id]):
        assert "succeeded" in cli(*command).out
        *_, last = cli(*command, "--json").objects
        [block] = last["outcome"]["result"]["content"]
        assert block["text"]["text"] == "2 words, 2 of them different."
    assert views == ["basic", "full"] * 2
