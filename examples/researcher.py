"""The tools of a *researcher* demo agent: answers from a folder of documents.

A question is a bag of words. SQLite finds the passages that hold some of them;
this module ranks those again by what makes a passage an answer: many of the
rare words close together, in prose or in a definition, in a file that is about
the subject. Nothing is made up: an answer is lines of files, cited.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import log

from callboard_server import SyncContext

from citations import Citation, format_citation
from documents import Library, find_documents, read_documents
from passages import Passage, PassageIndex, is_match, open_index

TEXT_SUFFIXES = frozenset(
    ".adoc .bash .c .cc .cfg .cpp .cs .css .csv .go .h .hpp .html .ini .java .js .json .jsx .kt"
    " .log .lua .md .php .pl .proto .py .pyi .rb .rs .rst .scala .sh .sql .swift .tex .toml .ts"
    " .tsx .txt .xml .yaml .yml".split()
)

# Words that say nothing about the subject of a question.
STOP_WORDS = frozenset(
    "a about after all an and any are as at be because been before but by can could did do does"
    " each exactly explain for from get gets give given had has have how i if in into is it its"
    " know let like make makes many may me mean might more most much must my no not of on one or"
    " other our out please should show so some such tell than that the their them then there"
    " these they this those to up use used uses using via want was way we were what when where"
    " whether which while who why will with work works would you your".split()
)

MAX_WORDS = 24
MAX_CANDIDATES = 500
MAX_FINDINGS = 6
MAX_FINDINGS_PER_FILE = 2
MAX_LINES_PER_FINDING = 3
MAX_LINE_LENGTH = 240

# How much a match counts, by what it is part of.
PROSE_WEIGHT = 1.4
DEFINITION_WEIGHT = 1.6
TEST_WEIGHT = 0.6

_WORD = re.compile(r"[^\W_]+")
_DEFINITION = re.compile(
    r"\s*(?:export |public |static |async |pub )*"
    r"(?:def|class|func|function|fn|interface|struct|type|enum)\s+(\w+)"
)
_CODE = re.compile(r"""[={}\[\];<>]|\w\([^)]|["']\s*[,:)]|^\s*(?:import|from|return|@|>>>)""")


def search_documents(question: str, folder: str, ctx: SyncContext) -> str:
    """Answers a question from the text files of a folder, with citations.

    Reads every text file below the folder (source code, documentation,
    configuration), ranks their passages by the words of the question and
    quotes the lines that fit best. The answer holds only what the files say.

    Args:
        question: What to find out, in plain words or as search terms.
        folder: The folder to read, with its subfolders. Leave it empty to read
            the standard library of the Python that runs this agent.
        ctx: The context of the call.

    Returns:
        What was read and searched for, then the findings. Every quoted line
        stands as `- relative/path.py:123: text of the line`, with the path
        relative to the folder.

    Raises:
        ValueError: The question has no words, or the folder cannot be read or
            holds no text files.
    """
    words = _choose_words(question)
    if not words:
        raise ValueError("The question holds no word to search for. Ask it in plain words.")
    library = find_documents(folder, TEXT_SUFFIXES, ctx)
    with open_index() as index:
        lines = sum(index.add(document) for document in read_documents(library, "indexed", ctx))
        ...
