"""The Prefect tasks of `notify`: find whom it concerns, write, and hand over once."""

from __future__ import annotations

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.comms.channels import Message, open_channel
from tasks.comms.errors import ChannelFailed
from tasks.comms.writing import write_notice
from tasks.core import MailstayError, crash_point, digest_of, open_clock, sha256_hex
from tasks.incidents import open_journal
from tasks.plan import load_plan


@task
def choose_readers(plan: str) -> list[str]:
    """Return the stakeholders who get tactical reports: those who can act on a notice."""
    loaded = load_plan(plan)
    return [name for name, who in loaded.plan.stakeholders.items() if who.report == "tactical"]


@task(cache_policy=NO_CACHE, task_run_name="notify-{stakeholder}")
def send_notice(plan: str, stakeholder: str, title: str, text: str, incident: str, notice_id: str) -> bool:
    """Hand one notice to one stakeholder's channel, once per `notice_id`; return whether it was taken now.

    It is written down before it goes out. One whose hand-over was cut short is given only to a channel that takes the
    same message once. A channel that fails is written down and stops nothing.

    Raises:
        UnknownIncident: the journal has no such incident; nobody was told.
    """
    loaded = load_plan(plan)
    clock = open_clock(loaded.clock_spec())
    who = loaded.plan.stakeholders[stakeholder]
    written = write_notice(title, text, company=loaded.plan.name, as_of=clock.now())
    message_id = digest_of(["notice", stakeholder, notice_id])
    key = f"notice/{message_id}"
    with open_journal(loaded) as journal:
        if incident:
            journal.incident(incident)
        channel = open_channel(loaded, who.channel)
        fact = {
            "stakeholder": stakeholder,
            "subject": written.subject,
            "body": sha256_hex(written.text.encode()),
        }
        again = ("failed", "intended") if channel.takes_once else ("failed",)
        if not journal.claim_state(
            key, {**fact, "status": "intended"}, over=again, incident_id=incident or None
        ):
            return False
        crash_point("notify.send:before")
        try:
            channel.deliver(Message(message_id, stakeholder, incident, written, clock.now(), clock.simulated))
        except MailstayError as error:
            unknown = isinstance(error, ChannelFailed) and error.outcome_unknown
            journal.put_state(
                key, {**fact, "status": "unknown" if unknown else "failed", "error": error.what}
            )
            get_run_logger().error("%s was not told: %s", stakeholder, error)
            return False
        crash_point("notify.send:after")
        journal.put_state(key, {**fact, "status": "sent"}, incident_id=incident or None)
        if incident:
            journal.note(incident, "notice", f"{stakeholder} was told: {written.subject}")
    return True
