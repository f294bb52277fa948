"""What people see while their server is away, and that commands go on when it is back."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from callboard import Client, Job, RunState, _waiting
from callboard.cli import outages
from tests.cli.conftest import Piped, Run, environment, read_ready, running
from tests.cli.terminal import Terminal
from tests.sdk.scripted import UNAVAILABLE, ScriptedServer

AWAY = "the server is away: trying again"
ERASED = "\x1b[2K"
SHOWN_CURSOR = "\x1b[?25h"


class Restarted:
    """A server that goes away and comes back at the same address."""

    def __init__(self, folder: Path, db: Path, resources: ExitStack) -> None:
        self._folder, self._db, self._resources = folder, db, resources
        self.address = read_ready(self._start("0"))["address"]

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        read_ready(self._start(self.address.rpartition(":")[2]))

    def _start(self, port: str) -> Piped:
        command = ("--json", "serve", "--db", str(self._db), "--port", port)
        self._process = self._resources.enter_context(running(*command, cwd=self._folder))
        return self._process


@pytest.fixture
def server(project: Path, tmp_path: Path) -> Iterator[Restarted]:
    with ExitStack() as resources:
        yield Restarted(project, tmp_path / "own.db", resources)


@pytest.fixture
def client(server: Restarted) -> Iterator[Client]:
    with closing(Client(server.address)) as client:
        yield client


def running_job(client: Client) -> str:
    """A job that goes on for as long as it is let."""
    job_id = client.jobs.launch("countdown", "1000").job_id
    with client.jobs.watch(job_id=job_id) as changes:
        next(job for job in changes if job.state == RunState.RUN_STATE_RUNNING)
    return job_id


def test_a_watch_says_that_its_server_is_away_and_takes_it_back(
    server: Restarted, client: Client
) -> None:
    job_id = running_job(client)
    with Terminal("jobs", "watch", job_id, env=environment(server.address)) as terminal:
        terminal.read_until("● running")
        server.kill()
        terminal.read_until(AWAY)
        server.restart()
        client.jobs.cancel(job_id)
        terminal.read_until("cancelled")
        assert terminal.finish() == 1
    _, _, drawn_last = terminal.text.rpartition("agent")
    assert "cancelled" in drawn_last
    assert AWAY not in drawn_last


def test_following_events_says_so_too(server: Restarted, client: Client) -> None:
    job_id = running_job(client)
    command = ("events", job_id, "--follow", "--kinds", "run_started,run_finished")
    with Terminal(*command, env=environment(server.address), columns=100) as terminal:
        terminal.read_until("run_started")
        server.kill()
        terminal.read_until(AWAY)
        server.restart()
        client.jobs.cancel(job_id)
        terminal.read_until("run_finished")
        terminal.interrupt()
        assert terminal.finish() == 130
    _, _, after = terminal.output.rpartition(AWAY)
    assert ERASED in after
    assert SHOWN_CURSOR in after


def test_an_interrupted_watch_ends_while_its_server_is_away(
    server: Restarted, client: Client
) -> None:
    job_id = running_job(client)
    with Terminal("jobs", "watch", job_id, env=environment(server.address)) as terminal:
        terminal.read_until("● running")
        server.kill()
        terminal.read_until(AWAY)
        terminal.interrupt()
        assert terminal.finish() == 130
    assert "Traceback" not in terminal.output


def test_a_chat_says_that_nobody_answers_and_goes_on(server: Restarted) -> None:
    command = ("--timeout", "3s", "chat", "count_words")
    with Terminal(*command, env=environment(server.address)) as terminal:
        terminal.read_until("> ")
        server.kill()
        terminal.type("to be\n")
        terminal.read_until("error: the server does not answer")
        terminal.read_until("> ")
        server.restart()
        terminal.type("to be\n")
        terminal.read_until("2 words, 2 of them different.")


@pytest.mark.parametrize("stay", ["--watch", "--wait"])
async def test_who_loses_the_server_is_told_how_to_find_the_job(
    run: Run, monkeypatch: pytest.MonkeyPatch, stay: str
) -> None:
    monkeypatch.setattr(outages, "_DOWNTIME", 0.05)
    monkeypatch.setattr(_waiting, "SLICE_SECONDS", 0.0)
    async with ScriptedServer() as scripted:
        scripted.script("LaunchJob", Job(job_id="j"))
        scripted.script("WatchJobs", UNAVAILABLE)
        scripted.script("WaitJobs", UNAVAILABLE)
        options = ("--server", scripted.target, "--timeout", "500ms")
        result = await asyncio.to_thread(run, *options, "jobs", "launch", "agent", "x", stay)
    assert (result.code, result.out) == (3, "")
    assert result.err.splitlines() == [
        "it goes on: callboard jobs watch j",
        "error: the server does not answer",
        "hint: is it running? callboard serve",
    ]
