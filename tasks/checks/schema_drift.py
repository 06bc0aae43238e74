"""What became of a table's schema since the last valid snapshot, as findings, from what two manifests say. Pure."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from difflib import SequenceMatcher

import pyarrow as pa

from tasks.checks.contracts import ColumnType, Contract, SchemaChanges
from tasks.checks.findings import CheckFinding, Severity
from tasks.core import mask_addresses
from tasks.sources import ColumnFacts, TableFacts

_FITS: dict[str, set[ColumnType]] = {
    "text": {"text", "json"},
    "uuid": {"text"},
    "integer": {"integer", "number"},
    "decimal": {"decimal", "number"},
    "floating": {"number"},
    "boolean": {"boolean"},
    "timestamp": {"timestamp"},
    "timestamp with time zone": {"timestamp"},
    "date": {"date"},
    "binary": {"binary"},
    "nested": {"json"},
}
_ALIKE, _SURE = 0.6, 0.9

Likeness = Callable[[str, str], "tuple[float, int] | None"]
"""Of an old and a new column: the share of rows with the same key that hold the same value, and how many values the new
one has; None where that cannot be known."""


@dataclass(frozen=True)
class Shape:
    """A table's schema: what the source declares, and what its columns became in the snapshot."""

    facts: TableFacts
    schema: pa.Schema


@dataclass(frozen=True)
class Change:
    """One change of a schema; `kind` is a key of the contract's `schema_changes`.

    Attributes:
        column: the column now, or the one that is gone.
        was: for a rename the column's name before.
        says: the change in words.
    """

    kind: str
    column: str
    says: str
    was: str = ""


def may_be_renamed(before: Shape, now: Shape) -> bool:
    """Return whether a column is gone and another one new: only then the rows must be looked at."""
    gone, new = _gone_and_new(before, now)
    return bool(gone and new)


def schema_changes(before: Shape, now: Shape, likeness: Likeness) -> list[Change]:
    """Return what changed; a column that is gone and a new one that is its like make one change."""
    old = {column.name: column for column in before.facts.columns}
    new = {column.name: column for column in now.facts.columns}
    gone, added = _gone_and_new(before, now)
    found: list[Change] = []
    for was, name in _renames(before, now, gone, added, likeness):
        gone.remove(was)
        added.remove(name)
        found.append(Change("renamed", name, f"{was} is called {name} now", was))
    found += [Change("removed", name, f"{name} is gone") for name in gone]
    found += [Change("added", name, f"{name} is new ({new[name].source_type})") for name in added]
    for name in (name for name in new if name in old):
        found += _column(old[name], new[name], before.schema.field(name).type, now.schema.field(name).type)
    if before.facts.primary_key != now.facts.primary_key:
        keys = [", ".join(one.facts.primary_key) or "none" for one in (before, now)]
        found.append(Change("key", "", f"the primary key was {keys[0]}, is {keys[1]}"))
    for key in set(before.facts.foreign_keys) - set(now.facts.foreign_keys):
        columns = ", ".join(key.columns)
        found.append(Change("foreign_key", columns, f"{columns} need not exist in {key.references} any more"))
    return sorted(found, key=lambda one: (one.column, one.kind))


def schema_findings(
    contract: Contract, before: Shape, now: Shape, since: str, likeness: Likeness
) -> list[CheckFinding]:
    """Return each change as a finding, as grave as the contract says; what the contract itself asks for is `info`."""
    findings = []
    for change in schema_changes(before, now, likeness):
        agreed = _agreed(contract, change, now)
        severity: Severity = "info" if agreed else getattr(contract.schema_changes, change.kind)
        rule = ".".join(part for part in (contract.table, change.column, f"schema_{change.kind}") if part)
        message = mask_addresses(f"{contract.table}: {change.says} (since {since})")
        findings.append(
            CheckFinding(
                rule=rule.replace(", ", "+"),
                table=contract.table,
                column=change.column,
                severity=severity,
                failed=1,
                total=len(now.facts.columns),
                sample_keys=[],
                message=message + ("; the contract asks for it" if agreed else ""),
            )
        )
    return findings


def kinds_of_change() -> list[str]:
    """Return every kind of change that a contract gives a severity."""
    return list(SchemaChanges.model_fields)


