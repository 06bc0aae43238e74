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

PUBLIC_OUTAGES = (
    timedelta(minutes=20),  # Klaviyo 2023-10-23, opt-outs failing
    timedelta(hours=1),  # Klaviyo 2023-11-09
    timedelta(hours=1, minutes=14),  # Klaviyo 2024-04-05
    timedelta(hours=5),  # Klaviyo, Cyber Monday
    timedelta(hours=40, minutes=34),  # Mandrill 2019-02-04
)
"""How long disruptions of e-mail providers took that are told in public: taken where a provider's own are few."""

ENOUGH_OUTAGES = 5
"""So many outages of a provider say more about its next than those of others."""

LIKELY_OUTAGE = timedelta(hours=5)
"""How long a disruption that has just begun is taken to last where nothing else is known: `PUBLIC_OUTAGES`."""

LAST_HOURS = timedelta(hours=4)
"""So long before an opt-out must be honoured, nothing is more urgent."""

HONOURED_WITHIN = timedelta(hours=48)
"""An opt-out must have been honoured by then (Google sender guidelines 2024)."""

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
        restore_basis: from what that was taken, in words.
    """

    level: int
    reasons: tuple[str, ...]
    recipients: int
    time_critical: int
    revenue_at_risk_minor: int
    likely_restore_at: datetime
    restore_basis: str = ""


@dataclass(frozen=True)
class Restore:
    """When an outage is likely to be over, and from what that is taken, in words."""

    at: datetime
    basis: str


def likely_restore(began: datetime, now: datetime, past: Sequence[timedelta] = ()) -> Restore:
    """Return when an outage that began at `began` is likely to be over: three of four such were, by then.

    Only past outages that lasted longer than this one has are like it; one that outlasts them all is taken to be half
    over. The upper quartile, not the middle: to be late in stopping a send costs more than to be early. As time
    passes the answer never moves back.

    Args:
        began: when it began, as far as known.
        now: the time of the judgement, not before `began`.
        past: how long earlier outages of the provider lasted, in any order.
    """
    own = len(past) >= ENOUGH_OUTAGES
    known = sorted(past if own else (*past, *PUBLIC_OUTAGES))
    lasted = now - began
    longer = [one for one in known if one > lasted]
    whose = f"its {len(known)} past outages" if own else f"{len(known)} outages of this and other providers"
    if not longer:
        return Restore(now + max(lasted, LAST_MINUTE), f"it has outlasted {whose}: taken to be half over")
    quartile = -(-3 * len(longer) // 4) - 1
    total = longer[max(0, min(quartile, len(longer) - 2))]  # the longest decides only where it is the last
    told = (
        whose
        if len(longer) == len(known)
        else f"the {len(longer)} of {whose} that lasted longer than this one"
    )
    return Restore(began + total, f"most of {told} were over after {in_hours(total)}")


def in_hours(span: timedelta) -> str:
    """Return a time in words, in hours and minutes: `1 h 14 min`."""
    hours, minutes = divmod(round(span.total_seconds() / 60), 60)
    return " ".join([f"{hours} h"] * bool(hours) + [f"{minutes} min"] * bool(minutes or not hours))


def severity_of(
    calendar: Sequence[DueSend] | None,
    now: datetime,
    *,
    usual: Usual = Usual(),
    consent_failing: bool = False,
    consent_waits_since: datetime | None = None,
    restore: Restore | None = None,
) -> Severity:
    """Return the severity of an outage that is on at `now`.

    Points: reach (2 for half of the audience, else 1), urgency (1 due, 2 useless within 12 hours, 3 before the likely
    restore, 4 within the hour or already), money (2 for a usual day's revenue, 1 for a tenth), consent (1 for mail that
    people asked for). 0 points are SEV-5, 7 or more SEV-1. A calendar that could not be read is taken as SEV-2: assume
    the worst until somebody knows (PagerDuty). Opt-outs that are not accepted are SEV-3 at least, SEV-2 when one of
    them must be honoured within a day, SEV-1 when within four hours.

    With the same unfinished sends the level never falls as time passes, nor when a send, recipients or money are
    added.

    Args:
        calendar: unfinished sends, overdue ones included; None when it is not known.
        now: the time of the judgement.
        usual: what the figures are weighed against; unknown figures weigh nothing.
        consent_failing: whether opt-outs are known not to be accepted.
        consent_waits_since: when the oldest opt-out was made that the provider has not accepted.
        restore: when the outage is likely to be over; None takes one that has just begun.
    """
    restore = restore or likely_restore(now, now)
    if calendar is None:
        level, due, weighed = 2, [], [(4, "the send calendar could not be read: the worst is assumed")]
    else:
        due = [send for send in calendar if send.due_at < restore.at and send.recipients > 0]
        weighed = _weighed(due, now, restore.at, usual)
        points = sum(weight for weight, _ in weighed)
        level = 5 if points == 0 else 4 if points <= 2 else 3 if points <= 4 else 2 if points <= 6 else 1
    if consent_failing or consent_waits_since is not None:
        worst, why = _consent(consent_waits_since, now)
        weighed.append((6 - worst, why))
        level = min(level, worst)
    weighed.sort(key=lambda pair: -pair[0])
    return Severity(
        level=level,
        reasons=tuple(why for _, why in weighed),
        recipients=sum(send.recipients for send in due),
        time_critical=sum(_urgency(send, now, restore.at) >= 2 for send in due),
        revenue_at_risk_minor=sum(send.value_minor for send in due),
        likely_restore_at=restore.at,
        restore_basis=restore.basis,
    )


def _weighed(due: Sequence[DueSend], now: datetime, restore: datetime, usual: Usual) -> list[tuple[int, str]]:
    """Return what speaks for a high severity, each with its points and in words."""
    if not due:
        return []
    recipients = sum(send.recipients for send in due)
    half = bool(usual.audience) and 2 * recipients >= usual.audience
    by = f"{restore:%H:%M}" if restore.date() == now.date() else f"{restore:%Y-%m-%d %H:%M}"
    weighed = [(1 + half, f"{plural(recipients, 'message')} due by {by} UTC, the likely restore")]
    worst = max(due, key=lambda send: (_urgency(send, now, restore), send.recipients))
    weighed.append((_urgency(worst, now, restore), _why_urgent(worst, now)))
    money = sum(send.value_minor for send in due)
    if usual.daily_revenue_minor and 10 * money >= usual.daily_revenue_minor:
        share = 100 * money // usual.daily_revenue_minor
        weighed.append(
            (1 + (money >= usual.daily_revenue_minor), f"{share} % of a usual day's revenue hangs on it")
        )
    asked_for = sum(send.recipients for send in due if send.kind == "transactional")
    if asked_for:
        weighed.append((1, f"{plural(asked_for, 'message')} that people asked for due"))
    return weighed


def _consent(waits_since: datetime | None, now: datetime) -> tuple[int, str]:
    """Return the level that opt-outs which are not accepted have at least, and why."""
    if waits_since is None:
        return 3, "opt-outs are not accepted"
    until = waits_since + HONOURED_WITHIN
    left = until - now
    level = 1 if left <= LAST_HOURS else 2 if left <= timedelta(hours=24) else 3
    return level, f"opt-outs are not accepted: the first must be honoured by {until:%Y-%m-%d %H:%M} UTC"


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
