"""What a provider wants back with its answers goes to the provider alone."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.message import Message as Proto

from callboard.v1 import job_pb2, run_pb2, thread_pb2
from callboard.v1.lifecycle_pb2 import Until
from callboard.v1.message_pb2 import (
    ContentBlock,
    Message,
    ProviderState,
    Role,
    StopReason,
    Text,
    Usage,
)
from callboard_server.agents.chat import ChatAgent
from callboard_server.app import TENANT
from callboard_server.engine.archiving import archive
from callboard_server.models.base import Answer, ModelRequest, Piece, TextPiece
from tests.support.serving import Served, served

STATE = ProviderState(digest=bytes(32), blocks_json=b'["for the provider alone"]')
SAID = "I have thought."
DONE = Until.UNTIL_DONE


class Thinker:
    """A model that wants something back."""

    name = "thinker"

    def __init__(self) -> None:
        self.requests: list[ModelRequest] = []

    async def stream(self, request: ModelRequest) -> AsyncGenerator[Piece | Answer, None]:
        self.requests.append(request)
        yield TextPiece(0, SAID)
        content = [ContentBlock(text=Text(text=SAID))]
        yield Answer(content, Usage(model_calls=1), StopReason.STOP_REASON_END_TURN, STATE)


@pytest.fixture
def thinker() -> Thinker:
    return Thinker()


@pytest.fixture
async def server(thinker: Thinker, tmp_path: Path) -> AsyncIterator[Served]:
    async with served({"chat": ChatAgent(thinker)}, tmp_path / "jobs.db") as server:
        yield server


def check_shown(*shown: Proto) -> None:
    """What was shown has the answer and not what belongs to it."""
    everything = b"".join(each.SerializeToString() for each in shown)
    assert SAID.encode() in everything
    assert STATE.blocks_json not in everything


async def frames(stream: Any) -> list[Proto]:
    return [frame async for frame in stream]


def ask(text: str) -> Message:
    return Message(role=Role.ROLE_USER, content=[ContentBlock(text=Text(text=text))])


async def test_no_response_shows_it(server: Served, thinker: Thinker, tmp_path: Path) -> None:
    create = run_pb2.CreateRunRequest(assistant_id="chat")
    create.input.messages.append(ask("Hello?"))
    live = await frames(server.runs.StreamRun(run_pb2.StreamRunRequest(run=create, until=DONE)))
    check_shown(*live)
    run = live[0].run  # type: ignore[attr-defined]
    thread_id = run.thread_id
    check_shown(await server.runs.GetRun(run_pb2.GetRunRequest(run_id=run.run_id)))
    check_shown(await server.runs.WaitRun(run_pb2.WaitRunRequest(run_id=run.run_id)))
    check_shown(await server.runs.ListRuns(run_pb2.ListRunsRequest(thread_id=thread_id)))
    for follow in (
        thread_pb2.StreamEventsRequest(thread_id=thread_id, until=DONE),
        thread_pb2.StreamEventsRequest(run_id=run.run_id, until=DONE),
    ):
        check_shown(*await frames(server.threads.StreamEvents(follow)))
    listing = thread_pb2.ListEventsRequest(thread_id=thread_id)
    check_shown(await server.threads.ListEvents(listing))
    newest = thread_pb2.ORDER_NEWEST_FIRST
    for order in (thread_pb2.ORDER_OLDEST_FIRST, newest):
        messages = thread_pb2.ListMessagesRequest(thread_id=thread_id, order=order)
        check_shown(await server.threads.ListMessages(messages))
    state = thread_pb2.GetThreadStateRequest(thread_id=thread_id)
    check_shown(await server.threads.GetThreadState(state))
    copy = await server.threads.CopyThread(thread_pb2.CopyThreadRequest(thread_id=thread_id))
    messages = thread_pb2.ListMessagesRequest(thread_id=copy.thread_id)
    check_shown(await server.threads.ListMessages(messages))
    # The log has it, and so has the next request.
    create.thread_id = thread_id
    await frames(server.runs.StreamRun(run_pb2.StreamRunRequest(run=create, until=DONE)))
    [answer] = [m for m in thinker.requests[-1].messages if m.role == Role.ROLE_ASSISTANT]
    assert answer.provider_state == STATE


async def test_no_job_shows_it(server: Served) -> None:
    home = await server.threads.CreateThread(thread_pb2.CreateThreadRequest())
    launch = job_pb2.LaunchJobRequest(
        assistant_id="chat", task="Think.", parent_thread_id=home.thread_id
    )
    job = await server.jobs.LaunchJob(launch)
    done = await server.jobs.WaitJobs(job_pb2.WaitJobsRequest(job_ids=[job.job_id]))
    check_shown(done)
    check_shown(await server.jobs.GetJob(job_pb2.GetJobRequest(job_id=job.job_id)))
    for begin in (0, 1):
        watch = job_pb2.WatchJobsRequest(job_id=job.job_id, until=DONE)
        if begin:
            watch.after_sequence = begin
        check_shown(*await frames(server.jobs.WatchJobs(watch)))


async def test_no_archive_has_it(server: Served, tmp_path: Path) -> None:
    create = run_pb2.CreateRunRequest(assistant_id="chat")
    create.input.messages.append(ask("Hello?"))
    create.wait.FromSeconds(30)
    run = await server.runs.CreateRun(create)
    store = server.app.engine.store

    def session(reader: Any) -> Any:
        return reader.thread(TENANT, run.thread_id).session

    await archive(store, tmp_path, await store.read(session))
    [file] = tmp_path.glob("*.jsonl")
    text = file.read_text()
    assert SAID in text and "provider" not in text.lower()


async def test_nobody_can_bring_it(server: Served, thinker: Thinker) -> None:
    create = run_pb2.CreateRunRequest(assistant_id="chat")
    create.input.messages.append(ask("Hello?"))
    create.input.messages[0].provider_state.CopyFrom(STATE)
    create.wait.FromSeconds(30)
    await server.runs.CreateRun(create)
    [request] = thinker.requests
    assert not any(message.HasField("provider_state") for message in request.messages)
