"""`monitor` against the simulated ESP: each fault has its outcome, with the status page green throughout."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
import yaml

from tasks.core import DrivenClock, MailstayError
from tasks.drills import SimulatedEsp, Sink
from tasks.incidents import Journal
from tasks.plan import load_plan

pytestmark = pytest.mark.integration

START = datetime(2011, 11, 16, 7, 0, tzinfo=UTC)
SUBSCRIBERS = 900


class Drill:
    """A small ESP with one running campaign, a shop that takes opt-outs and webhooks, and a plan over both."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.clock = DrivenClock.create(folder / "clock.json", START)
        self.shop_url = f"sqlite:///{folder / 'shop.db'}"
        self._shop = sa.create_engine(self.shop_url)
        with self._shop.begin() as db:
            db.exec_driver_sql(
                "CREATE TABLE consent_requests (kind VARCHAR(12), requested_at TIMESTAMP, forwarded_at TIMESTAMP)"
            )
            db.exec_driver_sql("CREATE TABLE webhook_receipts (received_at TIMESTAMP)")
            db.exec_driver_sql(
                "CREATE TABLE orders (ordered_at TIMESTAMP, campaign_id INTEGER, total_minor BIGINT)"
            )
        self._webhooks = ThreadingHTTPServer(("127.0.0.1", 0), self._receiver())
        threading.Thread(target=self._webhooks.serve_forever, daemon=True).start()
        self.sink = Sink.start(folder / "sink", clock=f"driven:{self.clock.path}")
        self.esp = SimulatedEsp.start(
            folder / "esp",
            clock=self.clock,
            seed=7,
            smtp_port=self.sink.smtp_port,
            settings={"messages_per_minute": 6, "chunk": 6, "batch_size": 100},
            webhook_url=f"http://127.0.0.1:{self._webhooks.server_address[1]}/",
        )
        self.api = httpx.Client(base_url=self.esp.api_url, auth=(self.esp.user, self.esp.token), timeout=60)
        self.plan = self._plan()
        self._fill()

    def close(self) -> None:
        self.api.close()
        self.esp.close()
        self.sink.stop()
        self._webhooks.shutdown()
        self._webhooks.server_close()
        self._shop.dispose()

    def opt_out(self) -> None:
        """Somebody uses the shop's one-click endpoint, which forwards to the ESP."""
        now = self.clock.now().replace(tzinfo=None)
        try:
            taken = self.api.put(
                "/api/subscribers/lists",
                json={"ids": [1], "action": "unsubscribe", "target_list_ids": [1]},
            ).is_success
        except httpx.HTTPError:
            taken = False
        with self._shop.begin() as db:
            db.execute(
                sa.text("INSERT INTO consent_requests VALUES ('unsubscribe', :at, :taken)"),
                {"at": now.isoformat(sep=" "), "taken": now.isoformat(sep=" ") if taken else None},
            )

    def journal(self) -> Journal:
        return Journal.open(load_plan(self.plan).journal_url(), self.clock)

    def _receiver(drill: Drill) -> type[BaseHTTPRequestHandler]:
        class Receiver(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                events = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                at = drill.clock.now().replace(tzinfo=None).isoformat(sep=" ")
                with drill._shop.begin() as db:
                    db.execute(
                        sa.text("INSERT INTO webhook_receipts VALUES (:at)"), [{"at": at} for _ in events]
                    )
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Receiver

    def _plan(self) -> Path:
        path = self.folder / "plan.yaml"
        content = {
            "version": 1,
            "name": "Example Shop",
            "clock": "driven:clock.json",
            "journal": "sqlite:///journal.db",
            "store": {"url": "store"},
            "sources": {"shop": {"url": "sqlite:///shop.db", "mapping": "shop"}},
            "providers": {
                "listmonk": {
                    "kind": "listmonk",
                    "api_url": self.esp.api_url,
                    "shop": "shop",
                    "status_page": {
                        "url": self.esp.status_url,
                        "name": "Simulated ESP",
                        "components": ["Email sending", "API"],
                    },
                    "messages_per_minute": 6,
                    "timeout_seconds": 5,
                    "seed_mailbox_url": self.sink.seed_url,
                    "seed_address_env": "TEST_SEED_ADDRESS",
                }
            },
            "detection": {"slow_seconds": 0.2, "stalled_minutes": 10},
            "lateness": {"newsletter": {"useful_for_minutes": 2880}},
            "channels": {"desk": {"kind": "folder", "path": "outbox"}},
            "stakeholders": {
                "marketing_team": {"channel": "desk", "report": "tactical", "every_minutes": 30},
                "leadership": {"channel": "desk", "report": "executive", "every_minutes": 60},
            },
        }
        path.write_text(yaml.safe_dump(content, sort_keys=False))
        return path

    def _fill(self) -> None:
        now = START.replace(tzinfo=None)
        engine = sa.create_engine(self.esp.db_url)
        with engine.begin() as db:
            tables = sa.MetaData()
            tables.reflect(db)
            times = {"created_at": now, "updated_at": now}
            people, member = tables.tables["subscribers"], tables.tables["subscriber_lists"]
            ids = range(1, SUBSCRIBERS + 1)
            db.execute(
                people.insert(),
                [
                    {
                        "id": one,
                        "uuid": f"00000000-0000-0000-0000-{one:012}",
                        "email": f"c{one}@shop.example",
                        "name": "",
                        "attribs": {},
                        "status": "enabled",
                        **times,
                    }
                    for one in ids
                ],
            )
            made = {"type": "private", "optin": "single", "status": "active", "tags": [], **times}
            db.execute(tables.tables["lists"].insert(), [{"id": 1, "uuid": "list-1", "name": "All", **made}])
            db.execute(
                member.insert(),
                [{"subscriber_id": one, "list_id": 1, "status": "confirmed", **times} for one in ids],
            )
        engine.dispose()
        for kind in ("campaign", "tx"):
            template = {"name": kind, "type": kind, "subject": "Hello", "body": "{{ template }}"}
            self.api.post("/api/templates", json=template).raise_for_status()
        campaign = {
            "name": "Weekly news",
            "subject": "News",
            "lists": [1],
            "body": "Hello",
            "type": "regular",
            "content_type": "plain",
            "attribs": {"kind": "newsletter"},
        }
        made_id = self.api.post("/api/campaigns", json=campaign).raise_for_status().json()["data"]["id"]
        self.api.put(f"/api/campaigns/{made_id}/status", json={"status": "running"}).raise_for_status()


@pytest.fixture
def drill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Drill]:
    drill = Drill(tmp_path)
    monkeypatch.setenv("MAILSTAY_ESP_USER", drill.esp.user)
    monkeypatch.setenv("MAILSTAY_ESP_TOKEN", drill.esp.token)
    monkeypatch.setenv("TEST_SEED_ADDRESS", "seed@shop.example")
    yield drill
    drill.close()


