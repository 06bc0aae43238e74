"""From measured figures to the content of a report: arranges, labels, and says what the figures rest on."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, cast

import pandas as pd

from tasks.comms import judge_promises
from tasks.core import plural
from tasks.impact import (
    DataImpact,
    LossEstimate,
    MessageImpact,
    MoneyImpact,
    ObjectiveCheck,
    ReputationCheck,
    SecondOpinion,
)
from tasks.incidents import Action, Communication
from tasks.reports.casework import Case
from tasks.reports.content import (
    ActionItemRow,
    ActionRow,
    Appendix,
    Basis,
    Bounds,
    CampaignRow,
    Cause,
    CommunicationRow,
    DataRow,
    DecisionRow,
    Estimate,
    FindingRow,
    Header,
    HourPoint,
    ImpactLine,
    LessonRow,
    Loss,
    MessageCounts,
    MetricRow,
    ObjectiveRow,
    OpenRow,
    Outage,
    PlaceboRecord,
    ReputationRow,
    ReviewContent,
    SimilarRow,
    Statistic,
    TimelineRow,
    WatchRow,
    with_noise_band,
)
from tasks.reports.findings import NewItem
from tasks.reports.inboxes import Inbox, WatchDay
from tasks.reports.prevention import similar_rows
from tasks.reports.words import rows_at_risk as rows_at_risk_in_all
from tasks.reports.words import rows_lost as rows_lost_in_all
from tasks.reports.words import say_bounds, say_level, say_money, say_time

_TOLD_ACTIONS = {
    "pause": "Paused",
    "unschedule": "Taken off the schedule",
    "consent": "Opt-outs handed to the provider",
    "catch_up": "Caught up, one step",
    "reschedule": "Put back on the schedule",
    "resume": "Resumed",
    "drop": "Dropped",
}
"""Actions that a reader of the timeline needs; those they are made of (lists, copies) are in the journal."""

_NOT_TOLD = {"action_intended", "message_intended", "evidence"}
_STAMPS = {
    "impact_started_at": "Impact began",
    "status_posted_at": "The vendor's status page spoke of it",
    "detected_at": "Detected",
    "declared_at": "Incident declared",
    "acknowledged_at": "Acknowledged",
    "mitigated_at": "The provider works again, as measured by probes",
    "resolved_at": "Resolved: sending moves, nothing is left stopped",
    "closed_at": "Closed",
}


@dataclass(frozen=True)
class Figures:
    """Everything that was measured of one case."""

    messages: MessageImpact
    money: MoneyImpact
    reputation: tuple[ReputationCheck, ...]
    data: DataImpact
    objectives: tuple[ObjectiveCheck, ...]
    findings: tuple[FindingRow, ...]
    lessons: tuple[LessonRow, ...]
    items: tuple[NewItem, ...]
    inboxes: tuple[Inbox, ...] = ()
    watched: tuple[WatchDay, ...] = ()


def assemble(case: Case, figures: Figures) -> ReviewContent:
    """Return what the report of `case` shows."""
    facts, incident = case.facts, case.facts.incident
    counts = figures.messages.counts
    plan = case.loaded.plan
    severity = f"SEV-{facts.severity}" if facts.severity else "not rated"
    loss = _loss(case, figures.money)
    return ReviewContent(
        header=Header(
            company=plan.name,
            incident_id=incident.id,
            title=incident.summary[:1].upper() + incident.summary[1:],
            provider=incident.provider,
            severity=severity,
            issued_at=case.now,
            settlement="settled" if case.settled else "provisional",
            currency=figures.money.currency,
            settle_by=case.settled_at,
            completeness=_completeness(case),
            timezone=plan.report.timezone,
            simulated=case.simulated,
            owner=_role(case, "incident_commander"),
            approver=_role(case, "approver"),
            plan_digest=case.loaded.digest,
        ),
        outage=Outage(
            impact_started_at=case.impact_started_at,
            restored_at=case.restored_at,
            resolved_at=case.resolved_at,
            affected=_affected(figures),
            decision_asked=_decision(figures),
        ),
        messages=MessageCounts(
            due=counts.due,
            delayed=counts.delayed,
            on_time=counts.on_time,
            suppressed=counts.suppressed,
            dropped=counts.dropped + counts.bounced,
            unknown=counts.unknown,
            duplicated=counts.duplicated,
            after_latest_useful=counts.after_latest_useful,
            to_opted_out=counts.to_opted_out,
        ),
        loss=loss,
        loss_missing_because=_no_loss(case, figures.money),
        record=placebo_record(figures.money),
        impact_lines=impact_lines(figures),
        campaigns=tuple(
            _campaign(row, facts.ledgers) for row in figures.messages.campaigns.to_dict("records")
        ),
        hours=_hours(figures.money),
        metrics=tuple(
            MetricRow(one.name, one.from_anchor, one.to_anchor, one.seconds, one.status)
            for one in facts.metrics
        ),
        objectives=tuple(_objective(one) for one in figures.objectives),
        timeline=_timeline(case),
        decisions=tuple(
            DecisionRow(
                subject=one.subject,
                decision=one.status,
                by=one.name,
                asked_at=one.requested_at,
                answered_at=one.answered_at,
                via=one.via,
                vouched=one.vouched,
            )
            for one in facts.approvals
        ),
        actions=tuple(
            ActionRow(kind, status, count)
            for (kind, status), count in sorted(
                Counter((one.kind, one.status) for one in facts.actions).items()
            )
        ),
        communications=_communications(case),
        reputation=tuple(_reputation(one) for one in figures.reputation),
        inboxes=tuple(
            replace(_reputation(check), mailbox=one.name) for one in figures.inboxes for check in one.checks
        ),
        opens=tuple(
            OpenRow(one.name, one.opened_before, one.messages_before, one.opened, one.messages)
            for one in figures.inboxes
            if one.opened is not None and one.opened_before is not None
        ),
        watch=tuple(WatchRow(**vars(one)) for one in figures.watched),
        data=data_rows(figures.data),
        findings=figures.findings,
        lessons=figures.lessons,
        action_items=tuple(
            ActionItemRow(
                title=one.title,
                type=one.type,
                priority=one.priority,
                owner=one.owner,
                due_at=one.due_at,
                proof=one.proof,
                status=one.status,
                evidence=one.evidence,
            )
            for one in facts.action_items
        ),
        similar_incidents=_similar(case),
        cause=_cause(case),
        appendix=_appendix(case, figures),
        basis=_basis(figures),
    )


def _similar(case: Case) -> tuple[SimilarRow, ...]:
    """Similar incidents that were known when this one began: a later one could have taught nothing."""
    began, facts = case.impact_started_at, case.facts
    before = [one for one in facts.similar if one.timestamps.get("declared_at", began) < began]
    return similar_rows(facts.incident, began, before, facts.similar_items)


def missed_lessons(case: Case) -> list[LessonRow]:
    """Return what earlier incidents had left to do and would have helped: it went poorly."""
    return [LessonRow("poorly", f"{one.id}: {left}.") for one in _similar(case) for left in one.left]


def _no_loss(case: Case, money: MoneyImpact) -> str:
    """Why there is no estimate, empty if there is one; orders in another currency may be the reason."""
    if not money.refused:
        return ""
    return " ".join([f"{money.refused}.", *left_out(case.evidence.other_currencies, money.currency)])


def _loss(case: Case, money: MoneyImpact) -> Loss | None:
    """Net is the joint estimate; deferred is counted; gross is their sum, its interval that of net, shifted."""
    if money.net is None or money.during is None or money.unaided is None:
        return None
    deferred = money.deferred_minor
    net = _estimate(money.net.estimate, "net")
    gross = replace(
        net,
        statistic="gross",
        observed_minor=net.observed_minor - deferred,
        loss_minor=net.loss_minor + deferred,
        intervals=tuple(
            Bounds(b.level, b.low_minor + deferred, b.high_minor + deferred) for b in net.intervals
        ),
        # The placebos judged what came in, late orders included: of gross they say nothing of their own.
        probability_of_loss=None,
        forecast_minor=None,
        scale_minor=None,
    )
    late = Estimate("deferred", net.start, net.end, 0, deferred, deferred)
    unaided = money.unaided.estimate if money.net.estimate.control != "none" else None
    return Loss(
        gross=gross,
        net=net,
        deferred=late,
        during=_estimate(money.during.estimate, "during"),
        unaided=_estimate(unaided, "unaided") if unaided else None,
        second=_second(money.opinion, net) if money.opinion else None,
        stretched=money.opinion.stretched if money.opinion else None,
        returned_minor=money.returned_minor,
        attributed_minor=money.attributed_minor,
        attribution_model="what a message of the same kind brought in the past by the shop's campaign tag, times the "
        "due messages that did not go out in time, less what those brought late; a claim of attribution, not an "
        "estimate of the loss",
        cautions=(*money.cautions, *_cautions(case, money.net.estimate, unaided, money.currency)),
    )


def _second(opinion: SecondOpinion, net: Estimate) -> Estimate:
    return Estimate(
        statistic="second",
        start=net.start,
        end=net.end,
        expected_minor=opinion.expected_minor,
        observed_minor=opinion.observed_minor,
        loss_minor=opinion.loss_minor,
        intervals=tuple(Bounds(b.level, b.low_minor, b.high_minor) for b in opinion.intervals),
        effective_placebos=float(opinion.placebos),
    )


def placebo_record(money: MoneyImpact) -> PlaceboRecord | None:
    """Return how the method did on the shop's own past, with what it finds in each past window."""
    if money.record is None or money.net is None:
        return None
    record, placebos, estimate = money.record, money.net.placebos, money.net.estimate
    # The figure of the report is corrected by the placebos' mean error; they must be, too, to stand beside it.
    shift = (estimate.expected_minor - estimate.forecast_minor) / estimate.scale_minor
    expected = (placebos["expected_minor"] + shift * placebos["scale_minor"]).clip(lower=0)
    return PlaceboRecord(
        windows=record.windows,
        held=tuple((one.level, one.held) for one in record.coverage),
        false_claims=record.false_claims,
        bias=record.bias,
        warning=record.warning,
        errors_minor=tuple(float(one) for one in expected - placebos["observed_minor"]),
    )


