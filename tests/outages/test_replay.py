"""Real outages replayed: none of those that stop mail is missed, and a quiet provider wakes nobody."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tasks.outages import Chronology, OutageError, read_chronologies, replay_outage, replay_quiet
from tasks.plan import DetectionPlan

REPLAY = Path(__file__).parents[2] / "data" / "outages" / "replay.yaml"
RULES = DetectionPlan()
BARELY = "klaviyo-2026-04-25"  # one request in twenty fails: docs/detection.md says how often it is missed


@pytest.mark.parametrize("outage", read_chronologies(REPLAY), ids=lambda one: one.id)
def test_a_real_outage_is_told_of_and_confirmed_before_it_is_over(outage: Chronology) -> None:
    assert outage.source.startswith("http")
    found = replay_outage(outage, RULES)
    assert found.suspected_at is not None
    assert found.suspected_at >= outage.began
    if outage.id != BARELY:
        assert found.confirmed_at is not None
        assert found.suspected_at <= found.confirmed_at < outage.restored
        assert found.by


def test_a_month_without_an_outage_confirms_none_and_wakes_people_at_most_twice() -> None:
    since = datetime(2023, 3, 1, tzinfo=UTC)
    quiet = replay_quiet([], since, since + timedelta(days=31), RULES)
    assert quiet.confirmed == 0
    assert quiet.suspected <= 2


def test_an_entry_with_an_unknown_share_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "replay.yaml"
    path.write_text(REPLAY.read_text().replace("stopped: 1,", "stoped: 1,", 1))
    with pytest.raises(OutageError, match="no share 'stoped'"):
        read_chronologies(path)
