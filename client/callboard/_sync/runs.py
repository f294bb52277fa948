# Generated from callboard/_async/runs.py by `make protos`: do not edit.
"""Starting, following and stopping runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import grpc

from callboard._enums import (
    MultitaskName,
    PendingActionsName,
    StateName,
    UntilName,
    enum_value,
    enum_values,
)
from callboard._feeds import EventFeed
from callboard._messages import MessageLike
from callboard._requests import create_run_request, new_request_id
from callboard._states import TERMINAL_STATES
from callboard._sync.caller import Caller
from callboard._sync.streams import EventStream, FrameCall
from callboard._times import seconds_of, to_duration
from callboard._waiting import Wait
from callboard.errors import WaitTimeout
from callboard.v1.event_pb2 import ActionResponse
from callboard.v1.lifecycle_pb2 import RunState, Until
from callboard.v1.run_pb2 import (
    CancelRunRequest,
    EventFrame,
    GetRunRequest,
    ListRunsRequest,
    RespondRequest,
    RespondResponse,
    Run,
    StreamRunRequest,
    WaitRunRequest,
)
from callboard.v1.run_pb2_grpc import RunServiceStub
from callboard.v1.thread_pb2 import StreamEventsRequest
from callboard.v1.thread_pb2_grpc import ThreadServiceStub


class Runs:
    """Runs, each one execution of an assistant on a thread: `client.runs`."""

    def __init__(self, channel: grpc.Channel, caller: Caller) -> None:
        """Made by the client."""
        self._stub = RunServiceStub(channel)
        self._threads = ThreadServiceStub(channel)
        self._caller = caller

    def create(
        self,
        assistant: str | None = None,
        input: MessageLike | Sequence[MessageLike] = (),
        *,
        thread_id: str | None = None,
        values: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        additional_instructions: str | None = None,
        multitask_strategy: MultitaskName | int | None = None,
        pending_actions: PendingActionsName | int | None = None,
        expected_thread_sequence: int | None = None,
        timeout: float | timedelta | None = None,
        start_after: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        thread_metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        wait: float | timedelta | None = None,
    ) -> Run:
        """Starts a run and returns it at once, or with `wait` once it is done.

        Args:
            assistant: The assistant, or an agent's name; the thread's current assistant when left
                out.
            input: One or several messages to add to the thread: text, dicts or `Message`s.
            thread_id: The thread; a new one when left out.
            values: A JSON merge patch (RFC 7396) to the thread's values.
            config: Laid over the assistant's configuration, key by key, for this run alone.
            additional_instructions: Added to the assistant's instructions for this run alone.
            multitask_strategy: What happens to other runs of the thread: "enqueue" (the default),
                "reject", "interrupt", "rollback", "steer" or "concurrent".
            pending_actions: What happens to open actions of the thread: "keep" (the default), or
                "cancel", with "interrupt" and "rollback" only.
            expected_thread_sequence: Where given, the run is admitted only if the thread still has
                this `sequence`.
            timeout: For how many seconds the run may be running; no bound when left out.
            start_after: When it may start at the earliest, with a time zone.
            metadata: Free data of your own.
            thread_metadata: Metadata of the thread, where a new one is made.
            request_id: Makes repeats of your own safe; made by the client when left out.
            wait: For how many seconds the call waits until the run is done or needs an action, up
                to 600. A run that takes longer goes on, and is returned as it stands.

        Returns:
            The run: usually still queued, where the call does not wait.

        Raises:
            NotFound: THREAD_NOT_FOUND, ASSISTANT_NOT_FOUND or AGENT_NOT_FOUND.
            InvalidArgument: FIELD_INVALID, also where the configuration does not fit the agent.
            Conflict: THREAD_BUSY or THREAD_SEQUENCE_MISMATCH.
            FailedPrecondition: ASSISTANT_REQUIRED.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        request = create_run_request(
            assistant=assistant,
            input=input,
            values=values,
            thread_id=thread_id,
            config=config,
            additional_instructions=additional_instructions,
            multitask_strategy=multitask_strategy,
            pending_actions=pending_actions,
            expected_thread_sequence=expected_thread_sequence,
            timeout=timeout,
            start_after=start_after,
            metadata=metadata,
            thread_metadata=thread_metadata,
            request_id=request_id,
        )
        seconds = 0.0
        if wait is not None:
            seconds = seconds_of(wait, "wait")
            request.wait.FromTimedelta(timedelta(seconds=seconds))
        return self._caller.repeatable(self._stub.CreateRun, request, longer_by=seconds)

    def stream(
        self,
        assistant: str | None = None,
        input: MessageLike | Sequence[MessageLike] = (),
        *,
        thread_id: str | None = None,
        values: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        additional_instructions: str | None = None,
        multitask_strategy: MultitaskName | int | None = None,
        pending_actions: PendingActionsName | int | None = None,
        expected_thread_sequence: int | None = None,
        timeout: float | timedelta | None = None,
        start_after: datetime | None = None,
        metadata: Mapping[str, Any] | None = None,
        thread_metadata: Mapping[str, Any] | None = None,
        request_id: str | None = None,
        until: UntilName | int | None = None,
        cancel_after_detach: float | timedelta | None = None,
        deltas: bool = True,
        max_downtime: float | None = 60.0,
    ) -> EventStream:
        """Starts a run with the first item asked for, and streams its events.

        Args:
            assistant: As in `create`, like all that is not told here.
            input: One or several messages to add to the thread.
            thread_id: The thread; a new one when left out.
            values: A JSON merge patch to the thread's values.
            config: Laid over the assistant's configuration for this run alone.
            additional_instructions: Added to the assistant's instructions for this run alone.
            multitask_strategy: What happens to other runs of the thread.
            pending_actions: What happens to open actions of the thread.
            expected_thread_sequence: The `sequence` that the thread must still have.
            timeout: For how many seconds the run may be running.
            start_after: When it may start at the earliest, with a time zone.
            metadata: Free data of your own.
            thread_metadata: Metadata of the thread, where a new one is made.
            request_id: Makes repeats of your own safe: a repeat joins the run.
            until: "done" (the default), "done_or_action", or "never".
            cancel_after_detach: The run is cancelled when nobody has streamed it for this many
                seconds; it goes on without readers when left out.
            deltas: Whether to send pieces of messages in the making, too.
            max_downtime: For how many seconds a lost connection is tried; None for ever.

        Returns:
            A stream of `Event` and `Delta`, whose `run` is there from the first item on. It is a
            context manager and raises what `create` raises.
        """
        request = StreamRunRequest(
            run=create_run_request(
                assistant=assistant,
                input=input,
                values=values,
                thread_id=thread_id,
                config=config,
                additional_instructions=additional_instructions,
                multitask_strategy=multitask_strategy,
                pending_actions=pending_actions,
                expected_thread_sequence=expected_thread_sequence,
                timeout=timeout,
                start_after=start_after,
                metadata=metadata,
                thread_metadata=thread_metadata,
                request_id=request_id,
            ),
            until=enum_value(Until, until, "until"),
            cancel_after_detach=to_duration(cancel_after_detach, "cancel_after_detach"),
            deltas=deltas,
        )
        feed = EventFeed()
        start, resume = self._stub.StreamRun, self._threads.StreamEvents
        call_metadata = self._caller.metadata

        def connect() -> FrameCall[EventFrame]:
            if feed.run is None:
                return start(request, metadata=call_metadata)
            rest = StreamEventsRequest(
                run_id=feed.run.run_id,
                after_sequence=feed.cursor,
                deltas=deltas,
                until=request.until,
            )
            return resume(rest, metadata=call_metadata)

        return EventStream(feed, connect, max_downtime)

    def wait(
        self,
        run_id: str,
        *,
        until: UntilName | int = "done_or_action",
        timeout: float | timedelta | None = None,
    ) -> Run:
        """Waits until a run is done (or needs an action), however long that takes.

        Args:
            run_id: The run.
            until: "done_or_action", or "done" for the end only.
            timeout: For how many seconds to wait at most; for ever when left out.

        Returns:
            The run as it stands then.

        Raises:
            WaitTimeout: If the timeout passed first; `latest` has the run. It goes on.
            NotFound: RUN_NOT_FOUND.
        """
        request = WaitRunRequest(run_id=run_id, until=enum_value(Until, until, "until"))
        enough = set(TERMINAL_STATES)
        if request.until != Until.UNTIL_DONE:
            enough.add(RunState.RUN_STATE_REQUIRES_ACTION)
        wait = Wait(timeout)
        while True:
            seconds = wait.next_slice()
            request.timeout.FromTimedelta(timedelta(seconds=seconds))
            run = self._caller.repeatable(self._stub.WaitRun, request, longer_by=seconds)
            if run.state in enough:
                return run
            if wait.is_over():
                raise WaitTimeout("the run did not finish in time", [run])

    def get(self, run_id: str) -> Run:
        """Fetches a run as it stands.

        Args:
            run_id: The run.

        Returns:
            Its state, progress, what it waits for and, when finished, its outcome.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        return self._caller.repeatable(self._stub.GetRun, GetRunRequest(run_id=run_id))

    def list(
        self,
        *,
        thread_id: str | None = None,
        states: Iterable[StateName | int] = (),
        page_size: int = 0,
    ) -> Iterator[Run]:
        """Lists runs, newest first.

        Args:
            thread_id: Only those of this thread.
            states: Only those in one of these states, for example `["queued", "running"]`.
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them, which raises NotFound (THREAD_NOT_FOUND).
        """
        request = ListRunsRequest(
            thread_id=thread_id or "",
            states=enum_values(RunState, states, "states"),
            page_size=page_size,
        )
        return self._caller.pages(self._stub.ListRuns, request, lambda page: page.runs)

    def cancel(self, run_id: str, *, rollback: bool = False, cascade: bool = False) -> Run:
        """Cancels a run. One that is finished stays as it is.

        Args:
            run_id: The run.
            rollback: Whether to take back what it wrote, its input included.
            cascade: Whether to cancel the jobs that it launched, too.

        Returns:
            The run as it stands, which may still be running for a short grace.

        Raises:
            NotFound: RUN_NOT_FOUND.
        """
        request = CancelRunRequest(run_id=run_id, rollback=rollback, cascade=cascade)
        return self._caller.repeatable(self._stub.CancelRun, request)

    def respond(
        self,
        thread_id: str,
        responses: Iterable[ActionResponse],
        *,
        request_id: str | None = None,
    ) -> RespondResponse:
        """Answers several actions at once, all or none; `client.actions` answers one.

        Args:
            thread_id: Any thread of the session.
            responses: The answers, each for the action that its `action_id` names.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The runs whose actions were answered.

        Raises:
            NotFound: THREAD_NOT_FOUND or ACTION_NOT_FOUND.
            FailedPrecondition: ACTION_ALREADY_ANSWERED or ACTION_CLOSED.
            InvalidArgument: FIELD_INVALID, where an answer does not fit its action.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        request = RespondRequest(
            thread_id=thread_id,
            responses=responses,
            request_id=request_id or new_request_id(),
        )
        return self._caller.repeatable(self._stub.Respond, request)
