"""The history of checks: whole after any kill, no longer for a repeated run, and one query says when it began."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.checks import CheckReport, RuleResult, read_history, remember
from tasks.checks import history as module

START = datetime(2011, 11, 16, 7, 0, tzinfo=UTC)
RULES = ("orders.rows_at_least", "orders.kind.allowed")


def report(number: int, failed: int = 0, *, source: str = "shop", later: int = 0) -> CheckReport:
    """What a check of one snapshot found: two rules, of which one fails for `failed` rows."""
    at = START + timedelta(hours=number)
    results = [
        RuleResult(
            RULES[0], "orders", "", "rows_at_least", "critical", rows=100 + number, seconds=0.1 + later
        ),
        RuleResult(RULES[1], "orders", "kind", "allowed", "critical", "failed" if failed else "held", failed),
    ]
    return CheckReport(
        f"{source}/{number:08d}",
        "quarantined" if failed else "valid",
        [],
        checks=2,
        seconds=0.2,
        consistency_at=at,
        checked_at=at + timedelta(minutes=5 + later),
        results=results,
    )


def failures(folder: Path, **which: Any) -> list[tuple[str, int]]:
    found = read_history(folder, rule=RULES[1], **which)
    return list(zip(found["snapshot"].to_pylist(), found["failed"].to_pylist(), strict=True))


def test_without_a_check_the_history_is_empty(tmp_path: Path) -> None:
    found = read_history(tmp_path / "nowhere")
    assert found.num_rows == 0
    assert found.schema == module.history_schema()


def test_a_repeated_check_adds_nothing_and_a_changed_one_takes_the_place_of_the_first(tmp_path: Path) -> None:
    assert remember(tmp_path, report(1))
    assert not remember(tmp_path, report(1, later=9))
    assert remember(tmp_path, report(1, failed=3))
    assert failures(tmp_path) == [("shop/00000001", 3)]
    assert remember(tmp_path, report(1)), "found again what was found before the last: the last one counts"
    assert failures(tmp_path) == [("shop/00000001", 0)]
    assert len(list(tmp_path.rglob("*.parquet"))) == 3


def test_a_rule_that_the_newest_check_did_not_ask_is_not_known_of_the_snapshot(tmp_path: Path) -> None:
    remember(tmp_path, report(1, failed=3))
    remember(tmp_path, replace(report(1), results=report(1).results[:1]))
    assert failures(tmp_path) == []


def test_the_history_is_read_by_source_table_rule_age_and_number(tmp_path: Path) -> None:
    for source in ("shop", "esp"):
        for number in range(1, 6):
            remember(tmp_path, report(number, failed=number, source=source))
    assert failures(tmp_path, source="esp", last=2) == [("esp/00000004", 4), ("esp/00000005", 5)]
    assert failures(tmp_path, before="shop/00000003") == [("shop/00000001", 1), ("shop/00000002", 2)]
    assert failures(tmp_path, before="shop/00000003", last=1) == [("shop/00000002", 2)]
    assert failures(tmp_path, table="customers") == []
    assert read_history(tmp_path).num_rows == 20


@settings(max_examples=8)
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(0, 2)), max_size=8), st.integers(1, 4))
def test_a_history_says_the_same_however_often_it_was_merged(
    tmp_path_factory: pytest.TempPathFactory, checks: list[tuple[int, int]], every: int
) -> None:
    plain, merged = tmp_path_factory.mktemp("plain"), tmp_path_factory.mktemp("merged")
    for n, (number, failed) in enumerate(checks):
        added = remember(plain, report(number, failed))
        assert remember(merged, report(number, failed)) == added
        if n % every == 0:
            module.merge(merged / "shop")
    assert read_history(plain) == read_history(merged)


def test_many_checks_are_merged_by_themselves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MERGE_AFTER", 3)
    for number in range(1, 9):
        remember(tmp_path, report(number, failed=number))
    assert sorted(one.name for one in tmp_path.rglob("*.parquet")) == ["merged-0002.parquet"]
    assert [failed for _, failed in failures(tmp_path)] == list(range(1, 9))


def test_a_merge_while_somebody_reads_is_not_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 4):
        remember(tmp_path, report(number, failed=number))
    before = read_history(tmp_path)
    real, calls = module._scan, []

    def scan(files: list[Path]) -> str:
        if not calls:  # the files were listed, and are gone when DuckDB opens them
            calls.append(files)
            module.merge(tmp_path / "shop")
        return real(files)

    monkeypatch.setattr(module, "_scan", scan)
    assert read_history(tmp_path) == before
    assert calls


def test_a_column_that_came_later_is_empty_in_what_was_written_before(tmp_path: Path) -> None:
    remember(tmp_path, report(1))
    (old,) = tmp_path.rglob("*.parquet")
    pq.write_table(pq.ParquetFile(old).read().drop_columns(["null_share"]), old)
    remember(tmp_path, report(2))
    assert set(read_history(tmp_path)["null_share"].to_pylist()) == {None}


@pytest.mark.kill
@pytest.mark.parametrize("point", ["history.append", "history.merged"])
def test_a_killed_check_leaves_all_of_it_or_nothing_and_the_next_one_completes_it(
    tmp_path: Path, point: str
) -> None:
    script = (
        "import sys; from pathlib import Path; from tests.checks import test_history as t\n"
        "from tasks.checks import history\n"
        "history.MERGE_AFTER = 2\n"
        "for n in (1, 2, 3): history.remember(Path(sys.argv[1]), t.report(n, failed=n))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path)]
    killed = subprocess.run(
        command, env={**os.environ, "MAILSTAY_CRASH_AT": f"{point}#{2 if point == 'history.append' else 1}"}
    )
    assert killed.returncode == -signal.SIGKILL
    whole = [("shop/00000001", 1), ("shop/00000002", 2), ("shop/00000003", 3)]
    assert failures(tmp_path) == (whole if point == "history.merged" else whole[:1])
    subprocess.run(command, check=True)
    assert failures(tmp_path) == whole


def test_when_a_failure_began_is_one_query_over_the_files(tmp_path: Path) -> None:
    for number, failed in enumerate([0, 2, 0, 4, 5], start=1):
        remember(tmp_path, report(number, failed))
    page = (Path(__file__).resolve().parents[2] / "docs/analyst.md").read_text()
    query = page.partition("```sql\n")[2].partition("```")[0].replace("reports/checks/history", str(tmp_path))
    assert duckdb.sql(query).fetchall() == [
        ("shop", RULES[1], "shop/00000004", START + timedelta(hours=4), 2, 5),
    ]


def test_no_address_is_remembered(tmp_path: Path) -> None:
    named = RuleResult(
        "t.ada@shop.example.type", "ada@shop.example", "ada@shop.example", "type", "info", rows=1
    )
    remember(tmp_path, replace(report(1), results=[named]))
    assert "ada@" not in str(read_history(tmp_path).to_pylist())
    assert isinstance(read_history(tmp_path), pa.Table)
