"""The SQLite store: one writer thread that commits in groups, and readers that never wait for it.

The writer takes whatever is queued, runs it in one transaction and answers all callers after the
commit. There is no window: a lone operation is committed at once, and under load the time of one
commit gathers the next group.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from callboard_server import faults
from callboard_server.log.records import Record
from callboard_server.store.base import (
    Listener,
    Reader,
    StoreError,
    StoreUnavailable,
    Transaction,
)
from callboard_server.store.sqlite import ownership, schema
from callboard_server.store.sqlite.cache import Cache, Changes, ready_line
from callboard_server.store.sqlite.cached import CachedReader
from callboard_server.store.sqlite.reader import NotRemembered, SqliteReader
from callboard_server.store.sqlite.transaction import SqliteTransaction, Unsent

T = TypeVar("T")

GROUP = 1000  # operations in one commit at the most: bounds how long a caller waits for others
READERS = 4
RENEWAL = ownership.LEASE / 3


@dataclass(slots=True)
class _Operation:
    run: Callable[[Transaction], Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None

    def reply(self) -> None:
        """Answers the caller, on the loop."""
        if self.answer.done():
            return
        if self.error is None:
            self.answer.set_result(self.result)
            return
        if isinstance(self.error, StopIteration):
            # No future can carry it.
            self.error = RuntimeError("the operation raised StopIteration")
        self.answer.set_exception(self.error)
        # A caller that went away does not retrieve it.
        self.answer.exception()


@dataclass(slots=True)
class _Commit:
    """What the operations of a commit did."""

    changes: Changes = field(default_factory=Changes)
    records: list[Record] = field(default_factory=list)


class SqliteStore:
    """A store on one SQLite file.

    Args:
        path: The file; created when it does not exist.
        worker_id: The name of this process as the file's owner.
        synchronous: "FULL" makes every answered write survive a loss of power; "NORMAL" may lose
            the last of them then, and nothing when only the process is killed.
        clock: Nanoseconds since the epoch.
    """

    name = "sqlite"

    def __init__(
        self,
        path: str,
        *,
        worker_id: str,
        synchronous: str = "FULL",
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = path
        self._worker_id = worker_id
        self._synchronous = synchronous
        self._clock = clock
        self._queue: queue.SimpleQueue[_Operation | None] = queue.SimpleQueue()
        self._keys: Counter[str] = Counter()
        self._local = threading.local()
        self._open_readers: list[sqlite3.Connection] = []
        self._closed = True
        self._cache: Cache | None = None
        """What the writer knows; None where it has to begin anew."""
        self._shown: Cache | None = None
        """What the loop knows of what is committed."""
        self.fault: StoreError | None = None

    # Opening and closing

    async def open(self, listener: Listener) -> None:
        """Opens the file, waits for an earlier owner's lease to end if need be, and takes it.

        Raises:
            StoreError: The file cannot be used; the message says why and what to do.
        """
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._connection = await asyncio.to_thread(schema.open_file, self._path, self._synchronous)
        try:
            await self._take_ownership()
            await asyncio.to_thread(self._prepare)
        except BaseException:
            self._connection.close()
            raise
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="callboard-read")
        self._writer = threading.Thread(target=self._work, name="callboard-write", daemon=True)
        self._closed = False
        self._writer.start()

    async def _take_ownership(self) -> None:
        first = holder = await asyncio.to_thread(self._try_to_own)
        deadline = time.monotonic() + ownership.LEASE + 1
        while first is not None and holder is not None:
            # A holder that renews is alive; one whose lease just runs out was killed elsewhere.
            renewed = holder.lease_end > first.lease_end
            if renewed or holder.is_here or time.monotonic() > deadline:
                raise StoreError(
                    f"{self._path} is in use by another server (process {holder.pid} on "
                    f"{holder.host}): stop that one or name another file"
                )
            await asyncio.sleep(0.25)
            holder = await asyncio.to_thread(self._try_to_own)

    def _try_to_own(self) -> ownership.Owner | None:
        try:
            return ownership.take(self._connection, self._worker_id, self.now())
        except sqlite3.Error as error:
            raise self._store_error(error) from error

    def _prepare(self) -> None:
        """Brings the file up to date and reads where its keys stand, once it is ours."""
        try:
            schema.migrate(self._path, self._connection)
            rows = self._connection.execute("SELECT name, seq FROM sqlite_sequence")
            self._keys = Counter(dict(rows))
        except sqlite3.Error as error:
            ownership.release(self._connection, self._worker_id)
            raise self._store_error(error) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._queue.put(None)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._open_readers:
            connection.close()
        await asyncio.to_thread(self._writer.join)
        self._connection.close()

    def now(self) -> float:
        return self._clock() / 1e9

    # Writing

    async def write(self, operation: Callable[[Transaction], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Operation(operation, answer))
        return await answer

    def _work(self) -> None:
        """The writer thread."""
        renew_at = time.monotonic() + RENEWAL
        while True:
            group, closing = self._next_group(renew_at - time.monotonic())
            if time.monotonic() >= renew_at:
                self._renew()
                renew_at = time.monotonic() + RENEWAL
            if group:
                self._commit(group)
            if closing:
                break
        self._release()

    def _next_group(self, timeout: float) -> tuple[list[_Operation], bool]:
        """Waits for operations; returns all that are queued, and whether the store closes."""
        group: list[_Operation] = []
        try:
            item = self._queue.get(timeout=max(0.0, timeout))
            while item is not None and len(group) < GROUP:
                group.append(item)
                item = self._queue.get_nowait()
        except queue.Empty:
            return group, False
        if item is not None:
            group.append(item)
        return group, item is None

    def _commit(self, group: Sequence[_Operation]) -> None:
        commit = _Commit()
        try:
            self._transact(group, commit)
            self.fault = None
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._doubt()
            if len(group) > 1 and not _is_outage(error):
                # The database refused what one of them wrote: that must not harm the others.
                for operation in group:
                    self._commit([operation])
                return
            commit = _Commit()
            fault = self._as_fault(error)
            self.fault = fault if isinstance(fault, StoreError) else None
            for operation in group:
                operation.error = self._as_fault(error)
        self._call_loop(self._deliver, group, commit)

    def _doubt(self) -> None:
        """What is remembered may no longer be what is in the file."""
        self._cache = None
        self._call_loop(self._show, None)

    def _transact(self, group: Sequence[_Operation], commit: _Commit) -> None:
        """Runs operations in one transaction and notes what they did."""
        unsent = Unsent(self._connection)
        self._connection.execute("BEGIN IMMEDIATE")
        if not ownership.holds(self._connection, self._worker_id):
            raise self._taken_over()
        if self._cache is None:
            commit.changes.line = ready_line(self._connection)
            self._cache = Cache(commit.changes.line)
        for operation in group:
            self._cache = self._run(operation, self._cache, unsent, commit)
        unsent.send()
        faults.point("before_commit")
        self._connection.execute("COMMIT")
        faults.point("after_commit")

    def _run(self, operation: _Operation, cache: Cache, unsent: Unsent, commit: _Commit) -> Cache:
        """Runs an operation and returns what is known after it."""
        now = self._clock()
        transaction = SqliteTransaction(self._connection, cache, unsent, self._keys, now)
        operation.error = None
        try:
            operation.result = operation.run(transaction)
        except sqlite3.Error:
            raise
        except Exception as error:
            transaction.abandon()
            operation.error = error
            return cache
        transaction.finish()
        commit.records += transaction.records
        if transaction.deleted:
            unsent.send()
            line = ready_line(self._connection)
            commit.changes = Changes(line=line)
            return Cache(line)
        cache.apply(transaction.changes)
        commit.changes.add(transaction.changes)
        return cache

    def _as_fault(self, error: BaseException) -> BaseException:
        """What a caller is told of an error that took a whole commit down."""
        if isinstance(error, sqlite3.Error):
            return self._store_error(error)
        return StoreUnavailable(*error.args) if isinstance(error, StoreUnavailable) else error

    def _store_error(self, error: sqlite3.Error) -> StoreError:
        return schema.store_error(error, self._path)

    def _deliver(self, group: Sequence[_Operation], commit: _Commit) -> None:
        """Back on the loop: shows what was committed, then answers the callers."""
        try:
            self._show(commit.changes)
            if commit.records:
                self._listener(commit.records)
        finally:
            for operation in group:
                operation.reply()

    def _show(self, changes: Changes | None) -> None:
        """Lets reads on the loop know what was committed; None where that is not known."""
        if changes is None:
            self._shown = None
        elif changes.line is not None:
            self._shown = Cache(changes.line)
        if changes is not None and self._shown is not None:
            self._shown.apply(changes)

    def _call_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop is closed: nobody is left to be told.
            return

    def _renew(self) -> None:
        """Extends the lease, and sees whether the file can be written while nobody does."""
        try:
            ours = ownership.renew(self._connection, self._worker_id, self.now())
            self.fault = None if ours else self._taken_over()
        except sqlite3.Error as error:
            # The next renewal is in time as well: a lease is three of them long.
            self.fault = self._store_error(error)
        if self.fault is not None:
            self._doubt()

    def _taken_over(self) -> StoreUnavailable:
        return StoreUnavailable(f"{self._path} was taken over by another server")

    def _release(self) -> None:
        try:
            ownership.release(self._connection, self._worker_id)
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error:
            # What is committed is safe in the file and its log.
            return

    # Reading

    async def read(self, query: Callable[[Reader], T]) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        if self._shown is not None:
            with suppress(NotRemembered):
                return query(CachedReader(self._shown))
        return await self._loop.run_in_executor(self._readers, self._query, query)

    def _query(self, query: Callable[[Reader], T]) -> T:
        try:
            connection = self._reader_connection()
            connection.execute("BEGIN")
            try:
                return query(SqliteReader(connection))
            finally:
                connection.execute("COMMIT")
        except sqlite3.Error as error:
            raise self._store_error(error) from error

    def _reader_connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            connection = schema.connect(self._path)
            connection.execute("PRAGMA query_only = 1")
            self._local.connection = connection
            self._open_readers.append(connection)
        return connection


def _is_outage(error: BaseException) -> bool:
    """Whether an error says that the database cannot be written, whatever the operation."""
    own = (sqlite3.IntegrityError, sqlite3.DataError, sqlite3.InterfaceError)
    if isinstance(error, (*own, sqlite3.ProgrammingError)):
        return False
    return isinstance(error, (sqlite3.Error, StoreError))
