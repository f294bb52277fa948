"""Whom chat agents may call: what their models are told, and what becomes of the calls."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest

import callboard
from callboard import AsyncClient, Job, RunState, text_of
from callboard.v1.event_pb2 import Action, Event
from callboard.v1.message_pb2 import ContentBlock, Role, StopReason, Text, ToolCall, Usage
from callboard.v1.run_pb2 import Run
from callboard_server.agents.callees import unseen
from callboard_server.agents.chat import ChatAgent
from callboard_server.agents.chat_config import Unfit, read_config
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from callboard_server.agents.kit import KIT_PROMPT, KIT_TOOLS, insisted
from callboard_server.config import CallableAssistant, ConfigError
from callboard_server.models.base import Answer, ModelRequest, Piece
from callboard_server.store.sqlite import admin
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import local, settings, sound_log

CALLED = ("worker", "quick", "failing", "remembering", "asker", "loop", "Reader", "Writer")
RULE = """
[[rule]]
when = 'ask {name}: (?P<one>\\w+) and (?P<two>\\w+)'
example = "ask {name}: one and two"
call = [
    {{ tool = "ask_{name}", arguments = {{ task = "{{one}}" }} }},
    {{ tool = "ask_{name}", arguments = {{ task = "{{two}}" }} }},
]
[[rule]]
when = 'ask {name}: (?P<task>.+)'
example = "ask {name}: one"
call = [{{ tool = "ask_{name}", arguments = {{ task = "{{task}}" }} }}]
[[rule]]
when = 'again ask {name}: (?P<task>.+)'
example = "again ask {name}: one"
call = [{{ tool = "ask_{name}_2", arguments = {{ task = "{{task}}" }} }}]
[[rule]]
when = 'start {name}: (?P<task>.+)'
example = "start {name}: one"
call = [{{ tool = "launch_job", arguments = {{ agent = "{name}", task = "{{task}}" }} }}]
[[rule]]
when = 'ask {name} nothing'
example = "ask {name} nothing"
call = [{{ tool = "ask_{name}", arguments = {{}} }}]
"""
SUCCEEDED, CANCELLED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_CANCELLED


class Listening:
    """A model that keeps what it is sent."""

    name = "listening"

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        self.requests.append(request)
        content = [ContentBlock(text=Text(text="I see."))]
        yield Answer(content, Usage(model_calls=1), StopReason.STOP_REASON_END_TURN)


class Persistent:
    """A model that asks three times, one after another."""

    name = "persistent"

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        told = [m for m in request.messages if m.role == Role.ROLE_TOOL]
        ask = ToolCall(
            tool_call_id=f"call-{len(told)}",
            name="ask_remembering",
            arguments_json=f'{{"task": "{len(told)}"}}',
        )
        content = [ContentBlock(tool_call=ask)]
        usage, end = Usage(model_calls=1), StopReason.STOP_REASON_TOOL_USE
        if len(told) == 3:
            content = [ContentBlock(text=Text(text=told[-1].content[0].tool_result.text))]
            end = StopReason.STOP_REASON_END_TURN
        yield Answer(content, usage, end)


class Handing:
    """A model that hands each run a task of its own, and says what it is told last."""

    name = "handing"

    def __init__(self, *tasks: str) -> None:
        self._tasks = list(tasks)

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        last, usage = request.messages[-1], Usage(model_calls=1)
        if last.role == Role.ROLE_TOOL:
            content = [ContentBlock(text=Text(text=last.content[0].tool_result.text))]
            yield Answer(content, usage, StopReason.STOP_REASON_END_TURN)
            return
        task = self._tasks.pop(0)
        ask = ToolCall(
            tool_call_id=f"call-{task}",
            name="ask_worker",
            arguments_json=json.dumps({"task": task}),
        )
        yield Answer([ContentBlock(tool_call=ask)], usage, StopReason.STOP_REASON_TOOL_USE)


async def failing(ctx: Context) -> str:
    """Fails at what it is given."""
    await ctx.say("I begin.")
    raise AgentError(f"{await ctx.input()} is too hard")


async def remembering(ctx: Context) -> str:
    """Tells what it was asked on its thread."""
    return ", ".join(text_of(m) for m in await ctx.messages() if m.role == 1)


async def asker(ctx: Context) -> str:
    """Asks somebody."""
    return f"they say {await ctx.ask(await ctx.input())}"


def waits_for(*names: str) -> list[dict[str, str]]:
    return [{"id": name, "mode": "sync"} for name in names]


@pytest.fixture
def gates() -> Gates:
    return Gates()


@pytest.fixture
def agents(gates: Gates, tmp_path: Path) -> dict[str, Any]:
    """Agents that work, and supervisors over a table of patterns."""
    (tmp_path / "rules.toml").write_text("".join(RULE.format(name=name) for name in CALLED))
    chat = "offline:rules.toml"
    called = waits_for("worker", "quick", "failing", "remembering", "asker")
    return {
        "lead": ChatAgent(chat, base=tmp_path, callable_assistants=[*called, "worker"]),
        "plain": ChatAgent(chat, base=tmp_path),
        "loop": ChatAgent(chat, base=tmp_path, callable_assistants=waits_for("loop")),
        **{agent.__name__: agent for agent in (failing, remembering, asker)},
        **{"worker": gates.worker, "quick": gates.quick},
    }


@pytest.fixture
async def client(
    agents: dict[str, Any], gates: Gates, tmp_path: Path
) -> AsyncIterator[AsyncClient]:
    async with local(agents, tmp_path / "jobs.db") as client:
        yield client
        gates.close()
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def say(client: AsyncClient, text: str, *, thread_id: str | None = None) -> Run:
    return await client.runs.create("lead", text, thread_id=thread_id)


async def answer(client: AsyncClient, run: Run) -> str:
    over = await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)
    assert over.state == SUCCEEDED, over.outcome.error
    return text_of(over.outcome.result)


async def asked(client: AsyncClient, thread_id: str) -> Action:
    """What somebody on a thread or below it asks, once that is so."""
    stream = client.threads.stream(thread_id, scope="session", kinds=["action_raised"])
    async with asyncio.timeout(PATIENCE), stream as events:
        raised = await anext(events)
    assert isinstance(raised, Event)
    return raised.action_raised.action


async def results_of(client: AsyncClient, run: Run) -> list[str]:
    """What the tools of a run have told its model."""
    return [
        block.tool_result.text
        async for message in client.threads.messages(run.thread_id)
        for block in message.content
        if message.run_id == run.run_id and block.HasField("tool_result")
    ]


async def jobs_of(client: AsyncClient, thread_id: str) -> list[Job]:
    """The jobs of a thread, oldest first."""
    return [job async for job in client.jobs.list(parent_thread_id=thread_id)][::-1]


class TestWhatTheModelIsTold:
    async def test_the_kit_with_what_each_does_and_how_to_use_it(self, tmp_path: Path) -> None:
        model = Listening()
        boss = ChatAgent(
            model,
            "Lead.",
            callable_assistants=["remembering", {"id": "failing", "description": "Tries."}],
        )
        agents = {"boss": boss, "remembering": remembering, "failing": failing}
        async with local(agents, tmp_path / "jobs.db") as client:
            run = await client.runs.create("boss", "hello", wait=PATIENCE)
            await client.runs.create("boss", "again", thread_id=run.thread_id, wait=PATIENCE)
        first, second = model.requests
        assert first.system == f"Lead.\n\n{KIT_PROMPT}"
        assert [tool.name for tool in first.tools] == list(KIT_TOOLS)
        told = "- remembering: Tells what it was asked on its thread.\n- failing: Tries."
        assert first.tools[0].description.endswith(told)
        assert (first.system, described(first)) == (second.system, described(second))

    async def test_of_assistants_what_they_or_their_agents_say(self, tmp_path: Path) -> None:
        model = Listening()
        agents = {"boss": ChatAgent(model), "failing": failing}
        async with local(agents, tmp_path / "jobs.db") as client:
            silent = await client.assistants.create("failing", name="Silent")
            talker = await client.assistants.create("failing", name="Talker", description="Talks.")
            called = [silent.assistant_id, talker.assistant_id]
            config = {"callable_assistants": called}
            await client.runs.create("boss", "hello", config=config, wait=PATIENCE)
        [request] = model.requests
        told = "- Silent: Fails at what it is given.\n- Talker: Talks."
        assert request.tools[0].description.endswith(told)

    async def test_a_tool_that_waits_for_each(self, tmp_path: Path) -> None:
        model = Listening()
        boss = ChatAgent(model, "Lead.", callable_assistants=waits_for("remembering", "failing"))
        agents = {"boss": boss, "remembering": remembering, "failing": failing}
        async with local(agents, tmp_path / "jobs.db") as client:
            await client.runs.create("boss", "hello", wait=PATIENCE)
            shown = (await client.assistants.get_agent("boss")).tools
        [request] = model.requests
        assert request.system == "Lead."
        ask, other = request.tools
        assert [ask.name, other.name] == list(shown) == ["ask_remembering", "ask_failing"]
        assert ask.description.startswith("Asks remembering.\nTells what it was asked on its")
        assert list(ask.parameters["properties"]) == ["task"]

    async def test_nothing_of_jobs_where_the_tools_for_them_are_left_out(
        self, tmp_path: Path
    ) -> None:
        model = Listening()
        boss = ChatAgent(model, "Lead.", callable_assistants=["failing", *waits_for("failing")])
        async with local({"boss": boss, "failing": failing}, tmp_path / "jobs.db") as client:
            config = {"tools": ["ask_failing"]}
            await client.runs.create("boss", "hello", config=config, wait=PATIENCE)
        [request] = model.requests
        assert (request.system, [tool.name for tool in request.tools]) == ("Lead.", ["ask_failing"])

    def test_names_of_tools_are_ones_that_providers_take(self) -> None:
        named = [
            unseen([CallableAssistant(id=name, mode="sync")])[0].tool_name
            for name in ("count_words", "Señor Müller & Co.", "調査", "x" * 80)
        ]
        assert named == [
            "ask_count_words",
            "ask_Se_or_M_ller_Co",
            "ask_assistant",
            "ask_" + "x" * 56,
        ]

    def test_two_of_one_name_are_told_apart(self) -> None:
        entries = [CallableAssistant(id="a", version=v, mode="sync") for v in (1, 2, 3)]
        assert [c.tool_name for c in unseen(entries)] == ["ask_a", "ask_a_2", "ask_a_3"]
        background = [CallableAssistant(id="a"), CallableAssistant(id="a", version=2)]
        assert [c.name for c in unseen(background)] == ["a", "a 2"]

    def test_a_tool_of_its_own_is_not_hidden(self) -> None:
        def ask_worker(task: str) -> str:
            """Asks."""
            return task

        with pytest.raises(ValueError, match="two tools of the name ask_worker"):
            ChatAgent(Listening(), tools=[ask_worker], callable_assistants=waits_for("worker"))


def described(request: ModelRequest) -> list[object]:
    return [(tool.name, tool.description, tool.parameters) for tool in request.tools]


async def test_a_run_is_tried_again_where_its_server_does_not_answer() -> None:
    async def refuse() -> None:
        raise callboard.Unavailable("the server is stopping")

    with pytest.raises(AgentError) as raised:
        await insisted(refuse())
    assert raised.value.run_error.retryable


class TestAsking:
    async def test_again_goes_on_with_the_same_thread(self, client: AsyncClient) -> None:
        run = await say(client, "ask remembering: who are you")
        assert await answer(client, run) == "who are you"
        run = await say(client, "ask remembering: what then", thread_id=run.thread_id)
        assert await answer(client, run) == "who are you, what then"
        [job] = await jobs_of(client, run.thread_id)
        assert (job.run_count, dict(job.labels)) == (2, {"callable_assistant": "remembering@1"})
        home = await client.threads.get(run.thread_id)
        assert home.unread_notice_count == 0
        await sound_log(client, run.thread_id)

    async def test_again_in_the_same_run_too(self, tmp_path: Path) -> None:
        boss = ChatAgent(Persistent(), callable_assistants=waits_for("remembering"))
        agents = {"boss": boss, "remembering": remembering}
        async with local(agents, tmp_path / "jobs.db") as client:
            run = await client.runs.create("boss", "hello")
            assert await answer(client, run) == "0, 1, 2"

    async def test_two_at_once_work_side_by_side_on_a_thread_each(
        self, client: AsyncClient, gates: Gates
    ) -> None:
        run = await say(client, "ask worker: one and two")
        await gates.entered("one")
        await gates.entered("two")
        gates.open("one", "two")
        assert await answer(client, run) == "done: one\ndone: two"
        gates.open("three", "four")
        run = await say(client, "ask worker: three and four", thread_id=run.thread_id)
        assert await answer(client, run) == "done: three\ndone: four"
        assert [job.run_count for job in await jobs_of(client, run.thread_id)] == [2, 2]

    async def test_one_that_is_busy_is_not_disturbed(
        self, client: AsyncClient, gates: Gates
    ) -> None:
        first = await say(client, "ask worker: one")
        await gates.entered("one")
        # It waits without the thread: another run can ask meanwhile.
        second = await say(client, "ask worker: two", thread_id=first.thread_id)
        await gates.entered("two")
        gates.open("two")
        assert await answer(client, second) == "done: two"
        gates.open("one")
        await answer(client, first)
        assert await results_of(client, first) == ["done: one"]
        assert [job.run_count for job in await jobs_of(client, first.thread_id)] == [1, 1]

    async def test_two_runs_at_once_have_a_child_each(self, gates: Gates, tmp_path: Path) -> None:
        boss = ChatAgent(Handing("one", "two", "three"), callable_assistants=waits_for("worker"))
        async with local({"boss": boss, "worker": gates.worker}, tmp_path / "jobs.db") as client:
            gates.open("one")
            first = await client.runs.create("boss", "hello")
            assert await answer(client, first) == "done: one"
            second, third = await asyncio.gather(
                *(
                    client.runs.create(
                        "boss", "go on", thread_id=first.thread_id, multitask_strategy="concurrent"
                    )
                    for _ in range(2)
                )
            )
            await gates.entered("two")
            await gates.entered("three")
            jobs = await jobs_of(client, first.thread_id)
            child_of = {job.waiting_run_id: job.job_id for job in jobs}
            assert child_of.keys() == {second.run_id, third.run_id}
            await client.runs.cancel(second.run_id)
            [stopped] = await client.jobs.wait(child_of[second.run_id], timeout=PATIENCE)
            assert stopped.state == CANCELLED
            gates.open("two", "three")
            await answer(client, third)
            [told] = await results_of(client, third)
            assert told in ("done: two", "done: three")

    async def test_waiting_holds_no_slot(
        self, agents: dict[str, Any], gates: Gates, tmp_path: Path
    ) -> None:
        async with local(agents, tmp_path / "one.db", slots=1) as client:
            run = await say(client, "ask worker: one")
            await gates.entered("one")
            waiting = await client.runs.get(run.run_id)
            assert waiting.state == RunState.RUN_STATE_WAITING
            gates.open("one")
            assert await answer(client, run) == "done: one"

    async def test_a_question_of_the_child_is_answered_from_outside(
        self, client: AsyncClient
    ) -> None:
        run = await say(client, "ask asker: why")
        await client.actions.answer(await asked(client, run.thread_id), "because")
        assert await answer(client, run) == "they say because"

    async def test_arguments_that_do_not_fit_come_back_in_words(self, client: AsyncClient) -> None:
        assert "task: is required" in await answer(client, await say(client, "ask worker nothing"))

    async def test_a_policy_lets_somebody_permit_it_before(self, client: AsyncClient) -> None:
        run = await permitting(client, "lead", "ask quick: it", "ask_quick")
        [action] = [each async for each in client.actions.list(run.thread_id)]
        assert action.tool_call.name == "ask_quick"
        assert await jobs_of(client, run.thread_id) == []
        await client.actions.allow(action)
        assert await answer(client, run) == "done: it"


class TestForks:
    @pytest.mark.parametrize("mode", ["sync", "async"])
    async def test_each_begins_with_the_conversation_up_to_there(
        self, client: AsyncClient, mode: str
    ) -> None:
        called = [{"id": "remembering", "mode": mode, "context": "fork"}]
        config = {"callable_assistants": called}
        boss = (await client.assistants.create("plain", config=config)).assistant_id
        verb = "ask" if mode == "sync" else "start"
        run = await client.runs.create(boss, f"{verb} remembering: one")
        await answer(client, run)
        again = f"{verb} remembering: two"
        await answer(client, await client.runs.create(boss, again, thread_id=run.thread_id))
        first, second = await jobs_of(client, run.thread_id)
        ended = await client.jobs.wait([first.job_id, second.job_id], timeout=PATIENCE)
        told = [text_of(job.outcome.result) for job in ended]
        assert told[0].startswith(f"{verb} remembering: one, ")
        assert told[0].endswith(", one")
        assert f"{again}, " in told[1]
        assert told[1].endswith(", two")


class TestWhatGoesWrong:
    async def test_a_failure_is_told_and_the_thread_is_left(self, client: AsyncClient) -> None:
        run = await say(client, "ask failing: this")
        told = "failing did not succeed: this is too hard.\nThe last that it said: I begin."
        assert await answer(client, run) == told
        run = await say(client, "ask failing: that", thread_id=run.thread_id)
        assert "that is too hard" in await answer(client, run)
        assert [job.run_count for job in await jobs_of(client, run.thread_id)] == [1, 1]

    async def test_a_child_that_somebody_cancels(self, client: AsyncClient, gates: Gates) -> None:
        run = await say(client, "ask worker: one")
        await gates.entered("one")
        [job] = await jobs_of(client, run.thread_id)
        await client.jobs.cancel(job.job_id)
        assert (await answer(client, run)).startswith("worker was stopped by somebody.")

    async def test_a_child_that_somebody_redirects(self, client: AsyncClient, gates: Gates) -> None:
        run = await say(client, "ask worker: one")
        await gates.entered("one")
        [job] = await jobs_of(client, run.thread_id)
        gates.open("two")
        await client.jobs.update(job.job_id, "two")
        assert await answer(client, run) == "done: two"

    async def test_a_child_that_somebody_deletes(self, client: AsyncClient, gates: Gates) -> None:
        run = await say(client, "ask worker: one")
        await gates.entered("one")
        [job] = await jobs_of(client, run.thread_id)
        await client.threads.delete(job.job_id)
        assert "has been deleted" in await answer(client, run)

    async def test_circles_end_at_the_bound_on_depth(
        self, agents: dict[str, Any], tmp_path: Path
    ) -> None:
        config = {**settings(tmp_path / "deep.db"), "delegation": {"depth": 3, "width": 1}}
        async with callboard.local(agents, db=tmp_path / "deep.db", config=config) as client:
            task = "ask loop: " * 9 + "x"
            run = await client.runs.create("loop", task, wait=PATIENCE)
            told = "loop was not asked: the server allows a delegation depth of 3."
            assert text_of(run.outcome.result) == told
            assert len([job async for job in client.jobs.list()]) == 3
            # The second of two at once goes beyond the width.
            run = await client.runs.create("loop", "ask loop: one and two", wait=PATIENCE)
            assert "allows a delegation width of 1" in text_of(run.outcome.result)
            info = await client.server.info()
            assert (info.limits.delegation_depth, info.limits.delegation_width) == (3, 1)

    async def test_who_is_gone_is_no_choice_any_more(self, client: AsyncClient) -> None:
        boss, reader = await a_boss(client, "Reader", "Writer")
        run = await client.runs.create(boss, "start Reader: it")
        launched = await answer(client, run)
        await client.assistants.delete(reader)

        async def told(text: str) -> str:
            return await answer(client, await client.runs.create(boss, text))

        assert await told("ask Writer: it") == "done: it"
        assert "There is no tool ask_Reader; did you mean ask_Writer?" in await told(
            "ask Reader: it"
        )
        assert "agent: 'Reader' is not one of: Writer" in await told("start Reader: it")
        assert '"agent": "Reader"' in launched

    async def test_who_goes_while_a_run_is_under_way_is_named_with_who_is_left(
        self, client: AsyncClient
    ) -> None:
        boss, reader = await a_boss(client, "Reader", "Writer")
        runs = [await permitting(client, boss, "ask Reader: it", "ask_Reader")]
        runs.append(await permitting(client, boss, "start Reader: it", "launch_job"))
        await client.assistants.delete(reader)
        for run in runs:
            [action] = [each async for each in client.actions.list(run.thread_id)]
            await client.actions.allow(action)
        gone = "There is no Reader any more. "
        assert await answer(client, runs[0]) == f"{gone}You may call: ask_Writer."
        assert await answer(client, runs[1]) == f"{gone}Of yours there are: Writer."

    async def test_with_nobody_left_jobs_can_still_be_looked_after(
        self, client: AsyncClient
    ) -> None:
        boss, reader = await a_boss(client, "Reader")
        await client.assistants.delete(reader)
        run = await client.runs.create(boss, "start Reader: it")
        assert "is not one of" in await answer(client, run)


class TestPolicies:
    """What is said of a tool whose callee is not there, and of one that never was there."""

    @pytest.fixture
    async def client(
        self, agents: dict[str, Any], gates: Gates, tmp_path: Path
    ) -> AsyncIterator[AsyncClient]:
        agents["guarded"] = ChatAgent(
            "offline:rules.toml",
            base=tmp_path,
            callable_assistants=[*waits_for("quick", "failing"), "quick"],
            tool_policy={"ask_quick": "deny", "launch_job": "deny"},
        )
        async with local(agents, tmp_path / "jobs.db") as client:
            yield client

    @pytest.mark.parametrize("called", [[], waits_for("failing")], ids=["nobody", "others"])
    async def test_of_an_agent_hold_for_nobody_where_its_assistant_leaves_one_out(
        self, client: AsyncClient, called: list[Any]
    ) -> None:
        config = {"callable_assistants": called, "tool_policy": {"ask_quick": "ask"}}
        guarded = await client.assistants.create("guarded", config=config)
        run = await client.runs.create(guarded.assistant_id, "ask quick: it")
        assert "There is no tool ask_quick" in await answer(client, run)

    async def test_of_an_assistant_hold_for_nobody_where_a_run_leaves_one_out(
        self, client: AsyncClient
    ) -> None:
        reader = (await client.assistants.create("quick", name="Reader")).assistant_id
        for called, name in (waits_for("quick"), "ask_quick"), (waits_for(reader), "ask_Reader"):
            config = {
                "callable_assistants": called,
                "tool_policy": {name: "ask"},
                "tools": [name],
            }
            boss = (await client.assistants.create("plain", config=config)).assistant_id
            run = await client.runs.create(boss, "hello", config={"callable_assistants": []})
            assert await answer(client, run)

    async def test_of_an_agent_hold_for_whom_they_were_written_however_the_tool_is_called(
        self, client: AsyncClient
    ) -> None:
        called = [{"id": "quick", "mode": "sync", "version": 1}, *waits_for("quick")]
        config = {"callable_assistants": called}
        agent = await client.assistants.get_agent("guarded")
        assert "ask_quick_2" not in agent.tools
        guarded = await client.assistants.create("guarded", config=config)
        run = await client.runs.create(guarded.assistant_id, "again ask quick: it")
        assert await answer(client, run) == "ask_quick_2 may not be used."

    @pytest.mark.parametrize("key", ["tool_policy", "tools"])
    async def test_of_one_who_was_deleted_hold_for_nobody(
        self, client: AsyncClient, key: str
    ) -> None:
        named = {"ask_Reader": "ask", "ask_Writer": "allow"}
        config = {key: named if key == "tool_policy" else list(named)}
        boss, reader = await a_boss(client, "Reader", "Writer", **config)
        await client.assistants.delete(reader)
        run = await client.runs.create(boss, "ask Writer: it")
        assert await answer(client, run) == "done: it"
        run = await client.runs.create(boss, "ask Reader: it")
        assert "There is no tool ask_Reader; did you mean ask_Writer?" in await answer(client, run)

    async def test_of_one_who_was_deleted_do_not_pass_to_another_of_the_name(
        self, client: AsyncClient
    ) -> None:
        policy = {"ask_Reader_2": "deny"}
        boss, reader = await a_boss(client, "Reader", "Reader", tool_policy=policy)
        await client.assistants.delete(reader)
        run = await client.runs.create(boss, "ask Reader: it", wait=PATIENCE)
        assert "there is no tool ask_Reader_2" in run.outcome.error.message

    async def test_of_nobody_are_refused_with_who_was_meant(
        self, client: AsyncClient, tmp_path: Path
    ) -> None:
        hint = "there is no tool ask_qiuck; did you mean ask_quick?"
        for key, value in ("tool_policy", {"ask_qiuck": "deny"}), ("tools", ["ask_qiuck"]):
            config: dict[str, Any] = {key: value}
            with pytest.raises(callboard.InvalidArgument) as refused:
                await client.assistants.create("guarded", config=config)
            assert refused.value.message.endswith(f"config.{key}: {hint}")
            with pytest.raises(callboard.InvalidArgument):
                await client.runs.create("guarded", "hello", config=config)
            # What assistants of the database are called is known when a run has looked.
            config[key] = {"ask_Raeder": "deny"} if key == "tool_policy" else ["ask_Raeder"]
            boss, _ = await a_boss(client, "Reader", **config)
            run = await client.runs.create(boss, "ask Reader: it", wait=PATIENCE)
            assert "ask_Raeder; did you mean ask_Reader?" in run.outcome.error.message
        unsure = ChatAgent(
            Listening(), callable_assistants=waits_for("quick"), tool_policy={"ask_qiuck": "deny"}
        )
        with pytest.raises(ConfigError, match=re.escape(hint)):
            async with local({"boss": unsure, "quick": failing}, tmp_path / "other.db"):
                pass


async def permitting(client: AsyncClient, assistant: str, text: str, tool: str) -> Run:
    """A run that waits for the permission to call a tool."""
    config = {"tool_policy": {tool: "ask"}}
    run = await client.runs.create(assistant, text, config=config)
    return await client.runs.wait(run.run_id, timeout=PATIENCE)


async def a_boss(client: AsyncClient, *names: str, **config: Any) -> tuple[str, str]:
    """An assistant that calls new ones of some names in both modes; its id, and the first one's."""
    made = [(await client.assistants.create("quick", name=name)).assistant_id for name in names]
    called = [{"id": each, "mode": mode} for mode in ("sync", "async") for each in made]
    config = {"callable_assistants": called, **config}
    boss = await client.assistants.create("plain", config=config)
    return boss.assistant_id, made[0]


