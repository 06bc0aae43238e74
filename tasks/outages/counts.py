"""Our own counts: does `sent` of running campaigns move, are due ones started, opt-outs accepted, events received.

Only an outage explains a running campaign whose count stands still, whatever the API and the status page say
(knadh/listmonk #2921). Pure; what must be compared with the pass before is kept in small memories.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from tasks.core import plural
from tasks.outages.signals import Signal, Verdict

SLOW_SHARE = 0.5
"""Below this share of the provider's usual rate, sending counts as degraded."""

OVERDUE_AT_MOST = timedelta(hours=12)
"""A scheduled campaign that did not start for longer than this waits for people, not for the provider."""

LATE_EVENTS = timedelta(minutes=30)
"""Events that come later than this were held up on their way."""

EVENTS_EXPECTED_FROM = 20
"""So many accepted messages bring at least one webhook."""


@dataclass(frozen=True)
class CampaignCount:
    """How far a campaign is.

    Attributes:
        campaign_id: the provider's id.
        name: the campaign's name.
        status: the provider's word for its state.
        to_send: messages that it means to send; for one that has not begun, the audience as far as it is known.
        sent: messages that it says were sent.
        send_at: when it was due, for a scheduled one.
        started_at: when it began.
        kind: `newsletter`, `sale`, …, for the calendar.
        latest_useful_at: after it the message must not go out, where the campaign itself says so.
        list_ids: whom it goes to.
        bounced: bounces that the provider counts for it.
    """

    campaign_id: int
    name: str
    status: str
    to_send: int
    sent: int
    send_at: datetime | None = None
    started_at: datetime | None = None
    kind: str = "other"
    latest_useful_at: datetime | None = None
    list_ids: tuple[int, ...] = ()
    bounced: int = 0


