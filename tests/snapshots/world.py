"""A small store with a history, every operation on it, and what must hold afterwards, whatever went wrong meanwhile."""

from __future__ import annotations

import json
import shutil
import sqlite3
import uuid
from collections.abc import Callable
from contextlib import closing, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import sqlalchemy as sa

from tasks.core import DrivenClock
from tasks.snapshots import (
    Damaged,
    Manifest,
    NoStore,
    Pruned,
    SnapshotError,
    Store,
    diff,
    erase,
    generate_key,
    key_pem,
    open_store,
    prune,
    query,
    read_ledger,
    restore,
    take_snapshot,
    verify,
)
from tasks.sources import open_source, open_target

DAY = timedelta(days=1)
Rows = list[tuple[Any, ...]]


@dataclass
class Keep:
    """Rules that keep the newest snapshots only."""

    keep_last: int = 1
    keep_within_days: int = 0
    keep_hourly: int = 0
    keep_daily: int = 0
    keep_weekly: int = 0
    keep_monthly: int = 0
    keep_yearly: int = 0


@dataclass(frozen=True)
class World:
    """A shop's database, a clock and a key in a folder; and a store somewhere."""

    home: Path
    url: str
    target: str = ""  # the database to restore into; a file in the folder if empty

    @property
    def clock(self) -> DrivenClock:
        return DrivenClock(self.home / "clock.json")

    @property
    def restore_into(self) -> str:
        return self.target or f"sqlite:///{self.home / 'back.db'}"

    @property
    def root(self) -> Path:
        return Path(self.url)

    def store(self, *, create: bool = False) -> Store:
        return open_store(self.url, signing_key=str(self.home / "key.pem"), create=create)

    def change(self, statement: str) -> None:
        with closing(sqlite3.connect(self.home / "shop.db")) as database:
            database.execute(statement)
            database.commit()

    def take(self) -> Manifest:
        source = open_source("shop", f"sqlite:///{self.home / 'shop.db'}")
        return take_snapshot(
            source, self.store(create=True), clock=self.clock, plan_digest="", object_bytes=4096
        )

    def prune(self) -> Pruned:
        return prune(self.store(), Keep(), clock=self.clock, dry=False)

    def source_rows(self) -> dict[str, Rows]:
        with closing(sqlite3.connect(self.home / "shop.db")) as database:
            return {
                name: database.execute(f"SELECT * FROM {name} ORDER BY id").fetchall()
                for name in ("orders", "subscribers")
            }

    def truth(self) -> dict[str, dict[str, Rows]]:
        """The rows of every snapshot that was reported as committed."""
        told = json.loads((self.home / "truth.json").read_text())
        return {
            name: {table: [tuple(row) for row in rows] for table, rows in tables.items()}
            for name, tables in told.items()
        }

    def tell(self, name: str) -> None:
        """Write down what a snapshot must hold for ever."""
        path = self.home / "truth.json"
        told = json.loads(path.read_text()) if path.exists() else {}
        path.write_text(json.dumps({**told, name: self.source_rows()}))

    def copy(self, operation: str) -> World:
        """Return a copy of this world for an operation, its store in a local folder."""
        to = self.home.parent / f"{operation}-{uuid.uuid4().hex}"
        shutil.copytree(self.home, to)
        world = World(to, str(to / "store"))
        if operation == "first backup":
            shutil.rmtree(world.root)
            for told in ("truth.json", "anchor.json"):
                (to / told).write_text("{}")
        return world


