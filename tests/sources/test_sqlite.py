"""SQLite: declared types are checked value by value; nothing changes silently."""
# ruff: noqa: DTZ001 (the columns under test hold naive times)

from __future__ import annotations

import contextlib
import datetime as dt
import sqlite3
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import DrivenClock, SystemClock, UsageError
from tasks.sources import BATCH_BYTES, SourceError, SourceReader, ValueDoesNotFit, open_source, reading

Built = Callable[..., str]


@pytest.fixture
def built(tmp_path: Path) -> Built:
    """A function that runs statements on a new database and returns its URL."""

    def build(*statements: str, rows: dict[str, list[tuple[Any, ...]]] | None = None) -> str:
        path = tmp_path / "source.db"
        with closing(sqlite3.connect(path)) as connection:
            for statement in statements:
                connection.execute(statement)
            for table, values in (rows or {}).items():
                marks = ",".join("?" * len(values[0]))
                connection.executemany(f'INSERT INTO "{table}" VALUES ({marks})', values)
            connection.commit()
        return f"sqlite:///{path}"

    return build


def read_all(reader: SourceReader, table: str, batch_rows: int = 65_536) -> pa.Table:
    while True:
        try:
            batches = list(reader.batches(table, batch_rows))
        except ValueDoesNotFit:
            continue
        return pa.Table.from_batches(batches, reader.schema(table))


def column_of(url: str, name: str = "v", table: str = "t") -> tuple[list[Any], pa.DataType, str | None]:
    with open_source("s", url).open(SystemClock()) as reader:
        data = read_all(reader, table)
        cast = next(c.cast for c in reader.facts(table).columns if c.name == name)
    return data.column(name).to_pylist(), data.schema.field(name).type, cast


@pytest.mark.parametrize(
    ("declared", "stored", "expected", "arrow", "cast"),
    [
        ("INTEGER", 2**63 - 1, 2**63 - 1, pa.int64(), None),
        ("BIGINT", -(2**63), -(2**63), pa.int64(), None),
        ("BOOLEAN", 1, True, pa.bool_(), "boolean_from_integer"),
        ("REAL", 0.1, 0.1, pa.float64(), None),
        ("NUMERIC(12, 3)", 2.55, Decimal("2.550"), pa.decimal128(12, 3), "decimal_from_number"),
        ("NUMERIC(12,3)", 7, Decimal("7.000"), pa.decimal128(12, 3), "decimal_from_number"),
        ("DECIMAL(50,2)", 7, Decimal("7.00"), pa.decimal256(50, 2), "decimal_from_number"),
        ("NUMERIC", 1.25, "1.25", pa.string(), "text"),
        ("VARCHAR(9)", "déjà\x00vu", "déjà\x00vu", pa.string(), None),
        ("CHAR(3)", "GBP", "GBP", pa.string(), None),
        ("BLOB", b"\x00\xff", b"\x00\xff", pa.binary(), None),
        ("DATE", "2011-02-28", dt.date(2011, 2, 28), pa.date32(), "time_from_text"),
        (
            "TIMESTAMP",
            "2011-02-28 01:02:03.000004",
            dt.datetime(2011, 2, 28, 1, 2, 3, 4),
            pa.timestamp("us"),
            "time_from_text",
        ),
        ("TIME", "23:59:59.500000", dt.time(23, 59, 59, 500000), pa.time64("us"), "time_from_text"),
        ("JSON", '{"b": 1.10, "a": [1e5, null]}', '{"b": 1.10, "a": [1e5, null]}', pa.string(), None),
        ("UUID", "a0eebc99", "a0eebc99", pa.string(), None),
        ("", "it's", "'it''s'", pa.string(), "sql_literal"),
    ],
)
def test_a_value_that_fits_its_declared_type_is_read_exactly(
    built: Built, declared: str, stored: Any, expected: Any, arrow: pa.DataType, cast: str | None
) -> None:
    url = built(
        f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})", rows={"t": [(1, stored), (2, None)]}
    )
    assert column_of(url) == ([expected, None], arrow, cast)


