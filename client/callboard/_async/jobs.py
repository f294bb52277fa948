"""Launching, redirecting and watching delegated work."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any

import grpc.aio

from callboard._async.caller import AsyncCaller
from callboard._async.streams import AsyncJobStream, FrameCall
from callboard._enums import (
    DeliveryName,
    JobContextName,
    JobScopeName,
    JobViewName,
    NotifyName,
    StateName,
    UntilName,
    WaitModeName,
    enum_value,
    enum_values,
)
from callboard._feeds import JobFeed
from callboard._requests import id_list, new_request_id, optional_struct
from callboard._times import to_duration
from callboard._waiting import Wait
from callboard.errors import WaitTimeout
from callboard.v1.event_pb2 import JobContext, JobDelivery, JobNotify
from callboard.v1.job_pb2 import (
    BatchGetJobsRequest,
    BatchGetJobsResponse,
    CancelJobRequest,
    GetJobRequest,
    Job,
    JobScope,
    JobView,
    LaunchJobRequest,
    ListJobsRequest,
    UpdateJobRequest,
    WaitJobsRequest,
    WaitMode,
    WatchJobsRequest,
    WatchJobsResponse,
)
from callboard.v1.job_pb2_grpc import JobServiceStub
from callboard.v1.lifecycle_pb2 import RunState, Until


class AsyncJobs:
    """Jobs, a supervisor's view of delegated work: `client.jobs`."""

    def __init__(self, channel: grpc.aio.Channel, caller: AsyncCaller) -> None:
        """Made by the client."""
        self._stub = JobServiceStub(channel)
        self._caller = caller

    async def launch(
        self,
        assistant: str,
        task: str = "",
        *,
        version: int | None = None,
        task_data: Mapping[str, Any] | None = None,
        parent_thread_id: str | None = None,
        context: JobContextName | int | None = None,
        pass_values: Sequence[str] = (),
        notify: NotifyName | int | None = None,
        webhook: str | None = None,
        labels: Mapping[str, str] | None = None,
        timeout: float | timedelta | None = None,
        ttl: float | timedelta | None = None,
        config: Mapping[str, Any] | None = None,
        cancel_with_run: bool = False,
        request_id: str | None = None,
    ) -> Job:
        """Launches a job and returns it at once.

        Args:
            assistant: The assistant, or an agent's name.
            task: What to do.
            version: The version of the assistant; the current one when left out.
            task_data: What to do, as data; becomes the new thread's values.
            parent_thread_id: The thread that launches it; a session of its own when left out.
            context: What it starts from: "isolated" (the default: the task alone) or "fork" (the
                parent's conversation as it stands, from its last summary on, then the task).
            pass_values: The names of the parent's values to copy.
            notify: What the parent thread is told: "none", "outcome" or "outcome_and_actions"
                (the default where there is a parent).
            webhook: The name of a webhook in the server's configuration that is told of it, too, as
                `notify` says; it needs no parent.
            labels: Free labels, at most 32.
            timeout: For how many seconds each of its runs may be running; no bound when left out.
            ttl: How many seconds its session is kept after the last activity; for ever when left
                out. Without a parent only.
            config: Laid over the assistant's configuration, key by key.
            cancel_with_run: For agents that launch a job below their own thread and wait for it:
                whether it is cancelled, with all below it, when their run ends before without
                success.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The job, usually still queued. Its `job_id` never changes.

        Raises:
            NotFound: ASSISTANT_NOT_FOUND or AGENT_NOT_FOUND (`metadata["agents"]` lists those that
                exist), ASSISTANT_VERSION_NOT_FOUND, or THREAD_NOT_FOUND for the parent.
            InvalidArgument: FIELD_INVALID, also where the configuration does not fit the agent, or
                a fork would begin with too much.
            FailedPrecondition: DELEGATION_LIMIT.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        request = LaunchJobRequest(
            assistant_id=assistant,
            assistant_version=version or 0,
            task=task,
            task_data=optional_struct(task_data, "task_data"),
            parent_thread_id=parent_thread_id or "",
            context=enum_value(JobContext, context, "context"),
            pass_values=pass_values,
            notify=enum_value(JobNotify, notify, "notify"),
            webhook=webhook or "",
            labels=labels,
            timeout=to_duration(timeout, "timeout"),
            ttl=to_duration(ttl, "ttl"),
            config=optional_struct(config, "config"),
            cancel_with_run=cancel_with_run,
            request_id=request_id or new_request_id(),
        )
        return await self._caller.repeatable(self._stub.LaunchJob, request)

    async def get(self, job_id: str) -> Job:
        """Fetches a job as it stands.

        Args:
            job_id: The job.

        Returns:
            Its state, progress, what it waits for and, when finished, its outcome.

        Raises:
            NotFound: JOB_NOT_FOUND; `metadata["suggestion"]` may have the id that was meant.
        """
        return await self._caller.repeatable(self._stub.GetJob, GetJobRequest(job_id=job_id))

    async def batch_get(self, job_ids: str | Iterable[str]) -> BatchGetJobsResponse:
        """Fetches several jobs as they stand.

        Args:
            job_ids: The jobs: 1 to 1,000.

        Returns:
            The jobs that exist, in this order, and `missing_job_ids`.
        """
        request = BatchGetJobsRequest(job_ids=id_list(job_ids))
        return await self._caller.repeatable(self._stub.BatchGetJobs, request)

    async def update(
        self,
        job_id: str,
        instructions: str,
        *,
        delivery: DeliveryName | int = "interrupt",
        cancel_with_run: bool = False,
        request_id: str | None = None,
    ) -> Job:
        """Redirects a job, or follows up a finished one.

        Args:
            job_id: The job. The id stays.
            instructions: The new instructions; the job has the whole history, too.
            delivery: "interrupt" supersedes the current run, "steer" gives it the instructions at
                its next step, "enqueue" lets it end first.
            cancel_with_run: Whether the calling run waits for it from now on; see `launch`.
            request_id: Makes repeats of your own safe; made by the client when left out.

        Returns:
            The job with its new run; with "steer", the one that it has, if it can take them.

        Raises:
            NotFound: JOB_NOT_FOUND, or ASSISTANT_NOT_FOUND where its assistant was deleted.
            InvalidArgument: FIELD_INVALID.
            AlreadyExists: REQUEST_ID_REUSED.
            Conflict: THREAD_BUSY: `cancel_with_run`, and another run waits for what it works on.
        """
        request = UpdateJobRequest(
            job_id=job_id,
            instructions=instructions,
            delivery=enum_value(JobDelivery, delivery, "delivery"),
            cancel_with_run=cancel_with_run,
            request_id=request_id or new_request_id(),
        )
        return await self._caller.repeatable(self._stub.UpdateJob, request)

    async def cancel(
        self, job_id: str, *, cascade: bool = False, parent_thread_id: str | None = None
    ) -> Job:
        """Cancels a job. One that is finished stays as it is.

        Args:
            job_id: The job.
            cascade: Whether to cancel the jobs that it launched, too.
            parent_thread_id: The thread that launched it, where that is who cancels it: it is told
                nothing of what it did itself.

        Returns:
            The job as it stands, which may still be running for a short grace.

        Raises:
            NotFound: JOB_NOT_FOUND.
            InvalidArgument: FIELD_INVALID, where another thread launched it.
        """
        request = CancelJobRequest(
            job_id=job_id, cascade=cascade, parent_thread_id=parent_thread_id or ""
        )
        return await self._caller.repeatable(self._stub.CancelJob, request)

    def list(
        self,
        *,
        parent_thread_id: str | None = None,
        scope: JobScopeName | int | None = None,
        states: Iterable[StateName | int] = (),
        labels: Mapping[str, str] | None = None,
        view: JobViewName | int | None = None,
        page_size: int = 0,
    ) -> AsyncIterator[Job]:
        """Lists jobs, newest first.

        Args:
            parent_thread_id: Only those that this thread, or this job, launched.
            scope: With a parent: "thread" (the default), or "tree" for all below it, however deep.
            states: Only those in one of these states, for example `["queued", "running"]`.
            labels: Only those that have all of these labels.
            view: "full" (the default), or "basic" for jobs without `outcome.result`, which may be
                long: state, error and usage are there.
            page_size: How many to fetch at a time, up to 1,000; 0 leaves it to the server.

        Returns:
            An iterator over all of them.
        """
        request = ListJobsRequest(
            parent_thread_id=parent_thread_id or "",
            scope=enum_value(JobScope, scope, "scope"),
            states=enum_values(RunState, states, "states"),
            labels=labels,
            view=enum_value(JobView, view, "view"),
            page_size=page_size,
        )
        return self._caller.pages(self._stub.ListJobs, request, lambda page: page.jobs)

    async def wait(
        self,
        job_ids: str | Iterable[str],
        *,
        mode: WaitModeName | int = "all",
        timeout: float | timedelta | None = None,
    ) -> Sequence[Job]:
        """Waits until jobs are finished, however long that takes.

        A job that requires an action is not finished: answer it with `client.actions`.

        Args:
            job_ids: The jobs: 1 to 1,000.
            mode: "all" waits for all of them, "any" for the first.
            timeout: For how many seconds to wait at most; for ever when left out.

        Returns:
            All of the jobs as they stand then, in this order.

        Raises:
            WaitTimeout: If the timeout passed first; `latest` has the jobs. They go on.
            NotFound: JOB_NOT_FOUND.
        """
        request = WaitJobsRequest(job_ids=id_list(job_ids), mode=enum_value(WaitMode, mode, "mode"))
        wait = Wait(timeout)
        while True:
            seconds = wait.next_slice()
            request.timeout.FromTimedelta(timedelta(seconds=seconds))
            response = await self._caller.repeatable(
                self._stub.WaitJobs, request, longer_by=seconds
            )
            if not response.timed_out:
                return response.jobs
            if wait.is_over():
                raise WaitTimeout("the jobs did not finish in time", response.jobs)

    def watch(
        self,
        parent_thread_id: str | None = None,
        *,
        job_id: str | None = None,
        scope: JobScopeName | int | None = None,
        labels: Mapping[str, str] | None = None,
        after_sequence: int | None = None,
        until: UntilName | int | None = None,
        max_downtime: float | None = 60.0,
    ) -> AsyncJobStream:
        """Watches the jobs of a thread, or one job: how they stand, then every change, in order.

        Args:
            parent_thread_id: The jobs that this thread launched, those to come included.
            job_id: This job, instead.
            scope: "thread" (the default), or "tree" for what those launched, too, however deep.
            labels: Only jobs that have all of these labels.
            after_sequence: Only changes after this `cursor`, without how the jobs stand first.
            until: "never" (the default), or "done": when all of the jobs are finished.
            max_downtime: For how many seconds a lost connection is tried; None for ever.

        Returns:
            A stream of jobs, whole ones as they stood after each change. It is a context manager
            and raises NotFound (THREAD_NOT_FOUND, JOB_NOT_FOUND) and OutOfRange (EVENTS_TRIMMED,
            CURSOR_AHEAD).
        """
        request = WatchJobsRequest(
            parent_thread_id=parent_thread_id or "",
            job_id=job_id or "",
            scope=enum_value(JobScope, scope, "scope"),
            labels=labels,
            until=enum_value(Until, until, "until"),
        )
        feed = JobFeed(after_sequence)
        watch, metadata = self._stub.WatchJobs, self._caller.metadata

        def connect() -> FrameCall[WatchJobsResponse]:
            if feed.cursor is not None:
                request.after_sequence = feed.cursor
            return watch(request, metadata=metadata)

        return AsyncJobStream(feed, connect, max_downtime)
