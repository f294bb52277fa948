"""What people see while a server is away, and for how long it may be."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from callboard import EventStream, JobStream
from callboard.cli.output import Output

_DOWNTIME = 60.0
_LOOKS_PER_SECOND = 4


def downtime(*, is_watched: bool) -> float | None:
    """For how many seconds the server of a stream may be away; whoever looks on decides that."""
    return None if is_watched else _DOWNTIME


def away_words(stream: EventStream | JobStream) -> str:
    """Says that the server of a stream is away; empty while it is there."""
    return "the server is away: trying again" if stream.is_reconnecting else ""


@contextmanager
def tells_outages(out: Output, stream: EventStream) -> Iterator[None]:
    """Shows on a terminal, below what is printed, when the server of a stream is away."""
    if not out.is_terminal:
        yield
        return

    def status() -> RenderableType:
        words = away_words(stream)
        return Text(words, style="yellow") if words else Group()

    with Live(
        console=out.console,
        refresh_per_second=_LOOKS_PER_SECOND,
        get_renderable=status,
        transient=True,
    ):
        yield
