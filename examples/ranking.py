"""Chooses the passages and lines that best answer a question.

A question is a bag of words. The index finds the passages that hold some of
them; this module ranks those again by what makes a passage an answer: most of
the rare words, close together, in prose or in a definition, in a file that is
about the subject.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from math import log

from citations import Citation
from passages import Passage, PassageIndex, is_match

MAX_WORDS = 24
MAX_CANDIDATES = 2_000
MAX_FINDINGS = 6
MAX_FINDINGS_PER_FILE = 2
MAX_LINES_PER_FINDING = 3
MAX_LINE_LENGTH = 240

# How much more or less a line or a passage counts for what it is.
PROSE_WEIGHT = 1.4
DEFINITION_WEIGHT = 1.5
TEST_WEIGHT = 0.5
PATH_WEIGHT = 0.6

# Words that say nothing about the subject of a question.
STOP_WORDS = frozenset(
    "a about after all an and any are as at be because been before but by can could did do does"
    " each exactly explain for from get gets give given had has have how i if in into is it its"
    " know let like make makes many may me mean might more most much must my no not of on one or"
    " other our out please should show so some such tell than that the their them then there"
    " these they this those to up use used uses using via want was way we were what when where"
    " whether which while who why will with work works would you your".split()
)

_WORD = re.compile(r"[^\W_]+")
_DEFINITION = re.compile(
    r"\s*(?:(?:export|public|static|async|pub)\s+)*"
    r"(?:def|class|func|function|fn|interface|struct|type|enum)\s+(\w+)"
)
_CODE = re.compile(r"""[={}\[\];<>]|\w\([^)]|["']\s*[,:)]|^\s*(?:import|from|return|@)\b""")
_TEST_PATH = re.compile(r"(?:^|[/_])tests?(?:[/_]|$)|/test_")


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the question that the index can search for.

    Attributes:
        word: The word as asked.
        stem: What the index compares.
        count: How many passages hold it.
        weight: How much finding it says: rare words say more.
    """

    word: str
    stem: str
    count: int
    weight: float


@dataclass(frozen=True, slots=True)
class Finding:
    """A passage chosen for an answer.

    Attributes:
        path: The file.
        first_line: The number of the passage's first line.
        last_line: The number of its last.
        citations: Its best lines.
    """

    path: str
    first_line: int
    last_line: int
    citations: tuple[Citation, ...]


def choose_words(question: str) -> list[str]:
    """Picks the words of a question to search for; common ones only if alone."""
    words = list(dict.fromkeys(_WORD.findall(question.lower())))
    telling = [word for word in words if word not in STOP_WORDS]
    return (telling or words)[:MAX_WORDS]


def make_terms(words: Sequence[str], index: PassageIndex) -> list[Term]:
    """Looks up what the index knows of each word; words of one stem are one term."""
    words_by_stem: dict[str, str] = {}
    for word, stem in index.stem(words).items():
        words_by_stem.setdefault(stem, word)
    terms = []
    for stem, word in words_by_stem.items():
        count = index.count(stem)
        terms.append(Term(word, stem, count, log(1 + index.passages / (count + 1))))
    return terms


def find_answers(terms: Sequence[Term], index: PassageIndex) -> list[Finding]:
    """Finds the passages that answer best, the best first."""
    candidates = index.search({term.word: term.stem for term in terms}, MAX_CANDIDATES)
    matcher = _Matcher(terms, index, candidates)
    rated = [_rate(passage, matcher) for passage in candidates]
    rated.sort(key=lambda answer: -answer.rating)
    return [_make_finding(answer) for answer in _diversify(rated)]


@dataclass(frozen=True, slots=True)
class _Answer:
    """A candidate passage with its rating and the rating of each of its lines."""

    passage: Passage
    rating: float
    lines: tuple[float, ...]


class _Matcher:
    """Knows which terms the words of the candidates stand for."""

    def __init__(
        self, terms: Sequence[Term], index: PassageIndex, candidates: Iterable[Passage]
    ) -> None:
        self._terms = terms
        texts = chain.from_iterable((passage.path, *passage.lines) for passage in candidates)
        stems = index.stem(set(_WORD.findall("\n".join(texts).lower())))
        self._matches = {word: self._match(stem) for word, stem in stems.items()}
        self.total = sum(term.weight for term in terms if term.count)

    def _match(self, stem: str) -> frozenset[Term]:
        return frozenset(term for term in self._terms if is_match(stem, term.stem))

    def find(self, text: str) -> frozenset[Term]:
        """The terms that a text holds."""
        words = _WORD.findall(text.lower())
        return frozenset().union(*(self._matches.get(word, frozenset()) for word in words))


def _rate(passage: Passage, matcher: _Matcher) -> _Answer:
    """Rates a passage by its relevance, and by how its best lines answer."""
    in_path = matcher.find(passage.path)
    found = [matcher.find(line) for line in passage.lines]
    lines = tuple(
        _weigh(terms) * _weigh_kind(line, terms, matcher)
        for line, terms in zip(passage.lines, found, strict=True)
    )
    in_text = frozenset().union(*found)
    covered = (_weigh(in_text) + PATH_WEIGHT * _weigh(in_path - in_text)) / matcher.total
    close = max(_weigh(a | b) for a, b in zip(found, [*found[1:], frozenset()]))/ matcher.total
    rating = passage.relevance * covered**1.5 * (0.5 + close) * (0.5 + max(lines)/matcher.total)
    if _TEST_PATH.search(passage.path):
        rating *= TEST_WEIGHT
    return _Answer(passage, rating, lines)


def _weigh(terms: Iterable[Term]) -> float:
    return sum(term.weight for term in terms)


def _weigh_kind(line: str, terms, matcher) -> float:
    """Prefers prose, and definitions of what is asked for, over other code."""
    if len(line)>MAX_LINE_LENGTH: return 0.0
    definition = _DEFINITION.match(line)
    if definition is not None:
        return DEFINITION_WEIGHT if matcher.find(definition[1]) else 1.0
    if len(line.split()) >= 4 and not _CODE.search(line):
        return PROSE_WEIGHT
    return 1.0


def _diversify(answers: Iterable[_Answer]) -> list[_Answer]:
    """Picks the first answers, but only so many of one file."""
    chosen: list[_Answer] = []
    per_file: Counter[str] = Counter()
    for answer in answers:
        if per_file[answer.passage.path] < MAX_FINDINGS_PER_FILE and any(answer.lines):
            per_file[answer.passage.path] += 1
            chosen.append(answer)
            if len(chosen) == MAX_FINDINGS:
                break
    return chosen


def _make_finding(answer: _Answer) -> Finding:
    passage = answer.passage
    best = sorted(range(len(answer.lines)), key=lambda i: -answer.lines[i])
    shown = sorted(i for i in best[:MAX_LINES_PER_FINDING] if answer.lines[i] > 0)
    return Finding(passage.path, passage.first_line, passage.first_line+len(passage.lines)-1,
        tuple(Citation(passage.path, passage.first_line + i, passage.lines[i]) for i in shown),
    )
