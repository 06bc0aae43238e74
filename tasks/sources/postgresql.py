"""PostgreSQL: one REPEATABLE READ transaction, its tables locked against TRUNCATE and ALTER before the first read.

Types that Arrow holds exactly are read as they are; all others as PostgreSQL's own text, which it reads back exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from typing import Any, cast

import pyarrow as pa
import sqlalchemy as sa

from tasks.core import Clock, UsageError
from tasks.sources import columns as make
from tasks.sources import decoding
from tasks.sources.changes import ChangeFacts, Changes
from tasks.sources.columns import Column
from tasks.sources.decoding import Rows
from tasks.sources.errors import SourceError
from tasks.sources.facts import ColumnFacts, ForeignKey, TableFacts
from tasks.sources.postgresql_changes import found_changes
from tasks.sources.postgresql_ddl import building
from tasks.sources.reading import SourceReader, Table, chosen, quoted
from tasks.sources.wire import copied

# Text output must not depend on the role's or the server's settings. With row_security off a role that row level
# security would show only a part of a table gets an error (as in pg_dump), not a silent part.
SETTINGS = {
    "TimeZone": "UTC",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "3",
    "lc_monetary": "C",
    "synchronize_seqscans": "off",
    "max_parallel_workers_per_gather": "0",  # rows come in the order they are stored in
    "row_security": "off",
    "statement_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "search_path": "pg_catalog",
    "client_encoding": "UTF8",
}


@dataclass(frozen=True)
class PostgresqlSource:
    """The tables of one schema of a PostgreSQL database."""

    name: str
    url: sa.URL
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    schema: str | None = None
    dialect: str = "postgresql"

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        """Begin a REPEATABLE READ transaction and lock its tables in ACCESS SHARE mode."""
        where = f"source {self.name}"
        with self._connected() as raw:
            schema = schema_of(raw, self.schema, where)
            names = chosen(_names(raw, schema), self.only, self.exclude, where)
            raw.rollback()
            _begin(raw)
            if names:
                # Before the first SELECT: it is that SELECT which fixes the point in time, and a TRUNCATE
                # committed after it would show as an empty table.
                listed = ", ".join(f"{quoted(schema)}.{quoted(name)}" for name in names)
                raw.execute(f"LOCK TABLE {listed} IN ACCESS SHARE MODE")
            consistency = _consistency(raw, clock)
            tables = {name: described(raw, schema, name) for name in names}
            with _reading(PostgresqlReader(raw, schema, consistency, tables, self._connected)) as reader:
                yield reader

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            import psycopg
        except ImportError:
            raise UsageError(
                "PostgreSQL needs the package psycopg", fix="pip install 'mailstay[postgresql]'"
            ) from None

        engine = sa.create_engine(self.url.set(drivername="postgresql+psycopg"), poolclass=sa.pool.NullPool)
        try:
            with engine.connect() as connection:
                yield connection.connection.dbapi_connection
        except (psycopg.Error, sa.exc.DBAPIError) as error:
            raise SourceError(
                f"PostgreSQL could not be read: {reason(error)}", where=f"source {self.name}"
            ) from None
        finally:
            engine.dispose()


class PostgresqlReader(SourceReader):
    """Reads one PostgreSQL transaction by COPY in binary form.

    Args:
        raw: the psycopg connection, in that transaction.
        schema: where the tables are.
        consistency: see `SourceReader`.
        tables: the tables, by name.
        connect: opens further connections to the same database; without it there is one reader only.
    """

    def __init__(
        self,
        raw: Any,
        schema: str,
        consistency: dict[str, str],
        tables: dict[str, Table],
        connect: Callable[[], AbstractContextManager[Any]] | None = None,
    ) -> None:
        super().__init__(consistency, tables)
        self._raw = raw
        self._schema = schema
        self._connect = connect
        self._copying: Generator[Rows] | None = None
        self._exported: str | None = None

    @contextmanager
    def beside(self) -> Iterator[SourceReader]:
        """Yield a reader of the same point in time over a connection of its own, from an exported snapshot."""
        assert self._connect is not None
        if self._exported is None:
            self._exported = self._raw.execute("SELECT pg_export_snapshot()").fetchone()[0]
        with self._connect() as raw:
            _begin(raw, self._exported)
            other = PostgresqlReader(raw, self._schema, self.consistency, self._tables)
            with _reading(other) as reader:
                yield reader

    @property
    def shares(self) -> bool:
        """Return whether there can be further readers of the same point."""
        return self._connect is not None

    def changes(self, before: ChangeFacts | None) -> Changes:
        """Return what the server's summaries of its log prove; see `found_changes`."""
        assert self._connect is not None
        return found_changes(self._raw, self._connect, self._schema, list(self._tables), before)

    def row_count(self, table: str) -> int:
        """Return `count(*)` of the table inside the transaction."""
        self._table(table)
        row = self._raw.execute(f"SELECT count(*) FROM {self._from(table)}").fetchone()  # noqa: S608
        return int(row[0])

    def _from(self, table: str) -> str:
        # ONLY: the rows of tables that inherit are theirs. A partitioned table has no rows but its partitions'.
        only = "" if self._table(table).partitioned else "ONLY "
        return f"{only}{quoted(self._schema)}.{quoted(table)}"

    def _arrays(self, table: Table, batch_rows: int) -> Iterator[list[pa.Array]]:
        self.stop()
        where = table.facts.name
        self._copying = copied(self._raw, self._query(table), where)
        try:
            for rows in self._copying:
                for begin in range(0, len(rows), batch_rows):
                    yield self._decoded(table, rows.part(begin, begin + batch_rows))
        except decoding.Broken:
            raise SourceError("PostgreSQL gave rows of another form than it describes", where=where) from None
        finally:
            self.stop()

    def _decoded(self, table: Table, rows: Rows) -> list[pa.Array]:
        decoders = cast("list[decoding.Decode]", [column.convert for column in table.columns])
        arrays = decoding.decoded(rows, decoders)
        if arrays is not None:
            return arrays
        found = decoding.fields(rows, len(table.columns))
        return [self._convert(table, at, field) for at, field in enumerate(found)]

    def stop(self) -> None:
        """End a COPY whose rows were not all read, so that the connection can be used for something else."""
        if self._copying is not None:
            self._copying.close()
            self._copying = None

    def end(self) -> None:
        """Give up the transaction."""
        self.stop()
        self._raw.rollback()

    def _query(self, table: Table) -> str:
        selected = ", ".join(column.select for column in table.columns)
        text = {column.facts.name for column in table.columns if column.arrow == pa.string()}
        keys = [
            # The C collation is SQLite's order too, and does not change with the operating system's locales.
            f"{quoted(key)}{'::text' if key in text else ''}{' COLLATE ' + quoted('C') if key in text else ''}"
            for key in table.facts.primary_key
        ]
        order = f" ORDER BY {', '.join(keys)}" if keys and table.by_key else ""
        return f"SELECT {selected} FROM {self._from(table.facts.name)}{order}"  # noqa: S608

    def _wider(self, table: Table, column: Column) -> Column | None:
        if column.facts.cast == "text":
            return None
        return _as_text(column.facts)


