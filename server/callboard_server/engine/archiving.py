"""Archives on disk: a session as a file of JSON lines, for the time after its deletion."""

from __future__ import annotations

import asyncio
import os
from itertools import count
from pathlib import Path

from callboard.archives import event_line, header_line, read_lines
from callboard.v1.thread_pb2 import Thread
from callboard_server.engine.present import show_thread
from callboard_server.log.events import without_provider_state
from callboard_server.log.records import Record
from callboard_server.store.base import EventFilter, Reader, SessionRow, Store

_PAGE, _PAGE_BYTES = 1000, 8 << 20
"""How much of a log is held in memory."""


async def archive(store: Store, folder: Path, session: SessionRow) -> int | None:
    """Writes a session to a file, which is there whole and durable, or not at all.

    Args:
        store: Where the session is.
        folder: Where to put the file; made if it is not there.
        session: The session.

    Returns:
        The sequence up to which the file has the log; None where the session is gone.

    Raises:
        OSError: The file cannot be written.
    """

    def root_of(reader: Reader) -> Thread | None:
        root = reader.thread(session.tenant, session.session_id)
        return show_thread(reader, root) if root else None

    def page_after(reader: Reader, cursor: int, head: int) -> list[Record]:
        page, size = [], 0
        events = reader.events(session.key, EventFilter(), after=cursor, through=head, limit=_PAGE)
        for record in events:
            page.append(record)
            size += len(record.data)
            if size > _PAGE_BYTES:
                break
        return page

    root = await store.read(root_of)
    if root is None:
        return None
    head, cursor = root.head_sequence, root.oldest_sequence - 1
    draft = await asyncio.to_thread(_Draft, folder, root)
    try:
        while cursor < head:
            page = await store.read(lambda reader: page_after(reader, cursor, head))  # noqa: B023
            if not page:
                return None
            await asyncio.to_thread(draft.write, page)
            cursor = page[-1].sequence
        await asyncio.to_thread(draft.keep)
    finally:
        await asyncio.to_thread(draft.discard)
    return head


class _Draft:
    """A file in the making."""

    def __init__(self, folder: Path, root: Thread) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._target = _free_path(folder, root)
        # One that a crash left behind is written anew.
        self._path: Path | None = folder / f".{root.session_id}.part"
        self._file = self._path.open("w", encoding="utf-8", newline="\n")
        self._file.write(header_line(root))

    def write(self, records: list[Record]) -> None:
        self._file.writelines(event_line(without_provider_state(r.event)) for r in records)

    def keep(self) -> None:
        """Puts the file in its place, durably."""
        assert self._path is not None
        self._file.flush()
        os.fsync(self._file.fileno())
        self._path.rename(self._target)
        self._path = None
        folder = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def discard(self) -> None:
        """Leaves nothing behind of what was not kept."""
        self._file.close()
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def _free_path(folder: Path, root: Thread) -> Path:
    """Returns where to put a session: not over another one that once had the same id."""
    name = root.session_id
    for number in count(2):
        path = folder / f"{name}.jsonl"
        if not path.exists() or _is_of(path, root):
            return path
        name = f"{root.session_id}-{number}"
    raise AssertionError


def _is_of(path: Path, root: Thread) -> bool:
    """Whether a file is of this very session, from an attempt after which it was not deleted."""
    try:
        with path.open(encoding="utf-8") as file:
            return read_lines(file).session.create_time == root.create_time
    except ValueError:
        return False
