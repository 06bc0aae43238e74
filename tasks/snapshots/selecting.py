"""Which rows of a snapshot are restored into a database in use: by table, by primary key, by person."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tasks.core import UsageError
from tasks.snapshots.comparing import Relations
from tasks.snapshots.models import TableEntry
from tasks.snapshots.reading import sql_text
from tasks.snapshots.rules import PEOPLE

if TYPE_CHECKING:
    import duckdb

Key = tuple[str, ...]


def parse_keys(options: Iterable[str]) -> dict[str, list[Key]]:
    """Return the primary keys by table that options such as `lists:1,2,3` name.

    The parts of a key of several columns are joined by `/`, as in `subscriber_lists:7/3`. Values with a comma or a
    slash are written as JSON: `orders:["a,b"]`, `lines:[["a/b", 1]]`.

    Raises:
        UsageError: an option is not of this form.
    """
    found: dict[str, list[Key]] = {}
    for option in options:
        table, _, values = option.partition(":")
        if not table or not values:
            raise UsageError(f"{option!r} names no key", fix="write it as table:1,2,3")
        found.setdefault(table, []).extend(
            _json_keys(option, values)
            if values.startswith("[")
            else [tuple(one.split("/")) for one in values.split(",")]
        )
    return found


def _json_keys(option: str, values: str) -> list[Key]:
    try:
        listed = json.loads(values)
    except ValueError:
        raise UsageError(
            f"{option!r} is not JSON after the colon", fix='write it as table:["a,b", "c"]'
        ) from None
    return [tuple(str(part) for part in (one if isinstance(one, list) else [one])) for one in listed]


@dataclass(frozen=True)
class Selection:
    """What was asked for; the names are those of `merge`."""

    mapping: str | None
    tables: tuple[str, ...]
    keys: Mapping[str, Sequence[Key]]
    subscribers: tuple[str, ...]

    def named(self) -> set[str]:
        """Return the tables that were named; none means all."""
        return {*self.tables, *self.keys}

    def acting(self, entries: dict[str, TableEntry]) -> list[str]:
        """Return the tables of `entries` to restore from.

        Raises:
            UsageError: persons were asked for where no mapping says whose a row is.
        """
        if not self.subscribers:
            return list(entries)
        people = PEOPLE.get(self.mapping or "")
        if people is None:
            raise UsageError(
                "Nothing says which rows belong to a person",
                where=f"mapping {self.mapping}",
                fix="give the source a mapping in the plan, or choose rows by their key",
            )
        owned = {*people.rows, *people.through}
        for name in self.named() - owned:
            raise UsageError(
                f"The rows of {name} belong to no person", fix=f"use some of: {', '.join(sorted(owned))}"
            )
        return [name for name in entries if name in owned]

    def read(self, acting: Collection[str], tables: Collection[str]) -> list[str]:
        """Return the tables to read: those to restore from, and those that say whose their rows are."""
        needed = set(acting)
        people = PEOPLE.get(self.mapping or "")
        if people is not None and (self.subscribers or needed & set(people.rows)):
            needed.add(people.table)
            if self.subscribers:
                needed |= {parent for name, (_, parent) in people.through.items() if name in acting}
        return [name for name in tables if name in needed]

    def refuse_unknown(
        self, connection: duckdb.DuckDBPyConnection, relations: Mapping[str, Relations]
    ) -> None:
        """Make sure that everything that was named is there.

        Raises:
            UsageError: a table, a key or a person is neither in the snapshot nor in the database.
        """
        for name in self.named() - relations.keys():
            raise UsageError(
                f"The database has no table {name!r}", fix="restore the whole table with --mode empty"
            )
        for name, keys in self.keys.items():
            _refuse_unknown(connection, relations[name], keys)
        if self.subscribers:
            people = PEOPLE[self.mapping or ""]
            if people.table not in relations:
                raise UsageError(
                    f"The database has no table {people.table!r}", fix="choose rows by their key"
                )
            _refuse_unknown(connection, relations[people.table], [(one,) for one in self.subscribers])

    def condition(self, own: Relations, relations: Mapping[str, Relations]) -> str:
        """Return SQL that is true for the rows to restore, with the columns of `matched`."""
        parts = []
        if keys := self.keys.get(own.table):
            sides = [", ".join(own.plain(at, f"{side}{at}") for at in own.key) for side in "ab"]
            parts.append(" OR ".join(f"({side}) IN ({_listed(keys)})" for side in sides))
        if self.subscribers:
            parts.append(self._of_persons(own, relations))
        return " AND ".join(f"({one})" for one in parts) or "true"

    def _of_persons(self, own: Relations, relations: Mapping[str, Relations]) -> str:
        people = PEOPLE[self.mapping or ""]
        persons = ", ".join(map(sql_text, self.subscribers))
        if own.table in people.rows:
            column = own.columns.index(people.rows[own.table])
        else:
            name, parent = people.through[own.table]
            column, other = own.columns.index(name), relations[parent]
            who = other.columns.index(people.rows[parent])
            [key] = other.key
            persons = " UNION ".join(
                f"SELECT {other.plain(key, f'c{key}')} FROM {side} WHERE {other.plain(who, f'c{who}')} IN ({persons})"  # noqa: S608
                for side in (other.a, other.b)
            )
        return " OR ".join(f"{own.plain(column, f'{side}{column}')} IN ({persons})" for side in "ab")


def _refuse_unknown(connection: duckdb.DuckDBPyConnection, relations: Relations, keys: Sequence[Key]) -> None:
    if not relations.key:
        raise UsageError(
            "Rows of a table without a primary key cannot be chosen by key",
            where=relations.table,
            fix="name the table",
        )
    names = ", ".join(relations.columns[at] for at in relations.key)
    for key in keys:
        if len(key) != len(relations.key):
            raise UsageError(
                f"{'/'.join(key)!r} is no key of {relations.table}",
                fix=f"its primary key is ({names}): join the parts by /, or write JSON",
            )
    values = ", ".join(relations.plain(at, f"c{at}") for at in relations.key)
    there = " UNION ALL ".join(f"SELECT {values} FROM {side}" for side in (relations.a, relations.b))  # noqa: S608
    rows = connection.execute(
        f"SELECT DISTINCT * FROM ({there}) AS t({_columns(len(relations.key))}) WHERE ({_columns(len(relations.key))})"  # noqa: S608
        f" IN ({_listed(keys)})"
    ).fetchall()
    for key in set(keys) - set(rows):
        raise UsageError(
            f"Neither the snapshot nor the database has {names} {'/'.join(key)}",
            where=relations.table,
            fix="correct the key",
        )


def _columns(count: int) -> str:
    return ", ".join(f"k{at}" for at in range(count))


def _listed(keys: Sequence[Key]) -> str:
    return ", ".join(f"({', '.join(map(sql_text, key))})" for key in keys)
