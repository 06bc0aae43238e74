"""What the plan asked for against what the journal shows, and what follows: lessons and action items (pure).

A finding names the rule, what was expected and what was seen. Lessons are drawn from facts only: no finding, no
lesson. Every action item has an owner (a role of the plan), a date and a proof that can be checked.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from tasks.comms import judge_promises
from tasks.core import plural
from tasks.impact import DataImpact, LossEstimate, MessageCounts, ObjectiveCheck, ReputationCheck
from tasks.incidents import ItemType
from tasks.plan import Plan
from tasks.reports.casework import JournalFacts
from tasks.reports.content import FindingRow, LessonRow

STOPPING = ("pause", "unschedule")
RESUMING = ("catch_up", "resume", "reschedule")
"""Actions that send mail: the plan's policy or a person lets them happen (a deadline alone may drop)."""
GRACE = timedelta(minutes=5)
_DUE = {1: timedelta(days=15), 2: timedelta(days=30)}
"""Days until an action item is due, by severity (PagerDuty: 15 for SEV-1, 30 for SEV-2)."""


@dataclass(frozen=True)
class NewItem:
    """Work to be written down in the journal."""

    title: str
    type: ItemType
    priority: str
    owner: str
    due_at: datetime
    proof: str


def plan_against_journal(
    plan: Plan, facts: JournalFacts, objectives: Sequence[ObjectiveCheck], *, now: datetime
) -> list[FindingRow]:
    """Return where the journal departs from the plan: missing, late, out of order.

    Args:
        plan: the plan in force.
        facts: what the journal holds.
        objectives: recovery objectives as measured.
        now: promises are judged as of this time.
    """
    found = [*_stakeholders(plan, facts), *_promises(facts, now), *_approvals(plan, facts), *_order(facts)]
    found += [
        FindingRow(
            "late",
            f"{one.name.replace('_', ' ')}: the recovery point objective was missed",
            f"{one.rpo_minutes} min",
            "no valid snapshot" if one.rpa_minutes is None else f"{one.rpa_minutes:.0f} min",
        )
        for one in objectives
        if one.rpo == "missed"
    ]
    found += [
        FindingRow(
            "late",
            f"{one.name.replace('_', ' ')}: the recovery time objective was missed",
            f"{one.rto_minutes} min",
            f"{one.rta_minutes:.0f} min",
        )
        for one in objectives
        if one.rto == "missed" and one.rta_minutes is not None
    ]
    if "acknowledged_at" not in facts.incident.timestamps:
        found.append(
            FindingRow(
                "missing", "nobody acknowledged the incident", "acknowledged_at in the journal", "none"
            )
        )
    return found


