"""Erasing one person: an entry in the ledger and, if asked for, every object that holds them replaced.

A person is a record: an id with its time of birth, whose newest address is the one that was named. All rows that name
such a record go, whatever address they hold; somebody else's record that once had the address stays.

Each manifest is replaced by one write, after its new objects are stored and before the old ones are deleted. A run that
was killed leaves every snapshot as it was or as it will be; the next one goes on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tasks.core import (
    Clock,
    Progress,
    SilentProgress,
    TableChecksum,
    UsageError,
    crash_point,
    mask_addresses,
    row_hashes,
)
from tasks.snapshots.erasures import Ledger, Wanted, note_rewrite, read_ledger
from tasks.snapshots.errors import Damaged, SnapshotError
from tasks.snapshots.leases import sole_deleter
from tasks.snapshots.models import (
    Erasure,
    Ground,
    Manifest,
    ObjectRef,
    Replacement,
    TableEntry,
    object_path,
    split_name,
)
from tasks.snapshots.persons import (
    Cut,
    Named,
    PersonTable,
    left_dangling,
    moment,
    named_columns,
    person_table,
    read,
    texts,
    without,
)
from tasks.snapshots.pruning import needed_objects, stored_objects
from tasks.snapshots.spool import ParquetSpool, spooling
from tasks.snapshots.store import Store, object_problem
from tasks.snapshots.taking import arrow_schema

_RECORD = "\0record"  # no column is called so


@dataclass(frozen=True)
class ErasedTable:
    """What one table loses.

    Attributes:
        columns: the columns that name the person.
        snapshots: in how many snapshots they do.
        rows: rows that go, in the snapshot where they are most.
        unlinked: rows that stay as those of nobody, counted likewise.
    """

    source: str
    table: str
    columns: tuple[str, ...]
    snapshots: int
    rows: int
    unlinked: int


@dataclass(frozen=True)
class Mention:
    """A column that names the address in rows that are not the person's: somebody has to look."""

    source: str
    table: str
    column: str
    snapshots: int
    rows: int


@dataclass(frozen=True)
class Erased:
    """What an erasure did, or would do.

    Attributes:
        dry: whether nothing was changed.
        person: keyed hash of the address.
        entry: number of the ledger's entry; None while there is none.
        tables: what loses rows.
        holding: per source the newest snapshot that holds the person in its objects, and of when it is.
        still_in: sources whose newest snapshot holds the person: the next backup brings them back.
        replaced: snapshots whose objects were replaced, or would be.
        held: snapshots that were left as they are because a hold keeps them.
        deleted: objects deleted, with `deleted_bytes`; what a killed backup left is among them.
        mentions: what holds the address besides.
        unknown: sources of which nothing says what names a person: only `mentions` looks into them.
        others: records that once had the address and have another now; they were left alone.
        until: when retention has removed the objects at the latest if they are not replaced; None if nothing says.
    """

    dry: bool
    person: str
    entry: int | None
    tables: list[ErasedTable]
    holding: dict[str, tuple[str, datetime]]
    still_in: list[str]
    replaced: list[str]
    held: list[str]
    deleted: int
    deleted_bytes: int
    mentions: list[Mention]
    unknown: list[str]
    others: int
    until: datetime | None = None


