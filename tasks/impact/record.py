"""How often the interval was right on this shop's own past: each placebo window judged by the ones before it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from tasks.impact.counterfactual import (
    HOLIDAY_WIDENING,
    LEAST_WEIGHT,
    LEVELS,
    Forecast,
    conformal_bounds,
    placebo_weights,
)

_LEAST_WINDOWS = 20
_UNLIKELY = 0.01


@dataclass(frozen=True)
class Coverage:
    """How many of `windows` past windows an interval of `level` held."""

    level: float
    held: int
    windows: int

    @property
    def share(self) -> float:
        """Share of the windows inside, 0 to 1."""
        return self.held / self.windows


@dataclass(frozen=True)
class TrackRecord:
    """What the same method would have said of past windows in which nothing happened.

    Attributes:
        windows: past windows judged, each as long as the outage's and by what was known before it.
        coverage: one per level.
        false_claims: windows in which the 95 % interval would have claimed a loss where there was none.
        bias: expected minus observed over all of them, as a share of what was observed.
        warning: what is off, in words; empty where the intervals hold what they promise.
    """

    windows: int
    coverage: tuple[Coverage, ...]
    false_claims: int
    bias: float
    warning: str


def track_record(forecast: Forecast) -> TrackRecord | None:
    """Return the track record of one statistic, or None where too few windows have a past of their own."""
    placebos, hours = forecast.placebos, forecast.estimate.hours
    day = ((placebos["start"] - placebos["start"].iloc[0]) / pd.Timedelta(days=1)).to_numpy()
    score, scale = placebos["score"].to_numpy(), placebos["scale_minor"].to_numpy()
    expected, observed = placebos["expected_minor"].to_numpy(), placebos["observed_minor"].to_numpy()
    widening = np.where(placebos["near_holiday"], HOLIDAY_WIDENING, 1.0)
    held, claims, judged, corrected = dict.fromkeys(LEVELS, 0), 0, [], []
    for now in range(len(day)):
        before = day + hours / 24 <= day[now]
        weight = placebo_weights(day[now] - day[before], scale[before], scale[now])
        if weight.sum() < LEAST_WEIGHT:
            continue
        judged.append(now)
        shift = np.average(score[before], weights=weight) if expected[now] > 0 else 0.0
        corrected.append(max(expected[now] + shift * scale[now], 0.0))
        for level in LEVELS:
            low, high = (
                max(expected[now] + one * scale[now] * widening[now], 0.0)
                for one in conformal_bounds(score[before], weight, level)
            )
            # Observed totals are whole, bounds are not.
            held[level] += int(math.floor(low) <= observed[now] <= math.ceil(high))
        claims += int(observed[now] < math.floor(low))
    if len(judged) < _LEAST_WINDOWS:
        return None
    total = float(observed[judged].sum())
    coverage = tuple(Coverage(level, held[level], len(judged)) for level in LEVELS)
    return TrackRecord(
        windows=len(judged),
        coverage=coverage,
        false_claims=claims,
        bias=(sum(corrected) - total) / total if total > 0 else 0.0,
        warning=_warning(coverage, hours),
    )


def _warning(coverage: tuple[Coverage, ...], hours: int) -> str:
    """Name the levels that held too seldom to be chance: less than 1 in 100, windows that overlap counted once."""
    apart = min(1.0, 24 / hours)
    short = [
        f"{one.share:.0%} instead of {one.level:.0%}"
        for one in coverage
        if _at_most(round(one.held * apart), round(one.windows * apart), one.level) < _UNLIKELY
    ]
    if not short:
        return ""
    return (
        f"On this shop's own past the intervals held the truth in {' and '.join(short)} of {coverage[0].windows} "
        "windows in which nothing happened: they are narrower than they claim, the loss is less certain than it looks"
    )


def _at_most(held: int, windows: int, level: float) -> float:
    """Probability of at most `held` of `windows` (binomial)."""
    return sum(math.comb(windows, k) * level**k * (1 - level) ** (windows - k) for k in range(held + 1))
