"""Whether subscribers are told that we are sorry: none, the fix in place, those affected, or all. Never sent from here.

What comes out are drafts, a list of people and a text, bound by their digests to the approval of a person.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from tasks.catchup.desk import Desk, HeldCampaign
from tasks.catchup.ledger import LEDGER, open_cursor, people_table, register, write_frozen
from tasks.catchup.witnesses import Witnesses
from tasks.comms import Written, write_apology
from tasks.core import UsageError, digest_of, plural
from tasks.incidents import Approval

Audience = Literal["none", "fix_in_place", "affected_only", "all"]
MAILED: tuple[Audience, ...] = ("affected_only", "all")
APOLOGISE = "apologise"


@dataclass(frozen=True)
class Apology:
    """What is proposed or decided about an apology.

    Attributes:
        state: `decided`, or `held` while it waits for a yes.
        reason: why it is held.
        audience: who would be told.
        people: how many that are; 0 where nobody is mailed.
        listed: file of the audience (subscriber ids); empty where nobody is mailed.
        text: the draft as text; beside it the same in HTML. Empty where nobody is mailed.
    """

    incident: str
    state: Literal["decided", "held"]
    reason: str
    audience: Audience
    people: int
    listed: str
    text: str


def affected(ledgers: Iterable[Path], *, began: datetime, folder: Path) -> pa.Array:
    """Return who did not get a campaign at its time, ascending: late, not at all, or nobody knows.

    Whoever was mailed before the impact by the campaign itself got it in time; to whom it bounced, or who must not be
    mailed, no apology can go.

    Args:
        ledgers: the ledgers of the campaigns that the outage held back and that were not put back as they were.
        began: when the impact began.
        folder: where DuckDB spills.
    """
    with open_cursor(folder) as con:
        register(con, "nothing", LEDGER.empty_table())
        parts = ["FROM nothing"]
        for number, path in enumerate(ledgers):
            register(con, f"ledger_{number}", path)
            parts.append(f"FROM ledger_{number}")
        found = con.sql(
            f"""
            SELECT DISTINCT subscriber_id FROM ({" UNION ALL ".join(parts)})
            WHERE outcome IN ('expired', 'dropped', 'unknown', 'not_attempted')
                OR outcome IN ('accepted', 'delivered')
                    AND (sent_by_campaign_id <> campaign_id OR attempted_at >= $began)
            ORDER BY subscriber_id
            """,  # noqa: S608 - names of our own
            params={"began": began},
        )
        return found.to_arrow_table()["subscriber_id"].combine_chunks()


def apology_audience(
    chosen: pa.Array, mailable: Iterable[int], blocked: Iterable[int], *, folder: Path
) -> pa.Array:
    """Return those of `chosen` whom the provider would mail and no witness of consent blocks, ascending."""
    with open_cursor(folder) as con:
        for name, people in (("chosen", chosen), ("mailable", mailable), ("blocked", blocked)):
            register(con, name, people)
        found = con.sql(
            "FROM chosen SEMI JOIN mailable USING (subscriber_id) ANTI JOIN blocked USING (subscriber_id)"
        )
        return found.order("subscriber_id").to_arrow_table()["subscriber_id"].combine_chunks()


class Apologising:
    """The apology of one incident."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self.witnesses = Witnesses(desk)

    def decide(self, audience: Audience) -> Apology:
        """Draft the apology, and record it as decided once a person said yes to exactly these people and words.

        Raises:
            UsageError: something else was decided before, or the incident was never recovered.
            Stopped: the consent gate is red.
        """
        desk = self.desk
        known = desk.journal.get_state(f"apology/{desk.incident.id}")
        if known is not None:
            if known["audience"] != audience:
                raise UsageError(
                    f"It is decided already: {known['audience']}",
                    where=desk.incident.id,
                    fix="a second apology would go to the same people again; the decision stands",
                )
            return Apology(**known)
        people, listed, text, digests = 0, "", "", {}
        if audience in MAILED:
            who = self._audience(audience)
            people = len(who)
            listed, digests["audience"] = self._list(audience, who)
            text, digests["text"] = self._draft(audience)
        asked = self._ask(audience, people, digests)
        drafted = Apology(desk.incident.id, "held", "", audience, people, listed, text)
        if asked.status != "approved":
            return replace(drafted, reason=f"approval {asked.id} waits: {asked.subject}")
        decided = replace(drafted, state="decided")
        desk.journal.put_state(f"apology/{desk.incident.id}", asdict(decided), incident_id=desk.incident.id)
        desk.journal.note(
            desk.incident.id,
            APOLOGISE,
            f"apology: {audience}, {plural(people, 'person', 'people')}; approved by {asked.name}; nothing was sent",
            token=desk.token,
        )
        return decided

    def _audience(self, audience: Audience) -> pa.Array:
        desk, gate = self.desk, self.witnesses.gate()
        held = [HeldCampaign.from_json(one) for one in (desk.recall("held") or {}).get("campaigns", [])]
        lists = {number for one in held for number in one.list_ids}
        blocked = gate.blocked_for(lists) | self.witnesses.opted_out()
        members = desk.provider.memberships(None if audience == "all" else lists)
        mailable = {one.subscriber_id for one in members if one.mailable}
        return apology_audience(
            pa.array(mailable, pa.int64()) if audience == "all" else self._affected(held),
            mailable, blocked, folder=desk.folder,
        )  # fmt: skip

    def _affected(self, held: Sequence[HeldCampaign]) -> pa.Array:
        """Return the ledger's set, from ledgers written anew: what was scheduled may have gone out since.

        Raises:
            UsageError: there is no ledger: nothing was recovered.
        """
        desk = self.desk
        if not held:
            raise UsageError(
                "Nobody knows who was affected: the incident was not recovered",
                where=desk.incident.id,
                fix="run `mailstay recover` first, or choose another audience",
            )
        late = [one for one in held if not desk.is_done(f"recover:reschedule:{one.id}")]
        ledgers = [self.witnesses.stock(one).path for one in late]
        times = desk.incident.timestamps
        began = times.get("impact_started_at") or times.get("detected_at") or desk.clock.now()
        return affected(ledgers, began=began, folder=desk.folder)

    def _list(self, audience: Audience, people: pa.Array) -> tuple[str, str]:
        name = digest_of(people.to_numpy().tobytes().hex())[:12]
        path = self.desk.folder / f"apology-{audience}-{name}.parquet"
        return str(path), write_frozen(people_table(people), path)

    def _draft(self, audience: Audience) -> tuple[str, str]:
        times = self.desk.incident.timestamps
        written: Written = write_apology(
            company=self.desk.plan.plan.name,
            began=times.get("impact_started_at") or times.get("detected_at"),
            affected=audience == "affected_only",
        )
        digest = digest_of([written.subject, written.text, written.html])
        path = self.desk.folder / f"apology-{audience}-{digest[:12]}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"Subject: {written.subject}\n\n{written.text}", encoding="utf-8")
        path.with_suffix(".html").write_text(written.html, encoding="utf-8")
        return str(path), digest

    def _ask(self, audience: Audience, people: int, digests: dict[str, str]) -> Approval:
        """Return the answer to exactly this, or the question that waits for one."""
        journal, incident = self.desk.journal, self.desk.incident.id
        actions: list[dict[str, Any]] = [
            {
                "kind": APOLOGISE,
                "target": f"apology/{audience}",
                "undoable": audience not in MAILED,
                **digests,
            }
        ]
        journal.expire_approvals()
        for known in journal.approvals(incident):
            if known.status == "approved" and known.actions == actions:
                return known
        whom = {"none": "to nobody", "fix_in_place": "by what is mended, to nobody by mail"}
        subject = f"apologise {whom.get(audience, f'to {people:,} people ({audience})')}?"
        waits = timedelta(days=1, minutes=self.desk.plan.plan.approval.wait_minutes)
        return journal.request_approval(
            incident, subject=subject, actions=actions, expires_at=self.desk.clock.now() + waits
        )