def erase(
    store: Store,
    person: str,
    *,
    mappings: Mapping[str, str],
    clock: Clock,
    by: str,
    ground: Ground,
    rewrite: bool = False,
    override_holds: bool = False,
    dry: bool = True,
    progress: Progress | None = None,
) -> Erased:
    """Erase a person from a store; `dry` says what would happen and changes nothing.

    The entry in the ledger keeps the person out of every restore and suppresses the address from now on. The objects
    hold them until retention removes the snapshots, or until `rewrite` replaces them.

    Args:
        store: opened with its signing key.
        person: keyed hash of the address (`Ledger.person`); the address itself is never given.
        mappings: mapping by source: what names a person in its tables.
        clock: for the times of the entry and of the replacements.
        by: who asks for it.
        ground: why.
        rewrite: replace the objects that hold the person in every snapshot, and delete them at once.
        override_holds: replace held snapshots too.
        dry: change nothing.
        progress: is told of the snapshots.

    Raises:
        UsageError: `person` is no keyed hash.
        SnapshotError: somebody else writes to the store just now.
        Damaged: a manifest, an object or the ledger is not what was written: nothing was changed by then.
    """
    if not re.fullmatch("[0-9a-f]{64}", person):
        raise UsageError(
            "That is no keyed hash of an address", fix="take `person` from `mailstay erase ADDRESS --json`"
        )
    by = mask_addresses(by)
    with nullcontext() if dry or not rewrite else sole_deleter(store):
        ledger = read_ledger(store)
        search = _Search(store, ledger, person, mappings, progress or SilentProgress())
        if rewrite and search.dangling:
            raise SnapshotError(
                f"Rows of {', '.join(sorted(search.dangling))} refer to rows that would go, and nothing says whose "
                "they are",
                where=store.url,
                fix="erase without --rewrite",
            )
        held = [] if override_holds else [one for one in search.cuts if store.holds(one)]
        entry = search.known_entry()
        if not dry and entry is None:
            entry = search.append(clock, by, ground)
        deleted = deleted_bytes = 0
        replaced = [one for one in search.cuts if one not in held] if rewrite else []
        if rewrite and not dry:
            numbers = [one.number for one in ledger.of(person) if one.kind == "erased"]
            _Rewriting(store, search, numbers, clock, by).run(replaced)
            deleted, deleted_bytes = _delete_unneeded(store)
            manifests = [store.manifest(one) for one in store.snapshot_ids()]
            note_rewrite(store, manifests, objects=deleted, at=clock.now(), by=by)
    holding = [one for one in search.cuts if dry or one not in replaced]
    return Erased(
        dry=dry,
        person=person,
        entry=entry,
        tables=search.tables(),
        holding={source: (name, _at(search.manifests[name])) for source, name in _newest(holding).items()},
        still_in=[source for source, name in search.newest.items() if name in search.cuts],
        replaced=replaced,
        held=held if rewrite else [],
        deleted=deleted,
        deleted_bytes=deleted_bytes,
        mentions=search.mentions(),
        unknown=search.unknown,
        others=search.others,
    )


def readmit(store: Store, person: str, *, clock: Clock, by: str) -> Erasure:
    """Record that an erased person has come back of their own will: snapshots taken from now on keep them again.

    Args:
        store: opened with its signing key.
        person: keyed hash of the address.
        clock: for the time of the entry.
        by: who asks for it.

    Raises:
        UsageError: nobody with this address is erased.
    """
    ledger = read_ledger(store)
    if ledger.last(person) != "erased":
        raise UsageError("Nobody with this address is erased", where=store.url)
    seen = {source: split_name(name)[1] for source, name in _newest(store.snapshot_ids()).items()}
    return ledger.append(person, at=clock.now(), by=by, ground=None, seen=seen)


def erased_rows(
    store: Store, ledger: Ledger, manifest: Manifest, mapping: str | None, progress: Progress | None = None
) -> dict[str, tuple[Cut, ...]]:
    """Return per table what must not come back from a snapshot, because the ledger erases whom it names.

    Raises:
        StoreError: somebody was erased, and the store was opened without its key.
    """
    person = person_table(mapping, manifest.tables)
    wanted = ledger.wanted(manifest.source, manifest.sequence)
    if person is None or not wanted:
        return {}
    return Finder(store, ledger, person, progress or SilentProgress()).cuts(manifest, wanted)


@contextmanager
def unreplaced(store: Store, manifest: Manifest) -> Iterator[None]:
    """Say so if a snapshot was replaced while the block read it, which then finds its objects gone.

    Raises:
        SnapshotError: an erasure replaced it meanwhile.
    """
    try:
        yield
    except (Damaged, FileNotFoundError):
        if store.manifest(manifest.snapshot_id).digest == manifest.digest:
            raise
        raise SnapshotError(
            "An erasure replaced the snapshot while it was read",
            where=manifest.snapshot_id,
            fix="run it again",
        ) from None


