"""Runs that wait, and what they wait for."""

from __future__ import annotations

import asyncio
import json

from callboard import AsyncClient, RunState
from callboard.v1.event_pb2 import Action, ActionResponse, Event
from callboard.v1.run_pb2 import Run
from tests.support.gates import PATIENCE
from tests.support.waiting import until

REQUIRES_ACTION, WAITING = RunState.RUN_STATE_REQUIRES_ACTION, RunState.RUN_STATE_WAITING


async def finished(client: AsyncClient, run: Run) -> Run:
    """A run at its end."""
    return await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)


async def parked(client: AsyncClient, run: Run) -> Run:
    """A run once it waits."""

    async def waits() -> bool:
        return (await client.runs.get(run.run_id)).state in (REQUIRES_ACTION, WAITING)

    await until(waits)
    return await client.runs.get(run.run_id)


async def open_actions(client: AsyncClient, run: Run) -> list[Action]:
    """The open actions of a run's thread, once the run waits for them."""
    waiting = await client.runs.wait(run.run_id, timeout=PATIENCE)
    assert waiting.state == REQUIRES_ACTION, waiting
    return [action async for action in client.actions.list(run.thread_id)]


async def the_action(client: AsyncClient, run: Run) -> Action:
    """The only open action of a run's thread, once the run waits for it."""
    [action] = await open_actions(client, run)
    return action


def reply(action: Action, answer: object) -> ActionResponse:
    """The answer to a question."""
    return ActionResponse(action_id=action.action_id, answer_json=json.dumps(answer))


async def respond(client: AsyncClient, action: Action, answer: object) -> None:
    """Answers a question."""
    await client.runs.respond(action.thread_id, [reply(action, answer)])


async def happened(client: AsyncClient, run: Run, kind: str, times: int = 1) -> Event:
    """The event of a kind in a run's session, once it was written so many times."""
    stream = client.threads.stream(run.thread_id, scope="session")
    async with asyncio.timeout(PATIENCE):
        async for item in stream:
            if isinstance(item, Event) and item.WhichOneof("payload") == kind:
                times -= 1
                if not times:
                    return item
    raise AssertionError(f"the stream ended without {kind}")
