"""The Prefect tasks of `respond`: thin; what they decide is decided in the modules beside this one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Self
from uuid import UUID

from prefect import get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.catchup import CatchupError, OutcomeUnknown, settle_stops
from tasks.comms import CampaignLine, Situation, tell, write_vendor_ticket
from tasks.core import (
    Money,
    UsageError,
    crash_point,
    current_progress,
    open_clock,
    plural,
)
from tasks.incidents import ApprovalClosed, Incident, Journal, LeaseHeld, StaleToken, open_journal
from tasks.plan import LoadedPlan, load_plan
from tasks.providers import ProviderRefused, ProvidersError, open_provider
from tasks.response.acting import Looks, stop_campaign
from tasks.response.agreeing import Agreed, agree
from tasks.response.reading import Calendar, read_calendar
from tasks.response.table import PlanLine, by_urgency, markdown_table, plan_table, time_to_stop
from tasks.snapshots import SnapshotError
from tasks.snapshots.steps import open_plan_store

LEASE = timedelta(minutes=30)
_ANSWER_POLL_SECONDS = 2.0


@dataclass(frozen=True)
class Responded:
    """What `respond` came to.

    Attributes:
        incident: its id.
        held: whether something is still open: a decision, or a provider that does not answer.
        reason: what is open; empty when nothing is.
        actions: the incident's stopping actions by status.
        approval: `approved`, `awaiting`, `rejected`, or `none` where nothing had to be asked.
        plan: the campaigns as they were planned.
        vendor_ticket: file with the text for the provider's support.
    """

    incident: str
    held: bool
    reason: str
    actions: dict[str, int]
    approval: str
    plan: list[dict[str, object]] = field(default_factory=list)
    vendor_ticket: str = ""


class Decision(RunInput):
    """May the campaigns in the plan be stopped?"""

    decision: Literal["approve", "reject", "hold"] = Field(
        "hold",
        description="approve stops every campaign of the plan; hold changes nothing and asks again next run.",
    )
    name: str = Field("", max_length=120, description="Your name, for the record.")


class Run:
    """One run of `respond`. Not a dataclass: Prefect would hand a copy of one to each task."""

    def __init__(self, plan: str, provider: str, name: str) -> None:
        self.plan = plan
        self.provider = provider
        self.name = name or "respond"
        self.incident = ""
        self.reason = ""
        self.approval = "none"
        self.ticket = ""
        self.read_from = ""
        self.takes = ""
        self.answers = False
        self.whole = True
        self.asked: set[int] = set()
        self.lines: list[PlanLine] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End as held where a person or the provider is awaited; let every other error through."""
        held = isinstance(error, CatchupError | ProvidersError | StaleToken | LeaseHeld)
        if held:
            self.reason = str(error)
            with open_journal(load_plan(self.plan)) as journal:
                journal.note(self.incident, "held", f"respond is held: {error}")
        return held


def responding(plan: str, provider: str, name: str) -> Run:
    """Begin a run of `respond` for a provider of the plan.

    Raises:
        PlanError: the plan cannot be read, or has no such provider.
    """
    loaded = load_plan(plan)
    loaded.provider(provider)
    return Run(str(loaded.path), provider, name)


@task(cache_policy=NO_CACHE, retries=2, retry_delay_seconds=[1, 5])
def declare_incident(run: Run, cause_class: str, seen: str, impact_started_at: str) -> str:
    """Declare the incident, or join the one that is open; return its id. Changes nothing at the provider."""
    began = _moment(impact_started_at)
    loaded = load_plan(run.plan)
    with open_journal(loaded) as journal:
        now = journal.clock.now()
        incident = journal.declare(
            run.provider,
            cause_class=cause_class,
            summary=seen or "declared by hand",
            detected_at=now,
            declared_by=run.name,
            impact_started_at=began,
            state="investigating",
        )
        crash_point("respond.declare:after")
        if run.name != "monitor" and "acknowledged_at" not in incident.timestamps:
            at = max(now, incident.timestamps["declared_at"])
            journal.set_timestamp(incident.id, "acknowledged_at", at, run.name)
    run.incident = incident.id
    get_run_logger().info("%s of %s is %s", incident.id, run.provider, incident.state)
    return incident.id


