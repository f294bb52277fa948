"""`callboard serve`: a server from its start to its end."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from callboard.cli.failures import CommandError, needs_server_extra
from callboard.cli.invocation import Cli, command
from callboard.cli.output import Output

if TYPE_CHECKING:
    from callboard_server.config import ServerConfig

app = typer.Typer()

CONFIG = Path("callboard.toml")


@command(app, connects=False)
def serve(
    cli: Cli,
    config: Annotated[
        Path, typer.Option("--config", "-c", metavar="FILE", help="The configuration.")
    ] = CONFIG,
    host: Annotated[
        str | None, typer.Option(help="Where to listen, before what the file says.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65_535, help="The port; 0 takes any that is free.")
    ] = None,
    db: Annotated[
        str | None, typer.Option(metavar="FILE", help="The database, a SQLite file.")
    ] = None,
    reload: Annotated[
        bool, typer.Option("--reload", help="Start again when a .py or .toml file changes.")
    ] = False,
) -> None:
    """Start a server. Ctrl-C stops it in good order."""
    if not config.is_file():
        raise CommandError(f"there is no file {config}", hint="callboard init writes one")
    given = {"host": host, "port": port, "db": db}
    settings = {name: value for name, value in given.items() if value is not None}
    if reload:
        _serve_reloading(cli.out, config, settings)
    else:
        _serve(cli.out, config, settings)


def _serve(out: Output, path: Path, settings: Mapping[str, object]) -> None:
    with needs_server_extra():
        from callboard_server.config import ConfigError, load_config
        from callboard_server.serve import serve
        from callboard_server.store.base import StoreError
    try:
        config = load_config(path, settings)
        _check_address(config.server.host, config.server.port)
        asyncio.run(
            serve(config, path.parent, lambda host, port: _tell_ready(out, config, host, port))
        )
    except (ConfigError, StoreError, OSError) as error:
        raise CommandError(str(error)) from error


def _check_address(host: str, port: int) -> None:
    """Asks for an address before gRPC does, which would tell of a failure in its own words, too.

    Raises:
        CommandError: If it cannot be had.
    """
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family) as probe:
            # A server that just stopped does not count.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
    except OSError as error:
        raise CommandError(
            f"cannot listen on {host}:{port}: {error.strerror}",
            hint="take another port, or any that is free: callboard serve --port 0",
        ) from error


def _tell_ready(out: Output, config: ServerConfig, host: str, port: int) -> None:
    agents, db = sorted(config.agents), config.server.db
    if out.as_json:
        out.json({"address": f"{host}:{port}", "agents": agents, "db": db})
    else:
        out.write(f"ready on {host}:{port} · agents: {', '.join(agents) or 'none'} · db: {db}\n")
    sys.stdout.flush()


def _serve_reloading(out: Output, path: Path, settings: Mapping[str, object]) -> None:
    with needs_server_extra():
        from callboard.cli.reloading import run_reloading
    command = [sys.executable, "-m", "callboard.cli"]
    if out.as_json:
        command.append("--json")
    command += ["serve", "--config", str(path)]
    for name, value in settings.items():
        command += [f"--{name}", str(value)]
    run_reloading(command, path.parent)
