"""The canonical row hash, computed from Arrow batches so that PostgreSQL, SQLite and Parquet agree.

A row is 64 bits. With mix(x) the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014), all sums modulo 2^64:

- It begins as START. For each column in turn it becomes mix((row ^ cell) + STEP), and where the value is NULL it is
  then xored with NULL.
- The cell of a whole number, of a boolean (0 or 1), of a date (days since 1970) and of a time or timestamp
  (microseconds, or nanoseconds where the type holds them) is the number itself.
- That of a float is its bits as a double, every NaN alike.
- That of a decimal is its unscaled number plus SCALE times its scale; beyond 64 bits, each further 64-bit word w of it,
  the first of them k = 1, is xored with the sign and adds mix(w * (2k + 1)).
- That of text and bytes is mix(their length + the sum of mix(word k + k * STEP)), k from 1, over their little-endian
  words of eight bytes, the last one filled with zeros; the empty text has one word, zero.
- A nested value is the text of its JSON.

A table's checksum is 128 bits: the sum of mix(row ^ SECOND) and the sum of the rows' hashes, each modulo 2^64. It does
not depend on the order of rows, counts duplicates, and can be merged. It finds what goes wrong by accident; against
intent there are the SHA-256 of the objects and the signature of the manifest.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from tasks.core.native import address, compiled

Words = npt.NDArray[np.uint64]

START = np.uint64(0x243F6A8885A308D3)
STEP = np.uint64(0x9E3779B97F4A7C15)
NULL = np.uint64(0x13198A2E03707344)
SECOND = np.uint64(0xA4093822299F31D0)
SCALE = 0x452821E638D01377
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_THEN = np.uint64(0x94D049BB133111EB)
_NAN = np.uint64(0x7FF8000000000000)
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_CHUNK = 2**15  # words that are mixed at once: they stay in the processor's cache
_MASK = 2**64 - 1


class TableChecksum:
    """The running, order-independent checksum of a table's rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = self._second = 0

    @classmethod
    def known(cls, rows: int, hexdigest: str) -> TableChecksum:
        """Return the checksum of a table of which `rows` and `hexdigest` were written down."""
        found = cls()
        found.rows = rows
        found._second, found._sum = int(hexdigest[:16], 16), int(hexdigest[16:], 16)
        return found

    def update(self, batch: pa.RecordBatch) -> None:
        """Add every row of `batch`."""
        self.add(row_hashes(batch))

    def add(self, hashes: Words) -> None:
        """Add rows by their hashes."""
        self.rows += len(hashes)
        if library := compiled():
            sums = np.array([self._second, self._sum], np.uint64)
            hashes = np.ascontiguousarray(hashes)
            library.checksum(address(hashes), len(hashes), address(sums))
            self._second, self._sum = sums.tolist()
            return
        self._sum = (self._sum + int(hashes.sum(dtype=np.uint64))) & _MASK
        self._second = (self._second + int(_mix(hashes ^ SECOND).sum(dtype=np.uint64))) & _MASK

    def merge(self, other: TableChecksum) -> None:
        """Add the rows of another part of the same table."""
        self.rows += other.rows
        self._sum = (self._sum + other._sum) & _MASK
        self._second = (self._second + other._second) & _MASK

    def remove(self, other: TableChecksum) -> None:
        """Take the rows of a part of the same table away."""
        self.rows -= other.rows
        self._sum = (self._sum - other._sum) & _MASK
        self._second = (self._second - other._second) & _MASK

    def hexdigest(self) -> str:
        """Return the checksum as 32 hex digits; an empty table has zeros."""
        return f"{self._second:016x}{self._sum:016x}"


def row_hashes(batch: pa.RecordBatch) -> Words:
    """Return the hash of every row of `batch`, over all its columns in their order."""
    rows = np.full(batch.num_rows, START)
    if (library := compiled()) and len(rows):
        described = (_Cells * batch.num_columns)()
        kept = [_describe(one, column) for one, column in zip(described, batch.columns, strict=True)]
        library.row_hashes(ctypes.addressof(described), len(described), len(rows), address(rows))
        del kept
        return rows
    for column in batch.columns:
        plain = _plain(column)
        _absorb(rows, _cells(plain))
        if plain.null_count:
            rows[_nulls(plain)] ^= NULL
    return rows


_NUMBERS, _BITS, _FLOATS, _TEXT, _FIXED, _DECIMALS = range(6)


