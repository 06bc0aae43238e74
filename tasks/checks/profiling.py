"""The few figures of a table that are kept with its verdict, so that later snapshots can be held against it unread.

Rows, empty values and newest moments come from the Parquet footers; only the spread of columns that a contract
watches is counted from the rows. No value of a personal-data column is among them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from typing import Any

from tasks.checks.contracts import Column, Contract
from tasks.checks.errors import ChecksError
from tasks.checks.measures import Measure, Spread
from tasks.checks.measuring import Answer
from tasks.checks.sql import literal, quote

OTHER = "(other)"
_LARGEST = 1e300  # beyond it a number's logarithm is of no use; infinity and NaN count as one


@dataclass(frozen=True)
class TableProfile:
    """The figures of one table.

    Attributes:
        rows: how many rows.
        nulls: per column how many rows have no value.
        newest: per column of moments the newest one.
        counts: per watched column how many rows hold each value, or each size of a number.
    """

    rows: int
    nulls: Mapping[str, int] = field(default_factory=dict)
    newest: Mapping[str, datetime] = field(default_factory=dict)
    counts: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the figures as JSON-able data, as signed verdicts keep them."""
        return {
            "rows": self.rows,
            "nulls": {name: count for name, count in self.nulls.items() if count},
            "newest": {name: moment.isoformat() for name, moment in self.newest.items()},
            "counts": {name: dict(counts) for name, counts in self.counts.items()},
        }

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any]) -> TableProfile:
        """Return the figures that `as_dict` gave."""
        return cls(
            rows=int(kept["rows"]),
            nulls=dict(kept["nulls"]),
            newest={name: datetime.fromisoformat(moment) for name, moment in kept["newest"].items()},
            counts={name: dict(counts) for name, counts in kept["counts"].items()},
        )


@dataclass(frozen=True)
class Profiled:
    """What is kept of one valid snapshot: its name, the moment it shows, and the figures of its tables."""

    snapshot_id: str
    at: datetime
    tables: Mapping[str, TableProfile]


def profile(
    contract: Contract,
    files: Iterable[str],
    columns: Mapping[str, str],
    measure: Callable[[str, Iterable[Measure]], Mapping[Measure, Answer]],
) -> TableProfile:
    """Return the figures of a table.

    Args:
        contract: says which columns are watched, and which hold personal data.
        files: its Parquet files.
        columns: the DuckDB type of each column.
        measure: measures a table, as `Measurer` does.

    Raises:
        ChecksError: the values of a column cannot be counted.
    """
    rows, nulls, newest = _from_footers(files, contract.personal_columns())
    watched = [
        Spread(name, bin_)
        for name, column in contract.columns.items()
        if column.drift is not None and name in columns and (bin_ := _bin(name, column, columns[name]))
    ]
    counts = {}
    for asked, answer in measure(contract.table, watched).items():
        if answer.error:
            raise ChecksError(answer.error)
        counts[asked.columns[0]] = answer.value
    return TableProfile(rows, nulls, newest, counts)


def _bin(name: str, column: Column, kind: str) -> str:
    """Return the expression that names the bin of a value; empty where the column has a type that cannot be binned.

    The bins of numbers are fixed, two to an octave, with their sign: they need no second look at the data, mean the
    same in every snapshot, and their counts can be added up.
    """
    one = quote(name)
    if kind == "BOOLEAN":
        return f"CAST({one} AS VARCHAR)"
    if column.allowed is not None:
        listed = ", ".join(literal(str(value)) for value in column.allowed.values)
        text = f"CAST({one} AS VARCHAR)"
        return f"CASE WHEN {text} IN ({listed}) THEN {text} WHEN {one} IS NOT NULL THEN {literal(OTHER)} END"
    if kind in ("VARCHAR", "UUID") or "TIMESTAMP" in kind or kind == "DATE":
        return ""
    number = f"CAST({one} AS DOUBLE)"
    size = f"CAST(floor(2 * log2(abs({number}))) AS INTEGER)"
    return (
        f"CASE WHEN {one} IS NULL THEN NULL WHEN {number} = 0 THEN '0' "
        f"WHEN NOT abs({number}) <= {_LARGEST!r} THEN {literal(OTHER)} "
        f"WHEN {number} < 0 THEN '-2^' || ({size} / 2.0) ELSE '2^' || ({size} / 2.0) END"
    )


def _from_footers(
    files: Iterable[str], personal: set[str]
) -> tuple[int, dict[str, int], dict[str, datetime]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = 0
    nulls: dict[str, int] = {}
    newest: dict[str, datetime] = {}
    unknown: set[str] = set()
    for path in files:
        footer = pq.read_metadata(path)
        schema = footer.schema.to_arrow_schema()
        rows += footer.num_rows
        for group in map(footer.row_group, range(footer.num_row_groups)):
            for at in range(group.num_columns):
                chunk = group.column(at)
                name, figures = chunk.path_in_schema, chunk.statistics
                if figures is None or figures.null_count is None:
                    unknown.add(name)
                    continue
                nulls[name] = nulls.get(name, 0) + figures.null_count
                if name in personal or name not in schema.names or not figures.has_min_max:
                    continue
                kind = schema.field(name).type
                if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
                    newest[name] = max(newest.get(name, _FIRST), _moment(figures.max))
    for name in unknown:
        nulls.pop(name, None)
        newest.pop(name, None)
    return rows, nulls, newest


_FIRST = datetime.min.replace(tzinfo=UTC)


def _moment(value: Any) -> datetime:
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, date):
        return datetime.combine(value, time(), UTC)
    return _FIRST
