"""Histories at the edge, each with its right answer or its clear refusal, readable by whoever has to explain it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from tasks.impact import Calendar, ImpactError, MoneyImpact, measure_money

START = datetime(2026, 5, 20, 11, 0, tzinfo=UTC)
SENDS = ["sent_at", "planned_at", "kind", "campaign_id", "messages"]


@dataclass(frozen=True)
class Shop:
    """A shop that sells six orders an hour from 7 to 21 o'clock, and one outage that took `lost` of what is named."""

    orders: pd.DataFrame
    start: datetime = START
    restored: datetime = START + timedelta(hours=6)
    until: datetime = START + timedelta(hours=24)
    lost: float = 0.0
    currency: str = "GBP"
    timezone: str = "Europe/London"
    disturbed: tuple[tuple[datetime, datetime], ...] = ()
    true_minor: int = 0
    sends: pd.DataFrame | None = None
    planned: pd.DataFrame | None = None

    def measure(self) -> MoneyImpact:
        nothing = pd.DataFrame(columns=SENDS)
        return measure_money(
            self.orders,
            nothing if self.sends is None else self.sends,
            nothing if self.planned is None else self.planned,
            pd.DataFrame({"campaign_id": [], "subscriber_id": [], "fate": []}),
            impact_started_at=self.start,
            restored_at=self.restored,
            until=self.until,
            currency=self.currency,
            calendar=Calendar(self.timezone, "GB"),
            disturbed=self.disturbed,
        )

    def hit(self, share: float, start: datetime | None = None, end: datetime | None = None) -> Shop:
        """Take a share of the orders between two moments away; what is taken is the truth."""
        at = self.orders["ordered_at"]
        inside = (at >= pd.Timestamp(start or self.start)) & (at < pd.Timestamp(end or self.restored))
        gone = inside & (np.random.default_rng(7).random(len(at)) < share)
        inside_window = gone & (at >= pd.Timestamp(self.start))
        taken = int(self.orders.loc[inside_window, "total_minor"].sum())
        return replace(self, orders=self.orders[~gone], true_minor=self.true_minor + taken)

    def at(self, start: datetime, hours: int = 6, recovery: int = 18) -> Shop:
        restored = start + timedelta(hours=hours)
        return replace(self, start=start, restored=restored, until=restored + timedelta(hours=recovery))

    def since(self, days: int) -> Shop:
        return replace(
            self,
            orders=self.orders[self.orders["ordered_at"] >= pd.Timestamp(self.start - timedelta(days=days))],
        )


def shop(first: str = "2025-11-01", last: str = "2026-05-25", per_hour: float = 6.0, seed: int = 1) -> Shop:
    random = np.random.default_rng(seed)
    hours = pd.date_range(first, last, freq="h", tz="Europe/London")
    rate = np.where((hours.hour >= 7) & (hours.hour < 21), per_hour, 0.0) * np.where(
        hours.day_of_week == 6, 0.6, 1.0
    )
    count = random.poisson(rate)
    at = hours.repeat(count).tz_convert("UTC") + pd.to_timedelta(random.integers(0, 3_600, count.sum()), "s")
    total = np.rint(np.exp(random.normal(8.0, 0.6, count.sum()))).astype("int64")
    orders = pd.DataFrame({"ordered_at": at, "total_minor": total}).sort_values(
        "ordered_at", ignore_index=True
    )
    campaigns = orders.assign(campaign_id=pd.array([pd.NA] * len(orders), "Int64"), subscriber_id=pd.NA)
    return Shop(campaigns.astype({"subscriber_id": "Int64", "ordered_at": "datetime64[us, UTC]"}))


def with_orders(one: Shop, *rows: tuple[datetime, int]) -> Shop:
    more = pd.DataFrame(rows, columns=["ordered_at", "total_minor"]).astype(
        {"ordered_at": "datetime64[us, UTC]", "total_minor": "int64"}
    )
    together = pd.concat([one.orders, more.assign(campaign_id=pd.NA, subscriber_id=pd.NA)], ignore_index=True)
    return replace(one, orders=together.astype({"campaign_id": "Int64", "subscriber_id": "Int64"}))


