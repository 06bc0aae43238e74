"""The Prefect tasks of `monitor`: look, conclude, record in the journal, start the response, tell people, remember.

The order is what makes a kill harmless: the memory is written last, so a pass that died is concluded again by the next
run, and everything before it may happen twice (declaring joins, the event starts `respond` in plan mode, which joins,
and a message is journaled under a name of its own before it is sent).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.client.orchestration import get_client
from prefect.events import Event, Resource

from tasks.comms import (
    CampaignLine,
    Situation,
    tell,
)
from tasks.core import crash_point, open_clock, plural
from tasks.incidents import ImpossibleOrder, Incident, Journal, open_journal
from tasks.outages.causes import Surroundings, suggest_causes
from tasks.outages.counts import CampaignCount
from tasks.outages.detector import Transition
from tasks.outages.errors import OutageError
from tasks.outages.reading import past_incidents
from tasks.outages.seed import seed_route
from tasks.outages.signals import Signal
from tasks.outages.watching import Background, Memory, Observation, Pass, conclude, observe
from tasks.outages.witness import ShopWitness
from tasks.plan import LoadedPlan, load_plan, secret
from tasks.providers import open_provider

_PATIENCE = timedelta(seconds=30)
"""A pass comes soon again: it rather says that it does not know than wait for a provider's rate limit."""

_HISTORY = timedelta(days=400)
"""How far back orders are read to learn what a message brings."""

_RECENT, _WEEK = timedelta(days=1), timedelta(days=7)

CONFIRMED_EVENT = "mailstay.outage.confirmed"
"""Name of the event that starts `respond`; deployments/prefect.yaml listens for it."""

BY = "monitor"
"""How the journal names what this flow did."""

_MARKS = {"good": "✓", "degraded": "~", "bad": "✗", "unknown": "?"}


@dataclass(frozen=True)
class ProviderWatch:
    """What one pass of `monitor` found about one provider.

    Attributes:
        provider: its name in the plan.
        phase: `clear`, `suspected`, `confirmed` or `clearing`.
        changes: what changed in this pass, in order.
        severity: 1 (worst) to 5; 0 while nothing is suspected.
        incident: id of the incident, empty outside one.
        seen: one sentence per signal that speaks against the provider, or for it when none does.
        signals: verdict by kind of signal.
    """

    provider: str
    phase: str
    changes: list[str]
    severity: int
    incident: str
    seen: list[str]
    signals: dict[str, str]


class Failures:
    """What went wrong with single providers in one run: it ends no other provider's pass, and fails the run.

    Not a dataclass: it is filled while the run goes on.
    """

    def __init__(self) -> None:
        self._found: dict[str, Exception] = {}

    @contextmanager
    def of(self, provider: str) -> Iterator[None]:
        """Keep an error of this provider's pass for the end of the run."""
        try:
            yield
        except Exception as error:
            get_run_logger().exception("The pass over %s failed", provider)
            self._found[provider] = error

    def fail_if_any(self) -> None:
        """Fail the run if a pass failed.

        Raises:
            OutageError: naming each provider and what went wrong with it.
        """
        if self._found:
            raise OutageError(
                f"The pass over {' and '.join(self._found)} failed: "
                + "; ".join(str(error) for error in self._found.values()),
                fix="mend it; the other providers were watched, and the next run concludes this pass again",
            ) from next(iter(self._found.values()))


@task
def choose_providers(plan: str, provider: str) -> list[str]:
    """Return the plan's providers to watch: all of them, or the one that is named."""
    loaded = load_plan(plan)
    if provider == "all":
        return list(loaded.plan.providers)
    loaded.provider(provider)
    return [provider]


@task(task_run_name="look-at-{provider}")
def look(plan: str, provider: str) -> Observation:
    """Ask the status page, the API, the seed mailbox and our own shop what they know of the provider."""
    loaded = load_plan(plan)
    clock = open_clock(loaded.clock_spec())
    seed = seed_route(loaded, provider)
    with open_provider(loaded, provider, patience=_PATIENCE) as connector:
        with open_journal(loaded) as journal:
            memory = Memory.from_dict(journal.get_state(_key(provider)))
            past = past_outages(journal, provider)
        shop = _shop(loaded, provider)
        seen = observe(
            provider,
            connector,
            loaded.plan,
            memory,
            clock,
            shop=shop,
            seed=seed,
            unsubscribe_url=_unsubscribe_url(loaded, provider),
            gather=lambda campaigns, at: gather_background(loaded, provider, shop, past, campaigns, at),
        )
    for signal in seen.signals:
        get_run_logger().info("%s %s: %s", _MARKS[signal.verdict], signal.kind, signal.seen)
    return seen