def watch(drill: Drill, passes: int) -> list[Any]:
    """Run passes five minutes apart as the flow does, without a Prefect server: task bodies only."""
    from prefect.logging import disable_run_logger

    from tasks.outages import steps

    plan, done = str(drill.plan), []
    with disable_run_logger():
        for _ in range(passes):
            drill.opt_out()
            drill.clock.advance(timedelta(minutes=5))
            seen = steps.look.fn(plan, "listmonk")
            found = steps.conclude_pass.fn(plan, "listmonk", seen)
            if found.eventful:
                found = steps.record_changes.fn(plan, found)
            done.append((steps.remember.fn(plan, found), found))
    return done


def changes(passes: list[Any]) -> list[str]:
    return [change for one, _ in passes for change in one.changes]


def kinds(passes: list[Any], verdict: str) -> set[str]:
    """Kinds of our own signals that had `verdict` in any of the passes."""
    return {kind for one, _ in passes for kind, value in one.signals.items() if value == verdict} - {
        "status_page"
    }


def test_a_healthy_provider_raises_nothing_and_every_signal_is_seen_good(drill: Drill) -> None:
    passes = watch(drill, 6)
    assert changes(passes) == []
    assert kinds(passes, "good") == {"api", "seed", "sending", "bounces", "consent", "webhooks"}
    assert kinds(passes, "bad") | kinds(passes, "degraded") == set()
    assert {one.phase for one, _ in passes} == {"clear"}


