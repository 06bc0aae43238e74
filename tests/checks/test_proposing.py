"""A proposed contract lints, passes on its own snapshot, holds nobody's data, and replaces nothing unasked."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tasks.checks import ContractError, lint_contracts, load_contracts, propose_contracts, write_contracts
from tasks.core import DrivenClock, UsageError
from tasks.drills import build_shop
from tasks.snapshots import Store, generate_key, take_snapshot
from tasks.sources import open_source

pytestmark = pytest.mark.integration


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(str(tmp_path / "store"), signing_key=generate_key(), create=True)


def snapshot(store: Store, database: Path, clock: DrivenClock) -> str:
    source = open_source("shop", f"sqlite:///{database}")
    return take_snapshot(source, store, clock=clock, plan_digest="0" * 64).snapshot_id


def test_the_shops_proposal_passes_and_says_what_is_guessed(
    store: Store, tmp_path: Path, clock: DrivenClock, addresses_in: Any
) -> None:
    database, folder = tmp_path / "shop.db", tmp_path / "contracts"
    build_shop(f"sqlite:///{database}", seed=7, until=datetime(2011, 11, 16, tzinfo=UTC), share=0.02)
    taken = snapshot(store, database, clock)
    texts = propose_contracts(store, taken)
    result = write_contracts(store, taken, texts, folder, force=False, clock=clock)
    assert (result.report.outcome, result.report.findings) == ("valid", [])
    assert lint_contracts(folder) == []
    assert addresses_in(texts) == []
    contracts = load_contracts(folder)
    assert contracts.keys() == store.manifest(taken).tables.keys()
    assert contracts["customers"].personal_columns() == {"email"}
    assert "a guess, because of its name" in texts["customers"]
    assert contracts["orders"].columns["kind"].allowed is not None
    assert {key.references for key in contracts["orders"].foreign_keys} == {"customers"}
    edited = folder / "orders.yaml"
    edited.write_text(edited.read_text() + "# mine\n")
    with pytest.raises(UsageError, match="There is a contract of"):
        write_contracts(store, taken, texts, folder, force=False, clock=clock)
    assert edited.read_text().endswith("# mine\n")
    write_contracts(store, taken, texts, folder, force=True, clock=clock)
    assert edited.read_text() == texts["orders"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.yaml" for name in texts)


def test_odd_tables_are_proposed_too(
    store: Store, tmp_path: Path, clock: DrivenClock, addresses_in: Any
) -> None:
    database = tmp_path / "odd.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript("""
            CREATE TABLE empty (id INTEGER PRIMARY KEY, note TEXT);
            CREATE TABLE "no" ("on" TEXT, "a: b" INTEGER, "x""y" REAL, at TIMESTAMP);
            INSERT INTO "no" VALUES ('yes', -1, 1.5, '2031-01-01 00:00:00'), ('yes', -1, NULL, NULL);
            CREATE TABLE people (email TEXT PRIMARY KEY, remark TEXT, parent TEXT REFERENCES people(email));
            INSERT INTO people VALUES ('a@x.example', 'ask b@x.example', NULL), ('b@x.example', 'x', 'gone@x.example');
        """)
        connection.commit()
    taken = snapshot(store, database, clock)
    texts = propose_contracts(store, taken)
    assert addresses_in(texts) == []
    folder = tmp_path / "contracts"
    result = write_contracts(store, taken, texts, folder, force=False, clock=clock)
    assert result.report.outcome == "valid", result.report.reason
    contracts = load_contracts(folder)
    assert contracts["empty"].rows.at_least == 0
    assert contracts["people"].personal_columns() == {"email", "remark", "parent"}
    assert "# no column names a row" in texts["no"]
    assert "broke this one already" in texts["people"]
    (folder / "empty.yaml").write_text("table: other\n")
    with pytest.raises(ContractError):
        load_contracts(folder)
