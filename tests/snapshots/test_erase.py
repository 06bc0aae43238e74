"""An erased person is in no restore, and after a rewrite in no byte of the store; everybody else is as before."""

from __future__ import annotations

import hashlib
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.checks import load_contracts
from tasks.core import DrivenClock, TableChecksum, UsageError
from tasks.snapshots import (
    PERSONS,
    Damaged,
    Erased,
    Mode,
    SigningKey,
    SnapshotError,
    Store,
    StoreError,
    erase,
    export,
    generate_key,
    kept_until,
    key_pem,
    merge,
    open_store,
    overdue,
    prune,
    read_ledger,
    readmit,
    restore,
    take_snapshot,
    verify,
    verify_and_record,
)
from tasks.snapshots.leases import lease, sole_deleter
from tasks.snapshots.retention import decide
from tasks.sources import open_source, open_target
from tests.snapshots.test_prune import DAY, HOUR, NOW, Keep, info

ADDRESS, ID = "Zoë.O'Planted@shop.example", 7654321
MAPPINGS = {"shop": "shop", "esp": "listmonk"}
SHOP = [
    "CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, email VARCHAR(254) NOT NULL, created_at TIMESTAMP)",
    "CREATE TABLE orders (order_id TEXT PRIMARY KEY, customer_id INTEGER REFERENCES customers, total INTEGER)",
    "CREATE TABLE order_lines (line_id INTEGER PRIMARY KEY, order_id TEXT NOT NULL REFERENCES orders (order_id))",
    "CREATE TABLE consent_requests (request_id INTEGER PRIMARY KEY, customer_id INTEGER NOT NULL)",
    "CREATE TABLE webhook_receipts (receipt_id INTEGER PRIMARY KEY, subscriber_id INTEGER NOT NULL)",
    "CREATE TABLE reviews (id INTEGER PRIMARY KEY, author INTEGER REFERENCES customers (customer_id), stars INTEGER)",
]
ESP = [
    "CREATE TABLE subscribers (id INTEGER PRIMARY KEY, email VARCHAR(254), attribs JSON, created_at TIMESTAMP)",
    "CREATE TABLE subscriber_lists (subscriber_id INTEGER REFERENCES subscribers (id), list_id INTEGER,"
    " PRIMARY KEY (subscriber_id, list_id))",
    "CREATE TABLE campaign_views (id INTEGER PRIMARY KEY, subscriber_id INTEGER REFERENCES subscribers (id))",
    "CREATE TABLE links (id INTEGER PRIMARY KEY, url TEXT)",
]
BORN = "2011-11-01 00:00:00"
Rows = list[tuple[Any, ...]]


@dataclass
class World:
    """Two databases and the snapshots that are taken of them."""

    folder: Path
    clock: DrivenClock
    store: Store
    taken: list[str] = field(default_factory=list)

    def url(self, source: str) -> str:
        return f"sqlite:///{self.folder / source}.db"

    def run(self, source: str, *statements: str | tuple[str, list[Any]]) -> None:
        with closing(sqlite3.connect(self.folder / f"{source}.db")) as database:
            for one in statements:
                if isinstance(one, str):
                    database.execute(one)
                else:
                    database.executemany(*one)
            database.commit()

    def backup(self, *sources: str, **options: Any) -> None:
        for source in sources or ("shop", "esp"):
            taken = take_snapshot(
                open_source(source, self.url(source)),
                self.store,
                clock=self.clock,
                plan_digest="",
                **options,
            )
            self.store.mark(taken.snapshot_id, "valid", findings=[], at=self.clock.now(), by="test")
            self.taken.append(taken.snapshot_id)
        self.clock.advance(HOUR)

    def erase(self, address: str = ADDRESS, **options: Any) -> Erased:
        chosen = {"mappings": MAPPINGS, "by": "Ada", "ground": "objection", "dry": False, **options}
        return erase(self.store, read_ledger(self.store).person(address), clock=self.clock, **chosen)

    def restored(self, name: str, store: Store | None = None) -> tuple[dict[str, Rows], Any]:
        """Return every row of a snapshot that is restored into a new SQLite file, and what the restore says."""
        back = Path(tempfile.mkdtemp(dir=self.folder)) / "back.db"
        result = restore(
            store or self.store,
            name,
            open_target(f"sqlite:///{back}"),
            clock=self.clock,
            mapping=MAPPINGS[name.partition("/")[0]],
        )
        with closing(sqlite3.connect(back)) as database:
            return {
                one.name: sorted(database.execute(f'SELECT * FROM "{one.name}"').fetchall(), key=repr)
                for one in result.tables
            }, result


