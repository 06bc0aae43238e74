"""Loading Arrow tables into a database in bulk: one `executemany` on SQLite, COPY on PostgreSQL."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import sqlalchemy as sa

_SQLITE_TIME = "%Y-%m-%d %H:%M:%S"


def load(connection: sa.Connection, table: sa.Table, rows: pa.Table) -> int:
    """Insert `rows` into `table`, column by column name, and return how many there were.

    Values are stored exactly as SQLAlchemy stores them, so that both can be mixed. Times must be without a zone.
    """
    if rows.num_rows == 0:
        return 0
    if connection.dialect.name == "postgresql":
        _copy(connection, table, rows)
    else:
        columns = [_sqlite_values(rows.column(name)) for name in rows.column_names]
        names = ", ".join(_quoted(connection, name) for name in rows.column_names)
        marks = ", ".join("?" for _ in columns)
        statement = f"INSERT INTO {_quoted(connection, table.name)} ({names}) VALUES ({marks})"  # noqa: S608
        connection.exec_driver_sql(statement, list(zip(*columns, strict=True)))
    return int(rows.num_rows)


def reset_sequences(connection: sa.Connection, metadata: sa.MetaData) -> None:
    """Let every generated key of `metadata` continue after the highest one loaded (PostgreSQL only)."""
    if connection.dialect.name != "postgresql":
        return
    for table in metadata.sorted_tables:
        key = table.autoincrement_column
        if key is not None and key.identity is None and key.autoincrement is True:
            top = connection.execute(sa.select(sa.func.coalesce(sa.func.max(key), 0))).scalar_one()
            sequence = sa.func.pg_get_serial_sequence(table.name, key.name)
            connection.execute(sa.select(sa.func.setval(sequence, max(top, 1), top > 0)))


def _copy(connection: sa.Connection, table: sa.Table, rows: pa.Table) -> None:
    buffer = io.BytesIO()
    pyarrow.csv.write_csv(
        rows, buffer, pyarrow.csv.WriteOptions(include_header=False, quoting_style="needed")
    )
    names = ", ".join(_quoted(connection, name) for name in rows.column_names)
    cursor: Any = connection.connection.cursor()
    with cursor.copy(f"COPY {_quoted(connection, table.name)} ({names}) FROM STDIN (FORMAT csv)") as copy:
        copy.write(buffer.getbuffer())


def _sqlite_values(column: pa.ChunkedArray) -> list[Any]:
    kind = column.type
    if pa.types.is_timestamp(kind):
        whole = pc.strftime(column.cast(pa.timestamp("s"), safe=False), format=_SQLITE_TIME)
        micro = pc.subtract(
            column.cast(pa.timestamp("us")).cast(pa.int64()),
            pc.multiply(column.cast(pa.timestamp("s"), safe=False).cast(pa.int64()), 1_000_000),
        )
        padded = pc.utf8_lpad(micro.cast(pa.string()), 6, "0")
        return list(pc.binary_join_element_wise(whole, padded, ".").to_pylist())
    if pa.types.is_decimal(kind):
        # Arrow's own cast from decimal is off by one unit in the last place: through text it is rounded correctly
        return list(column.cast(pa.string()).cast(pa.float64()).to_pylist())
    if pa.types.is_boolean(kind):
        return list(column.cast(pa.int8()).to_pylist())
    return list(column.to_pylist())


def _quoted(connection: sa.Connection, name: str) -> str:
    return connection.dialect.identifier_preparer.quote(name)
