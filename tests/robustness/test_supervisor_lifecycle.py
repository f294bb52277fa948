"""Launch, check, update, cancel, list, be told, follow up: with kill -9 of both sides between."""

from __future__ import annotations

import asyncio
import signal
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient, RunState
from callboard._async.supervisors import home_of
from callboard.v1.event_pb2 import Event
from callboard_server.store.sqlite import admin
from tests.robustness import validators
from tests.robustness.killing import mortal
from tests.support.gates import PATIENCE
from tests.support.process import ServerProcess
from tests.support.remote_gates import AGENT_CODE, VARIABLE, RemoteGates
from tests.support.serving import kinds_of, sound_log
from tests.support.supervising import NAME, Program, Programs, programs
from tests.support.waiting import until

AGENTS = f"""{AGENT_CODE}

async def work(ctx):
    said = ["".join(block.text.text for block in m.content) for m in await ctx.messages()]
    await pass_gate(said[-1])
    return " / ".join(said)
"""
CONFIG = "[server]\ngrace = 0.1\n" + "".join(
    f'[agents.{name}]\nentrypoint = "lifecycle_agents.py:work"\n'
    for name in ("researcher", "coder")
)
HOME = home_of(NAME)
TASK, EUROPE, ASIA = "Research topic X", "Focus on the European market", "And what of Asia?"
CODE = "Write a prototype"


async def crash(server: ServerProcess, fault: str = "") -> None:
    """Kills the server and starts the next one, which kills itself at a point, if need be."""
    await server.kill()
    await server.start(fault)


async def crash_during(
    server: ServerProcess,
    fault: str,
    program: Program,
    name: str,
    call_id: str | None = None,
    **arguments: Any,
) -> None:
    """Has a tool called of which the server dies; the next one gets what the SDK repeats."""
    await crash(server, fault)
    program.begin(name, call_id, **arguments)
    async with asyncio.timeout(PATIENCE):
        assert await server.gone() == -signal.SIGKILL
    await server.start()


