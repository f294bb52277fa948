"""`callboard chat`: a conversation in the terminal."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from callboard import Agent, Client
from callboard.cli.conversation import Conversation
from callboard.cli.failures import CommandError, ExitCode
from callboard.cli.invocation import Cli, command
from callboard.cli.screen import Screen
from callboard.cli.transcript import JsonTranscript, Transcript

app = typer.Typer()


@command(app)
def chat(
    cli: Cli,
    agent: Annotated[str | None, typer.Argument(metavar="AGENT", help="Whom to talk to.")] = None,
    thread: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with this thread.")
    ] = None,
) -> None:
    """Talk to an agent. Ctrl-C stops its answer, Ctrl-D ends; piped, each line is a message."""
    if thread is not None:
        cli.client.threads.get(thread)
    elif agent is None:
        agent = _only_chat_agent(cli.client)
    if agent is not None:
        cli.client.assistants.get(agent)
    screen = Screen(cli.out)
    screen.greet(f"{agent or f'thread {thread}'} · Ctrl-C stops an answer, Ctrl-D ends")
    listener = JsonTranscript(cli.out) if cli.out.as_json else Transcript(screen)
    with closing(Conversation(cli.client, listener, agent, thread)) as conversation:
        answered = [conversation.say(message) for message in screen.messages()]
    if not (screen.is_interactive or all(answered)):
        raise typer.Exit(ExitCode.FAILED)


def _only_chat_agent(client: Client) -> str:
    agents = client.assistants.list_agents()
    chats = [agent.name for agent in agents if agent.kind == Agent.KIND_CHAT]
    if len(chats) != 1:
        names = ", ".join(agent.name for agent in agents) or "none"
        raise CommandError(
            "which agent? Name one to talk to",
            hint=f"this server has: {names}",
            exit_code=ExitCode.USAGE,
        )
    return chats[0]