@pytest.mark.parametrize(
    ("declared", "stored", "expected", "cast"),
    [
        ("INTEGER", [5, 1.5], ["5", "1.5"], "sql_literal"),
        ("INTEGER", [5, "five"], ["5", "'five'"], "sql_literal"),
        ("INTEGER", ["five", None], ["five", None], "text"),
        ("BOOLEAN", [1, 2], ["1", "2"], "sql_literal"),
        ("NUMERIC(12,3)", [0.1 + 0.2, 1], ["0.30000000000000004", "1"], "sql_literal"),
        ("NUMERIC(4,1)", [99999, 1], ["99999", "1"], "sql_literal"),
        ("NUMERIC(4,1)", ["n/a", None], ["n/a", None], "text"),
        ("VARCHAR(9)", ["a", b"a"], ["'a'", "X'61'"], "sql_literal"),
        ("BLOB", [b"a", "a"], ["X'61'", "'a'"], "sql_literal"),
        ("DATE", ["2011-02-31"], ["2011-02-31"], "text"),
        ("TIMESTAMP", ["2011-02-31 00:00:00", None], ["2011-02-31 00:00:00", None], "text"),
        ("TIMESTAMP", ["2011-02-28 01:02:03.1234567"], ["2011-02-28 01:02:03.1234567"], "text"),
        # Two spellings in one column: as a time, a restore could not write both back.
        (
            "TIMESTAMP",
            ["2011-02-28 01:02:03", "2011-02-28T01:02:03"],
            ["2011-02-28 01:02:03", "2011-02-28T01:02:03"],
            "text",
        ),
        ("TIME", ["23:59:59.5"], ["23:59:59.5"], "text"),
        ("TIMESTAMP", ["2011-02-28 01:02:03+02:00"], ["2011-02-28 01:02:03+02:00"], "text"),
        ("TIMESTAMP", [1298851200, "x"], ["1298851200", "'x'"], "sql_literal"),
        ("TIME", ["24:00:00"], ["24:00:00"], "text"),
        ("REAL", [1.0, "x"], ["1.0", "'x'"], "sql_literal"),
    ],
)
def test_a_value_that_does_not_fit_comes_as_recorded_text(
    built: Built, declared: str, stored: list[Any], expected: list[Any], cast: str
) -> None:
    url = built(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})", rows={"t": list(enumerate(stored))})
    assert column_of(url) == (expected, pa.string(), cast)


def test_text_that_is_not_utf8_comes_as_recorded_bytes(built: Built) -> None:
    url = built(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT, w TEXT)",
        "INSERT INTO t VALUES (1, CAST(X'ff41' AS TEXT), 'fine'), (2, 'ok', 'fine')",
    )
    assert column_of(url) == ([b"\xffA", b"ok"], pa.binary(), "bytes")


def test_two_columns_with_text_that_is_not_utf8_are_read_to_the_end(built: Built) -> None:
    url = built(
        "CREATE TABLE t (v TEXT, w TEXT)", "INSERT INTO t VALUES (CAST(X'e9' AS TEXT), CAST(X'ff' AS TEXT))"
    )
    assert column_of(url, "v")[0] == [b"\xe9"]
    assert column_of(url, "w")[0] == [b"\xff"]


def test_an_error_about_a_value_never_quotes_it(built: Built) -> None:
    url = built(
        "CREATE TABLE t (id INTEGER PRIMARY KEY, v TEXT)",
        "INSERT INTO t VALUES (1, CAST(X'ff' || 'ann@example.com' AS TEXT)), (2, X'00')",
    )
    with pytest.raises(SourceError) as caught, open_source("s", url).open(SystemClock()) as reader:
        read_all(reader, "t")
    assert "t.v" in str(caught.value) and "ann@" not in str(caught.value)


def test_facts_name_types_keys_and_foreign_keys(built: Built) -> None:
    url = built(
        "CREATE TABLE lists (id INTEGER PRIMARY KEY)",
        "CREATE TABLE members (who INTEGER NOT NULL, list_id INTEGER REFERENCES lists (id),"
        " PRIMARY KEY (list_id, who))",
    )
    with open_source("s", url).open(SystemClock()) as reader:
        facts = {one.name: one for one in reader.tables()}
    assert facts["members"].primary_key == ("list_id", "who")
    assert facts["members"].foreign_keys[0].references == "lists"
    assert facts["members"].foreign_keys[0].referred_columns == ("id",)
    assert [column.nullable for column in facts["members"].columns] == [False, True]
    assert facts["lists"].ddl == "CREATE TABLE lists (id INTEGER PRIMARY KEY)"


