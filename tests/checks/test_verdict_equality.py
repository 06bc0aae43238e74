"""Every translated expectation gives the verdict that stock Great Expectations gives on pandas and on SQLite.

Where their definitions differ, ours is stated here and the difference is asserted, not skipped:

- NaN is a value: it is not null and lies outside of every range. pandas takes it for missing; SQLite cannot hold it.
- Two rows that lack a part of a key are not the same, as in SQL. pandas counts them unless told to leave them out.
- A pair that lacks one value breaks no order, as in SQL. pandas counts it unless told to leave it out.
- A quantile is a value that occurs, the first that enough values do not exceed, as in SQL. pandas takes the nearest
  of places that it counts in another way.
- The sum of no values is unknown, as in SQL. pandas says 0.
"""

from __future__ import annotations

import math
import sqlite3
import tempfile
from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

FLOOR, CEILING = datetime(2011, 1, 1, tzinfo=UTC), datetime(2011, 11, 16, 7, tzinfo=UTC)
EAST = timezone(timedelta(hours=5, minutes=30))
Rows = list[dict[str, Any]]
Found = tuple[bool, Any]

ONE = ("text", "number", "whole", "moment")
CHECKS: dict[str, tuple[str, dict[str, Any]]] = {
    **{f"not null {one}": ("expect_column_values_to_not_be_null", {"column": one}) for one in ONE},
    **{f"null {one}": ("expect_column_values_to_be_null", {"column": one, "mostly": 0.5}) for one in ONE},
    **{f"unique {one}": ("expect_column_values_to_be_unique", {"column": one}) for one in ONE},
    "in set": (
        "expect_column_values_to_be_in_set",
        {"column": "text", "value_set": ["a", "ä", "it's", "a\nb"]},
    ),
    "in set of numbers": ("expect_column_values_to_be_in_set", {"column": "whole", "value_set": [0, 1]}),
    "not in set": (
        "expect_column_values_to_not_be_in_set",
        {"column": "text", "value_set": ["", "%", "{x}"]},
    ),
    "regex": ("expect_column_values_to_match_regex", {"column": "text", "regex": "^[a-zä]+$", "mostly": 0.6}),
    "no regex": ("expect_column_values_to_not_match_regex", {"column": "text", "regex": "[a-z]b|:"}),
    "least": ("expect_column_values_to_be_between", {"column": "number", "min_value": -1.5}),
    "most": ("expect_column_values_to_be_between", {"column": "number", "max_value": 2, "strict_max": True}),
    "range": ("expect_column_values_to_be_between", {"column": "whole", "min_value": 0, "max_value": 2**40}),
    "moments": (
        "expect_column_values_to_be_between",
        {"column": "moment", "min_value": FLOOR, "max_value": CEILING},
    ),
    "strictly between": (
        "expect_column_values_to_be_between",
        {"column": "number", "min_value": -1.5, "max_value": 1e300, "strict_min": True, "strict_max": True},
    ),
    "lengths": (
        "expect_column_value_lengths_to_be_between",
        {"column": "text", "min_value": 1, "max_value": 3},
    ),
    "length": ("expect_column_value_lengths_to_equal", {"column": "text", "value": 1}),
    "together": (
        "expect_compound_columns_to_be_unique",
        {"column_list": ["text", "whole"], "ignore_row_if": "any_value_is_missing"},
    ),
    "greater": (
        "expect_column_pair_values_a_to_be_greater_than_b",
        {"column_A": "whole", "column_B": "other", "ignore_row_if": "either_value_is_missing"},
    ),
    "at least": (
        "expect_column_pair_values_a_to_be_greater_than_b",
        {
            "column_A": "whole",
            "column_B": "other",
            "or_equal": True,
            "ignore_row_if": "either_value_is_missing",
        },
    ),
    "rows": ("expect_table_row_count_to_be_between", {"min_value": 3, "max_value": 10}),
    "columns": ("expect_table_column_count_to_equal", {"value": 6}),
    "largest": ("expect_column_max_to_be_between", {"column": "whole", "max_value": 2}),
    "smallest": ("expect_column_min_to_be_between", {"column": "whole", "min_value": 0}),
    "sum": ("expect_column_sum_to_be_between", {"column": "whole", "min_value": 0, "max_value": 10}),
    "mean": ("expect_column_mean_to_be_between", {"column": "whole", "min_value": 0.5}),
    "filled": (
        "expect_column_proportion_of_non_null_values_to_be_between",
        {"column": "whole", "min_value": 0.5},
    ),
    "median": ("expect_column_median_to_be_between", {"column": "whole", "min_value": 1}),
}
PANDAS_ONLY = {
    "rising": ("expect_column_values_to_be_increasing", {"column": "whole"}),
    "strictly rising": ("expect_column_values_to_be_increasing", {"column": "whole", "strictly": True}),
    "falling": ("expect_column_values_to_be_decreasing", {"column": "whole"}),
    "spread": ("expect_column_stdev_to_be_between", {"column": "whole", "min_value": 0.5, "max_value": 5}),
}
"""What stock SQLite has no provider for."""

