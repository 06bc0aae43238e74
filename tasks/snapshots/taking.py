"""Taking a snapshot: read every table from one point, store its objects, then commit them with one write."""

from __future__ import annotations

import base64
import platform
from collections.abc import Callable
from datetime import datetime
from itertools import chain
from pathlib import Path

import pyarrow as pa

from tasks.core import Behind, Clock, Progress, SilentProgress, TableChecksum, crash_point, row_hashes
from tasks.snapshots.errors import AlreadyCommitted, SnapshotError
from tasks.snapshots.leases import lease, wait_for_prune
from tasks.snapshots.models import Manifest, ObjectRef, TableEntry, snapshot_name, split_name
from tasks.snapshots.pacing import RateLimit
from tasks.snapshots.spool import OBJECT_BYTES, ParquetSpool, segment_rows_for, spool_folder
from tasks.snapshots.store import Store
from tasks.sources import BATCH_ROWS, Source, SourceReader, ValueDoesNotFit


def take_snapshot(
    source: Source,
    store: Store,
    *,
    clock: Clock,
    plan_digest: str,
    batch_rows: int = BATCH_ROWS,
    object_bytes: int = OBJECT_BYTES,
    limit_rate: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Copy all tables of `source` from one consistent point into `store` and return the committed manifest.

    Nothing is visible before the manifest is created, everything after. A run that was killed leaves objects that
    the next run finds again by their hash and does not store twice. Memory is bounded by the batch.

    Args:
        source: what to copy.
        store: where to; opened with its signing key.
        clock: tells when the snapshot was taken.
        plan_digest: digest of the plan this backup runs under.
        batch_rows: rows per batch.
        object_bytes: the most one object may have.
        limit_rate: the most that is read from the source, in bytes of Arrow a second; the read transaction stays open
            the longer.
        progress: is told of the rows and bytes of all tables.

    Raises:
        SourceError: the source cannot be read.
        SnapshotError: a table gave another number of rows than the source counted, or a backup that began later
            has been committed meanwhile.
    """
    progress = progress or SilentProgress()
    snapshot_name(source.name, 1)
    started_at = clock.now()
    crash_point("snapshot.begin")
    with lease(store, "backup"):
        wait_for_prune(store)
        earlier = store.snapshot_ids(source.name)
        before = store.manifest(earlier[-1]).tables if earlier else {}
        with source.open(clock) as reader, spool_folder(store.storage.root) as folder:
            counts = {facts.name: reader.row_count(facts.name) for facts in reader.tables()}
            pace = RateLimit(limit_rate, clock) if limit_rate else None
            progress.start(source.name, sum(counts.values()))
            tables = {
                name: _copy_table(
                    reader,
                    name,
                    rows,
                    store,
                    folder,
                    batch_rows,
                    object_bytes,
                    before.get(name),
                    pace,
                    progress,
                )
                for name, rows in counts.items()
            }
            progress.finish()
        crash_point("snapshot.objects_stored")
        return _commit(store, source.name, reader.consistency, tables, plan_digest, started_at, clock)


def _copy_table(
    reader: SourceReader,
    name: str,
    source_rows: int,
    store: Store,
    folder: Path,
    batch_rows: int,
    object_bytes: int,
    before: TableEntry | None,
    pace: RateLimit | None,
    progress: Progress,
) -> TableEntry:
    while True:
        read = _Read(pace, progress)
        try:
            entry = _copy(
                reader, name, source_rows, store.put_object, folder, batch_rows, object_bytes, before, read
            )
        except ValueDoesNotFit:  # the column is wider now: from the start, in the same transaction
            read.start_again()
            continue
        crash_point("snapshot.table_done")
        return entry


class _Read:
    """What was read of one table: told to whoever watches, and held to the rate."""

    def __init__(self, pace: RateLimit | None, progress: Progress) -> None:
        self._pace, self._progress = pace, progress
        self._rows = self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        self._progress.advance(batch.num_rows, nbytes=batch.nbytes)
        if self._pace is not None:
            self._pace.take(batch.nbytes)

    def start_again(self) -> None:
        self._progress.advance(-self._rows, nbytes=-self._bytes)


def _copy(
    reader: SourceReader,
    name: str,
    source_rows: int,
    put: Callable[[ObjectRef, Path], bool],
    folder: Path,
    batch_rows: int,
    object_bytes: int,
    before: TableEntry | None,
    read: _Read,
) -> TableEntry:
    facts, schema, checksum = reader.facts(name), reader.schema(name), TableChecksum()
    stored: list[int] = []

    def keep(ref: ObjectRef, file: Path) -> None:
        if put(ref, file):
            stored.append(ref.bytes)

    batches = reader.batches(name, batch_rows)
    first = next(batches, None)
    segment_rows = segment_rows_for(first) if first is not None else 2**15
    # Segments of another size would all be new; rows that have become much wider or narrower are worth that.
    if before is not None and before.segment_rows // 4 <= segment_rows <= before.segment_rows * 4:
        segment_rows = before.segment_rows
    spool = ParquetSpool(
        folder, schema, facts.primary_key, keep, segment_rows=segment_rows, object_bytes=object_bytes
    )
    # Rows are read and hashed while those before them are compressed and stored.
    with spool, Behind(spool.write) as write:
        for batch in chain([first] if first is not None else [], batches):
            hashes = row_hashes(batch)
            checksum.add(hashes)
            write(batch, hashes)
            read.add(batch)
    if spool.rows != source_rows:
        raise SnapshotError(
            f"{spool.rows:,} rows were read, the source counted {source_rows:,} in the same transaction",
            where=name,
            fix="check the database for damage (an index that misses rows) before the next backup",
        )
    return TableEntry(
        facts=facts,
        arrow_schema=base64.b64encode(schema.serialize().to_pybytes()).decode(),
        rows=spool.rows,
        source_rows=source_rows,
        checksum=checksum.hexdigest(),
        segment_rows=segment_rows,
        new_objects=len(stored),
        new_bytes=sum(stored),
        objects=spool.objects,
    )


def _commit(
    store: Store,
    source: str,
    consistency: dict[str, str],
    tables: dict[str, TableEntry],
    plan_digest: str,
    started_at: datetime,
    clock: Clock,
) -> Manifest:
    while True:
        earlier = store.snapshot_ids(source)
        parent = store.manifest(earlier[-1]) if earlier else None
        if parent is not None and _at(parent.consistency) > _at(consistency):
            raise SnapshotError(
                f"{parent.snapshot_id} was committed meanwhile and is of a later point in time",
                where=store.url,
                fix="use that one; this backup's objects are reused by the next",
            )
        sequence = split_name(earlier[-1])[1] + 1 if earlier else 1
        manifest = Manifest(
            store_id=store.store_id,
            snapshot_id=snapshot_name(source, sequence),
            source=source,
            sequence=sequence,
            parent_digest=parent.digest if parent else None,
            consistency=consistency,
            plan_digest=plan_digest,
            started_at=started_at,
            finished_at=clock.now(),
            tools=_tools(),
            tables=tables,
        )
        try:
            store.commit(manifest)
        except AlreadyCommitted:
            continue  # another writer was faster: this snapshot follows its
        return manifest


def _at(consistency: dict[str, str]) -> datetime:
    return datetime.fromisoformat(consistency["at"])


def _tools() -> dict[str, str]:
    import importlib.metadata

    versions = {name: importlib.metadata.version(name) for name in ("pyarrow", "sqlalchemy", "obstore")}
    try:
        versions["mailstay"] = importlib.metadata.version("mailstay")
    except importlib.metadata.PackageNotFoundError:
        versions["mailstay"] = "source"
    return {"python": platform.python_version(), **versions}


def arrow_schema(entry: TableEntry) -> pa.Schema:
    """Return the Arrow schema that a table entry records."""
    return pa.ipc.read_schema(pa.py_buffer(base64.b64decode(entry.arrow_schema)))
