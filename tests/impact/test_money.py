"""Net, deferred and the loss during the outage on a simulated world, and the refusal."""

from __future__ import annotations

from datetime import timedelta

import pandas as pd
import pytest

from tasks.impact import Calendar, measure_money


@pytest.fixture(scope="module")
def world(simulate):
    return next(one for seed in range(300, 400) if (one := simulate(seed)).true_deferred_minor > 1_000_000)


def measured(world, orders=None, fate="delayed"):
    late = world.catch_up[["campaign_id", "subscriber_id"]].drop_duplicates()
    orders = world.orders if orders is None else orders
    return measure_money(
        orders.assign(campaign_id=orders["campaign_id"].astype("Int64")),
        world.sends,
        world.planned,
        late.assign(fate=fate),
        impact_started_at=world.impact_started_at,
        restored_at=world.restored_at,
        until=world.impact_started_at + timedelta(hours=world.net_hours),
        currency="GBP",
        calendar=Calendar("Europe/London", "GB"),
    )


def test_deferred_is_counted_bottom_up_and_exact(world):
    assert measured(world).deferred_minor == world.true_deferred_minor


@pytest.mark.parametrize("fate", ["on_time", "unknown", "not_due"])
def test_only_a_late_message_defers_an_order(world, fate):
    assert measured(world, fate=fate).deferred_minor == 0


def test_attribution_claims_nothing_of_messages_that_came_in_time(world):
    assert measured(world, fate="on_time").attributed_minor == 0
    assert measured(world).attributed_minor != 0


def test_net_and_the_outage_alone_are_separate_statistics_of_their_own_windows(world):
    found = measured(world)
    assert (found.net.estimate.hours, found.during.estimate.hours) == (world.net_hours, world.gross_hours)
    assert found.net.estimate.statistic == "net"
    assert found.unaided.estimate.control == "none"


def test_too_short_a_history_leaves_the_money_open_and_says_why(world):
    recent = world.orders[
        world.orders["ordered_at"] > pd.Timestamp(world.impact_started_at - timedelta(days=10))
    ]
    found = measured(world, recent)
    assert found.net is None
    assert "days of orders" in found.refused
    assert found.deferred_minor == world.true_deferred_minor
