"""Restoring a snapshot into an empty database: written, read back and compared inside one transaction.

The comparison decides: unless every table reads back as it was loaded, nothing is kept. A campaign that was about to
send, or sending, comes back unable to: a restore must never send.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core import (
    Clock,
    Progress,
    SilentProgress,
    SystemClock,
    TableChecksum,
    UsageError,
    crash_point,
    plural,
    row_hashes,
)
from tasks.snapshots.erasing import erased_rows, unreplaced
from tasks.snapshots.erasures import read_ledger
from tasks.snapshots.errors import Damaged, NotGivenBack, SnapshotError
from tasks.snapshots.models import Manifest, State, TableEntry
from tasks.snapshots.persons import Cut, without
from tasks.snapshots.rules import RULES
from tasks.snapshots.store import Store
from tasks.snapshots.taking import arrow_schema
from tasks.sources import SourceReader, TableFacts, Target, ValueDoesNotFit, portable, ported

_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class RestoredTable:
    """One table of a restore.

    Attributes:
        rows: rows written.
        equal: whether the database gives the rows back exactly as they were loaded.
        disarmed: rows that came back unable to send.
        erased: rows that did not come back, or came back as those of nobody, because their person was erased.
        seconds: time to load it.
        lost: what belonged to the table and was not brought back, in words.
    """

    name: str
    rows: int
    equal: bool
    disarmed: int
    erased: int
    seconds: float
    lost: tuple[str, ...]


@dataclass(frozen=True)
class Restored:
    """What a restore came to.

    Attributes:
        state: the snapshot's state; anything but `valid` was asked for by name.
        equal: whether every table reads back as it was loaded; if not, nothing was kept.
        seconds: from the first statement to the commit: the actual recovery time of the data.
    """

    snapshot_id: str
    state: State
    target: str
    tables: list[RestoredTable]
    equal: bool
    seconds: float

    @property
    def rows(self) -> int:
        """Rows of all tables."""
        return sum(table.rows for table in self.tables)


def restore(
    store: Store,
    snapshot_id: str,
    target: Target,
    *,
    clock: Clock,
    mapping: str | None = None,
    tables: Sequence[str] = (),
    unproven: bool = False,
    progress: Progress | None = None,
) -> Restored:
    """Write the tables of a snapshot into a database that has none of them, and compare before anything is kept.

    Objects are hashed before they are read, and each table's rows must give the checksum of the manifest. Whoever the
    ledger of erased persons names does not come back. Memory is bounded by the batch.

    Args:
        store: where the snapshot is.
        snapshot_id: which one.
        target: where to.
        clock: for the target's connection.
        mapping: the mapping of the source: decides which rows must come back unable to send.
        tables: only these; all if empty. Foreign keys to tables left out are left out too.
        unproven: restore although the snapshot is not `valid`.
        progress: is told of every table and its rows.

    Raises:
        SnapshotError: the snapshot is not `valid`, or an erasure replaced it meanwhile.
        StoreError: somebody was erased, and the store was opened without its key.
        NotGivenBack: the database does not give back what was written; it is as it was.
        Damaged: an object is missing or changed.
        SourceError: the database refused something; it is as it was.
    """
    progress = progress or SilentProgress()
    state = proven_state(store, snapshot_id, unproven=unproven)
    manifest = store.manifest(snapshot_id)
    entries = chosen_tables(manifest, tables)
    with unreplaced(store, manifest):
        return _restored(store, manifest, state, target, clock, mapping, entries, progress)


def _restored(
    store: Store,
    manifest: Manifest,
    state: State,
    target: Target,
    clock: Clock,
    mapping: str | None,
    entries: dict[str, TableEntry],
    progress: Progress,
) -> Restored:
    snapshot_id = manifest.snapshot_id
    cuts = erased_rows(store, read_ledger(store), manifest, mapping, progress)
    began = SystemClock().now()
    done: list[RestoredTable] = []
    at_home = manifest.dialect == target.dialect
    with target.open(clock) as writer:
        facts = {
            name: _facts(entry, at_home, target.dialect, writer.namespace, set(entries))
            for name, entry in entries.items()
        }
        writer.create(list(facts.values()))
        crash_point("restore.created")
        loaded: dict[str, TableChecksum] = {}
        for name, entry in entries.items():
            started = SystemClock().now()
            progress.start(name, entry.rows)
            rule = _disarming(mapping, name)
            rows = TableRows(
                store,
                snapshot_id,
                name,
                entry,
                progress,
                rule=rule,
                cuts=cuts.get(name, ()),
                port_to=None if at_home else target.dialect,
            )
            writer.load(facts[name], rows)
            rows.check()
            loaded[name] = rows.written
            seconds = (SystemClock().now() - started).total_seconds()
            done.append(
                RestoredTable(
                    name, rows.written.rows, False, rows.disarmed, rows.erased, seconds, facts[name].lost
                )
            )
            crash_point("restore.loaded")
        writer.finish(list(facts.values()))
        crash_point("restore.finished")
        reader = writer.reader()
        if at_home:
            for entry in entries.values():
                reader.read_as(entry.facts)
        done = [_compared(table, reader, loaded[table.name], progress) for table in done]
        different = [table.name for table in done if not table.equal]
        if different:
            raise NotGivenBack(
                f"The database does not give back what was written to {plural(len(different), 'table')}: "
                + ", ".join(different),
                where=snapshot_id,
                fix="nothing was kept; restore into the kind of database that the snapshot came from",
            )
        crash_point("restore.compared")
        writer.commit()
        crash_point("restore.committed")
    return Restored(
        snapshot_id=snapshot_id,
        state=state,
        target=target.dialect,
        tables=done,
        equal=True,
        seconds=(SystemClock().now() - began).total_seconds(),
    )


class TableRows:
    """The rows of one table as they are written: read from verified objects, disarmed, and summed on the way."""

    def __init__(
        self,
        store: Store,
        snapshot_id: str,
        name: str,
        entry: TableEntry,
        progress: Progress,
        *,
        rule: tuple[str, Mapping[str, str]] | None = None,
        cuts: Sequence[Cut] = (),
        port_to: str | None = None,
    ) -> None:
        self._files = store.table_files(snapshot_id, name)
        self._where = f"snapshot {snapshot_id}, table {name}"
        self._entry = entry
        self._rule = rule
        self._cuts = cuts
        self._port_to = port_to
        self._progress = progress
        self._read = TableChecksum()
        self.written = TableChecksum()
        self.disarmed = self.erased = 0

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        schema = arrow_schema(self._entry)
        for path in self._files:
            with pq.ParquetFile(path, page_checksum_verification=True) as file:
                for batch in file.iter_batches(_BATCH_ROWS):
                    plain = pa.RecordBatch.from_arrays(
                        [
                            column.cast(field.type)
                            for column, field in zip(batch.columns, schema, strict=True)
                        ],
                        schema=schema,
                    )
                    hashes = row_hashes(plain)
                    self._read.add(hashes)
                    left, gone, unlinked = without(self._disarm(plain), self._cuts)
                    self.erased += gone + unlinked
                    safe = ported(left, self._port_to) if self._port_to else left
                    self.written.add(hashes if safe is plain else row_hashes(safe))
                    self._progress.advance(plain.num_rows, nbytes=plain.nbytes)
                    crash_point("restore.batch")
                    yield safe

    def _disarm(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self._rule is None:
            return batch
        column, becomes = self._rule
        at = batch.schema.get_field_index(column)
        if at < 0:
            return batch
        status = batch.column(at)
        for armed, safe in becomes.items():
            hit = pc.fill_null(pc.equal(status, armed), False)
            self.disarmed += pc.sum(pc.cast(hit, pa.int64())).as_py() or 0
            status = pc.if_else(hit, pa.scalar(safe, status.type), status)
        return batch.set_column(at, batch.schema.field(at), status)

    def check(self) -> None:
        """Make sure that what was read is what the manifest says.

        Raises:
            Damaged: it is not.
        """
        if self._read.hexdigest() != self._entry.checksum or self._read.rows != self._entry.rows:
            raise Damaged(
                "The rows do not give the checksum that the manifest names",
                where=self._where,
                fix="use another snapshot",
            )


def proven_state(store: Store, snapshot_id: str, *, unproven: bool) -> State:
    """Return the snapshot's state, which must be `valid` unless `unproven`.

    Raises:
        SnapshotError: it is not.
    """
    state = store.state(snapshot_id)
    if state != "valid" and not unproven:
        raise SnapshotError(
            f"Snapshot {snapshot_id} is {state}: nothing proves that it is good",
            where=store.url,
            fix="run validate, use another one, or say that it may be unproven",
        )
    return state


def chosen_tables(manifest: Manifest, tables: Collection[str]) -> dict[str, TableEntry]:
    """Return the entries of these tables of a snapshot, of all if none is named.

    Raises:
        UsageError: the snapshot has no such table.
    """
    for name in tables:
        if name not in manifest.tables:
            raise UsageError(
                f"Snapshot {manifest.snapshot_id} has no table {name!r}",
                fix=f"use one of: {', '.join(sorted(manifest.tables))}",
            )
    return {name: entry for name, entry in manifest.tables.items() if not tables or name in tables}


def _disarming(mapping: str | None, table: str) -> tuple[str, Mapping[str, str]] | None:
    """Return the column of the table that makes a sender act, and what its values come back as."""
    rule = RULES.get(mapping or "", {}).get(table)
    return (rule.column, rule.becomes) if rule and rule.becomes else None


def _facts(entry: TableEntry, at_home: bool, dialect: str, namespace: str, present: set[str]) -> TableFacts:
    if not at_home:
        return portable(entry.facts, arrow_schema(entry), dialect, namespace)
    if dialect == "sqlite" or all(key.references in present for key in entry.facts.foreign_keys):
        return entry.facts
    return replace(
        entry.facts, links=(), lost=(*entry.facts.lost, "foreign keys: a table that they name was left out")
    )


def _compared(
    table: RestoredTable, reader: SourceReader, loaded: TableChecksum, progress: Progress
) -> RestoredTable:
    """Read the table back and say whether it gives the same checksum."""
    progress.start(f"{table.name} (comparing)", table.rows)
    while True:
        found = TableChecksum()
        try:
            for batch in reader.batches(table.name):
                found.update(batch)
                progress.advance(batch.num_rows)
        except ValueDoesNotFit:
            continue  # its column is read as text from now on, as the backup had to
        return replace(table, equal=(found.rows, found.hexdigest()) == (loaded.rows, loaded.hexdigest()))
