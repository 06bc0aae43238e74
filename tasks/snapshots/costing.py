"""What each table of a snapshot cost, and why: its segments held against those of the snapshot before."""

from __future__ import annotations

from dataclasses import dataclass

from tasks.core import plural
from tasks.snapshots.diffing import schema_changes
from tasks.snapshots.errors import NoSnapshot
from tasks.snapshots.models import Manifest, ObjectRef, TableEntry, snapshot_name
from tasks.snapshots.store import Store


@dataclass(frozen=True)
class TableCost:
    """What one table added to the store.

    Attributes:
        new_objects: objects that were not in the store yet, with `new_bytes`.
        reused_objects: objects that were there already, with `reused_bytes`.
        reason: why it cost that, in words.
    """

    name: str
    new_objects: int
    new_bytes: int
    reused_objects: int
    reused_bytes: int
    reason: str


def costs(store: Store, snapshot_id: str) -> list[TableCost]:
    """Return what each table of a snapshot cost, from its manifest and the one before it alone.

    Raises:
        SnapshotError: there is no such snapshot.
        Damaged: its manifest was changed.
    """
    manifest = store.manifest(snapshot_id)
    parent, absent = None, "first backup"
    if manifest.sequence > 1:
        before = snapshot_name(manifest.source, manifest.sequence - 1)
        try:
            parent, absent = store.link(before).manifest, "new table"
        except NoSnapshot:
            absent = f"{before} is gone: nothing to compare with"
        else:
            if parent is None:
                absent = f"{before} cannot be read: nothing to compare with"
    return [
        TableCost(
            name=name,
            new_objects=entry.new_objects,
            new_bytes=entry.new_bytes,
            reused_objects=len(entry.objects) - entry.new_objects,
            reused_bytes=sum(ref.bytes for ref in entry.objects) - entry.new_bytes,
            reason=_reason(manifest, parent, name) + _read_because(entry)
            if parent and name in parent.tables
            else absent,
        )
        for name, entry in manifest.tables.items()
    ]


def _reason(manifest: Manifest, parent: Manifest, name: str) -> str:
    entry, before = manifest.tables[name], parent.tables[name]
    if entry.reading and entry.reading.read_in:
        return (
            f"not read: {entry.reading.why} since {entry.reading.read_in} ({entry.reading.unread} in a row)"
        )
    schema = schema_changes(before, entry)
    if schema:
        return f"schema changed: {'; '.join(schema)}"
    now, old = ([ref.sha256 for ref in one.objects] for one in (entry, before))
    if now == old:
        return "nothing changed"
    if entry.rows and before.rows and entry.segment_rows != before.segment_rows:
        return (
            f"segment size changed: {entry.segment_rows:,} rows instead of {before.segment_rows:,}, "
            "because rows have another width"
        )
    if (entry.rows, entry.checksum) == (before.rows, before.checksum):
        versions = [one.tools.get("pyarrow", "unknown") for one in (parent, manifest)]
        return (
            f"same rows, written by pyarrow {versions[1]} instead of {versions[0]}"
            if versions[0] != versions[1]
            else "same rows in another order"
        )
    more = entry.rows - before.rows
    if (
        more > 0
        and now[: len(old) - 1] == old[:-1]
        and _goes_on(before.objects[-1], entry.objects[len(old) - 1 :])
    ):
        return f"rows appended: {more:,}"
    known = set(old)
    touched = sum(one not in known for one in now)
    net = "" if not more else f" ({plural(abs(more), 'row')} {'more' if more > 0 else 'fewer'})"
    return f"changed rows in {touched:,} of {plural(len(now), 'segment')}{net}"


def _read_because(entry: TableEntry) -> str:
    if entry.reading is None or entry.reading.read_in:
        return ""
    but = ", and ITS ROWS CHANGED ALTHOUGH NO CHANGE WAS RECORDED" if entry.reading.contradicted else ""
    return f"; read because {entry.reading.why}{but}"


def _goes_on(last: ObjectRef, tail: list[ObjectRef]) -> bool:
    """Return whether `tail` begins where the `last` segment did and ends later: such a segment is written again."""
    return not last.rows or (
        tail[0].key_min == last.key_min and (last.key_max is None or tail[-1].key_max != last.key_max)
    )
