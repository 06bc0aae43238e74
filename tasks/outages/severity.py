"""Severity from the send calendar: the same fault is SEV-5 at 03:00 on a Tuesday and SEV-1 on the evening of a sale.

Not from error rates: what counts is who was to be mailed before the provider is likely back, what is useless later,
the money that hangs on it, and whether people's opt-outs still get through. Pure; the calendar is passed in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from tasks.core import plural

LIKELY_OUTAGE = timedelta(hours=4)
"""How long a disruption that has just begun is taken to last: Klaviyo's took 1 to 5 hours, one of Mandrill's 40."""

SOON = timedelta(hours=12)
"""A send that is useless within this time is time-critical."""

LAST_MINUTE = timedelta(hours=1)
"""A send that is useless within this time, or already is, is as bad as a lost one."""


@dataclass(frozen=True)
class DueSend:
    """A campaign that is not finished, as the calendar knows it.

    Attributes:
        campaign_id: the provider's id.
        name: the campaign's name, for the sentence that explains the severity.
        kind: `newsletter`, `launch`, `sale`, `winback`, `transactional` or `other`.
        due_at: when it goes out; for one that runs, when it began.
        recipients: messages that are still to go.
        latest_useful_at: after it the message must not go out; None when it stays useful.
        value_minor: what it is expected to bring, in minor units; 0 when unknown.
    """

    campaign_id: int
    name: str
    kind: str
    due_at: datetime
    recipients: int
    latest_useful_at: datetime | None = None
    value_minor: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Return the send as JSON-able values."""
        useful = self.latest_useful_at
        return {
            "campaign_id": self.campaign_id,
            "name": self.name,
            "kind": self.kind,
            "due_at": self.due_at.isoformat(),
            "recipients": self.recipients,
            "latest_useful_at": None if useful is None else useful.isoformat(),
            "value_minor": self.value_minor,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> DueSend:
        """Return the send that `to_dict` wrote."""
        useful = content["latest_useful_at"]
        return cls(
            campaign_id=content["campaign_id"],
            name=content["name"],
            kind=content["kind"],
            due_at=datetime.fromisoformat(content["due_at"]),
            recipients=content["recipients"],
            latest_useful_at=None if useful is None else datetime.fromisoformat(useful),
            value_minor=content["value_minor"],
        )


@dataclass(frozen=True)
class Usual:
    """What is usual for this company, so that the same figures weigh the same in a small and in a large one.

    Attributes:
        audience: subscribers who may be mailed; 0 when unknown.
        daily_revenue_minor: revenue of an average day, in minor units; 0 when unknown.
    """

    audience: int = 0
    daily_revenue_minor: int = 0


@dataclass(frozen=True)
class Severity:
    """How bad an outage is now: SEV-1 (worst) to SEV-5, and why.

    Attributes:
        level: 1 to 5.
        reasons: what raised it, one sentence each, most weighty first; empty when nothing is due.
        recipients: messages due before the likely restore.
        time_critical: campaigns that become useless within `SOON`.
        revenue_at_risk_minor: expected revenue of the campaigns that are due, in minor units.
        likely_restore_at: until when the calendar was read.
    """

    level: int
    reasons: tuple[str, ...]
    recipients: int
    time_critical: int
    revenue_at_risk_minor: int
    likely_restore_at: datetime


def severity_of(
    calendar: Sequence[DueSend] | None,
    now: datetime,
    *,
    usual: Usual = Usual(),
    consent_failing: bool = False,
    likely_outage: timedelta = LIKELY_OUTAGE,
) -> Severity:
    """Return the severity of an outage that is on at `now`.

    Points: reach (2 for half of the audience, else 1), urgency (1 due, 2 useless within 12 hours, 3 before the likely
    restore, 4 within the hour or already), money (2 for a usual day's revenue, 1 for a tenth), consent (1 for mail that
    people asked for). 0 points are SEV-5, 7 or more SEV-1. Opt-outs that are not accepted are SEV-3 at least: they
    must be honoured within 48 hours (Google sender guidelines). A calendar that could not be read is taken as
    SEV-2: assume the worst until somebody knows (PagerDuty).

    With the same unfinished sends the level never falls as time passes, nor when a send, recipients or money are
    added.

    Args:
        calendar: unfinished sends, overdue ones included; None when it is not known.
        now: the time of the judgement.
        usual: what the figures are weighed against; unknown figures weigh nothing.
        consent_failing: whether opt-outs are known not to be accepted.
        likely_outage: from `now` on, how long the outage is taken to last.
    """
    restore = now + likely_outage
    if calendar is None:
        reason = "the send calendar could not be read: the worst is assumed"
        return Severity(2, (reason,), 0, 0, 0, restore)
    due = [send for send in calendar if send.due_at < restore and send.recipients > 0]
    recipients = sum(send.recipients for send in due)
    money = sum(send.value_minor for send in due)
    critical = [send for send in due if _urgency(send, now, restore) >= 2]
    weighed: list[tuple[int, str]] = []
    if due:
        half = bool(usual.audience) and 2 * recipients >= usual.audience
        weighed.append((1 + half, f"{plural(recipients, 'message')} due by {restore:%H:%M} UTC"))
        worst = max(due, key=lambda send: (_urgency(send, now, restore), send.recipients))
        weighed.append((_urgency(worst, now, restore), _why_urgent(worst, now)))
    if usual.daily_revenue_minor and 10 * money >= usual.daily_revenue_minor:
        share = 100 * money // usual.daily_revenue_minor
        weighed.append(
            (1 + (money >= usual.daily_revenue_minor), f"{share} % of a usual day's revenue hangs on it")
        )
    if any(send.kind == "transactional" for send in due):
        weighed.append((1, "mail that people asked for is due"))
    points = sum(weight for weight, _ in weighed)
    level = 5 if points == 0 else 4 if points <= 2 else 3 if points <= 4 else 2 if points <= 6 else 1
    if consent_failing:
        weighed.append((2, "opt-outs are not accepted"))
        level = min(level, 3)
    weighed.sort(key=lambda pair: -pair[0])
    return Severity(level, tuple(why for _, why in weighed), recipients, len(critical), money, restore)


def _urgency(send: DueSend, now: datetime, restore: datetime) -> int:
    useful = send.latest_useful_at
    if useful is None:
        return 1
    if useful <= now + LAST_MINUTE:
        return 4
    if useful <= restore:
        return 3
    return 2 if useful <= now + SOON else 1


def _why_urgent(send: DueSend, now: datetime) -> str:
    useful = send.latest_useful_at
    if useful is None:
        return f"{send.name!r} is due, and stays useful"
    if useful <= now:
        return f"{send.name!r} is useless since {useful:%Y-%m-%d %H:%M} UTC"
    return f"{send.name!r} is useless after {useful:%Y-%m-%d %H:%M} UTC"
