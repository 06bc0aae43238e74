"""What differs between two snapshots is told exactly, whatever the names and types."""

from __future__ import annotations

import datetime as dt
import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import SystemClock, UsageError
from tasks.snapshots import Damaged, Manifest, SigningKey, Store, TableDiff, diff, take_snapshot
from tasks.sources import open_source


def told(found: list[TableDiff]) -> dict[str, tuple[Any, ...]]:
    return {one.name: (one.state, one.added, one.removed, one.changed, one.columns) for one in found}


def test_rows_and_columns_are_counted_and_what_is_the_same_is_not_read(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None]
) -> None:
    taken(store)
    change("DELETE FROM customers WHERE customer_id >= 1990")
    change("INSERT INTO customers VALUES (5000, 'new@shop.example', NULL), (5001, NULL, NULL)")
    change("UPDATE customers SET email = 'x' WHERE customer_id < 3")
    change("UPDATE customers SET created_at = NULL WHERE customer_id = 2")
    change("""INSERT INTO "Odd ""name; --" VALUES ('x', 1)""")
    change("""DELETE FROM "Odd ""name; --" WHERE "a.b" IS NULL""")
    change("CREATE TABLE fresh (id INTEGER)")
    taken(store)
    found = diff(store, "shop/00000001", "shop/00000002")
    assert told(found) == {
        "customers": ("changed", 2, 10, 3, {"email": 3, "created_at": 1}),
        "prices": ("same", 0, 0, 0, {}),
        "no_rows": ("same", 0, 0, 0, {}),
        'Odd "name; --': ("changed", 1, 1, 0, {}),
        "fresh": ("added", 0, 0, 0, {}),
    }
    back = told(diff(store, "shop/00000002", "shop/00000001"))
    assert back["customers"] == ("changed", 10, 2, 3, {"email": 3, "created_at": 1})
    assert back["fresh"][0] == "removed"


def test_what_changed_about_the_columns_is_told_in_words(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None]
) -> None:
    taken(store)
    change("ALTER TABLE customers RENAME COLUMN email TO mail")
    change("ALTER TABLE customers ADD COLUMN vip BOOLEAN")
    taken(store)
    [one] = [one for one in diff(store, "shop/00000001", "shop/00000002") if one.name == "customers"]
    assert one.schema == (
        "column email is gone",
        "column mail is new (VARCHAR(254))",
        "column vip is new (BOOLEAN)",
    )
    assert (one.state, one.added, one.removed, one.changed) == ("changed", 0, 0, 0)


def test_snapshots_of_two_sources_and_damaged_ones_are_refused(
    store: Store, taken: Callable[..., Manifest], change: Callable[[str], None]
) -> None:
    taken(store)
    change("UPDATE prices SET price = 1")
    second = taken(store)
    with pytest.raises(UsageError, match="two sources"):
        diff(store, "shop/00000001", "esp/00000001")
    assert store.storage.root is not None
    path = store.storage.root / second.tables["prices"].objects[0].path
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(Damaged, match="table prices"):
        diff(store, "shop/00000001", "shop/00000002")


cells = st.one_of(
    st.none(),
    st.integers(-5, 5),
    st.sampled_from([0.5, 1e300]),
    st.sampled_from(["", "a", "A", "é"]),
    st.just(b"\xff"),
)
ROWS = st.dictionaries(st.integers(0, 12), st.tuples(cells, cells), max_size=10)


@settings(max_examples=25)
@given(ROWS, ROWS, st.booleans())
def test_the_counts_are_those_of_a_plain_comparison(
    tmp_path_factory: pytest.TempPathFactory,
    key: SigningKey,
    old: dict[int, tuple[Any, Any]],
    new: dict[int, tuple[Any, Any]],
    keyed: bool,
) -> None:
    folder = tmp_path_factory.mktemp("diff")
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    for number, rows in enumerate((old, new)):
        path = folder / f"{number}.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                f'CREATE TABLE t ("Id" INTEGER {"PRIMARY KEY" if keyed else ""}, "ID2" , id2b BLOB)'
            )
            connection.executemany("INSERT INTO t VALUES (?, ?, ?)", [(k, *v) for k, v in rows.items()])
            connection.commit()
        take_snapshot(open_source("s", f"sqlite:///{path}"), store, clock=SystemClock(), plan_digest="")
    [found] = diff(store, "s/00000001", "s/00000002")
    if keyed:
        assert (found.added, found.removed) == (len(new.keys() - old.keys()), len(old.keys() - new.keys()))
        kept = old.keys() & new.keys()
        if not found.schema:  # a column that is read in another way holds other text for the same value
            assert found.changed == sum(typed(old[one]) != typed(new[one]) for one in kept)
    elif not found.schema:
        before, after = (Counter((k, *typed(v)) for k, v in rows.items()) for rows in (old, new))
        assert (found.added, found.removed) == ((after - before).total(), (before - after).total())


def typed(values: tuple[Any, ...]) -> tuple[Any, ...]:
    return tuple((type(one).__name__, one) for one in values)


def test_types_that_duckdb_does_not_know_are_compared_too(store: Store, tmp_path: Path) -> None:
    for number, value in enumerate((Decimal("1.5"), Decimal("2.5"))):
        path = tmp_path / f"{number}.db"
        with closing(sqlite3.connect(path)) as connection:
            connection.execute(
                "CREATE TABLE t (id INTEGER PRIMARY KEY, n NUMERIC(60,10), at TIME, raw BLOB, on_ DATE)"
            )
            connection.execute(
                "INSERT INTO t VALUES (1, ?, '10:00:00', X'ff', ?)",
                (str(value), dt.date(2011, 11, 16 + number).isoformat()),
            )
            connection.commit()
        take_snapshot(open_source("s", f"sqlite:///{path}"), store, clock=SystemClock(), plan_digest="")
    [found] = diff(store, "s/00000001", "s/00000002")
    assert (found.changed, found.columns) == (1, {"n": 1, "on_": 1})
