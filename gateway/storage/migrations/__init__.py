"""Brings a database to the present schema, inside the caller's transaction."""

from __future__ import annotations

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection

from gateway.storage.errors import StorageError


def upgrade(connection: Connection, revision: str = "head") -> None:
    """Apply the migrations that are missing. Raises StorageError for a newer schema."""
    config = _config()
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, revision)
    except CommandError:
        raise StorageError("newer", "the database was written by a newer version") from None


def head() -> str | None:
    """The newest revision this code knows."""
    return ScriptDirectory.from_config(_config()).get_current_head()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", "gateway.storage:migrations")
    return config
