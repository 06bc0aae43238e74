"""Writing one table's rows into Parquet objects: hashed while they are written, named when they are complete.

Objects are spooled to a folder of this process. The folder is locked while the process lives, so that the next run
can tell the leftovers of a killed one and removes them.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import math
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import date, datetime
from datetime import time as time_of_day
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import IO, Any
from uuid import UUID

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core import crash_point
from tasks.snapshots.errors import StoreError
from tasks.snapshots.models import KeyValue, ObjectRef
from tasks.snapshots.storage import SPOOL

OBJECT_BYTES = 128 * 2**20
SEGMENT_BYTES = 8 * 2**20
"""Arrow bytes of a segment, on average: see `segment_rows_for`."""

ROW_GROUP_ROWS = 131_072
_GROUP_BYTES = 24 * 2**20  # Arrow bytes after which a row group is written even if it has few rows
_ZSTD_LEVEL = 1
_SETTLED_SECONDS = 60
_LOW_CARDINALITY = 16  # a dictionary pays where a value comes at least this often on average
_SAMPLE_RUNS, _SAMPLE_RUN_ROWS, _SAMPLE_STRAY = 16, 128, 7_919


class ParquetSpool:
    """Turns batches into objects, one a segment; use as a context manager.

    A segment ends after a row whose hash ends in enough zero bits, but not too soon and not too late. Which rows these
    are hardly depends on the rows before, so that a row added, changed or removed changes its own segment and seldom
    the next. A segment whose rows are the same gives the same bytes, and so the object that is there already.

    Args:
        folder: where objects are spooled.
        schema: the Arrow schema of every batch.
        key: the columns that the rows are ordered by, for the key range of each object.
        store: called with every finished object and its file, which may be moved away.
        segment_rows: rows of a segment on average, a power of two.
        object_bytes: the most an object may have (a single row group of one huge row can exceed it).
    """

    def __init__(
        self,
        folder: Path,
        schema: pa.Schema,
        key: tuple[str, ...],
        store: Callable[[ObjectRef, Path], object],
        *,
        segment_rows: int = 2**15,
        object_bytes: int = OBJECT_BYTES,
    ) -> None:
        self.objects: list[ObjectRef] = []
        self.rows = 0
        self._folder, self._schema, self._key, self._store = folder, schema, key, store
        self._room = object_bytes
        self._least_rows = segment_rows // 4
        self._most_rows = segment_rows * 4
        self._zeros = segment_rows - 1
        self._waiting: list[pa.RecordBatch] = []
        self._waiting_rows = self._waiting_bytes = 0
        self._options: dict[str, Any] | None = None
        self._sink: _HashingFile | None = None
        self._writer: pq.ParquetWriter | None = None
        self._object_rows = self._segment_rows = 0
        self._first: pa.Table | None = None
        self._last: pa.Table | None = None

    def __enter__(self) -> ParquetSpool:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        if kind is None:
            self._write_waiting(self._waiting_rows)
            if not self.objects or self._writer is not None:
                self._finish_object()  # an empty table has one object too: its schema stays readable
        elif self._sink is not None:
            with contextlib.suppress(Exception):
                self._sink.close()

    def write(self, batch: pa.RecordBatch, hashes: npt.NDArray[np.uint64]) -> None:
        """Add the rows of `batch`, whose row hashes are `hashes`."""
        self.rows += batch.num_rows
        start = 0
        for end in self._ends(hashes):
            self._add(batch.slice(start, end - start))
            self._write_waiting(self._waiting_rows)
            if self._object_rows:
                self._finish_object()
            start = end
        self._add(batch.slice(start))

    def _ends(self, hashes: npt.NDArray[np.uint64]) -> Iterator[int]:
        """Yield the positions behind the rows that end a segment."""
        fitting = np.flatnonzero((hashes & np.uint64(self._zeros)) == 0) + 1
        start, before = (
            0,
            self._segment_rows,
        )  # the open segment: where it begins here, and what it had already
        for at in [*fitting.tolist(), len(hashes)]:
            while before + at - start >= self._most_rows:
                start += self._most_rows - before
                before = 0
                yield start
            ends = at < len(hashes) or (len(fitting) > 0 and fitting[-1] == at)
            if ends and at > start and before + at - start >= self._least_rows:
                start, before = at, 0
                yield at
        self._segment_rows = before + len(hashes) - start

    def _add(self, batch: pa.RecordBatch) -> None:
        for part in _parts(batch, self._group_bytes) if batch.num_rows else ():
            self._waiting.append(part)
            self._waiting_rows += part.num_rows
            self._waiting_bytes += part.nbytes
            if self._waiting_bytes >= self._group_bytes:
                self._write_waiting(self._waiting_rows)
            while self._waiting_rows >= ROW_GROUP_ROWS:
                self._write_waiting(ROW_GROUP_ROWS)

    @property
    def _group_bytes(self) -> int:
        return min(_GROUP_BYTES, self._room // 4)

    def _write_waiting(self, rows: int) -> None:
        """Write the first `rows` waiting rows as one row group (or as few as its limit allows)."""
        if not rows:
            return
        table = pa.Table.from_batches(self._waiting, self._schema)
        for start in range(0, rows, ROW_GROUP_ROWS):
            self._write_group(table.slice(start, min(ROW_GROUP_ROWS, rows - start)))
        self._waiting = table.slice(rows).to_batches()
        self._waiting_rows -= rows
        self._waiting_bytes = sum(batch.nbytes for batch in self._waiting)

    def _write_group(self, group: pa.Table) -> None:
        self._open(group).write_table(group, row_group_size=ROW_GROUP_ROWS)
        crash_point("spool.row_group")
        self._first = group.slice(0, 1) if self._first is None else self._first
        self._last = group.slice(group.num_rows - 1)
        self._object_rows += group.num_rows
        assert self._sink is not None
        # As large as it may be uncompressed, the next group fits for certain, page headers and footer too.
        if self._sink.tell() + 2 * self._group_bytes > self._room:
            self._finish_object()

    def _open(self, sample: pa.Table | None) -> pq.ParquetWriter:
        if self._writer is None:
            if self._options is None:
                self._options = writer_options(self._schema, sample, self._key)
            self._sink = _HashingFile((self._folder / f"{len(self.objects):06d}.parquet").open("wb"))
            crash_point("spool.opened")
            self._writer = pq.ParquetWriter(
                pa.PythonFile(self._sink, mode="w"), self._schema, **self._options
            )
        return self._writer

    def _finish_object(self) -> None:
        self._open(None).close()
        assert self._sink is not None
        size = self._sink.tell()
        self._sink.close()
        crash_point("spool.closed")
        ref = ObjectRef(
            sha256=self._sink.digest.hexdigest(),
            bytes=size,
            rows=self._object_rows,
            key_min=self._key_of(self._first),
            key_max=self._key_of(self._last),
        )
        path = Path(self._sink.file.name)
        self._store(ref, path)
        path.unlink(missing_ok=True)
        self.objects.append(ref)
        self._sink = self._writer = self._first = self._last = self._options = None
        self._object_rows = 0

    def _key_of(self, row: pa.Table | None) -> list[KeyValue] | None:
        if row is None or not self._key:
            return None
        return [_plain(row.column(name)[0].as_py()) for name in self._key]


def segment_rows_for(batch: pa.RecordBatch) -> int:
    """Return the rows of a segment for rows as wide as those of `batch`: a power of two from 64 to 131,072."""
    fits = SEGMENT_BYTES * batch.num_rows // max(1, batch.nbytes)
    return int(min(2**17, max(2**6, 1 << (fits.bit_length() - 1 if fits else 0))))


def writer_options(schema: pa.Schema, group: pa.Table | None, key: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the settings of the Parquet writer, chosen for each object from its first row group.

    zstd, a CRC on every page; a dictionary only where values repeat, else delta encodings for integers, times and text;
    statistics of numbers and times, and of the columns that rows are ordered by: no reader skips rows by the least and
    greatest text of a column that is in no order.
    """
    dictionary, encodings = [], {}
    sample = _spread(group) if group is not None else None
    for at, field in enumerate(schema):
        if "." in field.name:
            continue  # Parquet settings read a dot as nesting
        if group is not None and sample is not None and _repeats(sample.column(at), group.num_rows):
            dictionary.append(field.name)
        elif (
            pa.types.is_int32(field.type)
            or pa.types.is_int64(field.type)
            or pa.types.is_timestamp(field.type)
        ):
            encodings[field.name] = "DELTA_BINARY_PACKED"
        elif _is_bytes(field.type) and not isinstance(field.type, pa.BaseExtensionType):
            encodings[field.name] = "DELTA_LENGTH_BYTE_ARRAY"
    return {
        "compression": "zstd",
        "compression_level": _ZSTD_LEVEL,
        "use_dictionary": dictionary or False,
        "column_encoding": encodings or None,
        "write_statistics": [
            field.name for field in schema if field.name in key or not _is_bytes(field.type)
        ],
        "write_page_checksum": True,
        "store_schema": True,
    }