class Finder:
    """Finds persons in the snapshots of one source; what it saw in an object counts for all that share it."""

    def __init__(self, store: Store, ledger: Ledger, person: PersonTable, progress: Progress) -> None:
        self.person = person
        self._store, self._ledger, self._progress = store, ledger, progress
        self._records: dict[tuple[str, frozenset[str], Wanted], list[dict[str, str]]] = {}
        self._orphans: dict[tuple[str, str, Wanted], set[str]] = {}
        self._hashes: dict[tuple[str, str], str] = {}

    def records(self, manifest: Manifest, wanted: Wanted) -> list[dict[str, str]]:
        """Return the rows of the person table whom `wanted` names, each as texts with the hash under `_RECORD`."""
        named = named_columns(self.person, manifest.tables)
        columns = {self.person.key, self.person.address}
        columns |= {one.refers_to for some in named.values() for one in some}
        entry = manifest.tables[self.person.table]
        present = {one.name: one.cast for one in entry.facts.columns}
        columns |= {self.person.born} & present.keys()
        found = []
        self._progress.start(f"{manifest.snapshot_id}: persons", entry.rows)
        for ref, path in _objects(self._store, manifest, self.person.table):
            place = (ref.sha256, frozenset(columns), wanted)
            known = self._records.get(place)
            if known is None:
                known = self._records[place] = list(
                    self._matching(manifest.source, path, sorted(columns), present, wanted)
                )
            found += known
            self._progress.advance(ref.rows)
        self._progress.finish()
        return found

    def cuts(self, manifest: Manifest, wanted: Wanted) -> dict[str, tuple[Cut, ...]]:
        """Return per table whose rows go, or lose their person; a table in which there is nobody may be named too."""
        records = self.records(manifest, wanted)
        named = named_columns(self.person, manifest.tables)
        orphans = self._orphaned(manifest, named, wanted) - {one[self.person.key] for one in records}
        if orphans:  # an id that was given again is not an orphan
            orphans -= self._ids_present(manifest, orphans)
        if not records and not orphans:
            return {}
        found = {}
        for table, columns in named.items():
            cuts = []
            for one in columns:
                who = {row[one.refers_to] for row in records if one.refers_to in row}
                who |= orphans if one.refers_to == self.person.key else set()
                cuts.append(Cut(one.column, frozenset(who), one.empties, one.cast))
            found[table] = tuple(cuts)
        return found

    def _matching(
        self, source: str, path: str, columns: list[str], casts: Mapping[str, str | None], wanted: Wanted
    ) -> Iterator[dict[str, str]]:
        ledger, person = self._ledger, self.person
        for batch in read(path, columns):
            values = {name: texts(batch.column(name), casts[name]).to_pylist() for name in columns}
            births = batch.column(person.born).to_pylist() if person.born in values else None
            for at, (identifier, address) in enumerate(
                zip(values[person.key], values[person.address], strict=True)
            ):
                if identifier is None:
                    continue
                born = moment(births[at]) if births else ""
                record = ledger.record(source, identifier, born)
                known = wanted.persons and address is not None and ledger.person(address) in wanted.persons
                if known or record in wanted.records:
                    yield {
                        **{name: some[at] for name, some in values.items() if some[at] is not None},
                        _RECORD: record,
                    }

    def _orphaned(
        self, manifest: Manifest, named: Mapping[str, tuple[Named, ...]], wanted: Wanted
    ) -> set[str]:
        """Return the ids of `wanted` that tables other than the person's own name."""
        found: set[str] = set()
        for table, columns in named.items():
            keys = [one for one in columns if one.refers_to == self.person.key]
            if not wanted.ids or not keys or table == self.person.table:
                continue
            for ref, path in _objects(self._store, manifest, table):
                for one in keys:
                    place = (ref.sha256, one.column, wanted)
                    if place not in self._orphans:
                        self._orphans[place] = self._named_in(manifest.source, path, one, wanted)
                    found |= self._orphans[place]
        return found

    def _named_in(self, source: str, path: str, named: Named, wanted: Wanted) -> set[str]:
        found = set()
        for batch in read(path, [named.column]):
            for one in pc.unique(texts(batch.column(0), named.cast)).to_pylist():
                if one is not None and self._id_hash(source, one) in wanted.ids:
                    found.add(one)
        return found

    def _id_hash(self, source: str, identifier: str) -> str:
        place = (source, identifier)
        if place not in self._hashes:
            self._hashes[place] = self._ledger.identifier(source, identifier)
        return self._hashes[place]

    def _ids_present(self, manifest: Manifest, ids: set[str]) -> set[str]:
        key = self.person.key
        cut = Cut(key, frozenset(ids), False, _casts(manifest.tables[self.person.table])[key])
        present: set[str] = set()
        for _, path in _objects(self._store, manifest, self.person.table):
            for batch in read(path, [key]):
                hit = texts(batch.column(0), cut.cast).filter(cut.hits(batch))
                present.update(hit.to_pylist())
        return present


@dataclass
class Hits:
    """What the cuts of a table hit in one object."""

    rows: int = 0
    unlinked: int = 0
    mentions: dict[str, int] = field(default_factory=dict)

    @property
    def any(self) -> bool:
        """Whether the table loses anything."""
        return bool(self.rows or self.unlinked)


