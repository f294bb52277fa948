"""Jobs as people see them."""

from __future__ import annotations

import time
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from callboard import TERMINAL_STATES, Job, Progress, RunState, Usage, WaitingFor, text_of
from callboard.cli.durations import format_duration
from callboard.cli.output import cell, field_table, list_table, local_time, one_line, printable
from callboard.cli.states import state_text, state_word

_BAR_WIDTH = 16


def succeeded(job: Job) -> bool:
    """Whether a job came to its end with a result."""
    return job.state == RunState.RUN_STATE_SUCCEEDED


def error_of(job: Job) -> str:
    """Why a job has no result, for people."""
    error = job.outcome.error
    told = f": {error.message}" if error.message else ""
    number = f" (error id {error.error_id})" if error.error_id not in error.message else ""
    return f"job {job.job_id} {_ENDS.get(job.state, state_word(job.state))}{told}{number}"


_ENDS = {RunState.RUN_STATE_CANCELLED: "was cancelled", RunState.RUN_STATE_SUPERSEDED: "was superseded"}


def job_details(job: Job) -> RenderableType:
    """All there is to know about a job, its result last."""
    fields = field_table(
        [
            ("job", job.job_id),
            ("state", _state_and_time(job)),
            ("agent", job.agent),
            ("task", job.task),
            ("progress", None if job.state in TERMINAL_STATES else progress_words(job.progress)),
            ("waits for", _waiting_words(job.waiting_for)),
            ("labels", ", ".join(f"{key}={value}" for key, value in sorted(job.labels.items()))),
            ("parent", job.parent_thread_id),
            ("runs", str(job.run_count) if job.run_count > 1 else None),
            ("attempt", str(job.attempt) if job.attempt > 1 else None),
            ("launched", local_time(job.create_time)),
            ("timeout", format_duration(job.timeout.seconds) if job.HasField("timeout") else None),
            ("tokens", _usage_words(job.outcome.usage)),
            ("error", _error_text(job)),
        ]
    )
    result = text_of(job.outcome.result)
    return Group(fields, "", Text(printable(result))) if result else fields


def job_table(jobs: Sequence[Job]) -> RenderableType:
    """A line for each job."""
    if not jobs:
        return Text("There are no jobs.", style="dim")
    table = list_table("job", "state", "agent", "time", "task", flexible="task")
    for job in jobs:
        table.add_row(
            job.job_id, state_text(job.state), cell(job.agent), running_time(job), cell(job.task)
        )
    return table


def progress_table(jobs: Sequence[Job]) -> Table:
    """A line for each job, with how far it is, for a screen that is drawn again and again."""
    table = list_table("job", "state", "agent", "time", "progress", flexible="progress")
    for job in jobs:
        table.add_row(
            job.job_id[:8],
            state_text(job.state),
            cell(job.agent),
            running_time(job),
            _progress_or_task(job),
        )
    return table


def progress_line(job: Job) -> str:
    """How far a job is, on a line."""
    parts = [job.job_id, f"{state_word(job.state):<12}", f"{job.agent}", progress_words(job.progress)]
    if job.state in TERMINAL_STATES:
        parts[-1] = one_line(job.outcome.error.message)
    return "  ".join(part for part in parts if part).rstrip()


def running_time(job: Job) -> str:
    """How long the current run of a job takes or took; empty before it starts."""
    if not job.HasField("start_time"):
        return ""
    end = job.end_time.ToNanoseconds() / 1e9 if job.HasField("end_time") else time.time()
    return format_duration(end - job.start_time.ToNanoseconds() / 1e9)


def progress_words(progress: Progress) -> str:
    """What a job says about how far it is."""
    count = f"{progress.current}/{progress.total}" if progress.total else ""
    if progress.current and not progress.total:
        count = str(progress.current)
    message = one_line(progress.message)
    return f"{message} ({count})" if message and count else message or count


def _state_and_time(job: Job) -> Text:
    text, taken = state_text(job.state), running_time(job)
    if taken:
        text.append(f"  {taken}", style="dim")
    return text


def _progress_or_task(job: Job) -> RenderableType:
    if job.state in TERMINAL_STATES:
        return cell(job.outcome.error.message or job.task, style="dim")
    progress = job.progress
    if not progress.total:
        return cell(progress_words(progress) or job.task)
    row = Table.grid(padding=(0, 1, 0, 0))
    row.add_column(width=_BAR_WIDTH)
    row.add_column(no_wrap=True, overflow="ellipsis")
    bar = ProgressBar(total=progress.total, completed=progress.current, width=_BAR_WIDTH)
    row.add_row(bar, progress_words(progress))
    return row


def _waiting_words(waiting: WaitingFor) -> str:
    kinds = {
        WaitingFor.KIND_SLOT: f"a slot, {waiting.position} before it",
        WaitingFor.KIND_THREAD: "runs before it on its thread",
        WaitingFor.KIND_CHILDREN: f"{len(waiting.ids)} jobs of its own",
        WaitingFor.KIND_TIMER: f"{local_time(waiting.until)}",
        WaitingFor.KIND_ACTIONS: f"an answer to {', '.join(waiting.ids)}",
        WaitingFor.KIND_REMOTE: "a remote server",
    }
    return kinds.get(waiting.kind, "")


def _usage_words(usage: Usage) -> str:
    if not (usage.input_tokens or usage.output_tokens):
        return ""
    return f"{usage.input_tokens:,} in, {usage.output_tokens:,} out"


def _error_text(job: Job) -> Text | None:
    error = job.outcome.error
    if not error.message:
        return None
    return Text(printable(error.message), style="red")
