"""Any other dialect: nothing is known of its driver, so the database has to show that its text is the value.

The server is PostgreSQL under a name that Mailstay knows nothing of.
"""
# ruff: noqa: DTZ001 (the columns under test hold naive times)

from __future__ import annotations

import datetime as dt
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import registry
from sqlalchemy.dialects.postgresql.psycopg import PGDialect_psycopg

from tasks.core import SystemClock, UsageError
from tasks.sources import SourceError, SourceReader, ValueDoesNotFit, open_source, reading

pytestmark = pytest.mark.integration


class Unknown(PGDialect_psycopg):
    name = "unknown"
    supports_statement_cache = True


class Pointless(Unknown):
    """A dialect that has no level of isolation at which a transaction is one point in time."""

    name = "pointless"

    def get_isolation_level_values(self, dbapi_conn: Any) -> list[str]:  # type: ignore[override]
        return ["READ COMMITTED", "REPEATABLE READ"]


registry.impls["unknown"] = lambda: Unknown
registry.impls["pointless"] = lambda: Pointless


@pytest.fixture
def database(new_database: Callable[[], str]) -> str:
    return new_database()


@pytest.fixture
def writer(database: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        yield connection
    engine.dispose()


def run(writer: sa.Connection, *statements: str) -> None:
    for statement in statements:
        writer.exec_driver_sql(statement)


def unknown(url: str, name: str = "unknown") -> str:
    return sa.make_url(url).set(drivername=name).render_as_string(hide_password=False)


def read_all(reader: SourceReader, table: str, batch_rows: int = 65_536) -> pa.Table:
    while True:
        try:
            batches = list(reader.batches(table, batch_rows))
        except ValueDoesNotFit:
            continue
        return pa.Table.from_batches(batches, reader.schema(table))


@pytest.mark.parametrize(
    ("declared", "literal", "expected", "arrow", "cast"),
    [
        ("bigint", "-9223372036854775808", -(2**63), pa.int64(), None),
        ("double precision", "'-0'", -0.0, pa.float64(), None),
        ("boolean", "true", True, pa.bool_(), None),
        ("text", "'dé 😀 %s'", "dé 😀 %s", pa.string(), None),
        ("varchar(3)", "'a  '", "a  ", pa.string(), None),
        ("bytea", "'\\x00ff'", b"\0\xff", pa.binary(), None),
        ("numeric(30, 4)", "-1.0001", Decimal("-1.0001"), pa.decimal128(30, 4), None),
        ("numeric(30, 4)", "'NaN'", "NaN", pa.string(), "text"),
        ("numeric", "1.00000000000000000000000000001", "1.00000000000000000000000000001", pa.string(), "text"),
        ("date", "'2011-02-28'", dt.date(2011, 2, 28), pa.date32(), None),
        ("date", "'infinity'", "infinity", pa.string(), "text"),
        ("date", "'0044-03-15 BC'", "0044-03-15 BC", pa.string(), "text"),
        ("timestamp", "'2011-02-28 01:02:03.4'", dt.datetime(2011, 2, 28, 1, 2, 3, 400000), pa.timestamp("us"), None),
        (
            "timestamptz",
            "'2011-02-28 01:02:03+02'",
            dt.datetime(2011, 2, 27, 23, 2, 3, 0, ZoneInfo("UTC")),
            pa.timestamp("us", "UTC"),
            None,
        ),
        ("time", "'24:00:00'", "24:00:00", pa.string(), "text"),
        ("time", "'23:59:59.000001'", dt.time(23, 59, 59, 1), pa.time64("us"), None),
        ("timetz", "'10:00:00+02:30'", "10:00:00+02:30", pa.string(), "text"),
        ("interval", "'14 months 25 hours'", "1 year 2 mons 25:00:00", pa.string(), "text"),
        (
            "uuid",
            "'5E4F3A2B-0000-0000-0000-000000000001'",
            UUID("5e4f3a2b-0000-0000-0000-000000000001"),
            pa.uuid(),
            None,
        ),
        ("jsonb", '\'{"b": 1.10}\'', '{"b": 1.10}', pa.string(), "text"),
        ("integer[]", "'{1,NULL}'", "{1,NULL}", pa.string(), "text"),
        ("inet", "'10.0.0.1/8'", "10.0.0.1/8", pa.string(), "text"),
    ],
)  # fmt: skip
def test_every_type_is_exact_or_the_databases_own_text(
    database: str,
    writer: sa.Connection,
    declared: str,
    literal: str,
    expected: Any,
    arrow: pa.DataType,
    cast: str | None,
) -> None:
    run(
        writer,
        f"CREATE TABLE t (id integer PRIMARY KEY, v {declared})",
        f"INSERT INTO t VALUES (1, {literal.replace('%', '%%')}), (2, NULL)",
    )
    with open_source("s", unknown(database)).open(SystemClock()) as reader:
        data = read_all(reader, "t")
        facts = reader.facts("t").columns[1]
    assert repr(data.column("v").to_pylist()) == repr([expected, None])
    assert (data.schema.field("v").type, facts.cast) == (arrow, cast)


@pytest.mark.parametrize(
    ("declared", "value"),
    [("json", "'{}'"), ("point", "'(1,2)'")],
)
def test_a_type_of_which_the_database_cannot_show_that_its_text_is_the_value_is_refused(
    database: str, writer: sa.Connection, declared: str, value: str
) -> None:
    run(writer, f"CREATE TABLE t (v {declared})", f"INSERT INTO t VALUES ({value})")
    with pytest.raises(SourceError, match="cannot read the type") as refused:
        with open_source("s", unknown(database)).open(SystemClock()):
            pass
    assert refused.value.where == "t.v"


def test_a_text_that_loses_digits_is_refused(database: str, writer: sa.Connection) -> None:
    # With this setting PostgreSQL's text of a float in an array has 6 digits.
    run(
        writer,
        "CREATE TABLE t (v double precision[])",
        "INSERT INTO t VALUES ('{0.1234567890123456}')",
        f'ALTER DATABASE "{sa.make_url(database).database}" SET extra_float_digits = -9',
    )
    with pytest.raises(SourceError, match="reads the text of 1 values back otherwise"):
        with open_source("s", unknown(database)).open(SystemClock()):
            pass


def test_names_keys_indexes_and_tables_without_rows_or_key(database: str, writer: sa.Connection) -> None:
    run(
        writer,
        "CREATE TABLE p (a integer, b integer, PRIMARY KEY (b, a))",
        "CREATE TABLE t (id integer PRIMARY KEY, x integer, y integer,"
        " twice integer GENERATED ALWAYS AS (x * 2) STORED, FOREIGN KEY (y, x) REFERENCES p (b, a))",
        "CREATE INDEX by_x ON t (x)",
        'CREATE TABLE "Odd ""name; -- :x %%s" ("a.b" integer, "select" text)',
        "INSERT INTO \"Odd \"\"name; -- :x %%s\" VALUES (1, ''), (1, '')",
        "CREATE VIEW seen AS SELECT 1",
        f"CREATE TABLE wide ({', '.join(f'c{at} smallint' for at in range(1000))})",
        f"INSERT INTO wide VALUES ({', '.join(map(str, range(1000)))})",
    )
    with open_source("s", unknown(database)).open(SystemClock()) as reader:
        assert [facts.name for facts in reader.tables()] == ['Odd "name; -- :x %s', "p", "t", "wide"]
        assert read_all(reader, 'Odd "name; -- :x %s').to_pylist() == [{"a.b": 1, "select": ""}] * 2
        assert list(read_all(reader, "wide").to_pylist()[0].values()) == list(range(1000))
        assert read_all(reader, "p").num_rows == reader.row_count("p") == 0
        facts = reader.facts("t")
        assert reader.ordered_by("p") == ("b", "a")
        assert reader.consistency["kind"] == "unknown_serializable"
    assert facts.primary_key == ("id",)
    assert [(key.columns, key.references, key.referred_columns) for key in facts.foreign_keys] == [
        (("y", "x"), "p", ("b", "a"))
    ]
    assert [column.name for column in facts.columns if column.generated] == ["twice"]
    assert "CREATE TABLE t" in facts.ddl and any("by_x" in one for one in facts.keys)


def test_what_others_commit_meanwhile_is_not_seen(database: str, writer: sa.Connection) -> None:
    run(
        writer,
        "CREATE TABLE a (id integer PRIMARY KEY, v integer)",
        "INSERT INTO a SELECT i, 0 FROM generate_series(1, 5000) i",
        "CREATE TABLE b AS SELECT * FROM a",
    )
    with open_source("s", unknown(database)).open(SystemClock()) as reader:
        batches = reader.batches("a", 100)
        found = [next(batches)]
        run(writer, "UPDATE a SET v = 1", "DELETE FROM b WHERE id < 10", "INSERT INTO b VALUES (0, 1)")
        found += list(batches)
        assert pa.Table.from_batches(found).column("v").to_pylist() == [0] * 5_000
        assert reader.row_count("b") == 5_000
        run(writer, "SET lock_timeout = '200ms'")
        with pytest.raises(sa.exc.OperationalError, match="lock timeout"):
            run(writer, "TRUNCATE b")  # every table is held from the beginning


def test_rows_come_by_a_cursor_of_the_server(database: str, writer: sa.Connection) -> None:
    run(writer, "CREATE TABLE t AS SELECT i FROM generate_series(1, 5000) i")
    with open_source("s", unknown(database)).open(SystemClock()) as reader:
        batches = reader.batches("t", 100)
        found = next(batches).num_rows
        cursors = reader._connection.exec_driver_sql("SELECT statement FROM pg_cursors").all()  # type: ignore[attr-defined]
        assert any("FROM t" in one for (one,) in cursors)
        assert found + sum(batch.num_rows for batch in batches) == 5_000


def test_large_values_after_many_small_ones_are_never_in_memory_together(
    database: str, writer: sa.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 2**20)
    run(
        writer,
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT i, CASE WHEN i > 2000 THEN repeat('x', 262144) ELSE 'x' END"
        " FROM generate_series(1, 2080) i",
    )
    with open_source("s", unknown(database)).open(SystemClock()) as reader:
        sizes = [(batch.num_rows, batch.nbytes) for batch in reader.batches("t")]
    assert sum(rows for rows, _ in sizes) == 2_080
    assert max(size for _, size in sizes) < 2**20 + 2**18 + 2**16


def test_a_dialect_without_a_point_in_time_is_refused(database: str) -> None:
    with pytest.raises(SourceError, match="pointless offers no transaction that reads all tables"):
        with open_source("s", unknown(database, "pointless")).open(SystemClock()):
            pass


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("nosuch://host/db", "SQLAlchemy has no dialect 'nosuch'"),
        ("oracle+oracledb://host/db", "needs the package oracledb"),
    ],
)
def test_a_dialect_that_is_not_installed_says_what_to_install(url: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        with open_source("s", url).open(SystemClock()):
            pass
