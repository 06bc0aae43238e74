"""Any other database that SQLAlchemy speaks: one transaction that is a point in time, read by a server-side cursor.

Nothing is known of what its driver does to a value. So whole numbers, floats, booleans, text and bytes are taken only
as exactly those; every other type is read as the database's own text, after the database itself has shown that it
turns that text back into every value of the column.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.schema import CreateIndex, CreateTable

from tasks.core import Clock, UsageError
from tasks.sources import columns as make
from tasks.sources.columns import Column, Values
from tasks.sources.errors import SourceError
from tasks.sources.facts import ColumnFacts, ForeignKey, TableFacts
from tasks.sources.reading import Cursor, CursorReader, SourceReader, Table, chosen

_POINTS = ("SNAPSHOT", "SERIALIZABLE")
"""Levels of isolation at which all that a transaction reads is of one point in time, the best first."""


@dataclass(frozen=True)
class DialectSource:
    """The tables of one schema of a database that SQLAlchemy has a dialect for."""

    name: str
    url: sa.URL
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    schema: str | None = None

    @property
    def dialect(self) -> str:
        """The name of SQLAlchemy's dialect."""
        return self.url.get_backend_name()

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        """Begin a transaction at the strongest level of isolation there is; it is rolled back at the end."""
        where = f"source {self.name}"
        engine = self._engine(where)
        try:
            with engine.connect() as connection:
                level = _isolated(connection, where)
                names = chosen(
                    sa.inspect(connection).get_table_names(self.schema), self.only, self.exclude, where
                )
                connection.rollback()
                version = ".".join(map(str, connection.dialect.server_version_info or ("unknown",)))
                consistency = {
                    "kind": f"{self.dialect}_{level.lower()}",
                    "id": f"{self.dialect} {version}, {connection.dialect.driver}",
                    "at": clock.now().isoformat(),
                }
                reader = DialectReader(connection, self.schema, consistency, {})
                reader.describe(names)
                yield reader
        except sa.exc.SQLAlchemyError as error:
            raise SourceError(f"The database could not be read: {_reason(error)}", where=where) from None
        finally:
            engine.dispose()

    def _engine(self, where: str) -> sa.Engine:
        try:
            return sa.create_engine(self.url, poolclass=sa.pool.NullPool)
        except sa.exc.NoSuchModuleError:
            raise UsageError(
                f"SQLAlchemy has no dialect {self.url.drivername!r} here",
                where=where,
                fix="install the package that brings it, or use SQLite, PostgreSQL, MySQL, MariaDB or DuckDB",
            ) from None
        except ImportError as error:
            raise UsageError(
                f"The dialect {self.url.drivername!r} needs the package {error.name}",
                where=where,
                fix=f"pip install {error.name}",
            ) from None


class DialectReader(CursorReader):
    """Reads one transaction of a database through SQLAlchemy."""

    def __init__(
        self,
        connection: sa.Connection,
        schema: str | None,
        consistency: dict[str, str],
        tables: dict[str, Table],
    ) -> None:
        super().__init__(consistency, tables)
        self._connection = connection
        self._schema = schema
        self._reflected: dict[str, sa.Table] = {}

    def describe(self, names: list[str]) -> None:
        """Learn what the tables are, and make sure that what is read as text turns back into the values.

        Raises:
            SourceError: a column cannot be read exactly.
        """
        for name in names:
            # Where a read keeps others from changing a table's definition, this fixes all of them at the beginning.
            there = sa.table(name, schema=self._schema)
            self._connection.execute(sa.select(sa.literal(1)).select_from(there).where(sa.false()))
        known = sa.MetaData(schema=self._schema)
        for name in names:
            with warnings.catch_warnings(
                action="ignore", category=sa.exc.SAWarning
            ):  # of a type nobody knows
                table = sa.Table(name, known, autoload_with=self._connection, resolve_fks=False)
            self._reflected[name] = table
            columns = [_column(one) for one in table.columns]
            self._tables[name] = Table(
                _facts(table, columns, self._connection.dialect), columns, by_key=_by_number(table)
            )
            for column in columns:
                if column.select:
                    self._prove(table, column.facts.name)

    def row_count(self, table: str) -> int:
        """Return `count(*)` of the table inside the transaction."""
        self._table(table)
        query = sa.select(sa.func.count()).select_from(self._reflected[table])
        return int(self._connection.execute(query).scalar_one())

    def _prove(self, table: sa.Table, name: str) -> None:
        """Have the database turn its own text of every value back.

        Raises:
            SourceError: it cannot, or some other value comes of it.
        """
        column = table.c[name]
        back = sa.cast(sa.cast(column, sa.Text()), column.type)
        other = sa.or_(back != column, sa.and_(column.is_not(None), back.is_(None)))
        try:
            broken = self._connection.execute(
                sa.select(sa.func.count()).select_from(table).where(other)
            ).scalar_one()
            why = f"the database reads the text of {broken} values back otherwise"
        except sa.exc.SQLAlchemyError as error:
            broken, why = 1, _reason(error)
        if broken:
            raise SourceError(
                f"Mailstay cannot read the type {_spelled(column.type, self._connection.dialect)} exactly: {why}",
                where=f"{table.name}.{name}",
                fix="exclude the table in the plan",
            ) from None

    def _select(self, table: Table) -> Cursor:
        reflected = self._reflected[table.facts.name]
        picked = [
            # Without a type SQLAlchemy leaves the driver's value alone.
            sa.type_coerce(sa.cast(one, sa.Text()) if column.select else one, sa.types.NullType()).label(
                f"c{at}"
            )
            for at, (one, column) in enumerate(zip(reflected.columns, table.columns, strict=True))
        ]
        query = sa.select(*picked).select_from(reflected)
        if table.by_key:
            query = query.order_by(*reflected.primary_key.columns)
        return self._connection.execution_options(stream_results=True).execute(query)  # type: ignore[return-value]

    def _fetch(self, table: Table, cursor: Cursor, rows: int) -> list[tuple[Any, ...]]:
        return [tuple(row) for row in cursor.fetchmany(rows)]

    def _wider(self, table: Table, column: Column) -> Column | None:
        if column.facts.cast == "text":
            return None
        if not column.select:
            self._prove(self._reflected[table.facts.name], column.facts.name)
        return _as_text(column.facts)


