"""SQLite: one read transaction; declared types are promises that SQLite does not keep, so every value is checked.

In WAL mode writers go on while we read. In rollback-journal mode a writer that wants to commit waits until the
read ends, as it does for any reader.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pyarrow as pa
import sqlalchemy as sa

from tasks.core import Clock
from tasks.sources import columns as make
from tasks.sources.columns import Column
from tasks.sources.errors import SourceError
from tasks.sources.facts import ColumnFacts, ForeignKey, TableFacts
from tasks.sources.reading import Cursor, CursorReader, SourceReader, Table, chosen, quoted

_WAIT_SECONDS = 60.0  # for a writer that commits just now


@dataclass(frozen=True)
class SqliteSource:
    """A SQLite file."""

    name: str
    url: sa.URL
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    dialect: str = "sqlite"

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        """Begin a read transaction on the file, without ever writing to it."""
        path = Path(self.url.database or "")
        if not path.is_file():
            raise SourceError(
                "There is no SQLite database",
                where=f"source {self.name}: {path}",
                fix="correct the URL in the plan",
            )
        # A reader must be able to recover the journal that a killed writer left; query_only keeps it from more.
        mode = "rw" if os.access(path, os.W_OK) and os.access(path.parent, os.W_OK) else "ro"
        uri = f"file:{quote(str(path.resolve()))}?mode={mode}"
        engine = sa.create_engine(
            "sqlite://",
            creator=lambda: sqlite3.connect(uri, uri=True, timeout=_WAIT_SECONDS, isolation_level=None),
            poolclass=sa.pool.NullPool,
        )
        try:
            with engine.connect() as connection:
                raw: sqlite3.Connection = connection.connection.dbapi_connection  # type: ignore[assignment]
                raw.execute("PRAGMA query_only = ON")
                raw.execute("BEGIN")
                raw.execute("SELECT count(*) FROM sqlite_master").fetchone()  # the read that fixes the point
                consistency = {
                    "kind": "sqlite_read_transaction",
                    "id": "/".join(
                        f"{name}={raw.execute(f'PRAGMA {name}').fetchone()[0]}"
                        for name in ("journal_mode", "schema_version", "page_count")
                    ),
                    "at": clock.now().isoformat(),
                }
                names = chosen(table_names(raw), self.only, self.exclude, f"source {self.name}")
                tables = {name: described(raw, name) for name in names}
                try:
                    yield SqliteReader(raw, consistency, tables)
                finally:
                    raw.execute("ROLLBACK")
        except (sqlite3.Error, sa.exc.DBAPIError) as error:
            raise SourceError(
                f"SQLite could not be read: {reason(error)}", where=f"source {self.name}: {path}"
            ) from None
        finally:
            engine.dispose()


class SqliteReader(CursorReader):
    """Reads one SQLite transaction."""

    def __init__(
        self, connection: sqlite3.Connection, consistency: dict[str, str], tables: dict[str, Table]
    ) -> None:
        super().__init__(consistency, tables)
        self._connection = connection

    def row_count(self, table: str) -> int:
        """Return `count(*)` of the table inside the transaction."""
        self._table(table)
        row = self._connection.execute(f"SELECT count(*) FROM {quoted(table)}").fetchone()  # noqa: S608
        return int(row[0])

    def _select(self, table: Table) -> Cursor:
        chosen_columns = ", ".join(column.select for column in table.columns)
        order = ", ".join(f"{quoted(key)} COLLATE BINARY" for key in table.facts.primary_key)
        # `rowid` may be shadowed by a column of that name; such a table still has _rowid_ or oid, and if it hides
        # all three it is read in the order SQLite gives.
        if not order:
            taken = {column.facts.name.lower() for column in table.columns}
            order = next((name for name in ("rowid", "_rowid_", "oid") if name not in taken), "1")
        return self._connection.execute(
            f"SELECT {chosen_columns} FROM {quoted(table.facts.name)} ORDER BY {order}"  # noqa: S608
        )

    def _fetch(self, table: Table, cursor: Cursor, rows: int) -> list[tuple[Any, ...]]:
        try:
            return cursor.fetchmany(rows)
        except sqlite3.OperationalError as error:
            found = re.search(r"Could not decode to UTF-8 column '(.*?)' with text", str(error), re.DOTALL)
            if found is None:
                raise
        for column in table.columns:
            if column.facts.cast == "bytes":
                continue
            if self._stores(table, column) >= {"text"} and not self._decodes(table, column):
                self._widen(table, column, self._as_bytes(table, column))
        raise SourceError("Text that is not UTF-8 cannot be read", where=table.facts.name)

    def _wider(self, table: Table, column: Column) -> Column | None:
        if column.facts.cast == "sql_literal":
            return None
        name = quoted(column.facts.name)
        forms = make.time_forms(_sample(self._connection, table.facts.name, column.facts.name))
        if column.facts.form in forms[:-1]:
            return _timed(column, forms[-1])
        if column.facts.cast not in ("text", "bytes") and self._stores(table, column) <= {"text", "null"}:
            return Column(replace(column.facts, cast="text", form=None), name, pa.string(), make.text)
        facts = replace(column.facts, cast="sql_literal", form=None)
        return Column(facts, name, pa.string(), make.sql_literal)

    def _as_recorded(self, table: Table, column: Column, recorded: ColumnFacts) -> Column:
        if recorded.cast == "bytes":
            return self._as_bytes(table, column)
        return super()._as_recorded(table, column, recorded)

    def _stores(self, table: Table, column: Column) -> set[str]:
        query = f"SELECT DISTINCT typeof({quoted(column.facts.name)}) FROM {quoted(table.facts.name)}"  # noqa: S608
        return {row[0] for row in self._connection.execute(query)}

    def _decodes(self, table: Table, column: Column) -> bool:
        try:
            for _ in self._connection.execute(
                f"SELECT {quoted(column.facts.name)} FROM {quoted(table.facts.name)}"  # noqa: S608
            ):
                pass
        except sqlite3.OperationalError:
            return False
        return True

    def _as_bytes(self, table: Table, column: Column) -> Column:
        if not self._stores(table, column) <= {"text", "null"}:
            raise SourceError(
                "The column mixes numbers or blobs with text that is not UTF-8",
                where=f"{table.facts.name}.{column.facts.name}",
                fix="correct the values, or exclude the table in the plan",
            )
        select = f"CAST({quoted(column.facts.name)} AS BLOB)"
        facts = replace(column.facts, cast="bytes", form=None)
        return Column(facts, select, pa.binary(), make.plain(pa.binary(), bytes))


def table_names(connection: sqlite3.Connection) -> list[str]:
    """Return the ordinary tables (views, virtual tables and their shadows hold no rows of their own)."""
    rows = connection.execute("SELECT schema, name, type FROM pragma_table_list").fetchall()
    return [
        name
        for schema, name, kind in rows
        if schema == "main" and kind == "table" and not name.lower().startswith("sqlite_")
    ]


def described(connection: sqlite3.Connection, name: str) -> Table:
    """Return the table `name` with how each of its columns is read."""
    rows = connection.execute(
        "SELECT name, type, \"notnull\", pk, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid", (name,)
    ).fetchall()
    # Only the row number itself and declared NOT NULL refuse NULL; SQLite's other primary keys accept it.
    keys_count = sum(1 for row in rows if row[3])
    table_columns = [
        _column(
            row[0],
            row[1],
            not row[2] and not (row[3] and keys_count == 1 and row[1].upper() == "INTEGER"),
            row[4] in (2, 3),
        )
        for row in rows
        if row[4] != 1
    ]
    for at, column in enumerate(table_columns):
        if column.facts.cast == "time_from_text":
            forms = make.time_forms(_sample(connection, name, column.facts.name))
            table_columns[at] = _timed(column, forms[0] if forms else "")
    keys: dict[int, ForeignKey] = {}
    for key, references, own, other in connection.execute(
        'SELECT id, "table", "from", "to" FROM pragma_foreign_key_list(?, \'main\') ORDER BY id, seq', (name,)
    ).fetchall():
        known = keys.get(key, ForeignKey((), references, ()))
        keys[key] = replace(
            known,
            columns=(*known.columns, own),
            referred_columns=(*known.referred_columns, *([other] if other else [])),
        )
    ddl = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type = 'table' AND name = ?", (name,)
    ).fetchone()[0]
    # A trigger comes after the rows, so that it does not fire for them.
    later = connection.execute(
        "SELECT sql FROM sqlite_master WHERE type IN ('index', 'trigger') AND tbl_name = ? AND sql IS NOT NULL"
        " ORDER BY type, name",
        (name,),
    ).fetchall()
    facts = TableFacts(
        name=name,
        columns=tuple(column.facts for column in table_columns),
        primary_key=tuple(row[0] for row in sorted(rows, key=lambda row: int(row[3])) if row[3]),
        foreign_keys=tuple(keys.values()),
        ddl=ddl,
        keys=(*(row[0] for row in later), *_next_number(connection, name)),
    )
    return Table(facts, table_columns)


def _sample(connection: sqlite3.Connection, table: str, column: str) -> str:
    """Return the first text in the column; empty if it holds none."""
    name = quoted(column)
    query = f"SELECT CAST({name} AS BLOB) FROM {quoted(table)} WHERE typeof({name}) = 'text' LIMIT 1"  # noqa: S608
    row = connection.execute(query).fetchone()
    return bytes(row[0]).decode(errors="replace") if row else ""


def _timed(column: Column, form: str) -> Column:
    """Return the column read as times that are all written in `form`."""
    facts = replace(column.facts, form=form)
    return replace(column, facts=facts, convert=make.temporal_from_text(column.arrow, form))


def _next_number(connection: sqlite3.Connection, name: str) -> list[str]:
    """Return the statements that keep AUTOINCREMENT from giving a number again."""
    if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sqlite_sequence'").fetchone():
        return []
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (name,)).fetchone()
    if row is None:
        return []
    text = "'" + name.replace("'", "''") + "'"
    return [
        f"DELETE FROM sqlite_sequence WHERE name = {text}",  # noqa: S608
        f"INSERT INTO sqlite_sequence (name, seq) VALUES ({text}, {int(row[0])})",  # noqa: S608
    ]


def _column(name: str, declared: str, nullable: bool, generated: bool) -> Column:
    """Choose how to read a column by its declared type (the rules of SQLite's own type affinity, and more)."""
    kind = re.sub(r"\s+", " ", declared.upper()).strip()
    base = kind.partition("(")[0].strip()
    select = quoted(name)

    def column(cast: str | None, arrow: pa.DataType, convert: Any) -> Column:
        facts = ColumnFacts(name, declared, nullable, cast, generated=generated)
        return Column(facts, select, arrow, convert)

    if base in ("BOOLEAN", "BOOL"):
        return column("boolean_from_integer", pa.bool_(), make.boolean_from_integer)
    if "INT" in base:
        return column(None, pa.int64(), make.plain(pa.int64(), int))
    if base in ("NUMERIC", "DECIMAL", "DEC"):
        size = re.search(r"\((\d+)(?:\s*,\s*(\d+))?\)", kind)
        exact = make.decimal_type(int(size[1]), int(size[2] or 0)) if size else None
        if exact is not None:
            return column("decimal_from_number", exact, make.decimal_from_number(exact))
        return column("text", pa.string(), make.plain_text)
    if base in ("REAL", "FLOAT", "DOUBLE", "DOUBLE PRECISION"):
        return column(None, pa.float64(), make.plain(pa.float64(), float))
    if base == "DATE":
        return column("time_from_text", pa.date32(), make.temporal_from_text(pa.date32(), ""))
    if base in ("DATETIME", "TIMESTAMP") and "ZONE" not in kind.replace("WITHOUT TIME ZONE", ""):
        return column("time_from_text", pa.timestamp("us"), make.temporal_from_text(pa.timestamp("us"), ""))
    if base == "TIME":
        return column("time_from_text", pa.time64("us"), make.temporal_from_text(pa.time64("us"), ""))
    if base == "BLOB":
        return column(None, pa.binary(), make.plain(pa.binary(), bytes))
    if not base:
        return column("sql_literal", pa.string(), make.sql_literal)
    return column(None, pa.string(), make.text)


def reason(error: Exception) -> str:
    """Return the driver's reason without the value that it may quote."""
    return str(error).partition(" with text")[0]