class _Search:
    """Looks for one person in every snapshot of the store; only `append` changes anything."""

    def __init__(
        self, store: Store, ledger: Ledger, person: str, mappings: Mapping[str, str], progress: Progress
    ) -> None:
        self.store, self.ledger, self.person, self.progress = store, ledger, person, progress
        self.manifests = {one: store.manifest(one) for one in store.snapshot_ids()}
        self.newest = _newest(self.manifests)
        self.finders: dict[str, Finder] = {}
        self.unknown: list[str] = []
        self.dangling: set[str] = set()
        self.others = 0
        self.cuts: dict[str, dict[str, tuple[Cut, ...]]] = {}
        self._mappings = mappings
        self._found: dict[str, set[tuple[str, str]]] = {}
        self._addresses: set[str] = set()
        self._columns: dict[str, set[str]] = {}
        self._tables: dict[tuple[str, str], list[Hits]] = {}
        self._seen: dict[tuple[str, str, tuple[Cut, ...]], Hits] = {}
        for source in self.newest:
            self._resolve(source)
        named = {name: self._named(manifest) for name, manifest in self.manifests.items()}
        words = "|".join(re.escape(one) for one in sorted(self._addresses))
        self._pattern = rf"(?i)(^|[^\w.+-])({words})($|[^\w-])" if words else ""
        for name, manifest in self.manifests.items():
            self._look(name, manifest, named[name])

    def _resolve(self, source: str) -> None:
        """Find the person's records in one source: those whose newest address is the one that was named."""
        found = self._found[source] = set()
        snapshots = [one for one in reversed(self.manifests.values()) if one.source == source]
        by_address = Wanted(frozenset([self.person]), frozenset(), frozenset())
        tried: dict[str, str] = {}
        newer: list[Manifest] = []
        for manifest in snapshots:
            person = person_table(self._mappings.get(source), manifest.tables)
            if person is None:
                if manifest is snapshots[0]:
                    self.unknown.append(source)
                continue
            finder = self.finders.setdefault(source, Finder(self.store, self.ledger, person, self.progress))
            for row in finder.records(manifest, by_address):
                record, identifier = row[_RECORD], row[person.key]
                if record in tried:
                    continue
                tried[record] = identifier
                once = Wanted(frozenset(), frozenset([record]), frozenset())
                if any(finder.records(later, once) for later in newer):
                    self.others += 1
                else:
                    found.add((record, identifier))
                    self._addresses.add(row[person.address])
            newer.append(manifest)

    def _named(self, manifest: Manifest) -> dict[str, tuple[Cut, ...]]:
        """Return whose rows would go from a snapshot, and remember under which addresses it knows the person."""
        if person_table(self._mappings.get(manifest.source), manifest.tables) is None:
            return {}
        finder, wanted = self.finders[manifest.source], self._wanted(manifest.source)
        rows = finder.records(manifest, wanted)
        self._addresses.update(row[finder.person.address] for row in rows if finder.person.address in row)
        return finder.cuts(manifest, wanted)

    def _look(self, name: str, manifest: Manifest, cuts: Mapping[str, tuple[Cut, ...]]) -> None:
        """Find what one snapshot holds of the person, in its objects."""
        source = manifest.source
        self.progress.start(name, len(manifest.tables))
        hit = {}
        for table, entry in manifest.tables.items():
            found = Hits()
            for ref, path in _objects(self.store, manifest, table):
                seen = self.hits(entry, ref, path, cuts.get(table, ()))
                found.rows += seen.rows
                found.unlinked += seen.unlinked
                for column, count in seen.mentions.items():
                    found.mentions[column] = found.mentions.get(column, 0) + count
            if found.any:
                hit[table] = cuts[table]
                self._columns.setdefault(source, set()).update(f"{table}.{one.column}" for one in cuts[table])
            if found.any or found.mentions:
                self._tables.setdefault((source, table), []).append(found)
            self.progress.advance()
        self.progress.finish()
        if hit:
            self.cuts[name] = hit
            person = self.finders[source].person
            self.dangling.update(f"{source}.{one}" for one in left_dangling(person, manifest.tables))

    def _wanted(self, source: str) -> Wanted:
        earlier = [one for one in self.ledger.of(self.person) if one.kind == "erased"]
        records = {record for record, _ in self._found[source]}
        ids = {self.ledger.identifier(source, one) for _, one in self._found[source]}
        for one in earlier:
            records.update(one.records.get(source, ()))
            ids.update(one.ids.get(source, ()))
        return Wanted(frozenset(), frozenset(records), frozenset(ids))

    def hits(self, entry: TableEntry, ref: ObjectRef, path: str, cuts: tuple[Cut, ...]) -> Hits:
        """Return what an object loses, and where else it names an address of the person."""
        place = (ref.sha256, entry.facts.name, cuts)
        if place in self._seen:
            return self._seen[place]
        found = self._seen[place] = Hits()
        wordy = [one.name for one in arrow_schema(entry) if _is_text(one.type)] if self._pattern else []
        columns = sorted({*wordy, *(one.column for one in cuts)})
        for batch in read(path, columns) if columns else ():
            left, rows, unlinked = without(batch, cuts)
            found.rows += rows
            found.unlinked += unlinked
            for name in wordy:
                count = pc.sum(pc.match_substring_regex(left.column(name), self._pattern)).as_py() or 0
                if count:
                    found.mentions[name] = found.mentions.get(name, 0) + int(count)
        return found

    def known_entry(self) -> int | None:
        """Return the number of the entry that already says all that was found; None if there is none."""
        entries = self.ledger.of(self.person)
        if not entries or entries[-1].kind == "returned":
            return None
        for source, some in self._found.items():
            known = {record for one in entries for record in one.records.get(source, ())}
            if not {record for record, _ in some} <= known:
                return None
        return entries[-1].number

    def append(self, clock: Clock, by: str, ground: Ground) -> int:
        """Write the entry."""
        return self.ledger.append(
            self.person,
            at=clock.now(),
            by=by,
            ground=ground,
            seen={source: self.manifests[name].sequence for source, name in self.newest.items()},
            records={source: sorted({one for one, _ in some}) for source, some in self._found.items()},
            ids={
                source: sorted({self.ledger.identifier(source, one) for _, one in some})
                for source, some in self._found.items()
            },
            columns={source: sorted(some) for source, some in self._columns.items()},
        ).number

    def tables(self) -> list[ErasedTable]:
        """Return what every table loses."""
        found = []
        for (source, table), some in sorted(self._tables.items()):
            hits = [one for one in some if one.any]
            if not hits:
                continue
            mine = sorted(one for one in self._columns[source] if one.rpartition(".")[0] == table)
            columns = tuple(one.rpartition(".")[2] for one in mine)
            rows, unlinked = max(one.rows for one in hits), max(one.unlinked for one in hits)
            found.append(ErasedTable(source, table, columns, len(hits), rows, unlinked))
        return found

    def mentions(self) -> list[Mention]:
        """Return what names the address and is not the person's row."""
        found = []
        for (source, table), some in sorted(self._tables.items()):
            for column in sorted({name for one in some for name in one.mentions}):
                counts = [one.mentions[column] for one in some if column in one.mentions]
                found.append(Mention(source, table, column, len(counts), max(counts)))
        return found


