"""What differs between two snapshots, table by table, column by column, from their Parquet alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.dataset as ds

from tasks.core import UsageError
from tasks.snapshots.comparing import counted, matched
from tasks.snapshots.models import TableEntry, split_name
from tasks.snapshots.store import Store

if TYPE_CHECKING:
    import duckdb


@dataclass(frozen=True)
class TableDiff:
    """What became of one table.

    Attributes:
        state: `same`, `changed`, `added` or `removed`.
        added: rows that are only in the newer snapshot.
        removed: rows that are only in the older one.
        changed: rows with the same primary key and other values; 0 for a table without one, whose changed rows count
            as removed and added.
        columns: changed rows per column, in the order of the table.
        schema: what changed about the columns, in words.
    """

    name: str
    state: str
    added: int
    removed: int
    changed: int
    columns: dict[str, int]
    schema: tuple[str, ...]


def diff(store: Store, older: str, newer: str) -> list[TableDiff]:
    """Return what differs between two snapshots of one source, by table name.

    A table whose objects are the same is not read. Every object that is read is hashed first.

    Raises:
        UsageError: they are snapshots of two sources.
        SnapshotError: one of them is not there.
        Damaged: an object is missing or changed.
    """
    if split_name(older)[0] != split_name(newer)[0]:
        raise UsageError(f"{older} and {newer} are of two sources", fix="compare two snapshots of one source")
    before, after = store.manifest(older).tables, store.manifest(newer).tables
    found = []
    for name in sorted(before.keys() | after.keys()):
        if name not in before:
            found.append(TableDiff(name, "added", after[name].rows, 0, 0, {}, ()))
        elif name not in after:
            found.append(TableDiff(name, "removed", 0, before[name].rows, 0, {}, ()))
        else:
            found.append(_table(store, older, newer, name, before[name], after[name]))
    return found


def _table(
    store: Store, older: str, newer: str, name: str, before: TableEntry, after: TableEntry
) -> TableDiff:
    import duckdb

    schema = schema_changes(before, after)
    if [ref.sha256 for ref in before.objects] == [ref.sha256 for ref in after.objects]:
        return TableDiff(name, "changed" if schema else "same", 0, 0, 0, {}, schema)
    old = [column.name for column in before.facts.columns]
    shared = [column.name for column in after.facts.columns if column.name in old]
    key = before.facts.primary_key
    keyed = bool(key) and key == after.facts.primary_key
    sides = {"a": store.table_files(older, name), "b": store.table_files(newer, name)}
    with duckdb.connect(":memory:") as connection:
        connection.execute("SET enable_progress_bar = false")
        if not keyed:
            added, removed = (_only(connection, sides, shared, one, other) for one, other in ("ba", "ab"))
            state = "changed" if added or removed or schema else "same"
            return TableDiff(name, state, added, removed, 0, {}, schema)
        for side, files in sides.items():
            connection.register(side, _scan(files, shared))
        at = [number for number, one in enumerate(shared) if one in key]
        counts = counted(connection, f"({matched(len(shared), at)})", len(shared))
    columns = {one: count for one, count in zip(shared, counts.columns, strict=True) if count}
    state = "changed" if any(counts[:3]) or schema else "same"
    return TableDiff(name, state, counts.only_b, counts.only_a, counts.different, columns, schema)


def _only(
    connection: duckdb.DuckDBPyConnection,
    sides: dict[str, list[str]],
    shared: list[str],
    one: str,
    other: str,
) -> int:
    """Return how many rows of one side the other does not have, equal rows counted as often as they are there."""
    for side in (one, other):
        connection.register(side, _scan(sides[side], shared))
    query = f"SELECT count(*) FROM (SELECT * FROM {one} EXCEPT ALL SELECT * FROM {other})"  # noqa: S608
    [(count,)] = connection.execute(query).fetchall()
    return int(count)


def _scan(files: list[str], columns: list[str]) -> ds.Scanner:
    """Return the rows as bytes of their text under plain names.

    DuckDB does not tell `Id` from `ID`, and does not know every Arrow type.
    """
    dataset = ds.dataset(files, format="parquet")
    projected = {}
    for at, name in enumerate(columns):
        field = ds.field(name)
        kind = dataset.schema.field(name).type
        if isinstance(kind, pa.BaseExtensionType):
            projected[f"c{at}"] = field.cast(kind.storage_type).cast(pa.binary())
        else:
            projected[f"c{at}"] = (
                field if pa.types.is_binary(kind) else field.cast(pa.string()).cast(pa.binary())
            )
    return dataset.scanner(columns=projected or {"c0": ds.scalar(1)})


def schema_changes(before: TableEntry, after: TableEntry) -> tuple[str, ...]:
    """Return what changed about a table's columns and key, in words; nothing if they are the same."""
    old = {column.name: column for column in before.facts.columns}
    new = {column.name: column for column in after.facts.columns}
    found = [f"column {name} is gone" for name in old if name not in new]
    found += [f"column {name} is new ({new[name].source_type})" for name in new if name not in old]
    for name in old.keys() & new.keys():
        was, now = old[name], new[name]
        if was.source_type != now.source_type:
            found.append(f"column {name} was {was.source_type}, is {now.source_type}")
        if was.nullable != now.nullable:
            found.append(f"column {name} {'may' if now.nullable else 'must not'} be empty now")
        if (was.cast, was.form) != (now.cast, now.form):
            found.append(f"column {name} is read in another way ({now.cast or 'as it is'})")
    if before.facts.primary_key != after.facts.primary_key:
        found.append(f"the primary key is ({', '.join(after.facts.primary_key)}) now")
    return tuple(sorted(found))
