"""Writing messages: the situation as plain values, a template per kind of reader, text and HTML alike.

Templates hold wording only. Facts come in as a `Situation`; no address of a subscriber is among them. Public words
follow the rules of incident communication: no time of restoration is promised to an audience, the time of the next
update is.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Literal

import jinja2

from tasks.core import mask_addresses

Report = Literal["tactical", "executive", "audience"]
_TEMPLATES = Path(__file__).parent / "templates"


@dataclass(frozen=True)
class CampaignLine:
    """One campaign as a reader needs it.

    Attributes:
        standing: how it stands in words: `paused`, `not held yet`, `outcome unknown`.
        at_stake: attributed value in words, such as `£1,240`; empty when it is not known.
    """

    name: str
    kind: str
    audience: int
    due_at: datetime | None
    useful_until: datetime | None
    standing: str
    at_stake: str = ""


@dataclass(frozen=True)
class Situation:
    """What is known of an incident at one time.

    Attributes:
        severity: 1 (worst) to 5; None while it is not known.
        seen: what was seen, one fact a line: the evidence.
        done: what has been done, one action a line.
        needs: what is needed of whom, one a line.
        next_steps: what happens next, one a line.
        data_lost: whether data were lost, as far as anybody knows; None while nobody does.
        data_loss: the same with what it rests on, in one sentence for internal readers.
        over: whether the impact is over: then no next update is promised.
        simulated: whether the times come from a driven clock.
    """

    company: str
    incident_id: str
    provider: str
    state: str
    severity: int | None
    summary: str
    cause_class: str
    impact_started_at: datetime | None
    detected_at: datetime | None
    as_of: datetime
    campaigns: tuple[CampaignLine, ...] = ()
    seen: tuple[str, ...] = ()
    done: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    next_steps: tuple[str, ...] = ()
    at_stake: str = ""
    data_lost: bool | None = None
    data_loss: str = "Whether data were lost is not known yet."
    over: bool = False
    simulated: bool = False

    @property
    def audience_total(self) -> int:
        """Messages of all campaigns in the table."""
        return sum(line.audience for line in self.campaigns)


@dataclass(frozen=True)
class Written:
    """A message ready to be sent: subject, plain text and the same in HTML."""

    subject: str
    text: str
    html: str


def write_update(report: Report, situation: Situation, *, next_update_at: datetime | None) -> Written:
    """Return the update in the form that `report` names.

    Args:
        report: `tactical` (conditions, actions, needs), `executive` (current status, overview, next steps), or
            `audience` (what happened, what we do).
        situation: what is known.
        next_update_at: the promised time of the next update; None only when the situation is over.

    Raises:
        ValueError: nothing is promised although the situation is not over.
    """
    if next_update_at is None and not situation.over:
        raise ValueError("every update promises the time of the next one until the impact is over")
    values = {"s": situation, "next_update_at": next_update_at}
    subject = _render(f"{report}.subject.j2", values).replace("\n", " ")
    return Written(subject, _render(f"{report}.txt.j2", values), _render(f"{report}.html.j2", values))


def write_vendor_ticket(situation: Situation, *, support: str, evidence: tuple[str, ...]) -> Written:
    """Return the ticket to open with the provider, at `support`, with the evidence one line each."""
    values = {"s": situation, "support": support, "evidence": evidence}
    subject = _render("vendor.subject.j2", values).replace("\n", " ")
    text = _render("vendor.txt.j2", values)
    return Written(subject, text, "")


def write_apology(*, company: str, began: datetime | None, affected: bool) -> Written:
    """Return the draft of an apology to subscribers, to be read and approved by a person.

    Args:
        company: whose e-mails they are.
        began: when the impact began.
        affected: whether only those get it whose own message was late or lost.
    """
    values = {"company": company, "began": began, "affected": affected}
    subject = _render("apology.subject.j2", values).replace("\n", " ")
    return Written(subject, _render("apology.txt.j2", values), _render("apology.html.j2", values))


def write_notice(title: str, text: str, *, company: str, as_of: datetime) -> Written:
    """Return a plain notice (a failed run, say), its addresses masked."""
    values = {
        "title": mask_addresses(title),
        "text": mask_addresses(text),
        "company": company,
        "as_of": as_of,
    }
    subject = f"{company}: {mask_addresses(title)}".replace("\n", " ")
    return Written(subject, _render("notice.txt.j2", values), _render("notice.html.j2", values))


def _render(name: str, values: Mapping[str, object]) -> str:
    return _environment().get_template(name).render(values).strip() + ("\n" if ".subject" not in name else "")


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=jinja2.select_autoescape(enabled_extensions=("html.j2",)),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["utc"] = _utc
    return environment


def _utc(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if moment else "not known"
