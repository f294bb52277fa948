"""The tools of a *coder* demo agent: a review of Python source.

The review rests on syntax trees alone: no reviewed code is imported or run.
"""

from collections.abc import Sequence

from callboard_server import SyncContext, ToolError, tool
from citations import MAX_LINE_LENGTH, format_citation
from documents import find_documents, read_documents
from review import Finding, Kind, Review

SHOWN_PER_KIND = 5


def review_source(folder: str, ctx: SyncContext) -> str:
    """Reviews the Python source below a folder, with citations.

    Parses every module and looks for functions that are too complex or too
    long, unused imports, variables and private definitions, bare excepts,
    mutable default arguments, missing docstrings, and files that do not parse.
    Tests are left out. No reviewed code is imported or run.

    Args:
        folder: The folder to review, with its subfolders. Leave it empty to
            review the standard library of the Python that runs this agent.
        ctx: The context of the call.

    Returns:
        Totals, then for each kind of finding how many there are and the worst
        of them. Every quoted line stands as `- relative/path.py:123: text of
        the line`, with the path relative to the folder, and what is wrong with
        it on the next line.

    Raises:
        ToolError: The folder cannot be read or holds no Python source.
    """
    library = find_documents(folder, {".py"}, ctx, with_tests=False)
    review = Review()
    for document in read_documents(library, "reviewed", ctx):
        review.add(document)
    left_out = library.describe_left_out()
    if not review.files:
        raise ToolError(
            f"{str(library.root)!r} holds no Python source to review. {left_out} "
            "Give a folder with .py files."
        )
    findings = review.conclude()
    lead = [
        f"Reviewed {review.files:,} Python files ({review.lines:,} lines) below {library.root}.",
        left_out,
        _describe_complexity(review.complexities),
        _describe_clean(findings),
    ]
    report = [line for line in lead if line]
    for kind in Kind:
        report += _describe_kind(kind, [finding for finding in findings if finding.kind is kind])
    return "\n".join(report)


def _describe_complexity(complexities: Sequence[int]) -> str:
    if not complexities:
        return "They define no functions."
    average = sum(complexities) / len(complexities)
    return (
        f"Cyclomatic complexity of their functions ({len(complexities):,}): "
        f"{average:.1f} on average, {max(complexities)} at most."
    )


def _describe_clean(findings: Sequence[Finding]) -> str:
    """Names the kinds of findings that there are none of."""
    found = {finding.kind for finding in findings}
    clean = ", ".join(kind.value for kind in Kind if kind not in found)
    return f"None found: {clean}." if clean else ""


def _describe_kind(kind: Kind, findings: Sequence[Finding]) -> list[str]:
    """Counts the findings of a kind and shows the worst."""
    if not findings:
        return []
    quotable = [f for f in findings if len(f.citation.text) <= MAX_LINE_LENGTH]
    shown = sorted(quotable, key=_rank)[:SHOWN_PER_KIND]
    count = f"{len(findings):,}"
    if len(shown) < len(findings):
        count += f", the first {len(shown)}" if shown else ", on lines too long to quote"
    lines = ["", f"{kind.value.capitalize()} ({count}):"]
    for finding in shown:
        lines += [format_citation(finding.citation), f"  {finding.note}"]
    return lines


def _rank(finding: Finding) -> tuple[int, str, int]:
    """Puts the worst first, and the same in the order of the files."""
    return -finding.weight, finding.citation.path, finding.citation.line


# Reading again does no harm, so a crash in the middle costs only time.
review = tool(review_source, idempotent=True)
