"""A table measured by segment is the table measured in one piece, whatever was kept, changed, damaged or missing."""

from __future__ import annotations

import math
import tempfile
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.checks.kept import Kept
from tasks.checks.measures import (
    BadRows,
    Figure,
    HasType,
    Measure,
    Misadded,
    Orphans,
    OutOfRange,
    Quantiles,
    Repeats,
    Rows,
    Spread,
    Steps,
    Whole,
)
from tasks.checks.measuring import Answer, Measurer, Table
from tasks.snapshots import parquet_scan

CHILD = pa.schema(
    [
        ("id", pa.int64()),
        ("name", pa.string()),
        ("number", pa.float64()),
        ("whole", pa.int32()),
        ("parent", pa.int32()),
        ("moment", pa.timestamp("us")),
        ("mail", pa.string()),
    ]
)
PARENT = pa.schema([("id", pa.int32()), ("total", pa.int64())])
SOME_DAY = datetime(2011, 11, 16)  # noqa: DTZ001 - a column without a zone
LATE = SOME_DAY + timedelta(days=2)

MEASURES: list[Measure] = [
    Rows(),
    *(Figure(kind, "number") for kind in ("count", "min", "max", "sum", "mean", "stdev")),
    Figure("max", "mail"),
    BadRows('"number" IS NULL', ("number",)),
    BadRows("NOT (\"name\" IN ('a', 'b'))", ("name",)),
    BadRows('"whole" > "parent"', ("whole", "parent"), free=True),
    OutOfRange("moment", f"NOT (\"moment\" <= TIMESTAMP '{LATE}')", None, LATE),
    Repeats(("id",)),
    Repeats(("name",)),
    Repeats(("mail",)),
    Repeats(("name", "whole")),
    Repeats(("number",)),
    Steps("id", up=True, strictly=True),
    Steps("whole", up=True, strictly=False),
    Steps("moment", up=False, strictly=False),
    Orphans(("parent",), "parents", ("id",)),
    Whole('median("number")', ("number",)),
    Quantiles("number", (0.0, 0.1, 0.5, 0.999)),
    Quantiles("whole", (0.25, 1.0)),
    Quantiles("moment", (0.5,)),
    Repeats(("whole", "moment", "name")),
    Spread("name", "CASE WHEN name IN ('a', 'b') THEN name WHEN name IS NOT NULL THEN '(other)' END"),
    Spread("number", "CASE WHEN abs(number) <= 1e300 THEN CAST(floor(number) AS VARCHAR) ELSE '(other)' END"),
    HasType("name", "^VARCHAR$"),
]
PARENT_MEASURES: list[Measure] = [
    Repeats(("id",)),
    Misadded("total", "children", "whole", (("id", "parent"),)),
    Misadded("total", "children", None, (("id", "parent"),), outer=False, where='"whole" > 0'),
]

Child = tuple[Any, ...]
child = st.tuples(
    st.integers(-3, 60) | st.none(),
    st.sampled_from(["a", "b", "c", "日本", "", None]),
    st.sampled_from([None, 0.5, -1.5, math.inf, 1e300, -0.0]),
    st.integers(-2, 4) | st.none(),
    st.integers(1, 5) | st.none(),
    st.sampled_from([None, SOME_DAY, LATE, LATE + timedelta(microseconds=1)]),
    st.sampled_from(["eve@secret.example", "bob@secret.example", None]),
)
segments = st.lists(st.lists(child, max_size=8), min_size=1, max_size=5)
parents = st.lists(
    st.lists(st.tuples(st.integers(1, 6), st.integers(-2, 8)), max_size=4), min_size=1, max_size=3
)
States = list[tuple[list[list[Child]], list[list[tuple[int, int]]]]]


@st.composite
def growing(draw: st.DrawFn) -> States:
    """Return snapshots of which each keeps most segments of the one before it, and adds a few rows."""
    children = draw(st.lists(st.lists(child, min_size=6, max_size=12), min_size=3, max_size=5))
    owners = draw(parents)
    history: States = [(children, owners)]
    for _ in range(draw(st.integers(1, 3))):
        fresh = draw(st.lists(child | st.sampled_from(children[0]), max_size=3))
        gone = draw(st.none() | st.sampled_from(range(len(children))))
        again = [children[draw(st.integers(0, len(children) - 1))]] if draw(st.booleans()) else []
        children = [*(one for at, one in enumerate(children) if at != gone), *again, fresh]
        owners = owners if draw(st.booleans()) else draw(parents)
        history.append((children, owners))
    return history


