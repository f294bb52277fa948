"""Citations: lines of text files that anyone can look up again.

A citation stands on a line of its own, in one fixed format:

    - relative/path.py:123: the very text of line 123

The path is relative to the folder that was read, with forward slashes. After
the second colon and one space stands the line as `documents.split_lines` has
it: nothing is trimmed, shortened or escaped. No other line of an answer begins
with a dash and a space, so an answer can be parsed and checked by machine.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from documents import is_citable_path, resolve_folder, split_lines

# Longer lines are data rather than anything to read: not worth quoting.
MAX_LINE_LENGTH = 240

_CITATION = re.compile(r"- ([^:]+):([1-9][0-9]{0,8}): (.*)")


@dataclass(frozen=True, slots=True)
class Citation:
    """One line of one file.

    Attributes:
        path: The file, relative to the folder that was read.
        line: The number of the line, from 1.
        text: The line, without its end.
    """

    path: str
    line: int
    text: str

    def __post_init__(self) -> None:
        """Refuses what the format could not give back."""
        if not is_citable_path(self.path):
            raise ValueError(f"{self.path!r} cannot be cited")
        if self.line < 1:
            raise ValueError("lines are numbered from 1")
        if "\n" in self.text or "\r" in self.text:
            raise ValueError("a citation is one line")


def format_citation(citation: Citation) -> str:
    """Writes a citation as one line of text."""
    return f"- {citation.path}:{citation.line}: {citation.text}"


def parse_citations(text: str) -> list[Citation]:
    """Finds every citation in an answer, in order."""
    matches = (_CITATION.fullmatch(line) for line in text.split("\n"))
    return [
        Citation(path=match[1], line=int(match[2]), text=match[3])
        for match in matches
        if match is not None and is_citable_path(match[1])
    ]


def check_citations(text: str, folder: str) -> list[str]:
    """Reads every cited line again.

    Args:
        text: An answer.
        folder: The folder that the answer is about; empty for the standard
            library of this interpreter.

    Returns:
        One problem for each citation that does not hold; empty where all do.

    Raises:
        ToolError: The folder cannot be read.
    """
    root = resolve_folder(folder)

    @cache
    def lines_of(path: str) -> list[str]:
        return _read_lines(root, path)

    problems = []
    for citation in parse_citations(text):
        problem = _find_problem(citation, lines_of(citation.path))
        if problem:
            problems.append(f"{citation.path}:{citation.line}: {problem}")
    return problems


def _read_lines(root: Path, path: str) -> list[str]:
    """The lines of a file below the root; none where there is no such file."""
    relative = PurePosixPath(path)
    if relative.is_absolute() or ".." in relative.parts:
        return []
    try:
        return split_lines((root / relative).read_bytes())
    except OSError:
        return []


def _find_problem(citation: Citation, lines: list[str]) -> str:
    if citation.line > len(lines):
        return "there is no such line"
    if lines[citation.line - 1] != citation.text:
        return f"the line reads {lines[citation.line - 1]!r}"
    return ""
