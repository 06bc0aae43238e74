"""What a delivered message brings: the generated part of the sample shop's revenue, with its truth.

Online Retail has no campaigns, so the drills and the coverage test add e-mail orders that this model generates.
Whether, when and for how much a subscriber buys depends only on the seed, the campaign, the subscriber and how
late the message came. Two runs of one world that differ only by an outage therefore differ only by what the
outage did: their difference is the true loss, exactly. Estimates never use this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from tasks.impact.errors import ImpactError

OPENING_HOUR = 8
CLOSING_HOUR = 18
_SATURDAY = 5
_HOUR = 3_600_000_000
_DAY = 24 * _HOUR
_MAX_BASKET_MINOR = 300_000

# One stream of random numbers per question that is asked about a message.
_BUYS, _QUICK, _DELAY, _VALUE_RADIUS, _VALUE_ANGLE, _MORNING, _AFFINITY, _APPEAL, _APPEAL_ANGLE = range(9)


@dataclass(frozen=True)
class ResponseProfile:
    """How subscribers answer a campaign of one kind (generated, not measured).

    Attributes:
        probability: share of recipients who buy when the message comes at its planned time.
        quick_share: share of the buyers who buy soon; the others take their time.
        quick_hours: mean delay of the quick ones, in hours.
        slow_hours: mean delay of the others, in hours.
        longest_hours: nobody buys later than this after the message.
        basket_median_minor: median basket in minor units.
        basket_sigma: spread of the logarithm of the basket.
        half_life_hours: lateness after which half of the buyers are no longer interested.
        worthless_after_hours: lateness after which nobody buys.
    """

    probability: float
    quick_share: float
    quick_hours: float
    slow_hours: float
    longest_hours: float
    basket_median_minor: int
    basket_sigma: float
    half_life_hours: float
    worthless_after_hours: float


RESPONSE_PROFILES: dict[str, ResponseProfile] = {
    "newsletter": ResponseProfile(0.040, 0.70, 2.0, 12.0, 72, 24_000, 0.75, 24, 96),
    "launch": ResponseProfile(0.065, 0.80, 1.5, 10.0, 48, 25_000, 0.75, 5, 24),
    "sale": ResponseProfile(0.105, 0.85, 1.5, 4.0, 10, 22_000, 0.70, 6, 12),
    "winback": ResponseProfile(0.022, 0.50, 4.0, 24.0, 96, 16_000, 0.70, 120, 480),
}
"""Sized so that e-mail brings 20 to 30 % of the sample shop's revenue with a weekly newsletter, a monthly launch,
eight one-day sales a year and a weekly win-back batch."""


def respond_to_send(
    seed: int,
    campaign_id: int,
    kind: str,
    subscriber_ids: npt.ArrayLike,
    sent_at: datetime | npt.ArrayLike,
    planned_at: datetime | npt.ArrayLike,
) -> pa.Table:
    """Return the orders that one send brings, in the order of `subscriber_ids`, buyers only.

    A message that comes late finds fewer buyers, always a subset of those whom the punctual one would have found,
    with the same baskets and the same delay after the message. The shop books orders from 08:00 to 18:00 UTC and
    not on Saturdays: who decides outside these hours is booked in the first two hours of the next opening.

    Args:
        seed: the world's seed.
        campaign_id: the campaign as first planned; for a catch-up copy still the original's id.
        kind: `newsletter`, `launch`, `sale` or `winback`; any other kind brings no orders.
        subscriber_ids: whom the message reached, each at most once.
        sent_at: when it was sent (timezone-aware), one time or one per subscriber (`datetime64` in UTC).
        planned_at: when it should have been sent; early counts as punctual.

    Returns:
        `subscriber_id` (int64), `ordered_at` (timestamp[us, UTC]), `value_minor` (int64, minor units).

    Raises:
        ImpactError: times are without a zone, or their number does not fit the subscribers'.
    """
    ids = np.atleast_1d(np.asarray(subscriber_ids, dtype=np.int64))
    sent = _microseconds(sent_at, len(ids))
    late_hours = np.maximum(sent - _microseconds(planned_at, len(ids)), 0) / _HOUR
    profile = RESPONSE_PROFILES.get(kind)
    if profile is None or len(ids) == 0:
        return _orders(ids[:0], sent[:0], sent[:0])

    chance = profile.probability * _appeal(seed, campaign_id) * still_interested(kind, late_hours)
    chance *= 0.5 + _uniform(seed, 0, ids, _AFFINITY)
    bought = _uniform(seed, campaign_id, ids, _BUYS) < chance
    ids, sent = ids[bought], sent[bought]

    def draw(stream: int) -> npt.NDArray[np.float64]:
        return _uniform(seed, campaign_id, ids, stream)

    mean = np.where(draw(_QUICK) < profile.quick_share, profile.quick_hours, profile.slow_hours)
    within = 1 - np.exp(-profile.longest_hours / mean)
    delay = -mean * np.log1p(-draw(_DELAY) * within)
    decided = sent + (delay * _HOUR).astype(np.int64)
    normal = _normal(draw(_VALUE_RADIUS), draw(_VALUE_ANGLE))
    basket = profile.basket_median_minor * np.exp(profile.basket_sigma * normal)
    value = np.clip(np.rint(basket), 100, _MAX_BASKET_MINOR).astype(np.int64)
    return _orders(ids, _booked(decided, draw(_MORNING)), value)


def still_interested(kind: str, late_hours: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Return the share of the punctual buyers who still buy when the message comes `late_hours` late."""
    late = np.maximum(np.asarray(late_hours, dtype=np.float64), 0)
    profile = RESPONSE_PROFILES[kind]
    share: npt.NDArray[np.float64] = np.where(
        late >= profile.worthless_after_hours, 0.0, 0.5 ** (late / profile.half_life_hours)
    )
    return share


