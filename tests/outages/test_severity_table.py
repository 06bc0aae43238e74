"""Twelve situations and how bad an outage is in each: the table to read before an argument about severity.

The shop mails 4,000 people and takes £25,000 on a usual day. SEV-1 is the worst, SEV-5 may wait for the morning. The
fault is the same in every row: the provider takes no mail. What differs is the send calendar, the clock, and consent.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.outages import DueSend, Restore, Usual, likely_restore, severity_of

HOURS = timedelta(hours=1)
SHOP = Usual(audience=4_000, daily_revenue_minor=2_500_000)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def sale(due: str, until: str, pounds: int = 30_000, people: int = 3_900) -> DueSend:
    return DueSend(1, "One-day sale", "sale", at(due), people, at(until), pounds * 100)


def newsletter(due: str, until: str = "2026-12-31", people: int = 3_900, pounds: int = 1_000) -> DueSend:
    return DueSend(2, "Weekly news", "newsletter", at(due), people, at(until), pounds * 100)


def receipts(due: str, people: int) -> DueSend:
    return DueSend(3, "Order confirmations", "transactional", at(due), people, None, 0)


SALE = sale("2026-11-27T09:00", "2026-11-27T19:00")


@dataclass(frozen=True)
class Situation:
    """One row.

    Attributes:
        what: the situation as a marketer would tell it.
        now: when it is judged (UTC).
        sends: what is not sent yet.
        level: the severity it must have.
        why: words that must stand among its reasons.
        began: when the outage began; `now` if left out.
        past: how long the provider's earlier outages took, in hours.
        consent_since: since when an opt-out waits to be accepted.
        calendar_known: whether the provider could be asked what is due.
    """

    what: str
    now: str
    sends: tuple[DueSend, ...]
    level: int
    why: str
    began: str = ""
    past: tuple[float, ...] = ()
    consent_since: str = ""
    calendar_known: bool = True


TABLE = [
    Situation("Tuesday, 03:00: nothing is due before the weekend's sale", "2026-11-24T03:00", (SALE,), 5, ""),
    Situation(
        "the same fault at 09:00 on the day of the sale", "2026-11-27T09:00", (SALE,), 2, "useless after"
    ),
    Situation("18:10, the sale ends within the hour", "2026-11-27T18:10", (SALE,), 1, "19:00 UTC"),
    Situation(
        "the morning of the sale, at a provider whose outages take twenty minutes",
        "2026-11-27T08:30",
        (SALE,),
        5,
        "",
        past=(0.3, 0.3, 0.3, 0.3, 0.4),
    ),
    Situation(
        "the same morning, at a provider whose outages take a day",
        "2026-11-27T08:30",
        (SALE,),
        1,
        "3,900 messages due by 2026-11-28 08:30 UTC",
        past=(20, 22, 24, 24, 24),
    ),
    Situation(
        "a newsletter that stays useful for days, this morning",
        "2026-11-25T09:00",
        (newsletter("2026-11-25T09:30"),),
        3,
        "'Weekly news' is useless after 2026-12-31",
    ),
    Situation(
        "a small win-back mailing to 200 people",
        "2026-11-25T09:00",
        (newsletter("2026-11-25T09:30", people=200, pounds=50),),
        4,
        "200 messages due",
    ),
    Situation(
        "the same newsletter after the outage has lasted ten hours, and its news is stale by tonight",
        "2026-11-25T19:00",
        (newsletter("2026-11-25T09:30", until="2026-11-25T23:00"),),
        2,
        "'Weekly news' is useless after 2026-11-25 23:00 UTC",
        began="2026-11-25T09:00",
    ),
    Situation(
        "order confirmations do not go out, and no campaign is due",
        "2026-11-25T09:00",
        (receipts("2026-11-25T09:00", 300),),
        3,
        "300 messages that people asked for",
    ),
    Situation(
        "Tuesday, 03:00, and people who opt out are not heard",
        "2026-11-24T03:00",
        (SALE,),
        3,
        "must be honoured by 2026-11-26 02:30 UTC",
        consent_since="2026-11-24T02:30",
    ),
    Situation(
        "the same, and the first opt-out has waited for 45 hours",
        "2026-11-26T00:00",
        (SALE,),
        1,
        "must be honoured by 2026-11-26 03:00 UTC",
        consent_since="2026-11-24T03:00",
    ),
    Situation(
        "the provider was dead before anybody could ask it what is due",
        "2026-11-24T03:00",
        (),
        2,
        "could not be read",
        calendar_known=False,
    ),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda row: row.what)
def test_how_bad_is_it(row: Situation) -> None:
    now = at(row.now)
    found = severity_of(
        row.sends if row.calendar_known else None,
        now,
        usual=SHOP,
        consent_failing=bool(row.consent_since),
        consent_waits_since=at(row.consent_since) if row.consent_since else None,
        restore=likely_restore(at(row.began or row.now), now, [one * HOURS for one in row.past]),
    )
    assert found.level == row.level, found.reasons
    assert row.why in "; ".join(found.reasons)
    assert bool(found.reasons) == (row.level < 5)


def test_the_table_has_its_twelve_rows_and_every_level() -> None:
    assert len(TABLE) == 12
    assert {row.level for row in TABLE} == {1, 2, 3, 4, 5}


def test_severity_rises_hour_by_hour_as_an_outage_eats_the_day_of_a_sale() -> None:
    levels = [
        severity_of(
            [SALE],
            at("2026-11-27T05:00") + n * HOURS,
            usual=SHOP,
            restore=likely_restore(at("2026-11-27T03:00"), at("2026-11-27T05:00") + n * HOURS),
        ).level
        for n in range(15)
    ]
    assert levels == sorted(levels, reverse=True)
    assert (levels[0], levels[-1]) == (5, 1)


# When is it likely to be over? ----------------------------------------------------------------------------------------

BEGAN = at("2026-11-24T03:00")


@pytest.mark.parametrize(
    ("past", "lasted", "over_after", "basis"),
    [
        ((), 0, 5, "5 outages of this and other providers were over after 5 h"),
        ((1, 1, 1, 1, 1), 0, 1, "its 5 past outages were over after 1 h"),
        ((1, 2, 3, 4, 5, 6, 7, 8), 0, 6, "its 8 past outages were over after 6 h"),
        ((1, 2, 3, 4, 5, 6, 7, 8), 4, 7, "the 4 of its 8 past outages that lasted longer"),
        ((1, 2, 3, 4, 5, 6, 7, 8), 8, 16, "outlasted its 8 past outages"),
        ((9,), 5.5, 9, "the 2 of 6 outages of this and other providers that lasted longer"),
    ],
)
def test_the_likely_restore_comes_from_outages_that_lasted_as_long_as_this_one(
    past: tuple[float, ...], lasted: float, over_after: float, basis: str
) -> None:
    found = likely_restore(BEGAN, BEGAN + lasted * HOURS, [one * HOURS for one in past])
    assert found.at == BEGAN + over_after * HOURS
    assert basis in found.basis


SPANS = st.lists(st.integers(1, 10_000).map(lambda minutes: timedelta(minutes=minutes)), max_size=12)


@given(SPANS, st.integers(0, 20_000), st.integers(0, 20_000))
def test_the_likely_restore_lies_ahead_and_never_moves_back(
    past: list[timedelta], minutes: int, more: int
) -> None:
    now = BEGAN + timedelta(minutes=minutes)
    first: Restore = likely_restore(BEGAN, now, past)
    later = likely_restore(BEGAN, now + timedelta(minutes=more), past)
    assert now < first.at <= later.at
