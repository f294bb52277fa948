"""What a thread comes to, now and at every earlier point, and what may be added to it."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest

import callboard
from callboard import Conflict, InvalidArgument, OutOfRange, text_of, to_dict
from callboard._messages import MessageLike
from callboard.v1.event_pb2 import Action, Event
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text, ToolCall, ToolResult
from callboard.v1.thread_pb2 import Thread, ThreadState
from callboard_server.app import TENANT
from callboard_server.store.base import ActionState, RunRow, Transaction
from tests.support.gates import Gates
from tests.support.serving import Served, log_of

TEXT = ContentBlock(text=Text(text="x"))


def calling(*calls: str, text: str = "let me see") -> Message:
    blocks = [ContentBlock(tool_call=ToolCall(tool_call_id=call, name="look")) for call in calls]
    blocks[0:0] = [ContentBlock(text=Text(text=text))]
    return Message(role=Role.ROLE_ASSISTANT, author="seer", content=blocks)


def result(call: str, text: str = "seen") -> Message:
    block = ContentBlock(tool_result=ToolResult(tool_call_id=call, name="look", text=text))
    return Message(role=Role.ROLE_TOOL, content=[block])


def comes_to(state: ThreadState) -> Any:
    """What a state says of the log, without what it says of the present."""
    return (
        state.at_sequence,
        to_dict(state.values),
        [(m.message_id, m.author, text_of(m)) for m in state.messages],
        state.message_count,
        [action.action_id for action in state.pending_actions],
    )


class Writer:
    """Writes into the log of a run as the engine does."""

    def __init__(self, server: Served, run_id: str) -> None:
        self._server = server
        self._run_id = run_id

    async def write(self, act: Any) -> None:
        def operation(tx: Transaction) -> None:
            run = tx.run(TENANT, self._run_id)
            assert run is not None
            act(tx, run)

        await self._server.app.engine.store.write(operation)

    async def say(self, text: str, epoch: int, *path: str) -> None:
        def act(tx: Transaction, run: RunRow) -> None:
            event = Event(step_path=path)
            event.message_added.message.message_id = text
            event.message_added.message.content.add().text.text = text
            event.message_added.message.create_time.FromNanoseconds(tx.now)
            run.data.claim_epoch = epoch
            tx.append(run.thread, event, run)

        await self.write(act)

    async def undo(self, event: Event) -> None:
        """Takes back; the values of these tests are not concerned."""
        await self.write(lambda tx, run: tx.append(run.thread, event, run))


def rolled_back(*run_ids: str) -> Event:
    event = Event()
    event.runs_rolled_back.run_ids.extend(run_ids)
    return event


def voided(epoch: int) -> Event:
    event = Event()
    event.claim_voided.claim_epoch = epoch
    return event


def recorded(name: str) -> Event:
    event = Event()
    event.step_recorded.name, event.step_recorded.occurrence = name, 1
    return event


async def test_every_earlier_state_is_what_was_shown_then(server: Served, gates: Gates) -> None:
    threads = server.client.threads
    thread = await threads.create("one", values={"a": 1, "b": {"c": 2}})
    run = await server.client.runs.create("worker", "two", thread_id=thread.thread_id)
    await gates.entered("two")
    writer = Writer(server, run.run_id)
    shown = []

    async def show() -> None:
        shown.append(comes_to(await threads.state(thread.thread_id)))

    await show()
    for step in (
        partial(threads.update_state, thread.thread_id, "three", values={"b": {"c": None}}),
        partial(writer.say, "lost", 1),
        partial(writer.say, "kept by its step", 1, "fetch#1"),
        partial(writer.undo, recorded("fetch")),
        partial(threads.update_state, thread.thread_id, values={"d": [1], "a": None}),
        partial(writer.undo, voided(1)),
        partial(writer.say, "second life", 2),
        partial(raise_action, server, run.run_id, "a1"),
        partial(raise_action, server, run.run_id, "a2"),
        partial(answer, server, run.run_id, "a1"),
        partial(writer.undo, rolled_back(run.run_id)),
        partial(threads.update_state, thread.thread_id, "four", values={"a": {"e": "f"}}),
    ):
        await step()
        await show()
    messages = [[text for _, _, text in state[2]] for state in shown]
    assert messages[4] == ["one", "two", "three", "lost", "kept by its step"]
    assert messages[6] == ["one", "two", "three", "kept by its step"]
    assert messages[-1] == ["one", "three", "four"]
    assert [state[4] for state in shown[-4:]] == [["a1", "a2"], ["a2"], ["a2"], ["a2"]]
    for state in shown:
        then = await threads.state(thread.thread_id, at_sequence=state[0])
        assert comes_to(then) == state
        last = await threads.state(thread.thread_id, at_sequence=state[0], message_limit=2)
        assert (comes_to(last)[2], last.message_count) == (state[2][-2:], state[3])
    for order in ("oldest_first", "newest_first"):
        listed = [m async for m in threads.messages(thread.thread_id, order=order, page_size=2)]
        texts = [text_of(message) for message in listed]
        assert texts == (messages[-1] if order == "oldest_first" else messages[-1][::-1])


async def raise_action(server: Served, run_id: str, action_id: str) -> None:
    def act(tx: Transaction, run: RunRow) -> None:
        event = Event()
        event.action_raised.action.action_id = action_id
        tx.append(run.thread, event, run)
        action = Action(action_id=action_id, thread_id=run.thread.data.thread_id, run_id=run_id)
        tx.add_action(run, action)

    await Writer(server, run_id).write(act)


async def answer(server: Served, run_id: str, action_id: str) -> None:
    def act(tx: Transaction, run: RunRow) -> None:
        row = tx.action(run.thread.session.key, action_id)
        assert row is not None
        row.state = ActionState.ANSWERED
        tx.save_action(row)
        event = Event()
        event.action_answered.response.action_id = action_id
        tx.append(run.thread, event, run)

    await Writer(server, run_id).write(act)


async def test_before_its_beginning_a_thread_is_empty(server: Served) -> None:
    home = await server.client.threads.create("hello")
    job = await server.client.jobs.launch("quick", "t", parent_thread_id=home.thread_id)
    await server.client.jobs.wait(job.job_id)
    for thread_id, sequence in ((home.thread_id, 0), (job.job_id, 2)):
        state = await server.client.threads.state(thread_id, at_sequence=sequence)
        assert comes_to(state) == (sequence, {}, [], 0, [])


async def test_a_point_that_the_log_does_not_have(server: Served) -> None:
    threads = server.client.threads
    thread = await threads.create(["one", "two", "three"])
    head = thread.head_sequence
    for call in (threads.state, threads.copy):
        with pytest.raises(OutOfRange) as ahead:
            await call(thread.thread_id, at_sequence=head + 1)
        assert ahead.value.reason == "CURSOR_AHEAD"

    def trim(tx: Transaction) -> None:
        row = tx.thread(TENANT, thread.thread_id)
        assert row is not None
        row.session.oldest = 2
        tx.save_session(row.session)

    await server.app.engine.store.write(trim)
    for call in (threads.state, threads.copy):
        with pytest.raises(OutOfRange) as trimmed:
            await call(thread.thread_id, at_sequence=head - 1)
        assert trimmed.value.reason == "EVENTS_TRIMMED"
    assert (await threads.state(thread.thread_id, at_sequence=head)).message_count == 3


# Open actions


async def ids(found: Any) -> list[str]:
    return [action.action_id async for action in found]


async def test_open_actions_of_a_thread_a_session_and_all(server: Served, gates: Gates) -> None:
    home = await server.client.threads.create()
    other = await server.client.runs.create("worker", "other")
    run = await server.client.runs.create("worker", "root", thread_id=home.thread_id)
    job = await server.client.jobs.launch("worker", "below", parent_thread_id=home.thread_id)
    for run_id, action_id in (
        (run.run_id, "a"),
        (other.run_id, "b"),
        (job.run_id, "c"),
        (run.run_id, "d"),
        (run.run_id, "e"),
    ):
        await raise_action(server, run_id, action_id)
    await answer(server, run.run_id, "d")
    actions = server.client.actions.list
    for size in (0, 1, 2):
        assert await ids(actions(page_size=size)) == ["a", "b", "c", "e"]
        assert await ids(actions(home.thread_id, page_size=size)) == ["a", "e"]
        assert await ids(actions(session_id=home.thread_id, page_size=size)) == list("ace")
        assert await ids(actions(session_id=job.job_id, page_size=size)) == list("ace")
        assert await ids(actions(job.job_id, page_size=size)) == ["c"]
    state = await server.client.threads.state(home.thread_id)
    assert [action.action_id for action in state.pending_actions] == ["a", "e"]
    assert [action.run_id for action in state.pending_actions] == [run.run_id] * 2


# Additions without a run


async def test_messages_keep_their_roles_and_authors(server: Served) -> None:
    threads = server.client.threads
    thread = await threads.create()
    given: list[MessageLike] = [
        {"role": "user", "author": "ann", "content": "look"},
        {"role": "user", "author": "bob", "content": "yes, look"},
        calling("c1", "c2"),
        result("c2"),
        result("c1"),
        {"role": "assistant", "author": "critic", "content": "are you sure?"},
        {"role": "system", "content": "be brief"},
    ]
    updated = await threads.update_state(thread.thread_id, given, values={"n": 1})
    state = await threads.state(thread.thread_id)
    assert [(m.role, m.author) for m in state.messages] == [
        (Role.ROLE_USER, "ann"),
        (Role.ROLE_USER, "bob"),
        (Role.ROLE_ASSISTANT, "seer"),
        (Role.ROLE_TOOL, ""),
        (Role.ROLE_TOOL, ""),
        (Role.ROLE_ASSISTANT, "critic"),
        (Role.ROLE_SYSTEM, ""),
    ]
    assert to_dict(state.values) == {"n": 1}
    assert updated.sequence == updated.head_sequence == len(given) + 2
    # In one commit: one time for all.
    log = (await log_of(server.client, thread.thread_id))[1:]
    assert len({event.time.ToNanoseconds() for event in log}) == 1


@pytest.mark.parametrize(
    ("messages", "field", "problem"),
    [
        ([result("nobody")], "messages[0].content[0]", "no call"),
        ([result("c1"), result("c1")], "messages[1].content[0]", "has its result"),
        ([result("done")], "messages[0].content[0]", "has its result"),
        ([result("c9"), calling("c9")], "messages[0].content[0]", "no call"),
        ([Message(role=Role.ROLE_TOOL, content=[TEXT])], "messages[0]", "results"),
    ],
)
async def test_results_that_answer_no_open_call_are_refused(
    server: Served, messages: list[Message], field: str, problem: str
) -> None:
    threads = server.client.threads
    thread = await threads.create(["look", calling("c1", "done"), result("done"), "and?"])
    with pytest.raises(InvalidArgument) as refused:
        await threads.update_state(thread.thread_id, messages)
    assert refused.value.reason == "FIELD_INVALID"
    assert field in refused.value.message and problem in refused.value.message
    assert await threads.get(thread.thread_id) == thread
    with pytest.raises(InvalidArgument):
        await threads.create([calling("c1", "done"), result("done"), *messages, result("c1")])
    await threads.update_state(thread.thread_id, result("c1"))


async def test_calls_of_a_run_at_work_are_its_own_to_answer(server: Served, gates: Gates) -> None:
    run = await server.client.runs.create("worker", "go")
    await gates.entered("go")

    def call(tx: Transaction, row: RunRow) -> None:
        event = Event()
        event.message_added.message.CopyFrom(calling("mine"))
        tx.append(row.thread, event, row)

    await Writer(server, run.run_id).write(call)
    with pytest.raises(InvalidArgument, match="answered by its run"):
        await server.client.threads.update_state(run.thread_id, result("mine"))


async def test_an_old_call_is_found_from_the_end(server: Served) -> None:
    threads = server.client.threads
    thread = await threads.create([calling("old"), *(f"message {n}" for n in range(250))])
    await threads.update_state(thread.thread_id, result("old"))
    with pytest.raises(InvalidArgument, match="has its result"):
        await threads.update_state(thread.thread_id, result("old"))


async def test_of_many_updates_on_the_same_state_one_is_made(server: Served) -> None:
    threads = server.client.threads
    thread = await threads.create("hello", values={"count": 0})

    async def update(number: int) -> Thread | Conflict:
        try:
            return await threads.update_state(
                thread.thread_id,
                f"update {number}",
                values={"count": number},
                expected_thread_sequence=thread.sequence,
            )
        except Conflict as refused:
            return refused

    answers = await asyncio.gather(*(update(number) for number in range(1, 21)))
    made = [answer for answer in answers if isinstance(answer, Thread)]
    reasons = {answer.reason for answer in answers if isinstance(answer, Conflict)}
    assert (len(made), reasons) == (1, {"THREAD_SEQUENCE_MISMATCH"})
    state = await threads.state(thread.thread_id)
    number = int(to_dict(state.values)["count"])
    assert [text_of(message) for message in state.messages] == ["hello", f"update {number}"]
    assert state.thread.sequence == made[0].sequence


async def test_counting_with_expected_sequences_loses_nothing(server: Served) -> None:
    threads = server.client.threads
    thread_id = (await threads.create(values={"count": 0})).thread_id

    async def count_up() -> None:
        while True:
            state = await threads.state(thread_id, message_limit=-1)
            try:
                await threads.update_state(
                    thread_id,
                    values={"count": to_dict(state.values)["count"] + 1},
                    expected_thread_sequence=state.thread.sequence,
                )
            except Conflict:
                continue
            return

    await asyncio.gather(*(count_up() for _ in range(12)))
    assert to_dict((await threads.state(thread_id)).values) == {"count": 12}


async def test_a_repeated_update_is_made_once(server: Served) -> None:
    threads = server.client.threads
    thread = await threads.create("hello")
    first = await threads.update_state(thread.thread_id, "more", request_id="r1")
    await threads.update_state(thread.thread_id, "and more")
    again = await threads.update_state(thread.thread_id, "more", request_id="r1")
    assert again == first
    with pytest.raises(callboard.AlreadyExists) as refused:
        await threads.update_state(thread.thread_id, "other", request_id="r1")
    assert refused.value.reason == "REQUEST_ID_REUSED"
    assert (await threads.state(thread.thread_id)).message_count == 3
