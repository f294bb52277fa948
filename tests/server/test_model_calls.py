"""Model calls that fail: which are tried again, what is seen of it, and how they end."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from callboard import AsyncClient, RunState, text_of
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.event_pb2 import Event
from callboard.v1.run_pb2 import Delta, Run
from callboard_server.agents import model_calls
from callboard_server.agents.model_calls import (
    LONGEST_PAUSE,
    LONGEST_WISH,
    pause_before_next,
)
from callboard_server.models.base import FailureKind, ModelError
from standins import anthropic_wire as wire
from standins.anthropic import playing
from standins.http import Break
from standins.replies import Call, Reply
from tests.support.chatting import KINDS, Kind, ask, chatting, in_turn, refusing, saying
from tests.support.following import event_of, over
from tests.support.serving import kinds_of, sound_log

SUCCEEDED, FAILED = RunState.RUN_STATE_SUCCEEDED, RunState.RUN_STATE_FAILED
CANCELLED = RunState.RUN_STATE_CANCELLED
UNAVAILABLE = ErrorReason.ERROR_REASON_MODEL_UNAVAILABLE

FAILED_TRY = ["model_call_finished", "message_discarded"]


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets calls be tried again without a pause."""
    monkeypatch.setattr(model_calls, "FIRST_PAUSE", 0.0)


async def log_of_run(client: AsyncClient, run: Run) -> list[Event]:
    return [event for event in await sound_log(client, run.thread_id) if event.run_id == run.run_id]


def tries_in(log: list[Event]) -> list[Event]:
    return [event for event in log if event.HasField("model_call_finished")]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("at_once")
class TestTriesAgain:
    async def test_what_may_pass_is_tried_again_and_seen(self, kind: Kind, tmp_path: Path) -> None:
        handler = in_turn(
            refusing(529, "overloaded_error"), refusing(503), saying(kind, Reply("Hello."))
        )
        async with chatting(tmp_path, handler, kind) as (client, server):
            run = await ask(client)
            assert (run.state, run.attempt) == (SUCCEEDED, 1)
            assert text_of(run.outcome.result) == "Hello."
            log = await log_of_run(client, run)
            assert kinds_of(log)[3:] == [
                *FAILED_TRY,
                "model_call_started",
                *FAILED_TRY,
                "model_call_started",
                "message_added",
                "run_finished",
            ]
            assert len(server.requests) == 3
            assert len({str(request.body) for request in server.requests}) == 1
        first, second = tries_in(log)
        for event in first, second:
            finished = event.model_call_finished
            assert finished.error.reason == UNAVAILABLE
            assert finished.error.retryable and finished.HasField("retry_time")
        ids = [
            *(event.model_call_finished.message_id for event in (first, second)),
            run.outcome.result.message_id,
        ]
        assert len(set(ids)) == 3
        discarded = [e.message_discarded.message_id for e in log if e.HasField("message_discarded")]
        assert discarded == ids[:2]
        started = [e.model_call_started for e in log if e.HasField("model_call_started")]
        assert [each.message_id for each in started] == ids[1:]
        assert {(each.model, each.context_sequence) for each in started} == {
            ("standin:m", run.outcome.result.context_sequence)
        }
        assert "SECRET" not in str(log)

    async def test_no_connection_is_tried_again_as_often_as_it_may(
        self, kind: Kind, tmp_path: Path
    ) -> None:
        async def cut(exchange: object) -> None:
            exchange.cut()  # type: ignore[attr-defined]

        async with chatting(tmp_path, cut, kind, model_attempts=3) as (client, server):
            run = await ask(client)
            assert (run.state, run.attempt) == (FAILED, 1)
            error = run.outcome.error
            assert (error.reason, error.retryable, error.code) == (UNAVAILABLE, True, 14)
            assert error.message.endswith("It was tried 3 times.")
            assert len(server.requests) == 3
            log = await log_of_run(client, run)
        *others, last = tries_in(log)
        assert len(others) == 2
        assert not last.model_call_finished.HasField("retry_time")

    @pytest.mark.parametrize(
        ("status", "reason"),
        [
            (400, ErrorReason.ERROR_REASON_MODEL_REJECTED),
            (401, ErrorReason.ERROR_REASON_MODEL_CREDENTIALS),
            (403, ErrorReason.ERROR_REASON_MODEL_CREDENTIALS),
            (404, ErrorReason.ERROR_REASON_MODEL_NOT_FOUND),
            (413, ErrorReason.ERROR_REASON_MODEL_CONTEXT_OVERFLOW),
        ],
    )
    async def test_what_will_not_pass_ends_the_run(
        self, kind: Kind, status: int, reason: ErrorReason.ValueType, tmp_path: Path
    ) -> None:
        async with chatting(tmp_path, refusing(status, "x"), kind) as (client, server):
            run = await ask(client)
            assert (run.state, run.outcome.error.reason) == (FAILED, reason)
            assert not run.outcome.error.retryable
            assert "standin:m" in run.outcome.error.message
            assert "SECRET" not in str(run)
            assert len(server.requests) == 1
            [event] = tries_in(await log_of_run(client, run))
            assert not event.model_call_finished.HasField("retry_time")


