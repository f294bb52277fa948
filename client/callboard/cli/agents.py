"""`callboard agents`: what the server can run."""

from __future__ import annotations

from collections.abc import Sequence

import typer
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from callboard import Agent
from callboard.cli.invocation import Cli, command
from callboard.cli.tables import cell

app = typer.Typer()


@command(app)
def agents(cli: Cli) -> None:
    """List the agents that the server can run."""
    cli.show_all(cli.client.assistants.list_agents(), _table)


def _table(agents: Sequence[Agent]) -> RenderableType:
    if not agents:
        return Text("This server has no agents.", style="dim")
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for name in ("name", "kind", "description", "model", "tools"):
        table.add_column(name, no_wrap=name in ("name", "kind"), overflow="fold")
    for agent in agents:
        table.add_row(
            cell(agent.name, "bold"),
            Agent.Kind.Name(agent.kind).removeprefix("KIND_").lower(),
            cell(agent.description),
            cell(agent.model),
            cell(", ".join(agent.tools)),
        )
    return table
