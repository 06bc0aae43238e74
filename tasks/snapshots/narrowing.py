"""Which tables a backup need not read again: those that the database proves unchanged since the snapshot before."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tasks.core import Progress, plural
from tasks.snapshots.errors import Damaged
from tasks.snapshots.models import Link, Reading, TableEntry
from tasks.snapshots.store import Store
from tasks.sources import ChangeFacts, SourceReader, TableFacts


@dataclass
class Narrowed:
    """What a backup reads, and why.

    Attributes:
        facts: what the next snapshot needs to narrow its reading; None if it cannot.
        taken_over: entries of the tables that are not read, as the new snapshot holds them.
        why: of every other table why it is read, as the end of a sentence.
        unchanged: those of the others that the database proves unchanged, as the snapshot before holds them.
    """

    facts: ChangeFacts | None = None
    taken_over: dict[str, TableEntry] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    unchanged: dict[str, TableEntry] = field(default_factory=dict)

    def told(self, entry: TableEntry) -> TableEntry:
        """Return the entry of a table that was read, with why, and whether its rows contradict the database."""
        name = entry.facts.name
        if name not in self.why:
            return entry
        known = self.unchanged.get(name, entry)
        contradicted = (entry.rows, entry.checksum) != (known.rows, known.checksum)
        if contradicted:  # whatever else the database says is not believed either
            self.facts = None
        return entry.model_copy(
            update={"reading": Reading(why=self.why[name], unread=0, contradicted=contradicted)}
        )


def narrow(
    store: Store,
    reader: SourceReader,
    link: Link | None,
    full_read_every: int,
    version: str,
    progress: Progress,
) -> Narrowed:
    """Decide which tables are taken over from the snapshot before, after every byte of their objects was hashed.

    Args:
        store: holds the objects.
        reader: the source, at the point of the new snapshot.
        link: the snapshot before, if there is one.
        full_read_every: a table is read at the latest in so many snapshots.
        version: of Mailstay, which writes the new snapshot.
        progress: is told of the tables.

    Raises:
        UsageError: the source keeps no record of its changes.
    """
    parent, tables = link.manifest if link else None, reader.tables()
    progress.start("what has changed", len(tables))
    changes = reader.changes(parent.changes if parent else None)
    found = Narrowed(changes.facts)
    doubt = _doubt(store, link, version)
    for facts in tables:
        name = facts.name
        before = parent.tables.get(name) if parent else None
        if doubt or before is None or parent is None:
            found.why[name] = doubt or "it is new"
        elif not _same(before.facts, facts):
            found.why[name] = "its definition changed"
        elif any(name in one.rows for one in parent.replaced):
            found.why[name] = f"a person was erased from it in {parent.snapshot_id}"
        elif name not in changes.unchanged:
            found.why[name] = changes.why[name]
        elif _unread(before) + 1 >= full_read_every:
            found.why[name] = f"it was not read for {plural(_unread(before), 'snapshot')}"
            found.unchanged[name] = before
        elif not all(store.has_whole(one) for one in before.objects):
            found.why[name] = f"an object of {parent.snapshot_id} is missing or damaged"
        else:
            found.taken_over[name] = _taken_over(before, facts, parent.snapshot_id)
        progress.advance()
    progress.finish()
    return found


def _doubt(store: Store, link: Link | None, version: str) -> str | None:
    """Return why nothing can be taken over from the snapshot before."""
    parent = link.manifest if link else None
    if parent is None:
        return f"{link.snapshot_id} cannot be read" if link else "it is the first backup"
    if store.state(parent.snapshot_id) == "quarantined":
        return f"{parent.snapshot_id} is quarantined"
    if any(isinstance(one, Damaged) for one in store.verdicts(parent.snapshot_id)):
        return f"a verdict on {parent.snapshot_id} was changed"
    if parent.tools.get("mailstay") != version:
        return f"{parent.snapshot_id} was written by another version of Mailstay"
    return None


def _unread(entry: TableEntry) -> int:
    return entry.reading.unread if entry.reading else 0


def _taken_over(before: TableEntry, facts: TableFacts, snapshot_id: str) -> TableEntry:
    read_in = (before.reading and before.reading.read_in) or snapshot_id
    reading = Reading(why="nothing was written to it", unread=_unread(before) + 1, read_in=read_in)
    now = replace(facts, columns=before.facts.columns)  # as its rows were read
    return before.model_copy(update={"facts": now, "new_objects": 0, "new_bytes": 0, "reading": reading})


def _same(before: TableFacts, now: TableFacts) -> bool:
    """Return whether a table is defined as it was. The numbers that sequences have reached are not of its rows."""
    return _definition(before) == _definition(now)


def _definition(facts: TableFacts) -> TableFacts:
    columns = tuple(replace(one, cast=None, form=None) for one in facts.columns)
    keys = tuple(one for one in facts.keys if not one.startswith("SELECT pg_catalog.setval("))
    return replace(facts, columns=columns, keys=keys)
