"""What severity knows from before: how long this provider's outages take, and what a message brings by `impact`."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
import yaml

from tasks.core import DrivenClock
from tasks.incidents import Journal
from tasks.outages import (
    Background,
    CampaignCount,
    Memory,
    Observation,
    ShopWitness,
    Signal,
    conclude,
    observe,
)
from tasks.outages.steps import gather_background, past_outages
from tasks.plan import LoadedPlan, load_plan

NOW = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PENCE = {"newsletter": 10, "sale": 60}


def incident(
    key: str, began: datetime, hours: float, impact: str = "major", part: str = "send"
) -> dict[str, Any]:
    return {
        "id": key,
        "name": "An outage",
        "status": "resolved",
        "impact": impact,
        "started_at": began.isoformat(),
        "resolved_at": (began + hours * HOUR).isoformat(),
        "components": [{"id": part, "name": "Email sending" if part == "send" else "Landing pages"}],
    }


@pytest.fixture
def loaded(tmp_path: Path, page_server: Callable[..., str]) -> LoadedPlan:
    history = [
        incident("a", NOW - 90 * DAY, 2),
        incident("b", NOW - 60 * DAY, 3),  # the journal has it too
        incident("c", NOW - 50 * DAY, 9, part="landing"),
        incident("d", NOW - 40 * DAY, 9, impact="none"),
        {**incident("e", NOW - 30 * DAY, 1), "resolved_at": None},
    ]
    body = json.dumps({"page": {"name": "Example ESP"}, "incidents": history}).encode()
    content = yaml.safe_load((Path(__file__).parents[2] / "data" / "plan.example.yaml").read_text())
    for probe in ("smtp", "seed_mailbox_url", "unsubscribe_url_env"):
        content["providers"]["listmonk"].pop(probe, None)
    content["journal"] = "sqlite:///journal.db"
    content["providers"]["listmonk"]["status_page"] = {
        "url": page_server(paths={"/api/v2/incidents.json": body}),
        "name": "Example ESP",
        "components": ["Email sending"],
    }
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    return load_plan(tmp_path / "plan.yaml")


@pytest.fixture
def shop(tmp_path: Path) -> tuple[ShopWitness, list[CampaignCount]]:
    """Twelve weeks with a newsletter and a sale each, whose messages bring 10 and 60 pence, and a debt written off."""
    url = f"sqlite:///{tmp_path / 'shop.db'}"
    campaigns, orders = [], []
    for week in range(12):
        for kind, offset in (("newsletter", 0), ("sale", 3)):
            key, began = len(campaigns) + 1, NOW - (12 - week) * 7 * DAY + offset * DAY
            campaigns.append(CampaignCount(key, kind, "finished", 1_000, 1_000, began, began, kind))
            orders += [(began + HOUR * (n % 24), key, PENCE[kind] * 1_000 // 40) for n in range(40)]
    orders += [(NOW - 85 * DAY + HOUR * n, None, 2_000) for n in range(85 * 24)]
    orders.append((NOW - 9 * DAY, None, -1_106_206))
    engine = sa.create_engine(url)
    with engine.begin() as db:
        table = sa.Table(
            "orders",
            sa.MetaData(),
            sa.Column("ordered_at", sa.TIMESTAMP),
            sa.Column("campaign_id", sa.Integer),
            sa.Column("total_minor", sa.BigInteger),
        )
        table.create(db)
        rows = [
            {"ordered_at": at.replace(tzinfo=None), "campaign_id": key, "total_minor": sum_}
            for at, key, sum_ in orders
        ]
        db.execute(table.insert(), rows)
    engine.dispose()
    return ShopWitness(url), campaigns


def test_the_outages_are_those_of_the_journal_and_of_the_page_each_once(
    loaded: LoadedPlan, tmp_path: Path
) -> None:
    clock = DrivenClock.create(tmp_path / "clock.json", NOW - 60 * DAY)
    with Journal.open(loaded.journal_url(), clock) as journal:
        for provider, hours, end in (
            ("listmonk", 4, "resolved"),
            ("other", 9, "resolved"),
            ("listmonk", 9, "canceled"),
        ):
            began = clock.now()
            declared = journal.declare(
                provider, cause_class="unknown", summary="no mail", detected_at=began, declared_by="monitor"
            )
            clock.advance(hours * HOUR)
            if end == "resolved":
                journal.transition(declared.id, "investigating", "monitor", "")
            journal.transition(declared.id, end, "monitor", "")  # type: ignore[arg-type]
            if end == "resolved":
                journal.set_timestamp(declared.id, "resolved_at", clock.now(), "monitor")
        own = past_outages(journal, "listmonk")
    found = gather_background(loaded, "listmonk", None, own, [], NOW)
    assert found.outages == (4 * HOUR, 2 * HOUR)
    assert found.worth == {}


def test_a_message_is_worth_what_impact_estimates_of_its_kind(
    loaded: LoadedPlan, shop: tuple[ShopWitness, list[CampaignCount]]
) -> None:
    witness, campaigns = shop
    worth = gather_background(loaded, "listmonk", witness, [], campaigns, NOW).worth
    assert set(worth) == {"newsletter", "sale"}
    for kind, pence in PENCE.items():
        assert worth[kind] == pytest.approx(pence, rel=0.2)


def test_a_page_without_a_history_and_a_shop_without_orders_leave_everything_open(
    loaded: LoadedPlan,
    page_server: Callable[..., str],
    shop: tuple[ShopWitness, list[CampaignCount]],
    tmp_path: Path,
) -> None:
    page_server(b"<html>", "text/html")
    nowhere = ShopWitness(f"sqlite:///{tmp_path / 'missing.db'}")
    found = gather_background(loaded, "listmonk", nowhere, [], shop[1], NOW)
    assert (found.worth, found.outages) == ({}, ())
    young = [one for one in shop[1] if one.campaign_id > 22]
    lately = ShopWitness(f"sqlite:///{tmp_path / 'shop.db'}")
    assert gather_background(loaded, "listmonk", lately, [], young, NOW - 80 * DAY).worth == {}


class Quiet:
    """A provider with one sale that is due."""

    def health(self) -> Any:
        return type("Probe", (), {"ok": True, "seconds": 0.01, "detail": ""})

    def campaigns(self) -> list[CampaignCount]:
        sale = CampaignCount(9, "Sale", "scheduled", 1_000, 0, NOW + HOUR, None, "sale")
        return [type("Listed", (), {**vars(sale), "id": 9, "of": "campaign"})()]  # type: ignore[list-item]


def test_it_is_gathered_once_a_day_kept_in_the_memory_and_never_while_something_is_wrong(
    loaded: LoadedPlan, tmp_path: Path
) -> None:
    clock = DrivenClock.create(tmp_path / "clock.json", NOW)
    gathered: list[datetime] = []

    def gather(campaigns: Any, at: datetime) -> Background:
        gathered.append(at)
        return Background(at, {"sale": 60.0}, (3 * HOUR,) * 5)

    memory = Memory()
    for hours in (0, 1, 22, 2):
        clock.advance(hours * HOUR + timedelta(minutes=1))
        seen = observe("listmonk", Quiet(), loaded.plan, memory, clock, gather=gather)
        memory = conclude("listmonk", memory, seen, loaded.plan.detection, incident_open=False).memory
        memory = Memory.from_dict(json.loads(json.dumps(memory.to_dict())))
    assert gathered == [NOW + timedelta(minutes=1), clock.now()]
    assert memory.calendar is not None
    assert memory.calendar[0].value_minor == 60_000

    now = clock.advance(30 * HOUR)
    dead = Observation(now, (Signal("api", "bad", "dead", now),), memory.sending, memory.seed, None, None)
    found = conclude("listmonk", memory, dead, loaded.plan.detection, incident_open=False)
    assert found.severity is not None
    assert found.severity.likely_restore_at == now + 3 * HOUR
    assert "its 5 past outages" in found.severity.restore_basis
    observe("listmonk", Quiet(), loaded.plan, found.memory, clock, gather=gather)
    assert len(gathered) == 2