@pytest.fixture
async def gates(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[RemoteGates]:
    gates = RemoteGates()
    await gates.listen()
    monkeypatch.setenv(VARIABLE, str(gates.port))
    yield gates
    await gates.close()


@pytest.fixture
async def server(gates: RemoteGates, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    (tmp_path / "lifecycle_agents.py").write_text(AGENTS)
    config = tmp_path / "callboard.toml"
    config.write_text(CONFIG)
    async with mortal(tmp_path / "jobs.db", config) as server:
        yield server


@pytest.fixture
async def supervisors() -> AsyncIterator[Programs]:
    async with programs() as started:
        yield started


async def test_a_supervisors_work_outlives_all_kills(
    server: ServerProcess, gates: RemoteGates, supervisors: Programs, tmp_path: Path
) -> None:
    program = await supervisors.start(server.address)
    research, code = await launched(server, program, gates)
    await updated_in_mid_flight(server, program, gates, research)

    program = await supervisors.start(server.address)
    again = await program.call("update_job", "3", job_id=research, instructions=EUROPE)
    assert again["job_id"] == research
    await cancelled(server, program, code)
    assert await states(program) == [(research, "RUNNING"), (code, "CANCELLED")]

    gates.open(EUROPE)
    result = f"{TASK} / {EUROPE}"
    await told(server, supervisors, program, result)
    assert (
        await followed_up(server, supervisors, gates, research) == f"{result} / {result} / {ASIA}"
    )
    await crash(server)
    async with AsyncClient(server.address) as client:
        log = await sound_log(client, HOME)
        assert (await client.threads.get(HOME)).unread_notice_count == 0
    check(log, research, code)
    await server.kill()
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def launched(server: ServerProcess, program: Program, gates: RemoteGates) -> tuple[str, str]:
    """Two jobs, at work; the server dies before it says that the first was launched."""
    await crash_during(
        server, "before_answer", program, "launch_job", "1", agent="researcher", task=TASK
    )
    research = (await program.answer())["job_id"]
    code = (await program.call("launch_job", "2", agent="coder", task=CODE))["job_id"]
    await gates.entered(TASK)
    await gates.entered(CODE)
    await crash(server)
    # They begin again by themselves.
    await gates.entered(TASK)
    await gates.entered(CODE)
    checked = await program.call("check_job", job_id=research)
    assert (checked["job_id"], checked["state"]) == (research, "RUNNING")
    return research, code


async def updated_in_mid_flight(
    server: ServerProcess, program: Program, gates: RemoteGates, research: str
) -> None:
    """The job is redirected, and both the server and the supervisor die of it."""
    # The first answer is that of the look at the job.
    await crash_during(
        server, "before_answer:2", program, "update_job", "3", job_id=research, instructions=EUROPE
    )
    await gates.entered(EUROPE)
    await program.kill()


async def cancelled(server: ServerProcess, program: Program, code: str) -> None:
    """The other job is cancelled, and the server dies before it says so."""
    await crash_during(server, "before_answer:2", program, "cancel_job", job_id=code)
    assert (await program.answer())["job_id"] == code
    async with AsyncClient(server.address) as client:
        [job] = await client.jobs.wait(code, timeout=PATIENCE)
    assert job.state == RunState.RUN_STATE_CANCELLED


async def states(program: Program) -> list[tuple[str, str]]:
    """How the jobs stand, in the order of their launch."""
    listed = (await program.call("list_jobs"))["jobs"]
    return [(job["job_id"], job["state"]) for job in listed]


async def told(server: ServerProcess, supervisors: Programs, program: Program, result: str) -> None:
    """The supervisor is told, dies with the notice in its hand, and is told again."""
    notice = ["researcher", TASK, result]
    assert await program.listen() == notice
    await program.kill()
    await crash(server)
    program = await supervisors.start(server.address)
    assert await program.listen() == notice
    await program.kill()


async def followed_up(
    server: ServerProcess, supervisors: Programs, gates: RemoteGates, research: str
) -> str:
    """The finished job goes on under its id, with all that it knows; returns its result."""
    program = await supervisors.start(server.address)
    asked = await program.call("update_job", "4", job_id=research, instructions=ASIA)
    assert asked["note"] == "It had ended as SUCCEEDED, and works again."
    await gates.entered(ASIA)
    await crash(server)
    await gates.entered(ASIA)
    # That it was done before is told once more: nobody has marked it.
    await program.listen()
    gates.open(ASIA)
    _, task, result = await program.next()
    assert task == TASK
    program.tell("next")
    async with AsyncClient(server.address) as client:

        async def is_read() -> bool:
            return not (await client.threads.get(HOME)).unread_notice_count

        await until(is_read)
    return str(result)


def check(log: Sequence[Event], research: str, code: str) -> None:
    """Nothing was lost on the way, and nothing done twice."""
    kinds = Counter(kinds_of(log))
    assert (kinds["job_launched"], kinds["job_updated"]) == (2, 2)
    said = Counter(text for text, _ in validators.inputs_of(log))
    assert said == Counter([TASK, CODE, EUROPE, ASIA])
    ends = [(e.thread_id, e.run_finished.state) for e in log if e.HasField("run_finished")]
    assert [state for thread, state in ends if thread == research] == [
        RunState.RUN_STATE_SUPERSEDED,
        RunState.RUN_STATE_SUCCEEDED,
        RunState.RUN_STATE_SUCCEEDED,
    ]
    assert [state for thread, state in ends if thread == code] == [RunState.RUN_STATE_CANCELLED]
    told = [e.notice_added.notice.job_id for e in log if e.HasField("notice_added")]
    assert told == [research, research]
    read = [notice for event in log for notice in event.notices_read.notice_ids]
    assert len(read) == len(set(read)) == 2
