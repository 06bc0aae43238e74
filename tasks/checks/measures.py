"""What can be measured of a table in DuckDB SQL, and how the measures of its parts make that of the whole. Pure data.

A table is a list of Parquet segments. `parts` of a measure are aggregates of one segment; `merged` makes the measure of
the table from them. Measures without parts are taken by `measuring` in ways of their own, or from the whole table.
"""

# ruff: noqa: S608 - every name passes `quote`, every value `literal`

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from fractions import Fraction
from functools import reduce
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from tasks.checks.sql import literal, quote

Row = Sequence[Any]


@dataclass(frozen=True)
class Rows:
    """How many rows there are."""

    columns: tuple[str, ...] = ()

    def parts(self) -> tuple[str, ...]:
        """Return the aggregates of a segment."""
        return ("count(*)",)

    def merged(self, rows: Sequence[Row]) -> Any:
        """Return the measure of the table from the parts of its segments."""
        return sum(row[0] or 0 for row in rows)


@dataclass(frozen=True)
class Figure:
    """A figure of the values of a column; None where it has none."""

    kind: Literal["count", "min", "max", "sum", "mean", "stdev"]
    column: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)

    def parts(self) -> tuple[str, ...]:
        """Return the aggregates of a segment."""
        one = quote(self.column)
        match self.kind:
            case "mean":
                return (f"count({one})", f"sum({one})")
            case "stdev":
                return (f"count({one})", f"avg({one})", f"var_pop({one}) * count({one})")
        return (f"{self.kind}({one})",)

    def merged(self, rows: Sequence[Row]) -> Any:
        """Return the measure of the table from the parts of its segments."""
        there = [row for row in rows if row[-1] is not None]
        match self.kind:
            case "count":
                return sum(row[0] or 0 for row in rows)
            case "sum":
                return sum(row[0] for row in there) if there else None
            case "min" | "max":
                values = [row[0] for row in there]
                return _edge(self.kind, values) if values else None
            case "mean":
                count = sum(row[0] for row in there)
                return float(sum(row[1] for row in there)) / count if count else None
        count, _, squares = reduce(_pooled, there, (0, 0.0, 0.0))
        if count < 2:
            return None
        # Infinities, and squares too large for a number, leave no distance from the mean.
        return math.sqrt(squares / (count - 1)) if math.isfinite(squares) else math.nan


def _edge(kind: Literal["min", "max"], values: list[Any]) -> Any:
    """Return the smallest or largest value, where NaN is above everything, as in DuckDB."""
    numbers = [value for value in values if not _is_nan(value)]
    if kind == "max":
        return max(values) if len(numbers) == len(values) else math.nan
    return min(numbers, default=math.nan)


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _pooled(one: Row, other: Row) -> tuple[int, float, float]:
    """Chan, Golub and LeVeque, Updating formulae (1979): count, mean and sum of squared deviations of two samples."""
    count = one[0] + other[0]
    if not count:
        return 0, 0.0, 0.0
    apart = float(other[1]) - float(one[1])
    mean = float(one[1]) + apart * other[0] / count
    return count, mean, float(one[2]) + float(other[2]) + apart * apart * one[0] * other[0] / count


@dataclass(frozen=True)
class BadRows:
    """How many rows meet a condition; one that is unknown (null) is not met.

    Attributes:
        where: the condition of a bad row, in SQL.
        columns: the columns that it uses.
        free: it was written by a person, so that evaluating it may fail for some rows: then nothing is known.
    """

    where: str
    columns: tuple[str, ...]
    free: bool = False

    def parts(self) -> tuple[str, ...]:
        """Return the aggregates of a segment: bad rows, and rows for which the condition cannot be evaluated."""
        if not self.free:
            return (f"count_if({self.where})",)
        met = f"TRY(coalesce(CAST(({self.where}) AS UTINYINT), 2))"
        return (f"count_if({met} = 1)", f"count_if({met} IS NULL)")

    def merged(self, rows: Sequence[Row]) -> Any:
        """Return the measure of the table from the parts of its segments."""
        return sum(row[0] or 0 for row in rows)


