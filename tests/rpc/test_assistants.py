"""AssistantService: versions, what is written and refused, deletion, lists."""

from __future__ import annotations

import asyncio
import copy
import uuid
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.struct_pb2 import Struct
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ConfigDict, PositiveInt

from callboard import (
    AlreadyExists,
    AsyncClient,
    CallboardError,
    Conflict,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    to_dict,
)
from callboard.structs import to_struct
from callboard.v1.assistant_pb2 import (
    Assistant,
    CreateAssistantRequest,
    ListAssistantsRequest,
    ListAssistantVersionsRequest,
    UpdateAssistantRequest,
)
from callboard_server import Context
from callboard_server.engine.assistants import default_id
from callboard_server.log.events import EVENT_BYTES
from callboard_server.services.masks import masked
from callboard_server.services.validation import STRUCT_DEPTH
from tests.rpc.refusals import refusal_of
from tests.support.serving import Served, served

UNKNOWN = str(uuid.UUID(int=7))


class Tone(BaseModel):
    model_config = ConfigDict(extra="forbid")

    loud: bool
    words: list[str] = []


class Settings(BaseModel):
    """What a singer is told."""

    model_config = ConfigDict(extra="forbid")

    song: str = "Halleluja"
    times: PositiveInt | None = None
    tone: Tone | None = None


@asynccontextmanager
async def singer(config: Settings) -> AsyncIterator[object]:
    """Sings."""

    async def sing(ctx: Context) -> str:
        return " ".join([config.song] * (config.times or 1))

    yield sing


async def talker(ctx: Context) -> str:
    """Takes any configuration."""
    return "hm"


AGENTS = [singer, talker]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    async with served(AGENTS, tmp_path / "jobs.db") as server:
        yield server


@pytest.fixture
def client(server: Served) -> AsyncClient:
    return server.client


def content(assistant: Assistant) -> tuple[str, str, dict[str, Any], dict[str, Any]]:
    """What of an assistant is versioned."""
    config, metadata = to_dict(assistant.config), to_dict(assistant.metadata)
    return assistant.name, assistant.description, config, metadata


async def versions(client: AsyncClient, assistant: Assistant) -> list[Assistant]:
    return [each async for each in client.assistants.versions(assistant.assistant_id)]


async def refused(
    call: Awaitable[object], error: type[CallboardError], reason: str
) -> CallboardError:
    with pytest.raises(error) as caught:
        await call
    assert caught.value.reason == reason
    return caught.value


# Versions


async def test_an_update_makes_a_version_and_the_others_stay(client: AsyncClient) -> None:
    first = await client.assistants.create(
        "talker", name="Ada", description="Talks.", config={"a": 1}, metadata={"team": "x"}
    )
    assert (first.version, first.default) == (1, False)
    second = await client.assistants.update(first.assistant_id, name="Bob", config={"b": [2]})
    third = await client.assistants.update(
        first.assistant_id, description="", metadata={"team": "y"}
    )
    assert content(second) == ("Bob", "Talks.", {"b": [2]}, {"team": "x"})
    assert content(third) == ("Bob", "", {"b": [2]}, {"team": "y"})
    assert [second.version, third.version] == [2, 3]
    assert await versions(client, first) == [third, second, first]
    assert await client.assistants.get(first.assistant_id) == third
    for each in (first, second, third):
        assert await client.assistants.get(first.assistant_id, version=each.version) == each
        assert each.create_time == first.create_time
    assert len({each.etag for each in (first, second, third)}) == 3
    times = [each.update_time.ToNanoseconds() for each in (first, second, third)]
    assert times == sorted(set(times))


async def test_an_update_that_changes_nothing_makes_no_version(client: AsyncClient) -> None:
    first = await client.assistants.create("talker", config={"a": 1}, metadata={"m": {}})
    assistant_id = first.assistant_id
    same: list[dict[str, Any]] = [
        {"name": "talker"},
        {"name": ""},
        {"config": {"a": 1}, "metadata": {"m": {}}},
        {"config": {"a": 1, "b": 2}, "update_mask": ["config.a"]},
        {"update_mask": ["config.b", "metadata.n.o"]},
        {"name": "ignored", "update_mask": ["description"]},
    ]
    for each in same:
        assert await client.assistants.update(assistant_id, **each) == first
    # 1 and true are alike to Python only.
    assert (await client.assistants.update(assistant_id, config={"a": True})).version == 2


