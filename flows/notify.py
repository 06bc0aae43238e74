"""Send one notice to the people who can act on it; started by automations, such as when a run fails."""

from __future__ import annotations

from prefect import flow

from tasks.comms.steps import choose_readers, send_notice


@flow(name="notify")
def notify(
    plan: str = "plan.yaml", title: str = "Notice", text: str = "", incident: str = "", notice: str = ""
) -> dict[str, bool]:
    """Send one notice to every stakeholder who gets tactical reports.

    SENDS MESSAGES through the channels of the plan; changes nothing at a provider. The same notice is sent once: a run
    that was killed and comes again goes on where it stopped.

    Args:
        plan: Path of the continuity plan. Decides who is told and through which channel.
        title: The subject. Addresses in it are masked.
        text: What happened and what to do, in plain words. Addresses in it are masked.
        incident: Id of the incident it belongs to, such as INC-0001: the notice then stands in its timeline.
        notice: Names the notice. The same name is never sent twice; empty takes title and text as the name.

    Returns:
        Per stakeholder whether the channel took the notice in this run.
    """
    name = notice or f"{title}\n{text}"
    return {reader: send_notice(plan, reader, title, text, incident, name) for reader in choose_readers(plan)}
