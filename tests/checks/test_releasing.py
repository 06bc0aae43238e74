"""A person may say that what contracts found is how the data is: signed, for just that, and never for damage."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from flows.cli import app
from tasks.checks.checking import last_good_before, mark_snapshot, run_checks
from tasks.checks.contracts import Contract
from tasks.checks.findings import CheckReport
from tasks.checks.releasing import release_snapshot
from tasks.core import DrivenClock, UsageError
from tasks.incidents import open_journal
from tasks.plan import load_plan
from tasks.snapshots import Damaged, Store, load_or_create_key, take_snapshot, verify_and_record
from tasks.sources import open_source

KINDS = ["new", "paid"]


class Orders:
    """A table of orders, its snapshots, and what `validate` says of them by a contract that tests change."""

    def __init__(self, folder: Path, clock: DrivenClock) -> None:
        self.folder, self.clock = folder, clock
        self.key = load_or_create_key(folder / "key.pem")
        self.store = Store.open(str(folder / "store"), signing_key=self.key, create=True)
        self.allowed: dict[str, list[str]] = {"kind": KINDS}
        self.sql("CREATE TABLE orders (id INTEGER PRIMARY KEY, kind TEXT, state TEXT)")
        self.sql("INSERT INTO orders VALUES " + ", ".join(f"({one}, 'new', 'open')" for one in range(50)))

    def sql(self, statement: str) -> None:
        with closing(sqlite3.connect(self.folder / "shop.db")) as connection:
            connection.execute(statement)
            connection.commit()

    def reopened(self) -> Store:
        """Return the store as another process would see it, which has hashed nothing yet."""
        self.store = Store.open(str(self.folder / "store"), signing_key=self.key)
        return self.store

    def back_up(self) -> str:
        self.clock.advance(3600)
        source = open_source("shop", f"sqlite:///{self.folder / 'shop.db'}")
        return take_snapshot(source, self.store, clock=self.clock, plan_digest="0" * 64).snapshot_id

    def validate(self, snapshot_id: str) -> CheckReport:
        columns: dict[str, Any] = {
            "id": {"type": "integer"},
            "kind": {"type": "text"},
            "state": {"type": "text"},
        }
        for name, values in self.allowed.items():
            columns[name]["allowed"] = {"values": values, "severity": "critical"}
        contract = Contract.model_validate({"table": "orders", "primary_key": ["id"], "columns": columns})
        report = run_checks(
            self.store,
            snapshot_id,
            {"orders": contract},
            previous=last_good_before(self.store, snapshot_id),
            docs_folder=None,
            clock=self.clock,
        )
        mark_snapshot(self.store, report, clock=self.clock)
        return report

    def release(self, snapshot_id: str, by: str = "Ada", because: str = "they were imported so") -> None:
        release_snapshot(self.store, snapshot_id, by=by, because=because, at=self.clock.now())


@pytest.fixture
def orders(tmp_path: Path, clock: DrivenClock) -> Orders:
    return Orders(tmp_path, clock)


@pytest.fixture
def bad(orders: Orders) -> str:
    """A snapshot that is quarantined: three orders are of a kind that the contract does not know."""
    orders.sql("UPDATE orders SET kind = 'gift' WHERE id < 3")
    snapshot = orders.back_up()
    assert orders.validate(snapshot).outcome == "quarantined"
    return snapshot


def test_a_release_makes_the_snapshot_valid_and_says_who_why_and_in_spite_of_what(
    orders: Orders, bad: str
) -> None:
    orders.release(bad)
    (info,) = Store.open(str(orders.folder / "store"), public_key=orders.store.public_key_hex).list()
    assert info.state == "valid" and info.release is not None
    assert (info.release.by, info.release.because) == ("Ada", "they were imported so")
    assert info.release.at == orders.clock.now()
    assert [(one["rule"], one["failed"]) for one in info.release.findings] == [("orders.kind.allowed", 3)]


def test_the_same_release_again_adds_nothing(orders: Orders, bad: str) -> None:
    orders.release(bad)
    orders.release(bad)
    assert len(orders.store.verdicts(bad)) == 2
    with pytest.raises(UsageError, match="is valid: there is no quarantine"):
        orders.release(bad, by="Bob")


def test_validating_again_keeps_the_release_as_long_as_nothing_new_is_found(orders: Orders, bad: str) -> None:
    orders.release(bad)
    for _ in range(2):
        report = orders.validate(bad)
        assert report.outcome == orders.store.state(bad) == "valid"
        assert "Ada released it" in report.reason and "orders.kind" in report.reason
    newest = orders.store.verdicts(bad)[-1]
    assert not isinstance(newest, Damaged)
    assert newest.by == "validate" and newest.release is not None and newest.release.by == "Ada"


@pytest.mark.parametrize(
    "change",
    [lambda allowed: allowed.update(state=["closed"]), lambda allowed: allowed.update(kind=["paid"])],
    ids=["another rule", "more rows"],
)
def test_a_new_finding_ends_the_release_for_good(
    orders: Orders, bad: str, change: Callable[[dict[str, list[str]]], None]
) -> None:
    orders.release(bad)
    change(orders.allowed)
    report = orders.validate(bad)
    assert report.outcome == orders.store.state(bad) == "quarantined"
    assert "the release is over" in report.reason
    orders.allowed = {"kind": KINDS}
    assert orders.validate(bad).outcome == "quarantined"


def test_the_next_snapshot_with_the_same_findings_is_quarantined(orders: Orders, bad: str) -> None:
    orders.release(bad)
    report = orders.validate(orders.back_up())
    assert (report.outcome, report.last_good) == ("quarantined", bad)


def by_verification(orders: Orders, bad: str) -> None:
    verify_and_record(orders.reopened(), at=orders.clock.now(), by="verify")
    assert orders.store.state(bad) == "quarantined"


def by_checks(orders: Orders, bad: str) -> None:
    orders.reopened()
    assert "orders.readable" in {one.rule for one in orders.validate(bad).findings}


def by_nobody_yet(orders: Orders, bad: str) -> None:
    orders.reopened()


@pytest.mark.parametrize("found", [by_verification, by_checks, by_nobody_yet])
def test_damage_cannot_be_released(orders: Orders, bad: str, found: Callable[[Orders, str], None]) -> None:
    for path in (orders.folder / "store" / "objects").rglob("*.parquet"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(content)
    found(orders, bad)
    with pytest.raises(UsageError, match="cannot be released"):
        orders.release(bad)
    assert orders.store.state(bad) == "quarantined"


@pytest.mark.parametrize("what", ["because", "state"])
def test_a_release_that_was_tampered_with_is_refused(orders: Orders, bad: str, what: str) -> None:
    orders.release(bad)
    newest = max((orders.folder / "store" / "verify").rglob("*.json"))
    record = json.loads(newest.read_text())
    body = record.get("body", record)
    if what == "because":
        body["release"]["because"] = "nothing to see"
    else:
        body["release"]["findings"] = []
    newest.chmod(0o600)
    newest.write_text(json.dumps(record))
    assert orders.store.state(bad) == "committed"
    with pytest.raises(Damaged):
        orders.release(bad)
    assert orders.validate(bad).outcome == "quarantined"


@pytest.mark.parametrize(("by", "because"), [("", "why"), ("Ada", " "), ("validate", "why")])
def test_nobody_releases_without_a_name_and_a_reason(orders: Orders, bad: str, by: str, because: str) -> None:
    with pytest.raises(UsageError, match="who says so and why"):
        orders.release(bad, by, because)


def test_what_was_not_checked_cannot_be_released(orders: Orders) -> None:
    snapshot = orders.back_up()
    with pytest.raises(UsageError, match="was not checked yet"):
        orders.release(snapshot)


def test_at_the_command_line_a_release_is_shown_everywhere_and_told_to_the_open_incident(
    orders: Orders, bad: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = orders.folder / "plan.yaml"
    content = {
        "version": 1,
        "name": "Test Shop",
        "clock": "driven:clock.json",
        "journal": "sqlite:///journal.db",
        "reports": "reports",
        "store": {"url": "store"},
        "sources": {"shop": {"url": "sqlite:///shop.db", "mapping": "shop"}},
        "providers": {"listmonk": {"kind": "listmonk", "api_url": "http://127.0.0.1:9"}},
    }
    path.write_text(yaml.safe_dump(content))
    with open_journal(load_plan(path)) as journal:
        incident = journal.declare(
            "listmonk",
            cause_class="provider_outage",
            summary="it is down",
            detected_at=journal.clock.now(),
            declared_by="Ada",
        ).id

    def ask(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(app, [*words, "--plan", str(path)])
        return result.exit_code, result.output + str(result.exception or "")

    release = ["checks", "release", bad, "--by", "Ada", "--because", "mal@secret.example said so"]
    code, told = ask(*release)
    assert code == 1 and "signing key" in told
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(orders.folder / "key.pem"))
    for _ in range(2):  # as after a kill between the verdict and the note
        code, told = ask(*release)
        assert (code, "secret.example" in told, f"{bad} is valid: released by Ada" in told) == (
            0,
            False,
            True,
        )
    with open_journal(load_plan(path)) as journal:
        (noted,) = (one for one in journal.timeline(incident) if one.kind == "snapshot_released")
    assert noted.text.startswith(f"Ada released {bad} from quarantine: ")
    assert noted.data["rules"] == ["orders.kind.allowed"]
    page = (orders.folder / "reports" / "checks" / "shop" / "00000001" / "result.html").read_text()
    assert "Valid by release" in page and "By Ada on" in page and "secret.example" not in page
    assert "valid (released)" in ask("snapshots", "list")[1]
    assert "released by Ada on" in ask("snapshots", "show", bad)[1]
    assert "Released by Ada: " in ask("checks", "show", bad)[1]