@dataclass(frozen=True)
class SendingMemory:
    """What the last pass saw of the campaigns that were running.

    Attributes:
        moved: per campaign id, the last `sent` and when it last moved.
        at: the last pass in which campaigns could be read.
        accepted: messages that `sent` grew by in the last pass, and since when.
    """

    moved: Mapping[int, tuple[int, datetime]] = field(default_factory=dict)
    at: datetime | None = None
    accepted: int = 0
    accepted_since: datetime | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the memory as JSON-able values."""
        return {
            "moved": {str(key): [sent, at.isoformat()] for key, (sent, at) in self.moved.items()},
            "at": None if self.at is None else self.at.isoformat(),
            "accepted": self.accepted,
            "accepted_since": None if self.accepted_since is None else self.accepted_since.isoformat(),
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any] | None) -> SendingMemory:
        """Return the memory that `to_dict` wrote; nothing gives an empty one."""
        if not content:
            return cls()
        return cls(
            moved={
                int(key): (sent, datetime.fromisoformat(at)) for key, (sent, at) in content["moved"].items()
            },
            at=_moment(content["at"]),
            accepted=content["accepted"],
            accepted_since=_moment(content["accepted_since"]),
        )


def sending_signal(
    memory: SendingMemory,
    campaigns: Sequence[CampaignCount],
    now: datetime,
    *,
    stalled_minutes: int,
    messages_per_minute: int,
) -> tuple[SendingMemory, Signal]:
    """Return the memory for the next pass and the `sending` signal of this one.

    bad: a running campaign's `sent` stood still for `stalled_minutes`, or a scheduled one is overdue by as much.
    degraded: all running ones together moved at less than half of `messages_per_minute` since the last pass.
    good: something moved. unknown: nothing runs, or it is too early to say.
    """
    patience = timedelta(minutes=stalled_minutes)
    running = [one for one in campaigns if one.status == "running" and one.sent < one.to_send]
    moved: dict[int, tuple[int, datetime]] = {}
    accepted = 0
    for one in campaigns:
        before = memory.moved.get(one.campaign_id)
        if before is not None:
            accepted += max(0, one.sent - before[0])
    for one in running:
        before = memory.moved.get(one.campaign_id)
        if before is None:
            moved[one.campaign_id] = (one.sent, one.started_at if one.started_at and not one.sent else now)
        else:
            moved[one.campaign_id] = before if one.sent == before[0] else (one.sent, now)
    kept = SendingMemory(moved, now, accepted, memory.at)
    stalled = [one for one in running if now - moved[one.campaign_id][1] >= patience]
    overdue = [
        one
        for one in campaigns
        if one.status == "scheduled"
        and one.to_send > 0
        and one.send_at is not None
        and patience <= now - one.send_at <= OVERDUE_AT_MOST
    ]
    details = {
        "running": len(running),
        "stalled": [one.campaign_id for one in stalled],
        "overdue": [one.campaign_id for one in overdue],
        "accepted": accepted,
    }
    verdict, seen = _sending_verdict(memory, running, stalled, overdue, accepted, now, messages_per_minute)
    return kept, Signal("sending", verdict, seen, now, details)


def _sending_verdict(
    memory: SendingMemory,
    running: Sequence[CampaignCount],
    stalled: Sequence[CampaignCount],
    overdue: Sequence[CampaignCount],
    accepted: int,
    now: datetime,
    messages_per_minute: int,
) -> tuple[Verdict, str]:
    if stalled:
        worst = max(stalled, key=lambda one: one.to_send - one.sent)
        return "bad", f"{worst.name!r} runs but stands at {worst.sent:,} of {worst.to_send:,}"
    if overdue:
        late = max(overdue, key=lambda one: one.to_send)
        return "bad", f"{late.name!r} was due and has not begun"
    followed = [one for one in running if one.campaign_id in memory.moved]
    if memory.at is not None and followed and len(followed) == len(memory.moved):
        minutes = (now - memory.at).total_seconds() / 60
        expected = minutes * messages_per_minute
        if minutes >= 1 and accepted < SLOW_SHARE * expected:
            rate = accepted / minutes
            if accepted == 0:
                return "unknown", "nothing was sent since the last pass; too early to say more"
            return (
                "degraded",
                f"{rate:,.0f} messages a minute are sent where {messages_per_minute:,} are usual",
            )
    if accepted:
        return "good", f"{plural(accepted, 'message')} sent since the last pass"
    return "unknown", "campaigns have just begun" if running else "no campaign runs"


def consent_signal(requests: Sequence[tuple[datetime, bool]], at: datetime, *, window: timedelta) -> Signal:
    """Return the `consent` signal: bad when the newest two opt-outs or more were not accepted by the provider.

    Args:
        requests: when each was made and whether the provider accepted it, in any order; those from before the window
            only tell since when one waits.
        at: the time of the pass.
        window: how far back a request still says something about now.
    """
    recent = sorted((one for one in requests if at - window <= one[0] <= at), reverse=True)
    refused = next((index for index, (_, taken) in enumerate(recent) if taken), len(recent))
    waiting = [made for made, taken in requests if not taken and made <= at]
    details = {
        "requests": len(recent),
        "newest_not_accepted": refused,
        "waiting": len(waiting),
        # One that was refused once, and taken when people tried again, does not keep an outage from being over.
        "waits_since": min(waiting).isoformat() if len(waiting) > 1 else None,
    }
    if not recent:
        return Signal("consent", "unknown", "nobody opted out lately", at, details)
    if refused == 0:
        return Signal("consent", "good", "opt-outs are accepted", at, details)
    verdict: Verdict = "bad" if refused > 1 else "degraded"
    return Signal("consent", verdict, f"the newest {plural(refused, 'opt-out')} not accepted", at, details)


def webhook_signal(
    memory: SendingMemory, receipts: int | None, at: datetime, *, lag: timedelta | None = None
) -> Signal:
    """Return the `webhooks` signal: degraded when messages were accepted and no event about any came, or all came late.

    Args:
        memory: as it was before this pass: what was accepted in the pass before has had time to bring events.
        receipts: events received since `memory.accepted_since`; None when they cannot be counted.
        at: the time of the pass.
        lag: how late the promptest of these events came; old ones that are delivered late beside it say nothing.
    """
    minutes = None if lag is None else round(lag.total_seconds() / 60, 1)
    details = {"accepted": memory.accepted, "receipts": receipts, "lag_minutes": minutes}
    if receipts and lag is not None and lag > LATE_EVENTS:
        return Signal("webhooks", "degraded", f"webhooks come {minutes:.0f} minutes late", at, details)
    if receipts is None or memory.accepted < EVENTS_EXPECTED_FROM:
        return Signal("webhooks", "unknown", "too few messages to expect events", at, details)
    if receipts == 0:
        seen = f"{plural(memory.accepted, 'message')} accepted, and no webhook about any of them"
        return Signal("webhooks", "degraded", seen, at, details)
    return Signal("webhooks", "good", "webhooks arrive", at, details)


@dataclass(frozen=True)
class SeedMemory:
    """The seed message that is on its way, and how the one before ended.

    Attributes:
        token: names the seed that is on its way; empty when none is.
        sent_at: when the provider accepted it.
        last: how the last one ended.
    """

    token: str = ""
    sent_at: datetime | None = None
    last: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the memory as JSON-able values."""
        sent = None if self.sent_at is None else self.sent_at.isoformat()
        return {"token": self.token, "sent_at": sent, "last": self.last}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any] | None) -> SeedMemory:
        """Return the memory that `to_dict` wrote; nothing gives an empty one."""
        if not content:
            return cls()
        return cls(content["token"], _moment(content["sent_at"]), content["last"])


def seed_signal(
    memory: SeedMemory, arrived: bool | None, now: datetime, *, patience: timedelta
) -> tuple[SeedMemory, Signal]:
    """Return the memory without the seed that has ended, and the `seed` signal.

    A seed is looked for in the pass after it was sent, so that no pass waits for mail. Once one was lost the signal
    stays bad until a later one arrives.

    Args:
        memory: the seed on its way.
        arrived: whether the mailbox has it; None when the mailbox could not be read.
        now: the time of the pass.
        patience: how long a seed may take.
    """
    lost = memory.last == "lost"
    if memory.sent_at is None:
        return memory, Signal("seed", "unknown", "no seed message is on its way", now)
    minutes = (now - memory.sent_at).total_seconds() / 60
    details = {"minutes": round(minutes, 1)}
    if arrived is None:
        return memory, Signal("seed", "unknown", "the seed mailbox cannot be read", now, details)
    if arrived:
        return SeedMemory(last="arrived"), Signal(
            "seed", "good", "a seed message reached its mailbox", now, details
        )
    if now - memory.sent_at >= patience:
        seen = f"a seed message was accepted {minutes:.0f} minutes ago and has not arrived"
        return SeedMemory(last="lost"), Signal("seed", "bad", seen, now, details)
    if lost:
        return memory, Signal("seed", "bad", "no seed message has arrived since one was lost", now, details)
    return memory, Signal("seed", "unknown", "a seed message is on its way", now, details)


def seed_sent(memory: SeedMemory, token: str, now: datetime) -> SeedMemory:
    """Return the memory with the seed `token`, which the provider has just accepted."""
    return replace(memory, token=token, sent_at=now)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)
