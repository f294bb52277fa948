"""`callboard threads`: conversations and their state."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice, takewhile
from pathlib import Path
from typing import Annotated, BinaryIO

import typer
from rich.console import Group, RenderableType
from rich.text import Text

from callboard import Message, OutOfRange, Role, Thread, ThreadState, archives, text_of, to_dict
from callboard._enums import ThreadStateName
from callboard.cli.failures import CommandError
from callboard.cli.gists import action_gist, blocks_gist
from callboard.cli.ids import Abbreviated, ThreadId
from callboard.cli.invocation import Cli, LimitOption, command, page_for
from callboard.cli.output import json_text, local_time, printable
from callboard.cli.states import state_word
from callboard.cli.tables import Fields, Rows, cell

app = typer.Typer(name="threads", help="Look at conversations.")


@command(app, name="list")
def list_(
    cli: Cli,
    state: Annotated[ThreadStateName | None, typer.Option(help="Only those in this state.")] = None,
    session: Annotated[
        str | None,
        typer.Option(metavar="ID", help="Those of this session, not only the roots."),
        Abbreviated,
    ] = None,
    limit: LimitOption = 50,
) -> None:
    """List threads, newest first."""
    threads = cli.client.threads.list(state=state, session_id=session, page_size=page_for(limit))
    cli.show_all(threads, _table, limit)


@command(app)
def get(
    cli: Cli,
    thread_id: ThreadId,
    at: Annotated[
        int | None,
        typer.Option(metavar="SEQUENCE", min=0, help="With values and messages as of then."),
    ] = None,
) -> None:
    """Show a thread: its state, its values and what it waits for."""
    try:
        state = cli.client.threads.state(thread_id, at_sequence=at, message_limit=-1)
    except OutOfRange as error:
        raise CommandError(error.message, hint=f"callboard threads get {thread_id}") from error
    cli.show(state, _details)


@command(app)
def messages(cli: Cli, thread_id: ThreadId, limit: LimitOption = 1000) -> None:
    """Show the conversation of a thread, oldest message first."""
    found = cli.client.threads.messages(thread_id, page_size=page_for(limit))
    for position, message in enumerate(islice(found, limit)):
        if cli.out.as_json:
            cli.out.json(message)
        else:
            cli.out.print(*([""] if position else []), _message(message))
    cli.note_more(found, limit)


@command(app)
def compact(
    cli: Cli,
    thread_id: ThreadId,
    summary: Annotated[
        str | None, typer.Option(help="The summary; its assistant writes one when left out.")
    ] = None,
) -> None:
    """Let assistants see a summary instead of all that was said on a thread so far."""
    thread = cli.client.threads.compact(thread_id, summary=summary)
    if cli.out.as_json:
        cli.out.json(thread)
    elif summary:
        cli.out.write(f"{thread_id} starts from your summary now\n")
    else:
        cli.out.write(f"queued a run that summarises {thread_id}\n")


@command(app)
def export(
    cli: Cli,
    thread_id: ThreadId,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="A new file; standard output when left out."),
    ] = None,
) -> None:
    """Write the whole session of a thread, with its log, as JSON lines."""
    session = cli.client.threads.get(cli.client.threads.get(thread_id).session_id)
    events = cli.client.threads.events(
        session.thread_id,
        scope="session",
        after_sequence=session.oldest_sequence - 1,
        page_size=1000,
    )
    count = 0
    with _destination(out) as file:
        file.write(archives.header_line(session).encode())
        # A log that grows meanwhile is written as it was at the beginning.
        for event in takewhile(lambda event: event.sequence <= session.head_sequence, events):
            file.write(archives.event_line(event).encode())
            count += 1
    if out is None:
        return
    if cli.out.as_json:
        cli.out.json({"session_id": session.thread_id, "events": count, "file": str(out)})
    else:
        cli.out.write(f"wrote {session.thread_id} to {out}: {count:,} events\n")


@contextmanager
def _destination(out: Path | None) -> Iterator[BinaryIO]:
    """Opens what an export goes to: the file is there whole, or not at all."""
    if out is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    if out.exists():
        raise CommandError(f"{out} exists already; name a new file")
    draft = out.with_name(f".{out.name}.part")
    try:
        with draft.open("wb") as file:
            yield file
        draft.rename(out)
    except OSError as error:
        raise CommandError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        draft.unlink(missing_ok=True)


@command(app)
def delete(
    cli: Cli,
    thread_id: ThreadId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete a thread with the threads below it, and its log with a root thread."""
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Delete thread {thread_id} and all below it?", abort=True, err=True)
    cli.client.threads.delete(thread_id)
    if cli.out.as_json:
        cli.out.json({"deleted_thread_id": thread_id})
    else:
        cli.out.write(f"deleted {thread_id}\n")


def _table(threads: Sequence[Thread]) -> RenderableType:
    if not threads:
        return Text("There are no threads.", style="dim")
    table = Rows("thread", "state", "last run", "updated", "metadata")
    for thread in threads:
        table.add(
            thread.thread_id,
            _state(thread),
            _last_run(thread),
            local_time(thread.update_time),
            json_text(to_dict(thread.metadata)),
        )
    return table


def _details(state: ThreadState) -> RenderableType:
    thread = state.thread
    return Fields(
        [
            ("thread", thread.thread_id),
            ("state", _state(thread)),
            ("last run", _last_run(thread)),
            ("session", thread.session_id if thread.parent_thread_id else None),
            ("parent", thread.parent_thread_id),
            ("assistant", thread.current_assistant_id),
            ("messages", f"{state.message_count:,}"),
            ("events", f"{thread.oldest_sequence} to {thread.head_sequence} in its session"),
            ("created", local_time(thread.create_time)),
            ("updated", local_time(thread.update_time)),
            ("metadata", json_text(to_dict(thread.metadata))),
            ("values", json_text(to_dict(state.values), indent=2)),
            *(
                ("waits for", f"{action_gist(action)}  {action.action_id}")
                for action in state.pending_actions
            ),
        ]
    )


def _message(message: Message) -> RenderableType:
    who = message.author or Role.Name(message.role).removeprefix("ROLE_").lower()
    head = Text.assemble(
        (who, "bold"),
        (f"  {local_time(message.create_time)}", "dim"),
        ("  incomplete" if message.incomplete else "", "yellow"),
    )
    text = printable(text_of(message)).strip("\n")
    rest = blocks_gist(block for block in message.content if not block.HasField("text"))
    parts = [head, Text(text) if text else None, cell(rest, "dim") if rest else None]
    return Group(*(part for part in parts if part is not None))


def _state(thread: Thread) -> str:
    word = Thread.State.Name(thread.state).removeprefix("STATE_").lower()
    waiting = thread.pending_action_count
    return f"{word}, {waiting} open" if waiting else word


def _last_run(thread: Thread) -> str:
    return state_word(thread.last_run_state) if thread.last_run_state else ""
