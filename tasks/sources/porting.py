"""Tables of one dialect in another, for a drill or a move: values go over exactly, most rules of a table do not."""

from __future__ import annotations

from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from tasks.sources.facts import ColumnFacts, TableFacts
from tasks.sources.reading import quoted

_EXACT_DIGITS = 15
"""Decimal digits that a double keeps."""

_UNSIGNED = pa.decimal128(20, 0)
"""Holds every unsigned number of 64 bits."""


def portable(facts: TableFacts, schema: pa.Schema, dialect: str, namespace: str = "") -> TableFacts:
    """Return the table as `dialect` can hold it: same names, values that read back the same, and the primary key.

    Args:
        facts: the table as its source declares it.
        schema: the Arrow schema of its rows.
        dialect: `sqlite` or `postgresql`.
        namespace: the PostgreSQL schema to create it in.
    """
    columns = tuple(
        replace(
            column,
            source_type=_sqlite(schema.field(at).type, column)
            if dialect == "sqlite"
            else _postgresql(schema.field(at).type),
            cast="sql_literal" if column.cast == "sql_literal" and dialect == "sqlite" else None,
            form=column.form,
            generated=False,
        )
        for at, column in enumerate(facts.columns)
    )
    name = f"{quoted(namespace)}.{quoted(facts.name)}" if namespace else quoted(facts.name)
    lines = [
        f"    {quoted(column.name)} {column.source_type}{'' if column.nullable else ' NOT NULL'}"
        for column in columns
    ]
    if facts.primary_key:
        lines.append(f"    PRIMARY KEY ({', '.join(quoted(key) for key in facts.primary_key)})")
    left = []
    if facts.keys:
        left.append("keys, indexes and sequence values of the source")
    if facts.links or facts.foreign_keys:
        left.append("foreign keys")
    if any(column.generated for column in facts.columns):
        left.append("computed columns hold their values, and are not computed any more")
    return TableFacts(
        name=facts.name,
        columns=columns,
        primary_key=facts.primary_key,
        foreign_keys=(),
        ddl=f"CREATE TABLE {name} (\n" + ",\n".join(lines) + "\n)",
        lost=(*facts.lost, *left),
    )


def ported(batch: pa.RecordBatch, dialect: str) -> pa.RecordBatch:
    """Return the rows as they read back from a table that `portable` describes."""
    change = _in_sqlite if dialect == "sqlite" else _in_postgresql
    for at, field in enumerate(batch.schema):
        column = change(batch.column(at))
        if column.type != field.type:
            batch = batch.set_column(at, pa.field(field.name, column.type), column)
    return batch


def _in_sqlite(column: pa.Array) -> pa.Array:
    """Return the values as SQLite has them: no UUID, no exact number of more than 15 digits, no float of 32 bits."""
    kind = column.type
    if kind == pa.uuid():
        return uuid_text(column)
    if pa.types.is_float32(kind):
        return pc.cast(column, pa.float64())
    if _is_long(kind):
        return pc.cast(column, pa.string())
    return column


def _in_postgresql(column: pa.Array) -> pa.Array:
    """Return the values as PostgreSQL has them: no number without a sign."""
    kind = column.type
    if kind == pa.uint64():
        return pc.cast(column, _UNSIGNED)
    return pc.cast(column, pa.int64()) if pa.types.is_integer(kind) else column


def _is_long(kind: pa.DataType) -> bool:
    return bool(kind == pa.uint64() or (pa.types.is_decimal(kind) and kind.precision > _EXACT_DIGITS))


def uuid_text(column: pa.Array) -> pa.Array:
    """Return UUIDs in their usual spelling of 36 characters."""
    return pa.array([None if one is None else str(one) for one in column.to_pylist()], pa.string())


def _sqlite(kind: pa.DataType, column: ColumnFacts) -> str:
    if column.cast == "sql_literal":
        return ""
    if _is_long(kind):
        return "TEXT"  # as a number it would lose digits by SQLite's numeric affinity
    if pa.types.is_integer(kind):
        return "INTEGER"
    if pa.types.is_floating(kind):
        return "REAL"
    if pa.types.is_boolean(kind):
        return "BOOLEAN"
    if pa.types.is_decimal(kind):
        return f"NUMERIC({kind.precision}, {kind.scale})"
    if pa.types.is_date(kind):
        return "DATE"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP"
    if pa.types.is_time(kind):
        return "TIME"
    if pa.types.is_binary(kind):
        return "BLOB"
    return "JSON" if column.source_type == "jsonb" else "TEXT"


def _postgresql(kind: pa.DataType) -> str:
    if kind == pa.uuid():
        return "uuid"
    if pa.types.is_integer(kind):
        return f"numeric({_UNSIGNED.precision},0)" if kind == pa.uint64() else "bigint"
    if pa.types.is_floating(kind):
        return "real" if pa.types.is_float32(kind) else "double precision"
    if pa.types.is_boolean(kind):
        return "boolean"
    if pa.types.is_decimal(kind):
        return f"numeric({kind.precision},{kind.scale})"
    if pa.types.is_date(kind):
        return "date"
    if pa.types.is_timestamp(kind):
        return "timestamp with time zone" if kind.tz else "timestamp without time zone"
    if pa.types.is_time(kind):
        return "time without time zone"
    if pa.types.is_binary(kind):
        return "bytea"
    return "text"