@task(cache_policy=NO_CACHE)
def hold_last_good(run: Run) -> list[str]:
    """Hold the last good snapshot of every source, so that retention cannot take it; return what is held.

    What cannot be held (no store, no key to sign the hold with, a store that is not ours or is damaged) is noted with
    its reason and stops nothing: stopping the campaigns cannot wait for it.
    """
    loaded = load_plan(run.plan)
    held: list[str] = []
    with open_journal(loaded) as journal:
        for source in loaded.plan.sources:
            try:
                snapshot = _hold(loaded, journal, run, source)
            except (SnapshotError, UsageError) as error:
                journal.note(run.incident, "no_snapshot", f"no snapshot of {source} is held: {error}")
                get_run_logger().error("No snapshot of %s is held: %s", source, error)
                continue
            crash_point("respond.hold:after")
            if snapshot:
                held.append(snapshot)
    return held


@task(cache_policy=NO_CACHE)
def plan_campaigns(run: Run, scope: Sequence[int]) -> list[PlanLine]:
    """Say per campaign what is due, what this provider allows, and what happens if nothing is done."""
    loaded = load_plan(run.plan)
    with open_provider(loaded, run.provider) as provider, open_journal(loaded) as journal:
        calendar: Calendar = read_calendar(loaded, run.provider, provider)
        lines = plan_table(
            calendar.sendings,
            provider.capabilities,
            journal.clock.now(),
            lateness={str(kind): rule for kind, rule in loaded.plan.lateness.items()},
            scope=scope,
        )
        text = f"{plural(len(lines), 'campaign')} running or due within a day, read from {calendar.read_from}"
        journal.note(run.incident, "plan", text, {"lines": [line.as_action() for line in lines]})
        _remember(journal, run.incident, lines)
        run.takes = time_to_stop(lines, provider.capabilities)
    run.lines, run.read_from, run.answers = lines, calendar.read_from, calendar.from_provider
    run.whole = not scope
    get_run_logger().info("%s", text)
    return lines


@task(cache_policy=NO_CACHE)
def publish_plan(run: Run, lines: Sequence[PlanLine]) -> None:
    """Show the plan as an artifact of the run."""
    create_markdown_artifact(
        _plan_text(run, lines), key=f"respond-{run.incident.lower()}", description="What respond would do"
    )


def await_approval(
    run: Run, lines: Sequence[PlanLine], approval: Literal["ask", "policy"], wait_minutes: int
) -> Agreed:
    """Find who agreed: the journal, the plan's policy, or a person asked now through the form or the command line.

    Waits at most `wait_minutes` (a drill's time does not move by itself, so a drill does not wait). Without an answer
    the run goes on with what is agreed to and ends as held; the question stays open in the journal.
    """
    agreed = _agree(run, lines, approval, wait_minutes)
    clock = open_clock(load_plan(run.plan).clock_spec())
    if agreed.waiting is not None and wait_minutes > 0 and not clock.simulated:
        _ask_on_the_form(run, lines, agreed.waiting.id, wait_minutes * 60)
        agreed = _agree(run, lines, approval, wait_minutes)
    if agreed.waiting is not None:
        run.approval = "awaiting"
        run.reason = f"approval {agreed.waiting.id} waits for an answer"
    elif agreed.rejected and not agreed.lines:
        run.approval = "rejected"
    elif agreed.lines:
        run.approval = "approved"
    return agreed


