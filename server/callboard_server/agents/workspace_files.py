"""The files of a workspace, and nothing beyond it.

A path is opened part by part, each within the folder before it, and no symbolic link is followed:
so it cannot lead out, whatever changes meanwhile.

This is also the program that searches, in a process of its own: `workspace_files.py ORDER`. A
regular expression may take for ever, and holds all threads of its process while it does. So it
imports nothing but the standard library.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import secrets
import stat
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fnmatch import fnmatchcase
from io import BufferedReader

MOST_LINES = 2_000
"""How many lines of a file are read at once, where nobody says."""
MOST_TEXT = 100_000
"""How many bytes of a file are read at once."""
MOST_FILES = 1_000
"""How many files are listed at once."""
MOST_MATCHES = 200
"""How many lines are found at once."""
LARGEST_FILE = 4 * 1024 * 1024
"""How large a file may be to be edited, and to be searched."""
_LONGEST_LINE = 300
"""How much of a line is shown that was found."""
_MOST_VISITED = 100_000
_SNIFFED = 8_192


class Refused(Exception):
    """Something cannot be done; the message says why, for the model."""


class Glob:
    """A pattern of paths: `*`, `?` and `[...]` within a part, `**` for any number of parts."""

    def __init__(self, pattern: str) -> None:
        self._parts = [part for part in pattern.split("/") if part not in ("", ".")]

    def fits(self, path: Sequence[str]) -> bool:
        return len(self._parts) in self._after(path)

    def leads_to_more(self, folder: Sequence[str]) -> bool:
        """Whether something within a folder may fit."""
        return bool(self._after(folder) - {len(self._parts)})

    def _after(self, path: Sequence[str]) -> set[int]:
        """Returns how much of the pattern a path may have used up."""
        places = self._widen({0})
        for name in path:
            places = self._widen({after for at in places for after in self._step(at, name)})
        return places

    def _step(self, at: int, name: str) -> Iterator[int]:
        if at < len(self._parts):
            if self._parts[at] == "**":
                yield at
            elif fnmatchcase(name, self._parts[at]):
                yield at + 1

    def _widen(self, places: set[int]) -> set[int]:
        """Adds that `**` may stand for nothing."""
        widened = set(places)
        for at in places:
            while at < len(self._parts) and self._parts[at] == "**":
                at += 1
                widened.add(at)
        return widened


@dataclass(frozen=True, slots=True)
class Excerpt:
    """A part of a file."""

    text: str
    next_line: int | None
    """Where the rest begins; None if there is none."""


class Files:
    """The files of a workspace.

    Args:
        root: The folder.
        paths: Patterns of what may be read and written.
    """

    def __init__(self, root: str, paths: Sequence[str]) -> None:
        self._root = root
        self._patterns = paths
        self._globs = [Glob(pattern) for pattern in paths]

    def read(self, path: str, first_line: int, most_lines: int) -> Excerpt:
        """Returns lines of a text, up to a bound."""
        with self._opened(path) as file:
            if b"\0" in file.peek(_SNIFFED)[:_SNIFFED]:
                raise _no_text(path, file)
            for _ in range(first_line - 1):
                _skip_line(file)
            if first_line > 1 and not file.peek(1):
                raise Refused(f"{path} has fewer than {first_line} lines.")
            found, next_line = _read_lines(file, first_line, most_lines)
            if next_line == first_line:
                raise Refused(
                    f"Line {first_line} of {path} alone is longer than {MOST_TEXT:,} bytes."
                )
            return Excerpt(_decode(path, file, found), next_line)

    def write(self, path: str, text: str) -> None:
        """Writes a file, whole or not at all; makes the folders that it needs."""
        parts = self._check(path)
        with self._explained(path), self._locked(), self._parent(parts, create=True) as folder:
            _replace(folder, parts[-1], text.encode())

    def edit(self, path: str, old: str, new: str) -> None:
        """Replaces what stands exactly once in a file."""
        parts = self._check(path)
        with self._explained(path), self._locked(), self._parent(parts) as folder:
            with _open_file(folder, parts[-1]) as file:
                content = file.read(LARGEST_FILE + 1)
                if len(content) > LARGEST_FILE:
                    raise Refused(f"{path} is larger than {LARGEST_FILE:,} bytes.")
                text = _decode(path, file, content)
            count = text.count(old)
            if count != 1:
                raise Refused(
                    f"{path} has the text to replace {count} times. Give it exactly as it stands "
                    "there, with as much around it as makes it the only one."
                )
            _replace(folder, parts[-1], text.replace(old, new).encode())

    def find(self, pattern: str) -> tuple[list[str], bool]:
        """Returns the files that fit a pattern, and whether there are more."""
        found: list[str] = []
        for path, _, _ in self._walk(pattern):
            if len(found) == MOST_FILES:
                return found, True
            found.append(path)
        return found, False

    def search(self, expression: str, pattern: str) -> tuple[list[str], bool]:
        """Returns the lines that a regular expression finds, and whether there are more."""
        try:
            finder = re.compile(expression)
        except re.error as error:
            raise Refused(f"{expression!r} is no regular expression: {error}.") from None
        found: list[str] = []
        for path, folder, name in self._walk(pattern):
            for number, line in enumerate(_lines_of(folder, name), start=1):
                if finder.search(line):
                    if len(found) == MOST_MATCHES:
                        return found, True
                    found.append(f"{path}:{number}: {line.strip()[:_LONGEST_LINE]}")
        return found, False

    # Names

    def _check(self, path: str) -> list[str]:
        """Returns the parts of a path that may be used."""
        if path.startswith("/"):
            raise Refused(f"{path} is absolute: name it from the workspace on, such as src/a.py.")
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if not parts or ".." in parts or "\0" in path:
            raise Refused(f"{path!r} names no file of the workspace.")
        if not self._permits(parts):
            allowed = ", ".join(self._patterns) or "nothing"
            raise Refused(f"{path} may not be used. What may: {allowed}.")
        return parts

    def _permits(self, parts: Sequence[str]) -> bool:
        return any(glob.fits(parts) for glob in self._globs)

    @contextmanager
    def _explained(self, path: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise Refused(f"{path}: {_explain(error)}") from None
        except UnicodeEncodeError:
            raise Refused(f"{path!r}: what cannot be written as UTF-8 cannot be used") from None

    # Opening

    @contextmanager
    def _opened(self, path: str) -> Iterator[BufferedReader]:
        parts = self._check(path)
        with (
            self._explained(path),
            self._parent(parts) as folder,
            _open_file(folder, parts[-1]) as file,
        ):
            yield file

    @contextmanager
    def _parent(self, parts: Sequence[str], *, create: bool = False) -> Iterator[int]:
        """Opens the folder that a path is in."""
        folder = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for part in parts[:-1]:
                if create:
                    with suppress(FileExistsError):
                        os.mkdir(part, dir_fd=folder)
                inner = _open_folder(folder, part)
                os.close(folder)
                folder = inner
            yield folder
        finally:
            os.close(folder)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Lets one write at a time: an edit must not undo another."""
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fcntl.flock(root, fcntl.LOCK_EX)
            yield
        finally:
            os.close(root)

    def _walk(self, pattern: str) -> Iterator[tuple[str, int, str]]:
        """Finds files that may be used and fit a pattern: path, open folder, and name therein."""
        wanted = Glob(pattern)
        left = _MOST_VISITED
        root = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for place, folders, names, folder in os.fwalk(dir_fd=root):
                here = [part for part in place.split("/") if part != "."]
                folders[:] = sorted(
                    name
                    for name in folders
                    if wanted.leads_to_more([*here, name])
                    and any(glob.leads_to_more([*here, name]) for glob in self._globs)
                )
                left -= len(folders) + len(names)
                if left < 0:
                    raise Refused("There are too many files: name a folder to look in.")
                for name in sorted(names):
                    path = [*here, name]
                    if wanted.fits(path) and self._permits(path) and _is_file(folder, name):
                        yield "/".join(path), folder, name
        finally:
            os.close(root)


