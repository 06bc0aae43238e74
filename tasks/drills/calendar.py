"""Who would be mailed what and when: the generated lists, campaign calendar and opt-outs of a world (pure).

Online Retail has no campaigns. The calendar is that of a shop of its size: a weekly newsletter, a launch every four
weeks, a one-day sale every six, a win-back batch twice a week.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

import numpy as np

from tasks.drills.draws import Ids, one, uniform

NEWSLETTER, NEW_ARRIVALS, SALE_ALERTS = 1, 2, 3
LIST_NAMES = {NEWSLETTER: "Newsletter", NEW_ARRIVALS: "New arrivals", SALE_ALERTS: "Sale alerts"}
FIRST_WINBACK_LIST = 4
SIGN_UPS_AT = time(1, 0)
"""The shop hands new customers to the ESP once a night."""

_SHARES = {NEWSLETTER: 0.80, NEW_ARRIVALS: 0.30, SALE_ALERTS: 0.65}
_WINBACK_SHARE = 0.07
_FIRST_DAY, _LAST_DAY = date(2011, 9, 13), date(2011, 11, 24)
_TUESDAY, _THURSDAY = 1, 3
_QUIET = (((8, 35), (8, 58)), ((9, 20), (9, 58)), ((10, 30), (10, 58)), ((11, 10), (13, 0)))
"""When nobody's message would be going out on the outage day: an opt-out then is either before or after each."""


@dataclass(frozen=True)
class PlannedCampaign:
    """One campaign of the calendar.

    Attributes:
        id: its id at the ESP; numbered in the order of `send_at`.
        kind: `newsletter`, `launch`, `sale` or `winback`.
        list_id: the list it goes to.
        latest_useful_at: after it the message must not go out; None where the plan's rule decides.
    """

    id: int
    kind: str
    name: str
    subject: str
    send_at: datetime
    list_id: int
    latest_useful_at: datetime | None


@dataclass(frozen=True)
class OptOut:
    """Somebody uses the shop's own unsubscribe link."""

    customer_id: int
    at: datetime


def outage_day(seed: int) -> date:
    """Return the day of the outage: a Tuesday, Wednesday or Thursday in autumn 2011."""
    days = (_FIRST_DAY + timedelta(days=n) for n in range((_LAST_DAY - _FIRST_DAY).days + 1))
    fit = [day for day in days if _TUESDAY <= day.weekday() <= _THURSDAY]
    return fit[int(one(seed, "outage day") * len(fit))]


def campaign_calendar(day: date, weeks: int) -> list[PlannedCampaign]:
    """Return the campaigns from `weeks` weeks before the outage day to two days after it."""
    plans: list[tuple[datetime, str, datetime | None]] = []
    for week in range(weeks + 1):
        when = day - timedelta(weeks=week)
        plans.append((_at(when, 8), "newsletter", None))
        if week % 4 == 0:
            plans.append((_at(when, 9), "launch", _at(when, 11, 30)))
        if week % 6 == 0:
            plans.append((_at(when, 10), "sale", _at(when, 20)))
        plans.append((_at(when, 11), "winback", None))
        plans.append((_at(when - timedelta(days=1), 11), "winback", None))
    plans.append((_at(day + timedelta(days=2), 11), "winback", None))
    plans.sort(key=lambda item: item[0])
    calendar, winbacks = [], 0
    for number, (send_at, kind, useful) in enumerate(plans, start=1):
        if kind == "winback":
            list_id = FIRST_WINBACK_LIST + winbacks
            winbacks += 1
        else:
            list_id = {"newsletter": NEWSLETTER, "launch": NEW_ARRIVALS, "sale": SALE_ALERTS}[kind]
        title = _TITLES[kind]
        name = f"{title} {send_at:%Y-%m-%d}"
        calendar.append(
            PlannedCampaign(number, kind, name, f"{title}, {send_at:%d %B}", send_at, list_id, useful)
        )
    return calendar


def list_members(seed: int, list_id: int, customer_ids: Ids) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Return which customers are on a list when they join (a win-back list takes newsletter readers only)."""
    if list_id in _SHARES:
        return uniform(seed, "list", list_id, customer_ids) < _SHARES[list_id]
    chosen = uniform(seed, "winback list", list_id, customer_ids) < _WINBACK_SHARE
    return chosen & list_members(seed, NEWSLETTER, customer_ids)


def joins_at(created_at: datetime) -> datetime:
    """Return when a customer created at `created_at` is handed to the ESP: the next nightly sign-up."""
    tonight = datetime.combine(created_at.date(), SIGN_UPS_AT, UTC)
    return tonight if tonight > created_at else tonight + timedelta(days=1)


def opt_outs(seed: int, day: date, customer_ids: Ids, during: int) -> list[OptOut]:
    """Return the opt-outs of the live days: some before, `during` inside the outage, a few after, all different people.

    Args:
        seed: the world's seed.
        day: the outage day.
        customer_ids: whom to draw from: those on the newsletter and on the sale list.
        during: how many fall into the outage.
    """
    order = np.argsort(uniform(seed, "opt-out", 0, customer_ids))
    people = [int(one) for one in np.asarray(customer_ids)[order]]
    before, after = max(1, during // 4), max(1, during // 6)
    found = []
    for place, person in enumerate(people[: before + during + after]):
        lot = one(seed, "opt-out time", place, person)
        if place < before:
            at = _at(day - timedelta(days=1), 14) + timedelta(seconds=int(lot * 4 * 3600))
        elif place < before + during:
            low, high = _QUIET[(place - before) % len(_QUIET)]
            span = _at(day, *high) - _at(day, *low)
            at = _at(day, *low) + timedelta(seconds=int(lot * span.total_seconds()))
        else:
            at = _at(day, 18) + timedelta(seconds=int(lot * 2 * 3600))
        found.append(OptOut(person, at))
    return sorted(found, key=lambda item: (item.at, item.customer_id))


_TITLES = {
    "newsletter": "Newsletter",
    "launch": "New arrivals",
    "sale": "One-day sale",
    "winback": "We miss you",
}


def _at(day: date, hour: int, minute: int = 0) -> datetime:
    return datetime.combine(day, time(hour, minute), UTC)
