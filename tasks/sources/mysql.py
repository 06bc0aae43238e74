"""MySQL and MariaDB: one consistent snapshot of InnoDB, its tables locked against DDL, read row by row as they come.

Times are read as the server's own text and only then as times: a driver turns day 0 into NULL and hour 25 into the
next day. A FLOAT is read as a double, since its text has six digits.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from tasks.core import Clock, UsageError
from tasks.sources import columns as make
from tasks.sources.columns import Column, Values
from tasks.sources.errors import SourceError
from tasks.sources.facts import ColumnFacts, ForeignKey, TableFacts
from tasks.sources.reading import Cursor, CursorReader, SourceReader, Table, chosen

# What the session of another program, or the server's settings, would make of our rows.
_SETTINGS = {
    "time_zone": "'+00:00'",
    "sql_mode": "''",
    "net_write_timeout": "31536000",  # a slow store must not end the query
    "wait_timeout": "31536000",
    "lock_wait_timeout": "60",
    "max_statement_time": "0",
    "max_execution_time": "0",
    "idle_transaction_timeout": "0",
    "idle_readonly_transaction_timeout": "0",
}
"""Set where the server knows them: some are MySQL's, some MariaDB's."""


@dataclass(frozen=True)
class MysqlSource:
    """The tables of one MySQL or MariaDB database."""

    name: str
    url: sa.URL
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    schema: str | None = None
    dialect: str = "mysql"

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        """Begin a read-only REPEATABLE READ transaction WITH CONSISTENT SNAPSHOT and lock the tables against DDL."""
        where = f"source {self.name}"
        with self._connected(where) as raw:
            _run(
                raw, f"SET SESSION sql_select_limit = {2**64 - 1}"
            )  # a server's own would cut the next answer too
            known = {row[0] for row in _run(raw, "SHOW SESSION VARIABLES")}
            for setting in _SETTINGS.keys() & known:
                _run(raw, f"SET SESSION {setting} = {_SETTINGS[setting]}")
            _run(raw, "SET SESSION TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            schema = self.schema or self.url.database or ""
            kinds = _kinds(raw, schema, where)
            names = chosen(kinds, self.only, self.exclude, where)
            _require_transactions(raw, {name: kinds[name] for name in names}, where)
            _run(raw, "START TRANSACTION WITH CONSISTENT SNAPSHOT, READ ONLY")
            consistency = {
                "kind": "mysql_consistent_snapshot",
                "id": _position(raw),
                "at": clock.now().isoformat(),
            }
            reader = MysqlReader(raw, schema, consistency, {})
            try:
                reader.begin(names)
                yield reader
            finally:
                reader.end()

    @contextmanager
    def _connected(self, where: str) -> Iterator[Any]:
        try:
            import pymysql
        except ImportError:
            raise UsageError(
                "MySQL and MariaDB need the package pymysql", fix="pip install 'mailstay[mysql]'"
            ) from None

        url = self.url.set(drivername="mysql+pymysql").update_query_dict({"charset": "utf8mb4"})
        engine = sa.create_engine(url, poolclass=sa.pool.NullPool)
        try:
            with engine.connect() as connection:
                yield connection.connection.dbapi_connection
        except (pymysql.Error, sa.exc.DBAPIError) as error:
            raise SourceError(f"The database could not be read: {reason(error)}", where=where) from None
        finally:
            engine.dispose()


class MysqlReader(CursorReader):
    """Reads one transaction of MySQL or MariaDB.

    Args:
        raw: the pymysql connection, in that transaction.
        schema: the database that the tables are in.
        consistency: see `SourceReader`.
        tables: the tables, by name.
    """

    def __init__(self, raw: Any, schema: str, consistency: dict[str, str], tables: dict[str, Table]) -> None:
        super().__init__(consistency, tables)
        self._raw = raw
        self._schema = schema

    def begin(self, names: list[str]) -> None:
        """Lock the tables against DDL until the transaction ends, then learn what they are.

        Raises:
            SourceError: one was changed after the point in time was fixed, or not all of it may be read.
        """
        import pymysql

        for name in names:
            try:
                _run(self._raw, f"SELECT * FROM {self._from(name)} LIMIT 0")  # noqa: S608
                _run(self._raw, f"SELECT 1 FROM {self._from(name)} LIMIT 1")  # noqa: S608
            except pymysql.err.MySQLError as error:
                if error.args[0] not in _CHANGED:
                    raise
                raise SourceError(
                    "The table was dropped, truncated or altered while the backup began",
                    where=name,
                    fix="run the backup again",
                ) from None
        for name in names:
            self._tables[name] = _described(self._raw, self._schema, name)

    def end(self) -> None:
        """Give up the transaction."""
        if self._raw.open:
            self._raw.rollback()

    def row_count(self, table: str) -> int:
        """Return `count(*)` of the table inside the transaction."""
        self._table(table)
        return int(_run(self._raw, f"SELECT count(*) FROM {self._from(table)}")[0][0])  # noqa: S608

    def _from(self, table: str) -> str:
        return f"{_quoted(self._schema)}.{_quoted(table)}"

    def _select(self, table: Table) -> Cursor:
        from pymysql.cursors import SSCursor

        columns = ", ".join(column.select for column in table.columns)
        # InnoDB stores rows in the order of the key: naming it costs nothing and keeps every backup alike.
        key = ", ".join(map(_quoted, table.facts.primary_key))
        order = f" ORDER BY {key}" if key else ""
        cursor = self._raw.cursor(SSCursor)
        cursor.execute(f"SELECT {columns} FROM {self._from(table.facts.name)}{order}")  # noqa: S608
        return cursor  # type: ignore[no-any-return]

    def _fetch(self, table: Table, cursor: Cursor, rows: int) -> list[tuple[Any, ...]]:
        try:
            return list(cursor.fetchmany(rows))
        except UnicodeDecodeError:
            raise SourceError(
                "The server sent text that is not UTF-8",
                where=table.facts.name,
                fix="correct the value, or exclude the table in the plan",
            ) from None

    def _wider(self, table: Table, column: Column) -> Column | None:
        if column.facts.cast == "text":
            return None
        text = f"CAST({_quoted(column.facts.name)} AS CHAR)"
        return Column(replace(column.facts, cast="text"), text, pa.string(), make.text)


_SEQUENCE = re.compile(r"nextval\(`(?:[^`]|``)+`\.`((?:[^`]|``)+)`\)")
_CHANGED = (1146, 1412)  # no such table; its definition has changed

_NUMBERS: dict[str, tuple[pa.DataType, pa.DataType]] = {
    "tinyint": (pa.int8(), pa.uint8()),
    "smallint": (pa.int16(), pa.uint16()),
    "mediumint": (pa.int32(), pa.uint32()),
    "int": (pa.int32(), pa.uint32()),
    "bigint": (pa.int64(), pa.uint64()),
}
"""The integers, with and without a sign."""

_TIMES = {
    "date": pa.date32(),
    "datetime": pa.timestamp("us"),
    "time": pa.time64("us"),
    "uuid": pa.uuid(),
}
"""Types that are read by way of the server's text."""

