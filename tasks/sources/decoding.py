"""PostgreSQL's binary COPY format as Arrow arrays: fields are found for all rows at once, then turned by column.

Only types of which every value has exactly one Arrow value are read this way; a value outside of them (infinity, NaN,
a year after 9999, 24:00) is refused as unfit, and its column read as text.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
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
_MOST_BYTES = 2**31 - 1  # of all values of an array whose offsets have 32 bits


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

_NUMBERS, _BITS, _PIECES, _SIXTEEN, _DECIMALS = range(5)


@dataclass(frozen=True)
class Decode:
    """How the fields of one column become an Arrow array; the compiled loops go by `form` and what follows it.

    Args:
        kind: the type of the array.
        by_numpy: makes it from the fields.
        form: how values are laid out, and `width` their bytes: see `struct field` in `native.c`.
        head: a byte that every value begins with and that is left out; 0 for none.
        shift: is added to numbers, which must lie from `least` to `most` before.
        then: makes the array of `kind` from the pieces that were found; without it they are the array.
    """

    kind: pa.DataType
    by_numpy: Callable[[Field], pa.Array]
    form: int
    width: int = 16
    head: int = 0
    shift: int = 0
    least: int = -_LONG - 1
    most: int = _LONG
    then: Callable[[pa.Array], pa.Array] | None = None

    def __call__(self, field: Field) -> pa.Array:
        """Return the array of `field`; raises `Unfit` and `Broken`."""
        return self.by_numpy(field)


class _Field(ctypes.Structure):
    """`struct field` of `native.c`."""

    _fields_ = [
        ("kind", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("scale", ctypes.c_int32),
        ("head", ctypes.c_int32),
        ("shift", ctypes.c_int64),
        ("least", ctypes.c_int64),
        ("most", ctypes.c_int64),
        ("nulls", ctypes.c_int64),
        ("size", ctypes.c_int64),
        ("ascii", ctypes.c_int64),
        ("valid", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    ]


def decoded(rows: Rows, columns: Sequence[Decode]) -> list[pa.Array] | None:
    """Decode all columns in two passes over the rows.

    Returns:
        The arrays, or None where the loops are not built or a row has not these fields or a value is unfit: which one
        it is, and why, `fields` and each `Decode` say.
    """
    if (library := compiled()) is None:
        return None
    n, starts, ends = len(rows), np.ascontiguousarray(rows.starts), np.ascontiguousarray(rows.ends)
    found = (_Field * len(columns))()
    for one, column in zip(found, columns, strict=True):
        one.kind, one.width, one.head = column.form, column.width, column.head
        one.shift, one.least, one.most = column.shift, column.least, column.most
        if column.form == _DECIMALS:
            one.scale = column.kind.scale
    everything = ctypes.addressof(found), len(found)
    if library.measure(address(rows.block), address(starts), address(ends), n, *everything) != n:
        return None
    if any(one.kind == _PIECES and one.size > _MOST_BYTES for one in found):
        return None
    buffers = [_buffers(one, n) for one in found]
    if library.decode(address(rows.block), address(starts), n, *everything) != n:
        return None
    try:
        return [_of(one, *kept, n, column) for one, kept, column in zip(found, buffers, columns, strict=True)]
    except Unfit:
        return None


def _buffers(one: _Field, n: int) -> tuple[Bytes | None, list[Bytes | Ints]]:
    """Make room for the values of a column: its validity, and what else Arrow has of it."""
    bits = (n + 7) // 8
    valid = np.zeros(bits, np.uint8) if one.nulls else None
    rest: list[Bytes | Ints]
    if one.kind == _PIECES:
        rest = [np.zeros(n + 1, np.int32), np.empty(one.size + SLACK, np.uint8)]
        one.offsets = address(rest[0])
    else:
        rest = [np.zeros(bits, np.uint8) if one.kind == _BITS else np.empty(n * one.width, np.uint8)]
    one.valid = address(valid) if valid is not None else None
    one.data = address(rest[-1])
    return valid, rest


def _of(one: _Field, valid: Bytes | None, rest: list[Bytes | Ints], n: int, column: Decode) -> pa.Array:
    kind = column.kind
    if one.kind == _PIECES:
        kind = pa.binary() if pa.types.is_binary(kind) else pa.string()
    elif isinstance(kind, pa.BaseExtensionType):
        kind = kind.storage_type
    buffers = [None if part is None else pa.py_buffer(part) for part in (valid, *rest)]
    array = pa.Array.from_buffers(kind, n, buffers, one.nulls)
    if pa.types.is_string(kind) and not one.ascii:
        _require_utf8(array)
    if column.then is not None:
        return column.then(array)
    return pa.ExtensionArray.from_storage(column.kind, array) if kind != column.kind else array


def fields(rows: Rows, columns: int) -> list[Field]:
    """Find the fields of every row.

    Raises:
        Broken: a row has not exactly `columns` fields.
    """
    n = len(rows)
    positions, lengths = np.empty((columns, n), np.int64), np.empty((columns, n), np.int32)
    _walk(rows.block, rows.starts, rows.ends, positions, lengths)
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
    width = kind.bit_width // 8
    return Decode(kind, lambda field: _array(kind, field, _numbers(field, width)), _NUMBERS, width)


def _boolean(field: Field) -> pa.Array:
    if ((field.lengths != 1) & (field.lengths != -1)).any():
        raise Broken
    bits = (field.block[field.positions] != 0) & (field.lengths > 0)
    return _array(pa.bool_(), field, np.packbits(bits, bitorder="little"))


boolean = Decode(pa.bool_(), _boolean, _BITS)
"""The decoding of one byte, 0 or 1."""


def _counted(kind: pa.DataType, epoch: int, least: int, most: int) -> Decode:
    """Return the decoding of days or microseconds since `epoch`, which Arrow counts from 1970."""
    width = kind.bit_width // 8

    def decode(field: Field) -> pa.Array:
        since = _numbers(field, width)
        if ((field.lengths >= 0) & ((since < least) | (since > most))).any():
            raise Unfit
        return _array(kind, field, since + since.dtype.type(epoch))

    return Decode(kind, decode, _NUMBERS, width, shift=epoch, least=least, most=most)


date = _counted(pa.date32(), EPOCH_DAYS, FIRST_DAY - EPOCH_DAYS, LAST_DAY - EPOCH_DAYS)
"""The decoding of days since 2000."""


def timestamp(zone: str | None) -> Decode:
    """Return the decoding of microseconds since 2000."""
    first, end = (FIRST_DAY - EPOCH_DAYS) * DAY, (LAST_DAY - EPOCH_DAYS + 1) * DAY
    return _counted(pa.timestamp("us", zone), EPOCH_DAYS * DAY, first, end - 1)


time_of_day = _counted(pa.time64("us"), 0, 0, DAY - 1)
"""The decoding of microseconds since midnight."""


def _uuid(field: Field) -> pa.Array:
    if ((field.lengths != 16) & (field.lengths != -1)).any():
        raise Broken
    words = np.ndarray((max(0, len(field.block) - 15),), "V16", field.block, strides=(1,))
    there = field.lengths >= 0
    values = np.zeros(len(field), "V16")
    values[there] = words[field.positions[there]]
    storage = _array(pa.binary(16), field, values)
    return pa.ExtensionArray.from_storage(pa.uuid(), storage)


uuid = Decode(pa.uuid(), _uuid, _SIXTEEN)
"""The decoding of sixteen bytes."""


def decimal(kind: pa.Decimal128Type) -> Decode:
    """Return the decoding of a numeric of at most 18 digits: base 10,000 digits, a weight, a sign, a scale."""

    def decode(field: Field) -> pa.Array:
        low = np.empty(len(field), np.int64)
        _decimals(field, kind.scale, low)
        return _array(kind, field, np.column_stack([low, low >> 63]))

    return Decode(kind, decode, _DECIMALS)


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


def _text(field: Field) -> pa.Array:
    array = _pieces(pa.string(), field, 0)
    _require_utf8(array)
    return array


def _require_utf8(array: pa.Array) -> None:
    try:
        array.validate(full=True)
    except pa.ArrowInvalid:
        raise Unfit from None


text = Decode(pa.string(), _text, _PIECES)
"""The decoding of text, which must be UTF-8."""


def _json_text(field: Field) -> pa.Array:
    there = field.positions[field.lengths > 0]
    if (field.lengths == 0).any() or (field.block[there] != 1).any():
        raise Broken
    array = _pieces(pa.string(), field, 1)
    _require_utf8(array)
    return array


json_text = Decode(pa.string(), _json_text, _PIECES, head=1)
"""The decoding of jsonb: a version, 1, and PostgreSQL's text of the document."""