@task(cache_policy=NO_CACHE)
def stop_campaigns(run: Run, agreed: Agreed) -> int:
    """Stop every campaign that was agreed to, each once, under the incident's lease; return how many stand still.

    One that cannot be stopped keeps no other from being stopped; the run then ends as held with what is open.

    A stop that an earlier run asked for and did not live to write down is read back first: its campaign may stand
    still already, and is in no plan then.

    Raises:
        LeaseHeld: another run acts on this incident.
        ProvidersError: the provider did not answer; the next run goes on from the journal.
    """
    loaded = load_plan(run.plan)
    with open_provider(loaded, run.provider) as provider, open_journal(loaded) as journal:
        left_open = [one for one in journal.actions(run.incident) if one.status in ("intended", "unknown")]
        if not agreed.lines and not left_open:
            return 0
        probe = provider.health()
        if not probe.ok:
            run.reason = f"the provider does not answer ({probe.detail}); run respond again when it does"
            journal.note(run.incident, "held", f"nothing was asked of the provider: {probe.detail}")
            return 0
        # A stop may have to wait for the provider's rate limit.
        held_for = LEASE + provider.capabilities.longest_window
        lease = journal.lease(run.incident, run.name, held_for)
        try:
            settle_stops(journal, run.incident, provider, token=lease.token)
            may_pause = "pause" in loaded.plan.approval.policy_actions
            looks, problems, accepted = Looks(provider), [], []
            progress = current_progress()
            progress.start("Stopping campaigns", len(agreed.lines))
            for line in by_urgency(agreed.lines):
                if lease.expires_at - journal.clock.now() < held_for - LEASE / 2:
                    lease = journal.renew(lease, held_for)
                try:
                    found = stop_campaign(
                        journal,
                        run.incident,
                        provider,
                        line,
                        token=lease.token,
                        may_pause=may_pause or line.campaign_id not in agreed.by_policy,
                        looks=looks,
                    )
                except (ProviderRefused, OutcomeUnknown) as error:
                    problems.append(f"campaign {line.campaign_id}: {error}")
                    get_run_logger().error("%s %s: %s", line.action, line.campaign_id, error)
                else:
                    accepted.append(line)
                    get_run_logger().info("%s %s: %s", line.action, line.campaign_id, found)
                progress.advance()
            problems += [
                f"campaign {line.campaign_id}: its stop was accepted and does not show"
                for line in looks.still_sending(accepted)
            ]
            progress.finish(plural(len(accepted), "campaign"))
            stopped = len(agreed.lines) - len(problems)
            if problems:
                count = f"{stopped} of {plural(len(agreed.lines), 'campaign')} stopped"
                journal.note(run.incident, "held", f"{count}; {'; '.join(problems)}", token=lease.token)
                run.reason = "; ".join(
                    [*filter(None, [run.reason]), *problems, "run respond again: it looks first"]
                )
            elif journal.incident(run.incident).state == "investigating":
                everything = run.whole and run.answers and len(agreed.lines) == len(run.lines)
                what = "everything due is stopped" if everything else "what was agreed to is stopped"
                journal.put_on_hold(run.incident, "awaiting_vendor", run.name, what, token=lease.token)
        finally:
            journal.release(lease)
    return stopped


@task(cache_policy=NO_CACHE)
def tell_people(run: Run, lines: Sequence[PlanLine]) -> int:
    """Tell the stakeholders and the audience where it stands, with the time of the next update; return how many.

    The news is what was done and what the run waits for. A channel that fails is journaled and stops nothing.
    """
    loaded = load_plan(run.plan)
    with open_journal(loaded) as journal:
        situation = _situation(loaded, journal, journal.incident(run.incident), run, lines)
        told = tell(loaded, journal, situation, flow="respond", news=[situation.done, run.reason])
    for failure in told.failures:
        get_run_logger().error(failure)
    return told.taken


@task(cache_policy=NO_CACHE)
def write_ticket(run: Run, lines: Sequence[PlanLine]) -> str:
    """Write the text of a ticket for the provider's support, with the evidence; return the file. Sends nothing."""
    loaded = load_plan(run.plan)
    with open_journal(loaded) as journal:
        situation = _situation(loaded, journal, journal.incident(run.incident), run, lines)
        evidence = tuple(
            f"{entry.at:%Y-%m-%d %H:%M} UTC  {entry.text}"
            for entry in journal.timeline(run.incident)
            if entry.kind in ("declared", "joined", "false_green", "detector")
        )
    support = loaded.provider(run.provider).support or "the provider's support"
    written = write_vendor_ticket(situation, support=support, evidence=evidence)
    folder = loaded.resolve(loaded.plan.state) / run.incident
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vendor-ticket.txt"
    path.write_text(f"{written.subject}\n\n{written.text}", encoding="utf-8")
    create_markdown_artifact(
        f"# {written.subject}\n\n```\n{written.text}\n```",
        key=f"vendor-ticket-{run.incident.lower()}",
        description="Text for the provider's support",
    )
    run.ticket = str(path)
    return run.ticket


