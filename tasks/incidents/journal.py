"""The journal: what happened in every incident, as facts that are only ever appended.

Each method writes its facts in one transaction or reads one state of the journal, so a process killed at any point
leaves a journal that opens and whose things stand as their latest fact says. Times are the clock's that the journal
was opened with. `by`, `name` and `holder` name desks or the person as entered; addresses do not belong here.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Any, Literal, cast

import sqlalchemy as sa
from sqlalchemy.orm import Session

from tasks.core import Clock, crash_point, digest_of
from tasks.incidents import states
from tasks.incidents.database import Database
from tasks.incidents.errors import (
    ActionConflict,
    ApprovalClosed,
    ForbiddenTransition,
    JournalError,
    LeaseHeld,
    StaleToken,
    UnknownIncident,
)
from tasks.incidents.lease import is_dead, this_process
from tasks.incidents.models import (
    ApprovalAnswer,
    ApprovalRequest,
    Declaration,
    Delivery,
    Fact,
    Intent,
    Item,
    ItemUpdate,
    LeaseChange,
    Note,
    Outcome,
    Saying,
    StateChange,
    Timestamp,
    Value,
)
from tasks.incidents.records import (
    Action,
    ActionItem,
    ActionStatus,
    Approval,
    ApprovalStatus,
    Communication,
    DeliveryStatus,
    Hold,
    Incident,
    ItemStatus,
    ItemType,
    Lease,
    Metric,
    State,
    TimelineEntry,
)
from tasks.incidents.timeline import tell

#: Which outcome may follow which status. `unknown` is left only by evidence (`resolve_unknown`).
_FOLLOWS: Mapping[str, frozenset[str]] = {
    "intended": frozenset({"done", "failed", "unknown"}),
    "failed": frozenset({"done", "failed", "unknown"}),
    "not_done": frozenset({"done", "failed", "unknown"}),
    "unknown": frozenset(),
    "done": frozenset(),
}


class Journal:
    """The journal in one database. Open it with `Journal.open`; it may be shared by threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self.clock = clock
        self._database = database

    @classmethod
    def open(cls, url: str, clock: Clock) -> Journal:
        """Open the journal at the SQLAlchemy `url`, creating or upgrading its tables where needed.

        Raises:
            JournalError: the database does not answer, is of another kind, or was written by a newer Mailstay.
        """
        return cls(Database(url), clock)

    def close(self) -> None:
        """Close the journal's connections."""
        self._database.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Incidents

    def declare(
        self,
        provider: str,
        *,
        cause_class: str,
        summary: str,
        detected_at: datetime,
        declared_by: str,
        impact_started_at: datetime | None = None,
        vouched: bool = False,
        state: State = "triage",
    ) -> Incident:
        """Declare an incident of `provider`, or join the one that is open.

        Joining adds what was not known: a note with the new summary, `impact_started_at`, the class of the cause if one
        is named, and the confirmation (from `triage` to the `state` given). It never changes what is recorded already.

        Args:
            provider: its name in the plan.
            cause_class: one of the plan's cause classes.
            summary: what was seen, in a sentence, without personal data.
            detected_at: when it was first noticed.
            declared_by: who declares it; `vouched` if a login stands behind the name.
            impact_started_at: when subscribers were first affected; leave it out while it is not known.
            vouched: whether `declared_by` comes from a login.
            state: `triage` for a suspicion, `investigating` once confirmed.

        Raises:
            ImpossibleOrder: the times contradict each other or those recorded.
        """
        if state not in ("triage", "investigating"):
            raise ForbiddenTransition(f"An incident is not declared as {state}", fix="declare it in triage")
        with self._write("declare") as session:
            joined = self._open_of(session, provider)
            if joined is None:
                incident_id = self._declare_new(
                    session,
                    provider=provider,
                    cause_class=cause_class,
                    summary=summary,
                    declared_by=declared_by,
                    vouched=vouched,
                )
                self._add_state(session, incident_id, state, "", by=declared_by, reason="declared")
                times = {
                    "impact_started_at": impact_started_at,
                    "detected_at": detected_at,
                    "declared_at": self.clock.now(),
                }
                for name, at in times.items():
                    if at is not None:
                        self._add_timestamp(session, incident_id, name, at, declared_by)
            else:
                incident_id = joined.id
                if impact_started_at is not None and "impact_started_at" not in joined.timestamps:
                    self._add_timestamp(
                        session, incident_id, "impact_started_at", impact_started_at, declared_by
                    )
                if joined.state == "triage" and state != "triage":
                    self._add_state(
                        session, incident_id, state, joined.on_hold, by=declared_by, reason="confirmed"
                    )
                if cause_class not in ("unknown", joined.cause_class):
                    self._add_cause(session, incident_id, cause_class, declared_by)
                if not self._told_already(session, joined, summary, declared_by):
                    self._add_note(
                        session,
                        incident_id,
                        "joined",
                        summary,
                        {"by": declared_by, "cause_class": cause_class},
                    )
        return self.incident(incident_id)

    def incident(self, incident_id: str) -> Incident:
        """Return the incident `incident_id`.

        Raises:
            UnknownIncident: there is none.
        """
        with self._database.reading() as session:
            return self._incident(session, incident_id)

    def incidents(self) -> list[Incident]:
        """Return all incidents, oldest first."""
        with self._database.reading() as session:
            ids = session.scalars(sa.select(Declaration.incident_id).order_by(Declaration.number)).all()
            return [self._incident(session, str(one)) for one in ids]

    def open_incident(self, provider: str) -> Incident | None:
        """Return the open incident of `provider`, if there is one."""
        with self._database.reading() as session:
            return self._open_of(session, provider)

    def transition(
        self, incident_id: str, state: State, by: str, reason: str, *, token: int | None = None
    ) -> Incident:
        """Move the incident to `state`; asking for the state it is in changes nothing.

        Entering `resolved` or `closed` records `resolved_at` or `closed_at` as now unless it is known already;
        reopening withdraws `resolved_at`.

        Raises:
            ForbiddenTransition: the table of `states` does not allow it, or another incident of the provider is
                open.
            ImpossibleOrder: the incident cannot have been resolved or closed now.
            StaleToken: `token` is no longer the incident's lease.
        """
        with self._write("transition", incident_id, token) as session:
            now = self._incident(session, incident_id)
            if state != now.state:
                states.check_transition(incident_id, now.state, state)
                if not now.is_open and state in states.OPEN:
                    other = self._open_of(session, now.provider)
                    if other is not None:
                        raise ForbiddenTransition(
                            f"{incident_id} cannot reopen: {other.id} of {now.provider} is open",
                            fix=f"go on in {other.id}",
                        )
                    self._add(
                        session, Timestamp(incident_id=incident_id, name="resolved_at", at=None, by_name=by)
                    )
                self._add_state(session, incident_id, state, now.on_hold, by=by, reason=reason)
                stamp = f"{state}_at"
                if state in ("resolved", "closed") and stamp not in now.timestamps:
                    self._add_timestamp(session, incident_id, stamp, self.clock.now(), by)
        return self.incident(incident_id)

    def put_on_hold(
        self, incident_id: str, hold: Hold, by: str, reason: str, *, token: int | None = None
    ) -> Incident:
        """Set (`awaiting_vendor`) or lift (empty) the incident's hold; its state stays."""
        with self._write("hold", incident_id, token) as session:
            now = self._incident(session, incident_id)
            if now.on_hold != hold:
                self._add_state(session, incident_id, now.state, hold, by=by, reason=reason)
        return self.incident(incident_id)

    def set_timestamp(
        self, incident_id: str, kind: str, at: datetime, by: str, *, token: int | None = None
    ) -> None:
        """Record (or correct) one of the incident's timestamps; the same time again changes nothing.

        Raises:
            ImpossibleOrder: it contradicts another timestamp, which the error names, or lies in the future.
        """
        if kind not in states.TIMESTAMPS:
            raise JournalError(
                f"There is no timestamp {kind!r}", fix=f"use one of: {', '.join(states.TIMESTAMPS)}"
            )
        with self._write("timestamp", incident_id, token) as session:
            if self._incident(session, incident_id).timestamps.get(kind) != at:
                self._add_timestamp(session, incident_id, kind, at, by)

    def timestamps(self, incident_id: str) -> dict[str, datetime]:
        """Return the timestamps that are known, by kind."""
        return self.incident(incident_id).timestamps

    def metrics(self, incident_id: str) -> list[Metric]:
        """Return every metric of the vocabulary with its anchors and status."""
        incident = self.incident(incident_id)
        return states.measure(incident.state, incident.timestamps)

    def note(
        self,
        incident_id: str,
        kind: str,
        text: str,
        data: Mapping[str, Any] | None = None,
        at: datetime | None = None,
        *,
        token: int | None = None,
    ) -> None:
        """Add `text` to the timeline, as of `at` (now if left out), with its evidence in `data`."""
        with self._write("note", incident_id, token) as session:
            self._incident(session, incident_id)
            self._add_note(session, incident_id, kind, text, dict(data or {}), at=at)

    def name_cause(self, incident_id: str, cause_class: str, by: str) -> Incident:
        """Record the class of the cause as `by` has found it; the last one named counts, and the same changes nothing.

        Only a person names it. What the evidence speaks for is a note of kind `cause_suggested` and no more.
        """
        with self._write("cause", incident_id) as session:
            if self._incident(session, incident_id).cause_class != cause_class:
                self._add_cause(session, incident_id, cause_class, by)
        return self.incident(incident_id)

    def timeline(self, incident_id: str) -> list[TimelineEntry]:
        """Return every fact of the incident in words, in the order in which it happened."""
        with self._database.reading() as session:
            self._incident(session, incident_id)
            return tell(self._facts(session, Fact, incident_id))

    # Approvals

    def request_approval(
        self, incident_id: str, *, subject: str, actions: list[dict[str, Any]], expires_at: datetime
    ) -> Approval:
        """Ask for approval of `actions`; the same question that still awaits its answer is returned, not repeated."""
        with self._write("approval", incident_id) as session:
            self._incident(session, incident_id)
            for known in self._approvals(session, incident_id):
                if known.status == "awaiting" and known.subject == subject and known.actions == actions:
                    return known
            asked = ApprovalRequest(
                incident_id=incident_id, subject=subject, actions=actions, expires_at=expires_at
            )
            self._add(session, asked)
            number = asked.seq
        return self.approval(number)

    def answer_approval(
        self,
        approval_id: int,
        decision: Literal["approved", "rejected"],
        name: str,
        vouched: bool,
        via: Literal["ui", "cli", "policy"],
    ) -> Approval:
        """Answer an approval; the first answer counts, and giving the same one again changes nothing.

        Raises:
            ApprovalClosed: it was answered otherwise, or its time is over.
        """
        with self._write("answer") as session:
            known = self._approval(session, approval_id)
            if known.status == decision and known.name == name:
                return known
            if known.status != "awaiting":
                raise ApprovalClosed(
                    f"Approval {approval_id} is {known.status}"
                    + (f" by {known.name} (via {known.via})" if known.name else ""),
                    where=known.incident_id,
                    fix="run the response again to ask anew",
                )
            self._add(
                session,
                ApprovalAnswer(
                    incident_id=known.incident_id,
                    approval_id=approval_id,
                    decision=decision,
                    name=name,
                    vouched=vouched,
                    via=via,
                ),
            )
        return self.approval(approval_id)

    def expire_approvals(self) -> list[Approval]:
        """Write down which awaiting approvals ran out of time, and return those."""
        with self._write("expire") as session:
            over = [
                known
                for known in self._approvals(session)
                if known.status == "expired" and known.answered_at is None
            ]
            for one in over:
                self._add(
                    session,
                    ApprovalAnswer(
                        incident_id=one.incident_id,
                        approval_id=one.id,
                        decision="expired",
                        name="",
                        vouched=False,
                        via="clock",
                    ),
                )
        return [self.approval(one.id) for one in over]

    def approval(self, approval_id: int) -> Approval:
        """Return the approval `approval_id`; one whose time is over reads as expired."""
        with self._database.reading() as session:
            return self._approval(session, approval_id)

    def approvals(self, incident_id: str | None = None) -> list[Approval]:
        """Return the approvals of the incident (of all incidents), oldest first."""
        with self._database.reading() as session:
            return self._approvals(session, incident_id)

    # Actions

    def intend(
        self,
        incident_id: str,
        key: str,
        *,
        kind: str,
        target: str,
        payload: Mapping[str, Any],
        previous_state: Mapping[str, Any],
        undo: Mapping[str, Any],
        token: int | None = None,
    ) -> Action:
        """Write down an action before it is asked for; a known key returns the action as it stands.

        The caller goes by what is returned: `is_new` (call now), status `done` (nothing to do), `unknown` (read
        back, then `resolve_unknown`), `failed` or `not_done` (may be tried again). `intended` without `is_new` means
        that a run was killed or lost its lease between intent and outcome: record it as unknown and read back.

        Raises:
            ActionConflict: the key names another kind, target or payload.
            StaleToken: `token` is no longer the incident's lease.
        """
        scoped = f"{incident_id}/{key}"
        with self._write("intend", incident_id, token) as session:
            self._incident(session, incident_id)
            known = session.scalar(sa.select(Intent).where(Intent.scoped_key == scoped))
            if known is not None:
                action = self._action(session, known)
                if (action.kind, action.target, action.payload) != (kind, target, dict(payload)):
                    raise ActionConflict(
                        f"The action {key!r} is already {action.kind} of {action.target}",
                        where=incident_id,
                        fix="give the new action a key of its own",
                    )
                return action
            intent = Intent(
                incident_id=incident_id,
                scoped_key=scoped,
                key=key,
                action_kind=kind,
                target=target,
                payload=dict(payload),
                previous_state=dict(previous_state),
                undo=dict(undo),
            )
            self._add(session, intent)
            return dataclasses.replace(self._action(session, intent), is_new=True)

    def complete(
        self, action_id: int, result: Mapping[str, Any] | None = None, *, token: int | None = None
    ) -> Action:
        """Record that the action was done; recording it again changes nothing."""
        return self._outcome("complete", action_id, "done", token, result=dict(result or {}))

    def fail(self, action_id: int, error: str, *, token: int | None = None) -> Action:
        """Record that the action was refused and nothing happened; it may be tried again."""
        return self._outcome("fail", action_id, "failed", token, error=error)

    def unknown(self, action_id: int, error: str, *, token: int | None = None) -> Action:
        """Record that the action was asked for and the answer is missing."""
        return self._outcome("unknown", action_id, "unknown", token, error=error)

    def resolve_unknown(
        self,
        action_id: int,
        finding: Literal["done", "not_done"],
        evidence: Mapping[str, Any],
        *,
        token: int | None = None,
    ) -> Action:
        """Settle an unknown outcome by what was read back.

        Raises:
            ActionConflict: the action is not unknown, or there is no evidence.
        """
        with self._write("resolve", None, None) as session:
            action = self._action_by_id(session, action_id)
            self._check_token(session, action.incident_id, token)
            if action.status == finding and action.evidence == dict(evidence):
                return action
            if action.status != "unknown":
                raise ActionConflict(
                    f"The action {action.key!r} is {action.status}, not unknown", where=action.incident_id
                )
            if not evidence:
                raise ActionConflict(
                    f"The action {action.key!r} is not settled without evidence", where=action.incident_id
                )
            self._add_outcome(session, action, finding, evidence=dict(evidence))
        return self.action(action_id)

    def action(self, action_id: int) -> Action:
        """Return the action `action_id`."""
        with self._database.reading() as session:
            return self._action_by_id(session, action_id)

    def actions(self, incident_id: str) -> list[Action]:
        """Return the incident's actions in the order of their intents."""
        with self._database.reading() as session:
            last = {one.action_id: one for one in self._facts(session, Outcome, incident_id)}
            return [_action(one, last.get(one.seq)) for one in self._facts(session, Intent, incident_id)]

    # Communications

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
        token: int | None = None,
    ) -> Communication:
        """Write down a message before it is sent; the same `message_id` returns it as it stands.

        Args:
            incident_id: the incident it is about.
            stakeholder: who is told, by the plan's name.
            channel: the plan's name of the channel.
            report: `tactical`, `executive`, `audience` or `vendor`.
            subject: its subject line.
            body_digest: SHA-256 of the body.
            promised_next_at: when it promises the next one; None if it is the last.
            message_id: names the message for ever; derived from the other arguments if left out.
            token: the lease of the run that sends.
        """
        message_id = message_id or digest_of(
            [incident_id, stakeholder, channel, report, subject, body_digest]
        )
        with self._write("say", incident_id, token) as session:
            self._incident(session, incident_id)
            known = session.scalar(sa.select(Saying).where(Saying.message_id == message_id))
            if known is not None:
                return self._communication(session, known)
            saying = Saying(
                incident_id=incident_id,
                message_id=message_id,
                stakeholder=stakeholder,
                channel=channel,
                report=report,
                subject=subject,
                body_digest=body_digest,
                promised_next_at=promised_next_at,
            )
            self._add(session, saying)
            return self._communication(session, saying)

    def sent(self, communication_id: int) -> Communication:
        """Record that the channel took the message; recording it again changes nothing."""
        return self._delivered(communication_id, "sent", "")

    def not_sent(
        self, communication_id: int, error: str, *, status: Literal["failed", "unknown"] = "failed"
    ) -> Communication:
        """Record that the channel refused the message, or (`unknown`) did not say whether it took it."""
        return self._delivered(communication_id, status, error)

    def severity(self, incident_id: str) -> int | None:
        """Return the severity that was recorded last (1 is worst); None if none was."""
        levels = [one.data.get("level") for one in self.timeline(incident_id) if one.kind == "severity"]
        return int(levels[-1]) if levels and levels[-1] else None

    def communications(self, incident_id: str) -> list[Communication]:
        """Return the incident's messages in the order of their intents."""
        with self._database.reading() as session:
            return [self._communication(session, one) for one in self._facts(session, Saying, incident_id)]

    # Leases

    def lease(self, incident_id: str, holder: str, ttl: timedelta) -> Lease:
        """Take the right to act on the incident for `ttl`.

        A lease whose time is over, or whose process of this machine is dead, is taken over; from then on its token
        is refused.

        Raises:
            LeaseHeld: somebody else holds it; the error says who and until when.
        """
        with self._write("lease", incident_id) as session:
            self._incident(session, incident_id)
            now = self.clock.now()
            last = self._last_lease(session, incident_id)
            held = last is not None and last.change != "released" and last.expires_at > now
            if last is not None and held and not is_dead(last.process):
                raise LeaseHeld(incident_id, holder=last.holder, until=last.expires_at)
            grant = LeaseChange(
                incident_id=incident_id,
                change="granted",
                token=None,
                holder=holder,
                process=this_process(),
                expires_at=now + ttl,
            )
            self._add(session, grant)
            return Lease(incident_id, holder, grant.seq, grant.expires_at)

    def renew(self, lease: Lease, ttl: timedelta) -> Lease:
        """Extend `lease` to `ttl` from now.

        Raises:
            StaleToken: it was released or taken over.
        """
        return self._change_lease(lease, "renewed", self.clock.now() + ttl)

    def release(self, lease: Lease) -> None:
        """Give `lease` back; giving back one that was lost changes nothing."""
        with contextlib.suppress(StaleToken):
            self._change_lease(lease, "released", self.clock.now())

    @contextlib.contextmanager
    def leased(self, incident_id: str, holder: str, ttl: timedelta) -> Iterator[Lease]:
        """Hold the incident's lease while the block runs."""
        lease = self.lease(incident_id, holder, ttl)
        try:
            yield lease
        finally:
            self.release(lease)

    # Values

    def put_state(self, key: str, value: Mapping[str, Any], *, incident_id: str | None = None) -> None:
        """Set the value of `key` (JSON); earlier values stay in the journal."""
        with self._write("state") as session:
            self._add(session, Value(incident_id=incident_id, key=key, value=dict(value)))

    def claim_state(
        self, key: str, value: Mapping[str, Any], *, over: Collection[str], incident_id: str | None = None
    ) -> bool:
        """Set the value of `key` if it was never set, or if its `status` is one of `over`; return whether it was set.

        Of two processes that claim at once, one gets it.
        """
        with self._write("state") as session:
            newest = sa.select(Value.value).where(Value.key == key).order_by(Value.seq.desc()).limit(1)
            known = session.scalar(newest)
            if known is not None and known.get("status") not in over:
                return False
            self._add(session, Value(incident_id=incident_id, key=key, value=dict(value)))
            return True

    def get_state(self, key: str) -> dict[str, Any] | None:
        """Return the latest value of `key`, or None if it was never set."""
        with self._database.reading() as session:
            newest = sa.select(Value.value).where(Value.key == key).order_by(Value.seq.desc()).limit(1)
            return session.scalar(newest)

    # Action items

    def action_item(
        self,
        incident_id: str,
        *,
        title: str,
        type: ItemType,
        owner: str,
        due_at: datetime,
        proof: str,
        priority: str = "P1",
    ) -> ActionItem:
        """Add work that the incident leaves behind; an outstanding one of the same title is returned instead.

        Args:
            incident_id: the incident it follows from.
            title: what to do: actionable, specific, bounded.
            type: `prevent`, `mitigate`, `detect`, `repair` or `investigate`.
            owner: the desk that does it.
            due_at: by when.
            proof: the end state that shows it is done.
            priority: `P0` (most urgent) to `P2`.
        """
        with self._write("item", incident_id) as session:
            self._incident(session, incident_id)
            for known in self._items(session, incident_id):
                if known.title == title and known.status == "outstanding":
                    return known
            item = Item(
                incident_id=incident_id,
                title=title,
                item_type=type,
                priority=priority,
                owner=owner,
                due_at=due_at,
                proof=proof,
            )
            self._add(session, item)
            return self._item(session, item)

    def complete_item(self, item_id: int, *, evidence: str, by: str) -> ActionItem:
        """Close an action item by the evidence of its proof.

        Raises:
            JournalError: there is no evidence.
        """
        if not evidence.strip():
            raise JournalError(f"Action item {item_id} closes only on evidence", fix="say where the proof is")
        return self._update_item(item_id, "completed", evidence, by)

    def drop_item(self, item_id: int, *, reason: str, by: str) -> ActionItem:
        """Decide not to do an action item, with the reason.

        Raises:
            JournalError: there is no reason.
        """
        if not reason.strip():
            raise JournalError(f"Action item {item_id} is given up only with a reason", fix="say why")
        return self._update_item(item_id, "not_doing", reason, by)

    def action_items(self, incident_id: str | None = None) -> list[ActionItem]:
        """Return the action items of the incident (of all incidents), oldest first."""
        with self._database.reading() as session:
            return self._items(session, incident_id)

    # Writing

    @contextlib.contextmanager
    def _write(
        self, what: str, incident_id: str | None = None, token: int | None = None
    ) -> Iterator[Session]:
        crash_point(f"journal.{what}:before")
        with self._database.writing() as session:
            if incident_id is not None:
                self._check_token(session, incident_id, token)
            yield session
        crash_point(f"journal.{what}:after")

    def _add(self, session: Session, fact: Fact) -> None:
        fact.recorded_at = self.clock.now()
        session.add(fact)
        session.flush()
        session.flush()

    def _declare_new(self, session: Session, **about: Any) -> str:
        number = (session.scalar(sa.select(sa.func.max(Declaration.number))) or 0) + 1
        incident_id = f"INC-{number:04d}"
        self._add(session, Declaration(incident_id=incident_id, number=number, **about))
        return incident_id

    def _add_state(
        self, session: Session, incident_id: str, state: State, on_hold: Hold, *, by: str, reason: str
    ) -> None:
        self._add(
            session,
            StateChange(
                incident_id=incident_id,
                state=state,
                on_hold=on_hold,
                by_name=by,
                reason=reason,
                at=self.clock.now(),
            ),
        )

    def _add_timestamp(self, session: Session, incident_id: str, name: str, at: datetime, by: str) -> None:
        known = self._timestamps(session, incident_id)
        states.check_order(incident_id, known, name, at, self.clock.now())
        self._add(session, Timestamp(incident_id=incident_id, name=name, at=at, by_name=by))

    def _add_cause(self, session: Session, incident_id: str, cause_class: str, by: str) -> None:
        data = {"cause_class": cause_class, "by": by}
        self._add_note(session, incident_id, "cause", f"{cause_class}, says {by}", data)

    def _add_note(
        self,
        session: Session,
        incident_id: str,
        kind: str,
        text: str,
        data: dict[str, Any],
        *,
        at: datetime | None = None,
    ) -> None:
        moment = at or self.clock.now()
        self._add(session, Note(incident_id=incident_id, note_kind=kind, text=text, data=data, at=moment))

    def _outcome(
        self,
        what: str,
        action_id: int,
        status: ActionStatus,
        token: int | None,
        *,
        result: dict[str, Any] | None = None,
        error: str = "",
    ) -> Action:
        with self._write(what) as session:
            action = self._action_by_id(session, action_id)
            self._check_token(session, action.incident_id, token)
            if action.status == status and status in ("done", "unknown"):
                return action
            if status not in _FOLLOWS[action.status]:
                raise ActionConflict(
                    f"The action {action.key!r} is {action.status} and cannot become {status}",
                    where=action.incident_id,
                    fix="settle it by evidence" if action.status == "unknown" else None,
                )
            self._add_outcome(session, action, status, result=result, error=error)
        return self.action(action_id)

    def _add_outcome(
        self,
        session: Session,
        action: Action,
        status: ActionStatus,
        *,
        result: dict[str, Any] | None = None,
        error: str = "",
        evidence: dict[str, Any] | None = None,
    ) -> None:
        self._add(
            session,
            Outcome(
                incident_id=action.incident_id,
                action_id=action.id,
                status=status,
                result=result or {},
                error=error,
                evidence=evidence or {},
            ),
        )

    def _delivered(self, communication_id: int, status: DeliveryStatus, error: str) -> Communication:
        with self._write("sent" if status == "sent" else "not_sent") as session:
            saying = session.get(Saying, communication_id)
            if saying is None:
                raise UnknownIncident(f"The journal has no message {communication_id}")
            known = self._communication(session, saying)
            if known.status != "sent" and (known.status, known.error) != (status, error):
                self._add(
                    session,
                    Delivery(
                        incident_id=known.incident_id,
                        communication_id=communication_id,
                        status=status,
                        error=error,
                    ),
                )
            return self._communication(session, saying)

    def _change_lease(self, lease: Lease, change: str, expires_at: datetime) -> Lease:
        with self._write("lease", lease.incident_id, lease.token) as session:
            self._add(
                session,
                LeaseChange(
                    incident_id=lease.incident_id,
                    change=change,
                    token=lease.token,
                    holder=lease.holder,
                    process=this_process(),
                    expires_at=expires_at,
                ),
            )
        return Lease(lease.incident_id, lease.holder, lease.token, expires_at)

    def _update_item(self, item_id: int, status: ItemStatus, evidence: str, by: str) -> ActionItem:
        with self._write("item") as session:
            item = session.get(Item, item_id)
            if item is None:
                raise UnknownIncident(
                    f"The journal has no action item {item_id}", fix="`mailstay actions list` shows them"
                )
            if self._item(session, item).status != status:
                self._add(
                    session,
                    ItemUpdate(
                        incident_id=item.incident_id,
                        item_id=item_id,
                        status=status,
                        evidence=evidence,
                        by_name=by,
                    ),
                )
            return self._item(session, item)

    # Reading

    def _facts(self, session: Session, kind: Any, incident_id: str) -> list[Any]:
        query = sa.select(kind).where(kind.incident_id == incident_id).order_by(kind.seq)
        if kind is Fact:
            query = query.options(sa.orm.selectin_polymorphic(Fact, Fact.__subclasses__()))
        return list(session.scalars(query))

    def _incident(self, session: Session, incident_id: str) -> Incident:
        declared = session.scalar(sa.select(Declaration).where(Declaration.incident_id == incident_id))
        if declared is None:
            raise UnknownIncident(
                f"The journal has no incident {incident_id}", fix="`mailstay incidents list` shows them"
            )
        latest = session.scalars(
            sa.select(StateChange)
            .where(StateChange.incident_id == incident_id)
            .order_by(StateChange.seq.desc())
            .limit(1)
        ).one()
        named = session.scalars(
            sa.select(Note)
            .where(Note.incident_id == incident_id, Note.note_kind == "cause")
            .order_by(Note.seq.desc())
            .limit(1)
        ).first()
        return Incident(
            id=incident_id,
            provider=declared.provider,
            cause_class=str(named.data["cause_class"]) if named else declared.cause_class,
            summary=declared.summary,
            state=cast(State, latest.state),
            on_hold=cast(Hold, latest.on_hold),
            declared_by=declared.declared_by,
            vouched=declared.vouched,
            timestamps=self._timestamps(session, incident_id),
        )

    def _timestamps(self, session: Session, incident_id: str) -> dict[str, datetime]:
        latest = {fact.name: fact.at for fact in self._facts(session, Timestamp, incident_id)}
        return {name: latest[name] for name in states.TIMESTAMPS if latest.get(name) is not None}

    def _open_of(self, session: Session, provider: str) -> Incident | None:
        newest_first = (
            sa.select(Declaration.incident_id)
            .where(Declaration.provider == provider)
            .order_by(Declaration.number.desc())
        )
        for incident_id in session.scalars(newest_first):
            incident = self._incident(session, str(incident_id))
            if incident.is_open:
                return incident
        return None

    def _told_already(self, session: Session, incident: Incident, summary: str, by: str) -> bool:
        if (incident.summary, incident.declared_by) == (summary, by):
            return True
        notes = self._facts(session, Note, incident.id)
        return any(
            note.note_kind == "joined" and note.text == summary and note.data.get("by") == by
            for note in notes
        )

    def _approval(self, session: Session, approval_id: int) -> Approval:
        asked = session.get(ApprovalRequest, approval_id)
        if asked is None:
            raise UnknownIncident(f"The journal has no approval {approval_id}")
        answer = session.scalar(sa.select(ApprovalAnswer).where(ApprovalAnswer.approval_id == approval_id))
        status: ApprovalStatus = "awaiting"
        if answer is not None:
            status = cast(ApprovalStatus, answer.decision)
        elif asked.expires_at <= self.clock.now():
            status = "expired"
        return Approval(
            id=asked.seq,
            incident_id=str(asked.incident_id),
            subject=asked.subject,
            actions=asked.actions,
            requested_at=asked.recorded_at,
            expires_at=asked.expires_at,
            status=status,
            name=answer.name if answer else "",
            vouched=answer.vouched if answer else False,
            via=answer.via if answer else "",
            answered_at=answer.recorded_at if answer else None,
        )

    def _approvals(self, session: Session, incident_id: str | None = None) -> list[Approval]:
        query = sa.select(ApprovalRequest.seq).order_by(ApprovalRequest.seq)
        if incident_id is not None:
            query = query.where(ApprovalRequest.incident_id == incident_id)
        return [self._approval(session, one) for one in session.scalars(query).all()]

    def _action_by_id(self, session: Session, action_id: int) -> Action:
        intent = session.get(Intent, action_id)
        if intent is None:
            raise UnknownIncident(f"The journal has no action {action_id}")
        return self._action(session, intent)

    def _action(self, session: Session, intent: Intent) -> Action:
        last = sa.select(Outcome).where(Outcome.action_id == intent.seq).order_by(Outcome.seq.desc()).limit(1)
        return _action(intent, session.scalar(last))

    def _communication(self, session: Session, saying: Saying) -> Communication:
        delivery = session.scalar(
            sa.select(Delivery)
            .where(Delivery.communication_id == saying.seq)
            .order_by(Delivery.seq.desc())
            .limit(1)
        )
        return Communication(
            id=saying.seq,
            incident_id=str(saying.incident_id),
            message_id=saying.message_id,
            stakeholder=saying.stakeholder,
            channel=saying.channel,
            report=saying.report,
            subject=saying.subject,
            body_digest=saying.body_digest,
            promised_next_at=saying.promised_next_at,
            intended_at=saying.recorded_at,
            status=cast(DeliveryStatus, delivery.status) if delivery else "intended",
            sent_at=delivery.recorded_at if delivery and delivery.status == "sent" else None,
            error=delivery.error if delivery else "",
        )

    def _last_lease(self, session: Session, incident_id: str) -> LeaseChange | None:
        return session.scalar(
            sa.select(LeaseChange)
            .where(LeaseChange.incident_id == incident_id)
            .order_by(LeaseChange.seq.desc())
            .limit(1)
        )

    def _check_token(self, session: Session, incident_id: str, token: int | None) -> None:
        if token is None:
            return
        last = self._last_lease(session, incident_id)
        if last is None or last.change == "released" or token != (last.token or last.seq):
            holder = f": {last.holder} holds it" if last is not None and last.change != "released" else ""
            raise StaleToken(
                f"Lease {token} of {incident_id} is no longer valid{holder}",
                fix="run again to take a new one",
            )

    def _items(self, session: Session, incident_id: str | None) -> list[ActionItem]:
        query = sa.select(Item).order_by(Item.seq)
        if incident_id is not None:
            query = query.where(Item.incident_id == incident_id)
        return [self._item(session, one) for one in session.scalars(query).all()]

    def _item(self, session: Session, item: Item) -> ActionItem:
        update = session.scalar(
            sa.select(ItemUpdate)
            .where(ItemUpdate.item_id == item.seq)
            .order_by(ItemUpdate.seq.desc())
            .limit(1)
        )
        return ActionItem(
            id=item.seq,
            incident_id=str(item.incident_id),
            title=item.title,
            type=cast(ItemType, item.item_type),
            priority=item.priority,
            owner=item.owner,
            due_at=item.due_at,
            proof=item.proof,
            status=cast(ItemStatus, update.status) if update else "outstanding",
            evidence=update.evidence if update else "",
        )


def _action(intent: Intent, outcome: Outcome | None) -> Action:
    return Action(
        id=intent.seq,
        incident_id=str(intent.incident_id),
        key=intent.key,
        kind=intent.action_kind,
        target=intent.target,
        payload=intent.payload,
        previous_state=intent.previous_state,
        undo=intent.undo,
        status=cast(ActionStatus, outcome.status) if outcome else "intended",
        intended_at=intent.recorded_at,
        decided_at=outcome.recorded_at if outcome else None,
        result=outcome.result if outcome else {},
        error=outcome.error if outcome else "",
        evidence=outcome.evidence if outcome else {},
    )
