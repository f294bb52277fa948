"""What a run is configured with: its assistant's pinned version, its own request, nothing else."""

from __future__ import annotations

import asyncio
import json
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from callboard import (
    AsyncClient,
    InvalidArgument,
    Job,
    Run,
    RunState,
    text_of,
)
from callboard.v1.error_pb2 import ErrorReason
from callboard_server import AgentError, Context
from callboard_server.agents.loading import load
from callboard_server.agents.registry import Registry
from callboard_server.config import ConfigError, ServerConfig
from callboard_server.store.base import AssistantRow, Reader
from tests.support.gates import PATIENCE, Gates
from tests.support.serving import local, log_of, served, tuned

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED, TIMED_OUT = RunState.RUN_STATE_CANCELLED, RunState.RUN_STATE_TIMED_OUT


async def teller(ctx: Context) -> dict[str, object]:
    """Tells what it was given."""
    return {"name": ctx.author, "config": ctx.config, "instructions": ctx.instructions}


async def asker(ctx: Context) -> dict[str, object]:
    """Asks, and then tells what it was given."""
    await ctx.ask("Go on?")
    return await teller(ctx)


async def ended(client: AsyncClient, run: Run) -> Run:
    return await client.runs.wait(run.run_id, until="done", timeout=PATIENCE)


async def told(client: AsyncClient, run: Run) -> dict[str, Any]:
    """Waits for a run of the teller, and returns what it told."""
    run = await ended(client, run)
    assert run.state == SUCCEEDED, run.outcome.error
    answer: dict[str, Any] = json.loads(text_of(run.outcome.result))
    return answer


# One thread, several assistants


async def test_runs_of_two_assistants_on_one_thread_have_their_own_configuration(
    tmp_path: Path, gates: Gates
) -> None:
    agents = [teller, gates.worker]
    async with local(agents, tmp_path / "jobs.db") as client:
        ada = await client.assistants.create("teller", name="Ada", config={"model": "a", "x": 1})
        bob = await client.assistants.create("teller", name="Bob", config={"model": "b"})
        thread = (await client.threads.create()).thread_id
        await client.runs.create("worker", "first", thread_id=thread)
        # All of these are in line at the same time.
        wanted = [
            (ada.assistant_id, None, "", "Ada", {"model": "a", "x": 1}),
            (bob.assistant_id, {"y": 2}, "be brief", "Bob", {"model": "b", "y": 2}),
            (ada.assistant_id, {"model": "c", "x": None}, "", "Ada", {"model": "c", "x": None}),
            ("teller", {"z": [3]}, "", "teller", {"z": [3]}),
            (bob.assistant_id, None, "", "Bob", {"model": "b"}),
            ("teller", None, "", "teller", {}),
            (ada.assistant_id, None, "be kind", "Ada", {"model": "a", "x": 1}),
            (ada.assistant_id, {"model": {"deep": 1}}, "", "Ada", {"model": {"deep": 1}, "x": 1}),
        ]
        runs = [
            await client.runs.create(
                assistant,
                "go",
                thread_id=thread,
                config=config,
                additional_instructions=instructions,
            )
            for assistant, config, instructions, *_ in wanted
        ]
        gates.open("first")
        for run, (_, _, instructions, name, config) in zip(runs, wanted, strict=True):
            answer = {"name": name, "config": config, "instructions": instructions}
            assert await told(client, run) == answer
        assert (await client.threads.get(thread)).current_assistant_id
    async with local(agents, tmp_path / "jobs.db") as client:
        for assistant, config, instructions, name, effective in reversed(wanted):
            run = await client.runs.create(
                assistant,
                "go",
                thread_id=thread,
                config=config,
                additional_instructions=instructions,
            )
            answer = {"name": name, "config": effective, "instructions": instructions}
            assert await told(client, run) == answer


async def test_what_one_run_does_to_its_configuration_is_its_own(tmp_path: Path) -> None:
    async def spoiler(ctx: Context) -> dict[str, object]:
        before = json.loads(json.dumps(ctx.config))
        ctx.config["model"] = "spoiled"
        deep = ctx.config["deep"]
        assert isinstance(deep, dict)
        deep["spoiled"] = True
        return {"config": before}

    async with local([spoiler], tmp_path / "jobs.db") as client:
        config = {"model": "a", "deep": {"n": 1}}
        assistant = await client.assistants.create("spoiler", config=config)
        for _ in range(3):
            run = await client.runs.create(assistant.assistant_id, "go")
            assert (await told(client, run))["config"] == config


