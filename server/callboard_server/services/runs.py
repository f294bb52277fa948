"""RunService."""

from __future__ import annotations

from collections.abc import AsyncIterator

from google.protobuf.duration_pb2 import Duration

from callboard.v1 import run_pb2 as pb
from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.lifecycle_pb2 import MultitaskStrategy, PendingActions, Until
from callboard_server import errors
from callboard_server.engine import actions, admission
from callboard_server.engine.creation import NewRun, NewThread, open_session
from callboard_server.engine.engine import Admitted, Engine, Once, find_run, find_thread, once
from callboard_server.ids import new_id
from callboard_server.rpc import Call
from callboard_server.services import streams
from callboard_server.services.messages import completed
from callboard_server.services.paging import gather
from callboard_server.services.validation import Check
from callboard_server.store.base import Page, Reader, ThreadRow, Transaction

_INSTRUCTIONS = 100_000
_WAIT, _LONGEST_WAIT = 30.0, 600.0
_RESPONSES = 1000


class RunServicer:
    """Starting, following and stopping runs."""

    descriptor = pb.DESCRIPTOR.services_by_name["RunService"]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def CreateRun(self, request: pb.CreateRunRequest, call: Call) -> pb.Run:
        check = Check()
        _check_run(check, "", request)
        if request.HasField("wait"):
            check.duration("wait", request.wait, longest=_LONGEST_WAIT)
        check.done()
        run = await self._create("", request, call)
        if not request.HasField("wait"):
            return run
        return await self._engine.wait_for_run(
            call.caller.tenant,
            run.run_id,
            Until.UNTIL_DONE_OR_ACTION,
            request.wait.ToNanoseconds() / 1e9,
        )

    async def _create(
        self,
        prefix: str,
        request: pb.CreateRunRequest,
        call: Call,
        cancel_after_detach: Duration | None = None,
    ) -> pb.Run:
        caller = call.caller

        def operation(tx: Transaction) -> Admitted[pb.Run]:
            thread = self._existing_thread(tx, request, call)
            assistant = self._assistant(tx, thread, request, call)
            self._engine.assistants.check_run(
                tx, caller.tenant, assistant, request.config, f"{prefix}config"
            )
            if thread is None:
                thread = self._new_thread(tx, assistant, request, call)
            new = _new_run(request, assistant, cancel_after_detach)
            run = admission.admit(tx, thread, new, caller.actor)
            return Admitted(run, lambda: self._engine.show_run(tx, run))

        key = Once.of(caller, request, request.request_id)
        return await self._engine.admit(key, pb.Run, operation)

    def _existing_thread(
        self, tx: Transaction, request: pb.CreateRunRequest, call: Call
    ) -> ThreadRow | None:
        if not request.thread_id:
            return None
        return find_thread(tx, call.caller.tenant, request.thread_id)

    def _new_thread(
        self, tx: Transaction, assistant: Assistant, request: pb.CreateRunRequest, call: Call
    ) -> ThreadRow:
        new = NewThread(
            new_id(),
            metadata=request.thread_metadata if request.HasField("thread_metadata") else None,
            agent=assistant.agent,
            assistant_id=assistant.assistant_id,
            model=self._engine.assistants.model_of(assistant, request.config),
        )
        return open_session(tx, call.caller.tenant, new, call.caller.actor)

    def _assistant(
        self,
        reader: Reader,
        thread: ThreadRow | None,
        request: pb.CreateRunRequest,
        call: Call,
    ) -> Assistant:
        wanted = request.assistant_id or (thread.data.current_assistant_id if thread else "")
        if not wanted:
            raise errors.assistant_required(request.thread_id)
        return self._engine.assistants.resolve(reader, call.caller.tenant, wanted)

    async def StreamRun(self, request: pb.StreamRunRequest, call: Call) -> AsyncIterator[bytes]:
        check = Check()
        _check_run(check, "run.", request.run)
        check.enum(request, "until")
        if request.run.HasField("wait"):
            check.wrong("run.wait", "belongs to CreateRun: a stream says itself when it ends")
        detach = request.cancel_after_detach if request.HasField("cancel_after_detach") else None
        if detach is not None:
            check.duration("cancel_after_detach", detach)
        check.done()
        run = await self._create("run.", request.run, call, detach)
        wanted = streams.RunStream(
            run.run_id,
            after=0,
            kinds=frozenset(),
            deltas=request.deltas if request.HasField("deltas") else True,
            until=request.until or Until.UNTIL_DONE,
        )
        async for frame in streams.stream_run(self._engine, call, wanted):
            yield frame

    async def WaitRun(self, request: pb.WaitRunRequest, call: Call) -> pb.Run:
        check = Check()
        check.uuid("run_id", request.run_id)
        check.enum(request, "until")
        if request.until == Until.UNTIL_NEVER:
            check.wrong("until", "must be UNTIL_DONE or UNTIL_DONE_OR_ACTION")
        if request.HasField("timeout"):
            check.duration("timeout", request.timeout, longest=_LONGEST_WAIT)
        check.done()
        return await self._engine.wait_for_run(
            call.caller.tenant,
            request.run_id,
            request.until or Until.UNTIL_DONE_OR_ACTION,
            request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else _WAIT,
        )

    async def GetRun(self, request: pb.GetRunRequest, call: Call) -> pb.Run:
        check = Check()
        check.uuid("run_id", request.run_id)
        check.done()
        return await self._engine.store.read(
            lambda reader: self._engine.show_run(
                reader, find_run(reader, call.caller.tenant, request.run_id)
            )
        )

    async def ListRuns(self, request: pb.ListRunsRequest, call: Call) -> pb.ListRunsResponse:
        check = Check()
        check.uuid("thread_id", request.thread_id, required=False)
        check.enum(request, "states")
        check.done()

        def query(reader: Reader, part: Page) -> list[tuple[int, pb.Run]]:
            thread = None
            if request.thread_id:
                thread = find_thread(reader, call.caller.tenant, request.thread_id).key
            rows = reader.list_runs(call.caller.tenant, part, thread=thread, states=request.states)
            return [(row.key, self._engine.show_run(reader, row)) for row in rows]

        async def look(part: Page) -> list[tuple[int, pb.Run]]:
            return await self._engine.store.read(lambda reader: query(reader, part))

        shown, token = await gather(request, look)
        return pb.ListRunsResponse(runs=shown, next_page_token=token)

    async def CancelRun(self, request: pb.CancelRunRequest, call: Call) -> pb.Run:
        check = Check()
        check.uuid("run_id", request.run_id)
        check.done()

        def operation(tx: Transaction) -> pb.Run:
            run = find_run(tx, call.caller.tenant, request.run_id)
            admission.cancel_run(
                tx,
                run,
                call.caller.actor,
                cascade=request.cascade,
                rollback=request.rollback,
            )
            return self._engine.show_run(tx, run)

        return await self._engine.store.write(operation)

    async def Respond(self, request: pb.RespondRequest, call: Call) -> pb.RespondResponse:
        check = Check()
        check.uuid("thread_id", request.thread_id)
        check.request_id(request.request_id)
        _check_responses(check, request)
        check.done()
        key = Once.of(call.caller, request, request.request_id)

        def operation(tx: Transaction) -> pb.RespondResponse:
            thread = find_thread(tx, call.caller.tenant, request.thread_id)
            runs = actions.answer_all(tx, thread, request.responses, call.caller.actor)
            return pb.RespondResponse(runs=[self._engine.show_run(tx, run) for run in runs])

        return await self._engine.store.write(once(key, pb.RespondResponse, operation))


