"""Two small regressions with a penalty, fitted anew as the placebos walk forward: means only, never an interval.

Both see their columns centred and in units of their spread, so that one penalty (a share of the rows' weight) fits all.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
_PENALTY = 0.05
_STEPS = 6


def ridge(rows: Floats, value: Floats, weight: Floats, new: Floats) -> Floats:
    """Return what a weighted ridge regression of `value` on `rows` expects of `new`, never below 0."""
    old, now = _scaled(rows, weight, new)
    mean = float(np.average(value, weights=weight))
    weighted = old * weight[:, None]
    gram = weighted.T @ old + _PENALTY * weight.sum() * np.eye(old.shape[1])
    expected: Floats = mean + now @ np.linalg.solve(gram, weighted.T @ (value - mean))
    return np.maximum(expected, 0.0)


def quasi_poisson(
    rows: Floats, value: Floats, weight: Floats, usual: Floats, new: Floats, usual_now: Floats
) -> Floats:
    """Return what a log-linear regression expects of `new`: its variance grows with its mean, not with its square.

    Args:
        rows: one row per window.
        value: what came in.
        weight: of each row.
        usual: what usually comes in, above 0: the regression learns by which factor a window departs from it.
        new: rows to answer for.
        usual_now: what usually comes in there.
    """
    old, now = _scaled(rows, weight, new)
    old = np.column_stack([np.ones(len(old)), old])
    penalty = _PENALTY * np.eye(old.shape[1])
    penalty[0, 0] = 1e-8
    factor = np.zeros(old.shape[1])
    for _ in range(_STEPS):  # iteratively reweighted least squares
        log = np.clip(old @ factor, -3, 3)
        mean = usual * np.exp(log)
        pull = weight * mean
        gram = (old * pull[:, None]).T @ old + penalty * pull.sum()
        factor = np.linalg.solve(gram, (old * pull[:, None]).T @ (log + (value - mean) / mean))
    seen = old @ factor
    log = np.column_stack([np.ones(len(now)), now]) @ factor
    expected: Floats = usual_now * np.exp(np.clip(log, seen.min() - 0.3, seen.max() + 0.3))
    return expected


def _scaled(rows: Floats, weight: Floats, new: Floats) -> tuple[Floats, Floats]:
    middle = np.average(rows, axis=0, weights=weight)
    spread = np.sqrt(np.average((rows - middle) ** 2, axis=0, weights=weight))
    spread[spread < 1e-9] = 1.0
    return (rows - middle) / spread, (new - middle) / spread
