"""Tables without lines."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from callboard.cli.output import one_line, printable

_GAP = "  "
_NARROWEST = 8


class Rows:
    """A line for each thing. The last column gives way where the screen is too narrow.

    A table of Rich would take from all columns, also from ids that are there to be copied.
    """

    def __init__(self, *columns: str) -> None:
        """Begins with the names of the columns."""
        self._rows = [[Text(name, style="dim") for name in columns]]

    def add(self, *cells: Text | str) -> None:
        """Adds a line."""
        self._rows.append([cell(text) if isinstance(text, str) else text for text in cells])

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lays the lines out on a screen of a certain width."""
        *fixed, _ = zip(*self._rows, strict=True)
        widths = [max(text.cell_len for text in column) for column in fixed]
        left = options.max_width - sum(widths) - len(_GAP) * len(widths)
        for row in self._rows:
            yield _line(row, widths, max(left, _NARROWEST))


def cell(text: str, style: str = "") -> Text:
    """A text for a cell of a table."""
    return Text(one_line(text), style=style)


class Fields:
    """Names and values below each other. Values are broken where the screen is too narrow.

    A table of Rich would fill all lines up with blanks, which are copied along.
    """

    def __init__(self, fields: Iterable[tuple[str, Text | str | None]]) -> None:
        """Takes names with their values; what is empty or None is left out."""
        self._fields = [
            (name, Text(printable(value)) if isinstance(value, str) else value)
            for name, value in fields
            if value
        ]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lays the lines out on a screen of a certain width."""
        width = max((len(name) for name, _ in self._fields), default=0)
        room = max(options.max_width - width - len(_GAP), _NARROWEST)
        for name, value in self._fields:
            for line in value.wrap(console, room, overflow="fold"):
                yield _line([Text(name, style="dim"), line], [width], room)
                name = ""


def _line(row: Sequence[Text], widths: Sequence[int], last_width: int) -> Text:
    line = Text(no_wrap=True, overflow="crop")
    for text, width in zip(row[:-1], widths, strict=True):
        line.append_text(text).append(" " * (width - text.cell_len) + _GAP)
    last = row[-1].copy()
    last.truncate(last_width, overflow="ellipsis")
    line.append_text(last)
    line.rstrip()
    return line