_TEXTS = {"char", "varchar", "tinytext", "text", "mediumtext", "longtext"}
_BYTES = {"binary", "varbinary", "tinyblob", "blob", "mediumblob", "longblob"}
_SHAPES = {
    "geometry",
    "point",
    "linestring",
    "polygon",
    "multipoint",
    "multilinestring",
    "multipolygon",
    "geometrycollection",
    "geomcollection",
}
_WORDS = {"enum", "set", "json", "inet4", "inet6"}
_ORDERED = (pa.types.is_integer, pa.types.is_decimal, pa.types.is_date, pa.types.is_timestamp)
"""Types of keys of which the server's order is that of the values."""


def _column(name: str, declared: str, kind: str, nullable: bool, generated: bool) -> Column:
    facts = ColumnFacts(name, declared, nullable, generated=generated)
    plain, text = _quoted(name), f"CAST({_quoted(name)} AS CHAR)"
    if kind in _NUMBERS:
        arrow = _NUMBERS[kind]["unsigned" in declared]
        return Column(facts, plain, arrow, make.plain(arrow, int))
    if kind == "year":
        return Column(facts, plain, pa.int16(), make.plain(pa.int16(), int))
    if kind == "bit":
        return Column(facts, f"{plain} + 0", pa.uint64(), make.plain(pa.uint64(), int))
    if kind == "decimal":
        size = re.search(r"\((\d+),(\d+)\)", declared)
        exact = make.decimal_type(int(size[1]), int(size[2])) if size else None
        if exact is not None:
            return Column(facts, text, exact, make.from_sql_text(exact))
    if kind == "float":
        return Column(facts, f"{plain} * 1e0", pa.float32(), make.single)
    if kind == "double":
        return Column(facts, f"{plain} * 1e0", pa.float64(), make.plain(pa.float64(), float))
    if kind == "timestamp":
        return Column(facts, text, pa.timestamp("us", "UTC"), _in_utc)
    if kind in _TIMES:
        return Column(facts, text, _TIMES[kind], make.from_sql_text(_TIMES[kind]))
    if kind in _TEXTS:
        return Column(facts, plain, pa.string(), make.text)
    if kind in _BYTES | _SHAPES:
        return Column(facts, plain, pa.binary(), make.plain(pa.binary(), bytes))
    if kind in _WORDS:
        return Column(replace(facts, cast="text"), plain, pa.string(), make.text)
    raise SourceError(
        f"Mailstay cannot read the type {declared} exactly",
        where=name,
        fix="exclude the table in the plan",
    )