def built(folder: Path, clock: DrivenClock, store: Store) -> World:
    world = World(folder, clock, store)
    people = [(n, f"c{n}@shop.example", BORN) for n in range(300)]
    world.run(
        "shop",
        *SHOP,
        ("INSERT INTO customers VALUES (?, ?, ?)", [*people, (ID, ADDRESS, BORN)]),
        ("INSERT INTO orders VALUES (?, ?, ?)", [(f"o{n}", n % 300, n) for n in range(600)]),
        ("INSERT INTO orders VALUES (?, ?, ?)", [("mine", ID, 5), ("nobody's", None, 6)]),
        ("INSERT INTO order_lines VALUES (?, ?)", [(n, f"o{n}") for n in range(600)] + [(999, "mine")]),
        ("INSERT INTO consent_requests VALUES (?, ?)", [(1, 4), (2, ID)]),
        ("INSERT INTO webhook_receipts VALUES (?, ?)", [(n, n % 300) for n in range(400)] + [(900, ID)]),
        ("INSERT INTO reviews VALUES (?, ?, ?)", [(1, ID, 5), (2, 3, 1)]),
    )
    world.run(
        "esp",
        *ESP,
        (
            "INSERT INTO subscribers VALUES (?, ?, ?, ?)",
            [(a, b, f'{{"of": "{b}"}}', c) for a, b, c in people],
        ),
        ("INSERT INTO subscribers VALUES (?, ?, ?, ?)", [(ID, ADDRESS.upper(), "{}", BORN)]),
        ("INSERT INTO subscriber_lists VALUES (?, ?)", [(n, 1) for n in range(300)] + [(ID, 1), (ID, 2)]),
        ("INSERT INTO campaign_views VALUES (?, ?)", [(1, ID), (2, 7), (3, None)]),
        ("INSERT INTO links VALUES (?, ?)", [(1, "https://shop.example/")]),
    )
    return world


@pytest.fixture
def world(tmp_path: Path, clock: DrivenClock, store: Store) -> World:
    return built(tmp_path, clock, store)


def places(store: Store, *planted: str) -> list[str]:
    """Return the files of the store that hold a planted text: raw bytes, and every value of every Parquet object."""
    found = []
    for path in store.storage.list(""):
        content = store.storage.get(path)
        text = content.decode("latin-1")
        if path.endswith(".parquet") and not path.startswith(".spool/"):
            table = pq.read_table(pa.BufferReader(content))
            text += repr([one.decode("latin-1") if isinstance(one, bytes) else one for one in values(table)])
        elif path.endswith(".json"):
            text += content.decode()
        if any(one.casefold() in text.casefold() for one in planted):
            found.append(path)
    return found


def values(table: pa.Table) -> Iterator[Any]:
    for column in table.columns:
        yield from column.to_pylist()


PLANTED = ("O'Planted", str(ID))


def without_the_person(rows: dict[str, Rows]) -> dict[str, Rows]:
    """What must be left of the rows of a snapshot."""
    gone = {
        "customers": 0,
        "subscribers": 0,
        "subscriber_lists": 0,
        "consent_requests": 1,
        "webhook_receipts": 1,
    }
    emptied = {"orders": 1, "reviews": 1, "campaign_views": 1}
    left = {}
    for table, some in rows.items():
        at = emptied.get(table)
        kept = [one for one in some if table not in gone or one[gone[table]] != ID]
        left[table] = [
            tuple(None if n == at and value == ID else value for n, value in enumerate(one)) for one in kept
        ]
    return {table: sorted(some, key=repr) for table, some in left.items()}


# Replacing ------------------------------------------------------------------------------------------------------


def test_a_person_is_gone_from_every_byte_and_everything_else_is_as_it_was(
    tmp_path: Path, clock: DrivenClock, any_store: Store
) -> None:
    world = built(tmp_path, clock, any_store)
    world.backup(object_bytes=4096)
    world.run(
        "shop", f"UPDATE orders SET total = 77 WHERE customer_id = {ID}", "DELETE FROM orders WHERE total < 9"
    )
    world.run("esp", "UPDATE subscribers SET attribs = '{\"note\": 1}' WHERE id % 50 = 1")
    world.backup(object_bytes=4096)
    before = {name: world.restored(name)[0] for name in world.taken}
    entries = {name: any_store.manifest(name).tables for name in world.taken}
    heads = verify(any_store, level="structure").heads
    assert places(any_store, *PLANTED)

    result = world.erase(rewrite=True)

    assert places(any_store, *PLANTED) == []
    assert (sorted(result.replaced), result.held, result.mentions) == (sorted(world.taken), [], [])
    assert {(one.table, one.rows, one.unlinked) for one in result.tables} == {
        ("customers", 1, 0), ("orders", 0, 1), ("consent_requests", 1, 0), ("webhook_receipts", 1, 0),
        ("reviews", 0, 1), ("subscribers", 1, 0), ("subscriber_lists", 2, 0), ("campaign_views", 0, 1),
    }  # fmt: skip
    report = verify(any_store, level="content", anchors=heads)
    assert report.findings == []
    assert sorted(report.replaced) == sorted(world.taken)
    assert report.replaced["shop/00000001"][0].rows["webhook_receipts"] == 1
    for name in world.taken:
        assert any_store.state(name) == "valid"
        rows, restored = world.restored(name)
        assert rows == without_the_person(before[name])
        assert not any(one.erased for one in restored.tables), "there was nobody left to leave out"
        for table in ("order_lines", "links"):
            if table in entries[name]:
                assert any_store.manifest(name).tables[table] == entries[name][table]
    assert any_store.storage.list("condemned/") == any_store.storage.list("leases/") == []
    world.run("shop", *(f"DELETE FROM {one} WHERE 1" for one in ("consent_requests", "webhook_receipts")))
    world.backup("shop")
    assert verify(any_store, level="content", anchors=heads).findings == []


