"""What people see on a screen."""

from __future__ import annotations

import re

import pytest

from tests.cli.conftest import Run, environment
from tests.cli.terminal import Terminal


@pytest.mark.parametrize("columns", [80, 120])
def test_a_job_is_drawn_while_it_runs(address: str, columns: int) -> None:
    command = ("jobs", "launch", "countdown", "2", "--watch")
    with Terminal(*command, env=environment(address), columns=columns) as terminal:
        drawn = terminal.read_until("succeeded")
        assert "● running" in drawn
        assert "━" * 8 + "\x1b[0m\x1b[2m" + "─" * 8 in drawn
        assert "1 to go (1/2)" in drawn
        assert terminal.finish() == 0
    assert terminal.output.endswith("\x1b[?25hCounted down from 2.\n")
    assert max(map(len, terminal.text.splitlines())) <= columns


def test_an_interrupted_watch_leaves_the_job_and_the_cursor(address: str, cli: Run) -> None:
    with Terminal("jobs", "launch", "countdown", "100", "--watch", env=environment(address)) as it:
        it.read_until("99 to go")
        it.interrupt()
        assert it.finish() == 130
    assert "\x1b[?25h" in it.output
    assert "Traceback" not in it.output
    [job] = cli("jobs", "list", "--limit", "1", "--json").objects
    assert job["state"] == "RUN_STATE_RUNNING"
    assert f"it goes on: callboard jobs watch {job['job_id']}" in it.text
    cli("jobs", "cancel", job["job_id"])


def test_tables_fit_and_ids_stay_whole(address: str, cli: Run) -> None:
    job_id = cli("jobs", "launch", "count_words", "word " * 50, "--wait", "--json").objects[0][
        "job_id"
    ]
    commands = (["jobs", "list"], ["events", job_id], ["agents"])
    for command in commands:
        with Terminal(*command, env=environment(address), columns=80) as terminal:
            assert terminal.finish() == 0
        lines = terminal.text.splitlines()
        assert max(map(len, lines)) <= 80
        if command[-1] == "list":
            assert any(line.startswith(job_id) for line in lines)


def test_no_color_is_respected(address: str) -> None:
    command = ("jobs", "launch", "count_words", "x", "--watch")
    with Terminal(*command, env=environment(address, NO_COLOR="1")) as terminal:
        assert terminal.finish() == 0
    assert not re.search(r"\x1b\[[0-9;]*3[0-7]m", terminal.output)


def test_delete_asks(address: str, cli: Run) -> None:
    job_id = cli("jobs", "launch", "count_words", "x", "--wait", "--json").objects[0]["job_id"]
    with Terminal("threads", "delete", job_id, env=environment(address)) as terminal:
        terminal.read_until("[y/N]")
        terminal.type("n\n")
        assert terminal.finish() == 1
    assert "Traceback" not in terminal.output
    assert cli("threads", "get", job_id).code == 0


def test_an_interrupted_question_ends_its_line(address: str, cli: Run) -> None:
    job_id = cli("jobs", "launch", "count_words", "x", "--wait", "--json").objects[0]["job_id"]
    with Terminal("threads", "delete", job_id, env=environment(address)) as terminal:
        terminal.read_until("[y/N]: ")
        assert terminal.interrupt_until_it_ends() == 130
    assert terminal.output.endswith("[y/N]: \n")
    assert cli("threads", "get", job_id).code == 0
