"""MySQL and MariaDB, against a real MariaDB server: every value exact or as the server's own text, from one point."""
# ruff: noqa: DTZ001 (the columns under test hold naive times)

from __future__ import annotations

import datetime as dt
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import pyarrow as pa
import pymysql
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core import SystemClock
from tasks.sources import SourceError, SourceReader, ValueDoesNotFit, open_source, reading

pytestmark = pytest.mark.integration


@pytest.fixture
def database(new_mariadb: Callable[[], str]) -> str:
    return new_mariadb()


@pytest.fixture
def writer(database: str) -> Iterator[pymysql.cursors.Cursor]:
    with connected(database) as connection, connection.cursor() as cursor:
        yield cursor


def connected(url: str, **more: Any) -> pymysql.Connection[Any]:
    parsed = sa.make_url(url)
    return pymysql.connect(
        unix_socket=str(parsed.query["unix_socket"]),
        user=more.pop("user", "root"),
        database=parsed.database,
        autocommit=True,
        charset="utf8mb4",
        **more,
    )


def run(writer: pymysql.cursors.Cursor, *statements: str) -> None:
    for statement in statements:
        writer.execute(statement)


def read_all(reader: SourceReader, table: str, batch_rows: int = 65_536) -> pa.Table:
    while True:
        try:
            batches = list(reader.batches(table, batch_rows))
        except ValueDoesNotFit:
            continue
        return pa.Table.from_batches(batches, reader.schema(table))


def table_of(url: str, name: str = "t") -> pa.Table:
    with open_source("s", url).open(SystemClock()) as reader:
        return read_all(reader, name)


UTC = dt.UTC
MATRIX: list[tuple[str, str, Any, pa.DataType, str | None]] = [
    ("tinyint", "-128", -128, pa.int8(), None),
    ("tinyint(1)", "5", 5, pa.int8(), None),
    ("smallint unsigned", "65535", 65535, pa.uint16(), None),
    ("mediumint", "-8388608", -8388608, pa.int32(), None),
    ("int(5) zerofill", "42", 42, pa.uint32(), None),
    ("bigint", "-9223372036854775808", -(2**63), pa.int64(), None),
    ("bigint unsigned", "18446744073709551615", 2**64 - 1, pa.uint64(), None),
    ("decimal(10,2) zerofill", "1.5", Decimal("1.50"), pa.decimal128(10, 2), None),
    (
        "decimal(65,30)",
        "12345678901234567890123456789012345.123456789012345678901234567890",
        Decimal("12345678901234567890123456789012345.123456789012345678901234567890"),
        pa.decimal256(65, 30),
        None,
    ),
    ("float", "1234567.875", 1234567.875, pa.float32(), None),  # the server's text of it: 1234570
    ("double", "-0.1e0", -0.1, pa.float64(), None),
    ("double", "1.7976931348623157e308", 1.7976931348623157e308, pa.float64(), None),
    ("double(20,3)", "12345678901234567.891", 12345678901234568.0, pa.float64(), None),
    ("bit(5)", "b'10101'", 21, pa.uint64(), None),
    ("bit(64)", "x'ffffffffffffffff'", 2**64 - 1, pa.uint64(), None),
    ("year", "0", 0, pa.int16(), None),
    ("year", "2155", 2155, pa.int16(), None),
    ("date", "'9999-12-31'", dt.date(9999, 12, 31), pa.date32(), None),
    ("date", "'0000-00-00'", "0000-00-00", pa.string(), "text"),
    ("date", "'2011-00-00'", "2011-00-00", pa.string(), "text"),
    ("date", "'2011-02-31'", "2011-02-31", pa.string(), "text"),
    ("date", "'0000-01-01'", "0000-01-01", pa.string(), "text"),
    ("datetime", "'2011-02-28 01:02:03'", dt.datetime(2011, 2, 28, 1, 2, 3), pa.timestamp("us"), None),
    (
        "datetime(3)",
        "'2011-02-28 01:02:03.004'",
        dt.datetime(2011, 2, 28, 1, 2, 3, 4000),
        pa.timestamp("us"),
        None,
    ),
    ("datetime(6)", "'0000-00-00 00:00:00'", "0000-00-00 00:00:00.000000", pa.string(), "text"),
    (
        "timestamp(6) null",
        "'2011-02-28 01:02:03.000004'",
        dt.datetime(2011, 2, 28, 1, 2, 3, 4, ZoneInfo("UTC")),
        pa.timestamp("us", "UTC"),
        None,
    ),
    ("timestamp null", "'0000-00-00 00:00:00'", "0000-00-00 00:00:00", pa.string(), "text"),
    ("time(6)", "'23:59:59.999999'", dt.time(23, 59, 59, 999999), pa.time64("us"), None),
    ("time", "'838:59:59'", "838:59:59", pa.string(), "text"),
    ("time", "'24:00:00'", "24:00:00", pa.string(), "text"),
    ("time(2)", "'-00:00:00.01'", "-00:00:00.01", pa.string(), "text"),
    ("char(5)", "'a  '", "a", pa.string(), None),  # the server cuts the spaces off, whoever reads
    ("varchar(9)", "'a  '", "a  ", pa.string(), None),
    ("varchar(9) character set latin1", "'é€'", "é€", pa.string(), None),
    ("varchar(9)", "'😀\\0%s'", "😀\0%s", pa.string(), None),
    ("text character set utf16", "'😀'", "😀", pa.string(), None),
    ("longblob", "x'00ff'", b"\x00\xff", pa.binary(), None),
    ("binary(4)", "x'01'", b"\x01\0\0\0", pa.binary(), None),
    ("enum('a','b,c')", "'b,c'", "b,c", pa.string(), "text"),
    ("set('x','y','z')", "'z,x'", "x,z", pa.string(), "text"),
    ("json", '\'{"b": 1.10, "a" : [1,  2]}\'', '{"b": 1.10, "a" : [1,  2]}', pa.string(), None),
    (
        "uuid",
        "'5E4F3A2B-0000-0000-0000-000000000001'",
        UUID("5e4f3a2b-0000-0000-0000-000000000001"),
        pa.uuid(),
        None,
    ),
    ("inet6", "'::0001'", "::1", pa.string(), "text"),
    (
        "point",
        "ST_GeomFromText('POINT(1 2)', 4326)",
        struct.pack("<IBIdd", 4326, 1, 1, 1.0, 2.0),
        pa.binary(),
        None,
    ),
]


