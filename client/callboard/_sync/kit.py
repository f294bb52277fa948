# Generated from callboard/_async/kit.py by `make protos`: do not edit.
"""Carries out the tools of the supervisor's kit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from callboard._enums import DeliveryName
from callboard.errors import (
    CallboardError,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    Unavailable,
)
from callboard.kit.answers import ToolAnswer
from callboard.kit.arguments import Refused
from callboard.kit.definition import Kit, ToolCall, Verb
from callboard.kit.known import Known
from callboard.kit.refusals import explain
from callboard.v1.job_pb2 import Job
from callboard.v1.lifecycle_pb2 import RunState


class KitJobs(Protocol):
    """The jobs of a supervisor, as the kit needs them."""

    def launch(self, agent: str, task: str) -> Job:
        """Launches a job."""
        ...

    def get(self, job_id: str) -> Job:
        """Fetches a job, anybody's."""
        ...

    def update(self, job_id: str, instructions: str, *, delivery: DeliveryName) -> Job:
        """Gives a job new instructions."""
        ...

    def cancel(self, job_id: str) -> Job:
        """Cancels a job."""
        ...

    def list(self, *, states: Sequence[RunState.ValueType] = ()) -> Sequence[Job]:
        """Lists the supervisor's own jobs, newest first; they need no results."""
        ...


class KitCalls:
    """Carries out calls for one supervisor. What a model can mend comes back as text."""

    def __init__(
        self,
        kit: Kit,
        jobs: KitJobs,
        parent_thread_id: str | None,
        known: Known | None = None,
    ) -> None:
        """Takes what it works with.

        Args:
            kit: The tools.
            jobs: The jobs of the supervisor.
            parent_thread_id: The thread whose jobs they are; those of another do not exist for
                this supervisor. None: all do.
            known: Where what was seen is kept for times without a server.
        """
        self._kit = kit
        self._jobs = jobs
        self._parent_thread_id = parent_thread_id
        self._known = known or Known()

    def call(self, name: str, arguments: Mapping[str, object] | str | None = None) -> ToolAnswer:
        """Carries out a call as a model wrote it.

        Args:
            name: The name of the tool.
            arguments: The arguments: an object, or the JSON text of one.

        Returns:
            What to tell the model.
        """
        try:
            call = self._kit.read(name, arguments)
        except Refused as refused:
            return ToolAnswer(refused.text, is_error=True)
        try:
            return ToolAnswer(self._carry_out(call))
        except Refused as refused:
            return ToolAnswer(refused.text, is_error=True)
        except CallboardError as error:
            return self._failed(call, error)

    def _carry_out(self, call: ToolCall) -> str:
        answers, given = self._kit.answers, call.arguments
        match call.verb:
            case Verb.LAUNCH:
                job = self._jobs.launch(given["agent"], given["task"])
                return answers.launched(self._known.saw(job))
            case Verb.LIST:
                return self._list(given["filter"], given["offset"])
            case Verb.CHECK:
                return answers.checked(self._own(given["job_id"]), given["offset"])
            case Verb.UPDATE:
                before = self._own(given["job_id"])
                job = self._jobs.update(
                    before.job_id, given["instructions"], delivery=given["delivery"]
                )
                return answers.updated(before, self._known.saw(job), given["delivery"])
            case Verb.CANCEL:
                before = self._own(given["job_id"])
                job = self._jobs.cancel(before.job_id)
                return answers.cancelled(before, self._known.saw(job))

    def _list(self, wanted: str, offset: int) -> str:
        states = sorted(self._kit.dialect.filters[wanted])
        jobs = self._jobs.list(states=states)
        for job in reversed(jobs):
            self._known.saw_listed(job)
        return self._kit.answers.listed(jobs, offset)

    def _own(self, job_id: str) -> Job:
        """The job as it stands.

        Raises:
            Refused: This supervisor has none of that id.
        """
        try:
            job: Job | None = self._jobs.get(job_id.strip())
        except (NotFound, InvalidArgument):
            job = None
        if job is None or self._is_of_another(job):
            raise Refused(self._kit.answers.unknown(job_id, self._jobs.list()))
        return self._known.saw(job)

    def _is_of_another(self, job: Job) -> bool:
        return self._parent_thread_id not in (None, job.parent_thread_id)

    def _failed(self, call: ToolCall, error: CallboardError) -> ToolAnswer:
        if isinstance(error, Unavailable | DeadlineExceeded):
            last = self._last_known(call)
            if last:
                return ToolAnswer(last)
        return ToolAnswer(explain(self._kit, call, error), is_error=True)

    def _last_known(self, call: ToolCall) -> str:
        """What was seen before; empty where nothing was, or where that is no answer."""
        if call.verb is Verb.LIST and (sightings := self._known.all()):
            return self._kit.answers.stale_list(sightings)
        seen = self._known.of(call.arguments.get("job_id", "").strip())
        return self._kit.answers.stale(seen) if seen and call.verb is Verb.CHECK else ""
