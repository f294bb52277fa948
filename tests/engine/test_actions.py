"""What a run needs from outside: answers, permissions, the results of tools that clients run."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from callboard import (
    AlreadyExists,
    AsyncClient,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    RunState,
    text_of,
)
from callboard.v1.event_pb2 import Action, ActionClosed, ActionResponse, Permission
from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard.v1.message_pb2 import Message, Role, ToolResult
from callboard.v1.run_pb2 import Run
from callboard.v1.thread_pb2 import Thread
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.context import Context
from callboard_server.agents.errors import NoAnswer
from callboard_server.agents.sync_context import SyncContext
from callboard_server.agents.tools import client_tool, tool
from callboard_server.config import Policy
from callboard_server.store.sqlite import admin
from tests.support.gates import Gates
from tests.support.parking import (
    REQUIRES_ACTION,
    finished,
    happened,
    open_actions,
    reply,
    respond,
    the_action,
)
from tests.support.serving import kinds_of, log_of, served, sound_log

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED = RunState.RUN_STATE_CANCELLED
POLICIES: list[Policy] = ["allow", "ask", "deny"]
YES_OR_NO = {"enum": ["yes", "no"]}


async def asker(ctx: Context) -> str:
    """Asks one question."""
    return f"heard {await ctx.ask('Go on?', schema=YES_OR_NO)}"


def plain_asker(ctx: SyncContext) -> str:
    """Asks one question, in a thread."""
    return f"heard {ctx.ask('Go on?')}"


async def double_asker(ctx: Context) -> str:
    """Asks two questions at once."""
    answers = await ctx.gather(ctx.ask("Left?"), ctx.ask("Right?"))
    return f"heard {answers}"


async def hasty(ctx: Context) -> str:
    """Asks a question that closes soon."""
    try:
        return f"heard {await ctx.ask('Quick?', deadline=1.0)}"
    except NoAnswer:
        return "heard nothing"


@pytest.fixture
async def client(gates: Gates, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A server on a port with a single slot."""
    agents = [asker, plain_asker, double_asker, hasty, *gates.agents]
    async with served(agents, tmp_path / "jobs.db", slots=1) as server:
        yield server.client
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def result_of(client: AsyncClient, run: Run) -> str:
    """The result of a run that came to its end, in a log that keeps every guarantee."""
    ended = await finished(client, run)
    assert ended.state == SUCCEEDED, ended.outcome
    await sound_log(client, run.thread_id)
    return text_of(ended.outcome.result)


# Asking


async def test_a_question_is_an_action_and_its_answer_lets_the_run_go_on(
    client: AsyncClient,
) -> None:
    run = await client.runs.create("asker", "go")
    action = await the_action(client, run)
    waiting = await client.runs.get(run.run_id)
    assert waiting.state == REQUIRES_ACTION
    assert waiting.waiting_for.kind == WaitingFor.KIND_ACTIONS
    assert list(waiting.waiting_for.ids) == [action.action_id]
    assert (action.kind, action.question) == (Action.KIND_QUESTION, "Go on?")
    assert (action.run_id, action.thread_id) == (run.run_id, run.thread_id)
    assert action.author == "asker"
    assert json.loads(action.schema_json) == YES_OR_NO
    answered = await client.runs.respond(run.thread_id, [reply(action, "yes")])
    assert [each.run_id for each in answered.runs] == [run.run_id]
    assert await result_of(client, run) == "heard yes"
    ended = await client.runs.get(run.run_id)
    assert (ended.attempt, ended.claim_epoch) == (1, 2)
    kinds = kinds_of(await log_of(client, run.thread_id), run.run_id)
    assert "claim_voided" not in kinds


async def test_a_plain_function_asks_likewise(client: AsyncClient) -> None:
    run = await client.runs.create("plain_asker", "go")
    await respond(client, await the_action(client, run), {"any": ["json", 1]})
    assert await result_of(client, run) == "heard {'any': ['json', 1]}"


async def test_a_run_that_asks_locks_neither_its_thread_nor_a_slot(
    client: AsyncClient, gates: Gates
) -> None:
    asking = await client.runs.create("asker", "go")
    action = await the_action(client, asking)
    thread = await client.threads.get(asking.thread_id)
    assert thread.state == Thread.STATE_IDLE
    assert thread.pending_action_count == 1
    assert (await client.server.info()).counts.slots_used == 0
    state = await client.threads.state(asking.thread_id)
    assert [pending.action_id for pending in state.pending_actions] == [action.action_id]
    beside = await client.runs.create(
        "quick", "beside", thread_id=asking.thread_id, multitask_strategy="reject"
    )
    elsewhere = await client.runs.create("quick", "elsewhere")
    for run in (beside, elsewhere):
        assert (await finished(client, run)).state == SUCCEEDED
    assert (await client.runs.get(asking.run_id)).state == REQUIRES_ACTION
    await respond(client, action, "no")
    assert await result_of(client, asking) == "heard no"
    assert (await client.threads.get(asking.thread_id)).pending_action_count == 0