QUANTILES = {
    "quantiles": (
        "expect_column_quantile_values_to_be_between",
        {
            "column": "whole",
            "quantile_ranges": {"quantiles": [0.1, 0.5, 0.9], "value_ranges": [[-2, 0], [0, 2], [1, None]]},
        },
    )
}
BY_DEFINITION = {
    "together, any part": ("expect_compound_columns_to_be_unique", {"column_list": ["text", "whole"]}),
    "greater, any part": (
        "expect_column_pair_values_a_to_be_greater_than_b",
        {"column_A": "whole", "column_B": "other"},
    ),
}

texts = st.sampled_from(
    [
        None,
        "",
        "a",
        "A",
        "ä",
        "a\u0308",
        "abcd",
        "a\nb",
        "it's",
        "a ",
        "日本語語",
        "\U0001f600",
        "%",
        "{x}",
        ":b",
        "x" * 40_000,
    ]
)
numbers = st.sampled_from([None, -1.5, 2.0, -1.5000001, 0.0, -0.0, 1e300, math.inf, -math.inf, 5e-324])
wholes = st.one_of(st.none(), st.integers(-2, 3), st.sampled_from([2**40, -(2**40)]))
moments = st.sampled_from(
    [
        None,
        FLOOR,
        CEILING,
        FLOOR - timedelta(microseconds=1),
        CEILING + timedelta(microseconds=1),
        CEILING.astimezone(EAST),
        datetime(2011, 6, 1, tzinfo=EAST),
        datetime(1969, 12, 31, 23, 59, 59, tzinfo=UTC),
    ]
)


def tables(number: st.SearchStrategy[Any] = numbers) -> st.SearchStrategy[Rows]:
    row = st.fixed_dictionaries(
        {"text": texts, "number": number, "whole": wholes, "other": wholes, "moment": moments}
    )
    some = st.lists(row, max_size=20)
    empty = st.just({"text": None, "number": None, "whole": None, "other": None, "moment": None})
    return some | st.lists(empty, min_size=1, max_size=3)


SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("text", pa.string()),
        ("number", pa.float64()),
        ("whole", pa.int64()),
        ("other", pa.int64()),
        ("moment", pa.timestamp("us", tz="UTC")),
    ]
)


def ours(
    rows: Rows, checks: dict[str, Any], cut: int = 0, answered: set[str] | None = None
) -> dict[str, Found]:
    """What the fused engine says of a table, which lies in one file or in two; adds the metrics that it answered."""
    from tasks.checks import suites

    with tempfile.TemporaryDirectory() as folder:
        table, files = pa.Table.from_pylist([{"id": n, **row} for n, row in enumerate(rows)], SCHEMA), []
        for number, part in enumerate([table.slice(0, cut), table.slice(cut)] if cut else [table]):
            files.append(f"{folder}/{number}.parquet")
            pq.write_table(part, files[-1])
        _, source = suites.open_context("x", {"messy": files})
        engine = source.get_execution_engine()
        try:
            asset = source.add_table_asset("messy", table_name="messy")
            found = verdicts(asset.add_batch_definition_whole_table("all").get_batch(), checks)
            assert isinstance(engine, suites.FusedExecutionEngine)
            assert engine.measurer.statements
            if answered is not None:
                answered |= {one.metric_name for one in engine._done}
        finally:
            engine.dispose()
        return found


