"""`callboard db`: looking after a database file, also while a server uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from callboard.cli.failures import CommandError, needs_server_extra
from callboard.cli.invocation import Cli, command

app = typer.Typer(name="db", help="Back up and check a database file.")


@command(app, connects=False)
def backup(
    cli: Cli,
    source: Annotated[Path, typer.Argument(metavar="SOURCE", help="The database.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET", help="The copy, a new file.")],
) -> None:
    """Copy a database, also one that a server uses right now."""
    with needs_server_extra():
        from callboard_server.store.base import StoreError
        from callboard_server.store.sqlite import admin
    try:
        size = admin.backup(str(source), str(target))
    except StoreError as error:
        raise CommandError(str(error)) from error
    if cli.out.as_json:
        cli.out.json({"target": str(target), "bytes": size})
    else:
        cli.out.write(f"copied {source} to {target}: {size:,} bytes\n")


@command(app, connects=False)
def check(
    cli: Cli, path: Annotated[Path, typer.Argument(metavar="PATH", help="The database.")]
) -> None:
    """Read a whole database and tell what is wrong with it."""
    with needs_server_extra():
        from callboard_server.store.base import StoreError
        from callboard_server.store.sqlite import admin
    try:
        problems = admin.check(str(path))
    except StoreError as error:
        raise CommandError(str(error)) from error
    if cli.out.as_json:
        cli.out.json({"path": str(path), "problems": problems})
    elif not problems:
        cli.out.write(f"{path} is sound\n")
    if problems:
        raise CommandError(
            "\n".join(problems), hint="restore a backup, and keep this file to look into"
        )
