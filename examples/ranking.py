"""Chooses the passages, and the lines of them, that answer a question best.

A question is a bag of words. The index finds the passages that hold some of
them; this module ranks those again by what makes a passage an answer: most of
the rare words, close together, rather in prose than in code, in a file or a
definition that is named after the subject, and rather not in a test.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from math import log
from pathlib import PurePosixPath

from citations import MAX_LINE_LENGTH, Citation
from documents import is_test
from passages import Passage, PassageIndex, is_match

MAX_WORDS = 24
MAX_CANDIDATES = 2_000
MAX_FINDINGS = 6
MAX_FINDINGS_PER_FILE = 2
MAX_LINES_PER_FINDING = 4

# A finding that rates less than this part of the best one is left out.
LEAST_RATING = 0.2

# What counts more, or less: a line of prose beside one of code, a term in a
# passage's place beside one in its text, and a passage of a test.
PROSE_WEIGHT = 1.6
PLACE_WEIGHT = 0.6
TEST_WEIGHT = 0.4

# Words that say nothing about the subject of a question.
STOP_WORDS = frozenset(
    "a about after against all an and any are as at be because been before but by can could did do"
    " does each exactly explain for from get gets give given had has have how i if in into is it"
    " its itself know let like make makes many may me mean might more most much must my no not of"
    " on one or other our out please should show so some such tell than that the their them then"
    " there these they this those to up use used uses using via want was way we were what when"
    " where whether which while who why will with work works would you your".split()
)

_WORD = re.compile(r"[^\W_]+")
_CODE = re.compile(
    r"""[={}\[\];<>]|\w\([^)]|["']\s*[,:)]"""
    r"|^\s*(?:assert|await|del|import|raise|return|yield)\s|^\s*from .* import "
    r"|^\s*(?:async|elif|else|except|for|if|try|while|with)\b.*:$"
)


@dataclass(frozen=True, slots=True)
class Term:
    """A word of the question that the index can search for.

    Attributes:
        word: The word as asked.
        stem: What the index compares.
        count: How many passages hold it.
        weight: How much it says: rare words say more.
    """

    word: str
    stem: str
    count: int
    weight: float


@dataclass(frozen=True, slots=True)
class Finding:
    """Lines chosen for an answer.

    Attributes:
        scope: The definition that they stand in; empty where there is none.
        citations: The lines, in order.
        words: The words of the question that they or their place hold.
    """

    scope: str
    citations: tuple[Citation, ...]
    words: frozenset[str]


def choose_words(question: str) -> list[str]:
    """Picks the words of a question to search for; common ones only if alone."""
    words = list(dict.fromkeys(_WORD.findall(question.lower())))
    telling = [word for word in words if word not in STOP_WORDS]
    return (telling or words)[:MAX_WORDS]


def make_terms(stems: dict[str, str], index: PassageIndex) -> list[Term]:
    """Looks up what the index holds of each word; one stem makes one term.

    Args:
        stems: The stem of each word, from the index.
        index: The index, filled.
    """
    word_by_stem = {stem: word for word, stem in reversed(stems.items())}
    counts = {stem: index.count(stem) for stem in word_by_stem}
    return [
        Term(word, stem, counts[stem], log(1 + index.passages / (counts[stem] + 1)))
        for stem, word in reversed(word_by_stem.items())
    ]


def find_answers(terms: Sequence[Term], index: PassageIndex) -> list[Finding]:
    """Finds what answers best, the best first; `terms` are not empty."""
    candidates = index.search({term.word: term.stem for term in terms}, MAX_CANDIDATES)
    rater = _Rater(terms, index, candidates)
    answers = sorted(map(rater.rate, candidates), key=lambda answer: -answer.rating)
    return [_make_finding(answer) for answer in _choose(answers)]


@dataclass(frozen=True, slots=True)
class _Answer:
    """A candidate: a passage, how well it answers, and which of its lines do."""

    passage: Passage
    rating: float
    lines: range
    terms: frozenset[Term]

    @property
    def first_line(self) -> str:
        return self.passage.lines[self.lines.start].strip()