class _Cells(ctypes.Structure):
    """`struct cells` of `native.c`."""

    _fields_ = [
        ("kind", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("first", ctypes.c_int64),
        ("add", ctypes.c_uint64),
        ("valid", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    ]


def _describe(cells: _Cells, column: pa.Array) -> pa.Array:
    """Describe a column to the compiled loop, and return what must live as long as the description."""
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if _storage(column.type) is None:
        column = _plain(column)
    cells.kind, cells.width = _storage(column.type) or (0, 0)
    cells.first = column.offset
    valid, *data = column.buffers()
    if column.null_count:
        cells.valid = valid.address
    if cells.kind == _TEXT:
        cells.offsets = data[0].address
    if cells.kind == _DECIMALS:
        cells.add = column.type.scale * SCALE & _MASK
    cells.data = data[-1].address if data[-1] is not None else None
    return column


def _storage(kind: pa.DataType) -> tuple[int, int] | None:
    """Return which kind of cells the compiled loop takes from a column of `kind` as it is stored, and their width."""
    if _has_offsets(kind):
        return _TEXT, 8 if pa.types.is_large_string(kind) or pa.types.is_large_binary(kind) else 4
    if pa.types.is_boolean(kind):
        return _BITS, 0
    if pa.types.is_fixed_size_binary(kind):
        return _FIXED, kind.byte_width
    if pa.types.is_decimal128(kind) or pa.types.is_decimal256(kind):
        return _DECIMALS, kind.bit_width // 8
    if pa.types.is_float32(kind) or pa.types.is_float64(kind):
        return _FLOATS, kind.bit_width // 8
    if pa.types.is_signed_integer(kind) or pa.types.is_date32(kind) or pa.types.is_uint64(kind):
        return _NUMBERS, kind.bit_width // 8
    exact = (pa.types.is_timestamp(kind) or pa.types.is_time(kind)) and kind.unit in ("us", "ns")
    return (_NUMBERS, 8) if exact else None


def _absorb(rows: Words, cells: Words) -> None:
    rows ^= cells
    rows += STEP
    _mix(rows)


def _mix(words: Words) -> Words:
    """Mix `words` in place."""
    spare = np.empty_like(words)
    for shift, factor in zip(_SHIFTS, (_FIRST, _THEN, None), strict=True):
        np.right_shift(words, shift, out=spare)
        words ^= spare
        if factor is not None:
            words *= factor
    return words


def _nulls(column: pa.Array) -> npt.NDArray[np.bool_]:
    nulls: npt.NDArray[np.bool_] = pc.is_null(column).to_numpy(zero_copy_only=False)
    return nulls


def _plain(column: pa.Array) -> pa.Array:
    """Return the column as one of few types: 64-bit integers, doubles, decimals, or text and bytes with offsets."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _plain(column.storage)
    if pa.types.is_dictionary(kind):
        return _plain(column.dictionary_decode())
    if pa.types.is_timestamp(kind):
        exact = pa.timestamp("ns" if kind.unit == "ns" else "us", kind.tz)
        return pc.cast(pc.cast(column, exact), pa.int64())
    if pa.types.is_date(kind):
        return pc.cast(pc.cast(pc.cast(column, pa.date32()), pa.int32()), pa.int64())
    if pa.types.is_time(kind):
        exact = pa.time64("ns" if kind.unit == "ns" else "us")
        return pc.cast(pc.cast(column, exact), pa.int64())
    if pa.types.is_duration(kind) or pa.types.is_signed_integer(kind) or pa.types.is_boolean(kind):
        return pc.cast(column, pa.int64())
    if pa.types.is_unsigned_integer(kind):
        return pc.cast(column, pa.uint64())
    if pa.types.is_floating(kind):
        return pc.cast(column, pa.float64())
    if pa.types.is_decimal(kind):
        return column
    if pa.types.is_null(kind):
        return pc.cast(column, pa.int64())
    if pa.types.is_nested(kind) or pa.types.is_interval(kind):
        return pa.array([None if one is None else _json(one) for one in column.to_pylist()], pa.binary())
    if _has_offsets(kind):
        return column
    return pc.cast(column, pa.large_string() if pa.types.is_string_view(kind) else pa.large_binary())


def _has_offsets(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def _cells(column: pa.Array) -> Words:
    """Return what each value adds to its row; a NULL adds 0."""
    kind = column.type
    if _has_offsets(kind):
        cells = _bytes_cells(column)
    elif pa.types.is_decimal(kind):
        cells = _decimal_cells(column)
    else:
        cells = np.frombuffer(column.buffers()[1], np.uint64)[column.offset :][: len(column)]
        if pa.types.is_floating(kind):
            cells = np.where(np.isnan(cells.view(np.float64)), _NAN, cells)
    if column.null_count:
        cells = np.where(_nulls(column), np.uint64(0), cells)
    return cells


def _decimal_cells(column: pa.Array) -> Words:
    width = column.type.bit_width // 64
    buffer = column.buffers()[1]
    words = np.frombuffer(buffer, np.uint64)[column.offset * width :][: len(column) * width].reshape(
        -1, width
    )
    cells = words[:, 0] + np.uint64(column.type.scale * SCALE & _MASK)
    sign = (words[:, 0].view(np.int64) >> 63).view(np.uint64)
    for at in range(1, width):
        further = words[:, at] ^ sign
        if further.any():
            cells += _mix(further * np.uint64(2 * at + 1))
    return cells


def _bytes_cells(column: pa.Array) -> Words:
    large = pa.types.is_large_string(column.type) or pa.types.is_large_binary(column.type)
    offsets = np.frombuffer(column.buffers()[1], np.int64 if large else np.int32)
    wide: npt.NDArray[np.int64] = offsets[column.offset :][: len(column) + 1].astype(np.int64)
    begin, end = int(wide[0]), int(wide[-1])
    data = np.frombuffer(column.buffers()[2], np.uint8)[begin:end] if end > begin else np.empty(0, np.uint8)
    return _text_cells(wide - begin, data)


def _text_cells(offsets: npt.NDArray[np.int64], data: npt.NDArray[np.uint8]) -> Words:
    """Return the cells of the values of `data` between `offsets`."""
    lengths = np.diff(offsets)
    cells = np.empty(len(lengths), np.uint64)
    data = np.concatenate([data, np.zeros(8, np.uint8)])  # the last word may end behind the last value
    counts = np.maximum((lengths + 7) >> 3, 1)
    ends = np.cumsum(counts)
    at = 0
    while at < len(lengths):
        before = int(ends[at - 1]) if at else 0
        until = max(at + 1, int(np.searchsorted(ends, before + _CHUNK, side="right")))
        cells[at:until] = (
            _sum_of_one(int(offsets[at]), int(lengths[at]), data)
            if counts[at] > _CHUNK
            else _sums(offsets[at:until], lengths[at:until], counts[at:until], data)
        )
        at = until
    cells += lengths.view(np.uint64)
    return _mix(cells)


def _sums(
    starts: npt.NDArray[np.int64],
    lengths: npt.NDArray[np.int64],
    counts: npt.NDArray[np.int64],
    data: npt.NDArray[np.uint8],
) -> Words:
    """Return for each value the sum of its mixed words."""
    ends = np.cumsum(counts)
    first = ends - counts
    number = np.arange(int(ends[-1])) - np.repeat(first, counts)
    words = _unaligned(data)[np.repeat(starts, counts) + 8 * number]
    spare = np.clip(8 * counts - lengths, 0, 8)  # bytes of the last word that are not the value's
    last = ends - 1
    words[last] = np.where(
        spare == 8,
        np.uint64(0),
        words[last] & (np.uint64(_MASK) >> (8 * np.minimum(spare, 7)).view(np.uint64)),
    )
    words += (number + 1).view(np.uint64) * STEP
    sums: Words = np.add.reduceat(_mix(words), first)
    return sums


def _sum_of_one(start: int, length: int, data: npt.NDArray[np.uint8]) -> np.uint64:
    """Return the sum of the mixed words of one long value, a piece at a time."""
    total = 0
    for begin in range(0, length, 8 * _CHUNK):
        piece = min(8 * _CHUNK, length - begin)
        words = np.zeros((piece + 7) >> 3, "<u8")
        words.view(np.uint8)[:piece] = data[start + begin : start + begin + piece]
        numbers = np.arange(begin // 8 + 1, begin // 8 + 1 + len(words), dtype=np.uint64)
        total += int(_mix(words + numbers * STEP).sum(dtype=np.uint64))
    return np.uint64(total & _MASK)


def _unaligned(data: npt.NDArray[np.uint8]) -> Words:
    """Return every eight bytes of `data` as a word, one for each byte that begins one."""
    return np.ndarray((len(data) - 7,), "<u8", data, strides=(1,))


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False).encode()
