"""The gate decides by severity, says since when, and tells it so that a person can act; errors lose their values."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tasks.checks.findings import CheckFinding, Outcome
from tasks.checks.gate import date_back, decide, explain, worst_first
from tasks.checks.privacy import scrub

FINDING = CheckFinding(
    rule="orders.customer_id.foreign_key",
    table="orders",
    column="customer_id",
    severity="critical",
    failed=3,
    total=20,
    sample_keys=["order_id=536365"],
    message="orders.customer_id: 3 of 20 rows break the rule that it exists in customers.customer_id; order_id=536365",
    since="shop/00000003",
)
WARNING = replace(
    FINDING, rule="orders.country.length", severity="warning", message="orders.country is too long"
)


@pytest.mark.parametrize(
    ("severity", "status", "outcome"),
    [
        ("critical", "failed", "quarantined"),
        ("critical", "broken", "quarantined"),
        ("warning", "failed", "valid"),
        ("warning", "broken", "valid"),
        ("info", "failed", "valid"),
        ("info", "broken", "valid"),
    ],
)
def test_only_critical_findings_quarantine_failed_or_broken(
    severity: str, status: str, outcome: Outcome
) -> None:
    assert decide([replace(FINDING, severity=severity, status=status)]) == outcome  # type: ignore[arg-type]


def test_nothing_found_is_valid() -> None:
    assert decide([]) == "valid"


def test_the_worst_comes_first() -> None:
    broken = replace(FINDING, status="broken", rule="a")
    info = replace(FINDING, severity="info", rule="a")
    assert worst_first([info, WARNING, broken, FINDING]) == [FINDING, broken, WARNING, info]


@pytest.mark.parametrize(
    ("history", "since"),
    [
        ([], "shop/00000005"),
        ([("shop/00000004", set())], "shop/00000005"),
        ([("shop/00000004", {FINDING.rule}), ("shop/00000003", set())], "shop/00000004"),
        ([("shop/00000004", {FINDING.rule}), ("shop/00000002", {FINDING.rule, "x"})], "shop/00000002"),
        ([("shop/00000004", {"x"}), ("shop/00000003", {FINDING.rule})], "shop/00000005"),
    ],
)
def test_since_goes_back_as_far_as_the_finding_stood_without_a_break(
    history: list[tuple[str, set[str]]], since: str
) -> None:
    (dated,) = date_back([FINDING], "shop/00000005", history)
    assert dated.since == since


def test_history_is_read_only_as_far_as_needed() -> None:
    def history() -> object:
        yield "shop/00000004", {FINDING.rule}
        yield "shop/00000003", set()
        raise AssertionError("read too far")

    (dated,) = date_back([FINDING], "shop/00000005", history())  # type: ignore[arg-type]
    assert dated.since == "shop/00000004"


def test_a_quarantine_says_what_where_how_many_since_when_and_what_to_use_instead() -> None:
    text = explain("shop/00000005", [FINDING, WARNING], 218, "shop/00000002")
    assert text.splitlines() == [
        "shop/00000005 is quarantined: 1 critical rule failed.",
        "- orders.customer_id: 3 of 20 rows break the rule that it exists in customers.customer_id; "
        "order_id=536365 (since shop/00000003)",
        "Beside them 1 finding of lesser severity.",
        "The last good snapshot is shop/00000002.",
    ]


def test_a_quarantine_without_a_good_snapshot_says_so() -> None:
    assert explain("shop/00000001", [FINDING], 1, "").endswith("There is no good snapshot before it.")


def test_broken_rules_are_counted_apart() -> None:
    broken = replace(FINDING, status="broken")
    assert "1 critical rule failed and 2 critical rules could not be asked" in explain(
        "shop/00000001", [FINDING, broken, broken], 9, ""
    )


def test_a_long_list_is_cut_and_says_so() -> None:
    text = explain("shop/00000001", [FINDING] * 30, 99, "")
    assert text.count("\n- orders") == 12
    assert "- and 18 more" in text


def test_a_valid_snapshot_still_tells_its_warnings() -> None:
    text = explain("shop/00000001", [WARNING], 218, "")
    assert text.startswith("shop/00000001 is valid: 218 checks, none of the critical ones failed.")
    assert "- warning: orders.country is too long" in text


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            "(_duckdb.ConversionException) Conversion Error: Could not convert string 'bob@x.example' to INT32\n"
            "LINE 1: SELECT 'bob'",
            "Conversion Error: Could not convert string <value> to INT32",
        ),
        (
            'Conversion Error: invalid timestamp field format: "Eve Doe", expected format is (YYYY-MM-DD)',
            "Conversion Error: invalid timestamp field format: <value>, expected format is (YYYY-MM-DD)",
        ),
        (
            "Conversion Error: Type INT64 with value 447700900123 can't be cast",
            "Conversion Error: Type INT64 with value <number> can<value>",
        ),
        ('Binder Error: column "email" not found', 'Binder Error: column "email" not found'),
        ("said bob@x.example loudly", "said <address> loudly"),
        ("cut off 'in the middle of a val", "cut off <value>"),
        ("", "no reason given"),
    ],
)
def test_an_error_loses_the_values_that_a_database_quotes(error: str, told: str) -> None:
    assert scrub(error, {"email", "orders"}) == told