def test_rows_come_in_key_order_and_in_batches_of_the_size_asked_for(built: Built) -> None:
    url = built(
        "CREATE TABLE t (a TEXT, b INTEGER, PRIMARY KEY (a, b))",
        rows={"t": [("b", 1), ("a", 2), ("B", 3), ("a", 1)]},
    )
    with open_source("s", url).open(SystemClock()) as reader:
        batches = list(reader.batches("t", 3))
    assert [batch.num_rows for batch in batches] == [3, 1]
    rows = [tuple(row.values()) for batch in batches for row in batch.to_pylist()]
    assert rows == [("B", 3), ("a", 1), ("a", 2), ("b", 1)]


def test_an_empty_table_has_a_schema_and_no_rows(built: Built) -> None:
    url = built("CREATE TABLE t (id INTEGER PRIMARY KEY, v NUMERIC(9,2))")
    with open_source("s", url).open(SystemClock()) as reader:
        assert list(reader.batches("t")) == []
        assert reader.schema("t").names == ["id", "v"]
        assert reader.row_count("t") == 0


@pytest.mark.parametrize(
    "name", ['we"ird', "select", "a b", "x; DROP TABLE t", "名前", "a.b", "per%cent", "O'Hara"]
)
def test_hostile_names_are_quoted(built: Built, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    url = built(
        f"CREATE TABLE {quoted} ({quoted} INTEGER PRIMARY KEY, v TEXT)",
        f"INSERT INTO {quoted} VALUES (1, 'x')",
    )
    assert column_of(url, table=name) == (["x"], pa.string(), None)


def test_views_indexes_and_virtual_tables_are_not_tables(built: Built) -> None:
    url = built(
        "CREATE TABLE t (id INTEGER PRIMARY KEY AUTOINCREMENT, v TEXT)",
        "CREATE INDEX i ON t (v)",
        "CREATE VIEW w AS SELECT * FROM t",
        "CREATE VIRTUAL TABLE f USING fts5(body)",
    )
    with open_source("s", url).open(SystemClock()) as reader:
        assert [one.name for one in reader.tables()] == ["t"]


def test_only_the_tables_asked_for_are_read_and_a_mistyped_one_is_refused(built: Built) -> None:
    url = built("CREATE TABLE a (id INTEGER)", "CREATE TABLE b (id INTEGER)")
    with open_source("s", url, exclude=["a"]).open(SystemClock()) as reader:
        assert [one.name for one in reader.tables()] == ["b"]
    with (
        pytest.raises(SourceError, match="no table 'bb'"),
        open_source("s", url, tables=["bb"]).open(SystemClock()),
    ):
        pass


def test_the_consistency_point_is_of_the_clock_that_was_given(built: Built, clock: DrivenClock) -> None:
    with open_source("s", built("CREATE TABLE a (id INTEGER)")).open(clock) as reader:
        assert reader.consistency["at"] == clock.now().isoformat()


def test_rows_written_while_a_table_is_read_do_not_show(built: Built, tmp_path: Path) -> None:
    url = built(
        "PRAGMA journal_mode=WAL", "CREATE TABLE t (id INTEGER PRIMARY KEY)", "CREATE TABLE u (id INTEGER)"
    )
    with closing(sqlite3.connect(tmp_path / "source.db")) as writer:
        writer.executemany("INSERT INTO t VALUES (?)", [(n,) for n in range(10)])
        writer.commit()
        with open_source("s", url).open(SystemClock()) as reader:
            batches = reader.batches("t", 4)
            seen = next(batches).num_rows
            writer.execute("INSERT INTO t VALUES (99)")
            writer.execute("INSERT INTO u VALUES (1)")
            writer.execute("DELETE FROM t WHERE id = 9")
            writer.commit()
            seen += sum(batch.num_rows for batch in batches)
            assert (seen, reader.row_count("t"), reader.row_count("u")) == (10, 10, 0)


def test_the_reader_cannot_write_to_the_source(built: Built) -> None:
    url = built("CREATE TABLE t (id INTEGER)")
    with open_source("s", url).open(SystemClock()) as reader:
        with pytest.raises(sqlite3.OperationalError, match="readonly"):
            reader._connection.execute("INSERT INTO t VALUES (1)")  # type: ignore[attr-defined]


def test_a_missing_file_is_an_error_and_is_not_created(tmp_path: Path) -> None:
    path = tmp_path / "nothing.db"
    with (
        pytest.raises(SourceError, match="no SQLite database"),
        open_source("s", f"sqlite:///{path}").open(SystemClock()),
    ):
        pass
    assert not path.exists()


def test_a_database_of_an_unknown_kind_is_refused_without_its_url() -> None:
    with pytest.raises(UsageError, match="has no dialect 'nosuch'") as caught:
        with open_source("s", "nosuch://root:secret@host/db").open(SystemClock()):
            pass
    assert "secret" not in str(caught.value)


@given(
    st.lists(
        st.one_of(
            st.none(),
            st.integers(-(2**63), 2**63 - 1),
            st.floats(allow_nan=False),
            st.text(st.characters(exclude_categories=["Cs"])),
            st.binary(),
        ),
        max_size=12,
    ),
    st.sampled_from(
        ["INTEGER", "BOOLEAN", "NUMERIC(9,3)", "REAL", "TEXT", "BLOB", "DATE", "TIMESTAMP", "JSON", ""]
    ),
)
def test_whatever_is_stored_under_whatever_type_can_be_inverted(
    tmp_path_factory: pytest.TempPathFactory, values: list[Any], declared: str
) -> None:
    path = tmp_path_factory.mktemp("any") / "source.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE t (id INTEGER PRIMARY KEY, v {declared})")
        connection.executemany("INSERT INTO t VALUES (?, ?)", list(enumerate(values)))
        connection.commit()
        stored = [row[0] for row in connection.execute("SELECT v FROM t ORDER BY id")]
        read, _, cast = column_of(f"sqlite:///{path}")
        assert [inverted(connection, value, cast) for value in read] == stored


