"""The generated response to a send: deterministic, and different only by lateness."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.impact import RESPONSE_PROFILES, ImpactError, respond_to_send, still_interested

PLANNED = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
IDS = np.arange(12_346, 17_346)


def orders(table):
    return {row["subscriber_id"]: row for row in table.to_pylist()}


def test_the_same_question_gets_the_same_answer_in_any_order_and_split():
    whole = orders(respond_to_send(7, 31, "newsletter", IDS, PLANNED, PLANNED))
    backwards = orders(respond_to_send(7, 31, "newsletter", IDS[::-1], PLANNED, PLANNED))
    halves = orders(respond_to_send(7, 31, "newsletter", IDS[:2000], PLANNED, PLANNED))
    halves |= orders(respond_to_send(7, 31, "newsletter", IDS[2000:], PLANNED, PLANNED))
    assert whole == backwards == halves
    assert whole


def test_another_seed_campaign_or_subscriber_is_another_draw():
    one = set(orders(respond_to_send(7, 31, "newsletter", IDS, PLANNED, PLANNED)))
    other_campaign = set(orders(respond_to_send(7, 32, "newsletter", IDS, PLANNED, PLANNED)))
    other_seed = set(orders(respond_to_send(8, 31, "newsletter", IDS, PLANNED, PLANNED)))
    assert len(one & other_campaign) < 0.2 * len(one)
    assert len(one & other_seed) < 0.2 * len(one)


@given(late=st.floats(0, 200), kind=st.sampled_from(["newsletter", "launch", "sale", "winback"]))
def test_late_buyers_are_a_subset_of_the_punctual_ones_with_the_same_baskets(late, kind):
    punctual = orders(respond_to_send(3, 5, kind, IDS, PLANNED, PLANNED))
    later = orders(respond_to_send(3, 5, kind, IDS, PLANNED + timedelta(hours=late), PLANNED))
    assert set(later) <= set(punctual)
    assert all(row["value_minor"] == punctual[one]["value_minor"] for one, row in later.items())
    assert all(row["ordered_at"] >= PLANNED + timedelta(hours=late) for row in later.values())


def test_a_sale_message_that_comes_the_next_day_sells_nothing():
    late = respond_to_send(3, 5, "sale", IDS, PLANNED + timedelta(hours=24), PLANNED)
    assert late.num_rows == 0
    assert still_interested("sale", [0, 6, 24]).tolist() == [1.0, 0.5, 0.0]


@pytest.mark.parametrize("kind", ["newsletter", "launch", "sale", "winback"])
def test_response_is_as_large_as_its_profile_says(kind):
    total = sum(
        int(np.sum(respond_to_send(1, campaign, kind, IDS, PLANNED, PLANNED)["value_minor"].to_numpy()))
        for campaign in range(60)
    )
    profile = RESPONSE_PROFILES[kind]
    mean = profile.probability * profile.basket_median_minor * np.exp(profile.basket_sigma**2 / 2)
    assert total == pytest.approx(60 * len(IDS) * mean, rel=0.08)


def test_nobody_is_booked_on_a_saturday_or_at_night():
    friday_evening = datetime(2011, 11, 18, 17, 30, tzinfo=UTC)
    booked = respond_to_send(1, 9, "launch", IDS, friday_evening, friday_evening)["ordered_at"].to_pylist()
    assert {moment.weekday() for moment in booked} <= {4, 6, 0}
    assert all(8 <= moment.hour < 18 for moment in booked)


def test_each_subscriber_may_have_their_own_send_time():
    sent = np.datetime64("2011-11-16T08:00", "us") + np.arange(len(IDS)) * np.timedelta64(1, "s")
    each = orders(respond_to_send(7, 31, "sale", IDS, sent, PLANNED))
    together = orders(respond_to_send(7, 31, "sale", IDS, PLANNED, PLANNED))
    assert set(each) <= set(together)
    assert len(each) > 0.8 * len(together)


def test_an_unknown_kind_brings_nothing():
    assert respond_to_send(7, 31, "transactional", IDS, PLANNED, PLANNED).num_rows == 0


def test_a_time_without_a_zone_is_refused():
    with pytest.raises(ImpactError, match="time zone"):
        respond_to_send(7, 31, "sale", IDS, PLANNED.replace(tzinfo=None), PLANNED)


def test_times_that_do_not_fit_the_subscribers_are_refused():
    with pytest.raises(ImpactError, match="one per subscriber"):
        respond_to_send(7, 31, "sale", IDS, np.zeros(3, dtype="datetime64[us]"), PLANNED)
