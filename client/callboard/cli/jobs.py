"""`callboard jobs`: launching, redirecting, watching and answering delegated work."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Annotated, Literal, cast

import typer
from rich.console import RenderableType

from callboard import Action, Client, InvalidArgument, Job, NotFound, Unavailable, text_of
from callboard._enums import JobViewName, StateName
from callboard.cli.actions import (
    AllowOption,
    AnswerOption,
    DenyOption,
    Reply,
    ResultOption,
    hand_in,
)
from callboard.cli.answers import Answerer
from callboard.cli.durations import parse_duration
from callboard.cli.failures import CommandError, ExitCode, checks_arguments
from callboard.cli.gists import action_gist
from callboard.cli.ids import Abbreviated, JobId
from callboard.cli.invocation import (
    Cli,
    JsonOption,
    LimitOption,
    ServerOption,
    command,
    page_for,
    split_names,
)
from callboard.cli.job_tree import JobTree, TreeTable
from callboard.cli.job_views import error_of, job_details, job_table, succeeded
from callboard.cli.outages import downtime
from callboard.cli.output import note
from callboard.cli.screen import Screen
from callboard.cli.states import state_word
from callboard.cli.waits import open_actions
from callboard.cli.watching import watch_jobs

app = typer.Typer(name="jobs")

_PAGE = 1000
_ACTIVE: list[StateName] = ["queued", "running", "waiting", "requires_action"]

ParentOption = Annotated[
    str | None,
    typer.Option(metavar="ID", help="The thread that the jobs belong to."),
    Abbreviated,
]
LabelOption = Annotated[
    list[str] | None,
    typer.Option("--label", metavar="KEY=VALUE", help="A label; may be given several times."),
]


@app.callback(invoke_without_command=True)
def _root(context: typer.Context, server: ServerOption = None, as_json: JsonOption = False) -> None:
    """Launch, redirect, watch and answer jobs. Without a command: the tree of what is active."""
    context.obj = context.obj.with_those(server, as_json)
    if context.invoked_subcommand is None:
        with ExitStack() as resources:
            tree(Cli(context.obj, resources))


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
    if watch or wait:
        try:
            _finish(cli, _watch(cli, job_id=job.job_id) if watch else _wait(cli, [job.job_id]))
        except (KeyboardInterrupt, Unavailable):
            # Nothing on the screen may have said its whole id.
            note(f"it goes on: callboard jobs watch {job.job_id}")
            raise
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
    limit: LimitOption = 50,
) -> None:
    """List jobs, newest first, and why they do not run."""
    with checks_arguments():
        jobs = cli.client.jobs.list(
            parent_thread_id=parent,
            states=cast("list[StateName]", split_names(state)),
            labels=_to_labels(label),
            view=_view(cli),
            page_size=page_for(limit),
        )
    cli.show_all(jobs, lambda jobs: job_table(jobs, open_actions(cli.client, jobs)), limit)


@command(app)
def tree(
    cli: Cli,
    thread_or_job: Annotated[
        str | None,
        typer.Argument(metavar="[ID]", help="A thread, or a job; all active jobs when left out."),
        Abbreviated,
    ] = None,
) -> None:
    """Show jobs below those that launched them: why they wait, and how far they are."""
    root_id = thread_or_job or ""
    jobs = _tree_below(cli, root_id) if root_id else _active(cli.client)

    def show(jobs: Sequence[Job]) -> RenderableType:
        if not jobs:
            return job_table(jobs)
        return TreeTable(JobTree(jobs, root_id), open_actions(cli.client, jobs))

    cli.show_all(jobs, show)


@command(app)
def watch(
    cli: Cli,
    job_id: Annotated[
        str | None,
        typer.Argument(metavar="ID", help="The job's id; its first 8 characters are enough."),
        Abbreviated,
    ] = None,
    parent: ParentOption = None,
) -> None:
    """Show how a job goes, or all jobs of a thread, with those below, until all are finished."""
    if (job_id is None) == (parent is None):
        raise CommandError(
            "give either the ID of a job or --parent",
            hint="callboard jobs watch --help",
            exit_code=ExitCode.USAGE,
        )
    jobs = _watch(cli, job_id=job_id, parent=parent)
    if job_id is not None:
        _finish(cli, jobs)
    elif not jobs:
        cli.show_all(jobs, job_table)
    elif not all(map(succeeded, jobs)):
        raise typer.Exit(ExitCode.FAILED)


@command(app)
def respond(
    cli: Cli,
    job_id: JobId,
    action: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Which action, where the job waits for several."),
    ] = None,
    allow: AllowOption = False,
    deny: DenyOption = None,
    answer: AnswerOption = None,
    result: ResultOption = None,
) -> None:
    """Answer what a job asks. Without an answer among the options, it is asked for here."""
    reply = Reply(allow, deny, answer, result)
    if reply.count > 1:
        raise _wrong_reply("give only one of --allow, --deny, --answer and --result")
    asked = _asked_by(cli.client, job_id, action)
    if not reply.count:
        answerer = Answerer(cli.client, Screen(cli.out))
        if not all([answerer.ask(each) for each in asked]):
            raise typer.Exit(ExitCode.FAILED)
    elif len(asked) == 1:
        hand_in(cli.client, asked[0], reply)
    else:
        choice = "\n".join(f"--action {each.action_id}  {action_gist(each)}" for each in asked)
        raise _wrong_reply(f"the job waits for {len(asked)} answers; say which this is:\n{choice}")
    cli.show(cli.client.jobs.get(job_id), lambda job: job_table([job]))


@command(app)
def wait(
    cli: Cli,
    job_ids: Annotated[
        list[str],
        typer.Argument(metavar="ID", help="The jobs' ids; their first 8 characters are enough."),
        Abbreviated,
    ],
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
    """Shows jobs and those below them, and returns those that were named, not those below."""
    client = cli.client
    with client.jobs.watch(
        parent,
        job_id=job_id,
        scope="tree",
        until="done",
        max_downtime=downtime(is_watched=cli.out.is_terminal),
    ) as changes:
        jobs = watch_jobs(cli.out, client, changes, job_id or "")
    return [job for job in jobs if job_id == job.job_id or parent == job.parent_thread_id]


def _tree_below(cli: Cli, named: str) -> list[Job]:
    """A job or a thread: the job, if it is one, and all below it, after those above them."""
    client = cli.client
    try:
        top = [client.jobs.get(named)]
    except NotFound as unknown:
        top = []
        try:
            client.threads.get(named)
        except (NotFound, InvalidArgument):
            raise unknown from None
    below = client.jobs.list(parent_thread_id=named, scope="tree", view=_view(cli), page_size=_PAGE)
    return [*top, *reversed(list(below))]


def _active(client: Client) -> list[Job]:
    """All jobs that are not finished, each after the one that launched it."""
    return list(client.jobs.list(states=_ACTIVE, page_size=_PAGE))[::-1]


def _view(cli: Cli) -> JobViewName:
    """Lists for people show no results; machines get whole jobs."""
    return "full" if cli.out.as_json else "basic"


def _asked_by(client: Client, job_id: str, action_id: str | None) -> list[Action]:
    """What a job waits to be answered, or one action of it.

    Raises:
        CommandError: If there is none.
    """
    job = client.jobs.get(job_id)
    asked = list(client.actions.list(job_id))
    if action_id is not None:
        asked = [action for action in asked if action.action_id == action_id]
    if not asked:
        what = f"action {action_id}" if action_id else "an answer"
        raise CommandError(
            f"job {job_id} does not wait for {what}; its state: {state_word(job.state)}",
            hint=f"callboard jobs get {job_id}",
            exit_code=ExitCode.NOT_FOUND,
        )
    return asked


def _wrong_reply(message: str) -> CommandError:
    return CommandError(message, hint="callboard jobs respond --help", exit_code=ExitCode.USAGE)


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
