"""Requests that are wrong: refused with code, reason and fields, and nothing is written."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message as Proto
from google.protobuf.message_factory import GetMessageClass
from google.protobuf.struct_pb2 import ListValue, Struct, Value
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from callboard.v1 import assistant_pb2, job_pb2, run_pb2, server_pb2, thread_pb2
from callboard.v1.assistant_pb2 import (
    CreateAssistantRequest,
    DeleteAssistantRequest,
    GetAgentRequest,
    GetAssistantRequest,
    ListAssistantsRequest,
    ListAssistantVersionsRequest,
    SetCurrentVersionRequest,
    UpdateAssistantRequest,
)
from callboard.v1.error_pb2 import ErrorReason
from callboard.v1.job_pb2 import (
    BatchGetJobsRequest,
    CancelJobRequest,
    GetJobRequest,
    LaunchJobRequest,
    ListJobsRequest,
    UpdateJobRequest,
    WaitJobsRequest,
    WatchJobsRequest,
)
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard.v1.run_pb2 import (
    CancelRunRequest,
    CreateRunRequest,
    GetRunRequest,
    ListRunsRequest,
    RunInput,
    StreamRunRequest,
    WaitRunRequest,
)
from callboard.v1.server_pb2 import GetServerInfoRequest
from callboard.v1.thread_pb2 import (
    CompactThreadRequest,
    CopyThreadRequest,
    CreateThreadRequest,
    DeleteThreadRequest,
    GetThreadRequest,
    GetThreadStateRequest,
    ListActionsRequest,
    ListEventsRequest,
    ListMessagesRequest,
    ListNoticesRequest,
    ListThreadsRequest,
    ReadNoticesRequest,
    StreamEventsRequest,
    UpdateThreadRequest,
    UpdateThreadStateRequest,
)
from callboard_server import Context
from tests.rpc.refusals import DOMAIN, Refusal, read_refusal, refusal_of
from tests.support.gates import Gates
from tests.support.serving import Served, log_of, served
from tests.support.waiting import until

P = TypeVar("P", bound=Proto)
UNKNOWN = str(uuid.UUID(int=7))
NAME = FieldMask(paths=["name"])
REASONS = {name.removeprefix("ERROR_REASON_") for name in ErrorReason.keys()}  # noqa: SIM118
METHODS: dict[str, MethodDescriptor] = {
    f"/{service.full_name}/{method.name}": method
    for file in (assistant_pb2, job_pb2, run_pb2, server_pb2, thread_pb2)
    for service in file.DESCRIPTOR.services_by_name.values()
    for method in service.methods
}
PATHS = {method.input_type.full_name: path for path, method in METHODS.items()}


async def call(server: Served, request: Proto) -> object:
    """Sends a request to the method that takes it; of a stream, returns the first frame."""
    return await call_raw(
        server.channel, PATHS[request.DESCRIPTOR.full_name], request.SerializeToString()
    )


async def call_raw(channel: grpc.aio.Channel, path: str, data: bytes) -> object:
    method, raw = METHODS[path], cast(Any, channel)
    answer = GetMessageClass(method.output_type).FromString
    if not method.server_streaming:
        answered: object = await raw.unary_unary(path, response_deserializer=answer)(data)
        return answered
    stream = raw.unary_stream(path, response_deserializer=answer)(data)
    try:
        first: object = await stream.read()
        return first
    finally:
        stream.cancel()


@pytest.fixture
async def untouched(server: Served) -> AsyncIterator[str]:
    """A thread that is, like all the rest, as it was when the test is over."""
    thread = await server.client.threads.create("hello")
    job = await server.client.jobs.launch("quick", "job", parent_thread_id=thread.thread_id)
    await server.client.jobs.wait(job.job_id)
    before = await _state(server, thread.thread_id)
    yield thread.thread_id
    assert await _state(server, thread.thread_id) == before


async def _state(server: Served, thread_id: str) -> list[object]:
    info = await server.server.GetServerInfo(GetServerInfoRequest())
    info.counts.ClearField("streams_open")
    return [info.counts, await log_of(server.client, thread_id)]


def invalid(*fields: str) -> Refusal:
    return Refusal("INVALID_ARGUMENT", "FIELD_INVALID", fields=list(fields))


def missing(what: str) -> Refusal:
    return Refusal("NOT_FOUND", f"{what}_NOT_FOUND")


def check(found: Refusal, expected: Refusal) -> None:
    assert (found.code, found.reason, found.fields, found.domain) == (
        expected.code,
        expected.reason,
        expected.fields,
        DOMAIN,
    ), found


def message(role: int = Role.ROLE_USER, text: str = "hi", **fields: Any) -> Message:
    return Message(
        role=Role.ValueType(role), content=[ContentBlock(text=Text(text=text))], **fields
    )


def struct(value: Value) -> Struct:
    return Struct(fields={"a": value})


def nested(depth: int) -> Struct:
    """A Struct of so many levels."""
    made = Struct()
    for _ in range(depth - 1):
        made = struct(Value(struct_value=made))
    return made


def number(value: float) -> Struct:
    return struct(Value(number_value=value))


IDS: list[tuple[Callable[[str], Proto], str, str]] = [
    (lambda i: GetRunRequest(run_id=i), "run_id", "RUN"),
    (lambda i: CancelRunRequest(run_id=i), "run_id", "RUN"),
    (lambda i: WaitRunRequest(run_id=i), "run_id", "RUN"),
    (lambda i: StreamEventsRequest(run_id=i), "run_id", "RUN"),
    (lambda i: StreamEventsRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: GetThreadRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: UpdateThreadRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: DeleteThreadRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: GetThreadStateRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: CopyThreadRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: CompactThreadRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: ListMessagesRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: ListEventsRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: ListActionsRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: ListNoticesRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: ReadNoticesRequest(thread_id=i, notice_ids=[UNKNOWN]), "thread_id", "THREAD"),
    (lambda i: ListRunsRequest(thread_id=i), "thread_id", "THREAD"),
    (lambda i: ListThreadsRequest(session_id=i), "session_id", "THREAD"),
    (lambda i: ListJobsRequest(parent_thread_id=i), "parent_thread_id", "THREAD"),
    (lambda i: WatchJobsRequest(parent_thread_id=i), "parent_thread_id", "THREAD"),
    (
        lambda i: LaunchJobRequest(assistant_id="quick", task="t", parent_thread_id=i),
        "parent_thread_id",
        "THREAD",
    ),
    (lambda i: CreateRunRequest(assistant_id="quick", thread_id=i), "thread_id", "THREAD"),
    (
        lambda i: StreamRunRequest(run=CreateRunRequest(assistant_id="quick", thread_id=i)),
        "run.thread_id",
        "THREAD",
    ),
    (
        lambda i: UpdateThreadStateRequest(thread_id=i, messages=[message()]),
        "thread_id",
        "THREAD",
    ),
]


@pytest.mark.parametrize(("make", "field", "kind"), IDS)
async def test_an_id_that_is_unknown_or_malformed(
    server: Served, untouched: str, make: Callable[[str], Proto], field: str, kind: str
) -> None:
    check(await refusal_of(call(server, make(UNKNOWN))), missing(kind))
    for malformed in ("nonsense", untouched[:8], untouched.upper(), f"{{{untouched}}}", "é" * 5000):
        check(await refusal_of(call(server, make(malformed))), invalid(field))


JOB_IDS: list[Callable[[str], Proto]] = [
    lambda i: GetJobRequest(job_id=i),
    lambda i: CancelJobRequest(job_id=i),
    lambda i: UpdateJobRequest(job_id=i, instructions="more"),
    lambda i: WatchJobsRequest(job_id=i),
]


@pytest.mark.parametrize("make", JOB_IDS)
async def test_a_job_id_that_is_unknown_or_shortened(
    server: Served, untouched: str, make: Callable[[str], Proto]
) -> None:
    [job] = [job async for job in server.client.jobs.list()]
    for wrong in (UNKNOWN, untouched, "%%%%%%", "________", "x' OR 1=1 --"):
        found = await refusal_of(call(server, make(wrong)))
        check(found, missing("JOB"))
        assert found.metadata == {}
    shortened = await refusal_of(call(server, make(job.job_id[:8])))
    check(shortened, missing("JOB"))
    assert shortened.metadata == {"suggestion": job.job_id}
    assert job.job_id in shortened.message
    assert (await refusal_of(call(server, make("x" * 100_000)))).code in (
        "INVALID_ARGUMENT",
        "NOT_FOUND",
    )


async def test_job_ids_in_lists(server: Served, untouched: str) -> None:
    check(
        await refusal_of(call(server, WaitJobsRequest(job_ids=[UNKNOWN]))),
        missing("JOB"),
    )
    batch = await server.jobs.BatchGetJobs(BatchGetJobsRequest(job_ids=[UNKNOWN]))
    assert list(batch.missing_job_ids) == [UNKNOWN]
    for ids in ([], [UNKNOWN] * 1001):
        for request in (WaitJobsRequest(job_ids=ids), BatchGetJobsRequest(job_ids=ids)):
            check(await refusal_of(call(server, request)), invalid("job_ids"))


@pytest.mark.parametrize(
    "make",
    [
        lambda i: CreateRunRequest(assistant_id=i),
        lambda i: StreamRunRequest(run=CreateRunRequest(assistant_id=i)),
        lambda i: LaunchJobRequest(assistant_id=i, task="t"),
        lambda i: GetAssistantRequest(assistant_id=i),
        lambda i: UpdateAssistantRequest(assistant_id=i, update_mask=NAME),
        lambda i: DeleteAssistantRequest(assistant_id=i),
        lambda i: ListAssistantVersionsRequest(assistant_id=i),
        lambda i: SetCurrentVersionRequest(assistant_id=i, version=1),
    ],
)
async def test_an_unknown_assistant_names_the_agents_that_exist(
    server: Served, untouched: str, make: Callable[[str], Proto]
) -> None:
    for wrong in ("qick", UNKNOWN, "é" * 50_000):
        found = await refusal_of(call(server, make(wrong)))
        check(found, missing("ASSISTANT"))
        assert found.metadata == {"agents": "quick, stubborn, worker"}


async def test_an_unknown_agent_names_those_that_exist(server: Served, untouched: str) -> None:
    for request in (GetAgentRequest(name="x" * 100_000), CreateAssistantRequest(agent="nobody")):
        found = await refusal_of(call(server, request))
        check(found, missing("AGENT"))
        assert found.metadata == {"agents": "quick, stubborn, worker"}


def of(kind: type[P], **fields: Any) -> P:
    """Makes a request, also with numbers that its enums do not have."""
    return kind(**fields)


def run(**fields: Any) -> CreateRunRequest:
    return CreateRunRequest(assistant_id="quick", **fields)


def job(**fields: Any) -> LaunchJobRequest:
    return LaunchJobRequest(**{"assistant_id": "quick", "task": "t", **fields})


WRONG_FIELDS: list[tuple[Proto, list[str]]] = [
    (job(task=""), ["task"]),
    (job(task=" \n"), ["task"]),
    (job(assistant_id=""), ["assistant_id"]),
    (job(context=9), ["context"]),
    (job(context=2), ["context"]),
    (job(notify=9), ["notify"]),
    (job(ttl=Duration(seconds=-1)), ["ttl"]),
    (job(timeout=Duration()), ["timeout"]),
    (job(timeout=Duration(seconds=1 << 40)), ["timeout"]),
    (job(pass_values=["a"]), ["pass_values"]),
    (job(labels={"": "x"}), ["labels"]),
    (job(labels={"k" * 64: "x"}), ["labels"]),
    (job(labels={"k": "x" * 256}), ["labels.k"]),
    (job(labels={str(n): "" for n in range(33)}), ["labels"]),
    (job(task_data=number(float("nan"))), ["task_data.a"]),
    (job(config=number(float("inf"))), ["config.a"]),
    (job(request_id="x" * 129), ["request_id"]),
    (of(UpdateJobRequest, job_id=UNKNOWN), ["instructions"]),
    (of(UpdateJobRequest, job_id=UNKNOWN, instructions="x", delivery=7), ["delivery"]),
    (of(UpdateJobRequest, instructions="x"), ["job_id"]),
    (GetJobRequest(), ["job_id"]),
    (CancelJobRequest(), ["job_id"]),
    (of(WaitJobsRequest, job_ids=[UNKNOWN], mode=9), ["mode"]),
    (of(WaitJobsRequest, job_ids=[UNKNOWN], timeout=Duration(seconds=601)), ["timeout"]),
    (WatchJobsRequest(), ["parent_thread_id"]),
    (of(WatchJobsRequest, job_id=UNKNOWN, parent_thread_id=UNKNOWN), ["parent_thread_id"]),
    (of(WatchJobsRequest, job_id=UNKNOWN, until=9), ["until"]),
    (of(WatchJobsRequest, job_id=UNKNOWN, after_sequence=-1), ["after_sequence"]),
    (of(WatchJobsRequest, job_id=UNKNOWN, scope=9), ["scope"]),
    (of(ListJobsRequest, states=[99]), ["states[0]"]),
    (of(ListJobsRequest, parent_thread_id=UNKNOWN, scope=9), ["scope"]),
    (of(ListJobsRequest, scope=2), ["scope"]),
    (of(ListJobsRequest, view=9), ["view"]),
    (run(multitask_strategy=17), ["multitask_strategy"]),
    (run(pending_actions=17), ["pending_actions"]),
    (run(pending_actions=2), ["pending_actions"]),
    (run(timeout=Duration(seconds=-5)), ["timeout"]),
    (
        of(StreamRunRequest, run=run(), cancel_after_detach=Duration()),
        ["cancel_after_detach"],
    ),
    (run(start_after=Timestamp(seconds=1 << 60)), ["start_after"]),
    (run(start_after=Timestamp(nanos=-1)), ["start_after"]),
    (run(additional_instructions="x" * 100_001), ["additional_instructions"]),
    (run(request_id="x" * 129), ["request_id"]),
    (run(input=RunInput(messages=[message(0)])), ["input.messages[0].role"]),
    (run(input=RunInput(messages=[message(3)])), ["input.messages[0].role"]),
    (run(input=RunInput(messages=[message(9)])), ["input.messages[0].role"]),
    (
        run(input=RunInput(messages=[message(), message(message_id="x")])),
        ["input.messages[1].message_id"],
    ),
    (run(input=RunInput(messages=[Message(role=Role.ROLE_USER)])), ["input.messages[0].content"]),
    (
        run(input=RunInput(messages=[Message(role=Role.ROLE_USER, content=[ContentBlock()])])),
        ["input.messages[0].content[0]"],
    ),
    (run(input=RunInput(values=number(2.0**53 + 2))), ["input.values.a"]),
    (run(config=number(-(2.0**60))), ["config.a"]),
    (run(metadata=nested(33)), ["metadata" + ".a" * 32]),
    (run(thread_metadata=number(float("nan"))), ["thread_metadata.a"]),
    (of(StreamRunRequest, run=run(), until=8), ["until"]),
    (of(StreamRunRequest, run=run(multitask_strategy=17)), ["run.multitask_strategy"]),
    (of(WaitRunRequest, run_id=UNKNOWN, until=1), ["until"]),
    (of(WaitRunRequest, run_id=UNKNOWN, until=9), ["until"]),
    (of(WaitRunRequest, run_id=UNKNOWN, timeout=Duration(seconds=601)), ["timeout"]),
    (of(ListRunsRequest, states=[1, 44]), ["states[1]"]),
    (of(CreateThreadRequest, thread_id="mine"), ["thread_id"]),
    (of(CreateThreadRequest, ttl=Duration(seconds=-1)), ["ttl"]),
    (of(CreateThreadRequest, metadata=nested(33)), ["metadata" + ".a" * 32]),
    (of(CreateThreadRequest, messages=[message(0)]), ["messages[0].role"]),
    (of(CreateThreadRequest, request_id="x" * 129), ["request_id"]),
    (of(ListThreadsRequest, state=9), ["state"]),
    (of(UpdateThreadRequest, thread_id=UNKNOWN, metadata=number(float("inf"))), ["metadata.a"]),
    (of(GetThreadStateRequest, thread_id=UNKNOWN, message_limit=10_001), ["message_limit"]),
    (of(GetThreadStateRequest, thread_id=UNKNOWN, at_sequence=-1), ["at_sequence"]),
    (of(CopyThreadRequest, thread_id=UNKNOWN, at_sequence=-1), ["at_sequence"]),
    (of(CopyThreadRequest, thread_id=UNKNOWN, metadata=nested(33)), ["metadata" + ".a" * 32]),
    (of(CopyThreadRequest, thread_id=UNKNOWN, request_id="x" * 129), ["request_id"]),
    (of(CompactThreadRequest, thread_id=UNKNOWN, request_id="x" * 129), ["request_id"]),
    (of(ListMessagesRequest, thread_id=UNKNOWN, order=5), ["order"]),
    (of(UpdateThreadStateRequest, thread_id=UNKNOWN), ["messages"]),
    (of(ListEventsRequest, thread_id=UNKNOWN, kinds=[1]), ["kinds[0]"]),
    (of(ListEventsRequest, thread_id=UNKNOWN, kinds=[20], preset=1), ["preset"]),
    (of(ListEventsRequest, thread_id=UNKNOWN, scope=4), ["scope"]),
    (of(ListEventsRequest, thread_id=UNKNOWN, after_sequence=-1), ["after_sequence"]),
    (StreamEventsRequest(), ["thread_id"]),
    (of(StreamEventsRequest, thread_id=UNKNOWN, run_id=UNKNOWN), ["thread_id"]),
    (of(StreamEventsRequest, thread_id=UNKNOWN, preset=7), ["preset"]),
    (of(StreamEventsRequest, thread_id=UNKNOWN, after_sequence=-1), ["after_sequence"]),
    (GetThreadRequest(), ["thread_id"]),
    (GetAgentRequest(), ["name"]),
    (GetAssistantRequest(), ["assistant_id"]),
    (of(GetAssistantRequest, assistant_id="quick", version=-1), ["version"]),
    (CreateAssistantRequest(), ["agent"]),
    (of(CreateAssistantRequest, agent="quick", assistant_id="x"), ["assistant_id"]),
    (of(CreateAssistantRequest, agent="quick", name="x" * 256), ["name"]),
    (of(CreateAssistantRequest, agent="quick", config=nested(33)), ["config" + ".a" * 32]),
    (UpdateAssistantRequest(), ["assistant_id", "update_mask"]),
    (
        UpdateAssistantRequest(
            assistant_id=UNKNOWN,
            update_mask=FieldMask(
                paths=[
                    "name",
                    "config.a.b",
                    "agent",
                    "*",
                    "",
                    "name.a",
                    "config.",
                    "metadata..a",
                    "config" + ".a" * 33,
                ]
            ),
            request_id="x" * 129,
        ),
        [*(f"update_mask.paths[{n}]" for n in range(2, 9)), "request_id"],
    ),
    (DeleteAssistantRequest(), ["assistant_id"]),
    (ListAssistantVersionsRequest(), ["assistant_id"]),
    (of(ListAssistantVersionsRequest, assistant_id="quick", page_size=-1), ["page_size"]),
    (SetCurrentVersionRequest(), ["assistant_id", "version"]),
    *(
        (kind(page_size=-1), ["page_size"])
        for kind in (ListJobsRequest, ListRunsRequest, ListThreadsRequest, ListAssistantsRequest)
    ),
    (of(ListMessagesRequest, thread_id=UNKNOWN, page_size=-1), ["page_size"]),
    (of(ListEventsRequest, thread_id=UNKNOWN, page_size=-1), ["page_size"]),
    (of(ListActionsRequest, page_size=-1), ["page_size"]),
    (of(ListNoticesRequest, thread_id=UNKNOWN, page_size=-1), ["page_size"]),
    (of(ReadNoticesRequest, thread_id=UNKNOWN), ["notice_ids"]),
    (of(ReadNoticesRequest, thread_id=UNKNOWN, notice_ids=["x"]), ["notice_ids[0]"]),
]


@pytest.mark.parametrize(
    ("request_", "fields"),
    WRONG_FIELDS,
    ids=[f"{r.DESCRIPTOR.name}-{f[0][:40]}-{n}" for n, (r, f) in enumerate(WRONG_FIELDS)],
)
async def test_a_wrong_field_is_named(
    server: Served, untouched: str, request_: Proto, fields: list[str]
) -> None:
    check(await refusal_of(call(server, request_)), invalid(*fields))


async def test_all_wrong_fields_are_named_at_once(server: Served, untouched: str) -> None:
    request = of(LaunchJobRequest, context=9, config=number(float("nan")), request_id="x" * 200)
    found = await refusal_of(call(server, request))
    check(found, invalid("assistant_id", "task", "context", "config.a", "request_id"))


async def test_a_flood_of_wrong_fields_is_refused_in_few_words(
    server: Served, untouched: str
) -> None:
    many = Struct(fields={f"{'é' * 900}{n}": Value(number_value=float("nan")) for n in range(1000)})
    for request in (
        CreateThreadRequest(metadata=many),
        BatchGetJobsRequest(job_ids=["日" * 1000] * 1000),
        ListJobsRequest(labels={"é" * 5000: "日" * 5000}),
    ):
        found = await refusal_of(call(server, request))
        assert (found.code, found.reason) == ("INVALID_ARGUMENT", "FIELD_INVALID")
        assert found.fields


@pytest.mark.parametrize("depth", [1, 32])
async def test_a_struct_may_be_nested_up_to_the_bound(server: Served, depth: int) -> None:
    made = await server.threads.CreateThread(CreateThreadRequest(metadata=nested(depth)))
    assert made.metadata == nested(depth)
    listed = await server.threads.ListThreads(ListThreadsRequest(metadata=nested(depth)))
    assert len(listed.threads) == 1


async def test_lists_count_as_levels(server: Served, untouched: str) -> None:
    value = Value(number_value=1)
    for _ in range(40):
        value = Value(list_value=ListValue(values=[value]))
    found = await refusal_of(call(server, CreateThreadRequest(metadata=struct(value))))
    assert (found.code, found.reason, len(found.fields)) == ("INVALID_ARGUMENT", "FIELD_INVALID", 1)


def _deep_struct(depth: int) -> bytes:
    """CreateThreadRequest with metadata nested so deep that protobuf itself refuses it."""

    def tagged(tag: int, data: bytes) -> bytes:
        length, size = b"", len(data)
        while size >= 0x80:
            length += bytes([size & 0x7F | 0x80])
            size >>= 7
        return bytes([tag]) + length + bytes([size]) + data

    inner = b""
    for _ in range(depth):
        value = tagged(0x2A, inner)
        inner = tagged(0x0A, tagged(0x0A, b"a") + tagged(0x12, value))
    number = CreateThreadRequest.DESCRIPTOR.fields_by_name["metadata"].number
    return tagged(number << 3 | 2, inner)


@pytest.mark.parametrize(
    "data", [_deep_struct(5000), b"\xff", b"\x0a\x05abc", b"\x0a\x02\xff\xfe", b"\x0b" * 500]
)
async def test_bytes_that_are_no_message(server: Served, untouched: str, data: bytes) -> None:
    for path in METHODS:
        if "List" in path or "GetServerInfo" in path or len(data) > 1000:
            # For some of these it is a field that they do not know, which is no fault.
            continue
        found = await refusal_of(call_raw(server.channel, path, data))
        assert found.code == "INVALID_ARGUMENT", path
        assert found.reason in ("REQUEST_UNDECODABLE", "FIELD_INVALID"), path
    path = PATHS[CreateThreadRequest.DESCRIPTOR.full_name]
    assert (await refusal_of(call_raw(server.channel, path, data))).reason == "REQUEST_UNDECODABLE"


async def test_requests_that_are_too_large(server: Served) -> None:
    limit = (await server.client.server.info()).limits.message_bytes
    path = PATHS[CreateThreadRequest.DESCRIPTOR.full_name]
    # Of the SDK's channel, which would not even send it, there is nothing to learn.
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        for excess in (10, 2 << 20):
            request = CreateThreadRequest(messages=[message(text="x" * (limit + excess))])
            found = await refusal_of(call_raw(channel, path, request.SerializeToString()))
            assert found.code == "RESOURCE_EXHAUSTED"
            if excess == 10:
                assert found.reason == "REQUEST_TOO_LARGE"
                assert found.metadata["limit"] == str(limit)
                assert int(found.metadata["size"]) > limit
    assert (await server.client.server.info()).counts.sessions == 0


async def test_a_message_larger_than_an_event_may_be(server: Served, untouched: str) -> None:
    huge = message(text="x" * (5 << 20))
    for request in (
        CreateThreadRequest(messages=[huge]),
        run(input=RunInput(messages=[huge])),
        UpdateThreadStateRequest(thread_id=untouched, messages=[huge]),
    ):
        found = await refusal_of(call(server, request))
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE")


async def test_data_larger_than_an_event_may_be(server: Served, untouched: str) -> None:
    huge = struct(Value(string_value="x" * (5 << 20)))
    for request in (
        CreateThreadRequest(metadata=huge),
        CreateThreadRequest(values=huge),
        run(config=huge),
        run(metadata=huge),
        run(thread_metadata=huge),
        run(input=RunInput(values=huge)),
        job(task_data=huge),
        job(config=huge),
        UpdateThreadRequest(thread_id=untouched, metadata=huge),
        UpdateThreadStateRequest(thread_id=untouched, values=huge),
        CreateAssistantRequest(agent="quick", config=huge),
    ):
        found = await refusal_of(call(server, request))
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE"), (
            request.DESCRIPTOR
        )


async def test_values_may_not_grow_beyond_an_event(server: Served) -> None:
    thread = (await server.client.threads.create()).thread_id
    part = "x" * (1 << 20)
    for number in range(3):
        await server.client.threads.update_state(thread, values={f"part {number}": part})
    before = await log_of(server.client, thread)
    request = UpdateThreadStateRequest(
        thread_id=thread, values=Struct(fields={"last": Value(string_value=part)})
    )
    found = await refusal_of(call(server, request))
    assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE")
    assert await log_of(server.client, thread) == before


async def test_an_answer_that_does_not_fit_is_refused_in_words(tmp_path: Path) -> None:
    async def verbose(ctx: Context) -> str:
        return "x" * 4_000_000

    async with served([verbose], tmp_path / "jobs.db") as server:
        jobs = [await server.client.jobs.launch("verbose", "speak") for _ in range(5)]
        ids = [job.job_id for job in jobs]
        for job_id in ids:
            await server.client.jobs.wait(job_id)
        found = await refusal_of(call(server, BatchGetJobsRequest(job_ids=ids)))
        assert (found.code, found.reason) == ("RESOURCE_EXHAUSTED", "REQUEST_TOO_LARGE")
        assert "the answer takes" in found.message
        assert len((await server.client.jobs.batch_get(ids[:2])).jobs) == 2


async def test_answers_fit_into_the_largest_message(server: Served) -> None:
    thread = (await server.client.threads.create()).thread_id
    for _ in range(20):
        await server.client.threads.update_state(thread, "x" * (1 << 20))
    assert len(await log_of(server.client, thread)) == 21
    messages = [m async for m in server.client.threads.messages(thread)]
    assert len(messages) == 20
    state = await server.client.threads.state(thread)
    assert 0 < len(state.messages) <= 20
    assert state.message_count == 20


# Pages


async def test_pages_hold_each_row_once(server: Served) -> None:
    thread = (await server.client.threads.create([f"m{n}" for n in range(7)])).thread_id
    jobs = [
        await server.client.jobs.launch("quick", f"{n}", parent_thread_id=thread, notify="none")
        for n in range(7)
    ]
    for size in (1, 3, 7, 1000, 2_000_000_000):
        listed = [j.job_id async for j in server.client.jobs.list(page_size=size)]
        assert listed == [j.job_id for j in reversed(jobs)]
        messages = server.client.threads.messages(thread, page_size=size)
        assert len([m async for m in messages]) == 7
        events = [e.sequence async for e in server.client.threads.events(thread, page_size=size)]
        assert events == list(range(1, 9))


async def test_a_page_token_fits_only_its_own_list(server: Served) -> None:
    other = (await server.client.threads.create()).thread_id
    thread = (await server.client.threads.create(["a", "b", "c"])).thread_id
    for _ in range(3):
        await server.client.jobs.launch("quick", "go", parent_thread_id=thread)
    first = await server.jobs.ListJobs(ListJobsRequest(parent_thread_id=thread, page_size=1))
    token = first.next_page_token
    messages = await server.threads.ListMessages(ListMessagesRequest(thread_id=thread, page_size=1))
    for request in (
        ListJobsRequest(page_token=token),
        ListJobsRequest(parent_thread_id=other, page_token=token),
        of(ListJobsRequest, parent_thread_id=thread, states=[1], page_token=token),
        ListJobsRequest(parent_thread_id=thread, labels={"a": "b"}, page_token=token),
        of(ListJobsRequest, parent_thread_id=thread, scope=2, page_token=token),
        of(ListJobsRequest, parent_thread_id=thread, view=1, page_token=token),
        ListRunsRequest(thread_id=thread, page_token=token),
        ListThreadsRequest(page_token=token),
        ListAssistantsRequest(page_token="nonsense"),
        ListMessagesRequest(thread_id=thread, page_token=token),
        of(ListMessagesRequest, thread_id=thread, order=2, page_token=messages.next_page_token),
        ListActionsRequest(page_token="é"),
        ListNoticesRequest(thread_id=thread, page_token=token),
        ListJobsRequest(parent_thread_id=thread, page_token=token[:-1]),
        ListJobsRequest(parent_thread_id=thread, page_token=token[:10] + token[10:].swapcase()),
        ListJobsRequest(parent_thread_id=thread, page_token="\0"),
    ):
        check(
            await refusal_of(call(server, request)),
            Refusal("INVALID_ARGUMENT", "PAGE_TOKEN_INVALID"),
        )
    again = ListJobsRequest(parent_thread_id=thread, page_size=2, page_token=token)
    assert len((await server.jobs.ListJobs(again)).jobs) == 2


# request_id


async def test_a_request_id_with_other_content_is_refused(server: Served) -> None:
    thread = (await server.client.threads.create()).thread_id
    for first, other in (
        (job(request_id="a"), job(request_id="a", task="other")),
        (run(request_id="a", thread_id=thread), run(request_id="a")),
        (
            CreateThreadRequest(request_id="a"),
            CreateThreadRequest(request_id="a", metadata=number(1)),
        ),
        (
            UpdateThreadStateRequest(thread_id=thread, messages=[message()], request_id="a"),
            UpdateThreadStateRequest(thread_id=thread, messages=[message(2)], request_id="a"),
        ),
        (
            CreateAssistantRequest(agent="quick", request_id="a"),
            CreateAssistantRequest(agent="worker", request_id="a"),
        ),
    ):
        answer = await call(server, first)
        before = [run.run_id async for run in server.client.runs.list()]
        assert await call(server, first) == answer
        check(await refusal_of(call(server, other)), Refusal("ALREADY_EXISTS", "REQUEST_ID_REUSED"))
        assert [run.run_id async for run in server.client.runs.list()] == before


@pytest.mark.parametrize(
    "request_",
    [
        job(request_id="once"),
        run(request_id="once"),
        CreateThreadRequest(request_id="once"),
    ],
)
async def test_twenty_callers_with_one_request_id_have_one_effect(
    server: Served, request_: Proto
) -> None:
    answers = await asyncio.gather(*(call(server, request_) for _ in range(20)))
    assert all(answer == answers[0] for answer in answers)
    counts = (await server.client.server.info()).counts
    assert (counts.sessions, counts.threads) == (1, 1)

    async def all_free() -> bool:
        return not (await server.client.server.info()).counts.slots_used

    await until(all_free)


async def test_a_repeated_stream_of_a_run_joins_it(server: Served, gates: Gates) -> None:
    request = StreamRunRequest(
        run=run(request_id="once", input=RunInput(messages=[message(text="joined")]))
    )
    frames = [await server.runs.StreamRun(request).read() for _ in range(5)]
    ids = {frame.run.run_id for frame in frames if isinstance(frame, run_pb2.EventFrame)}
    assert len(ids) == 1
    assert gates.order == ["joined"]


# What is not there


async def test_a_method_that_the_contract_does_not_have(server: Served) -> None:
    call_ = cast(Any, server.channel).unary_unary("/callboard.v1.JobService/PaintJob")
    assert (await refusal_of(call_(b""))).code == "UNIMPLEMENTED"


# Noise


CODES = {
    "INVALID_ARGUMENT",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "ABORTED",
    "FAILED_PRECONDITION",
    "OUT_OF_RANGE",
    "RESOURCE_EXHAUSTED",
    "UNIMPLEMENTED",
}


def test_random_bytes_are_answered_as_documented(tmp_path: Path) -> None:
    loop = asyncio.new_event_loop()
    opened = served([], tmp_path / "noise.db")
    server = loop.run_until_complete(opened.__aenter__())

    @settings(
        max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True
    )
    @given(st.sampled_from(sorted(METHODS)), st.one_of(st.binary(max_size=60), _messages()))
    def noise(path: str, data: bytes) -> None:
        if path.endswith(("WaitRun", "WaitJobs")):
            return
        loop.run_until_complete(answered(server.channel, path, data))

    async def answered(channel: grpc.aio.Channel, path: str, data: bytes) -> None:
        try:
            async with asyncio.timeout(5):
                await call_raw(channel, path, data)
        except grpc.aio.AioRpcError as error:
            found = read_refusal(error)
            assert found.code in CODES, (path, data, found)
            assert found.reason in REASONS, (path, data, found)
            assert found.domain == DOMAIN

    try:
        noise()
    finally:
        loop.run_until_complete(opened.__aexit__(None, None, None))
        loop.close()


def _messages() -> st.SearchStrategy[bytes]:
    """Bytes that have the shape of a message: tags, lengths and values."""
    number = st.integers(1, 15)
    varint = st.integers(0, 127).map(lambda n: bytes([n]))
    text = st.one_of(st.just(UNKNOWN.encode()), st.binary(max_size=40))
    fields = st.one_of(
        st.tuples(number, varint).map(lambda f: bytes([f[0] << 3]) + f[1]),
        st.tuples(number, text).map(lambda f: bytes([f[0] << 3 | 2, len(f[1])]) + f[1]),
    )
    return st.lists(fields, max_size=6).map(b"".join)