def _appeal(seed: int, campaign_id: int) -> float:
    """How well one campaign does against its kind: log-normal with mean 1."""
    one = np.zeros(1, dtype=np.int64)
    normal = _normal(
        _uniform(seed, campaign_id, one, _APPEAL), _uniform(seed, campaign_id, one, _APPEAL_ANGLE)
    )
    return float(np.exp(0.2 * normal[0] - 0.02))


def _booked(decided: npt.NDArray[np.int64], morning: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    day = decided // _DAY
    hour = (decided % _DAY) / _HOUR
    closed = (hour < OPENING_HOUR) | (hour >= CLOSING_HOUR) | (_weekday(day) == _SATURDAY)
    opens = np.where(hour >= CLOSING_HOUR, day + 1, day)
    opens = np.where(_weekday(opens) == _SATURDAY, opens + 1, opens)
    opening = opens * _DAY + OPENING_HOUR * _HOUR + (morning * 2 * _HOUR).astype(np.int64)
    return np.where(closed, opening, decided)


def _weekday(day: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Monday is 0; 1970-01-01 was a Thursday."""
    weekday: npt.NDArray[np.int64] = (day + 3) % 7
    return weekday


def _normal(radius: npt.NDArray[np.float64], angle: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Box-Muller: two uniforms give one standard normal."""
    normal: npt.NDArray[np.float64] = np.sqrt(-2 * np.log(1 - radius)) * np.cos(2 * np.pi * angle)
    return normal


def _uniform(
    seed: int, campaign_id: int, subscriber_ids: npt.NDArray[np.int64], stream: int
) -> npt.NDArray[np.float64]:
    """Counter-based uniforms in [0, 1): a hash of the four numbers, so the order of calls does not matter."""
    key = np.uint64(seed & 0xFFFF_FFFF_FFFF_FFFF)
    with np.errstate(over="ignore"):
        for part in (campaign_id, stream):
            key = _mix(np.asarray([key ^ np.uint64(part & 0xFFFF_FFFF_FFFF_FFFF)]))[0]
        bits = _mix(_mix(subscriber_ids.astype(np.uint64) ^ key) + key)
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(value: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """SplitMix64's finaliser (Steele, Lea, Flood 2014)."""
    value = value + np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))


def _microseconds(moment: datetime | npt.ArrayLike, count: int) -> npt.NDArray[np.int64]:
    if isinstance(moment, datetime):
        if moment.tzinfo is None:
            raise ImpactError("A send time has no time zone", fix="give times in UTC")
        return np.full(count, round(moment.timestamp() * 1_000_000), dtype=np.int64)
    if isinstance(moment, Sequence) and moment and isinstance(moment[0], datetime):
        return (
            np.concatenate([_microseconds(one, 1) for one in moment])
            if len(moment) == count
            else _wrong(count)
        )
    values: Any = np.asarray(moment).astype("datetime64[us]").astype(np.int64)
    return values if values.shape == (count,) else _wrong(count)


def _wrong(count: int) -> npt.NDArray[np.int64]:
    raise ImpactError(f"{count} subscribers need {count} times", fix="give one time, or one per subscriber")


def _orders(
    ids: npt.NDArray[np.int64], ordered: npt.NDArray[np.int64], value: npt.NDArray[np.int64]
) -> pa.Table:
    return pa.table(
        {
            "subscriber_id": pa.array(ids, pa.int64()),
            "ordered_at": pa.array(ordered, pa.int64()).cast(pa.timestamp("us", "UTC")),
            "value_minor": pa.array(value, pa.int64()),
        }
    )