@pytest.mark.parametrize(
    ("fault", "settings", "outcome", "evidence"),
    [
        ("hard_down", {"mode": "503"}, "confirmed", "api"),
        ("hard_down", {"mode": "refuse"}, "confirmed", "api"),
        ("partial", {"share": 0.2}, "confirmed", "api"),
        ("stalled", {}, "confirmed", "sending"),
        ("accept_but_not_deliver", {}, "confirmed", "seed"),
        ("unsubscribe_failing", {}, "confirmed", "consent"),
        ("slow", {"seconds": 0.3, "speed": 0.25}, "suspected", "api"),
        ("webhook_loss", {}, "suspected", "webhooks"),
    ],
)
def test_each_fault_is_found_by_its_own_evidence_behind_a_green_page_and_its_end_is_measured(
    drill: Drill, fault: str, settings: dict[str, Any], outcome: str, evidence: str
) -> None:
    assert changes(watch(drill, 3)) == []
    drill.esp.fault("status_green")
    drill.esp.fault(fault, **settings)
    during = watch(drill, 4 if fault == "slow" else 8)  # each request of the slow one takes its time
    assert during[-1][0].phase == outcome
    assert (
        changes(during)[: 2 if outcome == "confirmed" else 1]
        == ["suspected", "confirmed"][: 2 if outcome == "confirmed" else 1]
    )
    assert evidence in kinds(during, "bad" if outcome == "confirmed" else "degraded")
    assert {one.signals["status_page"] for one, _ in during} == {"good"}
    drill.esp.clear(fault)
    after = watch(drill, 9)
    assert changes(after)[-1] == "cleared"
    assert after[-1][0].phase == "clear"
    with drill.journal() as journal:
        [incident] = journal.incidents()
        assert incident.state == ("monitoring" if outcome == "confirmed" else "canceled")
        assert "impact_started_at" not in incident.timestamps
        told = [entry.text for entry in journal.timeline(incident.id) if entry.kind == "false_green"]
        assert len(told) == (outcome == "confirmed")


def test_a_process_killed_mid_batch_is_confirmed_and_its_stalled_return_is_no_recovery(drill: Drill) -> None:
    assert changes(watch(drill, 2)) == []
    drill.esp.fault("kill_mid_batch", after=30)
    assert changes(watch(drill, 3)) == ["suspected", "confirmed"]
    assert not drill.esp.alive
    drill.esp.clear("kill_mid_batch")
    drill.esp.fault("stalled")
    drill.esp.fault("status_green")
    drill.esp.restart()
    false_green = watch(drill, 8)
    assert false_green[-1][0].phase == "confirmed"
    assert false_green[-1][0].signals["api"] == "good"
    assert false_green[-1][0].signals["sending"] == "bad"
    drill.esp.clear("stalled")
    assert watch(drill, 6)[-1][0].phase == "clear"


def test_events_lost_at_a_restart_are_data_loss_and_no_outage(drill: Drill) -> None:
    watch(drill, 3)
    drill.esp.fault("lose_recent_events", minutes=10)
    drill.esp.kill()
    drill.esp.restart()
    assert changes(watch(drill, 4)) == []


def test_what_the_vendor_posts_gives_the_times_that_nobody_guesses(drill: Drill) -> None:
    watch(drill, 2)
    began = drill.clock.now()
    drill.esp.fault("hard_down")
    drill.esp.page.post("investigating", "We look into delays.")
    watch(drill, 3)
    with drill.journal() as journal:
        [incident] = journal.incidents()
    assert incident.state == "investigating"
    assert incident.timestamps["impact_started_at"] == began
    assert incident.timestamps["status_posted_at"] == began
    assert incident.timestamps["detected_at"] == began + timedelta(minutes=5)


def test_a_page_that_contradicts_what_a_person_saw_first_does_not_wedge_the_watch(drill: Drill) -> None:
    watch(drill, 2)
    seen_at = drill.clock.now()
    with drill.journal() as journal:
        declared = journal.declare(
            "listmonk", cause_class="unknown", summary="no mail", detected_at=seen_at, declared_by="desk"
        )
    drill.clock.advance(timedelta(minutes=2))
    drill.esp.fault("hard_down")
    drill.esp.page.post("investigating", "We look into delays.")
    assert changes(watch(drill, 3)) == ["suspected", "confirmed"]
    with drill.journal() as journal:
        incident = journal.incident(declared.id)
        [remark] = [one.text for one in journal.timeline(declared.id) if one.kind == "evidence"]
    assert (incident.state, incident.timestamps["detected_at"]) == ("investigating", seen_at)
    assert "impact_started_at" not in incident.timestamps
    assert "left out: impact_started_at" in remark


def test_the_calendar_seen_while_it_was_alive_weighs_the_outage(drill: Drill) -> None:
    watch(drill, 2)
    campaign = drill.api.get("/api/campaigns/1").json()["data"]
    drill.esp.fault("hard_down")
    last, found = watch(drill, 2)[-1]
    assert found.severity.recipients == campaign["to_send"] - campaign["sent"] > 800
    assert last.severity == 3
    assert "Weekly news" in " ".join(found.severity.reasons)


def run_flow(drill: Drill, passes: int) -> list[Any]:
    from flows.monitor import monitor

    results = []
    for _ in range(passes):
        drill.clock.advance(timedelta(minutes=5))
        results.extend(monitor(plan=str(drill.plan)))
    return results


