"""Writing tables into a SQLite file, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import sqlalchemy as sa

from tasks.core import Clock
from tasks.sources.errors import SourceError
from tasks.sources.facts import TableFacts
from tasks.sources.reading import SourceReader, quoted
from tasks.sources.sqlite import SqliteReader, described, reason
from tasks.sources.sqlite_live import SqliteLive
from tasks.sources.sqlite_values import stored_values
from tasks.sources.target import LiveWriter, TargetWriter


@dataclass(frozen=True)
class SqliteTarget:
    """A SQLite file; it is made if it is not there."""

    url: sa.URL
    dialect: str = "sqlite"

    @contextmanager
    def open(self, clock: Clock) -> Iterator[TargetWriter]:
        """Begin the transaction."""
        path = Path(self.url.database or "")
        where = str(path)
        if not path.parent.is_dir():
            raise SourceError(
                "There is no such folder", where=str(path.parent), fix="make it, or correct the URL"
            )
        connection = sqlite3.connect(path, isolation_level=None)
        try:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield _Writer(connection, where)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise SourceError(f"SQLite could not be written: {reason(error)}", where=where) from None
        finally:
            connection.close()

    @contextmanager
    def live(self, clock: Clock, tables: Collection[str], *, write: bool) -> Iterator[LiveWriter]:
        """Begin the transaction; in WAL mode others go on reading."""
        path = Path(self.url.database or "")
        if not path.is_file():
            raise SourceError("There is no SQLite database", where=str(path), fix="correct the URL")
        connection = sqlite3.connect(path, isolation_level=None, timeout=60)
        try:
            connection.execute("PRAGMA foreign_keys = OFF")  # `settle` checks them, without any cascade
            if not write:
                connection.execute("PRAGMA query_only = ON")
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
            try:
                yield SqliteLive(connection, str(path), tables)
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise SourceError(
                f"SQLite refused it: {reason(error)}", where=str(path), fix="nothing was changed"
            ) from None
        finally:
            connection.close()


class _Writer(TargetWriter):
    def __init__(self, connection: sqlite3.Connection, where: str) -> None:
        self._connection = connection
        self._where = where
        self._tables: list[TableFacts] = []

    def create(self, tables: Sequence[TableFacts]) -> None:
        there = {row[0].lower() for row in self._connection.execute("SELECT name FROM sqlite_master")}
        for table in tables:
            if table.name.lower() in there:
                raise SourceError(
                    f"The database has a table {table.name!r} already",
                    where=self._where,
                    fix="restore into a file that does not exist yet",
                )
            self._run(table.ddl)
        self._tables = list(tables)

    def load(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> int:
        written = [at for at, column in enumerate(table.columns) if not column.generated]
        columns = [table.columns[at] for at in written]
        if not columns:
            raise SourceError("Every column of the table is computed", where=table.name)
        names = ", ".join(quoted(column.name) for column in columns)
        # Text that is not UTF-8 came as its bytes; only SQLite itself can call them text again.
        marks = ", ".join("CAST(? AS TEXT)" if column.cast == "bytes" else "?" for column in columns)
        insert = f"INSERT INTO {quoted(table.name)} ({names}) VALUES ({marks})"  # noqa: S608
        rows = 0
        for batch in batches:
            values = [
                stored_values(batch.column(at), column) for at, column in zip(written, columns, strict=True)
            ]
            self._connection.executemany(insert, zip(*values, strict=True))
            rows += batch.num_rows
        return rows

    def finish(self, tables: Sequence[TableFacts]) -> None:
        for statement in [one for table in tables for one in (*table.keys, *table.links)]:
            self._run(statement)

    def reader(self) -> SourceReader:
        tables = {table.name: described(self._connection, table.name) for table in self._tables}
        return SqliteReader(self._connection, {}, tables)

    def commit(self) -> None:
        self._connection.execute("COMMIT")

    def _run(self, statement: str) -> None:
        try:
            self._connection.execute(statement)
        except sqlite3.Error as error:
            raise SourceError(
                f"SQLite refused a statement of the restore: {reason(error)}",
                where=f"{self._where}: {statement.partition('(')[0].strip()[:120]}",
                fix="nothing was written; correct the database, or leave the table out",
            ) from None
