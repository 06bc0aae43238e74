"""Abort a response that was a false alarm: put back what was stopped, compare, close the incident, tell people."""

from __future__ import annotations

from typing import Annotated, Literal

from prefect import flow
from pydantic import Field

from tasks.response.steps import (
    Aborted,
    aborting,
    await_decisions,
    check_abort,
    close_aborted,
    compare_schedules,
    plan_undoing,
    publish_abort,
    publish_undoing,
    put_back,
    tell_of_abort,
)


@flow(name="abort", flow_run_name="abort-{incident}-{mode}")
def abort(
    plan: str = "plan.yaml",
    incident: str = "",
    mode: Literal["plan", "act"] = "plan",
    approval: Literal["ask", "policy"] = "ask",
    reason: str = "false alarm",
    name: str = "",
    wait_minutes: Annotated[int, Field(ge=0, le=1440)] = 15,
) -> Aborted:
    """Take back what a response stopped, and close its incident as a false alarm.

    LETS CAMPAIGNS SEND AGAIN in `act` mode, at the times they had before, after every opt-out was given to the
    provider. A campaign whose time is past is never scheduled again (it would go out at once, late), and one that was
    stopped half way goes on only if a person wants that, for people may be skipped or mailed twice: both are held and
    listed. Leave them stopped, or run `recover`, which mails whoever is left in time. In `plan` mode nothing changes.

    Every stopped campaign is compared field by field with what the journal says was there before. May be killed and
    run again at any time: it goes on from the journal, and nothing is put back twice.

    Args:
        plan: Path of the continuity plan. Decides the policy, and who is told.
        incident: Id of the incident, such as INC-0001. Empty takes the one that is open.
        mode: plan changes nothing; act puts back what was agreed to.
        approval: ask puts the plan to a person; policy lets go ahead what restores exactly what was and the plan
            lists (`reschedule`, `resume`). Everything else waits for a person.
        reason: Why the response is aborted, for the record.
        name: Your name, as the journal shows who ran this.
        wait_minutes: How long to wait for an answer on the form or the command line before ending as held.

    Returns:
        Whether the response is aborted or held and why, what is done per campaign, and how each differs from before.
    """
    with aborting(plan, incident, name, mode) as run:
        lines = plan_undoing(run)
        publish_undoing(run, lines)
        if mode == "act":
            decisions = await_decisions(run, lines, approval, wait_minutes)
            problems = put_back(run, lines, decisions)
            compared = compare_schedules(run)
            check_abort(run, decisions, problems, compared)
            close_aborted(run, reason)
    if mode == "act":
        tell_of_abort(run)
    return publish_abort(run)
