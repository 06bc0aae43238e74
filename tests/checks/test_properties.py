"""What holds for any table: clean data passes, k planted bad rows are counted as k, and pandas agrees with DuckDB."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.checks.contracts import Contract
from tasks.checks.findings import CheckReport
from tasks.checks.rules import TableFigures, compile_rules
from tasks.checks.running import SnapshotData, TableData, check_data

AT = datetime(2011, 11, 16, 7, 0, tzinfo=UTC)
NOW = AT.replace(tzinfo=None)
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("owner", pa.int64()),
        ("email", pa.string()),
        ("status", pa.string()),
        ("amount", pa.decimal128(12, 2)),
        ("seen_at", pa.timestamp("us")),
    ]
)
THINGS = Contract.model_validate(
    {
        "table": "things",
        "primary_key": ["id"],
        "rows": {"at_least": 0},
        "columns": {
            "id": {"type": "integer"},
            "owner": {"type": "integer", "nulls": {"at_most": 1}},
            "email": {"type": "text", "personal": True, "unique": {}, "format": {"name": "email"}},
            "status": {"type": "text", "allowed": {"values": ["on", "off", "it's {odd}: 100%"]}},
            "amount": {"type": "decimal", "range": {"min": 0, "max": 99.5}},
            "seen_at": {"type": "timestamp", "dates": {"not_before": "2010-01-01"}},
        },
        "foreign_keys": [{"columns": ["owner"], "references": "owners", "referred": ["id"]}],
        "row_rules": [
            {
                "name": "on_is_not_free",
                "says": "what is on costs something",
                "holds": "NOT (status = 'on' AND amount::VARCHAR LIKE '0.00%' AND email NOT LIKE '%{:%')",
                "columns": ["status", "amount", "email"],
            }
        ],
    }
)
OWNERS = Contract.model_validate(
    {"table": "owners", "primary_key": ["id"], "columns": {"id": {"type": "integer"}}}
)
CONTRACTS = {"things": THINGS, "owners": OWNERS}


@st.composite
def clean_rows(draw: st.DrawFn) -> list[dict[str, Any]]:
    count = draw(st.integers(0, 25))
    cents = st.decimals(min_value="0.01", max_value="99.5", places=2, allow_nan=False)
    return [
        {
            "id": n * 7 - 50,
            "owner": draw(st.sampled_from([None, 1, 2, 3])),
            "email": f"{draw(st.from_regex(r'[a-z0-9.+_-]{1,12}', fullmatch=True))}{n}@x{n}.example",
            "status": draw(st.sampled_from(["on", "off", "it's {odd}: 100%"])),
            "amount": draw(cents),
            "seen_at": NOW - timedelta(seconds=draw(st.integers(0, 50_000_000))),
        }
        for n in range(count)
    ]


HARMS: dict[str, tuple[str, Callable[[dict[str, Any], int], None]]] = {
    "things.email.not_null": ("email", lambda row, n: row.update(email=None)),
    "things.email.format": ("email", lambda row, n: row.update(email=f"nobody{n}")),
    "things.status.allowed": ("status", lambda row, n: row.update(status=f"s{n}")),
    "things.status.not_null": ("status", lambda row, n: row.update(status=None)),
    "things.amount.range": ("amount", lambda row, n: row.update(amount=-1 - n)),
    "things.seen_at.dates": ("seen_at", lambda row, n: row.update(seen_at=NOW + timedelta(days=1 + n))),
    "things.owner.foreign_key": ("owner", lambda row, n: row.update(owner=100 + n)),
    "things.status+amount+email.on_is_not_free": ("", lambda row, n: row.update(status="on", amount=0)),
}


def report_of(rows: list[dict[str, Any]], counted: int | None = None) -> CheckReport:
    with tempfile.TemporaryDirectory() as folder:
        things, owners = f"{folder}/things.parquet", f"{folder}/owners.parquet"
        pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), things)
        pq.write_table(pa.table({"id": pa.array([1, 2, 3], pa.int64())}), owners)
        tables = {
            "things": TableData((things,), len(rows) if counted is None else counted),
            "owners": TableData((owners,), 3),
        }
        return check_data(SnapshotData("x/00000001", AT, tables), CONTRACTS, at=AT)


def check_any_clean_table_passes(rows: list[dict[str, Any]]) -> None:
    report = report_of(rows)
    assert (report.outcome, report.findings) == ("valid", [])


def check_planted_rows_are_counted_exactly(rows: list[dict[str, Any]], rule: str, harmed: set[int]) -> None:
    harmed = {n for n in harmed if n < len(rows)}
    for n in harmed:
        HARMS[rule][1](rows[n], n)
    findings = report_of(rows).findings
    assert [(one.rule, one.failed, one.total) for one in findings] == (
        [(rule, len(harmed), len(rows))] if harmed else []
    )
    if harmed:
        keys = [f"id={rows[n]['id']}" for n in sorted(harmed, key=lambda n: rows[n]["id"])]
        assert findings[0].sample_keys == keys[:5]


def check_duplicates_are_counted_with_all_their_rows(rows: list[dict[str, Any]], copies: list[int]) -> None:
    copies = [n for n in copies if n < len(rows)]
    more = [{**rows[n], "email": f"copy{i}@x.example"} for i, n in enumerate(copies)]
    findings = report_of(rows + more).findings
    sharing = len(copies) + len(set(copies))
    assert [(one.rule, one.failed) for one in findings] == (
        [("things.id.primary_key", sharing)] if copies else []
    )


rules = st.sampled_from(sorted(HARMS))
places = st.sets(st.integers(0, 24), max_size=8)
copied = st.lists(st.integers(0, 24), max_size=5)


@settings(max_examples=5)
@given(clean_rows())
def test_any_clean_table_passes(rows: list[dict[str, Any]]) -> None:
    check_any_clean_table_passes(rows)


@settings(max_examples=16)
@given(clean_rows(), rules, places)
def test_planting_k_bad_rows_reports_exactly_k(
    rows: list[dict[str, Any]], rule: str, harmed: set[int]
) -> None:
    check_planted_rows_are_counted_exactly(rows, rule, harmed)


@settings(max_examples=4)
@given(clean_rows(), copied)
def test_duplicate_keys_are_counted_with_all_their_rows(
    rows: list[dict[str, Any]], copies: list[int]
) -> None:
    check_duplicates_are_counted_with_all_their_rows(rows, copies)


@pytest.mark.slow
@settings(max_examples=150)
@given(clean_rows())
def test_any_clean_table_passes_slow(rows: list[dict[str, Any]]) -> None:
    check_any_clean_table_passes(rows)


@pytest.mark.slow
@settings(max_examples=500)
@given(clean_rows(), rules, places)
def test_planting_k_bad_rows_reports_exactly_k_slow(
    rows: list[dict[str, Any]], rule: str, harmed: set[int]
) -> None:
    check_planted_rows_are_counted_exactly(rows, rule, harmed)


@pytest.mark.slow
@settings(max_examples=150)
@given(clean_rows(), copied)
def test_duplicate_keys_are_counted_with_all_their_rows_slow(
    rows: list[dict[str, Any]], copies: list[int]
) -> None:
    check_duplicates_are_counted_with_all_their_rows(rows, copies)


# ---- the same expectations on pandas, Great Expectations' own reference

MESSY = Contract.model_validate(
    {
        "table": "messy",
        "primary_key": ["id"],
        "rows": {"at_least": 0},
        "columns": {
            "id": {"type": "integer"},
            "text": {
                "type": "text",
                "nulls": {"at_most": 0},
                "unique": {},
                "allowed": {"values": ["a", "ä", "a\nb", "it's"]},
                "format": {"pattern": "^[a-z]+$"},
                "length": {"max": 3},
            },
            "number": {"type": "number", "range": {"min": -1.5, "max": 2}},
            "moment": {"type": "timestamp", "dates": {"not_before": "2011-01-01", "ahead_minutes": 0}},
        },
    }
)
texts = st.sampled_from(
    [None, "", "a", "A", "ä", "abcd", "a\nb", "it's", "a ", "日本語語", "\U0001f600", "%", "{x}"]
)
numbers = st.one_of(st.none(), st.sampled_from([-1.5, 2.0, -1.5000001, 2.0000001, 0.0, -0.0, 1e300, -1e300]))
moments = st.one_of(
    st.none(),
    st.sampled_from([NOW, NOW + timedelta(microseconds=1), datetime(2011, 1, 1), datetime(2010, 12, 31)]),  # noqa: DTZ001
)
messy_rows = st.lists(st.tuples(texts, numbers, moments), min_size=1, max_size=25)


def check_pandas_agrees(rows: list[tuple[Any, Any, Any]]) -> None:
    frame = pd.DataFrame(
        {
            "id": range(len(rows)),
            "text": pd.Series([row[0] for row in rows], dtype="object"),
            "number": pd.Series([row[1] for row in rows], dtype="float64"),
            "moment": pd.Series([row[2] for row in rows], dtype="datetime64[ns]"),
        }
    )
    ours = _counts_of_ours(rows)
    assert _counts_of_pandas(frame) == ours


def _counts_of_ours(rows: list[tuple[Any, Any, Any]]) -> dict[str, int]:
    schema = pa.schema(
        [("id", pa.int64()), ("text", pa.string()), ("number", pa.float64()), ("moment", pa.timestamp("us"))]
    )
    with tempfile.TemporaryDirectory() as folder:
        path = f"{folder}/messy.parquet"
        listed = [{"id": n, "text": r[0], "number": r[1], "moment": r[2]} for n, r in enumerate(rows)]
        pq.write_table(pa.Table.from_pylist(listed, schema=schema), path)
        data = SnapshotData("x/00000001", AT, {"messy": TableData((path,), len(rows))})
        report = check_data(data, {"messy": MESSY}, at=AT)
    assert all(one.status == "failed" for one in report.findings)
    return {one.rule: one.failed for one in report.findings}


def _counts_of_pandas(frame: pd.DataFrame) -> dict[str, int]:
    import great_expectations as gx
    from great_expectations.expectations.registry import get_expectation_impl

    import tasks.checks.engine  # noqa: F401 - registers our own expectations, silences the log

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    batch = (
        context.data_sources.add_pandas("oracle")
        .add_dataframe_asset("messy")
        .add_batch_definition_whole_dataframe("all")
        .get_batch({"dataframe": frame})
    )
    counts = {}
    for rule in compile_rules(MESSY, TableFigures(tuple(frame.columns), len(frame)), AT):
        if rule.kind in {"type", "exists", "columns_known", "rows_match_source"}:
            continue
        outcome = batch.validate(get_expectation_impl(rule.expectation)(**rule.kwargs))
        assert not outcome.exception_info.get("raised_exception"), rule.rule_id
        if not outcome.success:
            counts[rule.rule_id] = int(outcome.result["unexpected_count"])
    return counts


@settings(max_examples=6)
@given(messy_rows)
def test_pandas_and_duckdb_count_the_same(rows: list[tuple[Any, Any, Any]]) -> None:
    check_pandas_agrees(rows)


@pytest.mark.slow
@settings(max_examples=300)
@given(messy_rows)
def test_pandas_and_duckdb_count_the_same_slow(rows: list[tuple[Any, Any, Any]]) -> None:
    check_pandas_agrees(rows)


# ---- scale, and names that need quoting


def test_names_that_need_quoting_and_colons_in_patterns_do_no_harm(tmp_path: Path) -> None:
    table, key, column = 'Odd "name; --', "a.b", "select"
    contract = Contract.model_validate(
        {
            "table": table,
            "primary_key": [key],
            "columns": {
                key: {"type": "integer"},
                column: {"type": "text", "format": {"pattern": "^(?:x|y:z{2}|%s)$"}},
            },
            "row_rules": [
                {
                    "name": "odd",
                    "says": "it is not y:zz",
                    "holds": "\"select\" <> 'y:zz' OR '{a}' = \"select\"::VARCHAR",
                    "columns": [column],
                }
            ],
            "foreign_keys": [{"columns": [key], "references": table, "referred": [key]}],
        }
    )
    path = str(tmp_path / "it's.parquet")
    rows = [{key: 1, column: "x"}, {key: 2, column: "y:zz"}, {key: 3, column: "%s"}, {key: 4, column: "z"}]
    pq.write_table(
        pa.Table.from_pylist(rows, schema=pa.schema([(key, pa.int64()), (column, pa.string())])), path
    )
    report = check_data(
        SnapshotData("x/00000001", AT, {table: TableData((path,), 4)}),
        {table: contract},
        at=AT,
        docs_folder=tmp_path / "docs",
    )
    assert {one.rule.rpartition(".")[2]: (one.failed, one.sample_keys) for one in report.findings} == {
        "odd": (1, ["a.b=2"]),
        "format": (1, ["a.b=4"]),
    }


def test_a_table_of_several_files_is_one_table(tmp_path: Path) -> None:
    files = []
    for part in range(3):
        path = str(tmp_path / f"{part}.parquet")
        pq.write_table(pa.table({"id": pa.array([part, 7], pa.int64())}), path)
        files.append(path)
    data = SnapshotData("x/00000001", AT, {"owners": TableData(tuple(files), 6)})
    (finding,) = check_data(data, {"owners": OWNERS}, at=AT).findings
    assert (finding.rule, finding.failed, finding.total) == ("owners.id.primary_key", 3, 6)


def test_a_table_without_files_is_checked_by_its_schema() -> None:
    schema = pa.schema([("id", pa.string())])
    data = SnapshotData("x/00000001", AT, {"owners": TableData((), 0, schema)})
    found = {one.rule for one in check_data(data, {"owners": OWNERS}, at=AT).findings}
    assert found == {"owners.rows_at_least", "owners.id.type"}


def test_known_dirt_passes_up_to_the_share_that_is_tolerated(tmp_path: Path) -> None:
    column = {"type": "integer", "range": {"min": 1, "tolerate": 0.1}}
    tolerant = Contract.model_validate({"table": "owners", "primary_key": ["id"], "columns": {"id": column}})
    path = str(tmp_path / "owners.parquet")
    for bad, expected in ((1, []), (2, [("owners.id.range", 2)])):
        ids = [*range(1, 11 - bad), *range(-bad, 0)]
        pq.write_table(pa.table({"id": pa.array(ids, pa.int64())}), path)
        data = SnapshotData("x/00000001", AT, {"owners": TableData((path,), len(ids))})
        found = check_data(data, {"owners": tolerant}, at=AT).findings
        assert [(one.rule, one.failed) for one in found] == expected