_BY_TEXT = "text"
"""The `select` of a column that is read as the database's text; the others have none."""

_NATIVE: tuple[tuple[type[sa.types.TypeEngine[Any]], pa.DataType, tuple[type, ...]], ...] = (
    (sa.types.Boolean, pa.bool_(), (bool,)),
    (sa.types.Integer, pa.int64(), (int,)),
    (sa.types.Float, pa.float64(), (float,)),
    (sa.types.LargeBinary, pa.binary(), (bytes, memoryview)),
    (sa.types.BINARY, pa.binary(), (bytes, memoryview)),
    (sa.types.VARBINARY, pa.binary(), (bytes, memoryview)),
)


def _column(column: sa.Column[Any]) -> Column:
    kind = column.type
    facts = ColumnFacts(
        column.name,
        _spelled(kind, None),
        bool(column.nullable),
        generated=column.computed is not None,
    )
    for sort, arrow, python in _NATIVE:
        if isinstance(kind, sort):
            return Column(facts, "", arrow, _plain(arrow, *python))
    if isinstance(kind, sa.types.String) and not isinstance(kind, sa.types.Enum):
        return Column(facts, "", pa.string(), make.text)
    exact = _from_text(kind)
    if exact is not None:
        return Column(facts, _BY_TEXT, exact, make.from_sql_text(exact))
    return _as_text(facts)


def _from_text(kind: sa.types.TypeEngine[Any]) -> pa.DataType | None:
    """Return the Arrow type that the text of values of `kind` is read into where all of them fit."""
    if isinstance(kind, sa.types.Numeric) and kind.precision is not None:
        return make.decimal_type(kind.precision, kind.scale or 0)
    if isinstance(kind, sa.types.DateTime):
        return pa.timestamp("us", "UTC" if kind.timezone else None)
    if isinstance(kind, sa.types.Date):
        return pa.date32()
    if isinstance(kind, sa.types.Time) and not kind.timezone:
        return pa.time64("us")
    return pa.uuid() if isinstance(kind, sa.types.Uuid) else None


def _as_text(facts: ColumnFacts) -> Column:
    return Column(replace(facts, cast="text"), _BY_TEXT, pa.string(), make.text)


def _plain(arrow: pa.DataType, *python: type) -> Any:
    exact = make.plain(arrow, *python)

    def convert(values: Values) -> pa.Array:
        if memoryview in python:
            values = [bytes(one) if isinstance(one, memoryview) else one for one in values]
        return exact(values)

    return convert


def _by_number(table: sa.Table) -> bool:
    """Return whether rows can be had in the order of the key, as every database has it."""
    key = list(table.primary_key.columns)
    return bool(key) and all(isinstance(one.type, sa.types.Integer) for one in key)


def _facts(table: sa.Table, columns: list[Column], dialect: sa.Dialect) -> TableFacts:
    lost = ["triggers, privileges and whatever else SQLAlchemy does not tell of a table"]
    try:
        ddl = str(CreateTable(table).compile(dialect=dialect)).strip()
    except sa.exc.SQLAlchemyError:
        ddl = ""
        lost.append("its definition: SQLAlchemy cannot spell one of its types")
    return TableFacts(
        name=table.name,
        columns=tuple(column.facts for column in columns),
        primary_key=tuple(one.name for one in table.primary_key.columns),
        foreign_keys=tuple(
            ForeignKey(
                tuple(one.parent.name for one in key.elements),
                key.elements[0].target_fullname.split(".")[-2],
                tuple(one.target_fullname.split(".")[-1] for one in key.elements),
            )
            for key in sorted(table.foreign_key_constraints, key=lambda key: str(key.name))
        ),
        ddl=ddl,
        keys=tuple(
            str(CreateIndex(index).compile(dialect=dialect))
            for index in sorted(table.indexes, key=lambda index: str(index.name))
        ),
        lost=tuple(lost),
    )


def _isolated(connection: sa.Connection, where: str) -> str:
    """Make every transaction of the connection one point in time, and return its level of isolation.

    Raises:
        SourceError: the dialect has no such level.
    """
    raw = connection.connection.dbapi_connection
    try:
        known = connection.dialect.get_isolation_level_values(raw)  # type: ignore[arg-type]
    except NotImplementedError:
        known = ()
    for level in _POINTS:
        if level in known:
            connection.execution_options(isolation_level=level)
            return level
    raise SourceError(
        f"{connection.dialect.name} offers no transaction that reads all tables as of one point in time",
        where=where,
        fix="back up a copy of the database that nobody writes to, in a kind of database that does",
    )


def _spelled(kind: sa.types.TypeEngine[Any], dialect: sa.Dialect | None) -> str:
    try:
        return kind.compile(dialect)
    except sa.exc.SQLAlchemyError:
        return type(kind).__name__


def _reason(error: Exception) -> str:
    """Return the driver's first line, which names what failed."""
    return str(getattr(error, "orig", None) or error).splitlines()[0]