@task(cache_policy=NO_CACHE)
def publish_response(run: Run) -> Responded:
    """Show what came of the run as an artifact, and return it."""
    with open_journal(load_plan(run.plan)) as journal:
        stopping = [one for one in journal.actions(run.incident) if one.kind in ("pause", "unschedule")]
    counts = dict(Counter(str(one.status) for one in stopping))
    state = f"**Held.** {run.reason}" if run.reason else "Nothing is open."
    rows = [f"| {one.target} | {one.kind} | {one.status} | {one.error or ''} |" for one in stopping]
    text = "\n".join(
        [f"# {run.incident}", "", state, "", "| target | action | status | error |", "|---|---|---|---|"]
    )
    create_markdown_artifact(
        "\n".join([text, *rows]), key=f"response-{run.incident.lower()}", description="What respond did"
    )
    return Responded(
        incident=run.incident,
        held=bool(run.reason),
        reason=run.reason,
        actions=counts,
        approval=run.approval,
        plan=[vars(line) | {"undoable": line.undoable} for line in run.lines],
        vendor_ticket=run.ticket,
    )


def _agree(run: Run, lines: Sequence[PlanLine], approval: str, wait_minutes: int) -> Agreed:
    loaded = load_plan(run.plan)
    with open_journal(loaded) as journal:
        found = agree(
            journal,
            run.incident,
            lines,
            use_policy=approval == "policy",
            policy_actions=loaded.plan.approval.policy_actions,
            expires_at=journal.clock.now() + timedelta(days=1, minutes=wait_minutes),
            asked=run.asked,
        )
        run.asked |= {found.waiting.id} if found.waiting else set()
        crash_point("respond.approval:after")
    return found


def _ask_on_the_form(run: Run, lines: Sequence[PlanLine], approval_id: int, seconds: int) -> None:
    """Pause this run with a form until it is answered there, in the journal, or not in time.

    A lapsed pause would end the run as failed (Prefect 3.8), so the run answers itself just before.
    """
    number = UUID(str(runtime.flow_run.id))
    stop = threading.Event()

    def watch() -> None:
        waited = 0.0
        while not stop.wait(_ANSWER_POLL_SECONDS):
            waited += _ANSWER_POLL_SECONDS
            with open_journal(load_plan(run.plan)) as journal:
                answered = journal.approval(approval_id).status != "awaiting"
            if answered or waited >= seconds:
                resume_flow_run(number, run_input={"decision": "hold", "name": ""})
                return

    watcher = threading.Thread(target=watch, daemon=True, name="approval")
    watcher.start()
    try:
        answer = pause_flow_run(
            wait_for_input=Decision.with_initial_data(description=_plan_text(run, lines)),
            timeout=seconds + 300,
            poll_interval=2,
            key=f"approval-{approval_id}",
        )
    finally:
        stop.set()
    if answer.decision == "hold":
        return
    decision: Literal["approved", "rejected"] = "approved" if answer.decision == "approve" else "rejected"
    with open_journal(load_plan(run.plan)) as journal:
        try:
            journal.answer_approval(
                approval_id, decision, answer.name or "unnamed, through the form", False, "ui"
            )
        except ApprovalClosed as error:
            get_run_logger().warning("The form came too late: %s", error)


def _plan_text(run: Run, lines: Sequence[PlanLine]) -> str:
    currency = load_plan(run.plan).plan.report.currency
    about = f"Read from {run.read_from}. {run.takes}".strip()
    return f"# {run.incident}: the plan\n\n{about}\n\n{markdown_table(lines, currency)}"


