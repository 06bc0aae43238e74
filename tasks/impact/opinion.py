"""A second opinion on a loss by another method: a structural time series, stretched until it fits the shop's past.

Local level and waves of the day and the week in state space (statsmodels), of the revenue alone: no control, no send
plan. One pass of the Kalman filter forecasts a window from every past moment, so that placebo windows say how far its
own intervals must be stretched: as they come, they are too narrow (bench/impact.py).
"""

from __future__ import annotations

import importlib.util
import math
import warnings
from dataclasses import dataclass

import numpy as np

from tasks.impact.counterfactual import LEVELS, Counterfactual, Floats, Interval

_STEPS = (24, 12, 8, 6, 4, 3, 2, 1)
_LEARN_DAYS = 182
_MOST_STEPS = 1_344
_LEAST_PLACEBOS = 39
_WAVES = {24 * 7: 12, 24: 4}


@dataclass(frozen=True)
class SecondOpinion:
    """The loss as the other method sees it, in minor units: shown beside the estimate, never mixed into it.

    Attributes:
        loss_minor: expected minus observed.
        intervals: one per level, on the loss.
        stretched: how many times as wide as its own the 95 % interval had to be made.
        placebos: past windows that said so.
    """

    expected_minor: int
    observed_minor: int
    loss_minor: int
    intervals: tuple[Interval, ...]
    stretched: float
    placebos: int


def second_opinion(shop: Counterfactual, hours: int) -> SecondOpinion | None:
    """Return the opinion on the first `hours` hours of the outage.

    None where statsmodels is not installed (the extra `second-opinion`) or fewer than 39 past windows could stretch it.
    """
    if importlib.util.find_spec("statsmodels") is None:
        return None
    step = next(one for one in _STEPS if hours % one == 0)
    length = hours // step
    revenue = shop.revenue()
    known = min(shop.past_hours // step, _LEARN_DAYS * 24 // step, _MOST_STEPS)
    past = revenue[shop.past_hours - known * step : shop.past_hours].reshape(known, step).sum(axis=1)
    size = float(past.std())
    every = 24 // step if step < 24 else 1
    starts = np.arange(known - every * math.ceil(length / every), known // 4, -every)
    if size <= 0 or len(starts) < _LEAST_PLACEBOS:
        return None
    waves = _waves(np.arange(known + length, dtype=np.float64) * step, step)
    state, spread, level, noise = _filtered(past / size, waves[:known])
    sums = np.concatenate([np.zeros((1, waves.shape[1])), np.cumsum(waves, axis=0)])
    weight = np.column_stack([np.full(known + 1, length), sums[length:] - sums[: known + 1]])
    chance = level * sum(k * k for k in range(1, length)) + length * noise
    mean = np.einsum("ij,ij->i", weight, state)
    deviation = np.sqrt(np.einsum("ij,ijk,ik->i", weight, spread, weight) + chance)
    earned = np.concatenate([[0.0], np.cumsum(past / size)])
    off = (earned[starts + length] - earned[starts] - mean[starts]) / deviation[starts]
    usual = float(off.mean())  # waves that are too smooth miss the same hours of the day again and again
    off = np.sort(np.abs(off - usual))
    expected = max((mean[known] + usual * deviation[known]) * size, 0.0)
    observed = round(revenue[shop.past_hours :][:hours].sum())
    intervals, factor = [], 0.0
    for one in LEVELS:
        factor = float(off[min(math.ceil(one * (len(off) + 1)), len(off)) - 1])
        half = factor * deviation[known] * size
        low, high = max(expected - half, 0.0), expected + half
        intervals.append(Interval(one, round(low) - observed, round(high) - observed))
    return SecondOpinion(
        expected_minor=round(expected),
        observed_minor=observed,
        loss_minor=round(expected) - observed,
        intervals=tuple(intervals),
        stretched=factor / 1.96,
        placebos=len(off),
    )


def _waves(hour: Floats, step: int) -> Floats:
    columns = []
    for period, count in _WAVES.items():
        for k in range(1, count + 1):
            if 2 * k * step < period and not (period == 24 * 7 and k % 7 == 0):
                columns += [np.sin(2 * np.pi * k * hour / period), np.cos(2 * np.pi * k * hour / period)]
    return np.column_stack(columns)


def _filtered(past: Floats, waves: Floats) -> tuple[Floats, Floats, float, float]:
    """Return the state expected at each step and its covariance, and the variances of level and noise."""
    from statsmodels.tsa.statespace.structural import UnobservedComponents

    model = UnobservedComponents(past, "local level", exog=waves, mle_regression=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of start values that it corrects
        found = model.fit(disp=False, maxiter=40)
    result = model.filter(found.params)
    noise, level = (float(one) for one in found.params[:2])
    return (
        np.asarray(result.predicted_state).T,
        np.moveaxis(np.asarray(result.predicted_state_cov), 2, 0),
        level,
        noise,
    )
