"""From measured figures to what the report shows: nothing that was measured may get lost on the way."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from tasks.impact import DataImpact, check_reputation
from tasks.reports import ReviewContent
from tasks.reports.assembly import (
    data_rows,
    impact_lines,
    left_out,
    rows_at_risk,
    rows_lost,
    summary_lines,
)

NINE = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)


def impact(*lost: tuple[str, str, str, int, bool]) -> DataImpact:
    """One table at risk, and what is said to be lost: source, table, witness, rows, estimated."""
    return DataImpact(
        pd.DataFrame({"source": ["esp"], "table": ["events"], "since": [NINE], "rows": [7]}),
        pd.DataFrame(
            [(source, table, by, 9, rows, guessed, "why") for source, table, by, rows, guessed in lost],
            columns=["source", "table", "witness", "checked", "rows", "estimated", "note"],
        ),
        0,
    )


def test_a_table_without_a_birth_time_is_shown_when_its_rows_are_gone() -> None:
    found = impact(("esp", "campaign_lists", "last snapshot", 3, False))
    shown = {one.table: (one.at_risk, one.lost) for one in data_rows(found)}
    assert shown == {"events": (7, None), "campaign_lists": (None, 3)}


def test_what_is_only_estimated_is_shown_as_such_and_never_summed_with_the_rest() -> None:
    found = impact(
        ("esp", "events", "webhook receipts", 2, False), ("esp", "events (opens)", "nothing", 5, True)
    )
    assert [(one.table, one.lost, one.estimated) for one in data_rows(found)] == [
        ("events", 2, False),
        ("events (opens)", 5, True),
    ]
    assert sum(rows_lost(found).values()) == found.rows_lost == 2


def test_rows_per_table_agree_with_the_totals_where_two_sources_share_a_name() -> None:
    found = impact(
        ("esp", "events", "webhook receipts", 2, False),
        ("esp", "events", "last snapshot", 4, False),
        ("shop", "events", "last snapshot", 1, False),
        ("esp", "suppressions", "consent requests", 8, False),
    )
    assert rows_lost(found) == {"events": 5}
    assert found.rows_lost == 5
    assert sum(rows_at_risk(found).values()) == found.rows_at_risk


@pytest.mark.parametrize(("sent", "bounced", "shown"), [(200, 9, 9), (200, 0, 0), (0, 0, None)])
def test_bounces_of_the_catch_up_are_those_of_its_rate(sent: int, bounced: int, shown: int | None) -> None:
    catch_up = {"messages": sent, "bounce": bounced, "complaint": 0, "unsubscribe": 0}
    usual = pd.DataFrame({"messages": [100], "bounce": [1], "complaint": [0], "unsubscribe": [0]})
    figures: Any = SimpleNamespace(
        messages=SimpleNamespace(counts=SimpleNamespace(minutes_longest=0, minutes_median=0, bounced=4)),
        data=impact(),
        reputation=tuple(check_reputation(catch_up, usual)),
    )
    [line] = [one for one in impact_lines(figures) if "bounced in the catch-up" in one.name]
    assert line.value == shown


def test_orders_in_another_currency_are_named_and_never_added() -> None:
    assert left_out({}, "GBP") == []
    [said] = left_out({"EUR": 3, "": 1}, "GBP")
    assert "orders in GBP; 4 orders in other currencies are left out (1 in no currency, 3 in EUR)" in said


def test_a_currency_without_minor_units_is_not_divided_by_a_hundred(content: ReviewContent) -> None:
    yen = replace(content, header=replace(content.header, currency="JPY"))
    assert any("Net loss JPY 124,000" in one for one in summary_lines(yen))
    assert any("Net loss £1,240 (95" in one for one in summary_lines(content))
