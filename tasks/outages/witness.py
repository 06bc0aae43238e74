"""What our own shop has seen: opt-outs and whether the provider took them, webhooks, and what mail brings.

The shop stands outside the provider, so it can speak while that is dead. It is only read, and never a reason for a
pass to fail: what cannot be read is unknown.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

MEASURED_OVER = timedelta(days=28)
"""How far back the usual revenue is averaged."""

_REQUESTS = sa.table(
    "consent_requests",
    sa.column("kind", sa.String),
    sa.column("requested_at", sa.TIMESTAMP),
    sa.column("forwarded_at", sa.TIMESTAMP),
)
_RECEIPTS = sa.table(
    "webhook_receipts",
    sa.column("received_at", sa.TIMESTAMP),
    sa.column("occurred_at", sa.TIMESTAMP),
    sa.column("diagnostic", sa.String),
)
_MOST_DIAGNOSTICS = 5_000
_ORDERS = sa.table(
    "orders",
    sa.column("ordered_at", sa.TIMESTAMP),
    sa.column("campaign_id", sa.Integer),
    sa.column("total_minor", sa.BigInteger),
)
_BOUGHT = _ORDERS.c.total_minor > 0
"""As in the reports: what a shop books to correct its accounts is no order, and nobody's worth."""


@dataclass(frozen=True)
class Earnings:
    """What the shop earned lately.

    Attributes:
        daily_minor: revenue of an average day, in minor units.
        by_campaign_minor: revenue attributed to each campaign, in minor units.
    """

    daily_minor: int = 0
    by_campaign_minor: dict[int, int] = field(default_factory=dict)


class ShopWitness:
    """The shop's database at a SQLAlchemy URL, read only where its tables are those of the `shop` mapping."""

    def __init__(self, url: str) -> None:
        self._url = url

    def opt_outs(self, since: datetime, until: datetime) -> list[tuple[datetime, bool]] | None:
        """Return when each opt-out in that time was made and whether the provider accepted it; None: not readable."""
        asked = (
            sa.select(_REQUESTS.c.requested_at, _REQUESTS.c.forwarded_at)
            .where(_REQUESTS.c.kind == "unsubscribe")
            .where(_REQUESTS.c.requested_at.between(_naive(since), _naive(until)))
        )
        rows = self._read(asked)
        if rows is None:
            return None
        return [(made.replace(tzinfo=UTC), taken is not None) for made, taken in rows]

    def receipts(self, since: datetime, until: datetime) -> int | None:
        """Return how many webhooks came in that time; None: not readable."""
        received = _RECEIPTS.c.received_at
        rows = self._read(
            sa.select(sa.func.count()).where(received > _naive(since)).where(received <= _naive(until))
        )
        return None if rows is None else int(rows[0][0])

    def webhook_lag(self, since: datetime, until: datetime) -> timedelta | None:
        """Return how late the promptest webhook of that time came; None: there was none, or it is not readable."""
        received, occurred = _RECEIPTS.c.received_at, _RECEIPTS.c.occurred_at
        rows = self._read(
            sa.select(received, occurred).where(received > _naive(since)).where(received <= _naive(until))
        )
        lags = [came - happened for came, happened in rows or [] if happened is not None]
        return max(min(lags), timedelta()) if lags else None

    def diagnostics(self, since: datetime, until: datetime) -> list[str] | None:
        """Return the receivers' answers in the webhooks of that time; None where the shop keeps no `diagnostic`."""
        received = _RECEIPTS.c.received_at
        rows = self._read(
            sa.select(_RECEIPTS.c.diagnostic)
            .where(received > _naive(since))
            .where(received <= _naive(until))
            .where(_RECEIPTS.c.diagnostic.is_not(None))
            .order_by(received.desc())
            .limit(_MOST_DIAGNOSTICS)
        )
        return None if rows is None else [str(text) for (text,) in rows]

    def earnings(self, now: datetime) -> Earnings:
        """Return what the shop earned in the `MEASURED_OVER` before `now`; nothing where it cannot be read."""
        total = sa.func.sum(_ORDERS.c.total_minor)
        recent = _ORDERS.c.ordered_at.between(_naive(now - MEASURED_OVER), _naive(now))
        rows = self._read(
            sa.select(_ORDERS.c.campaign_id, total).where(recent, _BOUGHT).group_by(_ORDERS.c.campaign_id)
        )
        if not rows:
            return Earnings()
        everything = sum(int(amount or 0) for _, amount in rows)
        return Earnings(
            daily_minor=max(0, everything) // MEASURED_OVER.days,
            by_campaign_minor={int(key): int(amount or 0) for key, amount in rows if key is not None},
        )

    def orders(self, since: datetime, until: datetime) -> list[tuple[datetime, int | None, int]]:
        """Return the orders of that time: when, which campaign brought it, minor units; none where not readable."""
        asked = sa.select(_ORDERS.c.ordered_at, _ORDERS.c.campaign_id, _ORDERS.c.total_minor).where(
            _ORDERS.c.ordered_at.between(_naive(since), _naive(until)), _BOUGHT
        )
        rows = self._read(asked) or []
        return [(made.replace(tzinfo=UTC), campaign, int(total or 0)) for made, campaign, total in rows]

    def _read(self, question: sa.Select[Any]) -> list[sa.Row[Any]] | None:
        try:
            with _connection(self._url) as connection:
                return list(connection.execute(question).all())
        except sa.exc.SQLAlchemyError:
            return None


def database_url(url: str) -> sa.URL:
    """Return `url` for SQLAlchemy: `postgresql://`, which names no driver, is read by psycopg 3, the one we bring.

    Raises:
        ArgumentError: it is no URL of a database.
    """
    parsed = sa.make_url(url)
    if parsed.drivername in ("postgresql", "postgres"):
        return parsed.set(drivername="postgresql+psycopg")
    return parsed


@contextmanager
def _connection(url: str) -> Iterator[sa.Connection]:
    engine = sa.create_engine(database_url(url), poolclass=sa.NullPool)
    try:
        with engine.connect() as connection:
            yield connection
    finally:
        engine.dispose()


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
