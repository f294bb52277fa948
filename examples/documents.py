"""Finds and reads the text files below a folder.

What is left out is counted, so that an answer can say how much it rests on:
hidden folders and files, caches and installed packages are passed over in
silence; a file with a fitting name that cannot be used is counted by reason.
Links are never followed: a folder is read once, and nothing outside it is.
"""

import os
import re
import stat
import sysconfig
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import Path

from callboard_server import SyncContext, ToolError

MAX_FILE_BYTES = 2 * 1024 * 1024
MAX_FILES = 20_000
PROGRESS_REPORTS = 15

PASSED_OVER = frozenset({"__pycache__", "node_modules", "site-packages", "dist-packages"})

_TEST = re.compile(r"(?:^|[/_])tests?[/_.]")


@dataclass(frozen=True, slots=True)
class Document:
    """One text file.

    Attributes:
        path: Where it is, relative to the folder read, with forward slashes.
        data: Its bytes.
    """

    path: str
    data: bytes

    @property
    def lines(self) -> list[str]:
        """The lines, as `split_lines` defines them."""
        return split_lines(self.data)


@dataclass(slots=True)
class Library:
    """The files found below a folder.

    Attributes:
        root: The folder.
        paths: The files, relative to the folder, sorted.
        left_out: How many files cannot be used, by reason.
    """

    root: Path
    paths: list[str] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)

    def describe_left_out(self) -> str:
        """Says what was left out and why; empty where nothing was."""
        if not self.left_out:
            return ""
        counts = self.left_out.most_common()
        reasons = ", ".join(f"{reason} ({count:,})" for reason, count in counts)
        return f"Left out: {reasons}."


def resolve_folder(folder: str) -> Path:
    """Finds the folder that a caller named.

    Args:
        folder: A path; empty for the standard library of this interpreter.

    Raises:
        ToolError: There is no such folder, or it cannot be read.
    """
    root = os.path.abspath(folder or sysconfig.get_path("stdlib"))
    if not os.path.exists(root):
        raise ToolError(f"There is no folder {root!r}. Give the path of an existing folder.")
    if not os.path.isdir(root):
        raise ToolError(f"{root!r} is a file. Give the path of the folder that holds it.")
    try:
        os.listdir(root)
    except OSError as error:
        raise ToolError(
            f"The folder {root!r} cannot be read ({error.strerror}). "
            "Give a folder that this agent may list."
        ) from error
    return Path(root)


def find_documents(
    folder: str,
    suffixes: Collection[str],
    ctx: SyncContext,
    *,
    with_tests: bool = True,
) -> Library:
    """Lists the files below a folder that have one of the suffixes.

    Args:
        folder: A path; empty for the standard library of this interpreter.
        suffixes: The endings to look for, with their dot, in lower case.
        ctx: The call's context; a cancelled call stops here.
        with_tests: Whether tests are read as well, or counted as left out.

    Raises:
        ToolError: The folder cannot be read, or holds too many files.
    """
    library = Library(resolve_folder(folder))

    def count_unreadable(_: OSError) -> None:
        library.left_out["unreadable"] += 1

    for directory, subfolders, names in os.walk(library.root, onerror=count_unreadable):
        ctx.check_cancelled()
        subfolders[:] = [name for name in subfolders if not _is_passed_over(name)]
        relative = Path(directory).relative_to(library.root)
        for name in names:
            if not _is_passed_over(name) and Path(name).suffix.lower() in suffixes:
                _add_file(library, (relative / name).as_posix(), with_tests=with_tests)
    library.paths.sort()
    return library


def read_documents(library: Library, verb: str, ctx: SyncContext) -> Iterator[Document]:
    """Reads the files of a library in order, reporting progress on the way.

    Args:
        library: The files; one that turns out to be unusable is counted there.
        verb: What is done to each document, for the progress line ("indexed").
        ctx: The call's context; a cancelled call stops between two files.
    """
    total = len(library.paths)
    interval = ceil(total / PROGRESS_REPORTS)
    for number, path in enumerate(library.paths, start=1):
        ctx.check_cancelled()
        document = _read_document(library, path)
        if document is not None:
            yield document
        if number % interval == 0 or number == total:
            ctx.progress(f"{verb} {number:,} of {total:,} files", current=number, total=total)


def split_lines(data: bytes) -> list[str]:
    r"""Splits a file into the lines that citations count, from 1.

    Text is UTF-8 (a byte order mark is dropped) or else Latin-1. A line ends
    at \n, \r\n or \r, as in Python's text mode; nothing else ends one.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    if not lines[-1]:
        lines.pop()
    return lines


def is_citable_path(path: str) -> bool:
    """Whether a path can stand before `:line:` on one line of text."""
    return path != "" and ":" not in path and path.isprintable()


def is_test(path: str) -> bool:
    """Whether a file is a test, going by its name and those of its folders."""
    return _TEST.search(path) is not None


def _is_passed_over(name: str) -> bool:
    return name.startswith(".") or name in PASSED_OVER


def _add_file(library: Library, path: str, *, with_tests: bool) -> None:
    """Adds a file to the library, or counts why it cannot be used."""
    try:
        status = os.lstat(library.root / path)
    except OSError:
        library.left_out["unreadable"] += 1
        return
    if not stat.S_ISREG(status.st_mode):
        library.left_out["links or special files"] += 1
    elif status.st_size > MAX_FILE_BYTES:
        library.left_out["over 2 MiB"] += 1
    elif not is_citable_path(path):
        library.left_out["with names that cannot be cited"] += 1
    elif is_test(path) and not with_tests:
        library.left_out["tests"] += 1
    elif len(library.paths) == MAX_FILES:
        raise ToolError(
            f"{str(library.root)!r} holds more than {MAX_FILES:,} files to read. "
            "Give a folder further down."
        )
    else:
        library.paths.append(path)


def _read_document(library: Library, path: str) -> Document | None:
    """Reads one file; counts and drops one that is unreadable or binary."""
    try:
        data = (library.root / path).read_bytes()
    except OSError:
        library.left_out["unreadable"] += 1
        return None
    if b"\0" in data:
        library.left_out["binary"] += 1
        return None
    return Document(path, data)
