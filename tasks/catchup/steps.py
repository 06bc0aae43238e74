"""The Prefect tasks of `recover`. Each opens what it needs, asks `Recovery`, and returns plain values.

A step that must not go on raises `Stopped`; `recovering` ends the run as held then, and the next run goes on from the
journal. Nothing is passed between runs but the journal, the frozen files and what is at the provider.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from types import TracebackType
from typing import Literal, Self

from prefect import get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from tasks.catchup.agreement import agree
from tasks.catchup.apology import Apologising, Apology, Audience
from tasks.catchup.desk import LEASE, Desk, HeldCampaign, Stopped
from tasks.catchup.errors import CatchupError
from tasks.catchup.journaled import OutcomeUnknown
from tasks.catchup.recovery import Outcomes, Question, Recovery, totals
from tasks.catchup.restoration import Restoration
from tasks.catchup.telling import news_of, tell_stakeholders
from tasks.core import UsageError, open_clock, plural
from tasks.incidents import Incident, Journal, Lease, StaleToken, open_journal
from tasks.plan import LoadedPlan, load_plan
from tasks.providers import ProvidersError, open_provider

POLL_SECONDS = 5.0
NOT_BACK = "The provider is not back"


@dataclass(frozen=True)
class Recovered:
    """What `recover` came to.

    Attributes:
        state: `resolved`, or `held` where a person must decide or the provider is not back.
        reason: why it is held; empty when resolved.
        outcomes: people per outcome over all campaigns; `scheduled` are those of `not_attempted` whose time is set.
        campaigns: per campaign what was done, why, and its own outcomes.
        unknown: file with the subscriber ids whose outcome nobody knows, for a decision; empty if there are none.
        opted_out: opt-outs asked while the provider was down.
        verdicts: per campaign what was proposed, why, and for how many people: mailed now, expired (`cut`), mailed
            later (`deferred`) or not at all (`capped`) because of the frequency cap.
    """

    incident: str
    state: Literal["resolved", "held"]
    reason: str
    outcomes: dict[str, int]
    campaigns: list[dict[str, object]]
    unknown: str
    opted_out: int
    verdicts: list[dict[str, object]] = field(default_factory=list)


class Run:
    """One run of `recover`: which plan, which incident, under which lease; and what it has come to so far.

    Not a dataclass: Prefect would hand a copy of one to each task.
    """

    def __init__(self, plan: str, incident: str, lease: Lease, flow: str = "recover") -> None:
        self.plan = plan
        self.flow = flow
        self.incident = incident
        self.lease = lease
        self.held_because = ""
        self.news = ""
        self.outcomes: list[Outcomes] = []
        self.unknown = ""
        self.opted_out = 0
        self.questions: list[Question] = []
        self.apology: Apology | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        held = isinstance(error, Stopped | OutcomeUnknown | CatchupError | ProvidersError | StaleToken)
        if held:
            self.held_because = str(error)
            self.news = news_of(error)
        with open_journal(load_plan(self.plan)) as journal:
            if held and not isinstance(error, StaleToken):
                journal.note(self.incident, "held", f"{self.flow} is held: {error}")
            journal.release(self.lease)
        return held

    def result(self) -> Recovered:
        """Return what this run came to."""
        return Recovered(
            incident=self.incident,
            state="held" if self.held_because else "resolved",
            reason=self.held_because,
            outcomes=totals(self.outcomes),
            campaigns=[asdict(one) for one in self.outcomes],
            unknown=self.unknown,
            opted_out=self.opted_out,
            verdicts=[asdict(one) for one in self.questions],
        )


def recovering(plan: str, incident: str, name: str, flow: str = "recover") -> Run:
    """Take the incident's lease for this run; the block gives it back, and ends as held where a step was stopped.

    Raises:
        UsageError: the plan's providers have no open incident, or several and none was named; or the one that was
            named is over and was never recovered.
        LeaseHeld: another run works on the incident.
    """
    loaded = load_plan(plan)
    with open_journal(loaded) as journal:
        number = incident or _open_incident(journal, loaded)
        _refuse_if_over(journal, journal.incident(number))
        return Run(str(loaded.path), number, journal.lease(number, name or flow, LEASE), flow)


@task(cache_policy=NO_CACHE)
def measure_restoration(run: Run) -> Restoration:
    """Probe the provider until it is good several times in a row; a green status page is not asked."""
    with _recovery(run) as recovery:
        found = recovery.measure_restoration()
    if not found.restored:
        raise Stopped(
            NOT_BACK,
            where=f"{run.incident}: {found.seen}; {found.good} of {found.needed} probes were good",
            fix="run recover again when it answers; nothing was changed",
        )
    get_run_logger().info("Restored, as measured at %s: %s", found.at.isoformat(), found.seen)
    return found


@task(cache_policy=NO_CACHE)
def pass_consent_gate(run: Run) -> int:
    """Read every opt-out there is and give the provider those that it lacks; return how many came in the outage."""
    with _recovery(run) as recovery:
        gate = recovery.witnesses.pass_gate()
    get_run_logger().info(
        "The consent gate is open: %s in the outage, %s vanished at the provider",
        plural(gate.opted_out_since, "opt-out"),
        plural(len(gate.vanished), "suppression"),
    )
    for one in gate.blind:
        get_run_logger().warning("Consent, %s", one)
    run.opted_out = gate.opted_out_since
    return gate.opted_out_since


@task(cache_policy=NO_CACHE)
def quiesce(run: Run) -> list[HeldCampaign]:
    """Make sure that nothing of the held campaigns moves any more, and note how each was found."""
    with _recovery(run) as recovery:
        held = recovery.quiesce()
    get_run_logger().info("%s held: %s", plural(len(held), "campaign"), ", ".join(one.name for one in held))
    return held


@task(cache_policy=NO_CACHE)
def decide_verdicts(run: Run, held: Sequence[HeldCampaign]) -> list[Question]:
    """Take stock of who was mailed, and give every held campaign one verdict, the most urgent first."""
    with _recovery(run) as recovery:
        questions = run.questions = recovery.propose(held)
    for one in questions:
        get_run_logger().info(
            "%s: %s, %s (%s)", one.name, one.verdict, one.why, plural(one.people, "person", "people")
        )
    return questions


def by_urgency(held: Sequence[HeldCampaign], questions: Sequence[Question]) -> list[HeldCampaign]:
    """Return the campaigns in the order in which they are resumed: earliest deadline first."""
    place = {one.campaign_id: number for number, one in enumerate(questions)}
    return sorted(held, key=lambda one: (place.get(one.id, len(place)), one.id))


@task(cache_policy=NO_CACHE)
def ask_for_agreement(
    run: Run, questions: Sequence[Question], approval: Literal["ask", "policy"]
) -> dict[int, frozenset[str]]:
    """Find who agreed to the verdicts: answers in the journal, the plan's policy, or a person asked now.

    Waits for an answer as long as the plan says (not in a drill, whose time stands still meanwhile). What stays
    without an answer stays held; the next run finds a later answer.
    """
    loaded = load_plan(run.plan)
    clock = open_clock(loaded.clock_spec())
    rules = loaded.plan.approval
    waits = timedelta(minutes=rules.wait_minutes)
    until = clock.now() + waits
    asked: set[int] = set()
    with open_journal(loaded) as journal:
        while True:
            found = agree(
                journal,
                run.incident,
                questions,
                use_policy=approval == "policy",
                policy_actions=rules.policy_actions,
                expires_at=until + timedelta(days=1),
                asked=asked,
            )
            asked |= {one.id for one in found.waiting}
            if not found.waiting or clock.simulated or clock.now() >= until:
                break
            get_run_logger().info("Waiting for approval %s", ", ".join(str(one.id) for one in found.waiting))
            if run.lease.expires_at - clock.now() < LEASE / 2:
                run.lease = journal.renew(run.lease, LEASE)
            clock.sleep(POLL_SECONDS)
    for one in found.waiting:
        get_run_logger().warning("No answer yet to approval %s: %s", one.id, one.subject)
    return dict(found.to)


@task(cache_policy=NO_CACHE, task_run_name="resume-{held.id}")
def resume_campaign(run: Run, held: HeldCampaign, agreed: Mapping[int, frozenset[str]]) -> Outcomes:
    """Do what the verdict says for one campaign: put it back, mail exactly the remaining people, or drop it."""
    with _recovery(run) as recovery:
        found = recovery.resume(held, agreed.get(held.id, frozenset()))
    get_run_logger().info("%s: %s (%s) %s", held.name, found.done, found.why, found.counts)
    run.outcomes.append(found)
    return found


@task(cache_policy=NO_CACHE)
def list_unknown(run: Run, held: Sequence[HeldCampaign]) -> int:
    """Write down whose outcome nobody knows (subscriber ids), for a person to decide; return how many."""
    with _recovery(run) as recovery:
        path, people = recovery.list_unknown(held)
    run.unknown = path if people else ""
    if people:
        get_run_logger().warning("%s with an unknown outcome: %s", plural(people, "person", "people"), path)
    return people


@task(cache_policy=NO_CACHE)
def check_steady_state(run: Run, outcomes: Sequence[Outcomes]) -> None:
    """Make sure that sending moves, nothing is left stopped, and nobody was forgotten."""
    with _recovery(run) as recovery:
        problems = recovery.unsteady(outcomes)
    if problems:
        raise Stopped(
            "The incident is not over: " + "; ".join(problems),
            where=run.incident,
            fix="answer what waits (`mailstay incidents show`), then run recover again",
        )


@task(cache_policy=NO_CACHE)
def resolve_incident(run: Run) -> None:
    """Record that the provider was mitigated when it was measured to be back, and that the impact is over now."""
    with _recovery(run) as recovery:
        recovery.resolve()


@task(cache_policy=NO_CACHE)
def tell_people(run: Run) -> int:
    """Tell the stakeholders where the recovery stands; return how many messages were taken."""
    with _recovery(run) as recovery:
        told = tell_stakeholders(recovery.desk, run.outcomes, held_because=run.held_because, news=run.news)
    for failure in told.failures:
        get_run_logger().error(failure)
    return told.taken


@task(cache_policy=NO_CACHE)
def publish_recovery(run: Run) -> Recovered:
    """Show what came of it as an artifact of the run."""
    found = run.result()
    lines = [f"# {found.incident}: {found.state}", ""]
    if found.reason:
        lines += [f"**Held.** {found.reason}", ""]
    lines += ["| campaign | done | why | mailed | suppressed | expired | dropped | unknown | left |"]
    lines += ["|---|---|---|--:|--:|--:|--:|--:|--:|"]
    for one in run.outcomes:
        mailed = one.counts["accepted"] + one.counts["delivered"] + one.counts["bounced"]
        rest = [one.counts[name] for name in ("suppressed", "expired", "dropped", "unknown", "not_attempted")]
        cells = [_cell(one.name), one.done, _cell(one.why), f"{mailed:,}", *(f"{count:,}" for count in rest)]
        lines.append(f"| {' | '.join(cells)} |")
    create_markdown_artifact(
        "\n".join(lines), key=f"recover-{found.incident.lower()}", description="What recover did"
    )
    if not found.reason:
        with open_journal(load_plan(run.plan)) as journal:
            journal.put_state(
                f"recover/{run.incident}/ended", {"state": found.state}, incident_id=run.incident
            )
    return found


@task(cache_policy=NO_CACHE)
def decide_apology(run: Run, audience: Audience) -> Apology:
    """Draft the apology for exactly those who are meant, and record it as decided where a person said yes to it."""
    with _desk(run) as desk:
        found = run.apology = Apologising(desk).decide(audience)
    get_run_logger().info("Apology to %s: %s, %s people", audience, found.state, found.people)
    return found


@task(cache_policy=NO_CACHE)
def publish_apology(run: Run, audience: Audience) -> Apology:
    """Return what came of it; a run that was stopped before is held with the reason."""
    if run.apology is None:
        return Apology(run.incident, "held", run.held_because, audience, 0, "", "")
    return run.apology


@contextmanager
def _recovery(run: Run) -> Iterator[Recovery]:
    with _desk(run) as desk:
        yield Recovery(desk)


@contextmanager
def _desk(run: Run) -> Iterator[Desk]:
    loaded = load_plan(run.plan)
    clock = open_clock(loaded.clock_spec())
    with open_journal(loaded) as journal:
        incident = journal.incident(run.incident)
        with open_provider(loaded, incident.provider) as provider:
            desk = Desk(loaded, journal, provider, clock, incident, run.lease)
            try:
                yield desk
            finally:
                if desk.lease is not None:
                    run.lease = desk.lease


def _refuse_if_over(journal: Journal, incident: Incident) -> None:
    """Refuse an incident that is over: what runs or is scheduled now is not what it held back.

    One that an earlier run resolved may be gone on with: that run may have been killed before its end.

    Raises:
        UsageError: it was canceled, merged or closed, or resolved without a recovery.
    """
    recovered = incident.state == "resolved" and journal.get_state(f"recover/{incident.id}/held") is not None
    if not incident.is_open and not recovered:
        raise UsageError(
            f"{incident.id} is {incident.state}: there is nothing of it to recover",
            fix="name the incident that is open (`mailstay incidents list`), or declare a new one",
        )


def _open_incident(journal: Journal, loaded: LoadedPlan) -> str:
    found = [one for name in loaded.plan.providers if (one := journal.open_incident(name)) is not None]
    if len(found) == 1:
        return found[0].id
    if not found and (unfinished := _cut_short(journal, loaded)):
        return unfinished
    known = ", ".join(one.id for one in found)
    raise UsageError(
        "Several incidents are open" if found else "No incident is open",
        where=str(loaded.path),
        fix=f"name one of: {known}" if found else "declare one with `mailstay incidents declare`",
    )


def _cut_short(journal: Journal, loaded: LoadedPlan) -> str:
    """Return the incident whose recovery resolved it and was killed before it told anybody; empty without one."""
    for one in reversed(journal.incidents()):
        begun, ended = (journal.get_state(f"recover/{one.id}/{name}") for name in ("held", "ended"))
        if one.provider in loaded.plan.providers and one.state == "resolved" and begun is not None:
            return "" if ended else one.id
    return ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
