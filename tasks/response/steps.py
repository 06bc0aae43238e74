"""The Prefect tasks of `respond`: thin; what they decide is decided in the modules beside this one."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from types import TracebackType
from typing import Literal, Self, TypeVar
from uuid import UUID

from prefect import get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.flow_runs import pause_flow_run, resume_flow_run
from prefect.input import RunInput
from pydantic import Field

from tasks.catchup import (
    CatchupError,
    Desk,
    OutcomeUnknown,
    Stopped,
    data_loss,
    news_of,
    settle_stops,
)
from tasks.comms import tell, write_vendor_ticket
from tasks.core import (
    UsageError,
    crash_point,
    current_progress,
    open_clock,
    plural,
)
from tasks.incidents import ApprovalClosed, Journal, Lease, LeaseHeld, StaleToken, open_journal
from tasks.plan import LoadedPlan, load_plan
from tasks.providers import ProviderRefused, ProvidersError, open_provider
from tasks.response.aborting import (
    GO_ON,
    LEAVE_STOPPED,
    PUT_BACK,
    Abort,
    Compared,
    Decisions,
    ask_for_decisions,
    cut_short,
    ended_key,
    refuse_if_past,
)
from tasks.response.acting import Looks, stop_campaign
from tasks.response.agreeing import Agreed, agree
from tasks.response.reading import Calendar, read_calendar
from tasks.response.reporting import situation_of
from tasks.response.table import PlanLine, by_urgency, markdown_table, plan_table, time_to_stop
from tasks.response.undoing import Undoing, in_words
from tasks.snapshots import SnapshotError
from tasks.snapshots.steps import open_plan_store

LEASE = timedelta(minutes=30)
_ANSWER_POLL_SECONDS = 2.0
_ABORT_PATIENCE = timedelta(seconds=45)
"""Longest wait for a rate limit before a campaign is put back: its time must not pass while the call waits."""

_Answer = Literal["approve", "reject", "hold"]
F = TypeVar("F", bound=RunInput)


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


@dataclass(frozen=True)
class Aborted:
    """What `abort` came to.

    Attributes:
        state: `aborted` (the incident is canceled), `held` where a person must decide or the provider does not answer,
            `planned` where nothing was to be done yet.
        reason: why it is held; empty when it is not.
        plan: what is, or would be, done per stopped campaign.
        compared: every stopped campaign field by field against what was there before; empty before anything was done.
        left: campaigns that somebody decided to leave stopped.
        opted_out: opt-outs that came since impact began, which the provider has now.
    """

    incident: str
    state: Literal["aborted", "held", "planned"]
    reason: str
    plan: list[dict[str, object]] = field(default_factory=list)
    compared: list[dict[str, object]] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    opted_out: int = 0


class AbortDecision(RunInput):
    """What may be done about the campaigns that the response stopped?"""

    put_back: _Answer = Field(
        "hold", description="Schedule again, exactly as they were, those in the plan marked undo."
    )
    go_on: _Answer = Field(
        "hold", description="Let those marked ask go on: some people may be skipped, some mailed twice."
    )
    leave_stopped: _Answer = Field(
        "hold",
        description="Leave what is held (and what does not go on) stopped, and close the incident without it.",
    )
    name: str = Field("", max_length=120, description="Your name, for the record.")


class AbortRun:
    """One run of `abort`. Not a dataclass: Prefect would hand a copy of one to each task."""

    def __init__(self, plan: str, incident: str, name: str, lease: Lease | None) -> None:
        self.plan = plan
        self.incident = incident
        self.name = name or "abort"
        self.lease = lease
        self.over = False
        self.reason = ""
        self.news = ""
        self.lines: list[Undoing] = []
        self.compared: list[Compared] = []
        self.left: frozenset[int] = frozenset()
        self.opted_out = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        """End as held where a person or the provider is awaited; let every other error through."""
        held = isinstance(error, CatchupError | ProvidersError | StaleToken)
        if held:
            self.reason, self.news = str(error), news_of(error)
        with open_journal(load_plan(self.plan)) as journal:
            if held:
                journal.note(self.incident, "held", f"abort is held: {error}")
            if self.lease is not None:
                journal.release(self.lease)
        return held


def aborting(plan: str, incident: str, name: str, mode: Literal["plan", "act"]) -> AbortRun:
    """Begin a run of `abort`; in act mode it takes the incident's lease, and gives it back at the end of the block.

    Raises:
        UsageError: no incident of the plan's providers is open, or several and none was named; or the one that was
            named is over, or its recovery has begun.
        LeaseHeld: another run works on the incident.
    """
    loaded = load_plan(plan)
    with open_journal(loaded) as journal:
        number = incident or _only_open(journal, loaded)
        known = journal.incident(number)
        loaded.provider(known.provider)
        refuse_if_past(journal, known)
        lease = journal.lease(number, name or "abort", LEASE) if mode == "act" else None
        run = AbortRun(str(loaded.path), number, name, lease)
        run.over = not known.is_open
        return run


@task(cache_policy=NO_CACHE)
def plan_undoing(run: AbortRun) -> list[Undoing]:
    """Say per stopped campaign whether it can be brought back exactly as it was; changes nothing at the provider.

    In act mode, what earlier runs asked for and did not live to write down is read back first.

    Raises:
        Stopped: the provider does not answer.
    """
    if run.over:
        return []
    with _abort(run) as abort:
        if run.lease is not None:
            abort.begin()
        run.lines = abort.plan()
    for one in run.lines:
        get_run_logger().info("%s: %s, %s", one.name, one.way.replace("_", " "), one.why)
    return run.lines


@task(cache_policy=NO_CACHE)
def publish_undoing(run: AbortRun, lines: Sequence[Undoing]) -> None:
    """Show what would be done as an artifact of the run."""
    create_markdown_artifact(
        _undoing_text(run, lines), key=f"abort-{run.incident.lower()}", description="What abort would do"
    )


def await_decisions(
    run: AbortRun, lines: Sequence[Undoing], approval: Literal["ask", "policy"], wait_minutes: int
) -> Decisions:
    """Find who agreed to what: the journal, the plan's policy, or a person asked now; waits as `respond` does.

    What is not answered stays stopped; the next run finds a later answer.
    """
    loaded = load_plan(run.plan)
    clock = open_clock(loaded.clock_spec())
    asked: set[int] = set()

    def ask() -> Decisions:
        with open_journal(loaded) as journal:
            found = ask_for_decisions(
                journal,
                run.incident,
                lines,
                use_policy=approval == "policy",
                policy_actions=loaded.plan.approval.policy_actions,
                expires_at=journal.clock.now() + timedelta(days=1, minutes=wait_minutes),
                asked=asked,
            )
            if run.lease is not None:
                run.lease = journal.renew(run.lease, LEASE + timedelta(minutes=wait_minutes))
        asked.update(one.id for one in found.waiting)
        crash_point("abort.approval:after")
        return found

    decisions = ask()
    if decisions.waiting and wait_minutes > 0 and not clock.simulated:
        numbers = {one.subject: one.id for one in decisions.waiting}
        answer = _form(
            run.plan, AbortDecision, _undoing_text(run, lines), list(numbers.values()), wait_minutes * 60
        )
        given = {PUT_BACK: answer.put_back, GO_ON: answer.go_on, LEAVE_STOPPED: answer.leave_stopped}
        for subject, number in numbers.items():
            if (said := given[subject]) != "hold":
                _take_answer(run.plan, number, said, answer.name)
        decisions = ask()
    run.left = decisions.left
    return decisions


@task(cache_policy=NO_CACHE)
def put_back(run: AbortRun, lines: Sequence[Undoing], decisions: Decisions) -> list[str]:
    """Take back every stop that was agreed to, each once, most urgent first; return what could not be done.

    Before anything is able to send again, every opt-out there is goes to the provider.

    Raises:
        Stopped: a source of opt-outs cannot tell who left: nothing was put back.
    """
    if not any(one.action in decisions.to.get(one.campaign_id, ()) for one in lines):
        return []
    with _abort(run) as abort:
        run.opted_out = abort.apply_opt_outs()
        problems = abort.undo(lines, decisions.to)
    for one in problems:
        get_run_logger().error(one)
    return problems


@task(cache_policy=NO_CACHE)
def compare_schedules(run: AbortRun) -> list[Compared]:
    """Hold every stopped campaign field by field against what the journal says was there before."""
    if run.over:
        return []
    with _abort(run) as abort:
        run.compared = abort.compare()
    for one in run.compared:
        get_run_logger().info("%s: %s", one.name, in_words(one.differences) or "exactly as it was")
    with open_journal(load_plan(run.plan)) as journal:
        same = sum(one.as_it_was for one in run.compared)
        text = f"{same} of {plural(len(run.compared), 'stopped campaign')} stand as before the response"
        data = {str(one.campaign_id): [str(each) for each in one.differences] for one in run.compared}
        journal.note(run.incident, "compared", text, {"differences": data})
    return run.compared


@task(cache_policy=NO_CACHE)
def check_abort(
    run: AbortRun, decisions: Decisions, problems: Sequence[str], compared: Sequence[Compared]
) -> None:
    """Make sure that nothing is left stopped that nobody decided to leave, and that sending moves.

    Raises:
        Stopped: the incident cannot be closed yet.
    """
    if run.over:
        return
    with _abort(run) as abort:
        run.lines = abort.plan()
        unsteady = abort.unsteady(run.lines, decisions.left, compared)
    if found := [*problems, *unsteady]:
        waiting = ", ".join(str(one.id) for one in decisions.waiting)
        raise Stopped(
            "The response is not aborted yet: " + "; ".join(found),
            where=run.incident,
            fix=(
                f"answer approval {waiting} (`mailstay incidents approve`) and run abort again, or "
                if waiting
                else ""
            )
            + "run `mailstay recover`, which mails in time whoever is left",
        )


@task(cache_policy=NO_CACHE)
def close_aborted(run: AbortRun, reason: str) -> None:
    """Cancel the incident, with the reason."""
    if run.over:
        return
    with _abort(run) as abort:
        abort.close(run.name, reason)


@task(cache_policy=NO_CACHE)
def tell_of_abort(run: AbortRun) -> int:
    """Tell the stakeholders that it was a false alarm, or what is awaited; return how many messages were taken.

    The last message promises no further one: whoever waits for a promised update has it with this one.
    """
    loaded = load_plan(run.plan)
    with (
        open_journal(loaded) as journal,
        open_provider(loaded, journal.incident(run.incident).provider) as provider,
    ):
        incident = journal.incident(run.incident)
        desk = Desk(loaded, journal, provider, journal.clock, incident)
        back = desk.actions("reschedule", "abort/") + desk.actions("resume", "abort/")
        count = sum(one.status == "done" for one in back)
        lost, loss = data_loss(desk)
        situation = replace(
            situation_of(
                loaded,
                journal,
                incident,
                done=(f"{plural(count, 'campaign')} put back as before the response",) if count else (),
                needs=(run.reason,) if run.reason else (),
                next_steps=("Decide on what is held.",)
                if run.reason
                else ("Nothing: everything goes on as planned.",),
            ),
            data_lost=lost,
            data_loss=loss,
        )
        reports = ("tactical", "executive") if run.reason else ("tactical", "executive", "audience")
        told = tell(
            loaded, journal, situation, flow="abort", news=[situation.state, run.news], reports=reports
        )
    for failure in told.failures:
        get_run_logger().error(failure)
    return told.taken


@task(cache_policy=NO_CACHE)
def publish_abort(run: AbortRun) -> Aborted:
    """Show what came of the run as an artifact, and return it."""
    with open_journal(load_plan(run.plan)) as journal:
        canceled = journal.incident(run.incident).state == "canceled"
        if canceled:
            journal.put_state(ended_key(run.incident), {}, incident_id=run.incident)
    state: Literal["aborted", "held", "planned"] = (
        "held" if run.reason else "aborted" if canceled else "planned"
    )
    if state != "planned":
        rows = [
            f"| {one.campaign_id} {_cell(one.name)} | {'yes' if one.as_it_was else 'no'} |"
            f" {_cell(in_words(one.differences)) or 'none'} |"
            for one in run.compared
        ]
        head = [f"# {run.incident}: {state}", "", run.reason or "Nothing is open.", ""]
        table = ["| campaign | as before | differences |", "|---|---|---|", *rows]
        create_markdown_artifact(
            "\n".join([*head, *table]), key=f"aborted-{run.incident.lower()}", description="What abort did"
        )
    return Aborted(
        incident=run.incident,
        state=state,
        reason=run.reason,
        plan=[asdict(one) for one in run.lines],
        compared=[asdict(one) for one in run.compared],
        left=sorted(run.left),
        opted_out=run.opted_out,
    )


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
) -> Agreed[PlanLine]:
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
def stop_campaigns(run: Run, agreed: Agreed[PlanLine]) -> int:
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
            if not journal.incident(run.incident).is_open:
                run.reason = f"{run.incident} is over by now: nothing was stopped"
                return 0
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
        needs = (run.reason,) if run.reason else ()
        situation = situation_of(loaded, journal, journal.incident(run.incident), lines=lines, needs=needs)
        told = tell(loaded, journal, situation, flow="respond", news=[situation.done, run.reason])
    for failure in told.failures:
        get_run_logger().error(failure)
    return told.taken


@task(cache_policy=NO_CACHE)
def write_ticket(run: Run, lines: Sequence[PlanLine]) -> str:
    """Write the text of a ticket for the provider's support, with the evidence; return the file. Sends nothing."""
    loaded = load_plan(run.plan)
    with open_journal(loaded) as journal:
        situation = situation_of(loaded, journal, journal.incident(run.incident), lines=lines)
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