def inverted(connection: sqlite3.Connection, value: Any, cast: str | None) -> Any:
    if value is None:
        return None
    if cast == "sql_literal":
        if value.startswith(("'", "X'")):
            return bytes.fromhex(value[2:-1]) if value[0] == "X" else value[1:-1].replace("''", "'")
        return int(value) if value.lstrip("-").isdigit() else float(value)
    if cast == "boolean_from_integer":
        return int(value)
    if cast == "decimal_from_number":
        return int(value) if value == value.to_integral() and abs(value) < 2**53 else float(value)
    if cast == "time_from_text":
        return value.isoformat(" ") if isinstance(value, dt.datetime) else value.isoformat()
    return value


def test_a_batch_of_wide_rows_is_short_and_one_of_narrow_rows_is_long(built: Built) -> None:
    body = "x" * 40_000
    url = built(
        "CREATE TABLE wide (id INTEGER PRIMARY KEY, body TEXT)",
        "CREATE TABLE narrow (id INTEGER PRIMARY KEY)",
        rows={"wide": [(n, body) for n in range(3000)], "narrow": [(n,) for n in range(100_000)]},
    )
    with open_source("s", url).open(SystemClock()) as reader:
        wide = [(batch.num_rows, batch.nbytes) for batch in reader.batches("wide")]
        narrow = [batch.num_rows for batch in reader.batches("narrow")]
    assert sum(rows for rows, _ in wide) == 3000
    assert max(size for _, size in wide) < 1.5 * BATCH_BYTES
    assert max(narrow) == 65_536


def test_large_values_after_many_small_ones_are_never_in_memory_together(
    built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BATCH_BYTES", 2**20)
    large = 2**18
    rows = [(n, "x") for n in range(2_000)] + [(2_000 + n, "x" * large) for n in range(80)]
    url = built(
        "CREATE TABLE first (id INTEGER PRIMARY KEY, body TEXT)",
        "CREATE TABLE later (id INTEGER PRIMARY KEY, body TEXT)",
        "CREATE TABLE undeclared (id INTEGER PRIMARY KEY, body INTEGER)",
        rows={"first": rows[2_000:], "later": rows, "undeclared": rows},
    )
    with open_source("s", url).open(SystemClock()) as reader:
        for table, expected in (("first", 80), ("later", 2_080), ("undeclared", 2_080)):
            tracemalloc.start()
            batches = [(batch.num_rows, batch.nbytes) for batch in read_again(reader, table)]
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
            assert sum(number for number, _ in batches) == expected
            assert max(size for _, size in batches) < 2**20 + large + 2**16, table
            assert peak < 4 * 2**20, f"{table}: at most a few of the 80 values of 256 KiB"


def read_again(reader: SourceReader, table: str) -> Iterator[pa.RecordBatch]:
    """Yield the batches of a table, from the start where a value does not fit."""
    with contextlib.suppress(ValueDoesNotFit):
        next(reader.batches(table), None)
    yield from reader.batches(table)
