"""DuckDB files: read-only, every value exact or as DuckDB's own text that DuckDB reads back as the value."""
# ruff: noqa: DTZ001 (the columns under test hold naive times)

from __future__ import annotations

import datetime as dt
import subprocess
import sys
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import SystemClock
from tasks.sources import BATCH_BYTES, SourceError, SourceReader, ValueDoesNotFit, open_source

Built = Callable[..., str]


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """A function that runs statements on a new database and returns its URL."""

    def build(*statements: str) -> str:
        path = tmp_path / "source.duckdb"
        with duckdb.connect(str(path)) as connection:
            for statement in statements:
                connection.execute(statement)
        return f"duckdb:///{path}"

    return build


def read_all(reader: SourceReader, table: str, batch_rows: int = 65_536) -> pa.Table:
    while True:
        try:
            batches = list(reader.batches(table, batch_rows))
        except ValueDoesNotFit:
            continue
        return pa.Table.from_batches(batches, reader.schema(table))


MATRIX: list[tuple[str, str, Any, pa.DataType, str | None]] = [
    ("TINYINT", "-128", -128, pa.int8(), None),
    ("UBIGINT", "18446744073709551615", 2**64 - 1, pa.uint64(), None),
    ("HUGEINT", str(-(2**127) + 1), Decimal(-(2**127) + 1), pa.decimal256(39, 0), None),
    ("UHUGEINT", str(2**128 - 1), Decimal(2**128 - 1), pa.decimal256(39, 0), None),
    ("BIGNUM", "9" * 60, "9" * 60, pa.string(), "text"),
    ("DECIMAL(38,10)", "'-1.0000000001'", Decimal("-1.0000000001"), pa.decimal128(38, 10), None),
    ("FLOAT", "'-0.0'", -0.0, pa.float32(), None),
    ("DOUBLE", "'-inf'", float("-inf"), pa.float64(), None),
    ("DOUBLE", "'nan'", float("nan"), pa.float64(), None),
    ("BOOLEAN", "true", True, pa.bool_(), None),
    ("VARCHAR", "'d' || chr(0) || '😀'", "d\0😀", pa.string(), None),
    ("BLOB", "'\\x00\\xFF'", b"\0\xff", pa.binary(), None),
    ("DATE", "'9999-12-31'", dt.date(9999, 12, 31), pa.date32(), None),
    ("DATE", "'infinity'", "infinity", pa.string(), "text"),
    ("DATE", "'10000-01-01'", "10000-01-01", pa.string(), "text"),
    ("DATE", "'5000-01-01 (BC)'", "5000-01-01 (BC)", pa.string(), "text"),
    ("TIMESTAMP", "'2011-02-28 01:02:03.4'", dt.datetime(2011, 2, 28, 1, 2, 3, 400000), pa.timestamp("us"), None),
    ("TIMESTAMP", "'-infinity'", "-infinity", pa.string(), "text"),
    ("TIMESTAMP_S", "'2011-02-28 01:02:03'", dt.datetime(2011, 2, 28, 1, 2, 3), pa.timestamp("us"), None),
    ("TIMESTAMP_MS", "'2011-02-28 01:02:03.004'", dt.datetime(2011, 2, 28, 1, 2, 3, 4000), pa.timestamp("us"), None),
    ("TIMESTAMP_NS", "'2011-02-28 01:02:03.000000004'", "2011-02-28 01:02:03.000000004", pa.string(), "text"),
    (
        "TIMESTAMPTZ",
        "'2011-02-28 01:02:03+02'",
        dt.datetime(2011, 2, 27, 23, 2, 3, 0, ZoneInfo("UTC")),
        pa.timestamp("us", "UTC"),
        None,
    ),
    ("TIMESTAMPTZ", "'infinity'", "infinity", pa.string(), "text"),
    ("TIME", "'23:59:59.999999'", dt.time(23, 59, 59, 999999), pa.time64("us"), None),
    ("TIME", "'24:00:00'", "24:00:00", pa.string(), "text"),
    ("TIME_NS", "'10:00:00.123456789'", "10:00:00.123456789", pa.string(), "text"),
    ("TIMETZ", "'10:00:00+02:30'", "10:00:00+02:30", pa.string(), "text"),
    ("INTERVAL", "'14 months -3 days 25 hours'", "1 year 2 months -3 days 25:00:00", pa.string(), "text"),
    ("UUID", "'5E4F3A2B-0000-0000-0000-000000000001'", UUID("5e4f3a2b-0000-0000-0000-000000000001"), pa.uuid(), None),
    ("BIT", "'00101'", "00101", pa.string(), "text"),
    ("JSON", '\'{"b": 1.10, "a" : 1}\'', '{"b": 1.10, "a" : 1}', pa.string(), "text"),
    ("ENUM('a', 'b')", "'b'", "b", pa.string(), "text"),
    ("VARCHAR[]", "['a, b', NULL, 'NULL', '', '''']", "['a, b', NULL, 'NULL', '', '\\'']", pa.string(), "text"),
    ("INTEGER[2]", "[1, 2]", "[1, 2]", pa.string(), "text"),
    ("STRUCT(a DOUBLE, \"b c\" VARCHAR)", "{'a': 0.1, 'b c': '}'}", "{'a': 0.1, 'b c': '}'}", pa.string(), "text"),
    ("MAP(VARCHAR, INTEGER)", "MAP {'a=b': 1}", "{'a=b'=1}", pa.string(), "text"),
]  # fmt: skip


