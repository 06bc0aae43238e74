"""The mappings bring the tables of each source kind onto the canonical model."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import duckdb
import pytest

from tasks.core import SystemClock, UsageError
from tasks.snapshots import CANONICAL, SigningKey, Store, canonical_views, connect, take_snapshot
from tasks.sources import open_source

LISTMONK = """
CREATE TABLE subscribers (id INTEGER PRIMARY KEY, uuid TEXT, email TEXT, name TEXT, attribs JSON, status VARCHAR(16),
    created_at TIMESTAMP, updated_at TIMESTAMP);
CREATE TABLE lists (id INTEGER PRIMARY KEY, name TEXT);
CREATE TABLE subscriber_lists (subscriber_id INTEGER, list_id INTEGER, status VARCHAR(16), created_at TIMESTAMP,
    updated_at TIMESTAMP, PRIMARY KEY (subscriber_id, list_id));
CREATE TABLE templates (id INTEGER PRIMARY KEY, name TEXT, updated_at TIMESTAMP);
CREATE TABLE campaigns (id INTEGER PRIMARY KEY, name TEXT, status VARCHAR(16), send_at TIMESTAMP, attribs JSON,
    to_send INTEGER, started_at TIMESTAMP);
CREATE TABLE campaign_lists (campaign_id INTEGER, list_id INTEGER, list_name TEXT);
CREATE TABLE campaign_views (id INTEGER PRIMARY KEY, campaign_id INTEGER, subscriber_id INTEGER, created_at TIMESTAMP);
CREATE TABLE link_clicks (id INTEGER PRIMARY KEY, campaign_id INTEGER, link_id INTEGER, subscriber_id INTEGER,
    created_at TIMESTAMP);
CREATE TABLE bounces (id INTEGER PRIMARY KEY, subscriber_id INTEGER, campaign_id INTEGER, type VARCHAR(16),
    created_at TIMESTAMP);
INSERT INTO subscribers SELECT value, '', 'c' || value || '@shop.example', '', '{}', 'enabled', '2011-01-01 00:00:00',
    '2011-01-02 00:00:00' FROM json_each('[1,2,3,4,5]');
UPDATE subscribers SET status = 'blocklisted' WHERE id = 5;
INSERT INTO lists VALUES (1, 'all');
INSERT INTO subscriber_lists SELECT id, 1, 'confirmed', '2011-01-01 00:00:00', '2011-01-03 00:00:00' FROM subscribers;
UPDATE subscriber_lists SET status = 'unsubscribed' WHERE subscriber_id = 4;
INSERT INTO templates VALUES (1, 'plain', '2011-01-01 00:00:00');
INSERT INTO campaigns VALUES
    (1, 'news', 'running', '2011-02-01 08:00:00', '{"kind": "newsletter"}', 4, '2011-02-01 08:00:01'),
    (2, 'sale', 'scheduled', '2011-02-02 08:00:00',
        '{"kind": "sale", "latest_useful_at": "2011-02-02T18:00:00+00:00"}', 0, NULL),
    (3, 'news [catch-up]', 'finished', NULL, '{"kind": "newsletter", "catch_up_of": 1, "catch_up_step": 1}', 1, NULL);
INSERT INTO campaign_lists VALUES (1, 1, 'all'), (2, 1, 'all');
INSERT INTO bounces VALUES (1, 3, 1, 'soft', '2011-02-01 09:00:00'), (2, 2, 1, 'hard', '2011-02-01 09:00:00'),
    (3, 2, 1, 'hard', '2011-02-01 10:00:00'), (4, 1, 1, 'complaint', '2011-02-01 11:00:00');
INSERT INTO campaign_views VALUES (1, 1, 1, '2011-02-01 09:00:00');
INSERT INTO link_clicks VALUES (1, 1, 1, 1, '2011-02-01 09:01:00');
"""
LOGS = """
CREATE TABLE messages (id INTEGER PRIMARY KEY, campaign_id INTEGER, subscriber_id INTEGER, status VARCHAR(16),
    queued_at TIMESTAMP, updated_at TIMESTAMP, smtp_code INTEGER);