def _in_utc(values: Values) -> pa.Array:
    """Read the session's time, which is UTC's."""
    return pc.cast(make.from_sql_text(pa.timestamp("us"))(values), pa.timestamp("us", "UTC"))


def _described(raw: Any, schema: str, name: str) -> Table:
    """Return the table `name` with how each of its columns is read."""
    which = (schema, name)
    found = _run(
        raw,
        "SELECT column_name, column_type, data_type, is_nullable = 'YES', extra FROM information_schema.columns"
        " WHERE table_schema = %s AND table_name = %s ORDER BY ordinal_position",
        which,
    )
    columns = []
    for column, declared, kind, nullable, extra in found:
        generated = "GENERATED" in extra.upper().replace("DEFAULT_GENERATED", "")
        try:
            columns.append(_column(column, declared, kind.lower(), bool(nullable), generated))
        except SourceError as error:
            raise SourceError(error.what, where=f"{name}.{column}", fix=error.fix) from None
    keys = _run(
        raw,
        "SELECT constraint_name, column_name, referenced_table_schema, referenced_table_name, referenced_column_name"
        " FROM information_schema.key_column_usage"
        " WHERE table_schema = %s AND table_name = %s ORDER BY constraint_name, ordinal_position",
        which,
    )
    foreign: dict[str, ForeignKey] = {}
    for key, own, where, references, other in keys:
        if where == schema:
            known = foreign.get(key, ForeignKey((), references, ()))
            foreign[key] = replace(
                known,
                columns=(*known.columns, own),
                referred_columns=(*known.referred_columns, other),
            )
    ddl = _run(raw, f"SHOW CREATE TABLE {_quoted(schema)}.{_quoted(name)}")[0][1]
    primary = tuple(row[1] for row in keys if row[0] == "PRIMARY")
    facts = TableFacts(
        name=name,
        columns=tuple(column.facts for column in columns),
        primary_key=primary,
        foreign_keys=tuple(foreign.values()),
        ddl=ddl,
        lost=tuple(_lost(raw, schema, name, ddl)),
    )
    kinds = {column.facts.name: column.arrow for column in columns}
    by_key = all(any(test(kinds[key]) for test in _ORDERED) for key in primary)
    return Table(facts, columns, by_key=by_key)


