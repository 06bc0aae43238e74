"""Asking every witness of one incident: who opted out, who was mailed. Gate and ledger come from here."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy.exc import SQLAlchemyError

from tasks.catchup.consent import ConsentFeed, Gate, consent_gate, latest_wish
from tasks.catchup.desk import OVER, Desk, HeldCampaign, Stopped, iso, parse
from tasks.catchup.journaled import Evidence
from tasks.catchup.ledger import (
    EVIDENCE,
    Ledger,
    Outcome,
    build_ledger,
    events_table,
    evidence_of_events,
    evidence_of_log,
    evidence_table,
    log_has_holes,
    log_lines,
    people_table,
    read_frozen,
    write_frozen,
)
from tasks.catchup.mailbox import OTHER, mailbox_providers
from tasks.catchup.ramp import DAY, StepResult, share
from tasks.catchup.shopfeed import read_consent_feed, read_receipts
from tasks.catchup.steplist import Step, steps_of
from tasks.catchup.traffic import TRAFFIC, traffic_table
from tasks.core import crash_point, digest_of, plural
from tasks.providers import ANONYMOUS, Campaign, NotOffered, Suppression

TRAILING = timedelta(days=30)
"""How long mailbox providers remember what volume is usual; the busiest day of it is the trailing daily volume."""

_DAILY = """
SELECT lane, max(messages) AS daily FROM (
    SELECT coalesce(lane, 'other') AS lane, epoch_us(attempted_at) // 86400000000 AS day, count(*) AS messages
    FROM canonical.messages LEFT JOIN lanes USING (subscriber_id)
    WHERE outcome IN ('accepted', 'bounced', 'unknown') AND epoch_us(attempted_at) BETWEEN ? AND ?
    GROUP BY ALL
) GROUP BY lane
"""
_GOT = """
SELECT m.campaign_id, m.subscriber_id, make_timestamptz(epoch_us(m.attempted_at)) AS "at"
FROM canonical.messages m LEFT JOIN canonical.campaigns c USING (campaign_id)
WHERE m.outcome IN ('accepted', 'bounced', 'unknown') AND epoch_us(m.attempted_at) > ?
    AND coalesce(c.kind, 'other') NOT IN (SELECT unnest(?::VARCHAR[]))
