"""`callboard init`: a small project that runs as it is."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import Annotated

import typer

from callboard.cli.failures import CommandError
from callboard.cli.invocation import Cli, command
from callboard.cli.tables import Fields

app = typer.Typer()

_FILES = {
    "callboard.toml": "which agents there are",
    "agents.py": "two of them, in code",
    "assistant.toml": "what the third one answers, without a model",
}


@command(app, connects=False)
def init(
    cli: Cli,
    folder: Annotated[
        Path, typer.Argument(metavar="DIR", help="Where to, a new folder or an old one.")
    ] = Path(),
) -> None:
    """Write a small project to begin with. Files that exist are never overwritten."""
    for name in _FILES:
        if (folder / name).exists():
            raise CommandError(
                f"{folder / name} exists already; nothing was written",
                hint="callboard init another-folder",
            )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in _FILES:
            text = files("callboard.cli").joinpath("template", name).read_text(encoding="utf-8")
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"{error.filename}: {error.strerror}") from error
    if cli.out.as_json:
        cli.out.json({"files": [str(folder / name) for name in _FILES]})
        return
    cli.out.print(Fields((str(folder / name), told) for name, told in _FILES.items()))
    cli.out.write("\nStart the server:\n\n")
    if folder != Path():
        cli.out.write(f"  cd {folder}\n")
    cli.out.write("  callboard serve --reload\n\nand in another terminal:\n\n")
    cli.out.write("  callboard agents\n")
    cli.out.write("  callboard jobs launch countdown 5 --watch\n")
    cli.out.write("  callboard chat assistant\n")
