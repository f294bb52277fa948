"""What supervisors are told of their jobs, as a function over a log; see validators.py."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from callboard.v1.event_pb2 import Event, JobLaunched, JobNotify, RunTrigger
from callboard.v1.lifecycle_pb2 import RunState

_SUPERSEDED = RunState.RUN_STATE_SUPERSEDED
_WANTED = (JobNotify.JOB_NOTIFY_OUTCOME, JobNotify.JOB_NOTIFY_OUTCOME_AND_ACTIONS)


def told_of_ends(log: Sequence[Event]) -> Iterator[str]:
    """Who asked for it is told once how a job ended, and not of what it stopped itself.

    What a run waited for when it ended may be told or not: the run got to know, if it lived on.
    """
    ends = _Ends(log)
    for event in log:
        yield from ends.apply(event)


@dataclass
class _Ends:
    """The jobs of a log up to an event."""

    log: Sequence[Event]
    jobs: dict[str, JobLaunched] = field(default_factory=dict)
    current: dict[str, str] = field(default_factory=dict)
    """By job, the run that works on it."""
    stopped: set[str] = field(default_factory=set)
    """Runs that the parent of their job stopped."""
    awaited: dict[str, set[str]] = field(default_factory=dict)
    """By run that waits, what for."""

    def __post_init__(self) -> None:
        notices = [event.notice_added.notice for event in self.log]
        self._told = Counter(
            (each.job_id, each.run_id)
            for each in notices
            if each.state >= RunState.RUN_STATE_SUCCEEDED
        )
        self._followed = {
            (event.run_created.follows_run_id, event.time.ToNanoseconds())
            for event in self.log
            if event.run_created.trigger == RunTrigger.RUN_TRIGGER_INBOX
        }

    def apply(self, event: Event) -> Iterator[str]:
        """Goes on by an event; returns what is wrong about it."""
        thread, run = event.thread_id, event.run_id
        match event.WhichOneof("payload"):
            case "job_launched":
                self.jobs[thread] = event.job_launched
            case "run_created" if self._works_on_job(event):
                self.current[thread] = run
            case "run_cancel_requested" if event.run_cancel_requested.by_parent:
                self.stopped.add(run)
            case "run_waiting":
                self.awaited[run] = set(event.run_waiting.waiting_for.ids)
            case "run_queued":
                self.awaited.pop(run, None)
            case "run_finished":
                self.awaited.pop(run, None)
                if thread in self.jobs:
                    yield from self._judge(event)

    def _works_on_job(self, event: Event) -> bool:
        created = event.run_created
        follows = created.follows_run_id
        return created.trigger == RunTrigger.RUN_TRIGGER_JOB or (
            created.trigger == RunTrigger.RUN_TRIGGER_INBOX
            and follows != ""
            and follows == self.current.get(event.thread_id)
        )

    def _judge(self, event: Event) -> Iterator[str]:
        job_id, run = event.thread_id, event.run_id
        told = self._told[job_id, run]
        what = f"of the end of run {run} of job {job_id} its parent was told"
        if run in self.stopped:
            if told:
                yield f"{what} and had stopped it itself"
        elif not self._is_wanted(job_id):
            if told:
                yield f"{what} unasked"
        elif told != 1 and (told or self._is_news(event)):
            yield f"{what} {told} times"
        elif told and self.current.get(job_id) != run:
            yield f"{what}, while another run went on"

    def _is_wanted(self, job_id: str) -> bool:
        job = self.jobs[job_id]
        return bool(job.parent_thread_id) and job.notify in _WANTED

    def _is_news(self, event: Event) -> bool:
        """Whether a run ended with which its job ended, for all that anybody knew."""
        job_id, run = event.thread_id, event.run_id
        return (
            self.current.get(job_id) == run
            and event.run_finished.state != _SUPERSEDED
            and (run, event.time.ToNanoseconds()) not in self._followed
            and not any(job_id in ids for ids in self.awaited.values())
        )