@task(task_run_name="conclude-{provider}")
def conclude_pass(plan: str, provider: str, seen: Observation) -> Pass:
    """Decide from this pass and the ones before whether the provider is down, and how bad that is."""
    loaded = load_plan(plan)
    with open_journal(loaded) as journal:
        memory = Memory.from_dict(journal.get_state(_key(provider)))
        is_open = bool(memory.incident) and journal.incident(memory.incident).is_open
    concluded = conclude(provider, memory, seen, loaded.plan.detection, incident_open=is_open)
    for change in concluded.transitions:
        get_run_logger().warning("%s is %s: %s", provider, change.to, "; ".join(change.seen))
    return concluded


@task(task_run_name="record-{found.provider}", retries=3, retry_delay_seconds=[1, 3, 10])
def record_changes(plan: str, found: Pass) -> Pass:
    """Write what changed into the journal: declare, confirm, watch the fix, or cancel a false alarm."""
    loaded = load_plan(plan)
    with open_journal(loaded) as journal:
        for change in found.transitions:
            summary = "; ".join(change.seen) or "no evidence left"
            if change.to == "suspected":
                incident = _declare(journal, found, summary, change.detected_at, confirmed=False)
                found = replace(found, memory=replace(found.memory, incident=incident.id))
            elif change.to == "confirmed":
                incident = _declare(journal, found, summary, change.detected_at, confirmed=True)
                found = replace(found, memory=replace(found.memory, incident=incident.id))
                if change.false_green:
                    journal.note(incident.id, "false_green", "the status page says that all is well")
            elif change.to == "relapsed":
                _move(journal, found, "investigating", f"it is back: {summary}")
            elif change.to == "clearing":
                _move(journal, found, "monitoring", f"measured to work again: {summary}")
            elif change.false_alarm:
                _cancel(journal, found)
            else:
                text = f"good in every one of {loaded.plan.detection.clear_after} passes: {summary}"
                journal.note(found.memory.incident, "cleared", text)
            _record_decision(journal, found, change)
            crash_point(f"monitor.record:{change.to}")
        _suggest_cause(journal, loaded, found)
        _record_severity(journal, found)
        if found.posted and found.memory.incident and found.memory.status_posted_at:
            at = found.memory.status_posted_at
            journal.set_timestamp(found.memory.incident, "status_posted_at", at, BY)
    return found


@task(task_run_name="start-response-to-{found.provider}", retries=3, retry_delay_seconds=[2, 5, 15])
def start_response(plan: str, found: Pass) -> None:
    """Emit the event that starts `respond` in plan mode, if this pass confirmed the outage; changes nothing else."""
    confirmed = found.changed_to("confirmed")
    if confirmed is None:
        return
    with open_journal(load_plan(plan)) as journal:
        # As the journal has it: the page's word may contradict what a person declared.
        began = journal.timestamps(found.memory.incident).get("impact_started_at")
    crash_point("monitor.event:before")
    event = Event(
        event=CONFIRMED_EVENT,
        resource=Resource({"prefect.resource.id": f"mailstay.provider.{found.provider}"}),
        payload={
            "plan": plan,
            "provider": found.provider,
            "incident": found.memory.incident,
            "cause_class": "unknown",
            "severity": found.severity.level if found.severity else 0,
            "seen": "; ".join(confirmed.seen),
            "detected_at": confirmed.detected_at.isoformat(),
            "impact_started_at": began.isoformat() if began else "",
        },
    )
    # Posted, not queued: the server has it before the pass is remembered.
    with get_client(sync_client=True) as client:
        client.request("POST", "/events", json=[event.model_dump(mode="json")]).raise_for_status()
    crash_point("monitor.event:after")
    get_run_logger().info("Emitted %s for %s", CONFIRMED_EVENT, found.provider)


