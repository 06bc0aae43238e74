"""The backup flow on a real Prefect server: all sources, every byte read back, and a kill at any step."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa
import yaml

from tasks.core import UsageError
from tasks.snapshots import Damaged, Store, key_pem, load_or_create_key, verify

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("prefect_server")]


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A plan with two small SQLite sources; the signing key is in the environment."""
    for name, rows in (("shop", 3000), ("esp", 50)):
        with closing(sqlite3.connect(tmp_path / f"{name}.db")) as connection:
            connection.execute("CREATE TABLE things (id INTEGER PRIMARY KEY, price NUMERIC(12,3))")
            connection.executemany("INSERT INTO things VALUES (?, ?)", [(n, n / 8) for n in range(rows)])
            connection.execute("CREATE TABLE secrets (id INTEGER)")
            connection.commit()
    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", str(tmp_path / "key.pem"))
    load_or_create_key(tmp_path / "key.pem")
    return written(tmp_path, {name: f"sqlite:///{name}.db" for name in ("shop", "esp")})


def written(folder: Path, urls: dict[str, str]) -> Path:
    content = {
        "version": 1,
        "name": "Test Shop",
        "journal": "sqlite:///journal.db",
        "store": {"url": "store"},
        "sources": {name: {"url": url, "exclude": ["secrets"]} for name, url in urls.items()},
        "providers": {"listmonk": {"kind": "listmonk", "api_url": "http://127.0.0.1:9"}},
    }
    (folder / "plan.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return folder / "plan.yaml"


def test_backup_takes_and_reads_back_a_snapshot_of_every_source(plan: Path) -> None:
    from prefect.artifacts import Artifact

    from flows.backup import backup
    from tasks.plan import load_plan

    results = backup(plan=str(plan))

    assert [(one.snapshot_id, one.tables, one.rows, one.verified) for one in results] == [
        ("shop/00000001", 1, 3000, True),
        ("esp/00000001", 1, 50, True),
    ]
    store = Store.open(str(plan.parent / "store"))
    assert [(one.state, one.verified) for one in store.list()] == [("committed", "content")] * 2
    assert store.manifest("shop/00000001").plan_digest == load_plan(plan).digest
    artifact = Artifact.get("backup")
    assert artifact is not None and "| shop/00000001 | 1 | 3,000 |" in str(artifact.data)


def test_backup_of_one_source_leaves_the_others(plan: Path) -> None:
    from flows.backup import backup

    backup(plan=str(plan), source="esp")
    assert Store.open(str(plan.parent / "store")).snapshot_ids() == ["esp/00000001"]


def test_backup_says_what_to_do_without_a_signing_key(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.backup import backup
    from tasks.snapshots.steps import snapshot_source

    monkeypatch.delenv("MAILSTAY_SIGNING_KEY")
    monkeypatch.setattr(snapshot_source, "retries", 0)
    with pytest.raises(UsageError, match=r"MAILSTAY_SIGNING_KEY is not set.*export"):
        backup(plan=str(plan), source="esp")


def test_a_snapshot_that_cannot_be_read_back_is_quarantined_and_fails_the_run(plan: Path) -> None:
    from flows.backup import backup
    from tasks.snapshots import steps

    backup(plan=str(plan), source="esp")
    store = Store.open(str(plan.parent / "store"))
    ref = store.manifest("esp/00000001").tables["things"].objects[0]
    real = steps.verify_and_record

    def damaged_meanwhile(*args: object, **options: object) -> object:
        path = plan.parent / "store" / ref.path
        path.write_bytes(path.read_bytes()[::-1])
        return real(*args, **options)  # type: ignore[arg-type]

    steps.verify_and_record = damaged_meanwhile  # type: ignore[assignment]
    try:
        with pytest.raises(Damaged, match="esp/00000002"):
            backup(plan=str(plan), source="esp")
    finally:
        steps.verify_and_record = real
    assert (store.state("esp/00000002"), store.info("esp/00000002").verified) == ("quarantined", None)
    verdict = store.verdicts("esp/00000002")[-1]
    assert not isinstance(verdict, Damaged) and verdict.findings[0]["object"] == ref.sha256


def test_the_same_rows_in_postgresql_make_the_same_checksum(
    plan: Path, new_database: Callable[[], str]
) -> None:
    from flows.backup import backup

    url = new_database()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in (
            "CREATE TABLE things (id integer PRIMARY KEY, price numeric(12,3))",
            "INSERT INTO things SELECT n, n / 8.0 FROM generate_series(0, 2999) n",
            "CREATE TABLE secrets (id integer)",
        ):
            connection.exec_driver_sql(statement)
    engine.dispose()
    written(plan.parent, {"shop": "sqlite:///shop.db", "copy": url})
    backup(plan=str(plan))
    store = Store.open(str(plan.parent / "store"))
    lite, postgres = store.manifest("shop/00000001"), store.manifest("copy/00000001")
    assert lite.tables["things"].checksum == postgres.tables["things"].checksum
    assert postgres.consistency["kind"] == "postgresql_repeatable_read"


@pytest.mark.kill
@pytest.mark.parametrize(
    ("point", "visible"),
    [
        ("spool.closed", []),
        ("object.after_put", []),
        ("storage.linked#2", ["shop/00000001"]),  # the first is store.json
        ("verdict.before_put", ["esp/00000001", "shop/00000001"]),
        ("verdict.after_put", ["esp/00000001", "shop/00000001"]),
    ],
)
def test_a_killed_flow_leaves_a_whole_store_and_the_next_run_succeeds(
    plan: Path, point: str, visible: list[str]
) -> None:
    from flows.backup import backup

    script = "import sys; from flows.backup import backup; backup(plan=sys.argv[1])"
    environment = {**os.environ, "MAILSTAY_CRASH_AT": point, "PYTHONPATH": str(Path.cwd())}
    killed = subprocess.run(
        [sys.executable, "-c", script, str(plan)],
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    store = Store.open(str(plan.parent / "store"))
    assert store.snapshot_ids() == visible
    assert verify(store, level="content").ok
    results = backup(plan=str(plan))
    assert all(one.verified for one in results)
    assert verify(store, level="content").ok
    assert len(store.storage.list("objects/")) == 2, "the objects of the killed run are used again"


def test_the_form_of_backup_describes_every_parameter() -> None:
    from prefect.utilities.callables import parameter_schema

    from flows.backup import backup

    properties = parameter_schema(backup.fn).properties
    assert set(properties) == {"plan", "source", "limit_rate"}
    assert all(len(one["description"]) > 20 and "default" in one for one in properties.values())


def test_the_key_is_nowhere_in_the_store(plan: Path) -> None:
    from flows.backup import backup

    backup(plan=str(plan), source="esp")
    secret = key_pem(load_or_create_key(plan.parent / "key.pem")).splitlines()[1]
    files = [path for path in (plan.parent / "store").rglob("*") if path.is_file()]
    assert files and not any(secret in path.read_bytes() for path in files)
