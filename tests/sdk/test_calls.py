"""Deadlines, repeats, pages and waits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc
import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message_factory import GetMessageClass
from google.rpc.error_details_pb2 import RetryInfo

import callboard
from callboard import _waiting
from callboard.errors import CallboardError, Conflict, DeadlineExceeded, Unavailable, WaitTimeout
from callboard.v1 import job_pb2, run_pb2, thread_pb2
from tests.sdk.conftest import Either
from tests.sdk.scripted import METHODS, UNAVAILABLE, Refusal, ScriptedServer
from tests.sdk.test_requests import CASES

NOT_REPEATABLE = {"UpdateThread", "DeleteThread", "DeleteAssistant"}
UNARY_CASES = [case for case in CASES if not METHODS[case[0]].server_streaming]


@pytest.mark.parametrize(
    ("method", "act"), [case[:2] for case in UNARY_CASES], ids=[case[0] for case in UNARY_CASES]
)
async def test_only_what_may_be_repeated_is_repeated(
    server: ScriptedServer, either: Either, method: str, act: Callable[[Any], Any]
) -> None:
    answer = _final_answer(method)
    server.script(method, UNAVAILABLE, UNAVAILABLE, answer)
    if method in NOT_REPEATABLE:
        with pytest.raises(Unavailable):
            await either.call(act)
        assert len(server.calls) == 1
    else:
        await either.call(act)
        first, second, third = server.requests(method)
        assert first == second == third


def _final_answer(method: str) -> Any:
    if method == "WaitRun":
        return run_pb2.Run(state=callboard.RunState.RUN_STATE_SUCCEEDED)
    return GetMessageClass(METHODS[method].output_type)()


async def test_a_made_request_id_stays_the_same_in_repeats(
    server: ScriptedServer, either: Either
) -> None:
    server.script("LaunchJob", UNAVAILABLE, UNAVAILABLE, job_pb2.Job(job_id="j"))
    job = await either.call(lambda c: c.jobs.launch("bot", "hello"))
    assert job.job_id == "j"
    ids = [request.request_id for request in server.requests("LaunchJob")]
    assert len(ids) == 3
    assert len(set(ids)) == 1


async def test_other_errors_are_not_repeated(server: ScriptedServer, either: Either) -> None:
    server.script("GetJob", Refusal(grpc.StatusCode.ABORTED), job_pb2.Job())
    with pytest.raises(Conflict):
        await either.call(lambda c: c.jobs.get("j"))
    assert len(server.calls) == 1


async def test_repeats_stop_before_the_deadline(server: ScriptedServer, either: Either) -> None:
    server.script("GetJob", UNAVAILABLE)
    # The last try may be cut off by the deadline.
    with pytest.raises((Unavailable, DeadlineExceeded)):
        await either.call(lambda c: c.with_timeout(0.05).jobs.get("j"))
    assert len(server.calls) > 1


async def test_the_server_says_when_to_come_again(server: ScriptedServer, either: Either) -> None:
    def after(milliseconds: int) -> Refusal:
        retry = RetryInfo(retry_delay=Duration(nanos=milliseconds * 1_000_000))
        return Refusal(grpc.StatusCode.UNAVAILABLE, "draining", [retry])

    server.script("GetJob", after(20), job_pb2.Job())
    start = time.monotonic()
    await either.call(lambda c: c.jobs.get("j"))
    assert time.monotonic() - start >= 0.02

    server.script("GetJob", after(900))
    with pytest.raises(Unavailable) as caught:
        await either.call(lambda c: c.with_timeout(0.5).jobs.get("j"))
    assert caught.value.retry_delay == 0.9


async def test_timeouts(server: ScriptedServer, either: Either) -> None:
    await either.call(lambda c: c.with_timeout(None).jobs.get("j"))
    await either.call(lambda c: c.with_timeout(2.0).jobs.get("j"))
    none, two = server.calls
    assert none.seconds_left is None
    assert two.seconds_left is not None
    assert 1.5 < two.seconds_left < 2.5
    assert two.metadata["x-caller"] == "test"


async def test_a_missed_deadline(server: ScriptedServer, either: Either) -> None:
    def hang(_: Any) -> Any:
        time.sleep(0.05)
        return job_pb2.Job()

    server.script("GetJob", hang)
    with pytest.raises(DeadlineExceeded) as caught:
        await either.call(lambda c: c.with_timeout(0.01).jobs.get("j"))
    assert isinstance(caught.value, TimeoutError)


async def test_nobody_listens(either: Either, server: ScriptedServer) -> None:
    await server.__aexit__()
    with pytest.raises(Unavailable) as caught:
        await either.call(lambda c: c.with_timeout(0.2).threads.delete("t"))
    assert caught.value.reason == ""


async def test_all_pages(server: ScriptedServer, either: Either) -> None:
    def page(request: Any) -> Any:
        number = int(request.page_token or 0)
        jobs = [job_pb2.Job(job_id=f"{number}.{i}") for i in range(2)]
        return job_pb2.ListJobsResponse(
            jobs=jobs, next_page_token=str(number + 1) if number < 2 else ""
        )

    server.script("ListJobs", page)
    jobs = await either.call(lambda c: c.jobs.list(labels={"k": "v"}, page_size=2))
    assert [job.job_id for job in jobs] == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    assert [request.page_token for request in server.requests("ListJobs")] == ["", "1", "2"]
    assert all(request.labels == {"k": "v"} for request in server.requests("ListJobs"))


async def test_a_page_is_fetched_when_it_is_needed(
    server: ScriptedServer, client: callboard.AsyncClient
) -> None:
    page = job_pb2.ListJobsResponse(jobs=[job_pb2.Job(job_id="j")], next_page_token="more")
    server.script("ListJobs", page)
    async for _ in client.jobs.list():
        break
    assert len(server.calls) == 1


async def test_all_events(server: ScriptedServer, either: Either) -> None:
    def page(request: Any) -> Any:
        sequence = request.after_sequence + 1
        # The last page has no event: what was left did not match the filter.
        events = [callboard.Event(sequence=sequence)] if sequence <= 3 else []
        return thread_pb2.ListEventsResponse(
            events=events, through_sequence=sequence, more=sequence <= 3
        )

    server.script("ListEvents", page)
    events = await either.call(lambda c: c.threads.events("t"))
    assert [event.sequence for event in events] == [1, 2, 3]


async def test_waiting_goes_on_until_the_jobs_are_done(
    server: ScriptedServer, either: Either
) -> None:
    server.script(
        "WaitJobs",
        job_pb2.WaitJobsResponse(timed_out=True),
        UNAVAILABLE,
        job_pb2.WaitJobsResponse(timed_out=True),
        job_pb2.WaitJobsResponse(jobs=[job_pb2.Job(job_id="j")]),
    )
    jobs = await either.call(lambda c: c.jobs.wait(["j"]))
    assert [job.job_id for job in jobs] == ["j"]
    assert len(server.calls) == 4


async def test_waiting_has_an_end(
    server: ScriptedServer, either: Either, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_waiting, "SLICE_SECONDS", 0.01)

    def slow(request: Any) -> Any:
        time.sleep(request.timeout.ToTimedelta().total_seconds())
        return job_pb2.WaitJobsResponse(timed_out=True, jobs=[job_pb2.Job(job_id="j")])

    server.script("WaitJobs", slow)
    with pytest.raises(WaitTimeout) as caught:
        await either.call(lambda c: c.jobs.wait("j", timeout=0.3))
    assert [job.job_id for job in caught.value.latest if isinstance(job, job_pb2.Job)] == ["j"]
    slices = [call.request.timeout.ToTimedelta().total_seconds() for call in server.calls]
    assert len(slices) > 1
    assert max(slices) <= 0.01


@pytest.mark.parametrize(
    ("until", "state"), [("done", "SUCCEEDED"), ("done_or_action", "REQUIRES_ACTION")]
)
async def test_waiting_for_a_run(
    server: ScriptedServer, either: Either, until: str, state: str
) -> None:
    def run(name: str) -> Any:
        return run_pb2.Run(state=callboard.RunState.Value(f"RUN_STATE_{name}"))

    server.script("WaitRun", run("QUEUED"), run("RUNNING"), run(state), run("FAILED"))
    got = await either.call(lambda c: c.runs.wait("r", until=until))
    assert got == run(state)

    server.script("WaitRun", run("RUNNING"))
    with pytest.raises(WaitTimeout) as caught:
        await either.call(lambda c: c.runs.wait("r", until=until, timeout=0))
    assert caught.value.latest == (run("RUNNING"),)


async def test_a_cancelled_task_cancels_its_call(
    server: ScriptedServer, client: callboard.AsyncClient
) -> None:
    started = asyncio.Event()

    async def frames(_: Any) -> Any:
        started.set()
        await asyncio.Event().wait()
        yield run_pb2.EventFrame()

    server.script("StreamEvents", frames)
    task = asyncio.create_task(anext(client.threads.stream("t")))
    await started.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await asyncio.wait_for(server.calls[0].ended.wait(), 5)


async def test_closing_the_client_is_not_a_cancellation_of_the_task(
    server: ScriptedServer,
) -> None:
    started = asyncio.Event()

    async def frames(_: Any) -> Any:
        started.set()
        await asyncio.Event().wait()
        yield run_pb2.EventFrame()

    server.script("StreamEvents", frames)
    client = callboard.AsyncClient(server.target)

    async def read() -> None:
        async for _ in client.threads.stream("t"):
            pass

    task = asyncio.create_task(read())
    await started.wait()
    await client.aclose()
    with pytest.raises(CallboardError):
        await task