PEOPLE = st.lists(st.tuples(st.integers(1, 30), st.sampled_from("abcdef")), min_size=1, max_size=12, unique_by=(
    lambda one: one[0], lambda one: one[1],
))  # fmt: skip
LINKS = st.lists(st.integers(1, 30) | st.none(), max_size=25)


def check_anybody(
    store: Store, folder: Path, clock: DrivenClock, history: list[tuple[Any, Any, Any]], chosen: int
) -> None:
    """Take a snapshot of each state, erase one person of the newest, and hold every snapshot against a model."""
    world = World(folder, clock, store)
    world.run("shop", *SHOP[:2], *SHOP[3:5])
    models: list[dict[str, Rows]] = []
    for people, orders, receipts in history:
        known = {one for one, _ in people}
        rows = {
            "customers": [(one, f"{name}@shop.example", BORN) for one, name in people],
            "orders": [(f"o{n}", one if one in known else None, n) for n, one in enumerate(orders)],
            "consent_requests": [],
            "webhook_receipts": [(n, one) for n, one in enumerate(receipts) if one],
        }
        for table, some in rows.items():
            world.run("shop", f"DELETE FROM {table}")
            if some:
                world.run("shop", (f"INSERT INTO {table} VALUES ({', '.join('?' * len(some[0]))})", some))
        world.backup("shop", object_bytes=4096)
        models.append(rows)
    name = history[-1][0][chosen % len(history[-1][0])][1]
    newest = {one: held for people, _, _ in history for one, held in people}
    person = {one for one, held in newest.items() if held == name}  # a former owner of the address is another
    entries = [store.manifest(one).tables for one in world.taken]

    world.erase(f"{name.upper()}@shop.example", rewrite=True)

    assert verify(store, level="content").findings == []
    for number, rows in enumerate(models):
        expected = {
            "customers": [one for one in rows["customers"] if one[0] not in person],
            "orders": [(one, None if who in person else who, total) for one, who, total in rows["orders"]],
            "consent_requests": [],
            "webhook_receipts": [one for one in rows["webhook_receipts"] if one[1] not in person],
        }
        snapshot = world.taken[number]
        back, _ = world.restored(snapshot)
        assert back == {table: sorted(some, key=repr) for table, some in expected.items()}
        for table, entry in store.manifest(snapshot).tables.items():
            rest = TableChecksum()
            for file in store.table_files(snapshot, table):
                for batch in pq.ParquetFile(file).iter_batches():
                    rest.update(batch)
            assert (entry.rows, entry.checksum) == (rest.rows, rest.hexdigest())
            if expected[table] == rows[table]:
                assert entry == entries[number][table], "a table without the person is not touched"
        assert set(store.storage.list("objects/")) == {
            ref.path
            for one in world.taken
            for table in store.manifest(one).tables.values()
            for ref in table.objects
        }


