"""A source that changes while it is copied: the snapshot holds one point in time, across all tables."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import sqlalchemy as sa

from tasks.core import DrivenClock, SilentProgress
from tasks.snapshots import Store, connect, take_snapshot, verify
from tasks.sources import open_source


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


def test_writes_during_the_backup_do_not_show_in_any_table(
    url: str, store: Store, clock: DrivenClock
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
        open_source("live", url), store, clock=clock, plan_digest="", batch_rows=50, progress=meddler
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
