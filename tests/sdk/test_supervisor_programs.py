"""Supervisors that are programs of their own: killed at the worst moment, or two with one home."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient
from callboard._async.supervisors import home_of
from tests.support.gates import PATIENCE, Gates
from tests.support.proxy import relayed
from tests.support.serving import Served, kinds_of, served, sound_log

NAME = "my-app/user-42"
PROGRAM = f"""\
import asyncio
import json
import sys

import callboard


async def order():
    line = await asyncio.to_thread(sys.stdin.readline)
    return json.loads(line) if line else sys.exit()


def tell(what):
    print(json.dumps(what), flush=True)


async def main(target):
    async with callboard.AsyncClient(target) as client:
        supervisor = await client.supervisor({NAME!r}, ["worker", "quick"])
        tell("ready")
        while (arguments := await order()) != "listen":
            tell(await supervisor.tools.call(**arguments))
        async for notice in supervisor.notices():
            tell(notice.task)
            await order()


asyncio.run(main(sys.argv[1]))
"""


class Program:
    """A supervisor in a process: it is told what to call, a line each, and prints what comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def says(self) -> Any:
        assert self._process.stdout is not None
        async with asyncio.timeout(2 * PATIENCE):
            return json.loads(await self._process.stdout.readline())

    def tell(self, order: Any) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order).encode() + b"\n")

    async def call(self, name: str, call_id: str | None = None, **arguments: Any) -> Any:
        """What a call of a tool comes to."""
        self.tell({"name": name, "arguments": arguments, "call_id": call_id})
        return json.loads(await self.says())

    async def kill(self) -> None:
        self._process.send_signal(signal.SIGKILL)
        await self._process.wait()

    async def clean_up(self) -> None:
        if self._process.returncode is None:
            await self.kill()


Start = Callable[[str], Awaitable[Program]]


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    gates = Gates()
    yield gates
    gates.close()


@pytest.fixture
async def server(gates: Gates, tmp_path: Path) -> AsyncIterator[Served]:
    async with served(gates.agents, tmp_path / "jobs.db") as server:
        yield server


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts programs that call a server at an address; each is ready when it is returned."""
    programs = []

    async def start(address: str) -> Program:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", PROGRAM, address),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        program = Program(process)
        programs.append(program)
        assert await program.says() == "ready"
        return program

    yield start
    for program in programs:
        await program.clean_up()


async def launched(client: AsyncClient) -> str:
    """The id of the job of the home, once one is launched."""
    watch = client.jobs.watch(parent_thread_id=home_of(NAME))
    async with asyncio.timeout(PATIENCE), watch as changes:
        async for job in changes:
            return job.job_id
    raise AssertionError("a watch without an end ended")


async def test_one_that_is_killed_between_launch_and_answer_has_launched_once(
    server: Served, gates: Gates, start: Start
) -> None:
    async with relayed(server.port) as (proxy, address):
        first = await start(address)
        proxy.stall()
        arguments = {"agent": "worker", "task": "one"}
        first.tell({"name": "launch_job", "arguments": arguments, "call_id": "call_0"})
        job_id = await launched(server.client)
        await first.kill()
    gates.open("one")
    await server.client.jobs.wait(job_id, timeout=PATIENCE)
    second = await start(f"127.0.0.1:{server.port}")
    # It has the model's call in its conversation, and no result: it makes the call again.
    again = await second.call("launch_job", "call_0", agent="worker", task="one")
    assert again["job_id"] == job_id
    assert (await second.call("check_job", job_id=job_id))["result"] == "done: one"
    assert (await second.call("list_jobs"))["count"] == 1
    assert gates.order == ["one"]
    second.tell("listen")
    assert await second.says() == "one"
    await sound_log(server.client, home_of(NAME))


async def test_one_that_is_killed_before_the_answer_to_an_update_has_updated_once(
    server: Served, gates: Gates, start: Start
) -> None:
    first = await start(f"127.0.0.1:{server.port}")
    job_id = (await first.call("launch_job", "call_0", agent="worker", task="one"))["job_id"]
    await gates.entered("one")
    await first.kill()
    arguments = {"job_id": job_id, "instructions": "two"}
    async with relayed(server.port) as (proxy, address):
        second = await start(address)
        proxy.stall()
        second.tell({"name": "update_job", "arguments": arguments, "call_id": "call_1"})
        await gates.entered("two")
        await second.kill()
    third = await start(f"127.0.0.1:{server.port}")
    await third.call("update_job", "call_1", **arguments)
    gates.open("two")
    await server.client.jobs.wait(job_id, timeout=PATIENCE)
    job = await server.client.jobs.get(job_id)
    assert (job.run_count, gates.order) == (2, ["one", "two"])
    third.tell("listen")
    assert await third.says() == "one"
    log = await sound_log(server.client, home_of(NAME))
    assert kinds_of(log).count("notice_added") == 1


async def test_two_with_one_home_share_its_jobs_and_mark_each_notice_once(
    server: Served, gates: Gates, start: Start
) -> None:
    address = f"127.0.0.1:{server.port}"
    here, there = await asyncio.gather(start(address), start(address))
    calls = [each.call("launch_job", "call_0", agent="quick", task="one") for each in (here, there)]
    first, second = await asyncio.gather(*calls)
    assert first["job_id"] == second["job_id"]
    other = (await there.call("launch_job", "call_1", agent="worker", task="two"))["job_id"]
    for each in (here, there):
        listed = (await each.call("list_jobs"))["jobs"]
        assert [job["job_id"] for job in listed] == [first["job_id"], other]
    await server.client.jobs.wait(first["job_id"], timeout=PATIENCE)
    for each in (here, there):
        each.tell("listen")
        assert await each.says() == "one"
    gates.open("two")
    await server.client.jobs.wait(other, timeout=PATIENCE)
    for each in (here, there):
        each.tell("next")
        assert await each.says() == "two"
    await here.kill()
    there.tell("next")
    again = await start(address)
    assert (await again.call("launch_job", agent="quick", task="three"))["agent"] == "quick"
    assert await there.says() == "three"
    again.tell("listen")
    assert await again.says() == "three"
    log = await sound_log(server.client, home_of(NAME))
    read = Counter(notice for event in log for notice in event.notices_read.notice_ids)
    assert list(read.values()) == [1, 1]
