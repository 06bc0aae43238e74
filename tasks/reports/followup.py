"""What incidents left to do: which of it is overdue, what comes first, and what a reminder says (pure)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from tasks.core import digest_of, plural
from tasks.incidents import ActionItem

SOON = timedelta(days=7)
"""An item that is due within a week is reminded of before it is late."""

Standing = Literal["overdue", "due soon", "open", "completed", "not doing"]


@dataclass(frozen=True)
class FollowUp:
    """An action item as it stands at a moment; `days_left` is negative once it is overdue."""

    item: ActionItem
    standing: Standing
    days_left: int


@dataclass(frozen=True)
class Reminder:
    """What owners are reminded of; `name` stays the same for a week unless another item is late or nearly so."""

    name: str
    title: str
    text: str


def follow_up(items: Iterable[ActionItem], now: datetime) -> list[FollowUp]:
    """Return how every item stands, what is to be done first: by due date, then priority; closed ones last."""
    found = [FollowUp(one, _standing(one, now), (one.due_at - now) // timedelta(days=1)) for one in items]
    return sorted(
        found,
        key=lambda one: (
            one.item.status != "outstanding",
            one.item.due_at,
            one.item.priority,
            one.item.id,
        ),
    )


def reminder(found: Sequence[FollowUp], now: datetime) -> Reminder | None:
    """Return what to remind people of; None if nothing is overdue or due soon.

    Incidents are closed and their work goes on, so an item is reminded of until it is completed or given up.
    """
    pressing = [one for one in found if one.standing in ("overdue", "due soon")]
    if not pressing:
        return None
    late = sum(one.standing == "overdue" for one in pressing)
    title = f"{plural(late, 'action item')} overdue" if late else "Action items are due soon"
    if late and late < len(pressing):
        title += f", {len(pressing) - late} due soon"
    lines = [
        f"{one.item.incident_id} · {one.item.title} ({one.item.owner}): {say_due(one)}. Done when {one.item.proof}."
        for one in pressing
    ]
    lines.append("`mailstay actions done NUMBER` closes one, with the evidence.")
    year, week, _ = now.isocalendar()
    name = f"actions/{year}-W{week:02d}/" + digest_of([[one.item.id, one.standing] for one in pressing])
    return Reminder(name, title, "\n".join(lines))


def say_due(one: FollowUp) -> str:
    """Return the due date in words, with how far it is."""
    day = f"{one.item.due_at.day} {one.item.due_at:%b %Y}"
    if one.standing == "overdue":
        return f"was due {day}, {plural(-one.days_left, 'day')} ago"
    return f"due {day}"


def _standing(item: ActionItem, now: datetime) -> Standing:
    if item.status != "outstanding":
        return "completed" if item.status == "completed" else "not doing"
    if item.due_at < now:
        return "overdue"
    return "due soon" if item.due_at - now <= SOON else "open"
