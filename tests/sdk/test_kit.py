"""The supervisor's kit: its formats against the real SDKs, its calls against a real server."""

from __future__ import annotations

import asyncio
import inspect
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, get_type_hints

import anthropic.types
import openai.types.chat
import openai.types.responses
import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

import callboard
from callboard.kit import Kit, Refused
from callboard_server.agents.context import Context
from callboard_server.agents.errors import AgentError
from tests.support.gates import Gates
from tests.support.proxy import Proxy
from tests.support.serving import local, served

NAMES = ("launch_job", "check_job", "update_job", "cancel_job", "list_jobs")
PEER_NAMES = (
    "start_async_task",
    "check_async_task",
    "update_async_task",
    "cancel_async_task",
    "list_async_tasks",
)
UNKNOWN = "00000000-0000-4000-8000-000000000000"


async def long(ctx: Context) -> str:
    """Says much."""
    return "0123456789" * 5


async def failing(ctx: Context) -> str:
    """Fails."""
    raise AgentError("the shelf is empty")


async def asking(ctx: Context) -> str:
    """Asks a person."""
    await ctx.ask("May I?")
    return "thanks"


@pytest.fixture
async def gates() -> AsyncIterator[Gates]:
    gates = Gates()
    yield gates
    gates.close()


@pytest.fixture
async def client(gates: Gates, tmp_path: Path) -> AsyncIterator[callboard.AsyncClient]:
    async with local([*gates.agents, long, failing, asking], tmp_path / "db") as client:
        yield client


@pytest.fixture
async def tools(client: callboard.AsyncClient) -> callboard.AsyncSupervisorTools:
    return (await client.supervisor("tests/one", result_characters=20)).tools


async def tell(
    tools: callboard.AsyncSupervisorTools, name: str, call_id: str | None = None, **arguments: Any
) -> Any:
    """What a call that can be carried out comes to."""
    answer = await tools.call(name, arguments, call_id=call_id)
    assert not answer.is_error, answer
    return json.loads(answer)


async def refuse(tools: callboard.AsyncSupervisorTools, name: str, **arguments: Any) -> str:
    """What is told of a call that cannot be carried out."""
    answer = await tools.call(name, arguments)
    assert answer.is_error, answer
    return answer


class TestFormats:
    @pytest.mark.parametrize(
        ("names", "called"), [("callboard", NAMES), ("deepagents", PEER_NAMES)]
    )
    async def test_are_those_of_the_real_sdks(
        self, client: callboard.AsyncClient, names: Any, called: tuple[str, ...]
    ) -> None:
        tools = callboard.AsyncSupervisorTools(client, ["quick", "worker"], names=names)
        assert tools.names == called
        formats: list[tuple[Any, Any]] = [
            (anthropic.types.ToolParam, tools.anthropic()),
            (openai.types.responses.FunctionToolParam, tools.openai()),
            (openai.types.chat.ChatCompletionFunctionToolParam, tools.openai(api="chat")),
        ]
        for kind, made in formats:
            strict = TypeAdapter(kind)
            for tool in made:
                assert strict.validate_python(tool) == tool
                inner = tool.get("function", tool)
                schema = inner.get("input_schema") or inner["parameters"]
                Draft202012Validator.check_schema(schema)
                assert inner["description"]
            assert tuple(tool.get("function", tool)["name"] for tool in made) == called
        assert all(name in tools.prompt for name in called)

    async def test_say_what_agents_do(self, client: callboard.AsyncClient) -> None:
        tools = (await client.supervisor("tests/all")).tools
        launch = tools.anthropic()[0]
        assert "- failing: Fails." in launch["description"]
        schema: Any = launch["input_schema"]
        assert "quick" in schema["properties"]["agent"]["enum"]

    async def test_functions_are_read_as_written(
        self, tools: callboard.AsyncSupervisorTools
    ) -> None:
        launch, check, update, _, listing = tools.functions()
        assert [each.__name__ for each in tools.functions()] == list(NAMES)
        assert str(inspect.signature(check)) == "(job_id: str, offset: int = 0) -> str"
        assert get_type_hints(update)["return"] is str
        assert "Args:\n    agent: " in (launch.__doc__ or "")
        job = json.loads(await launch("quick", task="one"))
        assert job["job_id"] in await listing()
        assert "task: is required" in await launch("quick")
        with pytest.raises(TypeError, match="once each"):
            await launch("quick", "one", "two")

    @pytest.mark.parametrize("agents", [[], {}, "quick"])
    def test_need_agents(self, agents: Any) -> None:
        with pytest.raises(ValueError, match="agents: "):
            Kit(agents)

    async def test_wrong_settings_are_named(self, client: callboard.AsyncClient) -> None:
        make: Any = callboard.AsyncSupervisorTools
        with pytest.raises(ValueError, match='"callboard", "deepagents"'):
            make(client, ["quick"], names="peer")
        with pytest.raises(ValueError, match="result_characters"):
            make(client, ["quick"], result_characters=0)
        with pytest.raises(ValueError, match='"responses", "chat"'):
            make(client, ["quick"]).openai(api="completions")
        with pytest.raises(ValueError, match="name: "):
            await client.supervisor(" ")