async def test_an_answered_run_waits_for_its_turn_on_a_busy_thread(
    client: AsyncClient, gates: Gates
) -> None:
    asking = await client.runs.create("asker", "go")
    action = await the_action(client, asking)
    busy = await client.runs.create("worker", "busy", thread_id=asking.thread_id)
    await gates.entered("busy")
    await respond(client, action, "yes")
    assert (await client.runs.get(asking.run_id)).state == RunState.RUN_STATE_QUEUED
    gates.open("busy")
    await finished(client, busy)
    assert await result_of(client, asking) == "heard yes"


async def test_a_newer_run_that_interrupts_leaves_a_question_open(
    client: AsyncClient, gates: Gates
) -> None:
    asking = await client.runs.create("asker", "go")
    action = await the_action(client, asking)
    newer = await client.runs.create(
        "quick", "newer", thread_id=asking.thread_id, multitask_strategy="interrupt"
    )
    await finished(client, newer)
    await respond(client, action, "yes")
    assert await result_of(client, asking) == "heard yes"


async def test_a_newer_run_that_cancels_actions_supersedes_who_asks(
    client: AsyncClient, gates: Gates
) -> None:
    asking = await client.runs.create("asker", "go")
    action = await the_action(client, asking)
    newer = await client.runs.create(
        "quick",
        "newer",
        thread_id=asking.thread_id,
        multitask_strategy="interrupt",
        pending_actions="cancel",
    )
    await finished(client, newer)
    assert (await client.runs.get(asking.run_id)).state == RunState.RUN_STATE_SUPERSEDED
    with pytest.raises(FailedPrecondition, match="closed"):
        await respond(client, action, "yes")
    await sound_log(client, asking.thread_id)


async def test_questions_that_no_schema_fits_fail_the_run(tmp_path: Path) -> None:
    async def wrong(ctx: Context) -> None:
        await ctx.ask("Well?", schema={"type": "nonsense"})

    async with served([wrong], tmp_path / "jobs.db") as server:
        ended = await finished(server.client, await server.client.runs.create("wrong", "go"))
        assert ended.state == FAILED
        assert "schema of a question is no JSON Schema: type: " in ended.outcome.error.message


# Answering


async def test_an_answer_may_name_any_thread_of_the_session(tmp_path: Path) -> None:
    async def parent(ctx: Context) -> str:
        job = await ctx.jobs.launch("asker", "go")
        [done] = await ctx.jobs.wait(job)
        return text_of(done.outcome.result)

    async with served([parent, asker], tmp_path / "jobs.db", slots=1) as server:
        client = server.client
        run = await client.runs.create("parent", "go")
        await happened(client, run, "action_raised")
        assert [action async for action in client.actions.list(run.thread_id)] == []
        [action] = [a async for a in client.actions.list(session_id=run.thread_id)]
        assert [action] == [a async for a in client.actions.list()]
        assert action.thread_id != run.thread_id
        await client.runs.respond(run.thread_id, [reply(action, "yes")])
        assert await result_of(client, run) == "heard yes"


async def test_an_action_of_another_session_is_not_found(client: AsyncClient) -> None:
    run = await client.runs.create("asker", "go")
    action = await the_action(client, run)
    other = await client.threads.create()
    for thread, wanted in ((other.thread_id, action.action_id), (run.thread_id, str(uuid4()))):
        with pytest.raises(NotFound) as refused:
            await client.runs.respond(
                thread, [ActionResponse(action_id=wanted, answer_json='"yes"')]
            )
        assert refused.value.reason == "ACTION_NOT_FOUND"
    assert (await client.runs.get(run.run_id)).state == REQUIRES_ACTION


