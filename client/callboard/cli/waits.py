"""Why a job does not run just now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TypeAlias

from callboard import Action, CallboardError, Client, Job, RunState, WaitingFor
from callboard.cli.gists import action_gist
from callboard.cli.output import local_time

_PAGE = 1000
_PATIENCE = 2.0
"""How many seconds to wait for an answer that is nice to have."""
_MOST_IN_LINE = 100
"""Of how many jobs to look up what is before them in line: more fit on no screen."""

Asked: TypeAlias = Mapping[str, Sequence[Action]]
"""What jobs wait to be answered, by the ids of the jobs."""


def open_actions(client: Client, jobs: Iterable[Job]) -> Asked:
    """Looks up what jobs wait to be answered: by a call for each session in which some do."""
    asking = [job for job in jobs if job.waiting_for.kind == WaitingFor.KIND_ACTIONS]
    if len(asking) == 1:
        return {job.job_id: list(client.actions.list(job.job_id)) for job in asking}
    asked = dict[str, list[Action]]()
    for session_id in dict.fromkeys(job.session_id for job in asking):
        for action in client.actions.list(session_id=session_id, page_size=_PAGE):
            asked.setdefault(action.thread_id, []).append(action)
    return asked


class Reasons:
    """Why the jobs that somebody watches do not run, as far as their changes do not say it.

    What is before a job in line changes without it, and so does which of its questions are open.
    """

    def __init__(self, client: Client) -> None:
        """Looks things up at the server of `client`."""
        self._client = client.with_timeout(_PATIENCE)
        self.asked: Asked = {}
        """What jobs wait to be answered, of those that were looked up last."""

    def look_up(self, jobs: Sequence[Job]) -> None:
        """Looks up why jobs do not run now; on those in line, notes what they wait for.

        While the server does not answer, nothing changes.
        """
        with suppress(CallboardError):
            self.asked = open_actions(self._client, jobs)
            self._line_up([job for job in jobs if job.state == RunState.RUN_STATE_QUEUED])

    def _line_up(self, queued: Sequence[Job]) -> None:
        if not queued:
            return
        job_ids = [job.job_id for job in queued[:_MOST_IN_LINE]]
        found = {job.run_id: job for job in self._client.jobs.batch_get(job_ids).jobs}
        for job in queued:
            # It may have gone on since.
            if job.run_id in found and found[job.run_id].state == job.state:
                job.waiting_for.CopyFrom(found[job.run_id].waiting_for)


def waiting_words(job: Job, asked: Asked | None = None) -> str:
    """Why a job does not run; empty where it does, or is finished.

    Args:
        job: The job.
        asked: What it waits to be answered, where that was looked up.
    """
    waiting = job.waiting_for
    match waiting.kind:
        case WaitingFor.KIND_SLOT:
            return f"waits for a slot ({waiting.position} before it)"
        case WaitingFor.KIND_CONCURRENCY:
            return f"waits for {_count(waiting.ids, 'other run')} of its assistant"
        case WaitingFor.KIND_THREAD:
            more = f" and {len(waiting.ids) - 1} more" if len(waiting.ids) > 1 else ""
            return f"waits for run {''.join(waiting.ids[:1])}{more} on its thread"
        case WaitingFor.KIND_CHILDREN:
            jobs = _count(waiting.ids, "job")
            return f"waits for one of {jobs}" if waiting.any else f"waits for {jobs}"
        case WaitingFor.KIND_TIMER:
            return f"{_timer(job)} {local_time(waiting.until)}"
        case WaitingFor.KIND_ACTIONS:
            questions = [action_gist(action) for action in (asked or {}).get(job.job_id, ())]
            return ": ".join(filter(None, ["waits for an answer", " · ".join(questions)]))
        case WaitingFor.KIND_REMOTE:
            return "waits for a remote server"
        case _:
            return ""


def _timer(job: Job) -> str:
    if job.state == RunState.RUN_STATE_WAITING:
        return "sleeps until"
    return "will be tried again at" if job.attempt > 1 else "starts at"


def _count(ids: Sequence[str], noun: str) -> str:
    return f"{len(ids)} {noun}{'' if len(ids) == 1 else 's'}"
