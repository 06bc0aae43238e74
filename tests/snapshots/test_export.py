"""An export appears whole or not at all, overwrites nothing, and other people's tools read the values exactly."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import pytest
import sqlalchemy as sa

from tasks.core import SystemClock, UsageError
from tasks.snapshots import Damaged, Manifest, SnapshotError, Store, export, take_snapshot
from tasks.sources import open_source

Take = Callable[..., Manifest]


@pytest.fixture
def valid(store: Store, taken: Take) -> Store:
    """A store with one valid snapshot of the small shop."""
    store.mark(taken(store).snapshot_id, "valid", findings=[], at=SystemClock().now(), by="test")
    return store


def test_every_table_is_one_file_under_its_name_with_a_description(valid: Store, tmp_path: Path) -> None:
    result = export(valid, "shop/00000001", tmp_path / "out")
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == [
        "Odd__name__--.csv",
        "customers.csv",
        "export.json",
        "no_rows.csv",
        "prices.csv",
    ]
    assert (tmp_path / "out/no_rows.csv").read_text() == '"id"\n'
    assert (tmp_path / "out/Odd__name__--.csv").read_text() == '"a.b","select"\n"x","1"\n"x","1"\n,\n'
    about = json.loads((tmp_path / "out/export.json").read_text())
    assert (about["snapshot_id"], about["state"], about["format"]) == ("shop/00000001", "valid", "csv")
    assert about["manifest_digest"] == valid.manifest("shop/00000001").digest
    price = about["tables"]["prices"]["columns"][1]
    assert (price["type"], price["source_type"]) == ("decimal128(12, 3)", "NUMERIC(12,3)")
    assert price["cast"] == "decimal_from_number"
    assert {one.name: one.rows for one in result.tables}["customers"] == 2000


def test_duckdb_tells_null_from_the_empty_text(tmp_path: Path, store: Store) -> None:
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        connection.executemany(
            "INSERT INTO t (body) VALUES (?)", [("",), (None,), ('a,"b\n',), ("NULL",), ("=1+1",)]
        )
        connection.commit()
    source = open_source("s", f"sqlite:///{tmp_path / 's.db'}")
    name = take_snapshot(source, store, clock=SystemClock(), plan_digest="").snapshot_id
    export(store, name, tmp_path / "out", unproven=True)
    read = f"read_csv('{tmp_path / 'out/t.csv'}', allow_quoted_nulls = false)"
    assert duckdb.sql(f"SELECT * FROM {read}").fetchall() == [
        (1, ""),
        (2, None),
        (3, 'a,"b\n'),
        (4, "NULL"),
        (5, "=1+1"),
    ]


@pytest.mark.integration
def test_postgresql_copies_the_file_back_to_the_same_rows(
    new_database: Callable[[], str], store: Store, tmp_path: Path
) -> None:
    url = new_database()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE t (id bigint PRIMARY KEY, body text, raw bytea, price numeric(20,8), big numeric, f real,"
            " d double precision, ok boolean, day date, at timestamp, seen timestamptz, clock time, span interval,"
            " doc jsonb, many int[])"
        )
        connection.exec_driver_sql(
            "INSERT INTO t VALUES"
            " (1, '', '', 0.00000001, 'NaN', 'NaN', '-Infinity', true, '0001-01-01', 'infinity', now(), '24:00',"
            "  '1 mon 2 days 03:04:05.6', '{\"a\": [1, null]}', '{{1,NULL},{3,4}}'),"
            " (2, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL),"
            " (3, E'a,\"b\\r\\n\\\\x', '\\x00ff', -123456789012.12345678, 1e-30, 1.1, 0.1, false, '9999-12-31',"
            "  '2011-11-16 07:00:00.000001', '2011-11-16 07:00:00+05', '23:59:59.999999', '-1 day', '\"\"', '{}')"
        )
        connection.exec_driver_sql("CREATE TABLE back (LIKE t)")
    source = open_source("pg", url, tables=["t"])
    name = take_snapshot(source, store, clock=SystemClock(), plan_digest="").snapshot_id
    export(store, name, tmp_path / "out", unproven=True)
    with engine.begin() as connection:
        raw: Any = connection.connection.dbapi_connection
        with raw.cursor() as cursor, cursor.copy("COPY back FROM STDIN (FORMAT csv, HEADER match)") as copy:
            copy.write((tmp_path / "out/t.csv").read_bytes())
        different = connection.exec_driver_sql(
            "SELECT count(*) FROM t FULL JOIN back b ON t.id = b.id WHERE t::text IS DISTINCT FROM b::text"
        ).scalar()
        assert connection.exec_driver_sql("SELECT count(*) FROM back").scalar() == 3
    engine.dispose()
    assert different == 0


@pytest.mark.parametrize("kind", ["file", "folder with a file", "no parent", "in the store"])
def test_nothing_that_is_there_is_touched(valid: Store, tmp_path: Path, kind: str) -> None:
    to = {"no parent": tmp_path / "no/out", "in the store": Path(valid.url) / "objects/out"}.get(
        kind, tmp_path / "out"
    )
    if kind == "file":
        to.write_text("mine")
    if kind == "folder with a file":
        to.mkdir()
        (to / "mine").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError):
        export(valid, "shop/00000001", to)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_empty_folder_is_filled(valid: Store, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    export(valid, "shop/00000001", tmp_path / "out", tables=["prices"])
    assert sorted(one.name for one in (tmp_path / "out").iterdir()) == ["export.json", "prices.csv"]
    assert list(tmp_path.glob(".*")) == []


def test_what_is_not_proven_is_exported_only_on_request(store: Store, taken: Take, tmp_path: Path) -> None:
    name = taken(store).snapshot_id
    with pytest.raises(SnapshotError, match="is committed: nothing proves"):
        export(store, name, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export(store, name, tmp_path / "out", unproven=True).state == "committed"


def test_a_damaged_object_leaves_no_export(valid: Store, tmp_path: Path) -> None:
    ref = valid.manifest("shop/00000001").tables["prices"].objects[0]
    path = Path(valid.url) / ref.path
    path.write_bytes(path.read_bytes()[::-1])
    with pytest.raises(Damaged, match=f"{ref.sha256}.*prices"):
        export(Store.open(valid.url), "shop/00000001", tmp_path / "out")
    assert list(tmp_path.glob("*out*")) == list(tmp_path.glob(".*")) == []


def test_two_exports_into_one_folder_do_not_mix(valid: Store, tmp_path: Path) -> None:
    partial = tmp_path / ".out.partial"
    partial.mkdir()
    other = os.open(partial, os.O_RDONLY)
    fcntl.flock(other, fcntl.LOCK_EX)
    try:
        with pytest.raises(UsageError, match="Another export"):
            export(valid, "shop/00000001", tmp_path / "out")
    finally:
        os.close(other)
    assert partial.is_dir()


def test_names_of_tables_cannot_lead_out_of_the_folder_or_hide_one_another(
    tmp_path: Path, store: Store
) -> None:
    import sqlite3
    from contextlib import closing

    pytest.importorskip("deltalake")
    hostile = ["..", ".", "../up", "a/b", "A.B", "export.json", "x" * 300, "EXPORT.JSON ", "%2E."]
    with closing(sqlite3.connect(tmp_path / "s.db")) as connection:
        for number, name in enumerate(hostile):
            connection.execute(f'CREATE TABLE "{name}" AS SELECT {number} AS v')
        connection.commit()
    source = open_source("s", f"sqlite:///{tmp_path / 's.db'}")
    taken = take_snapshot(source, store, clock=SystemClock(), plan_digest="").snapshot_id
    before = set(tmp_path.iterdir())
    folders = {"csv": tmp_path / "csv", "delta": tmp_path / "delta ü 1"}
    for form, to in folders.items():
        result = export(store, taken, to, form=form, unproven=True)  # type: ignore[arg-type]
        assert len({one.file.lower() for one in result.tables}) == len(hostile)
        assert {one.name for one in to.iterdir()} == {
            "export.json",
            *(one.file for one in result.tables),
        }
    assert set(tmp_path.iterdir()) - before == set(folders.values())


def test_what_delta_has_no_type_for_is_named(tmp_path: Path, store: Store, database: Path) -> None:
    import sqlite3
    from contextlib import closing

    pytest.importorskip("deltalake")
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("CREATE TABLE odd ('ID' INTEGER, at TIME, price NUMERIC(40, 2))")
        connection.execute("INSERT INTO odd VALUES (1, '07:00:00', 1.25)")
        connection.commit()
    source = open_source("shop", f"sqlite:///{database}")
    name = take_snapshot(source, store, clock=SystemClock(), plan_digest="").snapshot_id
    result = export(store, name, tmp_path / "out", form="delta", unproven=True)
    changed = {one.name: one.changed for one in result.tables}
    assert changed["customers"] == changed["prices"] == ()
    assert changed["odd"] == ("column at: time64[us] as text", "column price: decimal256(40, 2) as text")


def test_delta_without_its_package_says_how_to_get_it(
    valid: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "deltalake", None)
    with pytest.raises(UsageError, match=r"mailstay\[delta\]"):
        export(valid, "shop/00000001", tmp_path / "out", form="delta")


SCRIPT = """
import sys
from pathlib import Path
from tasks.snapshots import export, open_store
export(open_store(sys.argv[1]), "shop/00000001", Path(sys.argv[2]))
"""


@pytest.mark.kill
@pytest.mark.parametrize("point", ["export.table", "export.table#3", "export.before_rename"])
def test_an_export_killed_at(point: str, valid: Store, tmp_path: Path) -> None:
    environment = {**os.environ, "MAILSTAY_CRASH_AT": point, "PYTHONPATH": str(Path.cwd())}
    killed = subprocess.run(
        [sys.executable, "-c", SCRIPT, valid.url, str(tmp_path / "out")], env=environment, check=False
    )
    assert killed.returncode == -signal.SIGKILL, "the point was not passed"
    assert not (tmp_path / "out").exists()
    export(valid, "shop/00000001", tmp_path / "out", tables=["prices"])
    assert {one.name for one in (tmp_path / "out").iterdir()} == {"export.json", "prices.csv"}
    assert list(tmp_path.glob(".*")) == [], "what the killed run left is gone"
