"""Jobs as people see them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from callboard import TERMINAL_STATES, Job, Progress, RunState, Usage, text_of
from callboard.cli.durations import format_duration
from callboard.cli.gists import progress_gist
from callboard.cli.output import local_time, one_line, printable, shortened
from callboard.cli.states import state_text, state_word
from callboard.cli.tables import Fields, Rows, cell
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
    fields = Fields(
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
            ("tokens", tokens_words(job.usage)),
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
        words = [shortened(reason, _REASON_WIDTH)] if why else []
        table.add(job.job_id, state_text(job.state), job.agent, running_time(job), *words, job.task)
    return table


def progress_line(job: Job, asked: Asked | None = None) -> str:
    """How far a job is, on a line."""
    finished = job.state in TERMINAL_STATES
    gist = job.outcome.error.message if finished else _gist(job, asked)
    return f"{job.job_id}  {state_word(job.state):<12}  {job.agent}  {one_line(gist)}".rstrip()


def job_now(job: Job, asked: Asked) -> Text:
    """What becomes of a job: why it does not run, how far it is, or what went wrong."""
    if job.state in TERMINAL_STATES:
        return cell(job.outcome.error.message or job.task, style="dim")
    gist = cell(_gist(job, asked) or job.task)
    if job.state == RunState.RUN_STATE_RUNNING and job.progress.total:
        return Text.assemble(_bar(job.progress), "  ", gist)
    return gist


def running_time(job: Job) -> str:
    """How long the current run of a job takes or took; empty before it starts."""
    if not job.HasField("start_time"):
        return ""
    end = job.end_time.ToNanoseconds() / 1e9 if job.HasField("end_time") else time.time()
    return format_duration(end - job.start_time.ToNanoseconds() / 1e9)


def total_usage(jobs: Iterable[Job]) -> Usage:
    """The tokens that jobs have used together."""
    used = [job.usage for job in jobs]
    return Usage(
        input_tokens=sum(each.input_tokens for each in used),
        output_tokens=sum(each.output_tokens for each in used),
    )


def tokens_words(usage: Usage) -> str:
    """How many tokens went in and came out; empty where there were none."""
    if not (usage.input_tokens or usage.output_tokens):
        return ""
    return f"{usage.input_tokens:,} in, {usage.output_tokens:,} out"


def tokens_gist(usage: Usage) -> str:
    """How many tokens went in and came out, in at most eleven characters."""
    if not (usage.input_tokens or usage.output_tokens):
        return ""
    return f"{_rounded(usage.input_tokens)}/{_rounded(usage.output_tokens)}"


def _rounded(count: int) -> str:
    """A number in at most five characters."""
    for factor, unit in ((10**9, "G"), (10**6, "M"), (10**3, "k")):
        if count >= factor:
            amount = count / factor
            return f"{amount:.1f}{unit}" if amount < 99.95 else f"{amount:.0f}{unit}"
    return str(count)


def _state_and_time(job: Job) -> Text:
    text, taken = state_text(job.state), running_time(job)
    if taken:
        text.append(f"  {taken}", style="dim")
    return text


def _gist(job: Job, asked: Asked | None) -> str:
    return " · ".join(filter(None, [waiting_words(job, asked), progress_gist(job.progress)]))


def _bar(progress: Progress) -> Text:
    done = min(_BAR_WIDTH, _BAR_WIDTH * progress.current // progress.total)
    return Text.assemble(("━" * done, "cyan"), ("─" * (_BAR_WIDTH - done), "dim"))


def _context_words(job: Job) -> str:
    return "a fork of the parent's" if job.context == JobContext.JOB_CONTEXT_FORK else ""


def _timeout_words(job: Job) -> str:
    return format_duration(job.timeout.ToNanoseconds() / 1e9) if job.HasField("timeout") else ""


def _error_text(job: Job) -> Text | None:
    error = job.outcome.error
    if not error.message:
        return None
    return Text(printable(error.message), style="red")