def built(home: Path) -> World:
    """Return a world in which every operation has something to do.

    Snapshot 1 is gone and an object of it is to be deleted; 2 is to go; 3 is held, 4 valid, 5 the newest; the source
    has changed since.
    """
    home.mkdir()
    (home / "key.pem").write_bytes(key_pem(generate_key()))
    DrivenClock.create(home / "clock.json", datetime(2011, 11, 1, 7, 0, tzinfo=UTC))
    world = World(home, str(home / "store"))
    world.change("CREATE TABLE orders (id INTEGER PRIMARY KEY, total NUMERIC(9,2), note TEXT)")
    world.change("CREATE TABLE subscribers (id INTEGER PRIMARY KEY, email TEXT)")
    world.change("INSERT INTO subscribers VALUES (1, 'a@shop.example'), (2, NULL)")
    for number in range(1, 6):
        world.change(f"INSERT INTO orders VALUES ({number}, {number}.25, 'order {number}')")
        name = world.take().snapshot_id
        world.tell(name)
        world.clock.advance(DAY)
        store, now = world.store(), world.clock.now()
        if number == 2:
            assert world.prune().removed == ["shop/00000001"]
        if number == 3:
            store.hold(name, reason="incident 1", by="respond", at=now)
        if number == 4:
            store.mark(name, "valid", findings=[], at=now, by="validate")
    told = world.truth()
    (world.home / "truth.json").write_text(json.dumps({name: told[name] for name in list(told)[1:]}))
    (world.home / "anchor.json").write_text(json.dumps(verify(world.store(), level="structure").heads))
    world.change("UPDATE orders SET total = total + 1 WHERE id = 2")
    world.change("INSERT INTO subscribers VALUES (3, 'c@shop.example')")
    return world


NEWEST, VALID, HELD, GOING = "shop/00000005", "shop/00000004", "shop/00000003", "shop/00000002"


# What is done with a store --------------------------------------------------------------------------------------


def backup(world: World) -> Any:
    """Take a snapshot, read every byte of it back and note that, as the flow does."""
    name = world.take().snapshot_id
    store = world.store()
    report = verify(store, name, level="content")
    store.note_verified(name, "content", findings=report.as_records(), at=world.clock.now(), by="backup")
    if not report.ok:
        raise Damaged(report.findings[0].message)
    return name


def first_backup(world: World) -> Any:
    """Take the first snapshot where there is no store yet."""
    return backup(world)


def check(world: World) -> Any:
    report = verify(world.store(), level="content")
    if not report.ok:
        raise Damaged(report.findings[0].message)
    return report.objects


def anchors(world: World) -> Any:
    newest = json.loads((world.home / "anchor.json").read_text())
    report = verify(world.store(), level="structure", anchors=newest)
    if not report.ok:
        raise Damaged(report.findings[0].message)
    return report.heads


def restored(world: World) -> Any:
    restore(world.store(), VALID, open_target(world.restore_into), clock=world.clock)
    return given_back(world)["orders"]


def given_back(world: World) -> dict[str, Rows]:
    """The rows of the tables that are in the database restored into."""
    engine = sa.create_engine(world.restore_into)
    with engine.connect() as database:
        names = sorted(sa.inspect(database).get_table_names())
        found = {
            name: [tuple(row) for row in database.exec_driver_sql(f"SELECT * FROM {name} ORDER BY id")]
            for name in names
        }
    engine.dispose()
    return found


def rehearsed(world: World) -> Any:
    """Bring the newest valid snapshot back into a database of its own and note that, as the flow does."""
    store = world.store()
    newest = store.latest("shop")
    if newest is None:
        raise SnapshotError("There is no valid snapshot to rehearse")
    target = world.home / "scratch.db"
    target.unlink(missing_ok=True)
    rows = restore(store, newest.snapshot_id, open_target(f"sqlite:///{target}"), clock=world.clock).rows
    store.note_verified(newest.snapshot_id, "restore", findings=[], at=world.clock.now(), by="rehearse")
    return newest.snapshot_id, rows


def pruned(world: World) -> Any:
    return world.prune().removed


def held(world: World) -> Any:
    return world.store().hold(NEWEST, reason="incident 2", by="respond", at=world.clock.now()).reason


def released(world: World) -> Any:
    return world.store().release(HELD, reason="incident 1", by="review", at=world.clock.now()).released_by


def judged(world: World) -> Any:
    return (
        world.store().mark(NEWEST, "valid", findings=[], at=world.clock.now(), by="validate").manifest_digest
    )


PERSON = "a@shop.example"


def erased(world: World) -> Any:
    """Take a person out of every snapshot, the held one too."""
    store = world.store()
    return erase(
        store,
        read_ledger(store).person(PERSON),
        mappings={"shop": "listmonk"},
        clock=world.clock,
        by="Ada",
        ground="objection",
        rewrite=True,
        override_holds=True,
        dry=False,
    ).tables


def compared(world: World) -> Any:
    return diff(world.store(), HELD, NEWEST)


