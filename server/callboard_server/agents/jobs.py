"""The jobs of a run, as its agent sees them."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Literal
from uuid import NAMESPACE_OID, uuid5

from callboard.v1.lifecycle_pb2 import WaitingFor
from callboard_server.agents.errors import AgentError
from callboard_server.agents.steps import current_path
from callboard_server.agents.work import Work

if TYPE_CHECKING:
    from callboard import AsyncClient
    from callboard.v1.job_pb2 import Job

Delivery = Literal["interrupt", "steer", "enqueue"]
"""How new instructions reach a job."""
Notify = Literal["none", "outcome", "outcome_and_actions"]
"""What a thread is told about a job."""


class ContextJobs:
    """The jobs of a run's thread. What it launches belongs to the thread, not to the run."""

    def __init__(self, client: AsyncClient, work: Work) -> None:
        self._client = client
        self._work = work
        self._calls: Counter[str] = Counter()

    async def launch(
        self,
        agent: str,
        task: str,
        *,
        notify: Notify | None = None,
        request_id: str | None = None,
        **options: Any,
    ) -> Job:
        """Launches a job below this thread; see `AsyncClient.jobs.launch`.

        The thread is told nothing of it unless `notify` says so: who is told is run anew for that,
        and code that does not expect it would launch its jobs again, for ever. With a `webhook`
        the default is that of the client, as what is told there is the same.

        A launch that is repeated after a crash is the same launch: its request_id follows from the
        run, the step or tool call in which it stands, and the number of launches before it there.
        """
        return await self._client.jobs.launch(
            agent,
            task,
            parent_thread_id=self._work.run.thread_id,
            notify=notify or (None if options.get("webhook") else "none"),
            request_id=request_id or self._request_id("launch"),
            **options,
        )

    def _request_id(self, verb: str) -> str:
        """Names a call by where it stands in the code of its run."""
        place = "/".join((*current_path(), verb))
        self._calls[place] += 1
        return str(uuid5(NAMESPACE_OID, f"{self._work.run.run_id}/{place}#{self._calls[place]}"))

    async def get(self, job_id: str) -> Job:
        return await self._client.jobs.get(job_id)

    async def update(
        self,
        job_id: str,
        instructions: str,
        *,
        delivery: Delivery = "interrupt",
        cancel_with_run: bool = False,
    ) -> Job:
        """Gives a job new instructions; see `AsyncClient.jobs.update`. Repeated as `launch` is."""
        return await self._client.jobs.update(
            job_id,
            instructions,
            delivery=delivery,
            cancel_with_run=cancel_with_run,
            request_id=self._request_id("update"),
        )

    async def cancel(self, job_id: str, *, cascade: bool = False) -> Job:
        return await self._client.jobs.cancel(job_id, cascade=cascade)

    async def wait(self, *jobs: Job | str, any: bool = False) -> list[Job]:
        """Waits until jobs have ended, without holding a slot or the thread.

        Args:
            *jobs: Jobs of this thread, or their ids.
            any: Whether one is enough.

        Returns:
            The jobs as they stand then, in order.

        Raises:
            AgentError: One of them is no job of this thread: its end would wake nobody here.
        """
        known = [await self.get(job) if isinstance(job, str) else job for job in jobs]
        if {job.parent_thread_id for job in known} - {self._work.run.thread_id}:
            raise AgentError("A thread waits for its own jobs only, not for those of others.")
        job_ids = [job.job_id for job in known]
        if job_ids:
            await self._work.wait(WaitingFor(kind=WaitingFor.KIND_CHILDREN, ids=job_ids, any=any))
        return [await self._client.jobs.get(job_id) for job_id in job_ids]

    async def list(self, **options: Any) -> list[Job]:
        """Returns the jobs of this thread, newest first."""
        found = self._client.jobs.list(parent_thread_id=self._work.run.thread_id, **options)
        return [job async for job in found]
