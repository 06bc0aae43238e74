"""How the columns of an object are laid out: what decides on dictionaries, and which columns have statistics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tasks.core import row_hashes
from tasks.snapshots.spool import ParquetSpool

ROWS = 40_000


def column(tmp_path: Path, values: list[Any], kind: pa.DataType, key: tuple[str, ...] = ()) -> Any:
    """Return what the footer says of a column that was written as the only one."""
    batch = pa.RecordBatch.from_arrays([pa.array(values, kind)], names=["v"])
    kept = tmp_path / "kept.parquet"
    with ParquetSpool(
        tmp_path, batch.schema, key, lambda ref, file: file.rename(kept), segment_rows=2**17
    ) as spool:
        spool.write(batch, row_hashes(batch) | 1)
    return pq.ParquetFile(kept).metadata.row_group(0).column(0)


@pytest.mark.parametrize(
    ("values", "dictionary"),
    [
        ([f"kind {i % 9}" for i in range(ROWS)], True),
        ([f"campaign {i // 2_000}" for i in range(ROWS)], True),  # the first rows are all alike
        ([f"new {i}" for i in range(ROWS)], False),
        (["first"] * 5_000 + [f"new {i}" for i in range(ROWS - 5_000)], False),
        ([f"seldom {i}" if i % 50 == 0 else None for i in range(ROWS)], False),
        ([f"customer {i * 7919 % 1_000}" for i in range(ROWS)], True),
        ([f"customer {i * 7919 % 20_000}" for i in range(ROWS)], False),
        ([None] * ROWS, False),
    ],
    ids=[
        "few",
        "in runs",
        "all new",
        "new later",
        "mostly null",
        "forty times",
        "twice",
        "null",
    ],
)
def test_a_dictionary_is_for_values_that_repeat_in_the_whole_row_group(
    tmp_path: Path, values: list[Any], dictionary: bool
) -> None:
    assert column(tmp_path, values, pa.string()).has_dictionary_page == dictionary


@pytest.mark.parametrize(
    ("values", "kind", "key", "statistics"),
    [
        ([1, 2], pa.int64(), (), True),
        ([1, 2], pa.timestamp("us"), (), True),
        (["a", "b"], pa.string(), (), False),
        ([b"a", b"b"], pa.binary(), (), False),
        (["a", "b"], pa.string(), ("v",), True),
    ],
)
def test_statistics_are_of_columns_by_which_a_reader_can_skip_rows(
    tmp_path: Path, values: list[Any], kind: pa.DataType, key: tuple[str, ...], statistics: bool
) -> None:
    assert (column(tmp_path, values, kind, key).statistics is not None) == statistics
