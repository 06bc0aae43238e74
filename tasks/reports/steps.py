"""The Prefect tasks of `review`: gather the case, measure each part, write the report."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State

from tasks.comms import Situation, tell
from tasks.core import Money, UsageError, open_clock, plural
from tasks.impact import (
    Calendar,
    DataImpact,
    MessageImpact,
    MoneyImpact,
    ObjectiveCheck,
    ReputationCheck,
    check_objectives,
    check_reputation,
    measure_data,
    measure_messages,
    measure_money,
    reactions_of,
    sends_of,
)
from tasks.incidents import open_journal
from tasks.plan import load_plan
from tasks.reports.assembly import (
    Figures,
    assemble,
    missed_lessons,
    readers_since,
    rows_at_risk,
    rows_lost,
    summary_lines,
)
from tasks.reports.casework import Case, open_canonical, open_case, open_snapshots
from tasks.reports.content import FindingRow, ReviewContent
from tasks.reports.errors import ReportError
from tasks.reports.findings import action_items, lessons, plan_against_journal
from tasks.reports.followup import Reminder, follow_up, reminder
from tasks.reports.inboxes import (
    COUNTED,
    Inbox,
    WatchDay,
    check_inboxes,
    inbox_lessons,
    read_mailboxes,
    read_opens,
    watch,
)
from tasks.reports.proposals import plan_patch, proposals
from tasks.reports.settling import Unsettled, unsettled
from tasks.reports.writing import WrittenReport, first_issued, write_report
from tasks.snapshots.steps import open_plan_store

ARTIFACT_LIMIT = 190_000
"""Bytes of Markdown that the Prefect UI still shows quickly."""


@dataclass(frozen=True)
class Reviewed:
    """What `review` came to.

    Attributes:
        version: of the report, 1 for the first of the incident.
        settled: whether late orders and events can no longer change the figures.
        report: path of the HTML report.
        messages: due, delayed, on_time, suppressed, dropped, unknown, duplicated, after_latest_useful, to_opted_out.
        loss: net, low and high (95 %), deferred (what late messages brought), gross (net and deferred), during_outage
            (while it lasted), in minor units of currency;
            net, low and high are 0 where the history is too short for an estimate, and `refused` says so.
        rows_lost: per raw table the rows that a witness proves lost; rows_at_risk likewise.
        window_end: end of the window of the money figures (ISO 8601).
    """

    incident: str
    version: int
    settled: bool
    report: str
    messages: dict[str, int]
    loss: dict[str, int | str]
    rows_lost: dict[str, int]
    rows_at_risk: dict[str, int]
    findings: int
    action_items: int
    window_end: str


@dataclass(frozen=True)
class Settled:
    """What `settle` came to.

    Attributes:
        reports: of every report that was settled what its review came to.
        waiting: per incident whose report cannot be settled yet, what it waits for.
        reminded: the stakeholders who were reminded of action items in this run.
    """

    reports: tuple[Reviewed, ...]
    waiting: dict[str, str]
    reminded: tuple[str, ...]


@task(cache_policy=NO_CACHE)
def find_reminders(plan: str) -> list[Reminder]:
    """Return what people are to be reminded of: one reminder, none if no action item is overdue or due soon."""
    loaded = load_plan(plan)
    now = open_clock(loaded.clock_spec()).now()
    with open_journal(loaded) as journal:
        found = reminder(follow_up(journal.action_items(), now), now)
    return [found] if found else []


@task(cache_policy=NO_CACHE)
def find_unsettled(plan: str) -> list[Unsettled]:
    """Return every resolved incident without a settled report, and what each waits for."""
    loaded = load_plan(plan)
    now = open_clock(loaded.clock_spec()).now()
    with open_journal(loaded) as journal:
        found = unsettled(loaded, journal, open_plan_store(loaded), now)
    for one in found:
        get_run_logger().info(
            "%s: %s", one.incident, f"waits for {one.waits_for}" if one.waits_for else "can be settled"
        )
    return found


def settled_of(
    waiting: Sequence[Unsettled], states: Mapping[str, State[Reviewed]], reminded: Sequence[str]
) -> Settled:
    """Return what the run came to.

    Raises:
        ReportError: a report could not be written; the others were.
    """
    failed = {incident: state.message for incident, state in states.items() if not state.is_completed()}
    if failed:
        raise ReportError(
            "; ".join(f"{incident} could not be settled: {why}" for incident, why in failed.items()),
            fix="mend it; the next run settles it",
        )
    return Settled(
        reports=tuple(state.result() for state in states.values()),
        waiting={one.incident: one.waits_for for one in waiting if not one.ready},
        reminded=tuple(reminded),
    )


@task(cache_policy=NO_CACHE)
def gather_case(plan: str, incident: str, settle: bool) -> Case:
    """Read the journal, choose the snapshots before and after, and measure when the impact began."""
    loaded = load_plan(plan)
    clock = open_clock(loaded.clock_spec())
    with open_journal(loaded) as journal:
        case = open_case(loaded, journal, open_plan_store(loaded), clock, incident)
        if "impact_started_at" not in case.facts.incident.timestamps:
            journal.set_timestamp(
                case.facts.incident.id, "impact_started_at", case.impact_started_at, "review"
            )
            journal.note(
                case.facts.incident.id, "evidence", f"impact_started_at rests on {case.impact_basis}"
            )
            case = open_case(loaded, journal, open_plan_store(loaded), clock, case.facts.incident.id)
    if settle and not case.settled:
        raise UsageError(
            f"Late data can still change the figures until {case.settled_at:%Y-%m-%d %H:%M} UTC; "
            f"the snapshots reach {case.data_until:%Y-%m-%d %H:%M} UTC",
            fix="run backup and validate after that time, then review again",
        )
    get_run_logger().info(
        "%s: impact %s (%s), restored %s, data until %s",
        case.facts.incident.id,
        case.impact_started_at.isoformat(),
        case.impact_basis,
        case.restored_at.isoformat(),
        case.data_until.isoformat(),
    )
    return case


@task(cache_policy=NO_CACHE)
def count_messages(case: Case) -> MessageImpact:
    """Say what became of every message that was due: delayed, dropped, suppressed, unknown, duplicated."""
    found = measure_messages(
        case.evidence.campaigns,
        case.evidence.attempts,
        case.evidence.audiences,
        case.evidence.opt_outs,
        impact_started_at=case.impact_started_at,
        restored_at=case.restored_at,
        until=case.until,
        messages_per_minute=case.provider.messages_per_minute,
        held=case.facts.ledgers,
    )
    counts = found.counts
    get_run_logger().info(
        "%s due: %d delayed, %d dropped, %d suppressed, %d unknown, %d duplicated",
        plural(counts.due, "message"),
        counts.delayed,
        counts.dropped,
        counts.suppressed,
        counts.unknown,
        counts.duplicated,
    )
    return found


@task(cache_policy=NO_CACHE)
def estimate_loss(case: Case, messages: MessageImpact) -> MoneyImpact:
    """Estimate the net loss over outage and recovery, with an interval calibrated on placebo windows."""
    report = case.loaded.plan.report
    found = measure_money(
        case.evidence.orders,
        sends_of(case.evidence.attempts, case.evidence.campaigns, before=case.impact_started_at),
        messages.planned_sends,
        messages.messages,
        impact_started_at=case.impact_started_at,
        restored_at=case.restored_at,
        until=case.until,
        currency=report.currency,
        calendar=Calendar(report.timezone, report.country),
        disturbed=tuple(
            (one.timestamps["impact_started_at"], one.timestamps.get("resolved_at", case.now))
            for one in case.facts.similar
            if "impact_started_at" in one.timestamps
        ),
    )
    if found.net is None:
        get_run_logger().warning("No estimate of the loss: %s", found.refused)
    else:
        one = found.net.estimate
        bounds = one.interval(0.95)
        get_run_logger().info(
            "Net loss %s (interval %s to %s), deferred %s",
            *(
                Money(minor, found.currency).whole()
                for minor in (one.loss_minor, bounds.low_minor, bounds.high_minor, found.deferred_minor)
            ),
        )
    return found


@task(cache_policy=NO_CACHE)
def check_sender_reputation(case: Case) -> list[ReputationCheck]:
    """Compare bounces, complaints and opt-outs of the catch-up with the days before the outage."""
    since = case.impact_started_at - timedelta(days=case.loaded.plan.report.baseline_days)
    evidence = case.evidence
    baseline = reactions_of(evidence.attempts, evidence.reactions, since=since, until=case.impact_started_at)
    caught_up = evidence.attempts[evidence.attempts["campaign_id"].isin(list(case.facts.ledgers))]
    late = reactions_of(caught_up, evidence.reactions, since=case.restored_at, until=case.until)
    return check_reputation({name: int(late[name].sum()) for name in COUNTED}, baseline)


@task(cache_policy=NO_CACHE)
def check_mailbox_providers(case: Case) -> tuple[list[Inbox], list[WatchDay]]:
    """Do the same at each mailbox provider, and watch the fourteen days after the outage; nothing without addresses."""
    since = case.impact_started_at - timedelta(days=case.loaded.plan.report.baseline_days)
    connection = open_canonical(case, open_plan_store(case.loaded))
    try:
        mailboxes = read_mailboxes(connection, case.loaded.plan.ramp.mailbox_providers)
        if mailboxes is None:
            return [], []
        recent = case.evidence.attempts["attempted_at"] >= since
        opens = read_opens(connection, set(case.evidence.attempts.loc[recent, "campaign_id"]))
    finally:
        connection.close()
    found = check_inboxes(
        case.evidence,
        mailboxes,
        opens,
        caught_up=case.facts.ledgers,
        since=since,
        started=case.impact_started_at,
        restored=case.restored_at,
        until=case.until,
    )
    return found, watch(case.evidence, mailboxes, restored=case.restored_at, until=case.data_until)


@task(cache_policy=NO_CACHE)
def count_data(case: Case) -> DataImpact:
    """Count rows at risk, and rows that are gone after recovery by whatever still witnesses them."""
    connection = open_snapshots(case, open_plan_store(case.loaded))
    try:
        return measure_data(
            connection,
            case.tables,
            consistency_at=case.consistency_at(),
            impact_started_at=case.impact_started_at,
            last_attempt_at=case.last_attempt_at,
            restored_at=case.restored_at,
            events_source=case.esp,
            witness_source=case.shop,
            rewritten=case.facts.ledgers,
        )
    finally:
        connection.close()


@task(cache_policy=NO_CACHE)
def hold_objectives(case: Case) -> list[ObjectiveCheck]:
    """Hold RPO, RTO and MTPD of every marketing object against what was measured."""
    plan = case.loaded.plan
    from tasks.snapshots import CANONICAL

    ours = {"orders", "order_lines", "refunds"}
    return check_objectives(
        plan.objects,
        source_of={table: case.shop if table in ours else case.esp for table in CANONICAL},
        consistency_at=case.consistency_at(),
        hit={case.esp},
        impact_started_at=case.impact_started_at,
        restored_at=case.restored_at,
    )


@task(cache_policy=NO_CACHE)
def hold_plan_against_journal(case: Case, objectives: Sequence[ObjectiveCheck]) -> list[FindingRow]:
    """Find where the journal departs from what the plan asked for."""
    return plan_against_journal(case.loaded.plan, case.facts, objectives, now=case.now)


@task(cache_policy=NO_CACHE)
def leave_action_items(
    case: Case,
    messages: MessageImpact,
    money: MoneyImpact,
    reputation: Sequence[ReputationCheck],
    data: DataImpact,
    objectives: Sequence[ObjectiveCheck],
    findings: Sequence[FindingRow],
    inboxes: tuple[list[Inbox], list[WatchDay]] = ([], []),
) -> Figures:
    """Write the work that follows into the journal (once), and return all figures together."""
    items = action_items(
        case.loaded.plan, case.facts, messages.counts, data, objectives, findings, now=case.now
    )
    known = {one.title for one in case.facts.action_items}
    with open_journal(case.loaded) as journal:
        for one in items:
            if one.title not in known:
                journal.action_item(case.facts.incident.id, **dataclasses.asdict(one))
    net = money.net.estimate if money.net else None
    return Figures(
        messages=messages,
        money=money,
        reputation=tuple(reputation),
        data=data,
        objectives=tuple(objectives),
        findings=tuple(findings),
        lessons=(
            *lessons(case.facts, messages.counts, data, reputation, findings, net),
            *inbox_lessons(inboxes[0]),
            *missed_lessons(case),
        ),
        items=tuple(items),
        inboxes=tuple(inboxes[0]),
        watched=tuple(inboxes[1]),
    )


@task(cache_policy=NO_CACHE)
def write_review(case: Case, figures: Figures) -> tuple[ReviewContent, WrittenReport]:
    """Write the next version of the report with its tables."""
    with open_journal(case.loaded) as journal:
        facts = dataclasses.replace(
            case.facts, action_items=tuple(journal.action_items(case.facts.incident.id))
        )
    folder = case.loaded.resolve(case.loaded.plan.reports)
    wanted = proposals(case.loaded.plan, facts, figures.objectives, figures.reputation, now=case.now)
    content = dataclasses.replace(
        assemble(dataclasses.replace(case, facts=facts), figures),
        had_before=readers_since(facts.communications, first_issued(folder, facts.incident.id)),
        proposals=tuple(wanted),
        plan_patch=plan_patch(case.loaded.path.read_text(encoding="utf-8"), case.loaded.path.name, wanted),
    )
    written = write_report(content, folder)
    get_run_logger().info("Report v%02d: %s", written.version, written.html)
    return content, written


@task(cache_policy=NO_CACHE)
def tell_stakeholders(case: Case, content: ReviewContent, written: WrittenReport) -> int:
    """Send whoever gets executive reports what the review found, unless they know; return how many were taken."""
    plan, clock = case.loaded.plan, open_clock(case.loaded.clock_spec())
    incident = case.facts.incident
    situation = Situation(
        company=plan.name,
        incident_id=incident.id,
        provider=incident.provider,
        state=incident.state,
        severity=case.facts.severity,
        summary=incident.summary,
        cause_class=incident.cause_class,
        impact_started_at=case.impact_started_at,
        detected_at=incident.timestamps.get("detected_at"),
        as_of=clock.now(),
        done=tuple(summary_lines(content)),
        needs=tuple(one for one in (content.outage.decision_asked,) if one),
        next_steps=(
            f"The full report is version {written.version} of {incident.id}"
            + ("." if case.settled else f"; figures settle by {case.settled_at:%Y-%m-%d %H:%M} UTC."),
        ),
        over=True,
        simulated=case.simulated,
    )
    # The figures are the news, not the version: a review made again tells nobody what they have read already.
    news = [*situation.done, *situation.needs, case.settled]
    with open_journal(case.loaded) as journal:
        told = tell(case.loaded, journal, situation, flow="review", news=news, reports=("executive",))
    for failure in told.failures:
        get_run_logger().error(failure)
    return told.taken


@task(cache_policy=NO_CACHE)
def publish_review(case: Case, figures: Figures, content: ReviewContent, written: WrittenReport) -> Reviewed:
    """Show the report as an artifact of the run and return its headline figures."""
    text = Path(written.markdown).read_text(encoding="utf-8")
    if len(text.encode()) > ARTIFACT_LIMIT:
        text = "# " + content.header.title + "\n\n" + "\n".join(f"- {one}" for one in summary_lines(content))
        text += f"\n\nThe whole report: `{written.html}`\n"
    create_markdown_artifact(
        key=f"review-{case.facts.incident.id.lower()}", markdown=text, description=content.header.title
    )
    counts = content.messages
    money = figures.money
    net = money.net.estimate if money.net else None
    bounds = net.interval(0.95) if net else None
    return Reviewed(
        incident=case.facts.incident.id,
        version=written.version,
        settled=case.settled,
        report=str(written.html),
        messages={field.name: getattr(counts, field.name) for field in dataclasses.fields(counts)},
        loss={
            "net": net.loss_minor if net else 0,
            "low": bounds.low_minor if bounds else 0,
            "high": bounds.high_minor if bounds else 0,
            "gross": (net.loss_minor if net else 0) + money.deferred_minor,
            "deferred": money.deferred_minor,
            "during_outage": money.during.estimate.loss_minor if money.during else 0,
            "currency": money.currency,
            "refused": money.refused,
        },
        rows_lost=rows_lost(figures.data),
        rows_at_risk=rows_at_risk(figures.data),
        findings=len(figures.findings),
        action_items=len(content.action_items),
        window_end=_iso(case.until),
    )


def _iso(moment: datetime) -> str:
    return moment.isoformat()
