"""What earlier valid snapshots lead to expect, for contracts that say `auto`. Pure.

A bound is the median of what was, give or take 3.5 times its spread, the spread being 1.4826 times the median absolute
deviation from the median, which for normal values is their standard deviation. The median and the MAD do not follow a
few bad nights; 3.5 is the limit of Iglewicz and Hoaglin, "How to Detect and Handle Outliers" (ASQC 1993), for their
modified z-score 0.6745 (x - median) / MAD. Values that were always the same have no spread: each bound has a floor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from statistics import median

from tasks.checks.contracts import Contract
from tasks.checks.profiling import Profiled, TableProfile
from tasks.checks.rules import Expected
from tasks.core import plural

NEEDS = 7
"""Valid snapshots before this one that `auto` needs."""
LOOKS_BACK = 30
"""Valid snapshots before this one that `auto` looks at."""

_LIMIT, _NORMAL = 3.5, 1.4826
_ROWS_FLOOR = 0.02  # change of the number of rows, as a logarithm: about 2 %
_NULLS_FLOOR = 0.01  # of the rows
_MINUTES_FLOOR = 60

Point = tuple[datetime, TableProfile]


def bounds(values: Sequence[float], floor: float) -> tuple[float, float]:
    """Return the least and the most to be expected after `values`, never nearer to their median than `floor`."""
    middle = median(values)
    spread = _NORMAL * median([abs(value - middle) for value in values])
    reach = max(_LIMIT * spread, floor)
    return middle - reach, middle + reach


def asks_history(contract: Contract) -> bool:
    """Return whether a contract says `auto` anywhere."""
    return contract.rows.change == "auto" or any(
        column.nulls.at_most == "auto" or (column.fresh is not None and column.fresh.within_minutes == "auto")
        for column in contract.columns.values()
    )


def expected(contract: Contract, history: Sequence[Profiled], at: datetime) -> tuple[Expected, list[str]]:
    """Return the bounds that `contract` asks of history, and the rules that must wait for more of it, in words.

    Args:
        contract: the table's contract.
        history: valid snapshots before this one, newest first.
        at: the moment that this snapshot shows.
    """
    table = contract.table
    points: list[Point] = [(one.at, one.tables[table]) for one in history if table in one.tables]
    points = points[:LOOKS_BACK][::-1]
    waiting: list[str] = []

    def enough(rule: str, have: int) -> bool:
        if have >= NEEDS:
            return True
        waiting.append(
            f"{table}.{rule}: not enough history: {plural(have, 'earlier valid snapshot')} of the {NEEDS} it needs"
        )
        return False

    rows = None
    if contract.rows.change == "auto" and enough("rows_change", len(points)):
        rows = _rows(points, at)
    nulls: dict[str, float] = {}
    minutes: dict[str, int] = {}
    for name, column in contract.columns.items():
        if column.nulls.at_most == "auto":
            shares = [one.nulls.get(name, 0) / one.rows for _, one in points if one.rows]
            if enough(f"{name}.not_null", len(shares)):
                nulls[name] = min(bounds(shares, _NULLS_FLOOR)[1], 1 - 1e-9)
        if column.fresh is not None and column.fresh.within_minutes == "auto":
            lags = [
                (then - one.newest[name]) / timedelta(minutes=1) for then, one in points if name in one.newest
            ]
            if enough(f"{name}.fresh", len(lags)):
                minutes[name] = max(1, math.ceil(bounds(lags, _MINUTES_FLOOR)[1]))
    return Expected(rows, nulls, minutes), waiting


def _rows(points: Sequence[Point], at: datetime) -> tuple[int, int]:
    """Return fewest and most rows: the change of one step, or that of a day times the days since.

    Both count, so that neither a weekend without snapshots nor two of them within an hour is an anomaly.
    """
    steps, rates = [], []
    for (then, before), (now, after) in pairwise(points):
        step = math.log((after.rows + 1) / (before.rows + 1))
        steps.append(step)
        if now > then:
            rates.append(step / ((now - then) / timedelta(days=1)))
    least, most = bounds(steps, _ROWS_FLOOR)
    newest_at, newest = points[-1]
    if rates and at > newest_at:
        days = (at - newest_at) / timedelta(days=1)
        slow, quick = bounds(rates, 0)
        least, most = min(least, slow * days), max(most, quick * days)
    rows = newest.rows + 1
    return max(0, math.floor(rows * math.exp(least) - 1)), math.ceil(rows * math.exp(min(most, 50)) - 1)
