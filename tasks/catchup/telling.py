"""Telling the stakeholders where a recovery stands: each once per state, written down before it is sent."""

from __future__ import annotations

from collections.abc import Sequence

from tasks.catchup.desk import Desk, parse
from tasks.catchup.recovery import Outcomes, totals
from tasks.comms import (
    CampaignLine,
    ChannelFailed,
    Message,
    Situation,
    next_update_at,
    open_channel,
    write_update,
)
from tasks.core import MailstayError, crash_point, digest_of, plural, sha256_hex


def tell_stakeholders(desk: Desk, outcomes: Sequence[Outcomes], *, held_because: str) -> int:
    """Tell everybody the plan names for this severity; return how many messages were taken.

    A message is named after incident, stakeholder and what it says: a run that is killed and comes again does not tell
    it twice. A channel that fails is journaled and stops nothing.
    """
    plan, journal = desk.plan.plan, desk.journal
    incident = journal.incident(desk.incident.id)
    severity = _severity(desk)
    situation = _situation(desk, outcomes, held_because, severity)
    told = 0
    for name, who in plan.stakeholders.items():
        if severity is not None and severity > who.from_severity:
            continue
        promised = None if situation.over else next_update_at(desk.clock.now(), who.every_minutes)
        written = write_update(who.report, situation, next_update_at=promised)
        message_id = digest_of(["recover", incident.id, name, incident.state, held_because])
        said = journal.say(
            incident.id,
            stakeholder=name,
            channel=who.channel,
            report=who.report,
            subject=written.subject,
            body_digest=sha256_hex(written.text.encode()),
            promised_next_at=promised,
            message_id=message_id,
        )
        if said.status != "intended":
            continue
        message = Message(message_id, name, incident.id, written, desk.clock.now(), desk.clock.simulated)
        try:
            crash_point("recover.tell:before")
            open_channel(desk.plan, who.channel).deliver(message)
            crash_point("recover.tell:after")
        except ChannelFailed as error:
            journal.not_sent(said.id, error.what, status="unknown" if error.outcome_unknown else "failed")
        except MailstayError as error:
            journal.not_sent(said.id, error.what)
        else:
            journal.sent(said.id)
            told += 1
    return told


def _severity(desk: Desk) -> int | None:
    levels = [
        int(entry.data["level"])
        for entry in desk.journal.timeline(desk.incident.id)
        if entry.kind == "severity" and "level" in entry.data
    ]
    return levels[-1] if levels else None


def _situation(
    desk: Desk, outcomes: Sequence[Outcomes], held_because: str, severity: int | None
) -> Situation:
    incident = desk.journal.incident(desk.incident.id)
    sums = totals(outcomes)
    mailed = sums["accepted"] + sums["delivered"] + sums["bounced"]
    done = [
        f"{plural(mailed, 'message')} sent, each person at most once",
        f"{plural(sums['suppressed'], 'person', 'people')} left out who must not be mailed",
        f"{plural(sums['expired'] + sums['dropped'], 'message')} not sent: no longer useful, or decided so",
    ]
    if sums["scheduled"]:
        done.append(f"{plural(sums['scheduled'], 'message')} scheduled")
    needs = [held_because] if held_because else []
    if sums["unknown"]:
        needs.append(f"Decide on {plural(sums['unknown'], 'person', 'people')} whose outcome nobody knows")
    ledgers = (desk.journal.get_state(f"ledger/{incident.id}") or {"campaigns": {}})["campaigns"]
    return Situation(
        company=desk.plan.plan.name,
        incident_id=incident.id,
        provider=incident.provider,
        state=incident.state,
        severity=severity,
        summary=incident.summary,
        cause_class=incident.cause_class,
        impact_started_at=incident.timestamps.get("impact_started_at"),
        detected_at=incident.timestamps.get("detected_at"),
        as_of=desk.clock.now(),
        campaigns=tuple(
            CampaignLine(
                name=one.name,
                kind=str(ledgers.get(str(one.campaign_id), {}).get("kind", "other")),
                audience=sum(one.counts.values()),
                due_at=parse(ledgers.get(str(one.campaign_id), {}).get("planned_at")),
                useful_until=parse(ledgers.get(str(one.campaign_id), {}).get("latest_useful_at")),
                standing=one.done.replace("_", " "),
            )
            for one in outcomes
        ),
        seen=("The provider answers again, measured by probes.",),
        done=tuple(done),
        needs=tuple(needs),
        next_steps=("The review says what it cost.",) if not held_because else ("Recover again.",),
        over=not incident.is_open,
        simulated=desk.clock.simulated,
    )
