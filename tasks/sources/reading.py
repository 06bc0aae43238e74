"""What every kind of source offers: one consistent point, its tables' facts, and their rows as Arrow batches."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass, replace
from typing import Any, Protocol

import pyarrow as pa

from tasks.core import Clock, UsageError
from tasks.sources.changes import ChangeFacts, Changes
from tasks.sources.columns import Column, Unfit
from tasks.sources.errors import SourceError, ValueDoesNotFit
from tasks.sources.facts import ColumnFacts, TableFacts

BATCH_ROWS = 65_536
BATCH_BYTES = 32 * 2**20
_FIRST_ROWS = 1_024  # the first rows tell how much memory the others take as Arrow


class Source(Protocol):
    """A database that can be read from one consistent point."""

    @property
    def name(self) -> str:
        """The source's name in the plan."""

    @property
    def dialect(self) -> str:
        """The kind of database: `sqlite`, `postgresql`, `mysql`, `duckdb`, or another name of SQLAlchemy's."""

    def open(self, clock: Clock) -> AbstractContextManager[SourceReader]:
        """Begin one read transaction; everything the reader gives is of that point in time.

        Raises:
            SourceError: the database cannot be reached or read, or a table that was asked for is not there.
        """


class Cursor(Protocol):
    """The part of a DBAPI cursor that reading needs."""

    def fetchmany(self, size: int, /) -> list[tuple[Any, ...]]:
        """Return up to `size` further rows."""

    def close(self) -> None:
        """End the query."""


@dataclass
class Table:
    """A table with the columns as they are read now (a value that does not fit widens its column).

    Args:
        by_key: whether rows are read in the order of the primary key, and not in the order they are stored in.
    """

    facts: TableFacts
    columns: list[Column]
    partitioned: bool = False
    by_key: bool = True


