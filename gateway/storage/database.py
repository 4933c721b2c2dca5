"""One writer, few readers, and commits shared by whoever waits for the disk together.

Writes run on one thread. Those that arrive while a commit is being made durable go into
the next one, so the disk is waited for once for all of them, and a write has happened
durably when its coroutine returns.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import stat
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from gateway.storage.errors import StorageError, storage_error
from gateway.storage.migrations import upgrade

_MAX_GROUP = 256
_READERS = 2

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Job:
    work: Callable[[Connection], Any]
    done: asyncio.Future[Any]
    loop: asyncio.AbstractEventLoop


class Database:
    """An open database at the current schema. Close it to let the last writes finish."""

    def __init__(self, writer: Engine, reader: Engine) -> None:
        self._writer = writer
        self._reader = reader
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._readers = ThreadPoolExecutor(_READERS, thread_name_prefix="db-read")
        self._thread = threading.Thread(target=self._write_forever, name="db-write", daemon=True)
        self._closed = False
        self._thread.start()

    @classmethod
    def open(cls, target: Path | str, *, busy_timeout_s: float = 5.0) -> Database:
        """Open an SQLite file (created with mode 0600) or a database URL, and migrate it.

        Blocks for the migration. Raises StorageError.
        """
        if isinstance(target, Path) or "://" not in target:
            url = f"sqlite:///{_private_file(Path(target))}"
        else:
            url = target.replace("postgresql://", "postgresql+psycopg://", 1)
        try:
            writer = _engine(url, busy_timeout_s, pool_size=1, writes=True)
            reader = _engine(url, busy_timeout_s, pool_size=_READERS, writes=False)
            with writer.begin() as connection:
                upgrade(connection)
        except ArgumentError:
            raise StorageError("unavailable", "the database URL is not one") from None
        except ImportError as error:
            raise StorageError("unavailable", f"no driver for this database: {error}") from error
        except SQLAlchemyError as error:
            raise storage_error(error) from None
        return cls(writer, reader)

    async def write(self, work: Callable[[Connection], T]) -> T:
        """Run `work` in a transaction; durable on return. Raises StorageError.

        What `work` itself raises undoes only its own part and comes back as it is. A caller
        that is cancelled stops waiting; the write still happens.
        """
        if self._closed:
            raise StorageError("unavailable", "the database is closed")
        loop = asyncio.get_running_loop()
        done: asyncio.Future[T] = loop.create_future()
        self._jobs.put(_Job(work, done, loop))
        return await done

    async def read(self, work: Callable[[Connection], T]) -> T:
        """Run `work` on a connection that cannot write. Raises StorageError."""
        if self._closed:
            raise StorageError("unavailable", "the database is closed")

        def run() -> T:
            try:
                with self._reader.connect() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                raise storage_error(error) from None

        return await asyncio.get_running_loop().run_in_executor(self._readers, run)

    async def close(self) -> None:
        """Finish what was queued and let go of the file."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            await asyncio.to_thread(self._thread.join)
            self._readers.shutdown(wait=True)
            self._reader.dispose()
            self._writer.dispose()

    def _write_forever(self) -> None:
        while (job := self._jobs.get()) is not None:
            group = [job]
            last = False
            with contextlib.suppress(queue.Empty):
                while len(group) < _MAX_GROUP:
                    another = self._jobs.get_nowait()
                    if another is None:
                        last = True
                        break
                    group.append(another)
            self._commit(group)
            if last:
                return

    def _commit(self, group: list[_Job]) -> None:
        """One transaction for the whole group: all of it is durable, or none of it is."""
        results: list[tuple[_Job, Any, BaseException | None]] = []
        try:
            with self._writer.begin() as connection:
                for job in group:
                    results.append((job, *_attempt(connection, job.work)))
        except Exception as error:  # whatever it is, nobody may be left waiting
            failure = _explain(error)
            results = [(job, None, failure) for job in group]
        for job, value, raised in results:
            # A loop that was closed meanwhile has nobody left to tell.
            with contextlib.suppress(RuntimeError):
                job.loop.call_soon_threadsafe(_settle, job.done, value, raised)


def _attempt(
    connection: Connection, work: Callable[[Connection], Any]
) -> tuple[Any, BaseException | None]:
    """Run one job inside a savepoint. A failing disk or server fails the group instead."""
    savepoint = connection.begin_nested()
    try:
        value = work(connection)
        savepoint.commit()
    except IntegrityError as error:
        savepoint.rollback()
        return None, storage_error(error)
    except DBAPIError:
        raise
    except Exception as error:
        savepoint.rollback()
        return None, error
    return value, None


def _explain(error: Exception) -> StorageError:
    if isinstance(error, SQLAlchemyError):
        return storage_error(error)
    return StorageError("unavailable", f"the database failed ({type(error).__name__})")


def _settle(done: asyncio.Future[Any], value: Any, error: BaseException | None) -> None:
    if done.done():
        return  # its caller was cancelled
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)


def _private_file(path: Path) -> Path:
    """The database file, ours alone. Never opened here when it exists: closing it would
    drop the locks that another connection of this process holds on it."""
    path = path.absolute()
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
        status = path.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
            raise StorageError("unavailable", f"{path} is not a file of this user")
        if status.st_mode & 0o077:
            path.chmod(0o600)
    except OSError as error:
        raise StorageError("unavailable", f"{path}: {error.strerror}") from error
    return path


def _engine(url: str, busy_timeout_s: float, *, pool_size: int, writes: bool) -> Engine:
    engine = create_engine(
        url,
        pool_size=pool_size,
        max_overflow=0,
        hide_parameters=True,  # an error's text must not carry what was being stored
        pool_pre_ping=not url.startswith("sqlite"),
    )
    if engine.dialect.name == "sqlite":
        _configure_sqlite(engine, busy_timeout_s, writes=writes)
    elif engine.dialect.name == "postgresql" and not writes:
        engine.update_execution_options(postgresql_readonly=True)
    return engine


def _configure_sqlite(engine: Engine, busy_timeout_s: float, *, writes: bool) -> None:
    pragmas = [
        f"busy_timeout={int(busy_timeout_s * 1000)}",
        "foreign_keys=ON",
        "trusted_schema=OFF",  # a file from outside brings no functions to run
        "cell_size_check=ON",
        # FULL: a commit that returned is on the disk, also when the power fails.
        *(["journal_mode=WAL", "synchronous=FULL"] if writes else ["query_only=ON"]),
    ]

    @event.listens_for(engine, "connect")
    def _on_connect(connection: Any, _: Any) -> None:
        connection.isolation_level = None  # transactions begin where _on_begin says
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}").close()

    @event.listens_for(engine, "begin")
    def _on_begin(connection: Connection) -> None:
        # A writer takes its lock at once: a transaction that starts by reading could not
        # wait for another process later.
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")
