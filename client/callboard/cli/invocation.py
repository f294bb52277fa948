"""How commands are put together: the options that all have, the output, the connection."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property, wraps
from inspect import Parameter
from itertools import islice
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_args

import typer
from google.protobuf.message import Message
from rich.console import RenderableType

from callboard import Client, DeadlineExceeded, Unavailable, Unimplemented
from callboard.cli.failures import checks_arguments, unreachable
from callboard.cli.ids import Abbreviated, is_beginning, whole_id
from callboard.cli.output import Output, note

# A server that is there answers at once; the SDK alone would try for as long as a call may take.
CONNECT_SECONDS = 2.0
_LARGEST_PAGE = 1000

P = ParamSpec("P")
MessageT = TypeVar("MessageT", bound=Message)

ServerOption = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="ADDRESS",
        help="Where the server is; $CALLBOARD_SERVER or 127.0.0.1:50051 when left out.",
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]
LimitOption = Annotated[int, typer.Option(min=1, help="How many at most.")]


@dataclass(frozen=True)
class Options:
    """The options that stand before the command."""

    server: str
    as_json: bool
    timeout: float

    def with_those(self, server: str | None, as_json: bool) -> Options:
        """With options that stand further behind, too."""
        return Options(server or self.server, as_json or self.as_json, self.timeout)


class Cli:
    """What a command works with.

    Attributes:
        server: The server's address.
        timeout: How long a call may take, in seconds.
        out: Standard output.
    """

    def __init__(self, options: Options, resources: ExitStack) -> None:
        """Connects to nothing yet.

        Args:
            options: The options in effect.
            resources: Closes the connection in the end.
        """
        self.server = options.server
        self.out = Output(options.as_json)
        self.timeout = options.timeout
        self._resources = resources

    @cached_property
    def client(self) -> Client:
        """A client of the server, which is known to answer.

        Raises:
            CommandError: If it does not.
        """
        with checks_arguments():
            client = self._resources.enter_context(Client(self.server, timeout=self.timeout))
        try:
            client.with_timeout(min(CONNECT_SECONDS, self.timeout)).assistants.list_agents()
        except Unimplemented as error:
            raise unreachable(self.server) from error
        except (Unavailable, DeadlineExceeded) as error:
            if error.reason:
                raise
            raise unreachable(self.server) from error
        return client

    def show(self, message: MessageT, view: Callable[[MessageT], RenderableType]) -> None:
        """Prints a message of the contract."""
        if self.out.as_json:
            self.out.json(message)
        else:
            self.out.print(view(message))

    def show_all(
        self,
        messages: Iterable[MessageT],
        view: Callable[[Sequence[MessageT]], RenderableType],
        limit: int | None = None,
    ) -> None:
        """Prints messages of the contract: all of them, or so many as --limit says."""
        found = iter(messages)
        shown = islice(found, limit)
        if self.out.as_json:
            for message in shown:
                self.out.json(message)
        else:
            self.out.print(view(list(shown)))
        if limit is not None:
            self.note_more(found, limit)

    def note_more(self, rest: Iterator[Message], limit: int) -> None:
        """Tells people that --limit cut a list off, where there is more of it."""
        if not self.out.as_json and next(rest, None) is not None:
            note(f"there are more than {limit}: --limit {2 * limit} shows more of them")


def command(
    group: typer.Typer, *, name: str | None = None, connects: bool = True
) -> Callable[[Callable[Concatenate[Cli, P], None]], Callable[Concatenate[Cli, P], None]]:
    """Adds a command to a group: a function whose first argument is a `Cli`.

    The options for that may stand after the command as well as before it. Ids that are
    `Abbreviated` reach the function whole.

    Args:
        group: The group.
        name: What the command is called; like the function when left out.
        connects: Whether it talks to a server.
    """

    def add(function: Callable[Concatenate[Cli, P], None]) -> Callable[Concatenate[Cli, P], None]:
        abbreviated = _abbreviated(function)

        @wraps(function)
        def run(
            context: typer.Context, server: str | None = None, as_json: bool = False, **given: Any
        ) -> None:
            options: Options = context.obj.with_those(server, as_json)
            with ExitStack() as resources:
                cli = Cli(options, resources)
                ids = {name: _whole(cli, given[name]) for name in abbreviated}
                function(cli, **given | ids)  # type: ignore[call-arg]

        run.__signature__ = _signature(function, connects)  # type: ignore[attr-defined]
        group.command(name)(run)
        return function

    return add


def page_for(limit: int) -> int:
    """How many to fetch at a time: one more than are shown tells whether there are more."""
    return min(limit + 1, _LARGEST_PAGE)


def split_names(text: str) -> list[str]:
    """The names in a list with commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def _abbreviated(function: Callable[..., None]) -> list[str]:
    """The names of the parameters that take beginnings of ids."""
    parameters = inspect.signature(function, eval_str=True).parameters
    return [name for name, each in parameters.items() if Abbreviated in get_args(each.annotation)]


def _whole(cli: Cli, given: str | list[str] | None) -> str | list[str] | None:
    if isinstance(given, list):
        return [_whole_id(cli, each) for each in given]
    return given and _whole_id(cli, given)


def _whole_id(cli: Cli, given: str) -> str:
    # Nothing is asked for where nothing is missing.
    return whole_id(cli.client, given) if is_beginning(given) else given


def _signature(function: Callable[..., None], connects: bool) -> inspect.Signature:
    """The parameters of a command as Typer is to see them."""
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    context = Parameter("context", Parameter.KEYWORD_ONLY, annotation=typer.Context)
    server = Parameter("server", Parameter.KEYWORD_ONLY, annotation=ServerOption, default=None)
    as_json = Parameter("as_json", Parameter.KEYWORD_ONLY, annotation=JsonOption, default=False)
    own = [parameter.replace(kind=Parameter.KEYWORD_ONLY) for parameter in own]
    return inspect.Signature([context, *own, *([server] if connects else []), as_json])
