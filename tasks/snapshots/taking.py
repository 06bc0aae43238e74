"""Taking a snapshot: read every table from one point, store its objects, then commit them with one write."""

from __future__ import annotations

import base64
import platform
import tempfile
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from datetime import datetime
from itertools import chain
from pathlib import Path
from threading import Lock

import pyarrow as pa

from tasks.core import Behind, Clock, Progress, SilentProgress, TableChecksum, crash_point, row_hashes
from tasks.snapshots.errors import AlreadyCommitted, SnapshotError
from tasks.snapshots.leases import lease, wait_for_prune
from tasks.snapshots.models import Manifest, ObjectRef, TableEntry, snapshot_name, split_name
from tasks.snapshots.narrowing import Narrowed, narrow
from tasks.snapshots.pacing import RateLimit
from tasks.snapshots.spool import OBJECT_BYTES, ParquetSpool, segment_rows_for, spooling
from tasks.snapshots.store import Store
from tasks.sources import BATCH_ROWS, ChangeFacts, Source, SourceReader, ValueDoesNotFit


def take_snapshot(
    source: Source,
    store: Store,
    *,
    clock: Clock,
    plan_digest: str,
    batch_rows: int = BATCH_ROWS,
    object_bytes: int = OBJECT_BYTES,
    limit_rate: int | None = None,
    readers: int = 1,
    full_read_every: int | None = None,
    progress: Progress | None = None,
) -> Manifest:
    """Copy all tables of `source` from one consistent point into `store` and return the committed manifest.

    Nothing is visible before the manifest is created, everything after. If the manifest of the snapshot before has
    rotted, this one follows it all the same, reads everything, and says so. A run that was killed leaves objects that
    the next run finds again by their hash and does not store twice. Memory is bounded by the batch
    and the number of readers.

    Args:
        source: what to copy.
        store: where to; opened with its signing key.
        clock: tells when the snapshot was taken.
        plan_digest: digest of the plan this backup runs under.
        batch_rows: rows per batch.
        object_bytes: the most one object may have.
        limit_rate: the most that is read from the source, in bytes of Arrow a second; the read transaction stays open
            the longer.
        readers: the most tables that are read at the same time, each over a connection of its own; more than one only
            where the source can share its point in time (PostgreSQL).
        full_read_every: tables that the source proves unchanged are taken over from the snapshot before, and read at
            the latest in so many snapshots; None reads every table.
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
        parent = store.newest_link(source.name)
        before = parent.manifest.tables if parent and parent.manifest else {}
        with source.open(clock) as reader, spooling(store.storage.root, "backup") as folder:
            narrowed = Narrowed()
            if full_read_every is not None:
                version = _tools()["mailstay"]
                narrowed = narrow(store, reader, parent, full_read_every, version, progress)
            names = [facts.name for facts in reader.tables()]
            counts = {name: reader.row_count(name) for name in names if name not in narrowed.taken_over}
            read = _Read(RateLimit(limit_rate, clock) if limit_rate else None, progress)
            progress.start(source.name, sum(counts.values()))

            def copy(one: SourceReader, name: str) -> TableEntry:
                return _copy_table(
                    one, name, counts[name], store, folder, batch_rows, object_bytes, before.get(name), read
                )

            copied = _of_all(reader, counts, readers, copy, read)
            progress.finish()
        crash_point("snapshot.objects_stored")
        tables = {name: narrowed.taken_over.get(name) or narrowed.told(copied[name]) for name in names}
        return _commit(
            store, source.name, reader.consistency, tables, narrowed.facts, plan_digest, started_at, clock
        )


def _of_all(
    reader: SourceReader,
    counts: dict[str, int],
    readers: int,
    copy: Callable[[SourceReader, str], TableEntry],
    read: _Read,
) -> dict[str, TableEntry]:
    """Copy every table, `readers` of them at the same time, the largest first."""
    extra = min(readers, len(counts)) - 1
    if extra < 1 or not reader.shares:
        return {name: copy(reader, name) for name in counts}
    waiting = deque(sorted(counts, key=lambda name: -counts[name]))
    done: dict[str, TableEntry] = {}

    def work(one: SourceReader) -> None:
        try:
            while (name := _next(waiting)) is not None:
                done[name] = copy(one, name)
        except BaseException:
            waiting.clear()
            read.stop()
            raise

    with ExitStack() as stack:
        others = [stack.enter_context(reader.beside()) for _ in range(extra)]
        with ThreadPoolExecutor(extra + 1, "mailstay-reader") as pool:
            working = [pool.submit(work, one) for one in (reader, *others)]
        failed = [error for one in working if (error := one.exception()) is not None]
        for error in failed:
            if not isinstance(error, _Stopped):
                raise error
    return {name: done[name] for name in counts}


def _next(waiting: deque[str]) -> str | None:
    with suppress(IndexError):
        return waiting.popleft()
    return None


def _copy_table(
    reader: SourceReader,
    name: str,
    source_rows: int,
    store: Store,
    folder: Path,
    batch_rows: int,
    object_bytes: int,
    before: TableEntry | None,
    read: _Read,
) -> TableEntry:
    mine = Path(tempfile.mkdtemp(dir=folder))
    while True:
        table = read.table()
        try:
            entry = _copy(
                reader, name, source_rows, store.put_object, mine, batch_rows, object_bytes, before, table
            )
        except ValueDoesNotFit:  # the column is wider now: from the start, in the same transaction
            table.start_again()
            continue
        crash_point("snapshot.table_done")
        return entry


class _Stopped(Exception):
    """Another table failed."""


class _Read:
    """What is read of all tables: told to whoever watches, and held to the rate."""

    def __init__(self, pace: RateLimit | None, progress: Progress) -> None:
        self._pace, self._progress = pace, progress
        self._one_at_a_time = Lock()
        self._stopped = False

    def table(self) -> _ReadOfTable:
        return _ReadOfTable(self)

    def add(self, rows: int, nbytes: int) -> None:
        with self._one_at_a_time:
            if self._stopped:
                raise _Stopped
            self._progress.advance(rows, nbytes=nbytes)
            if self._pace is not None and nbytes > 0:
                self._pace.take(nbytes)

    def stop(self) -> None:
        """Let whoever reads on end."""
        self._stopped = True


class _ReadOfTable:
    """What was read of one table."""

    def __init__(self, whole: _Read) -> None:
        self._whole = whole
        self._rows = self._bytes = 0

    def add(self, batch: pa.RecordBatch) -> None:
        self._rows += batch.num_rows
        self._bytes += batch.nbytes
        self._whole.add(batch.num_rows, batch.nbytes)

    def start_again(self) -> None:
        self._whole.add(-self._rows, -self._bytes)


def _copy(
    reader: SourceReader,
    name: str,
    source_rows: int,
    put: Callable[[ObjectRef, Path], bool],
    folder: Path,
    batch_rows: int,
    object_bytes: int,
    before: TableEntry | None,
    read: _ReadOfTable,
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
        folder, schema, reader.ordered_by(name), keep, segment_rows=segment_rows, object_bytes=object_bytes
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
    changes: ChangeFacts | None,
    plan_digest: str,
    started_at: datetime,
    clock: Clock,
) -> Manifest:
    while True:
        parent = store.newest_link(source)
        if parent and parent.manifest and _at(parent.manifest.consistency) > _at(consistency):
            raise SnapshotError(
                f"{parent.snapshot_id} was committed meanwhile and is of a later point in time",
                where=store.url,
                fix="use that one; this backup's objects are reused by the next",
            )
        sequence = split_name(parent.snapshot_id)[1] + 1 if parent else 1
        manifest = Manifest(
            store_id=store.store_id,
            snapshot_id=snapshot_name(source, sequence),
            source=source,
            sequence=sequence,
            parent_digest=parent.digest if parent else None,
            parent_unreadable=parent.unreadable if parent else None,
            consistency=consistency,
            plan_digest=plan_digest,
            started_at=started_at,
            finished_at=clock.now(),
            tools=_tools(),
            tables=tables,
            changes=changes,
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