async def test_instructions_of_a_run_are_gone_with_it(tmp_path: Path) -> None:
    async with local([teller], tmp_path / "jobs.db") as client:
        first = await client.runs.create("teller", "go", additional_instructions="whisper")
        assert (await told(client, first))["instructions"] == "whisper"
        for strategy in ("enqueue", "interrupt", "rollback", "steer", "concurrent"):
            later = await client.runs.create(
                "teller", "go", thread_id=first.thread_id, multitask_strategy=strategy
            )
            assert (await told(client, later))["instructions"] == ""
        assert later.additional_instructions == ""


async def test_a_job_keeps_the_configuration_that_it_was_launched_with(tmp_path: Path) -> None:
    async with local([teller], tmp_path / "jobs.db") as client:
        ada = await client.assistants.create("teller", name="Ada", config={"a": 1, "b": 1})
        job = await client.jobs.launch(ada.assistant_id, "go", config={"b": 2})
        await client.assistants.update(ada.assistant_id, name="Bob", config={"a": 3})
        for instructions in ("more", "and more"):
            [job] = await client.jobs.wait(job.job_id)
            assert _answer(job) == {"name": "Ada", "config": {"a": 1, "b": 2}, "instructions": ""}
            job = await client.jobs.update(job.job_id, instructions)
        [job] = await client.jobs.wait(job.job_id)
        again = await client.jobs.launch(ada.assistant_id, "go")
        [again] = await client.jobs.wait(again.job_id)
        assert _answer(again) == {"name": "Bob", "config": {"a": 3}, "instructions": ""}


def _answer(job: Job) -> object:
    return json.loads(text_of(job.outcome.result))


# Versions are pinned


async def test_runs_in_line_keep_the_version_that_they_were_created_with(
    tmp_path: Path, gates: Gates
) -> None:
    async with local([teller, gates.worker], tmp_path / "jobs.db") as client:
        assistant = await client.assistants.create("teller", name="v1", config={"v": 1})
        assistant_id = assistant.assistant_id
        before = await client.runs.create("worker", "wait")
        runs = []

        async def add() -> None:
            runs.append(await client.runs.create(assistant_id, "go", thread_id=before.thread_id))

        await add()
        await client.assistants.update(assistant_id, name="v2", config={"v": 2})
        await add()
        await client.assistants.set_current_version(assistant_id, 1)
        await add()
        await client.assistants.update(assistant_id, name="v3", config={"v": 3})
        await add()
        await client.assistants.delete(assistant_id)
        gates.open("wait")
        assert [run.assistant_version for run in runs] == [1, 2, 1, 3]
        for run in runs:
            version = run.assistant_version
            answer = await told(client, run)
            assert (answer["name"], answer["config"]) == (f"v{version}", {"v": version})


async def test_a_run_that_waits_keeps_its_version_over_restarts_also_if_that_was_deleted(
    tmp_path: Path,
) -> None:
    db = tmp_path / "jobs.db"
    async with served([asker], db) as server:
        client = server.client
        assistant = await client.assistants.create("asker", name="v1", config={"v": 1})
        await client.assistants.update(assistant.assistant_id, config={"v": 2})
        run = await client.runs.create(assistant.assistant_id, "go")
        await client.runs.wait(run.run_id, timeout=PATIENCE)
        await client.assistants.update(assistant.assistant_id, name="v3", config={"v": 3})
        await client.assistants.delete(assistant.assistant_id)
    async with served([asker], db) as server:
        client, store = server.client, server.app.engine.store
        await store.write(lambda tx: tx.forget_assistants())
        [action] = [each async for each in client.actions.list(run.thread_id)]
        await client.actions.answer(action, "yes")
        answer = await told(client, run)
        assert (answer["name"], answer["config"]) == ("v1", {"v": 2})
        # Nobody needs the versions any more.
        await store.write(lambda tx: tx.forget_assistants())
        tenant = (await store.read(lambda reader: reader.session(1))).tenant
        for version in (None, 1, 2, 3):
            find = partial(
                _assistant, tenant=tenant, assistant_id=assistant.assistant_id, version=version
            )
            assert await store.read(find) is None


def _assistant(
    reader: Reader, tenant: str, assistant_id: str, version: int | None
) -> AssistantRow | None:
    return reader.assistant(tenant, assistant_id, version)


async def test_another_attempt_has_the_same_version(tmp_path: Path) -> None:
    failed = asyncio.Event()
    changed = asyncio.Event()

    async def flaky(ctx: Context) -> dict[str, object]:
        if ctx.run.attempt == 1:
            failed.set()
            await changed.wait()
            raise ConnectionError
        return await teller(ctx)

    async with tuned([flaky], tmp_path / "jobs.db") as client:
        assistant = await client.assistants.create("flaky", name="v1", config={"v": 1})
        run = await client.runs.create(
            assistant.assistant_id, "go", config={"r": 1}, additional_instructions="whisper"
        )
        await failed.wait()
        await client.assistants.update(assistant.assistant_id, name="v2", config={"v": 2})
        changed.set()
        expected = {"name": "v1", "config": {"v": 1, "r": 1}, "instructions": "whisper"}
        assert await told(client, run) == expected


