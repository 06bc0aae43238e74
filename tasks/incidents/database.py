"""Opening the journal's database: engine, migrations from code, and the two kinds of transaction.

One writer at a time on both databases (SQLite by BEGIN IMMEDIATE, PostgreSQL by an advisory lock), so that ids come
in order and every check made in a writing transaction still holds when it commits.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tasks.incidents.errors import JournalError
from tasks.incidents.models import VERSION_TABLE

_MIGRATIONS = Path(__file__).parent / "migrations"
_LOCK = 0x6D61696C73746179  # "mailstay"
_BUSY_SECONDS = 60
HEAD = "0001"


class Database:
    """The journal's database, at the newest version of its tables."""

    def __init__(self, url: str) -> None:
        self.engine = _engine(url)
        self._writer = self.engine.execution_options(journal_write=True)
        try:
            if self._version() != HEAD:
                self._migrate()
        except sa.exc.OperationalError as error:
            where = self.engine.url.render_as_string(hide_password=True)
            raise JournalError(
                f"The journal cannot be opened: {_reason(error)}",
                where=where,
                fix="check `journal` in the plan",
            ) from error

    @contextlib.contextmanager
    def reading(self) -> Iterator[Session]:
        """A session that sees one state of the journal and writes nothing."""
        with Session(self.engine) as session:
            yield session

    @contextlib.contextmanager
    def writing(self) -> Iterator[Session]:
        """A session in the only writing transaction; it commits when the block ends without an error."""
        with Session(self._writer, expire_on_commit=False) as session, session.begin():
            yield session

    def close(self) -> None:
        """Close every connection."""
        self.engine.dispose()

    def _version(self, connection: sa.Connection | None = None) -> str | None:
        with contextlib.ExitStack() as stack:
            connection = connection or stack.enter_context(self.engine.connect())
            if not sa.inspect(connection).has_table(VERSION_TABLE):
                return None
            found: str | None = connection.scalar(sa.text(f"SELECT version_num FROM {VERSION_TABLE}"))  # noqa: S608
            return found

    def _migrate(self) -> None:
        from alembic import command
        from alembic.config import Config
        from alembic.util import CommandError

        config = Config()
        config.set_main_option("script_location", str(_MIGRATIONS).replace("%", "%%"))
        with self._writer.begin() as connection:
            version = self._version(connection)
            if version == HEAD:  # another process was faster
                return
            config.attributes["connection"] = connection
            try:
                command.upgrade(config, "head")
            except CommandError as error:
                raise JournalError(
                    f"The journal's tables are of version {version}, which this Mailstay does not know",
                    where=self.engine.url.render_as_string(hide_password=True),
                    fix="use the Mailstay that wrote it, or a newer one",
                ) from error


def _engine(url: str) -> sa.Engine:
    parsed = sa.make_url(url)
    if parsed.get_backend_name() == "sqlite":
        if parsed.database in (None, "", ":memory:"):
            raise JournalError("The journal cannot live in memory", fix="name a file: sqlite:///journal.db")
        Path(str(parsed.database)).parent.mkdir(parents=True, exist_ok=True)
        engine = sa.create_engine(parsed, connect_args={"timeout": _BUSY_SECONDS})
        sa.event.listen(engine, "connect", _prepare_sqlite)
        sa.event.listen(engine, "begin", _begin_sqlite)
    elif parsed.get_backend_name() == "postgresql":
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, pool_pre_ping=True)
        sa.event.listen(engine, "begin", _begin_postgresql)
    else:
        raise JournalError(
            f"The journal cannot live in {parsed.get_backend_name()}", fix="use SQLite or PostgreSQL"
        )
    return engine


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # we say BEGIN ourselves: the driver's own is deferred and can deadlock
    cursor = connection.cursor()
    cursor.execute(f"PRAGMA busy_timeout = {_BUSY_SECONDS * 1000}")
    if cursor.execute("PRAGMA journal_mode").fetchone()[0] != "wal":
        _switch_to_wal(cursor)
    cursor.execute("PRAGMA synchronous = FULL")
    cursor.execute("PRAGMA foreign_keys = ON")
    cursor.close()


def _switch_to_wal(cursor: Any) -> None:
    """Switch to write-ahead logging; SQLite does not wait here when another process switches too."""
    import sqlite3

    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            cursor.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _begin_sqlite(connection: sa.Connection) -> None:
    write = connection.get_execution_options().get("journal_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _begin_postgresql(connection: sa.Connection) -> None:
    if connection.get_execution_options().get("journal_write"):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
    else:
        connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")


def _reason(error: sa.exc.OperationalError) -> str:
    return str(error.orig).strip().splitlines()[0] if str(error.orig).strip() else "no answer"
