"""What the journal hands out: plain frozen records, each the sum of the facts about one thing so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

State = Literal[
    "triage", "investigating", "identified", "monitoring", "resolved", "closed", "canceled", "merged"
]
TimestampKind = Literal[
    "impact_started_at",
    "status_posted_at",
    "detected_at",
    "declared_at",
    "acknowledged_at",
    "mitigated_at",
    "resolved_at",
    "closed_at",
]
Hold = Literal["", "awaiting_vendor"]
ActionStatus = Literal["intended", "done", "failed", "unknown", "not_done"]
ApprovalStatus = Literal["awaiting", "approved", "rejected", "expired"]
DeliveryStatus = Literal["intended", "sent", "failed", "unknown"]
MetricStatus = Literal["recorded", "pending", "not_applicable", "invalid"]
ItemType = Literal["prevent", "mitigate", "detect", "repair", "investigate"]
ItemStatus = Literal["outstanding", "completed", "not_doing"]


@dataclass(frozen=True)
class Incident:
    """An incident as its latest facts describe it.

    Attributes:
        id: `INC-0001`, in order of declaration.
        declared_by: who declared it; `vouched` says whether a login stands behind that name.
        on_hold: `awaiting_vendor` while we wait for the provider, else empty.
        timestamps: those that are known, by kind; `impact_started_at` is absent while it is unknown.
    """

    id: str
    provider: str
    cause_class: str
    summary: str
    state: State
    on_hold: Hold
    declared_by: str
    vouched: bool
    timestamps: dict[str, datetime]

    @property
    def is_open(self) -> bool:
        """Whether the impact is not known to be over: no second incident of this provider can be declared."""
        return self.state in ("triage", "investigating", "identified", "monitoring")


@dataclass(frozen=True)
class TimelineEntry:
    """One fact in words. `at` is when it happened, `recorded_at` when it was written down."""

    seq: int
    at: datetime
    kind: str
    text: str
    data: dict[str, Any]
    recorded_at: datetime


@dataclass(frozen=True)
class Approval:
    """A question to a person: may these actions happen? `name` and `via` are set once it is answered."""

    id: int
    incident_id: str
    subject: str
    actions: list[dict[str, Any]]
    requested_at: datetime
    expires_at: datetime
    status: ApprovalStatus
    name: str = ""
    vouched: bool = False
    via: str = ""
    answered_at: datetime | None = None


@dataclass(frozen=True)
class Action:
    """One change outside Mailstay: written down before the call, and again when its outcome is known.

    Attributes:
        key: names it within its incident; intending the same key again gives this same action.
        previous_state: what it changes, as it was before; kept from the first intent.
        undo: the action that undoes it (its compensation); empty if nothing can.
        status: `intended` (asked or about to be), `done`, `failed` (refused: nothing happened), `unknown`
            (asked, no answer), `not_done` (evidence shows that nothing happened).
        is_new: whether this very call of `intend` wrote the intent: only then nobody can have acted on it.
    """

    id: int
    incident_id: str
    key: str
    kind: str
    target: str
    payload: dict[str, Any]
    previous_state: dict[str, Any]
    undo: dict[str, Any]
    status: ActionStatus
    intended_at: datetime
    decided_at: datetime | None = None
    result: dict[str, Any] = field(default_factory=dict)
    error: str = ""
    evidence: dict[str, Any] = field(default_factory=dict)
    is_new: bool = False


@dataclass(frozen=True)
class Communication:
    """One message to one stakeholder, with the time of the next that it promised (None: it was the last)."""

    id: int
    incident_id: str
    message_id: str
    stakeholder: str
    channel: str
    report: str
    subject: str
    body_digest: str
    promised_next_at: datetime | None
    intended_at: datetime
    status: DeliveryStatus
    sent_at: datetime | None = None
    error: str = ""


@dataclass(frozen=True)
class Lease:
    """The right to act on an incident until `expires_at`; writes name `token`, a stale one is refused."""

    incident_id: str
    holder: str
    token: int
    expires_at: datetime


@dataclass(frozen=True)
class Metric:
    """The time between two anchors. `seconds` is None unless the status is `recorded` or `invalid`."""

    name: str
    from_anchor: str
    to_anchor: str
    seconds: float | None
    status: MetricStatus


@dataclass(frozen=True)
class ActionItem:
    """Work that an incident leaves behind; it is completed only with evidence of its `proof`."""

    id: int
    incident_id: str
    title: str
    type: ItemType
    priority: str
    owner: str
    due_at: datetime
    proof: str
    status: ItemStatus
    evidence: str = ""
