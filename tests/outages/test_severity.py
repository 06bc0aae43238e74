"""Severity from the send calendar: the same fault weighs what is due, and more as a deadline nears."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.outages import DueSend, Usual, severity_of

TUESDAY_NIGHT = datetime(2011, 11, 15, 3, 0, tzinfo=UTC)
SALE_MORNING = datetime(2011, 11, 25, 9, 0, tzinfo=UTC)
USUAL = Usual(audience=4_000, daily_revenue_minor=2_500_000)


def newsletter(due_at: datetime) -> DueSend:
    return DueSend(1, "Weekly news", "newsletter", due_at, 3_900, due_at + timedelta(days=2), 400_000)


def sale() -> DueSend:
    return DueSend(
        2, "One-day sale", "sale", SALE_MORNING, 3_900, SALE_MORNING + timedelta(hours=10), 3_000_000
    )


def test_the_same_fault_differs_between_a_tuesday_night_and_the_morning_of_a_sale() -> None:
    week = [newsletter(TUESDAY_NIGHT + timedelta(days=1, hours=5)), sale()]
    night = severity_of(week, TUESDAY_NIGHT, usual=USUAL)
    morning = severity_of([sale()], SALE_MORNING, usual=USUAL)
    assert (night.level, night.recipients) == (5, 0)
    assert (morning.level, morning.recipients, morning.time_critical) == (2, 3_900, 1)


def test_severity_rises_as_the_deadline_of_a_sale_nears() -> None:
    levels = [
        severity_of([sale()], SALE_MORNING + timedelta(hours=hours), usual=USUAL).level for hours in range(12)
    ]
    assert levels == sorted(levels, reverse=True)
    assert (levels[0], levels[-1]) == (2, 1)


def test_a_newsletter_that_stays_useful_is_worse_than_nothing_and_better_than_a_sale() -> None:
    level = severity_of([newsletter(SALE_MORNING)], SALE_MORNING, usual=USUAL).level
    assert severity_of([sale()], SALE_MORNING, usual=USUAL).level < level < 5


def test_opt_outs_that_are_not_accepted_are_at_least_sev_3_even_when_nothing_is_due() -> None:
    found = severity_of([], TUESDAY_NIGHT, usual=USUAL, consent_failing=True)
    assert found.level == 3
    assert found.reasons == ("opt-outs are not accepted",)


def test_a_calendar_that_could_not_be_read_is_taken_as_bad() -> None:
    found = severity_of(None, TUESDAY_NIGHT, usual=USUAL)
    assert found.level == 2
    assert "could not be read" in found.reasons[0]


def test_every_level_but_the_lowest_says_why() -> None:
    found = severity_of([sale()], SALE_MORNING, usual=USUAL)
    assert found.reasons == (
        "3,900 messages due by 14:00 UTC, the likely restore",
        "'One-day sale' is useless after 2011-11-25 19:00 UTC",
        "120 % of a usual day's revenue hangs on it",
    )


def test_a_send_survives_the_journal() -> None:
    assert DueSend.from_dict(sale().to_dict()) == sale()


MOMENTS = st.integers(-600, 2_000).map(lambda minutes: SALE_MORNING + timedelta(minutes=minutes))
SENDS = st.builds(
    DueSend,
    campaign_id=st.integers(1, 9),
    name=st.just("A campaign"),
    kind=st.sampled_from(["newsletter", "sale", "launch", "transactional"]),
    due_at=MOMENTS,
    recipients=st.integers(0, 5_000),
    latest_useful_at=st.none() | MOMENTS,
    value_minor=st.integers(0, 4_000_000),
)
CALENDARS = st.lists(SENDS, max_size=6)


@given(CALENDARS, MOMENTS, st.integers(0, 2_000), st.booleans())
def test_severity_never_falls_as_time_passes_over_the_same_unfinished_sends(
    calendar: list[DueSend], now: datetime, minutes: int, consent: bool
) -> None:
    before = severity_of(calendar, now, usual=USUAL, consent_failing=consent)
    after = severity_of(calendar, now + timedelta(minutes=minutes), usual=USUAL, consent_failing=consent)
    assert after.level <= before.level


@given(CALENDARS, SENDS, MOMENTS)
def test_one_more_send_never_lowers_severity(calendar: list[DueSend], more: DueSend, now: datetime) -> None:
    assert (
        severity_of([*calendar, more], now, usual=USUAL).level
        <= severity_of(calendar, now, usual=USUAL).level
    )


@given(CALENDARS, MOMENTS)
def test_failing_opt_outs_never_lower_severity(calendar: list[DueSend], now: datetime) -> None:
    failing = severity_of(calendar, now, usual=USUAL, consent_failing=True)
    assert failing.level <= min(3, severity_of(calendar, now, usual=USUAL).level)


@pytest.mark.slow
@settings(max_examples=20_000)
@given(CALENDARS, SENDS, MOMENTS, st.integers(0, 2_000))
def test_severity_is_monotone_in_thousands_of_calendars(
    calendar: list[DueSend], more: DueSend, now: datetime, minutes: int
) -> None:
    base = severity_of(calendar, now, usual=USUAL).level
    assert severity_of(calendar, now + timedelta(minutes=minutes), usual=USUAL).level <= base
    assert severity_of([*calendar, more], now, usual=USUAL).level <= base