@pytest.mark.usefixtures("at_once")
class TestBrokenOff:
    async def test_what_was_streamed_is_void_and_what_it_used_counts(self, tmp_path: Path) -> None:
        half = wire.text_block(0, "Half an ")
        usage = {"input_tokens": 1000, "output_tokens": 3}
        handler = in_turn(
            playing(wire.start(usage), *half, Break.CUT),
            playing(wire.start(usage), *half, wire.failed("overloaded_error")),
            playing(wire.start(usage), *half),
            saying("anthropic", Reply("A whole answer.", input_tokens=20, output_tokens=10)),
        )
        async with chatting(tmp_path, handler) as (client, _):
            pieces: dict[str, str] = {}
            async with client.runs.stream("chat", "Hello?") as stream:
                async for item in stream:
                    if isinstance(item, Delta):
                        pieces[item.message_id] = pieces.get(item.message_id, "") + item.text
                assert stream.run is not None
                run = await over(client, stream.run)
            log = await log_of_run(client, run)
        assert run.state == SUCCEEDED
        discarded = [e.message_discarded.message_id for e in log if e.HasField("message_discarded")]
        assert len(discarded) == 3
        assert pieces.keys() <= {*discarded, run.outcome.result.message_id}
        assert text_of(run.outcome.result) == "A whole answer."
        [each] = {event.model_call_finished.usage.input_tokens for event in tries_in(log)}
        assert each == 1000
        assert run.outcome.usage.input_tokens == 3 * 1000 + 20
        assert run.outcome.usage == run.usage

    async def test_a_limit_on_tokens_counts_what_failed_calls_used(self, tmp_path: Path) -> None:
        usage = {"input_tokens": 1000, "output_tokens": 3}
        handler = in_turn(
            playing(wire.start(usage), Break.CUT),
            saying("anthropic", Reply("I look.", calls=[Call("look")])),
        )
        async with chatting(tmp_path, handler, max_total_tokens=1000) as (client, server):
            run = await ask(client)
            assert len(server.requests) == 2
        assert run.outcome.error.reason == ErrorReason.ERROR_REASON_TURN_LIMIT
        assert run.outcome.error.metadata == {"limit": "max_total_tokens"}
        assert text_of(run.outcome.result) == "I look."


class TestWishes:
    async def test_a_wish_beyond_the_bound_ends_the_run_at_once(self, tmp_path: Path) -> None:
        handler = refusing(429, "rate_limit_error", retry_after="3600")
        async with chatting(tmp_path, handler) as (client, server):
            run = await ask(client)
            assert (run.state, run.outcome.error.reason) == (FAILED, UNAVAILABLE)
            assert "asks to be called again in 3,600 s" in run.outcome.error.message
            assert "waits 60 s at most" in run.outcome.error.message
            assert run.outcome.error.retryable
            assert len(server.requests) == 1

    async def test_a_run_is_cancelled_in_the_middle_of_a_pause(self, tmp_path: Path) -> None:
        handler = refusing(429, "rate_limit_error", retry_after="50")
        async with chatting(tmp_path, handler) as (client, server):
            run = await client.runs.create("chat", "Hello?")
            failed = await event_of(client, run, "model_call_finished")
            wish = failed.model_call_finished.retry_time.ToNanoseconds()
            assert wish - failed.time.ToNanoseconds() > 49e9
            await client.runs.cancel(run.run_id)
            run = await over(client, run)
            assert run.state == CANCELLED
            assert len(server.requests) == 1
            await sound_log(client, run.thread_id)


KINDS_OF_FAILURE = st.sampled_from(FailureKind)


class TestPauses:
    @given(KINDS_OF_FAILURE, st.integers(1, 40), st.integers(1, 40), st.floats(0, 1e9))
    def test_are_bounded_and_never_shorter_than_is_wished(
        self, kind: FailureKind, attempt: int, attempts: int, wish: float
    ) -> None:
        error = ModelError(kind, "It failed.", wish or None)
        pause = pause_before_next(error, attempt, attempts)
        if pause is None:
            assert not error.may_pass or attempt >= attempts or wish > LONGEST_WISH
        else:
            assert error.may_pass and attempt < attempts
            assert wish <= pause <= max(LONGEST_PAUSE, LONGEST_WISH * 1.1)

    def test_double_up_to_the_longest(self) -> None:
        error = ModelError(FailureKind.OVERLOADED, "It failed.")
        expected = [0.5, 1, 2, 4, 8, 16, 30, 30]
        for attempt, most in enumerate(expected, start=1):
            pause = pause_before_next(error, attempt, 99)
            assert pause is not None and 0.8 * most <= pause <= most
