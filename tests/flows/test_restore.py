"""The flow `restore` and its command: the newest valid snapshot, into an empty database, compared."""

from __future__ import annotations

import json
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tasks.core import SystemClock, UsageError
from tasks.plan import load_plan
from tasks.snapshots import SnapshotError, generate_key, key_pem
from tasks.snapshots.steps import open_plan_store

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]

PLAN = """
version: 1
name: Shop
journal: sqlite:///journal.db
store: {url: store}
sources:
  shop: {url: "sqlite:///shop.db", mapping: shop}
  esp: {url: "sqlite:///esp.db", mapping: listmonk}
providers: {esp: {kind: listmonk, api_url: "http://127.0.0.1:9"}}
"""


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "plan.yaml").write_text(PLAN)
    (tmp_path / "key.pem").write_bytes(key_pem(generate_key()))
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(tmp_path / "key.pem"))
    with (
        closing(sqlite3.connect(tmp_path / "shop.db")) as shop,
        closing(sqlite3.connect(tmp_path / "esp.db")) as esp,
    ):
        shop.execute("CREATE TABLE customers (id INTEGER PRIMARY KEY, email TEXT)")
        shop.executemany(
            "INSERT INTO customers VALUES (?, ?)", [(n, f"c{n}@shop.example") for n in range(50)]
        )
        shop.commit()
        esp.execute("CREATE TABLE campaigns (id INTEGER PRIMARY KEY, status TEXT)")
        esp.executemany(
            "INSERT INTO campaigns VALUES (?, ?)", [(1, "running"), (2, "scheduled"), (3, "draft")]
        )
        esp.commit()
    from flows.backup import backup

    backup(plan=str(tmp_path / "plan.yaml"))
    return tmp_path / "plan.yaml"


def prove(plan: Path, *snapshots: str) -> None:
    store = open_plan_store(load_plan(plan))
    for name in snapshots:
        store.mark(name, "valid", findings=[], at=SystemClock().now(), by="test")


def test_the_newest_valid_snapshot_is_restored_and_a_campaign_cannot_send(plan: Path) -> None:
    from flows.backup import backup
    from flows.restore import restore

    prove(plan, "esp/00000001")
    backup(plan=str(plan), source="esp")
    result = restore(plan=str(plan), source="esp", into=f"sqlite:///{plan.parent / 'back.db'}")
    assert (result.snapshot_id, result.state, result.rows, result.equal) == ("esp/00000001", "valid", 3, True)
    with closing(sqlite3.connect(plan.parent / "back.db")) as back:
        assert back.execute("SELECT status FROM campaigns ORDER BY id").fetchall() == [
            ("paused",), ("draft",), ("draft",),
        ]  # fmt: skip


