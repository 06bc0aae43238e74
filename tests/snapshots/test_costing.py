"""`snapshots show` says in words why each table cost what it did."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from tasks.core import SystemClock
from tasks.snapshots import Manifest, Store, TableCost, costs, take_snapshot
from tasks.sources import open_source

ROWS = 20_000


@pytest.fixture
def database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A table of some twenty segments, and a small one without a key."""
    from tasks.snapshots import spool

    monkeypatch.setattr(spool, "SEGMENT_BYTES", 32 * 1024)
    dice = random.Random(7)
    with closing(sqlite3.connect(tmp_path / "shop.db")) as connection:
        connection.execute("CREATE TABLE events (id INTEGER PRIMARY KEY, what TEXT)")
        connection.execute("CREATE TABLE log (line TEXT)")
        connection.executemany(
            "INSERT INTO events VALUES (?, ?)", [(n, f"event {dice.random()}") for n in range(ROWS)]
        )
        connection.executemany("INSERT INTO log VALUES (?)", [(f"line {n}",) for n in range(10)])
        connection.commit()
    return tmp_path / "shop.db"


@pytest.fixture
def after(database: Path, store: Store) -> Callable[..., dict[str, TableCost]]:
    """A function that changes the shop, takes a snapshot and returns what each table cost."""

    def run(*statements: str) -> dict[str, TableCost]:
        with closing(sqlite3.connect(database)) as connection:
            for statement in statements:
                connection.execute(statement)
            connection.commit()
        source = open_source("shop", f"sqlite:///{database}")
        taken = take_snapshot(source, store, clock=SystemClock(), plan_digest="")
        return {one.name: one for one in costs(store, taken.snapshot_id)}

    return run


def test_the_first_backup_costs_everything(after: Callable[..., dict[str, TableCost]]) -> None:
    found = after()
    assert {one.reason for one in found.values()} == {"first backup"}
    assert found["events"].new_objects > 15 and found["events"].new_bytes > 0
    assert (found["events"].reused_objects, found["events"].reused_bytes) == (0, 0)


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SELECT 1", "nothing changed"),
        (f"INSERT INTO events VALUES ({ROWS}, 'a'), ({ROWS + 1}, 'b')", "rows appended: 2"),
        (f"INSERT INTO events SELECT id + {ROWS}, what FROM events WHERE id < 1234", "rows appended: 1,234"),
        ("UPDATE events SET what = 'other' WHERE id = 3000", "changed rows in 1 of N segments"),
        ("UPDATE events SET what = 'other' WHERE id IN (1, 19990)", "changed rows in 2 of N segments"),
        ("DELETE FROM events WHERE id = 5", "changed rows in 1 of N segments (1 row fewer)"),
        ("INSERT INTO events VALUES (-1, 'before')", "changed rows in 1 of N segments (1 row more)"),
        (
            "ALTER TABLE events ADD COLUMN extra TEXT",
            "schema changed: column extra is new (TEXT)",
        ),
        (
            "UPDATE events SET what = what || hex(zeroblob(2000))",
            "segment size changed: 64 rows instead of N, because rows have another width",
        ),
    ],
)
def test_a_change_is_named(after: Callable[..., dict[str, TableCost]], statement: str, reason: str) -> None:
    import re

    after()
    found = after(statement)["events"]
    said = re.sub(r"of \d+ seg", "of N seg", found.reason)
    assert re.sub(r"instead of [\d,]+,", "instead of N,", said) == reason
    assert (found.new_objects == 0) == (reason == "nothing changed")


def test_what_is_new_and_what_is_reused_add_up_to_the_table(
    after: Callable[..., dict[str, TableCost]], store: Store
) -> None:
    after()
    cost = after("UPDATE events SET what = 'other' WHERE id = 3000")
    entry = store.manifest("shop/00000002").tables["events"]
    assert cost["events"].new_objects == 1
    assert cost["events"].reused_objects == len(entry.objects) - 1
    assert cost["events"].new_bytes + cost["events"].reused_bytes == sum(ref.bytes for ref in entry.objects)
    assert cost["log"].new_objects == 0


def test_a_small_table_without_a_key_tells_rows_that_came_from_rows_that_changed(
    after: Callable[..., dict[str, TableCost]],
) -> None:
    after()
    assert after("INSERT INTO log VALUES ('more')")["log"].reason == "rows appended: 1"
    assert (
        after("UPDATE log SET line = 'x' WHERE rowid = 3")["log"].reason == "changed rows in 1 of 1 segment"
    )


def test_rows_before_the_others_are_not_called_appended(after: Callable[..., dict[str, TableCost]]) -> None:
    after("CREATE TABLE small (id INTEGER PRIMARY KEY)", "INSERT INTO small VALUES (1), (2)")
    found = after("INSERT INTO small VALUES (-1), (9)")["small"]
    assert found.reason == "changed rows in 1 of 1 segment (2 rows more)"
    assert after("INSERT INTO small VALUES (10)")["small"].reason == "rows appended: 1"


def test_an_empty_table_that_gets_rows_and_loses_them_again(
    after: Callable[..., dict[str, TableCost]],
) -> None:
    after("DELETE FROM log")
    assert after("INSERT INTO log VALUES ('a'), ('b')")["log"].reason == "rows appended: 2"
    gone = after("DELETE FROM log")["log"]
    assert (gone.reason, gone.new_objects) == ("changed rows in 1 of 1 segment (2 rows fewer)", 0)


def test_the_same_rows_in_another_order_and_a_new_table_say_so(
    after: Callable[..., dict[str, TableCost]],
) -> None:
    after()
    found = after(
        "CREATE TABLE l2 AS SELECT line FROM log ORDER BY rowid DESC",
        "DELETE FROM log",
        "INSERT INTO log SELECT line FROM l2",
    )
    assert (found["log"].reason, found["l2"].reason) == ("same rows in another order", "new table")


def test_a_parent_that_retention_removed_is_said_and_not_guessed(
    after: Callable[..., dict[str, TableCost]], store: Store
) -> None:
    after(), after()
    store.bury("shop/00000001", at=SystemClock().now(), by="test")
    store.remove_buried("shop/00000001")
    assert {one.reason for one in costs(store, "shop/00000002")} == {
        "shop/00000001 is gone: nothing to compare with"
    }


def test_another_version_of_the_writer_is_named(
    after: Callable[..., dict[str, TableCost]], store: Store
) -> None:
    after()
    second = store.manifest("shop/00000001")
    ref = second.tables["log"].objects[0]
    entry = second.tables["log"].model_copy(update={"objects": [ref.model_copy(update={"sha256": "0" * 64})]})
    rewritten: Manifest = second.model_copy(
        update={
            "snapshot_id": "shop/00000002",
            "sequence": 2,
            "parent_digest": second.digest,
            "tools": {**second.tools, "pyarrow": "99.0"},
            "tables": {"log": entry},
        }
    )
    store.commit(rewritten)
    [cost] = costs(store, "shop/00000002")
    assert cost.reason == f"same rows, written by pyarrow 99.0 instead of {second.tools['pyarrow']}"
