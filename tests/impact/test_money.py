"""Gross, net and deferred on a simulated world, and the refusal."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
import pytest

from tasks.impact import Calendar, measure_money


@pytest.fixture(scope="module")
def world(simulate):
    return next(one for seed in range(300, 400) if (one := simulate(seed)).true_deferred_minor > 1_000_000)


def measured(world, orders=None):
    due = world.catch_up[["campaign_id", "subscriber_id"]].drop_duplicates()
    orders = world.orders if orders is None else orders
    return measure_money(
        orders.assign(campaign_id=orders["campaign_id"].astype("Int64")),
        world.sends,
        world.planned,
        due,
        impact_started_at=world.impact_started_at,
        restored_at=world.restored_at,
        until=world.impact_started_at + timedelta(hours=world.net_hours),
        currency="GBP",
        calendar=Calendar("Europe/London", "GB"),
    )


def test_deferred_is_counted_bottom_up_and_exact(world):
    assert measured(world).deferred_minor == world.true_deferred_minor


def test_net_and_gross_are_separate_statistics_of_their_own_windows(world):
    found = measured(world)
    assert (found.net.estimate.hours, found.gross.estimate.hours) == (world.net_hours, world.gross_hours)
    assert found.net.estimate.statistic == "net"
    assert found.unaided.estimate.control == "none"


def test_the_band_is_cumulative_and_ends_at_the_net_estimate(world):
    found = measured(world)
    last = found.band.iloc[-1]
    assert last["hours"] == world.net_hours
    assert last["expected_minor"] == found.net.estimate.expected_minor
    assert last["low_95"] - last["observed_minor"] == found.net.estimate.interval(0.95).low_minor
    assert found.band["observed_minor"].is_monotonic_increasing


def test_too_short_a_history_leaves_the_money_open_and_says_why(world):
    recent = world.orders[
        world.orders["ordered_at"] > pd.Timestamp(world.impact_started_at - timedelta(days=10))
    ]
    found = measured(world, recent)
    assert found.net is None
    assert "days of orders" in found.refused
    assert found.deferred_minor == world.true_deferred_minor