@task(task_run_name="tell-about-{found.provider}", retries=1, retry_delay_seconds=5)
def tell_people(plan: str, found: Pass) -> int:
    """Tell the stakeholders who get tactical reports what changed; return how many messages were taken.

    A channel that fails is journaled and does not stop the pass: the outage matters more than the message.
    """
    loaded = load_plan(plan)
    if not found.memory.incident or (
        found.severity is None and not any(change.false_alarm for change in found.transitions)
    ):
        return 0
    # Named after the change, not the text: a pass that is concluded again after a kill does not tell it again.
    change = found.transitions[-1].to if found.transitions else f"severity-{found.memory.severity}"
    with open_journal(loaded) as journal:
        incident = journal.incident(found.memory.incident)
        told = tell(
            loaded,
            journal,
            _situation(loaded, incident, found, over=not incident.is_open),
            flow="monitor",
            news=[change, found.memory.detector.relapses],
            reports=("tactical",),
        )
    for failure in told.failures:
        get_run_logger().error(failure)
    return told.taken


@task(task_run_name="remember-{found.provider}", retries=3, retry_delay_seconds=[1, 3, 10])
def remember(plan: str, found: Pass) -> ProviderWatch:
    """Keep in the journal what the next pass goes on from; the pass counts from here on."""
    crash_point("monitor.remember:before")
    loaded = load_plan(plan)
    with open_journal(loaded) as journal:
        _note_plan(journal, loaded, found)
        journal.put_state(_key(found.provider), found.memory.to_dict())
    crash_point("monitor.remember:after")
    return ProviderWatch(
        provider=found.provider,
        phase=found.memory.detector.phase,
        changes=[change.to for change in found.transitions],
        severity=found.severity.level if found.severity else 0,
        incident=found.memory.incident,
        seen=list(found.seen),
        signals={signal.kind: signal.verdict for signal in found.signals},
    )


@task
def publish_watch(found: Pass) -> None:
    """Show what this pass found as an artifact of the run."""
    lines = [f"# {found.provider}: {found.memory.detector.phase}", ""]
    if found.severity:
        lines += [f"**SEV-{found.severity.level}**", "", *(f"- {why}" for why in found.severity.reasons), ""]
    lines += ["| signal | verdict | seen |", "|---|---|---|"]
    lines += [f"| {one.kind} | {_MARKS[one.verdict]} {one.verdict} | {_cell(one)} |" for one in found.signals]
    slug = "".join(letter if letter.isalnum() else "-" for letter in found.provider.lower())
    create_markdown_artifact("\n".join(lines), key=f"monitor-{slug}", description="What monitor sees")


def _declare(
    journal: Journal, found: Pass, summary: str, detected_at: datetime, *, confirmed: bool
) -> Incident:
    began = found.impact_started_at if confirmed else None

    def declare(impact_started_at: datetime | None) -> Incident:
        return journal.declare(
            found.provider,
            cause_class="unknown",
            summary=summary,
            detected_at=detected_at,
            declared_by=BY,
            impact_started_at=impact_started_at,
            state="investigating" if confirmed else "triage",
        )

    try:
        incident = declare(began)
        remark = "" if began is None else "impact_started_at is what the vendor's status page states"
    except ImpossibleOrder as error:
        if began is None:
            raise
        # A person saw it before the page says that it began: what is in the journal stays.
        incident = declare(None)
        remark = f"what the vendor's status page states of impact_started_at is left out: {error.what}"
    if remark:
        journal.note(incident.id, "evidence", remark)
    if confirmed and incident.state == "monitoring":
        incident = journal.transition(incident.id, "investigating", BY, f"it is back: {summary}")
    return incident


def _move(journal: Journal, found: Pass, state: str, reason: str) -> None:
    incident = journal.incident(found.memory.incident)
    if state == "monitoring" and incident.state in ("investigating", "identified"):
        journal.transition(incident.id, "monitoring", BY, reason)
    elif state == "investigating" and incident.state == "monitoring":
        journal.transition(incident.id, "investigating", BY, reason)
    else:
        journal.note(incident.id, "detector", reason)


def _cancel(journal: Journal, found: Pass) -> None:
    """Cancel the suspicion if it is ours; one that a person declared is that person's to cancel."""
    incident = journal.incident(found.memory.incident)
    if incident.state == "triage" and incident.declared_by == BY:
        journal.transition(incident.id, "canceled", BY, "false alarm: every signal is good again")
    elif incident.is_open:
        journal.note(incident.id, "detector", "every signal that monitor has is good")


