"""Telling the stakeholders where a recovery stands: each once per state, written down before it is sent."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tasks.catchup.desk import Desk, parse
from tasks.catchup.recovery import Outcomes, totals
from tasks.comms import CampaignLine, Situation, Telling, tell
from tasks.core import MailstayError, plural


def news_of(error: BaseException | None) -> str:
    """Return what holds a recovery, without its figures: the same reason with other figures is no news."""
    what = error.what if isinstance(error, MailstayError) else type(error).__name__
    return re.sub(r"\d+(?:[.,:]\d+)*", "#", what)


def tell_stakeholders(
    desk: Desk, outcomes: Sequence[Outcomes], *, held_because: str, news: str = ""
) -> Telling:
    """Tell whom the plan names for this severity; the news is the incident's state and what holds it.

    Subscribers are told nothing of a recovery that is held: for them nothing has changed.

    Args:
        desk: the recovery.
        outcomes: what came of it so far.
        held_because: why it is held, in words; empty when it is not.
        news: the same without figures that another run would measure anew.
    """
    situation = _situation(desk, outcomes, held_because)
    reports = ("tactical", "executive") if held_because else ("tactical", "executive", "audience")
    return tell(
        desk.plan, desk.journal, situation, flow="recover", news=[situation.state, news], reports=reports
    )


def data_loss(desk: Desk) -> tuple[bool | None, str]:
    """Say whether data were lost, as the consent gate found it: None while it has not been passed."""
    gate = desk.recall("consent")
    if gate is None:
        return None, "Whether data were lost is not known yet."
    vanished = int(gate["counts"].get("vanished", 0))
    if vanished:
        return True, f"{plural(vanished, 'opt-out')} had vanished at the provider and were put back."
    return False, "No opt-out is missing at the provider; no other loss of data is known."


def _situation(desk: Desk, outcomes: Sequence[Outcomes], held_because: str) -> Situation:
    incident = desk.journal.incident(desk.incident.id)
    lost, loss = data_loss(desk)
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
        severity=desk.journal.severity(incident.id),
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
        seen=(
            "The provider works again, as measured by probes."
            if (desk.recall("restored") or {}).get("at")
            else "The provider does not work again yet, as measured by probes.",
        ),
        done=tuple(done),
        needs=tuple(needs),
        next_steps=("The review says what it cost.",) if not held_because else ("Recover again.",),
        data_lost=lost,
        data_loss=loss,
        over=not incident.is_open,
        simulated=desk.clock.simulated,
    )