async def test_of_many_answers_at_once_one_is_taken(client: AsyncClient) -> None:
    run = await client.runs.create("asker", "go")
    action = await the_action(client, run)

    async def try_to_answer(number: int) -> str:
        try:
            await respond(client, action, "yes" if number % 2 else "no")
        except FailedPrecondition as refused:
            return refused.reason
        return "yes" if number % 2 else "no"

    outcomes = await asyncio.gather(*(try_to_answer(number) for number in range(20)))
    taken = [outcome for outcome in outcomes if outcome != "ACTION_ALREADY_ANSWERED"]
    assert len(taken) == 1
    assert await result_of(client, run) == f"heard {taken[0]}"
    before = await log_of(client, run.thread_id)
    assert kinds_of(before).count("action_answered") == 1
    with pytest.raises(FailedPrecondition) as refused:
        await respond(client, action, "yes")
    assert refused.value.reason == "ACTION_ALREADY_ANSWERED"
    assert await log_of(client, run.thread_id) == before


@pytest.mark.parametrize(
    ("response", "problem"),
    [
        (ActionResponse(answer_json='"perhaps"'), "does not fit the schema"),
        (ActionResponse(answer_json="yes"), "must be JSON"),
        (ActionResponse(permission=Permission(allow=True)), "is answered with answer_json"),
        (ActionResponse(tool_result=ToolResult(text="yes")), "is answered with answer_json"),
        (ActionResponse(), "needs one of"),
    ],
)
async def test_an_answer_that_does_not_fit_is_refused_and_changes_nothing(
    client: AsyncClient, response: ActionResponse, problem: str
) -> None:
    run = await client.runs.create("asker", "go")
    action = await the_action(client, run)
    before = await log_of(client, run.thread_id)
    response.action_id = action.action_id
    with pytest.raises(InvalidArgument, match=problem):
        await client.runs.respond(run.thread_id, [response])
    assert await log_of(client, run.thread_id) == before
    await respond(client, action, "yes")
    assert await result_of(client, run) == "heard yes"


async def test_answers_are_taken_together_or_not_at_all(client: AsyncClient) -> None:
    run = await client.runs.create("double_asker", "go")
    left, right = await open_actions(client, run)
    unknown = ActionResponse(action_id=str(uuid4()), answer_json="1")
    with pytest.raises(NotFound):
        await client.runs.respond(run.thread_id, [reply(left, 1), unknown])
    with pytest.raises(InvalidArgument, match="twice"):
        await client.runs.respond(run.thread_id, [reply(left, 1), reply(left, 2)])
    assert (await client.threads.get(run.thread_id)).pending_action_count == 2
    await client.runs.respond(run.thread_id, [reply(right, "r"), reply(left, "l")])
    assert await result_of(client, run) == "heard ['l', 'r']"


async def test_of_two_questions_one_may_be_answered_first(client: AsyncClient) -> None:
    run = await client.runs.create("double_asker", "go")
    actions = {action.question: action for action in await open_actions(client, run)}
    assert set((await client.runs.get(run.run_id)).waiting_for.ids) == {
        action.action_id for action in actions.values()
    }
    await respond(client, actions["Right?"], "r")
    assert await the_action(client, run) == actions["Left?"]
    assert (await client.threads.get(run.thread_id)).pending_action_count == 1
    await respond(client, actions["Left?"], "l")
    assert await result_of(client, run) == "heard ['l', 'r']"


async def test_a_repeated_request_gets_the_first_answer(client: AsyncClient) -> None:
    run = await client.runs.create("asker", "go")
    action = await the_action(client, run)
    first, again = [
        await client.runs.respond(run.thread_id, [reply(action, "yes")], request_id="one")
        for _ in range(2)
    ]
    assert first == again
    with pytest.raises(AlreadyExists) as refused:
        await client.runs.respond(run.thread_id, [reply(action, "no")], request_id="one")
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert await result_of(client, run) == "heard yes"


# Without an answer


async def test_a_cancelled_run_closes_its_question(client: AsyncClient) -> None:
    run = await client.runs.create("asker", "go")
    action = await the_action(client, run)
    assert (await client.runs.cancel(run.run_id)).state == CANCELLED
    assert (await client.threads.get(run.thread_id)).pending_action_count == 0
    before = await sound_log(client, run.thread_id)
    [closed] = [event.action_closed for event in before if event.HasField("action_closed")]
    assert closed.cause == ActionClosed.CAUSE_RUN_OVER
    with pytest.raises(FailedPrecondition) as refused:
        await respond(client, action, "yes")
    assert refused.value.reason == "ACTION_CLOSED"
    assert await log_of(client, run.thread_id) == before