def _record_decision(journal: Journal, found: Pass, change: Transition) -> None:
    """Keep all that the pass saw beside what was decided from it; once, though the pass may be concluded again."""
    told = {"decision": change.to, "pass": found.at.isoformat()}
    incident = found.memory.incident
    if any(one.kind == "decision" and told.items() <= one.data.items() for one in journal.timeline(incident)):
        return
    journal.note(
        incident,
        "decision",
        f"{change.was} → {change.to}, by {plural(len(found.signals), 'signal')}",
        told
        | {
            "signals": [one.to_dict() for one in found.signals],
            "detector": found.memory.detector.to_dict(),
            "false_green": change.false_green,
        },
    )


def _suggest_cause(journal: Journal, loaded: LoadedPlan, found: Pass) -> None:
    """Say what class of cause the evidence speaks for, when that has changed; only a person makes it the cause."""
    began = found.memory.detector.first_bad_at
    if not found.memory.incident or began is None:
        return
    suggestions = suggest_causes(found.signals, _surroundings(journal, loaded, found, began))
    if not suggestions:
        return
    told = {"suggestions": [one.to_dict() for one in suggestions]}
    earlier = [one.data for one in journal.timeline(found.memory.incident) if one.kind == "cause_suggested"]
    named = [one["cause_class"] for one in told["suggestions"]]
    if earlier and [one["cause_class"] for one in earlier[-1]["suggestions"]] == named:
        return
    first = suggestions[0]
    text = f"{first.cause}: {'; '.join(first.evidence)}"
    if suggestions[1:]:
        text += f" (or {', '.join(one.cause for one in suggestions[1:])})"
    journal.note(found.memory.incident, "cause_suggested", text, told)


def _surroundings(journal: Journal, loaded: LoadedPlan, found: Pass, began: datetime) -> Surroundings:
    incidents = journal.incidents()
    changes = [
        f"we did {action.kind} at {at:%Y-%m-%d %H:%M} UTC ({one.id})"
        for one in incidents
        if one.provider == found.provider and one.id != found.memory.incident
        for action in journal.actions(one.id)
        if action.status == "done"
        and began - _RECENT <= (at := action.decided_at or action.intended_at) <= began
    ]
    known = journal.get_state(_plan_key(found.provider))
    if known and known["digest"] != loaded.digest:
        changes.append("the plan was changed since the last pass in which all was well")
    elif known and known["changed_at"] and datetime.fromisoformat(known["changed_at"]) >= began - _RECENT:
        changes.append(f"the plan was changed at {known['changed_at'][:16].replace('T', ' ')} UTC")
    others = [one.provider for one in incidents if one.is_open and one.provider != found.provider]
    shop = _shop(loaded, found.provider)
    before = shop.opt_outs(began - _WEEK, began) if shop else None
    return Surroundings(tuple(changes), tuple(others), len(before or ()) / (_WEEK / timedelta(hours=1)))


def _note_plan(journal: Journal, loaded: LoadedPlan, found: Pass) -> None:
    """Remember with which plan all was well, and since when."""
    known = journal.get_state(_plan_key(found.provider))
    if found.memory.detector.phase == "clear" and (known is None or known["digest"] != loaded.digest):
        changed = None if known is None else found.at.isoformat()
        journal.put_state(_plan_key(found.provider), {"digest": loaded.digest, "changed_at": changed})


def _plan_key(provider: str) -> str:
    return f"monitor-plan/{provider}"


def _record_severity(journal: Journal, found: Pass) -> None:
    news = found.rose or found.changed_to("suspected") or found.changed_to("confirmed")
    if found.severity is None or not news or not found.memory.incident:
        return
    level = found.severity
    journal.note(
        found.memory.incident,
        "severity",
        f"SEV-{level.level}: {'; '.join(level.reasons) or 'nothing is due'}",
        {
            "level": level.level,
            "recipients": level.recipients,
            "time_critical": level.time_critical,
            "revenue_at_risk_minor": level.revenue_at_risk_minor,
            "likely_restore_at": level.likely_restore_at.isoformat(),
            "restore_basis": level.restore_basis,
        },
    )