def _cautions(case: Case, net: LossEstimate, unaided: LossEstimate | None, currency: str) -> list[str]:
    """What the figures themselves do not say; what they do, `words.say_cautions` says."""
    said = []
    if not case.settled:
        said.append(
            f"Provisional: orders are in up to {case.data_until:%Y-%m-%d %H:%M} UTC; the window ends at "
            f"{case.settled_at:%Y-%m-%d %H:%M} UTC."
        )
    if unaided is not None:
        wide = unaided.interval(0.95)
        said.append(
            "Orders that no campaign brought serve as the control: the estimate holds if the outage left them alone. "
            f"Without that assumption the net loss is {say_money(unaided.loss_minor, currency)} "
            f"({'widest interval' if unaided.low_confidence else '95 %'}: {say_money(wide.low_minor, currency)} to "
            f"{say_money(wide.high_minor, currency)})."
        )
    return [*said, *left_out(case.evidence.other_currencies, currency)]


def left_out(others: Mapping[str, int], currency: str) -> list[str]:
    """Say which orders no figure counts because they are not in the currency of the report."""
    if not others:
        return []
    named = ", ".join(f"{count:,} in {name or 'no currency'}" for name, count in sorted(others.items()))
    what = plural(sum(others.values()), "order")
    return [f"All amounts are of orders in {currency}; {what} in other currencies are left out ({named})."]