@dataclass
class _Part:
    """What became of one object."""

    objects: list[ObjectRef]
    before: TableChecksum
    after: TableChecksum


class _Rewriting:
    """Replaces the manifests of snapshots that hold the person, oldest first."""

    def __init__(self, store: Store, search: _Search, numbers: list[int], clock: Clock, by: str) -> None:
        self.store, self.search, self.numbers, self.clock, self.by = store, search, numbers, clock, by
        self._parts: dict[tuple[str, str, tuple[Cut, ...]], _Part] = {}

    def run(self, snapshots: list[str]) -> None:
        """Store the new objects of each snapshot, then replace its manifest."""
        with spooling(self.store.storage.root, "erasure") as folder:
            self.search.progress.start("snapshots replaced", len(snapshots))
            for name in snapshots:
                self._replace(self.search.manifests[name], folder)
                self.search.progress.advance()
            self.search.progress.finish()

    def _replace(self, manifest: Manifest, folder: Path) -> None:
        tables = dict(manifest.tables)
        rows = {}
        for name, cuts in self.search.cuts[manifest.snapshot_id].items():
            tables[name], rows[name] = self._table(manifest, name, cuts, folder)
        crash_point("erase.objects_stored")
        earlier = Replacement(
            digest=manifest.digest, erasures=self.numbers, rows=rows, at=self.clock.now(), by=self.by
        )
        self.store.replace(
            manifest.model_copy(update={"tables": tables, "replaced": [*manifest.replaced, earlier]})
        )

    def _table(
        self, manifest: Manifest, name: str, cuts: tuple[Cut, ...], folder: Path
    ) -> tuple[TableEntry, int]:
        """Return the table's new entry, and how many rows went or were unlinked."""
        entry = manifest.tables[name]
        before, after = TableChecksum(), TableChecksum()
        objects: list[ObjectRef] = []
        touched = 0
        for ref, path in _objects(self.store, manifest, name):
            hits = self.search.hits(entry, ref, path, cuts)
            if not hits.any:
                objects.append(ref)
                continue
            part = self._part(entry, ref, path, cuts, folder)
            objects += part.objects
            before.merge(part.before)
            after.merge(part.after)
            touched += hits.rows + hits.unlinked
        left = TableChecksum.known(entry.rows, entry.checksum)
        left.remove(before)
        left.merge(after)
        return entry.model_copy(
            update={
                "rows": left.rows,
                "source_rows": entry.source_rows - before.rows + after.rows,
                "checksum": left.hexdigest(),
                "objects": objects or self._spooled(entry, iter(()), folder)[0],
            }
        ), touched

    def _part(
        self, entry: TableEntry, ref: ObjectRef, path: str, cuts: tuple[Cut, ...], folder: Path
    ) -> _Part:
        place = (ref.sha256, entry.facts.name, cuts)
        if place not in self._parts:
            before = TableChecksum()

            def rest() -> Iterator[pa.RecordBatch]:
                for batch in read(path):
                    before.update(batch)
                    left = without(batch, cuts)[0]
                    if left.num_rows:
                        yield left

            objects, after = self._spooled(entry, rest(), folder)
            self._parts[place] = _Part(objects if after.rows else [], before, after)
        return self._parts[place]

    def _spooled(
        self, entry: TableEntry, batches: Iterator[pa.RecordBatch], folder: Path
    ) -> tuple[list[ObjectRef], TableChecksum]:
        """Store rows as a backup would, and return their objects and checksum."""
        schema, checksum = arrow_schema(entry), TableChecksum()
        with ParquetSpool(
            folder, schema, entry.facts.primary_key, self._put, segment_rows=entry.segment_rows
        ) as spool:
            for batch in batches:
                plain = pa.RecordBatch.from_arrays(
                    [column.cast(one.type) for column, one in zip(batch.columns, schema, strict=True)],
                    schema=schema,
                )
                hashes = row_hashes(plain)
                checksum.add(hashes)
                spool.write(plain, hashes)
        return spool.objects, checksum

    def _put(self, ref: ObjectRef, file: Path) -> bool:
        """Store an object and read it back: what it replaces is deleted, and then nobody else has these rows.

        Raises:
            Damaged: it is not what was written.
        """
        new = self.store.put_object(ref, file)
        if new and (problem := object_problem(self.store.storage, ref)):
            self.store.storage.delete(ref.path)
            raise Damaged(
                f"A new object {problem}",
                where=self.store.url,
                fix="mend the disk, then run the erasure again; the snapshot is as it was",
            )
        return new


