"""`callboard agents`: what the server can run."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import RenderableType
from rich.text import Text

from callboard import Agent
from callboard.cli.invocation import Cli, command
from callboard.cli.output import cell, list_table

app = typer.Typer()


@command(app)
def agents(cli: Cli) -> None:
    """List the agents that the server can run."""
    cli.show_all(cli.client.assistants.list_agents(), _table)


def _table(agents: Sequence[Agent]) -> RenderableType:
    if not agents:
        return Text("This server has no agents.", style="dim")
    table = list_table("name", "kind", "model", "tools", "description", flexible="description")
    for agent in agents:
        table.add_row(
            cell(agent.name, "bold"),
            Agent.Kind.Name(agent.kind).removeprefix("KIND_").lower(),
            cell(agent.model),
            cell(", ".join(agent.tools)),
            cell(agent.description),
        )
    return table
