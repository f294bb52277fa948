"""Watching jobs: a table that is drawn again and again, or a line for every change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from rich.live import Live

from callboard import Job
from callboard.cli.job_views import progress_line, progress_table
from callboard.cli.output import Output

_DRAWS_PER_SECOND = 8


def watch_jobs(out: Output, changes: Iterable[Job]) -> list[Job]:
    """Shows jobs for as long as their changes come.

    Args:
        out: Where to show them.
        changes: The jobs, each again after every change.

    Returns:
        The jobs as they stood last, in the order in which they came.
    """
    latest: dict[str, Job] = {}
    with _table(out, latest) if out.is_terminal else _lines(out) as show:
        for job in changes:
            latest[job.job_id] = job
            show(job)
    return list(latest.values())


@contextmanager
def _table(out: Output, jobs: dict[str, Job]) -> Iterator[Callable[[Job], None]]:
    # Drawn anew even while nothing changes, for time goes on.
    with Live(
        console=out.console,
        refresh_per_second=_DRAWS_PER_SECOND,
        get_renderable=lambda: progress_table(list(jobs.values())),
    ):
        yield lambda job: None


@contextmanager
def _lines(out: Output) -> Iterator[Callable[[Job], None]]:
    if out.as_json:
        yield out.json
        return
    last: dict[str, str] = {}

    def show(job: Job) -> None:
        line = progress_line(job)
        # Not every change of a job shows.
        if last.get(job.job_id) != line:
            last[job.job_id] = line
            out.write(line + "\n")

    yield show
