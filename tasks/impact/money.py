"""What an outage cost: net loss over outage and recovery, what came late (deferred), and their sum (gross).

*Net* is one joint statistic over outage and recovery. *Deferred* is counted bottom-up: orders that name a campaign as
what brought them, by people whose message of that campaign went out late; it is already inside the observation of the
net window. *Gross* is net plus deferred: what would have been lost had the late messages not been sent. *During* is the
counterfactual of the outage window alone minus what was observed in it. *Attributed* is what the attribution model
claims (past revenue per message times the due messages that did not go out in time, minus deferred): shown beside,
never added.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from datetime import datetime

import pandas as pd

from tasks.impact.counterfactual import Calendar, Counterfactual, Forecast, ShopHistory
from tasks.impact.errors import TooLittleHistory

_NOT_IN_TIME = ("delayed", "suppressed", "dropped")


@dataclass(frozen=True)
class MoneyImpact:
    """The money side of an outage, in minor units of `currency`.

    Attributes:
        net: outage and recovery; None where the history is too short.
        during: the outage alone.
        unaided: `net` again without the control, as a check on the assumption that untagged orders were left alone.
        deferred: the orders behind `deferred_minor`: `campaign_id`, `subscriber_id`, `ordered_at`, `total_minor`.
        attributed_minor: what attribution claims was lost.
        refused: why there is no estimate; empty otherwise.
    """

    currency: str
    net: Forecast | None
    during: Forecast | None
    unaided: Forecast | None
    deferred: pd.DataFrame
    attributed_minor: int | None
    refused: str = ""

    @property
    def deferred_minor(self) -> int:
        """Revenue in the window that late messages brought."""
        return int(self.deferred["total_minor"].sum())


def measure_money(
    orders: pd.DataFrame,
    sends: pd.DataFrame,
    planned: pd.DataFrame,
    messages: pd.DataFrame,
    *,
    impact_started_at: datetime,
    restored_at: datetime,
    until: datetime,
    currency: str,
    calendar: Calendar,
) -> MoneyImpact:
    """Estimate the loss of an outage.

    Args:
        orders: `ordered_at`, `total_minor`, `subscriber_id`, `campaign_id`, everything known up to `until`, all in
            `currency`.
        sends: `sent_at`, `kind`, `campaign_id`, `messages` before the impact.
        planned: `planned_at`, `kind`, `campaign_id`, `messages` from the impact to `until`.
        messages: what became of each: `campaign_id`, `subscriber_id`, `fate`.
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
    # Only a late message defers an order: one in time lost nothing, and of an unknown one nobody can say.
    late = messages.loc[messages["fate"] == "delayed", ["campaign_id", "subscriber_id"]]
    deferred = tagged.merge(late, on=["campaign_id", "subscriber_id"])
    deferred = deferred[["campaign_id", "subscriber_id", "ordered_at", "total_minor"]].reset_index(drop=True)
    hours = max(math.floor((end - start) / pd.Timedelta(hours=1)), 1)
    outage = min(max(math.ceil((pd.Timestamp(restored_at) - start) / pd.Timedelta(hours=1)), 1), hours)
    try:
        shop = Counterfactual(ShopHistory(orders, sends, planned, impact_started_at, hours, calendar))
        net = shop.forecast("net", hours)
        during = shop.forecast("during", outage)
        unaided = shop.forecast("net", hours, control="none")
    except TooLittleHistory as error:
        return MoneyImpact(currency, None, None, None, deferred, None, error.what)
    return MoneyImpact(
        currency, net, during, unaided, deferred, _attributed(shop, messages, planned, deferred)
    )


def _attributed(
    shop: Counterfactual, messages: pd.DataFrame, planned: pd.DataFrame, deferred: pd.DataFrame
) -> int | None:
    if not shop.has_tags:
        return None
    kinds = planned.drop_duplicates("campaign_id").set_index("campaign_id")["kind"]
    missed = messages[messages["fate"].isin(_NOT_IN_TIME)]
    worth = 0.0
    for kind, count in missed["campaign_id"].map(kinds).value_counts().items():
        worth += int(count) * shop.value_per_message_now(str(kind))
    return round(worth) - int(deferred["total_minor"].sum())