def test_what_must_not_be_is_refused_before_anything_is_written(
    plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from flows.restore import restore

    back = f"sqlite:///{plan.parent / 'back.db'}"
    with pytest.raises(SnapshotError, match="There is no valid snapshot of shop"):
        restore(plan=str(plan), source="shop", into=back)
    prove(plan, "shop/00000001")
    with pytest.raises(UsageError, match="source of the plan itself"):
        restore(plan=str(plan), source="shop", into=load_plan(plan).source_url("shop"))
    with pytest.raises(UsageError, match="shop/00000001 is not a snapshot of esp"):
        restore(plan=str(plan), source="esp", into=back, snapshot="shop/00000001")
    with pytest.raises(UsageError, match="holds a password"):
        restore(plan=str(plan), source="shop", into="postgresql://127.0.0.1/back?password=hunter2")
    with pytest.raises(UsageError, match="holds a password") as refused:
        restore(plan=str(plan), source="shop", into="postgresql://shop:hunter2@127.0.0.1/back")
    assert "hunter2" not in str(refused.value)
    monkeypatch.setenv("BACK", back)
    assert restore(plan=str(plan), source="shop", into="env:BACK").rows == 50


def test_the_command_prints_one_object_and_fails_without_a_traceback(plan: Path) -> None:
    prove(plan, "shop/00000001")
    mailstay = [str(Path(sys.executable).with_name("mailstay")), "restore", "shop", "--plan", str(plan)]
    run: Callable[..., subprocess.CompletedProcess[str]] = subprocess.run
    done = run(
        [*mailstay, "--into", f"sqlite:///{plan.parent / 'back.db'}", "--json"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["tables"][0]["equal"] is True
    again = run(
        [*mailstay, "--into", f"sqlite:///{plan.parent / 'back.db'}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert again.returncode != 0
    assert "has a table 'customers' already" in again.stderr
    assert "Traceback" not in again.stderr


def test_a_prune_says_why_it_keeps_and_removes_only_when_confirmed(plan: Path) -> None:
    from flows.backup import backup
    from flows.prune import prune

    plan.write_text(PLAN + "retention: {keep_last: 1, keep_daily: 0, keep_weekly: 0, keep_monthly: 0}\n")
    with closing(sqlite3.connect(plan.parent / "shop.db")) as shop:
        shop.execute("DELETE FROM customers WHERE id > 40")
        shop.commit()
    backup(plan=str(plan), source="shop")
    would = prune(plan=str(plan))
    assert (would.dry, would.removed) == (True, ["shop/00000001"])
    assert open_plan_store(load_plan(plan)).snapshot_ids("shop") == ["shop/00000001", "shop/00000002"]
    done = prune(plan=str(plan), confirm=True)
    assert (done.dry, done.removed, done.condemned, done.deleted) == (False, ["shop/00000001"], 1, 0)
    assert open_plan_store(load_plan(plan)).snapshot_ids("shop") == ["shop/00000002"]


def test_a_rehearsal_proves_the_restore_and_holds_it_against_the_plan(plan: Path) -> None:
    from flows.rehearse import rehearse

    objects = (
        "objects:\n"
        "  contacts: {tables: [subscribers], rpo_minutes: 60, rto_minutes: 5, mtpd_minutes: 60}\n"
        "  orders: {tables: [orders], rpo_minutes: 60, rto_minutes: 5, mtpd_minutes: 60}\n"
    )
    plan.write_text(PLAN + objects)
    prove(plan, "esp/00000001")
    shop, esp = rehearse(plan=str(plan))
    assert (shop.snapshot_id, shop.problem) == ("", "there is no valid snapshot")
    assert (esp.snapshot_id, esp.rows, esp.problem) == ("esp/00000001", 3, "")
    assert [(one.name, one.met) for one in esp.objects] == [("contacts", True)]
    store = open_plan_store(load_plan(plan))
    assert store.info("esp/00000001").verified == "restore"
    assert store.state("esp/00000001") == "valid"


def test_a_snapshot_that_does_not_come_back_is_quarantined(plan: Path) -> None:
    from flows.rehearse import rehearse

    prove(plan, "esp/00000001")
    store = open_plan_store(load_plan(plan))
    assert store.storage.root is not None
    path = store.storage.root / store.manifest("esp/00000001").tables["campaigns"].objects[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    [esp] = rehearse(plan=str(plan), source="esp")
    assert "campaigns" in esp.problem
    assert store.state("esp/00000001") == "quarantined"


def test_what_the_scratch_database_refuses_is_no_fault_of_the_snapshot(plan: Path) -> None:
    from flows.rehearse import rehearse

    prove(plan, "esp/00000001")
    with closing(sqlite3.connect(plan.parent / "taken.db")) as taken:
        taken.execute("CREATE TABLE campaigns (id INTEGER)")
        taken.commit()
    [esp] = rehearse(plan=str(plan), source="esp", into=f"sqlite:///{plan.parent / 'taken.db'}")
    assert "has a table 'campaigns' already" in esp.problem
    store = open_plan_store(load_plan(plan))
    assert (store.state("esp/00000001"), store.info("esp/00000001").verified) == ("valid", "content")


def test_a_database_in_use_is_compared_first_and_written_to_only_when_told(plan: Path) -> None:
    from flows.restore import restore
    from tasks.snapshots import Merged

    prove(plan, "shop/00000001")
    with closing(sqlite3.connect(plan.parent / "shop.db")) as shop:
        shop.execute("DELETE FROM customers WHERE id < 5")
        shop.execute("INSERT INTO customers VALUES (99, 'new@shop.example')")
        shop.commit()

        def count() -> int:
            return int(shop.execute("SELECT count(*) FROM customers").fetchone()[0])

        dry = restore(plan=str(plan), source="shop", mode="insert-missing")
        assert isinstance(dry, Merged)
        assert (dry.applied, dry.tables[0].inserted, count()) == (False, 5, 46)
        assert Path(dry.folder).is_relative_to(plan.parent / "mailstay-state" / "differences")
        restore(plan=str(plan), source="shop", mode="insert-missing", apply=True, keys=["customers:0,1"])
        assert count() == 48
        restore(plan=str(plan), source="shop", mode="overwrite", apply=True)
        assert count() == 51


def test_options_that_do_not_go_together_are_refused(plan: Path) -> None:
    from flows.restore import restore

    back = f"sqlite:///{plan.parent / 'back.db'}"
    prove(plan, "shop/00000001")
    with pytest.raises(UsageError, match="No database is named"):
        restore(plan=str(plan), source="shop")
    for options in ({"apply": True}, {"keys": ["customers:1"]}, {"subscribers": [1]}):
        with pytest.raises(UsageError, match="in a database in use"):
            restore(plan=str(plan), source="shop", into=back, **options)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="names no key"):
        restore(plan=str(plan), source="shop", mode="overwrite", keys=["customers"])
    with pytest.raises(UsageError, match="is there already"):
        restore(plan=str(plan), source="shop", mode="overwrite", differences=str(plan.parent))
    assert not Path(plan.parent / "back.db").exists()


def test_the_command_shows_the_differences_and_says_how_to_go_on(plan: Path) -> None:
    prove(plan, "esp/00000001")
    with closing(sqlite3.connect(plan.parent / "esp.db")) as esp:
        esp.execute("DELETE FROM campaigns WHERE id = 1")
        esp.commit()
        mailstay = [str(Path(sys.executable).with_name("mailstay")), "restore", "esp", "--plan", str(plan)]

        def run(*options: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*mailstay, "--mode", "overwrite", *options],
                capture_output=True,
                text=True,
                check=False,
                cwd=Path(__file__).parents[2],
            )

        dry = run("--key", "campaigns:1")
        assert dry.returncode == 0, dry.stderr
        assert "campaigns\t1\t0\t0\t1\t0\t0" in dry.stdout
        assert "Nothing was changed. Next: the same with --apply" in dry.stdout
        wrong = run("--key", "campaigns:77")
        assert (wrong.returncode, "Traceback" in wrong.stderr) == (2, False)
        assert "Neither the snapshot nor the database has id 77" in wrong.stderr
        done = run("--key", "campaigns:1", "--apply", "--json")
        assert json.loads(done.stdout)["applied"] is True
        assert esp.execute("SELECT status FROM campaigns WHERE id = 1").fetchall() == [("paused",)]