@dataclass(frozen=True)
class OutOfRange:
    """How many moments lie outside of bounds.

    The bounds move with every snapshot, so its parts do not hold them: where the earliest and the latest moment of a
    segment lie within, none is outside; other segments are counted.
    """

    column: str
    where: str
    low: datetime | None
    high: datetime | None

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)

    def parts(self) -> tuple[str, ...]:
        """Return the aggregates of a segment: its earliest and its latest moment."""
        return (f"min({quote(self.column)})", f"max({quote(self.column)})")

    def outside(self, row: Row) -> bool:
        """Return whether a moment of a segment may lie outside, by its earliest and latest one."""
        first, last = map(_naive, row)
        if first is None or last is None:
            return any(edge is not None for edge in row)
        low, high = _naive(self.low), _naive(self.high)
        return (low is not None and first <= low) or (high is not None and last >= high)


def _naive(value: Any) -> datetime | None:
    """Return a moment in UTC without its zone, as DuckDB compares it here; None for what is none."""
    if isinstance(value, datetime):
        return value.astimezone(UTC).replace(tzinfo=None) if value.tzinfo is not None else value
    return datetime.combine(value, time()) if isinstance(value, date) else None


@dataclass(frozen=True)
class Spread:
    """How many values of a column lie in each bin, by the bin's name; nothing of those that lie in none.

    Attributes:
        column: the column.
        bin: the name of a value's bin, in SQL: one that a contract or a rule gives, never the value of a row.
    """

    column: str
    bin: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)

    def parts(self) -> tuple[str, ...]:
        """Return the aggregates of a segment."""
        return (f"histogram({self.bin})",)

    def merged(self, rows: Sequence[Row]) -> Any:
        """Return the measure of the table from the parts of its segments."""
        total: Counter[str] = Counter()
        for row in rows:
            total.update(row[0] or {})
        return dict(sorted(total.items()))


@dataclass(frozen=True)
class Repeats:
    """How many rows share their values of `columns` with another row; a row that lacks one of them is not compared."""

    columns: tuple[str, ...]


@dataclass(frozen=True)
class Steps:
    """How many values do not go up (or down) from the value before them, in the order of the rows, nulls left out."""

    column: str
    up: bool
    strictly: bool

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)


@dataclass(frozen=True)
class Orphans:
    """How many rows whose `columns` all have a value have no row in `table` with the same values of `referred`."""

    columns: tuple[str, ...]
    table: str
    referred: tuple[str, ...]


