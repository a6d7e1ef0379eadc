"""The connector's database: opened, migrated, and written one transaction at a time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib import resources
from pathlib import Path
from typing import Any, Final, TypeVar

import alembic.command
import alembic.config
import alembic.util
from sqlalchemy import Connection, event, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gateway.errors import ConfigurationError
from gateway.text import text

_BUSY_SECONDS: Final = 15
_WRITES: Final = "landfall_writes"
_T = TypeVar("_T")


class DatabaseFailed(ConfigurationError):
    """The database could not be read or written: nothing that depends on it was done."""

    transient = True
    default_reason = "database"


class Database:
    """An engine whose writes are whole: a cancelled caller never cuts a transaction."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        # SQLite has one writer; waiting here is fair, waiting in the busy handler is not.
        self._writer = asyncio.Lock()
        self._writes: set[asyncio.Task[Any]] = set()

    @classmethod
    async def open(cls, url: str) -> Database:
        """Connect and bring the schema up to date.

        :raises ConfigurationError: the URL, the file or the schema cannot be used.
        """
        try:
            engine = _create_engine(url)
        except (ArgumentError, ImportError, OSError) as error:
            raise ConfigurationError(
                text("The connector's database cannot be used."),
                detail=str(error),
                reason="database",
            ) from error
        database = cls(engine)
        try:
            await database.write(lambda connection: connection.run_sync(_migrate))
        except BaseException:
            await engine.dispose()
            raise
        return database

    async def close(self) -> None:
        """Finish what is being written, then close; idempotent."""
        if self._writes:
            await asyncio.wait(self._writes)
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncConnection]:
        """A connection for queries.

        :raises DatabaseFailed: the database does not answer.
        """
        try:
            async with self._engine.connect() as connection:
                yield connection
        except SQLAlchemyError as error:
            raise _failed(error) from error

    async def write(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        """Run ``work`` in one transaction, to its end even when the caller is cancelled.

        :raises DatabaseFailed: nothing was written.
        :raises IntegrityError: a constraint of ours said no; nothing was written.
        """
        task = asyncio.create_task(self._transact(work))
        self._writes.add(task)
        task.add_done_callback(self._writes.discard)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await asyncio.wait({task})
            if not task.cancelled():
                task.exception()  # seen; the caller is leaving
            raise

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[_T]]) -> _T:
        async with self._writer:
            try:
                async with self._engine.connect() as connection:
                    await connection.execution_options(**{_WRITES: True})
                    async with connection.begin():
                        return await work(connection)
            except IntegrityError:
                raise
            except SQLAlchemyError as error:
                raise _failed(error) from error


def _failed(error: SQLAlchemyError) -> DatabaseFailed:
    # The statement's parameters are left out.
    cause = error.orig if isinstance(error, DBAPIError) else error
    return DatabaseFailed(
        text("The gateway cannot read or write its database at the moment."),
        detail=f"{type(cause).__name__}: {cause}",
    )


def _create_engine(url: str) -> AsyncEngine:
    parsed = make_url(url)
    engine = create_async_engine(parsed, hide_parameters=True, pool_pre_ping=False)
    if parsed.get_backend_name() == "sqlite":
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin_sqlite)
        if parsed.database:
            Path(parsed.database).touch(mode=0o600, exist_ok=True)
    return engine


def _prepare_sqlite(connection: Any, record: object) -> None:
    # The driver would begin transactions late and of the wrong kind; see _begin_sqlite.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        f"busy_timeout = {_BUSY_SECONDS * 1000}",
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "secure_delete = ON",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin_sqlite(connection: Connection) -> None:
    # A read transaction that turns into a write fails at once when another wrote meanwhile.
    writes = connection.get_execution_options().get(_WRITES)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(connection: Connection) -> None:
    config = alembic.config.Config()
    config.set_main_option(
        "script_location", str(resources.files("gateway") / "launch" / "migrations")
    )
    config.attributes["connection"] = connection
    try:
        alembic.command.upgrade(config, "head")
    except alembic.util.CommandError as error:
        raise ConfigurationError(
            text(
                "The connector's database was written by another version of the gateway, which"
                " this one does not know. Install that version, or restore the backup made before"
                " the upgrade."
            ),
            detail=str(error),
            reason="database_version",
        ) from error
