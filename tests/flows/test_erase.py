"""The flow `erase` and its command: what is shown before anything is done, and that the address gets nowhere."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import httpx
import pytest

from tasks.core import SystemClock, UsageError
from tasks.plan import load_plan
from tasks.snapshots import Store, generate_key, key_pem, read_ledger, verify
from tasks.snapshots.steps import open_plan_store

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]

ADDRESS = "zoe.planted@shop.example"
PLAN = """
version: 1
name: Shop
journal: sqlite:///journal.db
store: {url: store}
retention: {keep_last: 2, keep_daily: 0, keep_weekly: 0, keep_monthly: 12}
sources:
  shop: {url: "sqlite:///shop.db", mapping: shop}
  other: {url: "sqlite:///other.db"}
providers: {esp: {kind: listmonk, api_url: "http://127.0.0.1:9"}}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "key.pem").write_bytes(key_pem(generate_key()))
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(tmp_path / "key.pem"))
    with (
        closing(sqlite3.connect(tmp_path / "shop.db")) as shop,
        closing(sqlite3.connect(tmp_path / "other.db")) as other,
    ):
        shop.execute("CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, email TEXT)")
        shop.execute("INSERT INTO customers VALUES (1, 'c1@shop.example'), (2, ?)", [ADDRESS.title()])
        shop.commit()
        other.execute("CREATE TABLE notes (text TEXT)")
        other.execute("INSERT INTO notes VALUES (?)", [f"call {ADDRESS} back"])
        other.commit()
    from flows.backup import backup

    backup(plan=str(tmp_path / "plan.yaml"))
    return tmp_path / "plan.yaml"


def command(plan: Path, *arguments: str, said: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(Path(sys.executable).with_name("mailstay")), *arguments, "--plan", str(plan)],
        input=said,
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )


def test_the_command_says_first_and_does_when_it_is_confirmed(plan: Path, prefect_api: httpx.Client) -> None:
    store = open_plan_store(load_plan(plan))
    asked = ("erase", "-", "--name", "Ada", "--ground", "objection", "--rewrite")
    would = command(plan, *asked, said=f"{ADDRESS}\n")
    assert would.returncode == 0, would.stderr
    for part in (
        "1 snapshot would be replaced", "Nothing was changed", "shop still has the person",
        "other has no mapping", "The address also stands in other.notes, column text (1 row, 1 snapshot)",
    ):  # fmt: skip
        assert part in would.stdout
    assert store.storage.list("erasure/") == []

    done = command(plan, *asked, "--confirm", "--json", said=ADDRESS)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["replaced"], found["entry"]) == (["shop/00000001"], 1)
    assert verify(store, level="content").ok
    assert store.info("shop/00000001").verified == "content"
    proof = command(plan, "snapshots", "verify")
    assert "shop/00000001 was replaced by an erasure" in proof.stdout
    assert "head of erasure/: " in proof.stdout

    runs = prefect_api.post("/flow_runs/filter", json={"flows": {"name": {"any_": ["erase"]}}}).json()
    assert [one["parameters"]["person"] for one in runs] == [found["person"]] * 2
    artifacts = prefect_api.post("/artifacts/filter", json={}).json()
    logs = prefect_api.post("/logs/filter", json={"limit": 200}).json()
    for kept in (runs, artifacts, logs, would.stdout, would.stderr, done.stdout, done.stderr):
        assert ADDRESS not in str(kept).casefold()

    assert command(plan, "readmit", ADDRESS, "--name", "Ada").returncode == 0
    assert not read_ledger(store).is_suppressed(ADDRESS)


def test_without_a_rewrite_it_says_until_when_and_a_hold_ends_as_held(plan: Path) -> None:
    store = open_plan_store(load_plan(plan))
    asked = ("erase", ADDRESS, "--name", "Ada", "--ground", "consent_withdrawn", "--confirm")
    done = command(plan, *asked)
    assert done.returncode == 0, done.stderr
    assert "They hold the person until " in done.stdout
    store.hold("shop/00000001", reason="incident INC-0001", by="x", at=SystemClock().now())
    held = command(plan, *asked, "--rewrite")
    assert held.returncode == 4, held.stderr
    assert "shop/00000001 is held and stays" in held.stdout
    assert command(plan, *asked, "--rewrite", "--override-holds").returncode == 0
    assert store.manifest("shop/00000001").replaced


def test_a_mistake_is_one_sentence_that_does_not_repeat_the_address(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.erase import erase

    bad = command(plan, "erase", "zoe planted@shop.example", "--name", "Ada", "--ground", "objection")
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert "That is no e-mail address" in bad.stderr
    assert "planted" not in bad.stderr
    monkeypatch.delenv("MAILSTAY_SIGNING_KEY")
    keyless = command(plan, "erase", ADDRESS, "--name", "Ada", "--ground", "objection")
    assert (keyless.returncode, keyless.stderr.count("\n")) == (1, 1)
    assert "without its signing key" in keyless.stderr
    assert erase.parameters.properties["person"]["pattern"] == "^[0-9a-f]{64}$"
    with pytest.raises(UsageError, match="no keyed hash"):
        erase(plan=str(plan), person=ADDRESS, name="Ada", ground="objection")
    assert Store.open(load_plan(plan).store_url()).storage.list("erasure/") == []
