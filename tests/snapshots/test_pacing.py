"""A backup reads no faster than it may, and says how far it is; the driven clock shows the waits, none is real."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tasks.core import DrivenClock, UsageError, bytes_per_second
from tasks.snapshots import Store, take_snapshot
from tasks.snapshots.pacing import RateLimit
from tasks.sources import open_source

MIB = 2**20


class Watcher:
    """Keeps what a backup reports."""

    def __init__(self) -> None:
        self.titles: list[tuple[str, int | None]] = []
        self.rows = self.bytes = self.most = self.ends = 0

    def start(self, title: str, total: int | None = None) -> None:
        self.titles.append((title, total))

    def advance(self, units: int = 1, nbytes: int = 0) -> None:
        self.rows, self.bytes = self.rows + units, self.bytes + nbytes
        self.most = max(self.most, self.rows)

    def finish(self, note: str = "") -> None:
        self.ends += 1


def test_the_first_second_is_free_and_the_rest_waits_its_time(clock: DrivenClock) -> None:
    began = clock.now()
    pace = RateLimit(10 * MIB, clock)
    pace.take(10 * MIB)
    assert clock.now() == began
    pace.take(25 * MIB)
    assert (clock.now() - began).total_seconds() == 2.5
    clock.advance(3600)
    pace.take(15 * MIB)
    assert (clock.now() - began).total_seconds() == 2.5 + 3600 + 0.5, (
        "an idle hour saves up one second, not more"
    )


@given(
    st.integers(1_000, 10**8),
    st.lists(st.tuples(st.integers(0, 10**8), st.floats(0, 5)), min_size=1, max_size=20),
)
def test_however_batches_come_the_rate_is_kept_on_average(
    tmp_path_factory: pytest.TempPathFactory, rate: int, batches: list[tuple[int, float]]
) -> None:
    from datetime import UTC, datetime

    clock = DrivenClock.create(
        tmp_path_factory.mktemp("pace") / "clock.json", datetime(2011, 11, 16, tzinfo=UTC)
    )
    began, read = clock.now(), 0
    pace = RateLimit(rate, clock)
    for count, elsewhere in batches:
        clock.advance(elsewhere)
        pace.take(count)
        read += count
        seconds = (clock.now() - began).total_seconds()
        assert read <= rate * (seconds + 1) + rate * 1e-5 * len(batches), (
            "one second's worth ahead at the most"
        )


@pytest.fixture
def wide(tmp_path: Path) -> str:
    """Two tables of some 4 MiB; in the second a late value does not fit, so that it is read twice."""
    with closing(sqlite3.connect(tmp_path / "wide.db")) as connection:
        connection.execute("CREATE TABLE a (id INTEGER PRIMARY KEY, body TEXT)")
        connection.execute("CREATE TABLE b (id INTEGER PRIMARY KEY, n INTEGER)")
        connection.executemany("INSERT INTO a VALUES (?, ?)", [(n, "x" * 1000) for n in range(4000)])
        connection.executemany("INSERT INTO b VALUES (?, ?)", [(n, n) for n in range(999)])
        connection.execute("INSERT INTO b VALUES (999, 'no number')")
        connection.commit()
    return f"sqlite:///{tmp_path / 'wide.db'}"


def test_a_limited_backup_takes_the_time_of_its_bytes_and_holds_the_same(
    wide: str, store: Store, clock: DrivenClock
) -> None:
    source, watcher = open_source("wide", wide), Watcher()
    free = take_snapshot(source, store, clock=clock, plan_digest="", batch_rows=100)
    assert free.finished_at == free.started_at
    limited = take_snapshot(
        source, store, clock=clock, plan_digest="", batch_rows=100, limit_rate=MIB, progress=watcher
    )
    seconds = (limited.finished_at - limited.started_at).total_seconds()
    assert seconds >= watcher.bytes / MIB - 1.001 > 2
    assert {name: one.objects for name, one in limited.tables.items()} == {
        name: one.objects for name, one in free.tables.items()
    }


def test_progress_counts_the_rows_of_all_tables_once_and_their_bytes(
    wide: str, store: Store, clock: DrivenClock
) -> None:
    watcher = Watcher()
    take_snapshot(
        open_source("wide", wide), store, clock=clock, plan_digest="", batch_rows=100, progress=watcher
    )
    assert watcher.titles == [("wide", 5000)], (
        "the total is known before the first row, so the end can be told"
    )
    assert (watcher.rows, watcher.most, watcher.ends) == (5000, 5000, 1), "a table read again counts once"
    assert watcher.bytes > 4_000_000


@pytest.mark.parametrize(
    ("text", "rate"),
    [("20MiB/s", 20 * MIB), ("1.5 kB/s", 1500), ("1B/s", 1), ("2GiB/s", 2**31), (" 500 KiB/s ", 512_000)],
)
def test_a_rate_is_read(text: str, rate: int) -> None:
    assert bytes_per_second(text) == rate


@pytest.mark.parametrize("text", ["", "20", "20MB", "MiB/s", "-1MB/s", "0B/s", "0.1B/s", "20mb/s", "1e3B/s"])
def test_what_is_no_rate_is_refused_with_the_units(text: str) -> None:
    with pytest.raises(UsageError, match="write 20MiB/s; the units are B, kB"):
        bytes_per_second(text)
