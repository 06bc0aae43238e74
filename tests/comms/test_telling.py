"""Telling stakeholders: once per piece of news, whatever the channel, with a real journal and a real SMTP server."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiosmtpd.controller import Controller

from tasks.comms import Situation, tell
from tasks.core import DrivenClock
from tasks.incidents import Journal, open_journal
from tasks.plan import LoadedPlan, load_plan


class Inbox:
    """What a real SMTP server took."""

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:
        self.taken.append(envelope.content.decode())
        return "250 OK"


@pytest.fixture
def inbox(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inbox]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    inbox = Inbox()
    controller = Controller(inbox, hostname="127.0.0.1", port=port)
    controller.start()
    monkeypatch.setenv("TELLING_SMTP", f"smtp://127.0.0.1:{port}")
    yield inbox
    controller.stop()


@pytest.fixture
def plan(tmp_path: Path, clock: DrivenClock) -> LoadedPlan:
    content = {
        "version": 1,
        "name": "Example Shop",
        "clock": "driven:clock.json",
        "journal": "sqlite:///journal.db",
        "store": {"url": "store"},
        "sources": {"shop": {"url": "sqlite:///shop.db"}},
        "providers": {"esp": {"kind": "listmonk", "api_url": "http://127.0.0.1:9"}},
        "channels": {
            "mail": {"kind": "smtp", "url_env": "TELLING_SMTP", "to": ["desk@shop.example"]},
            "folder": {"kind": "folder", "path": "outbox"},
            "broken": {"kind": "folder", "path": "clock.json"},
        },
        "stakeholders": {
            "desk": {"channel": "mail", "report": "tactical", "every_minutes": 30},
            "team": {"channel": "folder", "report": "tactical"},
            "board": {"channel": "folder", "report": "executive", "from_severity": 2},
            "lost": {"channel": "broken", "report": "tactical"},
        },
    }
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


def statuses(journal: Journal) -> dict[str, str]:
    return {one.stakeholder: one.status for one in journal.communications("INC-0001")}


@pytest.mark.integration
def test_news_is_told_once_and_a_broken_channel_stops_nobody(
    plan: LoadedPlan, journal: Journal, inbox: Inbox
) -> None:
    told = tell(plan, journal, situation(journal), flow="test", news=["confirmed"])
    assert told.taken == 3
    assert [failure.partition(" ")[0] for failure in told.failures] == ["lost"]
    again = tell(plan, journal, situation(journal, summary="reworded"), flow="test", news=["confirmed"])
    assert again.taken == 0
    assert len(inbox.taken) == 1
    assert statuses(journal) == {"desk": "sent", "team": "sent", "board": "sent", "lost": "failed"}
    assert tell(plan, journal, situation(journal), flow="test", news=["relapsed"]).taken == 3


@pytest.mark.integration
def test_only_whom_the_plan_names_for_this_severity_and_form_is_told(
    plan: LoadedPlan, journal: Journal, inbox: Inbox
) -> None:
    tell(plan, journal, situation(journal, severity=3), flow="test", news=[1], reports=("tactical",))
    assert set(statuses(journal)) == {"desk", "team", "lost"}
    tell(plan, journal, situation(journal, severity=3), flow="test", news=[2])
    assert "board" not in statuses(journal)
    tell(plan, journal, situation(journal, severity=None), flow="test", news=[3])
    assert "board" in statuses(journal)


@pytest.mark.integration
def test_the_next_update_is_promised_by_the_cadence_until_it_is_over(
    plan: LoadedPlan, journal: Journal, inbox: Inbox
) -> None:
    now = journal.clock.now()
    tell(plan, journal, situation(journal), flow="test", news=[1])
    tell(plan, journal, replace(situation(journal), over=True), flow="test", news=[2])
    promised = [
        one.promised_next_at for one in journal.communications("INC-0001") if one.stakeholder == "desk"
    ]
    assert promised[0] is not None
    assert (promised[0] - now).total_seconds() == 30 * 60
    assert promised[1] is None


@pytest.mark.integration
def test_what_a_channel_did_not_take_is_told_once_the_channel_is_mended(
    plan: LoadedPlan, journal: Journal, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    working = os.environ["TELLING_SMTP"]
    monkeypatch.setenv("TELLING_SMTP", "smtp://127.0.0.1:9")
    told = tell(plan, journal, situation(journal), flow="test", news=["confirmed"])
    assert (told.taken, statuses(journal)["desk"], inbox.taken) == (2, "failed", [])
    monkeypatch.setenv("TELLING_SMTP", working)
    assert tell(plan, journal, situation(journal), flow="test", news=["confirmed"]).taken == 1
    assert tell(plan, journal, situation(journal), flow="test", news=["confirmed"]).taken == 0
    assert (statuses(journal)["desk"], len(inbox.taken)) == ("sent", 1)


@pytest.mark.kill
@pytest.mark.integration
@pytest.mark.parametrize("point", ["test.tell:before", "test.tell:after"])
def test_a_message_cut_short_is_given_again_only_where_it_cannot_arrive_twice(
    plan: LoadedPlan, journal: Journal, inbox: Inbox, tmp_path: Path, point: str
) -> None:
    """The first stakeholder's mail is cut short at the SMTP server, then the second's at the folder."""
    program = (
        "import sys; from tasks.comms import Situation, tell; from tasks.incidents import open_journal;"
        "from tasks.plan import load_plan; plan = load_plan(sys.argv[1]); journal = open_journal(plan);"
        "tell(plan, journal, Situation('Example Shop', 'INC-0001', 'esp', 'investigating', 1, 's', 'unknown', None,"
        " None, journal.clock.now()), flow='test', news=['confirmed'])"
    )

    def run(crash_at: str) -> int:
        environment = {**os.environ, "MAILSTAY_CRASH_AT": crash_at}
        command = [sys.executable, "-c", program, str(plan.path)]
        return subprocess.run(command, env=environment, cwd=Path(__file__).parents[2], check=False).returncode

    assert run(point) == -signal.SIGKILL
    assert run(point) == -signal.SIGKILL
    tell(plan, journal, situation(journal), flow="test", news=["confirmed"])
    assert statuses(journal) == {"desk": "unknown", "team": "sent", "board": "sent", "lost": "failed"}
    assert len(inbox.taken) == (0 if point.endswith("before") else 1)
    assert len(list((tmp_path / "outbox").glob("*.eml"))) == 2
