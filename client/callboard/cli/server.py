"""`callboard server`: the server itself."""

from __future__ import annotations

import typer

from callboard import ServerInfo
from callboard.cli.invocation import Cli, command
from callboard.cli.output import local_time
from callboard.cli.tables import Fields

app = typer.Typer(name="server", help="Look at the server itself.")


@command(app)
def info(cli: Cli) -> None:
    """Show version, size, load and limits of the server."""
    cli.show(cli.client.server.info(), _details)


@app.callback()
def _group() -> None:
    """Keeps `info` a command of its own: Typer would merge a lone one into the group."""


def _details(info: ServerInfo) -> Fields:
    counts, limits = info.counts, info.limits
    lag = info.loop_lag.ToNanoseconds() / 1e6
    runs = {
        "queued": counts.runs_queued,
        "running": counts.runs_running,
        "waiting": counts.runs_waiting,
        "need an action": counts.runs_requiring_action,
        "finished": counts.runs_finished,
    }
    pending, dropped = counts.webhooks_pending, counts.webhooks_dropped
    webhooks = [("webhooks", f"{pending:,} pending, {dropped:,} dropped")]
    return Fields(
        [
            ("version", f"{info.version} ({info.contract_version})"),
            ("up since", local_time(info.start_time)),
            ("database", f"{info.store}, {_megabytes(info.store_bytes)}"),
            ("sessions", f"{counts.sessions:,} with {counts.threads:,} threads"),
            ("runs", ", ".join(f"{count:,} {state}" for state, count in runs.items())),
            ("slots", f"{counts.slots_used} of {limits.slots} used"),
            ("queue", f"{counts.runs_queued:,} {'run' if counts.runs_queued == 1 else 'runs'}"),
            ("streams", f"{counts.streams_open:,} open"),
            *(webhooks if pending or dropped else []),
            ("loop lag", f"{lag:.0f} ms"),
            (
                "largest",
                f"message {_megabytes(limits.message_bytes)}, "
                f"event {_megabytes(limits.event_bytes)}, page {limits.page_size:,}",
            ),
            ("delegation", f"{limits.delegation_depth} deep, {limits.delegation_width:,} wide"),
        ]
    )


def _megabytes(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
