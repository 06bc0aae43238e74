"""The plan table that an operator approves: a line per campaign that is due or in flight. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from tasks.core import Money, plural
from tasks.plan import LatenessRule
from tasks.providers import CampaignStatus, Capabilities, Capability, Kind, in_words

HORIZON = timedelta(hours=24)
"""How far ahead a response looks; a longer outage gets another run."""


_TIMES = ("due_at", "useful_until", "act_before", "lost_after")


@dataclass(frozen=True)
class Sending:
    """A campaign as the response reads it, from the provider or from the last good snapshot.

    Attributes:
        audience: people it still has to reach.
        value_minor: what a message of its kind brought on average, times the audience (attributed, minor units).
        of: whether it is a campaign or a batch of messages.
    """

    id: int
    name: str
    kind: str
    status: CampaignStatus
    send_at: datetime | None
    started_at: datetime | None
    latest_useful_at: datetime | None
    audience: int
    value_minor: int = 0
    of: Kind = "campaign"


@dataclass(frozen=True)
class PlanLine:
    """One campaign of the plan.

    Attributes:
        due_at: when it is or was due.
        useful_until: after it the message must not go out; None where neither campaign nor plan says.
        action: `pause`, `unschedule`, or empty where this provider has nothing that stops it.
        undo: what takes the action back; empty where nothing does.
        if_nothing: what happens if nobody acts, in words.
        at_stake_minor: attributed value of the people not reached yet.
        of: whether it is a campaign or a batch of messages.
        act_before: after it the provider does not promise to stop it any more; None where only its status counts.
        lost_after: a held message is thrown away by then; None where it is kept.
        by_hand: what only a person can do, at the provider's own site, where there is no `action`.
    """

    campaign_id: int
    name: str
    kind: str
    status: str
    audience: int
    due_at: datetime | None
    useful_until: datetime | None
    action: str
    undo: str
    if_nothing: str
    at_stake_minor: int
    of: Kind = "campaign"
    act_before: datetime | None = None
    lost_after: datetime | None = None
    by_hand: str = ""

    @property
    def undoable(self) -> bool:
        """Whether an action of the same provider takes it back."""
        return bool(self.undo)

    def to_json(self) -> dict[str, Any]:
        """Return this as plain JSON values."""
        times = {key: at.isoformat() if (at := getattr(self, key)) else None for key in _TIMES}
        return asdict(self) | times

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> PlanLine:
        """Return what `to_json` gave."""
        times = {key: datetime.fromisoformat(value[key]) if value.get(key) else None for key in _TIMES}
        return cls(**{**value, **times})

    def as_action(self) -> dict[str, Any]:
        """Return this line as the journal's approvals keep it."""
        return {"kind": self.action, "target": f"campaign/{self.campaign_id}", "undoable": self.undoable}


def plan_table(
    sendings: Iterable[Sending],
    capabilities: Capabilities,
    now: datetime,
    *,
    lateness: Mapping[str, LatenessRule],
    scope: Collection[int] = (),
    horizon: timedelta = HORIZON,
) -> list[PlanLine]:
    """Return a line for every campaign that runs or is due within `horizon`, the earliest deadline first.

    Args:
        sendings: the campaigns.
        capabilities: what the provider can do.
        now: the time of planning.
        lateness: until when each kind is useful, for campaigns that do not say so themselves.
        scope: campaign ids to look at; empty means all.
        horizon: how far ahead a scheduled campaign is looked at.
    """
    lines = []
    for one in sendings:
        running = one.status == "running"
        soon = one.status == "scheduled" and one.send_at is not None and one.send_at <= now + horizon
        if not (running or soon) or (scope and one.id not in scope):
            continue
        due = one.send_at or one.started_at
        rule = lateness.get(one.kind)
        useful = one.latest_useful_at or (due + rule.useful_for if due and rule else None)
        offered = capabilities.hold(one.status, one.of)
        hold = offered if offered and offered.in_time(one.send_at, now) else None
        lines.append(
            PlanLine(
                campaign_id=one.id,
                name=one.name,
                kind=one.kind,
                status=one.status,
                audience=one.audience,
                due_at=due,
                useful_until=useful,
                action=hold.action if hold else "",
                undo=(hold.undo or "") if hold else "",
                if_nothing=_if_nothing(one, capabilities, now, useful, offered),
                at_stake_minor=one.value_minor,
                of=one.of,
                act_before=one.send_at - offered.before
                if one.send_at and offered and offered.before
                else None,
                by_hand="" if hold else capabilities.left_to_people(one.status, one.of),
                lost_after=one.send_at + hold.expires if one.send_at and hold and hold.expires else None,
            )
        )
    far = now + timedelta(days=36500)
    return sorted(lines, key=lambda line: (line.useful_until or far, line.due_at or far, line.campaign_id))