def without(one: Shop, start: datetime, days: int) -> Shop:
    at = one.orders["ordered_at"]
    gap = (at >= pd.Timestamp(start)) & (at < pd.Timestamp(start + timedelta(days=days)))
    return replace(one, orders=one.orders[~gap])


def new_channel(one: Shop) -> Shop:
    """E-mail orders that are tagged only since three weeks, one mailing a day; the one of today is never sent."""
    random = np.random.default_rng(3)
    days = [one.start + timedelta(hours=1) - timedelta(days=day) for day in range(22)]
    mailings = pd.DataFrame(
        {"at": pd.to_datetime(days, utc=True), "kind": "newsletter", "campaign_id": range(22)}
    )
    mailings["messages"] = 400
    rows = [
        (day + timedelta(hours=float(random.exponential(2.0))), int(random.lognormal(8.0, 0.6)), number)
        for number, day in enumerate(days)
        for _ in range(12)
    ]
    tagged = pd.DataFrame(rows, columns=["ordered_at", "total_minor", "campaign_id"]).assign(subscriber_id=1)
    tagged["ordered_at"] = tagged["ordered_at"].astype("datetime64[us, UTC]")
    together = pd.concat([one.orders, tagged[tagged["campaign_id"] > 0]], ignore_index=True)
    return replace(
        one,
        orders=together.astype({"campaign_id": "Int64"}),
        sends=mailings[1:].rename(columns={"at": "sent_at"}),
        planned=mailings[:1].rename(columns={"at": "planned_at"}),
        true_minor=int(tagged.loc[tagged["campaign_id"] == 0, "total_minor"].sum()),
    )


SPRING, AUTUMN = datetime(2026, 3, 28, 18, 0, tzinfo=UTC), datetime(2025, 10, 25, 18, 0, tzinfo=UTC)
DAY = timedelta(days=1)
BASE = shop()

REFUSED: dict[str, tuple[Callable[[], Shop], str]] = {
    "two weeks only": (lambda: BASE.since(14), "13 days of orders before the outage; an estimate needs 28"),
    "no order at all": (
        lambda: replace(BASE, orders=BASE.orders.iloc[:0]),
        "0 days of orders before the outage",
    ),
    "all zeros": (
        lambda: replace(BASE, orders=BASE.orders.assign(total_minor=0)),
        "No order before the outage has a value",
    ),
    "two weeks, and one order that a wrong clock put a year back": (
        lambda: with_orders(BASE.since(14), (START - 365 * DAY, 5_000)),
        "13 days of orders before the outage",
    ),
    "an outage as long as half of the history": (
        lambda: replace(BASE.since(50), until=START + 26 * DAY, restored=START + 25 * DAY),
        "past windows of 624 hours",
    ),
}

ERRORS: dict[str, tuple[Callable[[], Shop], str]] = {
    "negative revenue": (lambda: with_orders(BASE, (START - DAY, -9_900)), "1 order with a total below zero"),
    "data that end before the impact": (
        lambda: replace(BASE, until=START - DAY),
        "The data reach to 2026-05-19 11:00 UTC, less than an hour after the impact began",
    ),
}

