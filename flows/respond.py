"""Respond to an outage: declare, hold the last good snapshot, plan, agree, stop what is due, tell people."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from tasks.response.steps import (
    Responded,
    await_approval,
    declare_incident,
    hold_last_good,
    plan_campaigns,
    publish_plan,
    publish_response,
    responding,
    stop_campaigns,
    tell_people,
    write_ticket,
)


@flow(name="respond", flow_run_name="respond-{provider}-{mode}")
def respond(
    provider: str,
    plan: str = "plan.yaml",
    cause_class: Literal[
        "technical_failure",
        "cyber_attack",
        "human_error",
        "natural_disaster",
        "provider_suspension",
        "unknown",
    ] = "unknown",
    seen: str = "",
    impact_started_at: str = "",
    scope: list[int] = [],  # noqa: B006 - Prefect's form shows a plain default, and nobody changes it
    mode: Literal["plan", "act"] = "plan",
    approval: Literal["ask", "policy"] = "ask",
    name: str = "",
    wait_minutes: Annotated[int, Field(ge=0, le=1440)] = 15,
) -> Responded:
    """Stop what an outage would harm, once somebody agreed, and tell who must know.

    In `plan` mode nothing is changed at the provider: the incident is declared, the last good snapshot is held, the
    plan is shown, people are told. In `act` mode running campaigns are paused and scheduled ones taken back to draft,
    each written to the journal before and after, and read back.

    May be killed and run again at any time: it goes on from the journal, and no campaign is stopped twice. Without an
    answer in time, or while the provider does not answer, it ends as held and says why; run it again then.

    Args:
        provider: Name of the provider in the plan. Joins its open incident, or declares one.
        plan: Path of the continuity plan. Decides sources, lateness rules, policy, and who is told.
        cause_class: What kind of cause it is, as far as known. Decides nothing here; the review needs it.
        seen: What was seen, in one sentence. It goes to stakeholders and into the vendor ticket as evidence.
        impact_started_at: When impact started, as 2026-11-24T08:12:00+00:00. Leave it empty unless it is known.
        scope: Ids of the campaigns to look at. Empty takes all that run or are due within a day.
        mode: plan changes nothing at the provider; act stops the campaigns that were agreed to.
        approval: ask puts the plan to a person; policy lets undoable actions that the plan lists go ahead.
        name: Your name, as the journal shows who ran this.
        wait_minutes: How long to wait for an answer on the form or the command line before ending as held.

    Returns:
        The incident, whether it is held and why, the actions by status, and the vendor ticket's file.
    """
    with responding(plan, provider, name) as run:
        declare_incident(run, cause_class, seen, impact_started_at)
        hold_last_good(run)
        lines = plan_campaigns(run, scope)
        publish_plan(run, lines)
        if mode == "act":
            agreed = await_approval(run, lines, approval, wait_minutes)
            stop_campaigns(run, agreed)
    tell_people(run, run.lines)
    write_ticket(run, run.lines)
    return publish_response(run)