async def test_a_mask_changes_single_keys(client: AsyncClient) -> None:
    before = {"keep": 1, "drop": 2, "deep": {"keep": 3, "drop": 4}, "flat": 5}
    assistant = await client.assistants.create("talker", config=before, metadata={"a": 1})
    changed = await client.assistants.update(
        assistant.assistant_id,
        name="ignored",
        config={"new": [1], "deep": {"new": None}, "flat": {"now": "deep"}, "ignored": 1},
        metadata={"b": 2},
        update_mask=[
            "config.new",
            "config.drop",
            "config.deep.new",
            "config.deep.drop",
            "config.flat.now",
            "config.far.away.gone",
            "metadata.a",
            "metadata.b",
        ],
    )
    after = {"keep": 1, "new": [1], "deep": {"keep": 3, "new": None}, "flat": {"now": "deep"}}
    assert content(changed) == ("talker", "", after, {"b": 2})
    assert content((await versions(client, assistant))[1])[2] == before


keys = st.sampled_from("abc")
values = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
objects = st.dictionaries(keys, values, max_size=3)


@given(objects, objects, st.lists(st.lists(keys, min_size=1, max_size=3), min_size=1, max_size=4))
def test_masks_change_what_they_name_and_nothing_else(
    before: dict[str, Any], given_: dict[str, Any], paths: list[list[str]]
) -> None:
    expected = copy.deepcopy(before)
    for path in paths:
        _expect(expected, given_, path)
    source = Assistant(config=to_struct(given_))
    target = Assistant(agent="a", name="n", config=to_struct(before))
    changed = masked(target, source, [".".join(["config", *path]) for path in paths])
    assert changed.config == to_struct(expected)
    # What it was made from is as it was.
    assert (source.config, target.config) == (to_struct(given_), to_struct(before))


def _expect(target: dict[str, Any], source: Any, path: list[str]) -> None:
    """Does to a dict what a path of a mask asks for."""
    for key in path:
        source = source.get(key, ...) if isinstance(source, dict) else ...
    *parents, last = path
    for key in parents:
        if source is ... and not isinstance(target.get(key), dict):
            return
        if not isinstance(target.get(key), dict):
            target[key] = {}
        target = target[key]
    if source is ...:
        target.pop(last, None)
    else:
        target[last] = copy.deepcopy(source)


async def test_going_back_restores_all_and_the_next_update_goes_on_from_there(
    client: AsyncClient,
) -> None:
    first = await client.assistants.create(
        "talker", name="Ada", description="one", config={"n": 1}, metadata={"team": "x"}
    )
    assistant_id = first.assistant_id
    second = await client.assistants.update(
        assistant_id, name="Bob", description="two", config={"m": 2}, metadata={"team": "y"}
    )
    for _ in range(2):
        assert await client.assistants.set_current_version(assistant_id, 1) == first
        assert await client.assistants.get(assistant_id) == first
    assert [each.version for each in await versions(client, first)] == [2, 1]
    listed = [each async for each in client.assistants.list(metadata={"team": "x"})]
    assert listed == [first]
    assert [each async for each in client.assistants.list(metadata={"team": "y"})] == []
    third = await client.assistants.update(assistant_id, name="Cy")
    assert (third.version, *content(third)) == (3, "Cy", "one", {"n": 1}, {"team": "x"})
    assert await client.assistants.set_current_version(assistant_id, 2) == second


async def test_a_version_that_there_is_not(client: AsyncClient) -> None:
    assistant = await client.assistants.create("talker")
    await client.assistants.update(assistant.assistant_id, name="new")
    for reference, version, latest in ((assistant.assistant_id, 3, "2"), ("talker", 2, "1")):
        error = await refused(
            client.assistants.get(reference, version=version),
            NotFound,
            "ASSISTANT_VERSION_NOT_FOUND",
        )
        assert error.metadata == {"latest": latest}
    setting = client.assistants.set_current_version(assistant.assistant_id, 3)
    error = await refused(setting, NotFound, "ASSISTANT_VERSION_NOT_FOUND")
    assert error.metadata == {"latest": "2"}


