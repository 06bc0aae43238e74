"""Every way to harm a clean snapshot is found, by the rule that should find it, and told without an address."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest


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
    """

    name: str
    do: Callable[[Any], None]
    rule: str
    severity: str
    failed: int | None
    keys: tuple[str, ...] = ()
    says: str = ""


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
]


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.name)
def test_is_found_by_its_rule_and_told_without_an_address(
    harm: Harm, shop: Any, check: Any, addresses_in: Any
) -> None:
    harm.do(shop)
    report = check(shop, only=harm.rule.split(".")[0])
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
    assert len(list(Path(report.docs).glob("validations/**/*.html"))) == 3
    assert addresses_in(Path(report.docs)) == addresses_in(report) == []
    assert addresses_in(json.dumps(shop.rows, default=str)) != []


def test_a_clean_shop_is_valid_without_a_single_finding(shop: Any, check: Any, tmp_path: Path) -> None:
    report = check(shop, docs_folder=tmp_path / "docs")
    assert (report.outcome, report.findings) == ("valid", [])
    assert report.checks > 90
    assert (Path(report.docs) / "index.html").is_file()
    pages = {path.parent.parent.parent.name for path in Path(report.docs).glob("validations/**/*.html")}
    assert pages == {"customers", "orders", "order_lines"}


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
        "customers.exists",
        "order_lines.exists",
        "orders.exists",
    ]


def test_without_a_contract_nothing_is_called_valid(shop: Any) -> None:
    from tasks.checks.errors import ChecksError
    from tasks.checks.running import check_data

    with pytest.raises(ChecksError, match="There is no contract"):
        check_data(shop.data(), {}, at=shop.data().consistency_at)
