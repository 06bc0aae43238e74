"""The timeline: the facts of one incident in words, in the order in which they happened."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any

from tasks.incidents.models import (
    ApprovalAnswer,
    ApprovalRequest,
    Declaration,
    Delivery,
    Fact,
    Intent,
    Item,
    ItemUpdate,
    Note,
    Outcome,
    Saying,
    StateChange,
    Timestamp,
)
from tasks.incidents.records import TimelineEntry


def tell(facts: Iterable[Fact]) -> list[TimelineEntry]:
    """Return one entry per fact worth telling (leases and values are not), by the time it happened."""
    known = list(facts)
    by_seq = {fact.seq: fact for fact in known}
    told = [entry for fact in known if (entry := _entry(fact, by_seq)) is not None]
    return sorted(told, key=lambda entry: (entry.at, entry.seq))


def _entry(fact: Fact, by_seq: dict[int, Fact]) -> TimelineEntry | None:
    words = _words(fact, by_seq)
    if words is None:
        return None
    kind, text, data, at = words
    return TimelineEntry(fact.seq, at or fact.recorded_at, kind, text, data, fact.recorded_at)


_Words = tuple[str, str, dict[str, Any], datetime | None]


def _words(fact: Fact, by_seq: dict[int, Fact]) -> _Words | None:
    data: dict[str, Any]
    match fact:
        case Declaration():
            text = f"{fact.incident_id} of {fact.provider} declared by {fact.declared_by}: {fact.summary}"
            return "declared", text, {"cause_class": fact.cause_class, "vouched": fact.vouched}, None
        case StateChange():
            hold = f", on hold: {fact.on_hold}" if fact.on_hold else ""
            return (
                "state",
                f"{fact.state}{hold} ({fact.reason}; {fact.by_name})",
                {"state": fact.state},
                fact.at,
            )
        case Timestamp():
            stands = "withdrawn" if fact.at is None else fact.at.isoformat()
            data = {"timestamp": fact.name, "by": fact.by_name, "value": stands}
            return "timestamp", f"{fact.name}: {stands} ({fact.by_name})", data, fact.at
        case Note():
            return fact.note_kind, fact.text, fact.data, fact.at
        case ApprovalRequest():
            data = {"approval_id": fact.seq, "expires_at": fact.expires_at.isoformat()}
            return "approval_requested", f"Approval asked: {fact.subject}", data, None
        case ApprovalAnswer():
            who = f" by {fact.name} ({fact.via}{', vouched' if fact.vouched else ''})" if fact.name else ""
            return fact.decision, f"Approval {fact.decision}{who}", {"approval_id": fact.approval_id}, None
        case Intent():
            text = f"About to {fact.action_kind} {fact.target}"
            return "action_intended", text, {"action_id": fact.seq, "key": fact.key}, None
        case Outcome():
            intent = by_seq[fact.action_id]
            assert isinstance(intent, Intent)
            reason = f": {fact.error}" if fact.error else ""
            text = f"{intent.action_kind} {intent.target}: {fact.status.replace('_', ' ')}{reason}"
            data = {"action_id": fact.action_id, "key": intent.key, "evidence": fact.evidence}
            return f"action_{fact.status}", text, data, None
        case Saying():
            promise = fact.promised_next_at
            data = {
                "communication_id": fact.seq,
                "promised_next_at": promise.isoformat() if promise else None,
            }
            return (
                "message_intended",
                f"{fact.report} update for {fact.stakeholder}: {fact.subject}",
                data,
                None,
            )
        case Delivery():
            saying = by_seq[fact.communication_id]
            assert isinstance(saying, Saying)
            reason = f": {fact.error}" if fact.error else ""
            text = f"{saying.report} update for {saying.stakeholder}: {fact.status}{reason}"
            return f"message_{fact.status}", text, {"communication_id": fact.communication_id}, None
        case Item():
            text = f"Action item for {fact.owner}: {fact.title}"
            return "action_item", text, {"item_id": fact.seq, "due_at": fact.due_at.isoformat()}, None
        case ItemUpdate():
            return f"action_item_{fact.status}", fact.evidence, {"item_id": fact.item_id}, None
        case _:
            return None
