"""What the shop would have earned: a walk-forward forecast of one window's total with a conformal interval.

The statistic is always the *total* of a window (outage, or outage and recovery together), never a sum of hourly
intervals. Its interval comes from placebo windows: every past window of the same length and time of day is
forecast with what was known before it, and its error says how wrong such a forecast is. Nothing that happened
after the outage began enters the forecast, except the send plan (what was to be sent) and, as a control, orders
that no campaign brought, which a failing e-mail provider leaves alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core import plural
from tasks.impact.errors import ImpactError, TooLittleHistory
from tasks.impact.learned import quasi_poisson, ridge

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Control = Literal["untagged orders", "none"]

LEVELS = (0.50, 0.80, 0.95)
"""The levels of every interval."""

LOW_CONFIDENCE_BELOW = 39
"""Weight of all placebo windows below which a 95 % bound is an extrapolation (39 = 2/0.05 - 1: the smallest with a
finite two-sided conformal bound at 95 %, the window itself weighing 1)."""

LEAST_WEIGHT = 9
"""Weight of all placebo windows below which the 80 % bound would be infinite too: no estimate is given then."""

MINIMUM_HISTORY_DAYS = 28
"""Days of orders below which no estimate is given."""

_WEEK = 168
_PROFILE_WEEKS = 8
_PROFILE_DECAY = 0.85
_LEVEL_HOURS = 14 * 24
_GIANT = 50
_NEVER_EMPTY_HOURS = 5
_LONGEST_HISTORY = pd.Timedelta(weeks=104)
_LEVEL_DAYS = (1, 3, 7, 14, 28)
_LEARN_EVERY_HOURS = 4
_LEARN_FROM = 90
_REFIT_STARTS = 14
_LONGEST_LAG = 96
_GUARD_HOURS = 6
_RECENCY_HALF_LIFE_DAYS = 26 * 7
_SIMILARITY_SD = 1.0
_PRIOR_MESSAGES = 300.0
HOLIDAY_WIDENING = 1.5
_MINIMUM_PLACEBOS = 10


@dataclass(frozen=True)
class Calendar:
    """The business calendar: the time zone of the trading day and the country whose holidays close the shop."""

    timezone: str = "UTC"
    country: str | None = None


@dataclass(frozen=True)
class Interval:
    """Bounds of a loss that cover the truth with probability `level`, in minor units."""

    level: float
    low_minor: int
    high_minor: int


@dataclass(frozen=True)
class LossEstimate:
    """What one window cost: counterfactual minus observed, in minor units of the shop's currency.

    Attributes:
        statistic: `during` (the outage alone) or `net` (outage and recovery in one).
        start: first moment of the window.
        hours: its length; whole hours from `start`.
        expected_minor: the counterfactual total.
        observed_minor: the observed total.
        loss_minor: expected minus observed; below zero where more came in than expected.
        forecast_minor: the forecast before the mean error of the placebos corrects it into `expected_minor`: the
            mean, since a median of skewed errors would find too small a loss.
        scale_minor: size of an ordinary error of this window; a score is an error over its scale.
        intervals: one per level of `LEVELS`, on the loss: forecast plus quantile of the scores times scale (times
            1.5 near a holiday), not below 0, minus observed.
        probability_of_loss: weight of the placebo errors that leave the counterfactual above the observation.
        effective_placebos: weight of all placebo windows; one just like this window weighs 1.
        low_confidence: less weight than a 95 % bound needs; the bound is extrapolated, never call it 95 % then.
        noise_floor_minor: width of a 95 % interval if the mean were known exactly (compound Poisson: 3.92 times
            the root of the expected total times the value-weighted basket). With a control the total is that of
            e-mail orders only: the control shows how the others turned out.
        control: what was used as an unaffected control.
        near_holiday: the window touches a public holiday: the interval was widened by 1.5.
    """

    statistic: Literal["during", "net"]
    start: datetime
    hours: int
    expected_minor: int
    observed_minor: int
    loss_minor: int
    forecast_minor: float
    scale_minor: float
    intervals: tuple[Interval, ...]
    probability_of_loss: float
    effective_placebos: float
    low_confidence: bool
    noise_floor_minor: int
    control: Control
    near_holiday: bool

    def interval(self, level: float) -> Interval:
        """Return the interval of `level`.

        Raises:
            ImpactError: there is none of that level.
        """
        for one in self.intervals:
            if math.isclose(one.level, level):
                return one
        raise ImpactError(f"No interval of level {level}", fix=f"use one of {LEVELS}")


@dataclass(frozen=True)
class Forecast:
    """A loss estimate with what it was made from, for charts and for whoever wants to recompute it.

    Attributes:
        estimate: the result.
        hourly: one row per hour of the window: `hour`, `observed_minor`, `expected_minor`.
        placebos: one row per placebo window: `start`, `observed_minor`, `expected_minor`, `scale_minor`,
            `score` (error over scale), `weight`, `near_holiday`.
    """

    estimate: LossEstimate
    hourly: pd.DataFrame
    placebos: pd.DataFrame


@dataclass(frozen=True)
class ShopHistory:
    """The shop by hours, aligned so that the outage begins on a bin edge.

    Args:
        orders: `ordered_at` (timezone-aware), `total_minor`, and `campaign_id` (null where no campaign brought
            the order; without the column nothing is tagged).
        sends: what was sent before the outage: `sent_at`, `kind`, `campaign_id`, `messages`.
        planned: what was to be sent from the outage on: `planned_at`, `kind`, `campaign_id`, `messages`.
        impact_started_at: when the outage began; later orders never enter a forecast.
        horizon_hours: how many hours from then on may be asked for.
        calendar: the business calendar.
        disturbed: other incidents, from impact to the end of their recovery: nothing is learned from these hours.
    """

    orders: pd.DataFrame
    sends: pd.DataFrame
    planned: pd.DataFrame
    impact_started_at: datetime
    horizon_hours: int
    calendar: Calendar = field(default_factory=Calendar)
    disturbed: tuple[tuple[datetime, datetime], ...] = ()

    def __post_init__(self) -> None:
        _check(self.orders, ("ordered_at", "total_minor"), "orders")
        _check(self.sends, ("sent_at", "kind", "campaign_id", "messages"), "sends")
        _check(self.planned, ("planned_at", "kind", "campaign_id", "messages"), "planned")
        if self.impact_started_at.tzinfo is None:
            raise ImpactError("The start of the impact has no time zone", fix="give it in UTC")
        if (below := int((self.orders["total_minor"] < 0).sum())) > 0:
            raise ImpactError(
                f"{plural(below, 'order')} with a total below zero",
                fix="keep refunds in their own table: an order counts with what was ordered",
                where="orders.total_minor",
            )


class Counterfactual:
    """Forecasts windows of one shop that begin with its outage.

    Raises:
        TooLittleHistory: fewer than `MINIMUM_HISTORY_DAYS` days of orders before the outage.
    """

    def __init__(self, history: ShopHistory) -> None:
        self.history = history
        self._zone = history.calendar.timezone
        self._start = self._wall(pd.Series([history.impact_started_at])).iloc[0]
        ordered = self._wall(history.orders["ordered_at"])
        first = _begin(ordered[ordered < self._start], self._start)
        days = (self._start - first).days
        if days < MINIMUM_HISTORY_DAYS:
            raise TooLittleHistory(
                f"{days} days of orders before the outage; an estimate needs {MINIMUM_HISTORY_DAYS}",
                fix="report messages and minutes, and leave the money open",
            )
        self.past_hours = self._past = int((self._start - first) // pd.Timedelta(hours=1))
        self._size = self._past + history.horizon_hours
        tagged = self._tagged(history.orders)
        self.has_tags = bool(tagged[(ordered < self._start).to_numpy()].any())
        value = history.orders["total_minor"].to_numpy(dtype=np.float64, copy=True)
        hour = self._bins(ordered)
        base = ~tagged if self.has_tags else np.ones(len(tagged), dtype=bool)
        known = (hour >= 0) & (hour < self._past)
        self.giant_orders = self._cap(value, hour, known)
        if value[known].sum() <= 0:
            raise TooLittleHistory(
                "No order before the outage has a value",
                fix="report messages and minutes, and leave the money open",
            )
        self._base = self._sum(hour[base], value[base])
        self._email = self._sum(hour[~base], value[~base])
        self._basket_base = _size_biased(value[base & known])
        self._basket_email = _size_biased(value[~base & known]) or self._basket_base
        self._hours = pd.DatetimeIndex(
            self._start + pd.to_timedelta(np.arange(-self._past, history.horizon_hours), "h")
        )
        self._closed = self._closed_hours()
        self._leave_out_disturbed()
        self._learn_response(history.orders[tagged & known], ordered[tagged & known])

    # ------------------------------------------------------------------------------------------------ forecasts

    def revenue(self) -> Floats:
        """Return the revenue of every hour, the first `past_hours` of them before the outage."""
        return self._base + self._email

    def forecast(
        self, statistic: Literal["during", "net"], hours: int, *, control: Control | None = None
    ) -> Forecast:
        """Forecast the first `hours` hours from the start of the outage.

        Args:
            statistic: what the window stands for.
            hours: its length, at most the history's horizon.
            control: `untagged orders` (the default where orders are tagged) or `none`.

        Raises:
            TooLittleHistory: too few placebo windows of this length, or too few that resemble the outage's.
        """
        if control is None:
            control = "untagged orders" if self.has_tags else "none"
        if control == "untagged orders" and not self.has_tags:
            raise ImpactError("No order names the campaign that brought it", fix="use control='none'")
        window = _Window(self, hours)
        fit = window.fit(control)
        start, past = self._past, window.placebos
        weight = placebo_weights((start - past) / 24, fit.scale[past], fit.scale[start])
        score = (fit.observed[past] - fit.expected[past]) / fit.scale[past]
        effective = float(weight.sum())
        if effective < LEAST_WEIGHT:
            raise TooLittleHistory(
                f"{len(past)} past windows of {hours} hours resemble this one too little: together they weigh "
                f"{effective:.1f}, an interval needs {LEAST_WEIGHT}",
                fix="report messages and minutes, and leave the money open",
            )
        near = self._near_holiday(start, hours)
        widening = HOLIDAY_WIDENING if near else 1.0
        scale = fit.scale[start] * widening
        # Closed is closed: what chance did to open windows says nothing of it.
        shift = float(np.average(score, weights=weight)) if fit.expected[start] > 0 else 0.0
        expected = max(fit.expected[start] + shift * fit.scale[start], 0.0)
        observed = fit.observed[start]
        intervals = []
        for level in LEVELS:
            low, high = conformal_bounds(score, weight, level)
            intervals.append(
                Interval(
                    level,
                    round(max(fit.expected[start] + low * scale, 0.0) - observed),
                    round(max(fit.expected[start] + high * scale, 0.0) - observed),
                )
            )
        beaten = fit.expected[start] + score * scale > observed
        estimate = LossEstimate(
            statistic=statistic,
            start=self.history.impact_started_at,
            hours=hours,
            expected_minor=round(expected),
            observed_minor=round(observed),
            loss_minor=round(expected) - round(observed),
            forecast_minor=float(fit.expected[start]),
            scale_minor=float(fit.scale[start]),
            intervals=tuple(intervals),
            probability_of_loss=float(weight[beaten].sum() / weight.sum()),
            effective_placebos=effective,
            low_confidence=effective < LOW_CONFIDENCE_BELOW,
            noise_floor_minor=round(3.92 * math.sqrt(max(fit.poisson_variance[start], 0.0))),
            control=control,
            near_holiday=near,
        )
        return Forecast(
            estimate,
            window.hourly(fit, expected),
            pd.DataFrame(
                {
                    "start": self._moments(past),
                    "observed_minor": np.rint(fit.observed[past]).astype(np.int64),
                    "expected_minor": fit.expected[past],
                    "scale_minor": fit.scale[past],
                    "score": score,
                    "weight": weight,
                    "near_holiday": [self._near_holiday(int(one), hours) for one in past],
                }
            ),
        )

    # ------------------------------------------------------------------------------------------------ learning

    def _cap(self, value: Floats, hour: npt.NDArray[np.int64], known: Bools) -> int:
        """Lower giant orders of the past to what a usual day earns, and return how many there were.

        An order is giant if it is larger than a usual day and than fifty usual orders: it comes once, and must not be
        expected again at the same hour of the next weeks.
        """
        some = known & (value > 0)
        if not some.any():
            return 0
        usual_day = float(np.median(pd.Series(value[some]).groupby(hour[some] // 24).sum()))
        most = max(usual_day, _GIANT * float(np.median(value[some])))
        giant = known & (value > most)
        value[giant] = most
        return int(giant.sum())

    def _leave_out_disturbed(self) -> None:
        """Treat the hours of other incidents as closed: neither profile nor level nor placebo knows them."""
        for began, ended in self.history.disturbed:
            low, high = self._bins(self._wall(pd.Series([began, ended - timedelta(microseconds=1)])))
            inside = slice(max(int(low), 0), max(min(int(high) + 1, self._past), 0))
            self._closed[inside] = self._irregular[inside] = True
            self._base[inside] = self._email[inside] = 0.0

    def _learn_response(self, tagged: pd.DataFrame, ordered: pd.Series[Any]) -> None:
        """Learn from tagged orders when the orders of a send come (curve) and what a message brings (value)."""
        sends = self.history.sends
        at = self._wall(sends["sent_at"])
        kinds = sorted({*sends["kind"], *self.history.planned["kind"]})
        self.kinds = kinds
        campaigns = (
            pd.DataFrame(
                {
                    "campaign_id": sends["campaign_id"].astype("Int64"),
                    "kind": sends["kind"].astype("str"),
                    "messages": sends["messages"].astype("float64"),
                    "hour": ((at - self._hours[0]) / pd.Timedelta(hours=1)).to_numpy(dtype=np.float64),
                }
            )
            .assign(moment=lambda frame: frame["hour"] * frame["messages"])
            .groupby(["campaign_id", "kind"], as_index=False)[["messages", "moment"]]
            .sum()
        )
        campaigns["hour"] = campaigns["moment"] / campaigns["messages"].clip(lower=1)
        orders = pd.DataFrame(
            {
                "campaign_id": tagged["campaign_id"].astype("Int64")
                if self.has_tags
                else pd.array([], "Int64"),
                "value": tagged["total_minor"].astype("float64"),
                "ordered": ((ordered - self._hours[0]) / pd.Timedelta(hours=1)).to_numpy(dtype=np.float64),
            }
        ).merge(campaigns[["campaign_id", "kind", "hour"]], on="campaign_id")
        orders["lag"] = np.clip(np.floor(orders["ordered"] - orders["hour"]), 0, _LONGEST_LAG - 1).astype(int)
        pooled = _curve(orders)
        self._curves = {
            kind: _curve(part) if len(part := orders[orders["kind"] == kind]) >= 50 else pooled
            for kind in kinds
        }
        brought = orders.groupby("campaign_id")["value"].sum()
        campaigns["value"] = campaigns["campaign_id"].map(brought).fillna(0.0)
        self._campaigns = campaigns
        past = self._pressure(at, sends)
        planned = self._pressure(self._wall(self.history.planned["planned_at"]), self.history.planned)
        self._pressures = {kind: past[kind] + planned[kind] for kind in kinds}
        self._campaign_spread = self._spread(campaigns)

    def _spread(self, campaigns: pd.DataFrame) -> float:
        """Squared coefficient of variation between campaigns of a kind, beyond what their few orders explain."""
        known = campaigns[campaigns["messages"] >= 100]
        if len(known) < 5:
            return 0.1
        value, messages = known["value"].to_numpy(), known["messages"].to_numpy()
        by_kind = known.groupby("kind")[["value", "messages"]].transform("sum")
        typical = np.maximum((by_kind["value"] / by_kind["messages"]).to_numpy(dtype=np.float64), 1e-9)
        excess = (value / messages - typical) ** 2 - typical * self._basket_email / messages
        return float(np.clip((excess / typical**2).mean(), 0.0, 1.0))

    def value_per_message(self, kind: str, at: npt.NDArray[np.int64]) -> Floats:
        """Return what a message of `kind` brings (minor units), as known at each hour of `at`.

        Campaigns count when their orders are in (96 h old), newer ones more (half-life 26 weeks), and a kind with
        few messages is shrunk towards all kinds.
        """
        known = self._campaigns["hour"].to_numpy() + _LONGEST_LAG
        messages = self._campaigns["messages"].to_numpy()
        value = self._campaigns["value"].to_numpy()
        age = at[:, None] - known[None, :]
        weight = np.where(age >= 0, 0.5 ** (np.maximum(age, 0) / (24 * _RECENCY_HALF_LIFE_DAYS)), 0.0)
        mine = (self._campaigns["kind"] == kind).to_numpy().astype(np.float64)
        pooled = _divide(weight @ value, weight @ messages)
        result: Floats = (weight @ (value * mine) + _PRIOR_MESSAGES * pooled) / (
            weight @ (messages * mine) + _PRIOR_MESSAGES
        )
        return result

    def value_per_message_now(self, kind: str) -> float:
        """Return what a message of `kind` brought on average, as known when the outage began (minor units)."""
        return float(self.value_per_message(kind, np.array([self._past]))[0]) if kind in self.kinds else 0.0

    def _pressure(self, at: pd.Series[Any], sends: pd.DataFrame) -> dict[str, Floats]:
        """Messages per hour and kind, spread over the hours in which their orders come."""
        result = {}
        hour = self._bins(at)
        messages = sends["messages"].to_numpy(dtype=np.float64)
        for kind in self.kinds:
            mine = (sends["kind"] == kind).to_numpy()
            counts = self._sum(hour[mine], messages[mine])
            result[kind] = np.convolve(counts, self._curves[kind])[: self._size]
        return result

    # ------------------------------------------------------------------------------------------------ calendar

    def _closed_hours(self) -> Bools:
        """Hours of days on which the shop does not trade: seen in the past, foreseen from then on.

        A past day is closed if nothing was bought on it though its weekday usually sells; a later one if its
        weekday never sells, or if it is a public holiday of a country whose holidays closed the shop before.
        """
        days = self._hours.normalize()
        past = np.arange(self._size) < self._past
        whole = (
            days[: self._past] < self._start.normalize()
        )  # the day of the outage has not had its chance yet
        per_day = pd.Series((self._base[: self._past] > 0)[whole]).groupby(days[: self._past][whole]).sum()
        weekday = pd.DatetimeIndex(per_day.index).day_of_week
        usual = per_day.groupby(weekday).median().reindex(range(7), fill_value=0.0)
        closed_day = (per_day == 0) & ((usual.to_numpy()[weekday] >= 2) | (usual.to_numpy()[weekday] == 0))
        recent = closed_day.groupby(weekday).apply(lambda one: bool(one.tail(_PROFILE_WEEKS).mean() > 0.5))
        holidays = self._holidays()
        seen = [
            bool(closed_day.get(pd.Timestamp(day), False))
            for day in holidays
            if pd.Timestamp(day) in per_day.index
        ]
        closes = bool(seen) and float(np.mean(seen)) >= 0.5
        future = np.array(
            [
                bool(recent.get(day.day_of_week, False)) or (closes and day.date() in holidays)
                for day in days[~past]
            ],
            dtype=bool,
        )
        irregular = closed_day & ~np.array(
            [
                bool(recent.get(day.day_of_week, False)) or (closes and day.date() in holidays)
                for day in per_day.index
            ]
        )
        self.days_without_orders = int((irregular & (usual.to_numpy()[weekday] >= _NEVER_EMPTY_HOURS)).sum())
        self._irregular = np.concatenate(
            [
                irregular.reindex(days[past]).fillna(False).to_numpy(dtype=bool),
                np.zeros((~past).sum(), dtype=bool),
            ]
        )
        return np.concatenate([closed_day.reindex(days[past]).fillna(False).to_numpy(dtype=bool), future])

    def _holidays(self) -> set[date]:
        country = self.history.calendar.country
        if not country:
            return set()
        import holidays

        years = range(self._hours[0].year, self._hours[-1].year + 1)
        subdivision = "ENG" if country == "GB" else None
        return set(holidays.country_holidays(country, subdiv=subdivision, years=years))

    def _near_holiday(self, start: int, hours: int) -> bool:
        """Whether the window touches a public holiday, a day beside one, or Christmas to New Year."""
        if not self.history.calendar.country:
            return False
        holidays = {pd.Timestamp(one) for one in self._holidays()}
        day = pd.Timedelta(days=1)
        touched = self._hours[start : start + hours].normalize().unique()
        return any(
            one in holidays
            or one - day in holidays
            or one + day in holidays
            or (one.month == 12 and one.day >= 24)
            for one in touched
        )

    # ------------------------------------------------------------------------------------------------ plumbing

    def _wall(self, moments: pd.Series[Any]) -> pd.Series[Any]:
        """Clock time of the business without a zone: a weekly profile follows it through summer time."""
        wall: pd.Series[Any] = (
            pd.Series(pd.to_datetime(moments, utc=True)).dt.tz_convert(self._zone).dt.tz_localize(None)
        )
        return wall

    def _moments(self, hour: npt.NDArray[np.int64]) -> pd.DatetimeIndex:
        """UTC of these hours; one that summer time doubles or skips is taken as summer time."""
        wall = self._hours[hour]
        local = wall.tz_localize(
            self._zone, ambiguous=np.ones(len(wall), dtype=bool), nonexistent="shift_forward"
        )
        return local.tz_convert("UTC")

    def _bins(self, at: pd.Series[Any]) -> npt.NDArray[np.int64]:
        since = (at - self._start).to_numpy().astype("timedelta64[us]").astype(np.int64)
        return np.asarray(np.floor_divide(since, 3_600_000_000) + self._past, dtype=np.int64)

    def _sum(self, hour: npt.NDArray[np.int64], value: Floats) -> Floats:
        inside = (hour >= 0) & (hour < self._size)
        total: Floats = np.bincount(hour[inside], weights=value[inside], minlength=self._size)[
            : self._size
        ].astype(np.float64)
        return total

    @staticmethod
    def _tagged(orders: pd.DataFrame) -> Bools:
        if "campaign_id" not in orders.columns:
            return np.zeros(len(orders), dtype=bool)
        return orders["campaign_id"].notna().to_numpy(dtype=bool)


@dataclass(frozen=True)
class _Fit:
    """Totals per start hour: observed, expected, the scale of the error, the compound-Poisson variance."""

    observed: Floats
    expected: Floats
    scale: Floats
    poisson_variance: Floats
    beta: float


class _Window:
    """All windows of one length, past ones (placebos) and the real one, forecast the same way."""

    def __init__(self, shop: Counterfactual, hours: int) -> None:
        if not 0 < hours <= shop.history.horizon_hours:
            raise ImpactError(
                f"A window of {hours} hours is outside the horizon", fix="ask for a shorter one"
            )
        self.shop = shop
        self.hours = hours
        self.skipped = math.ceil(hours / _WEEK)
        self.profile = self._profile()
        first = min(_WEEK * (self.skipped + 3), max(shop._past - _WEEK, 0))
        last = shop._past - hours - _GUARD_HOURS
        starts = np.arange(shop._past % 24, last + 1, 24)
        starts = starts[starts >= first]
        self.regular = _rolling(shop._irregular.astype(np.float64), hours) == 0
        self.placebos = starts[self.regular[starts]]
        if len(self.placebos) < _MINIMUM_PLACEBOS:
            raise TooLittleHistory(
                f"{len(self.placebos)} past windows of {hours} hours; an interval needs {_MINIMUM_PLACEBOS}",
                fix="report messages and minutes, and leave the money open",
            )

    def fit(self, control: Control) -> _Fit:
        """Forecast every window; with a control, what it did not foresee of the control corrects the forecast."""
        shop, starts = self.shop, np.append(self.placebos, self.shop._past)
        base = _rolling(shop._base, self.hours)
        base_expected = np.full(len(base), np.nan)
        base_expected[starts] = self._expected(starts)
        email = _rolling(shop._email, self.hours)
        email_expected, appeal = np.zeros(len(base)), np.zeros(len(base))
        if shop.has_tags:
            for kind in shop.kinds:
                part = _rolling(shop._pressures[kind], self.hours)[starts] * shop.value_per_message(
                    kind, starts
                )
                email_expected[starts] += part
                appeal[starts] += part**2
        else:
            email_expected[starts] = self._untagged(starts, base, base_expected)
        observed = base + email
        expected = base_expected + email_expected
        base_variance = np.nan_to_num(base_expected) * shop._basket_base
        email_variance = np.maximum(email_expected, 0) * shop._basket_email + shop._campaign_spread * appeal
        beta = 0.0
        if control == "untagged orders":
            past = self.placebos
            surprise = base[past] - base_expected[past]
            spread = np.sqrt(np.maximum(base_variance[past] + email_variance[past], 1.0))
            beta = _slope(surprise / spread, (observed[past] - expected[past]) / spread)
            expected = expected + beta * (base - base_expected)
        left = max(1 - beta, 0.0) ** 2 if control == "untagged orders" else 1.0
        floor = (0.02**2 if control == "untagged orders" else 0.0) * base_variance
        variance = left * base_variance + email_variance + floor
        poisson = (base_variance if control == "none" else 0.0) + np.maximum(
            email_expected, 0
        ) * shop._basket_email
        scale = np.sqrt(np.maximum(np.nan_to_num(variance), 1.0))
        # An hour that hardly ever sells would turn one order into a huge score.
        scale = np.maximum(scale, max(0.2 * float(np.median(scale[self.placebos])), 1_000.0))
        return _Fit(observed, expected, scale, poisson, beta)

    def hourly(self, fit: _Fit, total: float) -> pd.DataFrame:
        """The real window by hours, its expected values summing to `total`."""
        shop, here = self.shop, slice(self.shop._past, self.shop._past + self.hours)
        base = self.profile[here] * float(self._level(np.array([shop._past]))[0])
        base = base + fit.beta * (shop._base[here] - base)
        email = np.zeros(self.hours)
        if shop.has_tags:
            now = np.array([shop._past])
            for kind in shop.kinds:
                email += shop._pressures[kind][here] * float(shop.value_per_message(kind, now)[0])
        path = np.maximum(base + email, 0)
        factor = total / path.sum() if path.sum() > 0 else 0.0
        return pd.DataFrame(
            {
                "hour": pd.to_datetime(shop.history.impact_started_at)
                + pd.to_timedelta(np.arange(self.hours), "h"),
                "observed_minor": np.rint(shop._base[here] + shop._email[here]).astype(np.int64),
                "expected_minor": path * factor,
            }
        )

    def _expected(self, starts: npt.NDArray[np.int64]) -> Floats:
        """The mean of four forecasts: the weekly profile at its level, a plain mean of weeks, and two that learn.

        Averaged, they miss by less than the best of them: each is wrong in its own way.
        """
        usual = _rolling(self.profile, self.hours)
        plain = _rolling(self._profile(decay=1.0), self.hours)
        total = usual[starts] * self._level(starts) + plain[starts]
        count = np.full(len(starts), 2.0)
        for index, learned in self._walk_forward(starts, usual, plain):
            total[index] += learned
            count[index] += 2
        return np.asarray(np.where(usual[starts] > 0, total / count, 0.0))

    def _walk_forward(
        self, starts: npt.NDArray[np.int64], usual: Floats, plain: Floats
    ) -> Iterator[tuple[slice, Floats]]:
        """Yield, for every two weeks of starts, the sum of both regressions on windows that had ended before them."""
        shop, hours = self.shop, self.hours
        mean = max(float(shop._base[: shop._past].mean()), 1e-9) * hours
        last = _rolling(self._profile(weeks=1), hours)
        levels = [self._log_level(24 * days, mean / hours) for days in _LEVEL_DAYS]
        little = 0.02 * mean
        days = shop._hours.normalize()
        holidays = [pd.Timestamp(one) for one in shop._holidays()]
        calendar = [(shop._hours.day_of_week == day).astype(np.float64) for day in range(7)]
        calendar += [
            np.asarray((days - pd.Timedelta(days=off)).isin(holidays), dtype=np.float64) for off in (-1, 0, 1)
        ]
        logs = np.column_stack(
            [
                *levels,
                np.clip(np.log((plain + little) / (usual + little)), -1.5, 1.5),
                np.clip(np.log((last + little) / (usual + little)), -1.5, 1.5),
                *calendar,
            ]
        )
        sums = np.column_stack(
            [usual, plain, last, *(usual * one for one in levels), *(usual * one for one in calendar)]
        )
        known = np.arange(shop._past % _LEARN_EVERY_HOURS, shop._past - hours + 1, _LEARN_EVERY_HOURS)
        known = known[(known >= _WEEK * (self.skipped + 2)) & self.regular[known] & (usual[known] > 0)]
        value = _rolling(shop._base, hours)
        for begin in range(0, len(starts), _REFIT_STARTS):
            block = slice(begin, begin + _REFIT_STARTS)
            here = starts[block]
            train = known[known + hours <= here[0] - _GUARD_HOURS]
            if len(train) < _LEARN_FROM:
                continue
            recent = 0.5 ** ((here[0] - train) / 24 / _RECENCY_HALF_LIFE_DAYS)
            even = recent / (usual[train] / mean + 0.2)
            yield (
                block,
                ridge(sums[train] / mean, value[train] / mean, even, sums[here] / mean) * mean
                + quasi_poisson(
                    logs[train],
                    value[train] / mean,
                    recent,
                    (usual[train] + little) / mean,
                    logs[here],
                    (usual[here] + little) / mean,
                )
                * mean,
            )

    def _log_level(self, span: int, hourly: float) -> Floats:
        """How the `span` hours before each hour, the last six left out, compare with their profile.

        The last hours before a recorded start may belong to the outage already.
        """
        shop = self.shop
        earned = np.concatenate([[0.0], np.cumsum(shop._base[: shop._past])])
        usual = np.concatenate([[0.0], np.cumsum(self.profile)])
        end = np.clip(np.arange(shop._size) - _GUARD_HOURS, 0, shop._past)
        begin = np.maximum(end - span, 0)
        little = 0.1 * hourly * span
        ratio = (earned[end] - earned[begin] + little) / (usual[end] - usual[begin] + little)
        return np.asarray(np.clip(np.log(np.maximum(ratio, 1e-9)), -1.2, 1.2))

    def _profile(self, *, weeks: int = _PROFILE_WEEKS, decay: float = _PROFILE_DECAY) -> Floats:
        """The mean of the same hour of the last weeks, newer ones more, closed days left out."""
        shop = self.shop
        past = np.arange(shop._size) < shop._past
        known = np.where(shop._closed | ~past, np.nan, shop._base)
        total, weights = np.zeros(shop._size), np.zeros(shop._size)
        for back in range(weeks):
            shift = _WEEK * (self.skipped + back)
            if shift >= shop._size:
                break
            lagged = np.full(shop._size, np.nan)
            lagged[shift:] = known[:-shift]
            weight = np.where(np.isnan(lagged), 0.0, decay**back)
            total += np.nan_to_num(lagged) * weight
            weights += weight
        return np.where(shop._closed, 0.0, _divide(total, weights))

    def _level(self, starts: npt.NDArray[np.int64]) -> Floats:
        """The root of how the last two weeks before each start compare with their own profile."""
        sums = np.concatenate(
            [[0.0], np.cumsum(np.where(np.arange(self.shop._size) < self.shop._past, self.shop._base, 0))]
        )
        usual = np.concatenate([[0.0], np.cumsum(self.profile)])
        low = np.maximum(starts - _LEVEL_HOURS, 0)
        ratio = _divide(sums[starts] - sums[low], usual[starts] - usual[low], otherwise=1.0)
        level: Floats = np.sqrt(np.clip(ratio, 0.5, 2.0))
        return level

    def _untagged(self, starts: npt.NDArray[np.int64], base: Floats, base_expected: Floats) -> Floats:
        """Without tags: what more or fewer messages than usual bring, by a ridge walked forward over the placebos."""
        shop = self.shop
        columns = []
        for kind in shop.kinds:
            pressure = shop._pressures[kind]
            usual = np.zeros(shop._size)
            for back in range(1, _PROFILE_WEEKS + 1):
                shift = _WEEK * back
                usual[shift:] += pressure[:-shift] / _PROFILE_WEEKS
            columns.append(_rolling(pressure - usual, self.hours)[starts])
        features = np.column_stack(columns) if columns else np.zeros((len(starts), 0))
        result = np.zeros(len(starts))
        error = base[starts] - base_expected[starts]
        weight = 1 / np.maximum(base_expected[starts], 1.0)
        for index, start in enumerate(starts):
            train = starts + self.hours + _GUARD_HOURS <= start
            if train.sum() < 30 or not features.size:
                continue
            a, b, w = features[train], error[train], weight[train]
            size = np.maximum(np.sqrt((a**2).mean(axis=0)), 1e-9)
            z = a / size
            gram = (z * w[:, None]).T @ z + 0.05 * w.sum() * np.eye(z.shape[1])
            result[index] = features[index] / size @ np.linalg.solve(gram, (z * w[:, None]).T @ b)
        return result


def _begin(before: pd.Series[Any], start: pd.Timestamp) -> pd.Timestamp:
    """Return the first order after the last four weeks without any, at most two years back.

    A single order that a wrong clock dated long ago makes no history.
    """
    recent = before[before >= start - _LONGEST_HISTORY].sort_values()
    if recent.empty:
        return start
    gap = recent.diff() > pd.Timedelta(days=MINIMUM_HISTORY_DAYS)
    first: pd.Timestamp = recent[gap].iloc[-1] if gap.any() else recent.iloc[0]
    return first


def _curve(orders: pd.DataFrame) -> Floats:
    """Share of the value that comes in each hour after the send; without orders the whole in the first hours."""
    if len(orders) == 0:
        guess = np.exp(-np.arange(_LONGEST_LAG) / 8.0)
        return np.asarray(guess / guess.sum())
    value = np.bincount(orders["lag"], minlength=_LONGEST_LAG).astype(np.float64)
    return np.asarray(value / value.sum())


def placebo_weights(age_days: Floats, scale: Floats, scale_now: float) -> Floats:
    """Return how much placebo windows count for a window: newer ones (half-life 26 weeks) and alike ones more.

    Args:
        age_days: days from the start of each placebo to that of the window.
        scale: size of an ordinary error of each placebo.
        scale_now: that of the window.
    """
    unlike = np.log(np.maximum(scale, 1.0)) - math.log(max(scale_now, 1.0))
    weight: Floats = 0.5 ** (age_days / _RECENCY_HALF_LIFE_DAYS)
    return weight * (np.exp(-0.5 * (unlike / _SIMILARITY_SD) ** 2) + 1e-6)


def conformal_bounds(score: Floats, weight: Floats, level: float) -> tuple[float, float]:
    """Bounds of a new score: weighted quantiles, the new point's own weight (1, its kernel at itself) at infinity.

    At 95 % the mean of signed and symmetric bounds: tails are less noisy so. A bound that would be infinite is
    extrapolated by a quarter of the range; the weight of all placebos is below `LOW_CONFIDENCE_BELOW` then.
    """
    low = _corrected(score, weight, (1 - level) / 2)
    high = _corrected(score, weight, (1 + level) / 2)
    if level >= 0.9:
        both = _corrected(np.abs(score), weight, level)
        low, high = (low - both) / 2, (high + both) / 2
    return low, high


def _corrected(score: Floats, weight: Floats, probability: float) -> float:
    if probability < 0.5:
        return -_corrected(-score, weight, 1 - probability)
    order = np.argsort(score, kind="stable")
    cumulative = np.cumsum(weight[order])
    position = int(np.searchsorted(cumulative, probability * (cumulative[-1] + 1.0) - 1e-9))
    if position >= len(score):
        return float(score[order[-1]] + 0.25 * (score[order[-1]] - score[order[0]]))
    return float(score[order[position]])


def _rolling(values: Floats, hours: int) -> Floats:
    """Totals of `values` over `hours` from each position; the last ones are short."""
    sums = np.concatenate([[0.0], np.cumsum(values)])
    position = np.arange(len(values))
    totals: Floats = sums[np.minimum(position + hours, len(values))] - sums[position]
    return totals


def _slope(x: Floats, y: Floats) -> float:
    """Regression through the origin, between 0 (the control says nothing) and 1.2."""
    return float(np.clip(_ratio(float(x @ y), float(x @ x)), 0.0, 1.2))


def _divide(a: Floats, b: Floats, otherwise: float = 0.0) -> Floats:
    return np.asarray(np.divide(a, b, out=np.full(len(a), otherwise), where=b > 0))


def _ratio(a: float, b: float) -> float:
    return a / b if b > 0 else 0.0


def _size_biased(value: Floats) -> float:
    """Value-weighted mean basket: variance of a compound Poisson total per unit of its mean."""
    return _ratio(float((value**2).sum()), float(value.sum()))


def _check(frame: pd.DataFrame, columns: tuple[str, ...], name: str) -> None:
    if missing := [column for column in columns if column not in frame.columns]:
        raise ImpactError(f"{name} lack {', '.join(missing)}", where=name)