"""


class Witnesses:
    """Everybody who knows something about the people of one incident."""

    def __init__(self, desk: Desk) -> None:
        self.desk = desk
        self._gate: Gate | None = None
        self._known: pa.Table | None = None
        self._due: dict[tuple[int, ...], pa.Array] = {}
        self._logs: dict[int, pa.Table] = {}
        self._events: dict[int, pa.Table] = {}
        self._snapshot_at: datetime | None = None
        self._snapshot: dict[tuple[str, tuple[Any, ...]], pa.Table] = {}

    # Consent ----------------------------------------------------------------------------------------------------

    def gate(self) -> Gate:
        """Return the consent gate, asking every witness the first time."""
        if self._gate is None:
            self._gate = self.pass_gate()
        return self._gate

    def pass_gate(self) -> Gate:
        """Ask every witness of consent, give the provider the opt-outs it lacks, and return the gate.

        Raises:
            Stopped: the gate is red.
        """
        desk = self.desk
        restored, began = desk.recall("restored") or {}, desk.clock.now()
        feed = self.feed()
        gate = consent_gate(
            feed=feed,
            provider=desk.provider.suppressions(),
            snapshot=self._snapshot_suppressions(),
            erased=self._erased(),
            now=desk.clock.now(),
            needed_as_of=parse(restored.get("measured_at")) or began,
            impact_started_at=desk.incident.timestamps.get("impact_started_at"),
            snapshot_at=self._snapshot_at,
        )
        if not gate.open:
            raise Stopped(
                f"The consent gate is red: {'; '.join([*gate.closed_because, *map(str, gate.blind)])}",
                where=desk.incident.id,
                fix="make the shop's consent requests readable, then run recover again; nothing was resumed",
            )
        self._know_each(gate.to_push)
        self._push(gate.to_push, gate.vanished)
        desk.keep(
            "consent",
            {
                "at": iso(desk.clock.now()),
                "opted_out_since": gate.opted_out_since,
                "counts": gate.counts,
                "blind": [str(one) for one in gate.blind],
            },
        )
        crash_point("recover.consent:open")
        self._gate = gate
        return gate

    def _know_each(self, opted_out: Iterable[int]) -> None:
        """Make sure that whoever opted out at the shop is not among the provider's people without their number.

        Raises:
            Stopped: nobody can tell who some of them are.
        """
        strangers = self.gone(opted_out)
        anonymous = pc.sum(pc.greater_equal(self.everybody()["subscriber_id"], ANONYMOUS)).as_py() or 0
        if len(strangers) and anonymous:
            raise Stopped(
                f"{plural(len(strangers), 'person')} opted out at the shop whom {self.desk.incident.provider} does not"
                f" know by customer number, and {plural(anonymous, 'contact')} there have none",
                where=self.desk.incident.id,
                fix="give every contact its customer number (SendGrid, Klaviyo: external_id; Brevo, Mailchimp: EXT_ID),"
                " then run recover again; nothing was resumed",
            )

    def _erased(self) -> set[int]:
        """Return the provider's subscribers whom the store's ledger has as erased.

        Raises:
            Stopped: somebody was erased, and nobody can tell who without the ledger or its key.
        """
        from tasks.snapshots import NoStore, SnapshotError, open_store, read_ledger

        plan, settings = self.desk.plan, self.desk.plan.plan.store
        key = os.environ.get(settings.signing_key_env, "")
        try:
            ledger = read_ledger(
                open_store(plan.store_url(), signing_key=key, public_key=settings.public_key)
            )
            people = self.desk.provider.addresses() if ledger.entries else {}
            return {who for who, address in people.items() if ledger.is_suppressed(address)}
        except NoStore:
            return set()
        except SnapshotError as error:
            raise Stopped(
                f"The ledger of erased persons cannot be asked: {error.what}",
                where=self.desk.incident.id,
                fix=f"make the store readable and set {settings.signing_key_env}, then run recover again",
            ) from None

    def feed(self) -> ConsentFeed:
        """Read the shop's consent requests; a feed that cannot be read says so."""
        shop = self.desk.settings.shop
        if shop is None:
            return ConsentFeed(None, error="the plan names no shop for this provider")
        return read_consent_feed(self.desk.plan.source_url(shop), self.desk.clock)

    def opted_out(self) -> set[int]:
        """Return whose last wish, as the shop knows it now, is not to be mailed.

        Raises:
            Stopped: the feed cannot be read any more.
        """
        feed = self.feed()
        if feed.error:
            raise Stopped(
                f"The consent feed cannot be read any more: {feed.error}",
                where=self.desk.incident.id,
                fix="make it readable, then run recover again",
            )
        return {who for who, wish in latest_wish(feed.requests).items() if wish.kind == "unsubscribe"}

    def pass_on_new_opt_outs(self) -> None:
        """Tell the provider who opted out since the gate was passed: it looks before it fetches a batch."""
        if self.opted_out() - self.gate().to_push:
            self._gate = self.pass_gate()

    def opt_out_of(self, people: set[int], list_ids: Iterable[int]) -> None:
        """Tell the provider of people who want no more mail: on these lists, or everywhere where no list keeps that."""
        if not people:
            return
        if self.desk.provider.capabilities.list_opt_outs:
            self.desk.provider.set_unsubscribed(people, list_ids)
        else:
            self.desk.provider.blocklist(people)

    def _push(self, opted_out: Iterable[int], vanished: Iterable[tuple[int, int | None]]) -> None:
        """Unsubscribe at the provider whoever opted out and is still mailable there, and read it back."""
        self._push_missing(set(opted_out), set(vanished))
        # What an earlier run pushed and did not live to write down is among what is in place now.
        earlier = self.desk.actions("consent", "recover:consent:")
        self.desk.settle(earlier, "done", {"read_back": "nobody who opted out is mailable"})

    def _push_missing(self, opted_out: set[int], vanished: set[tuple[int, int | None]]) -> None:
        everywhere = opted_out | {who for who, on in vanished if on is None}
        if not everywhere and not vanished:
            return

        def lacking() -> dict[int, set[int]]:
            found: dict[int, set[int]] = {}
            for one in self.desk.provider.memberships():
                pair = (one.subscriber_id, one.list_id)
                if one.mailable and (one.subscriber_id in everywhere or pair in vanished):
                    found.setdefault(one.list_id, set()).add(one.subscriber_id)
            return found

        todo = lacking()
        if not todo:
            return
        asked = sorted((who, on) for on, people in todo.items() for who in people)

        def push() -> None:
            for on, people in sorted(todo.items()):
                self.opt_out_of(people & everywhere, [on])
                self.desk.provider.set_unsubscribed(people - everywhere, [on])
                crash_point("recover.consent:pushed")

        def in_place() -> Evidence | None:
            still = {(who, on) for on, people in lacking().items() for who in people}
            return None if still & set(asked) else {"pushed": len(asked), "at": iso(self.desk.clock.now())}

        digest = digest_of(asked)
        self.desk.make(
            f"recover:consent:{digest[:16]}",
            "consent",
            "subscribers",
            call=push,
            read_back=in_place,
            payload={"memberships": len(asked), "digest": digest},
            previous={"status": "confirmed"},
            undo={},
        )

    # Messages ---------------------------------------------------------------------------------------------------

    def stock(self, held: HeldCampaign) -> Ledger:
        """Return the ledger of `held` now, its catch-up campaigns and every witness united, and freeze it."""
        desk = self.desk
        members = [desk.provider.campaign(held.id), *desk.family(held.id)]
        ids = [one.id for one in members]
        logs = [desk.send_log(number) for number in ids]
        log = pa.concat_tables([log_lines(()), *(one for one in logs if one is not None)])
        others = pa.concat_tables(
            [
                *(evidence_of_events(self.events_of(number)) for number in ids),
                self._receipts(ids),
                self._snapshot_messages(held.id),
            ]
        )
        audience = self.audience(held)
        kept, doubt = None not in logs, "the sender lost part of its log"
        if kept:
            counters = {one.id: one.sent for one in members}
            # In a snapshot a catch-up counts as its original: compare people, not campaigns, where it is the witness.
            trusted = not log_has_holes(log, _as_seen(others, log), sent_by_counter=counters)
        else:
            counted, trusted = self._by_counters(held, members)
            others, doubt = pa.concat_tables([others, counted]), "the provider keeps no log of whom it mailed"
        closed = desk.recall(f"closed/{held.id}")
        path = desk.folder / f"ledger-{held.id}.parquet"
        ledger = build_ledger(
            held.id,
            into=path,
            audience=audience,
            evidence=[evidence_of_log(log), others],
            suppressed=self.gate().blocked_for(held.list_ids),
            ended=(cast(Outcome, closed["outcome"]), str(closed["reason"])) if closed else None,
            still_to_come=self.committed(held.id) if closed else (),
            log_trusted=trusted,
            doubt=doubt,
            unreachable=self.gone(audience),
            capped=self.capped(held.id),
        )
        crash_point("recover.ledger:frozen")
        counts = ledger.counts()
        self.note_ledger(
            held.id,
            {
                "path": str(path),
                "digest": ledger.digest,
                "counts": counts,
                "capped": len(self.capped(held.id)),
                "audience": sum(counts.values()),
                "planned_at": iso(held.planned_at),
                "kind": held.kind,
                "name": held.name,
                "at": iso(desk.clock.now()),
            },
        )
        return ledger

    def gone(self, people: Iterable[int] | pa.Array) -> pa.Array:
        """Return those of `people` whom the provider did not know when this run looked: they were erased."""
        asked = people_table(people)["subscriber_id"]
        return asked.filter(pc.invert(pc.is_in(asked, value_set=self.everybody()["subscriber_id"])))

    def everybody(self) -> pa.Table:
        """Return the people whom the provider knew when this run looked, with their mailbox provider (`lane`).

        Somebody may have been erased since. Nothing of an address but that is kept.
        """
        if self._known is None:
            people = self.desk.provider.addresses()
            lanes = mailbox_providers(people.values(), self.desk.plan.plan.ramp.mailbox_providers)
            ids = pa.array(np.fromiter(people, np.int64, len(people)))
            self._known = pa.table({"subscriber_id": ids, "lane": lanes})
        return self._known

    def lanes_of(self, people: pa.Array) -> pa.Array:
        """Return the mailbox provider of each of `people`."""
        known = self.everybody()
        place = pc.index_in(people, value_set=known["subscriber_id"])
        return pc.fill_null(pc.take(known["lane"], place).cast(pa.string()), OTHER).combine_chunks()

    def by_lane(self, people: pa.Array) -> dict[str, int]:
        """Return how many of `people` each mailbox provider has."""
        return {
            str(one["values"]): int(one["counts"]) for one in self.lanes_of(people).value_counts().to_pylist()
        }

    def _by_counters(self, held: HeldCampaign, members: Iterable[Campaign]) -> tuple[pa.Table, bool]:
        """Return what counters prove where no log is kept, and whether the rest of the audience was not attempted.

        A campaign that never started mailed nobody. A step of ours that ended with everybody sent mailed its people;
        of one that did not, nobody knows whom it reached. Nor does anybody of an original that did start.
        """
        steps = {step.campaign_name: step for step in steps_of(self.desk, held.id)}
        found = [evidence_table(())]
        trusted = True
        for one in members:
            untouched = one.status == "scheduled" or (one.id == held.id and held.untouched)
            untouched = untouched or (
                one.status == "draft"
                and (one.id != held.id or self.desk.provider.capabilities.drafts_are_untouched)
            )
            if untouched and one.started_at is None and not one.sent:
                continue
            step = steps.get(one.name)
            if step is None:
                trusted = False
                continue
            whole = one.status == "finished" and one.sent >= one.to_send
            people = read_people(self.desk, step.file, step.digest)
            people = without(people, self.gate().blocked_for(held.list_ids))
            same = {
                "campaign_id": one.id,
                "outcome": "accepted" if whole else "unknown",
                "at": one.started_at or self.desk.clock.now(),
                "witness": "counter",
            }
            columns = {
                field.name: people
                if field.name == "subscriber_id"
                else pa.repeat(pa.scalar(same[field.name], field.type), len(people))
                for field in EVIDENCE
            }
            found.append(pa.table(columns, schema=EVIDENCE))
        return pa.concat_tables(found), trusted

    def committed(self, campaign_id: int) -> set[int]:
        """Return the people of steps that the provider is to start itself and has not ended yet."""
        return {
            who
            for step in self._scheduled(campaign_id)
            for who in read_people(self.desk, step.file, step.digest).to_pylist()
        }

    def _scheduled(self, campaign_id: int | None = None) -> Iterator[Step]:
        for step in steps_of(self.desk, campaign_id):
            if step.done and step.start_at is not None and "abandoned" not in step.action.result:
                status = self.desk.provider.campaign(int(step.action.result["campaign_id"])).status
                if status not in OVER:
                    yield step

    # What else people get ---------------------------------------------------------------------------------------

    def daily(self) -> dict[str, int] | None:
        """Return the trailing daily volume of each mailbox provider before the outage; None where nothing tells."""
        times = self.desk.incident.timestamps
        began = times.get("impact_started_at") or times.get("detected_at") or self.desk.clock.now()
        found = self._ask_snapshot(_DAILY, _micros(began - TRAILING), _micros(began))
        if found is None or not found.num_rows:
            return None
        return dict(zip(found["lane"].to_pylist(), found["daily"].to_pylist(), strict=True))

    def got(
        self, since: datetime, *, exempt: Collection[str] = (), due_until: datetime | None = None
    ) -> list[pa.Table | Path]:
        """Return the messages that people got after `since` or are due to get, for `traffic`.

        What the recovery sends and has scheduled, what other campaigns sent as far as the sender's log and the last
        good snapshot know.

        Args:
            since: what is older may be left out.
            exempt: kinds of campaign that do not count.
            due_until: also count whom the provider's own campaigns that run or are scheduled until then are for.
        """
        desk = self.desk
        ledgers = (desk.journal.get_state(f"ledger/{desk.incident.id}") or {"campaigns": {}})["campaigns"]
        found: list[pa.Table | Path] = [
            Path(one["path"]) for one in ledgers.values() if "path" in one and one["kind"] not in exempt
        ]
        found += [
            traffic_table(step.of, read_people(desk, step.file, step.digest), step.start_at)
            for step in self._scheduled()
            if step.start_at is not None and ledgers.get(str(step.of), {}).get("kind") not in exempt
        ]
        # From midnight on: asked once a day, not at every step.
        midnight = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
        kept = self._ask_snapshot(_GOT, _micros(midnight), tuple(sorted(exempt)))
        if kept is not None:
            found.append(kept.cast(TRAFFIC))
        ours = set(map(int, ledgers))
        for one in desk.provider.campaigns():
            if one.kind in exempt or one.catch_up_of in ours:
                continue
            begun = one.started_at is not None and one.started_at > since - DAY
            if one.id not in ours and (one.status == "running" or begun):
                found.append(self._log_of(one))
            when = desk.clock.now() if one.status == "running" else one.send_at
            planned = one.status in ("running", "scheduled") and one.catch_up_of is None
            if due_until is not None and planned and when is not None and when <= due_until:
                found.append(traffic_table(one.id, self._due_to(one.list_ids), when))
        return found

    def _log_of(self, one: Campaign) -> pa.Table:
        if one.id not in self._logs or one.status == "running":
            log = self.desk.send_log(one.id)
            lines = log_lines(()) if log is None else log
            lines = lines.filter(pc.is_valid(lines["outcome"]))
            same = pa.repeat(pa.scalar(one.catch_up_of or one.id), lines.num_rows)
            self._logs[one.id] = pa.table([same, lines["subscriber_id"], lines["at"]], schema=TRAFFIC)
        return self._logs[one.id]

    def _due_to(self, list_ids: tuple[int, ...]) -> pa.Array:
        if list_ids not in self._due:
            people = {one.subscriber_id for one in self.desk.provider.memberships(list_ids) if one.mailable}
            self._due[list_ids] = pa.array(people, pa.int64())
        return self._due[list_ids]

    def capped(self, campaign_id: int) -> pa.Array:
        """Return who does not get a campaign of ours because of the frequency cap."""
        known = self.desk.recall(f"capped/{campaign_id}")
        return read_people(self.desk, known["file"], known["digest"]) if known else pa.array([], pa.int64())

    def drop_capped(self, campaign_id: int, people: pa.Array) -> None:
        """Write down that `people` do not get a campaign because of the frequency cap."""
        everybody = pc.unique(pa.concat_arrays([self.capped(campaign_id), people]))
        # Its number of people names the file: one that the journal knows is never written over.
        path = self.desk.folder / f"capped-{campaign_id}-{len(everybody)}.parquet"
        digest = write_frozen(people_table(everybody.sort()), path)
        self.desk.keep(
            f"capped/{campaign_id}", {"file": path.name, "digest": digest, "people": len(everybody)}
        )
        crash_point("recover.cap:dropped")

    def note_ledger(self, campaign_id: int, facts: dict[str, Any]) -> None:
        """Add `facts` to what the journal says of a campaign's ledger."""
        key = f"ledger/{self.desk.incident.id}"
        known = self.desk.journal.get_state(key) or {"campaigns": {}}
        entry = known["campaigns"].get(str(campaign_id), {})
        known["campaigns"][str(campaign_id)] = entry | facts
        self.desk.journal.put_state(key, known, incident_id=self.desk.incident.id)

    def audience(self, held: HeldCampaign) -> pa.Array:
        """Return whom the original was meant for, frozen the first time it is asked."""
        desk, name = self.desk, f"audience/{held.id}"
        known = desk.recall(name)
        if known is None:
            people = sorted(
                {
                    one.subscriber_id
                    for one in desk.provider.memberships(held.list_ids)
                    if one.was_due(held.planned_at)
                }
            )
            path = desk.folder / f"audience-{held.id}.parquet"
            known = {"file": path.name, "digest": write_frozen(people_table(people), path)}
            desk.keep(name, known)
        return read_people(desk, known["file"], known["digest"])

    def audience_size(self, campaign_id: int) -> int:
        """Return how many people the frozen audience of a campaign has; 0 where none was frozen."""
        known = self.desk.recall(f"audience/{campaign_id}")
        return len(read_people(self.desk, known["file"], known["digest"])) if known else 0

    def events_of(self, campaign_id: int) -> pa.Table:
        """Return all events of a campaign, asking only for those that came since the last look."""
        known = self._events.get(campaign_id, events_table(()))
        after = known["event_id"][-1].as_py() if known.num_rows else 0
        # A provider that offers no events says nothing; that is not the same as nothing having happened.
        with suppress(NotOffered):
            new = events_table(self.desk.provider.events(after_id=after, campaign_id=campaign_id))
            known = pa.concat_tables([known, new])
        self._events[campaign_id] = known
        return known

    def sent_by_lane(self, campaign_id: int, people: pa.Array) -> dict[str, int]:
        """Return how many messages of one of our steps, made for `people`, each mailbox provider has taken.

        Where no log says to whom, what the provider counts is divided as the people are.
        """
        log = self.desk.send_log(campaign_id)
        if log is not None:
            taken = log.filter(pc.equal(log["outcome"], "accepted"))["subscriber_id"]
            return self.by_lane(taken.combine_chunks())
        sizes = self.by_lane(people)
        return share(sizes, min(self.desk.provider.campaign(campaign_id).sent, len(people))) if sizes else {}

    def harm(self, campaign_id: int, accepted: Mapping[str, int]) -> dict[str, StepResult]:
        """Return the bounces and complaints that a campaign has brought so far, per mailbox provider.

        Some providers count them and name nobody: those may be of any mailbox provider, and count at each.

        Args:
            campaign_id: the catch-up campaign.
            accepted: how many messages each mailbox provider has taken.
        """
        events, counted = self.events_of(campaign_id), self.desk.provider.campaign(campaign_id)

        def people(kind: str, total: int) -> Counter[str]:
            who = events.filter(pc.equal(events["type"], kind))["subscriber_id"].unique()
            named = self.by_lane(who)
            return Counter({name: named.get(name, 0) + max(0, total - len(who)) for name in accepted})

        bounced = people("bounce", counted.bounced)
        complaints = people("complaint", counted.complaints)
        return {
            name: StepResult(sent, sent, bounced=bounced[name], complaints=complaints[name])
            for name, sent in accepted.items()
        }

    def engagement(self, campaign_ids: Iterable[int]) -> pa.Table:
        """Return when each subscriber opened or clicked last (`at`): any campaign in the snapshot, these ones live."""
        events = pa.concat_tables([events_table(()), *map(self.events_of, campaign_ids)])
        live = events.filter(pc.is_in(events["type"], value_set=pa.array(["open", "click"])))
        seen = live.select(["subscriber_id", "at"])
        kept = self._ask_snapshot(
            'SELECT subscriber_id, make_timestamptz(max(epoch_us(occurred_at))) AS "at" FROM canonical.events'
            " WHERE type IN ('open', 'click') AND subscriber_id IS NOT NULL GROUP BY subscriber_id"
        )
        if kept is not None:
            seen = pa.concat_tables([seen, kept.cast(seen.schema.remove_metadata())])
        last = seen.group_by("subscriber_id").aggregate([("at", "max")])
        return last.rename_columns({"at_max": "at"})

    def _receipts(self, campaign_ids: list[int]) -> pa.Table:
        shop = self.desk.settings.shop
        if shop is None:
            return evidence_table([])
        try:
            return read_receipts(self.desk.plan.source_url(shop), campaign_ids)
        except SQLAlchemyError as error:
            raise Stopped(
                f"The shop's webhook receipts cannot be read: {type(error).__name__}",
                where=f"{self.desk.incident.id}: sources.{shop}",
                fix="make the shop's table webhook_receipts readable, then run recover again; nothing more was sent",
            ) from None

    # The snapshot -----------------------------------------------------------------------------------------------

    def _snapshot_suppressions(self) -> list[Suppression] | None:
        rows = self._ask_snapshot(
            "SELECT s.subscriber_id, CASE WHEN s.status = 'enabled' THEN m.list_id END AS list_id"
            " FROM canonical.subscribers s LEFT JOIN canonical.memberships m USING (subscriber_id)"
            " WHERE s.status <> 'enabled' OR m.status = 'unsubscribed'"
            " UNION SELECT subscriber_id, NULL FROM canonical.suppressions"
            " WHERE reason IN ('hard_bounce', 'complaint')"
        )
        if rows is None:
            return None
        return [
            Suppression(who, "manual" if on is None else "unsubscribed", on)
            for who, on in zip(*(column.to_pylist() for column in rows.columns), strict=True)
        ]

    def _snapshot_messages(self, campaign_id: int) -> pa.Table:
        rows = self._ask_snapshot(
            'SELECT campaign_id, subscriber_id, outcome, make_timestamptz(epoch_us(attempted_at)) AS "at",'
            " 'snapshot' AS witness FROM canonical.messages"
            " WHERE campaign_id = ? AND outcome IN ('accepted', 'bounced')",
            campaign_id,
        )
        return evidence_table(()) if rows is None else rows.cast(EVIDENCE)

    def _ask_snapshot(self, query: str, *values: int | tuple[str, ...]) -> pa.Table | None:
        """Return what the provider's last valid snapshot answers; None where there is none.

        The query may ask `lanes` for the mailbox provider of a subscriber.

        Raises:
            Stopped: there is a store, but it cannot be read: what it witnesses must not be left out.
        """
        from tasks.snapshots import NoStore, SnapshotError

        asked = (query, values)
        if asked in self._snapshot:
            return self._snapshot[asked]
        name = self.desk.settings.source
        if name is None or self.desk.plan.plan.sources[name].mapping == "none":
            return None
        try:
            found = self._answered(name, query, values)
        except NoStore:
            return None
        except SnapshotError as error:
            raise Stopped(
                f"The last good snapshot of {name} cannot be read: {error.what}",
                where=self.desk.incident.id,
                fix="`mailstay snapshots verify` names the damage; make the store readable, then run recover again",
            ) from None
        if found is not None:
            self._snapshot[asked] = found
        return found

    def _answered(self, name: str, query: str, values: tuple[Any, ...]) -> pa.Table | None:
        from tasks.snapshots import Store, canonical_views, connect

        plan = self.desk.plan
        store = Store.open(plan.store_url(), public_key=plan.plan.store.public_key)
        latest = store.latest(name, state="valid")
        mapping = plan.plan.sources[name].mapping
        if latest is None or mapping == "none":
            return None
        self._snapshot_at = latest.consistency_at
        connection = connect(store, {"provider": latest.snapshot_id})
        try:
            canonical_views(connection, "provider", mapping)
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("lanes", self.everybody() if " lanes " in query else people_table(()))
            asked = [list(one) if isinstance(one, tuple) else one for one in values]
            return connection.sql(query, params=asked).to_arrow_table()
        finally:
            connection.close()


def without(people: pa.Array, others: Collection[int]) -> pa.Array:
    """Return `people` without `others`."""
    return people.filter(pc.invert(pc.is_in(people, value_set=pa.array(others, pa.int64()))))


def read_people(desk: Desk, file: str, digest: str) -> pa.Array:
    """Return the subscriber ids of a frozen file, in its order.

    Raises:
        CatchupError: the file is gone or is not the one that the journal names.
    """
    return read_frozen(desk.folder / file, digest)["subscriber_id"].combine_chunks()


def _micros(moment: datetime) -> int:
    return round(moment.timestamp() * 1_000_000)


def _as_seen(others: pa.Table, log: pa.Table) -> pa.Table:
    """Return `others` without what only a snapshot says about somebody whom the log knows by another campaign."""
    logged = pc.is_in(others["subscriber_id"], value_set=log["subscriber_id"])
    return others.filter(pc.or_(pc.not_equal(others["witness"], "snapshot"), pc.invert(logged)))
