"""Watching jobs: a table that is drawn again and again, or a line for every change."""

from __future__ import annotations

from collections.abc import Iterable

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
    if out.as_json:
        return _print_json(out, changes)
    return _draw(out, changes) if out.is_terminal else _print_lines(out, changes)


def _print_json(out: Output, changes: Iterable[Job]) -> list[Job]:
    latest: dict[str, Job] = {}
    for job in changes:
        latest[job.job_id] = job
        out.json(job)
    return list(latest.values())


def _print_lines(out: Output, changes: Iterable[Job]) -> list[Job]:
    latest: dict[str, Job] = {}
    lines: dict[str, str] = {}
    for job in changes:
        latest[job.job_id] = job
        line = progress_line(job)
        # Not every change of a job shows.
        if lines.get(job.job_id) != line:
            lines[job.job_id] = line
            out.write(line + "\n")
    return list(latest.values())


def _draw(out: Output, changes: Iterable[Job]) -> list[Job]:
    latest: dict[str, Job] = {}
    # Drawn anew even while nothing changes, for time goes on.
    with Live(
        console=out.console,
        refresh_per_second=_DRAWS_PER_SECOND,
        get_renderable=lambda: progress_table(list(latest.values())),
    ):
        for job in changes:
            latest[job.job_id] = job
    return list(latest.values())
