"""`callboard assistants`: agents with configurations, and their versions."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import RenderableType
from rich.text import Text

from callboard import Assistant, to_dict
from callboard.cli.failures import CommandError, ExitCode, checks_arguments
from callboard.cli.invocation import Cli, LimitOption, command, page_for
from callboard.cli.output import json_text, local_time, note
from callboard.cli.tables import Fields, Rows

app = typer.Typer(name="assistants", help="Configure agents, and go back to earlier versions.")

AssistantId = Annotated[str, typer.Argument(metavar="ID", help="The assistant's whole id.")]
NameOption = Annotated[str | None, typer.Option(help="The name to show.")]
DescriptionOption = Annotated[str | None, typer.Option(help="What it is for.")]
ConfigOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE",
        help="The whole configuration: a file with JSON, - for standard input, or {...} itself.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="A key of the configuration, as model=... or a.b=...; JSON, or plain text. "
        "May be given several times.",
    ),
]
MetadataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--metadata", metavar="KEY=VALUE", help="Data of yours; may be given several times."
    ),
]


@command(app, name="list")
def list_(
    cli: Cli,
    agent: Annotated[str | None, typer.Option(help="Only those of this agent.")] = None,
    metadata: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Only those that have this in their metadata."),
    ] = None,
    limit: LimitOption = 50,
) -> None:
    """List assistants, newest first, and the agents' default ones last."""
    with checks_arguments():
        found = cli.client.assistants.list(
            agent=agent,
            metadata=_put_all({}, _pairs("--metadata", metadata)),
            page_size=page_for(limit),
        )
    cli.show_all(found, _table, limit)


@command(app)
def get(
    cli: Cli,
    assistant_id: AssistantId,
    version: Annotated[
        int | None, typer.Option(min=1, help="Which version; the current one when left out.")
    ] = None,
) -> None:
    """Show an assistant with its configuration."""
    cli.show(cli.client.assistants.get(assistant_id, version=version), _details)


@command(app)
def create(
    cli: Cli,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="What it runs.")],
    name: NameOption = None,
    description: DescriptionOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    metadata: MetadataOption = None,
) -> None:
    """Create an assistant: an agent with a configuration."""
    settings = {} if config is None else _read(config)
    _put_all(settings, _pairs("--set", set_))
    with checks_arguments():
        assistant = cli.client.assistants.create(
            agent,
            name=name,
            description=description,
            config=settings,
            metadata=_put_all({}, _pairs("--metadata", metadata)),
        )
    if cli.out.as_json:
        cli.out.json(assistant)
    else:
        cli.out.write(f"{assistant.assistant_id}\n")
        note(f"talk to it: callboard chat {assistant.assistant_id}")


@command(app)
def update(
    cli: Cli,
    assistant_id: AssistantId,
    name: NameOption = None,
    description: DescriptionOption = None,
    config: ConfigOption = None,
    set_: SetOption = None,
    unset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="A key of the configuration to remove; may be given several times."
        ),
    ] = None,
    metadata: MetadataOption = None,
) -> None:
    """Change an assistant: make a new version of it, for the runs from now on."""
    keys, data = _pairs("--set", set_), _pairs("--metadata", metadata)
    if config is not None and (keys or unset):
        raise _usage("--config replaces the whole configuration: give --set and --unset without it")
    mask = [
        *(["name"] if name is not None else []),
        *(["description"] if description is not None else []),
        *(["config"] if config is not None else []),
        *(f"config.{key}" for key in [*dict(keys), *(unset or [])]),
        *(f"metadata.{key}" for key in dict(data)),
    ]
    if not mask:
        raise _usage("there is nothing to change")
    with checks_arguments():
        assistant = cli.client.assistants.update(
            assistant_id,
            name=name,
            description=description,
            config=_put_all({} if config is None else _read(config), keys),
            metadata=_put_all({}, data),
            update_mask=mask,
        )
    cli.show(assistant, _details)


