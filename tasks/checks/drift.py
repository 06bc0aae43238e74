"""How far the spread of a column's values moved between two snapshots, from the counts that are kept of both. Pure.

The measure is the population stability index, sum over the bins of (a - e) ln(a / e) with the shares a now and e before
(the symmetric Kullback-Leibler divergence, Jeffreys 1946; as PSI: Siddiqi, "Credit Risk Scorecards", Wiley 2006, who
calls 0.1 a shift worth a look and 0.25 a large one). Of two small samples of one thing the index is large by chance
alone: for n and m values in B bins it is about (1/n + 1/m) times a chi-square of B - 1 degrees of freedom (Yurdakul
and Naranjo, "Statistical properties of the population stability index", Journal of Risk Model Validation 2020). Only
what is above both the contract's limit and the 99.9th percentile of that counts as drift.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist

_NEVER = 0.5  # counted for a bin that one side lacks, or its logarithm would be infinite
_CHANCE = NormalDist().inv_cdf(0.999)

Counts = Mapping[str, int]


def stability_index(before: Counts, now: Counts) -> float:
    """Return the population stability index of two counts by bin; 0 where one side has no value."""
    return sum(_parts(before, now).values())


def by_chance(before: Counts, now: Counts) -> float:
    """Return the index that two samples of one thing exceed once in a thousand times.

    The chi-square's percentile is that of Wilson and Hilferty (PNAS 1931).
    """
    degrees = len(before.keys() | now.keys()) - 1
    sizes = sum(before.values()), sum(now.values())
    if degrees < 1 or not all(sizes):
        return math.inf
    part = 2 / (9 * degrees)
    chi_square = degrees * (1 - part + _CHANCE * math.sqrt(part)) ** 3
    return chi_square * (1 / sizes[0] + 1 / sizes[1])


def most_moved(before: Counts, now: Counts) -> tuple[str, float, float]:
    """Return the bin that moved most, with its share before and now."""
    parts = _parts(before, now)
    name = max(parts, key=lambda one: parts[one])
    then, here = (counts.get(name, 0) / max(1, sum(counts.values())) for counts in (before, now))
    return name, then, here


def _parts(before: Counts, now: Counts) -> dict[str, float]:
    bins = sorted(before.keys() | now.keys())
    if not sum(before.values()) or not sum(now.values()):
        return dict.fromkeys(bins, 0.0)
    shares = {name: (_share(before, name), _share(now, name)) for name in bins}
    return {name: (here - then) * math.log(here / then) for name, (then, here) in shares.items()}


def _share(counts: Counts, name: str) -> float:
    return max(counts.get(name, 0), _NEVER) / sum(counts.values())