CREATE TABLE events (id INTEGER PRIMARY KEY, type VARCHAR(16), campaign_id INTEGER, subscriber_id INTEGER,
    occurred_at TIMESTAMP);
INSERT INTO messages VALUES
    (1, 1, 1, 'accepted', '2011-02-01 08:00:00', '2011-02-01 08:00:01', 250),
    (2, 1, 2, 'sending', '2011-02-01 08:00:00', '2011-02-01 08:00:00', NULL),
    (3, 1, 3, 'failed', '2011-02-01 08:00:00', '2011-02-01 08:00:01', 550),
    (4, 1, 4, 'failed', '2011-02-01 08:00:00', '2011-02-01 08:00:01', 451),
    (5, 1, 5, 'failed', '2011-02-01 08:00:00', '2011-02-01 08:00:01', NULL),
    (6, 3, 4, 'accepted', '2011-02-01 13:00:00', '2011-02-01 13:00:01', 250);
INSERT INTO events VALUES (1, 'delivered', 1, 1, '2011-02-01 08:01:00'), (2, 'open', 3, 4, '2011-02-01 13:30:00');
"""
SHOP = """
CREATE TABLE orders (order_id VARCHAR(16) PRIMARY KEY, customer_id INTEGER, ordered_at TIMESTAMP, country TEXT,
    kind VARCHAR(12), channel VARCHAR(8), campaign_id INTEGER, total_minor BIGINT, currency CHAR(3), generated BOOLEAN);
CREATE TABLE order_lines (line_id INTEGER PRIMARY KEY, order_id VARCHAR(16), line_no INTEGER, stock_code TEXT,
    quantity INTEGER, unit_price NUMERIC(12,3), line_total_minor BIGINT);
CREATE TABLE returns (return_id VARCHAR(16) PRIMARY KEY, customer_id INTEGER, returned_at TIMESTAMP,
    total_minor BIGINT, currency CHAR(3));
INSERT INTO orders VALUES ('1', 7, '2011-02-01 09:00:00', 'UK', 'sale', 'web', NULL, 510, 'GBP', 0),
    ('2', NULL, '2011-02-01 09:00:00', 'UK', 'adjustment', 'web', NULL, -100, 'GBP', 0),
    ('E3', 8, '2011-02-01 09:30:00', 'UK', 'sale', 'email', 1, 999, 'GBP', 1);
