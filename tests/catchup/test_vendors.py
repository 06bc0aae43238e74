"""Responding and recovering at vendors that say little or nothing of whom they mailed: the mailbox judges."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tasks.catchup.desk import LEASE, Desk, Stopped
from tasks.catchup.recovery import Outcomes, Recovery
from tasks.core import DrivenClock
from tasks.incidents import Journal
from tasks.plan import load_plan
from tasks.providers import open_provider
from tasks.response import PlanLine, by_urgency, plan_table, stop_campaign
from tasks.response.acting import Looks
from tasks.response.reading import _from_provider
from tests.providers.conftest import Vendors

pytestmark = pytest.mark.integration
HOUR = timedelta(hours=1)
AGREED = frozenset({"catch_up", "reschedule", "drop"})


class VendorBench:
    """A vendor, a shop with a consent feed, a plan and a journal."""

    def __init__(self, kind: str, folder: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock, self.kind = clock, kind
        self.vendors = Vendors(kind, clock)
        self.shop = f"sqlite:///{folder / 'shop.sqlite'}"
        self.opted_out: dict[str, Any] = {}
        with sa.create_engine(self.shop).begin() as connection:
            connection.execute(
                sa.text(
                    "CREATE TABLE consent_requests (request_id INTEGER PRIMARY KEY, customer_id INTEGER, kind VARCHAR,"
                    " campaign_id INTEGER, requested_at TIMESTAMP, forwarded_at TIMESTAMP)"
                )
            )
            connection.execute(
                sa.text(
                    "CREATE TABLE webhook_receipts (receipt_id INTEGER PRIMARY KEY, provider_event_id BIGINT,"
                    " event_type VARCHAR, campaign_id INTEGER, subscriber_id INTEGER, occurred_at TIMESTAMP,"
                    " received_at TIMESTAMP)"
                )
            )
        monkeypatch.setenv("VENDOR_TOKEN", self.vendors.server.token)
        self.plan = folder / "plan.yaml"
        self.batches: Path | None = None
        self.journal_url = f"sqlite:///{folder / 'journal.sqlite'}"
        self.write_plan()

    def write_plan(self, **changes: Any) -> None:
        provider = {
            "kind": self.kind,
            "api_url": self.vendors.server.url,
            "token_env": "VENDOR_TOKEN",
            "shop": "shop",
        }
        self.plan.write_text(
            yaml.safe_dump(
                {
                    "version": 1, "name": "Bench", "clock": f"driven:{self.clock.path}", "journal": self.journal_url,
                    "state": "state", "reports": "reports", "store": {"url": "store"},
                    "sources": {"shop": {"url": self.shop, "mapping": "shop"}},
                    "providers": {"esp": provider | changes},
                    "detection": {"clear_after": 2, "stalled_minutes": 5},
                    "lateness": {"newsletter": {"useful_for_minutes": 1440}, "sale": {"useful_for_minutes": 600}},
                    "ramp": {"canary": 10, "factor": 2.0, "max_step": 20},
                }
            )
        )  # fmt: skip

    def opt_out(self, who: int) -> None:
        with sa.create_engine(self.shop).begin() as connection:
            connection.execute(
                sa.text(
                    "INSERT INTO consent_requests (customer_id, kind, requested_at) VALUES (:who, 'unsubscribe', :at)"
                ),
                {"who": who, "at": self.clock.now().replace(tzinfo=None).isoformat(sep=" ")},
            )
        self.opted_out[f"c{who}@shop.example"] = self.clock.now()

    def respond(self) -> tuple[str, list[PlanLine]]:
        """Declare, plan from the capabilities, and stop everything that the plan can stop."""
        loaded = load_plan(self.plan)
        with open_provider(loaded, "esp") as provider, Journal.open(self.journal_url, self.clock) as journal:
            incident = journal.declare(
                "esp", cause_class="technical_failure", summary="x", detected_at=self.clock.now(), declared_by="desk",
                impact_started_at=self.clock.now(), state="investigating",
            ).id  # fmt: skip
            lines = plan_table(
                _from_provider(provider.campaigns()), provider.capabilities, self.clock.now(), lateness={}
            )
            looks = Looks(provider)
            stopped = [line for line in by_urgency(lines) if line.action]
            for line in stopped:
                stop_campaign(journal, incident, provider, line, token=None, looks=looks)
            assert looks.still_sending(stopped) == []
        return incident, lines

    def recover(self, incident: str) -> list[Outcomes]:
        loaded = load_plan(self.plan)
        with open_provider(loaded, "esp") as provider, Journal.open(self.journal_url, self.clock) as journal:
            lease = journal.lease(incident, "test", LEASE)
            desk = Desk(loaded, journal, provider, self.clock, journal.incident(incident), lease)
            try:
                recovery = Recovery(desk)
                assert recovery.measure_restoration().restored
                recovery.witnesses.pass_gate()
                held = recovery.quiesce()
                recovery.propose(held)
                outcomes = [recovery.resume(one, AGREED) for one in held]
                recovery.list_unknown(held)
                return outcomes
            finally:
                journal.release(desk.lease or lease)

    def judge(self) -> Counter[str]:
        """Nobody twice, nobody after opting out; return who got how many."""
        counts: Counter[str] = Counter()
        for one in self.vendors.server.mailbox():
            counts[one.person] += 1
            left = self.opted_out.get(one.person)
            assert left is None or one.at < left, f"{one.person} was mailed after opting out"
        assert max(counts.values(), default=0) <= 1
        return counts


@pytest.fixture(params=["sendgrid", "brevo", "mailchimp", "klaviyo"])
def kind(request) -> str:
    return request.param


@pytest.fixture
def vendor(kind, tmp_path, clock, monkeypatch) -> Iterator[VendorBench]:
    made = VendorBench(kind, tmp_path, clock, monkeypatch)
    yield made
    made.vendors.__exit__()


def scheduled(vendor: VendorBench, name: str, at: timedelta, **more: Any) -> int:
    number = vendor.vendors.campaign(name, at=at, **more)
    vendor.vendors.go(number)
    return number


def test_what_is_still_ahead_is_put_back_exactly_as_it_was(vendor) -> None:
    number = scheduled(vendor, "News", 5 * HOUR, kind="newsletter")
    before = vendor.vendors.provider.campaign(number)
    incident, [line] = vendor.respond()
    assert (line.action, line.undo, line.due_at) == ("unschedule", "reschedule", before.send_at)
    assert vendor.vendors.provider.campaign(number).status == "draft"
    vendor.clock.advance(HOUR)
    [outcome] = vendor.recover(incident)
    assert outcome.done == "put_back"
    assert vendor.vendors.provider.campaign(number) == before
    vendor.clock.advance(6 * HOUR)
    assert len(vendor.judge()) == 40


def test_what_is_past_goes_to_everybody_once_and_not_to_who_opted_out_meanwhile(vendor) -> None:
    number = scheduled(vendor, "News", HOUR, kind="newsletter")
    incident, _ = vendor.respond()
    vendor.clock.advance(2 * HOUR)
    vendor.opt_out(7)
    [outcome] = vendor.recover(incident)
    vendor.clock.advance(HOUR)
    counts = vendor.judge()
    assert outcome.done == "caught_up"
    assert set(counts) == {f"c{n}@shop.example" for n in range(1, 41)} - {"c7@shop.example"}
    assert {name: n for name, n in outcome.counts.items() if n} == {"accepted": 39, "suppressed": 1}
    assert vendor.vendors.provider.campaign(number).status in ("draft", "finished")


def test_a_sale_whose_day_is_over_is_not_sent(vendor) -> None:
    scheduled(vendor, "Sale", HOUR, kind="sale", useful=2 * HOUR)
    incident, _ = vendor.respond()
    vendor.clock.advance(5 * HOUR)
    [outcome] = vendor.recover(incident)
    vendor.clock.advance(24 * HOUR)
    assert outcome.counts["expired"] == 40
    assert vendor.judge() == Counter()


@pytest.mark.parametrize("kind", ["brevo"])
def test_whom_a_campaign_reached_that_was_stopped_half_way_nobody_knows_and_nobody_is_mailed_again(
    vendor,
) -> None:
    number = vendor.vendors.campaign("News", kind="newsletter")
    vendor.vendors.go(number)
    vendor.clock.advance(15)
    incident, [line] = vendor.respond()
    assert (line.action, line.undo, line.audience) == ("pause", "resume", 25)
    [outcome] = vendor.recover(incident)
    vendor.clock.advance(24 * HOUR)
    assert outcome.counts["unknown"] == 40
    assert len(vendor.judge()) == 15


@pytest.mark.parametrize("kind", ["brevo"])
def test_counters_that_lag_behind_do_not_make_a_campaign_untouched(vendor) -> None:
    """It began on time and was stopped later; Brevo counts nothing yet: that is no proof that nothing left."""
    vendor.vendors.server.stuck = True
    scheduled(vendor, "News", HOUR, kind="newsletter")
    vendor.clock.advance(2 * HOUR)
    incident, _ = vendor.respond()
    vendor.vendors.server.stuck = False
    [outcome] = vendor.recover(incident)
    assert outcome.counts["unknown"] == 40
    vendor.clock.advance(HOUR)
    assert vendor.judge() == Counter()


@pytest.mark.parametrize("kind", ["brevo"])
def test_where_calls_are_scarce_a_stop_costs_one_and_the_looks_are_shared(vendor) -> None:
    for number in range(1, 6):
        scheduled(vendor, f"News {number}", number * HOUR)
    vendor.vendors.server.calls.clear()
    vendor.respond()
    calls = Counter(
        call.rsplit("/", 1)[-1] if "PUT" in call else call for call in vendor.vendors.server.calls
    )
    assert calls == {"status": 5, "GET /v3/emailCampaigns": 3}


@pytest.mark.parametrize("kind", ["brevo"])
def test_a_stop_that_was_accepted_and_does_not_show_is_found_by_the_last_look(vendor) -> None:
    scheduled(vendor, "News", HOUR)
    vendor.vendors.server._status = lambda *_: type(vendor.vendors.server.refusal(400, ""))(204)
    with pytest.raises(AssertionError, match="News"):
        vendor.respond()


@pytest.mark.parametrize("kind", ["sendgrid", "mailchimp", "klaviyo"])
def test_a_single_send_in_flight_is_left_to_go_on_and_gets_no_catch_up_beside_it(vendor) -> None:
    vendor.vendors.server.stuck = True
    number = vendor.vendors.campaign("News", kind="newsletter")
    vendor.vendors.go(number)
    vendor.clock.advance(60)
    incident, [line] = vendor.respond()
    assert (line.action, line.undo, line.audience) == ("", "", 40)
    vendor.vendors.server.stuck, vendor.vendors.server.messages_per_minute = False, 4
    assert vendor.recover(incident) == []
    assert len(vendor.judge()) < 40
    vendor.clock.advance(2 * HOUR)
    assert len(vendor.judge()) == 40


@pytest.mark.parametrize("kind", ["sendgrid"])
def test_contacts_without_a_customer_number_and_an_opt_out_of_a_stranger_stop_the_recovery(vendor) -> None:
    vendor.vendors.server.numbered = False
    scheduled(vendor, "News", HOUR, kind="newsletter")
    incident, _ = vendor.respond()
    vendor.clock.advance(2 * HOUR)
    vendor.opt_out(7)
    with pytest.raises(Stopped, match="give every contact its customer number"):
        vendor.recover(incident)
    vendor.clock.advance(24 * HOUR)
    assert vendor.judge() == Counter()


@pytest.mark.parametrize("kind", ["sendgrid"])
@pytest.mark.parametrize(
    ("hours", "done", "mails"), [(1, "put_back", 3), (5, "put_back", 3), (30, "dropped", 0)]
)
def test_a_batch_is_let_go_while_it_is_useful_and_discarded_after(
    vendor, tmp_path, hours, done, mails
) -> None:
    at = vendor.clock.now() + 2 * HOUR
    vendor.vendors.server.add_batch("b1", at, ["x1", "x2", "x3"])
    (tmp_path / "batches.csv").write_text(
        f"batch_id,name,send_at,people,kind\nb1,Receipts,{at.isoformat()},3,newsletter\n"
    )
    vendor.write_plan(batches="batches.csv")
    incident, [line] = vendor.respond()
    assert (line.action, line.undo, line.of) == ("pause", "resume", "batch")
    assert (line.act_before, line.lost_after) == (at - timedelta(minutes=10), at + 72 * HOUR)
    vendor.clock.advance(hours * HOUR)
    [outcome] = vendor.recover(incident)
    vendor.clock.advance(100 * HOUR)
    assert outcome.done == done
    assert len(vendor.judge()) == mails


@pytest.mark.parametrize("kind", ["mailchimp"])
def test_a_feed_is_paused_and_goes_on_as_it_was(vendor) -> None:
    number = vendor.vendors.feed("Blog")
    before = vendor.vendors.provider.campaign(number)
    incident, [line] = vendor.respond()
    assert (line.action, line.undo, line.of) == ("pause", "resume", "feed")
    assert vendor.vendors.provider.campaign(number).status == "paused"
    vendor.clock.advance(HOUR)
    [outcome] = vendor.recover(incident)
    assert (outcome.done, outcome.counts["unknown"]) == ("put_back", 0)
    assert vendor.vendors.provider.campaign(number) == before


@pytest.mark.parametrize("kind", ["mailchimp", "klaviyo"])
def test_what_is_sent_later_begins_at_a_time_that_the_provider_takes(vendor) -> None:
    loaded = yaml.safe_load(vendor.plan.read_text())
    loaded["lateness"]["newsletter"] |= {"when_late": "reschedule", "reschedule_minutes": 67}
    vendor.plan.write_text(yaml.safe_dump(loaded))
    scheduled(vendor, "News", HOUR, kind="newsletter")
    incident, _ = vendor.respond()
    vendor.clock.advance(2 * HOUR)
    [outcome] = vendor.recover(incident)
    assert (outcome.done, outcome.scheduled) == ("scheduled", 40)
    [begin] = [one.send_at for one in vendor.vendors.provider.campaigns() if one.status == "scheduled"]
    assert begin == vendor.vendors.provider.capabilities.next_slot(begin)
    vendor.clock.advance(3 * HOUR)
    assert len(vendor.judge()) == 40
    assert min(one.at for one in vendor.vendors.server.mailbox()) >= begin


@pytest.mark.parametrize("kind", ["klaviyo"])
def test_a_revert_that_came_through_too_late_makes_nobody_count_as_not_reached(vendor) -> None:
    """It was scheduled when it was looked at and had begun when the revert arrived: the draft shows nothing of it."""
    number, server = scheduled(vendor, "News", HOUR, kind="newsletter"), vendor.vendors.server
    change = server._change_job

    def late(one, ask):
        vendor.clock.advance(HOUR + timedelta(seconds=10))
        server.act(vendor.clock.now())
        return change(one, ask)

    server._change_job = late
    incident, [line] = vendor.respond()
    assert (line.action, vendor.vendors.provider.campaign(number).status) == ("unschedule", "draft")
    reached = len(vendor.judge())
    assert 0 < reached < 40
    server._change_job = change
    [outcome] = vendor.recover(incident)
    vendor.clock.advance(24 * HOUR)
    assert outcome.counts["unknown"] == 40
    assert len(vendor.judge()) == reached


@pytest.mark.parametrize("kind", ["mailchimp"])
def test_a_report_that_names_fewer_than_were_sent_makes_nobody_count_as_not_reached(vendor) -> None:
    scheduled(vendor, "News", HOUR, kind="newsletter")
    incident, _ = vendor.respond()
    vendor.clock.advance(2 * HOUR)
    server = vendor.vendors.server
    whole = server._shown
    server._shown = lambda one: whole(one) | ({"emails_sent": len(one.queue) + 1} if one.queue else {})
    outcomes = vendor.recover(incident)
    vendor.clock.advance(24 * HOUR)
    assert [one.counts["not_attempted"] for one in outcomes] == [0]
    assert outcomes[0].counts["unknown"] > 0
    assert sum(vendor.judge().values()) < 40  # the first step only: of the others nobody is sure