class TestCancelling:
    @pytest.mark.parametrize("rollback", [False, True])
    async def test_a_child_goes_with_the_run_that_waits_for_it(
        self, client: AsyncClient, gates: Gates, rollback: bool
    ) -> None:
        run = await say(client, "start worker: apart")
        await answer(client, run)
        await gates.entered("apart")
        run = await say(client, "ask worker: one and two", thread_id=run.thread_id)
        await gates.entered("one")
        await gates.entered("two")
        await client.runs.cancel(run.run_id, rollback=rollback)
        apart, *children = await jobs_of(client, run.thread_id)
        ended = await client.jobs.wait([job.job_id for job in children], timeout=PATIENCE)
        assert [job.state for job in ended] == [CANCELLED, CANCELLED]
        gates.open("apart")
        [apart] = await client.jobs.wait(apart.job_id, timeout=PATIENCE)
        assert apart.state == SUCCEEDED

    async def test_so_does_one_that_was_continued(self, client: AsyncClient, gates: Gates) -> None:
        gates.open("one")
        run = await say(client, "ask worker: one")
        await answer(client, run)
        run = await say(client, "ask worker: two", thread_id=run.thread_id)
        await gates.entered("two")
        await client.runs.cancel(run.run_id)
        [job] = await jobs_of(client, run.thread_id)
        [job] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
        assert (job.state, job.run_count, job.waiting_run_id) == (CANCELLED, 2, run.run_id)
        # The thread is there to be continued all the same.
        gates.open("three")
        run = await say(client, "ask worker: three", thread_id=run.thread_id)
        assert await answer(client, run) == "done: three"
        assert [job.run_count for job in await jobs_of(client, run.thread_id)] == [3]

    async def test_so_does_one_whose_run_waits_in_no_process(
        self, agents: dict[str, Any], gates: Gates, tmp_path: Path
    ) -> None:
        async with local(agents, tmp_path / "jobs.db") as client:
            run = await say(client, "ask asker: why")
            await asked(client, run.thread_id)
        async with local(agents, tmp_path / "jobs.db") as client:
            [job] = await jobs_of(client, run.thread_id)
            assert job.state == RunState.RUN_STATE_REQUIRES_ACTION
            await client.runs.cancel(run.run_id)
            assert (await client.jobs.get(job.job_id)).state == CANCELLED
            await sound_log(client, run.thread_id)

    async def test_an_update_of_somebody_else_leaves_that_as_it_is(
        self, client: AsyncClient, gates: Gates
    ) -> None:
        run = await say(client, "ask worker: one")
        await gates.entered("one")
        [job] = await jobs_of(client, run.thread_id)
        await client.jobs.update(job.job_id, "two")
        await gates.entered("two")
        await client.runs.cancel(run.run_id)
        [job] = await client.jobs.wait(job.job_id, timeout=PATIENCE)
        assert job.state == CANCELLED

    async def test_a_run_beyond_the_server_ties_no_job_to_itself(self, client: AsyncClient) -> None:
        home = (await client.threads.create()).thread_id
        with pytest.raises(callboard.InvalidArgument, match="cancel_with_run: only a run of"):
            await client.jobs.launch("quick", "it", parent_thread_id=home, cancel_with_run=True)
        job = await client.jobs.launch("quick", "it", parent_thread_id=home)
        with pytest.raises(callboard.InvalidArgument, match="cancel_with_run: only a run of"):
            await client.jobs.update(job.job_id, "more", cancel_with_run=True)