def _gone_and_new(before: Shape, now: Shape) -> tuple[list[str], list[str]]:
    old = [column.name for column in before.facts.columns]
    new = [column.name for column in now.facts.columns]
    return [name for name in old if name not in new], [name for name in new if name not in old]


def _renames(
    before: Shape, now: Shape, gone: list[str], new: list[str], likeness: Likeness
) -> Iterator[tuple[str, str]]:
    """Yield old and new names, the likest first, each column once.

    Alike are columns of one family of types with the same values in the rows of the same keys (nine in ten), and with
    names that are alike too where there are too few values for that to mean anything; without keys, the names decide.
    """
    candidates = []
    for was in gone:
        for name in new:
            if _family(before.schema.field(was).type) != _family(now.schema.field(name).type):
                continue
            names = SequenceMatcher(None, was.lower(), name.lower()).ratio()
            content = likeness(was, name)
            if content is None:
                score = names if names >= _ALIKE else 0.0
            else:
                same, values = content
                score = same + names if same >= _SURE and (values > 2 or names >= _ALIKE) else 0.0
            if score:
                candidates.append((score, was, name))
    taken: set[str] = set()
    for _, was, name in sorted(candidates, key=lambda one: (-one[0], one[1:])):
        if f"old {was}" not in taken and f"new {name}" not in taken:
            taken |= {f"old {was}", f"new {name}"}
            yield was, name


def _column(old: ColumnFacts, new: ColumnFacts, was: pa.DataType, now: pa.DataType) -> Iterator[Change]:
    name = new.name
    told = f"{name} was {old.source_type}, is {new.source_type}"
    if _family(was) != _family(now):
        told += "" if old.source_type != new.source_type else f" still, but is read as {now} after {was}"
        yield Change("retyped", name, told)
    elif (width := _width(old, was)) != (width_now := _width(new, now)):
        less = any(here < then for then, here in zip(width, width_now, strict=True))
        yield Change("narrowed" if less else "widened", name, told)
    elif old.source_type != new.source_type:
        yield Change("widened", name, told)
    if old.nullable != new.nullable:
        kind, may = ("nullable", "may") if new.nullable else ("not_nullable", "may not")
        yield Change(kind, name, f"{name} {may} be empty now")


def _agreed(contract: Contract, change: Change, now: Shape) -> bool:
    """Return whether the contract, which somebody has reviewed, already asks for what changed."""
    column = contract.columns.get(change.column)
    match change.kind:
        case "added":
            return column is not None
        case "removed":
            return column is None
        case "renamed":
            return column is not None and change.was not in contract.columns
        case "retyped":
            family = _family(now.schema.field(change.column).type)
            return column is not None and column.type in _FITS.get(family, set())
        case "nullable":
            return column is not None and column.nulls.at_most != 0
        case "key":
            return tuple(contract.primary_key) == now.facts.primary_key
        case "foreign_key":
            return any(", ".join(key.columns) == change.column for key in contract.foreign_keys)
    return False


def _family(kind: pa.DataType) -> str:
    tests: list[tuple[str, Callable[[pa.DataType], bool]]] = [
        ("text", pa.types.is_string),
        ("text", pa.types.is_large_string),
        ("integer", pa.types.is_integer),
        ("decimal", pa.types.is_decimal),
        ("floating", pa.types.is_floating),
        ("boolean", pa.types.is_boolean),
        ("date", pa.types.is_date),
        ("binary", pa.types.is_binary),
        ("nested", pa.types.is_nested),
    ]
    if isinstance(kind, pa.BaseExtensionType):
        return "uuid" if "uuid" in str(kind) else str(kind)
    if pa.types.is_timestamp(kind):
        return "timestamp with time zone" if kind.tz else "timestamp"
    return next((name for name, test in tests if test(kind)), str(kind))


def _width(facts: ColumnFacts, kind: pa.DataType) -> tuple[float, ...]:
    """Return how much a column holds: digits before and after the point, bits, or characters."""
    if pa.types.is_decimal(kind):
        return (kind.precision - kind.scale, kind.scale)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return (kind.bit_width,)
    if pa.types.is_string(kind):
        length = re.search(r"\((\d+)\)", facts.source_type)
        return (int(length[1]) if length else math.inf,)
    return ()