def _situation(loaded: LoadedPlan, incident: Incident, found: Pass, over: bool) -> Situation:
    severity = found.severity
    restore = severity.likely_restore_at if severity else found.at
    due = [send for send in found.memory.calendar or () if send.due_at < restore]
    needs = ["Look at it: `mailstay incidents show " + incident.id + "`"]
    if incident.state == "triage":
        needs.append("Say if you know the cause, or that this is expected.")
    return Situation(
        company=loaded.plan.name,
        incident_id=incident.id,
        provider=found.provider,
        state=incident.state,
        severity=severity.level if severity else None,
        summary=incident.summary,
        cause_class=incident.cause_class,
        impact_started_at=incident.timestamps.get("impact_started_at"),
        detected_at=incident.timestamps.get("detected_at"),
        as_of=found.at,
        campaigns=tuple(
            CampaignLine(
                name=send.name,
                kind=send.kind,
                audience=send.recipients,
                due_at=send.due_at,
                useful_until=send.latest_useful_at,
                standing="not held yet",
            )
            for send in due
        ),
        seen=found.seen + (severity.reasons if severity else ()),
        done=(f"{plural(len(found.signals), 'signal')} looked at; nothing was changed at the provider.",),
        needs=() if over else tuple(needs),
        over=over,
        simulated=open_clock(loaded.clock_spec()).simulated,
    )


def _shop(loaded: LoadedPlan, provider: str) -> ShopWitness | None:
    name = loaded.plan.providers[provider].shop
    if name is None or loaded.plan.sources[name].mapping != "shop":
        return None
    return ShopWitness(loaded.source_url(name))


def past_outages(journal: Journal, provider: str) -> list[tuple[datetime, datetime]]:
    """Return when each earlier incident of the provider that was real began and was over, as the journal has it."""
    times = [
        one.timestamps
        for one in journal.incidents()
        if one.provider == provider and one.state in ("resolved", "closed")
    ]
    return [
        (began, one["resolved_at"])
        for one in times
        if (began := one.get("impact_started_at") or one.get("detected_at")) and "resolved_at" in one
    ]


def gather_background(
    loaded: LoadedPlan,
    provider: str,
    shop: ShopWitness | None,
    own: list[tuple[datetime, datetime]],
    campaigns: Sequence[CampaignCount],
    at: datetime,
) -> Background:
    """Learn how long this provider's outages take and what a message brings; what cannot be learned is left out."""
    settings = loaded.plan.providers[provider]
    posted = (
        past_incidents(settings.status_page, timeout_seconds=settings.timeout_seconds)
        if settings.status_page
        else []
    )
    # What is in the journal we measured ourselves: the vendor's word of the same outage adds nothing.
    posted = [
        (began, over) for began, over in posted if not any(began < end and start < over for start, end in own)
    ]
    outages = tuple(over - began for began, over in own + posted)
    return Background(at, _worth(loaded, shop, campaigns, at), outages)


def _worth(
    loaded: LoadedPlan, shop: ShopWitness | None, campaigns: Sequence[CampaignCount], at: datetime
) -> dict[str, float]:
    orders = shop.orders(at - _HISTORY, at) if shop else []
    sent = [one for one in campaigns if one.status == "finished" and one.sent > 0 and one.started_at]
    if not orders or not sent:
        return {}
    # pandas is not paid for by who has no shop.
    import pandas as pd

    from tasks.impact import Calendar, Counterfactual, ImpactError, ShopHistory

    try:
        history = ShopHistory(
            orders=pd.DataFrame(orders, columns=["ordered_at", "campaign_id", "total_minor"]),
            sends=pd.DataFrame(
                [(one.started_at, one.kind, one.campaign_id, one.sent) for one in sent],
                columns=["sent_at", "kind", "campaign_id", "messages"],
            ),
            planned=pd.DataFrame(
                {"planned_at": [at], "kind": [sent[-1].kind], "campaign_id": [0], "messages": [0]}
            ),
            impact_started_at=at,
            horizon_hours=1,
            calendar=Calendar(loaded.plan.report.timezone, loaded.plan.report.country),
        )
        shop_model = Counterfactual(history)
    except ImpactError:
        return {}
    return {kind: shop_model.value_per_message_now(kind) for kind in {one.kind for one in sent}}


def _unsubscribe_url(loaded: LoadedPlan, provider: str) -> str | None:
    variable = loaded.plan.providers[provider].unsubscribe_url_env
    return secret(variable, f"{loaded.path}: providers.{provider}") if variable else None


def _key(provider: str) -> str:
    return f"monitor/{provider}"


def _cell(signal: Signal) -> str:
    return signal.seen.replace("|", "\\|").replace("\n", " ")
