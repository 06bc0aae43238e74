"""Changing rows of a SQLite file in use, in one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable, Sequence
from itertools import chain
from typing import Any

import pyarrow as pa

from tasks.sources.errors import SourceError
from tasks.sources.facts import ColumnFacts, TableFacts
from tasks.sources.reading import SourceReader, quoted
from tasks.sources.sqlite import SqliteReader, described, reason, table_names
from tasks.sources.sqlite_values import stored_values
from tasks.sources.target import LiveWriter


class SqliteLive(LiveWriter):
    """Writes inside the transaction that `connection` is in."""

    def __init__(self, connection: sqlite3.Connection, where: str, tables: Collection[str]) -> None:
        self._connection = connection
        self._where = where
        self._names = [name for name in table_names(connection) if name in tables]
        self._broken: dict[tuple[str, str], int] | None = None

    def reader(self) -> SourceReader:
        """Return a reader of the tables as they are now."""
        tables = {name: described(self._connection, name) for name in self._names}
        return SqliteReader(self._connection, {}, tables)

    def insert(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> None:
        """Insert rows."""
        columns = ", ".join(quoted(column.name) for column in table.columns)
        values = ", ".join(map(_mark, table.columns))
        self._run(
            f"INSERT INTO {quoted(table.name)} ({columns}) VALUES ({values})",  # noqa: S608
            table,
            table.columns,
            batches,
        )

    def update(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> None:
        """Set rows by their primary key."""
        key = [column for column in table.columns if column.name in table.primary_key]
        rest = [column for column in table.columns if column.name not in table.primary_key]
        values = ", ".join(f"{quoted(column.name)} = {_mark(column)}" for column in rest)
        which = " AND ".join(f"{quoted(column.name)} IS {_mark(column)}" for column in key)
        self._run(
            f"UPDATE {quoted(table.name)} SET {values} WHERE {which}",  # noqa: S608
            table,
            [*rest, *key],
            batches,
        )

    def settle(self, tables: Sequence[TableFacts]) -> None:
        """Refuse rows that name a row that is not there, unless there were as many before."""
        if self._broken is None:
            return
        for (table, parent), count in self._orphans().items():
            if count > self._broken.get((table, parent), 0):
                raise SourceError(
                    f"A row of {table} names a row of {parent} that the database does not have",
                    where=self._where,
                    fix=f"nothing was changed; restore the rows of {parent} too",
                )

    def commit(self) -> None:
        """Keep what was changed."""
        self._connection.execute("COMMIT")

    def _orphans(self) -> dict[tuple[str, str], int]:
        """Return per table and referred table the rows that name no row there."""
        rows = self._connection.execute(
            'SELECT "table", parent, count(*) FROM pragma_foreign_key_check GROUP BY 1, 2'
        )
        return {(table, parent): count for table, parent, count in rows}

    def _run(
        self,
        statement: str,
        table: TableFacts,
        columns: Sequence[ColumnFacts],
        batches: Iterable[pa.RecordBatch],
    ) -> None:
        if self._broken is None:
            self._broken = self._orphans()  # those that were there before are not ours
        try:
            self._connection.executemany(
                statement, chain.from_iterable(_rows(one, columns) for one in batches)
            )
        except sqlite3.Error as error:
            raise SourceError(
                f"SQLite refused a row: {reason(error)}",
                where=f"{self._where}: {table.name}",
                fix="nothing was changed; leave the row out, or correct the one in its way",
            ) from None


def _rows(batch: pa.RecordBatch, columns: Sequence[ColumnFacts]) -> Iterable[tuple[Any, ...]]:
    return zip(*(stored_values(batch.column(column.name), column) for column in columns), strict=True)


def _mark(column: ColumnFacts) -> str:
    # Text that is not UTF-8 came as its bytes; only SQLite itself can call them text again.
    return "CAST(? AS TEXT)" if column.cast == "bytes" else "?"