def _begin(raw: Any, snapshot: str | None = None) -> None:
    """Begin a read-only REPEATABLE READ transaction, of the point that `snapshot` names."""
    import psycopg

    raw.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    raw.read_only = True
    if snapshot is not None:
        raw.execute(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
    for setting, value in SETTINGS.items():
        raw.execute(f"SET LOCAL {setting} TO '{value}'")


@contextmanager
def _reading(reader: PostgresqlReader) -> Iterator[PostgresqlReader]:
    try:
        yield reader
    finally:
        reader.end()


def schema_of(raw: Any, wanted: str | None, where: str) -> str:
    """Return the schema `wanted`, or without one the first of the role's search path.

    Raises:
        SourceError: there is none.
    """
    if wanted is not None:
        found = raw.execute("SELECT nspname FROM pg_namespace WHERE nspname = %s", (wanted,)).fetchone()
    else:
        found = raw.execute("SELECT current_schema()").fetchone()
    if found is None or found[0] is None:
        raise SourceError(
            f"There is no schema {wanted or 'in the search path'!r}",
            where=where,
            fix="correct `schema` in the plan",
        )
    return str(found[0])


def _consistency(raw: Any, clock: Clock) -> dict[str, str]:
    recovering = raw.execute("SELECT pg_is_in_recovery()").fetchone()[0]
    lsn = "pg_last_wal_replay_lsn()" if recovering else "pg_current_wal_lsn()"
    snapshot, position = raw.execute(f"SELECT pg_current_snapshot()::text, {lsn}::text").fetchone()
    at = clock.now().isoformat()
    return {"kind": "postgresql_repeatable_read", "id": snapshot, "lsn": position, "at": at}


def _names(raw: Any, schema: str) -> list[str]:
    query = """
        SELECT c.relname FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relkind IN ('r', 'p') AND NOT c.relispartition
    """
    return [row[0] for row in raw.execute(query, (schema,)).fetchall()]


def described(raw: Any, schema: str, name: str) -> Table:
    """Return the table `name` with how each of its columns is read."""
    row = raw.execute(
        """
        SELECT c.oid, c.relkind = 'p'
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE n.nspname = %s AND c.relname = %s
        """,
        (schema, name),
    ).fetchone()
    if row is None:
        raise SourceError(
            "The table was dropped while the backup began", where=name, fix="run the backup again"
        )
    oid, partitioned = row
    table_columns = [_column(*row[:5]) for row in _columns(raw, oid)]
    keys = raw.execute(
        """
        SELECT contype::text, conkey, confrelid, confkey,
               (SELECT relname FROM pg_class WHERE oid = confrelid)
        FROM pg_constraint WHERE conrelid = %s AND contype IN ('p', 'f') ORDER BY contype DESC, conname
        """,
        (oid,),
    ).fetchall()
    own = _numbered(raw, oid)
    primary: tuple[str, ...] = ()
    foreign = []
    for kind, key, other, other_key, references in keys:
        columns = tuple(own[number] for number in key)
        if kind == "p":
            primary = columns
        else:
            names = _numbered(raw, other)
            foreign.append(ForeignKey(columns, references, tuple(names[number] for number in other_key)))
    built = building(raw, schema, name, oid)
    facts = TableFacts(
        name=name,
        columns=tuple(column.facts for column in table_columns),
        primary_key=primary,
        foreign_keys=tuple(foreign),
        ddl=built.create,
        before=built.before,
        keys=built.keys,
        links=built.links,
        lost=built.lost,
    )
    return Table(facts, table_columns, partitioned, _near_key_order(raw, schema, name, primary))


_MANY_ROWS = 100_000
_NEAR = 0.5  # of the correlation between the order of the key and that on the disk


def _near_key_order(raw: Any, schema: str, name: str, key: tuple[str, ...]) -> bool:
    """Return whether a table can be read in key order at little cost.

    Where keys are random, the order of the key costs the server nine times the CPU of the order on the disk
    (2,000,000 rows with a random uuid, PostgreSQL 18), or a sort that spills.
    """
    if not key:
        return False
    found = raw.execute(
        """
        SELECT c.reltuples, s.correlation
        FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_catalog.pg_stats s
            ON s.schemaname = n.nspname AND s.tablename = c.relname AND s.attname = %s AND NOT s.inherited
        WHERE n.nspname = %s AND c.relname = %s
        """,
        (key[0], schema, name),
    ).fetchone()
    return found is None or found[0] < _MANY_ROWS or found[1] is None or abs(found[1]) >= _NEAR


def _columns(raw: Any, oid: int) -> list[tuple[Any, ...]]:
    """Return name, declared type, nullability, type beneath a domain, computed or not, and kind of type."""
    # A domain is read as the type it is over, and recorded under its own name.
    found: list[tuple[Any, ...]] = raw.execute(
        """
        WITH RECURSIVE base AS (
            SELECT a.attnum, a.atttypid AS typid, a.atttypmod AS typmod FROM pg_attribute a
            WHERE a.attrelid = %(oid)s AND a.attnum > 0 AND NOT a.attisdropped
            UNION ALL
            SELECT b.attnum, t.typbasetype, t.typtypmod FROM base b JOIN pg_type t ON t.oid = b.typid
            WHERE t.typtype = 'd'
        )
        SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull,
               format_type(b.typid, b.typmod), a.attgenerated <> '', t.typtype::text
        FROM pg_attribute a
        JOIN base b ON b.attnum = a.attnum
        JOIN pg_type t ON t.oid = b.typid AND t.typtype <> 'd'
        WHERE a.attrelid = %(oid)s ORDER BY a.attnum
        """,
        {"oid": oid},
    ).fetchall()
    return found


def types_of(raw: Any, table: str) -> dict[str, str]:
    """Return for each column of `table` (quoted, with its schema) the type beneath, without length; or `enum`."""
    oid = raw.execute("SELECT %s::regclass::oid", (table,)).fetchone()[0]
    return {row[0]: "enum" if row[5] == "e" else _bare(row[3]) for row in _columns(raw, oid)}


def _bare(declared: str) -> str:
    return re.sub(r"\(.*?\)", "", declared).strip()


def _numbered(raw: Any, oid: int) -> dict[int, str]:
    query = "SELECT attnum, attname FROM pg_attribute WHERE attrelid = %s AND attnum > 0"
    return dict(raw.execute(query, (oid,)).fetchall())


_NATIVE: dict[str, tuple[pa.DataType, decoding.Decode]] = {
    "smallint": (pa.int16(), decoding.whole_numbers(pa.int16())),
    "integer": (pa.int32(), decoding.whole_numbers(pa.int32())),
    "bigint": (pa.int64(), decoding.whole_numbers(pa.int64())),
    "real": (pa.float32(), decoding.whole_numbers(pa.float32())),
    "double precision": (pa.float64(), decoding.whole_numbers(pa.float64())),
    "boolean": (pa.bool_(), decoding.boolean),
    "text": (pa.string(), decoding.text),
    "character varying": (pa.string(), decoding.text),
    "character": (pa.string(), decoding.text),
    "bytea": (pa.binary(), decoding.binary),
    "uuid": (pa.uuid(), decoding.uuid),
    "date": (pa.date32(), decoding.date),
    "timestamp without time zone": (pa.timestamp("us"), decoding.timestamp(None)),
    "timestamp with time zone": (pa.timestamp("us", "UTC"), decoding.timestamp("UTC")),
    "time without time zone": (pa.time64("us"), decoding.time_of_day),
}
_DIGITS = 18
"""Digits of a decimal that is read from its binary form: its number fits 64 bits."""


def _column(name: str, declared: str, nullable: bool, base: str, generated: bool) -> Column:
    facts = ColumnFacts(name, declared, nullable, generated=generated)
    kind = _bare(base)
    if kind in _NATIVE:
        return Column(facts, quoted(name), *_NATIVE[kind])
    if kind == "numeric" and (size := re.fullmatch(r"numeric\((\d+),(-?\d+)\)", base)):
        exact = make.decimal_type(int(size[1]), int(size[2]))
        if exact is not None and exact.precision <= _DIGITS:
            return Column(facts, quoted(name), exact, decoding.decimal(exact))
        if exact is not None:
            return Column(facts, f"{quoted(name)}::text", exact, decoding.decimal_from_text(exact))
    if kind == "jsonb":
        return Column(replace(facts, cast="text"), quoted(name), pa.string(), decoding.json_text)
    return _as_text(facts)


def _as_text(facts: ColumnFacts) -> Column:
    return Column(replace(facts, cast="text"), f"{quoted(facts.name)}::text", pa.string(), decoding.text)


def reason(error: Exception) -> str:
    """Return the server's own first line, which names no values (those are in DETAIL)."""
    origin = getattr(error, "orig", None) or error
    diagnostic = getattr(origin, "diag", None)
    primary = getattr(diagnostic, "message_primary", None)
    return str(primary or str(origin).splitlines()[0])
