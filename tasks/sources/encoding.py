"""Arrow batches as PostgreSQL's binary COPY format, the inverse of `decoding`; only with the compiled loops.

A table with a column that has no such form (an array, an interval, a range) is written as CSV instead, and so is every
table where the loops are not built.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from tasks.core import address, compiled
from tasks.sources.decoding import EPOCH_DAYS

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

_NUMBERS, _BITS, _PIECES, _SIXTEEN, _DECIMALS = range(5)
_DAY = 86_400_000_000


class _Column(ctypes.Structure):
    _fields_ = [
        ("kind", ctypes.c_int32),
        ("width", ctypes.c_int32),
        ("scale", ctypes.c_int32),
        ("head", ctypes.c_int32),
        ("shift", ctypes.c_int64),
        ("first", ctypes.c_int64),
        ("valid", ctypes.c_void_p),
        ("data", ctypes.c_void_p),
        ("offsets", ctypes.c_void_p),
    ]


@dataclass(frozen=True)
class Form:
    """How the values of one column are written: see `struct column` in `native.c`."""

    kind: int
    width: int = 0
    scale: int = 0
    head: int = 0
    shift: int = 0


def form_of(arrow: pa.DataType, declared: str) -> Form | None:
    """Return how a column of `arrow` is written into one that PostgreSQL calls `declared`; None if it cannot be.

    `declared` is the type without its length, such as `character varying`; that of a domain is what it is over.
    """
    whole = {"smallint": pa.int16(), "integer": pa.int32(), "bigint": pa.int64()}
    floats = {"real": pa.float32(), "double precision": pa.float64()}
    if arrow == (whole | floats).get(declared):
        return Form(_NUMBERS, arrow.bit_width // 8)
    if pa.types.is_string(arrow):
        if declared in ("text", "character varying", "character", "json", "enum"):
            return Form(_PIECES)
        return Form(_PIECES, head=1) if declared == "jsonb" else None
    if pa.types.is_decimal128(arrow) and declared == "numeric":
        return Form(_DECIMALS, scale=arrow.scale)
    if pa.types.is_timestamp(arrow):
        wanted = f"timestamp {'with' if arrow.tz else 'without'} time zone"
        return (
            Form(_NUMBERS, 8, shift=EPOCH_DAYS * _DAY) if declared == wanted and arrow.unit == "us" else None
        )
    return {
        (pa.bool_(), "boolean"): Form(_BITS),
        (pa.binary(), "bytea"): Form(_PIECES),
        (pa.uuid(), "uuid"): Form(_SIXTEEN),
        (pa.date32(), "date"): Form(_NUMBERS, 4, shift=EPOCH_DAYS),
        (pa.time64("us"), "time without time zone"): Form(_NUMBERS, 8),
    }.get((arrow, declared))


def encoded(batch: pa.RecordBatch, forms: Sequence[Form]) -> memoryview:
    """Return the rows of `batch` in the binary COPY format, without its signature and trailer."""
    library = compiled()
    if not batch.num_rows:
        return memoryview(b"")
    columns = (_Column * len(forms))()
    room = 2 * batch.num_rows
    kept = []
    for at, form in enumerate(forms):
        array = batch.column(at)
        array = array.storage if isinstance(array, pa.ExtensionArray) else array
        valid, *data = array.buffers()
        kept.append((valid, data))
        column = columns[at]
        column.kind, column.width, column.scale, column.head = form.kind, form.width, form.scale, form.head
        column.shift, column.first = form.shift, array.offset
        column.valid = valid.address if valid is not None and array.null_count else None
        if form.kind == _PIECES:
            column.offsets = data[0].address + 4 * array.offset
            column.data = data[1].address if data[1] is not None else None
            room += 5 * batch.num_rows + array.nbytes
        elif form.kind == _BITS:
            column.data = data[0].address
            room += 5 * batch.num_rows
        else:
            size = {_NUMBERS: form.width}.get(form.kind, 16)
            column.data = data[0].address + size * array.offset
            room += (4 + (size if form.kind != _DECIMALS else 8 + 2 * 11)) * batch.num_rows
    out = np.empty(room, np.uint8)
    used = library.encode(ctypes.addressof(columns), len(forms), batch.num_rows, address(out))
    del kept
    return memoryview(out.data)[:used]
