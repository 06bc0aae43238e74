"""The fused engine beside stock Great Expectations: what it leaves to it, what it hides, and what does not stop it."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.checks.contracts import Contract
from tasks.checks.running import SnapshotData, TableData, check_data

AT = datetime(2011, 11, 16, 7, tzinfo=UTC)


@pytest.fixture
def people(tmp_path: Path) -> str:
    path = str(tmp_path / "people.parquet")
    mails = ["eve@secret.example", "eve@secret.example", "bob@secret.example", None]
    pq.write_table(pa.table({"id": [1, 2, 3, 4], "mail": mails, "kind": ["a", "a", "b", "c"]}), path)
    return path


def results(path: str, result_format: Any, *asked: tuple[str, dict[str, Any]]) -> tuple[Any, list[str]]:
    """The results of expectations of the table `people`, and the statements that the fused engine asked."""
    import great_expectations as gx
    from great_expectations.expectations.registry import get_expectation_impl

    from tasks.checks import suites

    _, source = suites.open_context("x", {"people": [path]})
    engine = source.get_execution_engine()
    assert isinstance(engine, suites.FusedExecutionEngine)
    measurer = engine.prepare({"people": [path]}, personal={"people": frozenset({"mail"})})
    try:
        batch = (
            source.add_table_asset("people", table_name="people")
            .add_batch_definition_whole_table("all")
            .get_batch()
        )
        suite = gx.ExpectationSuite("s", [get_expectation_impl(kind)(**kwargs) for kind, kwargs in asked])
        return batch.validate(suite, result_format=result_format), measurer.statements
    finally:
        engine.dispose()


PERSONAL = (
    ("expect_column_values_to_be_unique", {"column": "mail"}),
    ("expect_column_values_to_be_in_set", {"column": "mail", "value_set": ["nobody"]}),
    ("expect_column_values_to_match_regex", {"column": "mail", "regex": "^x"}),
    ("expect_column_values_to_be_null", {"column": "mail"}),
    ("expect_column_value_lengths_to_equal", {"column": "mail", "value": 1}),
    ("expect_compound_columns_to_be_unique", {"column_list": ["mail", "kind"]}),
    ("expect_column_pair_values_a_to_be_greater_than_b", {"column_A": "kind", "column_B": "mail"}),
    (
        "expect_column_values_to_be_in_set",
        {
            "column": "mail",
            "value_set": ["x"],
            "row_condition": 'col("id") > 1',
            "condition_parser": "great_expectations",
        },
    ),
    ("expect_column_values_to_not_match_like_pattern", {"column": "mail", "like_pattern": "%@%"}),
)


@pytest.mark.parametrize("kind", ["BOOLEAN_ONLY", "BASIC", "SUMMARY", "COMPLETE"])
def test_no_result_format_shows_a_personal_value(people: str, kind: str) -> None:
    found, _ = results(people, {"result_format": kind}, *PERSONAL)
    assert [bool(one.success) for one in found.results if one.success] == []
    assert not any(one.exception_info.get("raised_exception", True) for one in found.results)
    text = json.dumps(found.to_json_dict())
    assert "secret.example" not in text
    assert kind in ("BOOLEAN_ONLY",) or "sha256:" in text


def test_great_expectations_is_imported_by_checks_that_run_and_by_nothing_else() -> None:
    """It takes seconds and 140 MiB: no other command may pay for it."""
    asked = "import sys, flows.cli, tasks.checks; sys.exit('great_expectations' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0


def test_what_it_does_not_translate_is_answered_by_the_stock_engine(people: str) -> None:
    found, statements = results(
        people,
        "BASIC",
        ("expect_column_distinct_values_to_be_in_set", {"column": "kind", "value_set": ["a", "b"]}),
        (
            "expect_column_values_to_be_in_set",
            {
                "column": "kind",
                "value_set": ["a"],
                "row_condition": 'col("id") > 2',
                "condition_parser": "great_expectations",
            },
        ),
        ("expect_column_values_to_be_in_set", {"column": "kind", "value_set": ["a"]}),
    )
    assert [bool(one.success) for one in found.results] == [False, False, False]
    assert [one.result.get("unexpected_count") for one in found.results] == [1, 2, 2]
    assert len([one for one in statements if "count_if" in one]) == 1


def test_while_a_suite_runs_an_expectation_puts_its_configuration_together_once(people: str) -> None:
    from great_expectations.expectations.registry import get_expectation_impl

    from tasks.checks.suites import configured_once

    one = get_expectation_impl("expect_column_values_to_be_unique")(column="mail")
    with configured_once():
        assert one.configuration is one.configuration
        other = get_expectation_impl("expect_column_values_to_be_unique")(column="id")
        assert other.configuration.kwargs["column"] == "id"
    one.mostly = 0.5
    assert one.configuration.kwargs["mostly"] == 0.5, "afterwards it is what the expectation says"


def test_a_checkpoint_of_ten_tables_tells_bad_from_broken(tmp_path: Path) -> None:
    check_many_tables(tmp_path, 10)


@pytest.mark.slow
def test_a_checkpoint_of_a_hundred_tables_tells_bad_from_broken_slow(tmp_path: Path) -> None:
    check_many_tables(tmp_path, 100)


def check_many_tables(folder: Path, many: int) -> None:
    """Every tenth table has a rule that cannot be asked, and every seventh a bad row."""
    contracts, tables = {}, {}
    for n in range(many):
        name, path = f"t{n:03d}", str(folder / f"{n}.parquet")
        pq.write_table(
            pa.table({"id": pa.array([1, 2, 3], pa.int64()), "kind": ["a", "b", "z" if n % 7 == 0 else "a"]}),
            path,
        )
        holds = "CAST(kind AS INTEGER) > 0" if n % 10 == 0 else "kind <> 'y'"
        contracts[name] = Contract.model_validate(
            {
                "table": name,
                "primary_key": ["id"],
                "columns": {
                    "id": {"type": "integer", "range": {"min": 1}},
                    "kind": {"type": "text", "allowed": {"values": ["a", "b"]}},
                },
                "row_rules": [{"name": "odd", "says": "it is no y", "holds": holds, "columns": ["kind"]}],
            }
        )
        tables[name] = TableData((path,), 3)
    report = check_data(SnapshotData("x/00000001", AT, tables), contracts, at=AT)
    assert {one.rule: one.failed for one in report.findings if one.status == "failed"} == {
        f"t{n:03d}.kind.allowed": 1 for n in range(0, many, 7)
    }
    assert {one.rule for one in report.findings if one.status == "broken"} == {
        f"t{n:03d}.kind.odd" for n in range(0, many, 10)
    }
    assert all(one.sample_keys == ["id=3"] for one in report.findings if one.status == "failed")