async def test_an_agent_in_code_that_calls_nobody_there_does_not_start(tmp_path: Path) -> None:
    boss = ChatAgent(Listening(), callable_assistants=["failng"])
    with pytest.raises(ConfigError, match="no agent failng; did you mean failing"):
        async with local({"boss": boss, "failing": failing}, tmp_path / "jobs.db"):
            pass


class TestMadeThroughTheApi:
    async def test_a_supervisor_calls_an_assistant_in_the_version_that_it_says(
        self, client: AsyncClient, tmp_path: Path
    ) -> None:
        reader = await client.assistants.create("quick", name="Reader")
        await client.assistants.update(reader.assistant_id, metadata={"changed": True})
        called = [{"id": reader.assistant_id, "version": 1, "mode": "sync"}, reader.assistant_id]
        boss = await client.assistants.create("plain", config={"callable_assistants": called})
        for text in ("ask Reader: it", "start Reader: that"):
            await answer(client, await client.runs.create(boss.assistant_id, text))
        async with asyncio.timeout(PATIENCE):
            jobs = [job async for job in client.jobs.list()]
            runs = [await client.runs.get(job.run_id) for job in jobs]
        assert sorted(run.assistant_version for run in runs) == [1, 2]

    async def test_a_job_keeps_the_version_it_was_launched_in(self, client: AsyncClient) -> None:
        reader = (await client.assistants.create("quick", name="Reader")).assistant_id
        await client.assistants.update(reader, name="Better reader")
        job = await client.jobs.launch(reader, "it", version=1)
        await client.jobs.wait(job.job_id, timeout=PATIENCE)
        again = await client.jobs.update(job.job_id, "more")
        run = await client.runs.get(again.run_id)
        assert run.assistant_version == 1
        with pytest.raises(callboard.NotFound, match="has no version 3; its versions are 1 to 2"):
            await client.jobs.launch(reader, "it", version=3)
        with pytest.raises(callboard.InvalidArgument, match="assistant_version: must not be"):
            await client.jobs.launch(reader, "it", version=-1)

    @pytest.mark.parametrize(
        ("agent", "called", "problem"),
        [
            ("plain", ["nobody"], "config.callable_assistants[0].id: there is no assistant or"),
            (
                "plain",
                ["quick", {"id": "quick", "version": 2, "mode": "sync"}],
                "config.callable_assistants[1].version: assistant quick has no version 2",
            ),
            ("plain", [{"name": "quick"}], "config.callable_assistants[0].id: is required"),
            ("plain", [{"id": "quick", "mode": "x"}], "[0].mode: 'x' is not one of: async, sync"),
            ("plain", ["quick", "quick"], "quick is named twice for the same mode"),
            ("lead", ["loop"], "config.callable_assistants: its agent may not call loop; it may: "),
        ],
        ids=["stranger", "version", "key", "mode", "twice", "beyond"],
    )
    async def test_what_cannot_be_is_refused_when_it_is_written(
        self, client: AsyncClient, agent: str, called: list[Any], problem: str
    ) -> None:
        config = {"callable_assistants": called}
        mine = await client.assistants.create(agent)
        with pytest.raises(callboard.InvalidArgument) as refused:
            await client.assistants.create(agent, config=config)
        assert problem in refused.value.message
        with pytest.raises(callboard.InvalidArgument, match=r"assistant\.config"):
            await client.assistants.update(mine.assistant_id, config=config)
        with pytest.raises(callboard.InvalidArgument, match="config"):
            await client.runs.create(agent, "hello", config=config)
        with pytest.raises(callboard.InvalidArgument, match="config"):
            await client.jobs.launch(agent, "hello", config=config)
        assert [run async for run in client.runs.list()] == []

    async def test_an_agent_bounds_whom_and_which_version_its_assistants_call(
        self, tmp_path: Path
    ) -> None:
        model = Listening()
        called = [{"id": "failing", "version": 1, "mode": "sync", "description": "Tries."}]
        agents = {
            "boss": ChatAgent(model, callable_assistants=called),
            "hermit": ChatAgent(model, callable_assistants=[]),
            "failing": failing,
        }
        async with local(agents, tmp_path / "jobs.db") as client:
            config: dict[str, Any] = {"callable_assistants": ["failing"]}
            await client.runs.create("boss", "hello", config=config, wait=PATIENCE)
            with pytest.raises(callboard.InvalidArgument, match="may not call failing; it may: no"):
                await client.assistants.create("hermit", config=config)
            config = {"callable_assistants": [{"id": "failing", "version": 2}]}
            with pytest.raises(
                callboard.InvalidArgument, match="in version 2; it may in version 1"
            ):
                await client.assistants.create("boss", config=config)
            config = {"callable_assistants": []}
            await client.runs.create("boss", "hello", config=config, wait=PATIENCE)
        [bound, nobody] = model.requests
        # What it does not say, its agent says.
        assert [tool.name for tool in bound.tools] == ["ask_failing"]
        assert "Tries." in bound.tools[0].description
        assert nobody.tools == ()

    def test_a_version_that_is_null_is_left_out(self) -> None:
        own = read_config({"callable_assistants": [{"id": "failing", "version": 1}]})
        wanted = read_config({"callable_assistants": [{"id": "failing", "version": None}]})
        assert wanted.over(own).callable_assistants == own.callable_assistants

    def test_an_agent_bounds_the_mode_for_which_it_has_policies(self) -> None:
        own = read_config({"callable_assistants": ["failing", "quick"]})
        wanted = read_config({"callable_assistants": ["quick", {"id": "failing", "mode": "sync"}]})
        with pytest.raises(Unfit, match="may not call failing with mode sync"):
            wanted.over(own)

    def test_what_is_not_said_is_that_of_the_same_mode(self) -> None:
        aside = {"id": "failing", "context": "fork", "description": "Works aside."}
        waited_for = {"id": "failing", "mode": "sync", "version": 1, "description": "Tries."}
        own = read_config({"callable_assistants": [aside, waited_for]})
        wanted = read_config({"callable_assistants": [{"id": "failing", "mode": "sync"}]})
        assert own.callable_assistants is not None
        assert wanted.over(own).callable_assistants == own.callable_assistants[1:]