class TestCalls:
    async def test_a_job_from_launch_to_result(
        self, tools: callboard.AsyncSupervisorTools, client: callboard.AsyncClient, gates: Gates
    ) -> None:
        launched = await tell(tools, "launch_job", agent="worker", task="one")
        job_id = launched["job_id"]
        assert "Do not call check_job" in launched["note"]
        await gates.entered("one")
        running = await tell(tools, "check_job", job_id=job_id)
        assert (running["state"], running["task"]) == ("RUNNING", "one")
        assert "not finished" in running["note"]
        updated = await tell(tools, "update_job", job_id=job_id, instructions="two")
        assert updated["job_id"] == job_id
        await gates.entered("two")
        gates.open("two")
        await client.jobs.wait(job_id)
        done = await tell(tools, "check_job", job_id=job_id)
        assert (done["state"], done["result"]) == ("SUCCEEDED", "done: two")
        assert "note" not in done

    async def test_updates_and_cancels_of_what_has_ended_say_so(
        self, tools: callboard.AsyncSupervisorTools, client: callboard.AsyncClient, gates: Gates
    ) -> None:
        job_id = (await tell(tools, "launch_job", agent="worker", task="one"))["job_id"]
        await gates.entered("one")
        await tell(tools, "cancel_job", job_id=job_id)
        await client.jobs.wait(job_id)
        again = await tell(tools, "cancel_job", job_id=job_id)
        assert again["state"] == "CANCELLED"
        assert "nothing to cancel" in again["note"]
        revived = await tell(tools, "update_job", job_id=job_id, instructions="two")
        assert revived["note"] == "It had been cancelled, and works again."
        gates.open("two")
        await client.jobs.wait(job_id)
        followed = await tell(tools, "update_job", job_id=job_id, instructions="three")
        assert followed["note"] == "It had ended as SUCCEEDED, and works again."

    async def test_failures_and_questions_are_told(
        self, tools: callboard.AsyncSupervisorTools, client: callboard.AsyncClient
    ) -> None:
        failed = (await tell(tools, "launch_job", agent="failing", task="x"))["job_id"]
        asked = (await tell(tools, "launch_job", agent="asking", task="x"))["job_id"]
        await client.jobs.wait(failed)
        told = await tell(tools, "check_job", job_id=failed)
        assert (told["state"], told["error"]) == ("FAILED", "the shelf is empty")
        async with client.jobs.watch(job_id=asked, until="done_or_action") as changes:
            async for job in changes:
                if job.state == callboard.RunState.RUN_STATE_REQUIRES_ACTION:
                    break
        told = await tell(tools, "check_job", job_id=asked)
        assert told["state"] == "REQUIRES_ACTION"
        assert "which you cannot give" in told["note"]
        told = await tell(
            tools, "update_job", job_id=asked, instructions="go on", delivery="enqueue"
        )
        assert told["note"] == "What it had asked for is still open."

    async def test_instructions_that_interrupt_withdraw_a_question(
        self, tools: callboard.AsyncSupervisorTools, client: callboard.AsyncClient
    ) -> None:
        asked = (await tell(tools, "launch_job", agent="asking", task="x"))["job_id"]
        job = await client.jobs.get(asked)
        await client.runs.wait(job.run_id)
        told = await tell(tools, "update_job", job_id=asked, instructions="go on")
        assert told["note"] == "What it had asked for is withdrawn."
        assert not [
            each async for each in client.actions.list(thread_id=asked) if each.run_id == job.run_id
        ]

    async def test_long_results_come_in_parts(
        self, tools: callboard.AsyncSupervisorTools, client: callboard.AsyncClient
    ) -> None:
        job_id = (await tell(tools, "launch_job", agent="long", task="x"))["job_id"]
        await client.jobs.wait(job_id)
        parts, offset = [], 0
        for _ in range(3):
            told = await tell(tools, "check_job", job_id=job_id, offset=offset)
            parts.append(told["result"])
            offset += len(told["result"])
        assert "".join(parts) == "0123456789" * 5
        assert told["result_cut"] == "Characters 40 to 50 of 50."
        assert (await tell(tools, "check_job", job_id=job_id, offset=90))["result"] == ""

    async def test_many_jobs_are_listed_in_parts(
        self, client: callboard.AsyncClient, gates: Gates
    ) -> None:
        tools = (await client.supervisor("tests/many")).tools
        calls = (tools.call("launch_job", {"agent": "worker", "task": str(n)}) for n in range(200))
        launched = [json.loads(answer)["job_id"] for answer in await asyncio.gather(*calls)]
        assert len(set(launched)) == 200
        seen: list[str] = []
        for offset in range(0, 200, 50):
            told = await tell(tools, "list_jobs", offset=offset)
            assert told["count"] == 200
            assert ("note" in told) == (offset < 150)
            seen += [job["job_id"] for job in told["jobs"]]
        assert sorted(seen) == sorted(launched)
        assert (await tell(tools, "list_jobs", state="finished"))["count"] == 0
        gates.close()

    async def test_a_call_that_is_repeated_has_its_effect_once(
        self, client: callboard.AsyncClient, gates: Gates
    ) -> None:
        """As by a supervisor that was killed before it had the answer, and starts anew."""
        jobs = []
        for _ in range(2):
            tools = (await client.supervisor("tests/killed")).tools
            job = await tell(tools, "launch_job", "call_0", agent="worker", task="one")
            await tell(tools, "update_job", "call_1", job_id=job["job_id"], instructions="two")
            jobs.append(job["job_id"])
        assert jobs[0] == jobs[1]
        assert (await client.jobs.get(jobs[0])).run_count == 2
        # Some models count their calls from 0 in each turn.
        other = await tell(tools, "launch_job", "call_0", agent="worker", task="another")
        assert other["job_id"] != jobs[0]
        assert (await tell(tools, "list_jobs"))["count"] == 2

    async def test_two_supervisors_of_one_home_share_its_jobs(
        self, client: callboard.AsyncClient
    ) -> None:
        first, second = await asyncio.gather(*(client.supervisor("tests/both") for _ in range(2)))
        assert first.thread_id == second.thread_id
        job_id = (await tell(first.tools, "launch_job", agent="quick", task="x"))["job_id"]
        assert (await tell(second.tools, "check_job", job_id=job_id))["task"] == "x"
        thread = await client.threads.get(first.thread_id)
        assert callboard.to_dict(thread.metadata) == {"supervisor": "tests/both"}

    async def test_without_a_home_all_jobs_are_there(self, client: callboard.AsyncClient) -> None:
        tools = callboard.AsyncSupervisorTools(client, ["quick"])
        mine = (await tell(tools, "launch_job", agent="quick", task="x"))["job_id"]
        other = (await client.jobs.launch("quick", "y")).job_id
        listed = [job["job_id"] for job in (await tell(tools, "list_jobs"))["jobs"]]
        assert listed == [mine, other]

    async def test_in_the_words_of_the_peer(self, client: callboard.AsyncClient) -> None:
        tools = (await client.supervisor("tests/peer", ["quick"], names="deepagents")).tools
        job = await tell(tools, "start_async_task", subagent_type="quick", description="x")
        assert "check_async_task" in job["note"]
        await client.jobs.wait(job["task_id"])
        told = await tell(tools, "check_async_task", task_id=job["task_id"])
        assert (told["status"], told["result"]) == ("success", "done: x")
        listed = await tell(tools, "list_async_tasks", status_filter="success")
        assert listed["count"] == 1
        assert (await tell(tools, "list_async_tasks", status_filter="error"))["count"] == 0


