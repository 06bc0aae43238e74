"""Every way to harm a clean snapshot is found, by the rule that should find it, and told without an address.

The table of harms is docs/reference/damage.md, written by `pytest tests/checks/test_dirty_matrix.py --write-docs`.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs/reference/damage.md"
HEAD = """# Damage and what finds it

Each line harms a small clean shop or provider in one way and holds it against the contracts that come with Mailstay and
the valid snapshots before it. The rule must find it, with this severity and this many rows (or columns), and name no
address; the clean ones must give no finding. Critical findings quarantine the snapshot.

Written by `pytest tests/checks/test_dirty_matrix.py --write-docs`.

| of | damage | found by | severity | counted |
|---|---|---|---|--:|
"""


@dataclass(frozen=True)
class Harm:
    """How a snapshot is harmed, and what must be said of it.

    Attributes:
        do: harms the shop.
        rule: the rule that must find it.
        severity: how grave that is.
        failed: how many rows (or columns) must be counted; None where the rule is broken.
        keys: the sample keys that must be quoted.
        says: what the message must contain.
        of: which tables are harmed.
    """

    name: str
    do: Callable[[Any], None]
    rule: str
    severity: str
    failed: int | None
    keys: tuple[str, ...] = ()
    says: str = ""
    of: str = "shop"


def _set(table: str, column: str, value: Any, *rows: int) -> Callable[[Any], None]:
    def do(shop: Any) -> None:
        for row in rows:
            shop.rows[table][row][column] = value

    return do


def _drop_column(table: str, column: str) -> Callable[[Any], None]:
    def do(shop: Any) -> None:
        kept = [field for field in shop.schemas[table] if field.name != column]
        shop.schemas[table] = pa.schema(kept)
        for row in shop.rows[table]:
            del row[column]

    return do


def _retype(
    table: str, column: str, kind: pa.DataType, change: Callable[[Any], Any]
) -> Callable[[Any], None]:
    def do(shop: Any) -> None:
        schema = shop.schemas[table]
        shop.schemas[table] = schema.set(schema.get_field_index(column), pa.field(column, kind))
        for row in shop.rows[table]:
            row[column] = change(row[column])

    return do


def _duplicate(table: str, row: int, **changes: Any) -> Callable[[Any], None]:
    return lambda shop: shop.rows[table].append({**shop.rows[table][row], **changes})


def _impossible_dates(shop: Any) -> None:
    """What a backup of SQLite makes of a date that does not exist: the whole column becomes text."""
    _retype("orders", "ordered_at", pa.string(), lambda moment: moment.isoformat(sep=" "))(shop)
    shop.rows["orders"][4]["ordered_at"] = "2011-13-45 99:00:00"


def _add_column(shop: Any) -> None:
    shop.schemas["customers"] = shop.schemas["customers"].append(pa.field("phone", pa.string()))


def _remove_table(shop: Any) -> None:
    del shop.rows["customers"]


def _extra_table(shop: Any) -> None:
    shop.rows["coupons"] = [{"code": "X"}]
    shop.schemas["coupons"] = pa.schema([("code", pa.string())])


def _empty(table: str) -> Callable[[Any], None]:
    return lambda shop: shop.rows[table].clear()


def _counted(table: str, rows: int) -> Callable[[Any], None]:
    return lambda shop: shop.counted.update({table: rows})


def _shrunk(shop: Any) -> None:
    shop.previous["orders"] = 40


def _unreadable_numbers(shop: Any) -> None:
    """An address where a number belongs: whatever DuckDB says about it would quote it."""
    _retype("orders", "customer_id", pa.string(), str)(shop)
    shop.rows["orders"][2]["customer_id"] = "eve.doe@secret.example"


def _key_that_is_an_address(shop: Any) -> None:
    shop.rows["orders"][3]["order_id"] = "bob@x.example"
    shop.rows["order_lines"][3]["order_id"] = "bob@x.example"


def _rename(table: str, old: str, new: str) -> Callable[[Any], None]:
    def do(shop: Any) -> None:
        schema = shop.schemas[table]
        at = schema.get_field_index(old)
        shop.schemas[table] = schema.set(at, schema.field(at).with_name(new))
        for row in shop.rows[table]:
            row[new] = row.pop(old)

    return do


def _declare(column: str, kind: str, *, nullable: bool = False) -> Callable[[Any], None]:
    return lambda shop: shop.declared.update({column: (kind, nullable)})


def _more_orders(count: int) -> Callable[[Any], None]:
    def do(shop: Any) -> None:
        for n in range(count):
            order, line = shop.rows["orders"][0], shop.rows["order_lines"][0]
            shop.rows["orders"].append({**order, "order_id": f"{600_000 + n}"})
            shop.rows["order_lines"].append({**line, "line_id": 900 + n, "order_id": f"{600_000 + n}"})

    return do


def _pounds_for_pence(shop: Any) -> None:
    for row in (*shop.rows["orders"], *shop.rows["order_lines"]):
        for column in row.keys() & {"total_minor", "line_total_minor"}:
            row[column] //= 100


def _forget(table: str, row: int) -> Callable[[Any], None]:
    return lambda shop: shop.rows[table].pop(row)


def _imported_again(esp: Any) -> None:
    """Deleted and imported: the same address under another id, and mailable."""
    esp.rows["subscribers"][0] |= {"id": 99, "status": "enabled"}
    for row in esp.rows["subscriber_lists"]:
        row["subscriber_id"] = 99 if row["subscriber_id"] == 1 else row["subscriber_id"]


def _message(subscriber: int, after: timedelta) -> Callable[[Any], None]:
    def do(esp: Any) -> None:
        sent = esp.rows["subscribers"][0]["updated_at"] + after
        esp.rows["messages"].append(
            {**esp.rows["messages"][0], "id": 99, "subscriber_id": subscriber, "queued_at": sent}
        )

    return do


def _all(*harms: Callable[[Any], None]) -> Callable[[Any], None]:
    def do(tables: Any) -> None:
        for harm in harms:
            harm(tables)

    return do


FUTURE = datetime(2011, 11, 17)  # noqa: DTZ001
LONG_AGO = datetime(1970, 1, 1)  # noqa: DTZ001

HARMS = [
    Harm(
        "a key occurs twice",
        _duplicate("customers", 0, email="other@shop.example"),
        "customers.customer_id.primary_key",
        "critical",
        2,
        ("customer_id=12001",),
        "2 of 21 rows break the rule that no key occurs twice",
    ),
    Harm(
        "a key is missing",
        _set("customers", "customer_id", None, 5),
        "customers.customer_id.not_null",
        "critical",
        1,
        ("customer_id=null",),
    ),
    Harm(
        "two customers share an address",
        _set("customers", "email", "c12001@shop.example", 1),
        "customers.email.unique",
        "critical",
        2,
        ("customer_id=12001", "customer_id=12002"),
    ),
    Harm(
        "the same line twice in an order",
        _duplicate("order_lines", 0, line_id=99),
        "order_lines.order_id+line_no.unique",
        "critical",
        2,
        ("line_id=1", "line_id=99"),
    ),
    Harm(
        "orders of a customer who does not exist",
        _set("orders", "customer_id", 99999, 0, 1, 2),
        "orders.customer_id.foreign_key",
        "critical",
        3,
        ("order_id=536001", "order_id=536002", "order_id=536003"),
        "3 of 20 rows break the rule that it exists in customers.customer_id",
    ),
    Harm(
        "lines without their order",
        lambda shop: shop.rows["orders"].pop(0),
        "order_lines.order_id.foreign_key",
        "critical",
        1,
        ("line_id=1",),
    ),
    Harm(
        "an order from tomorrow",
        _set("orders", "ordered_at", FUTURE, 7),
        "orders.ordered_at.dates",
        "critical",
        1,
        ("order_id=536008",),
        "not after 2011-11-16 07:05 UTC",
    ),
    Harm(
        "an order from before there was a shop",
        _set("orders", "ordered_at", LONG_AGO, 7, 8),
        "orders.ordered_at.dates",
        "critical",
        2,
        ("order_id=536008", "order_id=536009"),
    ),
    Harm(
        "a date that does not exist",
        _impossible_dates,
        "orders.ordered_at.type",
        "critical",
        1,
        ("order_id=536005",),
        "1 of 20 rows hold something that is no timestamp",
    ),
    Harm(
        "an address without an at sign",
        _set("customers", "email", "nobody.shop.example", 3),
        "customers.email.format",
        "critical",
        1,
        ("customer_id=12004",),
        "it is written as an email address",
    ),
    Harm(
        "two addresses in one field",
        _set("customers", "email", "a@x.example,b@x.example", 3),
        "customers.email.format",
        "critical",
        1,
        ("customer_id=12004",),
    ),
    Harm(
        "an address with a space",
        _set("customers", "email", " c12004@shop.example", 3),
        "customers.email.format",
        "critical",
        1,
        ("customer_id=12004",),
    ),
    Harm(
        "an address that is missing",
        _set("customers", "email", None, 3),
        "customers.email.not_null",
        "critical",
        1,
        ("customer_id=12004",),
    ),
    Harm(
        "an address that is longer than addresses are",
        _set("customers", "email", "a" * 60 + "@" + "b" * 60 + ".c" * 80 + ".example", 3),
        "customers.email.length",
        "critical",
        1,
        ("customer_id=12004",),
    ),
    Harm(
        "a kind that does not exist",
        _set("orders", "kind", "gift", 1, 3),
        "orders.kind.allowed",
        "critical",
        2,
        ("order_id=536002", "order_id=536004"),
        "it is one of: sale, adjustment",
    ),
    Harm(
        "a currency in lower case",
        _set("orders", "currency", "gbp", 1),
        "orders.currency.format",
        "critical",
        1,
        ("order_id=536002",),
    ),
    Harm(
        "fewer rows than the source counted",
        _counted("orders", 25),
        "orders.rows_match_source",
        "critical",
        5,
        says="orders holds 20 rows, its source counted 25",
    ),
    Harm(
        "more rows than the source counted",
        _counted("orders", 19),
        "orders.rows_match_source",
        "critical",
        1,
    ),
    Harm(
        "half of the rows are gone since the last valid snapshot",
        _shrunk,
        "orders.rows_shrink",
        "critical",
        18,
        says="at least 38 of the 40 rows of the last valid snapshot remain",
    ),
    Harm(
        "an empty table",
        _empty("customers"),
        "customers.rows_at_least",
        "critical",
        1,
        says="customers holds 0 rows",
    ),
    Harm(
        "a missing table",
        _remove_table,
        "customers.exists",
        "critical",
        1,
        says="The table customers is missing from the snapshot",
    ),
    Harm(
        "a missing column",
        _drop_column("orders", "currency"),
        "orders.currency.exists",
        "critical",
        1,
        says="The column orders.currency is missing",
    ),
    Harm(
        "a missing key column",
        _drop_column("order_lines", "line_id"),
        "order_lines.line_id.exists",
        "critical",
        1,
    ),
    Harm(
        "a number that became text",
        _retype("orders", "total_minor", pa.string(), str),
        "orders.total_minor.type",
        "critical",
        20,
        says="orders.total_minor is VARCHAR; the contract says its type is integer",
    ),
    Harm(
        "exact decimals that became floating point",
        _retype("order_lines", "unit_price", pa.float64(), float),
        "order_lines.unit_price.type",
        "critical",
        20,
        says="order_lines.unit_price is DOUBLE",
    ),
    Harm(
        "an address in a number",
        _unreadable_numbers,
        "orders.customer_id.type",
        "critical",
        1,
        ("order_id=536003",),
    ),
    Harm(
        "a key that is an address",
        _key_that_is_an_address,
        "orders.order_id.format",
        "warning",
        1,
        ("order_id=<address>",),
    ),
    Harm(
        "a total that its lines do not sum to",
        _set("orders", "total_minor", 766, 2),
        "orders.total_minor.lines_sum_to_total",
        "critical",
        1,
        ("order_id=536003",),
        "it equals the sum of order_lines.line_total_minor",
    ),
    Harm(
        "a sale below nothing",
        _set("orders", "total_minor", -1, 2),
        "orders.kind+total_minor.sales_not_negative",
        "warning",
        1,
        ("order_id=536003",),
    ),
    Harm(
        "more orders without a customer than usual",
        _set("orders", "customer_id", None, *range(10)),
        "orders.customer_id.not_null",
        "warning",
        10,
    ),
    Harm(
        "a column that nobody knows",
        _add_column,
        "customers.columns_known",
        "warning",
        1,
        says="customers has 1 column that the contract does not name: phone",
    ),
    Harm(
        "a table that nobody checks",
        _extra_table,
        "coupons.uncontracted",
        "warning",
        1,
        says="nothing of it was checked",
    ),
    Harm(
        "no order is of a customer",
        _set("orders", "customer_id", None, *range(20)),
        "orders.customer_id.has_values",
        "critical",
        20,
        (),
        "",
        "shop",
    ),
    Harm(
        "half as many orders again as before, and more",
        _more_orders(12),
        "orders.rows_grow",
        "warning",
        2,
        (),
        "at most 30 rows after 20",
        "shop",
    ),
    Harm(
        "more orders than ten valid snapshots lead to expect",
        _more_orders(3),
        "orders.rows_change",
        "warning",
        2,
        (),
        "lead to expect 19 to 21 rows",
        "shop",
    ),
    Harm(
        "no order for weeks: a stale copy",
        lambda shop: [row.update(ordered_at=LONG_AGO.replace(year=2011)) for row in shop.rows["orders"]],
        "orders.ordered_at.fresh",
        "warning",
        1,
        (),
        "is stale",
        "shop",
    ),
    Harm(
        "every sale became an adjustment",
        _set("orders", "kind", "adjustment", *range(20)),
        "orders.kind.drift",
        "warning",
        0,
        (),
        "adjustment was 0.0%, is 100.0%",
        "shop",
    ),
    Harm(
        "pounds where pence belong",
        _pounds_for_pence,
        "orders.total_minor.drift",
        "warning",
        0,
        (),
        "",
        "shop",
    ),
    Harm(
        "an order without lines",
        _forget("order_lines", 4),
        "orders.order_id.has_lines",
        "critical",
        1,
        ("order_id=536005",),
        "",
        "shop",
    ),
    Harm(
        "an address in a free text",
        _set("order_lines", "description", "for eve@x.example", 2),
        "order_lines.description.no_addresses",
        "warning",
        1,
        ("line_id=3",),
        "",
        "shop",
    ),
    Harm(
        "a column that was renamed",
        _rename("customers", "email", "mail_address"),
        "customers.mail_address.schema_renamed",
        "critical",
        1,
        (),
        "email is called mail_address now",
        "shop",
    ),
    Harm(
        "a column that is gone since the last valid snapshot",
        _drop_column("orders", "currency"),
        "orders.currency.schema_removed",
        "critical",
        1,
        (),
        "",
        "shop",
    ),
    Harm(
        "a column that is new since then",
        _add_column,
        "customers.phone.schema_added",
        "warning",
        1,
        (),
        "",
        "shop",
    ),
    Harm(
        "a column of another type since then",
        _retype("orders", "total_minor", pa.string(), str),
        "orders.total_minor.schema_retyped",
        "critical",
        1,
        (),
        "",
        "shop",
    ),
    Harm(
        "texts that may be shorter only",
        _all(_declare("customers.country", "VARCHAR(8)")),
        "customers.country.schema_narrowed",
        "warning",
        1,
        (),
        "",
        "shop",
    ),
    Harm(
        "a column that may be empty now",
        _declare("customers.country", "string", nullable=True),
        "customers.country.schema_nullable",
        "warning",
        1,
        (),
        "",
        "shop",
    ),
    Harm(
        "another primary key",
        lambda shop: shop.keys.update(orders=("order_id", "kind")),
        "orders.schema_key",
        "critical",
        1,
        (),
        "",
        "shop",
    ),
    Harm(
        "a foreign key that is not declared any more",
        lambda shop: shop.unlinked.add("orders"),
        "orders.customer_id.schema_foreign_key",
        "info",
        1,
        (),
        "",
        "shop",
    ),
    Harm(
        "an opt-out that disappeared",
        _forget("consent_requests", 0),
        "consent_requests.kind.opt_out_kept",
        "critical",
        1,
        ("request_id=1",),
        "",
        "shop",
    ),
    Harm(
        "an opt-out that became a wish for mail",
        _set("consent_requests", "kind", "subscribe", 0),
        "consent_requests.kind.opt_out_holds",
        "critical",
        1,
        ("request_id=1",),
        "",
        "shop",
    ),
    Harm(
        "an old wish for mail that was dated after the opt-out",
        _set("consent_requests", "requested_at", FUTURE - timedelta(days=2), 3),
        "consent_requests.kind.opt_out_holds",
        "critical",
        1,
        ("request_id=4",),
        "",
        "shop",
    ),
    Harm(
        "a date of consent that moved back",
        _set("consent_requests", "requested_at", LONG_AGO.replace(year=2010), 1),
        "consent_requests.kind.consent_date_kept",
        "critical",
        1,
        ("request_id=2",),
        "",
        "shop",
    ),
    Harm(
        "an opt-out that is somebody else's now",
        _set("consent_requests", "customer_id", 12009, 0),
        "consent_requests.kind.opt_out_kept",
        "critical",
        1,
        (),
        "",
        "shop",
    ),
    Harm(
        "a blocked person who may be mailed",
        _set("subscribers", "status", "enabled", 0),
        "subscribers.status.opt_out_holds",
        "critical",
        1,
        ("id=1",),
        "",
        "esp",
    ),
    Harm(
        "a blocked person who is gone",
        _forget("subscribers", 0),
        "subscribers.status.opt_out_kept",
        "critical",
        1,
        ("id=1",),
        "",
        "esp",
    ),
    Harm(
        "a blocked person who was deleted and imported again",
        _imported_again,
        "subscribers.status.opt_out_kept",
        "critical",
        1,
        ("id=1",),
        "",
        "esp",
    ),
    Harm(
        "a block that moved back in time",
        _set("subscribers", "updated_at", LONG_AGO, 0),
        "subscribers.status.consent_date_kept",
        "critical",
        1,
        ("id=1",),
        "",
        "esp",
    ),
    Harm(
        "somebody who left is on the list again",
        _set("subscriber_lists", "status", "confirmed", 2),
        "subscriber_lists.status.opt_out_holds",
        "critical",
        1,
        ("subscriber_id=2 list_id=1",),
        "",
        "esp",
    ),
    Harm(
        "a later date is no proof on a list with single opt-in",
        _all(
            _set("subscriber_lists", "status", "confirmed", 2),
            _set("subscriber_lists", "updated_at", FUTURE - timedelta(days=2), 2),
        ),
        "subscriber_lists.status.opt_out_holds",
        "critical",
        1,
        (),
        "",
        "esp",
    ),
    Harm(
        "the record that somebody left is gone",
        _forget("subscriber_lists", 2),
        "subscriber_lists.status.opt_out_kept",
        "critical",
        1,
        ("subscriber_id=2 list_id=1",),
        "",
        "esp",
    ),
    Harm(
        "a campaign without a list",
        _forget("campaign_lists", 1),
        "campaigns.id.goes_to_a_list",
        "critical",
        1,
        ("id=2",),
        "",
        "esp",
    ),
    Harm(
        "a campaign that claims more than was sent",
        _set("campaigns", "sent", 25, 0),
        "campaigns.sent.sent_is_what_was_accepted",
        "warning",
        1,
        ("id=1",),
        "number of rows in messages",
        "esp",
    ),
    Harm(
        "a message to somebody who was blocked before",
        _message(1, timedelta(hours=1)),
        "messages.id.nothing_to_the_blocked",
        "warning",
        1,
        ("id=99",),
        "",
        "esp",
    ),
    Harm(
        "a message to somebody who had left",
        _message(2, timedelta(hours=1)),
        "messages.id.nothing_after_opting_out",
        "warning",
        1,
        ("id=99",),
        "",
        "esp",
    ),
    Harm(
        "a second message of one campaign to one person",
        _message(3, timedelta(hours=30)),
        "messages.campaign_id+subscriber_id.unique",
        "critical",
        2,
        (),
        "",
        "esp",
    ),
    Harm(
        "a contact's opt-out from one list is gone",
        _set("contacts", "listUnsubscribed", "[]", 1),
        "contacts.emailBlacklisted.opt_out_kept",
        "critical",
        1,
        ("id=2",),
        "",
        "brevo",
    ),
    Harm(
        "a contact is on the list that it left",
        _all(_set("contacts", "listUnsubscribed", "[]", 1), _set("contacts", "listIds", "[1, 2]", 1)),
        "contacts.emailBlacklisted.opt_out_holds",
        "critical",
        1,
        ("id=2",),
        "",
        "brevo",
    ),
    Harm(
        "a blacklisted contact may be mailed",
        _set("contacts", "emailBlacklisted", False, 0),
        "contacts.emailBlacklisted.opt_out_holds",
        "critical",
        1,
        ("id=1",),
        "",
        "brevo",
    ),
    Harm(
        "a blocked recipient is gone",
        _forget("blocked_contacts", 0),
        "blocked_contacts.email.opt_out_kept",
        "critical",
        1,
        (),
        "",
        "brevo",
    ),
    Harm(
        "a subscription that had ended is confirmed, by no later opt-in",
        _set("subscribers", "lists", json.dumps([{"id": 1, "subscription_status": "confirmed"}]), 1),
        "subscribers.status.opt_out_holds",
        "critical",
        1,
        ("id=2",),
        "",
        "listmonk_api",
    ),
    Harm(
        "a list that counts more than its subscriptions",
        _set("lists", "subscriber_count", "9", 1),
        "lists.id.counts_its_subscriptions",
        "warning",
        1,
        ("id=2",),
        "",
        "listmonk_api",
    ),
    Harm(
        "a list that counts more than its contacts",
        _set("lists", "contact_count", 9, 0),
        "lists.contact_count.counts_its_contacts",
        "warning",
        1,
        ("id=1",),
        "",
        "sendgrid",
    ),
    Harm(
        "an unsubscribe is gone",
        _forget("unsubscribes", 0),
        "unsubscribes.email.opt_out_kept",
        "critical",
        1,
        (),
        "",
        "sendgrid",
    ),
    Harm(
        "an unsubscribe that moved back in time",
        _set("unsubscribes", "created", 1_300_000_000, 0),
        "unsubscribes.email.consent_date_kept",
        "critical",
        1,
        (),
        "",
        "sendgrid",
    ),
]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
def test_is_found_by_its_rule_and_told_without_an_address(
    harm: Harm, check: Any, addresses_in: Any, contracts_by_source: Any, request: pytest.FixtureRequest
) -> None:
    tables = request.getfixturevalue(harm.of)
    past = tables.as_past(contracts_by_source[harm.of])
    harm.do(tables)
    report = check(tables, only=harm.rule.split(".")[0], past=past)
    found = {finding.rule: finding for finding in report.findings}
    assert harm.rule in found, report.reason
    finding = found[harm.rule]
    assert (finding.severity, finding.status, finding.failed) == (harm.severity, "failed", harm.failed)
    assert set(harm.keys) <= set(finding.sample_keys)
    assert harm.says in finding.message
    critical = any(one.severity == "critical" for one in report.findings)
    assert report.outcome == ("quarantined" if critical else "valid")
    if harm.severity == "critical":
        assert report.outcome == "quarantined"
        assert finding.message in report.reason
    told = json.dumps([one.as_dict() for one in report.findings])
    assert addresses_in(told) == addresses_in(report.reason) == []


def test_the_page_of_damage_says_what_is_tested(request: pytest.FixtureRequest) -> None:
    rows = [f"| {one.of} | {one.name} | `{one.rule}` | {one.severity} | {one.failed} |" for one in HARMS]
    page = HEAD + "\n".join(sorted(rows, reverse=True)) + "\n"
    assert len({one.name for one in HARMS}) == len(HARMS) > 60
    if request.config.getoption("--write-docs"):
        PAGE.write_text(page)
    assert PAGE.read_text() == page, "run pytest tests/checks/test_dirty_matrix.py --write-docs"


@pytest.mark.parametrize("of", ["shop", "esp", "brevo", "listmonk_api", "sendgrid"])
def test_clean_tables_with_a_past_give_no_finding(
    of: str, check: Any, contracts_by_source: Any, request: pytest.FixtureRequest
) -> None:
    tables = request.getfixturevalue(of)
    past = tables.as_past(contracts_by_source[of])
    report = check(tables, past=past)
    assert (report.outcome, report.findings, report.waiting) == ("valid", [], [])


def test_with_a_list_its_opt_outs_go_and_an_address_that_comes_back_blocked_is_blocked(
    brevo: Any, check: Any, contracts_by_source: Any
) -> None:
    past = brevo.as_past(contracts_by_source["brevo"])
    del brevo.rows["lists"][0]
    _set("contacts", "listUnsubscribed", "[]", 1)(brevo)
    _set("contacts", "id", 99, 0)(brevo)
    rules = {one.rule.rpartition(".")[2] for one in check(brevo, past=past).findings}
    assert not rules & {"opt_out_kept", "opt_out_holds", "consent_date_kept"}


def test_the_data_docs_of_a_thoroughly_dirty_shop_hold_no_address(
    shop: Any, check: Any, addresses_in: Any, tmp_path: Path
) -> None:
    _duplicate("customers", 0)(shop)
    _set("customers", "email", "two@x.example,bob@x.example", 3, 4)(shop)
    _set("customers", "country", "eve@x.example" * 9, 3, 4)(shop)
    _set("orders", "kind", "mal@x.example", 1, 2)(shop)
    _key_that_is_an_address(shop)
    _unreadable_numbers(shop)
    report = check(shop, docs_folder=tmp_path / "docs")
    assert len(report.findings) > 5
    assert {finding.table for finding in report.findings} == {"customers", "orders"}
    assert len(list(Path(report.docs).glob("validations/**/*.html"))) == 4
    assert addresses_in(Path(report.docs)) == addresses_in(report) == []
    assert addresses_in(json.dumps(shop.rows, default=str)) != []


def test_a_clean_shop_is_valid_without_a_single_finding(shop: Any, check: Any, tmp_path: Path) -> None:
    report = check(shop, docs_folder=tmp_path / "docs")
    assert (report.outcome, report.findings) == ("valid", [])
    assert report.checks > 90
    assert (Path(report.docs) / "index.html").is_file()
    pages = {path.parent.parent.parent.name for path in Path(report.docs).glob("validations/**/*.html")}
    assert pages == {"customers", "orders", "order_lines", "consent_requests"}


def test_a_rule_that_held_for_want_of_values_is_named(shop: Any, check: Any) -> None:
    assert "orders.campaign_id.range" in check(shop).unexercised
    shop.rows["orders"][0] |= {"campaign_id": 7, "channel": "email"}
    assert "orders.campaign_id.range" not in check(shop).unexercised


def test_an_empty_table_does_not_pass_because_no_row_breaks_a_rule(shop: Any, check: Any) -> None:
    for rows in shop.rows.values():
        rows.clear()
    report = check(shop)
    assert report.outcome == "quarantined"
    empty = {finding.rule for finding in report.findings}
    assert {"customers.rows_at_least", "orders.rows_at_least", "order_lines.rows_at_least"} <= empty


def test_a_table_emptied_between_count_and_read_is_found_though_it_may_be_empty(
    shop: Any, check: Any
) -> None:
    shop.rows["order_lines"].clear()
    shop.counted["order_lines"] = 20
    assert "order_lines.rows_match_source" in {finding.rule for finding in check(shop).findings}


def test_rules_on_a_missing_column_are_broken_and_not_silently_left_out(shop: Any, check: Any) -> None:
    _drop_column("customers", "email")(shop)
    report = check(shop)
    broken = {finding.rule: finding for finding in report.findings if finding.status == "broken"}
    assert set(broken) == {
        "customers.email.not_null",
        "customers.email.type",
        "customers.email.unique",
        "customers.email.format",
        "customers.email.length",
    }
    assert "could not be asked: customers has no column email" in broken["customers.email.format"].message


def test_a_rule_that_raises_is_broken_and_blocks_as_its_severity_says(
    shop: Any, contracts: Any, addresses_in: Any, tmp_path: Path
) -> None:
    from tasks.checks.contracts import RowRule
    from tasks.checks.running import check_data

    shop.rows["customers"][0]["email"] = "eve@secret.example"
    for severity, outcome in (("critical", "quarantined"), ("warning", "valid")):
        rule = RowRule(
            name="raises",
            says="nothing",
            holds="CAST(email AS INTEGER) > 0",
            columns=["email"],
            severity=severity,
        )
        harmed = {
            **contracts,
            "customers": contracts["customers"].model_copy(update={"row_rules": [rule]}),
        }
        at = shop.data().consistency_at
        report = check_data(shop.data(), harmed, at=at, docs_folder=tmp_path / "docs")
        finding = report.findings[0]
        assert (len(report.findings), finding.rule, finding.status) == (1, "customers.email.raises", "broken")
        assert report.outcome == outcome
        assert "could not be asked: Conversion Error" in finding.message
        assert addresses_in(finding) == addresses_in(tmp_path / "docs") == []
        assert "eve" not in finding.message


def test_one_broken_rule_does_not_hide_what_the_others_find(shop: Any, contracts: Any) -> None:
    from tasks.checks.contracts import RowRule
    from tasks.checks.running import check_data

    shop.rows["customers"][3]["email"] = "nobody"
    rule = RowRule(name="raises", says="nothing", holds="no_such_function(email)", columns=["email"])
    harmed = {**contracts, "customers": contracts["customers"].model_copy(update={"row_rules": [rule]})}
    report = check_data(shop.data(), harmed, at=shop.data().consistency_at)
    assert {finding.rule for finding in report.findings} == {
        "customers.email.raises",
        "customers.email.format",
    }


def test_the_clock_difference_that_the_contract_allows_is_allowed(shop: Any, check: Any) -> None:
    at = shop.data().consistency_at.replace(tzinfo=None)
    shop.rows["orders"][0]["ordered_at"] = at + timedelta(minutes=5)
    assert check(shop).findings == []
    shop.rows["orders"][0]["ordered_at"] = at + timedelta(minutes=5, seconds=1)
    assert [finding.rule for finding in check(shop).findings] == ["orders.ordered_at.dates"]


def test_a_column_with_a_time_zone_is_compared_in_utc(shop: Any, check: Any) -> None:
    _retype("orders", "ordered_at", pa.timestamp("us", "Asia/Tokyo"), lambda moment: moment)(shop)
    at = shop.data().consistency_at.replace(tzinfo=None)
    shop.rows["orders"][0]["ordered_at"] = at + timedelta(minutes=4)
    shop.rows["orders"][1]["ordered_at"] = at + timedelta(minutes=6)
    (finding,) = check(shop).findings
    assert (finding.rule, finding.sample_keys) == ("orders.ordered_at.dates", ["order_id=536002"])


def test_a_snapshot_without_any_of_the_tables_is_quarantined(shop: Any, check: Any) -> None:
    shop.rows.clear()
    report = check(shop)
    assert report.outcome == "quarantined"
    assert [finding.rule for finding in report.findings] == [
        "consent_requests.exists",
        "customers.exists",
        "order_lines.exists",
        "orders.exists",
    ]


def test_without_a_contract_nothing_is_called_valid(shop: Any) -> None:
    from tasks.checks.errors import ChecksError
    from tasks.checks.running import check_data

    with pytest.raises(ChecksError, match="There is no contract"):
        check_data(shop.data(), {}, at=shop.data().consistency_at)
