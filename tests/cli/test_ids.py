"""Ids of which only the beginning is given, as screens show it."""

from __future__ import annotations

import asyncio
import uuid

import grpc
import pytest

from callboard import Client
from callboard.v1 import job_pb2
from tests.cli.conftest import Run
from tests.sdk.scripted import Refusal, ScriptedServer


@pytest.fixture
def job_id(cli: Run) -> str:
    [job] = cli("jobs", "launch", "count_words", "to be", "--wait", "--json").objects
    return str(job["job_id"])


def like(identifier: str) -> str:
    """Another id that begins alike."""
    return identifier[:8] + str(uuid.uuid4())[8:]


def test_commands_take_the_beginning_of_an_id(cli: Run, job_id: str) -> None:
    for shown in (job_id[:8], job_id[:13], job_id[:-1], job_id):
        assert cli("jobs", "get", shown, "--json").objects[0]["job_id"] == job_id
    shown = job_id[:8]
    for command in (
        ["jobs", "cancel", shown],
        ["jobs", "tree", shown],
        ["jobs", "watch", shown],
        ["jobs", "wait", shown, job_id],
        ["threads", "messages", shown],
        ["threads", "list", "--session", shown],
        ["events", shown],
        ["actions", "--thread", shown],
        ["actions", "--session", shown],
    ):
        whole = [job_id if word == shown else word for word in command]
        assert (found := cli(*command)).code == 0
        assert found == cli(*whole)
    below = cli("jobs", "launch", "count_words", "x", "--parent", shown, "--wait", "--json")
    assert below.objects[0]["parent_thread_id"] == job_id
    assert cli("threads", "delete", shown, "--yes").out == f"deleted {job_id}\n"


def test_a_beginning_of_several_ids_names_them(cli: Run, job_id: str, address: str) -> None:
    with Client(address) as client:
        other = client.threads.create(thread_id=like(job_id)).thread_id
    for command in (["jobs", "get"], ["threads", "delete", "--yes"]):
        result = cli(*command, job_id[:8])
        assert (result.code, result.out) == (2, "")
        told, *named = result.err.splitlines()
        assert told.startswith(f"error: 2 jobs and threads begin with {job_id[:8]}")
        assert named == [f"error: {each}" for each in sorted([job_id, other])]
    assert cli("threads", "get", other).code == 0


async def test_several_jobs_alike_are_named_though_the_server_does_not(run: Run) -> None:
    ids = ["12345678-0", "12345678-1", "12345679-0"]
    jobs = [job_pb2.Job(job_id=each) for each in ids]
    async with ScriptedServer() as server:
        server.script("GetJob", Refusal(grpc.StatusCode.NOT_FOUND, "there is no job"))
        server.script("ListJobs", job_pb2.ListJobsResponse(jobs=jobs))
        command = ("--server", server.target, "jobs", "get", "12345678")
        result = await asyncio.to_thread(run, *command)
    assert result.code == 2
    assert result.err.splitlines()[1:] == [f"error: {each}" for each in ids[:2]]


def test_a_beginning_of_no_id(cli: Run) -> None:
    result = cli("jobs", "get", str(uuid.uuid4())[:8])
    assert result.code == 4
    assert result.err.startswith("error: no job begins with ")
    assert result.err.endswith("hint: callboard jobs list\n")
