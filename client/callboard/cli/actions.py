"""`callboard actions`, `callboard respond`: what waits for an answer, and answering it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from callboard import Action, Client, Run
from callboard.cli.answers import meant_by
from callboard.cli.failures import CommandError, ExitCode, checks_arguments
from callboard.cli.gists import action_gist, short
from callboard.cli.ids import Abbreviated
from callboard.cli.invocation import Cli, LimitOption, command, page_for
from callboard.cli.output import local_time
from callboard.cli.states import state_word
from callboard.cli.tables import Rows

app = typer.Typer()

AllowOption = Annotated[bool, typer.Option("--allow", help="Let the tool run.")]
DenyOption = Annotated[
    str | None, typer.Option(metavar="MESSAGE", help="Do not let the tool run; say why.")
]
AnswerOption = Annotated[
    str | None, typer.Option(metavar="JSON", help="Answer a question: JSON, or plain text.")
]
ResultOption = Annotated[
    str | None, typer.Option(metavar="TEXT", help="What a tool of the client returned.")
]

_FLAGS = {
    Action.KIND_QUESTION: "--answer",
    Action.KIND_TOOL_PERMISSION: "--allow or --deny",
    Action.KIND_CLIENT_TOOL: "--result",
}
"""How an action of each kind is answered."""
_WORDS = {
    Action.KIND_QUESTION: "an answer",
    Action.KIND_TOOL_PERMISSION: "permission",
    Action.KIND_CLIENT_TOOL: "a result",
}


@command(app)
def actions(
    cli: Cli,
    thread: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Only those of this thread, or job."),
        Abbreviated,
    ] = None,
    session: Annotated[
        str | None, typer.Option(metavar="ID", help="Those of this whole session."), Abbreviated
    ] = None,
    limit: LimitOption = 50,
) -> None:
    """List what waits for an answer, oldest first. `callboard respond` answers."""
    with checks_arguments():
        found = cli.client.actions.list(thread, session_id=session, page_size=page_for(limit))
    cli.show_all(found, _table, limit)


@command(app)
def respond(
    cli: Cli,
    action_id: Annotated[str, typer.Argument(metavar="ACTION", help="The action's whole id.")],
    allow: AllowOption = False,
    deny: DenyOption = None,
    answer: AnswerOption = None,
    result: ResultOption = None,
) -> None:
    """Answer what waits for an answer: a question, a permission, a tool of the client."""
    reply = Reply(allow, deny, answer, result)
    if reply.count != 1:
        raise _usage("give one of --allow, --deny, --answer and --result")
    cli.show(hand_in(cli.client, _find(cli.client, action_id), reply), _answered)


@dataclass(frozen=True)
class Reply:
    """An answer, as options say it."""

    allow: bool
    deny: str | None
    answer: str | None
    result: str | None

    @property
    def count(self) -> int:
        """How many answers it is: one, if it is of use."""
        texts = (self.deny, self.answer, self.result)
        return self.allow + sum(text is not None for text in texts)


def hand_in(client: Client, action: Action, reply: Reply) -> Run:
    """Answers an action.

    Raises:
        CommandError: If the answer is not of the kind that the action waits for.
    """
    match action.kind:
        case Action.KIND_TOOL_PERMISSION if reply.allow:
            return client.actions.allow(action)
        case Action.KIND_TOOL_PERMISSION if reply.deny is not None:
            return client.actions.deny(action, reply.deny)
        case Action.KIND_QUESTION if reply.answer is not None:
            with checks_arguments():
                return client.actions.answer(action, meant_by(action, reply.answer))
        case Action.KIND_CLIENT_TOOL if reply.result is not None:
            return client.actions.result(action, reply.result)
    raise _usage(f"this action waits for {_WORDS[action.kind]}: give {_FLAGS[action.kind]}")


def _usage(message: str) -> CommandError:
    return CommandError(message, hint="callboard respond --help", exit_code=ExitCode.USAGE)


def _find(client: Client, action_id: str) -> Action:
    """The open action with an id.

    Raises:
        CommandError: If there is none.
    """
    for action in client.actions.list(page_size=1000):
        if action.action_id == action_id:
            return action
    raise CommandError(
        f"no action {action_id} waits for an answer",
        hint="callboard actions",
        exit_code=ExitCode.NOT_FOUND,
    )


def _answered(run: Run) -> RenderableType:
    return Text(f"answered; run {run.run_id}: {state_word(run.state)}")


def _table(actions: Sequence[Action]) -> RenderableType:
    if not actions:
        return Text("Nothing waits for an answer.", style="dim")
    table = Rows("action", "thread", "agent", "since", "waits for", "what")
    for action in actions:
        table.add(
            action.action_id,
            short(action.thread_id),
            action.author,
            local_time(action.create_time),
            _WORDS.get(action.kind, ""),
            _what(action),
        )
    return table


def _what(action: Action) -> str:
    late = f" (until {local_time(action.deadline)})" if action.HasField("deadline") else ""
    return action_gist(action) + late
