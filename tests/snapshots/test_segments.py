"""A change costs the segments it touches, and nothing else is written again."""

from __future__ import annotations

import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import SystemClock
from tasks.snapshots import Manifest, SigningKey, Store, take_snapshot
from tasks.sources import open_source

ROWS = 60_000


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """An append-only table, a mutable one under a text key, and one without a key."""
    dice = random.Random(7)
    path = tmp_path / "shop.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            "CREATE TABLE events (id INTEGER PRIMARY KEY, who INTEGER, what TEXT, at TIMESTAMP)"
        )
        connection.execute("CREATE TABLE people (email TEXT PRIMARY KEY, status TEXT)")
        connection.execute("CREATE TABLE log (line TEXT)")
        rows = [
            (
                n,
                dice.randrange(10**6),
                f"event {dice.random()}",
                f"2011-11-16 {n // 3600 % 24:02}:{n // 60 % 60:02}:00",
            )
            for n in range(ROWS)
        ]
        connection.executemany("INSERT INTO events VALUES (?, ?, ?, ?)", rows)
        connection.executemany(
            "INSERT INTO people VALUES (?, 'enabled')",
            [(f"{dice.random()}@shop.example",) for _ in range(ROWS)],
        )
        connection.executemany("INSERT INTO log VALUES (?)", [(f"{dice.random()}",) for _ in range(ROWS)])
        connection.commit()
    return path


def taken(store: Store, database: Path) -> Manifest:
    return take_snapshot(
        open_source("shop", f"sqlite:///{database}"), store, clock=SystemClock(), plan_digest=""
    )


def change(database: Path, *statements: str) -> None:
    with closing(sqlite3.connect(database)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Segments a tenth as large, so that sixty thousand rows have as many as half a million would."""
    from tasks.snapshots import spool

    monkeypatch.setattr(spool, "SEGMENT_BYTES", 64 * 1024)


def cost(manifest: Manifest) -> dict[str, float]:
    """Bytes written for each table, as a share of the bytes it has."""
    return {
        name: entry.new_bytes / sum(one.bytes for one in entry.objects)
        for name, entry in manifest.tables.items()
    }


def test_nothing_changed_writes_one_manifest_and_no_object(store: Store, database: Path, small: None) -> None:
    first = taken(store, database)
    assert {name: len(entry.objects) > 20 for name, entry in first.tables.items()} == dict.fromkeys(
        first.tables, True
    )
    assert cost(first) == dict.fromkeys(first.tables, 1.0)
    before = store.storage.list("objects/")
    second = taken(store, database)
    assert cost(second) == dict.fromkeys(first.tables, 0.0)
    assert store.storage.list("objects/") == before


def test_one_percent_appended_costs_little_more_than_one_percent(
    store: Store, database: Path, small: None
) -> None:
    taken(store, database)
    new = ROWS // 100
    change(
        database,
        f"INSERT INTO events SELECT id + {ROWS}, who, what || '!', at FROM events WHERE id < {new}",
        f"INSERT INTO log SELECT line || '!' FROM log LIMIT {new}",
    )
    found = cost(taken(store, database))
    assert found["people"] == 0
    assert found["events"] < 0.04
    assert found["log"] < 0.04


def test_one_percent_of_the_recent_rows_changed_or_deleted_costs_as_little(
    store: Store, database: Path, small: None
) -> None:
    taken(store, database)
    change(
        database,
        f"UPDATE events SET what = 'changed ' || id WHERE id >= {ROWS - ROWS // 100}",
        f"DELETE FROM events WHERE id BETWEEN {ROWS - ROWS // 50} AND {ROWS - ROWS // 60}",
    )
    assert cost(taken(store, database))["events"] < 0.05


def test_a_row_in_the_middle_costs_its_own_segment_and_seldom_the_next(
    store: Store, database: Path, small: None
) -> None:
    first = taken(store, database)
    for statement in (
        "UPDATE people SET status = 'blocklisted' WHERE rowid = 31000",
        "DELETE FROM people WHERE rowid = 17",
        "INSERT INTO people VALUES ('0.5000000001@shop.example', 'enabled')",
    ):
        change(database, statement)
        assert taken(store, database).tables["people"].new_objects <= 2
    assert len(first.tables["people"].objects) > 20


def test_scattered_changes_are_all_found_and_cost_what_they_touch(
    store: Store, database: Path, small: None
) -> None:
    taken(store, database)
    change(database, "UPDATE people SET status = 'disabled' WHERE rowid % 100 = 0")
    second = taken(store, database)
    assert (
        cost(second)["people"] > 0.9
    )  # one in a hundred, everywhere: the price of tables that read as they stand
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    found = sum(
        pc.sum(pc.equal(pq.read_table(path)["status"], "disabled")).as_py()
        for path in store.table_files(second.snapshot_id, "people")
    )
    assert found == ROWS // 100


def test_wide_rows_make_segments_of_few_rows(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "wide.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (id INTEGER PRIMARY KEY, body TEXT)")
        connection.executemany(
            "INSERT INTO t VALUES (?, ?)",
            [(n, random.Random(n).randbytes(20_000).hex()) for n in range(2000)],
        )
        connection.commit()
    entry = taken(store, path).tables["t"]
    assert entry.segment_rows == 128
    assert len(entry.objects) > 7
    change(path, "DELETE FROM t WHERE id = 3")
    assert taken(store, path).tables["t"].new_objects <= 4


@settings(max_examples=25)
@given(
    st.lists(st.integers(0, 40), min_size=1, max_size=300),
    st.lists(st.tuples(st.integers(0, 299), st.integers(0, 40)), max_size=4),
    st.integers(1, 120),
)
def test_however_rows_are_read_and_changed_the_next_snapshot_holds_exactly_them(
    tmp_path_factory: pytest.TempPathFactory,
    key: SigningKey,
    values: list[int],
    edits: list[tuple[int, int]],
    batch_rows: int,
) -> None:
    folder = tmp_path_factory.mktemp("segments")
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    path = folder / "s.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (v INTEGER)")
        connection.executemany("INSERT INTO t VALUES (?)", [(one,) for one in values])
        connection.commit()
    source = open_source("s", f"sqlite:///{path}")
    one = take_snapshot(source, store, clock=SystemClock(), plan_digest="", batch_rows=batch_rows)
    other = take_snapshot(source, store, clock=SystemClock(), plan_digest="")
    assert one.tables["t"].objects == other.tables["t"].objects
    with closing(sqlite3.connect(path)) as connection:
        for at, value in edits:
            connection.execute("UPDATE t SET v = ? WHERE rowid = ?", [value, at])
        connection.commit()
        expected = [row[0] for row in connection.execute("SELECT v FROM t ORDER BY rowid")]
    third = take_snapshot(source, store, clock=SystemClock(), plan_digest="", batch_rows=batch_rows)
    import pyarrow.parquet as pq

    found = [
        value
        for file in store.table_files(third.snapshot_id, "t")
        for value in pq.read_table(file)["v"].to_pylist()
    ]
    assert found == expected
