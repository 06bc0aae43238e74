"""What an outage cost: net loss over outage and recovery, gross loss while it lasted, what came late (deferred).

*Gross* is the counterfactual of the outage window minus what was observed in it. *Net* is one joint statistic over
outage and recovery. *Deferred* is counted bottom-up: orders that name a campaign as what brought them, by people whose
message of that campaign was due in the outage; it is already inside the observation of the net window. *Attributed* is
what the attribution model claims (past revenue per message times due messages, minus deferred): shown beside, never
added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import pandas as pd

from tasks.impact.counterfactual import LEVELS, Calendar, Counterfactual, Forecast, ShopHistory
from tasks.impact.errors import TooLittleHistory

_BAND_POINTS = 18


@dataclass(frozen=True)
class MoneyImpact:
    """The money side of an outage, in minor units of `currency`.

    Attributes:
        net: outage and recovery; None where the history is too short.
        gross: the outage alone.
        unaided: `net` again without the control, as a check on the assumption that untagged orders were left alone.
        deferred: the orders behind `deferred_minor`: `campaign_id`, `subscriber_id`, `ordered_at`, `total_minor`.
        attributed_minor: what attribution claims was lost.
        band: cumulative counterfactual over the window: `hours`, `expected_minor`, `observed_minor`, and
            `low_…`/`high_…` per level.
        refused: why there is no estimate; empty otherwise.
    """

    currency: str
    net: Forecast | None
    gross: Forecast | None
    unaided: Forecast | None
    deferred: pd.DataFrame
    attributed_minor: int | None
    band: pd.DataFrame
    refused: str = ""

    @property
    def deferred_minor(self) -> int:
        """Revenue of messages that were due in the outage and still brought orders in the window."""
        return int(self.deferred["total_minor"].sum())


def measure_money(
    orders: pd.DataFrame,
    sends: pd.DataFrame,
    planned: pd.DataFrame,
    due: pd.DataFrame,
    *,
    impact_started_at: datetime,
    restored_at: datetime,
    until: datetime,
    currency: str,
    calendar: Calendar,
) -> MoneyImpact:
    """Estimate the loss of an outage.

    Args:
        orders: `ordered_at`, `total_minor`, `subscriber_id`, `campaign_id`, everything known up to `until`.
        sends: `sent_at`, `kind`, `campaign_id`, `messages` before the impact.
        planned: `planned_at`, `kind`, `campaign_id`, `messages` from the impact to `until`.
        due: messages that were due or unknown: `campaign_id`, `subscriber_id`.
        impact_started_at: start of the outage.
        restored_at: its end.
        until: end of the recovery window, no later than the data reach.
        currency: ISO 4217, of the orders.
        calendar: the business calendar.
    """
    start, end = pd.Timestamp(impact_started_at), pd.Timestamp(until)
    inside = orders[(orders["ordered_at"] >= start) & (orders["ordered_at"] < end)]
    tagged = inside.dropna(subset=["campaign_id", "subscriber_id"]).astype(
        {"campaign_id": "int64", "subscriber_id": "int64"}
    )
    deferred = tagged.merge(due[["campaign_id", "subscriber_id"]], on=["campaign_id", "subscriber_id"])
    deferred = deferred[["campaign_id", "subscriber_id", "ordered_at", "total_minor"]].reset_index(drop=True)
    hours = max(math.floor((end - start) / pd.Timedelta(hours=1)), 1)
    outage = min(max(math.ceil((pd.Timestamp(restored_at) - start) / pd.Timedelta(hours=1)), 1), hours)
    try:
        shop = Counterfactual(ShopHistory(orders, sends, planned, impact_started_at, hours, calendar))
        net = shop.forecast("net", hours)
        gross = shop.forecast("gross", outage)
        unaided = shop.forecast("net", hours, control="none")
        band = _band(shop, hours)
    except TooLittleHistory as error:
        empty = pd.DataFrame(columns=_band_columns())
        return MoneyImpact(currency, None, None, None, deferred, None, empty, str(error))
    return MoneyImpact(
        currency, net, gross, unaided, deferred, _attributed(shop, due, planned, deferred), band
    )


def _attributed(
    shop: Counterfactual, due: pd.DataFrame, planned: pd.DataFrame, deferred: pd.DataFrame
) -> int | None:
    if not shop.has_tags:
        return None
    kinds = planned.drop_duplicates("campaign_id").set_index("campaign_id")["kind"]
    worth = 0.0
    for kind, count in due["campaign_id"].map(kinds).value_counts().items():
        worth += int(count) * shop.value_per_message_now(str(kind))
    return round(worth) - int(deferred["total_minor"].sum())


def _band(shop: Counterfactual, hours: int) -> pd.DataFrame:
    """The cumulative counterfactual at some horizons, each with its own conformal interval."""
    points = np.unique(np.rint(np.linspace(1, hours, min(_BAND_POINTS, hours))).astype(int))
    rows = []
    for horizon in points:
        one = shop.forecast("net", int(horizon)).estimate
        row = [int(horizon), one.expected_minor, one.observed_minor]
        for interval in one.intervals:
            row += [interval.low_minor + one.observed_minor, interval.high_minor + one.observed_minor]
        rows.append(row)
    return pd.DataFrame(rows, columns=_band_columns())


def _band_columns() -> list[str]:
    names = ["hours", "expected_minor", "observed_minor"]
    for level in LEVELS:
        names += [f"low_{level * 100:.0f}", f"high_{level * 100:.0f}"]
    return names
