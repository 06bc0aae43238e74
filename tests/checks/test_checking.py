"""From a real database through a real store: clean data is valid, dirty data is quarantined and told why."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.checks import (
    CheckReport,
    default_contracts,
    last_good_before,
    load_contracts,
    mark_snapshot,
    run_checks,
)
from tasks.core import DrivenClock
from tasks.drills import build_shop
from tasks.snapshots import Store, erase, generate_key, read_ledger, take_snapshot
from tasks.sources import open_source

pytestmark = pytest.mark.integration

UNTIL = datetime(2011, 11, 16, tzinfo=UTC)


class Shop:
    """A small real shop in a database, its store, and what `backup` and `validate` do with it."""

    def __init__(self, folder: Path, clock: DrivenClock, url: str = "") -> None:
        self.folder = folder
        self.clock = clock
        self.database = folder / "shop.db"
        self.url = url or f"sqlite:///{self.database}"
        self.store = Store.open(str(folder / "store"), signing_key=generate_key(), create=True)
        build_shop(self.url, seed=7, until=UNTIL, share=0.02)
        folder_of_contracts = default_contracts("shop")
        assert folder_of_contracts is not None
        self.contracts = load_contracts(folder_of_contracts)

    def sql(self, *statements: str) -> None:
        """Run statements on the SQLite database."""
        with closing(sqlite3.connect(self.database)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """Return what the SQLite database answers."""
        with closing(sqlite3.connect(self.database)) as connection:
            return connection.execute(query).fetchall()

    def without_constraints(self, table: str) -> None:
        """Rebuild a table without its primary key, as a careless import leaves it; types stay."""
        with closing(sqlite3.connect(self.database)) as connection:
            (ddl,) = connection.execute("SELECT sql FROM sqlite_master WHERE name = ?", [table]).fetchone()
            connection.execute(f"ALTER TABLE {table} RENAME TO old")
            connection.execute(re.sub(r",\s*PRIMARY KEY \([a-z_]+\)", "", ddl).replace(" NOT NULL", ""))
            connection.execute(f"INSERT INTO {table} SELECT * FROM old")
            connection.execute("DROP TABLE old")
            connection.commit()

    def back_up(self) -> str:
        source = open_source("shop", self.url)
        self.clock.advance(3600)
        return take_snapshot(source, self.store, clock=self.clock, plan_digest="0" * 64).snapshot_id

    def validate(self, snapshot_id: str = "", docs: Path | None = None) -> CheckReport:
        snapshot_id = snapshot_id or self.back_up()
        report = run_checks(
            self.store,
            snapshot_id,
            self.contracts,
            previous=last_good_before(self.store, snapshot_id),
            docs_folder=docs,
            clock=self.clock,
            mapping="shop",
        )
        mark_snapshot(self.store, report, clock=self.clock)
        return report


@pytest.fixture
def shop(tmp_path: Path, clock: DrivenClock) -> Shop:
    return Shop(tmp_path, clock)


def test_the_real_shop_is_valid_without_a_finding(shop: Shop) -> None:
    report = shop.validate()
    assert (report.outcome, report.findings) == ("valid", [])
    assert report.checks > 200
    assert shop.store.state(report.snapshot_id) == "valid"


def test_the_real_shop_on_postgresql_is_valid_without_a_finding(
    tmp_path: Path, clock: DrivenClock, new_database: Callable[[], str]
) -> None:
    report = Shop(tmp_path, clock, new_database()).validate()
    assert (report.outcome, report.findings) == ("valid", [])


def test_a_dirty_source_is_quarantined_with_a_readable_reason_and_no_address(
    shop: Shop, addresses_in: Any, tmp_path: Path
) -> None:
    assert shop.validate().outcome == "valid"
    for table in ("customers", "orders"):
        shop.without_constraints(table)
    shop.sql(
        "INSERT INTO orders SELECT * FROM orders WHERE order_id = (SELECT min(order_id) FROM orders)",
        "UPDATE order_lines SET order_id = 'nowhere' WHERE line_id IN (SELECT line_id FROM order_lines LIMIT 3)",
        "UPDATE orders SET ordered_at = '2011-02-30 25:61:00' WHERE rowid = 2",
        "UPDATE customers SET created_at = '2031-01-01 00:00:00.000000' WHERE rowid = 1",
        "UPDATE customers SET email = 'eve@secret.example, bob@secret.example' WHERE rowid IN (2, 3)",
    )
    report = shop.validate(docs=tmp_path / "docs")
    assert report.outcome == shop.store.state(report.snapshot_id) == "quarantined"
    found = {finding.rule: finding for finding in report.findings if finding.status == "failed"}
    assert found["orders.order_id.primary_key"].failed == 2
    assert found["order_lines.order_id.foreign_key"].failed == 3
    assert found["orders.ordered_at.type"].failed == 1
    assert found["customers.created_at.dates"].failed == 1
    assert found["customers.email.format"].failed == 2
    assert found["customers.email.unique"].failed == 2
    assert all(found[rule].sample_keys for rule in found if "schema_" not in rule)
    assert found["orders.schema_key"].severity == "critical"
    assert "customers.email: 2 of" in report.reason
    assert report.reason.endswith("The last good snapshot is shop/00000001.")
    (verdict,) = shop.store.verdicts(report.snapshot_id)
    assert verdict.findings and verdict.by == "validate"  # type: ignore[union-attr]
    assert addresses_in(report) == addresses_in(verdict) == addresses_in(tmp_path / "docs") == []
    for path in (tmp_path / "store" / "verify").rglob("*.json"):
        assert addresses_in(path.read_text()) == []


def test_a_finding_is_dated_back_and_the_last_good_snapshot_named(shop: Shop) -> None:
    shop.validate()
    shop.sql(
        "UPDATE customers SET email = 'nobody' WHERE customer_id = (SELECT min(customer_id) FROM customers)"
    )
    shop.validate()
    shop.sql("UPDATE orders SET kind = 'gift' WHERE rowid = 1")
    report = shop.validate()
    since = {finding.rule: finding.since for finding in report.findings}
    assert since == {
        "customers.email.format": "shop/00000002",
        "orders.kind.allowed": "shop/00000003",
    }
    assert "(since shop/00000002)" in report.reason
    assert report.last_good == "shop/00000001"
    shop.sql(
        "UPDATE customers SET email = 'c1@shop.example' WHERE customer_id = (SELECT min(customer_id) FROM customers)",
        "UPDATE orders SET kind = 'sale'",
    )
    assert shop.validate().outcome == "valid"
    shop.sql(
        "UPDATE customers SET email = 'nobody' WHERE customer_id = (SELECT min(customer_id) FROM customers)"
    )
    (finding,) = shop.validate().findings
    assert finding.since == "shop/00000005"


def test_an_older_snapshot_is_judged_by_its_own_time_and_its_own_past(shop: Shop) -> None:
    first = shop.back_up()
    shop.sql(
        "UPDATE customers SET created_at = '2011-11-16 09:30:00.000000' "
        "WHERE customer_id = (SELECT min(customer_id) FROM customers)"
    )
    second = shop.back_up()
    shop.clock.advance(86_400)
    (finding,) = shop.validate(second).findings
    assert finding.rule == "customers.created_at.dates"
    assert shop.validate(first).last_good == ""


def test_rows_that_vanished_since_the_last_valid_snapshot_are_found(shop: Shop) -> None:
    shop.validate()
    shop.sql(
        "DELETE FROM return_lines WHERE return_id IN (SELECT return_id FROM returns ORDER BY 1 LIMIT 20)",
        "DELETE FROM returns WHERE return_id IN (SELECT return_id FROM returns ORDER BY 1 LIMIT 20)",
    )
    report = shop.validate()
    assert "returns.rows_shrink" in {finding.rule for finding in report.findings}
    assert report.outcome == "quarantined"


def test_rows_that_are_not_those_of_the_source_are_found_by_their_checksum(shop: Shop) -> None:
    first = shop.back_up()
    manifest = shop.store.manifest(first)
    orders = manifest.tables["orders"]
    wrong = f"{(int(orders.checksum, 16) + 1) % 2**128:032x}"
    tables = manifest.tables | {"orders": orders.model_copy(update={"checksum": wrong})}
    shop.store.put_record(
        "snapshots/shop/00000001.json", manifest.model_copy(update={"tables": tables}), anew=False
    )
    report = shop.validate(first)
    assert [(one.rule, one.severity) for one in report.findings] == [
        ("orders.checksum_matches_source", "critical")
    ]
    assert (report.outcome, report.facts["checksums"]) == ("quarantined", False)


def test_after_a_proven_snapshot_only_new_objects_give_the_checksum(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.checks import checksums

    read: list[int] = []
    stock = checksums._read
    monkeypatch.setattr(
        checksums,
        "_read",
        lambda entry, files, wanted: read.append(sum(wanted.values())) or stock(entry, files, wanted),
    )
    assert shop.validate().outcome == "valid"
    assert sum(read) == 7
    read.clear()
    shop.sql("UPDATE orders SET country = 'Eire' WHERE rowid = 1")
    report = shop.validate()
    assert (report.outcome, report.facts["checksums"]) == ("valid", True)
    assert sum(read) <= 1


def test_an_opt_out_that_is_gone_quarantines_unless_the_ledger_erased_the_person(shop: Shop) -> None:
    lowered = shop.contracts["consent_requests"].model_copy(update={"consent": None})
    shop.contracts["consent_requests"] = lowered.model_copy(
        update={"rows": lowered.rows.model_copy(update={"shrink_severity": "info"})}
    )
    [(who, address)] = shop.rows("SELECT customer_id, email FROM customers ORDER BY 1 LIMIT 1")
    shop.sql(
        "INSERT INTO consent_requests (customer_id, kind, requested_at) "
        f"VALUES ({who}, 'unsubscribe', '2011-11-15 10:00:00.000000')"
    )
    assert shop.validate().outcome == "valid"
    kept = shop.store.verdicts("shop/00000001")[-1].facts  # type: ignore[union-attr]
    assert kept["tables"]["consent_requests"]["rows"] == 1
    shop.sql(f"DELETE FROM consent_requests WHERE customer_id = {who}")
    critical = [one for one in shop.validate().findings if one.severity == "critical"]
    assert [(one.rule, one.sample_keys) for one in critical] == [
        ("consent_requests.kind.opt_out_kept", ["request_id=1"])
    ]
    shop.sql(
        f"UPDATE orders SET customer_id = NULL WHERE customer_id = {who}",
        f"UPDATE returns SET customer_id = NULL WHERE customer_id = {who}",
        f"DELETE FROM customers WHERE customer_id = {who}",
    )
    erase(
        shop.store,
        read_ledger(shop.store).person(address),
        mappings={"shop": "shop"},
        ground="objection",
        by="somebody",
        clock=shop.clock,
        dry=False,
    )
    report = shop.validate()
    assert report.outcome == "valid", report.reason


def test_a_changed_byte_quarantines_and_names_the_object(shop: Shop) -> None:
    snapshot_id = shop.back_up()
    ref = shop.store.manifest(snapshot_id).tables["customers"].objects[0]
    path = shop.folder / "store" / ref.path
    path.chmod(0o644)
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    fresh = Store.open(str(shop.folder / "store"), signing_key=shop.store._key)
    shop.store = fresh
    report = shop.validate(snapshot_id)
    assert report.outcome == "quarantined"
    found = {finding.rule: finding.message for finding in report.findings}
    assert ref.sha256 in found["customers.readable"]
    assert "orders.customer_id.foreign_key" in found


def test_a_dropped_table_is_found(shop: Shop) -> None:
    shop.validate()
    shop.sql("DROP TABLE webhook_receipts")
    assert "The table webhook_receipts is missing from the snapshot" in shop.validate().reason


def test_the_simulated_world_stays_valid_through_an_outage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.drills import World
    from tasks.plan import load_plan

    with World.create(tmp_path / "world", seed=7, scale="small") as world:
        for name, value in world.env.items():
            monkeypatch.setenv(name, value)
        loaded = load_plan(world.plan_path)
        store = Store.open(str(tmp_path / "store"), signing_key=generate_key(), create=True)
        for moment in ("08:20", "20:00"):
            world.play_until(world.at(moment))
            for source, mapping in (("shop", "shop"), ("esp", "listmonk")):
                manifest = take_snapshot(
                    open_source(source, loaded.source_url(source)),
                    store,
                    clock=world.clock,
                    plan_digest="0" * 64,
                )
                folder = default_contracts(mapping)
                assert folder is not None
                report = run_checks(
                    store,
                    manifest.snapshot_id,
                    load_contracts(folder),
                    previous=last_good_before(store, manifest.snapshot_id),
                    docs_folder=None,
                    clock=world.clock,
                    mapping=mapping,
                    witness=(store.snapshot_ids("shop") or [""])[-1],
                )
                mark_snapshot(store, report, clock=world.clock)
                assert report.outcome == "valid", report.reason


@pytest.mark.slow
def test_the_whole_shop_is_checked_within_its_budget(tmp_path: Path, clock: DrivenClock) -> None:
    """540,000 lines, every check, Data Docs: 10 seconds of processor time on the developers' machine, 30 at most."""
    import time

    url = f"sqlite:///{tmp_path / 'shop.db'}"
    build_shop(url, seed=7, until=UNTIL)
    store = Store.open(str(tmp_path / "store"), signing_key=generate_key(), create=True)
    snapshot_id = take_snapshot(
        open_source("shop", url), store, clock=clock, plan_digest="0" * 64
    ).snapshot_id
    folder = default_contracts("shop")
    assert folder is not None
    began = time.process_time()
    report = run_checks(
        store, snapshot_id, load_contracts(folder), previous=None, docs_folder=tmp_path / "docs", clock=clock
    )
    assert (report.outcome, report.findings) == ("valid", [])
    assert time.process_time() - began < 30
