"""How storage fails, in our words: a driver's message quotes statements and values."""

from __future__ import annotations

from sqlalchemy.exc import DBAPIError, SQLAlchemyError


class StorageError(Exception):
    """The database did not do what was asked, and nothing was recorded.

    `reason` is one of full, locked, damaged, refused, newer, unavailable.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class KeyRefused(Exception):  # noqa: N818 - reads as the fact it states
    """An API key cannot be made or revoked as asked: its name or a limit is at fault."""


_SQLITE_REASONS = (
    ("SQLITE_FULL", "full", "the disk is full"),
    ("SQLITE_BUSY", "locked", "another process holds the database"),
    ("SQLITE_LOCKED", "locked", "another process holds the database"),
    ("SQLITE_CORRUPT", "damaged", "the database file is damaged"),
    ("SQLITE_NOTADB", "damaged", "the database file is not a database"),
    ("SQLITE_SCHEMA", "damaged", "the database has another schema"),
    ("SQLITE_READONLY", "unavailable", "the database cannot be written"),
    ("SQLITE_CANTOPEN", "unavailable", "the database cannot be opened"),
    ("SQLITE_IOERR", "unavailable", "the disk reports an error"),
    ("SQLITE_CONSTRAINT", "refused", "the row contradicts what is stored"),
)
_POSTGRES_REASONS = (
    ("53100", "full", "the database server's disk is full"),
    ("55P03", "locked", "another process holds the row"),
    ("23", "refused", "the row contradicts what is stored"),
)


def storage_error(error: SQLAlchemyError) -> StorageError:
    """The same failure, named by what went wrong and free of statements and values."""
    cause = error.orig if isinstance(error, DBAPIError) else None
    name = getattr(cause, "sqlite_errorname", None) or ""
    state = getattr(cause, "sqlstate", None) or ""
    for prefix, reason, message in _SQLITE_REASONS:
        if name.startswith(prefix):
            return StorageError(reason, message)
    for prefix, reason, message in _POSTGRES_REASONS:
        if state.startswith(prefix):
            return StorageError(reason, message)
    code = name or state or type(cause or error).__name__
    return StorageError("unavailable", f"the database failed ({code})")