@contextlib.contextmanager
def spooling(beside: Path | None, what: str) -> Iterator[Path]:
    """Yield the folder that `spool_folder` yields, and turn what the disk refuses meanwhile into our own error.

    Args:
        beside: the store's folder, if it is in one.
        what: what writes there, in one word.

    Raises:
        StoreError: the disk is full, or broken.
    """
    try:
        with spool_folder(beside) as folder:
            yield folder
    except OSError as error:
        raise StoreError(
            f"The disk refused to take the copy of a table: {error.strerror or error}",
            where=str(beside or tempfile.gettempdir()),
            fix=f"make room or mend the disk, then run the {what} again; nothing that was committed is lost",
        ) from None


@contextlib.contextmanager
def spool_folder(beside: Path | None) -> Iterator[Path]:
    """Yield an empty folder of this process: in the store `beside` (a move then needs no copy), else in the system's.

    Folders that killed processes left are removed first.
    """
    base = (
        beside / SPOOL
        if beside is not None
        else Path(tempfile.gettempdir()) / f"mailstay-spool-{os.getuid()}"
    )
    base.mkdir(mode=0o700, parents=True, exist_ok=True)
    _remove_leftovers(base)
    folder = Path(tempfile.mkdtemp(dir=base))
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_leftovers(base: Path) -> None:
    """Remove what nobody has locked, unless it is so young that its owner may not have locked it yet."""
    for left in base.iterdir():
        with contextlib.suppress(OSError):
            if time.time() - left.stat().st_mtime < _SETTLED_SECONDS:
                continue
            with (left / "lock" if left.is_dir() else left).open("r+b") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()


