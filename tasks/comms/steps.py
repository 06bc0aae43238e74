"""The Prefect tasks of `notify`, and of keeping promised updates: find whom it concerns, write, hand over once."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta

from prefect import get_run_logger, task
from prefect.cache_policies import NO_CACHE

from tasks.comms.cadence import Told, due
from tasks.comms.channels import Message, open_channel
from tasks.comms.errors import ChannelFailed
from tasks.comms.telling import tell
from tasks.comms.writing import write_notice
from tasks.core import MailstayError, crash_point, digest_of, open_clock, sha256_hex
from tasks.incidents import Journal, open_journal
from tasks.plan import load_plan
from tasks.response import situation_of

PASS = timedelta(minutes=5)
"""Time between two passes of `monitor` (deployments/prefect.yaml): what is due before the next goes out now."""


@task
def choose_readers(plan: str) -> list[str]:
    """Return the stakeholders who get tactical reports: those who can act on a notice."""
    loaded = load_plan(plan)
    return [name for name, who in loaded.plan.stakeholders.items() if who.report == "tactical"]


@task(cache_policy=NO_CACHE)
def keep_promises(plan: str) -> int:
    """Send every promised update that is due before the next pass; return how many messages were taken.

    Internal stakeholders get where the incident stands. An audience gets it only if a person approved that for this
    incident, or through a folder, for review; else those who get tactical reports hear that it is due.
    """
    loaded = load_plan(plan)
    taken = 0
    with open_journal(loaded) as journal:
        for provider in loaded.plan.providers:
            incident = journal.open_incident(provider)
            promised = _due(journal, incident.id) if incident else {}
            for name, at in promised.items():
                if incident is None or name not in loaded.plan.stakeholders:
                    continue
                waiting = [one for one in journal.approvals(incident.id) if one.status == "awaiting"]
                needs = [f"Answer approval {one.id}: {one.subject}" for one in waiting]
                situation = situation_of(loaded, journal, incident, needs=needs)
                news = ["promised", at.isoformat()]
                told = tell(loaded, journal, situation, flow="monitor", news=news, only={name})
                taken += told.taken
                crash_point("monitor.promise:told")
                if told.failures and loaded.plan.stakeholders[name].report == "audience":
                    notice = f"An update promised to {name} by {at:%H:%M} UTC is due: approve it or write it by hand"
                    raised = replace(situation, needs=(notice, *needs))
                    taken += tell(
                        loaded,
                        journal,
                        raised,
                        flow="monitor",
                        news=["raise", name, *news],
                        reports=("tactical",),
                    ).taken
                for failure in told.failures:
                    get_run_logger().error(failure)
    return taken


def _due(journal: Journal, incident_id: str) -> dict[str, datetime]:
    """Return the stakeholders who wait for an update promised for the time until the next pass, with that time."""
    told = [
        Told(one.stakeholder, one.sent_at or one.intended_at, one.promised_next_at)
        for one in journal.communications(incident_id)
        if one.status in ("sent", "unknown")
    ]
    last = {one.stakeholder: one.promised_next_at for one in sorted(told, key=lambda one: one.sent_at)}
    names = due(told, journal.clock.now() + PASS)
    return {name: at for name in names if (at := last[name]) is not None}


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