# What fits is known before anything is written


class Greeting(BaseModel, extra="forbid"):
    word: str
    times: int = 1


@asynccontextmanager
async def greeter(config: Greeting) -> AsyncIterator[object]:
    async def greet(ctx: Context) -> str:
        return " ".join([config.word] * config.times)

    yield greet


async def test_a_run_whose_configuration_would_not_fit_is_refused(tmp_path: Path) -> None:
    async with served([greeter], tmp_path / "jobs.db") as server:
        client = server.client
        assistant = await client.assistants.create("greeter", config={"word": "hi"})
        thread = (await client.threads.create()).thread_id
        head = len(await log_of(client, thread))

        async def problems(assistant_id: str, config: dict[str, Any]) -> Sequence[list[str]]:
            """How it is refused, in each of the ways to begin a run."""
            found = []
            stream = client.runs.stream(assistant_id, "go", thread_id=thread, config=config)
            for call in (
                client.runs.create(assistant_id, "go", thread_id=thread, config=config),
                anext(aiter(stream)),
                client.jobs.launch(assistant_id, "go", parent_thread_id=thread, config=config),
            ):
                with pytest.raises(InvalidArgument) as caught:
                    await call
                assert caught.value.reason == "FIELD_INVALID"
                violations = caught.value.field_violations
                found.append([f"{each.field}: {each.description}" for each in violations])
            return found

        for assistant_id, config, problem in (
            ("greeter", {}, "config.word: is required"),
            ("greeter", {"times": 2}, "config.word: is required"),
            (
                assistant.assistant_id,
                {"times": "x"},
                "config.times: must be a whole number, not text",
            ),
            (assistant.assistant_id, {"word": None}, "config.word: must be text, not null"),
            (assistant.assistant_id, {"tims": 2}, "config.tims: is not known; did you mean times?"),
        ):
            assert await problems(assistant_id, config) == [
                [problem],
                [f"run.{problem}"],
                [problem],
            ]
        assert len(await log_of(client, thread)) == head
        for assistant_id, config, text in (
            (assistant.assistant_id, {"times": 2}, "hi hi"),
            (assistant.assistant_id, {}, "hi"),
            ("greeter", {"word": "ho"}, "ho"),
        ):
            run = await client.runs.create(assistant_id, "go", config=config)
            assert text_of((await ended(client, run)).outcome.result) == text


async def test_an_assistant_that_no_longer_fits_is_told_apart_from_the_request(
    tmp_path: Path, gates: Gates
) -> None:
    db = tmp_path / "jobs.db"
    async with local({"greeter": gates.worker}, db) as client:
        assistant = await client.assistants.create("greeter", config={"word": 1, "old": True})
        run = await client.runs.create(assistant.assistant_id, "go")
        await gates.entered("go")
    async with local({"greeter": greeter}, db) as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.runs.create(assistant.assistant_id, "go", config={"times": "x"})
        found = {each.field: each.description for each in caught.value.field_violations}
        assert found == {
            "config.times": "must be a whole number, not text",
            "config.word": "must be text, not 1 (in version 1 of the assistant)",
            "config.old": "is not known; known are: word, times (in version 1 of the assistant)",
        }
        # This one was let in when all was well.
        run = await ended(client, run)
        error = run.outcome.error
        assert (run.state, error.reason) == (FAILED, ErrorReason.ERROR_REASON_CONFIG_INVALID)
        assert "word: must be text, not 1" in error.message
        assert "old: is not known" in error.message


# Factories


CODE = """
from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Callable

from pydantic import BaseModel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


class Settings(BaseModel):
    word: {type}


@asynccontextmanager
async def agent(settings: Settings) -> AsyncIterator[object]:
    async def run(ctx):
        return settings.word

    yield run
"""


def load_code(folder: Path, code: str) -> Registry:
    """Registers what stands in a file, as a server does. Each file has a module of its own."""
    module = f"factory_{uuid.uuid4().hex}.py"
    (folder / module).write_text(code)
    settings = {"agents": {"made": {"entrypoint": f"{module}:agent"}}}
    return load(ServerConfig.model_validate(settings), folder)


def test_types_for_checkers_alone_do_not_hide_a_factorys_configuration(tmp_path: Path) -> None:
    [spec] = load_code(tmp_path, CODE.format(type="str"))
    assert spec.config_schema["required"] == ["word"]