class TestRefusals:
    async def test_unknown_ids_get_those_that_exist(
        self, tools: callboard.AsyncSupervisorTools
    ) -> None:
        assert "launch_job starts one" in await refuse(tools, "check_job", job_id=UNKNOWN)
        job_id = (await tell(tools, "launch_job", agent="quick", task="x"))["job_id"]
        for name, more in (
            ("check_job", {}),
            ("update_job", {"instructions": "x"}),
            ("cancel_job", {}),
        ):
            told = await refuse(tools, name, job_id=UNKNOWN, **more)
            assert f"- {job_id} (quick, " in told
            for wrong in (job_id[:8], f"{job_id[:8]}...", f"`{job_id[:13]}`", job_id.upper()):
                told = await refuse(tools, name, job_id=wrong, **more)
                assert f"did you mean {job_id}?" in told
        assert await tell(tools, "check_job", job_id=f" {job_id}\n")
        assert "- " in await refuse(tools, "check_job", job_id="x" * 10_000)

    async def test_jobs_of_others_are_unknown(
        self, tools: callboard.AsyncSupervisorTools, client: callboard.AsyncClient, gates: Gates
    ) -> None:
        other = (await client.supervisor("tests/other")).tools
        job_id = (await tell(other, "launch_job", agent="worker", task="secret"))["job_id"]
        await gates.entered("secret")
        for name, more in (
            ("check_job", {}),
            ("update_job", {"instructions": "x"}),
            ("cancel_job", {}),
        ):
            for written in (job_id, job_id[:8]):
                told = await refuse(tools, name, job_id=written, **more)
                assert told.startswith("There is no job ")
                assert "none at all yet" in told
        job = await client.jobs.get(job_id)
        assert (job.state, job.run_count) == (callboard.RunState.RUN_STATE_RUNNING, 1)

    @pytest.mark.parametrize(
        ("name", "arguments", "told"),
        [
            ("start_job", {}, "no tool 'start_job'; there are: launch_job, check_job"),
            ("launch_job", {"agent": "quick"}, "task: is required"),
            ("launch_job", {"agent": "nobody", "task": "x"}, "'nobody' is not one of: "),
            ("launch_job", {"agent": "quick", "task": " "}, "task: must not be empty"),
            ("launch_job", {"agent": "quick", "task": 3}, "task: must be text, not a number"),
            ("launch_job", {"agent": "quick", "task": "\ud800"}, "half of a pair"),
            ("launch_job", {"agent": "quick", "task": "x", "to": 1}, "known are: agent, task"),
            ("check_job", {"id": "x"}, "job_id: is required"),
            ("check_job", {"job_id": "x", "offset": -1}, "must be a whole number from 0 on"),
            ("check_job", {"job_id": "x", "offset": True}, "must be a whole number from 0 on"),
            ("update_job", {"job_id": "x", "instructions": None}, "instructions: is required"),
            ("update_job", {"job_id": "x", "instructions": ["y"]}, "must be text, not a list"),
            ("list_jobs", {"state": "done"}, "'done' is not one of: all, active, finished"),
            ("list_jobs", "[]", "The arguments are a list. Write one JSON object."),
            ("list_jobs", [], "The arguments are a list. Write one JSON object."),
            ("list_jobs", 3, "The arguments are a number. Write one JSON object."),
            ("list_jobs", False, "The arguments are a boolean. Write one JSON object."),
            ("list_jobs", b"{}", "The arguments are of the type bytes. Write one JSON object."),
            ("list_jobs", "null", "The arguments are null. Write one JSON object."),
            ("list_jobs", "{", "not JSON"),
            ("list_jobs", "[" * 100_000, "not JSON"),
            ("launch_job", r'{"agent": "quick", "task": "\ud800"}', "half of a pair"),
        ],
    )
    async def test_bad_calls_are_told_what_would_be_right(
        self, tools: callboard.AsyncSupervisorTools, name: str, arguments: Any, told: str
    ) -> None:
        answer = await tools.call(name, arguments)
        assert answer.is_error
        assert told in answer

    async def test_what_may_be_left_out_may(self, tools: callboard.AsyncSupervisorTools) -> None:
        for arguments in (None, "", "{}", {}, {"state": None, "offset": None}):
            assert json.loads(await tools.call("list_jobs", arguments))["count"] == 0

    async def test_agents_that_are_gone(self, client: callboard.AsyncClient) -> None:
        tools = callboard.AsyncSupervisorTools(client, ["quick", "renamed"])
        told = await refuse(tools, "launch_job", agent="renamed", task="x")
        assert told == "The server has no agent 'renamed' any more. Of yours there are: quick."
        alone = callboard.AsyncSupervisorTools(client, ["renamed"])
        assert "None of yours" in await refuse(alone, "launch_job", agent="renamed", task="x")

    async def test_a_job_whose_agent_is_gone(self, tmp_path: Path, gates: Gates) -> None:
        async with local([gates.quick], tmp_path / "db") as client:
            tools = (await client.supervisor("tests/gone")).tools
            job_id = (await tell(tools, "launch_job", agent="quick", task="x"))["job_id"]
            await client.jobs.wait(job_id)
        async with local([gates.worker], tmp_path / "db") as client:
            tools = (await client.supervisor("tests/gone")).tools
            assert (await tell(tools, "check_job", job_id=job_id))["result"] == "done: x"
            told = await refuse(tools, "update_job", job_id=job_id, instructions="y")
            assert "Its agent cannot work on it any more" in told
            assert "nothing to cancel" in (await tell(tools, "cancel_job", job_id=job_id))["note"]

    async def test_texts_that_are_too_long(self, tools: callboard.AsyncSupervisorTools) -> None:
        told = await refuse(tools, "launch_job", agent="quick", task="x" * 2_000_000)
        assert "task: " in told

    @given(
        name=st.sampled_from(NAMES) | st.text(),
        arguments=st.text()
        | st.dictionaries(
            st.sampled_from(["agent", "task", "job_id", "state", "offset"]) | st.text(),
            st.none() | st.booleans() | st.integers() | st.text() | st.lists(st.text()),
        ),
    )
    def test_whatever_is_written_is_read_or_refused(self, name: str, arguments: Any) -> None:
        kit = Kit(["quick"])
        try:
            call = kit.read(name, arguments)
        except Refused as refused:
            refused.text.encode()
        else:
            schema = kit.tools[name].schema
            given = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
            told = {key: value for key, value in given.items() if value is not None}
            Draft202012Validator(schema).validate(told)
            assert set(call.arguments) == {each.key for each in kit.tools[name].parameters}


