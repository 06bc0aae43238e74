"""The shop in the live days: its database moves with time, and its own endpoints take opt-outs and webhooks."""

from __future__ import annotations

import bisect
import heapq
import json
import threading
from collections.abc import Iterable
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from tasks.drills.bulk import load
from tasks.drills.shop import (
    CONSENT_REQUESTS,
    CURRENCY,
    CUSTOMERS,
    GENERATED_LINES_FROM,
    METADATA,
    ORDER_LINES,
    ORDERS,
    RETURN_LINES,
    RETURNS,
    WEBHOOK_RECEIPTS,
    shop_slice,
)

EMAIL_STOCK_CODE = "EMAIL"
_PARENTS = {"order_lines": ("orders", "order_id"), "return_lines": ("returns", "return_id")}
_BORN = {"customers": "created_at", "orders": "ordered_at", "returns": "returned_at"}


class LiveShop:
    """The shop's database, moved forward by `bring_to`."""

    def __init__(
        self, engine: sa.Engine, *, seed: int, share: float, start: datetime, until: datetime
    ) -> None:
        self.engine = engine
        self._coming: list[tuple[datetime, sa.Table, dict[str, Any]]] = []
        self._emails: list[tuple[datetime, int, int, int, int]] = []
        self._countries: dict[int, str] = {}
        born: dict[str, datetime] = {}
        for table, rows in shop_slice(seed=seed, since=start, until=until, share=share, continued=True):
            for row in rows.to_pylist():
                if table.name in _PARENTS:
                    at = born[row[_PARENTS[table.name][1]]]
                else:
                    at = row[_BORN[table.name]]
                    born[row[next(iter(table.primary_key)).name]] = at
                self._coming.append((at, table, row))
        place = {table: index for index, table in enumerate(METADATA.sorted_tables)}
        self._coming.sort(key=lambda item: (item[0], place[item[1]]))
        self._times = [item[0] for item in self._coming]
        self._done = 0
        with engine.connect() as connection:
            rows = connection.execute(sa.select(CUSTOMERS.c.customer_id, CUSTOMERS.c.country))
            self._countries = {row.customer_id: row.country for row in rows}
        self._countries |= {
            row["customer_id"]: row["country"] for _, table, row in self._coming if table is CUSTOMERS
        }

    def expect_orders(
        self, campaign_id: int, original_id: int, answers: pa.Table
    ) -> list[tuple[int, datetime, int]]:
        """Book the orders that a send of `campaign_id` brings, when their time comes.

        Args:
            campaign_id: the campaign that was delivered; its id is the order's attribution tag.
            original_id: the campaign it stands for, which numbers the order.
            answers: what `tasks.impact.respond_to_send` returned.
        """
        booked = []
        for row in answers.to_pylist():
            at = row["ordered_at"].astimezone(UTC).replace(tzinfo=None)
            order = (at, original_id, row["subscriber_id"], campaign_id, row["value_minor"])
            heapq.heappush(self._emails, order)
            booked.append((row["subscriber_id"], row["ordered_at"], row["value_minor"]))
        return booked

    def bring_to(self, moment: datetime) -> None:
        """Write everything that happens in the shop up to `moment` (included)."""
        until = moment.astimezone(UTC).replace(tzinfo=None)
        upto = bisect.bisect_right(self._times, until)
        due = self._coming[self._done : upto]
        emails = []
        while self._emails and self._emails[0][0] <= until:
            emails.append(heapq.heappop(self._emails))
        if not due and not emails:
            return
        rows: dict[sa.Table, list[dict[str, Any]]] = {}
        for _, table, row in due:
            rows.setdefault(table, []).append(row)
        for at, original_id, customer_id, campaign_id, value in emails:
            order, line = email_order(
                original_id, customer_id, campaign_id, at, value, self._countries[customer_id]
            )
            rows.setdefault(ORDERS, []).append(order)
            rows.setdefault(ORDER_LINES, []).append(line)
        with self.engine.begin() as connection:
            for table in (CUSTOMERS, ORDERS, ORDER_LINES, RETURNS, RETURN_LINES):
                if rows.get(table):
                    connection.execute(sa.insert(table), rows[table])
        self._done = upto

    def record_consent(
        self,
        customer_id: int,
        kind: str,
        at: datetime,
        *,
        campaign_id: int | None = None,
        forwarded: bool = False,
    ) -> int:
        """Write an opt-out or sign-up that reached our own endpoint, and return its id."""
        stamp = at.astimezone(UTC).replace(tzinfo=None)
        with self.engine.begin() as connection:
            result = connection.execute(
                sa.insert(CONSENT_REQUESTS).values(
                    customer_id=customer_id,
                    kind=kind,
                    campaign_id=campaign_id,
                    requested_at=stamp,
                    forwarded_at=stamp if forwarded else None,
                )
            )
            return int(result.inserted_primary_key[0]) if result.inserted_primary_key else 0

    def forwarded(self, request_id: int, at: datetime) -> None:
        """Note that the ESP accepted a consent request."""
        with self.engine.begin() as connection:
            connection.execute(
                sa.update(CONSENT_REQUESTS)
                .where(CONSENT_REQUESTS.c.request_id == request_id)
                .values(forwarded_at=at.astimezone(UTC).replace(tzinfo=None))
            )

    def customers_between(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """Return the customers of a span, those who are still to come included, by id."""
        low, high = (one.astimezone(UTC).replace(tzinfo=None) for one in (since, until))
        coming = [row for at, table, row in self._coming if table is CUSTOMERS and low <= at < high]
        there = self.new_customers(since, until)
        return sorted(there + coming, key=lambda row: int(row["customer_id"]))

    def new_customers(self, since: datetime, until: datetime) -> list[dict[str, Any]]:
        """Return the customers created from `since` to before `until`, by id."""
        low, high = (one.astimezone(UTC).replace(tzinfo=None) for one in (since, until))
        with self.engine.connect() as connection:
            rows = connection.execute(
                sa.select(CUSTOMERS)
                .where(CUSTOMERS.c.created_at >= low, CUSTOMERS.c.created_at < high)
                .order_by(CUSTOMERS.c.customer_id)
            )
            return [dict(row._mapping) for row in rows]

    def receive_events(self, events: Iterable[dict[str, Any]]) -> None:
        """Keep the receipt of each event that a webhook brought; it arrives as it happens."""
        rows = []
        for event in events:
            at = datetime.fromisoformat(event["occurred_at"]).astimezone(UTC).replace(tzinfo=None)
            rows.append(
                {
                    "provider_event_id": event["id"],
                    "event_type": event["type"],
                    "campaign_id": event["campaign_id"],
                    "subscriber_id": event["subscriber_id"],
                    "occurred_at": at,
                    "received_at": at,
                }
            )
        if rows:
            with self.engine.begin() as connection:
                connection.execute(sa.insert(WEBHOOK_RECEIPTS), rows)


class WebhookEndpoint:
    """The shop's HTTP endpoint for the ESP's webhooks: POST of a JSON list of events."""

    def __init__(self, shop: LiveShop) -> None:
        class Receive(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                shop.receive_events(json.loads(self.rfile.read(length)))
                self.send_response(204)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Receive)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True, name="webhooks").start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/webhooks/esp"

    def close(self) -> None:
        """End the server."""
        self._server.shutdown()
        self._server.server_close()