@pytest.mark.parametrize(("declared", "literal", "expected", "arrow", "cast"), MATRIX)
def test_every_type_is_exact_or_duckdbs_own_text(
    built: Built, declared: str, literal: str, expected: Any, arrow: pa.DataType, cast: str | None
) -> None:
    url = built(
        f"CREATE TABLE t (id INTEGER, v {declared})", f"INSERT INTO t VALUES (1, {literal}), (2, NULL)"
    )
    with open_source("s", url).open(SystemClock()) as reader:
        data = read_all(reader, "t")
        facts = reader.facts("t").columns[1]
    assert repr(data.column("v").to_pylist()) == repr([expected, None])
    assert (data.schema.field("v").type, facts.cast) == (arrow, cast)


@pytest.mark.parametrize(
    ("declared", "value"),
    [("UNION(a TINYINT, b VARCHAR)", "union_value(a := 5::TINYINT)"), ("VARIANT", "'x'")],
)
def test_a_type_whose_text_means_something_else_is_refused(built: Built, declared: str, value: str) -> None:
    url = built(f"CREATE TABLE t (v {declared})", f"INSERT INTO t VALUES ({value})")
    with pytest.raises(SourceError, match="does not read its own text") as refused:
        with open_source("s", url).open(SystemClock()) as reader:
            read_all(reader, "t")
    assert refused.value.where == "t.v"


GENERATED: dict[str, tuple[str, st.SearchStrategy[Any]]] = {
    "u": ("UHUGEINT", st.integers(0, 2**128 - 1)),
    "d": ("DOUBLE", st.floats(allow_nan=False)),
    "f": ("FLOAT", st.floats(width=32, allow_nan=False)),
    "n": ("DECIMAL(30,7)", st.decimals(-(10**22), 10**22, places=7)),
    "w": ("TIMESTAMP", st.datetimes().map(lambda one: one.replace(fold=0))),
    "t": ("TIME", st.times().map(lambda one: one.replace(fold=0))),
    "g": ("UUID", st.uuids()),
    "s": ("VARCHAR", st.text(st.characters(codec="utf-8"))),
    "b": ("BLOB", st.binary()),
    "l": ("VARCHAR[]", st.lists(st.none() | st.text(st.characters(codec="utf-8")))),
}


@settings(max_examples=15)
@given(
    rows=st.lists(st.tuples(*(st.none() | values for _, values in GENERATED.values())), max_size=6),
)
def test_generated_rows_read_as_they_were_written(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[Any, ...]]
) -> None:
    path = tmp_path_factory.mktemp("duck") / "d"
    with duckdb.connect(str(path)) as connection:
        connection.execute(
            f"CREATE TABLE t ({', '.join(f'{name} {kind}' for name, (kind, _) in GENERATED.items())})"
        )
        for row in rows:
            connection.execute(f"INSERT INTO t VALUES ({', '.join('?' * len(row))})", row)
    with open_source("s", f"duckdb:///{path}").open(SystemClock()) as reader:
        found = read_all(reader, "t").to_pylist()
    with duckdb.connect() as other:
        for row in found:
            row["u"] = None if row["u"] is None else int(row["u"])
            row["l"] = other.execute("SELECT ?::VARCHAR::VARCHAR[]", [row["l"]]).fetchall()[0][0]
    assert repr([tuple(row.values()) for row in found]) == repr(rows)


