"""What names a person in the tables of a source, and taking one person out of a batch of rows. Pure."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.snapshots.models import TableEntry
from tasks.sources import ColumnFacts

BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Link:
    """A column that names the person of a row; `empties`: the row stays without its person, else it goes."""

    column: str
    empties: bool = False


@dataclass(frozen=True)
class PersonTable:
    """Where a source keeps its persons.

    Attributes:
        key: the column with the person's id.
        address: the column with the address.
        born: the column that tells two persons apart who were given the same id.
        links: per table the column that holds an id from `key`; declared foreign keys count besides.
    """

    table: str
    key: str
    address: str
    born: str
    links: Mapping[str, Link]


PERSONS: Mapping[str, PersonTable] = {
    # Views and clicks keep counting without their person, as listmonk itself leaves them when it deletes one.
    "listmonk": PersonTable(
        "subscribers",
        "id",
        "email",
        "created_at",
        {
            "subscriber_lists": Link("subscriber_id"),
            "bounces": Link("subscriber_id"),
            "messages": Link("subscriber_id"),
            "events": Link("subscriber_id"),
            "campaign_views": Link("subscriber_id", empties=True),
            "link_clicks": Link("subscriber_id", empties=True),
        },
    ),
    # Orders and returns are the shop's books, which the law wants kept: they become those of nobody.
    "shop": PersonTable(
        "customers",
        "customer_id",
        "email",
        "created_at",
        {
            "orders": Link("customer_id", empties=True),
            "returns": Link("customer_id", empties=True),
            "consent_requests": Link("customer_id"),
            "webhook_receipts": Link("subscriber_id"),
        },
    ),
}
"""Per mapping what names a person; a test holds it against the contracts of the tables."""


@dataclass(frozen=True)
class Named:
    """A column of one table that names persons by the column `refers_to` of the person table."""

    column: str
    refers_to: str
    empties: bool
    cast: str | None


@dataclass(frozen=True)
class Cut:
    """Whose rows go from a table (or lose their person), by the text of one column."""

    column: str
    who: frozenset[str]
    empties: bool
    cast: str | None

    def hits(self, batch: pa.RecordBatch) -> pa.Array:
        """Return for each row whether it names one of them."""
        found = texts(batch.column(self.column), self.cast)
        return pc.is_in(found, value_set=pa.array(sorted(self.who), pa.string()))


def person_table(mapping: str | None, tables: Mapping[str, TableEntry]) -> PersonTable | None:
    """Return what names a person in these tables; None where the mapping or the table does not say."""
    found = PERSONS.get(mapping or "")
    if found is None or found.table not in tables:
        return None
    columns = {one.name for one in tables[found.table].facts.columns}
    return found if {found.key, found.address} <= columns else None


def named_columns(person: PersonTable, tables: Mapping[str, TableEntry]) -> dict[str, tuple[Named, ...]]:
    """Return per table the columns that name persons: the key itself, the mapping's links, declared foreign keys."""
    found: dict[str, tuple[Named, ...]] = {}
    for name, entry in tables.items():
        columns = {one.name: one for one in entry.facts.columns}
        here: dict[str, Named] = {}
        if name == person.table:
            here[person.key] = Named(person.key, person.key, False, columns[person.key].cast)
        if (link := person.links.get(name)) and link.column in columns:
            here[link.column] = _named(link.column, person.key, link.empties, columns, entry)
        for key in entry.facts.foreign_keys:
            if key.references != person.table:
                continue
            pairs = dict(zip(key.referred_columns or (person.key,), key.columns, strict=False))
            referred = person.key if person.key in pairs else next(iter(pairs))
            column = pairs[referred]
            here.setdefault(column, _named(column, referred, True, columns, entry))
        if here:
            found[name] = tuple(here.values())
    return found


def left_dangling(person: PersonTable, tables: Mapping[str, TableEntry]) -> list[str]:
    """Return the tables whose rows refer to rows that would go, and of which nothing says whose they are."""
    named = named_columns(person, tables)
    losing = {name for name, some in named.items() if not all(one.empties for one in some)} - {person.table}
    return sorted(
        name
        for name, entry in tables.items()
        if any(key.references in losing for key in entry.facts.foreign_keys)
    )


def _named(
    column: str, refers_to: str, empties: bool, columns: Mapping[str, ColumnFacts], entry: TableEntry
) -> Named:
    """Return the column, to be emptied only where the table lets it be empty."""
    fact = columns[column]
    may = fact.nullable and not fact.generated and column not in entry.facts.primary_key
    return Named(column, refers_to, empties and may, fact.cast)


def without(batch: pa.RecordBatch, cuts: Sequence[Cut]) -> tuple[pa.RecordBatch, int, int]:
    """Return the batch without the persons of `cuts`, how many rows went, and how many were emptied of a person."""
    if not cuts:
        return batch, 0, 0
    hits = [(one, one.hits(batch)) for one in cuts]
    gone = reduce(pc.or_, [hit for one, hit in hits if not one.empties], pa.repeat(False, batch.num_rows))
    emptied = pa.repeat(False, batch.num_rows)
    for one, hit in hits:
        if not one.empties:
            continue
        mine = pc.and_not(hit, gone)
        emptied = pc.or_(emptied, mine)
        at = batch.schema.get_field_index(one.column)
        field = batch.schema.field(at)
        left = pc.if_else(mine, pa.scalar(None, field.type), batch.column(at))
        batch = batch.set_column(at, field, left)
    return batch.filter(pc.invert(gone)), _count(gone), _count(emptied)


def texts(column: pa.Array, cast: str | None = None) -> pa.Array:
    """Return the values as text in which equal ids and addresses are equal, however a table holds them."""
    if pa.types.is_integer(column.type):
        return pc.cast(column, pa.string())
    if pa.types.is_string(column.type) and cast != "sql_literal":
        return column
    return pa.array([_text(one, cast) for one in column.to_pylist()], pa.string())


def read(path: str, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """Yield the rows of an object, or only some of its columns; page CRCs are checked.

    Names are matched by the schema: Parquet's own selection takes a dot for nesting.
    """
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if columns is None or any("." in one for one in columns):
            for batch in file.iter_batches(BATCH_ROWS):
                yield batch if columns is None else batch.select(columns)
        else:
            yield from file.iter_batches(BATCH_ROWS, columns=columns)


def moment(value: Any) -> str:
    """Return a time of birth as one text, whether the table holds it as a time or as its text."""
    if isinstance(value, str):
        with contextlib.suppress(ValueError):
            return datetime.fromisoformat(value).isoformat()
    return str(value.isoformat()) if isinstance(value, datetime) else str(value)


def _text(value: Any, cast: str | None) -> str | None:
    if value is None:
        return None
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, float | Decimal) and math.isfinite(value) and value == int(value):
        return str(int(value))
    text = str(value)
    if cast == "sql_literal" and text.startswith("'"):
        return text[1:-1].replace("''", "'")
    return text


def _count(mask: pa.Array) -> int:
    return int(pc.sum(pc.cast(mask, pa.int64())).as_py() or 0)
