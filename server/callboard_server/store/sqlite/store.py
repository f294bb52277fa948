"""The SQLite store: operations are committed in groups, and readers never wait for them.

What has come in is run in one transaction, and all callers are answered after its commit. There is
no window: a lone operation is committed at once, and under load the time of one commit gathers the
next group.

Operations run on the event loop: nearly all that they need is in the cache, and a thread to which
they went would only compete with the loop for the interpreter. A writer thread waits for the disk,
except where a lone operation's commit is quicker than the way there and back (see `Pace`). It also
takes over what could hold up the loop: operations that read through a log or delete, the wait for a
file that another program has locked, and moving the log into the database.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from callboard_server import faults
from callboard_server.log.records import Record
from callboard_server.store.base import (
    Ended,
    Listener,
    Reader,
    StoreError,
    StoreUnavailable,
    Transaction,
)
from callboard_server.store.sqlite import ownership, schema
from callboard_server.store.sqlite.cache import Cache, Changes, ready_line
from callboard_server.store.sqlite.cached import CachedReader
from callboard_server.store.sqlite.pace import Pace
from callboard_server.store.sqlite.reader import NotRemembered, SqliteReader
from callboard_server.store.sqlite.transaction import SqliteTransaction, Unsent, WouldBlock

T = TypeVar("T")

TURN = 0.01
"""Seconds after which the loop begins no further operation of a group: others want it, too."""
READERS = 4
RENEWAL = ownership.LEASE / 3


@dataclass(slots=True)
class _Operation:
    run: Callable[[Transaction], Any]
    answer: asyncio.Future[Any]
    ended: Ended | None
    result: Any = None
    error: BaseException | None = None

    def reply(self) -> None:
        """Answers the caller, on the loop."""
        if self.ended is not None:
            self.ended(self.error is None)
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
class _Group:
    """Operations that are committed together."""

    operations: list[_Operation]
    unsent: Unsent
    began: bool = False
    """Whether its transaction is open."""
    done: int = 0
    """How many of its operations were run."""
    changes: Changes = field(default_factory=Changes)
    records: list[Record] = field(default_factory=list)
    error: BaseException | None = None
    """What the database has refused."""


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
        self._waiting: list[_Operation] = []
        self._committing = False
        """Whether a group is on its way: the next one follows it."""
        self._pace = Pace()
        self._is_landing = False
        """Whether readers of the file may see a commit of which the loop does not know yet."""
        self._delivered = asyncio.Event()
        """Set, and made anew, with each delivery."""
        self._idle = asyncio.Event()
        self._queue: queue.SimpleQueue[_Group | None] = queue.SimpleQueue()
        self._use = threading.Lock()
        """Held by the transaction of a group, from its beginning to its commit, and by a renewal of
        the lease: they share a connection."""
        self._keys: defaultdict[str, int] = defaultdict(int)
        self._local = threading.local()
        self._open_readers: list[sqlite3.Connection] = []
        self._closed = True
        self._cache: Cache | None = None
        """What is known with all that was written; None where that has to begin anew."""
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
            self._keys = defaultdict(int, rows)
            # Who begins on the loop does not wait there for others.
            self._connection.execute("PRAGMA busy_timeout = 0")
        except sqlite3.Error as error:
            ownership.release(self._connection, self._worker_id)
            raise self._store_error(error) from error

    async def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        while self._committing:
            self._idle.clear()
            await self._idle.wait()
        self._queue.put(None)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._open_readers:
            connection.close()
        await asyncio.to_thread(self._writer.join)
        self._connection.close()

    def now(self) -> float:
        return self._clock() / 1e9

    # Writing, on the loop

    async def write(self, operation: Callable[[Transaction], T], ended: Ended | None = None) -> T:
        if self._closed:
            raise StoreUnavailable("the store is closed")
        answer: asyncio.Future[T] = self._loop.create_future()
        self._waiting.append(_Operation(operation, answer, ended))
        if not self._committing:
            self._committing = True
            # What else the loop does now comes into the same group.
            self._loop.call_soon(self._start_group)
        return await answer

    def _start_group(self) -> None:
        """Runs what waits, as far as that does not hold up the loop, and lets the writer go on."""
        group = _Group(self._waiting, Unsent(self._connection))
        self._waiting = []
        committed = False
        if self._use.acquire(blocking=False):
            try:
                committed = self._run_on_loop(group)
            except BaseException as error:
                group.error = error
            if committed or not group.began:
                self._use.release()
        if committed:
            self._deliver([group])
        else:
            self._queue.put(group)

    def _run_on_loop(self, group: _Group) -> bool:
        """Does what it may of a group, and returns whether that was all."""
        if self._cache is None or not self._begin_at_once(group):
            return False
        deadline = time.monotonic() + TURN
        with suppress(WouldBlock):
            while group.done < len(group.operations) and time.monotonic() < deadline:
                self._run_next(group, may_block=False)
            self._waiting = group.operations[group.done :]
            del group.operations[group.done :]
        # Here, and not in the writer: each statement lets go of the interpreter, and getting it
        # back from a busy loop takes longer than the statement.
        group.unsent.send()
        whole = group.done == len(group.operations) and not self._waiting
        if not whole or not self._pace.allows(group.done, group.records):
            return False
        with schema.log_left_alone(self._connection):
            self._end_transaction(group)
        self._pace.passed_on_loop()
        return True

    def _begin_at_once(self, group: _Group) -> bool:
        """Begins a group unless somebody else is writing to the file just now."""
        try:
            self._begin(group)
        except sqlite3.OperationalError:
            if group.began:
                raise
            # If it is something else, the writer will meet it, too.
        return group.began

    def _deliver(self, groups: Sequence[_Group]) -> None:
        """Shows what was committed, answers the callers and goes on."""
        try:
            for group in groups:
                self._answer(group)
        finally:
            self._is_landing = False
            self._delivered.set()
            self._delivered = asyncio.Event()
            if self._waiting:
                self._start_group()
            else:
                self._committing = False
                self._idle.set()

    def _answer(self, group: _Group) -> None:
        try:
            self._show(group.changes)
            if group.records:
                self._listener(group.records)
        finally:
            for operation in group.operations:
                operation.reply()

    def _show(self, changes: Changes | None) -> None:
        """Lets reads on the loop know what was committed; None where that is not known."""
        if changes is None:
            self._shown = None
        elif changes.line is not None:
            self._shown = Cache(changes.line)
        if changes is not None and self._shown is not None:
            self._shown.apply(changes)

    # Writing, where the group is

    def _begin(self, group: _Group) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        group.began = True
        if not ownership.holds(self._connection, self._worker_id):
            raise self._taken_over()

    def _run_next(self, group: _Group, *, may_block: bool) -> None:
        """Runs the next operation of a group.

        Raises:
            WouldBlock: That can only be done by the writer; nothing of it was done.
            sqlite3.Error: The database refuses something.
        """
        operation, cache = group.operations[group.done], self._cache
        assert cache is not None
        keys = self._keys.copy()
        transaction = SqliteTransaction(
            self._connection, cache, group.unsent, self._keys, self._clock(), may_block=may_block
        )
        operation.error = None
        try:
            operation.result = operation.run(transaction)
        except sqlite3.Error:
            raise
        except WouldBlock:
            transaction.abandon()
            self._keys = keys
            raise
        except Exception as error:
            transaction.abandon()
            operation.error = error
        else:
            self._take(group, transaction, cache)
        group.done += 1

    def _take(self, group: _Group, transaction: SqliteTransaction, cache: Cache) -> None:
        """Makes what an operation did a part of its group."""
        transaction.finish()
        group.records += transaction.records
        if transaction.deleted:
            group.unsent.send()
            line = ready_line(self._connection)
            group.changes, self._cache = Changes(line=line), Cache(line)
        else:
            cache.apply(transaction.changes)
            group.changes.add(transaction.changes)

    # Writing, in the writer

    def _work(self) -> None:
        """The writer thread."""
        renew_at = time.monotonic() + RENEWAL
        while True:
            with suppress(queue.Empty):
                group = self._queue.get(timeout=max(0.001, renew_at - time.monotonic()))
                if group is None:
                    break
                self._commit(group)
            # Where a group has begun, it is about to come, and the lease comes after it.
            if time.monotonic() >= renew_at and self._use.acquire(blocking=False):
                self._renew()
                self._use.release()
                renew_at = time.monotonic() + RENEWAL
        self._release()

    def _commit(self, group: _Group) -> None:
        """Does what is left of a group, and has its callers answered."""
        if not group.began:
            self._use.acquire()
        groups = self._transact(group)
        self._call_loop(self._deliver, groups)
        if self._pace.log_is_long:
            self._move_log()
        self._use.release()

    def _transact(self, group: _Group) -> list[_Group]:
        """Commits a group, whole or, where the database refuses one operation, each by itself."""
        try:
            if group.error is not None:
                raise group.error
            if not group.began:
                self._begin_patiently(group)
            while group.done < len(group.operations):
                self._run_next(group, may_block=True)
            group.unsent.send()
            self._end_transaction(group)
            return [group]
        except BaseException as error:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            self._doubt()
            if len(group.operations) > 1 and not _is_outage(error):
                alone = [_Group([each], Unsent(self._connection)) for each in group.operations]
                return [done for each in alone for done in self._transact(each)]
            return [self._failed(group, error)]

    def _end_transaction(self, group: _Group) -> None:
        faults.point("before_commit")
        self._is_landing = True
        started = time.perf_counter()
        self._connection.execute("COMMIT")
        self._pace.took(time.perf_counter() - started, group.done)
        faults.point("after_commit")
        self.fault = None

    def _move_log(self) -> None:
        """Moves what is in the log into the database, while nobody writes to it."""
        self._pace.log_was_moved()
        with suppress(sqlite3.Error):  # It is no worse than a longer log.
            self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    def _begin_patiently(self, group: _Group) -> None:
        with schema.patience(self._connection):
            self._begin(group)
        if self._cache is None:
            group.changes.line = ready_line(self._connection)
            self._cache = Cache(group.changes.line)

    def _failed(self, group: _Group, error: BaseException) -> _Group:
        """Returns a group of which nothing was written."""
        fault = self._as_fault(error)
        self.fault = fault if isinstance(fault, StoreError) else None
        for operation in group.operations:
            operation.error = self._as_fault(error)
        return _Group(group.operations, group.unsent)

    def _doubt(self) -> None:
        """What is remembered may no longer be what is in the file."""
        self._cache = None
        self._call_loop(self._show, None)

    def _as_fault(self, error: BaseException) -> BaseException:
        """What a caller is told of an error that took a whole commit down."""
        if isinstance(error, sqlite3.Error):
            return self._store_error(error)
        return StoreUnavailable(*error.args) if isinstance(error, StoreUnavailable) else error

    def _store_error(self, error: sqlite3.Error) -> StoreError:
        return schema.store_error(error, self._path)

    def _call_loop(self, callback: Callable[..., None], *arguments: object) -> None:
        try:
            self._loop.call_soon_threadsafe(callback, *arguments)
        except RuntimeError:
            # The loop is closed: nobody is left to be told.
            return

    def _renew(self) -> None:
        """Extends the lease, and sees whether the file can be written while nobody does."""
        try:
            with schema.patience(self._connection):
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
            with schema.patience(self._connection):
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
        found = await self._loop.run_in_executor(self._readers, self._query, query)
        while self._is_landing:
            # What is read next, on the loop, must not be older than this.
            await self._delivered.wait()
        return found

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
