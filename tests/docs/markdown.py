"""The documents, and what is fenced in them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
MANUALS = [README, *sorted((ROOT / "docs").glob("*.md"))]
"""What users read. Everything in it is run."""
PAGES = [*MANUALS, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]

_FENCED = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
_NAMED = re.compile(r"# ([\w-]+\.\w+)\n")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block.

    Attributes:
        place: The file and line where it begins.
        language: What is written in it.
        text: Its lines.
    """

    place: str
    language: str
    text: str

    @property
    def file(self) -> str:
        """The file that it is to be saved as: its first line says so."""
        named = _NAMED.match(self.text)
        return named[1] if named else ""


def blocks(page: Path) -> list[Block]:
    """All fenced blocks of a document, in order."""
    text = page.read_text("utf-8")
    return [
        Block(f"{page.name}:{text.count(chr(10), 0, match.start()) + 1}", match[1], match[2])
        for match in _FENCED.finditer(text)
    ]


def table(page: Path, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading, without its head."""
    _, found, rest = page.read_text("utf-8").partition(f"{heading}\n")
    assert found, f"{page.name} has no {heading!r}"
    rows = re.search(r"(?:^\|.*\n)+", rest, re.M)
    assert rows, f"{page.name} has no table below {heading!r}"
    # A bar within a cell is escaped.
    cells = [re.split(r"(?<!\\)\|", line.strip())[1:-1] for line in rows[0].splitlines()[2:]]
    return [[cell.replace("\\|", "|").strip() for cell in row] for row in cells]