def lessons(
    facts: JournalFacts,
    messages: MessageCounts,
    data: DataImpact,
    reputation: Sequence[ReputationCheck],
    findings: Sequence[FindingRow],
    estimate: LossEstimate | None,
) -> list[LessonRow]:
    """Return what went well, what went poorly and where we got lucky, each from a fact."""
    well, poorly, lucky = [], [], []
    if messages.duplicated == 0:
        well.append(
            f"Nobody was mailed twice: {plural(messages.delayed, 'message')} caught up, 0 duplicates."
        )
    else:
        poorly.append(f"{plural(messages.duplicated, 'message')} went out more than once.")
    if messages.to_opted_out == 0:
        well.append(
            "Nobody who had opted out was mailed, although opt-outs came while the provider was down."
        )
    else:
        poorly.append(f"{plural(messages.to_opted_out, 'message')} went to people who had opted out.")
    if messages.after_latest_useful == 0:
        well.append("No message went out after it had stopped being useful.")
    else:
        poorly.append(f"{plural(messages.after_latest_useful, 'message')} went out after latest_useful_at.")
    if data.opt_outs_missing:
        poorly.append(f"The provider does not honour {plural(data.opt_outs_missing, 'opt-out')} yet.")
    late = min(messages.dropped, _too_late(facts))
    if late:
        poorly.append(
            f"{plural(late, 'message')} never went out: their time had passed, or it was decided so."
        )
    if messages.dropped > late:
        blocked = plural(messages.dropped - late, "message")
        well.append(
            f"{blocked} stayed unsent because the person must not be mailed (hard bounces, complaints)."
        )
    if messages.unknown:
        poorly.append(f"Nobody knows the outcome of {plural(messages.unknown, 'message')}.")
    for check in reputation:
        if check.alarm or check.limit == "breach":
            poorly.append(
                f"The catch-up's {check.metric} rate was {check.rate:.2%}, usual {check.baseline_rate:.2%}."
            )
    if reputation and not any(one.alarm or one.limit == "breach" for one in reputation):
        well.append(
            "The catch-up did not hurt our reputation: bounces, complaints and opt-outs stayed usual."
        )
    delay = next((one for one in facts.metrics if one.name == "status_page_delay"), None)
    if delay is not None and delay.seconds is not None and delay.seconds > 0:
        poorly.append(
            f"The vendor's status page spoke {delay.seconds / 60:.0f} minutes after the impact began."
        )
    if any(one.kind == "false_green" for one in facts.timeline):
        poorly.append("The vendor's status page said that all was well while nothing was sent.")
    elif "status_posted_at" not in facts.incident.timestamps:
        poorly.append("The vendor's status page never said anything that we saw.")
    poorly += [
        f"{one.text[0].upper()}{one.text[1:]}." for one in findings if one.kind in ("missing", "out_of_order")
    ]
    if data.rows_lost and data.rows_lost <= data.rows_at_risk:
        proven = data.proven
        by = " and ".join(sorted(set(proven.loc[proven["rows"] > 0, "witness"])))
        lucky.append(f"{plural(data.rows_lost, 'row')} went missing, and what witnessed them is ours: {by}.")
    if data.rows_at_risk and not data.rows_lost:
        lucky.append(
            f"When it began, no snapshot held {plural(data.rows_at_risk, 'row')}, and none was lost."
        )
    if estimate is not None and estimate.interval(0.95).low_minor <= 0:
        interval = "widest" if estimate.low_confidence else "95 %"
        lucky.append(f"The loss cannot be told from chance: the {interval} interval includes none.")
    return [
        *(LessonRow("well", one) for one in well),
        *(LessonRow("poorly", one) for one in poorly),
        *(LessonRow("lucky", one) for one in lucky),
    ]


def action_items(
    plan: Plan,
    facts: JournalFacts,
    messages: MessageCounts,
    data: DataImpact,
    objectives: Sequence[ObjectiveCheck],
    findings: Sequence[FindingRow],
    *,
    now: datetime,
) -> list[NewItem]:
    """Return the work that follows, the most urgent first; the same facts give the same items."""
    due = now + _DUE.get(facts.severity or 3, timedelta(days=30))
    commander, scribe = _role(plan, "incident_commander"), _role(plan, "scribe")
    liaison, approver = _role(plan, "internal_liaison"), _role(plan, "approver")
    items = []
    if messages.unknown:
        items.append(
            NewItem(
                "Decide on the messages whose outcome nobody knows",
                "repair",
                "P0",
                approver,
                now + timedelta(days=2),
                "every subscriber in the unknown list has a decision in the journal",
            )
        )
    if data.opt_outs_missing:
        items.append(
            NewItem(
                "Hand the provider the opt-outs that it does not honour",
                "repair",
                "P0",
                commander,
                now + timedelta(days=2),
                "the next review counts 0 opt-outs that the provider does not honour",
            )
        )
    if messages.dropped:
        items.append(
            NewItem(
                "Agree what replaces the messages that were dropped",
                "mitigate",
                "P1",
                approver,
                due,
                "a decision per dropped campaign in the journal",
            )
        )
    if data.rows_lost:
        items.append(
            NewItem(
                "Bring back the lost rows from what witnessed them",
                "repair",
                "P1",
                commander,
                due,
                "the next review finds 0 rows lost in these tables",
            )
        )
    missed = [one for one in objectives if one.rpo == "missed" or one.rto == "missed"]
    if missed:
        names = ", ".join(one.name.replace("_", " ") for one in missed)
        items.append(
            NewItem(
                f"Make the objectives that were missed reachable, or change them: {names}",
                "prevent",
                "P1",
                commander,
                due,
                "a drill measures them within the plan",
            )
        )
    if "status_posted_at" not in facts.incident.timestamps or any(
        one.name == "status_page_delay" and (one.seconds or 0) > 600 for one in facts.metrics
    ):
        items.append(
            NewItem(
                "Take the delay of the vendor's status page up with the vendor",
                "investigate",
                "P2",
                liaison,
                due,
                "the vendor's answer is linked in the journal",
            )
        )
    if any(one.kind in ("missing", "late") and "update" in one.text for one in findings):
        items.append(
            NewItem(
                "Keep the promised cadence of updates",
                "mitigate",
                "P2",
                scribe,
                due,
                "the next drill shows every promise kept",
            )
        )
    return items