def _agree(run: Run, lines: Sequence[PlanLine], approval: str, wait_minutes: int) -> Agreed[PlanLine]:
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
    """Pause this run with a form until it is answered there, in the journal, or not in time."""
    answer = _form(run.plan, Decision, _plan_text(run, lines), [approval_id], seconds)
    if answer.decision == "hold":
        return
    _take_answer(run.plan, approval_id, answer.decision, answer.name)


def _form(plan: str, form: type[F], text: str, approvals: Sequence[int], seconds: int) -> F:
    """Pause this run with `form` until it is answered there, all of `approvals` in the journal, or not in time.

    A lapsed pause would end the run as failed (Prefect 3.8), so the run answers itself just before.
    """
    number = UUID(str(runtime.flow_run.id))
    stop = threading.Event()

    def watch() -> None:
        waited = 0.0
        while not stop.wait(_ANSWER_POLL_SECONDS):
            waited += _ANSWER_POLL_SECONDS
            with open_journal(load_plan(plan)) as journal:
                answered = all(journal.approval(one).status != "awaiting" for one in approvals)
            if answered or waited >= seconds:
                resume_flow_run(number, run_input=form().model_dump())
                return

    watcher = threading.Thread(target=watch, daemon=True, name="approval")
    watcher.start()
    try:
        return pause_flow_run(
            wait_for_input=form.with_initial_data(description=text),
            timeout=seconds + 300,
            poll_interval=2,
            key=f"approval-{'-'.join(map(str, approvals))}",
        )
    finally:
        stop.set()