async def test_after_its_deadline_a_question_closes_and_the_run_goes_on(
    client: AsyncClient,
) -> None:
    run = await client.runs.create("hasty", "go")
    action = await the_action(client, run)
    waiting = await client.runs.get(run.run_id)
    assert waiting.waiting_for.until == action.deadline
    assert await result_of(client, run) == "heard nothing"
    log = await log_of(client, run.thread_id)
    [closed] = [event for event in log if event.HasField("action_closed")]
    assert closed.action_closed.cause == ActionClosed.CAUSE_DEADLINE
    assert closed.time.ToNanoseconds() >= action.deadline.ToNanoseconds()
    with pytest.raises(FailedPrecondition) as refused:
        await respond(client, action, "late")
    assert refused.value.reason == "ACTION_CLOSED"


async def test_an_answer_before_the_deadline_is_heard(client: AsyncClient) -> None:
    run = await client.runs.create("hasty", "go")
    await respond(client, await the_action(client, run), "in time")
    assert await result_of(client, run) == "heard in time"


async def test_a_deadline_passes_also_while_another_branch_is_at_work(tmp_path: Path) -> None:
    unanswered = asyncio.Event()

    async def both(ctx: Context) -> str:
        async def ask() -> str:
            try:
                return str(await ctx.ask("Quick?", deadline=0.1))
            except NoAnswer:
                unanswered.set()
                return "nothing"

        async def work() -> str:
            await unanswered.wait()
            return "worked"

        return str(await ctx.gather(ask(), work()))

    async with served([both], tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("both", "go")
        assert await result_of(server.client, run) == "['nothing', 'worked']"


async def test_an_answer_reaches_a_branch_while_another_is_at_work(tmp_path: Path) -> None:
    heard = asyncio.Event()

    async def both(ctx: Context) -> str:
        async def ask() -> str:
            answer = str(await ctx.ask("Go on?"))
            heard.set()
            return answer

        async def work() -> str:
            await heard.wait()
            return "worked"

        return str(await ctx.gather(ask(), work()))

    async with served([both], tmp_path / "jobs.db") as server:
        client = server.client
        run = await client.runs.create("both", "go")
        raised = await happened(client, run, "action_raised")
        await respond(client, raised.action_raised.action, "yes")
        assert await result_of(client, run) == "['yes', 'worked']"
        assert (await client.runs.get(run.run_id)).claim_epoch == 1


async def test_an_agent_may_lose_patience(tmp_path: Path) -> None:
    async def impatient(ctx: Context) -> str:
        try:
            async with asyncio.timeout(0.1):
                await ctx.ask("First?")
        except TimeoutError:
            await ctx.say("too slow")
        return f"heard {await ctx.ask('Second?')}"

    async with served([impatient], tmp_path / "jobs.db", slots=1) as server:
        client = server.client
        run = await client.runs.create("impatient", "go")
        second = await happened(client, run, "action_raised", times=2)
        await happened(client, run, "run_waiting", times=2)
        await respond(client, second.action_raised.action, "yes")
        assert await result_of(client, run) == "heard yes"
        texts = [text_of(m) async for m in client.threads.messages(run.thread_id)]
        assert texts == ["go", "too slow", "heard yes"]
        assert (await client.threads.get(run.thread_id)).pending_action_count == 0


# Tools of chat agents


RULES = """
[[rule]]
when = 'delete (?P<name>\\w+)'
example = 'delete it'
call = [{ tool = "delete", arguments = { name = "{name}" } }]

[[rule]]
when = 'delete (?P<one>\\w+) and (?P<two>\\w+)'
example = 'delete this and that'
call = [
    { tool = "delete", arguments = { name = "{one}" } },
    { tool = "delete", arguments = { name = "{two}" } },
]

[[rule]]
when = 'locate'
example = 'locate'
call = [{ tool = "position", arguments = {} }]

[[rule]]
after = "delete"
say = "{result}"

[[rule]]
after = "position"
say = "{result}"
"""


class Desk:
    """Chat agents with a tool under each policy, and one that the client runs."""

    def __init__(self, rules: Path) -> None:
        rules.write_text(RULES)
        self.deleted: list[str] = []
        position = client_tool("position", "Where the user is.", {"type": "object"})
        self.agents: dict[str, Any] = {
            f"{policy}er": ChatAgent(
                f"offline:{rules.name}",
                tools=[tool(self.delete, policy=policy), position],
                base=rules.parent,
            )
            for policy in POLICIES
        }

    async def delete(self, name: str) -> str:
        """Deletes something."""
        self.deleted.append(name)
        return f"{name} is gone"


@pytest.fixture
async def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "rules.toml")