def _estimate(one: LossEstimate, statistic: Statistic) -> Estimate:
    return Estimate(
        statistic=statistic,
        start=one.start,
        end=one.start + timedelta(hours=one.hours),
        expected_minor=one.expected_minor,
        observed_minor=one.observed_minor,
        loss_minor=one.loss_minor,
        intervals=tuple(Bounds(b.level, b.low_minor, b.high_minor) for b in one.intervals),
        probability_of_loss=one.probability_of_loss,
        effective_placebos=one.effective_placebos,
        low_confidence=one.low_confidence,
        noise_floor_minor=one.noise_floor_minor,
        control=one.control,
        near_holiday=one.near_holiday,
        forecast_minor=one.forecast_minor,
        scale_minor=one.scale_minor,
    )


def _basis(figures: Figures) -> Basis:
    money = figures.money
    forecasts = {"net": money.net, "during": money.during}
    if money.net is not None and money.net.estimate.control != "none":
        forecasts["unaided"] = money.unaided
    placebos = [one.placebos.assign(statistic=name) for name, one in forecasts.items() if one is not None]
    return Basis(
        placebos=pd.concat(placebos, ignore_index=True) if placebos else None,
        message_fates=figures.messages.messages,
        deferred_orders=money.deferred,
    )


def _hours(money: MoneyImpact) -> tuple[HourPoint, ...]:
    if money.net is None:
        return ()
    points = tuple(
        HourPoint(
            at=cast(datetime, row["hour"].to_pydatetime()),
            actual_minor=int(row["observed_minor"]),
            expected_minor=float(row["expected_minor"]),
        )
        for row in money.net.hourly.to_dict("records")
    )
    return with_noise_band(points, money.net.estimate.noise_floor_minor)


