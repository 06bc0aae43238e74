"""The notify flow on a real Prefect server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tasks.core import open_clock
from tasks.incidents import Journal, UnknownIncident
from tasks.plan import load_plan

pytestmark = pytest.mark.integration

PLAN = """
version: 1
name: Shop
clock: driven:clock.json
journal: sqlite:///journal.db
store: {url: store}
sources: {shop: {url: "sqlite:///shop.db"}}
providers: {esp: {kind: listmonk, api_url: "http://127.0.0.1:9"}}
channels: {desk: {kind: folder, path: out}, broken: {kind: folder, path: clock.json}}
stakeholders:
  ops: {channel: desk, report: tactical}
  lost: {channel: broken, report: tactical}
  cmo: {channel: desk, report: executive}
"""


def test_a_notice_reaches_who_can_act_once_and_a_broken_channel_stops_nothing(
    prefect_server: str, tmp_path: Path, clock: object
) -> None:
    from flows.notify import notify

    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    first = notify(plan=str(plan), title="Run failed", text="backup failed for a@b.example")
    second = notify(plan=str(plan), title="Run failed", text="backup failed for a@b.example")
    assert first == {"ops": True, "lost": False}
    assert second == {"ops": False, "lost": False}
    [path] = (tmp_path / "out").glob("*.eml")
    assert "a@b.example" not in path.read_text()


def test_a_notice_of_an_incident_stands_in_its_timeline(
    prefect_server: str, tmp_path: Path, clock: object
) -> None:
    from flows.notify import notify

    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    loaded = load_plan(plan)
    with Journal.open(loaded.journal_url(), open_clock(loaded.clock_spec())) as journal:
        one = journal.declare(
            "esp", cause_class="unknown", summary="s", detected_at=journal.clock.now(), declared_by="x"
        )
        notify(plan=str(plan), title="Look", text="now", incident=one.id)
        assert [entry.text for entry in journal.timeline(one.id) if entry.kind == "notice"] == [
            "ops was told: Shop: Look"
        ]


def test_a_notice_of_an_incident_that_there_is_none_of_is_refused_before_anybody_is_told(
    prefect_server: str, tmp_path: Path, clock: object
) -> None:
    from flows.notify import notify

    plan = tmp_path / "plan.yaml"
    plan.write_text(PLAN)
    with pytest.raises(UnknownIncident, match="INC-0404"):
        notify(plan=str(plan), title="Look", text="now", incident="INC-0404")
    assert not (tmp_path / "out").exists()
