"""JobService."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence

from callboard.v1 import job_pb2 as pb
from callboard.v1.assistant_pb2 import Assistant
from callboard.v1.event_pb2 import JobContext, JobDelivery, JobNotify, RunTrigger
from callboard.v1.lifecycle_pb2 import Until
from callboard.v1.message_pb2 import ContentBlock, Message, Role, Text
from callboard.v1.run_pb2 import Run
from callboard_server import errors
from callboard_server.engine import jobs, notices
from callboard_server.engine.copying import Original, fork_of
from callboard_server.engine.creation import NewRun, NewThread
from callboard_server.engine.engine import Admitted, Caller, Engine, Once, find_thread
from callboard_server.engine.jobs import NewJob
from callboard_server.engine.lifecycle import RUNNING, TERMINAL
from callboard_server.errors import ServiceError, Violation
from callboard_server.ids import new_id
from callboard_server.log.events import EVENT_BYTES
from callboard_server.log.view import Viewer
from callboard_server.rpc import Call
from callboard_server.services import watch
from callboard_server.services.paging import gather
from callboard_server.services.validation import Check
from callboard_server.store.base import JobRow, Page, Reader, Transaction
from callboard_server.validation import suggest

_TASK = EVENT_BYTES // 4  # characters, each of up to four bytes
_WAIT, _LONGEST_WAIT = 30.0, 600.0


class JobServicer:
    """The supervisor's five verbs, and following along."""

    descriptor = pb.DESCRIPTOR.services_by_name["JobService"]

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def LaunchJob(self, request: pb.LaunchJobRequest, call: Call) -> pb.Job:
        _check_launch(request, self._engine.webhooks)
        caller = call.caller
        key = Once.of(caller, request, request.request_id)
        is_fork = request.context == JobContext.JOB_CONTEXT_FORK
        fork = await self._fork(request, call, key) if is_fork else None

        def operation(tx: Transaction) -> Admitted[pb.Job]:
            if is_fork and fork is None:
                raise errors.thread_not_found(request.parent_thread_id)
            new = self._new_job(tx, request, call, fork)
            job = jobs.launch(tx, caller.tenant, new, self._engine.limits, caller.actor)
            return Admitted(job.run, lambda: self._engine.show_job(tx, job))

        return await self._engine.admit(key, pb.Job, operation)

    async def _fork(
        self, request: pb.LaunchJobRequest, call: Call, key: Once | None
    ) -> Original | None:
        """Reads what a fork begins with: before anything is written, as that may take a while."""
        tenant, actor = call.caller.tenant, call.caller.actor

        def look(reader: Reader) -> Original | None:
            if key and key.was_answered(reader):
                # The first answer counts, whatever became of the parent.
                return None
            parent = find_thread(reader, tenant, request.parent_thread_id)
            return fork_of(reader, parent, self._viewer(reader, request, call), actor)

        return await self._engine.store.read(look)

    def _viewer(self, reader: Reader, request: pb.LaunchJobRequest, call: Call) -> Viewer:
        """Returns as whom the parent's conversation is seen; as nobody where nobody is woken."""
        supervisor = self._supervisor(reader, request, call)
        if isinstance(supervisor, Run):
            tenant = call.caller.tenant
            supervisor = self._engine.assistants.pinned(reader, tenant, supervisor)
        return Viewer(
            run_id="",
            assistant_id=supervisor.assistant_id if supervisor else "",
            name=supervisor.name if supervisor else "",
        )

    def _new_job(
        self, reader: Reader, request: pb.LaunchJobRequest, call: Call, fork: Original | None
    ) -> NewJob:
        assistant = self._engine.assistants.resolve(
            reader,
            call.caller.tenant,
            request.assistant_id,
            request.assistant_version or None,
        )
        self._engine.assistants.check_run(
            reader, call.caller.tenant, assistant, request.config, "config"
        )
        timeout = request.timeout if request.HasField("timeout") else None
        supervisor = self._supervisor(reader, request, call)
        return NewJob(
            thread=NewThread(
                new_id(),
                ttl=request.ttl if request.HasField("ttl") else None,
                agent=assistant.agent,
                assistant_id=assistant.assistant_id,
                model=self._engine.assistants.model_of(assistant, request.config),
                copied_from_thread_id=fork.thread_id if fork else "",
                copied_from_sequence=fork.sequence if fork else 0,
            ),
            run=NewRun(
                run_id=new_id(),
                assistant_id=assistant.assistant_id,
                assistant_version=assistant.version,
                agent=assistant.agent,
                messages=[_user_message(request.task)] if request.task else [],
                values=request.task_data,
                trigger=RunTrigger.RUN_TRIGGER_JOB,
                config=request.config if request.HasField("config") else None,
                timeout=timeout,
            ),
            task=request.task,
            parent_thread_id=request.parent_thread_id,
            parent_run_id=call.caller.run_id,
            labels=request.labels,
            notify=request.notify or JobNotify.JOB_NOTIFY_OUTCOME_AND_ACTIONS,
            context=request.context or JobContext.JOB_CONTEXT_ISOLATED,
            fork=fork,
            pass_values=request.pass_values,
            timeout=timeout,
            notify_assistant_id=supervisor.assistant_id if supervisor else "",
            notify_agent=supervisor.agent if supervisor else "",
            webhook=request.webhook,
            cancel_with_run=request.cancel_with_run,
        )

    def _supervisor(
        self, reader: Reader, request: pb.LaunchJobRequest, call: Call
    ) -> Run | Assistant | None:
        """Returns who has the assistant that notices wake: a run of the parent, or the thread."""
        tenant, run_id = call.caller.tenant, call.caller.run_id
        run = reader.run(tenant, run_id) if run_id else None
        if run is not None and run.data.thread_id == request.parent_thread_id:
            return run.data
        if not request.parent_thread_id:
            return None
        parent = find_thread(reader, tenant, request.parent_thread_id)
        if not parent.data.current_assistant_id:
            return None
        try:
            return self._engine.assistants.resolve(reader, tenant, parent.data.current_assistant_id)
        except ServiceError:
            # It was deleted, or its agent is gone.
            return None

    async def GetJob(self, request: pb.GetJobRequest, call: Call) -> pb.Job:
        # A shortened id is no UUID, and yet there is more to say about it than that.
        _check_job_id(request.job_id)
        return await self._engine.store.read(
            lambda reader: self._engine.show_job(
                reader, jobs.find(reader, call.caller.tenant, request.job_id)
            )
        )

    async def BatchGetJobs(
        self, request: pb.BatchGetJobsRequest, call: Call
    ) -> pb.BatchGetJobsResponse:
        check = Check()
        check.uuids("job_ids", request.job_ids)
        check.done()

        def query(reader: Reader) -> pb.BatchGetJobsResponse:
            response = pb.BatchGetJobsResponse()
            for job_id in request.job_ids:
                job = reader.job(call.caller.tenant, job_id)
                if job is None:
                    response.missing_job_ids.append(job_id)
                else:
                    response.jobs.append(self._engine.show_job(reader, job))
            return response

        return await self._engine.store.read(query)

    async def UpdateJob(self, request: pb.UpdateJobRequest, call: Call) -> pb.Job:
        check = Check()
        check.required("job_id", request.job_id)
        check.required("instructions", request.instructions.strip())
        check.text("instructions", request.instructions, longest=_TASK)
        check.enum(request, "delivery")
        check.request_id(request.request_id)
        check.done()
        delivery = request.delivery or JobDelivery.JOB_DELIVERY_INTERRUPT
        caller = call.caller

        def operation(tx: Transaction) -> Admitted[pb.Job]:
            job = jobs.find(tx, caller.tenant, request.job_id)
            before = job.run.data
            # It may be deleted, or its agent gone: then nothing new begins with it.
            assistant = self._engine.assistants.resolve(
                tx, caller.tenant, before.assistant_id, before.assistant_version
            )
            new = NewRun(
                run_id=new_id(),
                assistant_id=assistant.assistant_id,
                assistant_version=assistant.version,
                agent=assistant.agent,
                messages=[_user_message(request.instructions)],
                trigger=RunTrigger.RUN_TRIGGER_JOB,
                config=before.config if before.HasField("config") else None,
                timeout=job.data.timeout if job.data.HasField("timeout") else None,
            )
            waiting = caller.run_id if request.cancel_with_run else None
            job = jobs.update(tx, job, new, request.instructions, delivery, caller.actor, waiting)
            return Admitted(job.run, lambda: self._engine.show_job(tx, job))

        key = Once.of(caller, request, request.request_id)
        return await self._engine.admit(key, pb.Job, operation)

    async def CancelJob(self, request: pb.CancelJobRequest, call: Call) -> pb.Job:
        _check_job_id(request.job_id)
        caller, parent_id = call.caller, request.parent_thread_id

        def operation(tx: Transaction) -> pb.Job:
            job = jobs.find(tx, caller.tenant, request.job_id)
            if parent_id and parent_id != job.data.parent_thread_id:
                wrong = "is not the thread that launched the job"
                raise errors.invalid(Violation("parent_thread_id", wrong))
            by_parent = bool(parent_id) or _is_of_parent(tx, job, caller)
            jobs.cancel(tx, job, caller.actor, cascade=request.cascade, by_parent=by_parent)
            return self._engine.show_job(tx, job)

        return await self._engine.store.write(operation)

    async def ListJobs(self, request: pb.ListJobsRequest, call: Call) -> pb.ListJobsResponse:
        check = Check()
        check.uuid("parent_thread_id", request.parent_thread_id, required=False)
        check.enum(request, "scope")
        whole_tree = request.scope == pb.JOB_SCOPE_TREE
        if whole_tree and not request.parent_thread_id:
            check.wrong("scope", "TREE needs parent_thread_id: below which thread or job")
        check.enum(request, "states")
        check.labels("labels", request.labels)
        check.enum(request, "view")
        check.done()

        def query(reader: Reader, part: Page) -> list[tuple[int, pb.Job]]:
            parent = None
            if request.parent_thread_id:
                parent = find_thread(reader, call.caller.tenant, request.parent_thread_id).key
            rows = reader.list_jobs(
                call.caller.tenant,
                part,
                parent=None if whole_tree else parent,
                below=parent if whole_tree else None,
                states=request.states,
                labels=dict(request.labels),
            )
            return [(row.thread.key, self._view(reader, row, request.view)) for row in rows]

        async def look(part: Page) -> list[tuple[int, pb.Job]]:
            return await self._engine.store.read(lambda reader: query(reader, part))

        shown, token = await gather(request, look)
        return pb.ListJobsResponse(jobs=shown, next_page_token=token)

    def _view(self, reader: Reader, row: JobRow, view: pb.JobView.ValueType) -> pb.Job:
        """Returns a job as it stands, or as much of it as a view shows."""
        job = self._engine.show_job(reader, row)
        # An outcome that is merely touched would be there.
        if view == pb.JOB_VIEW_BASIC and job.HasField("outcome"):
            job.outcome.ClearField("result")
        return job

    async def WaitJobs(self, request: pb.WaitJobsRequest, call: Call) -> pb.WaitJobsResponse:
        check = Check()
        check.uuids("job_ids", request.job_ids)
        check.enum(request, "mode")
        if request.HasField("timeout"):
            check.duration("timeout", request.timeout, longest=_LONGEST_WAIT)
        check.done()
        timeout = request.timeout.ToNanoseconds() / 1e9 if request.HasField("timeout") else _WAIT
        first = request.mode == pb.WAIT_MODE_ANY

        def look(reader: Reader) -> list[pb.Job]:
            tenant = call.caller.tenant
            return [
                self._engine.show_job(reader, jobs.find(reader, tenant, each))
                for each in request.job_ids
            ]

        found = await self._engine.store.read(look)
        try:
            async with asyncio.timeout(timeout):
                while not _is_over(found, first):
                    if self._engine.draining:
                        raise errors.draining()
                    await self._wait_for_change(found, first, call)
                    found = await self._engine.store.read(look)
        except TimeoutError:
            found = await self._engine.store.read(look)
        await self._note_fetched(found, call)
        return pb.WaitJobsResponse(jobs=found, timed_out=not _is_over(found, first))

    async def _note_fetched(self, found: Sequence[pb.Job], call: Call) -> None:
        """Takes note that a run knows of the ends of jobs: notices tell it nothing new."""
        caller, over = call.caller, [job.job_id for job in found if job.state in TERMINAL]
        if not caller.run_id or not over:
            return

        def operation(tx: Transaction) -> None:
            run = tx.run(caller.tenant, caller.run_id)
            if run is not None and run.data.state == RUNNING:
                notices.read_by(tx, run, caller.actor, jobs=over)

        await self._engine.store.write(operation)

    async def _wait_for_change(self, found: Sequence[pb.Job], first: bool, call: Call) -> None:
        """Waits until the current run of one of the jobs is terminal, or of all."""
        waits = [
            asyncio.create_task(
                self._engine.wait_for_run(
                    call.caller.tenant, job.run_id, Until.UNTIL_DONE, _LONGEST_WAIT
                )
            )
            for job in found
            if job.state not in TERMINAL
        ]
        try:
            # To look at all of them whenever one is over would take long where they are many.
            until = asyncio.FIRST_COMPLETED if first else asyncio.FIRST_EXCEPTION
            await asyncio.wait(waits, return_when=until)
        finally:
            for wait in waits:
                wait.cancel()
            # Why one ended is seen when the jobs are looked at again.
            await asyncio.gather(*waits, return_exceptions=True)

    async def WatchJobs(self, request: pb.WatchJobsRequest, call: Call) -> AsyncIterator[bytes]:
        check = Check()
        check.uuid("parent_thread_id", request.parent_thread_id, required=False)
        if bool(request.parent_thread_id) == bool(request.job_id):
            check.wrong(
                "parent_thread_id", "exactly one of parent_thread_id and job_id is required"
            )
        check.labels("labels", request.labels)
        check.enum(request, "scope")
        check.enum(request, "until")
        if request.after_sequence < 0:
            check.wrong("after_sequence", "must not be negative")
        check.done()
        async for frame in watch.watch_jobs(self._engine, call, request):
            yield frame


