"""Comparing two tables row by row in DuckDB: relations `a` and `b` whose columns `c0`, `c1`… hold comparable bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import duckdb


class Counts(NamedTuple):
    """Rows that are only in `a`, only in `b`, in both but different, and of those how many per column."""

    only_a: int
    only_b: int
    different: int
    columns: list[int]


def matched(columns: int, key: Sequence[int], *, a: str = "a", b: str = "b", also: str = "") -> str:
    """Return the query that puts the rows of one key side by side.

    Args:
        columns: how many there are.
        key: the numbers of those that make up the key.
        a: name of one relation.
        b: name of the other.
        also: further columns to select, such as `b.n`.

    Its columns are `kind` (`only_a`, `only_b`, `different` or `same`), `a0`, `b0`, `a1`, `b1`… and `also`.
    """
    on = " AND ".join(f"a.c{at} IS NOT DISTINCT FROM b.c{at}" for at in key)
    differs = " OR ".join(f"a.c{at} IS DISTINCT FROM b.c{at}" for at in range(columns))
    values = "".join(f", a.c{at} AS a{at}, b.c{at} AS b{at}" for at in range(columns))
    return (
        "SELECT CASE WHEN a.here IS NULL THEN 'only_b' WHEN b.here IS NULL THEN 'only_a'"  # noqa: S608
        f" WHEN {differs} THEN 'different' ELSE 'same' END AS kind{values}{', ' if also else ''}{also}"
        f" FROM (SELECT *, true AS here FROM {a}) a FULL JOIN (SELECT *, true AS here FROM {b}) b ON {on}"
    )


def counted(connection: duckdb.DuckDBPyConnection, relation: str, columns: int) -> Counts:
    """Count what `relation`, with the columns of `matched`, holds."""
    told = [f"kind = '{kind}'" for kind in ("only_a", "only_b", "different")]
    told += [f"kind = 'different' AND a{at} IS DISTINCT FROM b{at}" for at in range(columns)]
    wanted = ", ".join(f"count(*) FILTER (WHERE {one})" for one in told)
    [counts] = connection.execute(f"SELECT {wanted} FROM {relation}").fetchall()  # noqa: S608
    return Counts(counts[0], counts[1], counts[2], list(counts[3:]))


def unmatched(columns: int, *, a: str, b: str) -> str:
    """Return, with the columns of `matched`, the rows that one relation has more often than the other."""
    names = ", ".join(f"c{at}" for at in range(columns))
    none = "".join(f", CAST(NULL AS BLOB) AS {{}}{at}" for at in range(columns))
    sides = []
    for kind, own, other, one, two in (("only_a", "a", "b", a, b), ("only_b", "b", "a", b, a)):
        values = "".join(f", c{at} AS {own}{at}" for at in range(columns)) + none.replace("{}", other)
        sides.append(
            f"SELECT '{kind}' AS kind{values}"  # noqa: S608
            f" FROM (SELECT {names} FROM {one} EXCEPT ALL SELECT {names} FROM {two})"
        )
    return " UNION ALL BY NAME ".join(sides)


@dataclass(frozen=True)
class Relations:
    """One table of a database (`a`) and of a snapshot (`b`) in DuckDB, and the differing rows (`d`).

    Attributes:
        columns: names of the columns that both have, in the order of their numbers.
        key: numbers of the primary key's columns; empty if rows cannot be told apart.
        binary: numbers of the columns that hold bytes.
    """

    table: str
    number: int
    columns: tuple[str, ...]
    key: tuple[int, ...]
    binary: frozenset[int] = frozenset()

    @property
    def a(self) -> str:
        """The relation with the rows of the database."""
        return f"a{self.number}"

    @property
    def b(self) -> str:
        """The relation with the rows of the snapshot."""
        return f"b{self.number}"

    @property
    def d(self) -> str:
        """The relation with the rows that differ."""
        return f"d{self.number}"

    def shown(self, column: int, expression: str) -> str:
        """Return SQL for the text of `expression`, a value of that column."""
        return f"'\\x' || lower(hex({expression}))" if column in self.binary else f"decode({expression})"

    def plain(self, column: int, expression: str) -> str:
        """Return SQL for the same text, that of an SQL literal without its quotes."""
        text = self.shown(column, expression)
        return f"CASE WHEN {text} LIKE '''%''' THEN replace(({text})[2:-2], '''''', '''') ELSE {text} END"
