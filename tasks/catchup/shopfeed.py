"""What our own shop witnesses about mail: the consent requests and the webhooks that reached us.

Read where the shop writes them, not from a snapshot: an opt-out of this minute counts.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import sqlalchemy as sa
from sqlalchemy.exc import SQLAlchemyError

from tasks.catchup.consent import ConsentFeed, ConsentRequest
from tasks.catchup.ledger import events_table, evidence_of_events, evidence_table
from tasks.core import Clock
from tasks.outages import database_url
from tasks.providers import ProviderEvent

_REQUESTS = sa.table(
    "consent_requests",
    sa.column("request_id", sa.Integer),
    sa.column("customer_id", sa.Integer),
    sa.column("kind", sa.String),
    sa.column("requested_at", sa.TIMESTAMP),
    sa.column("forwarded_at", sa.TIMESTAMP),
)
_RECEIPTS = sa.table(
    "webhook_receipts",
    sa.column("receipt_id", sa.Integer),
    sa.column("event_type", sa.String),
    sa.column("campaign_id", sa.Integer),
    sa.column("subscriber_id", sa.Integer),
    sa.column("occurred_at", sa.TIMESTAMP),
)


def read_consent_feed(url: str, clock: Clock) -> ConsentFeed:
    """Return every consent request of the shop at `url`; a shop that cannot be read gives a feed with an error.

    The feed is as current as its database: on a PostgreSQL replica up to the last replayed transaction.
    """
    asked_at = clock.now()
    try:
        engine = sa.create_engine(database_url(url))
        try:
            with engine.connect() as connection:
                lag = _replica_lag(connection)
                rows = connection.execute(sa.select(_REQUESTS).order_by(_REQUESTS.c.request_id)).all()
        finally:
            engine.dispose()
    except SQLAlchemyError as error:
        return ConsentFeed(None, error=type(error).__name__)
    requests = []
    for row in rows:
        if (
            row.kind not in ("unsubscribe", "subscribe")
            or row.requested_at is None
            or row.customer_id is None
        ):
            return ConsentFeed(None, error=f"request {row.request_id} cannot be understood")
        requests.append(
            ConsentRequest(
                row.request_id,
                row.customer_id,
                row.kind,
                _utc(row.requested_at),
                row.forwarded_at is not None,
            )
        )
    return ConsentFeed(asked_at if lag is None else min(asked_at, lag), tuple(requests))


def read_receipts(url: str, campaign_ids: list[int]) -> pa.Table:
    """Return the evidence of the webhooks that reached the shop, for these campaigns.

    Raises:
        SQLAlchemyError: the shop cannot be read.
    """
    if not campaign_ids:
        return evidence_table([])
    engine = sa.create_engine(database_url(url))
    try:
        with engine.connect() as connection:
            rows = connection.execute(
                sa.select(_RECEIPTS).where(_RECEIPTS.c.campaign_id.in_(campaign_ids)).order_by("receipt_id")
            ).all()
    finally:
        engine.dispose()
    receipts = events_table(
        ProviderEvent(
            row.receipt_id, row.event_type, row.campaign_id, row.subscriber_id, _utc(row.occurred_at)
        )
        for row in rows
        if row.subscriber_id is not None
    )
    return evidence_of_events(receipts, witness="webhook")


def _replica_lag(connection: sa.Connection) -> datetime | None:
    """Return up to when a PostgreSQL replica has replayed; None for a database that is not a replica."""
    if connection.dialect.name != "postgresql":
        return None
    replica: bool = connection.execute(sa.text("SELECT pg_is_in_recovery()")).scalar_one()
    if not replica:
        return None
    replayed: datetime | None = connection.execute(sa.text("SELECT pg_last_xact_replay_timestamp()")).scalar()
    return replayed or datetime.min.replace(tzinfo=UTC)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
