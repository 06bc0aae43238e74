"""Whether the catch-up hurt the sender's reputation: bounces, complaints and opt-outs against the days before.

Two answers side by side. The *alarm* asks whether so many are surprising given how much campaigns differ anyway
(beta-binomial predictive); the *look* asks a plain two-proportion z-test, which on quiet mail cries wolf on a fifth
to a half of all checks. The *limit* is what mailbox providers tolerate, whatever our past was.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pandas as pd

Metric = Literal["bounce", "complaint", "unsubscribe", "deferral"]
METRICS: tuple[Metric, ...] = ("bounce", "complaint", "unsubscribe", "deferral")

LIMITS: dict[Metric, tuple[float, float] | None] = {
    "bounce": (0.05, 0.10),
    "complaint": (0.001, 0.003),
    "unsubscribe": None,
    "deferral": None,
}
"""Rates at which somebody acts: bounces at 5 % reviewed and 10 % paused (Amazon SES), complaints to stay below 0.1 %
and never to reach 0.3 % (Google sender guidelines). Nobody publishes one for opt-outs and deferrals."""

ALARM_BELOW = 0.01
_LOOK_ABOVE = 2.326
_PRIOR_STRENGTH = 200.0


@dataclass(frozen=True)
class ReputationCheck:
    """One rate of the catch-up against the baseline.

    Attributes:
        messages: catch-up messages sent, those that a mail server refused included.
        count: how many of them had it.
        baseline_messages: messages of the baseline.
        baseline_count: how many of those had it.
        p_value: probability of so many or more if the catch-up were one more campaign like those before.
        alarm: `p_value` is below 1 %.
        z: difference of the two rates in standard errors.
        look: a one-sided two-proportion z-test at 1 % fires; a reason to look, not a finding.
        limit: `none`, `watch` (above the lower limit) or `breach` (above the upper one).
    """

    metric: Metric
    messages: int
    count: int
    baseline_messages: int
    baseline_count: int
    p_value: float
    alarm: bool
    z: float
    look: bool
    limit: Literal["none", "watch", "breach"]

    @property
    def rate(self) -> float:
        """Share of the catch-up's messages."""
        return self.count / self.messages if self.messages else 0.0

    @property
    def baseline_rate(self) -> float:
        """Share of the baseline's messages."""
        return self.baseline_count / self.baseline_messages if self.baseline_messages else 0.0


def check_reputation(catch_up: dict[str, int], baseline: pd.DataFrame) -> list[ReputationCheck]:
    """Check each metric.

    Args:
        catch_up: `messages`, `bounce`, `complaint`, `unsubscribe` of what was sent after restoration, and `deferral`:
            what a mail server put off on top of them. A rate that is missing is not checked.
        baseline: the same per campaign of the days before the impact, one row each.
    """
    checks = []
    for metric in METRICS:
        if metric not in catch_up:
            continue
        count, usual = int(catch_up[metric]), int(baseline[metric].sum())
        put_off = metric == "deferral"
        sent = int(catch_up["messages"]) + count * put_off
        tried = baseline["messages"] + baseline[metric] * put_off
        before = int(tried.sum())
        a, b = fit_beta(tried.tolist(), baseline[metric].tolist())
        p_value = beta_binomial_tail(count, sent, a, b)
        z = _z(count, sent, usual, before)
        limits = LIMITS[metric]
        rate = count / sent if sent else 0.0
        over = "none" if limits is None or rate < limits[0] else "breach" if rate >= limits[1] else "watch"
        checks.append(
            ReputationCheck(
                metric=metric,
                messages=sent,
                count=count,
                baseline_messages=before,
                baseline_count=usual,
                p_value=p_value,
                alarm=p_value < ALARM_BELOW,
                z=z,
                look=z > _LOOK_ABOVE,
                limit=over,  # type: ignore[arg-type]
            )
        )
    return checks


def fit_beta(messages: Sequence[int], counts: Sequence[int]) -> tuple[float, float]:
    """Return the Beta(a, b) that campaign rates follow: mean with Jeffreys' half, spread by moments.

    With few campaigns or no more spread than chance explains, the strength is bounded so that the prediction keeps
    some doubt.
    """
    total, hits = sum(messages), sum(counts)
    mean = (hits + 0.5) / (total + 1.0)
    chance = mean * (1 - mean)
    pairs = [(n, k) for n, k in zip(messages, counts, strict=True) if n > 0]
    strength = _PRIOR_STRENGTH / mean if mean < 1 else _PRIOR_STRENGTH
    if len(pairs) >= 3:
        weight = sum(n for n, _ in pairs)
        between = sum(n * (k / n - mean) ** 2 for n, k in pairs) / weight
        within = chance * len(pairs) / weight
        if between > within:
            strength = min(strength, max(chance / (between - within) - 1, 1.0))
    strength = min(strength, float(total) + 1.0)
    return mean * strength, (1 - mean) * strength


def beta_binomial_tail(count: int, messages: int, a: float, b: float) -> float:
    """Return P(X >= count) for X of `messages` trials whose rate follows Beta(a, b)."""
    if count <= 0 or messages == 0:
        return 1.0
    below = 0.0
    log_mass = _log_beta(a, b + messages) - _log_beta(a, b)
    for k in range(count):
        below += math.exp(log_mass)
        if k == messages:
            break
        log_mass += math.log((messages - k) / (k + 1)) + math.log((a + k) / (b + messages - k - 1))
    return max(0.0, 1.0 - below)


def _log_beta(a: float, b: float) -> float:
    return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)


def _z(count: int, sent: int, usual: int, before: int) -> float:
    if not sent or not before:
        return 0.0
    pooled = (count + usual) / (sent + before)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / sent + 1 / before))
    return (count / sent - usual / before) / spread if spread > 0 else 0.0