def asked(world: World) -> Any:
    both = {"old": HELD, "new": NEWEST}
    return query(world.store(), both, "SELECT id FROM new.orders EXCEPT SELECT id FROM old.orders ORDER BY 1")


def listed(world: World) -> Any:
    # A verdict that cannot be read leaves a snapshot unproven, never proven: FORMAT.md, States.
    assert all(one.state == "committed" for one in world.store().list() if one.snapshot_id != VALID)
    return [(one.snapshot_id, one.rows, one.held_by) for one in world.store().list()]


OPERATIONS: dict[str, Callable[[World], Any]] = {
    "backup": backup,
    "first backup": first_backup,
    "verify": check,
    "anchors": anchors,
    "restore": restored,
    "rehearse": rehearsed,
    "prune": pruned,
    "erase": erased,
    "hold": held,
    "release": released,
    "mark": judged,
    "diff": compared,
    "query": asked,
    "list": listed,
}


# What must hold -------------------------------------------------------------------------------------------------


def rows_of(store: Store, name: str, table: str) -> Rows:
    return [
        tuple(row.values())
        for path in store.table_files(name, table)
        for row in pq.read_table(path, page_checksum_verification=True).to_pylist()
    ]


def plain(rows: Rows) -> list[list[str]]:
    """Numbers as SQLite and Parquet both write them."""
    return [
        [f"{float(value):.2f}" if not isinstance(value, str | None) else str(value) for value in row]
        for row in rows
    ]


def assert_whole(world: World, *, going: tuple[str, ...] = (), damaged: bool = False) -> None:
    """Everything that was reported as committed is there, whole and as it was; nothing half done is visible.

    Args:
        world: looked at through a store without faults.
        going: snapshots that an operation may have removed, by tombstone.
        damaged: a byte was changed on its way to the disk: then verify must name it and no reader may get it.
    """
    truth = world.truth()
    try:
        store = world.store()
    except NoStore:
        assert truth == {}
        return
    report = verify(store, level="content", anchors=json.loads((world.home / "anchor.json").read_text()))
    assert report.ok or damaged, report.findings
    there = store.snapshot_ids()
    erasures = read_ledger(store).entries
    for name, tables in truth.items():
        if name not in there:
            assert name in going
            assert store.is_buried(name)
            continue
        for table, rows in tables.items():
            try:
                found = rows_of(store, name, table)
            except Damaged:
                assert damaged and not report.ok
            else:
                left = [row for row in rows if PERSON not in row]
                whole = [plain(rows), plain(left)] if erasures else [plain(rows)]
                assert plain(found) in whole, (name, table)
    for name in set(there) - set(truth):  # committed, though it was not reported: then it is whole as well
        with suppress(Damaged) if damaged else nullcontext():
            assert {table: plain(rows_of(store, name, table)) for table in ("orders", "subscribers")} == {
                table: plain(rows) for table, rows in world.source_rows().items()
            }


def assert_done(world: World, operation: str) -> None:
    """What the operation is for has come about."""
    store = world.store()
    if operation in ("backup", "first backup"):
        newest = store.snapshot_ids()[-1]
        assert store.info(newest).verified == "content"
        assert plain(rows_of(store, newest, "orders")) == plain(world.source_rows()["orders"])
    elif operation == "prune":
        assert store.snapshot_ids() == [HELD, VALID, NEWEST]
        needed = {
            ref.path for one in store.manifests() for table in one.tables.values() for ref in table.objects
        }
        marked = {f"objects/{one[:2]}/{one}.parquet" for one in store.condemned()}
        assert set(store.storage.list("objects/")) == needed | marked
        assert len(marked) in (1, 2)  # a mark that cannot be read counts from now
    elif operation == "erase":
        assert [one.person for one in read_ledger(store).entries] == [read_ledger(store).person(PERSON)]
        for name in store.snapshot_ids():
            assert PERSON not in [row[1] for row in rows_of(store, name, "subscribers")]
    elif operation == "hold":
        assert [one.reason for one in store.holds(NEWEST)] == ["incident 2"]
    elif operation == "release":
        assert store.holds(HELD) == []
    elif operation == "mark":
        assert store.state(NEWEST) == "valid"
    elif operation == "rehearse":
        assert store.info(VALID).verified == "restore"