def by_urgency(lines: Iterable[PlanLine]) -> list[PlanLine]:
    """Return the lines in the order in which they are stopped: what sends now, then what sends soonest."""
    far = datetime.max.replace(tzinfo=UTC)
    return sorted(
        lines,
        key=lambda line: (line.status != "running", line.act_before or line.due_at or far, line.campaign_id),
    )


def time_to_stop(lines: Iterable[PlanLine], capabilities: Capabilities) -> str:
    """Return, in words, how long the provider's rate limits make stopping `lines` take; empty if not an hour."""
    worst = timedelta()
    limit = None
    for rate in capabilities.rates:
        counted = [
            line
            for line in lines
            if line.action
            and (rate.name, line.action) in {(one.rate, one.action) for one in capabilities.actions}
        ]
        windows = max(0, len(counted) - 1) // rate.calls
        if windows * rate.per > worst:
            worst, limit = windows * rate.per, rate
    if limit is None or worst < timedelta(hours=1):
        return ""
    return (
        f"{capabilities.title} allows {limit.calls} calls per {in_words(limit.per)}: stopping everything takes at"
        f" least {plural(round(worst / timedelta(hours=1)), 'hour')}, the most urgent first."
    )


def markdown_table(lines: Sequence[PlanLine], currency: str) -> str:
    """Return the plan as a Markdown table, for the form and the artifact."""
    head = (
        "| campaign | people | due (UTC) | useful until | action | act before | undoable | if we do nothing "
        "| attributed value |\n|---|--:|---|---|---|---|---|---|--:|"
    )
    rows = [
        "| "
        + " | ".join(
            (
                f"{line.campaign_id} {line.name}".replace("|", "\\|").replace("\n", " "),
                f"{line.audience:,}",
                _time(line.due_at),
                _time(line.useful_until),
                line.action or f"not possible: {line.by_hand or 'nothing stops it'}",
                _time(line.act_before) if line.act_before else "",
                undo_in_words(line),
                line.if_nothing,
                Money(line.at_stake_minor, currency).whole(),
            )
        )
        + " |"
        for line in lines
    ]
    return (
        "\n".join([head, *rows]) if rows else "Nothing is running, and nothing is due in the next 24 hours."
    )


def undo_in_words(line: PlanLine) -> str:
    """Return whether the action can be taken back, by what, and until when."""
    if not line.undo:
        return "no"
    return f"yes, {line.undo}" + (f" by {_time(line.lost_after)}" if line.lost_after else "")


def _if_nothing(
    one: Sending,
    capabilities: Capabilities,
    now: datetime,
    useful: datetime | None,
    offered: Capability | None,
) -> str:
    if one.status == "running":
        text = "goes on when the provider can send"
        if not capabilities.resume_per_recipient:
            text += "; people may be skipped or mailed twice"
    elif offered is not None and not offered.in_time(one.send_at, now):
        text = f"is sent when due: {offered.action} was possible until {offered.deadline}"
    elif capabilities.fires_late:
        text = "is sent as soon as the provider can, however late"
    else:
        text = "the provider decides"
    if useful is not None and useful <= now:
        text += "; it is no longer useful"
    return text


def _time(moment: datetime | None) -> str:
    return f"{moment:%a %H:%M}" if moment else "not known"
