"""Names and values as DuckDB SQL."""

from __future__ import annotations

import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any


def quote(identifier: str) -> str:
    """Return `identifier` quoted for SQL."""
    return '"' + identifier.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """Return `value` as an SQL literal.

    Raises:
        TypeError: it has no literal here.
    """
    match value:
        case None:
            return "NULL"
        case bool():
            return "TRUE" if value else "FALSE"
        case float() if not math.isfinite(value):
            return f"CAST('{value}' AS DOUBLE)"
        case int() | float():
            return repr(value)
        case Decimal():
            return f"{value:f}" if value.is_finite() else f"CAST('{value}' AS DOUBLE)"
        case datetime():
            return f"{'TIMESTAMP' if value.tzinfo is None else 'TIMESTAMPTZ'} '{value.isoformat(sep=' ')}'"
        case date():
            return f"DATE '{value.isoformat()}'"
        case str():
            return "'" + value.replace("'", "''") + "'"
    raise TypeError(f"{type(value).__name__} has no SQL literal")


def among(expression: str, values: list[str]) -> str:
    """Return the condition that `expression`, as text, is one of `values`; unknown counts as no."""
    return f"coalesce(CAST({expression} AS VARCHAR) IN ({', '.join(map(literal, values))}), false)"


def moment(expression: str) -> str:
    """Return `expression`, a moment of any type or seconds since 1970, as TIMESTAMP in UTC; NULL if it is none."""
    seconds = f"try_cast({expression} AS BIGINT)"
    return f"coalesce(try_cast({expression} AS TIMESTAMP), make_timestamp({seconds} * 1000000))"