def _situation(
    loaded: LoadedPlan, journal: Journal, incident: Incident, run: Run, lines: Sequence[PlanLine]
) -> Situation:
    actions = {one.target: one for one in journal.actions(incident.id) if one.kind in ("pause", "unschedule")}
    stopped = [one for one in actions.values() if one.status == "done"]
    standing = {"done": "stopped", "unknown": "outcome unknown", "failed": "not held yet"}
    currency = loaded.plan.report.currency
    return Situation(
        company=loaded.plan.name,
        incident_id=incident.id,
        provider=incident.provider,
        state=incident.state,
        severity=journal.severity(incident.id),
        summary=incident.summary,
        cause_class=incident.cause_class,
        impact_started_at=incident.timestamps.get("impact_started_at"),
        detected_at=incident.timestamps.get("detected_at"),
        as_of=journal.clock.now(),
        campaigns=tuple(
            CampaignLine(
                name=line.name,
                kind=line.kind,
                audience=line.audience,
                due_at=line.due_at,
                useful_until=line.useful_until,
                standing=standing.get(
                    actions[f"campaign/{line.campaign_id}"].status
                    if f"campaign/{line.campaign_id}" in actions
                    else "failed",
                    "not held yet",
                ),
                at_stake=Money(line.at_stake_minor, currency).whole() if line.at_stake_minor else "",
            )
            for line in _lines_to_report(journal, incident.id, lines)
        ),
        seen=(incident.summary,),
        done=(f"{plural(len(stopped), 'campaign')} stopped",) if stopped else (),
        needs=(run.reason,) if run.reason else (),
        next_steps=("Watch until the provider is measured to be back, then recover.",),
        over=False,
        simulated=journal.clock.simulated,
    )


def _hold(loaded: LoadedPlan, journal: Journal, run: Run, source: str) -> str:
    """Hold the last good snapshot of one source; return it, empty where there is none.

    Raises:
        SnapshotError: there is no store, or it is not ours, is damaged, or cannot be written to.
        UsageError: the key that signs the hold cannot be read.
    """
    store = open_plan_store(loaded)
    latest = store.latest(source, state="valid")
    if latest is None:
        journal.note(run.incident, "no_snapshot", f"there is no good snapshot of {source} to hold")
        return ""
    if f"incident {run.incident}" not in latest.held_by:
        store.hold(latest.snapshot_id, reason=f"incident {run.incident}", by=run.name, at=journal.clock.now())
        journal.note(run.incident, "snapshot_held", f"{latest.snapshot_id} is held")
    return latest.snapshot_id


def _remember(journal: Journal, incident_id: str, lines: Sequence[PlanLine]) -> None:
    """Keep the newest line of each campaign: one that was stopped is in no later plan, but in every later report."""
    key = f"respond/{incident_id}/lines"
    known = journal.get_state(key) or {}
    journal.put_state(
        key, known | {str(one.campaign_id): one.to_json() for one in lines}, incident_id=incident_id
    )


def _lines_to_report(journal: Journal, incident_id: str, lines: Sequence[PlanLine]) -> list[PlanLine]:
    """Return the lines of this run's plan, and before them those of campaigns that earlier runs acted on."""
    planned = {line.campaign_id for line in lines}
    acted_on = {one.target for one in journal.actions(incident_id) if one.kind in ("pause", "unschedule")}
    known = [
        PlanLine.from_json(one) for one in (journal.get_state(f"respond/{incident_id}/lines") or {}).values()
    ]
    earlier = [
        one for one in known if one.campaign_id not in planned and f"campaign/{one.campaign_id}" in acted_on
    ]
    return [*earlier, *lines]


def _moment(text: str) -> datetime | None:
    if not text.strip():
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(
            f"impact_started_at is no time: {text!r}",
            fix="write it as 2026-11-24T08:12:00+00:00, or leave it empty",
        ) from None
    if moment.tzinfo is None:
        raise UsageError(f"impact_started_at has no time zone: {text!r}", fix="add +00:00 for UTC")
    return moment