def _lost(raw: Any, schema: str, name: str, ddl: str) -> list[str]:
    """Return what no restore brings back with a table: what is beside its rows, and where its numbers stood.

    A view whose definition this account may not see might be of any table, and is named with each.
    """
    beside = _run(
        raw,
        "SELECT concat('trigger ', trigger_name) AS what FROM information_schema.triggers"
        " WHERE event_object_schema = %s AND event_object_table = %s"
        " UNION ALL SELECT concat('view ', table_name) FROM information_schema.views"
        " WHERE table_schema = %s AND (view_definition = '' OR locate(%s, view_definition)) ORDER BY 1",
        (schema, name, schema, f"{_quoted(schema)}.{_quoted(name)}"),
    )
    lost = [row[0] for row in beside]
    lost += [f"sequence {one.replace('``', '`')}" for one in dict.fromkeys(_SEQUENCE.findall(ddl))]
    options = ddl.rpartition("\n)")[2]
    if number := re.search(r"\bAUTO_INCREMENT=(\d+)", options):
        lost.append(f"AUTO_INCREMENT, the next number being {number[1]}")
    if "WITH SYSTEM VERSIONING" in options:
        lost.append("the earlier versions of its rows")
    return lost


def _kinds(raw: Any, schema: str, where: str) -> dict[str, str]:
    """Return the storage engine of every table.

    Raises:
        SourceError: there is no such database, or this account sees nothing of it.
    """
    if not _run(raw, "SELECT 1 FROM information_schema.schemata WHERE schema_name = %s", (schema,)):
        raise SourceError(
            f"There is no database {schema!r}" if schema else "The URL names no database",
            where=where,
            fix="write mysql://user@host/database",
        )
    found = _run(
        raw,
        "SELECT table_name, engine FROM information_schema.tables"
        " WHERE table_schema = %s AND table_type IN ('BASE TABLE', 'SYSTEM VERSIONED')",
        (schema,),
    )
    return {name: engine or "no engine" for name, engine in found}


def _require_transactions(raw: Any, kinds: dict[str, str], where: str) -> None:
    safe = {
        row[0]
        for row in _run(raw, "SELECT engine FROM information_schema.engines WHERE transactions = 'YES'")
    }
    for name, engine in kinds.items():
        if engine not in safe:
            raise SourceError(
                f"The table {name!r} ({engine}) takes no part in transactions:"
                " it cannot be read as of the same point as the others",
                where=where,
                fix="ALTER TABLE … ENGINE = InnoDB, or exclude it in the plan",
            )


def _position(raw: Any) -> str:
    """Return the server and, where MariaDB tells it, the place in the binary log that the snapshot is of."""
    version, connection = _run(raw, "SELECT version(), connection_id()")[0]
    log = dict(_run(raw, "SHOW STATUS LIKE 'binlog\\_snapshot\\_%'"))
    file, position = log.get("Binlog_snapshot_file"), log.get("Binlog_snapshot_position")
    return f"{version}, connection {connection}" + (f", binary log {file}:{position}" if file else "")


def _run(raw: Any, statement: str, values: tuple[str, ...] | None = None) -> Any:
    with raw.cursor() as cursor:
        cursor.execute(statement, values)
        return cursor.fetchall()


def _quoted(name: str) -> str:
    return "`" + name.replace("`", "``") + "`"


def reason(error: Exception) -> str:
    """Return the server's reason: its number and its first line."""
    origin = getattr(error, "orig", None) or error
    return ": ".join(str(one).splitlines()[0] for one in origin.args if str(one))