# Preconditions


async def test_an_etag_that_is_not_the_current_one_is_refused(client: AsyncClient) -> None:
    first = await client.assistants.create("talker")
    assistant_id, old = first.assistant_id, first.etag
    second = await client.assistants.update(assistant_id, name="new", etag=old)
    for change in (
        client.assistants.update(assistant_id, name="newer", etag=old),
        client.assistants.set_current_version(assistant_id, 1, etag=old),
        client.assistants.delete(assistant_id, etag=old),
    ):
        await refused(change, Conflict, "ETAG_MISMATCH")
    assert await client.assistants.get(assistant_id) == second
    again = await client.assistants.set_current_version(assistant_id, 1, etag=second.etag)
    await client.assistants.delete(assistant_id, etag=again.etag)


async def test_of_updates_at_once_with_one_etag_one_wins(client: AsyncClient) -> None:
    assistant = await client.assistants.create("talker")
    results = await asyncio.gather(
        *(
            client.assistants.update(assistant.assistant_id, name=f"n{n}", etag=assistant.etag)
            for n in range(10)
        ),
        return_exceptions=True,
    )
    won = [result for result in results if isinstance(result, Assistant)]
    lost = [result.reason for result in results if isinstance(result, Conflict)]
    assert (len(won), lost) == (1, ["ETAG_MISMATCH"] * 9)
    assert await client.assistants.get(assistant.assistant_id) == won[0]
    assert len(await versions(client, assistant)) == 2


async def test_updates_at_once_without_an_etag_make_a_version_each(client: AsyncClient) -> None:
    assistant = await client.assistants.create("talker")
    updates = (
        client.assistants.update(
            assistant.assistant_id, config={f"k{n}": n}, update_mask=[f"config.k{n}"]
        )
        for n in range(10)
    )
    made = await asyncio.gather(*updates)
    assert sorted(each.version for each in made) == list(range(2, 12))
    current = await client.assistants.get(assistant.assistant_id)
    assert to_dict(current.config) == {f"k{n}": n for n in range(10)}


async def test_a_repeated_update_returns_its_first_answer(client: AsyncClient) -> None:
    assistant = await client.assistants.create("talker")
    first = await client.assistants.update(assistant.assistant_id, name="a", request_id="once")
    await client.assistants.update(assistant.assistant_id, name="b")
    again = await client.assistants.update(assistant.assistant_id, name="a", request_id="once")
    assert again == first
    assert len(await versions(client, assistant)) == 3
    other = client.assistants.update(assistant.assistant_id, name="c", request_id="once")
    await refused(other, AlreadyExists, "REQUEST_ID_REUSED")


# Configurations


WRONG: list[tuple[dict[str, Any], dict[str, str]]] = [
    ({"sung": "x"}, {"config.sung": "is not known; did you mean song?"}),
    ({"song": 3}, {"config.song": "must be text, not 3"}),
    ({"times": 0}, {"config.times": "must be more than 0, not 0"}),
    ({"tone": {}}, {"config.tone.loud": "is required"}),
    ({"tone": {"loud": True, "words": ["a", 1]}}, {"config.tone.words[1]": "must be text, not 1"}),
    ({"song": [], "times": "x"}, {"config.song": "not a list", "config.times": "not text"}),
]


