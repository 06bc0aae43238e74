"""A source that changes while it is copied: the snapshot holds one point in time, across all tables."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from tasks.core import DrivenClock, SilentProgress
from tasks.snapshots import Manifest, SnapshotError, Store, connect, take_snapshot, verify
from tasks.sources import open_source
from tasks.sources.postgresql import PostgresqlReader


class Meddler(SilentProgress):
    """Writes to the source each time the backup reports a batch."""

    def __init__(self, engine: sa.Engine) -> None:
        self.engine, self.writes = engine, 0

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        self.writes += 1
        with self.engine.begin() as connection:
            for statement in (
                f"INSERT INTO orders VALUES ({10_000 + self.writes}, 5)",
                f"INSERT INTO payments VALUES ({10_000 + self.writes}, {10_000 + self.writes}, 5)",
                f"DELETE FROM orders WHERE id = {100 - self.writes}",
                f"UPDATE orders SET total = total + 1 WHERE id = {200 + self.writes}",
            ):
                connection.exec_driver_sql(statement)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgresql":
        new_database: Callable[[], str] = request.getfixturevalue("new_database")
        return new_database()
    return f"sqlite:///{tmp_path / 'live.db'}"


@pytest.mark.parametrize("readers", [1, 2])
def test_writes_during_the_backup_do_not_show_in_any_table(
    url: str, store: Store, clock: DrivenClock, readers: int
) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        if engine.dialect.name == "sqlite":
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        connection.exec_driver_sql("CREATE TABLE orders (id INTEGER PRIMARY KEY, total BIGINT)")
        connection.exec_driver_sql(
            "CREATE TABLE payments (id INTEGER PRIMARY KEY, order_id INTEGER REFERENCES orders (id), total BIGINT)"
        )
        rows = [{"id": n, "total": n} for n in range(300)]
        connection.execute(sa.text("INSERT INTO orders VALUES (:id, :total)"), rows)
        connection.execute(sa.text("INSERT INTO payments VALUES (:id, :id, :total)"), rows[200:])
    meddler = Meddler(engine)
    manifest = take_snapshot(
        open_source("live", url),
        store,
        clock=clock,
        plan_digest="",
        batch_rows=50,
        readers=readers,
        progress=meddler,
    )
    engine.dispose()
    assert meddler.writes == 6 + 2
    assert verify(store, level="content").ok
    assert {name: (entry.rows, entry.source_rows) for name, entry in manifest.tables.items()} == {
        "orders": (300, 300),
        "payments": (100, 100),
    }
    with connect(store, {"live": manifest.snapshot_id}) as connection:
        query = "SELECT count(*), sum(total), max(id) FROM live.orders"
        assert connection.execute(query).fetchone() == (300, sum(range(300)), 299)
        assert connection.execute("SELECT count(*), max(id) FROM live.payments").fetchone() == (100, 299)


@pytest.fixture
def many(new_database: Callable[[], str]) -> Iterator[tuple[str, sa.Connection]]:
    """A PostgreSQL database of eight tables, one of them empty, one with a value that Arrow's type does not hold."""
    url = new_database()
    engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for n in range(8):
            connection.exec_driver_sql(f"CREATE TABLE t{n} (id int PRIMARY KEY, at date, v text)")
            connection.exec_driver_sql(
                f"INSERT INTO t{n} SELECT i, '2011-11-16', repeat('v', mod(i, 50))"
                f" FROM generate_series(1, {n * 3000}) i"
            )
        connection.exec_driver_sql("UPDATE t3 SET at = 'infinity' WHERE id = 8000")
        yield url, connection
    engine.dispose()


@pytest.mark.integration
def test_tables_read_at_the_same_time_give_the_same_snapshot(
    many: tuple[str, sa.Connection], store: Store, clock: DrivenClock
) -> None:
    alone, together = (
        take_snapshot(
            open_source("live", many[0]), store, clock=clock, plan_digest="", readers=readers, batch_rows=700
        )
        for readers in (1, 5)
    )
    assert {name: (entry.checksum, entry.objects) for name, entry in together.tables.items()} == {
        name: (entry.checksum, entry.objects) for name, entry in alone.tables.items()
    }
    assert list(together.tables) == list(alone.tables)
    assert sum(entry.new_objects for entry in together.tables.values()) == 0


