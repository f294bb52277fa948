"""A full-text index of passages: a few lines of a file each.

SQLite does the work: an FTS5 table in a temporary database that lives in the
page cache and spills to an unnamed file, so that memory stays bounded however
large the folder is. Words are compared by their stems (Porter's algorithm),
and a longer word also stands for the words that begin with it, which finds
`CancelledError` for "cancel".
"""

import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass

from documents import Document

# A passage begins where a definition begins or ends, after a blank line once
# the one before has some length, and after so many lines anyhow.
SOFT_LINES = 5
HARD_LINES = 14

# Shorter words are compared whole: "gc" must not find every "gcd".
PREFIX_LENGTH = 4

# A word in a passage's path or scope counts for less than one in its text.
PLACE_WEIGHT = 0.5

_DEFINITION = re.compile(
    r"(?P<indent>\s*)(?:(?:export|public|static|async|pub)\s+)*"
    r"(?:class|def|fn|func|function|interface|struct)\s+(?P<name>\w+)\s*[(:{<]"
)

_SCHEMA = """
CREATE VIRTUAL TABLE passage USING fts5(
    text, path, scope, first_line UNINDEXED, tokenize = 'porter unicode61'
);
CREATE VIRTUAL TABLE passage_word USING fts5vocab(passage, row);
CREATE VIRTUAL TABLE word USING fts5(text, tokenize = 'porter unicode61');
CREATE VIRTUAL TABLE word_stem USING fts5vocab(word, instance);
"""


@dataclass(frozen=True, slots=True)
class Passage:
    """A few lines of a file.

    Attributes:
        path: The file.
        scope: The definition that the passage begins in, such as `Task.cancel`.
        first_line: The number of the first of the lines.
        lines: The lines.
        relevance: How well it fits the search; higher is better.
    """

    path: str
    scope: str
    first_line: int
    lines: tuple[str, ...]
    relevance: float


class PassageIndex:
    """The index of one folder; `open_index` makes one."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Creates the tables."""
        self._connection = connection
        self.passages = 0
        connection.executescript(_SCHEMA)

    def add(self, document: Document) -> int:
        """Indexes a document and returns how many lines it has."""
        lines = document.lines
        rows = [
            ("\n".join(lines[start:end]), document.path, scope, start + 1)
            for start, end, scope in _cut(lines)
        ]
        self._connection.executemany("INSERT INTO passage VALUES (?, ?, ?, ?)", rows)
        self.passages += len(rows)
        return len(lines)

    def stem(self, words: Iterable[str]) -> dict[str, str]:
        """Finds the stem of each word, as the index itself would.

        Words that the index does not see as one word are missing.
        """
        numbered = list(enumerate(dict.fromkeys(words), start=1))
        self._connection.execute("DELETE FROM word")
        self._connection.executemany("INSERT INTO word(rowid, text) VALUES (?, ?)", numbered)
        rows = self._connection.execute(
            "SELECT doc, min(term) FROM word_stem GROUP BY doc HAVING count(*) = 1"
        )
        stems: dict[int, str] = dict(rows.fetchall())
        return {word: stems[number] for number, word in numbered if number in stems}

    def count(self, stem: str) -> int:
        """Counts the passages that hold a stem, in their text or their place."""
        row = self._connection.execute(
            "SELECT coalesce(sum(doc), 0) FROM passage_word WHERE term >= ? AND term < ?",
            (stem, stem + ("\U0010ffff" if _finds_longer(stem) else "\0")),
        ).fetchone()
        return min(int(row[0]), self.passages)

    def search(self, stems: Mapping[str, str], limit: int) -> list[Passage]:
        """Finds the passages that hold any of the words, the best first.

        Args:
            stems: The stem of each word, from `stem`.
            limit: How many passages to find at most.
        """
        rows = self._connection.execute(
            "SELECT path, scope, first_line, text, -bm25(passage, 1.0, ?, ?) AS relevance"
            " FROM passage WHERE passage MATCH ?"
            " ORDER BY relevance DESC, path, first_line LIMIT ?",
            (PLACE_WEIGHT, PLACE_WEIGHT, _match_any(stems), limit),
        )
        return [
            Passage(path, scope, first_line, tuple(text.split("\n")), relevance)
            for path, scope, first_line, text, relevance in rows
        ]


@contextmanager
def open_index() -> Iterator[PassageIndex]:
    """Opens an empty index, which is gone when the block ends."""
    # An empty name is SQLite's for a temporary database; without a journal,
    # since nothing in it outlives this block or is ever rolled back.
    with closing(sqlite3.connect("", isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = OFF")
        connection.execute("PRAGMA synchronous = OFF")
        index = PassageIndex(connection)
        connection.execute("BEGIN")
        yield index


def is_match(stem: str, wanted: str) -> bool:
    """Whether a search for one stem finds a word with another."""
    return stem == wanted or (_finds_longer(wanted) and stem.startswith(wanted))


def _finds_longer(stem: str) -> bool:
    return len(stem) >= PREFIX_LENGTH


def _match_any(stems: Mapping[str, str]) -> str:
    """Writes an FTS5 query: each word a quoted string, so that none is syntax."""
    return " OR ".join(
        _quote(word) + (" *" if _finds_longer(stem) else "") for word, stem in stems.items()
    )


def _quote(word: str) -> str:
    return '"' + word.replace('"', '""') + '"'


def _cut(lines: Sequence[str]) -> Iterator[tuple[int, int, str]]:
    """Cuts lines into passages: first index, index after the last, and scope."""
    scopes: list[tuple[int, str]] = []
    start, scope = 0, ""
    previous = ""
    for number, line in enumerate(lines):
        definition = _DEFINITION.match(line)
        is_paragraph = line.strip() != "" and not previous.strip()
        has_left = (definition or is_paragraph) and _leave(scopes, line)
        length = number - start
        is_full = length >= HARD_LINES or (is_paragraph and length >= SOFT_LINES)
        if length and (definition or has_left or is_full):
            yield start, number, scope
            start = number
        if definition is not None:
            scopes.append((len(definition["indent"]), definition["name"]))
        if number == start:
            scope = ".".join(name for _, name in scopes)
        previous = line
    if start < len(lines):
        yield start, len(lines), scope


def _leave(scopes: list[tuple[int, str]], line: str) -> bool:
    """Leaves the definitions that a line is outside of, going by its indentation."""
    indent = len(line) - len(line.lstrip())
    count = len(scopes)
    while scopes and scopes[-1][0] >= indent:
        scopes.pop()
    return len(scopes) < count
