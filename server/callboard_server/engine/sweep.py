"""The sweep: what is kept for a time only goes when that is over."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import structlog

from callboard.v1.event_pb2 import Actor
from callboard_server.agents.errors import describe_failure
from callboard_server.engine.archiving import archive
from callboard_server.engine.deletion import delete_tree
from callboard_server.engine.live import Hub
from callboard_server.engine.workspaces import Workspaces
from callboard_server.store.base import Reader, SessionRow, Store, StoreError, Transaction

REMEMBERED = 8 * 24 * 3600.0
"""How long the answers to requests with a request_id are kept, in seconds: at least 7 days."""
_BATCH = 20
"""How many sessions go at the same time."""

log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Sweep:
    """Looks again and again for what has outlived its time.

    Args:
        store: The store.
        hub: Ends the streams of sessions that go.
        workspaces: Their folders, which go with them.
        interval: Seconds from one look to the next.
        archive_dir: The folder in which sessions are kept as files before they go; None keeps none.
    """

    def __init__(
        self,
        store: Store,
        hub: Hub,
        workspaces: Workspaces,
        *,
        interval: float,
        archive_dir: Path | None = None,
    ) -> None:
        self._store = store
        self._hub = hub
        self._workspaces = workspaces
        self._interval = interval
        self._archive_dir = archive_dir

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="callboard-sweep")

    async def stop(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    async def _run(self) -> None:
        while True:
            try:
                await self.sweep()
            except StoreError as error:
                log.error("cannot sweep", problem=str(error))
            except Exception as error:
                failure = describe_failure(error)
                log.error("cannot sweep", problem=str(failure), trace=failure.trace)
            await asyncio.sleep(self._interval)

    async def sweep(self) -> None:
        """Looks once.

        Raises:
            StoreError: The store does not answer.
        """
        now = await self._store.write(_forget)
        kept: set[int] = set()
        while found := await self._store.read(lambda reader: _expired(reader, now, kept)):
            gone = await asyncio.gather(*(self._delete(each) for each in found))
            kept.update(each.key for each, is_gone in zip(found, gone, strict=True) if not is_gone)

    async def _delete(self, session: SessionRow) -> bool:
        """Deletes a session, if it still may go; returns whether it is gone."""
        head: int | None = None
        if self._archive_dir is not None:
            try:
                head = await archive(self._store, self._archive_dir, session)
            except OSError as error:
                log.error(
                    "cannot archive a session, so it stays",
                    session=session.session_id,
                    folder=str(self._archive_dir),
                    problem=error.strerror,
                )
                return False
            if head is None:
                return True

        def operation(tx: Transaction) -> bool:
            root = tx.thread(session.tenant, session.session_id)
            if root is None or root.session.key != session.key:
                return True
            has_moved_on = head is not None and root.session.head != head
            if has_moved_on or not _may_go(tx, root.session, root.key, tx.now / 1e9):
                return False
            delete_tree(tx, root, Actor(kind=Actor.KIND_SERVER))
            return True

        gone = await self._store.write(operation)
        if gone:
            self._hub.session_deleted(session.key)
            await self._workspaces.remove(session.session_id)
            log.info("session expired", session=session.session_id)
        return gone


def _forget(tx: Transaction) -> float:
    """Drops old answers and webhooks, and deleted assistants; returns the time."""
    now = tx.now / 1e9
    tx.forget(now - REMEMBERED)
    tx.forget_deliveries(now - REMEMBERED)
    tx.forget_assistants()
    return now


def _expired(reader: Reader, now: float, kept: set[int]) -> list[SessionRow]:
    """Returns some sessions that may go; adds those that must stay to `kept`."""
    while True:
        most = _BATCH + 2 * len(kept)
        rows = reader.expired_sessions(now, most)
        found = []
        for row in rows:
            if row.key in kept:
                continue
            root = reader.thread(row.tenant, row.session_id)
            if root is not None and _may_go(reader, row, root.key, now):
                found.append(row)
            else:
                kept.add(row.key)
        if found or len(rows) < most:
            return found[:_BATCH]


def _may_go(reader: Reader, session: SessionRow, root: int, now: float) -> bool:
    """Whether a session has outlived its ttl and nothing in it is active or waits."""
    if session.ttl is None or session.active_at + session.ttl > now:
        return False
    return not reader.tree_is_live(root)