def _is_of_parent(reader: Reader, job: JobRow, caller: Caller) -> bool:
    """Whether a run of the thread that launched a job calls."""
    run = reader.run(caller.tenant, caller.run_id) if caller.run_id else None
    return run is not None and run.thread.key == job.parent


def _check_job_id(job_id: str) -> None:
    check = Check()
    check.required("job_id", job_id)
    check.text("job_id", job_id, longest=64)
    check.done()


def _check_launch(request: pb.LaunchJobRequest, webhooks: Sequence[str]) -> None:
    check = Check()
    check.required("assistant_id", request.assistant_id)
    if request.assistant_version < 0:
        check.wrong("assistant_version", "must not be negative")
    if not request.task.strip() and not request.task_data.fields:
        check.wrong("task", "is required, unless task_data is set")
    check.text("task", request.task, longest=_TASK)
    check.struct("task_data", request.task_data)
    check.uuid("parent_thread_id", request.parent_thread_id, required=False)
    check.enum(request, "context")
    check.enum(request, "notify")
    check.labels("labels", request.labels)
    if request.HasField("timeout"):
        check.duration("timeout", request.timeout)
    if request.HasField("ttl"):
        check.duration("ttl", request.ttl)
        if request.parent_thread_id:
            check.wrong("ttl", "goes without parent_thread_id: the session has its root's ttl")
    if request.pass_values and not request.parent_thread_id:
        check.wrong("pass_values", "needs parent_thread_id")
    if request.context == JobContext.JOB_CONTEXT_FORK and not request.parent_thread_id:
        check.wrong("context", "FORK needs parent_thread_id, whose conversation it takes")
    if request.webhook and request.webhook not in webhooks:
        hint = suggest(request.webhook, webhooks)
        check.wrong("webhook", f"there is no webhook {request.webhook!r}; {hint}")
    check.struct("config", request.config)
    check.request_id(request.request_id)
    check.done()


def _user_message(text: str) -> Message:
    return Message(
        message_id=new_id(),
        role=Role.ROLE_USER,
        content=[ContentBlock(text=Text(text=text))],
    )


def _is_over(found: Sequence[pb.Job], first: bool) -> bool:
    finished = [job.state in TERMINAL for job in found]
    return any(finished) if first else all(finished)