class TestWithoutAServer:
    async def test_what_was_known_is_told_as_stale(self, tmp_path: Path, gates: Gates) -> None:
        async with served(gates.agents, tmp_path / "db") as server:
            proxy = Proxy(server.port)
            target = f"127.0.0.1:{await proxy.open()}"
            async with callboard.AsyncClient(target) as client:
                # Made as one that is patient, so that a slow machine is no server that is away.
                tools = (await client.supervisor("tests/away")).tools
                job_id = (await tell(tools, "launch_job", agent="worker", task="x"))["job_id"]
                await gates.entered("x")
                assert (await tell(tools, "check_job", job_id=job_id))["state"] == "RUNNING"
                await proxy.close()
                tools._jobs = client.with_timeout(0.2).jobs
                await self._check_answers(tools, job_id)

    async def _check_answers(self, tools: callboard.AsyncSupervisorTools, job_id: str) -> None:
        told = await tell(tools, "check_job", job_id=job_id)
        assert (told["state"], told["stale"]) == ("RUNNING", True)
        assert told["seen_seconds_ago"] >= 0
        assert "does not answer" in told["note"]
        listed = await tell(tools, "list_jobs")
        assert listed["stale"]
        assert [job["job_id"] for job in listed["jobs"]] == [job_id]
        told = await refuse(tools, "launch_job", agent="quick", task="x")
        assert "not known whether this was done" in told
        assert "look with list_jobs" in told
        for name, more in (("update_job", {"instructions": "y"}), ("cancel_job", {})):
            assert "look with check_job" in await refuse(tools, name, job_id=job_id, **more)
        told = await refuse(tools, "check_job", job_id=UNKNOWN)
        assert "nothing is known from before" in told


class TestSync:
    def test_is_the_same_without_await(self) -> None:
        with callboard.local_sync({"long": long}) as client:
            tools = client.supervisor("tests/sync").tools
            assert tools.names == NAMES
            answer = tools.call("launch_job", {"agent": "long", "task": "x"}, call_id="1")
            job_id = json.loads(answer)["job_id"]
            client.jobs.wait(job_id)
            check = tools.functions()[1]
            assert json.loads(check(job_id))["result"] == "0123456789" * 5
            assert tools.call("check_job", {"job_id": "x"}).is_error
