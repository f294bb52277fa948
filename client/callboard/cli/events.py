"""`callboard events`: the log of a thread or its session."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, cast

import typer
from rich.text import Text

from callboard import Delta, Event
from callboard._enums import KindName, ScopeName
from callboard.cli.failures import checks_arguments
from callboard.cli.gists import event_gist, short
from callboard.cli.ids import ThreadId
from callboard.cli.invocation import Cli, command, split_names
from callboard.cli.outages import downtime, tells_outages
from callboard.cli.output import Output, local_time, one_line
from callboard.v1.event_pb2 import Actor

app = typer.Typer()

_KIND_WIDTH = 23  # the longest: thread_message_received
_ACTOR_WIDTH = 12


@command(app)
def events(
    cli: Cli,
    thread_id: ThreadId,
    session: Annotated[bool, typer.Option("--session", help="Those of its whole session.")] = False,
    kinds: Annotated[
        str, typer.Option(metavar="KIND,...", help="Only these, as message_added,run_finished.")
    ] = "",
    after: Annotated[int, typer.Option(min=0, help="Only those after this sequence.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as they come.")] = False,
    deltas: Annotated[
        bool, typer.Option("--deltas", help="With --follow: pieces of messages in the making.")
    ] = False,
) -> None:
    """Show the log of a thread. A line has sequence, time, thread, actor, kind and gist."""
    if deltas and not follow:
        raise typer.BadParameter("goes with --follow only", param_hint="--deltas")
    scope: ScopeName = "session" if session else "thread"
    names = cast("list[KindName]", split_names(kinds))
    threads = cli.client.threads
    if not follow:
        with checks_arguments():
            found = threads.events(thread_id, scope=scope, kinds=names, after_sequence=after)
        _show(cli.out, found)
        return
    with checks_arguments():
        stream = threads.stream(
            thread_id,
            scope=scope,
            kinds=names,
            after_sequence=after,
            deltas=deltas,
            max_downtime=downtime(is_watched=cli.out.is_terminal),
        )
    with stream, tells_outages(cli.out, stream):
        _show(cli.out, stream)


def _show(out: Output, items: Iterable[Event | Delta]) -> None:
    for item in items:
        if out.as_json:
            out.json(item)
        else:
            out.print_line(_delta_line(item) if isinstance(item, Delta) else _event_line(item))


def _event_line(event: Event) -> Text:
    return _line(
        str(event.sequence),
        local_time(event.time, "time"),
        event.thread_id,
        _actor(event.actor),
        event.WhichOneof("payload") or "unknown",
        event_gist(event),
    )


def _delta_line(delta: Delta) -> Text:
    return _line("", "", delta.thread_id, delta.author, "delta", one_line(delta.text))


def _line(sequence: str, time: str, thread: str, actor: str, kind: str, gist: str) -> Text:
    # Lines come one by one, so that widths cannot follow from what is in them.
    line = Text.assemble(
        (f"{sequence:>5}  {time:12}", "dim"),
        f"  {short(thread)}  {one_line(actor):{_ACTOR_WIDTH}}  ",
        (f"{kind:{_KIND_WIDTH}}", "cyan"),
        f"  {gist}",
    )
    line.rstrip()
    return line


def _actor(actor: Actor) -> str:
    return actor.name or Actor.Kind.Name(actor.kind).removeprefix("KIND_").lower()
