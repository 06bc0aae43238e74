"""The incident's rules, pure: which state follows which, which timestamp precedes which, what is measured."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import get_args

from tasks.incidents.errors import ForbiddenTransition, ImpossibleOrder
from tasks.incidents.records import Metric, MetricStatus, State, TimestampKind

STATES: tuple[State, ...] = get_args(State)
TIMESTAMPS: tuple[TimestampKind, ...] = get_args(TimestampKind)

OPEN: frozenset[State] = frozenset({"triage", "investigating", "identified", "monitoring"})

#: Allowed transitions. Triage cannot skip to resolved (it is confirmed or canceled); a real incident (one with
#: a fix in) is not canceled; resolved may reopen; closed, canceled and merged are final.
TRANSITIONS: Mapping[State, frozenset[State]] = {
    "triage": frozenset({"investigating", "identified", "canceled", "merged"}),
    "investigating": frozenset({"identified", "monitoring", "resolved", "canceled", "merged"}),
    "identified": frozenset({"investigating", "monitoring", "resolved", "canceled", "merged"}),
    "monitoring": frozenset({"investigating", "identified", "resolved", "merged"}),
    "resolved": frozenset({"investigating", "closed"}),
    "closed": frozenset(),
    "canceled": frozenset(),
    "merged": frozenset(),
}

#: (earlier, later): where both are known, the first must not lie after the second. `status_posted_at` is in no
#: pair: a vendor may post before our impact begins; the metric is then shown as invalid.
ORDER: tuple[tuple[TimestampKind, TimestampKind], ...] = (
    ("impact_started_at", "detected_at"),
    ("detected_at", "declared_at"),
    ("declared_at", "acknowledged_at"),
    ("impact_started_at", "mitigated_at"),
    ("mitigated_at", "resolved_at"),
    ("impact_started_at", "resolved_at"),
    ("declared_at", "resolved_at"),
    ("acknowledged_at", "closed_at"),
    ("resolved_at", "closed_at"),
)

#: name → its two anchors (vocabulary: Metrics).
METRICS: Mapping[str, tuple[TimestampKind, TimestampKind]] = {
    "time_to_detect": ("impact_started_at", "detected_at"),
    "time_to_acknowledge": ("declared_at", "acknowledged_at"),
    "time_to_mitigate": ("impact_started_at", "mitigated_at"),
    "time_to_resolve": ("declared_at", "resolved_at"),
    "customer_impact_duration": ("impact_started_at", "resolved_at"),
    "status_page_delay": ("impact_started_at", "status_posted_at"),
}

#: Clocks of two machines differ a little; a timestamp further ahead than this lies in the future.
SKEW = timedelta(minutes=5)


def check_transition(incident_id: str, now: State, then: State) -> None:
    """Refuse a transition that the table does not allow.

    Raises:
        ForbiddenTransition: naming what the state may change to.
    """
    if then not in TRANSITIONS[now]:
        allowed = ", ".join(state for state in STATES if state in TRANSITIONS[now])
        raise ForbiddenTransition(
            f"{incident_id} cannot go from {now} to {then}",
            fix=f"from {now} it may go to: {allowed}" if allowed else f"{now} is final; declare a new one",
        )


def check_order(
    incident_id: str, known: Mapping[str, datetime], kind: str, at: datetime, now: datetime
) -> None:
    """Refuse a timestamp that contradicts those already known.

    Raises:
        ImpossibleOrder: naming both anchors, or that the time lies in the future.
    """
    if at > now + SKEW:
        raise ImpossibleOrder(
            f"{kind} {at.isoformat()} lies in the future, it is {now.isoformat()}",
            earlier=kind,
            later="now",
            where=incident_id,
        )
    times = {**known, kind: at}
    for earlier, later in ORDER:
        if kind in (earlier, later) and earlier in times and later in times and times[earlier] > times[later]:
            raise ImpossibleOrder(
                f"{earlier} {times[earlier].isoformat()} cannot lie after {later} {times[later].isoformat()}",
                earlier=earlier,
                later=later,
                where=incident_id,
            )


def measure(state: State, timestamps: Mapping[str, datetime]) -> list[Metric]:
    """Return every metric of the vocabulary, those without both anchors as pending or not applicable.

    A missing anchor is `pending` while it may still come: before resolution all may; after it only
    `impact_started_at`, which the review may find out; once closed, canceled or merged none.
    """
    return [_metric(name, state, timestamps, *anchors) for name, anchors in METRICS.items()]


def _metric(
    name: str, state: State, timestamps: Mapping[str, datetime], start: TimestampKind, end: TimestampKind
) -> Metric:
    missing = {anchor for anchor in (start, end) if anchor not in timestamps}
    if not missing:
        seconds = (timestamps[end] - timestamps[start]).total_seconds()
        return Metric(name, start, end, seconds, "recorded" if seconds >= 0 else "invalid")
    pending = state in OPEN or (state == "resolved" and missing == {"impact_started_at"})
    status: MetricStatus = "pending" if pending else "not_applicable"
    return Metric(name, start, end, None, status)
