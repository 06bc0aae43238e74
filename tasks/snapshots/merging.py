"""Restoring rows of a snapshot into a database in use: compared row by row first, then, if asked to, written.

Nothing is written that the comparison does not show, nothing is deleted, and the stricter of two consents wins whatever
is asked for. Before the commit the tables are read again: they must be what the comparison said they would be.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.core import Clock, Progress, SilentProgress, SystemClock, crash_point, plural
from tasks.snapshots.comparing import matched
from tasks.snapshots.differing import MergedTable, Mode, Part, write_differences
from tasks.snapshots.erasing import erased_rows, unreplaced
from tasks.snapshots.erasures import read_ledger
from tasks.snapshots.errors import NotGivenBack
from tasks.snapshots.models import State
from tasks.snapshots.restoring import chosen_tables, proven_state
from tasks.snapshots.rules import PEOPLE, RULES
from tasks.snapshots.selecting import Key, Selection
from tasks.snapshots.spool import spool_folder
from tasks.snapshots.store import Store
from tasks.sources import SourceReader, Target

if TYPE_CHECKING:
    import duckdb

_MEMORY = "256MB"  # of DuckDB; what is beyond goes to the disk


@dataclass(frozen=True)
class Merged:
    """What a restore into a database in use came to.

    Attributes:
        state: the snapshot's state; anything but `valid` was asked for by name.
        applied: whether anything was written; if not, the counts say what would be.
        folder: where every differing row is, as Parquet; it holds personal data.
        seconds: from the first statement to the end.
    """

    snapshot_id: str
    state: State
    target: str
    mode: Mode
    applied: bool
    tables: list[MergedTable]
    folder: str
    seconds: float


def merge(
    store: Store,
    snapshot_id: str,
    target: Target,
    folder: Path,
    *,
    clock: Clock,
    mode: Mode,
    apply: bool = False,
    mapping: str | None = None,
    tables: Sequence[str] = (),
    keys: Mapping[str, Sequence[Key]] | None = None,
    subscribers: Sequence[str] = (),
    unproven: bool = False,
    progress: Progress | None = None,
) -> Merged:
    """Compare the rows of a snapshot with those of a database in use, and write what is missing or differs.

    Rows that only the database has are left alone. Whoever the ledger of erased persons names is taken as not in the
    snapshot. While it is applied, others can read the tables and not write.

    Args:
        store: where the snapshot is.
        snapshot_id: which one.
        target: the database in use.
        folder: a new folder for the differences, as Parquet.
        clock: for the target's connection.
        mode: `insert-missing` writes rows whose key the database does not have; `overwrite` also sets rows back
            that differ.
        apply: really write; without it nothing is changed.
        mapping: the mapping of the source: decides what is consent, what sends, and whose row it is.
        tables: only these; all if neither tables nor keys are given.
        keys: per table only the rows with these primary keys.
        subscribers: only the rows of these persons, by the id in the table of persons.
        unproven: restore although the snapshot is not `valid`.
        progress: is told of every table and its rows.

    Raises:
        SnapshotError: the snapshot is not `valid`, or a status is not text.
        StoreError: somebody was erased, and the store was opened without its key.
        UsageError: a table or key is not there, or rows of a table without a primary key are to be written.
        NotGivenBack: the database does not hold what it should after the writing; it is as it was.
        Damaged: an object is missing or changed.
        SourceError: the database refused something; it is as it was.
    """
    import duckdb

    progress = progress or SilentProgress()
    state = proven_state(store, snapshot_id, unproven=unproven)
    began = SystemClock().now()
    selection = Selection(mapping, tuple(tables), dict(keys or {}), tuple(subscribers))
    manifest = store.manifest(snapshot_id)
    acting = selection.acting(chosen_tables(manifest, selection.named()))
    read = selection.read(acting, manifest.tables)
    rules = RULES.get(mapping or "", {})
    with (
        unreplaced(store, manifest),
        spool_folder(folder.parent) as scratch,
        target.live(clock, read, write=apply) as writer,
        closing(duckdb.connect(str(scratch / "work.duckdb"))) as connection,
    ):
        connection.execute(f"SET memory_limit = '{_MEMORY}'")
        connection.execute("SET preserve_insertion_order = false")
        connection.execute("SET enable_progress_bar = false")
        reader = writer.reader()
        cuts = erased_rows(store, read_ledger(store), manifest, mapping, progress)
        parts = {
            facts.name: Part(
                store,
                manifest,
                facts.name,
                number,
                rules.get(facts.name),
                cuts.get(facts.name, ()),
                target.dialect,
                connection,
                scratch,
                progress,
            )
            for number, facts in enumerate(reader.tables())
        }
        for part in parts.values():
            part.compare(reader)
        relations = {name: part.relations for name, part in parts.items()}
        selection.refuse_unknown(connection, relations)
        strangers = _strangers(connection, parts, mapping)
        chosen = [parts[name] for name in parents_first(parts) if name in acting]
        for part in chosen:
            if apply and part.name in selection.named():
                part.refuse_keyless()
            part.decide(mode, selection.condition(part.relations, relations), strangers.get(part.name, ""))
        found = [part.told() for part in chosen]
        found += [_absent(name) for name in acting if name not in parts]
        write_differences(connection, folder, relations, found)
        crash_point("live.compared")
        if apply:
            for part in chosen:
                part.write(writer)
                crash_point("live.written")
            writer.settle([part.facts for part in chosen if part.writes("insert")])
            _refuse_other(chosen, writer.reader(), snapshot_id)
            crash_point("live.checked")
            writer.commit()
            crash_point("live.committed")
    return Merged(
        snapshot_id=snapshot_id,
        state=state,
        target=target.dialect,
        mode=mode,
        applied=apply,
        tables=found,
        folder=str(folder),
        seconds=(SystemClock().now() - began).total_seconds(),
    )


def parents_first(parts: Mapping[str, Part]) -> list[str]:
    """Return the tables so that each comes after those that its foreign keys name; in a circle by name."""
    ordered: list[str] = []
    waiting = sorted(parts)
    while waiting:
        free = [
            name
            for name in waiting
            if not {key.references for key in parts[name].facts.foreign_keys} & set(waiting) - {name}
        ]
        ordered += free or waiting[:1]
        waiting = [name for name in waiting if name not in ordered]
    return ordered


def _strangers(
    connection: duckdb.DuckDBPyConnection, parts: Mapping[str, Part], mapping: str | None
) -> dict[str, str]:
    """Return per table SQL that is true for rows of persons whose id stands for somebody else in the database."""
    people = PEOPLE.get(mapping or "")
    root = parts.get(people.table) if people else None
    if people is None or root is None or not (other := root.another("m")):
        return {}
    [key] = root.relations.key
    rows = matched(len(root.relations.columns), [key], a=root.relations.a, b=root.relations.b)
    person = root.relations.plain(key, f"m.a{key}")
    connection.execute(
        f"CREATE TABLE strangers AS SELECT {person} AS id FROM ({rows}) m WHERE {other}"  # noqa: S608
    )
    found = {}
    for name, part in parts.items():
        if name in people.rows and people.rows[name] in part.relations.columns:
            at = part.relations.columns.index(people.rows[name])
            sides = [part.relations.plain(at, f"m.{side}{at}") for side in "ab"]
            found[name] = " OR ".join(f"{one} IN (FROM strangers)" for one in sides)
    return found


def _refuse_other(chosen: Sequence[Part], after: SourceReader, snapshot_id: str) -> None:
    wrong = [part.name for part in chosen if not part.holds(after)]
    if wrong:
        raise NotGivenBack(
            f"The database does not hold what was written to {plural(len(wrong), 'table')}: {', '.join(wrong)}",
            where=snapshot_id,
            fix="nothing was kept; look for a trigger that changes what is written, or a type that cannot hold it",
        )


def _absent(name: str) -> MergedTable:
    note = "the database has no such table: restore it with --mode empty"
    return MergedTable(name, 0, 0, 0, {}, 0, 0, 0, 0, (note,))
