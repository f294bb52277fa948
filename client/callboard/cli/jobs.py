"""`callboard jobs`: launching, redirecting and watching delegated work."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Annotated, Literal, cast

import typer

from callboard import Job, text_of
from callboard._enums import StateName
from callboard.cli.durations import parse_duration
from callboard.cli.failures import CommandError, ExitCode, checks_arguments
from callboard.cli.invocation import Cli, command, split_names
from callboard.cli.job_views import error_of, job_details, job_table, succeeded
from callboard.cli.output import note
from callboard.cli.waits import open_actions
from callboard.cli.watching import watch_jobs

app = typer.Typer(name="jobs", help="Launch, redirect and watch jobs.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's whole id.")]
ParentOption = Annotated[
    str | None, typer.Option(metavar="ID", help="The thread that the jobs belong to.")
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="A label; may be given several times."),
]


@command(app)
def launch(
    cli: Cli,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Who does the work.")],
    task: Annotated[list[str], typer.Argument(metavar="TASK", help="What to do.")],
    parent: ParentOption = None,
    fork: Annotated[
        bool, typer.Option("--fork", help="Begin with the conversation of --parent.")
    ] = False,
    label: LabelOption = None,
    timeout: Annotated[
        float | None,
        typer.Option(
            parser=parse_duration, metavar="DURATION", help="How long it may run, as 30s or 5m."
        ),
    ] = None,
    webhook: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="A webhook of the server that is told of it."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait and print the result.")] = False,
    watch: Annotated[
        bool, typer.Option("--watch", help="Show how it goes, then print the result.")
    ] = False,
) -> None:
    """Launch a job. It goes on by itself; --wait and --watch stay with it."""
    if fork and parent is None:
        raise CommandError(
            "--fork takes the conversation of a thread: say which by --parent",
            hint="callboard jobs launch --help",
            exit_code=ExitCode.USAGE,
        )
    job = cli.client.jobs.launch(
        agent,
        " ".join(task),
        parent_thread_id=parent,
        context="fork" if fork else None,
        labels=_to_labels(label),
        timeout=timeout,
        webhook=webhook,
    )
    if watch:
        _finish(cli, _watch(cli, job_id=job.job_id))
    elif wait:
        _finish(cli, _wait(cli, [job.job_id]))
    elif cli.out.as_json:
        cli.out.json(job)
    else:
        cli.out.write(f"{job.job_id}\n")
        note(f"follow it: callboard jobs watch {job.job_id}")


@command(app)
def get(cli: Cli, job_id: JobId) -> None:
    """Show a job: why it does not run, or what came of it."""
    job = cli.client.jobs.get(job_id)
    cli.show(job, lambda job: job_details(job, open_actions(cli.client, [job])))


@command(app)
def update(
    cli: Cli,
    job_id: JobId,
    instructions: Annotated[
        list[str], typer.Argument(metavar="INSTRUCTIONS", help="What to do now.")
    ],
    delivery: Annotated[
        Literal["interrupt", "steer", "enqueue"],
        typer.Option(help="Stop what it does now, tell it at its next step, or let it end first."),
    ] = "interrupt",
) -> None:
    """Redirect a job, or follow up a finished one. Its id stays."""
    job = cli.client.jobs.update(job_id, " ".join(instructions), delivery=delivery)
    cli.show(job, lambda job: job_table([job]))


@command(app)
def cancel(
    cli: Cli,
    job_id: JobId,
    cascade: Annotated[
        bool, typer.Option("--cascade", help="Cancel the jobs that it launched, too.")
    ] = False,
) -> None:
    """Cancel a job. One that is finished stays as it is."""
    job = cli.client.jobs.cancel(job_id, cascade=cascade)
    cli.show(job, lambda job: job_table([job]))


@command(app, name="list")
def list_(
    cli: Cli,
    parent: ParentOption = None,
    state: Annotated[
        str, typer.Option(metavar="STATE,...", help="Only in these states, as queued,running.")
    ] = "",
    label: LabelOption = None,
    limit: Annotated[int, typer.Option(min=1, help="How many at most.")] = 50,
) -> None:
    """List jobs, newest first, and why they do not run."""
    with checks_arguments():
        jobs = cli.client.jobs.list(
            parent_thread_id=parent,
            states=cast("list[StateName]", split_names(state)),
            labels=_to_labels(label),
            page_size=min(limit, 1000),
        )
    cli.show_all(islice(jobs, limit), lambda jobs: job_table(jobs, open_actions(cli.client, jobs)))


@command(app)
def watch(
    cli: Cli,
    job_id: Annotated[str | None, typer.Argument(metavar="ID", help="The job's whole id.")] = None,
    parent: ParentOption = None,
) -> None:
    """Show how a job goes, or all jobs of a thread, until they are finished."""
    if (job_id is None) == (parent is None):
        raise CommandError(
            "give either the ID of a job or --parent",
            hint="callboard jobs watch --help",
            exit_code=ExitCode.USAGE,
        )
    jobs = _watch(cli, job_id=job_id, parent=parent)
    if job_id is not None:
        _finish(cli, jobs)
    elif not all(map(succeeded, jobs)):
        raise typer.Exit(ExitCode.FAILED)


@command(app)
def wait(
    cli: Cli,
    job_ids: Annotated[list[str], typer.Argument(metavar="ID", help="The jobs' whole ids.")],
) -> None:
    """Wait until jobs are finished, and print their results."""
    jobs = _wait(cli, job_ids)
    if len(jobs) == 1:
        _finish(cli, jobs)
    elif not cli.out.as_json:
        cli.out.print(job_table(jobs))
    if not all(map(succeeded, jobs)):
        raise typer.Exit(ExitCode.FAILED)


def _wait(cli: Cli, job_ids: Sequence[str]) -> Sequence[Job]:
    jobs = cli.client.jobs.wait(job_ids)
    if cli.out.as_json:
        for job in jobs:
            cli.out.json(job)
    return jobs


def _watch(cli: Cli, *, job_id: str | None = None, parent: str | None = None) -> Sequence[Job]:
    with cli.client.jobs.watch(parent, job_id=job_id, until="done") as changes:
        return watch_jobs(cli.out, changes)


def _finish(cli: Cli, jobs: Sequence[Job]) -> None:
    """Prints the result of a single job that was waited for.

    Raises:
        CommandError: If it has none.
    """
    for job in jobs:
        if not succeeded(job):
            raise CommandError(error_of(job))
        if not cli.out.as_json:
            cli.out.write(text_of(job.outcome.result).rstrip("\n") + "\n")


def _to_labels(labels: Sequence[str] | None) -> dict[str, str]:
    pairs = [label.partition("=") for label in labels or ()]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise typer.BadParameter(f"{key!r} is no label; write KEY=VALUE", param_hint="--label")
    return {key: value for key, _, value in pairs}