def on_pandas(rows: Rows, checks: dict[str, Any]) -> dict[str, Found]:
    frame = pd.DataFrame(
        {
            "id": range(len(rows)),
            "text": pd.Series([row["text"] for row in rows], dtype="object"),
            "number": pd.Series([row["number"] for row in rows], dtype="float64"),
            "whole": pd.Series([row["whole"] for row in rows], dtype="float64"),
            "other": pd.Series([row["other"] for row in rows], dtype="float64"),
            "moment": pd.Series(
                pd.to_datetime([row["moment"] for row in rows], utc=True).astype("datetime64[ns, UTC]")
            ),
        }
    )
    asset = context().data_sources.add_or_update_pandas("oracle").add_dataframe_asset("messy")
    batch = asset.add_batch_definition_whole_dataframe("all").get_batch({"dataframe": frame})
    return verdicts(batch, checks)


def on_sqlite(rows: Rows, checks: dict[str, Any]) -> dict[str, Found]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "oracle.db")
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "CREATE TABLE messy (id INTEGER, text TEXT, number REAL, whole INTEGER, other INTEGER, moment DATETIME)"
            )
            connection.executemany(
                "INSERT INTO messy VALUES (?, ?, ?, ?, ?, ?)",
                [(n, *(_plain(row[name]) for name in SCHEMA.names[1:])) for n, row in enumerate(rows)],
            )
            connection.commit()
        source = context().data_sources.add_or_update_sqlite("lite", connection_string=f"sqlite:///{path}")
        asset = source.add_table_asset("messy", table_name="messy")
        plain = {
            name: (kind, {key: _plain(value) for key, value in asked.items()})
            for name, (kind, asked) in checks.items()
        }
        try:
            return verdicts(asset.add_batch_definition_whole_table("all").get_batch(), plain)
        finally:
            source.get_execution_engine().close()


def _plain(value: Any) -> Any:
    """A moment as SQLAlchemy writes it for SQLite."""
    return value.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S.%f") if isinstance(value, datetime) else value


def context() -> Any:
    import great_expectations as gx

    import tasks.checks.engine  # noqa: F401 - silences the log

    found = gx.get_context(mode="ephemeral")
    found.variables.progress_bars = {"globally": False, "metric_calculations": False}
    return found


def verdicts(batch: Any, checks: dict[str, Any]) -> dict[str, Found]:
    import great_expectations as gx
    from great_expectations.expectations.registry import get_expectation_impl

    suite = gx.ExpectationSuite(
        "all",
        [get_expectation_impl(kind)(**asked, meta={"name": name}) for name, (kind, asked) in checks.items()],
    )
    outcome = batch.validate(suite, result_format={"result_format": "SUMMARY", "partial_unexpected_count": 0})
    found = {}
    for one in outcome.results:
        name = one.expectation_config.meta["name"]
        info = one.exception_info
        assert info.get("raised_exception") is False, (name, str(info)[:2000])
        observed = one.result.get("unexpected_count", one.result.get("observed_value"))
        if isinstance(observed, dict):
            observed = observed["values"]
        if isinstance(observed, int | float):  # pandas makes floats of whole numbers beside a missing one
            observed = None if math.isnan(observed) else float(f"{observed:.9g}")
        found[name] = (bool(one.success), observed)
    return found


def differing(one: dict[str, Found], other: dict[str, Found]) -> dict[str, tuple[Found, Found]]:
    """Where they differ; that stock counts nothing where there is no row is no difference."""
    both = {name: (one[name], other[name]) for name in other if one[name] != other[name]}
    empty = one.get("rows", (True, None))[1] == 0
    return {name: pair for name, pair in both.items() if not (empty and pair == ((True, 0), (True, None)))}


def check_all_agree(rows: Rows, cut: int) -> None:
    checks = CHECKS | PANDAS_ONLY
    found = ours(rows, checks, cut=min(cut, len(rows)))
    differs = differing(found, on_pandas(rows, checks))
    if all(row["whole"] is None for row in rows):
        assert differs.pop("sum") == ((False, None), (True, 0.0))
    assert differs == {}
    assert differing(found, on_sqlite(rows, CHECKS)) == {}


