"""At risk apart from lost; lost by whatever still witnesses it; the rest estimated and labelled."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import duckdb
import pytest

from tasks.impact import TableAbout, measure_data

IMPACT = datetime(2011, 11, 16, 8, 0, tzinfo=UTC)
POINT = IMPACT - timedelta(hours=6)

TABLES = (
    TableAbout("esp", "events", ("id", "type", "campaign_id", "subscriber_id", "occurred_at"), ("id",)),
    TableAbout("esp", "subscribers", ("id", "status", "created_at"), ("id",)),
    TableAbout("esp", "subscriber_lists", ("subscriber_id", "list_id", "status", "created_at"),
               ("subscriber_id", "list_id")),
    TableAbout("esp", "campaigns", ("id", "attribs", "status", "created_at"), ("id",)),
    TableAbout("esp", "campaign_lists", ("id", "campaign_id", "list_id"), ("id",),
               (("campaign_id", "campaigns", "id"), ("list_id", "lists", "id"))),
    TableAbout("shop", "orders", ("order_id", "ordered_at"), ("order_id",)),
    TableAbout("shop", "order_lines", ("line_id", "order_id"), ("line_id",), (("order_id", "orders", "order_id"),)),
    TableAbout("shop", "webhook_receipts", ("receipt_id", "received_at"), ("receipt_id",)),
    TableAbout("shop", "consent_requests", ("request_id", "requested_at"), ("request_id",)),
)  # fmt: skip


@pytest.fixture
def connection():
    con = duckdb.connect()
    for side in ("before", "after"):
        con.execute(f"CREATE SCHEMA {side}_esp; CREATE SCHEMA {side}_shop")
        con.execute(f"""
            CREATE TABLE {side}_esp.events(id INT, type VARCHAR, campaign_id INT, subscriber_id INT,
                occurred_at TIMESTAMP);
            CREATE TABLE {side}_esp.subscribers(id INT, status VARCHAR, created_at TIMESTAMP);
            CREATE TABLE {side}_esp.subscriber_lists(subscriber_id INT, list_id INT, status VARCHAR,
                created_at TIMESTAMP);
            CREATE TABLE {side}_esp.campaigns(id INT, attribs JSON, status VARCHAR, created_at TIMESTAMP);
            CREATE TABLE {side}_esp.campaign_lists(id INT, campaign_id INT, list_id INT);
            CREATE TABLE {side}_shop.orders(order_id VARCHAR, ordered_at TIMESTAMP);
            CREATE TABLE {side}_shop.order_lines(line_id INT, order_id VARCHAR);
            CREATE TABLE {side}_shop.webhook_receipts(receipt_id INT, provider_event_id INT, event_type VARCHAR,
                campaign_id INT, subscriber_id INT, occurred_at TIMESTAMP, received_at TIMESTAMP);
            CREATE TABLE {side}_shop.consent_requests(request_id INT, customer_id INT, kind VARCHAR,
                requested_at TIMESTAMP);
        """)
    yield con
    con.close()


def put(con, table, *rows):
    for row in rows:
        values = [one.replace(tzinfo=None) if isinstance(one, datetime) else one for one in row]
        con.execute(f"INSERT INTO {table} VALUES ({', '.join('?' for _ in row)})", values)


def measure(con, point=POINT, **options):
    return measure_data(
        con,
        TABLES,
        consistency_at={"esp": point, "shop": point},
        impact_started_at=IMPACT,
        last_attempt_at=IMPACT + timedelta(seconds=5),
        restored_at=IMPACT + timedelta(hours=5),
        events_source="esp",
        witness_source="shop",
        **options,
    )


def risk(found, table):
    [row] = found.at_risk[found.at_risk["table"] == table].to_dict("records")
    return int(row["rows"])


def lost(found, table, witness):
    [row] = found.lost[(found.lost["table"] == table) & (found.lost["witness"] == witness)].to_dict("records")
    return int(row["rows"])


def test_rows_are_at_risk_after_the_snapshot_and_up_to_the_impact(connection):
    put(connection, "after_shop.orders", ("a", POINT), ("b", IMPACT), ("c", IMPACT + timedelta(seconds=1)))
    put(connection, "after_shop.order_lines", (1, "a"), (2, "b"), (3, "b"), (4, "c"))
    found = measure(connection)
    assert (risk(found, "orders"), risk(found, "order_lines")) == (1, 2)
    assert found.rows_lost == 0


def test_without_a_valid_snapshot_every_row_is_at_risk(connection):
    put(connection, "after_shop.orders", ("a", POINT), ("b", IMPACT))
    assert risk(measure(connection, point=None), "orders") == 2


def test_an_event_that_our_webhook_saw_and_the_provider_lost_is_at_risk_and_lost(connection):
    at = IMPACT - timedelta(minutes=3)
    put(
        connection,
        "after_shop.webhook_receipts",
        (1, 7, "open", 1, 10, at, at),
        (2, 8, "open", 1, 11, at, at),
    )
    put(connection, "after_esp.events", (8, "open", 1, 11, at))
    found = measure(connection)
    assert (risk(found, "events"), lost(found, "events", "webhook receipts")) == (2, 1)


def test_an_event_id_that_was_given_away_again_does_not_hide_the_loss(connection):
    at = IMPACT - timedelta(minutes=3)
    put(connection, "after_shop.webhook_receipts", (1, 7, "open", 1, 10, at, at))
    put(connection, "after_esp.events", (7, "click", 2, 99, IMPACT + timedelta(hours=6)))
    assert lost(measure(connection), "events", "webhook receipts") == 1


def test_a_row_of_the_last_snapshot_that_is_gone_is_lost(connection):
    put(connection, "before_esp.subscribers", (1, "enabled", POINT), (2, "enabled", POINT))
    put(connection, "after_esp.subscribers", (1, "enabled", POINT))
    found = measure(connection)
    assert lost(found, "subscribers", "last snapshot") == 1
    assert found.rows_lost == 1


def test_links_of_a_campaign_that_the_recovery_rewrote_are_not_lost(connection):
    put(connection, "before_esp.campaign_lists", (1, 5, 1), (2, 6, 1))
    assert lost(measure(connection), "campaign_lists", "last snapshot") == 2
    assert lost(measure(connection, rewritten=[5]), "campaign_lists", "last snapshot") == 1


def test_an_opt_out_that_the_provider_does_not_honour_is_found(connection):
    put(
        connection,
        "after_shop.consent_requests",
        (1, 10, "unsubscribe", IMPACT),
        (2, 11, "unsubscribe", IMPACT),
        (3, 11, "subscribe", IMPACT),
        (4, 12, "unsubscribe", IMPACT),
    )
    put(connection, "after_esp.subscribers", *((who, "enabled", POINT) for who in (10, 11, 12)))
    put(
        connection,
        "after_esp.subscriber_lists",
        (10, 1, "confirmed", POINT),
        (11, 1, "confirmed", POINT),
        (12, 1, "unsubscribed", POINT),
    )
    assert measure(connection).opt_outs_missing == 1


def test_a_list_that_only_a_finished_catch_up_used_counts_no_more(connection):
    put(connection, "after_shop.consent_requests", (1, 10, "unsubscribe", IMPACT))
    put(connection, "after_esp.subscribers", (10, "enabled", POINT))
    put(
        connection, "after_esp.subscriber_lists", (10, 1, "unsubscribed", POINT), (10, 9, "confirmed", IMPACT)
    )
    put(connection, "after_esp.campaigns", (50, '{"catch_up_of": 5}', "finished", IMPACT))
    put(connection, "after_esp.campaign_lists", (1, 50, 9))
    assert measure(connection).opt_outs_missing == 0
    connection.execute("UPDATE after_esp.campaigns SET status = 'running'")
    assert measure(connection).opt_outs_missing == 1


def test_what_nothing_witnesses_is_estimated_from_the_same_hours_of_other_weeks_and_says_so(connection):
    for week in range(1, 5):
        at = IMPACT - timedelta(weeks=week) + timedelta(hours=1)
        put(connection, "after_esp.events", *((100 * week + n, "open", 1, n, at) for n in range(10)))
    put(connection, "after_esp.events", (1, "open", 1, 1, IMPACT + timedelta(hours=1)))
    found = measure(connection)
    [row] = found.lost[found.lost["table"] == "events (opens)"].to_dict("records")
    assert (row["rows"], row["estimated"], row["witness"]) == (9, True, "nothing")
    assert row["note"].startswith("estimated")
    assert found.rows_lost == 0


def test_a_missing_opt_out_is_a_wish_and_not_a_lost_row(connection):
    put(connection, "after_shop.consent_requests", (1, 10, "unsubscribe", IMPACT))
    put(connection, "after_esp.subscribers", (10, "enabled", POINT))
    put(connection, "after_esp.subscriber_lists", (10, 1, "confirmed", POINT))
    found = measure(connection)
    assert (found.opt_outs_missing, found.rows_lost) == (1, 0)


def test_hostile_column_and_source_names_stay_names():
    con, name = duckdb.connect(), 'a"; DROP TABLE x; --'
    quoted = '"' + name.replace('"', '""') + '"'
    schemas = [f'"{side}_' + quoted[1:] for side in ("before", "after")]
    for schema in schemas:
        con.execute(f"CREATE SCHEMA {schema}")
        con.execute(f"CREATE TABLE {schema}.parent({quoted} INT, created_at TIMESTAMP)")
        con.execute(f"CREATE TABLE {schema}.child({quoted} INT)")
    con.execute(f"INSERT INTO {schemas[0]}.child VALUES (1), (2)")
    con.execute(f"INSERT INTO {schemas[1]}.parent VALUES (1, ?)", [IMPACT.replace(tzinfo=None)])
    con.execute(f"INSERT INTO {schemas[1]}.child VALUES (1)")
    tables = (
        TableAbout(name, "parent", (name, "created_at"), (name,)),
        TableAbout(name, "child", (name,), (name,), ((name, "parent", name),)),
    )
    found = measure_data(
        con, tables, consistency_at={name: POINT}, impact_started_at=IMPACT, last_attempt_at=IMPACT,
        restored_at=IMPACT, events_source=name, witness_source=name,
    )  # fmt: skip
    assert (risk(found, "child"), lost(found, "child", "last snapshot")) == (1, 1)


def test_a_hostile_table_name_stays_a_name(connection):
    connection.execute('CREATE TABLE after_shop."x""; DROP TABLE orders; --"(id INT, created_at TIMESTAMP)')
    hostile = TableAbout("shop", 'x"; DROP TABLE orders; --', ("id", "created_at"), ("id",))
    found = measure_data(
        connection, [*TABLES, hostile], consistency_at={"esp": POINT, "shop": POINT}, impact_started_at=IMPACT,
        last_attempt_at=IMPACT, restored_at=IMPACT, events_source="esp", witness_source="shop",
    )  # fmt: skip
    assert risk(found, hostile.name) == 0
    assert connection.execute("SELECT count(*) FROM after_shop.orders").fetchone() == (0,)