class _Rater:
    """Rates passages by the terms that their words stand for."""

    def __init__(
        self, terms: Sequence[Term], index: PassageIndex, passages: Iterable[Passage]
    ) -> None:
        texts = chain.from_iterable((p.path, p.scope, *p.lines) for p in passages)
        stems = index.stem(set(_WORD.findall("\n".join(texts).lower())))
        self._terms_of = {
            word: frozenset(term for term in terms if is_match(stem, term.stem))
            for word, stem in stems.items()
        }
        self._total = _weigh(terms)

    def rate(self, passage: Passage) -> _Answer:
        """Rates a passage as a whole, and finds its best run of lines."""
        place = self._find(f"{passage.path} {passage.scope}")
        found = [self._find(line) for line in passage.lines]
        runs = list(_find_runs(passage.lines, found))
        if not runs:
            return _Answer(passage, 0.0, range(0), frozenset())
        rated = [(self._rate_run(passage.lines, run, found, place), run) for run in runs]
        run_rating, run = max(rated, key=lambda pair: pair[0])
        rating = (
            passage.relevance
            * run_rating
            * self._cover(_unite(found), place) ** 1.5
            * self._weigh_place(passage, place)
        )
        return _Answer(passage, rating, run, place | _unite(found[run.start : run.stop]))

    def _rate_run(
        self,
        lines: Sequence[str],
        run: range,
        found: Sequence[frozenset[Term]],
        place: frozenset[Term],
    ) -> float:
        """Rates lines by what they hold together; longer runs say a little more."""
        kinds = [PROSE_WEIGHT if _is_prose(lines[number]) else 1.0 for number in run]
        cover = self._cover(_unite(found[run.start : run.stop]), place)
        return cover * sum(kinds) / (len(kinds) + 2)

    def _cover(self, text: frozenset[Term], place: frozenset[Term]) -> float:
        """How much of the question a text in a place holds, from 0 to 1."""
        return (_weigh(text) + PLACE_WEIGHT * _weigh(place - text)) / self._total

    def _weigh_place(self, passage: Passage, place: frozenset[Term]) -> float:
        """Prefers files and definitions that are named after a term, and no tests."""
        names = PurePosixPath(passage.path).with_suffix("").parts
        subjects = _unite(self._terms_of.get(name.lower(), frozenset()) for name in names)
        weight = 0.25 + (_weigh(place) + _weigh(subjects)) / self._total
        return weight * TEST_WEIGHT if is_test(passage.path) else weight

    def _find(self, text: str) -> frozenset[Term]:
        """The terms that a text holds."""
        words = _WORD.findall(text.lower())
        return _unite(self._terms_of.get(word, frozenset()) for word in words)


def _is_prose(line: str) -> bool:
    return len(line.split()) >= 4 and not _CODE.search(line)


def _find_runs(lines: Sequence[str], found: Sequence[frozenset[Term]]) -> Iterator[range]:
    """The lines that can be quoted together: from one with a term up to a gap."""
    fit = [len(line) <= MAX_LINE_LENGTH and _WORD.search(line) is not None for line in lines]
    for start, terms in enumerate(found):
        if terms and fit[start]:
            end = start
            while end < len(fit) and fit[end] and end - start < MAX_LINES_PER_FINDING:
                end += 1
            yield range(start, end)


def _unite(sets: Iterable[frozenset[Term]]) -> frozenset[Term]:
    return frozenset().union(*sets)


def _weigh(terms: Iterable[Term]) -> float:
    return sum(term.weight for term in terms)


def _choose(answers: Sequence[_Answer]) -> list[_Answer]:
    """Picks the first answers: few of one file, none twice, none far behind."""
    chosen: list[_Answer] = []
    per_file: Counter[str] = Counter()
    for answer in answers:
        if len(chosen) == MAX_FINDINGS or answer.rating <= answers[0].rating * LEAST_RATING:
            break
        is_new = all(answer.first_line != other.first_line for other in chosen)
        if is_new and per_file[answer.passage.path] < MAX_FINDINGS_PER_FILE:
            per_file[answer.passage.path] += 1
            chosen.append(answer)
    return chosen


def _make_finding(answer: _Answer) -> Finding:
    passage = answer.passage
    citations = tuple(
        Citation(passage.path, passage.first_line + number, passage.lines[number])
        for number in answer.lines
    )
    return Finding(passage.scope, citations, frozenset(term.word for term in answer.terms))