@pytest.mark.parametrize(("config", "expected"), WRONG)
async def test_a_configuration_that_does_not_fit_is_refused_where_it_is_written(
    server: Served, config: dict[str, Any], expected: dict[str, str]
) -> None:
    client = server.client
    good = await client.assistants.create("singer", config={"song": "Ode", "times": 2})
    create = CreateAssistantRequest(agent="singer", config=to_struct(config))
    found = await refusal_of(server.assistants.CreateAssistant(create))
    assert (found.code, found.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
    assert sorted(found.fields) == sorted(expected)
    assert all(text in found.message for text in expected.values()), found.message
    update = UpdateAssistantRequest(
        assistant_id=good.assistant_id, assistant=Assistant(config=to_struct(config))
    )
    update.update_mask.paths[:] = [f"config.{key}" for key in config]
    found = await refusal_of(server.assistants.UpdateAssistant(update))
    assert sorted(found.fields) == sorted(f"assistant.{path}" for path in expected)
    assert [each async for each in client.assistants.list(default=False)] == [good]
    assert await versions(client, good) == [good]


async def test_what_a_change_comes_to_is_bounded_like_what_is_given(server: Served) -> None:
    client = server.client
    large = "x" * (EVENT_BYTES // 2)
    assistant = await client.assistants.create("talker", config={"a": large})
    grow = client.assistants.update(
        assistant.assistant_id, config={"b": large}, update_mask=["config.b"]
    )
    await refused(grow, ResourceExhausted, "REQUEST_TOO_LARGE")
    deep = UpdateAssistantRequest(assistant_id=assistant.assistant_id)
    deep.update_mask.paths.append("config.d")
    inner = deep.assistant.config
    for _ in range(STRUCT_DEPTH):
        inner = inner.fields["d"].struct_value
    inner.fields["d"].bool_value = True
    found = await refusal_of(server.assistants.UpdateAssistant(deep))
    assert found.fields == ["assistant.config" + ".d" * STRUCT_DEPTH]
    for name, text in (("name", "x" * 256), ("description", "x" * 10_001)):
        wrong = client.assistants.update(assistant.assistant_id, **{name: text})  # type: ignore[arg-type]
        error = await refused(wrong, InvalidArgument, "FIELD_INVALID")
        assert [each.field for each in error.field_violations] == [f"assistant.{name}"]


async def test_the_schema_of_a_factory_is_told(client: AsyncClient) -> None:
    agent = await client.assistants.get_agent("singer")
    assert '"song"' in agent.config_schema_json
    assert (await client.assistants.get_agent("talker")).config_schema_json == '{"type": "object"}'


# Default assistants


@pytest.mark.parametrize("reference", ["talker", default_id("talker")])
async def test_a_default_assistant_stays_as_it_is(client: AsyncClient, reference: str) -> None:
    default = await client.assistants.get(reference)
    for change in (
        client.assistants.update(reference, name="new"),
        client.assistants.update(reference, name="talker"),
        client.assistants.set_current_version(reference, 1),
        client.assistants.delete(reference),
    ):
        error = await refused(change, FailedPrecondition, "ASSISTANT_READ_ONLY")
        assert "create an assistant of that agent" in error.message
    assert [each async for each in client.assistants.versions(reference)] == [default]
    assert (default.version, default.default, default.agent) == (1, True, "talker")


# Deleting


async def test_a_deleted_assistant_is_gone_and_its_id_stays_used(client: AsyncClient) -> None:
    assistant = await client.assistants.create("talker", assistant_id=UNKNOWN)
    job = await client.jobs.launch(UNKNOWN, "go")
    [job] = await client.jobs.wait(job.job_id)
    await client.assistants.delete(UNKNOWN)
    for call in (
        client.assistants.get(UNKNOWN),
        client.assistants.get(UNKNOWN, version=1),
        client.assistants.update(UNKNOWN, name="new"),
        client.assistants.set_current_version(UNKNOWN, 1),
        client.assistants.delete(UNKNOWN),
        client.runs.create(UNKNOWN, "go"),
        # The thread's current one.
        client.runs.create(thread_id=job.job_id, input="go"),
        client.jobs.launch(UNKNOWN, "go"),
        client.jobs.update(job.job_id, "go on"),
    ):
        await refused(call, NotFound, "ASSISTANT_NOT_FOUND")
    with pytest.raises(NotFound):
        await versions(client, assistant)
    assert [each async for each in client.assistants.list(default=False)] == []
    again = client.assistants.create("talker", assistant_id=UNKNOWN)
    await refused(again, AlreadyExists, "ASSISTANT_ALREADY_EXISTS")
    # Another assistant goes on where it was.
    run = await client.runs.create("talker", "go", thread_id=job.job_id)
    assert run.assistant_id == default_id("talker")


# Lists


async def test_lists_are_newest_first_with_the_default_ones_last(client: AsyncClient) -> None:
    made = [
        await client.assistants.create(
            ("talker", "singer")[n % 2], name=f"n{n}", metadata={"n": n, "deep": {"even": n % 2}}
        )
        for n in range(5)
    ]
    await client.assistants.update(made[0].assistant_id, name="changed")

    async def names(**filters: Any) -> list[str]:
        return [each.name async for each in client.assistants.list(**filters)]

    stored, defaults = ["n4", "n3", "n2", "n1", "changed"], ["singer", "talker"]
    for size in (0, 1, 2, 3, 4, 5, 6, 7, 1000):
        assert await names(page_size=size) == [*stored, *defaults]
        assert await names(page_size=size, default=False) == stored
        assert await names(page_size=size, default=True) == defaults
        assert await names(page_size=size, agent="singer") == ["n3", "n1", "singer"]
        assert await names(page_size=size, metadata={"deep": {"even": 0}}) == [
            "n4",
            "n2",
            "changed",
        ]
        assert await names(page_size=size, metadata={"created_by": "system"}) == defaults
    assert await names(agent="nobody") == []


async def test_no_page_is_longer_than_asked_for(server: Served) -> None:
    for n in range(3):
        await server.client.assistants.create("talker", name=f"n{n}")
    lengths, token = [], "-"
    request = ListAssistantsRequest(page_size=2)
    while token:
        page = await server.assistants.ListAssistants(request)
        lengths.append(len(page.assistants))
        token = request.page_token = page.next_page_token
    assert lengths == [2, 2, 1]


async def test_versions_in_pages(server: Served) -> None:
    client = server.client
    first = await client.assistants.create("talker")
    other = await client.assistants.create("talker")
    for n in range(6):
        await client.assistants.update(first.assistant_id, name=f"n{n}")
    for size in (0, 1, 3, 7, 1000):
        found = client.assistants.versions(first.assistant_id, page_size=size)
        assert [each.version async for each in found] == [7, 6, 5, 4, 3, 2, 1]
    page = await server.assistants.ListAssistantVersions(
        ListAssistantVersionsRequest(assistant_id=first.assistant_id, page_size=2)
    )
    await client.assistants.update(first.assistant_id, name="later")
    request = ListAssistantVersionsRequest(
        assistant_id=first.assistant_id, page_size=2, page_token=page.next_page_token
    )
    page = await server.assistants.ListAssistantVersions(request)
    assert [each.version for each in page.versions] == [5, 4]
    request.assistant_id = other.assistant_id
    found_other = await refusal_of(server.assistants.ListAssistantVersions(request))
    assert found_other.reason == "PAGE_TOKEN_INVALID"


# Agents that are gone


async def test_of_a_gone_agent_all_but_the_configuration_can_be_changed(tmp_path: Path) -> None:
    db = tmp_path / "jobs.db"
    async with served(AGENTS, db) as server:
        made = await server.client.assistants.create("singer", config={"times": 2})
    async with served([talker], db) as server:
        client, assistant_id = server.client, made.assistant_id
        assert await client.assistants.get(assistant_id) == made
        renamed = await client.assistants.update(assistant_id, name="old", config={"times": 2})
        assert renamed.version == 2
        for call in (
            client.assistants.update(assistant_id, config={"times": 3}),
            client.runs.create(assistant_id, "go"),
            client.jobs.launch(assistant_id, "go"),
        ):
            error = await refused(call, NotFound, "AGENT_NOT_FOUND")
            assert error.metadata == {"agents": "talker"}
        await client.assistants.delete(assistant_id)


async def test_what_is_written_is_there_after_a_restart(tmp_path: Path) -> None:
    db = tmp_path / "jobs.db"
    async with served(AGENTS, db) as server:
        first = await server.client.assistants.create("talker", config={"a": 1.5, "b": None})
        second = await server.client.assistants.update(first.assistant_id, name="new")
        back = await server.client.assistants.set_current_version(first.assistant_id, 1)
    async with served(AGENTS, db) as server:
        assert await versions(server.client, first) == [second, first]
        assert await server.client.assistants.get(first.assistant_id) == back == first
        assert first.config == Struct.FromString(back.config.SerializeToString())
        third = await server.client.assistants.update(first.assistant_id, name="newer")
        assert third.version == 3