def decimal_from_text(kind: pa.DataType) -> Decode:
    """Return the decoding of a number's text into the decimal `kind`; NaN and infinity do not fit."""

    def cast(text: pa.Array) -> pa.Array:
        try:
            return pc.cast(text, kind)
        except pa.ArrowInvalid:
            raise Unfit from None

    return Decode(kind, lambda field: cast(_text(field)), _PIECES, then=cast)


binary = Decode(pa.binary(), lambda field: _pieces(pa.binary(), field, 0), _PIECES)
"""The decoding of bytes."""


def _pieces(kind: pa.DataType, field: Field, skip: int) -> pa.Array:
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
    if ((field.lengths != width) & (field.lengths != -1)).any():
        raise Broken
    there = field.lengths >= 0
    out[there] = _unaligned(field.block, f"<i{width}")[field.positions[there]].byteswap()
    return out


def _array(kind: pa.DataType, field: Field, values: Any) -> pa.Array:
    validity, nulls = field.validity()
    return pa.Array.from_buffers(kind, len(field), [validity, pa.py_buffer(values)], nulls)


def _unaligned(block: Bytes, kind: str) -> Any:
    """Return every position of `block` as one that begins a number of `kind`."""
    return np.ndarray((max(0, len(block) - np.dtype(kind).itemsize + 1),), kind, block, strides=(1,))
