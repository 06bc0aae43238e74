"""The canonical row hash, computed from Arrow batches so that PostgreSQL, SQLite and Parquet agree.

A row becomes bytes column by column: `N` for null, else `V`, the length of the canonical text, `:` and the text.
The length prefix keeps `("a|b", "c")` apart from `("a", "b|c")`. Its hash is BLAKE2b-128. A table's checksum is the
sum of its row hashes modulo 2^128: it does not depend on the order of rows, counts duplicates, and can be merged.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

_MODULUS = 1 << 128


class TableChecksum:
    """The running, order-independent checksum of a table's rows."""

    def __init__(self) -> None:
        self.rows = 0
        self._sum = 0

    def update(self, batch: pa.RecordBatch) -> None:
        """Add every row of `batch`."""
        self.add(row_hashes(batch))

    def add(self, hashes: Sequence[bytes]) -> None:
        """Add rows by their hashes."""
        self.rows += len(hashes)
        self._sum = (self._sum + sum(map(int.from_bytes, hashes))) % _MODULUS

    def merge(self, other: TableChecksum) -> None:
        """Add the rows of another part of the same table."""
        self.rows += other.rows
        self._sum = (self._sum + other._sum) % _MODULUS

    def hexdigest(self) -> str:
        """Return the checksum as 32 hex digits; an empty table has zeros."""
        return f"{self._sum:032x}"


def row_hashes(batch: pa.RecordBatch) -> list[bytes]:
    """Return the 16-byte hash of every row of `batch`, over all its columns in their order."""
    if batch.num_columns == 0:
        return [hashlib.blake2b(b"", digest_size=16).digest()] * batch.num_rows
    cells = [_cells(column) for column in batch.columns]
    joined = pc.binary_join_element_wise(*cells, pa.scalar(b"", pa.large_binary()))
    return [hashlib.blake2b(row, digest_size=16).digest() for row in joined.to_pylist()]


def _cells(column: pa.Array) -> pa.Array:
    text = _canonical(column)
    length = pc.cast(pc.cast(pc.binary_length(text), pa.string()), pa.large_binary())
    tagged = pc.binary_join_element_wise(
        pa.scalar(b"V", pa.large_binary()),
        length,
        pa.scalar(b":", pa.large_binary()),
        text,
        pa.scalar(b"", pa.large_binary()),
    )
    return pc.fill_null(tagged, pa.scalar(b"N", pa.large_binary()))


def _canonical(column: pa.Array) -> pa.Array:
    """Return the canonical text of every value as large_binary, nulls kept."""
    kind = column.type
    if isinstance(column, pa.ExtensionArray):
        return _canonical(column.storage)
    if pa.types.is_dictionary(kind):
        return _canonical(column.dictionary_decode())
    if pa.types.is_timestamp(kind):
        exact = pa.timestamp("ns" if kind.unit == "ns" else "us", kind.tz)
        column = pc.cast(pc.cast(column, exact), pa.int64())
    elif pa.types.is_date(kind):
        column = pc.cast(pc.cast(column, pa.date32()), pa.int32())
    elif pa.types.is_time(kind):
        column = pc.cast(pc.cast(column, pa.time64("ns")), pa.int64())
    elif pa.types.is_duration(kind):
        column = pc.cast(column, pa.int64())
    if pa.types.is_nested(kind) or pa.types.is_interval(kind):
        values = [None if one is None else _json(one) for one in column.to_pylist()]
        return pa.array(values, pa.large_binary())
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.large_binary())
    if pa.types.is_fixed_size_binary(kind):
        return pc.cast(pc.cast(column, pa.binary()), pa.large_binary())
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return pc.cast(column, pa.large_binary())
    return pc.cast(pc.cast(column, pa.large_string()), pa.large_binary())


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str, ensure_ascii=False).encode()
