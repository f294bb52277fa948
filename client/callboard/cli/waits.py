"""Why a job does not run just now."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from callboard import Action, Client, Job, RunState, WaitingFor
from callboard.cli.gists import action_gist
from callboard.cli.output import local_time

Asked: TypeAlias = Mapping[str, Sequence[Action]]
"""What jobs wait to be answered, by the ids of the jobs."""


def open_actions(client: Client, jobs: Iterable[Job]) -> Asked:
    """Looks up what jobs wait to be answered."""
    return {
        job.job_id: list(client.actions.list(job.job_id))
        for job in jobs
        if job.waiting_for.kind == WaitingFor.KIND_ACTIONS
    }


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
