"""Watching jobs: their tree, drawn again and again, or a line for every change."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.live import Live

from callboard import Client, Job, JobStream, RunState
from callboard.cli.job_tree import JobTree, TreeTable
from callboard.cli.job_views import progress_line
from callboard.cli.outages import away_words
from callboard.cli.output import Output
from callboard.cli.waits import Reasons

_DRAWS_PER_SECOND = 8
_LOOKS_EVERY = 0.5
"""After how many seconds to look up anew why jobs do not run."""
_UNEXPLAINED = (RunState.RUN_STATE_QUEUED, RunState.RUN_STATE_REQUIRES_ACTION)
"""The states of jobs whose changes do not say all."""


def watch_jobs(out: Output, client: Client, changes: JobStream, root_id: str = "") -> list[Job]:
    """Shows jobs for as long as their changes come.

    Args:
        out: Where to show them.
        client: Where to look up why they do not run.
        changes: The jobs, each again after every change.
        root_id: The job that is watched, with those below it.

    Returns:
        The jobs as they stood last, in the order in which they came.
    """
    latest: dict[str, Job] = {}
    reasons = Reasons(client)

    def table() -> TreeTable:
        tree = JobTree(list(latest.values()), root_id)
        return TreeTable(tree, reasons.asked, fits_screen=True, note=away_words(changes))

    shown = _drawn(out, table, latest, reasons) if out.is_terminal else _lines(out, reasons)
    with shown as show:
        for job in changes:
            latest[job.job_id] = job
            show(job)
    return list(latest.values())


@contextmanager
def _drawn(
    out: Output, table: Callable[[], TreeTable], latest: dict[str, Job], reasons: Reasons
) -> Iterator[Callable[[Job], None]]:
    # Drawn anew even while nothing changes, for time goes on.
    live = Live(console=out.console, refresh_per_second=_DRAWS_PER_SECOND, get_renderable=table)
    with live, _kept_up(reasons, latest):
        yield lambda job: None


@contextmanager
def _kept_up(reasons: Reasons, latest: dict[str, Job]) -> Iterator[None]:
    """Looks up again and again, beside the changes, why jobs do not run."""
    over = threading.Event()

    def look() -> None:
        while not over.wait(_LOOKS_EVERY):
            reasons.look_up(list(latest.values()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextmanager
def _lines(out: Output, reasons: Reasons) -> Iterator[Callable[[Job], None]]:
    if out.as_json:
        yield out.json
        return
    last: dict[str, str] = {}

    def show(job: Job) -> None:
        if job.state in _UNEXPLAINED:
            reasons.look_up([job])
        line = progress_line(job, reasons.asked)
        # Not every change of a job shows.
        if last.get(job.job_id) != line:
            last[job.job_id] = line
            out.write(line + "\n")

    yield show
