"""Promised updates go out by themselves with the last pass before their time; an audience hears nothing unapproved."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect.logging import disable_run_logger

from tasks.comms import Situation, Told, judge_promises, tell
from tasks.comms.steps import keep_promises
from tasks.core import DrivenClock
from tasks.incidents import Journal, open_journal
from tasks.plan import LoadedPlan, load_plan

MINUTE = timedelta(minutes=1)


@pytest.fixture
def wall() -> Iterator[list[str]]:
    """What a service that posts to the public took."""
    taken: list[str] = []

    class Service(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            taken.append(json.loads(self.rfile.read(int(self.headers["Content-Length"])))["message"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["PUBLIC"] = f"json://127.0.0.1:{server.server_address[1]}/"
    yield taken
    server.shutdown()
    server.server_close()
    del os.environ["PUBLIC"]


@pytest.fixture
def plan(tmp_path: Path, clock: DrivenClock, wall: list[str]) -> LoadedPlan:
    content = {
        "version": 1, "name": "Example Shop", "clock": "driven:clock.json", "journal": "sqlite:///journal.db",
        "store": {"url": "store"}, "sources": {"shop": {"url": "sqlite:///shop.db"}},
        "providers": {"esp": {"kind": "listmonk", "api_url": "http://127.0.0.1:9"}},
        "channels": {
            "folder": {"kind": "folder", "path": "outbox"}, "public": {"kind": "apprise", "url_env": "PUBLIC"},
        },
        "stakeholders": {
            "desk": {"channel": "folder", "report": "tactical", "every_minutes": 30,
                     "every_minutes_by_severity": {1: 15}, "from_severity": 4},
            "board": {"channel": "folder", "report": "executive", "every_minutes": 60},
            "readers": {"channel": "public", "report": "audience", "every_minutes": 60},
        },
    }  # fmt: skip
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return load_plan(path)


@pytest.fixture
def journal(plan: LoadedPlan) -> Iterator[Journal]:
    with open_journal(plan) as opened:
        opened.declare(
            "esp", cause_class="unknown", summary="s", detected_at=opened.clock.now(), declared_by="x"
        )
        yield opened


def situation(journal: Journal, **changes: Any) -> Situation:
    values: dict[str, Any] = {
        "company": "Example Shop", "incident_id": "INC-0001", "provider": "esp", "state": "investigating",
        "severity": 1, "summary": "s", "cause_class": "unknown", "impact_started_at": None, "detected_at": None,
        "as_of": journal.clock.now(),
    }  # fmt: skip
    return Situation(**{**values, **changes})


def passes(plan: LoadedPlan) -> int:
    with disable_run_logger():
        return keep_promises.fn(str(plan.path))


def told(journal: Journal) -> list[tuple[str, str]]:
    return [(one.stakeholder, one.status) for one in journal.communications("INC-0001")]


def test_a_promised_update_goes_out_once_with_the_last_pass_before_its_time(
    plan: LoadedPlan, journal: Journal, clock: DrivenClock
) -> None:
    tell(
        plan, journal, situation(journal), flow="test", news=["confirmed"], reports=("tactical", "executive")
    )
    assert passes(plan) == 0
    clock.advance(11 * MINUTE)
    assert (passes(plan), passes(plan)) == (1, 0)
    clock.advance(5 * MINUTE)
    assert passes(plan) == 0
    assert told(journal) == [("desk", "sent"), ("board", "sent"), ("desk", "sent")]
    said = [
        Told(one.stakeholder, one.sent_at, one.promised_next_at)
        for one in journal.communications("INC-0001")
        if one.sent_at
    ]
    assert [one.status for one in judge_promises(said, clock.now()) if one.stakeholder == "desk"] == [
        "kept",
        "pending",
    ]


def test_the_cadence_follows_the_severity(plan: LoadedPlan, journal: Journal, clock: DrivenClock) -> None:
    tell(plan, journal, situation(journal), flow="test", news=[1], only={"desk"})
    tell(plan, journal, situation(journal, severity=3), flow="test", news=[2], only={"desk"})
    promised = [one.promised_next_at for one in journal.communications("INC-0001")]
    assert promised == [clock.now() + 15 * MINUTE, clock.now() + 30 * MINUTE]


def test_whoever_was_promised_an_update_gets_the_last_one_though_the_severity_fell(
    plan: LoadedPlan, journal: Journal
) -> None:
    tell(plan, journal, situation(journal), flow="test", news=[1], only={"desk"})
    over = situation(journal, severity=5, over=True, state="canceled")
    tell(plan, journal, over, flow="test", news=[2], only={"desk"})
    assert [one.promised_next_at is None for one in journal.communications("INC-0001")] == [False, True]


def test_an_audience_is_told_nothing_before_a_person_approves_it(
    plan: LoadedPlan, journal: Journal, wall: list[str]
) -> None:
    first = tell(plan, journal, situation(journal), flow="test", news=[1], only={"readers"})
    again = tell(plan, journal, situation(journal), flow="test", news=[2], only={"readers"})
    assert (first.taken, again.taken, wall, told(journal)) == (0, 0, [], [])
    assert "approves" in first.failures[0]
    [asked] = journal.approvals("INC-0001")
    journal.answer_approval(asked.id, "approved", "head of marketing", False, "cli")
    assert tell(plan, journal, situation(journal), flow="test", news=[2], only={"readers"}).taken == 1
    assert "still checking whether any data were lost" in wall[0]


def test_an_update_promised_to_an_audience_is_raised_where_nobody_approved_it(
    plan: LoadedPlan, journal: Journal, clock: DrivenClock, tmp_path: Path
) -> None:
    promised = clock.now() + 60 * MINUTE
    said = journal.say(
        "INC-0001", stakeholder="readers", channel="public", report="audience", subject="s", body_digest="d",
        promised_next_at=promised,
    )  # fmt: skip
    journal.sent(said.id)
    clock.advance(56 * MINUTE)
    assert (passes(plan), passes(plan)) == (1, 0)
    assert told(journal) == [("readers", "sent"), ("desk", "sent")]
    [mail] = (tmp_path / "outbox").glob("*.eml")
    assert "promised to readers by 08:00 UTC is due" in " ".join(mail.read_text().split())
