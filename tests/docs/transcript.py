"""What a console block shows: commands, and what they print.

What is different each time (ids, times, sizes) may be so; the rest must be as shown. A line `...`
stands for any lines, none included.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

ANYTHING = "..."
INTERRUPT = "^C"

_VOLATILE = re.compile(
    r"""
    (?P<id> \b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b )
    | (?P<short> \b[0-9a-f]{8}\b )
    | (?P<time> \d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z? | \b\d\d:\d\d:\d\d\.\d{3} )
    | (?P<span> \b\d+(?:\.\d+)?\ ?(?:ms|s|m\d\ds)\b )
    | (?P<size> \b\d[\d,]*(?:\.\d+)?\ (?:bytes|KiB|MiB)(?!\w) )
    | (?P<space> \s+ )
    """,
    re.X,
)
_PATTERNS = {
    "time": r"(?:\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:\.\d+)?Z?|\d\d:\d\d:\d\d\.\d{3})",
    "span": r"\d+(?:\.\d+)?\ ?(?:ms|s|m\d\ds)",
    "size": r"\d[\d,]*(?:\.\d+)?\ (?:bytes|KiB|MiB)",
    # Tables are as wide as what stands in them.
    "space": r"\s+",
}


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a console block.

    Attributes:
        line: The command, on as many lines as it takes.
        output: What it prints.
    """

    line: str
    output: list[str]


@dataclass
class Ids:
    """The ids that a document shows, and those that they stand for."""

    real: dict[str, str] = field(default_factory=dict)

    def place(self, text: str) -> str:
        """Puts the real ids in the place of those shown."""
        for shown, real in self.real.items():
            text = text.replace(shown, real).replace(shown[:8], real[:8])
        return text


def commands(text: str) -> Iterator[Command]:
    """The commands of a console block."""
    lines = iter(text.splitlines())
    line, output = "", list[str]()
    for read in lines:
        if not read.startswith("$ "):
            output.append(read)
            continue
        if line:
            yield Command(line, output)
        line, output = read.removeprefix("$ "), []
        while line.endswith("\\") or line.count("'") % 2:
            line += "\n" + next(lines)
    if line:
        yield Command(line, output)


def matches(shown: list[str], printed: str, ids: Ids) -> bool:
    """Whether what was printed is what is shown; learns what ids stand for."""
    pattern, groups = _pattern(shown, ids)
    lines = (line.rstrip() for line in printed.rstrip().splitlines())
    found = re.fullmatch(pattern, "".join(f"{line}\n" for line in lines))
    if found is None:
        return False
    ids.real.update({name: found[group] for name, group in groups.items()})
    return True


def _pattern(shown: list[str], ids: Ids) -> tuple[str, dict[str, str]]:
    """A regular expression for what is shown, and the group of each id that is new in it."""
    groups: dict[str, str] = {}

    def volatile(match: re.Match[str]) -> str:
        kind, text = match.lastgroup or "", match[0]
        if kind == "short":
            known = [real[:8] for name, real in ids.real.items() if name.startswith(text)]
            return known[0] if known else "[0-9a-f]{8}"
        if kind != "id":
            return _PATTERNS[kind]
        if text in ids.real:
            return re.escape(ids.real[text])
        if text in groups:
            return f"(?P={groups[text]})"
        groups[text] = f"id{len(groups)}"
        return f"(?P<{groups[text]}>[0-9a-f-]{{36}})"

    lines = []
    for line in shown:
        if line == ANYTHING:
            lines.append(r"(?:.*\n)*?")
            continue
        parts, end = [], 0
        for match in _VOLATILE.finditer(line.rstrip()):
            parts += [re.escape(line[end : match.start()]), volatile(match)]
            end = match.end()
        parts.append(re.escape(line.rstrip()[end:]))
        lines.append("".join(parts) + r"\n")
    return "".join(lines), groups
