"""Jobs as people see them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from callboard import TERMINAL_STATES, Job, Progress, RunState, Usage, text_of
from callboard.cli.durations import format_duration
from callboard.cli.gists import progress_gist, short
from callboard.cli.output import local_time, one_line, printable
from callboard.cli.states import state_text, state_word
from callboard.cli.tables import Rows, cell, field_table
from callboard.cli.waits import Asked, waiting_words
from callboard.v1.event_pb2 import JobContext

_BAR_WIDTH = 16
_REASON_WIDTH = 80


def succeeded(job: Job) -> bool:
    """Whether a job came to its end with a result."""
    return job.state == RunState.RUN_STATE_SUCCEEDED


def error_of(job: Job) -> str:
    """Why a job has no result, for people."""
    error = job.outcome.error
    told = f": {error.message}" if error.message else ""
    return f"job {job.job_id} {state_word(job.state)}{told}"


def job_details(job: Job, asked: Asked) -> RenderableType:
    """All there is to know about a job, its result last; `asked` is what waits for answers."""
    fields = field_table(
        [
            ("job", job.job_id),
            ("state", _state_and_time(job)),
            ("why", waiting_words(job, asked)),
            ("agent", job.agent),
            ("task", job.task),
            ("progress", None if job.state in TERMINAL_STATES else progress_gist(job.progress)),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))),
            ("parent", job.parent_thread_id),
            ("context", _context_words(job)),
            ("runs", str(job.run_count) if job.run_count > 1 else None),
            ("attempt", str(job.attempt) if job.attempt > 1 else None),
            ("launched", local_time(job.create_time)),
            ("timeout", _timeout_words(job)),
            ("tokens", _usage_words(job.outcome.usage)),
            ("error", _error_text(job)),
        ]
    )
    result = text_of(job.outcome.result)
    return Group(fields, "", Text(printable(result))) if result else fields


def job_table(jobs: Sequence[Job], asked: Asked | None = None) -> RenderableType:
    """A line for each job. Why it does not run has a column where any of them does not."""
    if not jobs:
        return Text("There are no jobs.", style="dim")
    reasons = [waiting_words(job, asked) for job in jobs]
    why = ["why"] if any(reasons) else []
    table = Rows("job", "state", "agent", "time", *why, "task")
    for job, reason in zip(jobs, reasons, strict=True):
        words = [_shortened(reason)] if why else []
        table.add(job.job_id, state_text(job.state), job.agent, running_time(job), *words, job.task)
    return table


def progress_table(jobs: Sequence[Job]) -> Rows:
    """A line for each job, with how far it is, for a screen that is drawn again and again."""
    table = Rows("job", "state", "agent", "time", "progress")
    for job in jobs:
        table.add(
            short(job.job_id),
            state_text(job.state),
            job.agent,
            running_time(job),
            _progress_or_task(job),
        )
    return table


def progress_line(job: Job) -> str:
    """How far a job is, on a line."""
    finished = job.state in TERMINAL_STATES
    gist = job.outcome.error.message if finished else _gist(job)
    return f"{job.job_id}  {state_word(job.state):<12}  {job.agent}  {one_line(gist)}".rstrip()


def running_time(job: Job) -> str:
    """How long the current run of a job takes or took; empty before it starts."""
    if not job.HasField("start_time"):
        return ""
    end = job.end_time.ToNanoseconds() / 1e9 if job.HasField("end_time") else time.time()
    return format_duration(end - job.start_time.ToNanoseconds() / 1e9)


def _shortened(reason: str) -> str:
    return reason if len(reason) <= _REASON_WIDTH else reason[: _REASON_WIDTH - 1] + "…"


def _state_and_time(job: Job) -> Text:
    text, taken = state_text(job.state), running_time(job)
    if taken:
        text.append(f"  {taken}", style="dim")
    return text


def _progress_or_task(job: Job) -> Text:
    if job.state in TERMINAL_STATES:
        return cell(job.outcome.error.message or job.task, style="dim")
    gist = cell(_gist(job) or job.task)
    return Text.assemble(_bar(job.progress), "  ", gist) if job.progress.total else gist


def _gist(job: Job) -> str:
    return waiting_words(job) or progress_gist(job.progress)


def _bar(progress: Progress) -> Text:
    done = min(_BAR_WIDTH, _BAR_WIDTH * progress.current // progress.total)
    return Text.assemble(("━" * done, "cyan"), ("─" * (_BAR_WIDTH - done), "dim"))


def _context_words(job: Job) -> str:
    return "a fork of the parent's" if job.context == JobContext.JOB_CONTEXT_FORK else ""


def _timeout_words(job: Job) -> str:
    return format_duration(job.timeout.ToNanoseconds() / 1e9) if job.HasField("timeout") else ""


def _usage_words(usage: Usage) -> str:
    if not (usage.input_tokens or usage.output_tokens):
        return ""
    return f"{usage.input_tokens:,} in, {usage.output_tokens:,} out"


def _error_text(job: Job) -> Text | None:
    error = job.outcome.error
    if not error.message:
        return None
    return Text(printable(error.message), style="red")
