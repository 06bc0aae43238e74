"""What is read out of the canonical views, on the smallest ones that show it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import pandas as pd
import pytest

from tasks.impact import reactions_of, read_evidence

NINE = datetime(2011, 11, 16, 9, 0, tzinfo=UTC)


@pytest.fixture
def connection():
    con = duckdb.connect()
    con.execute("""
        CREATE SCHEMA canonical; CREATE SCHEMA after_esp; CREATE SCHEMA after_shop;
        CREATE TABLE canonical.campaigns(campaign_id BIGINT, name VARCHAR, kind VARCHAR, send_at TIMESTAMP,
            latest_useful_at TIMESTAMP, audience BIGINT, started_at TIMESTAMP);
        CREATE TABLE canonical.messages(campaign_id BIGINT, subscriber_id BIGINT, outcome VARCHAR,
            attempted_at TIMESTAMP);
        CREATE TABLE canonical.events(campaign_id BIGINT, subscriber_id BIGINT, occurred_at TIMESTAMP, type VARCHAR);
        CREATE TABLE canonical.suppressions(subscriber_id BIGINT, reason VARCHAR, since TIMESTAMP);
        CREATE TABLE canonical.orders(order_id VARCHAR, ordered_at TIMESTAMP, total_minor BIGINT, currency VARCHAR,
            subscriber_id BIGINT, campaign_id BIGINT);
    """)
    yield con
    con.close()


def test_orders_in_another_currency_are_counted_apart_and_not_added(connection):
    for number, (total, currency) in enumerate(
        [(100, "GBP"), (9_000, "JPY"), (200, "gbp"), (5, None), (0, "EUR")]
    ):
        connection.execute(
            "INSERT INTO canonical.orders VALUES (?, '2011-11-16', ?, ?, NULL, NULL)",
            [str(number), total, currency],
        )
    found = read_evidence(connection, esp="esp", shop="shop", since=NINE, currency="GBP")
    assert found.orders["total_minor"].tolist() == [100, 200]
    assert found.other_currencies == {"": 1, "JPY": 1}


def test_a_refusal_and_a_bounce_that_comes_later_both_count_once_and_only_inside_the_span():
    attempts = pd.DataFrame(
        [
            (1, 10, "accepted", NINE),
            (1, 11, "accepted", NINE),
            (1, 12, "bounced", NINE),
            (1, 13, "unknown", NINE),
            (1, 14, "bounced", NINE - timedelta(hours=1)),
            (1, 15, "not_attempted", NINE),
            (3, 16, "not_attempted", NINE),
        ],
        columns=["campaign_id", "subscriber_id", "outcome", "attempted_at"],
    )
    reactions = pd.DataFrame(
        [(1, 10, "bounce"), (1, 12, "bounce"), (1, 14, "bounce"), (2, 11, "bounce")],
        columns=["campaign_id", "subscriber_id", "type"],
    )
    found = reactions_of(attempts, reactions, since=NINE, until=NINE + timedelta(hours=1)).to_dict("records")
    nothing = {"messages": 0, "bounce": 0, "complaint": 0, "unsubscribe": 0}
    assert found == [
        {"campaign_id": 1} | nothing | {"messages": 3, "bounce": 2, "deferral": 1},
        {"campaign_id": 3} | nothing | {"deferral": 1},
    ]