INSERT INTO order_lines VALUES (1, '1', 1, 'A', 2, 2.55, 510), (2, '2', 1, 'B', 1, -1, -100);
INSERT INTO returns VALUES ('C1', 7, '2011-02-03 09:00:00', -255, 'GBP');
"""


@pytest.fixture
def model(tmp_path: Path, key: SigningKey) -> Callable[..., duckdb.DuckDBPyConnection]:
    """A function that backs up databases built from scripts and returns the canonical views over them."""

    def build(**scripts: str) -> duckdb.DuckDBPyConnection:
        store = Store.open(str(tmp_path / "store"), signing_key=key, create=True)
        snapshots = {}
        for name, script in scripts.items():
            with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
                connection.executescript(script)
            source = open_source(name, f"sqlite:///{tmp_path / name}.db")
            snapshots[name] = take_snapshot(source, store, clock=SystemClock(), plan_digest="").snapshot_id
        connection = connect(store, snapshots)
        for name in scripts:
            canonical_views(connection, name, name)  # type: ignore[arg-type]
        return connection

    return build


def rows(connection: duckdb.DuckDBPyConnection, query: str) -> list[tuple[Any, ...]]:
    return connection.execute(query).fetchall()


def test_the_shop_gives_orders_lines_and_refunds_without_adjustments(model: Any) -> None:
    connection = model(shop=SHOP)
    assert rows(
        connection,
        "SELECT order_id, subscriber_id, total_minor, campaign_id FROM canonical.orders ORDER BY 1",
    ) == [
        ("1", 7, 510, None),
        ("E3", 8, 999, 1),
    ]
    assert rows(connection, "SELECT * FROM canonical.order_lines") == [("1", 1, "A", 2, 510)]
    assert rows(connection, "SELECT refund_id, total_minor FROM canonical.refunds") == [("C1", -255)]


def test_the_send_log_says_what_became_of_every_message(model: Any) -> None:
    outcome = "SELECT campaign_id, subscriber_id, outcome FROM canonical.messages ORDER BY 2"
    assert rows(model(listmonk=LISTMONK + LOGS), outcome) == [
        (1, 1, "accepted"),
        (1, 2, "unknown"),
        (1, 3, "bounced"),
        (1, 4, "accepted"),  # by the catch-up, which counts as its original
        (1, 5, "not_attempted"),
    ]


def test_suppressions_carry_their_reason_and_since_when(model: Any) -> None:
    query = "SELECT subscriber_id, reason, since FROM canonical.suppressions ORDER BY 1"
    assert [(one, reason, str(since)) for one, reason, since in rows(model(listmonk=LISTMONK), query)] == [
        (1, "complaint", "2011-02-01 11:00:00"),
        (2, "hard_bounce", "2011-02-01 09:00:00"),
        (4, "unsubscribed", "2011-01-03 00:00:00"),
        (5, "manual", "2011-01-02 00:00:00"),
    ]


def test_campaigns_carry_kind_deadline_and_audience_and_leave_out_catch_ups(model: Any) -> None:
    query = "SELECT campaign_id, kind, status, latest_useful_at, audience FROM canonical.campaigns ORDER BY 1"
    deadline = dt.datetime.fromisoformat("2011-02-02T18:00:00")
    assert rows(model(listmonk=LISTMONK), query) == [
        (1, "newsletter", "running", None, 4),
        (2, "sale", "scheduled", deadline, 3),
    ]


def test_events_come_from_the_event_log_or_else_from_listmonks_own_tables(model: Any) -> None:
    query = "SELECT event_id, type, campaign_id, subscriber_id FROM canonical.events ORDER BY 1"
    connection = model(listmonk=LISTMONK)
    assert rows(connection, query) == [
        ("bounce-1", "bounce", 1, 3),
        ("bounce-2", "bounce", 1, 2),
        ("bounce-3", "bounce", 1, 2),
        ("bounce-4", "complaint", 1, 1),
        ("click-1", "click", 1, 1),
        ("view-1", "open", 1, 1),
    ]
    assert rows(connection, "SELECT * FROM canonical.messages") == [], "listmonk itself has no send log"


def test_events_of_a_catch_up_count_for_its_original(model: Any) -> None:
    query = "SELECT event_id, type, campaign_id FROM canonical.events ORDER BY 1"
    assert rows(model(listmonk=LISTMONK + LOGS), query) == [("1", "delivered", 1), ("2", "open", 1)]


def test_both_sources_together_give_every_canonical_table_with_the_documented_columns(model: Any) -> None:
    connection = model(shop=SHOP, listmonk=LISTMONK + LOGS)
    for table, columns in CANONICAL.items():
        described = connection.execute(f"DESCRIBE canonical.{table}").fetchall()
        assert [(name, kind) for name, kind, *_ in described] == [(name, kind) for name, kind, _ in columns]
        assert all(meaning.endswith(".") for _, _, meaning in columns)
        connection.execute(f"SELECT * FROM canonical.{table}").fetchall()


def test_an_unknown_mapping_is_refused() -> None:
    with pytest.raises(UsageError, match="no mapping"):
        canonical_views(duckdb.connect(), "x", "klaviyo")  # type: ignore[arg-type]