def anybody(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def wrap(test: Callable[..., None]) -> Callable[..., None]:
        histories = st.lists(st.tuples(PEOPLE, LINKS, LINKS), min_size=1, max_size=3)
        return settings(max_examples=examples)(given(histories, st.integers(0, 99))(test))

    return wrap


def check_in_new_folder(key: SigningKey, history: list[tuple[Any, Any, Any]], chosen: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        clock = DrivenClock.create(Path(folder) / "clock.json", NOW)
        store = Store.open(f"{folder}/store", signing_key=key, create=True)
        check_anybody(store, Path(folder), clock, history, chosen)


@anybody(15)
def test_exactly_the_persons_rows_go_whoever_it_is(history: Any, chosen: int) -> None:
    check_in_new_folder(generate_key(), history, chosen)


@pytest.mark.slow
@anybody(600)
def test_exactly_the_persons_rows_go_over_many_histories(history: Any, chosen: int) -> None:
    check_in_new_folder(generate_key(), history, chosen)


def test_a_dry_run_changes_nothing_and_says_what_would_go(world: World) -> None:
    world.backup()
    before = {path: world.store.storage.get(path) for path in world.store.storage.list("")}
    result = world.erase(rewrite=True, dry=True)
    assert {path: world.store.storage.get(path) for path in world.store.storage.list("")} == before
    assert (result.entry, sorted(result.replaced), result.still_in) == (
        None,
        sorted(world.taken),
        ["esp", "shop"],
    )
    assert result.holding["shop"][0] == "shop/00000001"


def test_a_held_snapshot_is_left_alone_unless_one_says_otherwise(world: World) -> None:
    world.backup("shop")
    world.run("shop", "DELETE FROM order_lines")
    world.backup("shop")
    world.store.hold("shop/00000001", reason="incident INC-0001", by="x", at=world.clock.now())
    held = world.store.manifest("shop/00000001")

    result = world.erase(rewrite=True)
    assert (result.held, result.replaced) == (["shop/00000001"], ["shop/00000002"])
    assert list(result.holding) == ["shop"]
    assert world.store.manifest("shop/00000001") == held
    assert verify(world.store, level="content").ok
    assert not any(row[0] == ID for row in world.restored("shop/00000001")[0]["customers"])

    assert world.erase(rewrite=True, override_holds=True).replaced == ["shop/00000001"]
    assert places(world.store, *PLANTED) == []
    assert len(read_ledger(world.store).entries) == 1


def test_an_object_that_a_killed_backup_left_goes_too(world: World, key: SigningKey) -> None:
    world.run("shop", f"DELETE FROM customers WHERE customer_id = {ID}")
    world.backup("shop")
    stray = world.folder / "stray.parquet"
    pq.write_table(pa.table({"email": [ADDRESS]}), stray)
    content = stray.read_bytes()
    name = hashlib.sha256(content).hexdigest()
    world.store.storage.put(f"objects/{name[:2]}/{name}.parquet", content)
    world.store.condemn(name, world.clock.now())
    assert world.store.storage.root is not None
    spooled = world.store.storage.root / ".spool" / "of-a-dead-process"
    stray.rename(spooled)
    os.utime(spooled, (0, 0))
    assert places(world.store, "O'Planted")
    assert world.erase(rewrite=True).deleted == 1
    assert not spooled.exists()
    assert places(world.store, "O'Planted") == []
    assert world.store.condemned() == {}


@pytest.mark.parametrize(
    "odd", ["'yesterday'", "'2011-11-01'", "X'00ff'", "CAST(X'636166e9' AS TEXT)", "1.5", "7"]
)
def test_a_snapshot_comes_back_although_a_row_that_is_gone_decided_how_a_column_was_read(
    world: World, odd: str
) -> None:
    columns = ("joined TIMESTAMP", "name TEXT", "age INTEGER", "vip BOOLEAN", "credit NUMERIC(9,2)", "mixed")
    for one in columns:
        world.run("shop", f"ALTER TABLE customers ADD COLUMN {one}")
    plain = "joined = '2011-11-02 10:00:00', name = 'Ann', age = 3, vip = 1, credit = 0.5, mixed = 'a'"
    world.run("shop", f"UPDATE customers SET {plain}")
    for one in columns[:2] if "CAST" in odd else columns:  # such text among numbers is refused by a backup
        world.run("shop", f"UPDATE customers SET {one.split()[0]} = {odd} WHERE customer_id = {ID}")
    world.backup("shop")
    world.erase()
    assert world.restored("shop/00000001")[1].equal
    world.erase(rewrite=True)
    rows, result = world.restored("shop/00000001")
    assert result.equal
    assert len(rows["customers"]) == 300


@pytest.mark.integration
def test_a_person_goes_from_a_postgresql_source_and_the_rest_comes_back_into_one(
    world: World, new_database: Callable[[], str]
) -> None:
    url, back = new_database(), new_database()
    statements = (
        "CREATE DOMAIN address AS varchar(254)",
        "CREATE TABLE subscribers (id serial PRIMARY KEY, uuid uuid NOT NULL DEFAULT gen_random_uuid() UNIQUE,"
        " email address NOT NULL UNIQUE, attribs jsonb NOT NULL, created_at timestamptz DEFAULT now())",
        "CREATE TABLE subscriber_lists (subscriber_id integer REFERENCES subscribers (id) ON DELETE CASCADE,"
        " list_id integer, PRIMARY KEY (subscriber_id, list_id))",
        "CREATE TABLE link_clicks (id bigserial PRIMARY KEY, at timestamptz,"
        " subscriber_id integer NULL REFERENCES subscribers (id) ON DELETE SET NULL)",
        "INSERT INTO subscribers (email, attribs) SELECT 's' || n || '@x.example', '{}' FROM generate_series(1, 50) n",
        f"INSERT INTO subscribers (id, email, attribs) VALUES ({ID}, 'planted@shop.example', '{{\"a\": 1.50}}')",
        "INSERT INTO subscriber_lists SELECT id, 1 FROM subscribers",
        f"INSERT INTO link_clicks (at, subscriber_id) VALUES ('infinity', {ID}), (now(), 3), (now(), NULL)",
    )
    engines = {one: sa.create_engine(one) for one in (url, back)}
    with engines[url].begin() as connection:
        for one in statements:
            connection.execute(sa.text(one.replace(":", "\\:")))
    for _ in range(2):
        name = take_snapshot(
            open_source("esp", url), world.store, clock=world.clock, plan_digest=""
        ).snapshot_id
        world.store.mark(name, "valid", findings=[], at=world.clock.now(), by="test")
    result = world.erase("Planted@shop.example", rewrite=True)
    assert [(one.table, one.rows, one.unlinked) for one in result.tables] == [
        ("link_clicks", 0, 1), ("subscriber_lists", 1, 0), ("subscribers", 1, 0),
    ]  # fmt: skip
    assert verify(world.store, level="content").findings == []
    assert places(world.store, "planted@", str(ID)) == []
    assert restore(
        world.store, "esp/00000001", open_target(back), clock=world.clock, mapping="listmonk"
    ).equal
    deleted = f"DELETE FROM subscribers WHERE id = {ID}"
    with engines[url].begin() as here, engines[back].begin() as there:
        here.execute(sa.text(deleted))  # the database takes the person out as an erasure does
        for table in ("subscribers", "subscriber_lists", "link_clicks"):
            query = sa.text(f"SELECT {table}::text FROM {table} ORDER BY 1")
            assert there.execute(query).fetchall() == here.execute(query).fetchall()
    for one in engines.values():
        one.dispose()


def test_rows_that_would_refer_to_nothing_stop_a_rewrite_before_anything_is_done(world: World) -> None:
    world.run(
        "shop", "CREATE TABLE answers (id INTEGER, request INTEGER REFERENCES consent_requests (request_id))"
    )
    world.backup("shop")
    before = world.store.storage.list("")
    with pytest.raises(SnapshotError, match=r"shop\.answers"):
        world.erase(rewrite=True)
    assert world.store.storage.list("") == before


# Who is meant ---------------------------------------------------------------------------------------------------


def test_a_record_goes_under_every_address_it_had_and_nobody_else_does(world: World) -> None:
    """Customer 5 had the address once and has another now; the number of a deleted customer was given again."""
    world.run("shop", f"UPDATE customers SET email = 'old@shop.example' WHERE customer_id = {ID}")
    world.run(
        "shop",
        f"UPDATE customers SET email = '{ADDRESS.replace(chr(39), chr(39) * 2)}' WHERE customer_id = 5",
    )
    world.backup("shop")
    again = "INSERT INTO customers VALUES (?, ?, ?)"
    world.run("shop", "UPDATE customers SET email = 'five@shop.example' WHERE customer_id = 5")
    world.run("shop", ("UPDATE customers SET email = ? WHERE customer_id = ?", [(ADDRESS, ID)]))
    world.backup("shop")
    world.run("shop", f"DELETE FROM customers WHERE customer_id = {ID}")
    world.run("shop", (again, [(ID, "new@shop.example", "2011-12-24 00:00:00")]))
    world.backup("shop")

    result = world.erase(rewrite=True)

    assert result.others == 1
    customers = [{row[0]: row[1] for row in world.restored(name)[0]["customers"]} for name in world.taken]
    assert [ID in one for one in customers] == [False, False, True]
    assert [one[5] for one in customers] == [ADDRESS, "five@shop.example", "five@shop.example"]
    assert [(one.table, one.column, one.rows) for one in result.mentions] == [("customers", "email", 1)]
    assert world.restored("shop/00000003")[0]["customers"][-1][1] != ADDRESS


def test_rows_whose_person_the_source_deleted_already_go_too(world: World) -> None:
    world.backup("shop")
    world.run("shop", f"DELETE FROM customers WHERE customer_id = {ID}")
    world.backup("shop")
    world.erase(rewrite=True)
    rows = world.restored("shop/00000002")[0]
    assert not any(
        ID in row for table in ("webhook_receipts", "consent_requests", "orders") for row in rows[table]
    )


def test_the_address_in_rows_of_others_is_named_and_left(world: World) -> None:
    world.run(
        "esp", ("INSERT INTO links VALUES (?, ?)", [(2, f"https://shop.example/?for={ADDRESS.lower()}&x=1")])
    )
    world.run("esp", ("INSERT INTO links VALUES (?, ?)", [(3, f"https://shop.example/?for=x{ADDRESS}")]))
    world.backup("esp")
    result = world.erase(rewrite=True)
    assert [(one.source, one.table, one.column, one.rows) for one in result.mentions] == [
        ("esp", "links", "url", 1)
    ]
    assert len(world.restored("esp/00000001")[0]["links"]) == 3


def test_what_names_a_person_agrees_with_the_contracts() -> None:
    data = Path(__file__).parents[2] / "data" / "expectations"
    for mapping, person in PERSONS.items():
        contracts = load_contracts(data / mapping)
        named = {person.table, *person.links}
        for table, contract in contracts.items():
            for key in contract.foreign_keys:
                if key.references == person.table:
                    assert [person.links[table].column] == list(key.columns), f"{mapping}: {table}"
            personal = {name for name, one in contract.columns.items() if one.personal}
            if personal and table not in named:
                assert (table, personal) == ("campaigns", {"from_email"}), "the sender is not a subscriber"
        for table, link in person.links.items():
            assert link.empties is False or contracts[table].columns[link.column].nulls is not None
        assert contracts[person.table].columns[person.address].personal


# The ledger -----------------------------------------------------------------------------------------------------


def test_without_a_rewrite_no_restore_brings_the_person_back(world: World) -> None:
    world.backup()
    before = {name: world.restored(name)[0] for name in world.taken}
    objects = world.store.storage.list("objects/")
    result = world.erase()
    assert (result.entry, result.replaced, sorted(result.holding)) == (1, [], ["esp", "shop"])
    assert world.store.storage.list("objects/") == objects
    for name in world.taken:
        rows, restored = world.restored(name)
        assert rows == without_the_person(before[name])
        assert restored.equal
        assert {one.name: one.erased for one in restored.tables if one.erased} == {
            one.table: one.rows + one.unlinked for one in result.tables if name.startswith(one.source)
        }
        assert {one.name: one.rows for one in restored.tables} == {
            name: len(some) for name, some in rows.items()
        }


def test_no_export_writes_the_person(world: World) -> None:
    world.backup()
    erased = world.erase()
    for name in world.taken:
        before, restored = world.restored(name)
        out = world.folder / f"out-{name.partition('/')[0]}"
        mapping = MAPPINGS[name.partition("/")[0]]
        result = export(world.store, name, out, mapping=mapping)
        assert all(word not in one.read_text() for one in out.iterdir() for word in PLANTED)
        assert {one.name: (one.rows, one.erased) for one in result.tables} == {
            one.name: (len(before[one.name]), one.erased) for one in restored.tables
        }
        assert sum(one.erased for one in result.tables) == sum(
            one.rows + one.unlinked for one in erased.tables if name.startswith(one.source)
        )
        with pytest.raises(StoreError, match="without its signing key"):
            export(Store.open(world.store.url), name, world.folder / "keyless", mapping=mapping)
        assert not (world.folder / "keyless").exists()


@pytest.mark.parametrize("mode", ["insert-missing", "overwrite"])
@pytest.mark.parametrize("source", ["shop", "esp"])
def test_no_restore_into_a_database_in_use_brings_the_person_back(
    world: World, source: str, mode: Mode
) -> None:
    """The person was deleted there with all of their rows, and others' rows were lost besides."""
    world.backup(source)
    name, deleted = f"{source}/00000001", world.erase()
    expected = world.restored(name)[0]
    lose = [
        f'DELETE FROM "{one.table}" WHERE "{column}" = {ID}'
        for one in deleted.tables
        for column in one.columns
    ]
    world.run(source, *lose, *(f'DELETE FROM "{table}" WHERE rowid % 3 = 0' for table in expected))
    found = merge(
        world.store, name, open_target(world.url(source)), world.folder / "differences",
        clock=world.clock, mode=mode, apply=True, mapping=MAPPINGS[source],
    )  # fmt: skip
    with closing(sqlite3.connect(world.folder / f"{source}.db")) as database:
        now = {
            table: sorted(database.execute(f'SELECT * FROM "{table}"').fetchall(), key=repr)
            for table in expected
        }
    assert now == expected
    for one in deleted.tables:
        [table] = [some for some in found.tables if some.name == one.table]
        assert any(f"{one.rows + one.unlinked} row" in note and "erased" in note for note in table.notes)
    for path in (world.folder / "differences").iterdir():
        assert not any(word in str(pq.read_table(path).to_pylist()) for word in PLANTED)


def test_whoever_a_later_import_brings_back_is_suppressed_and_left_out_until_readmitted(world: World) -> None:
    world.backup("shop")
    world.erase(rewrite=True)
    ledger = read_ledger(world.store)
    assert ledger.is_suppressed(f"  {ADDRESS.upper()} ")
    assert not ledger.is_suppressed("c1@shop.example")
    world.run(
        "shop",
        f"UPDATE customers SET customer_id = 31337, created_at = '2012-01-01' WHERE customer_id = {ID}",
    )
    world.backup("shop")
    rows, restored = world.restored("shop/00000002")
    assert 31337 not in {row[0] for row in rows["customers"]}
    assert next(one.erased for one in restored.tables if one.name == "customers") == 1
    person = ledger.person(ADDRESS)
    readmit(world.store, person, clock=world.clock, by="Ada")
    assert not read_ledger(world.store).is_suppressed(ADDRESS)
    assert 31337 not in {row[0] for row in world.restored("shop/00000002")[0]["customers"]}
    world.backup("shop")
    assert 31337 in {row[0] for row in world.restored("shop/00000003")[0]["customers"]}
    with pytest.raises(UsageError, match="Nobody with this address is erased"):
        readmit(world.store, person, clock=world.clock, by="Ada")
    assert world.erase(rewrite=True).entry == 3
    assert places(world.store, "O'Planted") == []


def test_the_ledger_tells_nobody_without_the_key_who_is_in_it(world: World, key: SigningKey) -> None:
    world.backup("shop")
    world.erase(by=f"Ada <{ADDRESS}>")
    [path] = world.store.storage.list("erasure/")
    content = world.store.storage.get(path).decode()
    for known in (ADDRESS, ADDRESS.casefold(), str(ID)):
        assert known not in content
        for guess in (known, f'"{known}"'):
            assert hashlib.sha256(guess.encode()).hexdigest() not in content
    entry = read_ledger(world.store).entries[0]
    assert entry.columns["shop"] == [
        "consent_requests.customer_id", "customers.customer_id", "orders.customer_id",
        "reviews.author", "webhook_receipts.subscriber_id",
    ]  # fmt: skip
    keyless = Store.open(world.store.url)
    with pytest.raises(StoreError, match="without its signing key"):
        world.restored("shop/00000001", keyless)
    other = Store.open(str(world.folder / "other"), signing_key=key, create=True)
    assert read_ledger(other).person(ADDRESS) != entry.person, "another store, another hash"


def test_a_changed_or_removed_entry_and_a_manifest_put_back_are_found(world: World) -> None:
    world.backup("shop")
    root = world.store.storage.root
    assert root is not None
    manifest, ledger = root / "snapshots/shop/00000001.json", root / "erasure/ledger"
    original = manifest.read_bytes()
    for address in (ADDRESS, "c1@shop.example"):
        world.erase(address, rewrite=True)
    heads = verify(world.store, level="structure").heads

    def kinds() -> set[str]:
        return {one.kind for one in verify(world.store, level="structure", anchors=heads).findings}

    assert kinds() == set()
    replaced = manifest.read_bytes()
    manifest.write_bytes(original)
    assert "erased_back" in kinds()
    manifest.write_bytes(replaced)
    second = (ledger / "00000002.json").read_bytes()
    (ledger / "00000002.json").unlink()
    assert kinds() == {"anchor_missing", "ledger_changed"}
    (ledger / "00000002.json").write_bytes(second.replace(b'"by":"Ada"', b'"by":"Bob"'))
    assert kinds() == {"ledger_changed"}
    with pytest.raises(Damaged):
        world.restored("shop/00000001")
    (ledger / "00000002.json").write_bytes(second)
    (ledger / "00000001.json").unlink()
    assert kinds() == {"ledger_changed"}


# Beside other work ----------------------------------------------------------------------------------------------


def test_nothing_is_replaced_while_somebody_backs_up_or_deletes_and_no_prune_beside_an_erasure(
    world: World,
) -> None:
    world.backup("shop")
    before = world.store.storage.list("")
    for kind in ("backup", "prune"):
        with lease(world.store, kind), pytest.raises(SnapshotError, match="writes to the store just now"):
            world.erase(rewrite=True)
    assert world.store.storage.list("") == before
    with sole_deleter(world.store), pytest.raises(SnapshotError, match="writes to the store just now"):
        prune(world.store, Keep(keep_last=1), clock=world.clock, dry=False)
    with lease(world.store, "backup"):
        assert world.erase().entry == 1, "the ledger needs no lease"


def test_the_chain_holds_through_erasures_prunes_and_a_prune_that_was_stopped(world: World) -> None:
    for number in range(4):
        world.run("shop", f"UPDATE orders SET total = total + {number}")
        world.backup("shop")
        if number == 2:
            world.erase("c1@shop.example", rewrite=True)
    heads = verify(world.store, level="structure").heads
    for stopped in ("shop/00000001", "shop/00000004"):
        world.store.bury(stopped, at=world.clock.now(), by="prune")
    world.erase(rewrite=True)
    assert verify(world.store, level="content", anchors=heads).findings == []
    world.backup("shop")
    prune(world.store, Keep(keep_last=1), clock=world.clock, dry=False)
    assert world.store.snapshot_ids() == ["shop/00000005"]
    assert verify(world.store, level="content", anchors=heads).findings == []


def test_a_snapshot_that_is_replaced_while_it_is_read_is_not_called_damaged(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup("shop")
    reader = Store.open(world.store.url, signing_key=world.store._key)
    manifest, look = reader.manifest, reader.storage.size
    once = iter([lambda: world.erase(rewrite=True)])

    def size(path: str) -> int | None:
        next(once, lambda: None)()
        return look(path)

    monkeypatch.setattr(reader.storage, "size", size)
    assert verify(reader, "shop/00000001", level="structure").findings == []
    assert manifest("shop/00000001").replaced, "it was replaced in the middle"


def test_a_manifest_that_is_changed_on_its_way_leaves_the_earlier_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup("shop")
    before, put = world.store.manifest("shop/00000001"), world.store.storage.put
    spoiled = iter([True])

    def changed(path: str, content: bytes) -> None:
        spoil = path.startswith("snapshots/") and next(spoiled, False)
        put(path, content.replace(b"shop", b"shoq", 1) if spoil else content)

    monkeypatch.setattr(world.store.storage, "put", changed)
    with pytest.raises(StoreError, match="does not come back as it was"):
        world.erase(rewrite=True)
    assert world.store.manifest("shop/00000001") == before
    assert verify(world.store, level="content").ok
    assert world.erase(rewrite=True).replaced == ["shop/00000001"]
    assert places(world.store, *PLANTED) == []


def test_readings_of_objects_that_stay_count_on_after_a_rewrite_and_new_objects_are_unread(
    world: World,
) -> None:
    world.backup("shop")
    verify_and_record(world.store, at=world.clock.now(), by="test")
    before = world.store.manifest("shop/00000001").objects
    world.erase(rewrite=True)
    after = world.store.manifest("shop/00000001").objects
    assert verify(world.store, level="content").ok
    late = overdue(world.store, within=DAY, now=world.clock.now())
    assert (
        {one.sha256 for one in late}
        == {one.sha256 for one in after} - {one.sha256 for one in before}
        != set()
    )
    assert verify_and_record(world.store, at=world.clock.now(), by="test").ok
    assert overdue(world.store, within=DAY, now=world.clock.now()) == []
    assert len(world.store.readbacks()) == 1, "what named objects that are gone is forgotten"


def test_a_restore_under_which_a_snapshot_is_replaced_says_so_and_leaves_the_target(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.backup("shop")
    reader = Store.open(world.store.url, signing_key=world.store._key)
    files = reader.table_files
    once = iter([lambda: world.erase(rewrite=True)])

    def table_files(snapshot_id: str, table: str) -> list[str]:
        next(once, lambda: None)()
        return files(snapshot_id, table)

    monkeypatch.setattr(reader, "table_files", table_files)
    with pytest.raises(SnapshotError, match="An erasure replaced the snapshot"):
        world.restored("shop/00000001", reader)
    assert world.restored("shop/00000001", reader)[1].equal


# Until when -----------------------------------------------------------------------------------------------------


@given(
    st.builds(Keep, *[st.integers(0, 3)] * 6, st.integers(0, 1)).filter(lambda one: any(vars(one).values())),
    st.sampled_from([HOUR, 5 * HOUR, DAY, 10 * DAY]),
    st.integers(0, 40 * 24),
)
@settings(max_examples=60)
def test_retention_keeps_no_snapshot_longer_than_it_says(rules: Keep, every: timedelta, hours: int) -> None:
    at = datetime(2011, 11, 1, tzinfo=UTC) + hours * HOUR
    until = kept_until(at, rules, every)
    step = max(every, (until - at) / 400)  # backups may come less often than planned only as seldom as this
    until = kept_until(at, rules, step)
    count = int((until - at) / step)
    snapshots = [info(n + 1, at + n * step) for n in range(count + 1)]
    assert not decide(snapshots, rules, until + timedelta(seconds=1))[0].kept


def test_retention_may_keep_a_snapshot_as_long_as_it_says() -> None:
    first = datetime(2011, 11, 30, 12, tzinfo=UTC)
    until = kept_until(first, Keep(keep_monthly=2), DAY)
    assert until == datetime(2012, 1, 2, tzinfo=UTC)
    days = [info(n + 1, first + n * DAY) for n in range(32)]
    assert decide(days, Keep(keep_monthly=2), until)[0].kept


# Kills ----------------------------------------------------------------------------------------------------------

POINTS = [
    "erase.before_entry",
    "erase.recorded",
    "spool.closed#2",
    "object.before_put",
    "storage.file_moved",
    "object.after_put#3",
    "erase.objects_stored",
    "erase.before_manifest",
    "storage.put_staged#2",
    "storage.put_replaced#2",
    "erase.manifest_replaced",
    "erase.before_manifest#3",
    "erase.manifest_replaced#4",
    "erase.object_deleted",
    "erase.object_deleted#3",
    "erase.noted",
]
PROGRAM = """
import sys
from tasks.core import DrivenClock
from tasks.snapshots import erase, open_store, read_ledger
url, key, clock, address = sys.argv[1:]
store = open_store(url, signing_key=key)
erase(store, read_ledger(store).person(address), mappings={"shop": "shop", "esp": "listmonk"},
      clock=DrivenClock(clock), by="Ada", ground="objection", rewrite=True, dry=False)
"""


@pytest.fixture
def killed(world: World, key: SigningKey) -> Callable[[str], int]:
    """A function that erases the person in a process of its own, killed at the given point, and returns its code."""
    (world.folder / "key.pem").write_bytes(key_pem(key))
    world.backup(object_bytes=4096)
    world.run("shop", "UPDATE orders SET total = total + 1")
    world.backup(object_bytes=4096)

    def run(point: str) -> int:
        arguments = [world.store.url, str(world.folder / "key.pem"), str(world.clock.path), ADDRESS]
        return subprocess.run(
            [sys.executable, "-c", PROGRAM, *arguments],
            env={**os.environ, "MAILSTAY_CRASH_AT": point},
            cwd=Path(__file__).parents[2],
            check=False,
        ).returncode

    return run


@dataclass
class Whole:
    """What must be true of the store after a kill: each snapshot is as it was or as it will be."""

    world: World
    before: dict[str, Any]
    rows: dict[str, dict[str, Rows]]

    def check(self) -> None:
        store = open_store(self.world.store.url)
        assert verify(store, level="content").findings == []
        assert store.snapshot_ids() == sorted(self.before)
        for name, manifest in self.before.items():
            now = store.manifest(name)
            assert now == manifest or now.digests[:-1] == [manifest.digest]
            assert store.state(name) == "valid"

    def check_through(self) -> None:
        self.check()
        store = self.world.store
        assert places(store, *PLANTED) == []
        assert len(read_ledger(store).entries) == 1
        for name, rows in self.rows.items():
            assert self.world.restored(name)[0] == without_the_person(rows)
        assert set(store.storage.list("objects/")) == {
            ref.path
            for one in store.snapshot_ids()
            for table in store.manifest(one).tables.values()
            for ref in table.objects
        }


@pytest.fixture
def whole(world: World, killed: object) -> Whole:
    return Whole(
        world,
        {name: world.store.manifest(name) for name in world.taken},
        {name: world.restored(name)[0] for name in world.taken},
    )


@pytest.mark.kill
@pytest.mark.parametrize("point", POINTS)
def test_an_erasure_killed_at_any_point_loses_nothing_and_the_next_one_finishes(
    whole: Whole, killed: Callable[[str], int], point: str
) -> None:
    assert killed(point) == -signal.SIGKILL, "the point was not passed"
    whole.check()
    whole.world.erase(rewrite=True)
    whole.check_through()


@pytest.mark.kill
@pytest.mark.slow
def test_an_erasure_killed_again_and_again_gets_through(whole: Whole, killed: Callable[[str], int]) -> None:
    """Every run is killed one step later than the one before, until one is not killed."""
    step = 1
    while killed(f"*#{step}") == -signal.SIGKILL:
        whole.check()
        step += 1
    assert step > 10
    whole.check_through()


@pytest.mark.kill
@pytest.mark.slow
def test_an_erasure_killed_at_each_step_of_a_fresh_store(
    whole: Whole, killed: Callable[[str], int], tmp_path: Path
) -> None:
    import shutil

    root = whole.world.store.storage.root
    assert root is not None
    shutil.copytree(root, tmp_path / "fresh")
    step = 1
    while killed(f"*#{step}") == -signal.SIGKILL:
        whole.check()
        assert killed("") == 0
        whole.check_through()
        shutil.rmtree(root)
        shutil.copytree(tmp_path / "fresh", root)
        step += 1
    assert step > 60
