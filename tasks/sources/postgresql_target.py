"""Writing tables into PostgreSQL by COPY, in one transaction."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa
from pyarrow import csv

from tasks.core import Clock, UsageError, compiled
from tasks.sources.encoding import SIGNATURE, TRAILER, Form, encoded, form_of
from tasks.sources.errors import SourceError
from tasks.sources.facts import TableFacts
from tasks.sources.porting import uuid_text
from tasks.sources.postgresql import SETTINGS, PostgresqlReader, described, reason, schema_of, types_of
from tasks.sources.postgresql_live import PostgresqlLive
from tasks.sources.reading import SourceReader, quoted
from tasks.sources.target import LiveWriter, TargetWriter

_AS_THEY_ARE = (
    pa.types.is_integer,
    pa.types.is_floating,
    pa.types.is_boolean,
    pa.types.is_string,
    pa.types.is_date32,
    pa.types.is_timestamp,
)

_THERE = """
    SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = %s AND c.relname = ANY(%s) AND c.relkind IN ('r', 'p') AND NOT c.relispartition
"""


@dataclass(frozen=True)
class PostgresqlTarget:
    """One schema of a PostgreSQL database; the schema of the source, or the first of the search path."""

    url: sa.URL
    schema: str | None = None
    dialect: str = "postgresql"

    @contextmanager
    def open(self, clock: Clock) -> Iterator[TargetWriter]:
        """Begin the transaction."""
        with self._connected() as (raw, where):
            if self.schema:
                raw.execute(f"CREATE SCHEMA IF NOT EXISTS {quoted(self.schema)}")
            schema = schema_of(raw, self.schema, where)
            for setting, value in (SETTINGS | {"client_encoding": "UTF8"}).items():
                raw.execute(f"SET LOCAL {setting} TO '{value}'")
            yield _Writer(raw, schema, clock, where)

    @contextmanager
    def live(self, clock: Clock, tables: Collection[str], *, write: bool) -> Iterator[LiveWriter]:
        """Begin the transaction; others go on reading, and write again when it ends."""
        with self._connected() as (raw, where):
            schema = schema_of(raw, self.schema, where)
            there = [row[0] for row in raw.execute(_THERE, (schema, list(tables))).fetchall()]
            raw.rollback()
            if not write:
                from psycopg import IsolationLevel

                raw.isolation_level = IsolationLevel.REPEATABLE_READ
                raw.read_only = True
            for setting, value in (SETTINGS | {"client_encoding": "UTF8", "lock_timeout": "60s"}).items():
                raw.execute(f"SET LOCAL {setting} TO '{value}'")
            if there:
                listed = ", ".join(f"{quoted(schema)}.{quoted(name)}" for name in there)
                mode = "SHARE ROW EXCLUSIVE" if write else "ACCESS SHARE"
                raw.execute(f"LOCK TABLE {listed} IN {mode} MODE")
            loader = _Writer(raw, "pg_temp", clock, where)
            yield PostgresqlLive(raw, schema, there, loader.load, where)

    @contextmanager
    def _connected(self) -> Iterator[tuple[Any, str]]:
        """Yield a connection in a transaction that is rolled back unless it was committed, and its address."""
        try:
            import psycopg
        except ImportError:
            raise UsageError(
                "PostgreSQL needs the package psycopg", fix="pip install 'mailstay[postgresql]'"
            ) from None

        engine = sa.create_engine(self.url.set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)
        where = self.url.render_as_string(hide_password=True)
        try:
            with engine.connect() as connection:
                raw: Any = connection.connection.dbapi_connection
                try:
                    yield raw, where
                finally:
                    raw.rollback()
        except (psycopg.Error, sa.exc.DBAPIError) as error:
            raise SourceError(f"PostgreSQL could not be written: {reason(error)}", where=where) from None
        finally:
            engine.dispose()


class _Writer(TargetWriter):
    def __init__(self, raw: Any, schema: str, clock: Clock, where: str) -> None:
        self._raw = raw
        self.namespace = schema
        self._clock = clock
        self._where = where
        self._tables: list[TableFacts] = []

    def create(self, tables: Sequence[TableFacts]) -> None:
        names = [table.name for table in tables]
        there = self._raw.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            " WHERE n.nspname = %s AND c.relname = ANY(%s)",
            (self.namespace, names),
        ).fetchall()
        if there:
            raise SourceError(
                f"The database has a table {there[0][0]!r} already",
                where=self._where,
                fix="restore into an empty database",
            )
        for statement in dict.fromkeys(one for table in tables for one in table.before):
            self._run(statement)
        for table in tables:
            self._run(table.ddl)
        self._tables = list(tables)

    def load(self, table: TableFacts, batches: Iterable[pa.RecordBatch]) -> int:
        written = [at for at, column in enumerate(table.columns) if not column.generated]
        names = ", ".join(quoted(table.columns[at].name) for at in written)
        rows = 0
        if not written:
            for batch in batches:
                for _ in range(batch.num_rows):
                    self._run(f"INSERT INTO {self._named(table)} DEFAULT VALUES")
                rows += batch.num_rows
            return rows
        into = f"COPY {self._named(table)} ({names}) FROM STDIN"
        forms = None
        with self._raw.cursor() as cursor:
            batches = iter(batches)
            first = next(batches, None)
            if first is not None:
                forms = self._forms(table, first.schema, written)
            with cursor.copy(f"{into} (FORMAT {'csv' if forms is None else 'binary'})") as copy:
                if forms is not None:
                    copy.write(SIGNATURE)
                for batch in chain([first] if first is not None else [], batches):
                    chosen = batch.select(written)
                    copy.write(_csv(chosen) if forms is None else encoded(chosen, forms))
                    rows += batch.num_rows
                if forms is not None:
                    copy.write(TRAILER)
        return rows

    def _forms(self, table: TableFacts, schema: pa.Schema, written: list[int]) -> list[Form] | None:
        """Return how each column is written in binary form, or None if one of them cannot be."""
        if compiled() is None:
            return None
        declared = types_of(self._raw, self._named(table))
        forms = [form_of(schema.field(at).type, declared[table.columns[at].name]) for at in written]
        return None if None in forms else [form for form in forms if form is not None]

    def finish(self, tables: Sequence[TableFacts]) -> None:
        for statement in [one for table in tables for one in table.keys]:
            self._run(statement)
        for statement in [one for table in tables for one in table.links]:
            self._run(statement)

    def reader(self) -> SourceReader:
        tables = {table.name: described(self._raw, self.namespace, table.name) for table in self._tables}
        return PostgresqlReader(self._raw, self.namespace, {}, tables)

    def commit(self) -> None:
        self._raw.commit()

    def _named(self, table: TableFacts) -> str:
        return f"{quoted(self.namespace)}.{quoted(table.name)}"

    def _run(self, statement: str) -> None:
        import psycopg

        try:
            self._raw.execute(statement)
        except psycopg.Error as error:
            raise SourceError(
                f"PostgreSQL refused a statement of the restore: {reason(error)}",
                where=f"{self._where}: {statement.partition('(')[0].strip()[:120]}",
                fix="nothing was written; correct the database, or leave the table out",
            ) from None


def _csv(batch: pa.RecordBatch) -> bytes:
    """Return the rows as CSV in which NULL is nothing at all and every text is quoted."""
    columns = [_printable(column) for column in batch.columns]
    plain = pa.RecordBatch.from_arrays(columns, names=[str(at) for at in range(len(columns))])
    out = io.BytesIO()
    csv.write_csv(plain, out, csv.WriteOptions(include_header=False, quoting_style="needed"))
    return out.getvalue()


def _printable(column: pa.Array) -> pa.Array:
    if any(test(column.type) for test in _AS_THEY_ARE):
        return column
    if pa.types.is_binary(column.type):
        return pa.array(
            [None if one is None else "\\x" + one.hex() for one in column.to_pylist()], pa.string()
        )
    return uuid_text(column) if column.type == pa.uuid() else pc.cast(column, pa.string())