@dataclass(frozen=True)
class Misadded:
    """How many rows hold a number that is not the sum over the rows of another table that belong to them.

    Attributes:
        column: the number here.
        table: the other table.
        sum_of: the number there; None: its rows are counted.
        by: pairs of a column here and the column there that it equals.
        within: the difference that still counts as equal.
        outer: a row here with none there has a sum of 0; otherwise it is not looked at.
        where: which rows there count, in SQL; empty: all.
    """

    column: str
    table: str
    sum_of: str | None
    by: tuple[tuple[str, str], ...]
    within: float = 0.0
    outer: bool = True
    where: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read here."""
        return (self.column, *(here for here, _ in self.by))

    def summed(self, scan: str, by_segment: str = "") -> str:
        """Return the query for the sums of the rows in `scan`, all together or by the SQL that names a segment."""
        by = ", ".join([by_segment] * bool(by_segment) + [quote(there) for _, there in self.by])
        total = f"sum({quote(self.sum_of)})" if self.sum_of is not None else "count(*)"
        where = f" WHERE {self.where}" if self.where else ""
        return f"SELECT {by}, {total} AS mailstay_sum FROM {scan}{where} GROUP BY {by}"

    def source(self, scan: str, sums: str) -> tuple[str, str]:
        """Return what to read from, and the condition of a bad row."""
        match = " AND ".join(f"there.{quote(right)} = here.{quote(left)}" for left, right in self.by)
        side = "LEFT JOIN" if self.outer else "JOIN"
        wrong = f"abs(here.{quote(self.column)} - coalesce(there.mailstay_sum, 0)) > {self.within!r}"
        return f"{scan} here {side} {sums} there ON {match}", wrong


@dataclass(frozen=True)
class Whole:
    """An aggregate that the aggregates of segments do not give: it is taken from the whole table every time."""

    expression: str
    columns: tuple[str, ...]


@dataclass(frozen=True)
class Quantiles:
    """The values that `shares` of the values do not exceed: DuckDB's `quantile_disc`, each None without values."""

    column: str
    shares: tuple[float, ...]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)

    @property
    def expression(self) -> str:
        """The aggregate that takes them from the whole table."""
        none = ", ".join("NULL" for _ in self.shares)
        return f"coalesce(quantile_disc({quote(self.column)}, {list(self.shares)}), [{none}])"

    @property
    def exact(self) -> bool:
        """Whether DuckDB reads the shares as decimals, and so finds places without rounding."""
        return not any("e" in repr(share) for share in self.shares)

    def of(self, values: npt.NDArray[Any], counts: npt.NDArray[np.int64]) -> list[Any]:
        """Return them from the values in order and how often each occurs."""
        if not len(values):
            return [None for _ in self.shares]
        upto = np.cumsum(counts)
        rows = int(upto[-1])
        places = [max(1, math.ceil(rows * Fraction(repr(share)))) for share in self.shares]
        return [values[np.searchsorted(upto, place)].item() for place in places]


