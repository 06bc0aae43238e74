"""The ESP's past, written straight into its database: campaigns that ran, their messages and what became of them.

The same models decide as in the live days (`tasks.drills.esp.behaviour`, `tasks.impact.respond_to_send`), so past and
present cannot be told apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import sqlalchemy as sa

from tasks.drills.bulk import load, reset_sequences
from tasks.drills.calendar import FIRST_WINBACK_LIST, LIST_NAMES, PlannedCampaign, joins_at, list_members
from tasks.drills.draws import Ids, stable_uuid, uniform
from tasks.drills.esp import schema
from tasks.drills.esp.behaviour import Rates, fates
from tasks.impact import respond_to_send

TX_TEMPLATE = 3
RECEIPTS_KEPT = timedelta(days=35)
"""The shop keeps webhook receipts this long."""

_LINKS = ("https://shop.example/", "https://shop.example/new", "https://shop.example/sale")
_FROM = "Example Shop <news@shop.example>"
_BODY = "Hello, this is what is new at Example Shop. (Generated for a drill.)"
_STAMP = pa.timestamp("us")


@dataclass(frozen=True)
class Past:
    """What history left for the shop: orders by e-mail, opt-outs and webhook receipts (Arrow, naive UTC).

    Attributes:
        orders: `campaign_id`, `subscriber_id`, `ordered_at`, `value_minor`; those after the start still come.
        opt_outs: `customer_id`, `campaign_id`, `requested_at`.
        receipts: `provider_event_id`, `event_type`, `campaign_id`, `subscriber_id`, `occurred_at`.
        messages: how many were sent.
        subscribers: the ids of those who can be mailed at the start.
    """

    orders: pa.Table
    opt_outs: pa.Table
    receipts: pa.Table
    messages: int
    subscribers: Ids


def write_history(
    database: sa.Engine,
    calendar: Sequence[PlannedCampaign],
    customers: pa.Table,
    *,
    seed: int,
    start: datetime,
    messages_per_minute: int,
    rates: Rates,
) -> Past:
    """Fill an empty ESP database with everything up to `start`, and the calendar after it as scheduled campaigns.

    Args:
        database: the ESP's database, its tables created and empty.
        calendar: all campaigns; those before `start` have run.
        customers: `customer_id`, `email`, `country`, `created_at` (naive UTC), by rising id.
        seed: the world's seed.
        start: the moment at which the live days begin.
        messages_per_minute: how fast the ESP sent.
        rates: what happened to messages.
    """
    people = _People(customers, seed, start)
    past = [campaign for campaign in calendar if campaign.send_at < start]
    interval = round(60_000_000 / messages_per_minute)
    messages, events, orders = [], [], []
    for campaign in past:
        ids = people.audience(campaign)
        sent_us = _micros(campaign.send_at) + np.arange(len(ids), dtype=np.int64) * interval
        messages.append(
            pa.table({"campaign_id": _repeat(campaign.id, len(ids)), "subscriber_id": ids, "at": sent_us})
        )
        drawn = fates(seed, campaign.id, ids, rates)
        rows = drawn.column("row").to_numpy()
        happened = pa.table(
            {
                "type": drawn.column("type"),
                "detail": drawn.column("detail"),
                "campaign_id": _repeat(campaign.id, len(rows)),
                "subscriber_id": ids[rows],
                "at": sent_us[rows] + drawn.column("delay_us").to_numpy(),
            }
        )
        people.react(happened)
        events += [_sent_events(campaign.id, ids, sent_us), happened]
        answer = respond_to_send(
            seed,
            campaign.id,
            campaign.kind,
            ids,
            sent_us.astype("datetime64[us]"),
            sent_us.astype("datetime64[us]"),
        )
        orders.append(answer.append_column("campaign_id", _repeat(campaign.id, answer.num_rows)))
    all_messages = pa.concat_tables(messages).sort_by([("at", "ascending"), ("subscriber_id", "ascending")])
    all_events = _past_events(pa.concat_tables(events), people, start)
    counts = dict(zip(*_value_counts(all_messages.column("campaign_id")), strict=True))
    with database.begin() as connection:
        _write_catalogue(connection, calendar, people, counts, seed, start)
        _write_people(connection, people, calendar)
        _write_messages(connection, all_messages)
        _write_events(connection, all_events, seed)
        reset_sequences(connection, schema.METADATA)
    return Past(
        orders=_naive_orders(pa.concat_tables(orders)),
        opt_outs=_opt_outs(all_events),
        receipts=_receipts(all_events, start),
        messages=all_messages.num_rows,
        subscribers=people.ids[people.mailable_at_start()],
    )


class _People:
    """Who is a subscriber, since when, and who left or was blocked when (microseconds; far future for never)."""

    never = np.iinfo(np.int64).max

    def __init__(self, customers: pa.Table, seed: int, start: datetime) -> None:
        self.seed = seed
        self.start = _micros(start)
        created = [moment.replace(tzinfo=UTC) for moment in customers.column("created_at").to_pylist()]
        joined = np.array([_micros(joins_at(moment)) for moment in created], dtype=np.int64)
        here = joined <= self.start
        self.ids: Ids = customers.column("customer_id").to_numpy().astype(np.int64)[here]
        self.emails = np.array(customers.column("email").to_pylist(), dtype=object)[here]
        self.countries = np.array(customers.column("country").to_pylist(), dtype=object)[here]
        self.joined = joined[here]
        self.left = np.full(len(self.ids), self.never, dtype=np.int64)
        self.blocked = np.full(len(self.ids), self.never, dtype=np.int64)
        self.hard_bounces = np.zeros(len(self.ids), dtype=np.int64)

    def audience(self, campaign: PlannedCampaign) -> Ids:
        at = _micros(campaign.send_at)
        fit = (self.joined <= at) & (self.left > at) & (self.blocked > at)
        return self.ids[fit & list_members(self.seed, campaign.list_id, self.ids)]

    def react(self, happened: pa.Table) -> None:
        """Take note of who left, complained or bounced hard for the second time, if it was before the start."""
        happened = happened.filter(pc.less_equal(happened.column("at"), self.start))
        for row in happened.filter(
            pc.is_in(happened.column("type"), pa.array(["unsubscribe", "complaint", "bounce"]))
        ).to_pylist():
            place = int(np.searchsorted(self.ids, row["subscriber_id"]))
            if row["type"] == "unsubscribe":
                self.left[place] = min(self.left[place], row["at"])
            elif row["type"] == "complaint":
                self.blocked[place] = min(self.blocked[place], row["at"])
            elif row["detail"] == "hard":
                self.hard_bounces[place] += 1
                if self.hard_bounces[place] == 2:
                    self.blocked[place] = min(self.blocked[place], row["at"])

    def mailable_at_start(self) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
        stays: np.ndarray[tuple[int], np.dtype[np.bool_]] = np.minimum(self.left, self.blocked) == self.never
        return stays


def _sent_events(campaign_id: int, ids: Ids, sent_us: Ids) -> pa.Table:
    return pa.table(
        {
            "type": pa.array(["sent"] * len(ids), pa.string()),
            "detail": pa.array([""] * len(ids), pa.string()),
            "campaign_id": _repeat(campaign_id, len(ids)),
            "subscriber_id": ids,
            "at": sent_us,
        }
    )


def _past_events(events: pa.Table, people: _People, start: datetime) -> pa.Table:
    """Return the events up to the start in the order of time, numbered; only the first opt-out of a person counts."""
    events = events.filter(pc.less_equal(events.column("at"), _micros(start)))
    place = np.searchsorted(people.ids, events.column("subscriber_id").to_numpy())
    first = people.left[place] == events.column("at").to_numpy()
    keep = pc.or_(pc.not_equal(events.column("type"), "unsubscribe"), pa.array(first))
    events = events.filter(keep).sort_by(
        [("at", "ascending"), ("campaign_id", "ascending"), ("subscriber_id", "ascending")]
    )
    return events.append_column("id", pa.array(np.arange(1, events.num_rows + 1), pa.int64()))


def _write_catalogue(
    connection: sa.Connection,
    calendar: Sequence[PlannedCampaign],
    people: _People,
    counts: dict[int, int],
    seed: int,
    start: datetime,
) -> None:
    """Write lists, templates, links and campaigns."""
    begun = min(campaign.send_at for campaign in calendar) - timedelta(days=7)
    lists: list[dict[str, Any]] = [
        {"id": key, "name": name, "type": "public"} for key, name in LIST_NAMES.items()
    ]
    lists += [
        {"id": campaign.list_id, "name": f"Win-back {campaign.send_at:%Y-%m-%d}", "type": "private"}
        for campaign in calendar
        if campaign.list_id >= FIRST_WINBACK_LIST
    ]
    times = {"created_at": _plain(begun), "updated_at": _plain(begun)}
    connection.execute(
        sa.insert(schema.LISTS),
        [
            row
            | times
            | {
                "uuid": stable_uuid(seed, "list", row["id"]),
                "optin": "single",
                "status": "active",
                "tags": [],
            }
            for row in lists
        ],
    )
    templates = (
        (1, "Newsletter", "campaign", True),
        (2, "Sale", "campaign", False),
        (TX_TEMPLATE, "Seed message of the probe", "tx", False),
    )
    connection.execute(
        sa.insert(schema.TEMPLATES),
        [
            {"id": key, "name": name, "type": kind, "subject": name, "body": _BODY, "is_default": default}
            | times
            for key, name, kind, default in templates
        ],
    )
    connection.execute(
        sa.insert(schema.LINKS),
        [
            {"id": key, "uuid": stable_uuid(seed, "link", key), "url": url}
            for key, url in enumerate(_LINKS, start=1)
        ],
    )
    highest = {
        campaign.id: int(audience[-1]) if len(audience := people.audience(campaign)) else 0
        for campaign in calendar
    }
    connection.execute(
        sa.insert(schema.CAMPAIGNS), [_campaign(one, counts, highest, seed, start) for one in calendar]
    )
    connection.execute(
        sa.insert(schema.CAMPAIGN_LISTS),
        [
            {
                "campaign_id": one.id,
                "list_id": one.list_id,
                "list_name": next(row["name"] for row in lists if row["id"] == one.list_id),
            }
            for one in calendar
        ],
    )


def _campaign(
    one: PlannedCampaign, counts: dict[int, int], highest: dict[int, int], seed: int, start: datetime
) -> dict[str, Any]:
    ran = one.send_at < start
    made = min(one.send_at - timedelta(days=5), start - timedelta(hours=12))
    attribs: dict[str, Any] = {"kind": one.kind}
    if one.latest_useful_at is not None:
        attribs["latest_useful_at"] = one.latest_useful_at.isoformat()
    return {
        "id": one.id,
        "uuid": stable_uuid(seed, "campaign", one.id),
        "name": one.name,
        "subject": one.subject,
        "from_email": _FROM,
        "body": _BODY,
        "content_type": "plain",
        "send_at": _plain(one.send_at),
        "status": "finished" if ran else "scheduled",
        "tags": [one.kind],
        "attribs": attribs,
        "type": "regular",
        "template_id": 2 if one.kind == "sale" else 1,
        "to_send": counts.get(one.id, 0) if ran else 0,
        "sent": counts.get(one.id, 0) if ran else 0,
        "max_subscriber_id": highest[one.id] if ran else 0,
        "last_subscriber_id": highest[one.id] if ran else 0,
        "started_at": _plain(one.send_at) if ran else None,
        "created_at": _plain(made),
        "updated_at": _plain(one.send_at if ran else made),
    }


def _write_people(connection: sa.Connection, people: _People, calendar: Sequence[PlannedCampaign]) -> None:
    gone = np.minimum(people.left, people.blocked)
    touched = np.where(gone == people.never, people.joined, gone)
    load(
        connection,
        schema.SUBSCRIBERS,
        pa.table(
            {
                "id": people.ids,
                "uuid": [stable_uuid(people.seed, "subscriber", int(one)) for one in people.ids],
                "email": people.emails,
                "name": [f"Customer {one}" for one in people.ids],
                "attribs": [
                    json.dumps({"customer_id": int(one), "country": country})
                    for one, country in zip(people.ids, people.countries, strict=True)
                ],
                "status": np.where(people.blocked < people.never, "blocklisted", "enabled"),
                "created_at": _stamps(people.joined),
                "updated_at": _stamps(np.where(people.blocked < people.never, touched, people.joined)),
            }
        ),
    )
    winback = {one.list_id: one.send_at for one in calendar if one.list_id >= FIRST_WINBACK_LIST}
    parts = []
    for list_id in [*LIST_NAMES, *winback]:
        on = list_members(people.seed, list_id, people.ids)
        since = people.joined
        if list_id in winback:
            made = min(_micros(winback[list_id]) - 86_400_000_000, people.start - 43_200_000_000)
            since = np.maximum(people.joined, made)
            on = on & (gone > since)
        parts.append(
            pa.table(
                {
                    "subscriber_id": people.ids[on],
                    "list_id": _repeat(list_id, int(on.sum())),
                    "status": np.where(gone[on] < people.never, "unsubscribed", "confirmed"),
                    "created_at": _stamps(since[on]),
                    "updated_at": _stamps(np.where(gone[on] < people.never, gone[on], since[on])),
                }
            )
        )
    load(connection, schema.SUBSCRIBER_LISTS, pa.concat_tables(parts))


def _write_messages(connection: sa.Connection, messages: pa.Table) -> None:
    rows = messages.num_rows
    at = _stamps(messages.column("at").to_numpy())
    load(
        connection,
        schema.MESSAGES,
        pa.table(
            {
                "id": pa.array(np.arange(1, rows + 1), pa.int64()),
                "campaign_id": messages.column("campaign_id"),
                "subscriber_id": messages.column("subscriber_id"),
                "status": pa.array(["accepted"] * rows, pa.string()),
                "queued_at": at,
                "updated_at": at,
                "smtp_code": _repeat(250, rows),
            }
        ),
    )


def _write_events(connection: sa.Connection, events: pa.Table, seed: int) -> None:
    at = _stamps(events.column("at").to_numpy())
    events = events.append_column("occurred_at", at)
    load(
        connection,
        schema.EVENTS,
        events.select(["id", "type", "campaign_id", "subscriber_id", "occurred_at"]),
    )

    def of(*kinds: str) -> pa.Table:
        found = events.filter(pc.is_in(events.column("type"), pa.array(kinds)))
        numbered = pa.array(np.arange(1, found.num_rows + 1), pa.int64())
        return found.append_column("number", numbered)

    def base(found: pa.Table) -> dict[str, Any]:
        return {
            "id": found.column("number"),
            "campaign_id": found.column("campaign_id"),
            "subscriber_id": found.column("subscriber_id"),
            "created_at": found.column("occurred_at"),
        }

    load(connection, schema.CAMPAIGN_VIEWS, pa.table(base(of("open"))))
    clicks = of("click")
    links = [
        1 + int(uniform(seed, "link", row["campaign_id"], [row["subscriber_id"]])[0] * len(_LINKS))
        for row in clicks.select(["campaign_id", "subscriber_id"]).to_pylist()
    ]
    load(
        connection,
        schema.LINK_CLICKS,
        pa.table(base(clicks) | {"link_id": pa.array(links, pa.int64())}),
    )
    bounces = of("bounce", "complaint")
    kind = pc.if_else(pc.equal(bounces.column("type"), "complaint"), "complaint", bounces.column("detail"))
    load(
        connection,
        schema.BOUNCES,
        pa.table(
            base(bounces)
            | {
                "type": kind,
                "source": pa.array(["simulated"] * bounces.num_rows, pa.string()),
                "meta": pa.array(["{}"] * bounces.num_rows, pa.string()),
            }
        ),
    )


def _naive_orders(orders: pa.Table) -> pa.Table:
    at = orders.column("ordered_at").cast(_STAMP)
    place = orders.schema.get_field_index("ordered_at")
    return orders.set_column(place, "ordered_at", at).sort_by(
        [("ordered_at", "ascending"), ("subscriber_id", "ascending")]
    )


def _opt_outs(events: pa.Table) -> pa.Table:
    found = events.filter(pc.equal(events.column("type"), "unsubscribe"))
    return pa.table(
        {
            "customer_id": found.column("subscriber_id"),
            "campaign_id": found.column("campaign_id"),
            "requested_at": _stamps(found.column("at").to_numpy()),
        }
    )


def _receipts(events: pa.Table, start: datetime) -> pa.Table:
    found = events.filter(pc.greater(events.column("at"), _micros(start - RECEIPTS_KEPT)))
    return pa.table(
        {
            "provider_event_id": found.column("id"),
            "event_type": found.column("type"),
            "campaign_id": found.column("campaign_id"),
            "subscriber_id": found.column("subscriber_id"),
            "occurred_at": _stamps(found.column("at").to_numpy()),
        }
    )


def _value_counts(column: pa.ChunkedArray) -> tuple[list[int], list[int]]:
    values, counts = np.unique(column.to_numpy(), return_counts=True)
    return values.tolist(), counts.tolist()


def _repeat(value: int, count: int) -> pa.Array:
    return pa.array(np.full(count, value, dtype=np.int64), pa.int64())


def _stamps(micros: Ids) -> pa.Array:
    return pa.array(micros, pa.int64()).cast(_STAMP)


def _micros(moment: datetime) -> int:
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _plain(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
