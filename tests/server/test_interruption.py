"""Runs that end in the midst of tool calls: the conversation stays whole, with real SDKs."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from callboard import AsyncClient, InvalidArgument, RunState
from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import ContentBlock, Message, Role, ToolResult
from callboard.v1.run_pb2 import Run
from standins.replies import Call, Reply
from tests.support.chatting import KINDS, Kind, answering, ask, chatting, results_of
from tests.support.following import event_of, over
from tests.support.serving import kinds_of, sound_log

CANCELLED, FAILED = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_FAILED
SUCCEEDED, SUPERSEDED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_SUPERSEDED
ASIDE = {"name": "aside", "parameters": {"type": "object"}, "description": ""}
AGENT: dict[str, Any] = {
    "tools": [f"tests.server.interrupted_tools:{name}" for name in ("quick", "endless", "fatal")],
    "client_tools": [ASIDE],
    "max_attempts": 1,
}
"""An agent with tools of every kind."""


def calling(*names: str) -> Any:
    """A model that calls tools when it is asked to go, and else answers."""

    def script(body: Any) -> Reply:
        asked = str((body.get("messages") or body["input"])[-1])
        calls = [Call(name) for name in names]
        return Reply("I look.", calls) if "'go'" in asked else Reply("Done.")

    return script


async def next_answer(client: AsyncClient, run: Run) -> Sequence[ToolResult]:
    """Asks once more on a thread; returns the results that stand there."""
    again = await ask(client, "And now?", thread_id=run.thread_id)
    assert again.state == SUCCEEDED
    return await results_of(client, run)


@pytest.mark.parametrize("kind", KINDS)
async def test_what_a_cancelled_run_left_open_is_closed(kind: Kind, tmp_path: Path) -> None:
    handler = answering(kind, calling("quick", "aside"))
    async with chatting(tmp_path, handler, kind, **AGENT) as (client, _):
        run = await client.runs.create("chat", "go")
        await event_of(client, run, "run_waiting")
        await client.runs.cancel(run.run_id)
        assert (await over(client, run)).state == CANCELLED
        log = [e for e in await sound_log(client, run.thread_id) if e.run_id == run.run_id]
        assert kinds_of(log)[-3:] == ["action_closed", "message_added", "run_finished"]
        closing = log[-2].message_added.message
        assert (closing.role, closing.author) == (Role.ROLE_TOOL, "chat")
        quick, aside = await next_answer(client, run)
    assert (quick.text, quick.is_error) == ("found", False)
    assert (aside.name, aside.is_error, aside.outcome_unknown) == ("aside", True, False)
    assert "was not run" in aside.text


@pytest.mark.parametrize("kind", KINDS)
async def test_of_a_tool_that_was_running_the_outcome_is_unknown(
    kind: Kind, tmp_path: Path
) -> None:
    handler = answering(kind, calling("endless"))
    async with chatting(tmp_path, handler, kind, **AGENT) as (client, _):
        run = await client.runs.create("chat", "go")
        await event_of(client, run, "tool_started")
        new = await client.runs.create(
            "chat", "Stop!", thread_id=run.thread_id, multitask_strategy="interrupt"
        )
        assert (await over(client, new)).state == SUCCEEDED
        assert (await client.runs.get(run.run_id)).state == SUPERSEDED
        [result] = await results_of(client, run)
        await sound_log(client, run.thread_id)
    assert result.is_error and result.outcome_unknown
    assert "not known" in result.text


async def test_a_tool_that_ends_the_run_leaves_nothing_open(tmp_path: Path) -> None:
    handler = answering("anthropic", calling("endless", "fatal", "aside"))
    async with chatting(tmp_path, handler, **AGENT) as (client, _):
        run = await ask(client, "go")
        assert (run.state, run.outcome.error.message) == (FAILED, "It cannot go on.")
        results = {each.name: each for each in await next_answer(client, run)}
        await sound_log(client, run.thread_id)
    assert results.keys() == {"endless", "fatal", "aside"}
    assert results["endless"].outcome_unknown and results["fatal"].outcome_unknown


async def test_a_call_that_was_closed_takes_no_other_result(tmp_path: Path) -> None:
    handler = answering("anthropic", calling("aside"))
    async with chatting(tmp_path, handler, **AGENT) as (client, _):
        run = await client.runs.create("chat", "go")
        waiting = await event_of(client, run, "action_raised")
        await client.runs.cancel(run.run_id)
        await over(client, run)
        call_id = waiting.action_raised.action.tool_call.tool_call_id
        late = ToolResult(tool_call_id=call_id, name="aside", text="late")
        message = Message(role=Role.ROLE_TOOL, content=[ContentBlock(tool_result=late)])
        with pytest.raises(InvalidArgument, match="has its result"):
            await client.threads.update_state(run.thread_id, [message])


async def test_what_is_taken_back_is_not_closed(tmp_path: Path) -> None:
    handler = answering("anthropic", calling("aside"))
    async with chatting(tmp_path, handler, **AGENT) as (client, _):
        run = await client.runs.create("chat", "go")
        await event_of(client, run, "run_waiting")
        await client.runs.cancel(run.run_id, rollback=True)
        await over(client, run)
        assert not await results_of(client, run)
        assert _closings(await sound_log(client, run.thread_id)) == []


async def test_a_stop_of_the_server_closes_nothing(tmp_path: Path) -> None:
    handler = answering("anthropic", calling("aside"))
    async with chatting(tmp_path, handler, **AGENT) as (client, _):
        run = await client.runs.create("chat", "go")
        await event_of(client, run, "run_waiting")
    async with chatting(tmp_path, handler, **AGENT) as (client, _):
        [action] = [each async for each in client.actions.list(run.thread_id)]
        await client.actions.result(action, "from the client")
        assert (await over(client, run)).state == SUCCEEDED
        [result] = await results_of(client, run)
        assert result.text == "from the client"


async def test_many_calls_of_many_runs_are_each_closed_once(tmp_path: Path) -> None:
    handler = answering("anthropic", calling("endless", "aside", "quick"))
    async with chatting(tmp_path, handler, **AGENT) as (client, _):
        runs = [await client.runs.create("chat", "go") for _ in range(8)]
        await asyncio.gather(*(event_of(client, run, "tool_started", count=2) for run in runs))
        await asyncio.gather(*(client.runs.cancel(run.run_id) for run in runs))
        for run in runs:
            await over(client, run)
            results = await results_of(client, run)
            assert len({each.tool_call_id for each in results}) == len(results) == 3
            await sound_log(client, run.thread_id)


def _closings(log: Sequence[Event]) -> list[Event]:
    return [e for e in log if e.message_added.message.role == Role.ROLE_TOOL]
