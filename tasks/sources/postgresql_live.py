"""Changing rows of PostgreSQL tables in use, in one transaction: loaded beside them, then moved by one statement."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from tasks.sources.errors import SourceError
from tasks.sources.facts import TableFacts
from tasks.sources.postgresql import PostgresqlReader, described, reason
from tasks.sources.postgresql_ddl import owned_sequences
from tasks.sources.reading import SourceReader, Table, quoted
from tasks.sources.target import LiveWriter

_STAGE = "mailstay_stage"
_STAGED = f"pg_temp.{quoted(_STAGE)}"


class PostgresqlLive(LiveWriter):
    """Writes inside the transaction of `raw`; `load` writes rows into a table of its temporary schema."""

    def __init__(
        self,
        raw: Any,
        schema: str,
        tables: Collection[str],
        load: Callable[[TableFacts, Iterable[pa.RecordBatch]], int],
        where: str,
    ) -> None:
        self._raw = raw
        self._schema = schema
        self._names = tables
        self._load = load
        self._where = where
        self._described: dict[str, Table] = {}

    def reader(self) -> SourceReader:
        """Return a reader of the tables as they are now."""
        self._described = {name: described(self._raw, self._schema, name) for name in self._names}
        return PostgresqlReader(self._raw, self._schema, {}, dict(self._described))

    def insert(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> None:
        """Insert rows."""
        columns = ", ".join(quoted(column.name) for column in table.columns)
        self._stage(table, batches)
        self._run(
            f"INSERT INTO {self._named(table.name)} ({columns}) OVERRIDING SYSTEM VALUE"  # noqa: S608
            f" SELECT {columns} FROM {_STAGED}",
            table,
        )

    def update(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> None:
        """Set rows by their primary key."""
        only = "" if self._described[table.name].partitioned else "ONLY "
        rest = [column.name for column in table.columns if column.name not in table.primary_key]
        values = ", ".join(f"{quoted(name)} = stage.{quoted(name)}" for name in rest)
        which = " AND ".join(f"live.{quoted(name)} = stage.{quoted(name)}" for name in table.primary_key)
        self._stage(table, batches)
        self._run(
            f"UPDATE {only}{self._named(table.name)} AS live SET {values} FROM {_STAGED} AS stage WHERE {which}",  # noqa: S608
            table,
        )

    def settle(self, tables: Sequence[TableFacts]) -> None:
        """Check deferred keys; move the sequences behind the numbers of `tables`."""
        self._run("SET CONSTRAINTS ALL IMMEDIATE", None)
        for table in tables:
            self._forward(table)

    def commit(self) -> None:
        """Keep what was changed."""
        self._raw.commit()

    def _named(self, table: str) -> str:
        return f"{quoted(self._schema)}.{quoted(table)}"

    def _stage(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> None:
        """Load the rows into a temporary table with the columns' own types."""
        columns = ", ".join(quoted(column.name) for column in table.columns)
        self._run(f"DROP TABLE IF EXISTS {_STAGED}", table)
        self._run(
            f"CREATE TEMPORARY TABLE {quoted(_STAGE)} ON COMMIT DROP AS"  # noqa: S608
            f" SELECT {columns} FROM {self._named(table.name)} WITH NO DATA",
            table,
        )
        self._load(replace(table, name=_STAGE), batches)
        self._run(f"ANALYZE {_STAGED}", table)

    def _run(self, statement: str, table: TableFacts | None) -> None:
        import psycopg

        try:
            # Triggers of the database, and operators of its extensions, count on its own search path.
            self._raw.execute("SET LOCAL search_path TO DEFAULT")
            self._raw.execute(statement)
            self._raw.execute("SET LOCAL search_path TO pg_catalog")
        except psycopg.Error as error:
            raise SourceError(
                f"PostgreSQL refused a row: {reason(error)}",
                where=f"{self._where}: {table.name}" if table else self._where,
                fix="nothing was changed; leave the row out, or restore or correct the one that it needs",
            ) from None

    def _forward(self, table: TableFacts) -> None:
        """Move the table's sequences past its rows, never back.

        PostgreSQL keeps that even if the rest is rolled back, which leaves a gap in the numbers and no more. ALTER
        SEQUENCE … RESTART would not, but only the owner may do that, and others could take no number until the end.
        """
        written = {column.name for column in table.columns}
        oid = self._raw.execute("SELECT %s::regclass::oid", (self._named(table.name),)).fetchone()[0]
        for sequence, name, column in owned_sequences(self._raw, oid):
            if column not in written:
                continue
            step = self._raw.execute(
                "SELECT seqincrement FROM pg_sequence WHERE seqrelid = %s", (sequence,)
            ).fetchone()[0]
            last, called = self._raw.execute(f"SELECT last_value, is_called FROM {name}").fetchone()  # noqa: S608
            furthest = "max" if step > 0 else "min"
            most = self._raw.execute(
                f"SELECT {furthest}({quoted(column)}) FROM {self._named(table.name)}"  # noqa: S608
            ).fetchone()[0]
            if isinstance(most, int) and ((most - last) * step > 0 or (most == last and not called)):
                self._raw.execute("SELECT setval(%s::regclass, %s)", (name, most))