@pytest.mark.integration
def test_each_reader_has_a_connection_and_all_have_one_point(
    many: tuple[str, sa.Connection], clock: DrivenClock
) -> None:
    url, connection = many
    with open_source("live", url).open(clock) as reader, reader.beside() as second, reader.beside() as third:
        connection.exec_driver_sql("INSERT INTO t0 VALUES (1, '2011-11-16', 'late')")
        assert [one.row_count("t0") for one in (reader, second, third)] == [0, 0, 0]
        batches = [one.batches(name) for one, name in ((reader, "t5"), (second, "t6"), (third, "t7"))]
        assert [next(one).num_rows > 0 for one in batches] == [True] * 3
    count = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
    assert connection.exec_driver_sql(count).scalar_one() == 1


@pytest.mark.integration
def test_a_table_that_fails_ends_the_others_and_commits_nothing(
    many: tuple[str, sa.Connection], store: Store, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = PostgresqlReader.row_count
    monkeypatch.setattr(
        PostgresqlReader, "row_count", lambda self, table: counted(self, table) + (table == "t2")
    )
    with pytest.raises(SnapshotError, match="6,000 rows were read, the source counted 6,001"):
        take_snapshot(open_source("live", many[0]), store, clock=clock, plan_digest="", readers=3)
    assert store.snapshot_ids("live") == []


# PostgreSQL: what other sessions do meanwhile -------------------------------------------------------------------


@pytest.fixture
def live(new_database: Callable[[], str]) -> Iterator[sa.Engine]:
    """A database with 300 orders, and a table that is read after them."""
    engine = sa.create_engine(new_database())
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (id serial PRIMARY KEY, total bigint)")
        connection.exec_driver_sql("INSERT INTO orders (total) SELECT n FROM generate_series(1, 300) n")
        connection.exec_driver_sql("CREATE TABLE zones (id int PRIMARY KEY)")
        connection.exec_driver_sql("INSERT INTO zones VALUES (1), (2)")
    yield engine
    engine.dispose()


def take(engine: sa.Engine, store: Store, clock: DrivenClock, **options: Any) -> Manifest:
    source = open_source("live", engine.url.render_as_string(hide_password=False))
    return take_snapshot(source, store, clock=clock, plan_digest="", batch_rows=50, **options)


def ids(store: Store, manifest: Manifest, table: str = "orders") -> list[int]:
    with connect(store, {"live": manifest.snapshot_id}) as connection:
        return [row[0] for row in connection.execute(f"SELECT id FROM live.{table} ORDER BY id").fetchall()]


class Interrupter(SilentProgress):
    """Tries one statement in a session of its own at the first batch of the backup."""

    def __init__(self, engine: sa.Engine, statement: str) -> None:
        self.engine, self.statement, self.said = engine, statement, ""

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        if not self.said:
            try:
                with self.engine.begin() as connection:
                    connection.exec_driver_sql("SET LOCAL lock_timeout = '100ms'")
                    connection.exec_driver_sql(self.statement)
                    self.said = "done"
            except sa.exc.OperationalError as error:
                self.said = str(error.orig)


@pytest.mark.integration
@pytest.mark.parametrize(
    "statement",
    [
        "TRUNCATE zones",
        "DROP TABLE zones",
        "ALTER TABLE zones ADD COLUMN name text",
        "ALTER TABLE orders ALTER COLUMN total TYPE text",
        "ALTER TABLE zones RENAME TO regions",
    ],
)
def test_a_table_cannot_be_emptied_or_changed_under_the_reader(
    live: sa.Engine, store: Store, clock: DrivenClock, statement: str
) -> None:
    """Without the lock a TRUNCATE would show as an empty table, silently."""
    meddler = Interrupter(live, statement)
    manifest = take(live, store, clock, progress=meddler)
    assert "lock timeout" in meddler.said
    assert (ids(store, manifest, "zones"), len(ids(store, manifest))) == ([1, 2], 300)


@pytest.mark.integration
def test_a_table_made_during_the_backup_is_in_the_next(
    live: sa.Engine, store: Store, clock: DrivenClock
) -> None:
    meddler = Interrupter(live, "CREATE TABLE fresh (id int PRIMARY KEY)")
    assert set(take(live, store, clock, progress=meddler).tables) == {"orders", "zones"}
    assert meddler.said == "done"
    assert set(take(live, store, clock).tables) == {"fresh", "orders", "zones"}


@pytest.mark.integration
def test_a_truncate_that_is_not_committed_yet_is_waited_for(
    live: sa.Engine, store: Store, clock: DrivenClock
) -> None:
    with live.connect() as connection, ThreadPoolExecutor(1) as others:
        connection.exec_driver_sql("TRUNCATE zones")
        connection.exec_driver_sql("INSERT INTO zones VALUES (7)")
        backup = others.submit(take, live, store, clock)
        with live.connect() as looking:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted"
            deadline = time.monotonic() + 30
            while not looking.exec_driver_sql(waiting).scalar_one():
                assert time.monotonic() < deadline
                assert not backup.done()
                time.sleep(0.02)
        connection.commit()
        assert ids(store, backup.result(60), "zones") == [7]


@pytest.mark.integration
def test_a_row_with_a_lower_key_committed_late_is_in_the_next_snapshot(
    live: sa.Engine, store: Store, clock: DrivenClock
) -> None:
    """A cursor on the key would never see it: number 301 commits after 302 was copied."""
    with live.connect() as slow:
        slow.exec_driver_sql("INSERT INTO orders (total) VALUES (0)")
        with live.begin() as quick:
            quick.exec_driver_sql("INSERT INTO orders (total) VALUES (0)")
        assert ids(store, take(live, store, clock))[-2:] == [300, 302]
        slow.commit()
    assert ids(store, take(live, store, clock))[-3:] == [300, 301, 302]


def test_every_snapshot_of_a_busy_sqlite_file_balances(
    store: Store, clock: DrivenClock, tmp_path: Path
) -> None:
    """A process of its own moves amounts between two tables, one transaction each, while backups run."""
    path = tmp_path / "busy.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        for table in ("here", "there"):
            connection.execute(f"CREATE TABLE {table} (id INTEGER PRIMARY KEY, amount INTEGER)")
            connection.executemany(f"INSERT INTO {table} VALUES (?, 100)", [(n,) for n in range(500)])
        connection.commit()
    script = (
        "import random, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None); r = random.Random(1)\n"
        "print('begun', flush=True)\n"
        "while True:\n"
        " n = r.randrange(100); c.execute('BEGIN IMMEDIATE')\n"
        " c.execute('UPDATE here SET amount = amount - ? WHERE id = ?', (n, r.randrange(500)))\n"
        " c.execute('UPDATE there SET amount = amount + ? WHERE id = ?', (n, r.randrange(500)))\n"
        " c.execute('COMMIT')"
    )
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
        try:
            assert writer.stdout is not None
            writer.stdout.readline()
            source = open_source("busy", f"sqlite:///{path}")
            taken = [
                take_snapshot(source, store, clock=clock, plan_digest="", batch_rows=50).snapshot_id
                for _ in range(8)
            ]
            assert writer.poll() is None
        finally:
            writer.kill()
    moved = set()
    for name in taken:
        with connect(store, {"busy": name}) as connection:
            query = "SELECT (SELECT sum(amount) FROM busy.here), (SELECT sum(amount) FROM busy.there)"
            here, there = connection.execute(query).fetchall()[0]
            assert here + there == 100_000
            moved.add(there)
    assert len(moved) > 1, "the writer did write meanwhile"