@pytest.mark.parametrize(("declared", "literal", "expected", "arrow", "cast"), MATRIX)
def test_every_type_is_exact_or_the_servers_own_text(
    database: str,
    writer: pymysql.cursors.Cursor,
    declared: str,
    literal: str,
    expected: Any,
    arrow: pa.DataType,
    cast: str | None,
) -> None:
    run(
        writer,
        "SET sql_mode = 'ALLOW_INVALID_DATES', time_zone = '+00:00'",
        f"CREATE TABLE t (id int PRIMARY KEY, v {declared})",
        f"INSERT INTO t VALUES (1, {literal}), (2, NULL)",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        data = read_all(reader, "t")
        facts = reader.facts("t").columns[1]
    assert repr(data.column("v").to_pylist()) == repr([expected, None])
    assert (data.schema.field("v").type, facts.cast) == (arrow, cast)


single = st.floats(width=32, allow_nan=False, allow_infinity=False, allow_subnormal=False)
double = st.floats(allow_nan=False, allow_infinity=False, allow_subnormal=False)
moment = st.datetimes(dt.datetime(1, 1, 1), dt.datetime(9999, 12, 31))
GENERATED: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "u": ("bigint unsigned", st.integers(0, 2**64 - 1)),
    "n": ("decimal(38,9)", st.decimals(-(10**28), 10**28, places=9)),
    "f": ("float", single),
    "d": ("double", double),
    "w": ("datetime(6)", moment),
    "t": ("timestamp(6) null", st.datetimes(dt.datetime(1970, 1, 2), dt.datetime(2038, 1, 18))),
    "c": ("time(6)", st.times()),
    "s": ("longtext collate utf8mb4_bin", st.text(st.characters(codec="utf-8"))),
    "b": ("longblob", st.binary()),
    "g": ("bit(33)", st.integers(0, 2**33 - 1)),
}


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.fixed_dictionaries({name: st.none() | values for name, (_, values) in GENERATED.items()}),
        max_size=8,
    )
)
def test_generated_rows_read_as_they_were_written(
    database: str, writer: pymysql.cursors.Cursor, rows: list[dict[str, Any]]
) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in GENERATED.items())
    run(
        writer,
        "SET time_zone = '+00:00'",
        f"CREATE TABLE IF NOT EXISTS t (id int PRIMARY KEY, {columns})",
        "DELETE FROM t",
    )
    for at, row in enumerate(rows):
        values = [repr(row[name]) if isinstance(row[name], float) else row[name] for name in GENERATED]
        writer.execute(f"INSERT INTO t VALUES ({at}{', %s' * len(row)})", values)
    found = table_of(database).drop_columns(["id"]).to_pylist()
    for row in rows:
        if row["t"] is not None:
            row["t"] = row["t"].replace(tzinfo=UTC)
    assert found == rows