def check_nan_is_a_value_outside_of_every_range(rows: Rows) -> None:
    asked = ("not null number", "least", "most", "strictly between")
    found = ours(rows, {name: CHECKS[name] for name in asked})
    oracle = on_pandas(rows, {name: CHECKS[name] for name in asked})
    nans = sum(isinstance(row["number"], float) and math.isnan(row["number"]) for row in rows)
    assert found["not null number"][1] == oracle["not null number"][1] - nans
    for name in asked[1:]:
        assert found[name][1] == oracle[name][1] + nans


def check_missing_parts_are_as_in_sql(rows: Rows) -> None:
    found = ours(rows, BY_DEFINITION)
    assert differing(found, on_sqlite(rows, BY_DEFINITION)) == {}
    oracle = on_pandas(rows, BY_DEFINITION)
    keys = Counter((row["text"], row["whole"]) for row in rows)
    sharing = sum(
        n for key, n in keys.items() if n > 1 and None in key and any(part is not None for part in key)
    )
    assert oracle["together, any part"][1] - found["together, any part"][1] == sharing
    half = sum((row["whole"] is None) != (row["other"] is None) for row in rows)
    assert oracle["greater, any part"][1] - found["greater, any part"][1] == half


def check_quantiles_are_values_that_occur(rows: Rows) -> None:
    found = ours(rows, QUANTILES)
    if any(row["whole"] is not None for row in rows):
        assert found == on_sqlite(rows, QUANTILES)
    else:  # stock SQLite raises
        assert found == {"quantiles": (False, [None, None, None])}


nan_tables = tables(st.sampled_from([math.nan, None, 1.0, -2.0, 2.0]))


def test_every_translated_metric_is_held_against_stock() -> None:
    """A metric that the fused engine learns to answer needs its expectation here."""
    from tasks.checks.measures import FIGURE_METRICS, MAP_METRICS

    answered: set[str] = set()
    row = {"text": "a", "number": 1.0, "whole": 1, "other": 0, "moment": FLOOR}
    ours([row], CHECKS | PANDAS_ONLY | BY_DEFINITION | QUANTILES, answered=answered)
    translated = {f"{name}.unexpected_count" for name in MAP_METRICS} | FIGURE_METRICS.keys()
    assert translated - answered == set()


@settings(max_examples=4)
@given(tables(), st.integers(0, 20))
def test_fused_pandas_and_sqlite_say_the_same(rows: Rows, cut: int) -> None:
    check_all_agree(rows, cut)


def test_of_an_empty_table_they_say_the_same() -> None:
    check_all_agree([], 0)


@settings(max_examples=3)
@given(nan_tables)
def test_nan_is_a_value_outside_of_every_range(rows: Rows) -> None:
    check_nan_is_a_value_outside_of_every_range(rows)


@settings(max_examples=3)
@given(tables())
def test_rows_that_lack_a_part_are_compared_as_in_sql(rows: Rows) -> None:
    check_missing_parts_are_as_in_sql(rows)


@settings(max_examples=3)
@given(tables())
def test_quantiles_are_values_that_occur(rows: Rows) -> None:
    check_quantiles_are_values_that_occur(rows)


def test_of_a_column_without_values_the_quantiles_are_out_of_range_and_not_broken() -> None:
    check_quantiles_are_values_that_occur([dict.fromkeys(("text", "number", "whole", "other", "moment"))])


@pytest.mark.slow
@settings(max_examples=250)
@given(tables(), st.integers(0, 20))
def test_fused_pandas_and_sqlite_say_the_same_slow(rows: Rows, cut: int) -> None:
    check_all_agree(rows, cut)


@pytest.mark.slow
@settings(max_examples=80)
@given(nan_tables)
def test_nan_is_a_value_outside_of_every_range_slow(rows: Rows) -> None:
    check_nan_is_a_value_outside_of_every_range(rows)


@pytest.mark.slow
@settings(max_examples=80)
@given(tables())
def test_rows_that_lack_a_part_are_compared_as_in_sql_slow(rows: Rows) -> None:
    check_missing_parts_are_as_in_sql(rows)


@pytest.mark.slow
@settings(max_examples=80)
@given(tables())
def test_quantiles_are_values_that_occur_slow(rows: Rows) -> None:
    check_quantiles_are_values_that_occur(rows)
