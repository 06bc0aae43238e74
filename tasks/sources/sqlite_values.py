"""Values of a snapshot as SQLite stores them: the casts of a reader, inverted."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from tasks.sources.columns import time_text
from tasks.sources.facts import ColumnFacts


def stored_values(column: pa.Array, facts: ColumnFacts) -> list[Any]:
    """Return the values to bind so that SQLite stores what it held before the cast of `facts`."""
    if facts.cast == "sql_literal":
        return [_from_literal(one) for one in column.to_pylist()]
    kind = column.type
    for test, spelled in _SPELLED:
        if test(kind):
            return spelled(column, facts)
    return column.to_pylist()  # type: ignore[no-any-return]


def _times(column: pa.Array, facts: ColumnFacts) -> list[Any]:
    if pa.types.is_timestamp(column.type) and column.type.tz:
        column = pc.cast(pc.cast(column, pa.int64()), pa.timestamp("us"))
    default = "HH:MM:SS.ffffff" if pa.types.is_time(column.type) else "YYYY-MM-DD HH:MM:SS.ffffff"
    return time_text(column, facts.form or default).to_pylist()  # type: ignore[no-any-return]


def _texts(column: pa.Array, _: ColumnFacts) -> list[Any]:
    return pc.cast(column, pa.string()).to_pylist()  # type: ignore[no-any-return]


def _singles(column: pa.Array, facts: ColumnFacts) -> list[Any]:
    # The shortest decimal of a 4-byte number, not the 8-byte number nearest to its bits.
    return [None if one is None else float(one) for one in _texts(column, facts)]


def _booleans(column: pa.Array, _: ColumnFacts) -> list[Any]:
    return pc.cast(column, pa.int8()).to_pylist()  # type: ignore[no-any-return]


_SPELLED: tuple[tuple[Callable[[pa.DataType], bool], Callable[[pa.Array, ColumnFacts], list[Any]]], ...] = (
    (pa.types.is_temporal, _times),
    (pa.types.is_decimal, _texts),
    (pa.types.is_boolean, _booleans),
    (pa.types.is_float32, _singles),
)


def _from_literal(text: str | None) -> Any:
    """Return the value whose SQL literal `tasks.sources` wrote."""
    if text is None:
        return None
    if text.startswith("'"):
        return text[1:-1].replace("''", "'")
    if text.startswith("X'"):
        return bytes.fromhex(text[2:-1])
    try:
        return int(text)
    except ValueError:
        return float(text)