@command(app)
def delete(
    cli: Cli,
    assistant_id: AssistantId,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete an assistant with its versions. Runs that have it go on to their end."""
    if not yes and sys.stdin.isatty():
        typer.confirm(f"Delete assistant {assistant_id}?", abort=True, err=True)
    cli.client.assistants.delete(assistant_id)
    if cli.out.as_json:
        cli.out.json({"deleted_assistant_id": assistant_id})
    else:
        cli.out.write(f"deleted {assistant_id}\n")


@command(app)
def versions(cli: Cli, assistant_id: AssistantId, limit: LimitOption = 50) -> None:
    """List the versions of an assistant, newest first."""
    client = cli.client.assistants
    found = client.versions(assistant_id, page_size=page_for(limit))
    cli.show_all(found, lambda found: _history(found, client.get(assistant_id).version), limit)


@command(app)
def use(
    cli: Cli,
    assistant_id: AssistantId,
    version: Annotated[int, typer.Argument(metavar="VERSION", min=1, help="Which version.")],
) -> None:
    """Make another version of an assistant the current one, and so restore all of it."""
    cli.show(cli.client.assistants.set_current_version(assistant_id, version), _details)


def _usage(message: str) -> CommandError:
    return CommandError(message, hint="callboard assistants --help", exit_code=ExitCode.USAGE)


def _pairs(option: str, given: Sequence[str] | None) -> list[tuple[str, Any]]:
    """The keys and values of an option."""
    pairs = [text.partition("=") for text in given or ()]
    for key, equals, _ in pairs:
        if not (key and equals):
            raise typer.BadParameter(f"{key!r} has no value; write KEY=VALUE", param_hint=option)
    return [(key, _value(text)) for key, _, text in pairs]


def _value(text: str) -> Any:
    """What somebody means who typed a value: JSON where it is some, else text."""
    try:
        return json.loads(text)
    except ValueError:
        return text


def _put_all(settings: dict[str, Any], pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    for path, value in pairs:
        _put(settings, path, value)
    return settings


def _put(settings: dict[str, Any], path: str, value: Any) -> None:
    """Sets the key that a path with dots names."""
    *parents, key = path.split(".")
    for parent in parents:
        if not isinstance(settings.get(parent), dict):
            settings[parent] = {}
        settings = settings[parent]
    settings[key] = value


def _read(given: str) -> dict[str, Any]:
    """Reads a configuration: from a file, from standard input, or out of the option itself.

    Raises:
        CommandError: If there is none.
    """
    is_inline = given.lstrip().startswith("{")
    place = "--config" if is_inline else "standard input" if given == "-" else given
    try:
        if not is_inline:
            given = sys.stdin.read() if given == "-" else Path(given).read_text("utf-8")
        config = json.loads(given)
    except OSError as error:
        raise _usage(f"{place} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise _usage(f"{place} holds no JSON: {error}") from error
    if not isinstance(config, dict):
        raise _usage(f"{place} holds no JSON object; write one, as {{}}")
    return config


def _table(assistants: Sequence[Assistant]) -> RenderableType:
    if not assistants:
        return Text("There are no assistants.", style="dim")
    table = Rows("assistant", "name", "agent", "version", "created", "description")
    for assistant in assistants:
        table.add(
            assistant.assistant_id,
            assistant.name,
            assistant.agent,
            "default" if assistant.default else str(assistant.version),
            "" if assistant.default else local_time(assistant.create_time),
            assistant.description,
        )
    return table


def _history(versions: Sequence[Assistant], current: int) -> RenderableType:
    table = Rows("version", "", "made", "name", "config")
    for each in versions:
        table.add(
            str(each.version),
            "current" if each.version == current else "",
            local_time(each.update_time),
            each.name,
            json_text(to_dict(each.config)),
        )
    return table


def _details(assistant: Assistant) -> RenderableType:
    return Fields(
        [
            ("assistant", assistant.assistant_id),
            ("name", assistant.name),
            ("agent", assistant.agent),
            ("description", assistant.description),
            ("version", "default" if assistant.default else str(assistant.version)),
            ("created", local_time(assistant.create_time)),
            ("updated", local_time(assistant.update_time)),
            ("metadata", json_text(to_dict(assistant.metadata))),
            ("config", json_text(to_dict(assistant.config), indent=2)),
        ]
    )