def _open_folder(folder: int, name: str) -> int:
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.open(name, flags, dir_fd=folder)


def _open_file(folder: int, name: str) -> BufferedReader:
    # Without waiting, for a pipe would wait for whoever writes to it.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    file = os.open(name, flags, dir_fd=folder)
    if not stat.S_ISREG(os.fstat(file).st_mode):
        os.close(file)
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return os.fdopen(file, "rb")


def _is_file(folder: int, name: str) -> bool:
    """Whether a name is that of a file that can be named."""
    with suppress(OSError, UnicodeEncodeError):
        name.encode()
        return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
    return False


def _replace(folder: int, name: str, content: bytes) -> None:
    """Puts a file in the place of another, which keeps its mode."""
    mode = _mode_of(folder, name)
    draft = f".{secrets.token_hex(8)}.draft"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with os.fdopen(os.open(draft, flags, 0o666, dir_fd=folder), "wb") as file:
            file.write(content)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
        os.replace(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(FileNotFoundError):
            os.unlink(draft, dir_fd=folder)
        raise


def _mode_of(folder: int, name: str) -> int | None:
    """Returns the mode of a file that is to be replaced; None if there is none."""
    try:
        mode = os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode
    except FileNotFoundError:
        return None
    if not stat.S_ISREG(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    return stat.S_IMODE(mode) & 0o777


def _explain(error: OSError) -> str:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return "a part of it is no folder, or a symbolic link, which is not followed."
    if error.errno == errno.EISDIR:
        return "is no regular file."
    return f"{error.strerror}."


def _skip_line(file: BufferedReader) -> None:
    while (piece := file.readline(_SNIFFED)) and not piece.endswith(b"\n"):
        pass


def _read_lines(file: BufferedReader, number: int, count: int) -> tuple[bytes, int | None]:
    """Returns whole lines, up to a bound, and the number of the next line if there is one."""
    found = bytearray()
    for _ in range(count):
        line = file.readline(MOST_TEXT - len(found) + 1)
        if not line:
            return bytes(found), None
        if len(found) + len(line) > MOST_TEXT:
            return bytes(found), number
        found += line
        number += 1
    return bytes(found), number if file.peek(1) else None


def _decode(path: str, file: BufferedReader, content: bytes) -> str:
    try:
        return content.decode()
    except UnicodeDecodeError:
        raise _no_text(path, file) from None


def _no_text(path: str, file: BufferedReader) -> Refused:
    size = os.fstat(file.fileno()).st_size
    return Refused(f"{path} is no text in UTF-8. It has {size:,} bytes.")


def _lines_of(folder: int, name: str) -> list[str]:
    """Returns the lines of a text; none of what is no text, too large, or gone."""
    with suppress(OSError, UnicodeDecodeError), _open_file(folder, name) as file:
        content = file.read(LARGEST_FILE + 1)
        if len(content) <= LARGEST_FILE and b"\0" not in content[:_SNIFFED]:
            return content.decode().replace("\r\n", "\n").removesuffix("\n").split("\n")
    return []


def main(order: str) -> None:
    """Searches as a JSON object says, and prints what it found as another."""
    wanted = json.loads(order)
    try:
        files = Files(wanted["root"], wanted["paths"])
        found, more = files.search(wanted["expression"], wanted["files"])
        answer: dict[str, object] = {"found": found, "more": more}
    except Refused as refusal:
        answer = {"refused": str(refusal)}
    print(json.dumps(answer))


if __name__ == "__main__":
    main(sys.argv[1])