def test_a_configuration_without_a_schema_is_told_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="takes Settings, which has no JSON Schema"):
        load_code(tmp_path, CODE.format(type="Callable[[], str]"))


class Resource:
    """A factory that tells when it is opened and closed."""

    def __init__(self, gates: Gates) -> None:
        self._gates = gates
        self.told: list[str] = []
        self.closed = asyncio.Event()

    @property
    def agents(self) -> dict[str, object]:
        return {"opened": self.factory(self._work)}

    def factory(self, work: Any) -> object:
        @asynccontextmanager
        async def opened(config: dict[str, object]) -> AsyncIterator[object]:
            self.told.append(f"open {config.get('n')}")
            try:
                yield work
            finally:
                self.told.append(f"close {config.get('n')}")
                self.closed.set()

        return opened

    async def _work(self, ctx: Context) -> str:
        text = await ctx.input()
        if text == "fail":
            raise AgentError("No.")
        if text == "ask":
            return str(await ctx.ask("How?"))
        if text == "crash" and ctx.run.attempt == 1:
            raise ConnectionError
        if text == "return":
            return "done"
        return await self._gates.worker(ctx)


@pytest.fixture
def resource(gates: Gates) -> Resource:
    return Resource(gates)


async def test_a_factory_is_opened_for_each_run_with_what_holds_for_it(
    tmp_path: Path, resource: Resource
) -> None:
    async with local(resource.agents, tmp_path / "jobs.db") as client:
        assistant = await client.assistants.create("opened", config={"n": 1})
        for config in (None, {"n": 2}, None):
            run = await client.runs.create(assistant.assistant_id, "return", config=config)
            assert (await ended(client, run)).state == SUCCEEDED
        run = await ended(client, await client.runs.create("opened", "fail"))
        assert (run.state, run.outcome.error.message) == (FAILED, "No.")
    pairs = [(f"open {n}", f"close {n}") for n in (1, 2, 1, None)]
    assert resource.told == [word for pair in pairs for word in pair]


@pytest.mark.parametrize("way", ["cancel", "interrupt", "timeout", "drain"])
async def test_a_factory_is_closed_when_its_run_is_stopped(
    tmp_path: Path, gates: Gates, resource: Resource, way: str
) -> None:
    async with local(resource.agents, tmp_path / "jobs.db") as client:
        timeout = 0.05 if way == "timeout" else None
        run = await client.runs.create("opened", "hold", config={"n": 1}, timeout=timeout)
        await gates.entered("hold")
        if way == "cancel":
            await client.runs.cancel(run.run_id)
        elif way == "interrupt":
            await client.runs.create(
                "opened", "return", thread_id=run.thread_id, multitask_strategy="interrupt"
            )
        if way != "drain":
            assert (await ended(client, run)).state != SUCCEEDED
            async with asyncio.timeout(PATIENCE):
                await resource.closed.wait()
    assert resource.told[:2] == ["open 1", "close 1"]


async def test_a_factory_stays_open_while_its_run_waits_and_opens_anew_after_a_restart(
    tmp_path: Path, resource: Resource
) -> None:
    db = tmp_path / "jobs.db"
    async with local(resource.agents, db) as client:
        runs = [await client.runs.create("opened", "ask", config={"n": n}) for n in (1, 2)]
        for run in runs:
            await client.runs.wait(run.run_id, timeout=PATIENCE)
        assert sorted(resource.told) == ["open 1", "open 2"]
        await _answer_all(client, runs[0])
        assert (await ended(client, runs[0])).state == SUCCEEDED
        assert sorted(resource.told) == ["close 1", "open 1", "open 2"]
    assert sorted(resource.told) == ["close 1", "close 2", "open 1", "open 2"]
    async with local(resource.agents, db) as client:
        await _answer_all(client, runs[1])
        assert (await ended(client, runs[1])).state == SUCCEEDED
    assert resource.told[-2:] == ["open 2", "close 2"]


async def _answer_all(client: AsyncClient, run: Run) -> None:
    async for action in client.actions.list(run.thread_id):
        await client.actions.answer(action, "well")


async def test_a_factory_is_opened_anew_for_another_attempt(
    tmp_path: Path, gates: Gates, resource: Resource
) -> None:
    async with tuned(resource.agents, tmp_path / "jobs.db") as client:
        run = await client.runs.create("opened", "crash", config={"n": 1})
        await gates.entered("crash")
        gates.open("crash")
        assert (await ended(client, run)).state == SUCCEEDED
    assert resource.told == ["open 1", "close 1"] * 2
