"""Whatever a source holds comes back from the store as it was, with the facts to prove it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.core import Clock, SystemClock, TableChecksum, sha256_hex
from tasks.snapshots import (
    Manifest,
    SigningKey,
    SnapshotError,
    Store,
    arrow_schema,
    connect,
    export,
    take_snapshot,
    verify,
)
from tasks.snapshots.spool import spool_folder
from tasks.sources import ColumnFacts, SourceReader, TableFacts

KINDS: dict[pa.DataType, st.SearchStrategy[Any]] = {
    pa.int16(): st.integers(-(2**15), 2**15 - 1),
    pa.int32(): st.integers(-(2**31), 2**31 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.float32(): st.floats(width=32),
    pa.float64(): st.floats(),
    pa.bool_(): st.booleans(),
    pa.string(): st.text(st.characters(exclude_categories=["Cs"]), max_size=30),
    pa.binary(): st.binary(max_size=30),
    pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(),
    pa.timestamp("us", "UTC"): st.datetimes(timezones=st.just(UTC)),
    pa.time64("us"): st.times(),
    pa.decimal128(12, 3): st.decimals(-(10**8), 10**8, places=3),
    pa.uuid(): st.uuids(),
    pa.decimal256(60, 10): st.decimals(-(10**40), 10**40, places=10),
}
names = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12),
    st.sampled_from(
        ['"', "a.b", "Id", "ID", "id", "select", "'; DROP TABLE x; --", "名", "../up", "%s", " "]
    ),
)


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    columns = draw(st.lists(names, min_size=1, max_size=5, unique=True))
    rows = draw(st.integers(0, 20))
    arrays = []
    for _ in columns:
        kind = draw(st.sampled_from(list(KINDS)))
        values = draw(st.lists(st.one_of(st.none(), KINDS[kind]), min_size=rows, max_size=rows))
        arrays.append(pa.array(values, kind))
    return pa.table(arrays, names=columns)


class InMemory:
    """A source of Arrow tables: what the store must keep is then known exactly."""

    name, dialect = "memory", "sqlite"

    def __init__(self, content: dict[str, pa.Table], *, miscounted: int = 0) -> None:
        self.content, self.miscounted = content, miscounted

    @contextmanager
    def open(self, clock: Clock) -> Iterator[SourceReader]:
        yield InMemoryReader(self, clock)


class InMemoryReader(SourceReader):
    def __init__(self, source: InMemory, clock: Clock) -> None:
        self.source = source
        self.consistency = {"kind": "memory", "id": "1", "at": clock.now().isoformat()}

    def tables(self) -> list[TableFacts]:
        return [self.facts(name) for name in self.source.content]

    def facts(self, table: str) -> TableFacts:
        fields = self.source.content[table].schema
        return TableFacts(table, tuple(ColumnFacts(f.name, str(f.type), True) for f in fields), (), (), "")

    def schema(self, table: str) -> pa.Schema:
        return self.source.content[table].schema

    def row_count(self, table: str) -> int:
        return int(self.source.content[table].num_rows) + self.source.miscounted

    def batches(self, table: str, batch_rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        yield from self.source.content[table].to_batches(batch_rows)

    def ordered_by(self, table: str) -> tuple[str, ...]:
        return ()

    def _arrays(self, table: Any, batch_rows: int) -> Any:
        raise NotImplementedError

    def _wider(self, table: Any, column: Any) -> Any:
        raise NotImplementedError


def stored(store: Store, manifest: Manifest, table: str) -> pa.Table:
    files = store.table_files(manifest.snapshot_id, table)
    return pa.concat_tables(pq.ParquetFile(path, page_checksum_verification=True).read() for path in files)


def same(left: Any, right: Any) -> bool:
    if isinstance(left, float) and math.isnan(left):
        return isinstance(right, float) and math.isnan(right)
    return bool(left == right) and str(left) == str(right)


def check_round_trip(folder: Path, key: SigningKey, content: dict[str, pa.Table], batch_rows: int) -> None:
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    manifest = take_snapshot(
        InMemory(content), store, clock=SystemClock(), plan_digest="", batch_rows=batch_rows
    )
    assert verify(store, level="content").ok
    assert Store.open(store.url).manifest(manifest.snapshot_id) == manifest
    for name, table in content.items():
        entry, back = manifest.tables[name], stored(store, manifest, name)
        assert back.schema == table.schema == arrow_schema(entry)
        for column, original in zip(back.columns, table.columns, strict=True):
            assert all(map(same, column.to_pylist(), original.to_pylist()))
        checksum = TableChecksum()
        for batch in back.to_batches():
            checksum.update(batch)
        assert (entry.rows, entry.source_rows, entry.checksum) == (
            table.num_rows,
            table.num_rows,
            checksum.hexdigest(),
        )


@settings(max_examples=60)
@given(st.dictionaries(names, tables(), min_size=1, max_size=3), st.integers(1, 30))
def test_any_tables_come_back_exactly(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, content: dict[str, pa.Table], batch_rows: int
) -> None:
    check_round_trip(tmp_path_factory.mktemp("round"), key, content, batch_rows)


@pytest.mark.slow
@settings(max_examples=3000)
@given(st.dictionaries(names, tables(), min_size=1, max_size=4), st.integers(1, 30))
def test_any_tables_come_back_exactly_in_full(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, content: dict[str, pa.Table], batch_rows: int
) -> None:
    check_round_trip(tmp_path_factory.mktemp("round"), key, content, batch_rows)


@settings(max_examples=30)
@given(st.dictionaries(names, tables(), min_size=1, max_size=4))
def test_duckdb_opens_every_table_whatever_its_names(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, content: dict[str, pa.Table]
) -> None:
    store = Store.open(str(tmp_path_factory.mktemp("duck") / "store"), signing_key=key, create=True)
    manifest = take_snapshot(InMemory(content), store, clock=SystemClock(), plan_digest="")
    with connect(store, {'a "b': manifest.snapshot_id}) as connection:
        views = connection.execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()
        counts = [
            connection.execute(
                f'SELECT count(*) FROM "a ""b"."{name.replace(chr(34), chr(34) * 2)}"'
            ).fetchone()
            for (name,) in views
        ]
    assert sorted(count[0] for count in counts if count) == sorted(t.num_rows for t in content.values())


def test_a_table_larger_than_an_object_is_cut_in_key_order(store: Store) -> None:
    rows = 60_000
    table = pa.table({"id": range(rows), "body": [sha256_hex(str(n).encode()) for n in range(rows)]})
    source = InMemory({"t": table})
    manifest = take_snapshot(source, store, clock=SystemClock(), plan_digest="", object_bytes=256 * 1024)
    refs = manifest.tables["t"].objects
    assert len(refs) > 3
    assert all(ref.bytes <= 256 * 1024 for ref in refs)
    assert sum(ref.rows for ref in refs) == rows
    assert stored(store, manifest, "t").equals(table)
    assert verify(store, level="content").ok


def test_an_object_knows_its_key_range(store: Store, taken: Any) -> None:
    refs = taken(store, object_bytes=8 * 1024, batch_rows=300).tables["customers"].objects
    assert len(refs) > 1
    edges = [edge for ref in refs for edge in (ref.key_min, ref.key_max)]
    assert edges[0] == [0] and edges[-1] == [1999]
    assert edges == sorted(edges, key=lambda edge: edge or [])


def test_a_snapshot_whose_row_count_differs_from_the_source_is_not_committed(store: Store) -> None:
    source = InMemory({"t": pa.table({"id": [1, 2]})}, miscounted=1)
    with pytest.raises(SnapshotError, match="2 rows were read, the source counted 3"):
        take_snapshot(source, store, clock=SystemClock(), plan_digest="")
    assert store.snapshot_ids() == []


def test_the_same_rows_make_the_same_objects_whatever_the_batch(store: Store, taken: Any) -> None:
    first, second = taken(store), taken(store, batch_rows=100)
    assert {name: t.checksum for name, t in first.tables.items()} == {
        name: t.checksum for name, t in second.tables.items()
    }
    assert [ref.sha256 for t in first.tables.values() for ref in t.objects] == [
        ref.sha256 for t in second.tables.values() for ref in t.objects
    ]


def test_a_folder_name_that_looks_like_a_partition_changes_no_value(tmp_path: Path, key: SigningKey) -> None:
    store = Store.open(str(tmp_path / "status=live" / "env=prod"), signing_key=key, create=True)
    content = {"subscribers": pa.table({"id": [1, 2], "status": ["enabled", "blocklisted"]})}
    manifest = take_snapshot(InMemory(content), store, clock=SystemClock(), plan_digest="")
    with connect(store, {"esp": manifest.snapshot_id}) as connection:
        found = connection.execute("SELECT * FROM esp.subscribers ORDER BY id").fetchall()
    assert found == [(1, "enabled"), (2, "blocklisted")]


def test_memory_is_bounded_by_the_batch_and_not_by_the_table(store: Store) -> None:
    """Batches are dropped once they are in an object: at no time does more than a row group stay alive."""

    class Endless(InMemoryReader):
        def batches(self, table: str, batch_rows: int = 65_536) -> Iterator[pa.RecordBatch]:
            for number in range(60):
                peaks.append(pa.total_allocated_bytes())
                yield pa.record_batch(
                    {"id": pa.array(range(number * 50_000, (number + 1) * 50_000), pa.int64())}
                )

    class Source(InMemory):
        @contextmanager
        def open(self, clock: Clock) -> Iterator[SourceReader]:
            yield Endless(self, clock)

    peaks: list[int] = []
    before = pa.total_allocated_bytes()
    source = Source({"t": pa.table({"id": pa.array([], pa.int64())})}, miscounted=3_000_000)
    take_snapshot(source, store, clock=SystemClock(), plan_digest="")
    whole = 3_000_000 * 8
    assert max(peaks) - before < whole / 4


def test_the_spool_of_a_killed_run_is_removed_and_that_of_a_live_one_is_not(store: Store) -> None:
    import os

    assert store.storage.root is not None
    spool = store.storage.root / ".spool"
    dead = spool / "dead"
    dead.mkdir(parents=True)
    for name in ("lock", "000000.parquet"):
        (dead / name).touch()
    (spool / "staged").touch()
    with spool_folder(store.storage.root) as alive:
        for path in (dead, alive, spool / "staged"):
            os.utime(path, (0, 0))
        with spool_folder(store.storage.root):
            assert (dead.exists(), (spool / "staged").exists(), alive.exists()) == (False, False, True)
    assert list(spool.iterdir()) == []


def read_csv(text: str) -> Iterator[list[str | None]]:
    """Read what FORMAT.md says an export is, and refuse anything else: a value is in quotes, NULL is nothing."""
    at = 0
    while at < len(text):
        row: list[str | None] = []
        while True:
            field = re.compile(r'(?:"((?:[^"]|"")*)")?([,\n])', re.DOTALL).match(text, at)
            assert field is not None, text[at : at + 40]
            row.append(None if field[1] is None else field[1].replace('""', '"'))
            at = field.end()
            if field[2] == "\n":
                break
        yield row


def made_again(text: str | None, kind: pa.DataType) -> Any:
    if text is None or pa.types.is_string(kind):
        return text
    if pa.types.is_binary(kind):
        return bytes.fromhex(text.removeprefix("\\x"))
    if kind == pa.uuid():
        return UUID(text)
    if pa.types.is_boolean(kind):
        return {"true": True, "false": False}[text]
    if pa.types.is_decimal(kind):
        assert "E" not in text
        return Decimal(text)
    if pa.types.is_floating(kind):
        return pa.scalar(float(text), kind).as_py()
    for known, read in (
        (pa.types.is_date, date),
        (pa.types.is_time, time),
        (pa.types.is_timestamp, datetime),
    ):
        if known(kind):
            return read.fromisoformat(text)
    return int(text)


@settings(max_examples=60)
@given(st.dictionaries(names, tables(), min_size=1, max_size=3))
def test_any_tables_come_back_from_csv_exactly(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, content: dict[str, pa.Table]
) -> None:
    check_csv(tmp_path_factory.mktemp("csv"), key, content)


@pytest.mark.slow
@settings(max_examples=1000)
@given(st.dictionaries(names, tables(), min_size=1, max_size=4))
def test_any_tables_come_back_from_csv_exactly_in_full(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, content: dict[str, pa.Table]
) -> None:
    check_csv(tmp_path_factory.mktemp("csv"), key, content)


def exported(folder: Path, key: SigningKey, content: dict[str, pa.Table], form: Any) -> Any:
    store = Store.open(str(folder / "store"), signing_key=key, create=True)
    manifest = take_snapshot(InMemory(content), store, clock=SystemClock(), plan_digest="")
    export(store, manifest.snapshot_id, folder / "out", form=form, unproven=True)
    return json.loads((folder / "out" / "export.json").read_text(encoding="utf-8"))["tables"]


def check_csv(folder: Path, key: SigningKey, content: dict[str, pa.Table]) -> None:
    about = exported(folder, key, content, "csv")
    assert len({one["file"].lower() for one in about.values()}) == len(content)
    assert {one.name for one in (folder / "out").iterdir()} == {
        "export.json",
        *(one["file"] for one in about.values()),
    }
    for name, table in content.items():
        data = (folder / "out" / about[name]["file"]).read_bytes()
        assert sha256_hex(data) == about[name]["sha256"]
        head, *rows = read_csv(data.decode())
        assert head == table.column_names == [one["name"] for one in about[name]["columns"]]
        assert len(rows) == table.num_rows == about[name]["rows"]
        for row, original in zip(rows, table.to_pylist(), strict=True):
            back = [made_again(text, kind) for text, kind in zip(row, table.schema.types, strict=True)]
            assert all(map(same, back, original.values()))


@settings(max_examples=25)
@given(st.dictionaries(names, tables(), min_size=1, max_size=2))
def test_any_tables_come_back_from_delta_exactly_or_as_the_rule_says(
    tmp_path_factory: pytest.TempPathFactory, key: SigningKey, content: dict[str, pa.Table]
) -> None:
    deltalake = pytest.importorskip("deltalake")
    folder = tmp_path_factory.mktemp("delta")
    about = exported(folder, key, content, "delta")
    assert not (folder / "up").exists()
    for name, table in content.items():
        back = pa.table(deltalake.DeltaTable(folder / "out" / about[name]["file"]).to_pyarrow_table())
        assert back.num_rows == table.num_rows
        for column in about[name]["columns"]:
            original, found = table[column["source_name"]], back[column["name"]]
            if column["as_text"]:
                values = [made_again(text, original.type) for text in found.to_pylist()]
            else:
                assert found.type == original.type, "no type is changed without a word"
                values = found.to_pylist()
            assert all(map(same, values, original.to_pylist()))