def impact_lines(figures: Figures) -> tuple[ImpactLine, ...]:
    """Return the lines of the impact table that do not follow from the message counts alone."""
    counts = figures.messages.counts
    bounced = next((one for one in figures.reputation if one.metric == "bounce"), None)
    caught_up = bounced is not None and bounced.messages > 0
    return (
        ImpactLine("Longest delay of a message", round(counts.minutes_longest), "minutes"),
        ImpactLine("Median delay of the delayed messages", round(counts.minutes_median), "minutes"),
        ImpactLine(
            "Opt-outs that the provider does not honour after recovery",
            figures.data.opt_outs_missing,
            "opt-outs",
            checked="our own consent requests against the provider's lists",
        ),
        ImpactLine(
            "Messages that bounced in the catch-up",
            bounced.count if bounced is not None and caught_up else None,
            "messages",
            checked="refusals in the sender's own log, and bounces that came later",
            note="" if caught_up else "nothing was caught up",
        ),
    )


def _campaign(row: dict[Any, Any], ledgers: Any) -> CampaignRow:
    entry = ledgers.get(int(row["campaign_id"]), {})
    late = int(row["delayed"]) > 0
    reason = str(entry.get("why") or entry.get("reason", ""))
    if capped := int(entry.get("capped", 0)):
        reason += f"; {plural(capped, 'person', 'people')} dropped for the frequency cap"
    return CampaignRow(
        campaign_id=int(row["campaign_id"]),
        name=str(row["name"]),
        kind=str(row["kind"]),
        planned_at=_moment(row["send_at"]),
        latest_useful_at=_moment(row["latest_useful_at"]),
        verdict=str(entry.get("verdict", "")),
        reason=reason,
        due=int(row["due"]),
        delayed=int(row["delayed"]),
        on_time=int(row["on_time"]),
        suppressed=int(row["suppressed"]),
        dropped=int(row["dropped"]) + int(row["bounced"]),
        unknown=int(row["unknown"]),
        delay_median_minutes=float(row["minutes_median"]) if late else None,
        delay_max_minutes=float(row["minutes_longest"]) if late else None,
    )


def _objective(one: ObjectiveCheck) -> ObjectiveRow:
    anchors = [one.rpa_anchors, one.rta_anchors] if one.rta_minutes is not None else [one.rpa_anchors]
    note = "; ".join(anchors)
    if one.rto == "not_applicable":
        note += "; not hit by the outage, so no recovery time"
    if one.rpa_minutes is None:
        note += "; no valid snapshot before the impact"
    return ObjectiveRow(
        object=one.name,
        rpo_target_s=one.rpo_minutes * 60.0,
        rpo_actual_s=None if one.rpa_minutes is None else one.rpa_minutes * 60,
        rto_target_s=one.rto_minutes * 60.0,
        rto_actual_s=None if one.rta_minutes is None else one.rta_minutes * 60,
        mtpd_s=one.mtpd_minutes * 60.0,
        note=note,
    )


def _reputation(one: ReputationCheck) -> ReputationRow:
    from tasks.impact import LIMITS

    limits = LIMITS[one.metric]
    words = {"none": "", "watch": "above the watch limit", "breach": "above the limit of mailbox providers"}
    note = [f"chance of so many or more: {one.p_value:.2f}"]
    if one.look and not one.alarm:
        note.append("a z-test would look at it, campaigns differ as much anyway")
    if words[one.limit]:
        note.append(words[one.limit])
    return ReputationRow(
        metric=one.metric,
        baseline=one.baseline_rate if one.baseline_messages else None,
        after=one.rate if one.messages else None,
        z=one.z,
        alarm=one.alarm or one.limit == "breach",
        threshold=limits[1] if limits else None,
        note="; ".join(note),
        count=one.count,
        messages=one.messages,
        baseline_count=one.baseline_count,
        baseline_messages=one.baseline_messages,
        p_value=one.p_value,
    )