def test_hostile_names_views_and_tables_without_a_key(database: str, writer: pymysql.cursors.Cursor) -> None:
    name = "Odd `name`; -- %s \"'é"
    quoted = f"`{name.replace('`', '``')}`"
    run(
        writer,
        f'CREATE TABLE {quoted} (`a.b` text, `%d` int, `select` int, `ä``"` int)',
        f"INSERT INTO {quoted} VALUES ('x', 1, 2, 3), ('x', 1, 2, 3)",
        "CREATE TABLE nothing (id int PRIMARY KEY)",
        "CREATE VIEW seen AS SELECT 1",
        "CREATE SEQUENCE numbers",
        "CREATE TABLE versioned (a int) WITH SYSTEM VERSIONING",
        "INSERT INTO versioned VALUES (1)",
        "UPDATE versioned SET a = 2",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        assert [facts.name for facts in reader.tables()] == sorted([name, "nothing", "versioned"])
        assert read_all(reader, name).to_pylist() == [{"a.b": "x", "%d": 1, "select": 2, 'ä`"': 3}] * 2
        assert read_all(reader, "nothing").num_rows == reader.row_count("nothing") == 0
        assert read_all(reader, "versioned").to_pylist() == [{"a": 2}]
        assert reader.facts("versioned").lost == ("the earlier versions of its rows",)


def test_facts_name_keys_computed_columns_and_what_is_lost(
    database: str, writer: pymysql.cursors.Cursor
) -> None:
    run(
        writer,
        "CREATE TABLE p (a int, b int, PRIMARY KEY (b, a))",
        "CREATE TABLE t (id int AUTO_INCREMENT PRIMARY KEY, x int COMMENT 'it''s', y int, z int AS (x * 2) STORED,"
        " at timestamp DEFAULT current_timestamp, hidden int INVISIBLE DEFAULT 7, word varchar(9),"
        " UNIQUE (x), FOREIGN KEY (y, x) REFERENCES p (b, a)) COMMENT 'rows'",
        "CREATE TABLE w (word varchar(9) PRIMARY KEY)",
        "CREATE TRIGGER noted AFTER INSERT ON t FOR EACH ROW SET @x = 1",
        "CREATE SEQUENCE `n``s`",
        "ALTER TABLE t ADD n bigint DEFAULT nextval(`n``s`), ADD m bigint DEFAULT nextval(`n``s`)",
        "INSERT INTO t (id, y, x) VALUES (41, NULL, 1)",
        "CREATE VIEW both_ AS SELECT t.id, p.a FROM t, p",
        "CREATE VIEW upon AS SELECT id FROM both_",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        facts, parent = reader.facts("t"), reader.facts("p")
        assert reader.facts("w").lost == ()
        assert reader.ordered_by("p") == ("b", "a")
        assert reader.ordered_by("w") == ()  # its collation decides the order
        assert reader.consistency["kind"] == "mysql_consistent_snapshot"
        assert "MariaDB" in reader.consistency["id"] and "binary log" in reader.consistency["id"]
    assert parent.primary_key == ("b", "a")
    assert facts.primary_key == ("id",)
    assert [(key.columns, key.references, key.referred_columns) for key in facts.foreign_keys] == [
        (("y", "x"), "p", ("b", "a"))
    ]
    assert [column.name for column in facts.columns if column.generated] == ["z"]
    assert "hidden" in [column.name for column in facts.columns]
    assert not facts.columns[0].nullable and facts.columns[1].nullable
    assert "COMMENT 'it''s'" in facts.ddl and "UNIQUE KEY" in facts.ddl
    assert facts.lost == (
        "trigger noted",
        "view both_",
        "sequence n`s",
        "AUTO_INCREMENT, the next number being 42",
    )
    assert parent.lost == ("view both_",)


def test_a_wide_table_and_a_big_value(database: str, writer: pymysql.cursors.Cursor) -> None:
    columns = ", ".join(f"c{at} smallint" for at in range(900))
    run(
        writer,
        f"CREATE TABLE t ({columns})",
        f"INSERT INTO t VALUES ({', '.join(map(str, range(900)))})",
        "CREATE TABLE big (id int PRIMARY KEY, v longtext)",
        "INSERT INTO big VALUES (1, repeat('é', 20000000))",
    )
    assert list(table_of(database).to_pylist()[0].values()) == list(range(900))
    assert table_of(database, "big").column("v")[0].as_py() == "é" * 20_000_000


def test_rows_come_as_they_are_read_and_are_never_all_in_memory(
    database: str, writer: pymysql.cursors.Cursor
) -> None:
    run(
        writer,
        "CREATE TABLE t (id int PRIMARY KEY, v longblob)",
        "INSERT INTO t SELECT seq, repeat('x', 40000) FROM seq_1_to_6000",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        tracemalloc.start()
        rows = sum(batch.num_rows for batch in reader.batches("t"))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert rows == 6_000
    assert peak < 6_000 * 40_000 / 2


def test_large_values_after_many_small_ones_are_never_in_memory_together(
    database: str, writer: pymysql.cursors.Cursor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 2**20)
    run(
        writer,
        "CREATE TABLE t (id int PRIMARY KEY, v longtext)",
        "INSERT INTO t SELECT seq, if(seq > 2000, repeat('x', 262144), 'x') FROM seq_1_to_2080",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        sizes = [(batch.num_rows, batch.nbytes) for batch in reader.batches("t")]
    assert sum(rows for rows, _ in sizes) == 2_080
    assert max(size for _, size in sizes) < 2**20 + 2**18 + 2**16


def test_what_others_commit_meanwhile_is_not_seen(database: str, writer: pymysql.cursors.Cursor) -> None:
    run(
        writer,
        "CREATE TABLE a (id int PRIMARY KEY, v int)",
        "CREATE TABLE b (id int PRIMARY KEY, v int)",
        "INSERT INTO a SELECT seq, 0 FROM seq_1_to_5000",
        "INSERT INTO b SELECT seq, 0 FROM seq_1_to_5000",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        batches = reader.batches("a", 100)
        found = [next(batches)]
        run(
            writer,
            "UPDATE a SET v = 1",
            "UPDATE b SET v = 1 WHERE id > 10",
            "DELETE FROM b WHERE id <= 10",
            "INSERT INTO b VALUES (9999, 1)",
        )
        found += list(batches)
        assert pa.Table.from_batches(found).column("v").to_pylist() == [0] * 5_000
        assert reader.row_count("b") == 5_000
        assert set(read_all(reader, "b").column("v").to_pylist()) == {0}
    assert set(table_of(database, "a").column("v").to_pylist()) == {1}


@pytest.mark.parametrize(
    "statement", ["TRUNCATE t", "DROP TABLE t", "ALTER TABLE t ADD c int", "RENAME TABLE t TO u"]
)
def test_a_table_cannot_change_its_shape_while_it_is_read(
    database: str, writer: pymysql.cursors.Cursor, statement: str
) -> None:
    run(
        writer,
        "CREATE TABLE t (id int PRIMARY KEY)",
        "INSERT INTO t VALUES (1)",
        "SET lock_wait_timeout = 1",
    )
    with open_source("s", database).open(SystemClock()) as reader:
        with pytest.raises(pymysql.err.OperationalError, match="Lock wait timeout"):
            run(writer, statement)
        assert read_all(reader, "t").num_rows == 1
    run(writer, statement)  # and then it can


@pytest.mark.parametrize("statement", ["TRUNCATE t", "DROP TABLE t", "ALTER TABLE t FORCE"])
def test_a_table_that_changed_between_the_point_and_the_lock_is_refused(
    database: str, writer: pymysql.cursors.Cursor, statement: str
) -> None:
    run(writer, "CREATE TABLE t (id int PRIMARY KEY)", "INSERT INTO t VALUES (1)")

    class Meanwhile(SystemClock):
        def now(self) -> dt.datetime:
            run(writer, statement)
            return super().now()

    with pytest.raises(SourceError, match="while the backup began") as refused:
        with open_source("s", database).open(Meanwhile()):
            pass
    assert refused.value.where == "t"


def test_a_table_outside_transactions_is_refused_by_name(
    database: str, writer: pymysql.cursors.Cursor
) -> None:
    run(writer, "CREATE TABLE t (id int) ENGINE = MyISAM", "CREATE TABLE u (id int)")
    with pytest.raises(SourceError, match=r"'t' \(MyISAM\) takes no part in transactions"):
        with open_source("s", database).open(SystemClock()):
            pass
    with open_source("s", database, exclude=["t"]).open(SystemClock()) as reader:
        assert [facts.name for facts in reader.tables()] == ["u"]


def test_a_column_that_may_not_be_read_is_never_left_out_silently(
    database: str, writer: pymysql.cursors.Cursor
) -> None:
    run(
        writer,
        "CREATE TABLE t (id int, secret int)",
        "CREATE OR REPLACE USER part@localhost",
        f"GRANT SELECT (id) ON {sa.make_url(database).database}.t TO part@localhost",
    )
    url = sa.make_url(database).set(username="part").render_as_string(hide_password=False)
    with pytest.raises(SourceError, match="SELECT command denied"):
        with open_source("s", url).open(SystemClock()):
            pass


def test_the_servers_settings_change_no_value(database: str, writer: pymysql.cursors.Cursor) -> None:
    settings = {
        "time_zone": "'+05:30'",
        "sql_select_limit": "1",
        "sql_mode": "'PAD_CHAR_TO_FULL_LENGTH,ANSI_QUOTES,STRICT_ALL_TABLES,NO_ZERO_DATE'",
    }
    run(
        writer,
        "SET time_zone = '+00:00', sql_mode = ''",
        "CREATE TABLE t (id int PRIMARY KEY, at timestamp NULL, c char(3), d date)",
        "INSERT INTO t VALUES (1, '2011-11-16 07:00:00', 'a', '0000-00-00'), (2, NULL, NULL, NULL)",
    )
    before = {}
    for name, value in settings.items():
        writer.execute(f"SELECT @@global.{name}")
        before[name] = writer.fetchall()[0][0]
        run(writer, f"SET GLOBAL {name} = {value}")
    try:
        rows = table_of(database).to_pylist()
    finally:
        for name, value in before.items():
            writer.execute(f"SET GLOBAL {name} = %s", (value,))
    assert rows == [
        {"id": 1, "at": dt.datetime(2011, 11, 16, 7, tzinfo=UTC), "c": "a", "d": "0000-00-00"},
        {"id": 2, "at": None, "c": None, "d": None},
    ]


def test_nothing_can_be_written_by_a_reader(database: str, writer: pymysql.cursors.Cursor) -> None:
    run(writer, "CREATE TABLE t (id int)")
    with open_source("s", database).open(SystemClock()) as reader:
        with pytest.raises(pymysql.Error, match="READ ONLY"):
            reader._raw.cursor().execute("INSERT INTO t VALUES (1)")  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"database": "nowhere"}, "Unknown database 'nowhere'"),
        ({"database": None}, "The URL names no database"),
        ({"username": "nobody"}, "Access denied"),
        ({"query": {"unix_socket": "/nowhere"}}, "Can't connect"),
    ],
)
def test_a_database_that_cannot_be_read_is_one_clear_error(
    database: str, change: dict[str, Any], message: str
) -> None:
    url = sa.make_url(database)
    url = sa.URL.create(
        url.drivername, **({"username": "root", "database": url.database, "query": url.query} | change)
    )
    with pytest.raises(SourceError, match=message):
        with open_source("s", url.render_as_string(hide_password=False)).open(SystemClock()):
            pass
