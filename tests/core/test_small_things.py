"""Money, errors, digests, texts and crash points."""

from __future__ import annotations

import signal
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from tasks.core import MailstayError, Money, UsageError, canonical_json, digest_of, mask_addresses, plural


def test_money_is_exact_and_refuses_to_mix_currencies() -> None:
    assert (Money(1050, "GBP") + Money(-50, "GBP")).amount == Decimal("10.00")
    assert str(Money(-123456, "EUR")) == "-€1,234.56"
    assert Money(500, "JPY").amount == 500
    assert Money(123456, "GBP").whole() == "£1,235"
    with pytest.raises(ValueError, match="cannot combine GBP with EUR"):
        Money(1, "GBP") - Money(1, "EUR")


def test_an_error_says_what_where_and_how_to_mend_it() -> None:
    error = UsageError("The plan is empty", where="plan.yaml", fix="copy the example")
    assert str(error) == "The plan is empty (plan.yaml). To fix it: copy the example"
    assert (error.exit_code, MailstayError("x").exit_code) == (2, 1)


def test_canonical_json_depends_on_the_value_alone() -> None:
    one = {"b": [1, Decimal("1.0")], "a": datetime(2011, 1, 1, tzinfo=UTC), "é": None}
    other = dict(reversed(one.items()))
    assert canonical_json(one) == canonical_json(other)
    assert digest_of(one) == digest_of(other)
    assert digest_of(one) != digest_of({**one, "b": [1]})


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_canonical_json_refuses_what_json_cannot_say(value: float) -> None:
    with pytest.raises(ValueError):
        canonical_json({"x": value})
    with pytest.raises(TypeError, match="no canonical JSON form"):
        canonical_json({"x": object()})


def test_addresses_are_masked_in_any_text() -> None:
    for quoted in ('"a b"@x.example', '""a b""@x.example', '\\"a b\\"@x.example'):
        assert mask_addresses(f"is {quoted} VARCHAR") == "is <address> VARCHAR"
    assert mask_addresses("for {a}|b@x.example") == "for <address>", (
        "braces and bars are letters of an address"
    )
    assert mask_addresses("to <o'neil+x@mail.example.co.uk>, c12@shop.example") == "to <<address>>, <address>"
    assert (
        mask_addresses("an jürgen@münchen.de: o#b@x.com, 'q@x.com'") == "an <address>: <address>, <address>'"
    )


def test_plural() -> None:
    assert (plural(1, "row"), plural(1200, "row"), plural(2, "entry", "entries")) == (
        "1 row",
        "1,200 rows",
        "2 entries",
    )


@pytest.mark.parametrize(
    ("armed", "lines"), [("b", ["a"]), ("a#2", ["a", "b"]), ("*#4", ["a", "b", "a"]), ("z", None)]
)
def test_a_crash_point_kills_at_the_named_passing_only(armed: str, lines: list[str] | None) -> None:
    script = (
        "from tasks.core import crash_point\n"
        "for name in ('a', 'b', 'a', 'b'):\n"
        "    crash_point(name)\n"
        "    print(name, flush=True)\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script],
        env={"MAILSTAY_CRASH_AT": armed},
        capture_output=True,
        text=True,
        check=False,
    )
    expected = ["a", "b", "a", "b"] if lines is None else lines
    assert run.stdout.split() == expected
    assert run.returncode == (0 if lines is None else -signal.SIGKILL)
