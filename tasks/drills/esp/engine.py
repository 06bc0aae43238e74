"""The simulated ESP's scanner and sender, worked through simulated time step by step.

What it copies of listmonk v6.2.0 (internal/manager/{manager,pipe}.go, queries/campaigns.sql): a scan every five
seconds starts what is due, however late; subscribers are fetched in batches and the pointer moves when they are
*fetched*, not when they are sent, so a killed process skips whom it had fetched (#3022); a pause puts the pointer back
to the last one sent, unless nothing was sent; `sent` is written at each scan.

Every message has its own moment, so the result does not depend on the steps in which time is moved. A row `sending` is
committed before a message is handed to SMTP, `accepted` after; `queued_at` is the scan before it, `updated_at` its own
moment.
"""

from __future__ import annotations

import heapq
import json
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa

from tasks.drills.draws import one, uniform
from tasks.drills.esp.behaviour import Rates, fates
from tasks.drills.esp.faults import Faults
from tasks.drills.esp.schema import (
    BOUNCES,
    CAMPAIGN_LISTS,
    CAMPAIGN_VIEWS,
    CAMPAIGNS,
    EVENTS,
    LINK_CLICKS,
    LINKS,
    MESSAGES,
    SUBSCRIBERS,
)
from tasks.drills.esp.store import (
    accepted_since,
    audience,
    blocklist,
    campaign_attribs,
    delete_after,
    insert_or_update,
    original_campaign,
    unsubscribe,
)
from tasks.drills.esp.transport import ACCEPTED, NO_REPLY, REFUSED_FOR_NOW, Outgoing, Transport

SCAN_SECONDS = 5
LOSABLE = (EVENTS, CAMPAIGN_VIEWS, LINK_CLICKS, BOUNCES)
"""The tables that a restored replica lacks the newest rows of."""

DEATHS = "deaths.jsonl"
LOST = "lost.jsonl"

_FAILED = (REFUSED_FOR_NOW, NO_REPLY)
_SCAN = SCAN_SECONDS * 1_000_000
_MINUTE = 60_000_000
_EVENTS_SETTLE = timedelta(days=4)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Webhook = Callable[[list[dict[str, Any]]], None]


@dataclass(frozen=True)
class Settings:
    """How the simulated ESP is configured.

    Attributes:
        seed: the world's seed.
        messages_per_minute: of the whole account, shared by the campaigns that run.
        batch_size: subscribers fetched at once (listmonk's default is 1,000).
        chunk: messages whose `sending` rows are committed together before they are handed over.
        max_send_errors: a campaign with so many failed messages is paused.
        pointer_to_count: whether the pointer of a campaign that stops before it sent anything is set to the number
            of its people, which is no subscriber's id, instead of staying. listmonk 3.0 to at least 4.1 do so
            (queries.sql, update-campaign-counts: `ELSE to_send`); where ids are higher, it begins again (#2070, #2313).
        rates: what happens to delivered messages.
        bounce_blocklist_after: hard bounces or complaints until a subscriber is blocklisted; 0 is never.
        unsubscribe_url: `{campaign}` and `{subscriber}` in it are replaced; it goes into List-Unsubscribe.
    """

    seed: int
    messages_per_minute: int = 600
    batch_size: int = 1000
    chunk: int = 20
    max_send_errors: int = 1000
    pointer_to_count: bool = False
    rates: Rates = field(default_factory=Rates)
    bounce_blocklist_after: int = 2
    unsubscribe_url: str = ""


@dataclass
class _Pipe:
    """A campaign being sent: what was fetched and not yet sent, and what was not yet written to the database."""

    campaign_id: int
    original_id: int
    sender: str
    subject: str
    body: str
    queue: deque[tuple[int, str]] = field(default_factory=deque)
    sent: int = 0
    last_sent: int = 0
    errors: int = 0
    stopped: bool = False
    with_errors: bool = False


