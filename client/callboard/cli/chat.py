"""`callboard chat`: a conversation in the terminal."""

from __future__ import annotations

from contextlib import closing
from typing import Annotated

import typer

from callboard import Agent, Assistant, CallboardError, Client, NotFound, ThreadState
from callboard.cli.answers import Answerer
from callboard.cli.conversation import Conversation, Place
from callboard.cli.failures import CommandError, ExitCode, words_of
from callboard.cli.ids import Abbreviated
from callboard.cli.invocation import Cli, command
from callboard.cli.screen import MESSAGE_PROMPT, Screen
from callboard.cli.speech import Speech
from callboard.cli.transcript import JsonTranscript, Transcript

app = typer.Typer()

_LAST = 6
_HELP = """\
/as NAME  let another assistant answer from now on
/answer   answer what waits for an answer
/help     show this
//...     say something that begins with a slash
Ctrl-C stops an answer, or leaves a question open; Ctrl-D ends"""


@command(app)
def chat(
    cli: Cli,
    agent: Annotated[
        str | None,
        typer.Argument(
            metavar="AGENT", help="Whom to talk to: an agent, or an assistant's name or id."
        ),
    ] = None,
    thread: Annotated[
        str | None, typer.Option(metavar="ID", help="Go on with this thread."), Abbreviated
    ] = None,
    last: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=10_000,
            metavar="N",
            help=f"With --thread: show its last messages first; {_LAST} on a terminal.",
        ),
    ] = None,
    verbose: Annotated[
        bool,
        typer.Option(
            "--verbose", "-v", help="Show thoughts, and all that tools are given and give."
        ),
    ] = False,
) -> None:
    """Talk to an agent. Ctrl-C stops its answer, Ctrl-D ends; piped, each line is a message.

    What an agent asks is answered right there; piped, by the next line. /help lists commands.
    """
    if last is not None and (cli.out.as_json or thread is None):
        raise CommandError(
            "--last goes with --thread, and without --json",
            hint="callboard threads messages",
            exit_code=ExitCode.USAGE,
        )
    screen = Screen(cli.out)
    if last is None:
        last = _LAST if screen.is_interactive else 0
    # Zero would mean as many as the server likes.
    past = cli.client.threads.state(thread, message_limit=last or -1) if thread else None
    assistant = _choose(cli.client, agent, past)
    speech = Speech(screen, assistant.name, shows_thoughts=verbose)
    transcript = Transcript(screen, speech, verbose=verbose)
    if screen.is_interactive:
        screen.tell(f"{assistant.name} · /help lists commands, Ctrl-D ends")
    if past is not None:
        transcript.show_past(past.messages, past.message_count)
    conversation = Conversation(
        cli.client,
        JsonTranscript(cli.out) if cli.out.as_json else transcript,
        Answerer(cli.client, screen),
        # Left to the thread, it may change hands.
        None if agent is None and past is not None else assistant.assistant_id,
        _place(past),
        is_live=screen.is_interactive,
    )
    with closing(conversation):
        succeeded = _Talk(cli.client, screen, speech, conversation).go_on()
    if not (screen.is_interactive or succeeded):
        raise typer.Exit(ExitCode.FAILED)


class _Talk:
    """What is typed, line by line: messages, and commands to the conversation itself."""

    def __init__(
        self, client: Client, screen: Screen, speech: Speech, conversation: Conversation
    ) -> None:
        self._client = client
        self._screen = screen
        self._speech = speech
        self._conversation = conversation

    def go_on(self) -> bool:
        """Deals with all lines; returns whether all was answered."""
        succeeded = True
        while (line := self._read()) is not None:
            succeeded &= self._take(line)
        # What nobody was asked yet can be answered later.
        self._conversation.answer_open()
        return succeeded

    def _read(self) -> str | None:
        if not self._screen.is_interactive:
            return self._screen.read(MESSAGE_PROMPT)
        self._take("")
        try:
            return self._screen.read(MESSAGE_PROMPT, on_ready=self._conversation.announce_open)
        except KeyboardInterrupt:
            return ""

    def _take(self, line: str) -> bool:
        """Deals with a line, and where it is empty with what is open.

        Returns:
            Whether all went well.
        """
        try:
            if not line:
                self._conversation.answer_open()
                return True
            if line.startswith("/") and not line.startswith("//"):
                return self._obey(line)
            return self._conversation.say(line.removeprefix("/"))
        except CallboardError as error:
            if not self._screen.is_interactive:
                raise
            self._screen.complain(words_of(error))
            return False

    def _obey(self, line: str) -> bool:
        name, _, argument = line.partition(" ")
        match name, argument.strip():
            case "/help", "":
                self._screen.tell(_HELP)
            case "/answer", "":
                if not self._conversation.answer_open(again=True):
                    self._screen.tell("nothing waits for an answer")
            case "/as", who if who:
                assistant = _find(self._client, who)
                self._conversation.assistant_id = assistant.assistant_id
                self._speech.named = assistant.name
                self._screen.tell(f"{assistant.name} answers from now on")
            case _:
                self._screen.complain(f"{line} is no command: /help lists them, // says it")
                return False
        return True


def _place(past: ThreadState | None) -> Place:
    if past is None:
        return Place()
    thread = past.thread
    return Place(thread.thread_id, past.at_sequence, is_root=not thread.parent_thread_id)


def _choose(client: Client, agent: str | None, past: ThreadState | None) -> Assistant:
    """Who answers."""
    if agent is not None:
        return _find(client, agent)
    if past is not None and past.thread.current_assistant_id:
        return client.assistants.get(past.thread.current_assistant_id)
    return client.assistants.get(_only_chat_agent(client))


def _find(client: Client, wanted: str) -> Assistant:
    """The assistant with an id, of an agent, or with a name.

    Raises:
        CommandError: If several have the name.
        NotFound: If there is none.
    """
    try:
        return client.assistants.get(wanted)
    except NotFound:
        named = [each for each in client.assistants.list(default=False) if each.name == wanted]
        if not named:
            raise
    if len(named) > 1:
        raise CommandError(
            f"{len(named)} assistants are called {wanted}; name one by its id",
            hint="callboard assistants list",
            exit_code=ExitCode.USAGE,
        )
    return named[0]


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
