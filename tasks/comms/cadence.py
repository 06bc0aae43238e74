"""The promise of the next update: when it is due, and whether earlier ones were kept. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

PromiseStatus = Literal["kept", "late", "pending", "overdue"]


@dataclass(frozen=True)
class Told:
    """One message that reached its channel, with the time of the next that it promised (None: the last one)."""

    stakeholder: str
    sent_at: datetime
    promised_next_at: datetime | None


@dataclass(frozen=True)
class Promise:
    """A promised update and what became of it.

    Attributes:
        kept_at: when the next message went out; None while there is none.
        late_by: how long after the promised time that was, or has been so far.
    """

    stakeholder: str
    made_at: datetime
    promised_at: datetime
    kept_at: datetime | None
    status: PromiseStatus
    late_by: timedelta


def next_update_at(now: datetime, every_minutes: int) -> datetime:
    """Return the time to promise for the next update: a whole minute, never sooner than the cadence says."""
    exact = now + timedelta(minutes=every_minutes)
    whole = exact.replace(second=0, microsecond=0)
    return whole if whole == exact else whole + timedelta(minutes=1)


def judge_promises(told: Iterable[Told], now: datetime) -> list[Promise]:
    """Return every promise made, per stakeholder in the order they were made, judged as of `now`.

    A promise is kept by the next message to the same stakeholder if that was sent by the promised time, else it is
    late; without one it is pending until its time, then overdue.
    """
    by_stakeholder: dict[str, list[Told]] = {}
    for one in told:
        by_stakeholder.setdefault(one.stakeholder, []).append(one)
    promises = []
    for messages in by_stakeholder.values():
        messages.sort(key=lambda one: one.sent_at)
        followers: list[Told | None] = [*messages[1:], None]
        for message, follower in zip(messages, followers, strict=True):
            if message.promised_next_at is not None:
                kept_at = follower.sent_at if follower else None
                promises.append(_judge(message, message.promised_next_at, kept_at, now))
    return promises


def due(told: Iterable[Told], now: datetime) -> list[str]:
    """Return the stakeholders whose promised update is due at `now`, in the order of the promised times."""
    waiting = [one for one in judge_promises(told, now) if one.kept_at is None and one.promised_at <= now]
    return [one.stakeholder for one in sorted(waiting, key=lambda one: one.promised_at)]


def _judge(message: Told, promised_at: datetime, kept_at: datetime | None, now: datetime) -> Promise:
    late_by = max(timedelta(0), (kept_at or now) - promised_at)
    answered: PromiseStatus = "late" if late_by else "kept"
    unanswered: PromiseStatus = "overdue" if late_by else "pending"
    status = unanswered if kept_at is None else answered
    return Promise(message.stakeholder, message.sent_at, promised_at, kept_at, status, late_by)
