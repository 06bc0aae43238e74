"""What an outage really did, computed from the world itself: the figures that a report is held against.

Every figure is defined here, so that a report can compute the same thing from snapshots and the journal. No report
reads this.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

LATE_AFTER = timedelta(minutes=5)
"""A message counts as delayed when it went out more than this later than planned."""

Key = tuple[int, int]
"""(original campaign, subscriber)."""


@dataclass(frozen=True)
class MessageTruth:
    """Messages, each a campaign and a subscriber; a catch-up copy counts as its original campaign.

    A message's planned time is when the undisturbed world (same engine, same opt-outs, no outage) sends it. Messages
    whose outcome the sender's log leaves open (`sending`: the process died between handing over and noting) are
    counted in `unknown` only, whatever the mailbox shows.

    Attributes:
        due: planned from impact_started_at (included) to restored_at (excluded).
        delayed: due, and delivered more than five minutes after the planned time.
        on_time: due, and delivered within five minutes of it.
        suppressed: due, never delivered, and the person opted out after the planned time.
        dropped: due, never delivered, for any other reason. due = delayed + on_time + suppressed + dropped.
        unknown: left in the state `sending` by the outage.
        unknown_delivered: of these, how many the mailbox holds. Only the judge knows.
        duplicated: messages that the mailbox holds more than once.
        after_latest_useful: delivered after the campaign's latest_useful_at.
        to_opted_out: delivered after the person's opt-out had reached the shop.
    """

    due: int
    delayed: int
    on_time: int
    suppressed: int
    dropped: int
    unknown: int
    unknown_delivered: int
    duplicated: int
    after_latest_useful: int
    to_opted_out: int


@dataclass(frozen=True)
class LossTruth:
    """Revenue of generated e-mail orders in minor units, booked in the settled window.

    The settled window is [impact_started_at, settled_at), with settled_at = resolved_at + settle_hours.

    Attributes:
        gross_minor: what the messages planned from impact to restoration would have brought in the undisturbed world.
        deferred_minor: what those same messages brought although late (or, where unknown, in time), and what messages
            brought that only went out because of the outage (to people who had opted out meanwhile).
        net_minor: gross - deferred; equals all e-mail revenue of the undisturbed world minus that of the actual one.
        during_outage_minor: undisturbed minus actual e-mail revenue booked in [impact_started_at, restored_at).
        currency: ISO 4217.
    """

    gross_minor: int
    deferred_minor: int
    net_minor: int
    during_outage_minor: int
    currency: str = "GBP"


@dataclass(frozen=True)
class Truth:
    """The whole truth of one outage.

    Attributes:
        impact_started_at: the first moment at which something was due and could not happen.
        restored_at: when the provider worked again (not when somebody noticed).
        settled_at: end of the window of `loss`.
        messages: see `MessageTruth`.
        loss: see `LossTruth`.
        rows_at_risk: per raw table of a source, rows born after the consistency point of that source's last valid
            snapshot and up to impact_started_at. A row is born at its created_at, ordered_at, returned_at, queued_at,
            occurred_at, requested_at or received_at; a line with its order or return.
        rows_lost: per table, rows that existed at impact and were gone after the restoration.
        opted_out_during: who opted out at the shop from impact to restoration, and when.
    """

    impact_started_at: datetime
    restored_at: datetime
    settled_at: datetime
    messages: MessageTruth
    loss: LossTruth
    rows_at_risk: dict[str, int]
    rows_lost: dict[str, int]
    opted_out_during: list[dict[str, Any]]

    def write(self, path: Path) -> None:
        """Write the truth as JSON."""
        path.write_text(json.dumps(asdict(self), default=str, indent=1) + "\n")


@dataclass(frozen=True)
class Delivery:
    """One message in a mailbox, counted as its original campaign."""

    key: Key
    at: datetime


@dataclass(frozen=True)
class Booking:
    """One generated order and the message that brought it."""

    key: Key
    ordered_at: datetime
    value_minor: int


def message_truth(
    planned: Mapping[Key, datetime],
    delivered: Sequence[Delivery],
    *,
    unknown: Collection[Key],
    opted_out: Mapping[int, datetime],
    latest_useful: Mapping[int, datetime],
    impact_started_at: datetime,
    restored_at: datetime,
) -> MessageTruth:
    """Count the messages of an outage (pure).

    Args:
        planned: when the undisturbed world sends each message.
        delivered: what the mailbox holds.
        unknown: messages whose outcome the sender's log leaves open.
        opted_out: per subscriber, when the opt-out reached the shop.
        latest_useful: per original campaign that has one.
        impact_started_at: start of the outage.
        restored_at: its end.
    """
    first: dict[Key, datetime] = {}
    for one in delivered:
        first[one.key] = min(one.at, first.get(one.key, one.at))
    due = {
        key: at for key, at in planned.items() if impact_started_at <= at < restored_at and key not in unknown
    }
    delayed = sum(1 for key, at in due.items() if key in first and first[key] > at + LATE_AFTER)
    on_time = sum(1 for key, at in due.items() if key in first and first[key] <= at + LATE_AFTER)
    missing = [key for key in due if key not in first]
    suppressed = sum(1 for key in missing if key[1] in opted_out and opted_out[key[1]] >= due[key])
    return MessageTruth(
        due=len(due),
        delayed=delayed,
        on_time=on_time,
        suppressed=suppressed,
        dropped=len(missing) - suppressed,
        unknown=len(unknown),
        unknown_delivered=sum(1 for key in unknown if key in first),
        duplicated=len(delivered) - len(first),
        after_latest_useful=sum(
            1 for one in delivered if one.key[0] in latest_useful and one.at > latest_useful[one.key[0]]
        ),
        to_opted_out=sum(
            1 for one in delivered if one.key[1] in opted_out and one.at > opted_out[one.key[1]]
        ),
    )


def loss_truth(
    undisturbed: Sequence[Booking],
    actual: Sequence[Booking],
    planned: Mapping[Key, datetime],
    *,
    impact_started_at: datetime,
    restored_at: datetime,
    settled_at: datetime,
    currency: str,
) -> LossTruth:
    """Sum what an outage cost (pure)."""

    def worth(bookings: Sequence[Booking], until: datetime, keys: Collection[Key] | None = None) -> int:
        return sum(
            one.value_minor
            for one in bookings
            if impact_started_at <= one.ordered_at < until and (keys is None or one.key in keys)
        )

    hit = {key for key, at in planned.items() if impact_started_at <= at < restored_at}
    gross = worth(undisturbed, settled_at, hit)
    extra = {one.key for one in actual if one.key not in planned}
    deferred = worth(actual, settled_at, hit | extra)
    return LossTruth(
        gross_minor=gross,
        deferred_minor=deferred,
        net_minor=gross - deferred,
        during_outage_minor=worth(undisturbed, restored_at) - worth(actual, restored_at),
        currency=currency,
    )
