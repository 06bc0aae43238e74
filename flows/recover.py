"""Recover from an outage: measure that it is over, honour every opt-out, mail exactly who was not mailed, close."""

from __future__ import annotations

from typing import Literal

from prefect import flow

from tasks.catchup.steps import (
    Recovered,
    ask_for_agreement,
    by_urgency,
    check_steady_state,
    decide_verdicts,
    list_unknown,
    measure_restoration,
    pass_consent_gate,
    publish_recovery,
    quiesce,
    recovering,
    resolve_incident,
    resume_campaign,
    tell_people,
)


@flow(name="recover", flow_run_name="recover-{incident}")
def recover(
    plan: str = "plan.yaml", incident: str = "", approval: Literal["ask", "policy"] = "ask", name: str = ""
) -> Recovered:
    """Bring back what an outage held up, and close the incident.

    SENDS MAIL, once it is agreed to: to people whom the ledger calls `not_attempted` and no witness of consent
    blocks, never after a campaign's `latest_useful_at`, never twice. Whoever may have been mailed without proof is
    listed as unknown and not mailed. The original campaigns are ended; what is sent goes out as catch-up campaigns,
    in growing steps. A campaign whose time is still ahead is scheduled again as it was.

    May be killed and run again at any time: it goes on from the journal. Where it must not go on (the provider is not
    back, the consent gate is red, an answer is missing, a limit of the ramp was passed) it ends as held and says why.

    Args:
        plan: Path of the continuity plan. Decides lateness rules, ramp, speed, and who is told.
        incident: Id of the incident, such as INC-0001. Empty takes the one that is open.
        approval: ask puts every verdict to a person; policy lets the plan's policy_actions go ahead without one. A
            campaign that the plan wants to be asked about always waits for a person.
        name: Your name, as the journal shows who ran this.

    Returns:
        Whether the incident is resolved or held and why, people per outcome, and the file of unknown outcomes.
    """
    with recovering(plan, incident, name) as run:
        measure_restoration(run)
        pass_consent_gate(run)
        held = quiesce(run)
        questions = decide_verdicts(run, held)
        list_unknown(run, held)
        agreed = ask_for_agreement(run, questions, approval)
        outcomes = [resume_campaign(run, one, agreed) for one in by_urgency(held, questions)]
        list_unknown(run, held)
        check_steady_state(run, outcomes)
        resolve_incident(run)
    tell_people(run)
    return publish_recovery(run)