def _delete_unneeded(store: Store) -> tuple[int, int]:
    """Delete every object that no manifest names, at once: nobody else writes, so nobody is about to need one.

    What a killed backup left is deleted too: nothing says which table it was for, so nobody can say who is in it.
    """
    names = sorted(stored_objects(store) - needed_objects(store))
    size = 0
    for name in names:
        size += store.storage.size(object_path(name)) or 0
        store.storage.delete(object_path(name))
        crash_point("erase.object_deleted")
        store.pardon(name)
    return len(names), size


def _objects(store: Store, manifest: Manifest, table: str) -> Iterator[tuple[ObjectRef, str]]:
    """Yield the objects of a table with their local files, hashed."""
    refs = manifest.tables[table].objects
    yield from zip(refs, store.table_files(manifest.snapshot_id, table), strict=True)


def _newest(snapshots: Iterable[str]) -> dict[str, str]:
    """Return by source the last of some snapshots, which come in order."""
    return {one.partition("/")[0]: one for one in snapshots}


def _casts(entry: TableEntry) -> dict[str, str | None]:
    return {one.name: one.cast for one in entry.facts.columns}


def _at(manifest: Manifest) -> datetime:
    return datetime.fromisoformat(manifest.consistency["at"])


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_binary(kind) or pa.types.is_large_string(kind))
