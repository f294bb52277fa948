"""Compaction: by budget, when a provider says that it is time, and on demand; with real SDKs."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Event, RunTrigger
from callboard.v1.run_pb2 import Run
from callboard_server.agents.context import Context
from callboard_server.store.sqlite import admin
from standins.http import Exchange, Handler, HttpServer, Request
from standins.replies import Call, Reply
from tests.support.chatting import (
    KINDS,
    Kind,
    answering,
    ask,
    chatting,
    refusing,
    results_of,
)
from tests.support.following import event_of, over
from tests.support.serving import kinds_of, local, log_of, sound_log

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
LONG = "The house has red windows. " * 40
"""Some 270 tokens."""
NOTE = {"name": "note", "parameters": {"type": "object"}, "description": ""}


def said(body: Any) -> list[str]:
    """The messages of a request, as JSON."""
    return [json.dumps(each) for each in body.get("messages") or body["input"]]


def wants_summary(body: Any) -> bool:
    return "Summarise the conversation" in said(body)[-1]


def size_of(body: Any) -> int:
    """How many tokens a request has, as this provider counts."""
    return sum(map(len, said(body))) // 4


class Author:
    """A model that numbers its answers and its summaries, and counts what it reads."""

    def __init__(self) -> None:
        self.answers = 0
        self.summaries = 0

    def __call__(self, body: Any) -> Reply:
        if wants_summary(body):
            self.summaries += 1
            text = f"Summary {self.summaries}."
        else:
            self.answers += 1
            text = f"Answer {self.answers}."
        return Reply(text, input_tokens=size_of(body))


def up_to(limit: int, handler: Handler) -> Handler:
    """A provider whose models take no more than so many tokens."""
    refuse = refusing(413, "request_too_large")

    async def handle(exchange: Exchange) -> None:
        is_too_long = size_of(exchange.request.body) > limit
        await (refuse if is_too_long else handler)(exchange)

    return handle


def summaries_in(log: Sequence[Event]) -> list[Event]:
    return [event for event in log if event.HasField("context_compacted")]


def answered(server: HttpServer) -> list[Request]:
    """The requests that did not want a summary."""
    return [request for request in server.requests if not wants_summary(request.body)]


async def talk(client: AsyncClient, *questions: str) -> list[Run]:
    """Asks one question after the other, on one thread."""
    runs: list[Run] = []
    for question in questions:
        thread = {"thread_id": runs[0].thread_id} if runs else {}
        runs.append(await ask(client, question, **thread))
        assert runs[-1].state == SUCCEEDED
    return runs


async def newest_run(client: AsyncClient, thread_id: str) -> Run:
    return await anext(client.runs.list(thread_id=thread_id))


@pytest.mark.parametrize("kind", KINDS)
class TestBudget:
    async def test_the_older_part_gives_way_to_a_summary(self, kind: Kind, tmp_path: Path) -> None:
        handler = answering(kind, Author())
        async with chatting(tmp_path, handler, kind, compact_at=900) as (client, server):
            runs = await talk(client, *(f"{n}: {LONG}" for n in range(5)))
            log = await sound_log(client, runs[0].thread_id)
            messages = [text_of(m) async for m in client.threads.messages(runs[0].thread_id)]
        assert not admin.check(str(tmp_path / "jobs.db"))
        first, *_ = summaries_in(log)
        compacted = first.context_compacted
        assert text_of(compacted.summary) == "Summary 1."
        assert (compacted.assistant_id, compacted.summary.author) == (runs[0].assistant_id, "chat")
        assert compacted.summary.model == "standin:m"
        # Nothing of it is gone, and what the summary used is not free.
        assert len(messages) == 10
        summarised = next(run for run in runs if run.run_id == first.run_id)
        assert summarised.outcome.usage.model_calls == 2
        used = compacted.summary.usage.input_tokens + summarised.outcome.result.usage.input_tokens
        assert summarised.outcome.usage.input_tokens == used
        # The question that made the view too long is asked as it was.
        asked = next(r for r in answered(server) if "Summary 1" in str(r.body))
        start, *rest = said(asked.body)[-2:] if kind == "openai-chat" else said(asked.body)
        assert "<conversation_summary>Summary 1.</conversation_summary>" in start
        assert "red windows" in (rest or [start])[-1]
        assert all(size_of(request.body) < 1200 for request in answered(server))

    async def test_a_run_is_summarised_in_its_midst(self, kind: Kind, tmp_path: Path) -> None:
        author = Author()

        def script(body: Any) -> Reply:
            reply = author(body)
            if reply.text.startswith("Answer") and author.answers < 6:
                return Reply(LONG, [Call("note")], input_tokens=size_of(body))
            return reply

        handler = answering(kind, script)
        agent: dict[str, Any] = {"client_tools": [NOTE], "tool_policy": {"note": "deny"}}
        async with chatting(tmp_path, handler, kind, compact_at=900, **agent) as (client, server):
            run = await ask(client)
            log = await sound_log(client, run.thread_id)
            assert len(await results_of(client, run)) == 5
        assert run.state == SUCCEEDED and text_of(run.outcome.result) == "Answer 6."
        assert len(summaries_in(log)) >= 1
        assert run.outcome.usage.model_calls == len(server.requests)

    async def test_turns_that_were_summarised_count(self, kind: Kind, tmp_path: Path) -> None:
        author = Author()

        def script(body: Any) -> Reply:
            reply = author(body)
            if reply.text.startswith("Summary"):
                return reply
            return Reply(LONG, [Call("note")], input_tokens=size_of(body))

        agent: dict[str, Any] = {"client_tools": [NOTE], "tool_policy": {"note": "deny"}}
        handler = answering(kind, script)
        async with chatting(tmp_path, handler, kind, compact_at=900, max_turns=8, **agent) as (
            client,
            server,
        ):
            run = await ask(client)
            assert summaries_in(await log_of(client, run.thread_id))
            assert len(answered(server)) == 8
        assert run.outcome.error.reason == ErrorReason.ERROR_REASON_TURN_LIMIT


class TestBudgetOfTheAgent:
    async def test_a_model_that_writes_no_summary_is_not_asked_again(self, tmp_path: Path) -> None:
        def script(body: Any) -> Reply:
            size = size_of(body)
            if wants_summary(body):
                return Reply("I had rather not", refusal="no", input_tokens=size)
            return Reply("Answer.", input_tokens=size)

        handler = answering("anthropic", script)
        async with chatting(tmp_path, handler, compact_at=900) as (client, server):
            *_, run = await talk(client, *(f"{n}: {LONG}" for n in range(4)))
            log = await sound_log(client, run.thread_id)
        assert not summaries_in(log)
        asked = sum(wants_summary(request.body) for request in server.requests)
        assert asked == 1 == kinds_of(log).count("model_call_finished")
        assert run.outcome.usage.model_calls == 2

    async def test_what_is_short_beside_the_budget_is_not_summarised(self, tmp_path: Path) -> None:
        handler = answering("anthropic", lambda body: Reply("Yes.", input_tokens=5000))
        async with chatting(tmp_path, handler, compact_at=1000) as (client, server):
            await talk(client, "one", "two", "three")
            assert len(server.requests) == 3

    async def test_an_assistant_may_have_another_budget(self, tmp_path: Path) -> None:
        async with chatting(tmp_path, answering("anthropic", Author())) as (client, _):
            thread = (await talk(client, LONG, LONG, LONG))[0].thread_id
            assert not summaries_in(await log_of(client, thread))
            await ask(client, "And?", thread_id=thread, config={"compact_at": 500})
            assert summaries_in(await log_of(client, thread))

    async def test_after_a_restart_nothing_is_summarised_twice(self, tmp_path: Path) -> None:
        author, held = Author(), asyncio.Event()

        async def script(body: Any) -> Reply:
            reply = author(body)
            if "Summary" in str(body) and not wants_summary(body):
                await held.wait()
            return reply

        handler = answering("anthropic", script)
        async with chatting(tmp_path, handler, compact_at=900) as (client, _):
            runs = await talk(client, *(f"{n}: {LONG}" for n in range(3)))
            thread = runs[0].thread_id
            run = await client.runs.create("chat", LONG, thread_id=thread)
            await event_of(client, run, "context_compacted")
        held.set()
        async with chatting(tmp_path, handler, compact_at=900) as (client, server):
            assert (await over(client, run)).state == SUCCEEDED
            [request] = server.requests
            assert "<conversation_summary>Summary 1." in str(request.body)
            log = await sound_log(client, thread)
        assert len(summaries_in(log)) == author.summaries == 1


@pytest.mark.parametrize("kind", KINDS)
class TestOverflow:
    async def test_what_is_too_long_for_the_provider_is_summarised(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        handler = up_to(1500, answering(kind, Author()))
        async with chatting(tmp_path, handler, kind) as (client, server):
            runs = await talk(client, *(f"{n}: {LONG}" for n in range(7)))
            log = await sound_log(client, runs[0].thread_id)
        assert summaries_in(log)
        overflow = ErrorReason.ERROR_REASON_MODEL_CONTEXT_OVERFLOW
        failed = [e.model_call_finished for e in log if e.HasField("model_call_finished")]
        assert {each.error.reason for each in failed} == {overflow}
        assert not any(each.HasField("retry_time") for each in failed)
        assert len({str(request.body) for request in server.requests}) == len(server.requests)

    async def test_where_that_is_too_long_in_one_go_a_part_of_it_is(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        author = Author()
        async with chatting(tmp_path, answering(kind, author), kind) as (client, _):
            thread = (await talk(client, *(f"{n}: {LONG}" for n in range(6))))[0].thread_id
        handler = up_to(1100, answering(kind, author))
        async with chatting(tmp_path, handler, kind) as (client, server):
            assert (await ask(client, "And?", thread_id=thread)).state == SUCCEEDED
            log = await sound_log(client, thread)
            asked = [r for r in server.requests if wants_summary(r.body)]
        assert len(asked) > len(summaries_in(log)) == author.summaries
        assert "5: The house" in str(answered(server)[-1].body)

    async def test_where_nothing_can_give_way_the_run_fails(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        handler = up_to(500, answering(kind, Author()))
        async with chatting(tmp_path, handler, kind) as (client, server):
            run = await ask(client, LONG * 3)
            assert len(server.requests) == 1
        assert run.state == FAILED
        assert run.outcome.error.reason == ErrorReason.ERROR_REASON_MODEL_CONTEXT_OVERFLOW


class TestOnDemand:
    async def test_a_summary_is_handed_in(self, tmp_path: Path) -> None:
        handler = answering("anthropic", Author())
        async with chatting(tmp_path, handler) as (client, server):
            thread = (await talk(client, "one", "two"))[0].thread_id
            before = await client.threads.state(thread)
            compacted = await client.threads.compact(thread, summary="They counted.")
            assert compacted.head_sequence == before.thread.head_sequence + 1
            assert compacted.sequence == before.thread.sequence
            after = await client.threads.state(thread)
            assert after.messages == before.messages
            await ask(client, "three", thread_id=thread)
            summary = "<conversation_summary>They counted.</conversation_summary>"
            assert said(server.requests[-1].body) == [
                json.dumps({"role": "user", "content": _texts(summary, "three")})
            ]
            [event] = summaries_in(await sound_log(client, thread))
        assert event.context_compacted.assistant_id == ""
        assert event.context_compacted.through_sequence == before.thread.head_sequence

    async def test_a_repeat_returns_the_first_answer(self, tmp_path: Path) -> None:
        async with chatting(tmp_path, answering("anthropic", Author())) as (client, _):
            thread = (await talk(client, "one"))[0].thread_id
            for summary in None, "They counted.":
                calls = [
                    await client.threads.compact(thread, summary=summary, request_id=f"{summary}")
                    for _ in range(2)
                ]
                assert calls[0] == calls[1]
                with pytest.raises(AlreadyExists):
                    await client.threads.compact(thread, summary="?", request_id=f"{summary}")
                await over(client, await newest_run(client, thread))
            runs = [run async for run in client.runs.list(thread_id=thread)]
            assert len(runs) == len(summaries_in(await log_of(client, thread))) == 2

    async def test_the_current_assistant_writes_one(self, tmp_path: Path) -> None:
        handler = answering("anthropic", Author())
        async with chatting(tmp_path, handler) as (client, server):
            thread = (await talk(client, "one", "two"))[0].thread_id
            await client.threads.compact(thread)
            run = await over(client, await newest_run(client, thread))
            assert (run.state, run.trigger) == (SUCCEEDED, RunTrigger.RUN_TRIGGER_COMPACTION)
            assert run.outcome.usage.model_calls == 1
            assert not run.outcome.HasField("result")
            [event] = summaries_in(await sound_log(client, thread))
            assert event.context_compacted.assistant_id == run.assistant_id
            await ask(client, "three", thread_id=thread)
            summary = "<conversation_summary>Summary 1.</conversation_summary>"
            assert json.loads(said(server.requests[-1].body)[-1])["content"] == _texts(
                summary, "three"
            )

    async def test_a_run_that_writes_one_takes_no_input(self, tmp_path: Path) -> None:
        held = asyncio.Event()

        async def script(body: Any) -> Reply:
            if wants_summary(body):
                await held.wait()
                return Reply("Summary.")
            return Reply("Answer.")

        async with chatting(tmp_path, answering("anthropic", script)) as (client, server):
            thread = (await talk(client, "one"))[0].thread_id
            await client.threads.compact(thread)
            steered = await client.runs.create(
                "chat", "two", thread_id=thread, multitask_strategy="steer"
            )
            held.set()
            assert (await over(client, steered)).state == SUCCEEDED
            assert "<conversation_summary>Summary." in str(server.requests[-1].body)
            await sound_log(client, thread)

    async def test_a_run_that_writes_one_has_read_no_notices(self, tmp_path: Path) -> None:
        held, asked = asyncio.Event(), asyncio.Event()

        async def script(body: Any) -> Reply:
            if wants_summary(body):
                return Reply("Summary.")
            if "two" in said(body)[-1]:
                asked.set()
                await held.wait()
            return Reply("Answer.")

        async with chatting(tmp_path, answering("anthropic", script)) as (client, server):
            thread = (await talk(client, "one"))[0].thread_id
            run = await client.runs.create("chat", "two", thread_id=thread)
            await asked.wait()
            job = await client.jobs.launch("chat", "Look.", parent_thread_id=thread)
            await client.jobs.wait(job.job_id)
            await client.threads.compact(thread)
            held.set()
            await over(client, run)
            summarising = await newest_run(client, thread)
            assert summarising.trigger == RunTrigger.RUN_TRIGGER_COMPACTION
            await over(client, summarising)
            woken = await newest_run(client, thread)
            assert woken.trigger == RunTrigger.RUN_TRIGGER_INBOX
            assert (await over(client, woken)).state == SUCCEEDED
            assert "Look." in said(server.requests[-1].body)[-1]

    async def test_where_the_model_writes_none_the_run_fails(self, tmp_path: Path) -> None:
        def script(body: Any) -> Reply:
            return Reply("", refusal="no") if wants_summary(body) else Reply("Answer.")

        async with chatting(tmp_path, answering("anthropic", script)) as (client, _):
            thread = (await talk(client, "one"))[0].thread_id
            await client.threads.compact(thread)
            run = await over(client, await newest_run(client, thread))
        assert run.state == FAILED and "wrote no summary" in run.outcome.error.message

    async def test_what_cannot_be_summarised_is_refused(self, tmp_path: Path) -> None:
        async def function(ctx: Context) -> str:
            return "done"

        async with local([function], tmp_path / "jobs.db") as client:
            with pytest.raises(NotFound):
                await client.threads.compact("00000000-0000-4000-8000-000000000000")
            empty = (await client.threads.create()).thread_id
            with pytest.raises(FailedPrecondition, match="set summary") as caught:
                await client.threads.compact(empty)
            assert caught.value.reason == "ASSISTANT_REQUIRED"
            run = await over(client, await client.runs.create("function", "go"))
            with pytest.raises(InvalidArgument, match="has no model"):
                await client.threads.compact(run.thread_id)
            await client.threads.compact(run.thread_id, summary="It is done.")
            await client.threads.compact(empty, summary="Nothing yet.")

    async def test_a_run_that_waits_goes_on_from_what_it_has_seen(self, tmp_path: Path) -> None:
        author = Author()

        def script(body: Any) -> Reply:
            author(body)
            return Reply("", [Call("note")]) if author.answers == 2 else Reply("Answer.")

        handler = answering("anthropic", script)
        async with chatting(tmp_path, handler, client_tools=[NOTE]) as (client, server):
            thread = (await talk(client, "one"))[0].thread_id
            waiting = await client.runs.create("chat", "two", thread_id=thread)
            await event_of(client, waiting, "run_waiting")
            await client.threads.compact(thread, summary="They counted.")
            await talk(client, "three")
            [action] = [each async for each in client.actions.list(thread)]
            await client.actions.result(action, "noted")
            assert (await over(client, waiting)).state == SUCCEEDED
            request = "".join(said(server.requests[-1].body))
            assert "They counted." in request and "one" not in request
            assert request.index("two") < request.index("tool_use") < request.index("noted")
            await sound_log(client, thread)

    async def test_the_past_and_copies_of_it_are_as_they_were(self, tmp_path: Path) -> None:
        handler = answering("anthropic", Author())
        async with chatting(tmp_path, handler) as (client, server):
            thread = (await talk(client, "one", "two"))[0].thread_id
            before = await client.threads.state(thread)
            await client.threads.compact(thread, summary="They counted.")
            then = await client.threads.state(thread, at_sequence=before.at_sequence)
            assert then.messages == before.messages
            # A copy has all that was said, also one of now.
            for at in before.at_sequence, None:
                copy = await client.threads.copy(thread, at_sequence=at)
                await ask(client, "three", thread_id=copy.thread_id)
                assert "They counted" not in str(server.requests[-1].body)
                assert "Answer 1." in str(server.requests[-1].body)


def _texts(*texts: str) -> list[dict[str, str]]:
    return [{"type": "text", "text": text} for text in texts]
