"""The simulated ESP as a process: real HTTP, real SMTP, real kills; the mailbox is the judge."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from threading import Thread
from typing import Any

import httpx
import pytest

from tasks.drills import FAULTS, DrillError
from tasks.outages import parse_summary, seed_arrived, send_seed

pytestmark = pytest.mark.integration
Start = Callable[..., Any]


def test_what_the_log_calls_accepted_is_what_the_mailbox_holds(running: Start) -> None:
    one = running(60)
    number = one.start_campaign()
    one.clock.advance(timedelta(minutes=2))
    mails = one.sink.messages()
    assert [mail.subscriber_id for mail in mails] == list(range(1, 61))
    assert set(one.log()) == set(range(1, 61)) and set(one.log().values()) == {"accepted"}
    assert one.campaign(number)["sent"] == len(mails)
    assert [mail.order for mail in mails] == list(range(1, 61))
    seconds = [(mail.received_at - mails[0].received_at).total_seconds() for mail in mails]
    assert seconds == list(range(60)), "one a second, by the drill's clock"


@pytest.mark.kill
def test_a_kill_inside_a_batch_leaves_unknown_outcomes_of_both_kinds(running: Start) -> None:
    one = running(60, messages_per_minute=600)
    one.start_campaign()
    one.esp.fault("kill_mid_batch", after=25)
    one.clock.advance(timedelta(minutes=2))
    assert not one.esp.alive
    with pytest.raises(httpx.ConnectError):
        one.api.get("/health")
    unknown = {who for who, status in one.log().items() if status == "sending"}
    accepted = {who for who, status in one.log().items() if status == "accepted"}
    arrived = set(one.inbox())
    assert len(arrived) == 25 and accepted < arrived
    assert unknown & arrived and unknown - arrived
    assert accepted | unknown >= arrived


@pytest.mark.kill
def test_after_a_kill_the_naive_resume_loses_people_silently_and_calls_it_finished(running: Start) -> None:
    """Knadh/listmonk #3022."""
    one = running(60, messages_per_minute=600)
    number = one.start_campaign()
    one.esp.fault("kill_mid_batch", after=25)
    one.clock.advance(timedelta(minutes=2))
    before = one.inbox()
    one.esp.restart()
    one.clock.advance(timedelta(minutes=2))
    after = one.inbox()
    assert one.campaign(number)["status"] == "finished"
    assert len(after) == len(set(after)), "nobody twice"
    assert after == before + list(range(41, 61)), "whom the dead process had fetched is never mailed"
    assert one.campaign(number)["sent"] < one.campaign(number)["to_send"]


@pytest.mark.kill
def test_a_killed_esp_comes_back_at_the_same_addresses_and_its_page_answers_meanwhile(running: Start) -> None:
    one = running(5)
    one.esp.kill()
    page = httpx.get(f"{one.esp.status_url}/api/v2/summary.json")
    summary = parse_summary(page.content, page.headers["content-type"], name="Simulated ESP")
    assert summary.indicator == "major_outage"
    one.clock.advance(timedelta(hours=1))
    assert one.esp.died_at < one.clock.now()
    one.esp.restart()
    assert one.api.get("/api/lists").status_code == 200
    assert one.esp.state()["alive"] and httpx.get(f"{one.esp.status_url}/api/v2/status.json").json()["status"] == {
        "indicator": "none", "description": "All Systems Operational",
    }  # fmt: skip


@pytest.mark.kill
def test_a_green_page_hides_a_dead_esp(running: Start) -> None:
    one = running(5)
    one.esp.fault("status_green")
    one.esp.kill()
    summary = httpx.get(f"{one.esp.status_url}/api/v2/summary.json").json()
    assert summary["status"]["indicator"] == "none"
    assert {part["status"] for part in summary["components"]} == {"operational"}


@pytest.mark.parametrize("name", [name for name, fault in FAULTS.items() if fault.component != "operational"])
def test_the_page_follows_each_fault_that_it_should_show(running: Start, name: str) -> None:
    one = running(0)
    one.esp.fault(name)
    shown = httpx.get(f"{one.esp.status_url}/api/v2/components.json").json()["components"]
    assert FAULTS[name].component in {part["status"] for part in shown}
    one.esp.clear(name)
    shown = httpx.get(f"{one.esp.status_url}/api/v2/components.json").json()["components"]
    assert {part["status"] for part in shown} == {"operational"}


