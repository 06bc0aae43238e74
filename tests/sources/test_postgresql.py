"""PostgreSQL on a real server: one point in time, exact types, everything else as its own text."""
# ruff: noqa: DTZ001 (the columns under test hold naive times)

from __future__ import annotations

import datetime as dt
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pytest
import sqlalchemy as sa

from tasks.core import SystemClock, TableChecksum
from tasks.sources import SourceError, SourceReader, ValueDoesNotFit, open_source

pytestmark = pytest.mark.integration


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


def read_all(reader: SourceReader, table: str) -> pa.Table:
    while True:
        try:
            batches = list(reader.batches(table, 100))
        except ValueDoesNotFit:
            continue
        return pa.Table.from_batches(batches, reader.schema(table))


def value_of(url: str) -> tuple[Any, pa.DataType, str | None]:
    with open_source("s", url).open(SystemClock()) as reader:
        data = read_all(reader, "t")
        return data.column("v")[0].as_py(), data.schema.field("v").type, reader.facts("t").columns[1].cast


@pytest.mark.parametrize(
    ("declared", "literal", "expected", "arrow", "cast"),
    [
        ("smallint", "-32768", -32768, pa.int16(), None),
        ("integer", "7", 7, pa.int32(), None),
        ("bigint", "9223372036854775807", 2**63 - 1, pa.int64(), None),
        ("numeric(12,3)", "2.55", Decimal("2.550"), pa.decimal128(12, 3), None),
        ("numeric(50,2)", "1e40", Decimal(10) ** 40, pa.decimal256(50, 2), None),
        ("numeric(12,3)", "'NaN'", "NaN", pa.string(), "text"),
        ("numeric", "1.10", "1.10", pa.string(), "text"),
        ("double precision", "'-Infinity'", float("-inf"), pa.float64(), None),
        ("real", "1.5", 1.5, pa.float32(), None),
        ("boolean", "true", True, pa.bool_(), None),
        ("text", "'naïve ''q'''", "naïve 'q'", pa.string(), None),
        ("char(5)", "'ab'", "ab   ", pa.string(), None),
        ("bytea", "'\\x00ff'", b"\x00\xff", pa.binary(), None),
        ("date", "'2011-02-28'", dt.date(2011, 2, 28), pa.date32(), None),
        ("date", "'infinity'", "infinity", pa.string(), "text"),
        ("date", "'0044-03-15 BC'", "0044-03-15 BC", pa.string(), "text"),
        (
            "timestamp",
            "'2011-02-28 01:02:03.000004'",
            dt.datetime(2011, 2, 28, 1, 2, 3, 4),
            pa.timestamp("us"),
            None,
        ),
        ("timestamp", "'-infinity'", "-infinity", pa.string(), "text"),
        ("timestamptz", "'12011-01-01 00:00Z'", "12011-01-01 00:00:00+00", pa.string(), "text"),
        ("time", "'23:59:59.5'", dt.time(23, 59, 59, 500000), pa.time64("us"), None),
        ("time", "'24:00'", "24:00:00", pa.string(), "text"),
        ("timetz", "'01:02:03+02'", "01:02:03+02", pa.string(), "text"),
        ("interval", "'1 mon 2 days 3 s'", "1 mon 2 days 00:00:03", pa.string(), "text"),
        ("money", "'12.50'", "$12.50", pa.string(), "text"),
        ("integer[]", "'{{1,2},{3,NULL}}'", "{{1,2},{3,NULL}}", pa.string(), "text"),
        ("int4range", "'[1,5)'", "[1,5)", pa.string(), "text"),
        ("inet", "'10.0.0.1/8'", "10.0.0.1/8", pa.string(), "text"),
        (
            "uuid",
            "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'",
            UUID("a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            pa.uuid(),
            None,
        ),
        ("jsonb", """'{"bb": 1.10, "a": [null]}'""", '{"a": [null], "bb": 1.10}', pa.string(), "text"),
        ("json", """'{"b": 1, "b": 2}'""", '{"b": 1, "b": 2}', pa.string(), "text"),
        ("bit varying", "B'101'", "101", pa.string(), "text"),
    ],
)
def test_a_type_is_exact_or_its_cast_is_recorded(
    database: str,
    writer: sa.Connection,
    declared: str,
    literal: str,
    expected: Any,
    arrow: pa.DataType,
    cast: str | None,
) -> None:
    run(writer, f"CREATE TABLE t (id int PRIMARY KEY, v {declared})", f"INSERT INTO t VALUES (1, {literal})")
    assert value_of(database) == (expected, arrow, cast)


def test_the_text_of_a_cast_column_restores_the_same_value(database: str, writer: sa.Connection) -> None:
    run(
        writer,
        "CREATE TYPE mood AS ENUM ('so so', 'fine')",
        "CREATE DOMAIN small AS integer CHECK (value < 10)",
        "CREATE TABLE t (id int PRIMARY KEY, m mood, i interval, r tstzrange, a text[], n numeric, s small)",
        """INSERT INTO t VALUES (1, 'so so', '-3 days', '[2011-01-01 00:00+00,)', '{"a,b",NULL,"c d"}', 1e-30, 4)""",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        row = read_all(reader, "t").to_pylist()[0]
    assert row["s"] == 4, "a domain is read as the type it is over"
    again = {name: value for name, value in row.items() if name != "id"}
    writer.execute(
        sa.text(
            "INSERT INTO t VALUES (2, CAST(:m AS mood), CAST(:i AS interval), CAST(:r AS tstzrange),"
            " CAST(:a AS text[]), CAST(:n AS numeric), :s)"
        ),
        again,
    )
    same = "SELECT count(DISTINCT (m, i, r, a, n, s)) FROM t"
    assert writer.exec_driver_sql(same).scalar_one() == 1


def test_rows_written_while_a_table_is_read_do_not_show(database: str, writer: sa.Connection) -> None:
    run(writer, "CREATE TABLE t (id int PRIMARY KEY)", "CREATE TABLE u (id int)")
    run(writer, "INSERT INTO t SELECT generate_series(1, 1000)")
    with open_source("s", database).open(SystemClock()) as reader:
        batches = reader.batches("t", 100)
        seen = next(batches).num_rows
        run(
            writer, "INSERT INTO t VALUES (5000)", "DELETE FROM t WHERE id = 1000", "INSERT INTO u VALUES (1)"
        )
        seen += sum(batch.num_rows for batch in batches)
        assert (seen, reader.row_count("t"), reader.row_count("u")) == (1000, 1000, 0)


def test_a_truncate_waits_until_the_snapshot_is_read(database: str, writer: sa.Connection) -> None:
    run(writer, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t SELECT generate_series(1, 10)")
    truncated = threading.Event()

    def truncate() -> None:
        run(writer, "TRUNCATE t")
        truncated.set()

    with open_source("s", database).open(SystemClock()) as reader:
        thread = threading.Thread(target=truncate)
        thread.start()
        assert not truncated.wait(0.5)
        assert read_all(reader, "t").num_rows == 10
    thread.join(10)
    assert truncated.is_set()


def test_row_level_security_is_an_error_and_never_a_smaller_table(
    database: str, writer: sa.Connection
) -> None:
    run(
        writer,
        "DROP ROLE IF EXISTS limited",
        "CREATE ROLE limited LOGIN",
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1), (2)",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY one ON t USING (id = 1)",
        "GRANT SELECT ON t TO limited",
    )
    try:
        url = sa.make_url(database).set(username="limited").render_as_string(hide_password=False)
        with (
            pytest.raises(SourceError, match="row-level security"),
            open_source("s", url).open(SystemClock()) as one,
        ):
            one.row_count("t")
    finally:
        run(writer, "DROP OWNED BY limited", "DROP ROLE limited")


def test_a_role_that_may_only_read_can_back_up(database: str, writer: sa.Connection) -> None:
    run(
        writer,
        "DROP ROLE IF EXISTS reader",
        "CREATE ROLE reader LOGIN",
        "CREATE TABLE t (id int PRIMARY KEY)",
    )
    run(writer, "INSERT INTO t VALUES (1)", "GRANT SELECT ON t TO reader")
    try:
        url = sa.make_url(database).set(username="reader").render_as_string(hide_password=False)
        with open_source("s", url).open(SystemClock()) as one:
            assert read_all(one, "t").num_rows == 1
    finally:
        run(writer, "DROP OWNED BY reader", "DROP ROLE reader")


def test_partitions_come_once_and_inherited_rows_stay_with_their_table(
    database: str, writer: sa.Connection
) -> None:
    run(
        writer,
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "INSERT INTO p VALUES (1), (2)",
        "CREATE TABLE base (id int)",
        "CREATE TABLE child () INHERITS (base)",
        "INSERT INTO base VALUES (1)",
        "INSERT INTO child VALUES (2)",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        counts = {
            one.name: (reader.row_count(one.name), read_all(reader, one.name).num_rows)
            for one in reader.tables()
        }
    assert counts == {"base": (1, 1), "child": (1, 1), "p": (2, 2)}


def test_the_recorded_ddl_builds_the_same_table(
    database: str, writer: sa.Connection, new_database: Callable[[], str]
) -> None:
    run(
        writer,
        "CREATE TABLE u (id int PRIMARY KEY)",
        'CREATE TABLE "Mixed ""case" (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, "O\'x %s" varchar(9)'
        " DEFAULT 'it''s' NOT NULL, n numeric(12,3) CHECK (n > 0), u int REFERENCES u,"
        " g int GENERATED ALWAYS AS (u * 2) STORED,"
        " UNIQUE (n, u))",
    )
    other = sa.create_engine(new_database(), isolation_level="AUTOCOMMIT")
    with open_source("s", database).open(SystemClock()) as reader:
        facts = {one.name: one for one in reader.tables()}
    with other.connect() as connection:
        built = [facts["u"], facts['Mixed "case']]
        for part in ("before", "ddl", "keys", "links"):
            for one in built:
                statements = getattr(one, part)
                for statement in [statements] if part == "ddl" else statements:
                    connection.exec_driver_sql(statement.replace("%", "%%"))
    with open_source("s", other.url.render_as_string(hide_password=False)).open(SystemClock()) as reader:
        assert {one.name: one for one in reader.tables()} == facts
    other.dispose()


def test_the_same_rows_have_the_same_checksum_in_sqlite_and_postgresql(
    database: str, writer: sa.Connection, tmp_path: Path
) -> None:
    metadata = sa.MetaData()
    table = sa.Table(
        "t",
        metadata,
        sa.Column("id", sa.String(9), primary_key=True),
        sa.Column("n", sa.Integer),
        sa.Column("big", sa.BigInteger),
        sa.Column("price", sa.Numeric(12, 3)),
        sa.Column("at", sa.TIMESTAMP),
        sa.Column("day", sa.Date),
        sa.Column("clock", sa.Time),
        sa.Column("flag", sa.Boolean),
        sa.Column("doc", sa.JSON),
        sa.Column("raw", sa.LargeBinary),
        sa.Column("f", sa.Float(53)),
    )
    rows = [
        {
            "id": name, "n": 1, "big": -(2**60), "price": Decimal("2.55"), "at": dt.datetime(2011, 1, 2, 3, 4, 5, 6),
            "day": dt.date(2011, 1, 2), "clock": dt.time(3, 4), "flag": True, "doc": {"b": [1, 2.5], "a": "ü"},
            "raw": b"\x00\xff", "f": 0.1,
        }
        for name in ("B", "a", "é", "Z z")
    ]  # fmt: skip
    rows.append({"id": "nothing"} | dict.fromkeys(rows[0].keys() - {"id"}, None))  # type: ignore[arg-type]
    rows[-1]["doc"] = sa.null()
    lite = sa.create_engine(f"sqlite:///{tmp_path / 's.db'}")
    for engine in (lite, writer.engine):
        metadata.create_all(engine)
        with engine.begin() as connection:
            connection.execute(table.insert(), rows[:-1])
            connection.execute(table.insert(), rows[-1:])
    results = []
    for url in (f"sqlite:///{tmp_path / 's.db'}", database):
        with open_source("s", url).open(SystemClock()) as reader:
            data, checksum = read_all(reader, "t"), TableChecksum()
        for batch in data.to_batches():
            checksum.update(batch)
        results.append((checksum.hexdigest(), data.column("id").to_pylist()))
    assert results[0] == results[1]
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("UPDATE t SET price = 2.56 WHERE id = 'a'")
        connection.commit()
    with open_source("s", f"sqlite:///{tmp_path / 's.db'}").open(SystemClock()) as reader:
        changed = TableChecksum()
        for batch in reader.batches("t"):
            changed.update(batch)
    assert changed.hexdigest() != results[0][0]


def test_an_unreachable_server_is_a_clear_error() -> None:
    with pytest.raises(SourceError, match="could not be read"):
        with open_source("s", "postgresql://u:hidden@127.0.0.1:1/x?connect_timeout=2").open(SystemClock()):
            pass


def test_a_large_table_with_random_keys_is_read_as_it_is_stored(database: str, writer: sa.Connection) -> None:
    run(
        writer,
        "CREATE TABLE ordered AS SELECT i id FROM generate_series(1, 120000) i",
        "ALTER TABLE ordered ADD PRIMARY KEY (id)",
        "CREATE TABLE shuffled AS SELECT md5(i::text)::uuid id FROM generate_series(1, 120000) i",
        "ALTER TABLE shuffled ADD PRIMARY KEY (id)",
        "CREATE TABLE short AS SELECT md5(i::text)::uuid id FROM generate_series(1, 100) i",
        "ALTER TABLE short ADD PRIMARY KEY (id)",
        "ANALYZE",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        assert {one.name: reader.ordered_by(one.name) for one in reader.tables()} == {
            "ordered": ("id",),
            "short": ("id",),
            "shuffled": (),
        }
        short, shuffled = (
            [id.bytes for batch in reader.batches(name) for id in batch.column(0).to_pylist()]
            for name in ("short", "shuffled")
        )
    assert short == sorted(short)
    assert len(set(shuffled)) == 120_000
    assert shuffled != sorted(shuffled)
