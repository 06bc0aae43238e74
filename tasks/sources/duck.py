"""DuckDB: the file opened read-only, which no writer can open meanwhile; rows as DuckDB's own Arrow batches.

DuckDB's Arrow form is not always its value (a UHUGEINT of 39 digits comes as -1, a TIMETZ without its zone): only types
of which it is are read so, all others as DuckDB's own text, once DuckDB itself has shown that it turns back.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from tasks.core import Clock
from tasks.sources import columns as make
from tasks.sources.columns import Column, Unfit
from tasks.sources.errors import SourceError
from tasks.sources.facts import ColumnFacts, ForeignKey, TableFacts
from tasks.sources.reading import BATCH_BYTES, SourceReader, Table, chosen, quoted

_SETTINGS = {
    "TimeZone": "UTC",
    "preserve_insertion_order": "true",
    "arrow_large_buffer_size": "true",
    "memory_limit": "1GiB",
}
_VECTOR = 2_048  # rows of one batch that DuckDB gives


@dataclass(frozen=True)
class DuckdbSource:
    """The tables of one schema of a DuckDB file."""

    name: str
    url: sa.URL
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    schema: str | None = None
    dialect: str = "duckdb"

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        """Open the file read-only and begin a transaction."""
        path = Path(self.url.database or "")
        where = f"source {self.name}: {path}"
        if not path.is_file():
            raise SourceError("There is no DuckDB database", where=where, fix="correct the URL in the plan")
        try:
            with duckdb.connect(str(path), read_only=True) as raw:
                for setting, value in _SETTINGS.items():
                    raw.execute(f"SET {setting} = '{value}'")
                raw.execute("BEGIN TRANSACTION READ ONLY")
                consistency = {
                    "kind": "duckdb_read_only",
                    "id": f"duckdb={duckdb.__version__}/bytes={path.stat().st_size}",
                    "at": clock.now().isoformat(),
                }
                schema = self.schema or "main"
                names = chosen(_names(raw, schema), self.only, self.exclude, where)
                reader = DuckdbReader(raw, schema, consistency, {})
                reader.describe(names)
                yield reader
        except duckdb.Error as error:
            busy = "lock on file" in str(error) or "different configuration" in str(error)
            raise SourceError(
                "The DuckDB file is open for writing elsewhere"
                if busy
                else f"DuckDB could not be read: {str(error).splitlines()[0]}",
                where=where,
                fix="back up when its writer has closed it, or a copy that the writer makes"
                if busy
                else None,
            ) from None


class DuckdbReader(SourceReader):
    """Reads a DuckDB file through one connection."""

    def __init__(
        self,
        raw: duckdb.DuckDBPyConnection,
        schema: str,
        consistency: dict[str, str],
        tables: dict[str, Table],
    ) -> None:
        super().__init__(consistency, tables)
        self._raw = raw
        self._schema = schema

    def describe(self, names: list[str]) -> None:
        """Learn what the tables are, and make sure that all their text turns back into the values."""
        for name in names:
            self._tables[name] = table = _described(self._raw, self._schema, name)
            for column in table.columns:
                if column.arrow == pa.string() and column.facts.cast == "text":
                    self._prove(name, column)

    def row_count(self, table: str) -> int:
        """Return `count(*)` of the table."""
        self._table(table)
        return int(_rows(self._raw, f"SELECT count(*) FROM {self._from(table)}")[0][0])  # noqa: S608

    def _from(self, table: str) -> str:
        return f"{quoted(self._schema)}.{quoted(table)}"

    def _prove(self, table: str, column: Column) -> None:
        """Have DuckDB turn its text of every value back.

        Raises:
            SourceError: some other value comes of it.
        """
        name, kind = quoted(column.facts.name), column.facts.source_type
        where = f"{table}.{column.facts.name}"
        query = (
            f"SELECT count(*) FROM {self._from(table)} WHERE try_cast({name}::VARCHAR AS {kind})"  # noqa: S608
            f" IS DISTINCT FROM {name}"
        )
        if kind == "VARIANT" or _rows(self._raw, query)[0][0]:
            raise SourceError(
                f"DuckDB does not read its own text of this {kind} back as the same value",
                where=where,
                fix="change the column's type, or exclude the table in the plan",
            )

    def _arrays(self, table: Table, batch_rows: int) -> Iterator[list[pa.Array]]:
        # DuckDB itself holds the 2,048 rows of a vector, however large their values are and whatever is asked for.
        columns = ", ".join(f"{column.select} AS c{at}" for at, column in enumerate(table.columns))
        query = f"SELECT {columns} FROM {self._from(table.facts.name)}"  # noqa: S608
        batches = self._raw.sql(query).to_arrow_reader(min(batch_rows, _VECTOR))
        try:
            waiting: list[pa.RecordBatch] = []
            for batch in batches:
                waiting.append(batch)
                rows = sum(one.num_rows for one in waiting)
                if rows + _VECTOR > batch_rows or sum(one.nbytes for one in waiting) >= BATCH_BYTES:
                    yield from self._converted(table, waiting, batch_rows)
                    waiting = []
            if waiting:
                yield from self._converted(table, waiting, batch_rows)
        finally:
            batches.close()

    def _converted(
        self, table: Table, waiting: list[pa.RecordBatch], batch_rows: int
    ) -> Iterator[list[pa.Array]]:
        whole = pa.Table.from_batches(waiting)
        rows = max(1, min(batch_rows, BATCH_BYTES * whole.num_rows // max(1, whole.nbytes)))
        for begin in range(0, whole.num_rows, rows):
            part = whole.slice(begin, rows)
            yield [
                self._convert(table, at, one.combine_chunks()) for at, one in enumerate(part.itercolumns())
            ]

    def _wider(self, table: Table, column: Column) -> Column | None:
        if column.facts.cast == "text":
            return None
        wider = _as_text(column.facts)
        self._prove(table.facts.name, wider)
        return wider


def _exact(kind: pa.DataType) -> Any:
    def convert(array: pa.Array) -> pa.Array:
        if isinstance(array, pa.ChunkedArray):
            array = array.combine_chunks()
        if pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type):
            return pc.cast(array, kind)
        if array.type != kind:
            raise Unfit
        return array

    return convert


def _between(kind: pa.DataType, unit: int) -> Any:
    """Return the conversion of dates or timestamps of the years 1 to 9999, `unit` of them a day."""
    exact = _exact(kind)
    whole = pa.int32() if pa.types.is_date(kind) else pa.int64()

    def convert(array: pa.Array) -> pa.Array:
        found = exact(array)
        ends = pc.min_max(found.cast(whole)).as_py()
        if ends["min"] is not None and not (
            make.FIRST_DAY * unit <= ends["min"] and ends["max"] < (make.LAST_DAY + 1) * unit
        ):
            raise Unfit
        return pc.cast(found, pa.timestamp("us", kind.tz)) if pa.types.is_timestamp(kind) else found

    return convert


def _time_of_day(array: pa.Array) -> pa.Array:
    found = _exact(pa.time64("us"))(array)
    last = pc.max(found.cast(pa.int64())).as_py()
    if last is not None and last >= make.DAY:
        raise Unfit  # 24:00:00
    return found


def _by_text(convert: Any) -> Any:
    return lambda array: convert(array.to_pylist())


_NATIVE: dict[str, tuple[pa.DataType, Any]] = {
    "BOOLEAN": (pa.bool_(), _exact(pa.bool_())),
    "TINYINT": (pa.int8(), _exact(pa.int8())),
    "SMALLINT": (pa.int16(), _exact(pa.int16())),
    "INTEGER": (pa.int32(), _exact(pa.int32())),
    "BIGINT": (pa.int64(), _exact(pa.int64())),
    "UTINYINT": (pa.uint8(), _exact(pa.uint8())),
    "USMALLINT": (pa.uint16(), _exact(pa.uint16())),
    "UINTEGER": (pa.uint32(), _exact(pa.uint32())),
    "UBIGINT": (pa.uint64(), _exact(pa.uint64())),
    "FLOAT": (pa.float32(), _exact(pa.float32())),
    "DOUBLE": (pa.float64(), _exact(pa.float64())),
    "VARCHAR": (pa.string(), _exact(pa.string())),
    "BLOB": (pa.binary(), _exact(pa.binary())),
    "DATE": (pa.date32(), _between(pa.date32(), 1)),
    "TIMESTAMP_S": (pa.timestamp("us"), _between(pa.timestamp("s"), 86_400)),
    "TIMESTAMP_MS": (pa.timestamp("us"), _between(pa.timestamp("ms"), 86_400_000)),
    "TIMESTAMP": (pa.timestamp("us"), _between(pa.timestamp("us"), make.DAY)),
    "TIMESTAMP WITH TIME ZONE": (pa.timestamp("us", "UTC"), _between(pa.timestamp("us", "UTC"), make.DAY)),
    "TIME": (pa.time64("us"), _time_of_day),
}
_SPELLED = {"HUGEINT": pa.decimal256(39, 0), "UHUGEINT": pa.decimal256(39, 0), "UUID": pa.uuid()}
"""Types that are read by way of their text, which can mean one value only."""


def _column(name: str, declared: str, nullable: bool, generated: bool) -> Column:
    facts = ColumnFacts(name, declared, nullable, generated=generated)
    if declared in _NATIVE:
        return Column(facts, quoted(name), *_NATIVE[declared])
    if size := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", declared):
        kind = pa.decimal128(int(size[1]), int(size[2]))
        return Column(facts, quoted(name), kind, _exact(kind))
    if kind := _SPELLED.get(declared):
        return Column(facts, f"{quoted(name)}::VARCHAR", kind, _by_text(make.from_sql_text(kind)))
    return _as_text(facts)


def _as_text(facts: ColumnFacts) -> Column:
    return Column(
        replace(facts, cast="text"), f"{quoted(facts.name)}::VARCHAR", pa.string(), _exact(pa.string())
    )


def _names(raw: duckdb.DuckDBPyConnection, schema: str) -> list[str]:
    query = """
        SELECT table_name FROM duckdb_tables()
        WHERE database_name = current_database() AND schema_name = ? AND NOT internal AND NOT temporary
    """
    return [row[0] for row in _rows(raw, query, schema)]


def _described(raw: duckdb.DuckDBPyConnection, schema: str, name: str) -> Table:
    """Return the table `name` with how each of its columns is read."""
    here = "database_name = current_database() AND schema_name = ? AND table_name = ?"
    found = _rows(
        raw,
        "SELECT column_name, data_type, is_nullable, is_generated, comment FROM duckdb_columns()"  # noqa: S608
        f" WHERE {here} ORDER BY column_index",
        schema,
        name,
    )
    columns = [_column(*row[:4]) for row in found]
    keys = _rows(
        raw,
        "SELECT constraint_type, constraint_column_names, referenced_table, referenced_column_names"  # noqa: S608
        f" FROM duckdb_constraints() WHERE {here} AND constraint_type IN ('PRIMARY KEY', 'FOREIGN KEY')"
        " ORDER BY constraint_index",
        schema,
        name,
    )
    ddl, comment = _rows(raw, f"SELECT sql, comment FROM duckdb_tables() WHERE {here}", schema, name)[0]  # noqa: S608
    indexes = _rows(raw, f"SELECT sql FROM duckdb_indexes() WHERE {here} ORDER BY 1", schema, name)  # noqa: S608
    table = f"{quoted(schema)}.{quoted(name)}"
    said = [("TABLE", table, comment)]
    said += [("COLUMN", f"{table}.{quoted(row[0])}", row[4]) for row in found]
    facts = TableFacts(
        name=name,
        columns=tuple(column.facts for column in columns),
        primary_key=next((tuple(row[1]) for row in keys if row[0] == "PRIMARY KEY"), ()),
        foreign_keys=tuple(
            ForeignKey(tuple(row[1]), row[2], tuple(row[3])) for row in keys if row[0] == "FOREIGN KEY"
        ),
        ddl=ddl,
        keys=(
            *(row[0] for row in indexes if row[0]),
            *(
                f"COMMENT ON {what} {which} IS '{text.replace(chr(39), 2 * chr(39))}'"
                for what, which, text in said
                if text
            ),
        ),
    )
    return Table(facts, columns, by_key=False)


def _rows(raw: duckdb.DuckDBPyConnection, query: str, *values: str) -> list[tuple[Any, ...]]:
    return raw.execute(query, list(values)).fetchall()
