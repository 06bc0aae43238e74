"""Settle: write the final reports once late data are in, and remind people of what incidents left to do."""

from __future__ import annotations

from prefect import flow

from flows.review import review
from tasks.comms.steps import choose_readers, send_notice
from tasks.reports.steps import Settled, find_reminders, find_unsettled, settled_of


@flow(name="settle")
def settle(plan: str = "plan.yaml") -> Settled:
    """Re-issue every provisional report whose late orders and events are in, and remind of open action items.

    Reads journal, reports and snapshots; asks neither provider nor shop. A settled report is the next version of the
    incident's report, with a table of what changed and who had the old one. Action items that are overdue or due within
    a week are told to the stakeholders who get tactical reports: once a week, or when another one becomes late. A
    report that fails stops no other and fails the run at its end.

    Args:
        plan: Path of the continuity plan. Decides when figures are settled, who is told, and where reports lie.

    Returns:
        The reports that were settled, what the others wait for, and who was reminded.
    """
    reminded = [
        reader
        for due in find_reminders(plan)
        for reader in choose_readers(plan)
        if send_notice(plan, reader, due.title, due.text, "", due.name)
    ]
    waiting = find_unsettled(plan)
    states = {
        one.incident: review(plan=plan, incident=one.incident, settle=True, return_state=True)
        for one in waiting
        if one.ready
    }
    return settled_of(waiting, states, reminded)
