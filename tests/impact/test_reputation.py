"""Alarm, look and limit: three answers that must not be confused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.impact import check_reputation
from tasks.impact.reputation import beta_binomial_tail, fit_beta

USUAL = pd.DataFrame(
    {
        "messages": [4000] * 8,
        "bounce": [20, 25, 18, 30, 22, 19, 27, 24],
        "complaint": [1] * 8,
        "unsubscribe": [8] * 8,
    }
)


def checked(**counts):
    late = {"messages": 4000, "bounce": 22, "complaint": 1, "unsubscribe": 8} | counts
    return {one.metric: one for one in check_reputation(late, USUAL)}


def test_a_usual_catch_up_raises_nothing():
    assert not any(one.alarm or one.look or one.limit != "none" for one in checked().values())


def test_ten_times_the_usual_bounces_raise_the_alarm_and_the_watch_limit():
    one = checked(bounce=230)["bounce"]
    assert one.alarm and one.look and one.limit == "watch"
    assert one.rate == pytest.approx(0.0575)


def test_a_complaint_rate_that_google_never_tolerates_is_a_breach_whatever_was_usual():
    noisy = USUAL.assign(complaint=[15] * 8)
    late = {"messages": 4000, "bounce": 22, "complaint": 14, "unsubscribe": 8}
    one = {check.metric: check for check in check_reputation(late, noisy)}["complaint"]
    assert one.limit == "breach"
    assert not one.alarm


def test_campaigns_that_differ_a_lot_make_a_high_count_worth_a_look_and_no_alarm():
    spread = USUAL.assign(bounce=[5, 60, 10, 50, 8, 45, 12, 55])
    one = {
        c.metric: c
        for c in check_reputation({"messages": 4000, "bounce": 55, "complaint": 1, "unsubscribe": 8}, spread)
    }["bounce"]
    assert one.look
    assert not one.alarm


def test_nothing_sent_is_no_reputation_to_judge():
    assert all(
        one.rate == 0 and not one.alarm
        for one in checked(messages=0, bounce=0, complaint=0, unsubscribe=0).values()
    )


@given(st.integers(0, 60), st.integers(1, 60), st.floats(0.2, 50), st.floats(0.2, 500))
def test_the_tail_is_a_probability_and_falls(count, messages, a, b):
    tail = beta_binomial_tail(count, messages, a, b)
    assert 0 <= tail <= 1
    assert beta_binomial_tail(count + 1, messages, a, b) <= tail + 1e-12


def test_the_tail_equals_the_sum_of_the_definition():
    def mass(k, n, a, b):
        log = lambda x, y: math.lgamma(x) + math.lgamma(y) - math.lgamma(x + y)  # noqa: E731
        return math.comb(n, k) * math.exp(log(k + a, n - k + b) - log(a, b))

    exact = sum(mass(k, 50, 2.0, 30.0) for k in range(7, 51))
    assert beta_binomial_tail(7, 50, 2.0, 30.0) == pytest.approx(exact)


def test_quiet_campaigns_raise_the_alarm_about_as_seldom_as_it_says():
    random = np.random.default_rng(5)
    alarms = 0
    for _ in range(400):
        rates = random.beta(40, 8000, size=13)
        counts = random.binomial(4000, rates)
        a, b = fit_beta([4000] * 12, counts[:12].tolist())
        alarms += beta_binomial_tail(int(counts[12]), 4000, a, b) < 0.01
    assert alarms <= 20  # nominal 1 %; the reference found 1 to 12 % on real data, z-tests 22 to 46 %
