"""From the values a driver gives to exact Arrow arrays: a value either fits its column's type or is refused.

pyarrow alone is too kind for a backup (it reads 1.5 into an integer column as 1 and bytes into a text column), so
the Python types of every column are looked at first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from tasks.sources.facts import ColumnFacts

Values = Sequence[Any]
_DECIMAL_MAX = 76  # digits that Arrow's widest decimal holds
FIRST_DAY, LAST_DAY = -719_162, 2_932_896  # 0001-01-01 and 9999-12-31, in days since 1970
DAY = 86_400_000_000  # microseconds


class Unfit(Exception):
    """A value is not of the type that the column was believed to have."""


@dataclass(frozen=True)
class Column:
    """How one column is selected and turned into Arrow.

    Args:
        facts: what the snapshot records about the column, its cast included.
        select: the SQL expression that reads it, names quoted.
        arrow: the Arrow type of the result.
        convert: makes the array from what the reader gives for one batch of the column; raises `Unfit`.
    """

    facts: ColumnFacts
    select: str
    arrow: pa.DataType
    convert: Callable[[Any], pa.Array]


def decimal_type(precision: int, scale: int) -> pa.DataType | None:
    """Return the Arrow decimal of `precision` digits, `scale` of them after the point; None if there is none."""
    if not (0 < precision <= _DECIMAL_MAX and 0 <= scale <= precision):
        return None
    return pa.decimal128(precision, scale) if precision <= 38 else pa.decimal256(precision, scale)


def plain(kind: pa.DataType, python: type, *also: type) -> Callable[[Values], pa.Array]:
    """Return the conversion of values that are all of type `python` (or one of `also`) or None."""
    allowed = {python, *also, type(None)}

    def convert(values: Values) -> pa.Array:
        _require(values, allowed)
        return _array(values, kind)

    return convert


def boolean_from_integer(values: Values) -> pa.Array:
    """Turn 0 and 1 into booleans."""
    if not set(values) <= {0, 1, None}:
        raise Unfit
    _require(values, {int, type(None)})
    return pc.cast(_array(values, pa.int8()), pa.bool_())


def decimal_from_number(kind: pa.DataType) -> Callable[[Values], pa.Array]:
    """Return the conversion of integers, floats and decimal text into `kind`, refusing what it cannot hold."""

    def convert(values: Values) -> pa.Array:
        found = _types(values)
        if not found <= {int, float, str, type(None)}:
            raise Unfit
        if found <= {float, type(None)}:
            text = pc.cast(pa.array(values, pa.float64()), pa.string())
        else:
            text = _array([None if one is None else str(one) for one in values], pa.string())
        return _cast(text, kind)

    return convert


def text(values: Values) -> pa.Array:
    """Turn strings into Arrow strings."""
    _require(values, {str, type(None)})
    return _array(values, pa.string())


def time_forms(sample: str) -> list[str]:
    """Return the written forms that `sample`, a date, time or timestamp, may stand for, the strictest first.

    `[.ffffff]` is a fraction that is written only where it is not zero, as Python's `isoformat` does.
    """
    day, clock = "YYYY-MM-DD", "HH:MM:SS"
    if re.fullmatch(r"\d{4}-\d\d-\d\d", sample):
        return [day]
    found = re.fullmatch(r"(\d{4}-\d\d-\d\d([ T]))?\d\d:\d\d:\d\d(\.\d{6})?", sample)
    if found is None:
        return []
    head = f"{day}{found[2]}{clock}" if found[1] else clock
    if found[3] is None:
        return [f"{head}[.ffffff]"]
    return [f"{head}.ffffff"] + ([f"{head}[.ffffff]"] if found[3].strip(".0") else [])


def temporal_from_text(kind: pa.DataType, form: str) -> Callable[[Values], pa.Array]:
    """Return the conversion of text into the date, time or timestamp type `kind`.

    A value does not fit unless `form` writes it back exactly as it was: a restore must not change its spelling.
    """

    def convert(values: Values) -> pa.Array:
        spelled = text(values)
        if pa.types.is_time(kind):
            try:
                times = [None if one is None else time.fromisoformat(one) for one in values]
            except ValueError:
                raise Unfit from None
            array = pa.array(times, kind)
        else:
            array = _cast(spelled, kind)
        if not time_text(array, form).equals(spelled):
            raise Unfit
        return array

    return convert


def from_sql_text(kind: pa.DataType) -> Callable[[Values], pa.Array]:
    """Return the conversion of a database's text of a date, time, timestamp, decimal or UUID into `kind`.

    Whatever the text says that `kind` cannot hold does not fit: day 0, year 10000, hour 25, a further digit.
    """

    def convert(values: Values) -> pa.Array:
        spelled = text(values)
        if kind == pa.uuid():
            return _uuids(values)
        if pa.types.is_time(kind):
            fits = pc.all(pc.match_substring_regex(spelled, r"^([01]\d|2[0-3])(:[0-5]\d){2}(\.\d{1,6})?$"))
            if fits.as_py() is False:
                raise Unfit
            return _array([None if one is None else time.fromisoformat(one) for one in values], kind)
        array = _cast(spelled, kind)
        if pa.types.is_date(kind) or pa.types.is_timestamp(kind):
            least = pc.min(array).cast(pa.int32() if pa.types.is_date(kind) else pa.int64()).as_py()
            if least is not None and least < FIRST_DAY * (1 if pa.types.is_date(kind) else DAY):
                raise Unfit
        return array

    return convert


def single(values: Values) -> pa.Array:
    """Turn doubles that are all floats of 32 bits into those."""
    _require(values, {float, type(None)})
    array = _array(values, pa.float64())
    narrow = pc.cast(array, pa.float32(), safe=False)
    if not pc.cast(narrow, pa.float64()).equals(array):
        raise Unfit
    return narrow


def _uuids(values: Values) -> pa.Array:
    try:
        found = [None if one is None else UUID(one) for one in values]
    except ValueError:
        raise Unfit from None
    if any(one is not None and str(one) != text for one, text in zip(found, values, strict=True)):
        raise Unfit
    storage = pa.array([None if one is None else one.bytes for one in found], pa.binary(16))
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def time_text(array: pa.Array, form: str) -> pa.Array:
    """Return the dates, times or timestamps of `array` as text in `form`."""
    if pa.types.is_date(array.type):
        return pc.cast(array, pa.string())
    second = pa.time32("s") if pa.types.is_time(array.type) else pa.timestamp("s")
    whole = pc.cast(array, second, safe=False)
    long, short = pc.cast(array, pa.string()), pc.cast(whole, pa.string())
    if form.endswith("[.ffffff]"):
        spelled = pc.if_else(pc.equal(pc.cast(whole, array.type), array), short, long)
    else:
        spelled = long if form.endswith(".ffffff") else short
    return pc.replace_substring(spelled, " ", "T") if "T" in form else spelled


def sql_literal(values: Values) -> pa.Array:
    """Turn any stored value into its SQL literal, which says what it is: `'5'` is text, `5` is an integer."""
    return _array([_literal(one) for one in values], pa.string())


_INFINITE = frozenset((float("inf"), float("-inf")))


def plain_text(values: Values) -> pa.Array:
    """Turn strings, integers and floats into their text (a column that declares a number of no fixed scale).

    Not infinity: its text is no number to SQLite, which would keep it as text.
    """
    found = _types(values)
    if not found <= {str, int, float, type(None)} or (float in found and not _INFINITE.isdisjoint(values)):
        raise Unfit
    return _array([None if one is None else str(one) for one in values], pa.string())


def _types(values: Values) -> set[type]:
    return set(map(type, values))


def _require(values: Values, allowed: set[type]) -> None:
    if not _types(values) <= allowed:
        raise Unfit


def _array(values: Values, kind: pa.DataType) -> pa.Array:
    try:
        return pa.array(values, kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError, UnicodeEncodeError):
        raise Unfit from None


def _cast(array: pa.Array, kind: pa.DataType) -> pa.Array:
    try:
        return pc.cast(array, kind)
    except pa.ArrowInvalid:
        raise Unfit from None


def _literal(value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bytes):
        return f"X'{value.hex()}'"
    if isinstance(value, float) and math.isinf(value):
        return "9e999" if value > 0 else "-9e999"  # as SQLite's own shell writes it
    if isinstance(value, bool | int | float | Decimal | date | datetime | time):
        return str(value)
    raise Unfit
