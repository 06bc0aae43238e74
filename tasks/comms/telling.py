"""Telling the plan's stakeholders where an incident stands: once per piece of news, written down before it goes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, Protocol

from tasks.comms.cadence import next_update_at
from tasks.comms.channels import Message, open_channel
from tasks.comms.errors import ChannelFailed
from tasks.comms.writing import Situation, write_update
from tasks.core import MailstayError, crash_point, digest_of, sha256_hex
from tasks.plan import LoadedPlan, Stakeholder


class Said(Protocol):
    """A message as the register has it."""

    @property
    def id(self) -> int:
        """Its number in the register."""

    @property
    def message_id(self) -> str:
        """Its name for ever."""

    @property
    def status(self) -> str:
        """`intended` until the channel took it, refused it, or did not say."""

    @property
    def stakeholder(self) -> str:
        """Who was told, by the plan's name."""

    @property
    def promised_next_at(self) -> datetime | None:
        """When it promised the next one; None if it was the last."""


class Answer(Protocol):
    """A question to a person as the register has it."""

    @property
    def status(self) -> str:
        """`awaiting` until it is answered or its time is over, then `approved`, `rejected` or `expired`."""

    @property
    def actions(self) -> list[dict[str, Any]]:
        """What it would allow."""


class Register(Protocol):
    """What telling needs of the journal: every message is in it before it goes out, and what became of it after."""

    def say(
        self,
        incident_id: str,
        *,
        stakeholder: str,
        channel: str,
        report: str,
        subject: str,
        body_digest: str,
        promised_next_at: datetime | None,
        message_id: str | None = None,
    ) -> Said:
        """Write down a message before it is sent; the same `message_id` returns it as it stands."""

    def communications(self, incident_id: str) -> Sequence[Said]:
        """Return what was written down for the incident so far."""

    def approvals(self, incident_id: str) -> Sequence[Answer]:
        """Return what was asked for the incident so far."""

    def request_approval(
        self, incident_id: str, *, subject: str, actions: list[dict[str, Any]], expires_at: datetime
    ) -> Answer:
        """Ask for approval; the same question that still awaits its answer is returned, not repeated."""

    def sent(self, communication_id: int) -> object:
        """Record that the channel took it."""

    def not_sent(
        self, communication_id: int, error: str, *, status: Literal["failed", "unknown"] = "failed"
    ) -> object:
        """Record that the channel refused it, or did not say whether it took it."""


@dataclass(frozen=True)
class Telling:
    """What came of telling: how many messages were taken, and one sentence per stakeholder who was not reached."""

    taken: int
    failures: tuple[str, ...]


def tell(
    plan: LoadedPlan,
    register: Register,
    situation: Situation,
    *,
    flow: str,
    news: Sequence[object],
    reports: Collection[str] = ("tactical", "executive", "audience"),
    only: Collection[str] | None = None,
) -> Telling:
    """Tell every stakeholder whom the plan names for this severity, in the form that the plan names for them.

    A message is named after the flow, the incident, the stakeholder and its news: a run that is killed and comes again
    does not tell it twice. One whose hand-over was cut short is given again only to a channel that takes the same
    message once; elsewhere its outcome is unknown and stays so. One that a channel surely did not take is given again.
    A channel that fails is journaled and stops nothing: the incident matters more than the message.

    Nothing reaches an audience without a person's yes, which holds for the incident: until then it is asked for, and
    nothing is handed over. A folder needs none: what lies in it is for review. Whoever was promised another update gets
    it, whatever the severity is by now.

    Args:
        plan: says who is told what, through which channel and how often.
        register: the journal.
        situation: what is known. A severity that is not known reaches everybody.
        flow: the flow that tells; part of the name.
        news: what the message is about, as plain values: the same news is told once.
        reports: the forms that are sent now; stakeholders with another form hear nothing.
        only: names of the stakeholders who are told now; None is all of them.
    """
    taken, failures = 0, []
    known = register.communications(situation.incident_id)
    begun = {said.message_id for said in known}
    last = {said.stakeholder: said.promised_next_at for said in known if said.status == "sent"}
    owed = {name for name, promised in last.items() if promised is not None}
    for name, who in plan.plan.stakeholders.items():
        if who.report not in reports or (only is not None and name not in only):
            continue
        if situation.severity is not None and situation.severity > who.from_severity and name not in owed:
            continue
        if _needs_a_yes(plan, who) and not _may_tell(register, situation, name):
            failures.append(f"{name} was not told: nothing goes to an audience before somebody approves it")
            continue
        promised = (
            None if situation.over else next_update_at(situation.as_of, who.cadence(situation.severity))
        )
        written = write_update(who.report, situation, next_update_at=promised)
        message_id = digest_of([flow, situation.incident_id, name, *news])
        said = register.say(
            situation.incident_id,
            stakeholder=name,
            channel=who.channel,
            report=who.report,
            subject=written.subject,
            body_digest=sha256_hex(written.text.encode()),
            promised_next_at=promised,
            message_id=message_id,
        )
        if said.status not in ("intended", "failed"):
            continue
        message = Message(
            message_id, name, situation.incident_id, written, situation.as_of, situation.simulated
        )
        try:
            channel = open_channel(plan, who.channel)
            if said.status == "failed" and not channel.takes_once:
                # Whoever is killed while it is handed over again must not leave it standing as surely not taken.
                register.not_sent(said.id, "handed over again", status="unknown")
            elif message_id in begun and not channel.takes_once:
                raise ChannelFailed(
                    "The hand-over was cut short; nobody knows whether it arrived", outcome_unknown=True
                )
            crash_point(f"{flow}.tell:before")
            channel.deliver(message)
            crash_point(f"{flow}.tell:after")
        except MailstayError as error:
            unknown = isinstance(error, ChannelFailed) and error.outcome_unknown
            register.not_sent(said.id, error.what, status="unknown" if unknown else "failed")
            failures.append(f"{name} was not told: {error}")
        else:
            register.sent(said.id)
            taken += 1
    return Telling(taken, tuple(failures))


TELL = "tell_audience"
"""Kind of the approval that an audience may be told."""

_ASKED_FOR = timedelta(days=1)


def _needs_a_yes(plan: LoadedPlan, who: Stakeholder) -> bool:
    channel = plan.plan.channels.get(who.channel)
    return who.report == "audience" and channel is not None and channel.kind != "folder"


def _may_tell(register: Register, situation: Situation, name: str) -> bool:
    """Whether somebody agreed to tell this audience of this incident; asks if nobody was asked."""
    action = {"kind": TELL, "target": f"stakeholder/{name}", "undoable": False}
    answers = [one.status for one in register.approvals(situation.incident_id) if action in one.actions]
    if "approved" in answers:
        return True
    if not situation.over and "rejected" not in answers:
        register.request_approval(
            situation.incident_id,
            subject=f"tell {name}, an audience, where it stands",
            actions=[action],
            expires_at=situation.as_of + _ASKED_FOR,
        )
    return False
