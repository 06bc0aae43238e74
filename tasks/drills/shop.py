"""The sample shop's database, built from the real invoice lines of Online Retail with their real dirt.

Duplicate lines stay (each with its own line id), lines without a customer stay, so do zero prices, adjustments and
negative quantities. Addresses are generated; e-mail orders are added by `tasks.drills.World` and marked as such.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import sqlalchemy as sa

from tasks.core import Progress, SilentProgress
from tasks.drills.bulk import load
from tasks.drills.errors import DrillError

ONLINE_RETAIL = Path(__file__).resolve().parents[2] / "data" / "online_retail.parquet"
CURRENCY = "GBP"
GENERATED_LINES_FROM = 1_000_000
"""Line ids of generated orders start here: real ones stay far below."""

METADATA = sa.MetaData()

CUSTOMERS = sa.Table(
    "customers",
    METADATA,
    sa.Column("customer_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("email", sa.String(254), nullable=False),
    sa.Column("country", sa.String(64), nullable=False),
    sa.Column("created_at", sa.TIMESTAMP, nullable=False),
)
ORDERS = sa.Table(
    "orders",
    METADATA,
    sa.Column("order_id", sa.String(16), primary_key=True),
    sa.Column("customer_id", sa.Integer, sa.ForeignKey("customers.customer_id")),
    sa.Column("ordered_at", sa.TIMESTAMP, nullable=False),
    sa.Column("country", sa.String(64), nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("channel", sa.String(8), nullable=False),
    sa.Column("campaign_id", sa.Integer),
    sa.Column("total_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.CHAR(3), nullable=False),
    sa.Column("generated", sa.Boolean, nullable=False),
)
ORDER_LINES = sa.Table(
    "order_lines",
    METADATA,
    sa.Column("line_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("order_id", sa.String(16), sa.ForeignKey("orders.order_id"), nullable=False),
    sa.Column("line_no", sa.Integer, nullable=False),
    sa.Column("stock_code", sa.String(16), nullable=False),
    sa.Column("description", sa.String(64)),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("unit_price", sa.Numeric(12, 3), nullable=False),
    sa.Column("line_total_minor", sa.BigInteger, nullable=False),
)
RETURNS = sa.Table(
    "returns",
    METADATA,
    sa.Column("return_id", sa.String(16), primary_key=True),
    sa.Column("customer_id", sa.Integer, sa.ForeignKey("customers.customer_id")),
    sa.Column("returned_at", sa.TIMESTAMP, nullable=False),
    sa.Column("total_minor", sa.BigInteger, nullable=False),
    sa.Column("currency", sa.CHAR(3), nullable=False),
)
RETURN_LINES = sa.Table(
    "return_lines",
    METADATA,
    sa.Column("line_id", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("return_id", sa.String(16), sa.ForeignKey("returns.return_id"), nullable=False),
    sa.Column("stock_code", sa.String(16), nullable=False),
    sa.Column("description", sa.String(64)),
    sa.Column("quantity", sa.Integer, nullable=False),
    sa.Column("unit_price", sa.Numeric(12, 3), nullable=False),
    sa.Column("line_total_minor", sa.BigInteger, nullable=False),
)
CONSENT_REQUESTS = sa.Table(
    "consent_requests",
    METADATA,
    sa.Column("request_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("customer_id", sa.Integer, sa.ForeignKey("customers.customer_id"), nullable=False),
    sa.Column("kind", sa.String(12), nullable=False),
    sa.Column("campaign_id", sa.Integer),
    sa.Column("requested_at", sa.TIMESTAMP, nullable=False),
    sa.Column("forwarded_at", sa.TIMESTAMP),
)
WEBHOOK_RECEIPTS = sa.Table(
    "webhook_receipts",
    METADATA,
    sa.Column("receipt_id", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("provider_event_id", sa.BigInteger, nullable=False),
    sa.Column("event_type", sa.String(16), nullable=False),
    sa.Column("campaign_id", sa.Integer, nullable=False),
    sa.Column("subscriber_id", sa.Integer, nullable=False),
    sa.Column("occurred_at", sa.TIMESTAMP, nullable=False),
    sa.Column("received_at", sa.TIMESTAMP, nullable=False),
)


@dataclass(frozen=True)
class ShopFacts:
    """What was written: rows per table, and the time span of orders and returns (UTC)."""

    rows: dict[str, int]
    first_at: datetime | None
    last_at: datetime | None


def build_shop(
    url: str,
    *,
    seed: int,
    until: datetime | None = None,
    since: datetime | None = None,
    share: float = 1.0,
    progress: Progress | None = None,
) -> ShopFacts:
    """Create the shop's tables in the empty database `url` and fill them with the history up to `until`.

    Args:
        url: SQLAlchemy URL (SQLite or PostgreSQL).
        seed: picks which part of the shop a `share` below 1 keeps; the full shop does not depend on it.
        until: moment (excluded) at which history is cut; later lines come with `append_shop`.
        since: moment (included) before which lines are left out.
        share: part of the customers, and of the invoices without one, to keep.
        progress: receives one unit per row.

    Raises:
        DrillError: the database already holds a shop.
    """
    progress = progress or SilentProgress()
    engine = sa.create_engine(url)
    try:
        with engine.begin() as connection:
            if sa.inspect(connection).has_table("orders"):
                raise DrillError("The database already holds a shop", fix="give an empty database")
            METADATA.create_all(connection)
            slices = list(shop_slice(seed=seed, since=since, until=until, share=share))
            progress.start("Building the shop", sum(rows.num_rows for _, rows in slices))
            counts = {table.name: 0 for table in METADATA.sorted_tables}
            for table, rows in slices:
                counts[table.name] += load(connection, table, rows)
                progress.advance(rows.num_rows)
            first, last = connection.execute(
                sa.select(sa.func.min(ORDERS.c.ordered_at), sa.func.max(ORDERS.c.ordered_at))
            ).one()
            progress.finish(f"{sum(counts.values()):,} rows")
    finally:
        engine.dispose()
    return ShopFacts(counts, _aware(first), _aware(last))


def append_shop(
    connection: sa.Connection, *, seed: int, since: datetime, until: datetime, share: float = 1.0
) -> dict[str, int]:
    """Add what happened from `since` (included) to `until` (excluded) to a shop built up to `since`."""
    return {
        table.name: load(connection, table, rows)
        for table, rows in shop_slice(seed=seed, since=since, until=until, share=share, continued=True)
    }


def shop_slice(
    *,
    seed: int,
    since: datetime | None,
    until: datetime | None,
    share: float = 1.0,
    continued: bool = False,
) -> Iterator[tuple[sa.Table, pa.Table]]:
    """Yield the shop's rows of a time span, parents before children, deterministic for its arguments.

    With `continued`, customers from before `since` are left out: they are there already. Without it they come along
    if they appear in the span.
    """
    con = _prepared(seed, share)
    low, high = _naive(since) or datetime(1970, 1, 1), _naive(until) or datetime(2100, 1, 1)  # noqa: DTZ001
    span = {"low": low, "high": high}
    seen = "first_at >= $low" if continued else "last_at >= $low"
    yield (
        CUSTOMERS,
        _arrow(
            con,
            f"""SELECT CustomerID::INTEGER AS customer_id, 'c' || CustomerID || '@shop.example' AS email,
                country, first_at AS created_at FROM customers
                WHERE {seen} AND first_at < $high ORDER BY customer_id""",  # noqa: S608
            span,
        ),
    )
    inside = "happened_at >= $low AND happened_at < $high"
    yield (
        ORDERS,
        _arrow(
            con,
            f"""SELECT InvoiceNo AS order_id, customer_id, happened_at AS ordered_at, country,
                CASE WHEN starts_with(InvoiceNo, 'A') THEN 'adjustment' ELSE 'sale' END AS kind,
                'web' AS channel, NULL::INTEGER AS campaign_id, total_minor, '{CURRENCY}' AS currency,
                false AS generated
                FROM invoices WHERE NOT is_return AND {inside} ORDER BY happened_at, order_id""",  # noqa: S608
            span,
        ),
    )
    yield (
        ORDER_LINES,
        _arrow(
            con,
            f"""SELECT line_id, InvoiceNo AS order_id, line_no, stock_code, description, quantity, unit_price,
                line_total_minor FROM lines WHERE NOT is_return AND {inside} ORDER BY line_id""",  # noqa: S608
            span,
        ),
    )
    yield (
        RETURNS,
        _arrow(
            con,
            f"""SELECT InvoiceNo AS return_id, customer_id, happened_at AS returned_at, total_minor,
                '{CURRENCY}' AS currency FROM invoices WHERE is_return AND {inside}
                ORDER BY happened_at, return_id""",  # noqa: S608
            span,
        ),
    )
    yield (
        RETURN_LINES,
        _arrow(
            con,
            f"""SELECT line_id, InvoiceNo AS return_id, stock_code, description, quantity, unit_price,
                line_total_minor FROM lines WHERE is_return AND {inside} ORDER BY line_id""",  # noqa: S608
            span,
        ),
    )


@lru_cache(maxsize=2)
def _prepared(seed: int, share: float) -> Any:
    """Return a DuckDB connection with `lines`, `invoices` and `customers` of the chosen share of the shop.

    Ids are numbered over the whole file before anything is cut, so that a line has the same id in every slice.
    """
    import duckdb

    if not ONLINE_RETAIL.exists():
        raise DrillError("The sample data is missing", where=str(ONLINE_RETAIL))
    con = duckdb.connect()
    con.execute("SET threads = 2")
    con.execute("SET enable_progress_bar = false")
    con.execute(
        """CREATE TABLE raw AS
        SELECT file_row_number AS n, starts_with(InvoiceNo, 'C') AS is_return, InvoiceNo, StockCode, Description,
            Quantity, UnitPrice, CustomerID, InvoiceDate, Country
        FROM read_parquet($path, file_row_number = true, hive_partitioning = false)""",
        {"path": str(ONLINE_RETAIL)},
    )
    con.execute(
        """CREATE TABLE numbered AS
        SELECT n, is_return, InvoiceNo,
            row_number() OVER (PARTITION BY is_return ORDER BY n)::INTEGER AS line_id,
            row_number() OVER (PARTITION BY InvoiceNo ORDER BY n)::INTEGER AS line_no,
            StockCode AS stock_code, Description AS description, Quantity::INTEGER AS quantity,
            UnitPrice::DECIMAL(12, 3) AS unit_price,
            round(Quantity * UnitPrice::DECIMAL(12, 3) * 100)::BIGINT AS line_total_minor
        FROM raw"""
    )
    con.execute(
        """CREATE TABLE all_invoices AS
        SELECT InvoiceNo, any_value(is_return) AS is_return, min(InvoiceDate) AS happened_at, min(n) AS n,
            min(CustomerID)::INTEGER AS customer_id, arg_min(Country, n) AS country
        FROM raw GROUP BY InvoiceNo"""
    )
    keep = f"md5_number(coalesce(customer_id::VARCHAR, InvoiceNo) || '/{seed:d}') % 1000000 < {share * 1_000_000:.0f}"
    con.execute(
        f"""CREATE TABLE kept AS SELECT * FROM all_invoices WHERE {keep if share < 1 else "true"}"""  # noqa: S608
    )
    con.execute(
        """CREATE TABLE lines AS SELECT numbered.*, kept.happened_at FROM numbered JOIN kept USING (InvoiceNo)"""
    )
    con.execute(
        """CREATE TABLE invoices AS
        SELECT kept.*, totals.total_minor FROM kept JOIN (
            SELECT InvoiceNo, sum(line_total_minor)::BIGINT AS total_minor FROM lines GROUP BY InvoiceNo
        ) AS totals USING (InvoiceNo)"""
    )
    con.execute(
        """CREATE TABLE customers AS
        SELECT customer_id AS CustomerID, min(happened_at) AS first_at, max(happened_at) AS last_at,
            arg_min(country, n) AS country
        FROM invoices WHERE customer_id IS NOT NULL GROUP BY customer_id"""
    )
    for made_on_the_way in ("raw", "numbered", "all_invoices", "kept"):
        con.execute(f"DROP TABLE {made_on_the_way}")
    return con


# DuckDB complains on standard error about a connection that is still open when the interpreter goes down.
atexit.register(_prepared.cache_clear)


def _arrow(con: Any, query: str, span: dict[str, datetime]) -> pa.Table:
    used = {name: value for name, value in span.items() if f"${name}" in query}
    return con.sql(query, params=used).to_arrow_table()


def _naive(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.astimezone(UTC).replace(tzinfo=None)


def _aware(moment: datetime | None) -> datetime | None:
    return None if moment is None else moment.replace(tzinfo=UTC)
