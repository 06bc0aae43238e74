"""From measured figures to what the report shows: nothing that was measured may get lost on the way."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd

from tasks.impact import DataImpact
from tasks.reports.assembly import data_rows, rows_at_risk, rows_lost

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
