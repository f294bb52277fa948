"""Opening a database file: what is in it, and bringing it up to date."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from importlib import resources
from pathlib import Path

from sqlite_utils import Database
from sqlite_utils.migrations import Migrations

from callboard_server.store.base import StoreError, StoreFull, StoreUnavailable

OLDEST_SQLITE = (3, 38)  # the JSON operator ->
STATEMENTS = 512
"""How many statements a connection keeps prepared: `rows.MOST_ROWS` for each table, and others."""
CHECKPOINT = 4000
"""After how many pages SQLite moves its log into the database: 16 MiB. What is written again and
again until then is moved once."""

PATIENCE = 5.0
"""How long to wait for another program that writes to the file, such as a backup, in seconds."""

migrations = Migrations("callboard")


def _load_migrations() -> None:
    folder = resources.files("callboard_server.store.sqlite") / "migrations"
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".sql"):
            _add_migration(file.name.removesuffix(".sql"), file.read_text("utf-8"))


def _add_migration(name: str, script: str) -> None:
    @migrations(name=name)
    def apply(db: Database) -> None:
        for statement in script.split(";\n"):
            db.execute(statement)


_load_migrations()


def connect(path: str, *, synchronous: str = "FULL", read_only: bool = False) -> sqlite3.Connection:
    """Opens a connection that leaves transactions to its user."""
    uri = f"{Path(path).absolute().as_uri()}?mode={'ro' if read_only else 'rwc'}"
    connection = sqlite3.connect(
        uri,
        uri=True,
        timeout=PATIENCE,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=STATEMENTS,
    )
    try:
        connection.execute(f"PRAGMA synchronous = {synchronous}")
    except sqlite3.Error:
        connection.close()
        raise
    return connection


@contextmanager
def patience(connection: sqlite3.Connection) -> Iterator[None]:
    """Lets a connection that waits for nobody wait for others that write."""
    connection.execute(f"PRAGMA busy_timeout = {round(PATIENCE * 1000)}")
    try:
        yield
    finally:
        connection.execute("PRAGMA busy_timeout = 0")


@contextmanager
def log_left_alone(connection: sqlite3.Connection) -> Iterator[None]:
    """Keeps a commit from moving the log into the database, however long that is by now."""
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    try:
        yield
    finally:
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")


def open_file(path: str, synchronous: str) -> sqlite3.Connection:
    """Opens the database for writing; a new one gets its schema.

    Raises:
        StoreError: Says what is wrong with the file and what to do; nothing was changed.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(f"SQLite {sqlite3.sqlite_version} is too old: {needed} or newer is needed")
    folder = Path(path).absolute().parent
    if not folder.is_dir():
        raise StoreError(f"{path}: the folder {folder} does not exist; create it or name another")
    connection: sqlite3.Connection | None = None
    try:
        connection = connect(path, synchronous=synchronous)
        if not applied(path, connection):
            _create(path, connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT}")
    except BaseException as error:
        if connection is not None:
            connection.close()
        if isinstance(error, sqlite3.Error):
            raise store_error(error, path) from error
        raise
    return connection


def known() -> set[str]:
    """The migrations that this Callboard has."""
    return {migration.name for migration in migrations._migrations}


def applied(path: str, connection: sqlite3.Connection) -> set[str]:
    """Returns the migrations that a database has had: none where it is empty.

    Raises:
        StoreError: It is another program's, or a newer Callboard's. Those must not be touched.
    """
    db = Database(connection)
    tables = set(db.table_names())
    if tables and migrations.migrations_table not in tables:
        raise StoreError(f"{path} is a database, but not one of Callboard's; name another file")
    names = {migration.name for migration in migrations.applied(db)}
    if newer := names - known():
        raise StoreError(
            f"{path} was written by a newer Callboard (schema {max(newer)}); "
            f"this one knows up to {max(known())}: upgrade Callboard or name another file"
        )
    return names


def _create(path: str, connection: sqlite3.Connection) -> None:
    with connection:
        # Two servers may come to a new file at the same time.
        connection.execute("BEGIN IMMEDIATE")
        if not applied(path, connection):
            migrations.apply(Database(connection))


def migrate(path: str, connection: sqlite3.Connection) -> None:
    """Brings the schema up to date; keeps a copy of what was before. Call as the file's owner."""
    if missing := known() - applied(path, connection):
        back_up(connection, f"{path}.before-{min(missing)}")
        migrations.apply(Database(connection))


def back_up(connection: sqlite3.Connection, target: str) -> None:
    """Copies a database while it is in use. The copy belongs to no server."""
    with closing(sqlite3.connect(target)) as copy, copy:
        connection.backup(copy)
        copy.execute("DELETE FROM owner")


def store_error(error: sqlite3.Error, path: str) -> StoreError:
    """Says what an error of SQLite means for whoever runs the server."""
    # The low byte is the primary result code.
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    match code:
        case sqlite3.SQLITE_FULL:
            return StoreFull(f"{path}: the disk is full")
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreUnavailable(f"{path} is locked by another program")
        case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_PERM:
            return StoreUnavailable(f"{path} cannot be written: check its and its folder's rights")
        case sqlite3.SQLITE_CANTOPEN:
            return StoreUnavailable(f"{path} cannot be opened: check that it is a file, and rights")
        case sqlite3.SQLITE_CORRUPT:
            return StoreUnavailable(f"{path} is damaged: restore a backup of it")
        case sqlite3.SQLITE_NOTADB:
            return StoreUnavailable(f"{path} is not a SQLite database; name another file")
        case sqlite3.SQLITE_CONSTRAINT | sqlite3.SQLITE_TOOBIG | sqlite3.SQLITE_MISMATCH:
            return StoreError(f"{path}: SQLite refused a write: {error}")
        case _:
            name = getattr(error, "sqlite_errorname", type(error).__name__)
            return StoreUnavailable(f"{path}: SQLite failed with {name}: {error}")
