"""Names and values as SQL text."""

from __future__ import annotations

from datetime import datetime
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
        case bool():
            return "TRUE" if value else "FALSE"
        case int() | float():
            return repr(value)
        case datetime():
            return f"TIMESTAMP '{value.isoformat(sep=' ')}'"
        case str():
            return "'" + value.replace("'", "''") + "'"
    raise TypeError(f"{type(value).__name__} has no SQL literal")


def among(expression: str, values: list[str]) -> str:
    """Return the condition that `expression`, as text, is one of `values`; unknown counts as no."""
    return f"coalesce(CAST({expression} AS VARCHAR) IN ({', '.join(map(literal, values))}), false)"
