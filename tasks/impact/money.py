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
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

import pandas as pd

from tasks.core import Money, plural
from tasks.impact.counterfactual import Calendar, Counterfactual, Forecast, ShopHistory
from tasks.impact.errors import ImpactError, TooLittleHistory
from tasks.impact.opinion import SecondOpinion, second_opinion
from tasks.impact.record import TrackRecord, track_record

_EARLY_HOURS = 6
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
        record: how often the method was right on this shop's own past; None where too few windows can say.
        opinion: the loss by another method; None where statsmodels is not installed, or the history is too short.
        returned_minor: the loss of the outage alone minus the net loss: what came back afterwards, seen from above. A
            check on `deferred_minor`, and far less certain.
        cautions: reservations that an analyst must know, in words.
    """

    currency: str
    net: Forecast | None
    during: Forecast | None
    unaided: Forecast | None
    deferred: pd.DataFrame
    attributed_minor: int | None
    refused: str = ""
    record: TrackRecord | None = None
    opinion: SecondOpinion | None = None
    returned_minor: int | None = None
    cautions: tuple[str, ...] = ()

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
    disturbed: tuple[tuple[datetime, datetime], ...] = (),
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
        disturbed: other incidents, from impact to the end of their recovery.

    Raises:
        ImpactError: the window has no length, or an order has a total below zero.
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
    hours = _hours(start, end, calendar)
    if hours < 1:
        raise ImpactError(
            f"The data reach to {end:%Y-%m-%d %H:%M} UTC, less than an hour after the impact began",
            fix="back up the shop again and repeat the review",
        )
    outage = min(max(_hours(start, pd.Timestamp(restored_at), calendar, whole=math.ceil), 1), hours)
    try:
        history = ShopHistory(orders, sends, planned, impact_started_at, hours, calendar, disturbed)
        shop = Counterfactual(history)
        net = shop.forecast("net", hours)
        during = shop.forecast("during", outage)
        unaided = shop.forecast("net", hours, control="none")
    except TooLittleHistory as error:
        return MoneyImpact(currency, None, None, None, deferred, None, error.what)
    found = MoneyImpact(
        currency,
        net,
        during,
        unaided,
        deferred,
        _attributed(shop, messages, planned, deferred),
        record=track_record(net),
        opinion=second_opinion(shop, hours),
        returned_minor=during.estimate.loss_minor - net.estimate.loss_minor,
    )
    return replace(found, cautions=tuple(_cautions(found, shop)))


def _hours(
    start: pd.Timestamp, end: pd.Timestamp, calendar: Calendar, *, whole: Callable[[float], int] = math.floor
) -> int:
    """Whole hours on the shop's clock: a day has 24 of them when summer time begins or ends, too."""
    clock = [one.tz_convert(calendar.timezone).tz_localize(None) for one in (start, end)]
    return whole((clock[1] - clock[0]) / pd.Timedelta(hours=1))


def _cautions(money: MoneyImpact, shop: Counterfactual) -> list[str]:
    history = shop.history
    said = []
    end = history.impact_started_at + timedelta(hours=history.horizon_hours)
    for began, ended in history.disturbed:
        if began < end and ended > history.impact_started_at:
            said.append(
                f"Another incident ({began:%Y-%m-%d %H:%M} to {ended:%Y-%m-%d %H:%M} UTC) overlaps this window: the "
                "loss is that of both, nothing can tell them apart."
            )
    if shop.giant_orders:
        said.append(
            f"{plural(shop.giant_orders, 'order')} before the outage larger than a usual day and than fifty usual "
            "orders: counted as one usual day, since such an order is not to be expected again."
        )
    if shop.days_without_orders:
        said.append(
            f"On {plural(shop.days_without_orders, 'day')} before the outage nothing was ordered although that weekday "
            "sells: left out. If data are missing, repair the snapshots first."
        )
    if money.record and money.record.warning:
        said.append(f"{money.record.warning}.")
    if early := _missing_before(history):
        said.append(
            f"In the {_EARLY_HOURS} hours before the recorded start {_say(early, money.currency)} less came in than "
            "was to be expected, more than chance explains: the impact may have begun earlier; the loss is larger then."
        )
    if money.net and money.opinion:
        other = money.opinion.intervals[-1]
        within = other.low_minor <= money.net.estimate.loss_minor <= other.high_minor
        said.append(
            f"A second opinion by a structural time series, stretched {money.opinion.stretched:.1f} times to fit this "
            f"shop's past, finds a net loss of {_say(money.opinion.loss_minor, money.currency)} "
            f"({_say(other.low_minor, money.currency)} to {_say(other.high_minor, money.currency)})"
            + ("." if within else ": it contradicts the estimate, find out why before you quote either.")
        )
    if money.returned_minor is not None and money.deferred_minor:
        said.append(
            f"Counted order by order, {_say(money.deferred_minor, money.currency)} came late; seen from above (the "
            f"loss of the outage alone minus the net loss) {_say(money.returned_minor, money.currency)} came back: "
            "a check only, its noise is several times as large."
        )
    return said


def _missing_before(history: ShopHistory) -> int:
    """What the last hours before the recorded start lack, if a chance of 1 in 100 does not explain it; otherwise 0."""
    start = history.impact_started_at - timedelta(hours=_EARLY_HOURS)
    just = history.sends
    if len(just):
        just = just[just["sent_at"] >= pd.Timestamp(start)].rename(columns={"sent_at": "planned_at"})
    known = history.orders["ordered_at"] < pd.Timestamp(history.impact_started_at)
    before = replace(
        history,
        orders=history.orders[known],
        planned=just if len(just) else history.planned.iloc[:0],
        impact_started_at=start,
        horizon_hours=_EARLY_HOURS,
    )
    try:
        one = Counterfactual(before).forecast("during", _EARLY_HOURS).estimate
    except TooLittleHistory:
        return 0
    return one.loss_minor if one.interval(0.95).low_minor > 0 and one.probability_of_loss >= 0.99 else 0


def _say(minor: int, currency: str) -> str:
    return str(Money(minor, currency).whole())


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