def test_names_keys_computed_columns_comments_and_what_is_no_table(built: Built) -> None:
    url = built(
        "CREATE TABLE p (a INTEGER, b INTEGER, PRIMARY KEY (b, a))",
        "CREATE TABLE t (id INTEGER PRIMARY KEY, x INTEGER, y INTEGER, twice INTEGER AS (x * 2),"
        " FOREIGN KEY (y, x) REFERENCES p (b, a))",
        "CREATE INDEX by_x ON t (x)",
        "COMMENT ON COLUMN t.x IS 'it''s'",
        "INSERT INTO p VALUES (3, 4)",
        "INSERT INTO t VALUES (1, 3, 4)",
        'CREATE TABLE "Odd ""name; -- %s" ("a.b" INTEGER, "select" VARCHAR)',
        "INSERT INTO \"Odd \"\"name; -- %s\" VALUES (1, ''), (1, '')",
        "CREATE VIEW seen AS SELECT 1",
        "CREATE SCHEMA other",
        "CREATE TABLE other.apart (id INTEGER)",
    )
    with open_source("s", url).open(SystemClock()) as reader:
        assert [facts.name for facts in reader.tables()] == ['Odd "name; -- %s', "p", "t"]
        facts = reader.facts("t")
        assert read_all(reader, "t").to_pylist() == [{"id": 1, "x": 3, "y": 4, "twice": 6}]
        assert read_all(reader, 'Odd "name; -- %s').to_pylist() == [{"a.b": 1, "select": ""}] * 2
        assert reader.row_count("p") == 1
    assert facts.primary_key == ("id",)
    assert [(key.columns, key.references, key.referred_columns) for key in facts.foreign_keys] == [
        (("y", "x"), "p", ("b", "a"))
    ]
    assert [column.name for column in facts.columns if column.generated] == ["twice"]
    assert not facts.columns[0].nullable
    assert any("CREATE INDEX by_x" in one for one in facts.keys) and any("it''s" in one for one in facts.keys)
    with open_source("s", url, schema="other").open(SystemClock()) as reader:
        assert [facts.name for facts in reader.tables()] == ["apart"]


def test_batches_keep_to_their_rows_their_bytes_and_the_order_of_the_rows(built: Built) -> None:
    url = built(
        "CREATE TABLE t AS SELECT i, repeat('x', 20000) AS v FROM range(10000) r(i)",
        "CREATE TABLE empty (id INTEGER)",
        f"CREATE TABLE wide AS SELECT {', '.join(f'{at}::SMALLINT AS c{at}' for at in range(1000))}",
    )
    with open_source("s", url).open(SystemClock()) as reader:
        batches = list(reader.batches("t"))
        assert [one for batch in batches for one in batch.column("i").to_pylist()] == list(range(10_000))
        assert max(batch.nbytes for batch in batches) <= 1.1 * BATCH_BYTES
        small = list(reader.batches("t", 100))
        assert {batch.num_rows for batch in small[:-1]} <= {100, 2048 % 100} and len(small) >= 100
        assert list(reader.batches("empty")) == []
        assert read_all(reader, "wide").num_columns == 1_000
        next(reader.batches("t"))  # left unread: the next table can be read all the same
        assert reader.row_count("t") == 10_000


def test_while_it_is_read_no_other_process_can_write(built: Built) -> None:
    url = built("CREATE TABLE t (id INTEGER)")
    write = f"import duckdb; duckdb.connect({url.removeprefix('duckdb:///')!r}).execute('INSERT INTO t VALUES (1)')"
    with open_source("s", url).open(SystemClock()) as reader:
        tried = subprocess.run([sys.executable, "-c", write], capture_output=True, text=True)
        assert "Could not set lock" in tried.stderr
        assert reader.row_count("t") == 0


def test_a_file_that_is_open_for_writing_is_one_clear_error(built: Built) -> None:
    url = built("CREATE TABLE t (id INTEGER)")
    path = url.removeprefix("duckdb:///")
    hold = f"import duckdb, sys; c = duckdb.connect({path!r}); print(1, flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout and holder.stdout.readline()
        with pytest.raises(SourceError, match="open for writing elsewhere"):
            with open_source("s", url).open(SystemClock()):
                pass
        holder.communicate()


def test_what_a_killed_writer_committed_is_read(built: Built) -> None:
    url = built("CREATE TABLE t (id INTEGER)")
    write = (
        f"import duckdb, os; c = duckdb.connect({url.removeprefix('duckdb:///')!r});"
        " c.execute('INSERT INTO t VALUES (1)'); c.execute('BEGIN'); c.execute('INSERT INTO t VALUES (2)');"
        " os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", write])
    with open_source("s", url).open(SystemClock()) as reader:
        assert read_all(reader, "t").to_pylist() == [{"id": 1}]


def test_a_file_that_is_not_there_is_never_made(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="There is no DuckDB database"):
        with open_source("s", f"duckdb:///{tmp_path / 'x'}").open(SystemClock()):
            pass
    (tmp_path / "y").write_bytes(b"no database at all" * 1000)
    with pytest.raises(SourceError, match="could not be read"):
        with open_source("s", f"duckdb:///{tmp_path / 'y'}").open(SystemClock()):
            pass
    assert [one.name for one in tmp_path.iterdir()] == ["y"]
