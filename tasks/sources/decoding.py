"""PostgreSQL's binary COPY format as Arrow arrays: fields are found for all rows at once, then turned by column.

Only types of which every value has exactly one Arrow value are read this way; a value outside of them (infinity, NaN,
a year after 9999, 24:00) is refused as unfit, and its column read as text.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core import address, compiled
from tasks.sources.columns import DAY, FIRST_DAY, LAST_DAY, Unfit

Bytes = npt.NDArray[np.uint8]
Longs = npt.NDArray[np.int64]
Ints = npt.NDArray[np.int32]

EPOCH_DAYS = 10_957
"""Days from 1970 to 2000, where PostgreSQL begins to count."""

SLACK = 16
"""Bytes that may be read behind a row, and do not count."""

_LONG = 2**63 - 1


class Broken(Exception):
    """The rows are not of the form that the query should give."""


@dataclass(frozen=True)
class Rows:
    """Whole rows in the binary COPY format: the count of fields, then each field's length and bytes.

    Args:
        block: the bytes they are in, and at least `SLACK` more behind the last row.
        starts: where each row begins in it.
        ends: where each row ends.
    """

    block: Bytes
    starts: Longs
    ends: Longs

    def __len__(self) -> int:
        return len(self.starts)

    def part(self, begin: int, end: int) -> Rows:
        """Return the rows from `begin` to before `end`."""
        return Rows(self.block, self.starts[begin:end], self.ends[begin:end])


@dataclass(frozen=True)
class Field:
    """One column of some rows: where its values are, and how long; -1 is NULL."""

    block: Bytes
    positions: Longs
    lengths: Ints

    def __len__(self) -> int:
        return len(self.lengths)

    def validity(self) -> tuple[pa.Buffer | None, int]:
        """Return the Arrow validity bitmap, or None where nothing is NULL, and the number of NULLs."""
        there = self.lengths >= 0
        nulls = len(self) - int(np.count_nonzero(there))
        return (pa.py_buffer(np.packbits(there, bitorder="little")) if nulls else None), nulls


_HEADS = np.tril(np.full((13, 12), 255, np.uint8), -1).view(np.int32)
"""For a text of 0 to 12 bytes, the mask of its bytes among twelve."""

Decode = Callable[[Field], pa.Array]


def fields(rows: Rows, columns: int) -> list[Field]:
    """Find the fields of every row.

    Raises:
        Broken: a row has not exactly `columns` fields.
    """
    n = len(rows)
    positions, lengths = np.empty((columns, n), np.int64), np.empty((columns, n), np.int32)
    starts, ends = np.ascontiguousarray(rows.starts), np.ascontiguousarray(rows.ends)
    if library := compiled():
        whole = library.walk(
            address(rows.block),
            address(starts),
            address(ends),
            n,
            columns,
            address(positions),
            address(lengths),
        )
        if whole != n:
            raise Broken
    else:
        _walk(rows.block, starts, ends, positions, lengths)
    return [Field(rows.block, positions[at], lengths[at]) for at in range(columns)]


def _walk(block: Bytes, starts: Longs, ends: Longs, positions: Longs, lengths: Ints) -> None:
    fours, twos = _unaligned(block, "<i4"), _unaligned(block, "<u2")
    if (ends - starts < 2).any() or (twos[starts].byteswap() != len(positions)).any():
        raise Broken
    at = starts + 2
    for column in range(len(positions)):
        if (ends - at < 4).any():
            raise Broken
        length = fours[at].byteswap()
        at = at + 4
        positions[column], lengths[column] = at, length
        if (length < -1).any() or (length > ends - at).any():
            raise Broken
        at = at + np.maximum(length, 0)
    if not np.array_equal(at, ends):
        raise Broken


def frames(block: Bytes) -> tuple[Longs, Longs, int, bool]:
    """Find the whole data messages (`d`, length, row) at the beginning of `block`.

    Returns:
        Where the rows begin, where they end, where the next message begins, and whether that one is not data.
    """
    if library := compiled():
        room = len(block) // 7 + 1
        where, until = np.empty(room, np.int64), np.empty(room, np.int64)
        taken, stop = np.zeros(1, np.int64), np.zeros(1, np.int32)
        out = [address(array) for array in (where, until, taken, stop)]
        n = library.frames(address(block), len(block), room, *out)
        return where[:n], until[:n], int(taken[0]), bool(stop[0])
    begins: Longs = np.flatnonzero(block[: max(0, len(block) - 4)] == ord("d"))
    ends: Longs = begins + 1 + _unaligned(block, "<u4")[begins + 1].byteswap().astype(np.int64)
    begins, ends = begins[ends <= len(block)], ends[ends <= len(block)]
    if not (len(begins) and begins[0] == 0 and np.array_equal(begins[1:], ends[:-1])):
        # Some 'd' is only a letter: messages are what a chain of lengths from the first byte meets.
        after = dict(zip(begins.tolist(), ends.tolist(), strict=True))
        chain = [0]
        while chain[-1] in after:
            chain.append(after[chain[-1]])
        begins, ends = np.array(chain[:-1], np.int64), np.array(chain[1:], np.int64)
    used = int(ends[-1]) if len(ends) else 0
    return begins + 5, ends, used, len(block) - used >= 5 and int(block[used]) != ord("d")


def whole_numbers(kind: pa.DataType) -> Decode:
    """Return the decoding of integers and floats, whose bits are Arrow's but for their order."""

    def decode(field: Field) -> pa.Array:
        return _array(kind, field, _numbers(field, kind.bit_width // 8))

    return decode


def boolean(field: Field) -> pa.Array:
    """Decode one byte, 0 or 1."""
    if ((field.lengths != 1) & (field.lengths != -1)).any():
        raise Broken
    bits = (field.block[field.positions] != 0) & (field.lengths > 0)
    return _array(pa.bool_(), field, np.packbits(bits, bitorder="little"))


def date(field: Field) -> pa.Array:
    """Decode days since 2000."""
    days = _numbers(field, 4).view(np.int32).astype(np.int64) + EPOCH_DAYS
    _require(field, days, FIRST_DAY, LAST_DAY)
    return _array(pa.date32(), field, days.astype(np.int32))


def timestamp(zone: str | None) -> Decode:
    """Return the decoding of microseconds since 2000."""

    def decode(field: Field) -> pa.Array:
        since = _numbers(field, 8).view(np.int64)
        _require(field, since, (FIRST_DAY - EPOCH_DAYS) * DAY, (LAST_DAY - EPOCH_DAYS + 1) * DAY - 1)
        return _array(pa.timestamp("us", zone), field, since + EPOCH_DAYS * DAY)

    return decode


def time_of_day(field: Field) -> pa.Array:
    """Decode microseconds since midnight."""
    since = _numbers(field, 8).view(np.int64)
    _require(field, since, 0, DAY - 1)
    return _array(pa.time64("us"), field, since)


def uuid(field: Field) -> pa.Array:
    """Decode sixteen bytes."""
    if ((field.lengths != 16) & (field.lengths != -1)).any():
        raise Broken
    words = np.ndarray((max(0, len(field.block) - 15),), "V16", field.block, strides=(1,))
    there = field.lengths >= 0
    values = np.zeros(len(field), "V16")
    values[there] = words[field.positions[there]]
    storage = _array(pa.binary(16), field, values)
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


def decimal(kind: pa.Decimal128Type) -> Decode:
    """Return the decoding of a numeric of at most 18 digits: base 10,000 digits, a weight, a sign, a scale."""

    def decode(field: Field) -> pa.Array:
        low = np.empty(len(field), np.int64)
        if library := compiled():
            fit = library.decimals(
                address(field.block),
                address(field.positions),
                address(field.lengths),
                len(field),
                kind.scale,
                address(low),
            )
            if fit != len(field):
                raise Unfit
        else:
            _decimals(field, kind.scale, low)
        return _array(kind, field, np.column_stack([low, low >> 63]))

    return decode


def _decimals(field: Field, scale: int, out: Longs) -> None:
    out[:] = 0
    there = np.flatnonzero(field.lengths >= 0)
    if not len(there):
        return
    at, size = field.positions[there], field.lengths[there]
    if (size < 8).any():
        raise Unfit
    halves = _unaligned(field.block, "<u2")
    digits, weight, sign = (halves[at + k].byteswap().astype(np.int64) for k in (0, 2, 4))
    weight = np.where(weight >= 2**15, weight - 2**16, weight)
    if ((sign != 0) & (sign != 0x4000)).any() or (size != 8 + 2 * digits).any():
        raise Unfit
    values = np.zeros(len(there), np.int64)
    for k in range(int(digits.max())):
        has = np.flatnonzero(digits > k)
        digit = halves[at[has] + 8 + 2 * k].byteswap().astype(np.int64)
        exponent = np.where(digit == 0, 0, 4 * (weight[has] - k) + scale)
        power = 10 ** np.clip(np.abs(exponent), 0, 17).astype(np.int64)
        if (digit > 9999).any() or (exponent > 17).any() or (exponent < -3).any():
            raise Unfit
        if (digit > _LONG // power).any() or (digit[exponent < 0] % power[exponent < 0]).any():
            raise Unfit
        values[has] += np.where(exponent < 0, digit // power, digit * power)
    out[there] = np.where(sign != 0, -values, values)


def text(field: Field) -> pa.Array:
    """Decode text, which must be UTF-8."""
    return _text(field, 0)


def json_text(field: Field) -> pa.Array:
    """Decode jsonb: a version, 1, and PostgreSQL's text of the document."""
    there = field.positions[field.lengths > 0]
    if (field.lengths == 0).any() or (field.block[there] != 1).any():
        raise Broken
    return _text(field, 1)


def _text(field: Field, skip: int) -> pa.Array:
    array = _pieces(pa.string(), field, skip)
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        raise Unfit from None
    return array


def decimal_from_text(kind: pa.DataType) -> Decode:
    """Return the decoding of a number's text into the decimal `kind`; NaN and infinity do not fit."""

    def decode(field: Field) -> pa.Array:
        try:
            return pc.cast(text(field), kind)
        except pa.ArrowInvalid:
            raise Unfit from None

    return decode


def binary(field: Field) -> pa.Array:
    """Decode bytes."""
    return _pieces(pa.binary(), field, 0)


def _pieces(kind: pa.DataType, field: Field, skip: int) -> pa.Array:
    if (library := compiled()) is None:
        return _pieces_by_views(kind, field, skip)
    offsets = np.zeros(len(field) + 1, np.int64)
    np.cumsum(np.maximum(field.lengths - skip, 0), out=offsets[1:])
    data = np.empty(int(offsets[-1]), np.uint8)
    library.pieces(
        address(field.block),
        address(field.positions),
        address(field.lengths),
        len(field),
        skip,
        address(data),
    )
    validity, nulls = field.validity()
    buffers = [validity, pa.py_buffer(offsets.astype(np.int32)), pa.py_buffer(data)]
    return pa.Array.from_buffers(kind, len(field), buffers, nulls)


def _pieces_by_views(kind: pa.DataType, field: Field, skip: int) -> pa.Array:
    """Describe the values as Arrow views into the block: length, then the text if short, else where it is."""
    lengths = np.maximum(field.lengths - skip, 0)
    starts = field.positions + skip
    views = np.zeros((len(field), 4), np.int32)
    heads = np.ndarray((len(field.block) - 11,), "V12", field.block, strides=(1,))[starts]
    views[:, 0] = lengths
    views[:, 1:] = heads.view(np.int32).reshape(-1, 3) & _HEADS[np.minimum(lengths, 12)]
    long = np.flatnonzero(lengths > 12)
    views[long, 2], views[long, 3] = 0, starts[long]
    validity, nulls = field.validity()
    buffers = [validity, pa.py_buffer(views), pa.py_buffer(field.block)]
    viewed = pa.string_view() if pa.types.is_string(kind) else pa.binary_view()
    return pa.Array.from_buffers(viewed, len(field), buffers, nulls).cast(kind)


def _numbers(field: Field, width: int) -> Any:
    """Return the big-endian numbers of `width` bytes as an array of signed integers; NULL gives 0."""
    out = np.zeros(len(field), f"<i{width}")
    if library := compiled():
        right = library.numbers(
            address(field.block),
            address(field.positions),
            address(field.lengths),
            len(field),
            width,
            address(out),
        )
        if right != len(field):
            raise Broken
        return out
    if ((field.lengths != width) & (field.lengths != -1)).any():
        raise Broken
    there = field.lengths >= 0
    out[there] = _unaligned(field.block, f"<i{width}")[field.positions[there]].byteswap()
    return out


def _require(field: Field, values: Longs, least: int, most: int) -> None:
    if ((field.lengths >= 0) & ((values < least) | (values > most))).any():
        raise Unfit


def _array(kind: pa.DataType, field: Field, values: Any) -> pa.Array:
    validity, nulls = field.validity()
    return pa.Array.from_buffers(kind, len(field), [validity, pa.py_buffer(values)], nulls)


def _unaligned(block: Bytes, kind: str) -> Any:
    """Return every position of `block` as one that begins a number of `kind`."""
    return np.ndarray((max(0, len(block) - np.dtype(kind).itemsize + 1),), kind, block, strides=(1,))
