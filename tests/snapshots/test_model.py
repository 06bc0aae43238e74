"""The store against a plain model of it, over random histories: every snapshot holds what it held, for ever."""

from __future__ import annotations

import shutil
import sqlite3
import time
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from tasks.core import DrivenClock
from tasks.snapshots import (
    Damaged,
    Manifest,
    SnapshotError,
    Store,
    erase,
    generate_key,
    prune,
    read_ledger,
    take_snapshot,
    verify,
)
from tasks.snapshots.pruning import GRACE
from tasks.sources import open_source
from tests.snapshots.world import Keep

Tables = dict[str, list[tuple[Any, ...]]]


class StoreMachine(RuleBasedStateMachine):
    """Backups, two at once too, verdicts, holds, time, prunes, erasures, copies and tampering, in any order.

    The model: what every snapshot that is there must hold, which of them are held and which valid, the objects that
    snapshots gave up and since when, and the heads of the chain and of the ledger.
    """

    folder: Path

    @initialize()
    def begin(self) -> None:
        self.home = self.folder / f"{time.monotonic_ns()}"
        self.home.mkdir()
        self.clock = DrivenClock.create(self.home / "clock.json", datetime(2011, 11, 16, 12, 0, tzinfo=UTC))
        self.key = generate_key()
        self.store = Store.open(str(self.home / "store"), signing_key=self.key, create=True)
        self.write("PRAGMA journal_mode=WAL")
        self.write("CREATE TABLE a (id INTEGER PRIMARY KEY, v INTEGER)")
        self.write("CREATE TABLE b (id INTEGER PRIMARY KEY, v INTEGER)")
        self.write("INSERT INTO a VALUES (1, 1)")
        self.write("CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, email TEXT)")
        self.model: dict[str, Tables] = {}
        self.taken = 0
        self.held: set[str] = set()
        self.valid: set[str] = set()
        self.marked: dict[str, datetime] = {}
        self.anchors: dict[str, str] = {}

    def write(self, statement: str) -> None:
        with closing(sqlite3.connect(self.home / "s.db")) as database:
            database.execute(statement)
            database.commit()

    def rows(self) -> Tables:
        with closing(sqlite3.connect(self.home / "s.db")) as database:
            return {
                table: database.execute(f"SELECT * FROM {table} ORDER BY 1").fetchall()
                for table in ("a", "b", "customers")
            }

    def committed(self, manifest: Manifest, rows: Tables) -> None:
        self.taken += 1
        assert manifest.sequence == self.taken
        self.model[manifest.snapshot_id] = rows

    def back_up(self, store: Store, plan: str = "") -> Manifest:
        source = open_source("s", f"sqlite:///{self.home / 's.db'}")
        return take_snapshot(source, store, clock=self.clock, plan_digest=plan)

    def reopened(self) -> Store:
        return Store.open(self.store.url, signing_key=self.key)

    @rule(table=st.sampled_from("ab"), value=st.integers(0, 3))
    def change(self, table: str, value: int) -> None:
        self.write(f"INSERT OR REPLACE INTO {table} VALUES ({value}, {value * value})")

    @rule(table=st.sampled_from("ab"), value=st.integers(0, 3))
    def remove(self, table: str, value: int) -> None:
        self.write(f"DELETE FROM {table} WHERE id = {value}")

    @rule(who=st.integers(1, 4))
    def join(self, who: int) -> None:
        self.write(f"INSERT OR REPLACE INTO customers VALUES ({who}, 'p{who}@shop.example')")

    @rule(who=st.integers(1, 4), override=st.booleans(), rewrite=st.booleans())
    def erase(self, who: int, override: bool, rewrite: bool) -> None:
        """The source keeps the person: later snapshots hold them again, until they are erased again."""
        person = read_ledger(self.store).person(f"P{who}@shop.example")
        erase(
            self.store, person, mappings={"s": "shop"}, clock=self.clock, by="x", ground="objection",
            rewrite=rewrite, override_holds=override, dry=False,
        )  # fmt: skip
        if not rewrite:
            return
        for name, tables in self.model.items():
            if override or name not in self.held:
                tables["customers"] = [one for one in tables["customers"] if one[0] != who]
        self.marked = {}  # a rewrite deletes at once what no snapshot needs
        assert {Path(path).stem for path in self.store.storage.list("objects/")} == self.needed()

    @rule()
    def backup(self) -> None:
        self.committed(self.back_up(self.store), self.rows())

    @rule(late=st.booleans(), later=st.integers(0, 2), value=st.integers(0, 3))
    def two_backups_at_once(self, late: bool, later: int, value: int) -> None:
        """A whole backup fits into another one: before its first object is stored, or before its commit."""
        outer, mine, done = self.reopened(), self.rows(), []
        plain = outer.commit if late else outer.put_object

        def overtaken(*args: Any) -> Any:
            if not done:
                done.append(True)
                self.clock.advance(timedelta(seconds=later))
                self.write(f"INSERT OR REPLACE INTO b VALUES ({value}, {later})")
                self.committed(self.back_up(self.store, plan="inner"), self.rows())
            return plain(*args)

        setattr(outer, "commit" if late else "put_object", overtaken)
        try:
            manifest = self.back_up(outer, plan="outer")
        except SnapshotError as error:
            assert later > 0
            assert "later point in time" in str(error)
        else:
            self.committed(manifest, mine)

    @rule(hours=st.integers(1, 60))
    def wait(self, hours: int) -> None:
        self.clock.advance(timedelta(hours=hours))

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def hold_or_release(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        act = self.store.release if name in self.held else self.store.hold
        act(name, reason="test", by="x", at=self.clock.now())
        self.held ^= {name}

    @precondition(lambda self: self.model)
    @rule(data=st.data(), state=st.sampled_from(["valid", "quarantined"]))
    def judge(self, data: st.DataObject, state: Any) -> None:
        name = data.draw(st.sampled_from(sorted(self.model)))
        self.store.mark(name, state, findings=[], at=self.clock.now(), by="x")
        (self.valid.add if state == "valid" else self.valid.discard)(name)

    @rule(last=st.integers(1, 3), daily=st.integers(0, 2), dry=st.booleans())
    def prune(self, last: int, daily: int, dry: bool) -> None:
        before = self.store.storage.list("")
        now, needed = self.clock.now(), self.needed()
        ripe = {name for name, at in self.marked.items() if at + GRACE <= now} - needed
        found = prune(self.store, Keep(keep_last=last, keep_daily=daily), clock=self.clock, dry=dry)
        assert not set(found.removed) & (self.held | set(sorted(self.model)[-last:]))
        if self.valid:
            assert max(self.valid) not in found.removed
        if dry:
            assert self.store.storage.list("") == before
            return
        for name in found.removed:
            del self.model[name]
            self.valid.discard(name)
        needed = self.needed()
        objects = {Path(path).stem for path in self.store.storage.list("objects/")}
        assert found.deleted == len(ripe)
        assert not ripe & objects
        self.marked = {name: self.marked.get(name, now) for name in objects - needed}
        assert self.store.condemned() == self.marked

    def needed(self) -> set[str]:
        return {
            ref.sha256
            for name in self.model
            for table in self.store.manifest(name).tables.values()
            for ref in table.objects
        }

    @rule()
    def move(self) -> None:
        """Go on with a copy at another place; the old one is gone."""
        to = self.home / f"store-{time.monotonic_ns()}"
        shutil.copytree(self.store.url, to)
        shutil.rmtree(self.store.url)
        self.store = Store.open(str(to), signing_key=self.key, public_key=self.store.public_key_hex)

    @precondition(lambda self: self.model)
    @rule(data=st.data(), bit=st.integers(0, 7), remove=st.booleans())
    def tamper_and_mend(self, data: st.DataObject, bit: int, remove: bool) -> None:
        """Whatever file that counts is changed or removed, verify sees it; put back, all is well."""
        storage = self.store.storage
        needed = {f"objects/{one[:2]}/{one}.parquet" for one in self.needed()}
        counts = [
            path
            for path in storage.list("")
            if path in needed
            or path.startswith(("snapshots/", "tombstones/", "erasure/ledger/", "store.json"))
        ] + (
            []
            if remove
            else [
                one for folder in ("verify/", "holds/", "erasure/rewrites/") for one in storage.list(folder)
            ]
        )
        path = data.draw(st.sampled_from(counts))
        content = storage.get(path)
        at = data.draw(st.integers(0, len(content) - 1))
        if remove:
            storage.delete(path)
        else:
            storage.put(path, content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :])
        report = verify(self.store, level="content", anchors=self.anchors)
        assert not report.ok, path
        if path in needed:
            with pytest.raises(Damaged):
                for name, tables in self.model.items():
                    for table in tables:
                        self.reopened().table_files(name, table)
        storage.put(path, content)

    @invariant()
    def what_must_be_there_is_there_as_it_was(self) -> None:
        if not hasattr(self, "model"):
            return
        assert self.store.snapshot_ids() == sorted(self.model)
        report = verify(self.store, level="content", anchors=self.anchors)
        assert report.ok, report.findings
        self.anchors = report.heads
        for info in self.store.list():
            assert (info.state == "valid") == (info.snapshot_id in self.valid)
            assert bool(info.held_by) == (info.snapshot_id in self.held)
        newest = self.store.latest("s")
        assert (newest.snapshot_id if newest else None) == max(self.valid, default=None)
        fresh = Store.open(self.store.url)
        for name, tables in self.model.items():
            for table, rows in tables.items():
                found = [
                    tuple(row.values())
                    for path in fresh.table_files(name, table)
                    for row in pq.read_table(path).to_pylist()
                ]
                assert found == rows

    def teardown(self) -> None:
        if hasattr(self, "home"):
            shutil.rmtree(self.home)


def check_histories(folder: Path, examples: int, steps: int) -> None:
    run_state_machine_as_test(
        type("Machine", (StoreMachine,), {"folder": folder}),
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_the_store_agrees_with_a_model_of_it(tmp_path: Path, record_property: Callable[..., None]) -> None:
    record_property("cases", 8)
    check_histories(tmp_path, 8, 15)


@pytest.mark.slow
def test_the_store_agrees_with_a_model_of_it_over_many_histories(
    tmp_path: Path, record_property: Callable[..., None]
) -> None:
    record_property("cases", 600)
    check_histories(tmp_path, 600, 30)