def _stakeholders(plan: Plan, facts: JournalFacts) -> list[FindingRow]:
    severity = facts.severity
    told = {one.stakeholder for one in facts.communications if one.status == "sent"}
    return [
        FindingRow("missing", f"{name.replace('_', ' ')} got no update", f"{who.report} updates", "none sent")
        for name, who in plan.stakeholders.items()
        if (severity is None or severity <= who.from_severity) and name not in told
    ]


def _promises(facts: JournalFacts, now: datetime) -> list[FindingRow]:
    return [
        FindingRow(
            "late",
            f"an update to {one.stakeholder.replace('_', ' ')} came after the promised time",
            f"{one.promised_at:%H:%M} UTC",
            f"{one.kept_at:%H:%M} UTC" if one.kept_at else "never",
        )
        for one in judge_promises(facts.told, now)
        if one.status in ("late", "overdue") and one.late_by > GRACE
    ]


def _approvals(plan: Plan, facts: JournalFacts) -> list[FindingRow]:
    """Everything that was done and that the plan's policy does not cover needs a person's yes before it."""
    allowed = set(plan.approval.policy_actions) & set(RESUMING)
    found = [
        FindingRow(
            "late", f"nobody answered in time: {one.subject}", f"by {one.expires_at:%H:%M} UTC", "expired"
        )
        for one in facts.approvals
        if one.status == "expired"
    ]
    answers = [
        one.answered_at
        for one in facts.approvals
        if one.status == "approved"
        and one.answered_at is not None
        and any(str(action.get("kind")).removesuffix("_anyway") in RESUMING for action in one.actions)
    ]
    done = [one for one in facts.actions if one.status == "done" and one.kind in RESUMING]
    if not done or allowed:
        return found
    first = min(one.intended_at for one in done)
    if not answers:
        found.append(
            FindingRow(
                "missing", "campaigns were resumed without an approval", "an approval in the journal", "none"
            )
        )
    elif first < min(answers):
        found.append(
            FindingRow(
                "out_of_order",
                "a campaign was resumed before the approval",
                f"after {min(answers):%H:%M} UTC",
                f"{first:%H:%M} UTC",
            )
        )
    return found


def _order(facts: JournalFacts) -> list[FindingRow]:
    """The order that the plan asks for: declare, hold the snapshot, stop, consent gate, resume."""
    found = []
    times = facts.incident.timestamps
    declared = times.get("declared_at")
    stops = [one.intended_at for one in facts.actions if one.kind in STOPPING]
    if declared and stops and min(stops) < declared:
        found.append(
            FindingRow(
                "out_of_order",
                "a campaign was stopped before the incident was declared",
                f"after {declared:%H:%M} UTC",
                f"{min(stops):%H:%M} UTC",
            )
        )
    unread = [one for one in facts.actions if one.status in ("intended", "unknown")]
    if unread:
        found.append(
            FindingRow(
                "missing",
                f"{plural(len(unread), 'action')} without a known outcome",
                "done, failed or not done",
                ", ".join(sorted({one.kind for one in unread})),
            )
        )
    held = any(one.kind == "snapshot_held" for one in facts.timeline)
    if not held and stops:
        found.append(
            FindingRow(
                "missing", "the last good snapshot was not held", "a hold while the incident is open", "none"
            )
        )
    return found


def _too_late(facts: JournalFacts) -> int:
    """Messages that the ledgers call expired or dropped; without ledgers every unsent one counts as such."""
    counts = [one["counts"] for one in facts.ledgers.values() if "counts" in one]
    if not counts:
        return sys.maxsize
    return sum(int(one.get("expired", 0)) + int(one.get("dropped", 0)) for one in counts)


def _role(plan: Plan, name: str) -> str:
    return plan.roles[name].filled_by if name in plan.roles else name.replace("_", " ")