@pytest.fixture
async def office(desk: Desk, gates: Gates, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A server on a port with a single slot and the agents of the desk."""
    agents: Any = {**desk.agents, "worker": gates.worker, "quick": gates.quick}
    async with served(agents, tmp_path / "office.db", slots=1) as server:
        yield server.client
    assert admin.check(str(tmp_path / "office.db")) == []


def permission(action: Action, allow: bool, why: str = "") -> ActionResponse:
    given = Permission(allow=allow, deny_message=why)
    return ActionResponse(action_id=action.action_id, permission=given)


def tool_results(messages: list[Message]) -> list[tuple[str, bool]]:
    blocks = [block for message in messages for block in message.content]
    results = [block.tool_result for block in blocks if block.HasField("tool_result")]
    return [(result.text, result.is_error) for result in results]


async def messages_of(client: AsyncClient, run: Run) -> list[Message]:
    return [message async for message in client.threads.messages(run.thread_id)]


async def test_a_tool_that_is_allowed_runs_at_once(office: AsyncClient, desk: Desk) -> None:
    run = await office.runs.create("allower", "delete it")
    assert await result_of(office, run) == "it is gone"
    assert desk.deleted == ["it"]


async def test_a_tool_that_is_denied_never_runs(office: AsyncClient, desk: Desk) -> None:
    run = await office.runs.create("denyer", "delete it")
    assert await result_of(office, run) == "delete may not be used."
    assert desk.deleted == []
    assert tool_results(await messages_of(office, run)) == [("delete may not be used.", True)]


async def test_a_tool_runs_once_it_is_permitted(office: AsyncClient, desk: Desk) -> None:
    run = await office.runs.create("asker", "delete it")
    action = await the_action(office, run)
    assert action.kind == Action.KIND_TOOL_PERMISSION
    assert action.tool_call.name == "delete"
    assert json.loads(action.tool_call.arguments_json) == {"name": "it"}
    assert desk.deleted == []
    with pytest.raises(InvalidArgument, match="is answered with permission"):
        await respond(office, action, "yes")
    await office.runs.respond(run.thread_id, [permission(action, True)])
    assert await result_of(office, run) == "it is gone"
    assert desk.deleted == ["it"]


async def test_the_model_is_told_why_a_permission_was_denied(
    office: AsyncClient, desk: Desk
) -> None:
    run = await office.runs.create("asker", "delete it")
    action = await the_action(office, run)
    await office.runs.respond(run.thread_id, [permission(action, False, "it is mine")])
    assert await result_of(office, run) == "The call was denied: it is mine."
    assert desk.deleted == []


async def test_calls_of_one_answer_are_permitted_one_by_one(
    office: AsyncClient, desk: Desk
) -> None:
    run = await office.runs.create("asker", "delete this and that")
    this, that = sorted(
        await open_actions(office, run),
        key=lambda action: action.tool_call.arguments_json,
        reverse=True,
    )
    await office.runs.respond(run.thread_id, [permission(that, False)])
    assert await the_action(office, run) == this
    await office.runs.respond(run.thread_id, [permission(this, True)])
    await result_of(office, run)
    assert desk.deleted == ["this"]
    assert sorted(tool_results(await messages_of(office, run))) == [
        ("The call was denied: no reason was given.", True),
        ("this is gone", False),
    ]


@pytest.mark.parametrize("is_error", [False, True])
async def test_a_client_runs_its_tool_and_answers_with_the_result(
    office: AsyncClient, is_error: bool
) -> None:
    run = await office.runs.create("allower", "locate")
    action = await the_action(office, run)
    assert action.kind == Action.KIND_CLIENT_TOOL
    assert action.tool_call.name == "position"
    other = ActionResponse(
        action_id=action.action_id, tool_result=ToolResult(tool_call_id="other", text="here")
    )
    with pytest.raises(InvalidArgument, match=action.tool_call.tool_call_id):
        await office.runs.respond(run.thread_id, [other])
    result = ToolResult(text="52.5, 13.4", is_error=is_error)
    response = ActionResponse(action_id=action.action_id, tool_result=result)
    await office.runs.respond(run.thread_id, [response])
    await result_of(office, run)
    messages = await messages_of(office, run)
    assert tool_results(messages) == [("52.5, 13.4", is_error)]
    [tool_turn] = [message for message in messages if message.role == Role.ROLE_TOOL]
    assert tool_turn.content[0].tool_result.tool_call_id == action.tool_call.tool_call_id


async def test_a_permission_is_not_asked_for_again_after_a_restart(
    desk: Desk, tmp_path: Path
) -> None:
    agents: Any = desk.agents
    async with served(agents, tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("asker", "delete it")
        action = await the_action(server.client, run)
    async with served(agents, tmp_path / "jobs.db") as server:
        assert await the_action(server.client, run) == action
        await server.client.runs.respond(run.thread_id, [permission(action, True)])
        assert await result_of(server.client, run) == "it is gone"
        assert desk.deleted == ["it"]
        kinds = kinds_of(await log_of(server.client, run.thread_id))
        assert (kinds.count("action_raised"), kinds.count("claim_voided")) == (1, 0)


async def test_what_tools_ask_and_launch_is_theirs_alone_over_a_restart(
    gates: Gates, tmp_path: Path
) -> None:
    """After a restart the second tool call is the first that runs: it is still the second."""

    async def confirm(name: str, ctx: Context) -> str:
        """Asks whether something is meant.

        Args:
            name: What.
            ctx: The run.
        """
        job = await ctx.jobs.launch("quick", name, notify="none")
        await ctx.sleep(0)
        answer = await ctx.ask(f"{name}?")
        await ctx.jobs.wait(job)
        return f"{name}: {answer}"

    async def confirm_again(ctx: Context) -> str:
        """Asks the same of something else."""
        return await confirm("that", ctx)

    (tmp_path / "confirm.toml").write_text(
        """
        [[rule]]
        when = 'go'
        example = 'go'
        call = [{ tool = "confirm", arguments = { name = "this" } }]
        [[rule]]
        after = "confirm"
        call = [{ tool = "confirm_again", arguments = {} }]
        [[rule]]
        after = "confirm_again"
        say = "{result}"
        """
    )
    tools = [tool(confirm, idempotent=True), tool(confirm_again, idempotent=True)]
    careful = ChatAgent("offline:confirm.toml", tools=tools, base=tmp_path)
    agents: Any = {"careful": careful, "quick": gates.quick}
    async with served(agents, tmp_path / "jobs.db") as server:
        run = await server.client.runs.create("careful", "go")
        await respond(server.client, await the_action(server.client, run), "yes")
        second = await happened(server.client, run, "action_raised", times=2)
        assert (await the_action(server.client, run)).question == "that?"
    async with served(agents, tmp_path / "jobs.db") as server:
        client = server.client
        assert await the_action(client, run) == second.action_raised.action
        await respond(client, second.action_raised.action, "no")
        assert await result_of(client, run) == "that: no"
        assert [result for result, _ in tool_results(await messages_of(client, run))] == [
            "this: yes",
            "that: no",
        ]
        kinds = kinds_of(await log_of(client, run.thread_id))
        assert kinds.count("action_raised") == 2
        assert len([job async for job in client.jobs.list()]) == 2


class Watched(ChatAgent):
    """Keeps what it saw of the conversation in the end."""

    seen: list[Message]

    async def __call__(self, ctx: Context) -> Message:
        result = await super().__call__(ctx)
        self.seen = await ctx.messages()
        return result


async def test_another_assistant_works_on_the_thread_while_a_proxy_waits_for_an_action(
    desk: Desk, gates: Gates, tmp_path: Path
) -> None:
    """The proxy goes on with the result behind its call, and what came meanwhile after both."""
    proxy = Watched("offline:rules.toml", tools=[tool(desk.delete, policy="ask")], base=tmp_path)
    agents: Any = {"proxy": proxy, "specialist": gates.worker}
    async with served(agents, tmp_path / "jobs.db", slots=1) as server:
        client = server.client
        run = await client.runs.create("proxy", "delete it")
        action = await the_action(client, run)
        meanwhile = await client.runs.create(
            "specialist", "and you?", thread_id=run.thread_id, multitask_strategy="reject"
        )
        context = await gates.entered("and you?")
        # A call that has no result yet is nothing that a provider takes.
        seen = [text_of(message) for message in await context.messages()]
        assert seen == ["delete it", "and you?"]
        gates.open("and you?")
        await finished(client, meanwhile)
        await client.runs.respond(run.thread_id, [permission(action, True)])
        last = await result_of(client, run)
    question, call, result, *rest = proxy.seen
    assert text_of(question) == "delete it"
    assert call.content[-1].tool_call.tool_call_id == action.tool_call.tool_call_id
    assert result.content[0].tool_result.tool_call_id == action.tool_call.tool_call_id
    assert [text_of(message) for message in rest] == ["and you?", "done: and you?", last]
