"""`client.actions`: each way to answer, and what a real server makes of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import callboard
from callboard import Action, ActionResponse, Permission, Run, RunState, ToolCall, ToolResult
from callboard.v1.run_pb2 import RespondRequest, RespondResponse
from callboard_server import ChatAgent, Context, tool
from callboard_server.agents.tools import client_tool
from tests.sdk.conftest import Either
from tests.sdk.scripted import ScriptedServer

ACTION = Action(
    action_id="a",
    thread_id="t",
    tool_call=ToolCall(tool_call_id="c", name="look", arguments_json="{}"),
)


@pytest.mark.parametrize(
    ("act", "response"),
    [
        (
            lambda c: c.actions.answer(ACTION, {"colour": ["grün", None]}),
            ActionResponse(answer_json='{"colour": ["grün", null]}'),
        ),
        (
            lambda c: c.actions.allow(ACTION),
            ActionResponse(permission=Permission(allow=True)),
        ),
        (
            lambda c: c.actions.deny(ACTION, "no"),
            ActionResponse(permission=Permission(deny_message="no")),
        ),
        (
            lambda c: c.actions.result(ACTION, "seen"),
            ActionResponse(tool_result=ToolResult(tool_call_id="c", name="look", text="seen")),
        ),
        (
            lambda c: c.actions.result(ACTION, "dark", is_error=True),
            ActionResponse(
                tool_result=ToolResult(tool_call_id="c", name="look", text="dark", is_error=True)
            ),
        ),
    ],
)
async def test_an_answer_goes_to_its_action(
    server: ScriptedServer,
    either: Either,
    act: Callable[[Any], Any],
    response: ActionResponse,
) -> None:
    server.script("Respond", RespondResponse(runs=[Run(run_id="r")]))
    assert (await either.call(act)).run_id == "r"
    [request] = server.requests("Respond")
    assert request.request_id
    response.action_id = "a"
    assert request == RespondRequest(
        thread_id="t", responses=[response], request_id=request.request_id
    )


async def painter(ctx: Context) -> str:
    """Asks for a colour and a size."""
    colour = await ctx.ask("Which colour?", schema={"enum": ["red", "blue"]})
    size = await ctx.ask("How large?")
    return f"{colour}, {size['metres']} m"


@tool(policy="ask")
def open_door(number: int) -> str:
    """Open a door."""
    return f"door {number} is open"


RULES = """
[[rule]]
example = "door 3"
when = 'door (?P<number>\\d+)'
call = [{ tool = "open_door", arguments = { number = "{number}" } }]

[[rule]]
example = "look"
when = 'look'
call = [{ tool = "look" }]
"""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[callboard.Client]:
    (tmp_path / "rules.toml").write_text(RULES, "utf-8")
    look = client_tool("look", "Look out of the window.", {"type": "object"})
    porter = ChatAgent("offline:rules.toml", tools=[open_door, look], base=tmp_path)
    with callboard.local_sync({"painter": painter, "porter": porter}) as client:
        yield client


def asked(client: callboard.Client, agent: str, task: str) -> tuple[callboard.Job, Action]:
    """A job that waits for one answer."""
    job = client.jobs.launch(agent, task)
    run = client.runs.wait(job.run_id)
    assert run.state == RunState.RUN_STATE_REQUIRES_ACTION
    [action] = client.actions.list(job.job_id)
    return job, action


def result(client: callboard.Client, job: callboard.Job) -> str:
    [job] = client.jobs.wait(job.job_id)
    return callboard.text_of(job.outcome.result)


def test_questions_are_answered(client: callboard.Client) -> None:
    job, action = asked(client, "painter", "Paint.")
    with pytest.raises(callboard.InvalidArgument, match="does not fit the schema"):
        client.actions.answer(action, "green")
    run = client.actions.answer(action, "red")
    assert run.run_id == job.run_id
    with pytest.raises(callboard.FailedPrecondition) as refused:
        client.actions.answer(action, "blue")
    assert refused.value.reason == "ACTION_ALREADY_ANSWERED"
    client.runs.wait(run.run_id)
    [second] = client.actions.list(session_id=job.session_id)
    client.actions.answer(second, {"metres": 2})
    assert result(client, job) == "red, 2 m"
    assert list(client.actions.list()) == []


def test_permissions_are_given_and_denied(client: callboard.Client) -> None:
    job, action = asked(client, "porter", "door 3")
    assert action.tool_call.name == "open_door"
    client.actions.allow(action)
    assert "door 3 is open" in result(client, job)
    job, action = asked(client, "porter", "door 4")
    client.actions.deny(action, "it is night")
    assert "it is night" in result(client, job)


def test_the_client_runs_its_tools(client: callboard.Client) -> None:
    job, action = asked(client, "porter", "look")
    with pytest.raises(callboard.InvalidArgument, match="is answered with tool_result"):
        client.actions.allow(action)
    client.actions.result(action, "It rains.")
    assert "It rains." in result(client, job)


def test_a_question_whose_run_is_over_is_closed(client: callboard.Client) -> None:
    job, action = asked(client, "painter", "Paint.")
    assert client.runs.cancel(job.run_id, rollback=True).rolled_back
    with pytest.raises(callboard.FailedPrecondition) as refused:
        client.actions.answer(action, "red")
    assert refused.value.reason == "ACTION_CLOSED"
    assert list(client.threads.messages(job.job_id)) == []


def test_a_new_run_may_close_what_is_open(client: callboard.Client) -> None:
    job, _ = asked(client, "painter", "Paint.")
    client.runs.create(
        "painter",
        "Paint anew.",
        thread_id=job.job_id,
        multitask_strategy="interrupt",
        pending_actions="cancel",
    )
    assert client.runs.get(job.run_id).state == RunState.RUN_STATE_SUPERSEDED