def _check_run(check: Check, prefix: str, request: pb.CreateRunRequest) -> None:
    check.uuid(f"{prefix}thread_id", request.thread_id, required=False)
    check.messages(f"{prefix}input.messages", request.input.messages)
    check.struct(f"{prefix}input.values", request.input.values)
    check.struct(f"{prefix}config", request.config)
    check.struct(f"{prefix}metadata", request.metadata)
    check.struct(f"{prefix}thread_metadata", request.thread_metadata)
    check.text(
        f"{prefix}additional_instructions",
        request.additional_instructions,
        longest=_INSTRUCTIONS,
    )
    strategy = request.multitask_strategy
    check.enum(request, "multitask_strategy", prefix)
    check.enum(request, "pending_actions", prefix)
    if request.pending_actions == PendingActions.PENDING_ACTIONS_CANCEL and strategy not in (
        MultitaskStrategy.MULTITASK_STRATEGY_INTERRUPT,
        MultitaskStrategy.MULTITASK_STRATEGY_ROLLBACK,
    ):
        check.wrong(f"{prefix}pending_actions", "CANCEL goes with INTERRUPT and ROLLBACK only")
    if strategy == MultitaskStrategy.MULTITASK_STRATEGY_CONCURRENT and request.input.values.fields:
        check.wrong(f"{prefix}input.values", "a CONCURRENT run brings messages only")
    if request.HasField("timeout"):
        check.duration(f"{prefix}timeout", request.timeout)
    if request.HasField("start_after"):
        check.timestamp(f"{prefix}start_after", request.start_after)
    check.request_id(request.request_id)


def _check_responses(check: Check, request: pb.RespondRequest) -> None:
    if not request.responses:
        check.wrong("responses", "at least one is required")
    if len(request.responses) > _RESPONSES:
        check.wrong("responses", f"at most {_RESPONSES} are allowed")
    seen = set[str]()
    for position, response in enumerate(request.responses):
        field = f"responses[{position}]"
        check.uuid(f"{field}.action_id", response.action_id)
        if response.action_id in seen:
            check.wrong(f"{field}.action_id", "is answered twice in this request")
        if response.WhichOneof("response") is None:
            check.wrong(field, "needs one of permission, tool_result and answer_json")
        seen.add(response.action_id)


def _new_run(
    request: pb.CreateRunRequest, assistant: Assistant, cancel_after_detach: Duration | None
) -> NewRun:
    return NewRun(
        run_id=new_id(),
        assistant_id=assistant.assistant_id,
        assistant_version=assistant.version,
        agent=assistant.agent,
        messages=completed(request.input.messages),
        values=request.input.values,
        strategy=request.multitask_strategy or MultitaskStrategy.MULTITASK_STRATEGY_ENQUEUE,
        pending_actions=request.pending_actions or PendingActions.PENDING_ACTIONS_KEEP,
        config=request.config if request.HasField("config") else None,
        additional_instructions=request.additional_instructions,
        metadata=request.metadata if request.HasField("metadata") else None,
        timeout=request.timeout if request.HasField("timeout") else None,
        start_after=request.start_after if request.HasField("start_after") else None,
        cancel_after_detach=cancel_after_detach,
        expected_thread_sequence=(
            request.expected_thread_sequence
            if request.HasField("expected_thread_sequence")
            else None
        ),
    )