class Engine:
    """Works the ESP's database through time. All methods but `work_until` expect `lock` to be held."""

    def __init__(
        self,
        database: sa.Engine,
        settings: Settings,
        *,
        start: datetime,
        transport: Transport,
        faults: Faults,
        folder: Path,
        webhook: Webhook | None = None,
        events: bool = True,
    ) -> None:
        self.database = database
        self.settings = settings
        self.faults = faults
        self.lock = threading.RLock()
        self._transport = transport
        self._folder = folder
        self._webhook = webhook
        self._events = events
        self._now = _micros(start)
        self._next_slot = self._now
        self._pipes: dict[int, _Pipe] = {}
        self._ring: deque[_Pipe] = deque()
        self._handed = 0
        self._kill_from = 0
        self._pending: list[tuple[int, int, int, str, str]] = []
        self._connection = database.connect()
        with self._connection.begin():
            self._next_event = (self._connection.scalar(sa.select(sa.func.max(EVENTS.c.id))) or 0) + 1
            self._links = list(self._connection.scalars(sa.select(LINKS.c.id).order_by(LINKS.c.id)))
        self._lose_recent_events()
        if events:
            self._remember_pending()

    @property
    def now(self) -> datetime:
        """How far time has been worked through."""
        return _moment(self._now)

    def work_until(self, moment: datetime) -> None:
        """Do everything that is due up to `moment`."""
        target = _micros(moment)
        while True:
            with self.lock:
                if self._now >= target:
                    return
                self._step(target)

    def listed_as_running(self) -> set[int]:
        """Return the campaigns that still have a pipe, those that are stopping included."""
        return set(self._pipes)

    def stop(self, campaign_id: int) -> None:
        """Stop sending a campaign: what is queued is dropped; the pointer is put back at the next scan."""
        if pipe := self._pipes.get(campaign_id):
            pipe.stopped = True
            pipe.queue.clear()

    def count_kill_from_now(self) -> None:
        """Start counting the messages of the fault `kill_mid_batch` anew."""
        self._kill_from = self._handed

    def send_single(self, message: Outgoing) -> int | None:
        """Send one transactional message at once; None when it was taken and goes nowhere."""
        if any(name in self.faults for name in ("stalled", "accept_but_not_deliver", "hard_down")):
            return None
        return self._transport.send(message)

    def record_unsubscribe(self, connection: sa.Connection, campaign_id: int, subscriber_id: int) -> None:
        """Record the event of an opt-out through the ESP's own link."""
        self._write_events(connection, [(self._now, campaign_id, subscriber_id, "unsubscribe")])

    # Time -------------------------------------------------------------------------------------------------------

    def _step(self, target: int) -> None:
        if self._busy():
            boundary = min(target, self._now - self._now % _SCAN + _SCAN)
        else:
            due = self._next_due()
            boundary = target if due is None else min(target, _grid_after(max(due, self._now + 1)))
        self._send(boundary)
        grid = boundary - boundary % _SCAN
        if grid > self._now:
            self._happen(grid)
        if boundary == grid and "hard_down" not in self.faults:
            self._scan(grid)
        self._now = boundary

    def _busy(self) -> bool:
        """Whether the next scan may differ from this one: something is sent, or was and is not yet written."""
        held = "hard_down" in self.faults or "stalled" in self.faults
        return any(pipe.stopped or pipe.sent or not held for pipe in self._pipes.values())

    def _next_due(self) -> int | None:
        """Return when the scanner next finds something to start."""
        with self._connection.begin():
            rows = self._connection.execute(
                sa.select(CAMPAIGNS.c.id, CAMPAIGNS.c.status, CAMPAIGNS.c.send_at).where(
                    CAMPAIGNS.c.status.in_(("running", "scheduled"))
                )
            ).all()
        moments = [
            self._now if row.status == "running" else _micros(row.send_at.replace(tzinfo=UTC))
            for row in rows
            if row.id not in self._pipes and (row.status == "running" or row.send_at is not None)
        ]
        return min(moments, default=None)

    def _scan(self, at: int) -> None:
        now = _stored(at)
        for pipe in list(self._pipes.values()):
            if pipe.stopped:
                self._end(pipe, now)
            elif pipe.sent:
                self._flush(pipe, now)
        with self._connection.begin():
            due = self._connection.execute(
                sa.select(CAMPAIGNS)
                .where(
                    sa.or_(
                        CAMPAIGNS.c.status == "running",
                        sa.and_(CAMPAIGNS.c.status == "scheduled", CAMPAIGNS.c.send_at <= now),
                    ),
                )
                .order_by(CAMPAIGNS.c.id)
            ).all()
            for campaign in due:
                if campaign.id not in self._pipes:
                    self._pick_up(campaign, now)

    def _pick_up(self, campaign: sa.Row[Any], now: datetime) -> None:
        reach = self._connection.execute(
            audience(
                sa.func.count(sa.distinct(SUBSCRIBERS.c.id)).label("people"),
                sa.func.max(SUBSCRIBERS.c.id).label("highest"),
                campaign_id=campaign.id,
            )
        ).one()
        if reach.people:
            self._connection.execute(
                sa.update(CAMPAIGNS)
                .where(CAMPAIGNS.c.id == campaign.id)
                .values(
                    status="running",
                    to_send=reach.people,
                    max_subscriber_id=reach.highest,
                    started_at=campaign.started_at or now,
                )
            )
        pipe = _Pipe(
            campaign.id,
            original_campaign(campaign.id, campaign.attribs),
            campaign.from_email,
            campaign.subject,
            campaign.body,
        )
        self._pipes[campaign.id] = pipe
        self._ring.append(pipe)

    # Sending ----------------------------------------------------------------------------------------------------

    def _send(self, boundary: int) -> None:
        slot = max(self._next_slot, self._now)
        if not self._pipes or "hard_down" in self.faults or "stalled" in self.faults:
            self._next_slot = max(slot, boundary)
            return
        speed = self.faults.get("slow", "speed", 1.0)
        interval = round(_MINUTE / (self.settings.messages_per_minute * speed))
        while slot < boundary:
            chunk: list[tuple[int, _Pipe, int, str]] = []
            while len(chunk) < self.settings.chunk and slot < boundary:
                found = self._next_message(slot, in_hand=bool(chunk))
                if found is None:
                    break
                chunk.append((slot, *found))
                slot += interval
            if not chunk:
                break
            self._hand_over(chunk)
        self._next_slot = slot

    def _next_message(self, slot: int, *, in_hand: bool) -> tuple[_Pipe, int, str] | None:
        """Return the next message of the next campaign in turn; None when there is none.

        What is `in_hand` is sent and counted before a campaign is fetched for again or ended.
        """
        for _ in range(len(self._ring)):
            pipe = self._ring[0]
            self._ring.rotate(-1)
            if pipe.stopped:
                continue
            if not pipe.queue and in_hand:
                self._ring.rotate(1)
                return None
            if not pipe.queue and not self._fetch(pipe, _stored(slot)):
                self._end(pipe, _stored(slot))
                continue
            return pipe, *pipe.queue.popleft()
        return None

    def _fetch(self, pipe: _Pipe, now: datetime) -> bool:
        """Queue the next batch and move the pointer past it, before any of it is sent: listmonk's crash loss."""
        with self._connection.begin():
            campaign = self._connection.execute(
                sa.select(CAMPAIGNS.c.status, CAMPAIGNS.c.last_subscriber_id, CAMPAIGNS.c.max_subscriber_id)
                .where(CAMPAIGNS.c.id == pipe.campaign_id)
            ).one_or_none()  # fmt: skip
            if campaign is None or campaign.status != "running":
                return False
            people = self._connection.execute(
                audience(SUBSCRIBERS.c.id, SUBSCRIBERS.c.email, campaign_id=pipe.campaign_id)
                .where(
                    SUBSCRIBERS.c.id > campaign.last_subscriber_id,
                    SUBSCRIBERS.c.id <= campaign.max_subscriber_id,
                )
                .distinct()
                .order_by(SUBSCRIBERS.c.id)
                .limit(self.settings.batch_size)
            ).all()
            if not people:
                return False
            self._connection.execute(
                sa.update(CAMPAIGNS)
                .where(CAMPAIGNS.c.id == pipe.campaign_id)
                .values(last_subscriber_id=people[-1].id, updated_at=now)
            )
        pipe.queue.extend((person.id, person.email) for person in people)
        return True

    def _hand_over(self, chunk: Sequence[tuple[int, _Pipe, int, str]]) -> None:
        rows = [
            {
                "campaign_id": pipe.campaign_id,
                "subscriber_id": subscriber,
                "status": "sending",
                "queued_at": _stored(slot - slot % _SCAN),
                "updated_at": _stored(slot - slot % _SCAN),
                "smtp_code": None,
            }
            for slot, pipe, subscriber, _ in chunk
        ]
        again = insert_or_update(
            self._connection,
            MESSAGES,
            ("campaign_id", "subscriber_id"),
            ("status", "updated_at", "smtp_code"),
        )
        with self._connection.begin():
            self._connection.execute(again, rows)
        outcomes = [
            self._hand_over_one(
                slot, pipe, subscriber, email, may_die=place < len(chunk) - 1 or len(chunk) == 1
            )
            for place, (slot, pipe, subscriber, email) in enumerate(chunk)
        ]
        happened = []
        with self._connection.begin():
            self._connection.execute(
                sa.update(MESSAGES)
                .where(
                    MESSAGES.c.campaign_id == sa.bindparam("of_campaign"),
                    MESSAGES.c.subscriber_id == sa.bindparam("of_subscriber"),
                )
                .values(
                    status=sa.bindparam("outcome"),
                    smtp_code=sa.bindparam("code"),
                    updated_at=sa.bindparam("at"),
                ),
                [
                    {
                        "of_campaign": pipe.campaign_id,
                        "of_subscriber": subscriber,
                        "outcome": "failed" if code in _FAILED else "accepted",
                        "code": code or None,
                        "at": _stored(slot),
                    }
                    for (slot, pipe, subscriber, _), code in zip(chunk, outcomes, strict=True)
                ],
            )
            if self._events:
                happened = self._write_events(
                    self._connection,
                    [
                        (slot, pipe.campaign_id, subscriber, "sent")
                        for (slot, pipe, subscriber, _), code in zip(chunk, outcomes, strict=True)
                        if code not in _FAILED
                    ],
                )
        self._announce(happened)
        for (_, pipe, subscriber, _), code in zip(chunk, outcomes, strict=True):
            self._count(pipe, subscriber, code)
        if self._events:
            delivered = [
                (pipe.campaign_id, pipe.original_id, subscriber, slot)
                for (slot, pipe, subscriber, _), code in zip(chunk, outcomes, strict=True)
                if code == ACCEPTED
            ]
            self._expect(delivered)

    def _hand_over_one(
        self, slot: int, pipe: _Pipe, subscriber: int, email: str, *, may_die: bool
    ) -> int | None:
        """Return the SMTP code; None when the message is said to be accepted and goes nowhere."""
        share = self.faults.get("partial", "share", 0.0)
        if share and one(self.settings.seed, "partial send", pipe.campaign_id, subscriber) < share:
            return REFUSED_FOR_NOW
        if "relay_refusing" in self.faults:
            return REFUSED_FOR_NOW
        if "accept_but_not_deliver" in self.faults:
            return None
        url = self.settings.unsubscribe_url.format(campaign=pipe.campaign_id, subscriber=subscriber)
        code = self._transport.send(
            Outgoing(
                pipe.campaign_id, subscriber, _moment(slot), pipe.sender, email, pipe.subject, pipe.body, url
            )
        )
        self._handed += 1
        after = self.faults.get("kill_mid_batch", "after", None)
        if after is not None and may_die and self._handed - self._kill_from >= after:
            self._die(slot, pipe.campaign_id)
        share = self.faults.get("reply_lost", "share", 0.0)
        if share and one(self.settings.seed, "reply lost", pipe.campaign_id, subscriber) < share:
            return NO_REPLY
        return code

    def _die(self, slot: int, campaign_id: int) -> None:
        """Kill this very process; the drill's own note of the moment is written first."""
        self.faults.turn_off("kill_mid_batch")
        with (self._folder / DEATHS).open("a") as notes:
            notes.write(json.dumps({"at": _moment(slot).isoformat(), "campaign_id": campaign_id}) + "\n")
            notes.flush()
            os.fsync(notes.fileno())
        os.kill(os.getpid(), signal.SIGKILL)

    def _count(self, pipe: _Pipe, subscriber: int, code: int | None) -> None:
        if code in _FAILED:
            pipe.errors += 1
            if pipe.errors >= self.settings.max_send_errors:
                pipe.with_errors = pipe.stopped = True
                pipe.queue.clear()
            return
        pipe.sent += 1
        pipe.last_sent = max(pipe.last_sent, subscriber)

    def _flush(self, pipe: _Pipe, now: datetime) -> None:
        with self._connection.begin():
            self._connection.execute(
                sa.update(CAMPAIGNS)
                .where(CAMPAIGNS.c.id == pipe.campaign_id)
                .values(sent=CAMPAIGNS.c.sent + pipe.sent, updated_at=now)
            )
        pipe.sent = 0

    def _end(self, pipe: _Pipe, now: datetime) -> None:
        """Listmonk's cleanup(): write the counts, put the pointer on the last one sent, finish what is exhausted."""
        changes: dict[str, Any] = {"sent": CAMPAIGNS.c.sent + pipe.sent, "updated_at": now}
        if pipe.last_sent:
            changes["last_subscriber_id"] = pipe.last_sent
        elif self.settings.pointer_to_count:
            changes["last_subscriber_id"] = CAMPAIGNS.c.to_send
        if pipe.with_errors:
            changes["status"] = "paused"
        elif not pipe.stopped:
            changes["status"] = sa.case(
                (CAMPAIGNS.c.status == "running", "finished"), else_=CAMPAIGNS.c.status
            )
        with self._connection.begin():
            self._connection.execute(
                sa.update(CAMPAIGNS).where(CAMPAIGNS.c.id == pipe.campaign_id).values(changes)
            )
        del self._pipes[pipe.campaign_id]
        self._ring = deque(one for one in self._ring if one is not pipe)

    # Events -----------------------------------------------------------------------------------------------------

    def _expect(self, delivered: Sequence[tuple[int, int, int, int]]) -> None:
        """Draw what will become of messages: (campaign, original campaign, subscriber, when handed over)."""
        for campaign_id, original_id in sorted({(item[0], item[1]) for item in delivered}):
            mine = [item for item in delivered if item[0] == campaign_id]
            ids = np.array([item[2] for item in mine], dtype=np.int64)
            drawn = fates(self.settings.seed, original_id, ids, self.settings.rates).to_pydict()
            for row, kind, detail, delay in zip(*drawn.values(), strict=True):
                due = mine[row][3] + delay
                heapq.heappush(self._pending, (due, campaign_id, mine[row][2], kind, detail))

    def _happen(self, until: int) -> None:
        """Record what subscribers did up to `until`; while the ESP is down nobody records it."""
        happened: list[tuple[int, int, int, str, str]] = []
        while self._pending and self._pending[0][0] <= until:
            happened.append(heapq.heappop(self._pending))
        if not happened or "hard_down" in self.faults:
            return
        with self._connection.begin():
            written = self._write_events(self._connection, [item[:4] for item in happened])
            self._write_details(happened)
        self._announce(written)

    def _write_events(
        self, connection: sa.Connection, happened: Sequence[tuple[int, int, int, str]]
    ) -> list[dict[str, Any]]:
        rows = [
            {
                "id": self._next_event + place,
                "type": kind,
                "campaign_id": campaign_id,
                "subscriber_id": subscriber,
                "occurred_at": _stored(at),
            }
            for place, (at, campaign_id, subscriber, kind) in enumerate(happened)
        ]
        if rows:
            connection.execute(sa.insert(EVENTS), rows)
            self._next_event += len(rows)
        return rows

    def _write_details(self, happened: Sequence[tuple[int, int, int, str, str]]) -> None:
        connection = self._connection
        views, clicks, bounces = [], [], []
        for at, campaign_id, subscriber, kind, detail in happened:
            row = {"campaign_id": campaign_id, "subscriber_id": subscriber, "created_at": _stored(at)}
            if kind == "open":
                views.append(row)
            elif kind == "click" and self._links:
                chosen = uniform(self.settings.seed, "link", campaign_id, [subscriber])[0]
                clicks.append(row | {"link_id": self._links[int(chosen * len(self._links))]})
            elif kind in ("bounce", "complaint"):
                bounce = "complaint" if kind == "complaint" else detail
                bounces.append(row | {"type": bounce, "source": "simulated", "meta": {}})
            elif kind == "unsubscribe":
                lists = connection.scalars(
                    sa.select(CAMPAIGN_LISTS.c.list_id).where(CAMPAIGN_LISTS.c.campaign_id == campaign_id)
                ).all()
                unsubscribe(connection, [subscriber], [one for one in lists if one], _stored(at))
        for table, rows in ((CAMPAIGN_VIEWS, views), (LINK_CLICKS, clicks), (BOUNCES, bounces)):
            if rows:
                connection.execute(sa.insert(table), rows)
        self._act_on_bounces([row for row in bounces if row["type"] != "soft"])

    def _act_on_bounces(self, bounces: Sequence[dict[str, Any]]) -> None:
        enough = self.settings.bounce_blocklist_after
        for row in bounces if enough else ():
            count = self._connection.scalar(
                sa.select(sa.func.count()).where(
                    BOUNCES.c.subscriber_id == row["subscriber_id"], BOUNCES.c.type == row["type"]
                )
            )
            if (count or 0) >= enough:
                blocklist(self._connection, [row["subscriber_id"]], row["created_at"])

    def _announce(self, written: list[dict[str, Any]]) -> None:
        if written and self._webhook is not None and "webhook_loss" not in self.faults:
            self._webhook(
                [row | {"occurred_at": row["occurred_at"].replace(tzinfo=UTC).isoformat()} for row in written]
            )

    # After a restart --------------------------------------------------------------------------------------------

    def _lose_recent_events(self) -> None:
        """Apply the fault `lose_recent_events`: the database came back from a replica that lagged behind."""
        if "lose_recent_events" not in self.faults:
            return
        before = self.faults.get("lose_recent_events", "before", "")
        moment = datetime.fromisoformat(before).astimezone(UTC) if before else self.now
        moment -= timedelta(minutes=self.faults.get("lose_recent_events", "minutes", 0))
        with self._connection.begin():
            lost = delete_after(self._connection, moment.replace(tzinfo=None), LOSABLE)
        with (self._folder / LOST).open("a") as notes:
            notes.write(json.dumps({"after": moment.isoformat(), "rows": lost}) + "\n")
        self.faults.turn_off("lose_recent_events")

    def _remember_pending(self) -> None:
        """Draw again what is still to come of messages sent before this process; what was due meanwhile is lost."""
        with self._connection.begin():
            rows = accepted_since(self._connection, _stored(self._now) - _EVENTS_SETTLE)
            originals = {
                one: original_campaign(one, campaign_attribs(self._connection, one))
                for one in {row.campaign_id for row in rows}
            }
        self._expect(
            [
                (
                    row.campaign_id,
                    originals[row.campaign_id],
                    row.subscriber_id,
                    _micros(row.updated_at.replace(tzinfo=UTC)),
                )
                for row in rows
            ]
        )
        self._pending = [item for item in self._pending if item[0] > self._now]
        heapq.heapify(self._pending)


def _micros(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _moment(micros: int) -> datetime:
    return _EPOCH + timedelta(microseconds=micros)


def _stored(micros: int) -> datetime:
    return _moment(micros).replace(tzinfo=None)


def _grid_after(micros: int) -> int:
    return -(-micros // _SCAN) * _SCAN
