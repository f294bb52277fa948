"""`callboard mcp`: the supervisor's tools for whatever speaks MCP."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Literal

import typer

from callboard import AsyncClient, Client
from callboard._async.supervisors import home_of
from callboard.cli.failures import CommandError, ExitCode, checks_arguments
from callboard.cli.invocation import Cli, command, split_names
from callboard.cli.output import Output

app = typer.Typer()

HOME = "mcp"
_HOST = "127.0.0.1"


@command(app)
def mcp(
    cli: Cli,
    http: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65_535,
            metavar="PORT",
            help="Serve HTTP on this port of this machine, 0 for any; pipes when left out.",
        ),
    ] = None,
    home: Annotated[
        str, typer.Option(metavar="NAME", help="Whose jobs the tools launch and see.")
    ] = HOME,
    agents: Annotated[
        str, typer.Option(metavar="NAME,...", help="The agents to call; all when left out.")
    ] = "",
    names: Annotated[
        Literal["callboard", "deepagents"], typer.Option(help="The names that the tools go by.")
    ] = "callboard",
) -> None:
    """Offer the jobs of a server as tools over MCP: launch, check, update, cancel and list."""
    with checks_arguments():
        home_of(home)
    wanted = _pick_agents(cli.client, split_names(agents))
    with _needs_mcp_extra():
        from callboard.kit.mcp import serve_http, serve_pipes

    async def serve(listener: socket.socket | None) -> None:
        async with AsyncClient(cli.server, timeout=cli.timeout) as client:
            supervisor = await client.supervisor(home, wanted, names=names)
            if listener is None:
                await serve_pipes(supervisor.tools)
            else:
                _tell_ready(cli.out, listener)
                await serve_http(supervisor.tools, listener)

    if http is None:
        asyncio.run(serve(None))
        return
    with closing(_listen(http)) as listener:
        asyncio.run(serve(listener))


def _pick_agents(client: Client, names: list[str]) -> dict[str, str]:
    """The agents that are wanted, with what they do.

    Raises:
        CommandError: If the server has one of them not, or none at all.
    """
    found = {agent.name: agent.description for agent in client.assistants.list_agents()}
    if not found:
        raise CommandError("the server has no agents, so there is nothing to launch")
    for name in names:
        if name not in found:
            raise CommandError(
                f"there is no agent {name!r}; the server has: {', '.join(found)}",
                hint="callboard agents",
                exit_code=ExitCode.NOT_FOUND,
            )
    return {name: found[name] for name in names or found}


@contextmanager
def _needs_mcp_extra() -> Iterator[None]:
    try:
        yield
    except ModuleNotFoundError as error:
        raise CommandError(
            f"this command needs {error.name}, which is not installed",
            hint="pip install 'callboard[mcp]'",
            exit_code=ExitCode.USAGE,
        ) from error


def _listen(port: int) -> socket.socket:
    try:
        return socket.create_server((_HOST, port))
    except OSError as error:
        raise CommandError(
            f"cannot listen on {_HOST}:{port}: {error.strerror}",
            hint="take another port, or any that is free: callboard mcp --http 0",
        ) from error


def _tell_ready(out: Output, listener: socket.socket) -> None:
    from callboard.kit.mcp import PATH

    host, port = listener.getsockname()
    url = f"http://{host}:{port}{PATH}"
    if out.as_json:
        out.json({"url": url})
    else:
        out.write(f"ready on {url}\n")
    sys.stdout.flush()
