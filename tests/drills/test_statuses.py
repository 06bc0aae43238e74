"""The status machine of a campaign is listmonk's, quirks included."""

from __future__ import annotations

import itertools

import pytest

from tasks.drills.esp.statuses import STATUSES, StatusRefused, change_status

ALLOWED = {
    ("draft", "scheduled"),
    ("draft", "running"),
    ("scheduled", "draft"),
    ("running", "paused"),
    ("running", "cancelled"),
    ("paused", "running"),
    ("paused", "scheduled"),
    ("paused", "cancelled"),
}
QUIRK = {(status, "finished") for status in STATUSES}


@pytest.mark.parametrize(("current", "wanted"), list(itertools.product(STATUSES, STATUSES)))
def test_exactly_the_documented_changes_are_allowed(current: str, wanted: str) -> None:
    if (current, wanted) in ALLOWED | QUIRK:
        stored = change_status(current, wanted, has_send_at=True)
        assert stored == ("scheduled" if wanted == "running" else wanted)
    else:
        with pytest.raises(StatusRefused):
            change_status(current, wanted, has_send_at=True)


def test_running_is_stored_as_running_only_without_a_send_at() -> None:
    assert change_status("paused", "running", has_send_at=False) == "running"
    assert change_status("paused", "running", has_send_at=True) == "scheduled"


@pytest.mark.parametrize("current", ["draft", "paused"])
def test_scheduling_needs_a_send_at(current: str) -> None:
    with pytest.raises(StatusRefused, match="send_at"):
        change_status(current, "scheduled", has_send_at=False)


def test_an_unknown_status_is_refused() -> None:
    with pytest.raises(StatusRefused):
        change_status("draft", "sent", has_send_at=True)
