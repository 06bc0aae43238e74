"""One pass as a whole: what is looked at, what is remembered, what is concluded from it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tasks.core import DrivenClock, MailstayError
from tasks.outages import (
    CampaignCount,
    Memory,
    Observation,
    Pass,
    ShopWitness,
    Signal,
    calendar_of,
    conclude,
    observe,
    value_per_message,
    with_audiences,
)
from tasks.plan import Plan, SmtpPlan

NOW = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass
class Answers:
    """A connector that answers what a test wants; the real one is held against the real simulator elsewhere."""

    ok: bool = True
    listed: list[Any] | None = field(default_factory=list)
    asked: int = 0

    def health(self) -> Any:
        self.asked += 1
        return type("Probe", (), {"ok": self.ok, "seconds": 0.01, "detail": "" if self.ok else "HTTP 503"})

    def campaigns(self) -> list[Any]:
        if self.listed is None:
            raise MailstayError("no answer")
        return self.listed


@dataclass(frozen=True)
class Listed:
    id: int = 7
    name: str = "One-day sale"
    status: str = "running"
    to_send: int = 3_000
    sent: int = 300
    send_at: datetime | None = NOW
    started_at: datetime | None = NOW
    kind: str = "sale"
    latest_useful_at: datetime | None = NOW + 10 * HOUR
    list_ids: tuple[int, ...] = (1,)
    of: str = "campaign"
    bounced: int = 0


@pytest.fixture
def plan() -> Plan:
    text = (Path(__file__).parents[2] / "data" / "plan.example.yaml").read_text()
    content = yaml.safe_load(text)
    content["providers"]["listmonk"]["status_page"] = {"url": "http://127.0.0.1:1", "components": ["API"]}
    for probe in ("smtp", "seed_mailbox_url", "unsubscribe_url_env"):
        content["providers"]["listmonk"].pop(probe, None)
    return Plan.model_validate(content)


def look(plan: Plan, provider: Answers, memory: Memory, clock: DrivenClock, **more: Any) -> Observation:
    return observe("listmonk", provider, plan, memory, clock, **more)


def passes(plan: Plan, clock: DrivenClock, *providers: Answers, memory: Memory | None = None) -> list[Pass]:
    memory, found = memory or Memory(), []
    for provider in providers:
        clock.advance(300)
        seen = look(plan, provider, memory, clock)
        found.append(conclude("listmonk", memory, seen, plan.detection, incident_open=True))
        memory = Memory.from_dict(json.loads(json.dumps(found[-1].memory.to_dict())))
    return found


def test_a_dead_page_and_a_dead_api_are_an_outage_seen_by_the_api_alone(
    plan: Plan, clock: DrivenClock
) -> None:
    first, second = passes(plan, clock, Answers(ok=False), Answers(ok=False))
    assert [one.to for one in first.transitions + second.transitions] == ["suspected", "confirmed"]
    assert second.seen == ("the API does not work: HTTP 503",)
    assert {one.kind: one.verdict for one in second.signals}["status_page"] == "unknown"


def test_a_dead_api_is_asked_three_times_and_its_campaigns_not_at_all(plan: Plan, clock: DrivenClock) -> None:
    provider = Answers(ok=False)
    look(plan, provider, Memory(), clock)
    assert provider.asked == 3


def test_the_calendar_of_the_last_good_pass_weighs_an_outage(plan: Plan, clock: DrivenClock) -> None:
    clock.set(NOW)
    running = Answers(listed=[Listed()])
    *_, down = passes(plan, clock, running, Answers(ok=False), Answers(ok=False))
    assert down.severity is not None
    assert (down.severity.level, down.severity.recipients, down.severity.time_critical) == (3, 2_700, 1)


def test_an_outage_that_outlasts_a_deadline_rises_once_and_is_eventful(
    plan: Plan, clock: DrivenClock
) -> None:
    clock.set(NOW)
    start = passes(plan, clock, Answers(listed=[Listed()]), Answers(ok=False), Answers(ok=False))
    memory = replace(start[-1].memory, incident="INC-0001")
    clock.set(NOW + 9 * HOUR + 10 * timedelta(minutes=1))
    late, later = passes(plan, clock, Answers(ok=False), Answers(ok=False), memory=memory)
    assert (late.rose, late.eventful) == (True, True)
    assert (later.rose, later.eventful) == (False, False)


def test_without_any_calendar_the_worst_is_assumed(plan: Plan, clock: DrivenClock) -> None:
    *_, down = passes(plan, clock, Answers(ok=False), Answers(ok=False))
    assert down.severity is not None
    assert down.severity.level == 2


def test_campaigns_that_cannot_be_read_are_unknown_while_the_api_answers(
    plan: Plan, clock: DrivenClock
) -> None:
    [found] = passes(plan, clock, Answers(listed=None))
    assert {one.kind: one.verdict for one in found.signals} == {
        "status_page": "unknown",
        "api": "good",
        "sending": "unknown",
    }


def test_a_false_green_is_found_by_the_count_that_stands_still(plan: Plan, clock: DrivenClock) -> None:
    stuck = Answers(listed=[Listed()])
    found = passes(plan, clock, *[stuck] * 5)
    assert [one.to for each in found for one in each.transitions] == ["suspected", "confirmed"]


def test_a_feed_of_which_nothing_need_move_is_no_false_green(plan: Plan, clock: DrivenClock) -> None:
    found = passes(plan, clock, *[Answers(listed=[Listed(of="feed")])] * 5)
    assert [one.to for each in found for one in each.transitions] == []


def test_an_incident_that_people_closed_ends_the_outage_for_the_detector(
    plan: Plan, clock: DrivenClock
) -> None:
    *_, down = passes(plan, clock, Answers(ok=False), Answers(ok=False))
    memory = replace(down.memory, incident="INC-0001")
    clock.advance(300)
    seen = look(plan, Answers(), memory, clock)
    found = conclude("listmonk", memory, seen, plan.detection, incident_open=False)
    assert (found.memory.detector.phase, found.memory.incident, found.severity) == ("clear", "", None)


def test_impact_is_what_the_page_states_and_never_a_guess(plan: Plan, clock: DrivenClock) -> None:
    def concluded(stated: datetime | None) -> datetime | None:
        now = clock.now()
        details = {"impact_started_at": stated and stated.isoformat(), "status_posted_at": None}
        signals = (Signal("status_page", "bad", "red", now, details), Signal("api", "bad", "dead", now))
        seen = Observation(now, signals, Memory().sending, Memory().seed, None, None)
        return conclude("listmonk", Memory(), seen, plan.detection, incident_open=False).impact_started_at

    assert concluded(None) is None
    assert concluded(clock.now() - HOUR) == clock.now() - HOUR
    assert concluded(clock.now() + HOUR) is None, "the vendor cannot know of an impact after we detected it"


def test_the_first_post_of_the_vendor_is_news_once(plan: Plan, clock: DrivenClock) -> None:
    posted = []
    memory = Memory()
    for _ in range(3):
        now = clock.advance(300)
        details = {"impact_started_at": None, "status_posted_at": now.isoformat()}
        signals = (Signal("status_page", "bad", "red", now, details), Signal("api", "bad", "dead", now))
        seen = Observation(now, signals, memory.sending, memory.seed, None, None)
        found = conclude("listmonk", memory, seen, plan.detection, incident_open=True)
        memory = found.memory
        posted.append(found.posted)
    assert posted == [True, False, False]


def campaign(**changes: Any) -> CampaignCount:
    base = CampaignCount(1, "Weekly", "scheduled", 0, 0, NOW + HOUR, None, "newsletter", None, (1,))
    return replace(base, **changes)


def test_an_audience_not_counted_yet_is_that_of_the_newest_campaign_to_the_same_lists() -> None:
    past = [
        campaign(campaign_id=8, status="finished", to_send=900, sent=900, started_at=NOW - 2 * HOUR),
        campaign(campaign_id=9, status="finished", to_send=950, sent=950, started_at=NOW - HOUR),
        campaign(campaign_id=10, status="finished", to_send=4_000, started_at=NOW - HOUR, list_ids=(2,)),
    ]
    known, unknown = with_audiences([*past, campaign(), campaign(list_ids=(3,))])[-2:]
    assert (known.to_send, unknown.to_send) == (950, 4_000)


def test_a_campaign_unscheduled_for_the_outage_stays_on_the_calendar(plan: Plan) -> None:
    unscheduled = campaign(status="draft", to_send=900)
    superseded = campaign(status="draft", to_send=900, send_at=None)
    forgotten = campaign(status="draft", to_send=900, send_at=NOW - timedelta(days=30))
    done = campaign(status="finished", to_send=900, sent=900)
    [send] = calendar_of([unscheduled, superseded, forgotten, done], NOW, lateness=plan.lateness)
    assert send.latest_useful_at == NOW + HOUR + timedelta(minutes=2880)


def test_what_a_message_brings_is_measured_per_kind() -> None:
    past = [
        campaign(campaign_id=1, status="finished", sent=1_000),
        campaign(campaign_id=2, status="finished", sent=1_000),
        campaign(campaign_id=3, status="finished", sent=100, kind="sale"),
        campaign(campaign_id=4, status="running", sent=50, kind="launch"),
    ]
    assert value_per_message(past, {1: 30_000, 3: 9_000}) == {"newsletter": 15, "sale": 90}


@pytest.fixture
def shop(tmp_path: Path) -> str:
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    engine = sa.create_engine(url)
    with engine.begin() as db:
        db.exec_driver_sql(
            "CREATE TABLE consent_requests (kind VARCHAR(12), requested_at TIMESTAMP, forwarded_at TIMESTAMP)"
        )
        db.exec_driver_sql("CREATE TABLE webhook_receipts (received_at TIMESTAMP)")
        db.exec_driver_sql(
            "CREATE TABLE orders (ordered_at TIMESTAMP, campaign_id INTEGER, total_minor BIGINT)"
        )
    engine.dispose()
    return url


def fill(url: str, table: str, *rows: tuple[Any, ...]) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as db:
        kept = sa.Table(table, sa.MetaData(), autoload_with=db)
        for row in rows:
            db.execute(kept.insert().values(row))
    engine.dispose()


def naive(moment: datetime) -> datetime:
    return moment.replace(tzinfo=None)


def test_the_shop_tells_whether_opt_outs_are_accepted(shop: str) -> None:
    fill(
        shop,
        "consent_requests",
        ("unsubscribe", naive(NOW - HOUR / 2), naive(NOW - HOUR / 2)),
        ("unsubscribe", naive(NOW - HOUR / 4), None),
        ("subscribe", naive(NOW - HOUR / 8), None),
        ("unsubscribe", naive(NOW - 5 * HOUR), None),
    )
    assert ShopWitness(shop).opt_outs(NOW - HOUR, NOW) == [(NOW - HOUR / 2, True), (NOW - HOUR / 4, False)]


def test_the_shop_counts_webhooks_and_revenue(shop: str) -> None:
    fill(shop, "webhook_receipts", (naive(NOW - HOUR),), (naive(NOW - HOUR / 2),), (naive(NOW),))
    fill(
        shop,
        "orders",
        (naive(NOW - HOUR), 7, 28_000),
        (naive(NOW - HOUR), None, 28_000),
        (naive(NOW - HOUR), None, -1_106_206),
        (naive(NOW - timedelta(days=60)), 7, 1_000_000),
    )
    witness = ShopWitness(shop)
    assert witness.receipts(NOW - HOUR, NOW) == 2
    earned = witness.earnings(NOW)
    assert (earned.daily_minor, earned.by_campaign_minor) == (2_000, {7: 28_000})


def test_a_shop_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    witness = ShopWitness(f"sqlite:///{tmp_path / 'missing' / 'shop.db'}")
    assert witness.opt_outs(NOW - HOUR, NOW) is None
    assert witness.receipts(NOW - HOUR, NOW) is None
    assert witness.earnings(NOW).daily_minor == 0


def test_failing_opt_outs_are_an_outage_while_everything_else_works(
    plan: Plan, clock: DrivenClock, shop: str
) -> None:
    now = clock.now()
    fill(shop, "consent_requests", *[("unsubscribe", naive(now + HOUR / 60 * n), None) for n in (2, 3, 8)])
    memory, found = Memory(), []
    for _ in range(2):
        clock.advance(300)
        seen = look(plan, Answers(), memory, clock, shop=ShopWitness(shop))
        found.append(conclude("listmonk", memory, seen, plan.detection, incident_open=True))
        memory = found[-1].memory
    assert [one.to for each in found for one in each.transitions] == ["suspected", "confirmed"]
    assert found[-1].severity is not None
    assert found[-1].severity.level == 3


def test_the_shop_tells_how_late_webhooks_come_and_what_receivers_answer(shop: str) -> None:
    engine = sa.create_engine(shop)
    with engine.begin() as db:
        db.exec_driver_sql("ALTER TABLE webhook_receipts ADD COLUMN occurred_at TIMESTAMP")
        assert ShopWitness(shop).diagnostics(NOW - HOUR, NOW) is None
        db.exec_driver_sql("ALTER TABLE webhook_receipts ADD COLUMN diagnostic VARCHAR")
    engine.dispose()
    fill(
        shop,
        "webhook_receipts",
        (naive(NOW), naive(NOW - 3 * HOUR), None),
        (naive(NOW), naive(NOW - HOUR / 60), "550 5.7.1 refused"),
        (naive(NOW - 2 * HOUR), naive(NOW - 2 * HOUR), "550 5.1.1 nobody"),
    )
    witness = ShopWitness(shop)
    assert witness.webhook_lag(NOW - HOUR, NOW) == HOUR / 60
    assert witness.webhook_lag(NOW + HOUR, NOW + 2 * HOUR) is None
    assert witness.diagnostics(NOW - HOUR, NOW) == ["550 5.7.1 refused"]


def test_every_probe_of_the_plan_is_a_signal_of_its_own(plan: Plan, clock: DrivenClock) -> None:
    settings = plan.providers["listmonk"].model_copy(
        update={
            "smtp": SmtpPlan(host="127.0.0.1", port=1, timeout_seconds=1),
            "unsubscribe_timeout_seconds": 1,
        }
    )
    probed = plan.model_copy(update={"providers": {**plan.providers, "listmonk": settings}})
    bounced = [replace(Listed(), sent=300, bounced=0), replace(Listed(), sent=2_300, bounced=900)]
    memory, found = Memory(), []
    for listed in bounced:
        clock.advance(300)
        seen = look(probed, Answers(listed=[listed]), memory, clock, unsubscribe_url="http://127.0.0.1:1/u")
        found.append(conclude("listmonk", memory, seen, plan.detection, incident_open=True))
        memory = Memory.from_dict(json.loads(json.dumps(found[-1].memory.to_dict())))
    verdicts = {one.kind: one.verdict for one in found[-1].signals}
    assert verdicts == {
        "status_page": "unknown",
        "smtp": "bad",
        "unsubscribe": "bad",
        "api": "good",
        "sending": "good",
        "bounces": "bad",
    }
    assert found[-1].severity is not None
    assert "opt-outs are not accepted" in found[-1].severity.reasons
