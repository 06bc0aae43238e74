"""What taking a stop back would do to one campaign, and how a campaign differs from what it was before. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from tasks.catchup import parse, schedule_of
from tasks.incidents import Action
from tasks.plan import LatenessRule
from tasks.providers import Campaign, Capabilities

MARGIN = timedelta(minutes=2)
"""How far ahead a campaign's time must lie to be scheduled again: what is past goes out at once, late."""

LEAVE = "leave"
"""Kind of the decision that a campaign stays stopped as it is now, and the incident is closed without it."""

Way = Literal["as_it_was", "undo", "ask", "held"]
_BEGUN = ("running", "finished")


@dataclass(frozen=True)
class Difference:
    """One field of a campaign that is not as it was before the stop, both as the journal keeps them."""

    field: str
    was: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.field} was {_shown(self.was)}, is {_shown(self.now)}"


@dataclass(frozen=True)
class Undoing:
    """What an abort does about one stopped campaign.

    Attributes:
        stop: number of the action that stopped it last.
        way: `as_it_was` (nothing is left to do), `undo` (brings back exactly what was), `ask` (goes on, but not exactly
            as it was: a person must want that), `held` (nothing is done; a person decides).
        action: what takes the stop back; empty where nothing does.
        why: the reason, in words.
        due_at: when it was due before the stop.
    """

    campaign_id: int
    name: str
    stop: int
    way: Way
    action: str
    why: str
    due_at: datetime | None
    differences: tuple[Difference, ...] = ()

    @property
    def undoable(self) -> bool:
        """Whether the policy may agree to it: it can be stopped again, and leaves nothing changed."""
        return self.way == "undo"

    def as_action(self) -> dict[str, Any]:
        """Return this as the journal's approvals keep it."""
        target = f"campaign/{self.campaign_id}"
        return {"kind": self.action, "target": target, "undoable": self.undoable, "why": self.why}


def differences(previous: Mapping[str, Any], now: Campaign) -> tuple[Difference, ...]:
    """Return the fields of a campaign, of those that the journal keeps, that are not as they were."""
    stands = schedule_of(now)
    return tuple(
        Difference(field, _fixed(previous[field]), _fixed(stands[field]))
        for field in stands
        if field in previous and previous[field] != stands[field]
    )


def only_went_on(previous: Mapping[str, Any], now: Campaign, at: datetime) -> bool:
    """Whether a campaign differs from before only in what time alone brings: one that was due has begun or ended."""
    due = parse(previous.get("send_at"))
    changed = {one.field for one in differences(previous, now)}
    status = previous.get("status")
    went_on = (status == "scheduled" and now.status in _BEGUN and due is not None and due <= at) or (
        status == "running" and now.status == "finished"
    )
    return not changed or (changed == {"status"} and went_on)


def decide_undoing(
    stop: Action,
    now: Campaign | None,
    capabilities: Capabilities,
    at: datetime,
    *,
    undone: bool,
    messages_per_minute: float,
    lateness: Mapping[str, LatenessRule],
) -> Undoing:
    """Return what to do about one stop.

    Args:
        stop: the action that stopped the campaign last, with how it was before.
        now: the campaign as it is now; None if the provider does not know it any more.
        capabilities: what the provider can do.
        at: the time of deciding.
        undone: whether an abort has taken this stop back already.
        messages_per_minute: how fast the provider sends.
        lateness: until when each kind is useful, for campaigns that do not say so themselves.
    """
    before = stop.previous_state
    was, due = before.get("status"), parse(before.get("send_at"))
    changed = differences(before, now) if now else ()

    def found(way: Way, why: str, action: str = "") -> Undoing:
        number = int(stop.target.rpartition("/")[2])
        name = now.name if now else str(before.get("name") or f"campaign {number}")
        return Undoing(number, name, stop.id, way, action, why, due, changed)

    if now is None:
        return found("held", "the provider does not know it any more: restore it from the snapshot")
    if now.status == was:
        return found("as_it_was", f"it is {now.status}")
    if now.status in _BEGUN:
        return found("as_it_was", f"it is {now.status} by now")
    if undone:
        return found("held", f"it was put back, and somebody made it {now.status} since")
    action = str(stop.undo.get("action") or "")
    capability = next((one for one in capabilities.allowed(now.status, now.of) if one.action == action), None)
    if capability is None:
        return found("held", f"nothing brings a campaign that is {now.status} back to {was}")
    if was == "scheduled":
        # A moved time or another audience is a person's doing since: neither is overwritten nor sent unseen.
        meddled = [
            one
            for one in changed
            if one.field == "list_ids" or (one.field == "send_at" and one.now is not None)
        ]
        if meddled:
            return found("held", f"somebody changed it since: {in_words(meddled)}")
        if due is None or due <= at + MARGIN:
            return found("held", "its time is past: scheduled again it would go out at once, late")
        return found("undo", f"{action} for {due:%a %H:%M} UTC", action)
    rule = lateness.get(now.kind)
    began = due or now.started_at
    useful = now.latest_useful_at or (began + rule.useful_for if began and rule else None)
    through = at + timedelta(minutes=max(now.to_send - now.sent, 0) / messages_per_minute)
    if useful is not None and through > useful:
        return found("held", f"it would go on after it is useful ({useful:%a %H:%M} UTC)")
    if capability.restores_exactly:
        return found("undo", action, action)
    return found("ask", capability.limits or "it does not go on exactly where it stopped", action)


def in_words(changed: Iterable[Difference]) -> str:
    """Return differences as one line."""
    return "; ".join(map(str, changed))


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _shown(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