states = st.lists(st.tuples(segments, parents), min_size=1, max_size=2) | growing()


class Store:
    """Segments named by their content, as a store keeps objects."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def table(
        self, rows: list[list[Any]], schema: pa.Schema, personal: frozenset[str] = frozenset()
    ) -> Table:
        files = []
        for part in rows:
            columns = list(zip(*part, strict=True)) or [()] * len(schema)
            content = pa.table(
                [pa.array(one, kind) for one, kind in zip(columns, schema.types, strict=True)], schema
            )
            path = self.folder / f"{sha256(repr((part, schema)).encode()).hexdigest()}.parquet"
            pq.write_table(content, path)
            files.append(str(path))
        types = dict(
            duckdb.sql(f"DESCRIBE SELECT * FROM {parquet_scan(files)}")
            .project("column_name, column_type")
            .fetchall()
        )
        return Table(tuple(files), types, tuple(Path(file).stem for file in files), personal)

    def measurer(self, state: Any, kept: Kept | None) -> Measurer:
        tables = {
            "children": self.table(state[0], CHILD, frozenset({"mail"})),
            "parents": self.table(state[1], PARENT),
        }
        connection = duckdb.connect()
        for name, table in tables.items():
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {parquet_scan(table.files)}")
        return Measurer(connection, tables, kept)

    def answers(self, state: Any, kept: Kept | None) -> tuple[dict[Any, Answer], dict[Any, Any]]:
        """Return the answers, and keys of a few bad rows."""
        measurer = self.measurer(state, kept)
        answers = {
            (name, one): answer
            for name, asked in (("children", MEASURES), ("parents", PARENT_MEASURES))
            for one, answer in measurer.measure(name, asked).items()
        }
        shown = [one for one in MEASURES if isinstance(one, BadRows | Repeats | Orphans)]
        return answers, measurer.examples("children", shown, ["id", "whole"], 100)


def comparable(answers: dict[Any, Answer]) -> dict[Any, Any]:
    def plain(value: Any) -> Any:
        if isinstance(value, float):
            return "NaN" if math.isnan(value) else value if math.isinf(value) else float(f"{value:.9g}")
        return value

    return {
        asked: plain(answer.value) if not answer.error else answer.error.split(":")[0]
        for asked, answer in answers.items()
    }


def check_segments_give_the_whole(history: States, harm: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(Path(folder))
        for children, owners in history:
            whole = ([[row for part in children for row in part]], [[row for part in owners for row in part]])
            answers, rows = store.answers(whole, None)
            wanted = comparable(answers)
            for _ in range(2):
                answers, shown = store.answers((children, owners), Kept(Path(folder, "kept"), b"secret"))
                found = comparable(answers)
                assert {one: (found[one], wanted[one]) for one in wanted if found[one] != wanted[one]} == {}
                assert shown == rows
            files = sorted(path for path in Path(folder, "kept").rglob("*") if path.is_file())
            if files:  # one of what was kept is damaged or gets lost before the next snapshot
                victim = files[harm % len(files)]
                content = bytearray(victim.read_bytes())
                content[harm % len(content)] ^= 1 + harm % 255
                victim.write_bytes(content) if harm % 3 else victim.unlink()


@settings(max_examples=6)
@given(states, st.integers(0, 10_000))
def test_segments_give_the_whole(history: States, harm: int) -> None:
    check_segments_give_the_whole(history, harm)


@pytest.mark.slow
@settings(max_examples=800)
@given(states, st.integers(0, 10_000))
def test_segments_give_the_whole_slow(history: States, harm: int) -> None:
    check_segments_give_the_whole(history, harm)


def people(first: int, last: int) -> list[Child]:
    return [(n, f"n{n}", 0.5, 1, 1 + n % 5, SOME_DAY, f"p{n}@secret.example") for n in range(first, last)]


ALL_PARENTS = [[(n, 8) for n in range(1, 6)]]
MERGEABLE = [
    one
    for one in MEASURES
    if not isinstance(one, Whole)
    and one.columns not in (("mail",), ("number",))
    and one != Quantiles("moment", (0.5,))
]


def test_an_unchanged_segment_is_not_read_again(tmp_path: Path) -> None:
    store, old = Store(tmp_path), [people(0, 20), people(20, 40)]
    store.measurer((old, ALL_PARENTS), Kept(tmp_path / "kept", b"secret")).measure("children", MERGEABLE)
    again = store.measurer(([*old, people(40, 50)], ALL_PARENTS), Kept(tmp_path / "kept", b"secret"))
    for file in again.tables["children"].files[:2]:
        Path(file).unlink()
    answers = again.measure("children", MERGEABLE)
    assert [answer.error for answer in answers.values() if answer.error] == []
    assert answers[Rows()].value == 50
    assert answers[Repeats(("id",))].value == answers[Repeats(("name",))].value == 0


def test_orphans_are_counted_again_once_a_parent_has_gone(tmp_path: Path) -> None:
    store, child_rows = Store(tmp_path), [people(0, 20)]
    asked = Orphans(("parent",), "parents", ("id",))
    found = [
        store.measurer((child_rows, [owners]), Kept(tmp_path / "kept", b"secret"))
        .measure("children", [asked])[asked]
        .value
        for owners in (ALL_PARENTS[0], [*ALL_PARENTS[0], (6, 0)], ALL_PARENTS[0][1:], ALL_PARENTS[0])
    ]
    assert found == [0, 0, 4, 0]


def test_values_that_repeated_and_are_gone_do_not_break_the_rule(tmp_path: Path) -> None:
    store, asked = Store(tmp_path), Repeats(("name",))
    found = [
        store.measurer((child_rows, ALL_PARENTS), Kept(tmp_path / "kept", b"secret")).measure(
            "children", [asked]
        )[asked]
        for child_rows in ([people(0, 20), people(0, 20)], [[]])
    ]
    assert [(one.value, one.error) for one in found] == [(40, ""), (0, "")]


def test_a_segment_that_stands_in_the_table_twice_repeats_all_its_values(tmp_path: Path) -> None:
    store, asked, same = Store(tmp_path), Repeats(("name",)), people(20, 40)
    found = [
        store.measurer((child_rows, ALL_PARENTS), Kept(tmp_path / "kept", b"secret"))
        .measure("children", [asked])[asked]
        .value
        for child_rows in ([people(100, 400), same], [people(100, 400), same, same])
    ]
    assert found[1] == 40


def test_what_another_secret_sealed_is_not_believed(tmp_path: Path) -> None:
    store, state = Store(tmp_path), ([people(0, 20)], ALL_PARENTS)
    store.answers(state, Kept(tmp_path / "kept", b"forged"))
    measurer = store.measurer(state, Kept(tmp_path / "kept", b"secret"))
    assert measurer.measure("children", [Rows()])[Rows()].value == 20
    assert len(measurer.statements) == 1


def test_nothing_kept_holds_a_text_of_a_row(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.answers(([people(0, 20), people(15, 30)], ALL_PARENTS), Kept(tmp_path / "kept", b"secret"))
    kept = b"".join(path.read_bytes() for path in (tmp_path / "kept").rglob("*") if path.is_file())
    assert kept
    assert b"secret.example" not in kept
    assert not any(f"n{n}".encode() in kept for n in range(10, 30))


def test_key_lists_of_segments_that_are_gone_are_removed(tmp_path: Path) -> None:
    store, kept = Store(tmp_path), Kept(tmp_path / "kept", b"secret")
    store.answers(([people(0, 20), people(15, 30)], ALL_PARENTS), kept)
    measurer = store.measurer(([people(15, 30)], ALL_PARENTS), kept)
    measurer.measure("children", MERGEABLE)
    stays = {one for table in measurer.tables.values() for one in table.segments}
    kept.forget_all_but(stays)
    assert {path.name for path in (tmp_path / "kept" / "keys").iterdir()} <= stays
    assert set(Kept(tmp_path / "kept", b"secret").figures("children")["segments"]) <= stays


def test_a_column_named_as_duckdbs_own_does_no_harm(tmp_path: Path) -> None:
    files = []
    for number, values in enumerate(([1, 1], [2, 2])):
        files.append(str(tmp_path / f"{number}.parquet"))
        pq.write_table(pa.table({"file_index": pa.array(values, pa.int64())}), files[-1])
    table = Table(tuple(files), {"file_index": "BIGINT"}, ("a", "b"))
    connection = duckdb.connect()
    connection.execute(f"CREATE VIEW t AS SELECT * FROM {parquet_scan(files)}")
    for _ in range(2):
        answers = Measurer(connection, {"t": table}, Kept(tmp_path / "kept", b"s")).measure(
            "t", [Rows(), Repeats(("file_index",))]
        )
        assert [answer.value for answer in answers.values()] == [4, 4]


def test_a_condition_that_fails_for_a_row_is_broken_and_its_neighbours_are_not(tmp_path: Path) -> None:
    store = Store(tmp_path)
    broken = BadRows('NOT (CAST("name" AS INTEGER) > 0)', ("name",), free=True)
    absent = BadRows('"nowhere" IS NULL', ("nowhere",))
    regex = BadRows("NOT regexp_matches(\"name\", '(?<=a)b')", ("name",))
    good = [one for one in MERGEABLE if isinstance(one, Rows | Figure | BadRows)]
    alone = store.measurer(([people(0, 20)], ALL_PARENTS), None)
    alone.measure("children", good)
    measurer = store.measurer(([people(0, 20)], ALL_PARENTS), None)
    answers = measurer.measure("children", [broken, absent, regex, *good])
    assert all(answers[one].error for one in (broken, absent, regex))
    assert {one: answers[one].value for one in good} == {
        one: answer.value for one, answer in alone.measure("children", good).items()
    }
    reading = [one for one in measurer.statements if not one.startswith("EXPLAIN")]
    assert (
        len(reading) == len(alone.statements) + 2
    )  # DuckDB refuses the first before it reads; one says why it fails


def test_days_and_moments_with_a_zone_are_held_against_their_bounds(tmp_path: Path) -> None:
    path = str(tmp_path / "t.parquet")
    moments = pa.array([datetime(2011, 1, 1, 2, tzinfo=UTC)], pa.timestamp("us", tz="Asia/Kolkata"))
    pq.write_table(pa.table({"at": moments, "day": pa.array([date(2011, 1, 1)])}), path)
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'")
    connection.execute(f"CREATE VIEW t AS SELECT * FROM {parquet_scan([path])}")
    table = Table((path,), {"at": "TIMESTAMP WITH TIME ZONE", "day": "DATE"})
    for column in ("at", "day"):
        for bound, bad in ((datetime(2011, 1, 1, 3), 0), (datetime(2010, 12, 31, 23), 1)):  # noqa: DTZ001
            asked = OutOfRange(column, f"NOT (\"{column}\" <= TIMESTAMP '{bound}')", None, bound)
            assert Measurer(connection, {"t": table}).measure("t", [asked])[asked].value == bad


def test_numbers_by_which_quantiles_are_kept_are_those_of_duckdb(tmp_path: Path) -> None:
    asked = Quantiles("number", tuple(at / 1000 for at in range(0, 1001, 7)))
    rows = [(n, "a", float(n * 37 % 101), 1, 1, SOME_DAY, None) for n in range(100)]
    store, found = Store(tmp_path), []
    for count in (1, 3, 10, 99, 100):
        parts = [rows[: count // 2], rows[count // 2 : count]]
        kept = Kept(tmp_path / "kept", b"secret")
        found.append(store.measurer((parts, ALL_PARENTS), kept).measure("children", [asked])[asked].value)
        whole = store.measurer((parts, ALL_PARENTS), None).measure("children", [asked])[asked].value
        assert found[-1] == whole
    assert len({tuple(one) for one in found}) == 5


def test_a_column_of_too_many_numbers_is_read_every_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.checks.measuring._DISTINCT", 10)
    store, asked = Store(tmp_path), Quantiles("id", (0.5,))
    for last in (40, 50):
        state = ([people(0, 20), people(20, last)], ALL_PARENTS)
        measurer = store.measurer(state, Kept(tmp_path / "kept", b"secret"))
        assert measurer.measure("children", [asked])[asked].value == [last // 2 - 1]
    assert ["quantile_disc" in one for one in measurer.statements] == [True]


def test_only_segments_that_may_hold_the_same_key_are_searched_for_it(tmp_path: Path) -> None:
    """The moments of new rows lie after those of the old ones: of these no key list is read."""
    days = [
        [(n, f"n{n}", 0.5, 1, 1, SOME_DAY + timedelta(days=n), None) for n in range(20 * at, 20 * at + 20)]
        for at in range(5)
    ]
    asked = Repeats(("name", "moment"))
    store = Store(tmp_path)
    store.measurer((days, ALL_PARENTS), Kept(tmp_path / "kept", b"secret")).measure("children", [asked])
    new = [days[4][0], (100, "n100", 0.5, 1, 1, SOME_DAY + timedelta(days=100), None)]
    again = store.measurer(([*days, new], ALL_PARENTS), Kept(tmp_path / "kept", b"secret"))
    for file in again.tables["children"].files[:4]:
        Path(file).unlink()
        for path in (tmp_path / "kept" / "keys" / Path(file).stem).iterdir():
            path.unlink()
    answer = again.measure("children", [asked])[asked]
    assert (answer.value, answer.by_segment) == (2, (0, 0, 0, 0, 1, 1))