@dataclass(frozen=True)
class HasType:
    """Whether the type of a column does not fit a regular expression: 1 or 0. Reads no row."""

    column: str
    family: str

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are read."""
        return (self.column,)


Measure = (
    Rows
    | Figure
    | BadRows
    | OutOfRange
    | Spread
    | Repeats
    | Steps
    | Orphans
    | Misadded
    | Whole
    | Quantiles
    | HasType
)
Mergeable = Rows | Figure | BadRows | OutOfRange | Spread


# ---- the measures of stock expectations, by the name of the metric

TYPE = "mailstay_type"
"""The argument that tells a measure the DuckDB type of its column."""


def _one(asked: dict[str, Any]) -> str:
    return quote(asked["column"])


def _listed(values: Any) -> str:
    return ", ".join(map(literal, values))


def _bounds(one: str, asked: dict[str, Any]) -> list[str]:
    bounds = []
    if asked.get("min_value") is not None:
        bounds.append(f"{one} {'>' if asked.get('strict_min') else '>='} {literal(asked['min_value'])}")
    if asked.get("max_value") is not None:
        bounds.append(f"{one} {'<' if asked.get('strict_max') else '<='} {literal(asked['max_value'])}")
    return bounds


def _outside(one: str, asked: dict[str, Any]) -> str | None:
    bounds = _bounds(one, asked)
    return f"NOT ({' AND '.join(bounds)})" if bounds else None


def _values(where: Callable[[dict[str, Any]], str | None]) -> Callable[[dict[str, Any]], Measure | None]:
    def measure(asked: dict[str, Any]) -> Measure | None:
        condition = where(asked)
        return BadRows(condition, (asked["column"],)) if condition else None

    return measure


def _in_set(asked: dict[str, Any]) -> str:
    if asked.get("value_set") is None:
        return "false"
    values = [value for value in asked["value_set"] if value is not None]
    return f"{_one(asked)} NOT IN ({_listed(values)})" if values else f"{_one(asked)} IS NOT NULL"


def _not_in_set(asked: dict[str, Any]) -> str:
    values = [value for value in asked.get("value_set") or () if value is not None]
    return f"{_one(asked)} IN ({_listed(values)})" if values else "false"


def _found(asked: dict[str, Any]) -> str:
    return f"regexp_matches(CAST({_one(asked)} AS VARCHAR), {literal(asked['regex'])})"


def _between(asked: dict[str, Any]) -> Measure | None:
    one, column = _one(asked), asked["column"]
    outside = _outside(one, asked)
    if outside is None:
        return None
    bounds = [asked.get("min_value"), asked.get("max_value")]
    if all(value is None or isinstance(value, datetime) for value in bounds):
        return OutOfRange(column, outside, *bounds)
    if asked.get(TYPE) in ("FLOAT", "DOUBLE"):
        # NaN is no number between any two, also where only one bound is given: DuckDB sorts it above all.
        outside = f"({outside} OR isnan({one}))"
    return BadRows(outside, (column,))


def _longer(asked: dict[str, Any]) -> str | None:
    return _outside(f"length({_one(asked)})", asked)


def _equal_length(asked: dict[str, Any]) -> str:
    return f"length({_one(asked)}) <> {literal(asked['value'])}"


def _greater(asked: dict[str, Any]) -> Measure:
    first, second = asked["column_A"], asked["column_B"]
    sign = ">=" if asked.get("or_equal") else ">"
    return BadRows(f"NOT ({quote(first)} {sign} {quote(second)})", (first, second))


def _compound(asked: dict[str, Any]) -> Measure:
    # A row that lacks a part is not compared, whatever `ignore_row_if` says: stock SQL joins by equality, too.
    return Repeats(tuple(asked["column_list"]))


def _steps(up: bool) -> Callable[[dict[str, Any]], Measure]:
    return lambda asked: Steps(asked["column"], up, bool(asked.get("strictly")))


def _figure(
    kind: Literal["count", "min", "max", "sum", "mean", "stdev"],
) -> Callable[[dict[str, Any]], Measure]:
    return lambda asked: Figure(kind, asked["column"])


def _quantiles(asked: dict[str, Any]) -> Measure:
    return Quantiles(asked["column"], tuple(float(share) for share in asked["quantiles"]))


def _some_missing(asked: dict[str, Any]) -> Measure:
    names = tuple(asked.get("column_list") or (asked["column_A"], asked["column_B"]))
    joint = (
        " AND "
        if asked.get("ignore_row_if", "all_values_are_missing")
        in ("all_values_are_missing", "both_values_are_missing")
        else " OR "
    )
    return BadRows(f"NOT ({joint.join(f'{quote(name)} IS NULL' for name in names)})", names)


MAP_METRICS: dict[str, Callable[[dict[str, Any]], Measure | None]] = {
    "column_values.nonnull": _values(lambda asked: f"{_one(asked)} IS NULL"),
    "column_values.null": _values(lambda asked: f"{_one(asked)} IS NOT NULL"),
    "column_values.in_set": _values(_in_set),
    "column_values.not_in_set": _values(_not_in_set),
    "column_values.match_regex": _values(lambda asked: f"NOT {_found(asked)}"),
    "column_values.not_match_regex": _values(_found),
    "column_values.between": _between,
    "column_values.value_length.between": _values(_longer),
    "column_values.value_length.equals": _values(_equal_length),
    "column_values.unique": lambda asked: Repeats((asked["column"],)),
    "column_values.increasing": _steps(True),
    "column_values.decreasing": _steps(False),
    "column_pair_values.a_greater_than_b": _greater,
    "compound_columns.unique": _compound,
}
"""Metrics that count unexpected rows: what they ask, from their arguments; None: the stock path answers."""

FIGURE_METRICS: dict[str, Callable[[dict[str, Any]], Measure]] = {
    "table.row_count": lambda _: Rows(),
    "column.max": _figure("max"),
    "column.min": _figure("min"),
    "column.mean": _figure("mean"),
    "column.sum": _figure("sum"),
    "column.standard_deviation": _figure("stdev"),
    "column.non_null_count": _figure("count"),
    "column.median": lambda asked: Whole(f"median({_one(asked)})", (asked["column"],)),
    "column.quantile_values": _quantiles,
    "column_pair_values.a_greater_than_b.filtered_row_count": _some_missing,
    "compound_columns.unique.filtered_row_count": _some_missing,
}
"""Metrics that are one figure: what they ask, from their arguments."""