ANSWERED: dict[str, tuple[Callable[[], Shop], str]] = {
    "six hours, four fifths lost": (lambda: BASE.hit(0.8), ""),
    "nothing lost": (lambda: BASE, ""),
    "one giant order a week before, at the same hour": (
        lambda: with_orders(BASE.hit(0.8), (START - 7 * DAY, 40_000_000)),
        "1 order before the outage larger than a usual day",
    ),
    "ten days without data a month before": (
        lambda: without(BASE.hit(0.8), START - 40 * DAY, 10),
        "On 9 days before the outage nothing was ordered",
    ),
    "three days without data just before": (
        lambda: without(BASE.hit(0.8), START - 4 * DAY, 3),
        "before the outage nothing was ordered",
    ),
    "summer time begins inside the window": (lambda: BASE.at(SPRING, 16, 24).hit(0.8), ""),
    "summer time ends inside the window": (
        lambda: shop("2025-05-01", "2025-11-10").at(AUTUMN, 16, 24).hit(0.8),
        "",
    ),
    "the outage is still open": (
        lambda: replace(BASE, restored=START + timedelta(hours=9), until=START + timedelta(hours=9)).hit(0.8),
        "",
    ),
    "an earlier incident in the week before": (
        lambda: replace(
            BASE.hit(1.0, START - 7 * DAY, START - 6 * DAY).hit(0.8),
            disturbed=((START - 7 * DAY, START - 6 * DAY),),
        ),
        "",
    ),
    "another incident inside the window": (
        lambda: replace(BASE.hit(0.8), disturbed=((START + timedelta(hours=3), START + timedelta(hours=9)),)),
        "Another incident (2026-05-20 14:00 to 2026-05-20 20:00 UTC) overlaps this window",
    ),
    "orders that a wrong clock dated into the future and into 1970": (
        lambda: with_orders(
            BASE.hit(0.8), (START + 40 * DAY, 900_000), (datetime(1970, 1, 1, tzinfo=UTC), 900_000)
        ),
        "",
    ),
    "hours in which nothing sells": (
        lambda: BASE.at(datetime(2026, 5, 20, 22, 0, tzinfo=UTC), 3, 3).hit(0.8),
        "",
    ),
    "ten minutes at night": (
        lambda: replace(
            BASE.at(datetime(2026, 5, 20, 1, 0, tzinfo=UTC), 1, 3),
            restored=datetime(2026, 5, 20, 1, 10, tzinfo=UTC),
        ),
        "",
    ),
    "a channel that is three weeks old": (lambda: new_channel(BASE), ""),
    "revenue that faded for six hours before the recorded start": (
        lambda: BASE.hit(0.9, START - timedelta(hours=4), START).hit(0.8),
        "the impact may have begun earlier",
    ),
    "a public holiday": (lambda: BASE.at(datetime(2026, 5, 4, 9, 0, tzinfo=UTC)).hit(0.8), ""),
    "a shop that grew threefold in a month": (
        lambda: replace(
            BASE,
            orders=pd.concat(
                [
                    BASE.orders,
                    *(
                        (lambda extra: extra[extra["ordered_at"] > pd.Timestamp(START - 30 * DAY)])(
                            shop(seed=9 + k).orders
                        )
                        for k in range(2)
                    ),
                ],
                ignore_index=True,
            ),
        ).hit(0.8),
        "",
    ),
    "an order every other hour": (
        lambda: (lambda rare: rare.hit(0.8))(shop(per_hour=0.5)),
        "",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_history_that_cannot_carry_an_estimate_is_refused_with_the_reason(name):
    make, why = REFUSED[name]
    found = make().measure()
    assert found.net is None
    assert why in found.refused


@pytest.mark.parametrize("name", ERRORS)
def test_input_that_contradicts_itself_is_an_error_that_says_what_to_do(name):
    make, why = ERRORS[name]
    with pytest.raises(ImpactError) as caught:
        make().measure()
    assert why in caught.value.what
    assert caught.value.fix


@pytest.mark.parametrize("name", ANSWERED)
def test_the_interval_holds_the_truth_and_the_reservation_is_said(name):
    make, caution = ANSWERED[name]
    one = make()
    found = one.measure()
    assert found.net is not None, found.refused
    low, high = found.net.estimate.interval(0.95).low_minor, found.net.estimate.interval(0.95).high_minor
    assert low <= one.true_minor <= high
    said = [text for text in found.cautions if not text.startswith(("A second opinion", "Counted"))]
    assert any(caution in text for text in said) if caution else said == []