def data_rows(data: DataImpact) -> tuple[DataRow, ...]:
    """Return one row per raw table: what was at risk, and the most that any witness proves lost; then the estimates.

    A table whose rows have no time of birth has none at risk that could be counted, but can still lose some.
    """
    proven = data.proven
    risk = {
        (str(one["source"]), str(one["table"])): int(one["rows"]) for one in data.at_risk.to_dict("records")
    }
    tables = dict.fromkeys([*risk, *zip(proven["source"], proven["table"], strict=True)])
    rows = []
    for source, table in tables:
        seen = proven[(proven["source"] == source) & (proven["table"] == table)]
        best = seen.sort_values("rows", ascending=False).head(1).to_dict("records")
        rows.append(
            DataRow(
                source=source,
                table=table,
                at_risk=risk.get((source, table)),
                lost=int(best[0]["rows"]) if best else None,
                witness=" and ".join(sorted(set(seen["witness"]))),
                note=str(best[0]["note"]) if best and best[0]["rows"] else "",
            )
        )
    estimated = data.lost[data.lost["estimated"].astype(bool)]
    rows += [
        DataRow(str(one["source"]), str(one["table"]), None, int(one["rows"]), "", True, str(one["note"]))
        for one in estimated.to_dict("records")
    ]
    return tuple(rows)


def rows_at_risk(data: DataImpact) -> dict[str, int]:
    """Return rows at risk per raw table."""
    return {str(table): int(rows) for table, rows in data.at_risk.groupby("table")["rows"].sum().items()}


def rows_lost(data: DataImpact) -> dict[str, int]:
    """Return the rows that a witness proves lost, per raw table; estimates are left out."""
    lost: Counter[str] = Counter()
    for one in data_rows(data):
        if one.lost is not None and not one.estimated:
            lost[one.table] += one.lost
    return dict(lost)


def _timeline(case: Case) -> tuple[TimelineRow, ...]:
    actions = {one.id: one for one in case.facts.actions}
    names = {int(one): str(name) for one, name in _names(case)}
    rows = []
    for one in case.facts.timeline:
        if one.kind in _NOT_TOLD or one.kind.startswith("action_item"):
            continue
        text = one.text
        action = actions.get(one.data.get("action_id", 0))
        if action is not None:
            if one.kind == "action_done" and action.kind not in _TOLD_ACTIONS:
                continue
            text = _told(action, one.kind.removeprefix("action_").replace("_", " "), names)
        elif one.kind == "timestamp":
            text = _STAMPS.get(str(one.data.get("timestamp")), text)
        rows.append(TimelineRow(one.at, one.kind, text, f"journal fact {one.seq}"))
    return tuple(rows)


def _told(action: Action, status: str, names: dict[int, str]) -> str:
    number = action.target.rpartition("/")[2]
    target = names.get(int(number), action.target) if number.isdigit() else action.target
    verb = _TOLD_ACTIONS.get(action.kind, action.kind.replace("_", " "))
    return f"{verb}: {target}" if status == "done" else f"{verb}: {target} ({status})"


def _names(case: Case) -> list[tuple[int, str]]:
    table = case.evidence.campaigns
    return list(zip(table["campaign_id"].tolist(), table["name"].tolist(), strict=True))


def _communications(case: Case) -> tuple[CommunicationRow, ...]:
    kept = {(one.stakeholder, one.made_at): one.status for one in judge_promises(case.facts.told, case.now)}
    rows = []
    for one in case.facts.communications:
        standing = kept.get((one.stakeholder, one.sent_at)) if one.sent_at else None
        rows.append(
            CommunicationRow(
                stakeholder=one.stakeholder,
                channel=one.channel,
                report=one.report,
                subject=one.subject,
                sent_at=one.sent_at,
                status=one.status,
                promised_next_at=one.promised_next_at,
                kept=None if standing in (None, "pending") else standing == "kept",
            )
        )
    return tuple(rows)


def readers_since(told: Sequence[Communication], issued: datetime | None) -> tuple[str, ...]:
    """Return who was sent figures since a report was first issued, each with the last time; nobody before that."""
    last: dict[str, datetime] = {}
    for one in told:
        if issued and one.report == "executive" and one.sent_at and one.sent_at >= issued:
            last[one.stakeholder] = max(one.sent_at, last.get(one.stakeholder, one.sent_at))
    return tuple(f"{name.replace('_', ' ')}, {say_time(at, year=True)}" for name, at in sorted(last.items()))


def _cause(case: Case) -> Cause:
    facts = case.facts
    incident = facts.incident
    declared = incident.timestamps.get("declared_at")
    by = f"declared by {incident.declared_by}" + (f" at {declared:%H:%M} UTC" if declared else "")
    said = (one.text for one in facts.timeline if one.kind == "evidence")
    # What the review notes of its own measurement is no cause.
    evidence = tuple(dict.fromkeys(one for one in said if not one.startswith("impact_started_at ")))
    return Cause(
        cause_class=incident.cause_class,
        trigger=incident.summary,
        factors=evidence[:6],
        detection=by,
        resolution=f"restored as measured by probes at {case.restored_at:%H:%M} UTC, resolved at "
        f"{case.resolved_at:%H:%M} UTC",
    )


