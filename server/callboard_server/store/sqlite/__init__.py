"""The store on one SQLite file."""

from callboard_server.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]