class _HashingFile:
    """A file that takes the SHA-256 of what is written to it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.closed = False

    def write(self, data: Any) -> int:
        self.digest.update(data)
        return self.file.write(data)

    def tell(self) -> int:
        return self.file.tell()

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        self.file.close()
        self.closed = True

    def writable(self) -> bool:
        return True

    def readable(self) -> bool:
        return False

    def seekable(self) -> bool:
        return False


def _parts(batch: pa.RecordBatch, limit: int) -> Iterator[pa.RecordBatch]:
    """Cut a batch of very wide rows, so that one row group stays small."""
    if batch.nbytes <= limit or batch.num_rows == 1:
        yield batch
        return
    half = batch.num_rows // 2
    for part in (batch.slice(0, half), batch.slice(half)):
        yield from _parts(part, limit)


def _is_bytes(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_binary(kind) or isinstance(kind, pa.BaseExtensionType)
    )


def _repeats(sample: pa.ChunkedArray, rows: int) -> bool:
    """Return whether a column of `rows` rows, of which `sample` is spread over all, has few different values."""
    values = len(sample) - sample.null_count
    if (
        not values
        or isinstance(sample.type, pa.BaseExtensionType)
        or pa.types.is_boolean(sample.type)
        or pa.types.is_decimal256(sample.type)
    ):
        return False
    most = values * rows / len(sample) / _LOW_CARDINALITY
    # Of so many different values in the column, all equally frequent, as many would be among those of the sample.
    return bool(pc.count_distinct(sample).as_py() <= -math.expm1(-values / most) * most)


def _spread(rows: pa.Table) -> pa.Table:
    """Return a sample: short runs of rows, as far from each other as they can be."""
    apart = rows.num_rows // _SAMPLE_RUNS
    if apart <= _SAMPLE_RUN_ROWS:
        return rows
    # Not at equal distances: values may come round in a period of their own.
    starts = [at * apart + at * _SAMPLE_STRAY % (apart - _SAMPLE_RUN_ROWS) for at in range(_SAMPLE_RUNS)]
    return pa.concat_tables([rows.slice(start, _SAMPLE_RUN_ROWS) for start in starts]).combine_chunks()


def _plain(value: Any) -> KeyValue:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, datetime | date | time_of_day):
        return value.isoformat()
    if isinstance(value, Decimal | float | UUID):
        return str(value)
    assert value is None or isinstance(value, str | int | bool)
    return value
