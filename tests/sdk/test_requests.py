"""Every method of both clients sends what it was given, with a deadline."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message as ProtoMessage
from google.protobuf.timestamp_pb2 import Timestamp

import callboard
from callboard.structs import to_struct
from callboard.v1 import assistant_pb2, event_pb2, job_pb2, lifecycle_pb2, run_pb2, thread_pb2
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard.v1.server_pb2 import GetServerInfoRequest
from tests.sdk.conftest import Either
from tests.sdk.scripted import METHODS, ScriptedServer

HELLO = Message(role=Role.ROLE_USER, content=[ContentBlock(text=Text(text="hello"))])
SYSTEM = Message(
    role=Role.ROLE_SYSTEM, content=[ContentBlock(text=Text(text="be brief"))], author="ann"
)
ALLOW = event_pb2.ActionResponse(action_id="a", permission=event_pb2.Permission(allow=True))
NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)

RUN_ARGUMENTS: dict[str, Any] = {
    "thread_id": "t",
    "values": {"n": 1},
    "config": {"model": "m"},
    "additional_instructions": "Be brief.",
    "multitask_strategy": "reject",
    "pending_actions": "cancel",
    "expected_thread_sequence": 0,
    "timeout": 1.5,
    "start_after": NOON,
    "metadata": {"k": "v"},
    "thread_metadata": {"k": "w"},
    "request_id": "r",
}
RUN_REQUEST = run_pb2.CreateRunRequest(
    thread_id="t",
    assistant_id="bot",
    input=run_pb2.RunInput(messages=[HELLO], values=to_struct({"n": 1})),
    config=to_struct({"model": "m"}),
    additional_instructions="Be brief.",
    multitask_strategy=lifecycle_pb2.MULTITASK_STRATEGY_REJECT,
    pending_actions=lifecycle_pb2.PENDING_ACTIONS_CANCEL,
    expected_thread_sequence=0,
    timeout=Duration(seconds=1, nanos=500_000_000),
    start_after=Timestamp(seconds=int(NOON.timestamp())),
    metadata=to_struct({"k": "v"}),
    request_id="r",
    thread_metadata=to_struct({"k": "w"}),
)

CASES: list[tuple[str, Callable[[Any], Any], ProtoMessage]] = [
    ("ListAgents", lambda c: c.assistants.list_agents(), assistant_pb2.ListAgentsRequest()),
    (
        "GetAgent",
        lambda c: c.assistants.get_agent("bot"),
        assistant_pb2.GetAgentRequest(name="bot"),
    ),
    (
        "CreateAssistant",
        lambda c: c.assistants.create(
            "bot",
            name="Bob",
            description="helps",
            config={"model": "m"},
            metadata={"k": "v"},
            assistant_id="a",
            request_id="r",
        ),
        assistant_pb2.CreateAssistantRequest(
            assistant_id="a",
            agent="bot",
            name="Bob",
            description="helps",
            config=to_struct({"model": "m"}),
            metadata=to_struct({"k": "v"}),
            request_id="r",
        ),
    ),
    (
        "GetAssistant",
        lambda c: c.assistants.get("a", version=2),
        assistant_pb2.GetAssistantRequest(assistant_id="a", version=2),
    ),
    (
        "ListAssistants",
        lambda c: c.assistants.list(agent="bot", metadata={"k": "v"}, default=False, page_size=7),
        assistant_pb2.ListAssistantsRequest(
            agent="bot", metadata=to_struct({"k": "v"}), default=False, page_size=7
        ),
    ),
    (
        "UpdateAssistant",
        lambda c: c.assistants.update(
            "a", name="Bob", config={}, metadata={"k": "v"}, etag="e", request_id="r"
        ),
        assistant_pb2.UpdateAssistantRequest(
            assistant_id="a",
            assistant=assistant_pb2.Assistant(
                name="Bob", config=to_struct({}), metadata=to_struct({"k": "v"})
            ),
            update_mask=FieldMask(paths=["name", "config", "metadata"]),
            etag="e",
            request_id="r",
        ),
    ),
    (
        "UpdateAssistant",
        lambda c: c.assistants.update(
            "a",
            description="d",
            config={"model": "m"},
            update_mask=["config.model"],
            request_id="r",
        ),
        assistant_pb2.UpdateAssistantRequest(
            assistant_id="a",
            assistant=assistant_pb2.Assistant(description="d", config=to_struct({"model": "m"})),
            update_mask=FieldMask(paths=["config.model"]),
            request_id="r",
        ),
    ),
    (
        "DeleteAssistant",
        lambda c: c.assistants.delete("a", etag="e"),
        assistant_pb2.DeleteAssistantRequest(assistant_id="a", etag="e"),
    ),
    (
        "ListAssistantVersions",
        lambda c: c.assistants.versions("a", page_size=3),
        assistant_pb2.ListAssistantVersionsRequest(assistant_id="a", page_size=3),
    ),
    (
        "SetCurrentVersion",
        lambda c: c.assistants.set_current_version("a", 3),
        assistant_pb2.SetCurrentVersionRequest(assistant_id="a", version=3),
    ),
    (
        "CreateThread",
        lambda c: c.threads.create(
            ["hello", {"role": "system", "content": "be brief", "author": "ann"}],
            thread_id="t",
            values={"n": 1},
            metadata={"k": "v"},
            ttl=timedelta(hours=1),
            request_id="r",
        ),
        thread_pb2.CreateThreadRequest(
            thread_id="t",
            messages=[HELLO, SYSTEM],
            values=to_struct({"n": 1}),
            metadata=to_struct({"k": "v"}),
            ttl=Duration(seconds=3600),
            request_id="r",
        ),
    ),
    ("GetThread", lambda c: c.threads.get("t"), thread_pb2.GetThreadRequest(thread_id="t")),
    (
        "ListThreads",
        lambda c: c.threads.list(metadata={"k": "v"}, state="busy", session_id="s", page_size=7),
        thread_pb2.ListThreadsRequest(
            metadata=to_struct({"k": "v"}),
            state=thread_pb2.Thread.STATE_BUSY,
            session_id="s",
            page_size=7,
        ),
    ),
    (
        "UpdateThread",
        lambda c: c.threads.update("t", metadata={"k": None}, ttl=0, etag="e"),
        thread_pb2.UpdateThreadRequest(
            thread_id="t", metadata=to_struct({"k": None}), ttl=Duration(), etag="e"
        ),
    ),
    (
        "DeleteThread",
        lambda c: c.threads.delete("t"),
        thread_pb2.DeleteThreadRequest(thread_id="t"),
    ),
    (
        "CopyThread",
        lambda c: c.threads.copy("t", at_sequence=0, metadata={"k": "v"}, request_id="r"),
        thread_pb2.CopyThreadRequest(
            thread_id="t", at_sequence=0, metadata=to_struct({"k": "v"}), request_id="r"
        ),
    ),
    (
        "GetThreadState",
        lambda c: c.threads.state("t", at_sequence=4, message_limit=-1),
        thread_pb2.GetThreadStateRequest(thread_id="t", at_sequence=4, message_limit=-1),
    ),
    (
        "ListMessages",
        lambda c: c.threads.messages("t", order="newest_first", page_size=7),
        thread_pb2.ListMessagesRequest(
            thread_id="t", order=thread_pb2.ORDER_NEWEST_FIRST, page_size=7
        ),
    ),
    (
        "UpdateThreadState",
        lambda c: c.threads.update_state(
            "t", HELLO, values={"n": None}, expected_thread_sequence=9, request_id="r"
        ),
        thread_pb2.UpdateThreadStateRequest(
            thread_id="t",
            messages=[HELLO],
            values=to_struct({"n": None}),
            expected_thread_sequence=9,
            request_id="r",
        ),
    ),
    (
        "CompactThread",
        lambda c: c.threads.compact("t", summary="All is well.", request_id="r"),
        thread_pb2.CompactThreadRequest(thread_id="t", summary="All is well.", request_id="r"),
    ),
    (
        "ListNotices",
        lambda c: c.notices.list("t", include_read=True, page_size=7),
        thread_pb2.ListNoticesRequest(thread_id="t", include_read=True, page_size=7),
    ),
    (
        "ReadNotices",
        lambda c: c.notices.read("t", ["n", "m"]),
        thread_pb2.ReadNoticesRequest(thread_id="t", notice_ids=["n", "m"]),
    ),
    (
        "ListEvents",
        lambda c: c.threads.events(
            "t",
            scope="session",
            kinds=["message_added", event_pb2.EVENT_KIND_RUN_FINISHED],
            preset="condensed",
            after_sequence=3,
            order="newest_first",
            page_size=7,
        ),
        thread_pb2.ListEventsRequest(
            thread_id="t",
            scope=thread_pb2.EVENT_SCOPE_SESSION,
            kinds=[event_pb2.EVENT_KIND_MESSAGE_ADDED, event_pb2.EVENT_KIND_RUN_FINISHED],
            preset=thread_pb2.EVENT_PRESET_CONDENSED,
            after_sequence=3,
            order=thread_pb2.ORDER_NEWEST_FIRST,
            page_size=7,
        ),
    ),
    (
        "ListEvents",
        lambda c: c.threads.events("t", run_id="r"),
        thread_pb2.ListEventsRequest(
            thread_id="t", run_id="r", order=thread_pb2.ORDER_OLDEST_FIRST
        ),
    ),
    (
        "ListActions",
        lambda c: c.actions.list(session_id="t", page_size=7),
        thread_pb2.ListActionsRequest(
            thread_id="t", scope=thread_pb2.EVENT_SCOPE_SESSION, page_size=7
        ),
    ),
    (
        "StreamEvents",
        lambda c: c.threads.stream(
            "t",
            scope="session",
            kinds="message_added",
            preset="condensed",
            after_sequence=3,
            deltas=True,
            until="done_or_action",
        ),
        thread_pb2.StreamEventsRequest(
            thread_id="t",
            scope=thread_pb2.EVENT_SCOPE_SESSION,
            kinds=[event_pb2.EVENT_KIND_MESSAGE_ADDED],
            preset=thread_pb2.EVENT_PRESET_CONDENSED,
            after_sequence=3,
            deltas=True,
            until=lifecycle_pb2.UNTIL_DONE_OR_ACTION,
        ),
    ),
    (
        "StreamEvents",
        lambda c: c.threads.stream(run_id="r"),
        thread_pb2.StreamEventsRequest(run_id="r"),
    ),
    ("CreateRun", lambda c: c.runs.create("bot", "hello", **RUN_ARGUMENTS), RUN_REQUEST),
    (
        "StreamRun",
        lambda c: c.runs.stream(
            "bot", "hello", **RUN_ARGUMENTS, until="done", cancel_after_detach=60, deltas=False
        ),
        run_pb2.StreamRunRequest(
            run=RUN_REQUEST,
            until=lifecycle_pb2.UNTIL_DONE,
            cancel_after_detach=Duration(seconds=60),
            deltas=False,
        ),
    ),
    (
        "WaitRun",
        lambda c: c.runs.wait("r", until="done", timeout=0),
        run_pb2.WaitRunRequest(run_id="r", until=lifecycle_pb2.UNTIL_DONE, timeout=Duration()),
    ),
    ("GetRun", lambda c: c.runs.get("r"), run_pb2.GetRunRequest(run_id="r")),
    (
        "ListRuns",
        lambda c: c.runs.list(thread_id="t", states=["queued", "timed_out"], page_size=7),
        run_pb2.ListRunsRequest(
            thread_id="t",
            states=[lifecycle_pb2.RUN_STATE_QUEUED, lifecycle_pb2.RUN_STATE_TIMED_OUT],
            page_size=7,
        ),
    ),
    (
        "CancelRun",
        lambda c: c.runs.cancel("r", rollback=True, cascade=True),
        run_pb2.CancelRunRequest(run_id="r", rollback=True, cascade=True),
    ),
    (
        "Respond",
        lambda c: c.runs.respond("t", [ALLOW], request_id="r"),
        run_pb2.RespondRequest(thread_id="t", responses=[ALLOW], request_id="r"),
    ),
    (
        "ListActions",
        lambda c: c.actions.list("t", page_size=7),
        thread_pb2.ListActionsRequest(thread_id="t", page_size=7),
    ),
    (
        "ListActions",
        lambda c: c.actions.list(session_id="s"),
        thread_pb2.ListActionsRequest(thread_id="s", scope=thread_pb2.EVENT_SCOPE_SESSION),
    ),
    (
        "LaunchJob",
        lambda c: c.jobs.launch(
            "bot",
            "hello",
            task_data={"n": 1},
            parent_thread_id="t",
            context="fork",
            pass_values=["n"],
            notify="outcome",
            labels={"k": "v"},
            timeout=60,
            ttl=3600.0,
            config={"model": "m"},
            request_id="r",
        ),
        job_pb2.LaunchJobRequest(
            assistant_id="bot",
            task="hello",
            task_data=to_struct({"n": 1}),
            parent_thread_id="t",
            context=event_pb2.JOB_CONTEXT_FORK,
            pass_values=["n"],
            notify=event_pb2.JOB_NOTIFY_OUTCOME,
            labels={"k": "v"},
            timeout=Duration(seconds=60),
            ttl=Duration(seconds=3600),
            config=to_struct({"model": "m"}),
            request_id="r",
        ),
    ),
    ("GetJob", lambda c: c.jobs.get("j"), job_pb2.GetJobRequest(job_id="j")),
    (
        "BatchGetJobs",
        lambda c: c.jobs.batch_get(["j", "k"]),
        job_pb2.BatchGetJobsRequest(job_ids=["j", "k"]),
    ),
    (
        "UpdateJob",
        lambda c: c.jobs.update("j", "Stop.", delivery="steer", request_id="r"),
        job_pb2.UpdateJobRequest(
            job_id="j",
            instructions="Stop.",
            delivery=event_pb2.JOB_DELIVERY_STEER,
            request_id="r",
        ),
    ),
    (
        "CancelJob",
        lambda c: c.jobs.cancel("j", cascade=True),
        job_pb2.CancelJobRequest(job_id="j", cascade=True),
    ),
    (
        "ListJobs",
        lambda c: c.jobs.list(
            parent_thread_id="t",
            scope="tree",
            states=["running"],
            labels={"k": "v"},
            view="basic",
            page_size=7,
        ),
        job_pb2.ListJobsRequest(
            parent_thread_id="t",
            scope=job_pb2.JOB_SCOPE_TREE,
            states=[lifecycle_pb2.RUN_STATE_RUNNING],
            labels={"k": "v"},
            view=job_pb2.JOB_VIEW_BASIC,
            page_size=7,
        ),
    ),
    (
        "WaitJobs",
        lambda c: c.jobs.wait("j", mode="any"),
        job_pb2.WaitJobsRequest(
            job_ids=["j"], mode=job_pb2.WAIT_MODE_ANY, timeout=Duration(seconds=30)
        ),
    ),
    (
        "WatchJobs",
        lambda c: c.jobs.watch("t", labels={"k": "v"}, after_sequence=0, until="done"),
        job_pb2.WatchJobsRequest(
            parent_thread_id="t",
            labels={"k": "v"},
            after_sequence=0,
            until=lifecycle_pb2.UNTIL_DONE,
        ),
    ),
    (
        "WatchJobs",
        lambda c: c.jobs.watch(job_id="j", scope="tree"),
        job_pb2.WatchJobsRequest(job_id="j", scope=job_pb2.JOB_SCOPE_TREE),
    ),
    ("GetServerInfo", lambda c: c.server.info(), GetServerInfoRequest()),
]


def test_every_rpc_has_a_method() -> None:
    assert {method for method, _, _ in CASES} == METHODS.keys()


@pytest.mark.parametrize(("method", "act", "expected"), CASES, ids=[case[0] for case in CASES])
async def test_arguments(
    server: ScriptedServer,
    either: Either,
    method: str,
    act: Callable[[Any], Any],
    expected: ProtoMessage,
) -> None:
    done = run_pb2.StreamEnd(reason=run_pb2.StreamEnd.REASON_DONE)

    async def one_frame(_: Any) -> Any:
        frame = job_pb2.WatchJobsResponse if method == "WatchJobs" else run_pb2.EventFrame
        yield frame(end=done)

    if METHODS[method].server_streaming:
        server.script(method, one_frame)
    if method == "WaitRun":
        server.script(method, run_pb2.Run(state=callboard.RunState.RUN_STATE_SUCCEEDED))
    await either.call(act)
    [call] = server.calls
    assert (call.method, call.request) == (method, expected)
    assert call.metadata["x-caller"] == "test"
    if METHODS[method].server_streaming:
        assert call.seconds_left is None
    else:
        waiting = 30 if method == "WaitJobs" else 0
        assert call.seconds_left is not None
        assert waiting + 4 < call.seconds_left < waiting + 6


@pytest.mark.parametrize(
    ("act", "text"),
    [
        (
            lambda c: c.jobs.update("j", "Stop.", delivery="now"),
            'delivery: \'now\' is not one of "interrupt", "steer", "enqueue"',
        ),
        (lambda c: c.jobs.list(states=["done"]), 'states: \'done\' is not one of "queued", "runn'),
        (lambda c: c.jobs.update("j", "Stop.", delivery=99), "delivery: 99 is not one of"),
        (lambda c: c.jobs.launch("bot", "x", timeout=-1), "timeout: -1 is not a length of time"),
        (lambda c: c.jobs.launch("bot", "x", ttl=float("nan")), "ttl: nan is not a length of time"),
        (lambda c: c.jobs.launch("bot", "x", config={"a": [2**60]}), r"config\.a\[0\]: 1152"),
        (lambda c: c.runs.create("bot", "x", start_after=datetime(2026, 7, 1)), "no time zone"),
        (lambda c: c.runs.create("bot", ["x", 5]), r"input\[1\]: int is not a message"),
        (lambda c: c.runs.stream("bot", {"role": "user"}), 'a message has "role" and "content"'),
        (lambda c: c.actions.answer(callboard.Action(), {1, 2}), "value: .*set is not JSON"),
        (lambda c: c.actions.answer(callboard.Action(), float("nan")), "value: Out of range"),
        (lambda c: c.actions.list("t", session_id="s"), "give only one of them"),
        (
            lambda c: c.threads.create({"role": "boss", "content": "x"}),
            r"messages\.role: 'boss' is not one of",
        ),
    ],
)
async def test_wrong_arguments_are_refused_before_a_call(
    server: ScriptedServer, either: Either, act: Callable[[Any], Any], text: str
) -> None:
    with pytest.raises(ValueError, match=text):
        await either.call(act)
    assert not server.calls


async def test_a_request_id_is_made_for_whatever_creates(
    server: ScriptedServer, client: callboard.AsyncClient
) -> None:
    await client.threads.create()
    await client.threads.copy("t")
    await client.threads.update_state("t", "hello")
    await client.threads.compact("t")
    await client.runs.create("bot")
    await client.runs.respond("t", [ALLOW])
    await client.jobs.launch("bot", "hello")
    await client.jobs.update("j", "Stop.")
    await client.assistants.create("bot")
    await client.assistants.update("a", name="Bob")
    ids = {call.request.request_id for call in server.calls}
    assert "" not in ids
    assert len(ids) == len(server.calls) == 10
