"""The shop's own track record, and the second opinion: what each says and when it says nothing."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from tasks.impact import Calendar, Counterfactual, ShopHistory, second_opinion, track_record

START = pd.Timestamp("2026-05-20 11:00", tz="UTC")
NOTHING = pd.DataFrame(columns=["sent_at", "planned_at", "kind", "campaign_id", "messages"])


@pytest.fixture(scope="module")
def shop():
    random = np.random.default_rng(1)
    hours = pd.date_range("2025-11-01", "2026-05-22", freq="h", tz="UTC")
    count = random.poisson(np.where((hours.hour >= 7) & (hours.hour < 21), 6.0, 0.0))
    orders = pd.DataFrame(
        {"ordered_at": hours.repeat(count), "total_minor": random.integers(500, 9_000, count.sum())}
    )
    return Counterfactual(ShopHistory(orders, NOTHING, NOTHING, START.to_pydatetime(), 24, Calendar()))


@pytest.fixture(scope="module")
def forecast(shop):
    return shop.forecast("net", 24)


def test_a_shop_that_goes_on_as_it_was_is_covered_as_promised_and_warns_of_nothing(forecast):
    record = track_record(forecast)
    assert record.windows > 100
    assert {one.level for one in record.coverage} == {0.5, 0.8, 0.95}
    assert all(abs(one.share - one.level) < 0.1 for one in record.coverage)
    assert record.false_claims <= 0.05 * record.windows
    assert abs(record.bias) < 0.02
    assert record.warning == ""


def test_errors_that_grow_are_not_covered_and_the_record_says_so(forecast):
    wild = forecast.placebos.copy()
    wild["score"] *= np.linspace(1, 12, len(wild)) ** 1.5
    wild["observed_minor"] = wild["expected_minor"] + wild["score"] * wild["scale_minor"]
    record = track_record(replace(forecast, placebos=wild))
    assert record.coverage[-1].share < 0.9
    assert "narrower than they claim" in record.warning


def test_too_few_windows_have_no_record(forecast):
    assert track_record(replace(forecast, placebos=forecast.placebos.tail(25))) is None


@pytest.mark.parametrize("hours", [5, 6, 24])
def test_the_second_opinion_agrees_where_nothing_happened(shop, hours):
    pytest.importorskip("statsmodels", reason="the extra second-opinion is not installed")
    opinion = second_opinion(shop, hours)
    low, high = opinion.intervals[-1].low_minor, opinion.intervals[-1].high_minor
    assert low <= 0 <= high
    assert opinion.expected_minor == pytest.approx(
        shop.forecast("net", hours).estimate.expected_minor, rel=0.15
    )
    assert 0.7 < opinion.stretched < 1.5
    assert opinion.placebos >= 39
