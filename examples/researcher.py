"""The tools of a *researcher* demo agent: answers from a folder of documents.

Nothing is made up: an answer is lines of files, quoted with their place, after
a word on how much was read and what was looked for.
"""

from collections.abc import Sequence

from callboard_server import SyncContext, ToolError, tool
from citations import format_citation
from documents import Library, find_documents, read_documents
from passages import PassageIndex, open_index
from ranking import Finding, Term, choose_words, find_answers, make_terms

TEXT_SUFFIXES = frozenset(
    ".adoc .bash .c .cc .cfg .cpp .cs .css .csv .go .h .hpp .html .ini .java .js .json .jsx .kt"
    " .log .lua .md .php .pl .proto .py .pyi .rb .rs .rst .scala .sh .sql .swift .tex .toml .ts"
    " .tsx .txt .xml .yaml .yml".split()
)


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
        ToolError: The question has no words, or the folder cannot be read or
            holds no text files.
    """
    with open_index() as index:
        stems = index.stem(choose_words(question))
        if not stems:
            raise ToolError("The question holds no word to search for. Ask it in plain words.")
        library = find_documents(folder, TEXT_SUFFIXES, ctx)
        documents, lines = _fill(index, library, ctx)
        terms = make_terms(stems, index)
        findings = find_answers(terms, index)
    sought = ", ".join(term.word for term in terms)
    lead = [
        f"Read {documents:,} files ({lines:,} lines) below {library.root}; searched for: {sought}.",
        library.describe_left_out(),
        _describe_matches(terms, findings),
    ]
    answer = [line for line in lead if line]
    for number, finding in enumerate(findings, start=1):
        answer += ["", _title(number, finding, terms), *map(format_citation, finding.citations)]
    return "\n".join(answer)


def _fill(index: PassageIndex, library: Library, ctx: SyncContext) -> tuple[int, int]:
    """Indexes every document; returns how many there are, and their lines."""
    counts = [index.add(document) for document in read_documents(library, "indexed", ctx)]
    if not counts:
        raise ToolError(
            f"{str(library.root)!r} holds no text files. {library.describe_left_out()} "
            "Give a folder of source code or documentation."
        )
    return len(counts), sum(counts)


def _describe_matches(terms: Sequence[Term], findings: Sequence[Finding]) -> str:
    """Says how much of the question the folder answers at all."""
    missing = [term.word for term in terms if not term.count]
    if len(missing) == len(terms):
        return "Nothing was found: no file holds any of these words."
    if not findings:
        return "Nothing can be quoted: the words occur in file names or overlong lines only."
    best = max(len(finding.words) for finding in findings)
    if missing:
        return f"No file holds: {', '.join(missing)}."
    if best < len(terms):
        return f"No finding holds every word; the fullest holds {best} of {len(terms)}."
    return "The best passages first:"


def _title(number: int, finding: Finding, terms: Sequence[Term]) -> str:
    """The line above a finding: where it is from and which words it is about."""
    place = finding.citations[0].path
    if finding.scope:
        place += f", in {finding.scope}"
    words = ", ".join(term.word for term in terms if term.word in finding.words)
    return f"{number}. {place} ({words})"


# Reading again does no harm, so a crash in the middle costs only time.
search = tool(search_documents, idempotent=True)
