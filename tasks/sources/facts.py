"""What a database says about its tables: the facts that a snapshot keeps so that a restore can build them again."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ForeignKey:
    """Columns of one table that must name a row of table `references`."""

    columns: tuple[str, ...]
    references: str
    referred_columns: tuple[str, ...]


@dataclass(frozen=True)
class ColumnFacts:
    """One column as the source declares it.

    Args:
        name: the column's name, exactly as the source spells it.
        source_type: the type as the source declares it, such as `NUMERIC(12, 3)` or `timestamp with time zone`.
        nullable: whether the source allows NULL.
        cast: how values were changed to fit Arrow (one of `tasks.sources.CASTS`); None means they were not.
        form: the one written form that every value of a `time_from_text` column had, such as `%Y-%m-%d %H:%M:%S`.
        generated: whether the database computes the value, so that a restore must not write it.
    """

    name: str
    source_type: str
    nullable: bool
    cast: str | None = None
    form: str | None = None
    generated: bool = False


@dataclass(frozen=True)
class TableFacts:
    """One table as the source declares it, and the statements of its dialect that build it again.

    Args:
        name: the table's name, exactly as the source spells it.
        columns: its columns, in order.
        primary_key: names of the key's columns; empty without one.
        foreign_keys: as declared.
        ddl: creates the table (and its partitions).
        before: creates what the table needs first: types, domains, sequences.
        keys: to run when the rows are in: keys, indexes, checks, sequence values, comments.
        links: to run when the keys of all tables are there: foreign keys.
        lost: what no statement here brings back (triggers, views, privileges), in words.
    """

    name: str
    columns: tuple[ColumnFacts, ...]
    primary_key: tuple[str, ...]
    foreign_keys: tuple[ForeignKey, ...]
    ddl: str
    before: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    links: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()


CASTS: dict[str, str] = {
    "text": "The source's own text of the value, because Arrow has no exact type for it or one value did not fit.",
    "sql_literal": "The value as an SQL literal ('it''s', 42, 1.5, X'00ff'): the column mixes storage classes.",
    "bytes": "The raw bytes of a text column that holds something other than UTF-8.",
    "decimal_from_number": "The shortest decimal of the stored integer or floating-point number; it fits the scale.",
    "time_from_text": "A date, time or timestamp that the source stores as ISO 8601 text.",
    "boolean_from_integer": "A boolean that the source stores as 0 or 1.",
}
"""Every cast that a snapshot may record, and what it did; a restore inverts it."""
