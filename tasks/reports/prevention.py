"""Whether an earlier action would have prevented an incident: what similar ones left to do, as it stood then (pure)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta

from tasks.core import plural
from tasks.incidents import ActionItem, Incident
from tasks.reports.content import SimilarRow

_WOULD = {
    "prevent": "may have prevented this one",
    "mitigate": "may have made this one smaller",
    "detect": "may have shown this one sooner",
}


def similar_rows(
    incident: Incident, began: datetime, past: Sequence[Incident], items: Sequence[ActionItem]
) -> tuple[SimilarRow, ...]:
    """Return the similar incidents before this one, each with what its open work would have done.

    Only work that prevents, mitigates or detects counts, and only of an incident with the same provider and the same
    class of cause: of another kind of trouble nobody can say that it would have helped.

    Args:
        incident: this one.
        began: when its impact began.
        past: incidents with the same provider or the same class of cause.
        items: their action items.
    """
    rows = []
    for one in past:
        alike = one.provider == incident.provider and one.cause_class == incident.cause_class
        mine = [item for item in items if item.incident_id == one.id and item.type in _WOULD]
        left = [item for item in mine if item.status != "completed"] if alike else []
        done = [item for item in mine if item.status == "completed"] if alike else []
        rows.append(
            SimilarRow(
                id=one.id,
                summary=one.summary,
                alike=_alike(one, incident),
                state=one.state,
                left=tuple(_left(item, began) for item in left),
                done=tuple(
                    f"“{item.title}” is done and did not prevent it: look at its proof" for item in done
                ),
            )
        )
    return tuple(rows)


def _alike(one: Incident, incident: Incident) -> str:
    shared = [f"provider {one.provider}"] if one.provider == incident.provider else []
    if one.cause_class == incident.cause_class:
        shared.append(one.cause_class.replace("_", " "))
    return "same " + " and ".join(shared)


def _left(item: ActionItem, began: datetime) -> str:
    if item.status == "not_doing":
        return f"“{item.title}” was given up ({item.evidence}): it {_WOULD[item.type]}"
    late = (began - item.due_at) // timedelta(days=1)
    if late > 0:
        stood = f"was overdue by {plural(late, 'day')} when this one began"
    else:
        stood = "was still open, and due later, when this one began"
    return f"“{item.title}” ({item.owner}) {stood}: done, it {_WOULD[item.type]}"