class SourceReader(ABC):
    """Reads the tables of a source inside one transaction; lives as long as `Source.open`'s block."""

    def __init__(self, consistency: dict[str, str], tables: dict[str, Table]) -> None:
        self.consistency = consistency
        self._tables = tables

    def tables(self) -> list[TableFacts]:
        """Return the facts of every table, by name."""
        return [self.facts(name) for name in self._tables]

    def facts(self, table: str) -> TableFacts:
        """Return the facts of one table with the casts its columns are read with now."""
        known = self._table(table)
        return replace(known.facts, columns=tuple(column.facts for column in known.columns))

    def schema(self, table: str) -> pa.Schema:
        """Return the Arrow schema of the table's batches; it changes only when `ValueDoesNotFit` is raised."""
        return pa.schema(
            [
                pa.field(column.facts.name, column.arrow, nullable=True)
                for column in self._table(table).columns
            ]
        )

    def ordered_by(self, table: str) -> tuple[str, ...]:
        """Return the primary key if rows are read in its order; nothing if that would cost too much, or without one."""
        known = self._table(table)
        return known.facts.primary_key if known.by_key else ()

    @property
    def shares(self) -> bool:
        """Return whether there can be further readers of the same point, for tables read at the same time."""
        return False

    def beside(self) -> AbstractContextManager[SourceReader]:
        """Yield a further reader of the same point; only where `shares` says so, and before any batch is read."""
        raise NotImplementedError

    def changes(self, before: ChangeFacts | None) -> Changes:
        """Return which tables provably read as they did at `before`; None only gathers facts for the next snapshot.

        Raises:
            UsageError: this kind of database keeps no record of its changes.
        """
        raise UsageError(
            "Only PostgreSQL keeps a record of its changes", fix="remove `narrow` from the source in the plan"
        )

    def read_as(self, facts: TableFacts) -> None:
        """Read the columns of a table the way `facts` records, although what is there now may fit narrower types.

        A row that is not there any more may have decided how a column was read.
        """
        known = self._table(facts.name)
        recorded = {one.name: one for one in facts.columns}
        known.columns[:] = [
            self._as_recorded(known, one, recorded.get(one.facts.name, one.facts)) for one in known.columns
        ]

    def _as_recorded(self, table: Table, column: Column, recorded: ColumnFacts) -> Column:
        wider: Column | None = column
        while wider is not None and (wider.facts.cast, wider.facts.form) != (recorded.cast, recorded.form):
            wider = self._wider(table, wider)
        return wider or column

    @abstractmethod
    def row_count(self, table: str) -> int:
        """Return the number of rows, counted by the database inside the transaction."""

    def batches(self, table: str, batch_rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
        """Yield the table's rows, at most `batch_rows` and about `BATCH_BYTES` at a time.

        They come in the order of the columns that `ordered_by` names, or in the order they are stored in.

        Raises:
            ValueDoesNotFit: a value does not fit its column; the column has been widened, read again.
            SourceError: the database failed, or a value cannot be represented in any way.
        """
        if batch_rows < 1:
            raise UsageError(f"A batch of {batch_rows} rows cannot be read", fix="use 1 or more")
        known = self._table(table)
        schema = self.schema(table)
        if not known.columns and self.row_count(table):
            raise SourceError(
                "The table has rows but no column, which no file can hold",
                where=table,
                fix="exclude the table in the plan",
            )
        if known.columns:
            for arrays in self._arrays(known, batch_rows):
                yield pa.RecordBatch.from_arrays(arrays, schema=schema)

    def _convert(self, table: Table, at: int, values: Any) -> pa.Array:
        column = table.columns[at]
        try:
            return column.convert(values)
        except Unfit:
            wider = self._wider(table, column)
        if wider is None:
            raise SourceError(
                "A value can be represented neither in the declared type nor as text",
                where=f"{table.facts.name}.{column.facts.name}",
                fix="correct the value, or exclude the table in the plan",
            )
        self._widen(table, column, wider)

    def _widen(self, table: Table, column: Column, wider: Column) -> None:
        table.columns[table.columns.index(column)] = wider
        raise ValueDoesNotFit(table.facts.name, column.facts.name, wider.facts.cast or "none")

    def _table(self, name: str) -> Table:
        try:
            return self._tables[name]
        except KeyError:
            raise UsageError(
                f"The source has no table {name!r}", fix=f"use one of: {', '.join(self._tables)}"
            ) from None

    @abstractmethod
    def _arrays(self, table: Table, batch_rows: int) -> Iterator[list[pa.Array]]:
        """Yield the columns of the next rows; a value that does not fit widens its column."""

    @abstractmethod
    def _wider(self, table: Table, column: Column) -> Column | None:
        """Return `column` in the form that holds what its own form could not, or None if there is none."""


class CursorReader(SourceReader):
    """Reads through a DBAPI cursor, value by value."""

    def _arrays(self, table: Table, batch_rows: int) -> Iterator[list[pa.Array]]:
        fetch = min(batch_rows, _FIRST_ROWS)
        with closing(self._select(table)) as cursor:
            while rows := self._some(table, cursor, fetch):
                got = len(rows)
                values = list(zip(*rows, strict=True))
                del rows
                arrays = [self._convert(table, at, one) for at, one in enumerate(values)]
                del values
                size = sum(array.nbytes for array in arrays)
                yield arrays
                fetch = max(1, min(batch_rows, BATCH_BYTES * got // max(1, size), 8 * fetch))

    def _some(self, table: Table, cursor: Cursor, most: int) -> list[tuple[Any, ...]]:
        """Return the next rows, at most so many, and none after the one with which they reach `BATCH_BYTES`.

        One by one, for nothing before a row tells that it holds 100 MB: small columns and narrow rows do not.
        """
        rows: list[tuple[Any, ...]] = []
        size = 0
        while len(rows) < most and size < BATCH_BYTES and (one := self._fetch(table, cursor, 1)):
            rows += one
            for value in one[0]:
                if value.__class__ is str or value.__class__ is bytes:
                    size += len(value)
        return rows

    @abstractmethod
    def _select(self, table: Table) -> Cursor:
        """Start the query that reads `table` in key order."""

    @abstractmethod
    def _fetch(self, table: Table, cursor: Cursor, rows: int) -> list[tuple[Any, ...]]:
        """Return the next rows; a value that the driver refuses widens its column."""


def chosen(
    found: Collection[str], tables: Collection[str], exclude: Collection[str], source: str
) -> list[str]:
    """Return the names to read, sorted: all that were found, or `tables`, without `exclude`.

    Raises:
        SourceError: a name in `tables` or `exclude` is not in the database (a typing mistake there would leave a
            table out of every backup, or in it).
    """
    for name in (*tables, *exclude):
        if name not in found:
            raise SourceError(
                f"The source has no table {name!r}",
                where=source,
                fix=f"correct the plan; it has: {', '.join(sorted(found)) or 'no table at all'}",
            )
    return sorted(set(tables or found) - set(exclude))


def quoted(name: str) -> str:
    """Return `name` as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'