def email_order(
    original_id: int, customer_id: int, campaign_id: int, at: datetime, value_minor: int, country: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the generated order of a customer who answered a campaign, and its one line."""
    order_id = f"E{original_id:05d}{customer_id:07d}"
    order = {
        "order_id": order_id,
        "customer_id": customer_id,
        "ordered_at": at,
        "country": country,
        "kind": "sale",
        "channel": "email",
        "campaign_id": campaign_id,
        "total_minor": value_minor,
        "currency": CURRENCY,
        "generated": True,
    }
    line = {
        "line_id": original_id * GENERATED_LINES_FROM + customer_id,
        "order_id": order_id,
        "line_no": 1,
        "stock_code": EMAIL_STOCK_CODE,
        "description": "Order through e-mail (generated)",
        "quantity": 1,
        "unit_price": value_minor / 100,
        "line_total_minor": value_minor,
    }
    return order, line


def load_email_orders(connection: sa.Connection, orders: pa.Table, countries: dict[int, str]) -> int:
    """Write past e-mail orders (`campaign_id`, `subscriber_id`, `ordered_at`, `value_minor`) in bulk."""
    pairs = [
        email_order(
            row["campaign_id"],
            row["subscriber_id"],
            row["campaign_id"],
            row["ordered_at"],
            row["value_minor"],
            countries[row["subscriber_id"]],
        )
        for row in orders.to_pylist()
    ]
    if not pairs:
        return 0
    stamped = pa.timestamp("us")
    heads = pa.Table.from_pylist([head for head, _ in pairs])
    place = heads.schema.get_field_index("ordered_at")
    heads = heads.set_column(place, "ordered_at", heads.column("ordered_at").cast(stamped))
    load(connection, ORDERS, heads)
    load(connection, ORDER_LINES, pa.Table.from_pylist([line for _, line in pairs]))
    return len(pairs)