def test_posts_on_the_page_become_one_incident_until_it_is_resolved(running: Start) -> None:
    one = running(0)
    first = one.esp.page.post("investigating", "We are looking.")
    one.clock.advance(timedelta(hours=1))
    assert one.esp.page.post("monitoring", "Fixed?") == first
    page = httpx.get(f"{one.esp.status_url}/api/v2/summary.json")
    (incident,) = parse_summary(page.content, page.headers["content-type"]).incidents
    assert (incident.status, len(incident.updates)) == ("monitoring", 2)
    assert incident.first_posted_at == one.clock.now() - timedelta(hours=1)
    one.esp.page.post("resolved", "Done.")
    assert httpx.get(f"{one.esp.status_url}/api/v2/incidents/unresolved.json").json()["incidents"] == []
    assert one.esp.page.post("investigating", "Again.") != first
    assert len(httpx.get(f"{one.esp.status_url}/api/v2/incidents.json").json()["incidents"]) == 2


def test_hard_down_refuses_connections_or_answers_503_and_clears(running: Start) -> None:
    one = running(5)
    one.esp.fault("hard_down", mode="refuse")
    with pytest.raises(httpx.ConnectError):
        one.api.get("/health")
    one.clock.advance(timedelta(minutes=1))
    one.esp.clear("hard_down")
    assert one.api.get("/health").status_code == 200
    one.esp.fault("hard_down")
    assert one.api.get("/health").status_code == 503


def test_a_fault_survives_a_restart_and_an_unknown_one_is_refused(running: Start) -> None:
    one = running(5)
    one.esp.kill()
    one.esp.fault("stalled")
    one.esp.restart()
    one.start_campaign()
    one.clock.advance(timedelta(minutes=5))
    assert one.inbox() == [] and one.esp.state()["active"] == {"stalled": {}}
    for wrong in ({"name": "rain"}, {"name": "slow", "colour": 1}):
        with pytest.raises(DrillError):
            one.esp.fault(**wrong)


def test_seed_messages_arrive_unless_nothing_is_delivered(running: Start) -> None:
    one = running(5)
    auth = (one.esp.user, one.esp.token)
    send_seed(one.esp.api_url, auth, "seed@probe.example", "t-1", timeout_seconds=5)
    assert seed_arrived(one.sink.seed_url, "t-1", timeout_seconds=5) is True
    one.esp.fault("accept_but_not_deliver")
    send_seed(one.esp.api_url, auth, "seed@probe.example", "t-2", timeout_seconds=5)
    assert seed_arrived(one.sink.seed_url, "t-2", timeout_seconds=5) is False
    found = httpx.get(one.sink.seed_url, params={"token": "t-1"}).json()
    assert [seed["token"] for seed in found["messages"]] == ["t-1"]
    assert one.sink.messages() == [], "seeds are not among the messages"


def test_webhooks_are_posted_and_stop_with_their_fault(running: Start, tmp_path: Any, clock: Any) -> None:
    got: list[dict[str, Any]] = []

    class Hook(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.extend(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(204)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Hook)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        one = running(30, webhook_url=f"http://127.0.0.1:{server.server_address[1]}/hook")
        one.start_campaign()
        one.clock.advance(timedelta(minutes=5))
        recorded = one.api.get("/api/extensions/events?limit=1000").json()["data"]["results"]
        assert [event["id"] for event in got] == [event["id"] for event in recorded]
        assert {"sent", "delivered"} <= {event["type"] for event in got}
        one.esp.fault("webhook_loss")
        one.start_campaign()
        one.clock.advance(timedelta(minutes=5))
        assert len(got) == len(recorded)
    finally:
        server.shutdown()
        server.server_close()


def test_the_esp_runs_on_postgresql_with_the_same_result(
    running: Start, new_database: Callable[[], str]
) -> None:
    lite, postgres = running(60), running(60, db_url=new_database())
    for one in (lite, postgres):
        one.start_campaign()
    lite.clock.advance(timedelta(hours=3))
    shown = []
    for one in (lite, postgres):
        events = one.api.get("/api/extensions/events?limit=1000").json()["data"]["results"]
        messages = one.api.get("/api/extensions/messages?limit=1000").json()["data"]["results"]
        shown.append((one.inbox(), events, messages, one.campaign(1)["views"]))
    assert shown[0] == shown[1]
    assert len(shown[0][0]) == 60 and len(shown[0][1]) > 120


@pytest.mark.kill
def test_a_kill_on_postgresql_leaves_unknown_outcomes_too(
    running: Start, new_database: Callable[[], str]
) -> None:
    one = running(60, db_url=new_database(), messages_per_minute=600)
    one.start_campaign()
    one.esp.fault("kill_mid_batch", after=25)
    one.clock.advance(timedelta(minutes=2))
    unknown = {who for who, status in one.log().items() if status == "sending"}
    assert unknown & set(one.inbox()) and unknown - set(one.inbox())
    one.esp.restart()
    one.clock.advance(timedelta(minutes=2))
    assert one.inbox()[-1] == 60
