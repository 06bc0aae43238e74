"""A source that changes while it is copied: the snapshot holds one point in time, across all tables."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.core import DrivenClock, SilentProgress
from tasks.snapshots import SnapshotError, Store, connect, take_snapshot, verify
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
