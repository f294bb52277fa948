"""Copies of threads: from their end, from any earlier point, and what stays behind."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

import callboard
from callboard import AlreadyExists, NotFound, text_of, to_dict
from callboard._messages import MessageLike
from callboard.v1.event_pb2 import Event
from callboard.v1.message_pb2 import Message, Role
from callboard.v1.thread_pb2 import Thread
from callboard_server.app import TENANT
from callboard_server.store.base import Transaction
from callboard_server.store.sqlite import admin
from tests.rpc.test_state import Writer, calling, raise_action, result, rolled_back
from tests.support.gates import Gates
from tests.support.serving import Served, kinds_of, log_of, sound_log


async def said(server: Served, thread_id: str) -> list[tuple[str, str]]:
    return [(m.author, text_of(m)) async for m in server.client.threads.messages(thread_id)]


def seen(message: Message) -> Message:
    """A message without what only its own session knows."""
    bare = Message()
    bare.CopyFrom(message)
    bare.run_id, bare.context_sequence = "", 0
    return bare


async def test_a_copy_has_the_conversation_and_goes_its_own_way(server: Served) -> None:
    client = server.client
    run = await client.runs.create("quick", "one", values={"a": {"b": [1]}})
    await client.runs.wait(run.run_id)
    await client.threads.update(run.thread_id, metadata={"topic": "x"}, ttl=3600)
    source = await client.threads.state(run.thread_id)
    copy = await client.threads.copy(run.thread_id)
    assert copy.thread_id == copy.session_id != run.thread_id
    assert not copy.parent_thread_id and not copy.HasField("ttl")
    assert copy.current_assistant_id == source.thread.current_assistant_id != ""
    assert to_dict(copy.metadata) == {"topic": "x"}
    state = await client.threads.state(copy.thread_id)
    assert state.thread == copy
    assert list(state.messages) == [seen(message) for message in source.messages]
    assert state.values == source.values
    log = await sound_log(client, copy.thread_id)
    assert kinds_of(log) == [
        "thread_created",
        "message_added",
        "message_added",
        "values_merged",
        "assistant_changed",
    ]
    assert log[0].thread_created.copied_from_thread_id == run.thread_id
    assert log[0].thread_created.copied_from_sequence == source.at_sequence
    assert copy.sequence == 4

    # Both go on by themselves, and the assistant need not be named.
    for thread_id, text in ((copy.thread_id, "two"), (run.thread_id, "other")):
        again = await client.runs.create(None, text, thread_id=thread_id)
        await client.runs.wait(again.run_id)
    assert [text for _, text in await said(server, copy.thread_id)][2:] == ["two", "done: two"]
    assert [text for _, text in await said(server, run.thread_id)][2:] == ["other", "done: other"]
    await sound_log(client, copy.thread_id)


async def test_a_copy_of_every_earlier_point(server: Served, gates: Gates) -> None:
    threads = server.client.threads
    run = await server.client.runs.create("worker", "one", values={"n": 1})
    await gates.entered("one")
    writer = Writer(server, run.run_id)
    await writer.say("taken back", 1)
    await writer.undo(rolled_back(run.run_id))
    await threads.update_state(run.thread_id, ["two", "three"], values={"n": None, "m": 2})
    head = (await threads.get(run.thread_id)).head_sequence
    for sequence in range(head + 1):
        then = await threads.state(run.thread_id, at_sequence=sequence)
        copy = await threads.copy(run.thread_id, at_sequence=sequence, metadata={"at": sequence})
        state = await threads.state(copy.thread_id)
        assert list(state.messages) == [seen(message) for message in then.messages]
        assert state.values == then.values
        assert to_dict(copy.metadata) == {"at": sequence}
        assert bool(copy.current_assistant_id) == (sequence > 1)
        again = await threads.copy(copy.thread_id, at_sequence=copy.head_sequence)
        assert again.current_assistant_id == copy.current_assistant_id
        assert (await threads.state(again.thread_id)).messages == state.messages


async def test_what_only_the_original_can_go_on_with_stays_there(
    server: Served, gates: Gates
) -> None:
    client = server.client
    home = await client.threads.create()
    run = await client.runs.create("worker", "root", thread_id=home.thread_id)
    job = await client.jobs.launch("worker", "below", parent_thread_id=home.thread_id)
    await gates.entered("root")
    await raise_action(server, run.run_id, "a1")
    copy = await client.threads.copy(home.thread_id)
    assert copy.state == copy.tree_state == Thread.STATE_IDLE
    assert copy.pending_action_count == 0
    assert [action async for action in client.actions.list(copy.thread_id)] == []
    assert [each async for each in client.runs.list(thread_id=copy.thread_id)] == []
    assert [each async for each in client.jobs.list(parent_thread_id=copy.thread_id)] == []
    # A thread below another becomes a root.
    child = await client.threads.copy(job.job_id)
    assert (child.parent_thread_id, child.session_id) == ("", child.thread_id)
    assert await said(server, child.thread_id) == [("", "below")]
    with pytest.raises(NotFound):
        await client.jobs.get(child.thread_id)
    gates.open("root", "below")
    await client.runs.wait(run.run_id)
    assert await said(server, copy.thread_id) == [("", "root")]


async def test_calls_without_a_result_are_closed_in_the_copy_alone(server: Served) -> None:
    threads = server.client.threads
    given: list[MessageLike] = [
        "look",
        calling("c1", "c2", "c3"),
        result("c2"),
        "well?",
        calling("c4"),
        "hello?",
    ]
    thread = await threads.create(given)
    copy = await threads.copy(thread.thread_id)
    messages = [message async for message in threads.messages(copy.thread_id)]
    shape = [
        [block.tool_result.tool_call_id for block in message.content]
        if message.role == Role.ROLE_TOOL
        else text_of(message)
        for message in messages
    ]
    assert shape == [
        "look",
        "let me see",
        ["c2"],
        ["c1"],
        ["c3"],
        "well?",
        "let me see",
        ["c4"],
        "hello?",
    ]
    closing = [block.tool_result for m in messages for block in m.content if m.role == 3]
    assert [each.is_error for each in closing] == [False, True, True, True]
    assert {each.name for each in closing} == {"look"}
    assert all(message.HasField("create_time") for message in messages)
    assert len({message.message_id for message in messages}) == len(messages)
    assert (await threads.state(thread.thread_id)).message_count == len(given)
    # Whole as it is, it is copied as it is.
    again = await threads.copy(copy.thread_id)
    assert [message async for message in threads.messages(again.thread_id)] == messages


async def test_a_repeated_copy_is_the_first_one(server: Served) -> None:
    threads = server.client.threads
    thread = await threads.create("hello")
    first = await threads.copy(thread.thread_id, request_id="r")
    await threads.update_state(thread.thread_id, "more")
    assert await threads.copy(thread.thread_id, request_id="r") == first
    with pytest.raises(AlreadyExists) as reused:
        await threads.copy(thread.thread_id, at_sequence=1, request_id="r")
    assert reused.value.reason == "REQUEST_ID_REUSED"
    await threads.delete(thread.thread_id)
    assert await threads.copy(thread.thread_id, request_id="r") == first
    with pytest.raises(NotFound):
        await threads.copy(thread.thread_id, request_id="other")
    assert (await threads.state(first.thread_id)).message_count == 1


async def test_a_copy_does_not_need_its_original(server: Served) -> None:
    threads = server.client.threads
    thread = await threads.create(["one", "two"], values={"a": 1})
    copy = await threads.copy(thread.thread_id)
    await threads.delete(thread.thread_id)
    assert not copy.HasField("metadata")
    state = await threads.state(copy.thread_id)
    assert [text_of(message) for message in state.messages] == ["one", "two"]
    assert to_dict(state.values) == {"a": 1}


async def test_a_long_copy_is_whole_and_passes_the_check(server: Served, tmp_path: Path) -> None:
    threads = server.client.threads
    thread = await threads.create()

    def fill(tx: Transaction) -> None:
        row = tx.thread(TENANT, thread.thread_id)
        assert row is not None
        for number in range(3000):
            event = Event()
            event.message_added.message.message_id = str(number)
            tx.append(row, event)

    await server.app.engine.store.write(fill)
    copy, *others = await asyncio.gather(
        threads.copy(thread.thread_id), *(threads.create("aside") for _ in range(5))
    )
    log = await log_of(server.client, copy.thread_id)
    assert [e.message_added.message.message_id for e in log[1:]] == [str(n) for n in range(3000)]
    assert len(others) == 5
    assert admin.check(str(tmp_path / "jobs.db")) == []


async def test_the_synchronous_client_copies(server: Served) -> None:
    thread = await server.client.threads.create("hello")

    def copy() -> int:
        with callboard.Client(f"127.0.0.1:{server.port}") as client:
            made = client.threads.copy(thread.thread_id, at_sequence=1)
            return client.threads.state(made.thread_id).message_count

    assert await asyncio.to_thread(copy) == 0