def test_the_flow_tells_people_opens_the_incident_and_emits_the_event_once(
    drill: Drill, prefect_api: httpx.Client
) -> None:
    run_flow(drill, 1)
    drill.esp.fault("hard_down")
    results = run_flow(drill, 4)
    assert [one.changes for one in results] == [["suspected"], ["confirmed"], [], []]
    assert {one.incident for one in results} == {"INC-0001"}

    with drill.journal() as journal:
        incident = journal.incident("INC-0001")
        said = journal.communications("INC-0001")
    assert (incident.state, incident.declared_by, incident.cause_class) == (
        "investigating",
        "monitor",
        "unknown",
    )
    assert [(one.stakeholder, one.status) for one in said] == [("marketing_team", "sent")] * 2
    assert len(list((drill.folder / "outbox").glob("*.eml"))) == 2

    asked = {"filter": {"event": {"name": ["mailstay.outage.confirmed"]}}}
    events = prefect_api.post("/events/filter", json=asked).json()["events"]
    [event] = [one for one in events if one["payload"]["plan"] == str(drill.plan)]
    assert event["resource"]["prefect.resource.id"] == "mailstay.provider.listmonk"
    assert {
        key: event["payload"][key] for key in ("provider", "cause_class", "severity", "impact_started_at")
    } == {
        "provider": "listmonk",
        "cause_class": "unknown",
        "severity": results[1].severity,
        "impact_started_at": "",
    }
    assert "the API does not work" in event["payload"]["seen"]


def test_a_false_alarm_is_canceled_and_people_are_told_that_it_was_one(
    drill: Drill, prefect_server: str
) -> None:
    drill.esp.fault("hard_down")
    run_flow(drill, 1)
    drill.esp.clear("hard_down")
    results = run_flow(drill, 3)
    assert results[-1].changes == ["cleared"]
    with drill.journal() as journal:
        assert journal.incident("INC-0001").state == "canceled"
        last = journal.communications("INC-0001")[-1]
    assert (last.status, last.promised_next_at) == ("sent", None)


def test_an_error_with_one_provider_leaves_no_other_unwatched_and_fails_the_run(
    drill: Drill, prefect_server: str
) -> None:
    from flows.monitor import monitor

    plan = yaml.safe_load(drill.plan.read_text())
    broken = {"kind": "listmonk", "api_url": "http://127.0.0.1:9", "user_env": "NOBODY_SETS_THIS"}
    drill.plan.write_text(
        yaml.safe_dump(plan | {"providers": {"broken": broken, **plan["providers"]}}, sort_keys=False)
    )
    drill.esp.fault("hard_down")
    with pytest.raises(MailstayError, match=r"The pass over broken failed: .*NOBODY_SETS_THIS"):
        monitor(plan=str(drill.plan))
    with drill.journal() as journal:
        assert [one.provider for one in journal.incidents()] == ["listmonk"]


def test_an_unknown_provider_is_refused_with_the_names_there_are(drill: Drill, prefect_server: str) -> None:
    from flows.monitor import monitor

    with pytest.raises(MailstayError, match="use one of: listmonk"):
        monitor(plan=str(drill.plan), provider="mailchimp")


@pytest.mark.kill
@pytest.mark.parametrize(
    "point",
    [
        "monitor.record:confirmed",
        pytest.param("monitor.event:before", marks=pytest.mark.slow),
        "monitor.event:after",
        "monitor.tell:before",
        pytest.param("monitor.tell:after", marks=pytest.mark.slow),
        pytest.param("monitor.remember:before", marks=pytest.mark.slow),
        "monitor.remember:after",
    ],
)
def test_a_pass_killed_anywhere_is_concluded_again_and_tells_nobody_twice(
    drill: Drill, prefect_api: httpx.Client, point: str
) -> None:
    drill.esp.fault("hard_down")
    run_flow(drill, 1)
    drill.clock.advance(timedelta(minutes=5))
    program = f"from flows.monitor import monitor; monitor(plan={str(drill.plan)!r})"
    killed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "MAILSTAY_CRASH_AT": point},
        capture_output=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    run_flow(drill, 1)

    with drill.journal() as journal:
        [incident] = journal.incidents()
        assert incident.state == "investigating"
        said = journal.communications(incident.id)
    assert len(said) == 2
    assert len(list((drill.folder / "outbox").glob("*.eml"))) == 2, "folder channels take a message once"
    asked = {"filter": {"event": {"name": ["mailstay.outage.confirmed"]}}}

    def heard() -> int:
        events = prefect_api.post("/events/filter", json=asked).json()["events"]
        return sum(one["payload"]["plan"] == str(drill.plan) for one in events)

    until = time.monotonic() + 30  # the server writes events down some time after it took them
    while not heard() and time.monotonic() < until:
        time.sleep(0.5)
    assert heard() in (1, 2), "at least once"