def _appendix(case: Case, figures: Figures) -> Appendix:
    sources = [f"journal of {case.facts.incident.id}, {plural(len(case.facts.timeline), 'fact')}"]
    for source, info in case.after.items():
        sources.append(
            f"{info.snapshot_id}: {source} after recovery, as of {info.consistency_at:%Y-%m-%d %H:%M} UTC"
        )
    for source, before in case.before.items():
        sources.append(
            f"{before.snapshot_id}: {source} before the impact, as of {before.consistency_at:%Y-%m-%d %H:%M} UTC"
            if before
            else f"{source}: no valid snapshot from before the impact"
        )
    speed = case.provider.messages_per_minute
    assumptions = [
        f"The impact began at {case.impact_started_at:%Y-%m-%d %H:%M:%S} UTC; basis: {case.impact_basis}.",
        f"A message is planned at its campaign's time plus its place in the queue at {speed} messages a minute.",
        "Revenue is the value of orders when they were placed; returns that come later are not deducted.",
        "Closed days are those on which the shop never trades, and public holidays where holidays closed it before.",
    ]
    return Appendix(
        sources=tuple(sources),
        assumptions=tuple(assumptions),
        queries=_QUERIES,
        unknown_file=case.facts.unknown_file,
    )


_QUERIES = (
    (
        "Orders of the window",
        "SELECT ordered_at, total_minor, subscriber_id, campaign_id FROM canonical.orders WHERE total_minor > 0",
    ),
    (
        "Messages and their outcome",
        "SELECT campaign_id, subscriber_id, outcome, attempted_at FROM canonical.messages",
    ),
    (
        "Standing opt-outs",
        "SELECT customer_id, max(requested_at) FROM shop.consent_requests GROUP BY customer_id "
        "HAVING arg_max(kind, (requested_at, request_id)) = 'unsubscribe'",
    ),
    (
        "Events that our webhook saw and the provider lost",
        "SELECT event_type, campaign_id, subscriber_id, occurred_at FROM shop.webhook_receipts "
        "WHERE occurred_at <= impact_started_at "
        "EXCEPT SELECT type, campaign_id, subscriber_id, occurred_at FROM esp.events",
    ),
)


def _affected(figures: Figures) -> str:
    table = figures.messages.campaigns
    table = table[(table["due"] > 0) | (table["unknown"] > 0)]
    if not len(table):
        return "No campaign was due."
    names = ", ".join(str(one) for one in table["name"])
    return f"{plural(len(table), 'campaign')}: {names}."


def _decision(figures: Figures) -> str:
    urgent = [one.title for one in figures.items if one.priority == "P0"]
    return "; ".join(urgent)


def _completeness(case: Case) -> float:
    whole = (case.settled_at - case.impact_started_at).total_seconds()
    known = (case.until - case.impact_started_at).total_seconds()
    return max(0.0, min(1.0, known / whole)) if whole > 0 else 1.0


def _role(case: Case, name: str) -> str:
    roles = case.loaded.plan.roles
    return roles[name].filled_by if name in roles else ""


def _moment(value: Any) -> datetime | None:
    return None if pd.isna(value) else pd.Timestamp(value).to_pydatetime()


def summary_lines(content: ReviewContent) -> Sequence[str]:
    """Return the executive summary of a report, one fact a line."""
    counts, loss = content.messages, content.loss
    lines = [
        f"{plural(counts.due, 'message')} were due, {counts.delayed:,} came late, {counts.dropped:,} were dropped, "
        f"{counts.duplicated:,} went out twice.",
    ]
    if loss is not None:
        currency = content.header.currency
        interval = f" ({say_level(loss.net)} {say_bounds(loss.net, currency)})" if loss.net.intervals else ""
        lines.append(
            f"Net loss {say_money(loss.net.loss_minor, currency)}{interval}; "
            f"{say_money(loss.deferred_minor, currency)} came late instead of not at all."
        )
    else:
        lines.append(f"The money is left open: {content.loss_missing_because}")
    lost, risk = rows_lost_in_all(content) or 0, rows_at_risk_in_all(content)
    lines.append(
        f"{plural(lost, 'row')} lost, {risk:,} were at risk; {counts.to_opted_out} messages to opted-out people."
    )
    return lines
