"""Review an incident: what it cost in messages, minutes, money, reputation and data, and what changes."""

from __future__ import annotations

from prefect import flow

from tasks.reports.steps import (
    Reviewed,
    check_mailbox_providers,
    check_sender_reputation,
    count_data,
    count_messages,
    estimate_loss,
    gather_case,
    hold_objectives,
    hold_plan_against_journal,
    leave_action_items,
    publish_review,
    tell_stakeholders,
    write_review,
)


@flow(name="review", flow_run_name="review-{incident}")
def review(plan: str = "plan.yaml", incident: str = "", settle: bool = False) -> Reviewed:
    """Say what an incident did, what the plan missed, and what to change; write it as a report.

    Reads the journal and the valid snapshots before the impact and after the recovery; asks neither provider nor shop.
    Writes the next version of the report and never changes an earlier one, adds action items to the journal (each
    once), records when the impact began if nobody had, and sends an executive update to the stakeholders who get one.

    Args:
        plan: Path of the continuity plan. Decides objectives, baseline, currency, calendar, and who is told.
        incident: Id of the incident, such as INC-0001. Empty takes the latest that is resolved.
        settle: Refuse to write unless late orders and events are in. Off, a report before that time is written and
            marked as provisional.

    Returns:
        Version and path of the report, messages, loss with its 95 % interval, rows lost and at risk.
    """
    case = gather_case(plan, incident, settle)
    messages = count_messages(case)
    money = estimate_loss(case, messages)
    reputation = check_sender_reputation(case)
    inboxes = check_mailbox_providers(case)
    data = count_data(case)
    objectives = hold_objectives(case)
    findings = hold_plan_against_journal(case, objectives)
    figures = leave_action_items(case, messages, money, reputation, data, objectives, findings, inboxes)
    content, written = write_review(case, figures)
    tell_stakeholders(case, content, written)
    return publish_review(case, figures, content, written)