def _take_answer(plan: str, approval_id: int, answer: Literal["approve", "reject"], name: str) -> None:
    decision: Literal["approved", "rejected"] = "approved" if answer == "approve" else "rejected"
    with open_journal(load_plan(plan)) as journal:
        try:
            journal.answer_approval(approval_id, decision, name or "unnamed, through the form", False, "ui")
        except ApprovalClosed as error:
            get_run_logger().warning("The form came too late: %s", error)


@contextmanager
def _abort(run: AbortRun) -> Iterator[Abort]:
    loaded = load_plan(run.plan)
    with open_journal(loaded) as journal:
        incident = journal.incident(run.incident)
        with open_provider(loaded, incident.provider, patience=_ABORT_PATIENCE) as provider:
            desk = Desk(loaded, journal, provider, journal.clock, incident, run.lease)
            try:
                yield Abort(desk)
            finally:
                run.lease = desk.lease


def _only_open(journal: Journal, loaded: LoadedPlan) -> str:
    found = [one.id for name in loaded.plan.providers if (one := journal.open_incident(name)) is not None]
    if len(found) == 1:
        return found[0]
    if not found and (cut := cut_short(journal)):
        return cut
    raise UsageError(
        "Several incidents are open" if found else "No incident is open",
        where=str(loaded.path),
        fix=f"name one of: {', '.join(found)}" if found else "`mailstay incidents list` shows what was",
    )


def _undoing_text(run: AbortRun, lines: Sequence[Undoing]) -> str:
    rows = [
        f"| {one.campaign_id} {_cell(one.name)} | {one.due_at:%a %H:%M} | {one.way.replace('_', ' ')} |"
        f" {_cell(one.why)} | {_cell(in_words(one.differences))} |"
        if one.due_at
        else f"| {one.campaign_id} {_cell(one.name)} | | {one.way.replace('_', ' ')} | {_cell(one.why)} |"
        f" {_cell(in_words(one.differences))} |"
        for one in lines
    ]
    head = ["| campaign | due (UTC) | what | why | differs now |", "|---|---|---|---|---|"]
    table = "\n".join([*head, *rows]) if rows else "The response has stopped no campaign."
    return f"# {run.incident}: abort\n\n{table}"


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _plan_text(run: Run, lines: Sequence[PlanLine]) -> str:
    currency = load_plan(run.plan).plan.report.currency
    about = f"Read from {run.read_from}. {run.takes}".strip()
    return f"# {run.incident}: the plan\n\n{about}\n\n{markdown_table(lines, currency)}"


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
